"""Real songs that generated ones are held against: a folder of audio, or of the band's songs.

Where `metadata.json` lists the songs (what the trainer reads and the band writes), every 20th is
held out, as in training: those the model never heard, so they stand for new real music, their
captions serve as prompts, and the codec is tried on them. Without it every fourth file, by name, is
held out. Nothing is kept of the songs but their features.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from musicot_mlx.atomic import atomic_path
from musicot_mlx.audio.files import audio_frames, read_audio, readable_files, resample
from musicot_mlx.audio.harmony import chords_heard, share_in_key
from musicot_mlx.audio.signals import tempo
from musicot_mlx.errors import MusicotError
from musicot_mlx.evaluation.harness.prompts import Prompt
from musicot_mlx.evaluation.harness.renders import WINDOW, SongFeatures, song_features
from musicot_mlx.evaluation.measures.codec import RoundTrip, compare
from musicot_mlx.texts import read_json

HOP = 2.5  # seconds between windows that the metadata describes
LEAST = 2  # songs of either kind


@dataclass(frozen=True)
class RealSong:
    """A song of the reference folder, and the seconds at which its windows of 10 s start."""

    path: Path
    starts: tuple[float, ...]
    style: str = ""
    bpm: float = 0.0
    captions: tuple[str, ...] = ()  # of the window that starts first
    chords: tuple[tuple[float, str], ...] = ()  # (second, chord) of every bar, where known


@dataclass(frozen=True)
class RealSongs:
    """training: songs a model may have learned from; held_out: songs it has not heard."""

    training: tuple[RealSong, ...]
    held_out: tuple[RealSong, ...]


def real_songs(folder: str | Path, *, most: int, held_out: int = 24, windows: int = 2) -> RealSongs:
    """Songs of a folder, at most `most` for training and `held_out` of those held out, each with up
    to `windows` windows evenly over it. Raises MusicotError for a folder without songs enough.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise MusicotError(f"no reference folder at {folder}; pass a folder of songs")
    songs = _listed(folder) if (folder / "metadata.json").is_file() else _files(folder)
    every = 20 if (folder / "metadata.json").is_file() else 4
    held_out_songs = [make for i, make in enumerate(songs) if i % every == 0][
        : max(LEAST, held_out)
    ]
    training = [make for i, make in enumerate(songs) if i % every]
    if len(held_out_songs) < LEAST or len(training) < LEAST:
        raise MusicotError(
            f"{folder} holds {len(songs)} songs; at least {LEAST * every} are needed, of which one "
            f"in {every} is held out"
        )
    drawn = np.random.default_rng(0).permutation(len(training))[:most]
    drawn_songs = [training[i] for i in sorted(drawn)]
    return RealSongs(
        tuple(make(windows) for make in drawn_songs),
        tuple(make(windows) for make in held_out_songs),
    )


def _files(folder: Path) -> list[Callable[[int], RealSong]]:
    paths = readable_files(folder)
    return [lambda windows, path=path: RealSong(path, _starts(path, windows)) for path in paths]


def _listed(folder: Path) -> list[Callable[[int], RealSong]]:
    """Songs of a metadata.json, whose files are opened when they are chosen."""
    try:
        entries = read_json(folder / "metadata.json")
        names = [entry["audio_file"] for entry in entries]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MusicotError(f"{folder / 'metadata.json'} lists no songs ({error})") from error

    def make(windows: int, entry: dict[str, Any], path: Path) -> RealSong:
        starts = _starts(path, windows)
        near = [w for w in entry.get("windows") or () if abs(w["start"] - starts[0]) <= HOP / 2]
        captions = near[0]["captions"] if near else [entry.get("text_prompt", "")]
        tags = entry.get("genre_tags") or [""]
        style = tags.split(",")[0] if isinstance(tags, str) else tags[0]
        bpm = float(entry.get("bpm") or 0)
        return RealSong(path, starts, style, bpm, tuple(captions), _bars(entry, bpm))

    return [
        lambda windows, entry=entry, path=folder / name: make(windows, entry, path)
        for entry, name in zip(entries, names, strict=True)
    ]


def _bars(entry: dict[str, Any], bpm: float) -> tuple[tuple[float, str], ...]:
    """(second, chord) of every bar, where the metadata tells chords, tempo and a first bar."""
    changes = entry.get("chords") or ()
    if not changes or bpm <= 0 or entry.get("first_bar") is None:
        return ()
    times = [time for time, _ in changes]
    starts = np.arange(float(entry["first_bar"]), float(entry["duration"]), 240.0 / bpm)
    places = np.searchsorted(times, starts + 0.05, side="right") - 1
    return tuple(
        (float(start), str(changes[place][1]))
        for start, place in zip(starts, places, strict=True)
        if place >= 0
    )


def _starts(path: Path, windows: int) -> tuple[float, ...]:
    """Where windows of a song start: evenly over it, on the grid that captions follow."""
    frames, rate = audio_frames(path)
    seconds = frames / rate
    last = max(0.0, seconds - WINDOW)
    count = max(1, min(windows, int(seconds // WINDOW)))
    starts = np.linspace(0, last, count + 2)[1:-1] if count > 1 else [last / 2]
    return tuple(float(HOP * np.floor(start / HOP)) for start in starts)


def window(song: RealSong, start: float, seconds: float = WINDOW) -> tuple[np.ndarray, int]:
    """So many seconds of a song from `start`, mono float32 (samples,), and its rate in Hz."""
    audio, rate = read_audio(song.path, start=start, seconds=seconds)
    return audio.mean(axis=1), rate


def songs_features(
    songs: Sequence[RealSong],
    clap: Any,
    tagger: Any,
    file: Path,
    progress: Callable[[int, int], None] | None = None,
) -> list[SongFeatures]:
    """The features of each song's windows; kept in `file` and taken from there."""
    if not file.is_file():
        arrays = {}
        for index, song in enumerate(songs):
            parts = [song_features(clap, tagger, *window(song, start)) for start in song.starts]
            arrays[f"{index}.clap"] = np.concatenate([part.clap for part in parts])
            arrays[f"{index}.tags"] = np.concatenate([part.tags for part in parts])
            # of two windows, which is a render's length: a tempo is easier to tell from more
            whole, rate = window(song, song.starts[0], 2 * WINDOW)
            bars = [(t - song.starts[0], c) for t, c in song.chords if t >= song.starts[0]]
            followed = chords_heard(whole, rate, bars)
            arrays[f"{index}.tempo"] = np.array(tempo(whole, rate))
            arrays[f"{index}.key_share"] = np.array(share_in_key(whole, rate))
            arrays[f"{index}.chords"] = np.array(np.nan if followed is None else followed)
            if progress:
                progress(index + 1, len(songs))
        with atomic_path(file) as temporary:
            np.savez(temporary, **arrays)
    with np.load(file) as stored:
        return [
            SongFeatures(
                stored[f"{i}.clap"],
                stored[f"{i}.tags"],
                float(stored[f"{i}.tempo"]),
                stored[f"{i}.clap"][:0],
                float(stored[f"{i}.key_share"]),
                float(stored[f"{i}.chords"]),
            )
            for i in range(len(songs))
        ]


def caption_prompts(songs: Sequence[RealSong], count: int) -> list[Prompt]:
    """Captions of held-out songs as prompts, the longest wording of each song's first window."""
    captioned = [song for song in songs if any(song.captions)]
    return [
        Prompt(max(song.captions, key=len), style=song.style, bpm=_named(song))
        for song in captioned[:count]
    ]


def _named(song: RealSong) -> float:
    """The tempo, where the caption names it."""
    return song.bpm if "BPM" in max(song.captions, key=len) else 0.0


@dataclass(frozen=True)
class CodecTrial:
    """Round trips of held-out songs: measures of each, and the features of what came back."""

    trips: tuple[RoundTrip, ...]
    features: tuple[SongFeatures, ...]


def try_codec(
    decode: Callable[[np.ndarray], np.ndarray],
    sample_rate: int,
    tooth_hz: float,
    songs: Sequence[RealSong],
    clap: Any,
    tagger: Any,
    progress: Callable[[int, int], None] | None = None,
) -> CodecTrial:
    """Send the windows of songs through a codec: decode(waveform) -> waveform, mono (samples,)."""
    trips, features = [], []
    for index, song in enumerate(songs):
        parts = []
        for start in song.starts:
            original = resample(*window(song, start), sample_rate)
            decoded = decode(original)
            trips.append(compare(original, decoded, sample_rate, tooth_hz))
            parts.append(song_features(clap, tagger, decoded, sample_rate))
        features.append(
            SongFeatures(
                np.concatenate([part.clap for part in parts]),
                np.concatenate([part.tags for part in parts]),
                parts[0].tempo,
                parts[0].planned,
                parts[0].key_share,
            )
        )
        if progress:
            progress(index + 1, len(songs))
    return CodecTrial(tuple(trips), tuple(features))
