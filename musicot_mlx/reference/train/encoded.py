"""Encoded songs in memory, as the stages after `encode` learn from them; new ones join in."""

import time
from pathlib import Path

import numpy as np
import torch

from musicot_mlx.errors import MusicotError
from musicot_mlx.reference.data import SongEntry
from musicot_mlx.reference.train.workspace import Workspace

LOOK = 8.0  # seconds between two looks for songs that were encoded meanwhile

Song = tuple[SongEntry, dict[str, np.ndarray]]


def encoded(workspace: Workspace, entries: list[SongEntry], *, latents: int = 0) -> list[Song]:
    """The songs of `entries` that are encoded, with at least so many latents where they are needed.

    Raises MusicotError where there is none.
    """
    songs = [song for entry in entries if (song := read_song(workspace.out, entry, latents))]
    if not songs:
        stages = "encode encode_latents" if latents else "encode"
        raise MusicotError(
            f"none of {len(entries)} songs is encoded in {workspace.out} and long enough; run "
            f"--stage {stages} first"
        )
    return songs


def read_song(out: Path, entry: SongEntry, latents: int) -> Song | None:
    """A song's encoded files; None where they are not there yet, or it is too short."""
    file = out / "encoded" / f"{entry.path.stem}.npz"
    if not file.is_file() or (latents and not file.with_suffix(".npy").is_file()):
        return None
    with np.load(file) as arrays:
        song = {name: arrays[name] for name in arrays.files}
    if latents:
        song["latents"] = np.load(file.with_suffix(".npy"))
        if len(song["latents"]) < latents:
            return None
    return entry, song


class Encoded:
    """Encoded songs in memory with the codes of their thoughts. `look` takes in what has been
    encoded since, so that a stage can begin while songs are still being rendered.
    """

    def __init__(
        self,
        workspace: Workspace,
        entries: list[SongEntry],
        *,
        text_share: float,
        latents: int = 0,
        growing: bool = False,
    ) -> None:
        """`latents`: how many latents a song must have, or 0 where they are not needed. growing:
        whether training songs that come later belong to it.
        """
        self.workspace, self.text_share, self.latents = workspace, text_share, latents
        self.growing, self.looked = growing, time.monotonic()
        songs = encoded(workspace, entries, latents=latents)
        self.rvq = workspace.rvq()
        self.songs: list[Song] = []
        self.known: set[Path] = set()
        self._take(songs)

    def _take(self, songs: list[Song]) -> list[Song]:
        for entry, song in songs:  # int32 codes (levels, windows) of the thoughts
            codes = self.rvq(torch.from_numpy(song["clap"])[None])[1][0]
            song["thoughts"] = codes.T.numpy().astype(np.int32)
            self.known.add(entry.path)
        self.songs += songs
        return songs

    def look(self) -> list[Song]:
        """The songs that have come since the last look; it looks every few seconds at most."""
        if not self.growing or time.monotonic() - self.looked < LOOK:
            return []
        self.looked = time.monotonic()
        self.workspace.data.refresh()
        waiting = [e for e in self.workspace.data.training if e.path not in self.known]
        songs = (read_song(self.workspace.out, entry, self.latents) for entry in waiting)
        return self._take([song for song in songs if song])

    def draw(self, rng: np.random.Generator) -> Song:
        return self.songs[rng.integers(len(self.songs))]

    def prompt(
        self, song: dict[str, np.ndarray], first: int, last: int, rng: np.random.Generator
    ) -> np.ndarray:
        """The condition of eq 4: CLAP of a random 10 s of the stretch [first, last] in windows,
        (dim,).

        The paper trains on audio embeddings alone and prompts with text. Here a share of the items
        takes a caption's embedding, since a small CLAP leaves a gap between the two.
        """
        window = rng.integers(first, last + 1)
        if rng.random() >= self.text_share:
            return song["clap"][window]
        texts = song["text"] if rng.random() < 0.5 else song["window_text"][window]
        return texts[rng.integers(len(texts))]
