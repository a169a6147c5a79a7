"""Key and chords of a waveform: pitch classes of spectral peaks, Viterbi over chord templates.

Signal processing alone, so that it can judge a model as well as read a song for one. It is the
classic reader (Fujishima 1999; Sheh and Ellis 2003): chroma of a beat or a bar against templates of
triads and seventh chords, with a price on every change of chord and on chords outside the song's
scale. Of a scale's two tonics, major and minor, the key's is the one whose chord sounds more.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from musicot_mlx.audio.waveforms import as_waveform
from musicot_mlx.tokens.harmony import NO_CHORD, Chord, Key, parse_chord
from musicot_mlx.tokens.tempo import fold

N_FFT, HOP = 16384, 4096  # at 44.1 kHz: 2.7 Hz a bin, 10.8 frames a second
MELODIC = (80.0, 1000.0)  # Hz in which peaks count as notes of a chord
KEY_FFT, KEY_HOP, KEY_BAND = 8192, 2048, (110.0, 1800.0)  # the same for share_in_key
BASS = (40.0, 200.0)  # Hz in which the lowest note is looked for
IN_TUNE = 0.3  # semitones that a peak may lie beside a note
FAINT = 0.05  # share of the frame's largest peak below which a peak does not count
TEMPLATES = ("", "m", "dim", "maj7", "7", "m7", "m7b5")  # qualities that are told apart
CHANGE = 0.05  # what a change of chord costs, in the likeness (0 to 1) of one span
ROOT_IN_BASS = 0.15  # what the root in the bass is worth beside the likeness of the chroma
FOREIGN = 0.3  # what a chord outside the song's scale costs
SILENT = 1e-4  # magnitude of a peak up to which nothing sounds
SOUNDING = 0.25  # share of a span's frames in which notes must sound for a chord

CHORDS = tuple(Chord(root, quality) for quality in TEMPLATES for root in range(12))


@dataclass(frozen=True)
class PitchClasses:
    """How loud each pitch class (0 = C) is in each frame, (frames, 12), and each of the bass."""

    notes: np.ndarray
    bass: np.ndarray
    seconds: np.ndarray  # of each frame's middle, (frames,)


def pitch_classes(waveform: np.ndarray, sample_rate: int) -> PitchClasses:
    """Pitch classes of a waveform (samples,) or (samples, channels) by its spectral peaks.

    A peak counts by the square root of its magnitude, as a share of its frame: loud frames count no
    more than quiet ones.
    """
    mono = as_waveform(waveform)
    mono = mono.mean(1) if mono.ndim == 2 else mono
    size = 1 << round(np.log2(N_FFT * sample_rate / 44100))
    hop = size * HOP // N_FFT
    mono = np.pad(mono, (0, max(0, size + hop - len(mono))))
    window = np.hanning(size).astype(np.float32)
    starts = np.arange(0, len(mono) - size, hop)
    notes, bass = np.zeros((len(starts), 12)), np.zeros((len(starts), 12))
    for i, start in enumerate(starts):
        spectrum = np.abs(np.fft.rfft(mono[start : start + size] * window))
        notes[i] = _peaks(spectrum, sample_rate / size, MELODIC)
        bass[i] = _peaks(spectrum, sample_rate / size, BASS)
    return PitchClasses(notes, bass, (starts + size / 2) / sample_rate)


def _peaks(spectrum: np.ndarray, bin_hertz: float, band: tuple[float, float]) -> np.ndarray:
    """Shares of the pitch classes (12,) among the peaks of a band; zeros where it is silent."""
    low, high = (int(np.ceil(edge / bin_hertz)) for edge in band)
    part = spectrum[low - 1 : high + 1]
    middle = part[1:-1]
    loud = middle > max(FAINT * part.max(), SILENT)
    at = np.flatnonzero((middle > part[:-2]) & (middle >= part[2:]) & loud) + 1
    shares = np.zeros(12)
    if not len(at):
        return shares
    before, here, after = (np.log(part[at + step] + 1e-9) for step in (-1, 0, 1))
    offset = 0.5 * (before - after) / (before - 2 * here + after + 1e-12)  # of the parabola's top
    pitch = 69 + 12 * np.log2((low - 1 + at + offset) * bin_hertz / 440)
    near = np.rint(pitch).astype(int)
    tuned = np.abs(pitch - near) < IN_TUNE
    weight = np.sqrt(part[at])
    np.add.at(shares, near[tuned] % 12, weight[tuned] / weight.sum())
    return shares


def share_in_key(waveform: np.ndarray, sample_rate: int) -> float:
    """The share (0 to 1) of spectral peaks, 110 Hz to 1.8 kHz, on the seven notes of the best major
    or minor scale; 0 for silence. Real songs of the band have .875.
    """
    mono = as_waveform(waveform)
    mono = mono.mean(1) if mono.ndim == 2 else mono
    window = np.hanning(KEY_FFT)
    total = np.zeros(12)
    for start in range(0, max(1, len(mono) - KEY_FFT), KEY_HOP):
        frame = np.pad(mono[start : start + KEY_FFT], (0, max(0, KEY_FFT - len(mono) + start)))
        total += _peaks(np.abs(np.fft.rfft(frame * window)), sample_rate / KEY_FFT, KEY_BAND)
    if not total.sum():
        return 0.0
    scales = (Key(tonic, mode).scale for tonic in range(12) for mode in ("major", "minor"))
    return float(max(total[list(scale)].sum() for scale in scales) / total.sum())


def heard_harmony(
    chroma: PitchClasses, spans: Sequence[tuple[float, float]], *, change: float = CHANGE
) -> tuple[Key, list[str]]:
    """The major or minor key, and the chord of each span (start, end in seconds).

    The key's scale is the one that the chords fit best, and of its two tonics it has the one whose
    chord sounds more. Chords are of TEMPLATES, as tokens/harmony.py writes them; "N" where nothing
    sounds.
    """
    likeness, silent = _likeness(chroma, spans)
    key = _key(likeness)
    path = _viterbi(likeness - FOREIGN * ~_inside(key.scale), change)
    return key, [
        NO_CHORD if quiet else CHORDS[state].name(key)
        for state, quiet in zip(path, silent, strict=True)
    ]


def chords_heard(
    waveform: np.ndarray, sample_rate: int, planned: Sequence[tuple[float, str]]
) -> float | None:
    """The share of planned chords, (second, chord) a bar, whose triad is heard in their bar, of
    those in which notes sound; None where nothing is planned or nothing sounds.
    """
    seconds = len(waveform) / sample_rate
    planned = [change for change in planned if change[0] < seconds - 0.5]
    if not planned:
        return None
    edges = [start for start, _ in planned] + [seconds]
    chroma = pitch_classes(waveform, sample_rate)
    labels = heard_harmony(chroma, list(zip(edges[:-1], edges[1:], strict=True)))[1]
    return triads_alike([(chord, label) for (_, chord), label in zip(planned, labels, strict=True)])


def triads_alike(pairs: Sequence[tuple[str, str]]) -> float | None:
    """The share of (planned, heard) chords with the same root and triad, of those where both sound;
    None where there are none.
    """
    both = [(parse_chord(planned), parse_chord(heard)) for planned, heard in pairs]
    alike = [
        a.pitch_classes[:3] == b.pitch_classes[:3]
        for a, b in both
        if a is not None and b is not None
    ]
    return float(np.mean(alike)) if alike else None


def _likeness(
    chroma: PitchClasses, spans: Sequence[tuple[float, float]]
) -> tuple[np.ndarray, np.ndarray]:
    """How well each of CHORDS fits each span, (spans, chords); where nothing sounds, (spans,)."""
    templates = np.zeros((len(CHORDS), 12))
    for row, chord in zip(templates, CHORDS, strict=True):
        row[list(chord.pitch_classes)] = len(chord.pitch_classes) ** -0.5
    roots = [chord.root for chord in CHORDS]
    likeness, silent = np.zeros((len(spans), len(CHORDS))), np.zeros(len(spans), bool)
    for i, (start, end) in enumerate(spans):
        inside = (chroma.seconds >= start) & (chroma.seconds < end)
        if not inside.any():  # shorter than a frame: the nearest
            inside = np.arange(len(chroma.seconds)) == np.abs(chroma.seconds - start).argmin()
        notes, bass = chroma.notes[inside].sum(0), chroma.bass[inside].sum(0)
        silent[i] = chroma.notes[inside].any(1).mean() < SOUNDING
        likeness[i] = templates @ notes / max(np.linalg.norm(notes), 1e-9)
        likeness[i] += ROOT_IN_BASS * bass[roots] / max(bass.sum(), 1e-9)
    return likeness, silent


def _inside(scale: Sequence[int]) -> np.ndarray:
    """Which of CHORDS have their triad in a scale, (chords,)."""
    return np.array([set(chord.pitch_classes[:3]) <= set(scale) for chord in CHORDS])


def _key(likeness: np.ndarray) -> Key:
    majors = [Key(tonic) for tonic in range(12)]
    fits = [(likeness - FOREIGN * ~_inside(key.scale)).max(1).sum() for key in majors]
    major = majors[int(np.argmax(fits))]
    pair = (major, Key((major.tonic + 9) % 12, "minor"))
    inside = _inside(major.scale)
    roots = np.array([chord.root for chord in CHORDS])
    sounds = [likeness[:, inside & (roots == key.tonic)].max(1).sum() for key in pair]
    return pair[int(np.argmax(sounds))]


def _viterbi(score: np.ndarray, change: float) -> list[int]:
    """The best state of each step (steps, states), where each change costs `change`."""
    if not len(score):
        return []
    best, came = score[0].copy(), np.zeros(score.shape, int)
    for i in range(1, len(score)):
        leader = int(best.argmax())
        stays = best >= best[leader] - change
        came[i] = np.where(stays, np.arange(len(best)), leader)
        best = np.where(stays, best, best[leader] - change) + score[i]
    path = [int(best.argmax())]
    for i in range(len(score) - 1, 0, -1):
        path.append(int(came[i, path[-1]]))
    return path[::-1]


def bar_spans(duration: float, bpm: float, *, first_bar: float = 0.0) -> list[tuple[float, float]]:
    """(start, end) in seconds of the bars of four beats that begin before `duration`."""
    bar = 240.0 / bpm
    count = max(1, int(np.ceil((duration - first_bar) / bar - 1e-6)))
    return [(first_bar + i * bar, min(first_bar + (i + 1) * bar, duration)) for i in range(count)]


def spans_of(duration: float, tempo: float) -> list[tuple[float, float]]:
    """Where chords may change in audio that was not planned: bars of the tempo heard, folded as
    tempo tags are; of two seconds where none was heard (0).
    """
    return bar_spans(duration, fold(tempo) if tempo else 120.0)
