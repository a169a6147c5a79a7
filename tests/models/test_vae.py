"""The VAE: shapes, perfect reconstruction of its STFT, decoding in pieces, save and load, dtype."""

import dataclasses
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from musicot_mlx.audio.mdct import mdct_basis
from musicot_mlx.errors import MusicotError
from musicot_mlx.models.vae import PAPER_STEREO, VAE, VAEConfig
from musicot_mlx.weights.checkpoint import load_arrays, load_strict, save_checkpoint
from tests.support.memory import peak_of

TINY = {
    "sample_rate": 8000,
    "audio_channels": 2,
    "n_fft": 64,
    "hop_length": 16,
    "latent_dim": 4,
    "encoder_dim": 12,
    "encoder_layers": [2, 1],
    "decoder_dim": 16,
    "decoder_layers": [1, 2],
    "expansion": 2,
    "kernel_size": 5,
    "compression": 0.3,
}


def tiny_vae(seed: int = 0, dtype: mx.Dtype = mx.float32, **changes) -> VAE:
    """A twin with weights large enough that every layer shows in the waveform."""
    vae = VAE(VAEConfig.from_dict({**TINY, **changes}))
    leaves = tree_flatten(vae.parameters())
    keys = mx.random.split(mx.random.key(seed), len(leaves))

    def fill(name: str, shape: tuple[int, ...], key: mx.array) -> mx.array:
        if name.endswith(("norm.weight", "scale")) and "bin_scale" not in name:
            return 1 + 0.2 * mx.random.normal(shape, key=key)
        fan_in = shape[1] if len(shape) > 1 else 10
        return mx.random.normal(shape, key=key) * fan_in**-0.5

    vae.load_weights(
        [
            (name, fill(name, leaf.shape, key).astype(dtype))
            for key, (name, leaf) in zip(keys, leaves, strict=True)
        ]
    )
    return vae


def waveform(samples: int, channels: int = 2, batch: int = 1) -> mx.array:
    return 0.3 * mx.random.normal((batch, samples, channels), key=mx.random.key(1))


@pytest.mark.parametrize("channels", [1, 2])
def test_shapes(channels):
    vae = tiny_vae(audio_channels=channels)
    latents = vae.encode(waveform(1000, channels, batch=2))
    assert latents.mean.shape == latents.log_variance.shape == (2, 32, 4)  # 31.25 latents begun
    assert latents.sample(mx.random.key(0)).shape == (2, 32, 4)
    audio = vae.decode(latents.mean)
    assert audio.shape == (2, 1024, channels)
    assert audio.dtype == mx.float32
    assert mx.std(audio).item() > 1e-3
    with pytest.raises(ValueError, match="expected \\(batch, samples"):
        vae.encode(waveform(1000, 3 - channels))


@pytest.mark.parametrize("hop_length", [16, 24])  # the second does not divide n_fft
def test_stft_and_its_inverse_give_the_waveform_back(hop_length):
    vae = tiny_vae(compression=1.0, hop_length=hop_length)
    audio = waveform(10 * 2 * hop_length)
    assert mx.abs(vae.waveform(vae.spectrum(audio)) - audio).max().item() < 1e-5


@pytest.mark.parametrize("samples", [320, 330])
def test_a_core_of_all_coefficients_is_the_waveform(samples):
    vae = tiny_vae(latent_dim=2 * 32 + 1, core_band=[0, 32])
    audio = waveform(samples)
    decoded = vae.decode(vae.encode(audio).mean)
    assert mx.abs(decoded[:, :samples] - audio).max().item() < 1e-4


def test_a_core_leaves_the_rest_to_the_network():
    """The decoder's output takes over the coefficients of one band, exactly, and no others."""
    vae = tiny_vae(audio_channels=1, latent_dim=4 + 8, core_band=[8, 16])
    audio = waveform(64 * 32, 1)
    latents = vae.encode(audio).mean
    assert latents.shape == (1, 64, 12)

    def coefficients(signal: mx.array) -> np.ndarray:
        """(time, 32) of the blocks that lie within the signal."""
        blocks = np.array(signal)[0, 16:-16, 0].reshape(-1, 32)
        return np.concatenate([blocks[:-1], blocks[1:]], axis=1) @ mdct_basis(32, 0, 32)

    network = coefficients(vae.waveform(vae.decoder(latents)))
    found, expected = coefficients(vae.decode(latents)), coefficients(audio)
    tolerance = 1e-4 * np.abs(network).max()
    assert np.abs(network - expected).max() > 100 * tolerance
    np.testing.assert_allclose(found[:, 8:16], expected[:, 8:16], atol=tolerance)
    np.testing.assert_allclose(found[:, :8], network[:, :8], atol=tolerance)
    np.testing.assert_allclose(found[:, 16:], network[:, 16:], atol=tolerance)


@pytest.mark.parametrize("band", [[0, 33], [-1, 3], [5, 4], [0, 4]])
def test_core_bands_that_can_not_be(band):
    with pytest.raises(ValueError, match="core_band"):
        VAEConfig.from_dict({**TINY, "audio_channels": 1, "core_band": band})


@pytest.mark.parametrize("layers", [(1, 2), (2, 1), (3, 4)])
@pytest.mark.parametrize("sizes", [(60,), (1, 1, 58), (20, 20, 20), (3, 50, 7), (7,)])
@pytest.mark.parametrize("core", [0, 1])
def test_decoding_in_pieces_equals_decoding_at_once(layers, sizes, core):
    vae = tiny_vae(decoder_layers=list(layers), core_band=[0, core])
    latents = mx.random.normal((1, sum(sizes), 4), key=mx.random.key(2))
    chunks = mx.split(latents, np.cumsum(sizes)[:-1].tolist(), axis=1)
    whole = vae.decode(latents)[0]
    for longest in (512, 8):
        pieces = list(vae.decode_stream(iter(chunks), longest=longest))
        joined = mx.concatenate(pieces)
        assert joined.shape == whole.shape
        assert mx.abs(joined - whole).max().item() < 1e-5 * mx.abs(whole).max().item()
        assert all(len(piece) <= longest * 32 for piece in pieces)


def test_a_chunk_is_heard_before_the_next_one_is_read():
    vae, read = tiny_vae(), []

    def chunks():
        for i in range(4):
            read.append(i)
            yield mx.random.normal((1, 20, 4), key=mx.random.key(i))

    stream = vae.decode_stream(chunks())
    first = next(stream)
    assert read == [0] and len(first) == (20 - vae.config.decoder_reach) * 32
    assert sum(map(len, stream)) + len(first) == 80 * 32


def test_decode_windows_bounds_memory():
    vae = tiny_vae(noise_above=900)
    latents = mx.random.normal((1, 2000, 4), key=mx.random.key(2))
    mx.eval(vae.parameters(), latents)
    whole = peak_of(lambda: mx.eval(vae.decode(latents)))
    assert peak_of(lambda: mx.eval(vae.decode_windows(latents, longest=64))) < whole / 2
    whole, pieces = vae.decode(latents), vae.decode_windows(latents, longest=64)
    assert mx.abs(whole - pieces).max().item() < 1e-5 * mx.abs(whole).max().item()


def test_what_stands_still_becomes_noise_and_what_turns_stays():
    vae = tiny_vae(audio_channels=1, noise_above=1000)
    noisy, bins, frames = vae.config, 33, 600
    vae.bin_scale = mx.zeros((2 * bins,))

    def power(turning: float, config: VAEConfig) -> np.ndarray:
        """Of the audio, by frequency, where each bin's phase turns by so much a frame."""
        vae.config = config
        begin = np.random.default_rng(0).uniform(0, 2 * np.pi, bins)
        phase = begin + turning * np.arange(frames)[:, None]
        parts = np.concatenate([np.cos(phase), np.sin(phase)], axis=1).astype(np.float32)
        audio = np.array(vae.waveform(mx.array(parts)[None]))[0, :, 0]
        return np.abs(np.fft.rfft(audio)) ** 2

    plain = dataclasses.replace(noisy, noise_above=0.0)
    assert noisy.first_noise_bin == 8
    for turning in (0.0, 2 * np.pi / 3):
        before, after = power(turning, plain), power(turning, noisy)
        per_bin = len(before) // bins
        high = np.arange(len(before)) > 10 * per_bin
        tones = before > 0.01 * before[high].max()
        assert 3 < tones[high].sum() < 300, "tones are few frequencies"
        left = after[tones & high].sum() / before[tones & high].sum()
        assert left < 0.1 if turning == 0 else abs(left - 1) < 0.02
        between = high & ~tones
        assert turning or after[between].sum() > before[between].sum(), "noise, not silence"
        low = slice(0, 6 * per_bin)
        assert np.abs(after[low] - before[low]).max() < 1e-2 * before.max()


@pytest.mark.parametrize(
    "changes",
    [{}, {"noise_above": 900}, {"core_band": [0, 1]}, {"core_band": [0, 1], "noise_above": 900}],
    ids=["plain", "noise", "core", "both"],
)
def test_reach_is_no_longer_than_stated(changes):
    """A latent changes nothing farther away than decoder_reach, and something close to that."""
    vae = tiny_vae(**changes)
    reach, per_latent = vae.config.decoder_reach, vae.config.samples_per_latent
    latents = mx.random.normal((1, 60, 4), key=mx.random.key(2))
    changed = mx.concatenate([latents[:, :30], latents[:, 30:31] + 1, latents[:, 31:]], axis=1)
    moved = np.abs(np.array(vae.decode(changed) - vae.decode(latents)))[0].max(-1) > 0
    latents_moved = moved.reshape(60, per_latent).any(-1).nonzero()[0]
    assert 30 - reach <= latents_moved.min() and latents_moved.max() <= 30 + reach
    assert latents_moved.max() - latents_moved.min() >= reach


def test_save_and_load_round_trip(tmp_path: Path):
    vae = tiny_vae()
    arrays = {f"vae.{k}": v for k, v in tree_flatten(vae.parameters())}
    save_checkpoint(tmp_path / "m", {"model_type": "musicot", "vae": TINY}, arrays)
    loaded = VAE(VAEConfig.from_dict(TINY))
    read = {k.removeprefix("vae."): v for k, v in load_arrays(tmp_path / "m").items()}
    load_strict(loaded, read, where="vae")
    latents = vae.encode(waveform(500)).mean
    assert mx.array_equal(loaded.encode(waveform(500)).mean, latents)
    assert mx.array_equal(loaded.decode(latents), vae.decode(latents))


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_16_bit_stays_16_bit_until_the_spectrum(dtype):
    vae, full = tiny_vae(dtype=dtype), tiny_vae()
    latents = vae.encode(waveform(500)).mean
    x = vae.decoder.embed(latents)
    seen = [latents, x]
    for block in (*vae.decoder.coarse, *vae.decoder.fine):
        x = block(x)
        seen.append(x)
    assert {value.dtype for value in seen} == {dtype}
    audio, expected = vae.decode(latents), full.decode(latents.astype(mx.float32))
    assert audio.dtype == mx.float32
    assert mx.abs(audio - expected).max().item() < 0.1 * mx.abs(expected).max().item()


def test_paper_size_is_built_lazily():
    before = mx.get_active_memory()
    vae = VAE(PAPER_STEREO)
    count = sum(value.size for _, value in tree_flatten(vae.parameters()))
    assert count > 150e6 and vae.config.latent_rate == 44100 / 1024
    assert mx.get_active_memory() - before < 1 << 20


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kernel_size": 4}, "odd"),
        ({"hop_length": 40}, "at most half"),
        ({"n_fft": 63}, "even"),
        ({"audio_channels": 6}, "1 or 2"),
        ({"decoder_layers": [1]}, "expected 2 values"),
        ({"latents": 4}, "unknown field 'latents'"),
    ],
)
def test_config_says_what_is_wrong(changes, words):
    with pytest.raises(MusicotError, match=words):
        VAEConfig.from_dict({**TINY, **changes})
