"""Songs of the band on disk: audio, score, and the metadata JSON that the trainer reads."""

import json
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from musicot_mlx.atomic import atomic_path, write_text
from musicot_mlx.errors import MusicotError
from musicot_mlx.reference.band.captions import caption
from musicot_mlx.reference.band.compose import compose
from musicot_mlx.reference.band.piece import Piece
from musicot_mlx.reference.band.render import render, render_stems
from musicot_mlx.reference.band.tables import ORDER

WINDOW, HOP = 10.0, 2.5  # seconds of a captioned window, and between two of them
WORDINGS = 6  # captions a window
SAMPLE_RATE = 44100


def describe(piece: Piece, audio_file: str) -> dict[str, Any]:
    """The metadata of a piece: what the trainer asks for, and more wordings of the same truth."""
    rng = np.random.default_rng([piece.seed, 1])
    tags = piece.tags
    starts = np.arange(0, max(piece.duration - WINDOW, 0) + 0.01, HOP)
    captions = [caption(piece, rng) for _ in range(8)]
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
        "first_bar": 0.0,
        "key": f"{piece.key} {piece.mode}",
        "chords": [list(change) for change in piece.chords],
        "seed": piece.seed,
        "captions": captions[1:],
        "windows": [
            {
                "start": float(start),
                "end": float(start + WINDOW),
                "instruments": piece.instruments(start, start + WINDOW),
                "captions": [caption(piece, rng, start, start + WINDOW) for _ in range(WORDINGS)],
            }
            for start in starts
        ],
    }


def _make(
    seed: int, folder: Path, duration: float, channels: int, stems: bool, styles: Sequence[str]
) -> dict[str, Any]:
    """Compose and render a song; the entry of the metadata."""
    piece = compose(seed, duration=duration, order=styles)
    audio, score = folder / f"{seed:06d}.wav", folder / f"{seed:06d}.npz"
    with atomic_path(score) as temporary:
        np.savez_compressed(temporary, roll=piece.roll(), loudness=piece.loudness())
    if stems:
        apart = stems_folder(audio)
        begun = apart.with_name(f".{apart.name}.part")  # a folder under its name is whole
        shutil.rmtree(begun, ignore_errors=True)
        begun.mkdir()
        for family, waveform in render_stems(piece, sample_rate=SAMPLE_RATE).items():
            _write(begun / f"{family}.wav", waveform, channels)
        begun.rename(apart)
    _write(audio, render(piece, sample_rate=SAMPLE_RATE), channels)
    return describe(piece, audio.name)


def stems_folder(audio: Path) -> Path:
    """Where the stems of a song lie: 000007.wav -> 000007-stems/, a WAV a family of instruments."""
    return audio.with_name(f"{audio.stem}-stems")


def _write(path: Path, waveform: np.ndarray, channels: int) -> None:
    """Write (samples, 2) as 16-bit WAV, mixed down where one channel is asked for."""
    if channels == 1:
        waveform = waveform.mean(axis=1, keepdims=True)
    with atomic_path(path) as temporary:
        soundfile.write(temporary, waveform, SAMPLE_RATE, subtype="PCM_16")


def _kept(folder: Path, stems: bool) -> dict[int, dict[str, Any]]:
    """Seed -> entry of the songs an earlier run finished: listed, and their files are there."""
    metadata = folder / "metadata.json"
    if not metadata.is_file():
        return {}
    try:
        entries = json.loads(metadata.read_text())
        return {
            entry["seed"]: entry
            for entry in entries
            if (folder / entry["audio_file"]).is_file()
            and (folder / entry["audio_file"]).with_suffix(".npz").is_file()
            and not (stems and not stems_folder(folder / entry["audio_file"]).is_dir())
        }
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise MusicotError(
            f"{metadata} is not a list the band wrote; move it away or choose another folder"
        ) from error


def make_dataset(
    folder: str | Path,
    *,
    songs: int,
    seed: int = 0,
    duration: float = 60.0,
    workers: int = 2,
    channels: int = 1,
    stems: bool = False,
    styles: Sequence[str] = ORDER,
) -> Iterator[int]:
    """Write `songs` songs, styles mixed from the start, and metadata.json; yields the count done.

    stems: beside each song a folder with a WAV a family of instruments, which add up to the song.
    styles: what the seeds walk through; FIRST_ORDER makes the songs that the first musicot-mini
    heard. Beside each song an .npz holds its `roll` and the `loudness` of each family.

    Songs that metadata.json lists are kept as they are, so an interrupted run goes on where it
    stopped; the metadata is rewritten every 50 songs, so that training can start while the rest is
    being rendered. Raises MusicotError when metadata.json is something else.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    entries = _kept(folder, stems)
    wanted = range(seed, seed + songs)
    missing = [number for number in wanted if number not in entries]
    yield from range(1, songs - len(missing) + 1)
    if not missing:
        return
    make = partial(_make, folder=folder, duration=duration, channels=channels, stems=stems,
                   styles=tuple(styles))  # fmt: skip
    done = songs - len(missing)
    with ProcessPoolExecutor(workers) as pool:
        for entry in pool.map(make, missing):
            entries[entry["seed"]] = entry
            done += 1
            if done % 50 == 0 or done == songs:
                ordered = [entries[number] for number in sorted(entries)]
                write_text(folder / "metadata.json", json.dumps(ordered))
            yield done
