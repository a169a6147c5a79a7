"""Key maps as ordered tables: a source pattern, a target and a named transform per line.

Keys carry no part prefix: the `clap` table sees `text_model.embeddings...`, and convert.py takes
`clap.` off before and puts it back after. The first rule that matches a whole key decides.
Conversion is strict: a key that no rule names is an error, and each target is filled once.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from musicot_mlx.errors import MusicotError
from musicot_mlx.weights.files import SAVE_AGAIN


@dataclass(frozen=True)
class Rule:
    r"""One line of a key map.

    pattern: regular expression for the whole source key. target: template with `\1` or `\g<name>`
    for the groups; None drops the key; a tuple of templates for a transform that splits.
    order: for a transform that joins, what the group named `part` matches, in joining order.
    """

    pattern: str
    target: str | tuple[str, ...] | None
    transform: str = "keep"
    order: tuple[str, ...] = ()


def _weight_norm(g: mx.array, v: mx.array) -> mx.array:
    """w = g * v / |v|; the norm runs over each axis on which g has length 1 (torch weight_norm)."""
    if g.ndim != v.ndim:
        raise ValueError("they differ in their number of axes")
    axes = tuple(axis for axis in range(v.ndim) if g.shape[axis] == 1 and v.shape[axis] != 1)
    v32 = v.astype(mx.float32)
    norm = mx.sqrt(mx.sum(v32 * v32, axis=axes, keepdims=True)) if axes else mx.abs(v32)
    return (g.astype(mx.float32) * v32 / norm).astype(v.dtype)


def _query_scale(x: mx.array) -> mx.array:
    """Depthformer's scale of queries, a factor a channel, from what softplus makes it of."""
    return math.log2(math.e) / math.sqrt(x.shape[-1]) * nn.softplus(x.astype(mx.float32))


def _level_heads(x: mx.array) -> list[mx.array]:
    """One head of all ids, kernel (dim, ids) or bias (ids,), as twelve; reserved ids fall out."""
    x = x.T if x.ndim == 2 else x
    return mx.split(x[len(x) % 12 :], 12)


def _up(x: mx.array, *, time: int, frequency: int) -> mx.array:
    """A transposed convolution (h, w, in, out) with these strides, kernels of twice as many taps
    where there is one, as a convolution of two taps to a group of outputs a place between
    (models/spectrostream.py): (time * frequency * out, taps, taps, in).
    """
    height, width, inputs, outputs = x.shape
    x = x.reshape(height // time, time, width // frequency, frequency, inputs, outputs)
    x = x[:, ::-1, :, ::-1]  # the first place hears the last tap of each group
    return x.transpose(1, 3, 5, 0, 2, 4).reshape(-1, height // time, width // frequency, inputs)


def _merge_lora(weight: mx.array, down: mx.array, up: mx.array) -> mx.array:
    """W + up down, LoRA without a scale, float32."""
    if weight.shape != (*up.shape[:1], *down.shape[1:]):  # MLX would stretch it
        raise ValueError("a weight is as high as its up and as wide as its down")
    return mx.addmm(weight.astype(mx.float32), up.astype(mx.float32), down.astype(mx.float32))


def _add(a: mx.array, b: mx.array) -> mx.array:
    if a.shape != b.shape:  # MLX would stretch one
        raise ValueError("they differ in shape")
    return a + b


def _concatenate(*parts: mx.array) -> mx.array:
    return mx.concatenate(parts, axis=0)


ONE_TO_ONE: dict[str, Callable[[mx.array], mx.array]] = {
    "keep": lambda x: x,
    "conv1d": lambda x: x.transpose(0, 2, 1),  # (out, in, taps) -> (out, taps, in)
    "conv2d": lambda x: x.transpose(0, 2, 3, 1),  # (out, in, h, w) -> (out, h, w, in)
    "conv_transpose1d": lambda x: x.transpose(1, 2, 0),  # (in, out, taps) -> (out, taps, in)
    "patches": lambda x: x.reshape(len(x), -1),  # (out, in, [frames,] h, w) -> (out, in * ...)
    "codebook": lambda x: x.reshape(x.shape[-2:]),  # (1, codes, dim) -> (codes, dim)
    "squeeze0": lambda x: x.squeeze(0),
    "squeeze": lambda x: x.squeeze(),
    "pointwise": lambda x: x.squeeze(-1),  # (out, in, 1) -> (out, in)
    "transpose": lambda x: x.swapaxes(-1, -2),
    "float32": lambda x: x.astype(mx.float32),
    # flax's kernels are (in, ..., out)
    "hwio": lambda x: x.transpose(3, 0, 1, 2),  # (h, w, in, out) -> (out, h, w, in)
    "heads_in": lambda x: x.reshape(len(x), -1).T,  # (in, heads, dim) -> (heads * dim, in)
    "heads_out": lambda x: x.reshape(len(x), -1),  # (out, heads, dim) -> (out, heads * dim)
    "query_scale": _query_scale,
    "up_2x1": partial(_up, time=2, frequency=1),
    "up_2x2": partial(_up, time=2, frequency=2),
    "up_1x2": partial(_up, time=1, frequency=2),
    "up_1x3": partial(_up, time=1, frequency=3),
}
ONE_TO_MANY: dict[str, Callable[[mx.array], list[mx.array]]] = {
    "split2": lambda x: mx.split(x, 2, axis=0),
    "split3": lambda x: mx.split(x, 3, axis=0),
    "level_heads": _level_heads,
    "first_codebooks": lambda x: [codebook.squeeze(0) for codebook in mx.split(x[:12], 12)],
    # one matrix of query, key and value -> the query, and the other two together
    "split_query": lambda x: mx.split(x, [x.shape[0] // 3], axis=0),
}
MANY_TO_ONE: dict[str, Callable[..., mx.array]] = {
    "join2": _concatenate,
    "join3": _concatenate,
    "join": _concatenate,  # as many as the order names
    "add": _add,
    "heads": lambda *x: mx.stack([row.reshape(-1) for row in x]),  # (1, heads, 1, 1) a layer
    "merge_lora": _merge_lora,  # order: (weight, down, up)
    "weight_norm": _weight_norm,  # order: (g, v)
    "weight_norm_conv1d": lambda g, v: ONE_TO_ONE["conv1d"](_weight_norm(g, v)),
    "weight_norm_conv_transpose1d": lambda g, v: ONE_TO_ONE["conv_transpose1d"](_weight_norm(g, v)),
}


def apply_rules(
    rules: Iterable[Rule], arrays: Mapping[str, mx.array], *, where: str = "the checkpoint"
) -> dict[str, mx.array]:
    """Target name -> array for a whole part; `where` names the part in errors.

    Raises MusicotError for source keys that no rule names, values that are no floats, a target
    filled twice, or a join that lacks one of its parts.
    """
    rules = [(re.compile(rule.pattern), rule) for rule in rules]
    out: dict[str, mx.array] = {}
    source_of: dict[str, str] = {}
    joins: dict[str, tuple[Rule, dict[str, mx.array]]] = {}
    unknown = []

    def fill(target: str, value: mx.array, source: str) -> None:
        if target in out:
            raise MusicotError(
                f"{where}: {source} and {source_of[target]} both map to {target}; "
                "each target may be filled once, so the key map needs a narrower pattern"
            )
        out[target], source_of[target] = value, source

    for source, value in arrays.items():
        match, rule = next(
            ((m, rule) for regex, rule in rules if (m := regex.fullmatch(source))), (None, None)
        )
        if rule is None:
            unknown.append(f"{source} {tuple(value.shape)}")
        elif rule.target is None:
            continue
        elif not mx.issubdtype(value.dtype, mx.floating):
            kind = str(value.dtype).removeprefix("mlx.core.")
            raise MusicotError(f"{where}: {source} is {kind}, a weight is of floats; {SAVE_AGAIN}")
        elif rule.transform in ONE_TO_ONE:
            made = _transformed(ONE_TO_ONE, rule, {source: value}, where)
            fill(match.expand(rule.target), made, source)
        elif rule.transform in ONE_TO_MANY:
            made = _transformed(ONE_TO_MANY, rule, {source: value}, where)
            for template, piece in zip(rule.target, made, strict=True):
                fill(match.expand(template), piece, source)
        elif rule.transform in MANY_TO_ONE:
            _, parts = joins.setdefault(match.expand(rule.target), (rule, {}))
            parts[match["part"]] = value
        else:
            raise MusicotError(f"{where}: the key map names no known transform: {rule.transform}")

    if unknown:
        raise MusicotError(
            f"{where}: {len(unknown)} keys that the key map doesn't know: "
            f"{', '.join(sorted(unknown)[:4])}{', ...' if len(unknown) > 4 else ''}"
        )
    for target, (rule, parts) in joins.items():
        missing = [part for part in rule.order if part not in parts]
        if missing:
            raise MusicotError(f"{where}: {target} lacks its part {', '.join(missing)}")
        extra = [part for part in parts if part not in rule.order]
        if extra:
            raise MusicotError(f"{where}: {target} has no place for part {', '.join(extra)}")
        ordered = {part: parts[part] for part in rule.order}
        fill(target, _transformed(MANY_TO_ONE, rule, ordered, f"{where}: {target}"), target)
    return out


def _transformed(
    transforms: Mapping[str, Callable[..., Any]],
    rule: Rule,
    arrays: Mapping[str, mx.array],
    where: str,
) -> Any:
    """What a rule's transform makes of arrays; MusicotError with their shapes if none."""
    try:
        return transforms[rule.transform](*arrays.values())
    except (ValueError, IndexError) as error:
        shapes = ", ".join(f"{name} is {tuple(value.shape)}" for name, value in arrays.items())
        raise MusicotError(
            f"{where}: {shapes}, which {rule.transform} can't take ({error})"
        ) from error


def numbered(keys: Iterable[str], pattern: str) -> int:
    """How many modules keys tell of: one more than the largest number that stands for the group of
    a pattern, which is held to a key's beginning.
    """
    found = (re.match(pattern, key) for key in keys)
    return 1 + max((int(match[1]) for match in found if match), default=-1)
