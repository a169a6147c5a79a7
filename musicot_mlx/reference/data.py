"""Training songs from a metadata JSON: windows of audio at any rate, captions, tags, lyrics and, if
given, the score.

The file is a list with an entry a song: `audio_file, text_prompt, lyrics, genre_tags,
instrument_tags, duration, artist, title`, of which audio_file (relative to the metadata),
text_prompt and duration (seconds) must be there; tags are a list or one string with commas. An
entry may also hold `bpm` and `first_bar` (a second at which a bar of four beats begins; only where
the tempo stands still), `key` ("D minor") and `chords` (`[second, "Dm"]` at every change),
`captions` (other wordings of the prompt) and `windows` (`start`, `end`, `captions` of a stretch),
and a `.npz` beside the audio with `roll`, the score at 25 frames a second; the procedural band
writes them all.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

from musicot_mlx.errors import MusicotError, first_few
from musicot_mlx.texts import read_json
from musicot_mlx.tokens.harmony import parse_chord, parse_key
from musicot_mlx.tokens.tempo import fold, tempo_of

ROLL_RATE = 25.0


@dataclass(frozen=True)
class SongEntry:
    """One song of the metadata: where its audio lies and what is said of it."""

    path: Path
    duration: float  # seconds
    prompts: tuple[str, ...]
    windows: tuple[dict[str, Any], ...]
    lyrics: str
    tags: tuple[str, ...]
    bpm: float = 0.0  # of bars that are known: 0 unless first_bar is given too
    first_bar: float = 0.0  # seconds at which a bar begins
    genres: tuple[str, ...] = ()  # those of the tags that are styles
    key: str = ""
    chords: tuple[tuple[float, str], ...] = ()  # (second, chord) at every change

    @classmethod
    def parse(cls, record: dict[str, Any], folder: Path) -> "SongEntry":
        """The entry of a record; raises MusicotError that names the song and what to mend."""
        if not isinstance(record, dict) or not record.get("audio_file"):
            raise MusicotError(f"an entry has no audio_file: {str(record)[:80]}")
        name = record["audio_file"]
        prompt = str(record.get("text_prompt") or "").strip()
        if not prompt:
            raise MusicotError(f"{name}: text_prompt is empty; describe the song in words")
        try:
            duration = float(record.get("duration") or 0)
        except (TypeError, ValueError):
            duration = 0.0
        if not 0 < duration < float("inf"):
            raise MusicotError(
                f"{name}: duration is {record.get('duration')!r}; give the song's length in seconds"
            )
        windows, captions = record.get("windows") or (), record.get("captions") or ()
        if not all(isinstance(w, dict) and w.get("captions") and "start" in w for w in windows):
            raise MusicotError(f"{name}: each of windows needs start and captions")
        tags = (*_strings(record, "genre_tags"), *_strings(record, "instrument_tags"))
        tags += tempo_of(record)
        first_bar = record.get("first_bar")
        if first_bar is not None and not isinstance(first_bar, (int, float)):
            raise MusicotError(
                f"{name}: first_bar is {first_bar!r}; give the second at which a bar begins, or "
                "leave it out"
            )
        known = first_bar is not None and bool(tempo_of(record))
        return cls(
            path=folder / name,
            duration=duration,
            prompts=(prompt, *([captions] if isinstance(captions, str) else captions)),
            windows=tuple(windows),
            lyrics=record.get("lyrics") or "",
            tags=tuple(dict.fromkeys(tags)),
            bpm=fold(float(record["bpm"])) if known else 0.0,
            first_bar=float(first_bar) if known else 0.0,
            genres=tuple(dict.fromkeys(_strings(record, "genre_tags"))),
            key=_key(record, name),
            chords=_chords(record, name),
        )

    def caption(self, rng: np.random.Generator, start: float, window_seconds: float) -> str:
        """A caption of the window that starts at `start` seconds: of the window where one is close,
        else of the song.
        """
        near = [w for w in self.windows if abs(w["start"] - start) <= 0.13 * window_seconds]
        if near and rng.random() < 0.85:
            window = min(near, key=lambda w: abs(w["start"] - start))
            return str(rng.choice(window["captions"]))
        return str(rng.choice(self.prompts))


def _strings(record: dict[str, Any], field: str) -> list[str]:
    """A field's tags, given as a list or as one string with commas."""
    value = record.get(field) or []
    tags = value.split(",") if isinstance(value, str) else [str(tag) for tag in value]
    return [tag.strip() for tag in tags if tag.strip()]


def _key(record: dict[str, Any], name: str) -> str:
    text = record.get("key") or ""
    try:
        return str(parse_key(str(text))) if text else ""
    except ValueError as error:
        raise MusicotError(f"{name}: key: {error}") from error


def _chords(record: dict[str, Any], name: str) -> tuple[tuple[float, str], ...]:
    try:
        changes = [(float(time), str(label)) for time, label in record.get("chords") or ()]
    except (TypeError, ValueError) as error:
        raise MusicotError(f'{name}: chords must be pairs like [2.5, "Am"]: {error}') from error
    for _, label in changes:
        try:
            parse_chord(label)
        except ValueError as error:
            raise MusicotError(f"{name}: chords: {error}") from error
    return tuple(sorted(changes, key=lambda change: change[0]))


class SongData:
    """The songs of one metadata file, split into training and validation by position (every 20th is
    held out).
    """

    def __init__(self, metadata: str | Path) -> None:
        self.metadata = Path(metadata)
        if self.metadata.is_dir():
            self.metadata = self.metadata / "metadata.json"
        if not self.metadata.is_file():
            raise MusicotError(
                f"{self.metadata} is not there; make one with musicot_mlx.reference.band"
            )
        self._read()

    def refresh(self) -> bool:
        """Read the metadata again where it was written anew: whether there are more songs."""
        if self.metadata.stat().st_mtime_ns == self.written:
            return False
        before = len(self.entries)
        self._read()
        return len(self.entries) > before

    def _read(self) -> None:
        self.written = self.metadata.stat().st_mtime_ns
        try:
            records = read_json(self.metadata)
        except ValueError as error:
            raise MusicotError(f"{self.metadata} is not JSON: {error}") from error
        if not isinstance(records, list):
            raise MusicotError(f"{self.metadata} must hold a list with an entry a song")
        self.entries = [SongEntry.parse(record, self.metadata.parent) for record in records]
        absent = [entry.path.name for entry in self.entries if not entry.path.is_file()]
        if absent:
            raise MusicotError(
                f"{self.metadata} names {len(absent)} files that are not there: {first_few(absent)}"
            )
        if len(self.entries) < 2:
            raise MusicotError(
                f"{self.metadata} names {len(self.entries)} songs; at least 2 are needed"
            )
        stems = Counter(entry.path.stem for entry in self.entries)  # what encoded songs are kept by
        twice = [stem for stem, count in stems.items() if count > 1]
        if twice:
            raise MusicotError(
                f"{self.metadata} names several songs {twice[0]!r}; files need names of their own"
            )
        self.validation = self.entries[::20]
        self.training = [e for i, e in enumerate(self.entries) if i % 20]

    def tags(self) -> list[str]:
        """Every tag in use, sorted."""
        return sorted({tag for entry in self.entries for tag in entry.tags})

    def captions(self) -> list[str]:
        """Every caption of songs and windows."""
        songs = [prompt for entry in self.entries for prompt in entry.prompts]
        return songs + [c for e in self.entries for w in e.windows for c in w["captions"]]


def read_window(
    path: Path, start: float, seconds: float, *, sample_rate: int, channels: int = 1
) -> np.ndarray:
    """Seconds of audio from `start`, float32 (samples, channels), resampled, and padded with zeros
    at the end. Raises MusicotError for a file that is not audio.
    """
    try:
        with soundfile.SoundFile(path) as file:
            rate = file.samplerate
            file.seek(min(round(start * rate), file.frames))
            audio = file.read(round(seconds * rate), dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise MusicotError(f"can't read {path}: {error.error_string}") from error
    if rate != sample_rate:
        audio = soxr.resample(audio, rate, sample_rate)
    if audio.shape[1] != channels:
        audio = np.repeat(audio.mean(axis=1, keepdims=True), channels, axis=1)
    samples = round(seconds * sample_rate)
    audio = audio[:samples]
    return np.pad(audio, ((0, samples - len(audio)), (0, 0)))


def read_roll(path: Path, start: float, frames: int) -> np.ndarray | None:
    """The score of a window, uint8 (frames, notes), or None where there is no score."""
    score = path.with_suffix(".npz")
    if not score.is_file():
        return None
    first = round(start * ROLL_RATE)
    with np.load(score) as arrays:
        roll = arrays["roll"][first : first + frames]
    return np.pad(roll, ((0, frames - len(roll)), (0, 0)))
