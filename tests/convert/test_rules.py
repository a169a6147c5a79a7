"""The key-map engine: each transform, and what strictness means."""

import mlx.core as mx
import numpy as np
import pytest

from musicot_mlx.convert.rules import Rule, apply_rules
from musicot_mlx.errors import MusicotError


def _random(*shape: int) -> mx.array:
    return mx.random.normal(shape, key=mx.random.key(sum(shape)))


@pytest.mark.parametrize(
    ("transform", "shape", "expected"),
    [
        ("keep", (2, 3), lambda x: x),
        ("conv1d", (4, 3, 5), lambda x: np.moveaxis(x, 1, 2)),
        ("conv2d", (4, 3, 5, 6), lambda x: np.moveaxis(x, 1, 3)),
        ("patches", (4, 3, 2, 5, 6), lambda x: x.reshape(4, 180)),
        ("conv_transpose1d", (3, 4, 5), lambda x: np.transpose(x, (1, 2, 0))),
        ("codebook", (1, 4, 3), lambda x: x[0]),
        ("codebook", (4, 3), lambda x: x),
        ("squeeze0", (1, 4, 3), lambda x: x[0]),
        ("squeeze", (4, 3, 1), lambda x: x[..., 0]),
        ("transpose", (4, 3), lambda x: x.T),
        ("float32", (4,), lambda x: x),
    ],
)
def test_one_to_one(transform: str, shape: tuple[int, ...], expected) -> None:
    source = _random(*shape)
    out = apply_rules([Rule(r"a\.(\d)", r"b.\1", transform)], {"a.7": source})
    assert list(out) == ["b.7"]
    np.testing.assert_array_equal(np.array(out["b.7"]), expected(np.array(source)))


def test_conv_transpose_agrees_with_the_layer() -> None:
    # One sample through a kernel is that kernel: torch (in, out, taps), MLX (out, taps, in).
    weight = _random(2, 3, 4)
    made = apply_rules([Rule("w", "w", "conv_transpose1d")], {"w": weight})["w"]
    x = mx.array([[[1.0, 0.0]]])  # (batch, time, channels)
    out = mx.conv_transpose1d(x, made, stride=4)[0]  # (taps, out)
    np.testing.assert_allclose(np.array(out), np.array(weight[0]).T, rtol=1e-6)


@pytest.mark.parametrize("count", [2, 3])
def test_split_and_join_are_inverse(count: int) -> None:
    names = ("q", "k", "v")[:count]
    source = _random(6, 4)
    split = apply_rules(
        [Rule(r"in\.(w)", tuple(rf"{name}.\1" for name in names), f"split{count}")],
        {"in.w": source},
    )
    assert list(split) == [f"{name}.w" for name in names]
    shuffled = {name: split[name] for name in reversed(split)}
    joined = apply_rules(
        [Rule(r"(?P<part>[qkv])\.(w)", r"out.\2", f"join{count}", order=names)], shuffled
    )
    np.testing.assert_array_equal(np.array(joined["out.w"]), np.array(source))


@pytest.mark.parametrize("shape", [(5, 1, 1), (1, 1, 4)])
def test_weight_norm(shape: tuple[int, ...]) -> None:
    g, v = mx.abs(_random(*shape)), _random(5, 3, 4)
    rules = [Rule(r"c\.weight_(?P<part>[gv])", "c.weight", "weight_norm", order=("g", "v"))]
    out = np.array(apply_rules(rules, {"c.weight_v": v, "c.weight_g": g})["c.weight"])
    axes = tuple(axis for axis in range(3) if shape[axis] == 1)
    norm = np.sqrt((np.array(v) ** 2).sum(axis=axes, keepdims=True))
    np.testing.assert_allclose(out, np.array(g) * np.array(v) / norm, rtol=1e-5)


@pytest.mark.parametrize("kind", ["conv1d", "conv_transpose1d"])
def test_weight_norm_of_a_convolution(kind: str) -> None:
    g, v = mx.abs(_random(5, 1, 1)), _random(5, 3, 4)
    table = [Rule(r"c\.(?P<part>[gv])", "c", f"weight_norm_{kind}", order=("g", "v"))]
    folded = apply_rules(
        [Rule(r"c\.(?P<part>[gv])", "c", "weight_norm", ("g", "v"))], a := {"c.g": g, "c.v": v}
    )
    plain = apply_rules([Rule("c", "c", kind)], folded)["c"]
    np.testing.assert_array_equal(np.array(apply_rules(table, a)["c"]), np.array(plain))


def test_join_in_order_add_and_split_query() -> None:
    a, b, c = _random(2, 3), _random(2, 3) + 1, _random(2, 3) + 2
    rules = [Rule(r"e\.(?P<part>\d)", "e", "join", ("0", "1", "2"))]
    joined = apply_rules(rules, {"e.2": c, "e.0": a, "e.1": b})["e"]
    np.testing.assert_array_equal(np.array(joined), np.concatenate([a, b, c]))
    out = apply_rules([Rule("e", ("q", "kv"), "split_query")], {"e": joined})
    assert out["q"].tolist() == a.tolist() and out["kv"].shape == (4, 3)
    rules = [Rule(r"(?P<part>[xy])", "sum", "add", ("x", "y"))]
    assert mx.allclose(apply_rules(rules, {"y": b, "x": a})["sum"], a + b).item()


def test_first_rule_wins_and_none_drops() -> None:
    rules = [Rule(r"a\.bias", None), Rule(r"a\.(.*)", r"b.\1")]
    arrays = {"a.bias": _random(1), "a.weight": _random(1)}
    assert list(apply_rules(rules, arrays)) == ["b.weight"]


@pytest.mark.parametrize(
    ("rules", "keys", "words"),
    [
        (
            [],
            [f"k{i}" for i in range(6)],
            "clap: 6 keys that the key map doesn't know: k0 (2,), k1 (2,)",
        ),
        ([Rule(r"a.*", "b")], ["a1", "a2"], "both map to b"),
        ([Rule(r"(?P<part>[qk])", "b", "join2", order=("q", "k"))], ["q"], "b lacks its part k"),
        (
            [Rule(r"(?P<part>[qkx])", "b", "join", ("q", "k"))],
            ["q", "k", "x"],
            "no place for part x",
        ),
        ([Rule("a", "b", "conv1d")], ["a"], "clap: a is (2,), which conv1d"),
        ([Rule("a", "b", "upend")], ["a"], "no known transform: upend"),
        ([Rule("a", "b")], ["aa"], "doesn't know: aa"),
    ],
)
def test_strictness(rules: list[Rule], keys: list[str], words: str) -> None:
    with pytest.raises(MusicotError) as error:
        apply_rules(rules, {key: _random(2) for key in keys}, where="clap")
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("transform", "order", "shapes"),
    [
        ("add", ("a", "b"), [(4,), ()]),  # MLX would stretch the second
        ("merge_lora", ("a", "b", "c"), [(), (2, 4), (6, 2)]),
        ("merge_lora", ("a", "b", "c"), [(1, 4), (2, 4), (6, 2)]),
        ("merge_lora", ("a", "b", "c"), [(6, 4), (3, 4), (6, 2)]),
        ("join", ("a", "b"), [(4, 2), (4,)]),
        ("heads", ("a", "b"), [(1, 4, 1, 1), (1, 5, 1, 1)]),
        ("weight_norm", ("a", "b"), [(), (4, 2, 3)]),
        ("split3", (), [(4,)]),
        ("conv1d", (), [(4,)]),
    ],
)
def test_what_does_not_fit_is_told_with_its_shapes(transform, order, shapes) -> None:
    names = order or ("a",)
    target = ("x", "y", "z") if transform == "split3" else "x"
    rule = Rule(r"(?P<part>[abc])", target, transform, order)
    with pytest.raises(MusicotError) as error:
        apply_rules([rule], {n: mx.ones(s) for n, s in zip(names, shapes, strict=True)}, where="w")
    assert all(f"{n} is {s}" in str(error.value) for n, s in zip(names, shapes, strict=True))
    assert f"which {transform} can't take" in str(error.value)
