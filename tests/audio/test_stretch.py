"""Speed changes tempo and no pitch; pitch changes pitch and no tempo."""

import numpy as np
import pytest

from musicot_mlx.audio.stretch import stretched, transposed

RATE = 16000


def clicks(seconds: float = 4.0, period: float = 0.5) -> np.ndarray:
    """A short burst of 880 Hz every `period` seconds over a steady 330 Hz."""
    time = np.arange(int(seconds * RATE)) / RATE
    steady = 0.1 * np.sin(2 * np.pi * 330 * time)
    return (steady + np.sin(2 * np.pi * 880 * time) * np.exp(-(time % period) * 60)).astype("f4")


def strongest(waveform: np.ndarray) -> float:
    """Hz."""
    spectrum = np.abs(np.fft.rfft(waveform * np.hanning(len(waveform))))
    return float(np.argmax(spectrum) * RATE / len(waveform))


def period(waveform: np.ndarray) -> float:
    """Seconds after which the loudness repeats, up to 1.2: of its multiples the first near it."""
    loud = np.abs(waveform[: len(waveform) // 80 * 80]).reshape(-1, 80).max(axis=1)
    loud = loud - loud.mean()
    like = np.correlate(loud, loud, "full")[len(loud) :]
    lags = np.flatnonzero(like[20:240] > 0.8 * like[20:240].max()) + 20
    first = lags[lags < lags[0] + 10]
    return (first[np.argmax(like[first])] + 1) * 80 / RATE


@pytest.mark.parametrize("speed", [0.5, 0.7, 1.0, 1.3, 1.5])
def test_speed_changes_time_alone(speed: float) -> None:
    music = clicks()
    out = stretched(music, RATE, speed)
    assert out.dtype == np.float32 and len(out) == round(len(music) / speed)
    assert period(out) == pytest.approx(0.5 / speed, rel=0.03)
    tone = np.sin(2 * np.pi * 440 * np.arange(2 * RATE) / RATE)
    assert strongest(stretched(tone, RATE, speed)) == pytest.approx(440, rel=0.01)


@pytest.mark.parametrize("cents", [-500, -100, 0, 100, 200, 500])
def test_pitch_changes_pitch_alone(cents: int) -> None:
    music = clicks()
    out = transposed(music, RATE, cents)
    assert out.shape == music.shape and period(out) == pytest.approx(0.5, rel=0.03)
    tone = np.sin(2 * np.pi * 440 * np.arange(2 * RATE) / RATE)
    found = strongest(transposed(tone, RATE, cents)[: 3 * RATE // 2])
    assert found == pytest.approx(440 * 2 ** (cents / 1200), rel=0.005)


@pytest.mark.parametrize("speed", [0.5, 1.5])
def test_a_steady_tone_stays_steady(speed: float) -> None:
    tone = 0.5 * np.sin(2 * np.pi * 200 * np.arange(2 * RATE) / RATE)
    inner = stretched(tone, RATE, speed)[2000:-2000]
    levels = np.sqrt(np.square(inner[: len(inner) // 800 * 800]).reshape(-1, 800).mean(axis=1))
    assert levels.min() > 0.93 * levels.max()


def test_channels_stay_together() -> None:
    music = clicks(2.0)
    both = stretched(np.stack([music, 0.25 * music], axis=1), RATE, 0.7)
    assert both.shape == (round(len(music) / 0.7), 2)
    assert np.abs(both[:, 1] - 0.25 * both[:, 0]).max() < 1e-6
    assert transposed(np.stack([music, music], axis=1), RATE, 100).shape == (len(music), 2)


@pytest.mark.parametrize("samples", [0, 1, 50, 700])
def test_a_waveform_shorter_than_a_window(samples: int) -> None:
    out = stretched(np.ones(samples), RATE, 0.5)
    assert len(out) == 2 * samples and np.isfinite(out).all()


def test_speeds_that_are_none() -> None:
    with pytest.raises(ValueError, match=r"expected 0.25 to 4"):
        stretched(np.ones(10), RATE, 0.1)
    with pytest.raises(ValueError, match="-2400 to 2400"):
        transposed(np.ones(10), RATE, 3000)
