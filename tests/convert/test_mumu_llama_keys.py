"""The published checkpoints' tables of keys, in full shape: every key has its place, none is empty.

Arrays are lazy and nothing is evaluated, so that the 6.8 billion weights take no memory.
"""

from collections.abc import Iterator

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from musicot_mlx.convert.keymaps import mumu_llama as keymap
from musicot_mlx.models.mumu_bridges import Bridges, BridgesConfig
from musicot_mlx.models.mumu_llama import LLAMA_2_7B, MumuLlama, MumuLlamaConfig, Words, WordsConfig
from musicot_mlx.weights.config import config_from_dict, config_to_dict

Shapes = dict[str, tuple[int, ...]]
DIM, INNER, LAYERS, HEADS, TOKENS, RANK = 4096, 11008, 32, 32, 32008, 16


def _llama() -> Iterator[tuple[str, tuple[int, ...]]]:
    yield "llama.tok_embeddings.weight", (TOKENS, DIM)
    yield "llama.output.weight", (TOKENS, DIM)
    yield "llama.norm.weight", (DIM,)
    for layer in range(LAYERS):
        at = f"llama.layers.{layer}."
        yield at + "attention_norm.weight", (DIM,)
        yield at + "ffn_norm.weight", (DIM,)
        yield at + "attention.gate", (1, HEADS, 1, 1)
        for name in "qkvo":
            yield f"{at}attention.w{name}.weight", (DIM, DIM)
            yield f"{at}attention.lora_w{name}_l1.weight", (RANK, DIM)
            yield f"{at}attention.lora_w{name}_l2.weight", (DIM, RANK)
        for name in "qo":
            yield f"{at}attention.w{name}.bias", (DIM,)
        for name, (inputs, outputs) in {
            "w1": (DIM, INNER), "w2": (INNER, DIM), "w3": (DIM, INNER)
        }.items():  # fmt: skip
            yield f"{at}feed_forward.{name}.weight", (outputs, inputs)
            yield f"{at}feed_forward.{name}.bias", (outputs,)
            yield f"{at}feed_forward.lora_{name}_l1.weight", (RANK, inputs)
            yield f"{at}feed_forward.lora_{name}_l2.weight", (outputs, RANK)


def _bridges() -> Iterator[tuple[str, tuple[int, ...]]]:
    for prefix, parts, size in (
        ("mu_mert", 25, 1024),
        ("iu_vit", 197, 768),
        ("iu_vivit", 3137, 768),
    ):
        yield f"{prefix}_agg.weight", (1, parts, 1)
        yield f"{prefix}_agg.bias", (1,)
        yield f"{prefix}_proj.weight", (DIM, size)
        yield f"{prefix}_proj.bias", (DIM,)
        for number in (1, 2, 3):
            yield f"{prefix}_norm_{number}.weight", (DIM,)
            for matrix in (1, 2, 3):
                yield f"{prefix}_f{matrix}_{number}.weight", (DIM, DIM)


def _rnn() -> Iterator[tuple[str, tuple[int, ...]]]:
    for prefix in ("mu_mert", "iu_vivit"):
        for which in ("ih", "hh"):
            yield f"{prefix}_rnn.weight_{which}_l0", (1024, 1024)
            yield f"{prefix}_rnn.bias_{which}_l0", (1024,)
        yield f"{prefix}_attention.weight", (1, 1024)
        yield f"{prefix}_attention.bias", (1,)


def published(rows: int, *, rnn: bool = False) -> Shapes:
    """Keys and shapes under `model`, but for encoders, MusicGen and what is not read."""
    found = dict(_llama()) | dict(_bridges()) | {"prefix_query.weight": (rows, DIM)}
    return found | (dict(_rnn()) if rnn else {})


GENERATIONS = {
    "sum": published(20),
    "split": published(18),
    "rnn": published(18, rnn=True),
}


def _count(shapes: Shapes) -> int:
    total = 0
    for shape in shapes.values():
        size = 1
        for each in shape:
            size *= each
        total += size
    return total


def test_the_table_adds_up() -> None:
    """To the numbers of keys and weights that the files are known to have."""
    llama = dict(_llama())
    assert len(llama) == 2 + 65 + 128 + 64 + 256 + 32 + 96 + 96 + 128 + 64
    assert round(_count(llama) / 1e9, 3) == 6.780
    assert round(_count({k: v for k, v in llama.items() if "lora" in k}) / 1e6, 2) == 39.98
    assert len(dict(_bridges())) == 6 + 6 + 9 + 27
    assert round(_count(dict(_bridges())) / 1e6, 1) == 463.5
    assert len(dict(_rnn())) == 12


@pytest.mark.parametrize("merge", [True, False], ids=["merged", "kept"])
@pytest.mark.parametrize("generation", GENERATIONS)
def test_every_key_fills_a_parameter_and_each_is_filled(generation: str, merge: bool) -> None:
    shapes = GENERATIONS[generation]
    config = keymap.config(shapes, norm_eps=1e-5)
    lazy = {key: mx.zeros(shape, dtype=mx.float16) for key, shape in shapes.items()}
    arrays = keymap.arrays(lazy, config, merge=merge)
    for name, network, kind in (
        ("llama", MumuLlama, MumuLlamaConfig),
        ("words", Words, WordsConfig),
        ("bridges", Bridges, BridgesConfig),
    ):
        made = network(config_from_dict(kind, config[name], where=name))
        wanted = {key: value.shape for key, value in tree_flatten(made.parameters())}
        assert {key: value.shape for key, value in arrays[name].items()} == wanted
    rank = {"value_rank" if merge else "lora_rank": RANK}
    sizes = {**config_to_dict(LLAMA_2_7B), **rank}
    sizes |= {"routing": "sum", "query_rows": 20} if generation == "sum" else {}
    assert config["llama"] | {"rope_theta": 10000.0, "max_position_embeddings": 1024} == {
        name: value for name, value in sizes.items() if value != 0
    }


@pytest.mark.parametrize("rows", [17, 19, 21, 32, 0])
def test_a_row_of_queries_more_or_less_is_no_generation(rows: int) -> None:
    shapes = published(20) | {"prefix_query.weight": (rows, DIM)}
    with pytest.raises(ValueError, match=rf"has {rows} rows, where 18 or 20 of 32 layers have"):
        keymap.config(shapes, norm_eps=1e-5)


@pytest.mark.parametrize("generation", GENERATIONS)
def test_the_twin_has_these_keys(generation: str) -> None:
    torch = pytest.importorskip("torch")
    from musicot_mlx.reference.mumu_llama import MumuConfig, MumuLlama

    rows = GENERATIONS[generation]["prefix_query.weight"][0]
    config = MumuConfig(query_rows=rows, rnn=generation == "rnn")
    with torch.device("meta"):
        model = MumuLlama(config)
    found = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    assert found == GENERATIONS[generation]
