"""Where sections begin, and which are alike: in a waveform by novelty, then by ear; in a plan by
its thoughts.

Novelty is Foote's (2000): half seconds are compared with each other, and a checkerboard slid along
the diagonal of that matrix is largest where what follows is alike, what came before is alike, and
the two differ. Here the comparison is a distance in dB over mel bands, so the result has a unit.
On 40 songs of the procedural band 92 % of the starts found lie within 3 s of a written one, and
84 % of those written are found. No model is asked.

Novelty hears every new chord of a lone instrument, so what CLAP takes for the same is joined, and
what the instrument tagger hears one instrument in. Of a band's solo instruments 9 of 10 pairs of
neighbouring sections have a CLAP cosine above 0.9, of different ensembles half are below 0.78,
where a segment was set to other words it is 0.2 to 0.84; but of a piano that the embedded model
plays some are below 0.8, where the tagger has no doubt.
"""

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import maximum_filter1d

from musicot_mlx.audio.signals import Spectrogram, mel_decibels, power_spectrogram

FRAME_SECONDS = 0.5
REACH = 8  # frames of the checkerboard to either side: 4 s
SHORTEST = 10  # frames between two starts: 5 s
BANDS, DYNAMIC_RANGE = 32, 60.0  # mel bands; dB
LEAST = 0.6  # dB of novelty below which nothing begins
ALIKE = 0.87  # cosine of CLAP vectors from which they are of one kind of section


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


def section_letters(
    vectors: np.ndarray, lone: Sequence[str | None] = (), *, alike: float = ALIKE
) -> list[str]:
    """A letter for each row of CLAP vectors (rows, dim): A, B, ...; the same where they are alike,
    so that A B A is told as such. Alike is a cosine of at least `alike` with what bears a letter,
    and what has the same instrument alone: lone, where known.
    """
    kinds: list[np.ndarray] = []  # the sum of each letter's rows
    names: list[str | None] = []
    letters = []
    for row, name in zip(_unit(vectors), lone or [None] * len(vectors), strict=True):
        near = [
            1.0 if name and name == other else float(row @ _unit(kind))
            for kind, other in zip(kinds, names, strict=True)
        ]
        if near and max(near) >= alike:
            kind = int(np.argmax(near))
            kinds[kind] = kinds[kind] + row
        else:
            kind = len(kinds)
            kinds.append(row)
            names.append(name)
        letters.append(chr(ord("A") + kind % 26))
    return letters


def begins(letters: Sequence[str]) -> list[int]:
    """Where another letter begins, the first left out."""
    return [i for i in range(1, len(letters)) if letters[i] != letters[i - 1]]


def joined_sections(
    starts: Sequence[float],
    vectors: np.ndarray,
    lone: Sequence[str | None] = (),
    *,
    alike: float = ALIKE,
) -> tuple[list[float], list[str]]:
    """Starts of sections (seconds, the first at 0 left out) without those before which it sounded
    as after it, and the letter of each section left; vectors (sections, dim) and lone (sections),
    one more than starts.

    One piano that plays on is one section, though its notes are new.
    """
    starts, parts = list(starts), list(_unit(vectors))
    names = list(lone) or [None] * len(parts)
    while starts:
        near = [
            1.0 if names[i] and names[i] == names[i + 1] else float(_unit(a) @ _unit(b))
            for i, (a, b) in enumerate(zip(parts, parts[1:], strict=False))
        ]
        nearest = int(np.argmax(near))
        if near[nearest] < alike:
            break
        parts[nearest : nearest + 2] = [parts[nearest] + parts[nearest + 1]]
        same = names[nearest] == names[nearest + 1]
        names[nearest : nearest + 2] = [names[nearest] if same else None]
        del starts[nearest]
    return starts, section_letters(np.stack(parts), names, alike=alike)


def _unit(vectors: np.ndarray) -> np.ndarray:
    vectors = np.asarray(vectors, np.float64)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True).clip(min=1e-9)
