"""MuMu-LLaMA tuned: loss, gradients and one step of the optimizer against the twin in PyTorch."""

from collections.abc import Iterator

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import pytest
from mlx.utils import tree_flatten

torch = pytest.importorskip("torch")

from musicot_mlx.convert.keymaps.mumu_llama import LINEARS, PREFIXES  # noqa: E402
from musicot_mlx.training.mumu_llama import Exchange, Listener, answer_loss  # noqa: E402
from tests.support import tiny_mumu  # noqa: E402

STARTS, LENGTHS = (5, 3, 7), (12, 9, 9)
BETAS, RATE, DECAY, EPS = (0.9, 0.95), 1e-2, 0.05, 1e-4  # upstream's, but for a rate that shows


def exchanges(twin, modalities: tuple[str, ...]) -> list[Exchange]:
    rng = np.random.default_rng(0)
    given = tiny_mumu.features(twin, batch=len(LENGTHS))
    found = []
    for row, (start, length) in enumerate(zip(STARTS, LENGTHS, strict=True)):
        parts = {name: given[name][row].numpy() for name in modalities}
        if "audio" in parts:
            parts["audio"] = parts["audio"].mean(axis=1)  # over time
        ids = rng.integers(1, twin.config.vocab_size, length).astype(np.int32)
        found.append(Exchange(f"row {row}", ids, start, parts))
    return found


def twin_loss(twin, modalities: tuple[str, ...], items: list[Exchange]):
    """As upstream computes it: labels 0 are those of the prompt and of the padding."""
    given = tiny_mumu.features(twin, batch=len(items))
    features = {name: twin.feature(name, given[name]) for name in modalities}
    ids = torch.zeros((len(items), max(LENGTHS)), dtype=torch.long)
    for row, each in enumerate(items):
        ids[row, : len(each.ids)] = torch.from_numpy(each.ids)
    labels = ids.clone()
    for row, each in enumerate(items):
        labels[row, : each.start] = 0
    return twin.loss(ids, labels, features)


def listener_of(twin) -> Listener:
    return Listener(*tiny_mumu.networks(twin, merge=False))


def pairs(twin, listener: Listener) -> Iterator[tuple[str, "torch.nn.Parameter", str]]:
    """(twin's key, its parameter, our path) of all that learns; LoRA is transposed."""
    first = twin.config.num_hidden_layers - twin.config.query_rows
    named = dict(twin.named_parameters())
    ends = {
        "tok_embeddings.weight": "embed_tokens.weight",
        "norm.weight": "norm.weight",
        "output.weight": "lm_head.weight",
    }
    for key, ours in ends.items():
        yield key, named[f"llama.{key}"], f"words.{ours}"
    yield "prefix_query", named["prefix_query.weight"], "llama.queries"
    for layer in range(twin.config.num_hidden_layers):
        theirs, ours = f"llama.layers.{layer}.", f"llama.layers.{layer}."
        norms = {"attention_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
        for key, name in norms.items():
            yield key, named[f"{theirs}{key}.weight"], f"{ours}{name}.weight"
        for key, name in LINEARS.items():
            block, _, short = key.partition(".")
            for which, leaf in ((1, "lora_a"), (2, "lora_b")):
                yield (
                    key,
                    named[f"{theirs}{block}.lora_{short}_l{which}.weight"],
                    f"{ours}{name}.{leaf}",
                )
        if layer >= first:
            yield "gate", named[f"{theirs}attention.gate"], f"llama.gates/{layer - first}"
    for modality, prefix in PREFIXES.items():
        stem = f"bridges.{modality}"
        yield "agg", named[f"{prefix}_agg.weight"], f"{stem}.pool.weight"
        yield "proj", named[f"{prefix}_proj.weight"], f"{stem}.proj.weight"
        for number in (1, 2, 3):
            block = f"{stem}.blocks.{number - 1}"
            yield "norm", named[f"{prefix}_norm_{number}.weight"], f"{block}.norm.weight"
            for matrix in (1, 2, 3):
                yield "f", named[f"{prefix}_f{matrix}_{number}.weight"], f"{block}.f{matrix}.weight"


def value_of(tree: dict, path: str) -> np.ndarray:
    path, _, row = path.partition("/")
    found = np.array(dict(tree_flatten(tree))[path])
    return found[int(row)] if row else found


def shaped(theirs: np.ndarray, ours: np.ndarray, path: str) -> np.ndarray:
    return theirs.T if path.endswith(("lora_a", "lora_b")) else theirs.reshape(ours.shape)


@pytest.mark.parametrize("generation", ["sum", "split"])
@pytest.mark.parametrize("modalities", [("audio",), ("audio", "image", "video")], ids="+".join)
def test_one_step_is_the_twins(generation: str, modalities: tuple[str, ...]) -> None:
    twin = tiny_mumu.twin(generation)
    listener, items = listener_of(twin), exchanges(twin, modalities)
    weight = sum(each.weight for each in items)
    expected = twin_loss(twin, modalities, items)
    expected.backward()
    step = nn.value_and_grad(listener, lambda rows: answer_loss(listener, rows) / weight)
    listener.unfreeze()
    loss, gradients = step(items)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    seen = set()
    for key, theirs, path in pairs(twin, listener):
        ours = value_of(gradients, path)
        if theirs.grad is None:  # of a bridge that nothing came over
            assert not ours.any()
            continue
        other = shaped(theirs.grad.numpy(), ours, path)
        assert np.abs(ours - other).max() < 1e-4 * max(np.abs(other).max(), 1e-3), path
        if np.abs(other).max() > 1e-6:
            seen.add(key)
    assert {"gate", "prefix_query", "agg", "proj", "f", "output.weight"} <= seen

    learned = [theirs for _, theirs, _ in pairs(twin, listener) if theirs.grad is not None]
    settings = {"lr": RATE, "betas": BETAS, "eps": EPS, "weight_decay": DECAY}
    torch.optim.AdamW(learned, **settings).step()
    optimizer = optim.AdamW(
        RATE, betas=list(BETAS), eps=EPS, weight_decay=DECAY, bias_correction=True
    )
    optimizer.update(listener, gradients)
    for _, theirs, path in pairs(twin, listener):
        if theirs.grad is None:
            continue
        ours = value_of(listener.parameters(), path)
        other = shaped(theirs.detach().numpy(), ours, path)
        assert np.abs(ours - other).max() < 0.01 * RATE, path


def test_the_output_rows_of_music_learn() -> None:
    """Upstream leaves them as they were drawn."""
    twin = tiny_mumu.twin()
    listener, items = listener_of(twin), exchanges(twin, ("audio",))
    first = listener.words.config.first_music_token
    items = [
        Exchange(
            each.name, np.append(each.ids, first + row).astype(np.int32), each.start, each.parts
        )
        for row, each in enumerate(items)
    ]
    step = nn.value_and_grad(listener, lambda rows: answer_loss(listener, rows))
    listener.unfreeze()
    _, gradients = step(items)
    rows = np.abs(value_of(gradients, "words.lm_head.weight"))[first:].max(axis=1)
    assert (rows > 1e-3).all()


def test_rows_that_hear_other_things_stand_in_one_batch() -> None:
    twin = tiny_mumu.twin("sum")
    listener = listener_of(twin)
    mixed = [
        exchanges(twin, modalities)[row]
        for row, modalities in enumerate([("audio",), ("image", "video"), ()])
    ]
    together = answer_loss(listener, mixed).item()
    assert together == pytest.approx(
        sum(answer_loss(listener, [each]).item() for each in mixed), rel=1e-5
    )
    silent = [Exchange(each.name, each.ids, each.start, {}) for each in mixed]
    assert abs(answer_loss(listener, silent).item() - together) > 1e-3, "nothing is heard"


def test_closed_gates_open() -> None:
    """Gates begin at zero, and the first step moves them."""
    twin = tiny_mumu.twin()
    with torch.no_grad():
        for layer in twin.llama.layers:
            layer.attention.gate.zero_()
    listener, items = listener_of(twin), exchanges(twin, ("audio",))
    step = nn.value_and_grad(listener, lambda rows: answer_loss(listener, rows))
    listener.unfreeze()
    optimizer = optim.Adam(1e-2)
    _, gradients = step(items)
    optimizer.update(listener, gradients)
    assert (mx.abs(listener.llama.gates) > 1e-3).all().item()
