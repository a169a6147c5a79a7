"""Training songs from a metadata JSON: windows of audio at any rate, captions, tags, lyrics and, if
given, the score.

Each entry holds `audio_file, text_prompt, lyrics, genre_tags, instrument_tags, duration, artist,
title`. An entry may also hold `captions` (other wordings of the prompt) and `windows` (`start`,
`end`, `captions` of a stretch), and a `.npz` beside the audio with `roll`, the score at 25 frames a
second; the procedural band writes all three.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

from musicot_mlx.errors import MusicotError

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

    @classmethod
    def parse(cls, record: dict[str, Any], folder: Path) -> "SongEntry":
        prompt = record.get("text_prompt", "").strip()
        if not prompt:
            raise MusicotError(
                f"{record.get('audio_file')}: text_prompt is empty; describe the song in words"
            )
        return cls(
            path=folder / record["audio_file"],
            duration=float(record["duration"]),
            prompts=(prompt, *record.get("captions", ())),
            windows=tuple(record.get("windows", ())),
            lyrics=record.get("lyrics") or "",
            tags=(*_tags(record, "genre_tags"), *_tags(record, "instrument_tags")),
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


def _tags(record: dict[str, Any], field: str) -> list[str]:
    value = record.get(field) or []
    return [t.strip() for t in value.split(",")] if isinstance(value, str) else list(value)


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
        records = json.loads(self.metadata.read_text())
        entries = [SongEntry.parse(record, self.metadata.parent) for record in records]
        self.entries = [e for e in entries if e.path.is_file()]
        if len(self.entries) < 2:
            raise MusicotError(
                f"{self.metadata} names {len(self.entries)} songs on disk; at least 2 are needed"
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
    at the end.
    """
    with soundfile.SoundFile(path) as file:
        rate = file.samplerate
        file.seek(min(round(start * rate), file.frames))
        audio = file.read(round(seconds * rate), dtype="float32", always_2d=True)
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
