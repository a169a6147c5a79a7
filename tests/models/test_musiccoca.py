"""MusicCoCa and its embedder: shapes, lengths, seeds, windows; parity is in tests/parity."""

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from tokenizers import Tokenizer, models, pre_tokenizers

from musicot_mlx.audio.mel import hann_window, mel_filter_bank
from musicot_mlx.errors import MusicotError
from musicot_mlx.models.musiccoca import MUSICCOCA, MusicCoCa, MusicCoCaConfig
from musicot_mlx.pipelines.magenta_rt2.embedder import MusicCoCaEmbedder
from musicot_mlx.weights.checkpoint import load_arrays, part, prepare, read_config, save_checkpoint
from musicot_mlx.weights.config import config_to_dict
from tests.support.networks import randomize

SIZES = {
    "dim": 16, "layers": 2, "heads": 2, "head_dim": 4, "ffn": 24, "pool_heads": 2, "pool_dim": 6,
    "vocab": 12, "text_length": 9, "patch": 4, "sample_rate": 1000, "clip_seconds": 2.0,
    "mel": {"frame": 50, "hop": 40, "fft": 64, "bins": 8, "frames": 48},
    "mapper": {
        "tokens": 3, "width": 10, "layers": 2, "heads": 2, "head_dim": 8, "ffn": 14, "context": 5,
    },
}  # fmt: skip
WORDS = "[unk] [s] [/s] piano drums bass guitar slow fast jazz rock".split()


def build(*, dtype: mx.Dtype = mx.float32, **changes: object) -> MusicCoCa:
    coca = randomize(MusicCoCa(MusicCoCaConfig.from_dict({**SIZES, **changes})), dtype=dtype)
    mel = mel_filter_bank(
        64, 8, sample_rate=1000, min_frequency=20, max_frequency=500, scale="htk", norm=None
    )
    coca.mel.filters = mx.array(mel.astype(np.float32))
    coca.mel.window = mx.array(hann_window(50).astype(np.float32))
    return coca


def tokenizer(words: list[str] = WORDS) -> Tokenizer:
    vocabulary = {word: index for index, word in enumerate(words)}
    out = Tokenizer(models.WordLevel(vocabulary, unk_token="[unk]"))
    out.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return out


def sound(seconds: float, rate: int = 1000, channels: int = 0) -> np.ndarray:
    shape = (round(seconds * rate), channels) if channels else (round(seconds * rate),)
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32) * 0.1


def lengths_of(vectors: np.ndarray) -> np.ndarray:
    return np.linalg.norm(vectors, axis=-1)


def test_shapes_and_unit_length():
    embedder = MusicCoCaEmbedder(build(), tokenizer())
    texts = ["slow jazz piano", "rock", ""]
    for vectors, rows in (
        (embedder.embed_text(texts), 3),
        (embedder.embed_audio(sound(5.2), 1000), 3),
        (embedder.map_text(texts, [0, 1, 2]), 3),
        (embedder.embed_text([]), 0),
        (embedder.map_text([], []), 0),
    ):
        assert vectors.shape == (rows, 16) and vectors.dtype == np.float32
        assert np.allclose(lengths_of(vectors), 1, atol=1e-5)
    raw = build().embed_audio(mx.array(sound(2)[None]))
    assert abs(lengths_of(np.array(raw))[0] - 1) > 0.1  # the towers themselves set no length


def test_ids_start_with_one_and_end_in_zeros():
    embedder = MusicCoCaEmbedder(build(), tokenizer())
    ids, lengths = embedder.text_ids(["Slow JAZZ piano", "rock", "", "piano " * 200])
    assert ids.tolist() == [
        [1, 7, 9, 3, 0, 0, 0, 0, 0],
        [1, 10, 0, 0, 0, 0, 0, 0, 0],
        [1, 0, 0, 0, 0, 0, 0, 0, 0],
        [1, 3, 3, 3, 3, 3, 3, 3, 3],
    ]
    assert lengths.tolist() == [4, 2, 1, 9]


def test_text_alone_equals_text_in_a_batch():
    embedder = MusicCoCaEmbedder(build(), tokenizer())
    texts = ["slow jazz piano and a fast bass", "rock", "", "piano " * 200] * 9
    together = embedder.embed_text(texts)
    alone = np.concatenate([embedder.embed_text([text]) for text in texts[:4]])
    assert np.abs(together - np.tile(alone, (9, 1))).max() < 1e-5
    assert np.abs(alone[0] - alone[1]).max() > 0.01


def test_an_unknown_word_is_not_padding():
    """Its id may be the one that fills rows up: what counts is the length."""
    embedder = MusicCoCaEmbedder(build(), tokenizer())
    with_it, without = embedder.embed_text(["piano xyz", "piano"])
    assert np.abs(with_it - without).max() > 0.01


def test_each_seed_is_a_thought_and_the_same_each_time():
    embedder = MusicCoCaEmbedder(build(), tokenizer())
    first = embedder.map_text(["slow jazz"] * 3, [0, 1, 0])
    assert np.allclose(first[0], first[2], atol=1e-5) and np.abs(first[0] - first[1]).max() > 0.01
    words = embedder.map_text(["slow jazz", "fast rock"], [5, 5])
    assert np.abs(words[0] - words[1]).max() > 0.01
    coca, raw = embedder.coca, embedder.raw_text(["slow jazz"])
    noise = np.random.RandomState(1).randn(16).astype(np.float32)
    ours = np.array(coca.map_text(mx.array(raw), mx.array(noise[None])))[0]
    assert np.abs(ours - first[1]).max() < 1e-6
    with pytest.raises(ValueError, match="2 texts and 1 seeds"):
        embedder.map_text(["a", "b"], [0])


def test_order_of_pieces_and_place_of_sound_matter():
    embedder = MusicCoCaEmbedder(build(), tokenizer())
    a, b = embedder.embed_text(["slow jazz fast rock", "fast rock slow jazz"])
    assert np.abs(a - b).max() > 0.01
    early, late = np.zeros(2000), np.zeros(2000)
    early[:500] = late[1500:] = sound(0.5)
    a, b = (embedder.embed_audio(x, 1000)[0] for x in (early, late))
    assert np.abs(a - b).max() > 0.01


@pytest.mark.parametrize(
    ("seconds", "count"), [(0.3, 1), (2.0, 1), (2.9, 1), (3.0, 2), (4.99, 2), (5.0, 3)]
)
def test_windows(seconds, count):
    waveform = sound(seconds)
    windows = MusicCoCaEmbedder(build()).windows(waveform, 1000)
    assert windows.shape == (count, 2000) and windows.dtype == np.float32
    flat = windows.reshape(-1)
    used = min(len(waveform), len(flat))
    assert np.array_equal(flat[:used], waveform[:used]) and not flat[used:].any()


def test_stereo_is_averaged_and_other_rates_resampled():
    embedder = MusicCoCaEmbedder(build())
    stereo = sound(2.0, channels=2)
    assert np.allclose(embedder.windows(stereo, 1000)[0], stereo.mean(axis=1))
    assert embedder.windows(sound(4.0, rate=44100), 44100).shape == (2, 2000)
    time = np.arange(2 * 44100) / 44100
    tone = embedder.windows(np.sin(2 * np.pi * 55 * time), 44100)[0]
    expected = np.sin(2 * np.pi * 55 * np.arange(2000) / 1000)
    assert np.abs(tone - expected)[200:-200].max() < 1e-3


def test_batches_change_nothing():
    coca, waveform = build(), sound(9.5)
    whole = MusicCoCaEmbedder(coca, batch_size=8).embed_audio(waveform, 1000)
    pieces = MusicCoCaEmbedder(coca, batch_size=2).embed_audio(waveform, 1000)
    assert whole.shape == (5, 16) and np.abs(whole - pieces).max() < 1e-5


def test_log_mel_is_numpy_s():
    coca, clip = build(), sound(2.0)
    emphasised = clip - 0.97 * np.concatenate([[0], clip[:-1]])
    frames = np.stack([emphasised[40 * i : 40 * i + 50] for i in range(48)]) * hann_window(50)
    power = np.abs(np.fft.rfft(frames, n=64)) ** 2
    expected = np.log(power @ np.array(coca.mel.filters) + 1e-3)
    assert np.abs(np.array(coca.mel(mx.array(clip[None])))[0] - expected).max() < 1e-4


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_half_weights_stay_close_and_vectors_are_float32(dtype):
    full, half = MusicCoCaEmbedder(build(), tokenizer()), build(dtype=dtype)
    half = MusicCoCaEmbedder(half, tokenizer())
    raw = half.coca.embed_audio(mx.array(sound(2)[None]))
    assert raw.dtype == mx.float32
    assert half.coca.text(mx.array([[1, 3]]), mx.array([2])).dtype == dtype
    for one, other in (
        (full.embed_text(["slow rock"]), half.embed_text(["slow rock"])),
        (full.embed_audio(sound(2), 1000), half.embed_audio(sound(2), 1000)),
        (full.map_text(["rock"], [3]), half.map_text(["rock"], [3])),
    ):
        assert (one * other).sum() > 0.99


def test_save_and_load(tmp_path):
    coca = build()
    arrays = {f"musiccoca.{key}": value for key, value in tree_flatten(coca.parameters())}
    config = {"model_type": "musicot", "musiccoca": config_to_dict(coca.config)}
    save_checkpoint(tmp_path / "model", config, arrays, {"tokenizer.json": tokenizer().to_str()})
    read = read_config(tmp_path / "model")
    again = MusicCoCa(MusicCoCaConfig.from_dict(read["musiccoca"]))
    assert again.config == coca.config
    prepare(again, None, part(load_arrays(tmp_path / "model"), "musiccoca"))
    before = MusicCoCaEmbedder(coca, tokenizer())
    after = MusicCoCaEmbedder(again, tmp_path / "model" / "tokenizer.json")
    assert np.array_equal(before.embed_text(["slow rock"]), after.embed_text(["slow rock"]))
    assert np.array_equal(before.map_text(["rock"], [1]), after.map_text(["rock"], [1]))
    assert np.array_equal(before.embed_audio(sound(3), 1000), after.embed_audio(sound(3), 1000))


def test_what_is_refused(tmp_path: Path):
    coca = build()
    embedder = MusicCoCaEmbedder(coca, tokenizer())
    assert np.array_equal(embedder.embed_text("rock"), embedder.embed_text(["rock"]))
    with pytest.raises(MusicotError, match="no tokenizer"):
        MusicCoCaEmbedder(coca).embed_text(["rock"])
    with pytest.raises(MusicotError, match="13 tokens but musiccoca.vocab is 12"):
        MusicCoCaEmbedder(coca, tokenizer([*WORDS, "flute", "oboe"]))
    with pytest.raises(MusicotError, match="cannot read"):
        MusicCoCaEmbedder(coca, tmp_path / "tokenizer.json")
    with pytest.raises(MusicotError, match="NaN"):
        embedder.embed_audio(np.full(2000, np.nan), 1000)
    with pytest.raises(ValueError, match=r"\(1, 1999\), expected \(rows, 2000\): 2 s"):
        coca.embed_audio(mx.zeros((1, 1999)))
    with pytest.raises(ValueError, match="10 ids is longer than the 9"):
        coca.embed_text(mx.zeros((1, 10), dtype=mx.int32), mx.array([10]))
    with pytest.raises(ValueError, match="no mapper"):
        MusicCoCaEmbedder(build(mapper=None), tokenizer()).map_text(["rock"], [0])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"patch": 5}, "48 x 8 has no whole patches of 5"),
        ({"clip_seconds": 1.0}, "do not fit a clip of 1000 samples"),
        ({"width": 3}, "config musiccoca: unknown field 'width'"),
        ({"mel": {"bin": 8}}, "config musiccoca.mel: unknown field 'bin'"),
        ({"mapper": 3}, "config musiccoca.mapper"),
    ],
)
def test_config_says_what_does_not_fit(changes, words):
    with pytest.raises(MusicotError, match=words):
        MusicCoCaConfig.from_dict({**SIZES, **changes})


def test_published_sizes():
    assert MUSICCOCA.clip_samples == 160000 and MUSICCOCA.patches == 496
    assert MusicCoCaConfig.from_dict(config_to_dict(MUSICCOCA)) == MUSICCOCA
