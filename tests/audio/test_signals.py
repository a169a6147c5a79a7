"""Figures of waveforms whose answer is known: clicks, tones, noise, and mixtures of them."""

import time
from dataclasses import astuple

import numpy as np
import pytest

from musicot_mlx.audio.signals import (
    Signals,
    measure,
    onset_rate,
    percussive_share,
    spectral_centroid,
    tempo,
)

RATE = 44100


def _clicks(times: np.ndarray, seconds: float = 8.0, loud: float = 0.3) -> np.ndarray:
    """Short bursts of noise, as drums are, at the given seconds."""
    rng = np.random.default_rng(0)
    waveform = np.zeros(int(seconds * RATE), np.float32)
    for start in times:
        first = int(start * RATE)
        burst = rng.normal(size=800) * np.exp(-np.arange(800) / 150)
        waveform[first : first + 800] += loud * burst[: len(waveform) - first]
    return waveform


def _beat(bpm: float, seconds: float = 8.0) -> np.ndarray:
    return _clicks(np.arange(0.2, seconds - 0.1, 60.0 / bpm), seconds)


def _tone(frequency: float, seconds: float = 8.0, loud: float = 0.3) -> np.ndarray:
    phase = 2 * np.pi * frequency * np.arange(int(seconds * RATE)) / RATE
    return (loud * np.sin(phase)).astype(np.float32)


def _noise(seconds: float = 8.0, loud: float = 0.1) -> np.ndarray:
    return np.random.default_rng(1).normal(0, loud, int(seconds * RATE)).astype(np.float32)


@pytest.mark.parametrize("rate", [0.5, 2.0, 4.0, 10.0])
def test_onset_rate_counts_clicks(rate: float) -> None:
    times = np.arange(0.2, 7.9, 1 / rate)
    assert onset_rate(_clicks(times), RATE) == pytest.approx(len(times) / 8, rel=0.04)


def test_onsets_of_clicks_over_a_tone_and_over_noise() -> None:
    beat = _beat(120)
    alone = onset_rate(beat, RATE)
    assert onset_rate(beat + _tone(330), RATE) == pytest.approx(alone, abs=0.15)
    assert onset_rate(beat + _noise(loud=0.003), RATE) == pytest.approx(alone, abs=0.15)


def test_onsets_of_notes() -> None:
    notes = [
        _tone(220 * 2 ** (step / 12), 0.5) * np.linspace(1, 0, RATE // 2) for step in range(20)
    ]
    assert onset_rate(np.concatenate(notes), RATE) == pytest.approx(2.0, abs=0.11)


def test_steady_sounds_have_no_onsets() -> None:
    vibrato = 8 * np.sin(2 * np.pi * 5.5 * np.arange(8 * RATE) / RATE)
    singing = 0.3 * np.sin(2 * np.pi * 440 * np.arange(8 * RATE) / RATE + vibrato)
    for waveform in (_tone(440), _noise(), singing):
        assert onset_rate(waveform, RATE) <= 1.5 / 8  # where it begins


@pytest.mark.parametrize("bpm", [70, 73, 90, 120, 128, 140, 147, 154, 160, 173, 180])
def test_tempo_of_clicks(bpm: float) -> None:
    """A metronome's tempo is that of its clicks, not of every second one."""
    assert tempo(_beat(bpm, 16), RATE) == pytest.approx(bpm, rel=0.01)
    accents = _clicks(np.arange(0.2, 15.9, 240 / bpm), 16)
    assert tempo(_beat(bpm, 16) + accents, RATE) == pytest.approx(bpm, rel=0.01)


def test_tempo_by_how_much_happens_in_a_beat() -> None:
    """A quick backbeat repeats every two beats, so at half its tempo; its hats tell better."""
    beat = 60 / 170
    waveform = _clicks(np.arange(0.1, 19, 2 * beat), 20) + _clicks(
        np.arange(0.1, 19, beat / 2), 20, 0.06
    )
    assert tempo(waveform, RATE) == pytest.approx(170, rel=0.02)


def test_tempo_of_a_beat_with_offbeats() -> None:
    strong = np.arange(0.2, 7.8, 0.5)
    waveform = _clicks(strong) + _clicks(strong[:-1] + 0.25, loud=0.05) + _tone(110)
    assert tempo(waveform, RATE) == pytest.approx(120, rel=0.01)


@pytest.mark.parametrize("bpm", [80, 110, 125])
def test_tempo_of_a_rhythm_whose_strokes_lie_between_beats(bpm: float) -> None:
    """One beat and a half apart as often as a half: the strongest single lag is none of them."""
    beat = 60 / bpm
    bars = 4 * np.arange(int(18 / (4 * beat)))[:, None]
    waveform = _clicks((beat * (bars + [0, 1.5, 2, 3.5])).ravel() + 0.1, 20)
    waveform += _clicks(np.arange(0.1, 18, beat), 20, loud=0.05)
    assert tempo(waveform, RATE) == pytest.approx(bpm, rel=0.02)


def test_tempo_of_what_does_not_repeat() -> None:
    assert tempo(_noise(), RATE) == 0
    assert tempo(_tone(440), RATE) == 0


def test_percussive_share() -> None:
    tone, beat = _tone(440), _beat(120)
    assert percussive_share(tone, RATE) < 0.01
    assert percussive_share(beat, RATE) > 0.95
    assert percussive_share(_noise(), RATE) == pytest.approx(0.5, abs=0.03)
    even = beat * np.sqrt(np.square(tone).mean() / np.square(beat).mean())
    shares = [percussive_share(tone + level * even, RATE) for level in (0.3, 1.0, 3.0)]
    assert shares == sorted(shares)
    assert 0.2 < shares[1] < 0.8


def test_spectral_centroid() -> None:
    assert spectral_centroid(_tone(440), RATE) == pytest.approx(440, rel=0.01)
    assert spectral_centroid(_noise(), RATE) == pytest.approx(RATE / 4, rel=0.02)
    mixed = _tone(400, loud=0.2) + _tone(1600, loud=0.2)
    assert spectral_centroid(mixed, RATE) == pytest.approx(1000, rel=0.01)
    louder_below = _tone(400, loud=0.4) + _tone(1600, loud=0.2)
    assert spectral_centroid(louder_below, RATE) == pytest.approx(640, rel=0.01)


def test_measure_is_each_of_them() -> None:
    waveform = _beat(100) + _tone(200, loud=0.1)
    one_by_one = (f(waveform, RATE) for f in (onset_rate, percussive_share))
    rest = (f(waveform, RATE) for f in (spectral_centroid, tempo))
    assert measure(waveform, RATE) == Signals(*one_by_one, *rest)


def test_loudness_channels_and_rate_change_nothing() -> None:
    mono = _beat(128) + _tone(330, loud=0.05)
    figures = np.array(astuple(measure(mono, RATE)))
    stereo = measure(np.stack([mono, mono], axis=1), RATE)
    np.testing.assert_allclose(astuple(stereo), figures, rtol=1e-4)
    np.testing.assert_allclose(astuple(measure(mono / 30, RATE)), figures, rtol=1e-3)
    halved = measure(np.repeat(mono, 2), 2 * RATE)  # the same sound at twice the rate
    assert halved.onset_rate == pytest.approx(figures[0], abs=0.1)
    assert halved.tempo == pytest.approx(figures[3], rel=0.01)


@pytest.mark.parametrize("samples", [1, 500, 3000, 30000])
def test_short_and_silent_waveforms(samples: int) -> None:
    assert measure(np.zeros(samples), RATE) == Signals(0, 0, 0, 0)
    figures = measure(_noise()[:samples], RATE)
    assert np.isfinite(astuple(figures)).all()


def test_bad_waveforms() -> None:
    with pytest.raises(ValueError, match="at least one sample"):
        measure(np.zeros(0), RATE)
    with pytest.raises(ValueError, match="NaN"):
        measure(np.array([0.0, np.nan]), RATE)


def test_twenty_seconds_take_well_under_a_second() -> None:
    waveform = _beat(120, 20) + _noise(20)
    measure(waveform, RATE)
    started = time.process_time()
    measure(waveform, RATE)
    assert time.process_time() - started < 1.0
