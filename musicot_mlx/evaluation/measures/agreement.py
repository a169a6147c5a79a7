"""What a song holds over time, and whether the audio followed its plan.

A thought is a CLAP embedding of 10 s, so audio that is embedded again lies in the plan's own space:
each segment of the render is held against its thought by cosine, and against texts ("drums",
"piano") as the plan is. Where the activity that was planned and the one that was achieved rise and
fall together over the segments, Pearson's r is near 1. With stems the same is asked of loudness
(arXiv 2503.19611, section 5.3).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import mlx.core as mx
import numpy as np

from musicot_mlx.audio.files import read_audio, readable_files
from musicot_mlx.audio.harmony import heard_harmony, pitch_classes, spans_of, triads_alike
from musicot_mlx.audio.signals import Signals, measure, tempo
from musicot_mlx.audio.waveforms import as_rate, as_waveform
from musicot_mlx.errors import MusicotError
from musicot_mlx.evaluation.measures.sections import (
    begins,
    joined_sections,
    section_letters,
    section_starts,
)
from musicot_mlx.pipelines.given import shown, texts_of
from musicot_mlx.pipelines.plans.activity import activity
from musicot_mlx.pipelines.plans.thoughts import unit
from musicot_mlx.pipelines.tagger import load_tagger

if TYPE_CHECKING:
    from musicot_mlx.models.rvq import ResidualVQ
    from musicot_mlx.pipelines.clap import ClapEmbedder

ANCHORS = ("drums", "bass", "guitar", "piano", "strings", "synth")
SHORTEST = 1.0  # seconds of audio that can be analyzed
SILENT = 1e-4  # RMS, -80 dBFS
QUIETEST_STEM = 1e-2  # mean RMS below which section 5.3 leaves a stem out
FEWEST = 6  # segments; fewer lie near a line by chance: of three, r is above 0.9 once in seven
HEARD = 5.0  # seconds of a segment below which nothing is said of it alone


NEAR, FAR = 0.75, 0.5  # cosines of a song and its plan: what follows it has .8 to 1, of 40 segments
# set to other words that were not heard in time half were below .5


class Pipeline(Protocol):
    """A loaded model that embeds audio and quantises embeddings: MusicotPipeline."""

    clap: "ClapEmbedder"
    rvq: "ResidualVQ"


Listener: TypeAlias = "Pipeline | ClapEmbedder"  # a CLAP that stands alone knows no thoughts


class Planned(Protocol):
    """What is read of a Plan."""

    embeddings: np.ndarray
    thought_seconds: float
    duration: float

    key: str | None

    def activity(self, anchors: Sequence[str]) -> np.ndarray: ...

    def chord_changes(self) -> tuple[tuple[float, str], ...]: ...


@dataclass(frozen=True)
class Analysis:
    """What a plan, audio, or both hold over time, in segments of segment_seconds.

    planned, achieved: activity of the plan and of the audio, float32 (segments, anchors). cosine:
    float32 (segments,), how near the audio came to each thought. They are NaN where the audio is
    silent or the plan at its end, None where there is no plan or no audio. boundaries: seconds at
    which a section begins, the first left out; letters: of each section, the same where they sound
    alike. loudness: RMS of each segment, float32 (segments,); signals: what was
    measured in each; tempo: BPM of the whole, 0 for none. key, chords: heard in the audio, (second,
    chord) a bar of the plan or of the tempo heard; planned_key, planned_chords: those of the plan.
    embeddings: of the audio, float32 (segments, dim). calibrated: activity counts in standard
    deviations above a typical thought; with a CLAP that stands alone it is the bare cosine.
    """

    anchors: tuple[str, ...]
    segment_seconds: float
    duration: float
    boundaries: tuple[float, ...] = ()
    letters: tuple[str, ...] = ("A",)
    planned: np.ndarray | None = None
    achieved: np.ndarray | None = None
    cosine: np.ndarray | None = None
    loudness: np.ndarray | None = None
    signals: tuple[Signals, ...] = ()
    tempo: float = 0.0
    key: str | None = None
    chords: tuple[tuple[float, str], ...] = ()
    planned_key: str | None = None
    planned_chords: tuple[tuple[float, str], ...] = ()
    calibrated: bool = True
    embeddings: np.ndarray | None = field(default=None, repr=False)

    @property
    def correlation(self) -> dict[str, float | None]:
        """Pearson's r of planned and achieved activity per anchor, None where it is undefined."""
        if self.planned is None or self.achieved is None:
            return {}
        r = pearson(self.planned, self.achieved)
        return {name: _defined(value) for name, value in zip(self.anchors, r, strict=True)}

    @property
    def chords_followed(self) -> float | None:
        """The share of planned chords whose triad is heard, of those that sound; None without."""
        if not self.planned_chords or not self.chords:
            return None
        pairs = zip(self.planned_chords, self.chords, strict=False)
        return triads_alike([(planned[1], heard[1]) for planned, heard in pairs])

    @property
    def mean_cosine(self) -> float | None:
        """Mean over the segments that sound."""
        if self.cosine is None or not np.isfinite(self.cosine).any():
            return None
        return float(np.nanmean(self.cosine))

    def to_dict(self) -> dict[str, Any]:
        """The analysis as JSON."""
        fields: dict[str, Any] = {
            "anchors": list(self.anchors),
            "segment_seconds": self.segment_seconds,
            "duration": round(self.duration, 3),
            "boundaries": [round(second, 2) for second in self.boundaries],
            "sections": list(self.letters),
        }
        for name in ("planned", "achieved", "cosine", "loudness"):
            if (values := getattr(self, name)) is not None:
                fields[name] = _rounded(values)
        if self.signals:
            fields["tempo"] = round(self.tempo, 1)
            fields["key"] = self.key
            fields["chords"] = [list(change) for change in self.chords]
            for name in ("onset_rate", "percussive_share", "spectral_centroid"):
                fields[name] = [round(getattr(signals, name), 4) for signals in self.signals]
        if self.planned_chords:
            fields["planned_key"] = self.planned_key
            fields["planned_chords"] = [list(change) for change in self.planned_chords]
            fields["chords_followed"] = _rounded(self.chords_followed)
        if self.cosine is not None:
            fields["mean_cosine"] = _rounded(self.mean_cosine)
            fields["r"] = {name: _rounded(r) for name, r in self.correlation.items()}
        return fields


@dataclass(frozen=True)
class StemAgreement:
    """Do thoughts know how loud each instrument is? Section 5.3, of one song or of many.

    loudness: RMS of each stem, activity: of the quantised thoughts of the mix, both float32
    (segments, stems); r: Pearson's per stem, None for stems left out as too quiet or undefined.
    """

    stems: tuple[str, ...]
    loudness: np.ndarray
    activity: np.ndarray

    def to_dict(self) -> dict[str, Any]:
        """The agreement as JSON."""
        return {
            "stems": list(self.stems),
            "loudness": _rounded(self.loudness),
            "activity": _rounded(self.activity),
            "r": {name: _rounded(r) for name, r in self.r.items()},
        }

    @property
    def r(self) -> dict[str, float | None]:
        """Stems whose mean loudness is under 1e-2 are left out, as the paper does."""
        r = pearson(self.activity, self.loudness)
        loud = self.loudness.mean(axis=0) >= QUIETEST_STEM
        values = np.where(loud, r, np.nan)
        return {name: _defined(value) for name, value in zip(self.stems, values, strict=True)}


def analyze(
    audio: str | Path | np.ndarray | None = None,
    sample_rate: int | None = None,
    *,
    model: Listener,
    plan: Planned | None = None,
    anchors: str | Sequence[str] = ANCHORS,
) -> Analysis:
    """What audio holds over time, what a plan asks for, and whether the one followed the other.

    audio: a file, or a waveform (samples,) or (samples, channels) with its sample_rate in Hz,
    floats in -1..1 or integers of 8, 16 or 32 bits; plan: a Plan of the same model; either may be
    left out. model: as `load` gives it, a MusicotPipeline or, for audio alone, a CLAP. A longer
    plan is cut to the audio, a shorter one goes on as NaN. Raises MusicotError for audio that can't
    be read, lasts less than 1 s, or is silent from end to end.
    """
    anchors = tuple(texts_of("anchors", anchors))
    _require_kinds(model, plan)
    if plan is None and audio is None:
        raise MusicotError("nothing to analyze; pass audio, a plan, or both")
    if plan is not None and hasattr(model, "space"):  # a CLAP alone has none
        model.space.require(getattr(plan, "space", None), "the plan", model.name)
    planned = None if plan is None else plan.activity(anchors)
    if audio is None:
        step, letters = plan.thought_seconds, section_letters(plan.embeddings)
        return Analysis(
            anchors,
            step,
            plan.duration,
            tuple(segment * step for segment in begins(letters)),
            tuple(letters[i] for i in (0, *begins(letters))),
            planned,
            **_planned_harmony(plan, plan.duration),
        )
    waveform, sample_rate = audible(audio, sample_rate)
    step = segment_seconds(model)
    clap = _clap(model)
    embeddings = clap.embed_audio(waveform, sample_rate)  # (segments, dim)
    pieces = segments_of(waveform, sample_rate, step, len(embeddings))
    loudness = loudness_of(waveform, sample_rate, step, len(embeddings))
    silent = loudness < SILENT
    achieved = heard_activity(model, embeddings, anchors)
    achieved[silent] = np.nan
    cosine = None
    if plan is not None:
        if plan.thought_seconds != step:
            raise MusicotError(
                f"a thought of the plan covers {plan.thought_seconds:g} s, but this model embeds "
                f"{step:g} s at a time; pass the model that the plan was made with"
            )
        cosine = _as_long(agreement(plan.embeddings, embeddings), silent)
        planned = _as_long(planned, silent)
    duration, pace = len(waveform) / sample_rate, tempo(waveform, sample_rate)
    harmony = {} if plan is None else _planned_harmony(plan, duration)
    planned_chords = harmony.get("planned_chords", ())
    harmony |= _heard_harmony(waveform, sample_rate, duration, pace, planned_chords)
    starts, letters = _sections(clap, waveform, sample_rate, step)
    return Analysis(
        anchors=anchors,
        segment_seconds=step,
        duration=duration,
        boundaries=tuple(starts),
        letters=tuple(letters),
        planned=planned,
        achieved=achieved,
        cosine=cosine,
        loudness=loudness,
        signals=tuple(measure(piece, sample_rate) for piece in pieces),
        tempo=pace,
        **harmony,
        calibrated=clap is not model,
        embeddings=embeddings,
    )


def _sections(
    ear: "ClapEmbedder", waveform: np.ndarray, sample_rate: int, step: float
) -> tuple[list[float], list[str]]:
    """Where sections begin, the first left out, and their letters, by the middle of each."""
    starts = section_starts(waveform, sample_rate)
    edges = [0.0, *starts, len(waveform) / sample_rate]
    vectors, lone, tagger = [], [], load_tagger()
    for low, high in zip(edges, edges[1:], strict=False):
        low, high = max(low, (low + high - step) / 2), min(high, (low + high + step) / 2)
        piece = waveform[round(low * sample_rate) : round(high * sample_rate)]
        vectors.append(ear.embed_audio(piece, sample_rate)[0])
        lone.append(tagger.lone(piece, sample_rate))
    return joined_sections(starts, np.stack(vectors), lone)


def _planned_harmony(plan: Planned, duration: float) -> dict[str, Any]:
    """Key and chords of a plan that has them, up to where the audio ends."""
    changes = tuple(c for c in plan.chord_changes() if c[0] < duration)
    return {"planned_key": plan.key, "planned_chords": changes} if changes else {}


def _heard_harmony(
    waveform: np.ndarray,
    sample_rate: int,
    duration: float,
    pace: float,
    planned_chords: Sequence[tuple[float, str]],
) -> dict[str, Any]:
    """Key and chords of audio: where its plan has chords, else in bars of its tempo, else in spans
    of two seconds.
    """
    if planned_chords:
        edges = [start for start, _ in planned_chords] + [duration]
        spans = list(zip(edges[:-1], edges[1:], strict=True))
    else:
        spans = spans_of(duration, pace)
    key, chords = heard_harmony(pitch_classes(waveform, sample_rate), spans)
    starts = (round(start, 3) for start, _ in spans)
    return {"key": str(key), "chords": tuple(zip(starts, chords, strict=True))}


def stem_agreement(
    audio: str | Path, stems: Mapping[str, str | Path], *, model: Listener
) -> StemAgreement:
    """Loudness of each stem of a song against the activity of its name in the song's thoughts.

    stems: text -> audio file, as `stem_files` finds them. The mix is embedded, quantised as a
    reference is (section 5.4), and held against each text. Raises MusicotError for files that can't
    be read and for stems of another length than the song.
    """
    waveform, sample_rate = audible(audio)
    step, names = segment_seconds(model), tuple(stems)
    embeddings = _clap(model).embed_audio(waveform, sample_rate)
    seconds = len(waveform) / sample_rate
    columns = []
    for path in stems.values():
        stem, rate = read_audio(path)
        if abs(len(stem) / rate - seconds) > 0.5:
            raise MusicotError(
                f"the stem {path} lasts {len(stem) / rate:.1f} s, the song {seconds:.1f} s; pass "
                "the stems of this song"
            )
        columns.append(loudness_of(stem, rate, step, len(embeddings)))
    thoughts = heard_activity(model, quantised(model, embeddings), names)
    return StemAgreement(names, np.stack(columns, axis=1), thoughts)


def stem_files(folder: str | Path) -> dict[str, Path]:
    """The audio files of a folder by name: drums.wav is the stem "drums", sorted.

    Raises MusicotError where there is no such folder or nothing in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise MusicotError(f"no folder of stems at {folder}; it holds drums.wav, bass.wav, ...")
    files = readable_files(folder)
    if not files:
        raise MusicotError(
            f"the folder {folder} holds no stems; name them drums.wav, bass.wav, ..."
        )
    return {path.stem.replace("_", " "): path for path in files}


def heard_activity(model: Listener, vectors: np.ndarray, anchors: Sequence[str]) -> np.ndarray:
    """Unit vectors (segments, dim) held against each text, float32 (segments, anchors)."""
    if (clap := _clap(model)) is model:
        return vectors @ clap.embed_text(list(anchors)).T
    return activity(vectors, model.anchors(anchors), rvq=model.rvq)


def quantised(model: Listener, vectors: np.ndarray) -> np.ndarray:
    """Unit vectors (segments, dim) as the thoughts that stand for them, unit length.

    A CLAP that stands alone has no thoughts; its vectors stay as they are.
    """
    if _clap(model) is model:
        return vectors
    codes = model.rvq.encode(mx.array(vectors)[None])
    return unit(np.array(model.rvq.decode(codes)[0].astype(mx.float32)))


def loudness_of(waveform: np.ndarray, sample_rate: int, seconds: float, count: int) -> np.ndarray:
    """RMS of the first `count` segments of `seconds`, float32 (segments,)."""
    pieces = segments_of(waveform, sample_rate, seconds, count)
    return np.array([_rms(piece) for piece in pieces], np.float32)


def agreement(planned: np.ndarray, embeddings: np.ndarray) -> np.ndarray:
    """Cosine of each thought with the embedding in its place, float32 (shared segments,)."""
    shared = min(len(planned), len(embeddings))
    return (unit(planned[:shared]) * unit(embeddings[:shared])).sum(axis=1)


def nearness(cosine: float) -> str:
    """A cosine of song and plan in words."""
    return "is near" if cosine >= NEAR else "is roughly like" if cosine >= FAR else "is far from"


def far_segments(
    audio: str | Path | tuple[np.ndarray, int], plan: Planned, *, model: Pipeline
) -> list[tuple[int, float]]:
    """Segments of a song, a file or (waveform, rate), that are far from their thoughts, and the
    cosine of each; one of under HEARD seconds is left out, as is silence. Of a file a segment is
    read at a time.
    """
    step = plan.thought_seconds
    found = []
    for segment in range(len(plan.embeddings)):
        start, seconds = segment * step, min(step, plan.duration - segment * step)
        if seconds < HEARD:
            continue
        if isinstance(audio, tuple):
            waveform, rate = audio
            piece = waveform[round(start * rate) : round((start + seconds) * rate)]
        else:
            piece, rate = read_audio(audio, start=start, seconds=seconds)
        if len(piece) < SHORTEST * rate or _rms(piece) < SILENT:
            continue
        heard = model.clap.embed_audio(piece, rate)[:1]
        cosine = float(agreement(plan.embeddings[segment : segment + 1], heard)[0])
        if cosine < FAR:
            found.append((segment, cosine))
    return found


def pearson(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Pearson's r of each column of two (segments, columns), over rows that neither has as NaN.

    NaN where fewer than FEWEST rows are left or a column does not vary.
    """
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if first.shape != second.shape or first.ndim != 2:
        raise ValueError(f"shapes {first.shape} and {second.shape} differ or are not tables")
    kept = np.isfinite(first).all(axis=1) & np.isfinite(second).all(axis=1)
    if kept.sum() < FEWEST:
        return np.full(first.shape[1], np.nan)
    a, b = first[kept] - first[kept].mean(axis=0), second[kept] - second[kept].mean(axis=0)
    size = np.sqrt(np.square(a).sum(axis=0) * np.square(b).sum(axis=0))
    flat = (np.abs(a).max(axis=0) < 1e-6) | (np.abs(b).max(axis=0) < 1e-6)
    return np.where(flat, np.nan, (a * b).sum(axis=0) / np.where(flat, 1.0, size))


def segment_seconds(model: Listener) -> float:
    """Seconds that the model's ear embeds at a time."""
    return _clap(model).window_seconds


def segments_of(
    waveform: np.ndarray, sample_rate: int, seconds: float, count: int
) -> list[np.ndarray]:
    """The first `count` segments of `seconds`; the last one may be shorter, none is empty."""
    edges = [min(round(i * seconds * sample_rate), len(waveform)) for i in range(count + 1)]
    return [waveform[low : max(high, low + 1)] for low, high in zip(edges, edges[1:], strict=False)]


def _require_kinds(model: Any, plan: Any) -> None:
    """Raise MusicotError for a model that hears nothing, and for a plan that is none."""
    if not any(hasattr(each, "embed_audio") for each in (model, getattr(model, "clap", None))):
        raise MusicotError(f"model is {shown(model)}; pass one that hears, as load gives it")
    if plan is not None and not hasattr(plan, "activity"):
        raise MusicotError(f"plan is {shown(plan)}; pass a Plan: Plan.load(file, model) reads one")


def audible(
    audio: str | Path | np.ndarray, sample_rate: int | None = None
) -> tuple[np.ndarray, int]:
    """Waveform and rate of a file or a waveform; MusicotError where there is nothing to hear."""
    where = "the audio"
    if isinstance(audio, (str, Path)):
        where = str(audio)
        audio, sample_rate = read_audio(audio)
    elif sample_rate is None:
        raise MusicotError("a waveform needs its sample_rate in Hz; pass it, or pass a file")
    else:
        audio, sample_rate = as_waveform(audio), as_rate(sample_rate)
    seconds = len(audio) / sample_rate
    if seconds < SHORTEST:
        raise MusicotError(f"{where} lasts {seconds:.2f} s; at least {SHORTEST:g} s are needed")
    if _rms(audio) < SILENT:
        raise MusicotError(f"{where} is silent from end to end; there is nothing to analyze")
    return audio, sample_rate


def _clap(model: Listener) -> "ClapEmbedder":
    """The CLAP of a pipeline, or the CLAP that the model is."""
    return model if hasattr(model, "embed_audio") else model.clap


def _as_long(values: np.ndarray, silent: np.ndarray) -> np.ndarray:
    """Values a segment, cut or filled up to the segments of the audio; NaN where it is silent."""
    out = np.full((len(silent), *values.shape[1:]), np.nan, np.float32)
    shared = min(len(values), len(silent))
    out[:shared] = values[:shared]
    out[silent] = np.nan
    return out


def _rms(waveform: np.ndarray) -> float:
    return float(np.sqrt(np.square(waveform, dtype=np.float64).mean()))


def _defined(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _rounded(values: Any) -> Any:
    """Numbers of any nesting with four decimals; NaN, which JSON has not, is None."""
    if values is None or isinstance(values, (float, np.floating)):
        return None if values is None or not np.isfinite(values) else round(float(values), 4)
    return [_rounded(value) for value in values]
