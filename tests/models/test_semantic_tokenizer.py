"""The semantic tokenizer: shapes, windows of long audio, save and load, dtype, paper size."""

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from musicot_mlx.errors import MusicotError
from musicot_mlx.models.semantic_tokenizer import (
    BEST_RQ_600M,
    SemanticTokenizer,
    SemanticTokenizerConfig,
)
from musicot_mlx.weights.checkpoint import load_arrays, load_strict, save_checkpoint

TINY = {
    "sample_rate": 8000,
    "n_fft": 256,
    "hop_length": 80,
    "mels": 12,
    "stack": 4,
    "dim": 16,
    "layers": 2,
    "heads": 2,
    "expansion": 2,
    "kernel_size": 5,
    "codebook_size": 32,
    "codebook_dim": 8,
    "window_codes": 20,
    "margin_codes": 4,
}


def tiny_tokenizer(seed: int = 0, **changes) -> SemanticTokenizer:
    """A twin whose codes differ from frame to frame."""
    tokenizer = SemanticTokenizer(SemanticTokenizerConfig.from_dict({**TINY, **changes}))
    leaves = tree_flatten(tokenizer.parameters())
    keys = mx.random.split(mx.random.key(seed), len(leaves))

    def fill(name: str, shape: tuple[int, ...], key: mx.array) -> mx.array:
        if name.endswith("norm.weight"):
            return 1 + 0.2 * mx.random.normal(shape, key=key)
        fan_in = shape[1] if len(shape) > 1 else 10
        return 1.5 * mx.random.normal(shape, key=key) * fan_in**-0.5

    tokenizer.load_weights(
        [(n, fill(n, leaf.shape, k)) for k, (n, leaf) in zip(keys, leaves, strict=True)]
    )
    # standardised on the audio that tests use, and livelier than it would be in training
    tokenizer.log_mel.mean, tokenizer.log_mel.std = mx.zeros((12,)), mx.ones((12,))
    frames = tokenizer.log_mel(waveform(16000)).reshape(-1, 12)
    tokenizer.log_mel.mean, tokenizer.log_mel.std = frames.mean(0), frames.std(axis=0) / 2
    rows = tokenizer.quantizer.codebook.weight
    tokenizer.quantizer.codebook.weight = rows / mx.linalg.norm(rows, axis=-1, keepdims=True)
    return tokenizer


def waveform(samples: int, batch: int = 1) -> mx.array:
    return 0.3 * mx.random.normal((batch, samples), key=mx.random.key(1))


@pytest.mark.parametrize("samples", [1, 320, 321, 3200])
def test_one_code_for_each_started_frame(samples):
    codes = tiny_tokenizer().encode(waveform(samples, batch=2))
    assert codes.shape == (2, -(-samples // 320)) and codes.dtype == mx.int32


def test_codes_differ_and_follow_the_audio():
    tokenizer = tiny_tokenizer()
    codes = np.array(tokenizer.encode(waveform(320 * 60)))
    assert len(np.unique(codes)) > 8
    other = np.array(tokenizer.encode(mx.random.normal((1, 320 * 60), key=mx.random.key(9))))
    assert (codes != other).mean() > 0.5


def test_long_audio_is_encoded_in_windows_that_keep_what_is_inside_their_margins():
    tokenizer = tiny_tokenizer()  # windows of 20 codes keep 12
    codes = np.array(tokenizer.encode(waveform(320 * 50)))[0]
    log_mel = tokenizer.log_mel(waveform(320 * 50))
    for start in (0, 12, 24, 36, 48):
        low = max(0, start - 4)
        window = np.array(tokenizer.quantizer(tokenizer.features(log_mel[:, low : start + 16])))[0]
        kept = window[start - low : start - low + 12]
        assert np.array_equal(codes[start : start + 12], kept)


def test_channels_are_refused_with_advice():
    with pytest.raises(ValueError, match="mix channels down"):
        tiny_tokenizer().encode(mx.zeros((1, 3200, 2)))


def test_save_and_load_round_trip(tmp_path: Path):
    tokenizer = tiny_tokenizer()
    arrays = {f"semantic_tokenizer.{k}": v for k, v in tree_flatten(tokenizer.parameters())}
    config = {"model_type": "musicot", "semantic_tokenizer": TINY}
    save_checkpoint(tmp_path / "m", config, arrays)
    loaded = SemanticTokenizer(SemanticTokenizerConfig.from_dict(TINY))
    read = load_arrays(tmp_path / "m")
    read = {k.removeprefix("semantic_tokenizer."): v for k, v in read.items()}
    load_strict(loaded, read, where="semantic_tokenizer")
    assert mx.array_equal(loaded.encode(waveform(9000)), tokenizer.encode(waveform(9000)))


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_16_bit_stays_16_bit(dtype):
    tokenizer = tiny_tokenizer()
    log_mel = tokenizer.log_mel(waveform(320 * 20))
    expected = tokenizer.features(log_mel)
    tokenizer.set_dtype(dtype)
    x = tokenizer.embed(log_mel.astype(dtype))
    seen = [x]
    for layer in tokenizer.layers:
        x = layer(x)
        seen.append(x)
    seen.append(tokenizer.features(log_mel))
    assert {value.dtype for value in seen} == {dtype}
    assert mx.abs(seen[-1].astype(mx.float32) - expected).max() < 0.2 * mx.abs(expected).max()


def test_a_codebook_as_wide_as_the_conformer_needs_no_projection():
    tokenizer = tiny_tokenizer(codebook_dim=16)
    assert "project_in" not in tokenizer.quantizer
    assert tokenizer.encode(waveform(3200)).shape == (1, 10)


def test_paper_size_is_built_lazily():
    before = mx.get_active_memory()
    tokenizer = SemanticTokenizer(BEST_RQ_600M)
    count = sum(value.size for _, value in tree_flatten(tokenizer.parameters()))
    assert 5e8 < count < 8e8 and tokenizer.config.frame_rate == 25.0
    assert mx.get_active_memory() - before < 1 << 20


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"heads": 3}, "must divide"),
        ({"kernel_size": 4}, "odd"),
        ({"window_codes": 8}, "leaves nothing"),
        ({"codebook": 4}, "unknown field 'codebook'"),
    ],
)
def test_config_says_what_is_wrong(changes, words):
    with pytest.raises(MusicotError, match=words):
        SemanticTokenizerConfig.from_dict({**TINY, **changes})
