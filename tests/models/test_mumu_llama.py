"""MuMu-LLaMA's networks: shapes, cache, what a gate lets through, what a folder keeps."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_map

from musicot_mlx.generation.mumu_llama import draw_tokens
from musicot_mlx.models.mumu_bridges import Bridges, BridgesConfig
from musicot_mlx.models.mumu_llama import (
    LLAMA_2_7B,
    MumuLlama,
    MumuLlamaConfig,
    Words,
    WordsConfig,
)

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
}
SPLIT = MumuLlamaConfig(**SIZES, routing="split", query_rows=3, value_rank=4)
SUM = MumuLlamaConfig(**SIZES, routing="sum", query_rows=2, lora_rank=4)
WORDS = WordsConfig(vocab_size=48, hidden_size=64)
IDS = mx.array([[1, 5, 9, 40, 2, 7]])


def drawn(network: nn.Module, seed: int = 0) -> nn.Module:
    """The network with noise in every weight, gates included."""
    keys = iter(mx.random.split(mx.random.key(seed), len(tree_flatten(network.parameters()))))
    network.update(
        tree_map(lambda v: 0.2 * mx.random.normal(v.shape, key=next(keys)), network.parameters())
    )
    return network


def feature(seed: int, batch: int = 1) -> mx.array:
    return mx.random.normal((batch, 64), key=mx.random.key(seed))


@pytest.mark.parametrize("config", [SPLIT, SUM], ids=["split", "sum"])
def test_cached_equals_uncached(config: MumuLlamaConfig) -> None:
    llama, words = drawn(MumuLlama(config)), drawn(Words(WORDS))
    offsets = llama.offsets({"audio": feature(1), "video": feature(2)})
    whole = llama(words.embed(IDS), offsets=offsets)
    cache = llama.make_cache()
    pieces = [llama(words.embed(IDS[:, :3]), cache, offsets)]
    pieces += [llama(words.embed(IDS[:, n : n + 1]), cache, offsets) for n in range(3, 6)]
    np.testing.assert_allclose(
        np.array(mx.concatenate(pieces, axis=1)), np.array(whole), rtol=1e-3, atol=1e-4
    )
    assert words.logits(whole).shape == (1, 6, 48)


def test_split_gives_each_modality_layers_of_its_own() -> None:
    llama = drawn(MumuLlama(SPLIT))
    silent = llama.offsets({})
    assert silent[0] is None and all(each.shape == (1, 1, 64) for each in silent[1:])
    for number, modality in enumerate(("audio", "image", "video"), start=1):
        heard = llama.offsets({modality: feature(3)})
        moved = [n for n in (1, 2, 3) if not mx.allclose(heard[n], silent[n]).item()]
        assert moved == [number]


def test_sum_gives_every_adapted_layer_all() -> None:
    llama = drawn(MumuLlama(SUM))
    alone = llama.offsets({"audio": feature(3) + feature(4)})
    both = llama.offsets({"audio": feature(3), "image": feature(4)})
    assert alone[:2] == both[:2] == [None, None]
    for one, other in zip(alone[2:], both[2:], strict=True):
        np.testing.assert_allclose(np.array(one), np.array(other), rtol=1e-4, atol=1e-5)


def test_closed_gates_let_nothing_through() -> None:
    llama = drawn(MumuLlama(SPLIT))
    llama.gates = mx.zeros_like(llama.gates)
    for offset in llama.offsets({"audio": feature(1)})[1:]:
        assert not offset.any().item()


def test_sixteen_bits_stay_sixteen_bits_with_float32_norms_and_gates() -> None:
    llama, words = drawn(MumuLlama(SPLIT)), drawn(Words(WORDS))
    for network in (llama, words):
        network.update(
            tree_map(
                lambda value: value.astype(mx.float32 if value.ndim == 1 else mx.float16),
                network.parameters(),
            )
        )
    for layer in llama.layers:  # biases are vectors too
        for linear in (*layer.self_attn.children().values(), *layer.mlp.children().values()):
            if isinstance(linear, nn.Linear) and "bias" in linear:
                linear.bias = linear.bias.astype(mx.float16)
    llama.gates, llama.queries = (x.astype(mx.float32) for x in (llama.gates, llama.queries))
    assert llama.dtype == mx.float16
    offsets = llama.offsets({"image": feature(1)})
    assert {each.dtype for each in offsets[1:]} == {mx.float16}
    hidden = llama(words.embed(IDS), offsets=offsets)
    assert hidden.dtype == mx.float16 and words.logits(hidden).dtype == mx.float32


def test_refuses_sizes_and_features_that_mean_nothing() -> None:
    with pytest.raises(ValueError, match="heads of even size"):
        MumuLlamaConfig(**{**SIZES, "num_attention_heads": 5})
    with pytest.raises(ValueError, match="does not divide among 3"):
        MumuLlamaConfig(**SIZES, routing="split", query_rows=4)
    with pytest.raises(ValueError, match="within 1 to 4 layers"):
        MumuLlamaConfig(**SIZES, query_rows=6)
    with pytest.raises(ValueError, match="not both"):
        MumuLlamaConfig(**SIZES, query_rows=3, lora_rank=2, value_rank=2)
    with pytest.raises(ValueError, match="features of 'smell'"):
        MumuLlama(SPLIT).offsets({"smell": feature(1)})


def test_published_layers() -> None:
    """20 rows: layers 12 to 31; 18 rows: 14-19 hear songs, 20-25 pictures, 26-31 films."""
    assert [LLAMA_2_7B.hears(row)[0] for row in (0, 5, 6, 11, 12, 17)] == [
        "audio", "audio", "image", "image", "video", "video",
    ]  # fmt: skip
    assert LLAMA_2_7B.num_hidden_layers - LLAMA_2_7B.query_rows == 14


def test_a_draw_depends_on_its_key_alone() -> None:
    llama, words = drawn(MumuLlama(SPLIT)), drawn(Words(WORDS))

    def answer(seed: int, **settings: float) -> list[int]:
        settings = {"temperature": 1.0, "top_p": 0.9, **settings}
        key = mx.random.key(seed)
        return list(draw_tokens(llama, words, [1, 5, 9], limit=12, key=key, **settings))

    assert answer(3) == answer(3) != answer(4)
    assert len(answer(3)) == 12
    assert answer(1, temperature=0.0) == answer(2, temperature=0.0)
    with pytest.raises(ValueError, match="no tokens"):
        list(draw_tokens(llama, words, [], limit=1, temperature=0, key=mx.random.key(0)))


@pytest.mark.parametrize("pooling", ["mean", "rnn"])
def test_bridges_take_windows_and_tokens(pooling: str) -> None:
    config = BridgesConfig(
        hidden_size=64,
        audio_states=3,
        audio_size=32,
        image_tokens=5,
        image_size=24,
        video_tokens=9,
        video_size=24,
        pooling=pooling,
    )
    bridges = drawn(Bridges(config))
    keys = mx.random.split(mx.random.key(0), 3)
    states = [mx.random.normal((2, 11, 32), key=key) for key in keys]
    pooled = bridges.pool_audio(states)
    assert pooled.shape == (2, 32) and bridges.feature("audio", pooled).shape == (2, 64)
    louder = bridges.pool_audio([3 * state for state in states])
    assert not mx.allclose(pooled, louder).item()
    for modality, tokens in (("image", 5), ("video", 9)):
        given = mx.random.normal((2, tokens, 24), key=keys[0])
        assert bridges.feature(modality, bridges.pool(modality, given)).shape == (2, 64)
