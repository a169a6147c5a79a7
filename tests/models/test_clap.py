"""CLAP: shapes, windows, padding, dtype, save and load, tokenizer; parity is in tests/parity."""

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_map
from tokenizers import Tokenizer, models, pre_tokenizers

import musicot_mlx as mc
from musicot_mlx.errors import MusicotError
from musicot_mlx.models.clap import CLAP_HTSAT_BASE, CLAP_HTSAT_TINY, Clap, ClapConfig
from musicot_mlx.models.htsat import bicubic_matrix, shifted_window_mask
from musicot_mlx.pipelines.clap import ClapEmbedder, repeat_pad
from musicot_mlx.weights.checkpoint import (
    load_arrays,
    part,
    prepare,
    quantize_arrays,
    read_config,
    save_checkpoint,
)
from musicot_mlx.weights.config import config_to_dict

WORDS = "<s> <pad> </s> <unk> piano drums bass guitar slow fast jazz rock".split()
TINY = {
    "text_config": {
        "vocab_size": len(WORDS),
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "max_position_embeddings": 12,
        "layer_norm_eps": 1e-5,
    },
    "audio_config": {
        "spec_size": 64,
        "num_mel_bins": 16,
        "patch_size": 4,
        "patch_stride": [4, 4],
        "patch_embeds_hidden_size": 16,
        "depths": [2, 2],
        "num_attention_heads": [2, 4],
        "window_size": 4,
        "hidden_size": 32,
    },
    "projection_dim": 8,
    "feature_config": {
        "sampling_rate": 8000,
        "fft_window_size": 256,
        "hop_length": 80,
        "max_length_s": 2,
        "frequency_max": 4000,
    },
}


def build(dtype: mx.Dtype = mx.float32) -> Clap:
    """A seeded twin; biases, norms and statistics are random too."""
    clap = Clap(ClapConfig.from_dict(TINY))
    key = [mx.random.key(0)]

    def draw(value: mx.array) -> mx.array:
        key[0], now = mx.random.split(key[0])
        if value.ndim < 2:
            return mx.random.uniform(0.5, 1.5, value.shape, key=now).astype(dtype)
        scale = value[0].size ** -0.5
        return (mx.random.normal(value.shape, key=now) * scale).astype(dtype)

    clap.update(tree_map(draw, clap.parameters()))
    return clap


def tokenizer(words: list[str] = WORDS) -> Tokenizer:
    vocabulary = {word: index for index, word in enumerate(words)}
    out = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    out.pre_tokenizer = pre_tokenizers.Whitespace()
    return out


def sound(seconds: float, rate: int = 8000, channels: int = 0) -> np.ndarray:
    shape = (round(seconds * rate), channels) if channels else (round(seconds * rate),)
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32) * 0.1


def test_shapes_and_unit_length():
    clap = build()
    text = np.array(clap.embed_text_ids(mx.array([[0, 5, 6, 2], [0, 4, 2, 1]])))
    audio = np.array(clap.embed_mel(mx.random.normal((3, 201, 16)) * 20 - 40))
    assert text.shape == (2, 8) and audio.shape == (3, 8)
    assert np.allclose(np.linalg.norm(text, axis=1), 1, atol=1e-5)
    assert np.allclose(np.linalg.norm(audio, axis=1), 1, atol=1e-5)


def test_full_and_short_spectrograms_and_too_long_ones():
    clap = build()
    assert clap.embed_mel(mx.zeros((1, 256, 16))).shape == (1, 8)
    assert clap.embed_mel(mx.zeros((1, 64, 16))).shape == (1, 8)
    with pytest.raises(ValueError, match="up to 256 x 16"):
        clap.embed_mel(mx.zeros((1, 257, 16)))
    with pytest.raises(ValueError, match="12 mel bins"):
        clap.embed_mel(mx.zeros((1, 201, 12)))


def test_image_stacks_pieces_of_time_in_frequency():
    encoder = build().audio_model.audio_encoder
    encoder.batch_norm = lambda x: x
    mel = np.arange(256)[:, None] * 100 + np.arange(16)[None]
    image = np.array(encoder.image(mx.array(mel[None].astype(np.float32))))[0, :, :, 0]
    for piece in range(4):
        expected = mel[64 * piece : 64 * (piece + 1)].T
        assert np.array_equal(image[16 * piece : 16 * (piece + 1)], expected)


def test_shifted_windows_see_their_neighbours_only():
    mask = shifted_window_mask((8, 8), 4, 2)
    assert mask.shape == (4, 16, 16)
    assert (mask[0] == 0).all()  # the first window holds no border
    last = (mask[3] == 0).reshape(4, 4, 4, 4)
    assert last[0, 0, :2, :2].all() and not last[0, 0, 2:].any() and not last[0, 0, :, 2:].any()


def test_bicubic_matrix_keeps_ends_lines_and_constants():
    matrix = bicubic_matrix(201, 256)
    assert np.allclose(matrix.sum(axis=1), 1)
    assert np.allclose(matrix[0], np.eye(201)[0]) and np.allclose(matrix[-1], np.eye(201)[-1])
    assert np.allclose(bicubic_matrix(7, 7), np.eye(7))


def test_windows_are_cut_in_order():
    embedder = ClapEmbedder(build())
    waveform = sound(5.2)
    windows = embedder.windows(waveform, 8000)
    assert windows.shape == (3, 16000) and windows.dtype == np.float32
    assert np.array_equal(windows[:2].reshape(-1), waveform[:32000])
    assert np.array_equal(windows[2, :9600], waveform[32000:])


@pytest.mark.parametrize(
    ("seconds", "count"),
    [(0.3, 1), (1.0, 1), (2.0, 1), (2.9, 1), (3.0, 2), (4.0, 2), (4.99, 2), (5.0, 3)],
)
def test_last_window_needs_a_second(seconds, count):
    assert len(ClapEmbedder(build()).windows(sound(seconds), 8000)) == count


def test_stereo_is_averaged_and_other_rates_resampled():
    embedder = ClapEmbedder(build())
    stereo = sound(2.0, channels=2)
    assert np.allclose(embedder.windows(stereo, 8000)[0], stereo.mean(axis=1))
    assert embedder.windows(sound(4.0, rate=44100), 44100).shape == (2, 16000)
    time = np.arange(2 * 44100) / 44100
    tone = embedder.windows(np.sin(2 * np.pi * 440 * time), 44100)[0]
    expected = np.sin(2 * np.pi * 440 * np.arange(16000) / 8000)
    assert np.abs(tone - expected)[500:-500].max() < 1e-3


def test_short_audio_is_repeated_whole_then_padded():
    assert repeat_pad(np.array([1, 2, 3.0]), 8).tolist() == [1, 2, 3, 1, 2, 3, 0, 0]
    assert repeat_pad(np.array([1, 2, 3.0]), 3).tolist() == [1, 2, 3]
    waveform = sound(0.7)
    window = ClapEmbedder(build()).windows(waveform, 8000)[0]
    assert np.array_equal(window[:11200], np.tile(waveform, 2)) and not window[11200:].any()


def test_batches_change_nothing_and_stay_small():
    clap, seen = build(), []
    waveform = sound(9.5)
    whole = ClapEmbedder(clap, batch_size=8).embed_audio(waveform, 8000)
    inner = clap.embed_mel
    clap.embed_mel = lambda mel: (seen.append(len(mel)), inner(mel))[1]
    pieces = ClapEmbedder(clap, batch_size=2).embed_audio(waveform, 8000)
    assert whole.shape == (5, 8) and whole.dtype == np.float32
    assert seen == [2, 2, 1]
    assert np.abs(whole - pieces).max() < 1e-6


@pytest.mark.parametrize(
    ("waveform", "words"),
    [
        (np.zeros(0), "at least one sample"),
        (np.full(8000, np.nan), "NaN"),
        (np.zeros((2, 8000)), "waveform.T"),
        (np.zeros((1, 2, 8000)), "expected"),
    ],
)
def test_bad_audio_is_refused(waveform, words):
    with pytest.raises(MusicotError, match=words):
        ClapEmbedder(build()).embed_audio(waveform, 8000)


def test_text_gets_its_marks_and_padding():
    embedder = ClapEmbedder(build(), tokenizer())
    ids, mask = embedder.text_ids(["slow jazz piano", "rock"])
    assert ids.tolist() == [[0, 8, 10, 4, 2], [0, 11, 2, 1, 1]]
    assert mask.tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]


def test_text_alone_equals_text_in_a_batch():
    embedder = ClapEmbedder(build(), tokenizer())
    texts = ["slow jazz piano and a fast bass", "rock", ""]
    together = embedder.embed_text(texts)
    alone = np.concatenate([embedder.embed_text([text]) for text in texts])
    assert together.shape == (3, 8) and together.dtype == np.float32
    assert np.abs(together - alone).max() < 1e-6
    assert embedder.embed_text([]).shape == (0, 8)


def test_long_text_is_cut_to_the_positions():
    ids, mask = ClapEmbedder(build(), tokenizer()).text_ids(["piano " * 50])
    assert ids.shape == (1, 10) and mask.all() and ids[0, -1] == 2


def test_one_string_is_one_text_and_no_list_of_letters():
    embedder = ClapEmbedder(build(), tokenizer())
    np.testing.assert_array_equal(embedder.embed_text("rock"), embedder.embed_text(["rock"]))


def test_tokenizer_must_fit_the_config(tmp_path):
    with pytest.raises(MusicotError, match="13 tokens but .*vocab_size is 12"):
        ClapEmbedder(build(), tokenizer([*WORDS, "flute"]))
    with pytest.raises(MusicotError, match="<s> the id 2"):
        ClapEmbedder(build(), tokenizer(["</s>", "<pad>", "<s>", *WORDS[3:]]))
    with pytest.raises(MusicotError, match="no tokenizer"):
        ClapEmbedder(build()).embed_text(["rock"])
    with pytest.raises(MusicotError, match="cannot read"):
        ClapEmbedder(build(), tmp_path / "tokenizer.json")


def test_settings_saved_in_a_tokenizer_do_not_pad_or_cut(tmp_path):
    odd = tokenizer()
    odd.enable_padding(length=9, pad_id=1, pad_token="<pad>")
    odd.enable_truncation(1)
    odd.save(str(tmp_path / "tokenizer.json"))
    embedder = ClapEmbedder(build(), tmp_path / "tokenizer.json")
    assert embedder.text_ids(["rock piano"])[0].tolist() == [[0, 11, 4, 2]]


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_hidden_states_keep_the_dtype_of_the_weights(dtype):
    clap, full = build(dtype), build()
    mel = mx.random.normal((2, 201, 16), key=mx.random.key(1)) * 20 - 40
    ids = mx.array([[0, 5, 6, 2], [0, 4, 2, 1]])
    mask = mx.array([[1, 1, 1, 1], [1, 1, 1, 0]])
    assert clap.audio_model(mel).dtype == dtype
    assert clap.text_model(ids, mask).dtype == dtype
    assert clap.embed_mel(mel).dtype == clap.embed_text_ids(ids, mask).dtype == mx.float32
    for half, whole in (
        (clap.embed_mel(mel), full.embed_mel(mel)),
        (clap.embed_text_ids(ids, mask), full.embed_text_ids(ids, mask)),
    ):
        assert mx.sum(half * whole, axis=-1).min().item() > 0.995


def test_save_and_load_give_the_same_embeddings(tmp_path):
    clap = build()
    arrays = {f"clap.{key}": value for key, value in tree_flatten(clap.parameters())}
    config = {"model_type": "musicot", "clap": config_to_dict(clap.config)}
    tokenizer().save(str(tmp_path / "words.json"))
    save_checkpoint(tmp_path / "model", config, arrays, {"tokenizer.json": tmp_path / "words.json"})
    read = read_config(tmp_path / "model")
    again = Clap(ClapConfig.from_dict(read["clap"]))
    assert again.config == clap.config
    prepare(again, read.get("quantization"), part(load_arrays(tmp_path / "model"), "clap"))
    before = ClapEmbedder(clap, tokenizer())
    after = ClapEmbedder(again, tmp_path / "model" / "tokenizer.json")
    assert np.array_equal(before.embed_text(["slow rock"]), after.embed_text(["slow rock"]))
    assert np.array_equal(before.embed_audio(sound(3), 8000), after.embed_audio(sound(3), 8000))


def clap_folder(folder: Path, clap: Clap | None = None) -> Path:
    """An MLX folder of the twin, with model_type clap."""
    clap = clap or build()
    arrays = {f"clap.{key}": value for key, value in tree_flatten(clap.parameters())}
    config = {"model_type": "clap", "clap": config_to_dict(clap.config)}
    words = tokenizer().to_str()
    return save_checkpoint(folder, config, arrays, {"tokenizer.json": words})


def test_the_door_opens_a_clap_folder(tmp_path):
    clap = build()
    found = mc.load(clap_folder(tmp_path / "clap", clap))
    expected = ClapEmbedder(clap, tokenizer())
    texts = ["slow rock", "piano"]
    assert np.array_equal(found.embed_text(texts), expected.embed_text(texts))
    audio = found.embed_audio(sound(5), 8000)
    assert audio.shape == (3, 8) and audio.dtype == np.float32
    assert np.array_equal(audio, expected.embed_audio(sound(5), 8000))
    with pytest.raises(TypeError, match="adapter"):
        mc.load(tmp_path / "clap", adapter="x")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"architectures": ["ClapModel"]}, "can't convert model_type 'clap'"),
        ({"transformers_version": "5.0.0"}, "can't convert model_type 'clap'"),
        ({"model_type": "flute"}, "model_type is 'flute', expected 'musicot'"),
        ({"clap": None}, "lacks the section 'clap'"),
    ],
)
def test_folders_that_are_no_clap(tmp_path, change, words):
    folder = clap_folder(tmp_path / "clap")
    config = json.loads((folder / "config.json").read_text()) | change
    config = {key: value for key, value in config.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(MusicotError, match=words):
        mc.load(folder)
    if "model_type" not in change and "clap" not in change:
        with pytest.raises(MusicotError, match="is a PyTorch checkpoint; run musicot convert"):
            read_config(folder, model_types=("clap",))


def test_clap_folder_without_tokenizer(tmp_path):
    folder = clap_folder(tmp_path / "clap")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(MusicotError, match="lacks tokenizer.json"):
        mc.load(folder)


def test_quantised_weights_stay_close():
    clap = build()
    arrays = quantize_arrays(clap, dict(tree_flatten(clap.parameters())), group_size=32, bits=8)
    assert "audio_projection.linear1.scales" in arrays
    again = Clap(clap.config)
    prepare(again, {"group_size": 32, "bits": 8}, arrays)
    before, after = (ClapEmbedder(m).embed_audio(sound(2), 8000) for m in (clap, again))
    assert (before * after).sum() > 0.999


@pytest.mark.parametrize(
    ("part_of", "field", "value", "words"),
    [
        ("audio_config", "heads", 3, "unknown field 'heads'"),
        ("audio_config", "num_attention_heads", [3, 4], "16 channels, 3 heads"),
        ("audio_config", "hidden_size", 64, "hidden_size is 64"),
        ("audio_config", "window_size", 5, "multiple of window_size"),
        ("audio_config", "num_mel_bins", 15, "not a multiple of num_mel_bins"),
        ("audio_config", "depths", [2], "same stages"),
        ("audio_config", "patch_size", 6, "does not tile"),
        ("text_config", "hidden_act", "swish", "use one of gelu, relu"),
        ("text_config", "num_attention_heads", 3, "3 heads"),
        ("feature_config", "max_length_s", 20, "holds 256"),
    ],
)
def test_config_says_what_does_not_fit(part_of, field, value, words):
    values = {**TINY, part_of: {**TINY[part_of], field: value}}
    if field == "patch_size":
        values[part_of]["patch_stride"] = [5, 5]
    with pytest.raises(MusicotError, match=words):
        ClapConfig.from_dict(values)


@pytest.mark.parametrize(
    ("config", "millions"), [(CLAP_HTSAT_TINY, 153.494), (CLAP_HTSAT_BASE, 193.914)]
)
def test_released_sizes(config, millions):
    parameters = tree_flatten(Clap(config).parameters())  # lazy: nothing is computed
    assert sum(value.size for _, value in parameters) / 1e6 == pytest.approx(millions, abs=1e-3)
    assert config.feature_config.frames == 1001 and config.audio_config.max_frames == 1024
