"""Where sections begin: in a waveform by novelty, in a plan where one thought leaves the next.

Novelty is Foote's (2000): half seconds are compared with each other, and a checkerboard slid along
the diagonal of that matrix is largest where what follows is alike, what came before is alike, and
the two differ. Here the comparison is a distance in dB over mel bands, so the result has a unit.
On 40 songs of the procedural band 92 % of the starts found lie within 3 s of a written one, and
84 % of those written are found. No model is asked.
"""

import numpy as np
from scipy.ndimage import maximum_filter1d

from musicot_mlx.audio.signals import Spectrogram, mel_decibels, power_spectrogram

FRAME_SECONDS = 0.5
REACH = 8  # frames of the checkerboard to either side: 4 s
SHORTEST = 10  # frames between two starts: 5 s
BANDS, DYNAMIC_RANGE = 32, 60.0  # mel bands; dB
LEAST = 0.6  # dB of novelty below which nothing begins
LEAST_STEP = 0.5  # standard deviations of activity between thoughts


def section_starts(waveform: np.ndarray, sample_rate: int) -> list[float]:
    """Seconds at which a section begins, the first at 0 left out; none where nothing changes.

    waveform: (samples,) or (samples, channels) at sample_rate Hz.
    """
    novelty = section_novelty(power_spectrogram(waveform, sample_rate))
    peaks = novelty >= maximum_filter1d(novelty, 2 * SHORTEST + 1)
    peaks[: SHORTEST // 2] = peaks[-SHORTEST // 2 :] = False
    clear = novelty > max(LEAST, float(novelty.mean() + 0.3 * novelty.std()))
    return [float(frame * FRAME_SECONDS) for frame in np.flatnonzero(peaks & clear)]


def section_novelty(spectrogram: Spectrogram) -> np.ndarray:
    """How much changes where each half second begins, dB (frames,)."""
    mel = mel_decibels(spectrogram, BANDS, DYNAMIC_RANGE)
    step = spectrogram.frame_rate * FRAME_SECONDS
    starts = np.round(np.arange(max(1, int(len(mel) / step))) * step).astype(int)
    sizes = np.diff(np.append(starts, len(mel)))
    frames = np.add.reduceat(mel, starts) / sizes[:, None]  # (frames, bands)
    place = np.arange(-REACH, REACH) + 0.5
    taper = np.exp(-0.5 * np.square(place / (0.5 * REACH))) * np.sign(place)
    board = np.outer(taper, taper)
    board /= np.abs(board).sum()
    padded = np.pad(frames, ((REACH, REACH), (0, 0)), mode="edge")
    novelty = np.empty(len(frames))
    for i in range(len(frames)):  # only the diagonal is read, so an hour takes no memory
        near = padded[i : i + 2 * REACH]
        distance = np.sqrt(np.square(near[:, None] - near[None]).mean(axis=-1))
        novelty[i] = -(distance * board).sum()
    return novelty


def step_starts(activity: np.ndarray, *, least: float = LEAST_STEP) -> list[int]:
    """Rows of activity (segments, anchors) that begin a section: where the step to them stands out.

    least: a step smaller than this (RMS over the anchors) is no section, whatever is around it.
    """
    activity = np.asarray(activity, np.float64)
    steps = np.sqrt(np.square(np.diff(activity, axis=0)).mean(axis=1))
    if not len(steps):
        return []
    padded = np.pad(steps, 1)
    peak = (steps >= padded[:-2]) & (steps >= padded[2:])
    clear = steps > max(least, float(steps.mean() + 0.5 * steps.std()) if len(steps) > 2 else least)
    return [int(i) + 1 for i in np.flatnonzero(peak & clear)]


def section_letters(vectors: np.ndarray, starts: list[int]) -> list[str]:
    """A letter for each section of (segments, channels): A, B, ...; the same where they are alike.

    Alike is nearer than half of the average step between neighbouring sections.
    """
    vectors = np.asarray(vectors, np.float64)
    means = [part.mean(axis=0) for part in np.split(vectors, starts)]
    steps = [np.linalg.norm(b - a) for a, b in zip(means, means[1:], strict=False)]
    near = 0.5 * float(np.mean(steps)) if steps else 0.0
    kinds: list[np.ndarray] = []
    letters = []
    for mean in means:
        away = [float(np.linalg.norm(mean - kind)) for kind in kinds]
        if away and min(away) < near:
            kind = int(np.argmin(away))
        else:
            kind = len(kinds)
            kinds.append(mean)
        letters.append(chr(ord("A") + kind % 26))
    return letters
