"""Thoughts from words, from audio, and from each other: what plans are made and edited with.

Words become thoughts through the LM, which writes a plan of the words alone, several times over;
the one nearest to the words in CLAP's space is taken. Measured on the embedded model: quantising
the vector of the text itself gives thoughts that no music has (their nearest real one is at a
cosine of 0.95, against 0.98), and filling the gap with the words as the condition lets the
neighbours overrule them ("solo piano" amid heavy metal keeps its drums in one seed of three, with
32 tries as well).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import mlx.core as mx
import numpy as np

from musicot_mlx.audio.files import audio_frames, read_audio
from musicot_mlx.audio.waveforms import as_rate, as_waveform
from musicot_mlx.errors import MusicotError

if TYPE_CHECKING:
    from musicot_mlx.models.rvq import ResidualVQ
    from musicot_mlx.pipelines.clap import ClapEmbedder
    from musicot_mlx.pipelines.plans.plan import Plan
    from musicot_mlx.pipelines.renderer import Space

TRIES = 8  # thoughts drawn for words, of which the nearest is taken
SHORTEST_WINDOW = 1.0  # seconds; a shorter rest of a file has no thought of its own
SHORTEST_HEARD = 0.1  # seconds; less has no sound to tell

Audio = str | Path | tuple[np.ndarray, int]  # a file, or a waveform with its rate in Hz


class PlanModel(Protocol):
    """What a plan asks of its model: planner.py has it."""

    clap: "ClapEmbedder"
    rvq: "ResidualVQ"
    space: "Space"
    name: str
    longest: float

    def check_plan(self, plan: "Plan", where: str) -> "Plan": ...

    def segments(self, duration: float) -> int: ...

    def text_vector(self, words: str) -> np.ndarray: ...

    def anchors(self, texts: Sequence[str]) -> np.ndarray: ...

    def require_controls(self, controls: Mapping[str, Any], where: str) -> dict[str, Any]: ...

    def require_drawing(self, options: Mapping[str, Any]) -> dict[str, Any]: ...

    def draw_thoughts(self, vector: np.ndarray, **options: Any) -> np.ndarray: ...


def from_words(model: PlanModel, text: str, count: int, seed: int) -> np.ndarray:
    """Codes (levels, count) of `count` segments that sound like the text.

    Raises MusicotError for an empty text.
    """
    text = " ".join(text.split())
    if not text:
        raise MusicotError("the text of a segment is empty; describe the music, e.g. 'solo piano'")
    vector = model.text_vector(text)
    drawn = model.draw_thoughts(vector, words=text, segments=count, seed=seed, songs=TRIES)
    near = [float((vectors_of(model, codes) @ vector).mean()) for codes in drawn]
    return drawn[int(np.argmax(near))]


def vectors_of(model: PlanModel, codes: np.ndarray) -> np.ndarray:
    """Codes (levels, segments) as unit vectors float32 (segments, dim)."""
    return unit(np.array(model.rvq.decode(mx.array(codes)[None])[0].astype(mx.float32)))


def quantised(model: PlanModel, vectors: np.ndarray) -> np.ndarray:
    """Codes int32 (levels, segments) of vectors (segments, dim), taken at unit length."""
    unit_vectors = mx.array(unit(vectors))[None]
    return np.array(model.rvq.encode(unit_vectors)[0], dtype=np.int32)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors (..., dim) at unit length, float32."""
    size = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return (vectors / size.clip(min=1e-9)).astype(np.float32)


def slerp(a: np.ndarray, b: np.ndarray, amount: float) -> np.ndarray:
    """Unit vectors `amount` of the way from a to b (..., dim) along the great circle."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    angle = np.arccos((a * b).sum(axis=-1, keepdims=True).clip(-1, 1))
    near = np.sin(angle) < 1e-6  # the same direction, or opposite: no circle to follow
    safe = np.where(near, 1.0, np.sin(angle))
    from_a = np.where(near, 1 - amount, np.sin((1 - amount) * angle) / safe)
    from_b = np.where(near, amount, np.sin(amount * angle) / safe)
    return unit(from_a * a + from_b * b)


def spread(available: int, count: int) -> np.ndarray:
    """Which of `available` things stand at `count` places so that beginning meets beginning and end
    end: (count,) indices that never fall.
    """
    return ((np.arange(count) + 0.5) * available / count).astype(int)


def window_count(audio: Audio, seconds: float, offset: float = 0.0) -> int:
    """How many thoughts of `seconds` an audio file or waveform holds from `offset` seconds on; at
    least one. Raises MusicotError where it ends before.
    """
    frames, rate = length_of(audio)
    if frames and frames <= round(offset * rate):
        raise MusicotError(f"the audio lasts {frames / rate:.4g} s; it can't begin at {offset:g} s")
    left = frames - round(offset * rate)
    if 0 < left < SHORTEST_HEARD * rate:
        where = "the audio" if isinstance(audio, tuple) else str(audio)
        raise MusicotError(
            f"{where} has {left / rate:.2g} s to hear; at least {SHORTEST_HEARD} s are needed"
        )
    whole, rest = divmod(left, round(seconds * rate))
    return max(1, int(whole + (rest >= SHORTEST_WINDOW * rate)))


def length_of(audio: Audio) -> tuple[int, int]:
    """How many frames a file or a waveform has, and its sample rate in Hz."""
    return (len(audio[0]), audio[1]) if isinstance(audio, tuple) else audio_frames(audio)


def embed_windows(
    model: PlanModel,
    audio: Audio,
    seconds: float,
    windows: Sequence[int] | None = None,
    *,
    offset: float = 0.0,
) -> np.ndarray:
    """CLAP vectors float32 (windows, dim) of these windows of `seconds`, or of all; the first one
    begins `offset` seconds into the audio.

    Of a file only the windows asked for are read, so an album costs no more than the song it is a
    reference for. Raises MusicotError for audio that can't be read or used.
    """
    picked = range(window_count(audio, seconds, offset)) if windows is None else windows
    by_window: dict[int, np.ndarray] = {}
    for window in picked:
        if window in by_window:
            continue
        start = offset + window * seconds
        if isinstance(audio, tuple):
            waveform, rate = audio
            first = round(start * rate)
            piece = waveform[first : first + round(seconds * rate)]
        else:
            piece, rate = read_audio(audio, start=start, seconds=seconds)
        by_window[window] = model.clap.embed_audio(piece, rate)[0]
    return np.stack([by_window[window] for window in picked])


def blended(
    model: PlanModel,
    references: Sequence[Audio],
    weights: Sequence[float],
    seconds: float,
    count: int,
) -> np.ndarray:
    """Vectors float32 (count, dim) of a song that goes through all references at once.

    Each reference, whatever its length, is followed from its beginning to its end: a short one
    dwells on its windows, of a long one windows are taken at even distances. What they say of a
    segment is added up by weight. Raises MusicotError for weights that don't fit.
    """
    if not references:
        raise MusicotError("there is no reference; give at least one audio file")
    if len(weights) != len(references):
        raise MusicotError(
            f"there are {len(weights)} reference weights for {len(references)} references; give "
            "one for each",
            option="reference_weights",
        )
    total = float(sum(weights))
    if not all(0 <= weight < np.inf for weight in weights) or not total > 0:
        message = "reference weights must be numbers of at least 0, not all of them 0"
        raise MusicotError(message, option="reference_weights")
    mixed = np.zeros((count, model.rvq.config.dim))
    for reference, weight in zip(references, weights, strict=True):
        windows = spread(window_count(reference, seconds), count).tolist()
        mixed += weight / total * embed_windows(model, reference, seconds, windows)
    return unit(mixed)


def is_file(source: "str | Audio | Plan") -> bool:
    """Whether a source is audio in a file: a Path, or '@file'."""
    return isinstance(source, Path) or (isinstance(source, str) and source.startswith("@"))


def audio_of(source: Audio) -> Audio:
    """An audio file's path, or the waveform and its rate, of a source that is no text."""
    if isinstance(source, str):
        return Path(source.removeprefix("@"))
    if isinstance(source, Path):
        return source
    if isinstance(source, (tuple, list)) and len(source) == 2:
        return checked_audio(source)
    raise MusicotError(
        f"a segment can't be made of {type(source).__name__}; pass a text, a Path or '@file' of "
        "audio, (waveform, rate), or a plan"
    )


def checked_audio(audio: Audio) -> Audio:
    """A file as it is; a waveform as float32 with a whole rate, as audio/waveforms.py takes it."""
    if isinstance(audio, (str, Path)):
        return audio
    if isinstance(audio, (tuple, list)) and len(audio) == 2:
        return as_waveform(audio[0], "the audio"), as_rate(audio[1], "the audio")
    raise MusicotError(
        f"audio can't be {type(audio).__name__}; pass a file, or (waveform, rate in Hz)"
    )
