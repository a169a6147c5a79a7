"""The semantic LM: vocabulary, shapes, caches, save and load, dtype, the sliced head."""

import subprocess
import sys
import textwrap
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from musicot_mlx.errors import MusicotError
from musicot_mlx.models.semantic_lm import (
    MUSICOT_1B,
    SemanticLM,
    SemanticLMConfig,
    merge_caches,
)
from musicot_mlx.tokens.vocabulary import SECTION_MARKS, Vocabulary

TINY = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500.0,
    "max_position_embeddings": 512,
    "clap_dim": 8,
    "text_vocab_size": 20,
    "tags": ["jazz", "rock"],
    "thought_codebooks": 3,
    "thought_codebook_size": 8,
    "audio_codebook_size": 16,
    "audio_frame_rate": 2.5,
    "thought_seconds": 10.0,
    "context_seconds": 30.0,
}


def tiny_lm(seed: int = 0, **changes) -> SemanticLM:
    """A twin with weights large enough for lively logits."""
    lm = SemanticLM(SemanticLMConfig.from_dict({**TINY, **changes}))
    leaves = tree_flatten(lm.parameters())
    keys = mx.random.split(mx.random.key(seed), len(leaves))
    lm.load_weights(
        [
            (name, 1 + 0.1 * noise if "norm" in name else noise * value.shape[-1] ** -0.5 * 1.5)
            for (name, value), key in zip(leaves, keys, strict=True)
            for noise in [mx.random.normal(value.shape, key=key)]
        ]
    )
    return lm


@pytest.fixture(scope="module")
def lm() -> SemanticLM:
    return tiny_lm()


def test_vocabulary_ranges_meet_end_to_end_and_never_overlap():
    """Trap 2: an id belongs to one level, or to the audio, never to two things."""
    v = Vocabulary.from_config(TINY)
    assert (v.text_offset, v.tag_offset, v.thought_offset) == (10, 30, 32)
    spans = [v.thought_range(level) for level in range(3)] + [v.audio_range]
    assert spans == [(32, 40), (40, 48), (48, 56), (56, 72)]
    assert v.used_size == 72 and v.vocab_size == 128
    ids = [v.thought_id(level, code) for level in range(3) for code in range(8)]
    assert len(set(ids)) == 24 and v.audio_id(0) not in ids
    config = SemanticLMConfig.from_dict(TINY)
    assert (config.cot_bos, config.cot_eos, config.aud_bos, config.aud_eos) == (1, 2, 3, 4)
    assert config.audio_offset == v.audio_offset and config.vocab_size == 128


def test_thoughts_round_trip_level_major():
    """Trap 1: flattened level-major, read back time-major, a plan is scrambled."""
    v = Vocabulary.from_config(TINY)
    codes = np.arange(12).reshape(3, 4) % 8
    flat = v.flatten_thoughts(codes)
    assert flat[:4].tolist() == [v.thought_id(0, int(c)) for c in codes[0]]
    assert flat[4] == v.thought_id(1, int(codes[1, 0]))
    np.testing.assert_array_equal(v.unflatten_thoughts(flat), codes)
    with pytest.raises(ValueError, match="level-major"):
        v.unflatten_thoughts(flat.reshape(3, 4).T.reshape(-1))


def test_lyrics_keep_their_section_marks():
    v = Vocabulary.from_config(TINY)
    ids = v.lyrics_ids("[VERSE] la la\n[CHORUS]hey", lambda text: [len(text), 3])
    assert ids == [6, 10 + 5, 13, 7, 10 + 3, 13]
    assert [v.section_id(mark) for mark in SECTION_MARKS] == [5, 6, 7, 8, 9]
    v.check_conditions([v.tag_id(1)], ids)
    with pytest.raises(ValueError, match="Vocabulary.tag_id"):
        v.check_conditions([0], [])
    with pytest.raises(ValueError, match="Vocabulary.lyrics_ids"):
        v.check_conditions([], [v.tag_id(0)])


@pytest.mark.parametrize(
    "bad", [np.zeros((2, 4)), np.zeros(3), np.full((3, 2), 8), np.full((3, 2), -1)]
)
def test_thoughts_that_do_not_fit_are_refused(bad):
    with pytest.raises(ValueError, match="thoughts"):
        Vocabulary.from_config(TINY).flatten_thoughts(bad.astype(int))


def test_config_refuses_what_cannot_work():
    with pytest.raises(MusicotError, match="hiden_size"):
        SemanticLMConfig.from_dict({**TINY, "hiden_size": 3})
    for change in ({"num_attention_heads": 3}, {"num_key_value_heads": 3}, {"context_seconds": 5}):
        with pytest.raises(MusicotError):
            SemanticLMConfig.from_dict({**TINY, **change})


def test_segments_and_frames():
    config = SemanticLMConfig.from_dict(TINY)
    assert config.context_segments == 3
    assert [config.segments(n) for n in (1, 25, 26, 75)] == [1, 1, 2, 3]
    assert [config.first_frame(s) for s in range(3)] == [0, 25, 50]


def test_shapes(lm):
    logits = lm(mx.array([[1, 33, 41], [3, 60, 61]]))
    assert logits.shape == (2, 3, 128) and logits.dtype == mx.float32
    prefix = lm.prefix(np.ones(8), [30, 1])
    assert prefix.shape == (1, 3, 16)
    assert lm.head(56, 72)(lm.hidden(prefix)).shape == (1, 3, 16)
    with pytest.raises(ValueError, match="CLAP vector has 5 values"):
        lm.prefix(np.ones(5), [1])


def test_sliced_head_equals_slice_of_whole_head(lm):
    hidden = lm.hidden(lm.embed(mx.array([[1, 33, 41, 50]])))
    whole = lm.lm_head(hidden)[..., 40:48]
    np.testing.assert_allclose(np.array(lm.head(40, 48)(hidden)), np.array(whole), atol=1e-6)


@pytest.mark.parametrize("bits", [4, 8])
def test_sliced_head_of_a_quantised_model(bits):
    lm = tiny_lm(hidden_size=64, num_attention_heads=4)
    nn.quantize(lm, group_size=32, bits=bits, class_predicate=lambda path, m: path == "lm_head")
    assert isinstance(lm.lm_head, nn.QuantizedLinear)
    hidden = lm.hidden(lm.embed(mx.array([[1, 33, 41, 50]])))
    whole = lm.lm_head(hidden)[..., 40:48]
    np.testing.assert_allclose(np.array(lm.head(40, 48)(hidden)), np.array(whole), atol=1e-5)


def test_sliced_head_with_an_adapter():
    from musicot_mlx.nn.mlx_lm import LlamaModel  # noqa: F401  (holds mlx_lm back)

    # isort: split
    from mlx_lm.tuner.lora import LoRALinear

    lm = tiny_lm()
    lm.lm_head = LoRALinear.from_base(lm.lm_head, r=2)
    lm.lm_head.lora_b = mx.random.normal(lm.lm_head.lora_b.shape, key=mx.random.key(1))
    hidden = lm.hidden(lm.embed(mx.array([[1, 33, 41, 50]])))
    whole = np.array(lm.lm_head(hidden)[..., 40:48])
    np.testing.assert_allclose(
        np.array(lm.head(40, 48)(hidden)), whole, atol=1e-6 * np.abs(whole).max(), rtol=1e-5
    )


def test_cached_equals_uncached(lm):
    embeddings = lm.embed(mx.random.randint(0, 72, (2, 20), key=mx.random.key(0)))
    cache = lm.make_cache()
    pieces = [
        lm.hidden(embeddings[:, a:b], cache) for a, b in [(0, 9), (9, 10), (10, 15), (15, 20)]
    ]
    np.testing.assert_allclose(
        np.array(mx.concatenate(pieces, axis=1)), np.array(lm.hidden(embeddings)), atol=2e-6
    )


def test_rows_of_different_length_in_one_batch_read_as_if_alone(lm):
    """Merged caches: left padding masked, a RoPE position of its own for each row."""
    lengths = [13, 1, 6]
    keys = mx.random.split(mx.random.key(3), 4)
    prefixes = [
        lm.embed(mx.random.randint(0, 72, (1, n), key=k))
        for n, k in zip(lengths, keys[:3], strict=True)
    ]
    tail = lm.embed(mx.random.randint(0, 72, (3, 300), key=keys[3]))
    alone = [
        lm.hidden(mx.concatenate([p, tail[i : i + 1]], axis=1))[:, -300:]
        for i, p in enumerate(prefixes)
    ]
    caches = [lm.make_cache() for _ in prefixes]
    for prefix, cache in zip(prefixes, caches, strict=True):
        lm.hidden(prefix, cache)
    merged = merge_caches(caches)
    steps = [lm.hidden(tail[:, i : i + 1], merged) for i in range(280)]
    steps.append(lm.hidden(tail[:, 280:], merged))  # and a chunk, past a block of the cache
    np.testing.assert_allclose(
        np.array(mx.concatenate(steps, axis=1)), np.array(mx.concatenate(alone)), atol=1e-5
    )


def test_save_load_round_trip(lm, tmp_path):
    path = tmp_path / "model.safetensors"
    lm.save_weights(str(path))
    twin = SemanticLM(lm.config)
    twin.load_weights(str(path), strict=True)
    ids = mx.array([[1, 33, 41]])
    np.testing.assert_array_equal(np.array(twin(ids)), np.array(lm(ids)))


def test_padded_training_rows_embed_as_single_rows(lm):
    v = lm.config.vocabulary
    rows = [v.row([30], [6, 12], np.ones((3, 2), int), np.arange(4)), v.row(audio=np.arange(2))]
    width = max(map(len, rows))
    ids = mx.array([row + [0] * (width - len(row)) for row in rows])
    clap = mx.random.normal((2, 8), key=mx.random.key(0))
    batch = lm.embed(ids, clap)
    for i, row in enumerate(rows):
        assert row[0] == -1 and row[-1] == 4
        alone = lm.prefix(np.array(clap[i]), row[1:])[0]
        np.testing.assert_allclose(np.array(batch[i, : len(row)]), np.array(alone), atol=1e-6)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_sixteen_bit_stays_sixteen_bit(dtype, monkeypatch):
    """Trap 9: one float32 operand promotes every layer after it, silently."""
    lm = tiny_lm()
    lm.set_dtype(dtype)
    seen = []
    block = type(lm.layers[0])
    call = block.__call__

    def spy(self, x, mask=None, cache=None):
        out = call(self, x, mask, cache)
        seen.append((x.dtype, out.dtype))
        return out

    monkeypatch.setattr(block, "__call__", spy)
    caches = [lm.make_cache(), lm.make_cache()]
    lm.hidden(lm.prefix(np.ones(8, dtype=np.float32), [30, 1]), caches[0])
    lm.hidden(lm.prefix(None, [1]), caches[1])
    merged = merge_caches(caches)
    hidden = lm.hidden(lm.embed(mx.array([[40], [40]])), merged)
    assert hidden.dtype == dtype and lm.head(40, 48)(hidden).dtype == dtype
    assert len(seen) == 6 and set(seen) == {(dtype, dtype)}
    assert {layer.keys.dtype for layer in merged} == {dtype}


def test_paper_size_is_about_a_billion_and_costs_nothing_until_used():
    before = mx.get_active_memory()
    lm = SemanticLM(MUSICOT_1B)
    parameters = sum(value.size for _, value in tree_flatten(lm.parameters()))
    assert 0.9e9 < parameters < 1.1e9
    assert mx.get_active_memory() - before < 1_000_000


def test_mlx_lm_comes_without_transformers_or_torch():
    script = """
        import sys
        import musicot_mlx.models.semantic_lm, musicot_mlx.generation.semantic
        heavy = {"torch", "transformers"} & set(sys.modules)
        assert not heavy, heavy
        from mlx_lm.tuner.lora import LoRALinear
        assert not {"torch", "transformers"} & set(sys.modules)
        import mlx_lm
        assert callable(mlx_lm.load), "the package still answers when asked"
        from musicot_mlx.nn.mlx_lm import LlamaModel
        assert mlx_lm.models.llama.LlamaModel is LlamaModel
    """
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, cwd=root)
