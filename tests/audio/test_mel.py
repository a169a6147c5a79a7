"""Spectra: filter banks, window, STFT against numpy, log-mel; parity is in tests/parity."""

import mlx.core as mx
import numpy as np
import pytest

from musicot_mlx.audio.mel import (
    LogMel,
    hann_window,
    hertz_to_mel,
    mel_filter_bank,
    mel_to_hertz,
    stft,
)

SMALL = LogMel(8000, 256, 80, 16, 50.0, 4000.0)


def noise(samples: int, batch: int = 1) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((batch, samples)).astype(np.float32)


@pytest.mark.parametrize("scale", ["slaney", "htk"])
def test_mel_scale_there_and_back(scale):
    hertz = np.array([0.0, 50.0, 999.0, 1000.0, 1001.0, 14000.0])
    assert np.allclose(mel_to_hertz(hertz_to_mel(hertz, scale), scale), hertz)
    assert hertz_to_mel(1000.0, scale) == pytest.approx({"slaney": 15.0, "htk": 999.9855}[scale])


def test_filters_are_triangles_in_the_band():
    filters = mel_filter_bank(
        256, 16, sample_rate=8000, min_frequency=50, max_frequency=4000, norm=None
    )
    assert filters.shape == (129, 16) and filters.dtype == np.float64
    assert filters.min() == 0 and 0 < filters.max() <= 1
    assert filters[0].max() == 0  # 0 Hz lies below the band
    assert (filters.argmax(axis=0)[1:] >= filters.argmax(axis=0)[:-1]).all()


def test_filter_norm_gives_equal_areas():
    filters = mel_filter_bank(4096, 16, sample_rate=8000, min_frequency=50, max_frequency=4000)
    area = filters.sum(axis=0) * 8000 / 4096
    assert np.allclose(area, 1.0, atol=0.02)


@pytest.mark.parametrize("band", [(-1, 4000), (50, 4001), (4000, 50)])
def test_band_outside_the_spectrum_is_refused(band):
    with pytest.raises(ValueError, match="half the sample rate"):
        mel_filter_bank(256, 16, sample_rate=8000, min_frequency=band[0], max_frequency=band[1])


def test_window_is_periodic():
    window = hann_window(8)
    assert window[0] == 0 and window[4] == 1
    assert np.allclose(window[1:], window[1:][::-1])


@pytest.mark.parametrize("centered", [True, False])
def test_stft_equals_numpy(centered):
    waveform = noise(1000, batch=2)
    ours = np.array(stft(mx.array(waveform), n_fft=256, hop_length=80, centered=centered))
    padded = np.pad(waveform, ((0, 0), (128, 128)), mode="reflect") if centered else waveform
    starts = range(0, padded.shape[1] - 256 + 1, 80)
    frames = np.stack([padded[:, start : start + 256] for start in starts], axis=1)
    theirs = np.fft.rfft(frames.astype(np.float64) * hann_window(256))
    assert ours.shape == theirs.shape == (2, 13 if centered else 10, 129)
    assert np.abs(ours - theirs).max() < 1e-4


def test_stft_of_a_slice_reads_the_slice():
    waveform = mx.array(noise(2000, batch=3))
    part = waveform[1:2, 500:1500]
    whole = np.array(stft(mx.array(np.array(part)), n_fft=256, hop_length=80, centered=False))
    assert np.array_equal(np.array(stft(part, n_fft=256, hop_length=80, centered=False)), whole)


def test_stft_too_short_says_how_long():
    with pytest.raises(ValueError, match="at least 129 samples"):
        stft(mx.zeros((1, 100)), n_fft=256, hop_length=80)


def test_log_mel_shape_floor_and_peak():
    silence = np.array(SMALL(mx.zeros((2, 16000))))
    assert silence.shape == (2, 201, 16) and silence.dtype == np.float32
    assert np.allclose(silence, -100.0)
    tone = np.sin(2 * np.pi * 1000 * np.arange(16000) / 8000)[None].astype(np.float32)
    peak = np.array(SMALL(mx.array(tone))).mean(axis=(0, 1)).argmax()
    centres = mel_to_hertz(np.linspace(hertz_to_mel(50), hertz_to_mel(4000), 18))[1:-1]
    assert peak == np.abs(centres - 1000).argmin()


def test_natural_log_is_the_same_spectrum():
    natural = LogMel(8000, 256, 80, 16, 50.0, 4000.0, decibels=False)
    waveform = mx.array(noise(4000))
    scaled = np.array(natural(waveform)) * 10 / np.log(10)
    assert np.allclose(scaled, np.array(SMALL(waveform)), atol=1e-4)


def test_log_mel_is_float32_for_half_input():
    assert SMALL(mx.array(noise(4000)).astype(mx.float16)).dtype == mx.float32
