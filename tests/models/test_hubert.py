"""MERT's network: shapes, whole songs by their windows, dtype, save and load."""

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from musicot_mlx.audio.files import mono_windows
from musicot_mlx.errors import MusicotError
from musicot_mlx.models.hubert import Hubert, HubertConfig, song_means
from musicot_mlx.weights.checkpoint import load_arrays, load_strict, part, save_checkpoint
from musicot_mlx.weights.config import config_from_dict
from tests.support.networks import randomize

TINY = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "conv_dim": [8, 8, 8],
    "conv_kernel": [10, 3, 2],
    "conv_stride": [5, 2, 2],
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "sampling_rate": 2000,
}


def tiny_hubert(dtype: mx.Dtype = mx.float32) -> Hubert:
    return randomize(Hubert(config_from_dict(HubertConfig, TINY)), dtype=dtype)


def sound(samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=samples).astype(np.float32) * 0.1


@pytest.mark.parametrize("samples", [29 + 6, 400, 401, 1999])
def test_shapes(samples: int) -> None:
    network = tiny_hubert()
    states = network(mx.array(sound(2 * samples).reshape(2, samples)))
    frames = network.config.frames(samples)
    assert [state.shape for state in states] == [(2, frames, 16)] * 3
    assert frames == (samples - network.config.reach) // 20 + 1 > 0


def test_means_are_those_of_the_states() -> None:
    network, waveform = tiny_hubert(), mx.array(sound(900)[None])
    means = mx.stack([mx.mean(state, axis=1) for state in network(waveform)], axis=1)
    assert mx.abs(network.means(waveform) - means).max().item() < 1e-6


def test_loudness_and_offset_are_not_heard() -> None:
    network, waveform = tiny_hubert(), sound(900)
    plain, other = (network.means(mx.array(x[None])) for x in (waveform, 3 * waveform + 0.5))
    assert mx.abs(plain - other).max().item() < 1e-3


def test_a_song_is_its_windows_by_their_length() -> None:
    network, song = tiny_hubert(), sound(5 * 600 + 200)
    windows = list(mono_windows((song, 2000), sample_rate=2000, seconds=0.3))
    assert [len(window) for window in windows] == [600] * 5 + [200]
    counts = [network.config.frames(len(window)) for window in windows]
    each = [network.means(mx.array(window[None]))[0] for window in windows]
    expected = sum(mean * n for mean, n in zip(each, counts, strict=True)) / sum(counts)
    assert mx.abs(song_means(network, windows) - expected).max().item() < 1e-6


def test_the_end_of_a_song_is_heard() -> None:
    network, rate = tiny_hubert(), 400  # few samples, so that three minutes are soon heard
    song = sound(3 * 60 * rate)
    changed = song.copy()
    changed[-30 * rate :] = np.sin(np.arange(30 * rate) * 0.3)
    plain, other = (
        song_means(network, mono_windows((each, rate), sample_rate=rate))
        for each in (song, changed)
    )
    assert mx.abs(plain - other).max().item() > 0.01


def test_a_tail_of_no_frame_is_left_out_and_a_song_of_none_is_told() -> None:
    network = tiny_hubert()
    whole, tail = sound(600), sound(20)
    assert mx.array_equal(song_means(network, [whole, tail]), song_means(network, [whole]))
    with pytest.raises(MusicotError, match="under 15 milliseconds is too short to be heard"):
        song_means(network, [tail])
    with pytest.raises(MusicotError, match="too few to be heard"):
        network(mx.array(tail[None]))


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_16_bit_stays_16_bit(dtype: mx.Dtype) -> None:
    waveform = mx.array(sound(900)[None])
    states, full = tiny_hubert(dtype)(waveform), tiny_hubert()(waveform)
    for state, exact in zip(states, full, strict=True):
        assert state.dtype == dtype
        off = mx.abs(state.astype(mx.float32) - exact).max() / mx.abs(exact).max()
        assert off.item() < (0.02 if dtype == mx.float16 else 0.1)


def test_save_and_load_round_trip(tmp_path: Path) -> None:
    network, waveform = tiny_hubert(), mx.array(sound(500)[None])
    arrays = {f"mert.{name}": value for name, value in tree_flatten(network.parameters())}
    save_checkpoint(tmp_path / "m", {"model_type": "musicgen", "mert": TINY}, arrays)
    loaded = Hubert(config_from_dict(HubertConfig, TINY))
    load_strict(loaded, part(load_arrays(tmp_path / "m"), "mert"), where="mert")
    assert mx.array_equal(loaded.means(waveform), network.means(waveform))


@pytest.mark.parametrize(
    "changes",
    [
        {"num_attention_heads": 3},
        {"conv_dim": [8, 8]},
        {"num_conv_pos_embedding_groups": 3},
        {"hidden_act": "relu"},
    ],
)
def test_sizes_that_make_no_network_are_told(changes: dict) -> None:
    with pytest.raises(MusicotError, match="config HubertConfig"):
        config_from_dict(HubertConfig, {**TINY, **changes})
