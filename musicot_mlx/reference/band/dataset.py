"""Songs of the band on disk: audio, score, and the metadata JSON that the trainer reads."""

import json
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from musicot_mlx.reference.band.compose import compose
from musicot_mlx.reference.band.piece import Piece
from musicot_mlx.reference.band.render import render

WINDOW, HOP = 10.0, 2.5  # seconds of a captioned window, and between two of them
WORDINGS = 6  # captions a window
SAMPLE_RATE = 44100


def describe(piece: Piece, audio_file: str) -> dict[str, Any]:
    """The metadata of a piece: what the trainer asks for, and more wordings of the same truth."""
    rng = np.random.default_rng([piece.seed, 1])
    tags = piece.tags
    starts = np.arange(0, max(piece.duration - WINDOW, 0) + 0.01, HOP)
    captions = [piece.caption(rng) for _ in range(8)]
    return {
        "audio_file": audio_file,
        "text_prompt": captions[0],
        "lyrics": "",
        "genre_tags": tags["genre"],
        "instrument_tags": tags["instruments"],
        "duration": piece.duration,
        "artist": "the procedural band",
        "title": f"{piece.style} no. {piece.seed}",
        "bpm": piece.bpm,
        "key": f"{piece.key} {piece.mode}",
        "seed": piece.seed,
        "captions": captions[1:],
        "windows": [
            {
                "start": float(start),
                "end": float(start + WINDOW),
                "instruments": piece.instruments(start, start + WINDOW),
                "captions": [piece.caption(rng, start, start + WINDOW) for _ in range(WORDINGS)],
            }
            for start in starts
        ],
    }


def _make(seed: int, folder: Path, duration: float, channels: int) -> dict[str, Any]:
    """Compose, and render unless the files are there; the entry of the metadata."""
    piece = compose(seed, duration=duration)
    audio, score = folder / f"{seed:06d}.wav", folder / f"{seed:06d}.npz"
    if not (audio.is_file() and score.is_file()):
        waveform = render(piece, sample_rate=SAMPLE_RATE)
        if channels == 1:
            waveform = waveform.mean(axis=1, keepdims=True)
        hidden = folder / f".{seed:06d}.wav"
        soundfile.write(hidden, waveform, SAMPLE_RATE, subtype="PCM_16")
        np.savez_compressed(folder / f".{seed:06d}.npz", roll=piece.roll())
        os.replace(folder / f".{seed:06d}.npz", score)
        os.replace(hidden, audio)
    return describe(piece, audio.name)


def make_dataset(
    folder: str | Path,
    *,
    songs: int,
    seed: int = 0,
    duration: float = 60.0,
    workers: int = 2,
    channels: int = 1,
) -> Iterator[int]:
    """Write `songs` songs, styles mixed from the first on, and metadata.json; yields the count done.

    What exists is kept, so an interrupted run goes on where it stopped; the metadata is rewritten
    every 50 songs, so that training can start while the rest is being rendered.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    entries: list[dict[str, Any]] = []
    make = partial(_make, folder=folder, duration=duration, channels=channels)
    with ProcessPoolExecutor(workers) as pool:
        for entry in pool.map(make, range(seed, seed + songs)):
            entries.append(entry)
            if len(entries) % 50 == 0 or len(entries) == songs:
                temporary = folder / ".metadata.json"
                temporary.write_text(json.dumps(entries))
                temporary.replace(folder / "metadata.json")
            yield len(entries)
