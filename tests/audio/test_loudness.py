"""Loudness as others measure it, and a limiter that holds true peaks and nothing else."""

import math

import numpy as np
import pytest
from scipy.signal import resample_poly

from musicot_mlx.audio import loudness

RATES = (8000, 22050, 44100, 48000)


def _music(rate: int, channels: int = 1, seconds: float = 6.0) -> np.ndarray:
    """Plucked tones and clicks, quiet at first: float32 (frames, channels)."""
    time = np.arange(int(seconds * rate)) / rate
    rng = np.random.default_rng(0)
    tones = np.sin(2 * np.pi * 220 * time) * np.exp(-(time % 0.7) * 5)
    clicks = 0.3 * rng.standard_normal(len(time)) * np.exp(-(time % 0.35) * 30)
    mix = 0.5 * (tones + clicks) * np.clip(time / 4, 0.01, 1)
    return np.stack([mix, 0.5 * mix][:channels], axis=1).astype(np.float32)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("channels", [1, 2])
def test_loudness_is_that_of_pyloudnorm(rate: int, channels: int) -> None:
    pyloudnorm = pytest.importorskip("pyloudnorm")
    waveform = _music(rate, channels)
    exact = pyloudnorm.Meter(rate, filter_class="DeMan")  # the filters of the recommendation
    expected = exact.integrated_loudness(waveform.astype(np.float64))
    assert loudness.integrated_loudness(waveform, rate) == pytest.approx(expected, abs=1e-6)


def test_the_tone_of_the_recommendation() -> None:
    time = np.arange(48000 * 4) / 48000
    tone = np.sin(2 * np.pi * 997 * time)
    assert loudness.integrated_loudness(tone, 48000) == pytest.approx(-3.01, abs=0.01)
    assert loudness.integrated_loudness(tone[:9000], 48000) == pytest.approx(-3.01, abs=0.3)
    both = np.stack([tone, tone], axis=1)
    assert loudness.integrated_loudness(both, 48000) == pytest.approx(0.0, abs=0.01)
    assert loudness.integrated_loudness(np.zeros(48000), 48000) == -math.inf
    assert loudness.integrated_loudness(np.zeros((0, 1)), 48000) == -math.inf
    # a quarter of the rate, sampled beside its peaks
    beside = np.sin(np.pi / 2 * np.arange(8000) + np.pi / 4) * np.hanning(8000)
    assert np.abs(beside).max() < 0.71 and loudness.true_peak(beside) == pytest.approx(0, abs=0.05)
    assert loudness.true_peak(np.zeros(9)) == -math.inf


def test_loudness_is_the_same_in_pieces() -> None:
    waveform = _music(22050, 2)
    meter = loudness.LoudnessMeter(22050, 2)
    for start in range(0, len(waveform), 777):
        meter.add(waveform[start : start + 777])
    assert meter.integrated() == pytest.approx(loudness.integrated_loudness(waveform, 22050))


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("gain", [3.0, 14.0])
def test_no_peak_passes_the_limiter(rate: int, channels: int, gain: float) -> None:
    waveform = _music(rate, channels)
    assert loudness.true_peak(waveform) + gain > loudness.CEILING + 1
    (held,) = [np.concatenate(list(loudness.limited([waveform], rate, gain=gain)))]
    assert held.shape == waveform.shape and held.dtype == np.float32
    assert loudness.true_peak(held) <= loudness.CEILING
    finer = np.abs(resample_poly(held.astype(np.float64), 16, 1, axis=0)).max()
    assert 20 * np.log10(finer) < loudness.CEILING
    # both channels go down together, and nothing is turned round or cut
    amplified = waveform * np.float32(10 ** (gain / 20))
    loud = (np.abs(amplified) > 1e-3).all(axis=1, keepdims=True)
    factor = np.where(loud, held, 1.0) / np.where(loud, amplified, 1.0)
    assert factor.min() > 0 and factor.max() <= 1 + 1e-6
    np.testing.assert_allclose(factor, np.tile(factor[:, :1], channels), atol=1e-4)


def test_the_limiter_is_the_same_for_every_chunking() -> None:
    waveform, rng = _music(22050, 2), np.random.default_rng(1)
    whole = np.concatenate(list(loudness.limited([waveform], 22050, gain=12)))
    cuts = np.sort(rng.integers(0, len(waveform), 40))
    pieces = np.concatenate(list(loudness.limited(np.split(waveform, cuts), 22050, gain=12)))
    np.testing.assert_array_equal(pieces, whole)
    # limited and written once, it passes as it is
    written = (np.rint(whole * 32768) / 32768).astype(np.float32)
    again = np.concatenate(list(loudness.limited([written], 22050)))
    np.testing.assert_array_equal(again, written)
    quiet = 0.1 * waveform
    np.testing.assert_array_equal(np.concatenate(list(loudness.limited([quiet], 22050))), quiet)
    assert list(loudness.limited([], 22050)) == []


@pytest.mark.parametrize("scale", [0.01, 0.3, 3.0])
def test_the_gain_reaches_its_target(scale: float) -> None:
    waveform = scale * _music(22050)
    gain = loudness.gain_towards(waveform, 22050, -16.0)
    held = np.concatenate(list(loudness.limited([waveform], 22050, gain=gain)))
    assert loudness.integrated_loudness(held, 22050) == pytest.approx(-16, abs=0.2)
    assert loudness.gain_towards(np.zeros((22050, 1), np.float32), 22050, -16.0) == 0.0
