"""What the songs' words and stems teach of prompts: the `wording` section of a model's config."""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.ndimage import maximum_filter1d

from musicot_mlx.reference.band.dataset import stems_folder
from musicot_mlx.reference.data import SongEntry, read_window
from musicot_mlx.reference.train.workspace import Workspace

SECONDS, SONGS = 30.0, 400  # of each song with stems that are heard, and how many songs
AUDIBLE, NEAR = 0.1, 11  # of a stem's loudest frame; frames around a sound that it may tint
PRIOR = 60.0  # frames of the usual codes that each count begins with
RAREST = 2  # songs that a word must be said of
Encode = Callable[[np.ndarray], np.ndarray]  # samples (samples,) to codes (frames,)


def wording(workspace: Workspace) -> dict[str, Any]:
    """The section: the words of the captions, and where songs have stems, what keeps each family of
    instruments out.
    """
    config = workspace.config["semantic_tokenizer"]
    tokenizer = workspace.semantic_tokenizer().to(workspace.device)

    @torch.no_grad()
    def encode(samples: np.ndarray) -> np.ndarray:
        waveform = torch.from_numpy(samples)[None].to(workspace.device)
        return tokenizer.encode(waveform)[0].cpu().numpy()

    entries = workspace.data.entries
    songs = (entry for entry in entries if stems_folder(entry.path).is_dir())
    rate = config["sample_rate"]
    stems = (_stems(song, rate) for song, _ in zip(songs, range(SONGS), strict=False))
    return {
        "known": " ".join(known_words(entries)),
        "without": without(stems, encode, codes=config["codebook_size"]),
    }


def known_words(entries: Iterable[SongEntry]) -> list[str]:
    """The words that captions say of at least two songs, small, in order."""
    songs: Counter[str] = Counter()
    for entry in entries:
        captions = [*entry.prompts, *(text for w in entry.windows for text in w["captions"])]
        songs.update(set(re.findall(r"[^\W\d_]+", " ".join(captions).lower())))
    return sorted(word for word, count in songs.items() if count >= RAREST)


def _stems(song: SongEntry, sample_rate: int) -> dict[str, np.ndarray]:
    """Family -> samples (samples,) of the beginning of a song."""
    seconds = min(song.duration, SECONDS)
    files: list[Path] = sorted(stems_folder(song.path).glob("*.wav"))
    return {
        file.stem: read_window(file, 0, seconds, sample_rate=sample_rate)[:, 0] for file in files
    }


def without(
    songs: Iterable[dict[str, np.ndarray]], encode: Encode, *, codes: int
) -> dict[str, str]:
    """Family -> tenths of nats, one a code, by which the code is likelier where the family plays
    than in the same music without it.

    Each song is encoded whole and without each family of its, and what it has at the frames where
    the family sounds is counted: so styles that a family often plays in count neither way.
    """
    counts: dict[str, np.ndarray] = {}
    for stems in songs:
        if len(stems) < 2:
            continue  # alone, it leaves silence
        whole = sum(stems.values())
        played = encode(whole)
        for family, own in stems.items():
            rest = whole - own
            left = encode(rest)
            sounds = maximum_filter1d(_level(own, len(played)), NEAR)
            here = (sounds > AUDIBLE * sounds.max()) & (_level(rest, len(played)) > 1e-3)
            table = counts.setdefault(family, np.zeros((2, codes)))
            for row, heard in zip(table, (played, left), strict=True):
                np.add.at(row, heard[: len(played)][here], 1.0)
    if not counts:
        return {}
    usual = 1.0 + sum(table.sum(axis=0) for table in counts.values())
    usual /= usual.sum()
    found = {}
    for family, table in sorted(counts.items()):
        share = (table + PRIOR * usual) / (table.sum(axis=1, keepdims=True) + PRIOR)
        odds = np.log(share[0] / share[1]).clip(-5.0, 5.0)
        found[family] = " ".join(f"{value:.0f}" for value in 10 * odds)
    return found


def _level(samples: np.ndarray, frames: int) -> np.ndarray:
    """Loudness (RMS) of each of so many frames."""
    return np.array([np.sqrt(np.square(piece).mean()) for piece in np.array_split(samples, frames)])
