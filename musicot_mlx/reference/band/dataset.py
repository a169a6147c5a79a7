"""A folder of songs the band wrote: audio, rolls, captions. Resumable, readable while it grows."""

import json
import sys
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from musicot_mlx.atomic import atomic_path, write_text
from musicot_mlx.errors import MusicotError
from musicot_mlx.reference.band.compose import compose
from musicot_mlx.reference.band.piece import Piece
from musicot_mlx.reference.band.render import render
from musicot_mlx.reference.band.tables import INSTRUMENTS

SAMPLE_RATE = 44100
WINDOW, HOP = 10.0, 2.5  # seconds
SONG_CAPTIONS, WINDOW_CAPTIONS = 8, 6
REWRITE = 50  # songs between two writings of metadata.json


def variants(piece: Piece, rng: np.random.Generator, count: int, *window: float) -> list[str]:
    """`count` captions of a window (or the whole piece), different ones as far as words allow."""
    found: dict[str, None] = {}
    for _ in range(count * 4):
        found.setdefault(piece.caption(rng, *window))
        if len(found) == count:
            break
    words = list(found)
    return (words * count)[:count]


def describe(piece: Piece, name: str) -> dict[str, Any]:
    """The entry of a piece in metadata.json."""
    rng = np.random.default_rng([piece.seed, 1])
    tags = piece.tags
    captions = variants(piece, rng, SONG_CAPTIONS)
    windows = []
    for start in np.arange(0.0, max(piece.duration - WINDOW, 0.0) + 1e-6, HOP):
        end = min(float(start) + WINDOW, piece.duration)
        windows.append(
            {
                "start": float(start),
                "end": end,
                "instruments": piece.instruments(float(start), end),
                "captions": variants(piece, rng, WINDOW_CAPTIONS, float(start), end),
            }
        )
    return {
        "audio_file": f"{name}.wav",
        "text_prompt": max(captions, key=len),
        "lyrics": "",
        "genre_tags": tags["genre"],
        "instrument_tags": tags["instruments"],
        "mood_tags": tags["mood"],
        "style": piece.style,
        "duration": piece.duration,
        "artist": "musicot band",
        "title": f"{piece.moods[0].capitalize()} {piece.style} No. {piece.seed}",
        "bpm": round(piece.bpm, 2),
        "key": f"{piece.key} {piece.mode}",
        "seed": piece.seed,
        "families": sorted({INSTRUMENTS[n.instrument].family for n in piece.notes}),
        "sections": [
            {"name": s.name, "start": s.start, "end": s.end, "instruments": sorted(s.instruments)}
            for s in piece.sections
        ],
        "captions": captions,
        "windows": windows,
    }


def make_song(job: tuple[str, int, int, float, int]) -> dict[str, Any]:
    """Write NNNNN.wav and NNNNN.npz of one song unless both exist; its metadata entry."""
    folder, index, seed, duration, channels = job
    import soundfile

    name = f"{index:05d}"
    piece = compose(seed, duration=duration)
    roll, wav = Path(folder) / f"{name}.npz", Path(folder) / f"{name}.wav"
    if not (roll.exists() and wav.exists()):
        with atomic_path(roll) as temporary:
            np.savez_compressed(temporary, roll=piece.roll())
        sound = render(piece, sample_rate=SAMPLE_RATE)
        if channels == 1:
            sound = sound.mean(axis=1)
        with atomic_path(wav) as temporary:
            soundfile.write(temporary, sound, SAMPLE_RATE, subtype="PCM_16")
    return describe(piece, name)


def make_dataset(
    folder: str | Path,
    *,
    songs: int,
    seed: int = 0,
    duration: float = 60.0,
    workers: int = 2,
    channels: int = 1,
) -> Path:
    """Write `songs` songs of `duration` seconds with seeds from `seed` on; the path of metadata.json.

    Songs already there are kept; metadata.json lists finished songs only and is rewritten every
    50 songs, so that training can start while rendering goes on.
    """
    if songs < 1 or workers < 1 or channels not in (1, 2):
        raise MusicotError("songs and workers must be at least 1, channels 1 or 2")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    metadata = folder / "metadata.json"
    jobs = [(str(folder), i, seed + i, duration, channels) for i in range(songs)]
    entries: list[dict[str, Any]] = []
    began = time.monotonic()
    with get_context("spawn").Pool(workers) as pool:
        for entry in pool.imap(make_song, jobs):
            entries.append(entry)
            if len(entries) % REWRITE == 0 or len(entries) == songs:
                write_text(metadata, json.dumps(entries, indent=1))
                elapsed = time.monotonic() - began
                print(
                    f"{len(entries)}/{songs} songs, {len(entries) * duration / elapsed:.0f} "
                    "seconds of music a second",
                    file=sys.stderr,
                    flush=True,
                )
    return metadata
