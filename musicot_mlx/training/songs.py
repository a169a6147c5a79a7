"""Songs as the networks see them: audio cut into pieces and encoded once, kept on disk.

What an encoder makes of a file lies in the cache under the hash of the file's bytes and of the
encoder's weights, so a second run reads no audio, a changed file or model is encoded anew, and one
cache serves every data set.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from musicot_mlx.atomic import atomic_path
from musicot_mlx.audio.files import read_audio, resample
from musicot_mlx.errors import MusicotError
from musicot_mlx.training.data import Entry, Skipped
from musicot_mlx.weights.cache import cache_root

FORMAT = "1"  # of the cached files; another number leaves old ones unread
SHORTEST_PIECE = 5.0  # seconds; a shorter rest at the end of a song is left out
SILENCE = 1e-4  # root mean square below which there is nothing to learn
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Encoder:
    """waveform float32 (frames, channels) and its rate in Hz to an array; key names the weights."""

    key: str
    encode: Callable[[np.ndarray, int], np.ndarray]


@dataclass(frozen=True)
class Piece:
    """A stretch of a song in seconds: where in the file, how long, the whole file; its codes."""

    entry: Entry
    start: float
    duration: float
    total: float
    arrays: dict[str, np.ndarray]

    @property
    def name(self) -> str:
        return f"{self.entry.path.name} at {self.start:g} s"


def digest(*modules: nn.Module) -> str:
    """A short hash of all weights of some networks."""
    state = hashlib.blake2b(digest_size=8)
    for module in modules:
        for name, value in sorted(tree_flatten(module.parameters())):
            if mx.issubdtype(value.dtype, mx.floating):
                value = value.astype(mx.float32)  # numpy has no bfloat16
            state.update(name.encode())
            state.update(np.array(value).tobytes())
    return state.hexdigest()


def cache_folder(chosen: str | Path | None = None) -> Path:
    """Where encoded songs are kept: as chosen, else in the user's cache folder."""
    if chosen:
        return Path(chosen).expanduser()
    return cache_root() / "encoded"


def encode_songs(
    entries: Sequence[Entry],
    encoders: Mapping[str, Encoder],
    *,
    piece_seconds: float,
    cache: Path,
    skipped: list[Skipped],
    progress: Progress | None = None,
) -> list[Piece]:
    """Every song in pieces of at most piece_seconds, encoded or read from the cache.

    A song that can't be read goes to `skipped`.
    """
    cache.mkdir(parents=True, exist_ok=True)
    pieces: list[Piece] = []
    for index, entry in enumerate(entries):
        if progress:
            progress("encoding songs", index, len(entries))
        try:
            pieces += _encoded(entry, encoders, piece_seconds, cache)
        except MusicotError as error:
            why = str(error).removeprefix(f"audio file {entry.path} ")
            skipped.append(Skipped(entry.path.name, why))
    if progress and entries:
        progress("encoding songs", len(entries), len(entries))
    return pieces


def _encoded(
    entry: Entry, encoders: Mapping[str, Encoder], piece_seconds: float, cache: Path
) -> list[Piece]:
    with entry.path.open("rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()[:24]
    files = {
        name: cache / f"{content}-{piece_seconds:g}-{encoder.key}-{FORMAT}.npz"
        for name, encoder in encoders.items()
    }
    cached = {name: _read(file) for name, file in files.items()}
    by_encoder = {name: arrays for name, arrays in cached.items() if arrays is not None}
    missing = [name for name in encoders if name not in by_encoder]
    if missing:
        waveform, rate = read_audio(entry.path)
        if float(np.sqrt(np.square(waveform, dtype=np.float64).mean())) < SILENCE:
            raise MusicotError("it is silent")
        spans = _spans(len(waveform) / rate, piece_seconds)
        for name in missing:
            arrays = {"spans": np.array(spans, dtype=np.float64)}
            for number, (start, duration, _) in enumerate(spans):
                first, last = round(start * rate), round((start + duration) * rate)
                arrays[str(number)] = encoders[name].encode(waveform[first:last], rate)
            with atomic_path(files[name]) as temporary:
                np.savez(temporary, **arrays)
            by_encoder[name] = arrays
    spans = next(iter(by_encoder.values()))["spans"]
    return [
        Piece(entry, *map(float, span), {name: by_encoder[name][str(number)] for name in encoders})
        for number, span in enumerate(spans)
    ]


def _read(file: Path) -> dict[str, np.ndarray] | None:
    """A cached file, or None where there is none or it is damaged."""
    try:
        with np.load(file) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, BadZipFile, EOFError):
        return None


def _spans(seconds: float, longest: float) -> list[tuple[float, float, float]]:
    """(start, duration, total) of the pieces of a song, in seconds."""
    starts = np.arange(0, seconds, longest).tolist()
    spans = [(start, min(longest, seconds - start), seconds) for start in starts]
    return [span for span in spans if span[1] >= SHORTEST_PIECE] or spans[:1]


def mono(waveform: np.ndarray, sample_rate: int, target_rate: int) -> np.ndarray:
    """Channels averaged, at another rate: float32 (frames,)."""
    return resample(waveform.mean(axis=1), sample_rate, target_rate)


def with_channels(waveform: np.ndarray, channels: int) -> np.ndarray:
    """float32 (frames, channels): as they are where the number fits, else their average."""
    if waveform.shape[1] == channels:
        return waveform
    return np.repeat(waveform.mean(axis=1, keepdims=True), channels, axis=1)
