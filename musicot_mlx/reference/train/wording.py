"""What the songs' words and stems teach of prompts: the `wording` section of a model's config."""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import soxr
import torch
from scipy.ndimage import maximum_filter1d

from musicot_mlx.reference import clap as clap_parts
from musicot_mlx.reference.band.dataset import stems_folder
from musicot_mlx.reference.data import SongEntry, read_window
from musicot_mlx.reference.train.workspace import Workspace

SECONDS, SONGS = 30.0, 400  # of each song with stems that are heard, and how many songs
AUDIBLE, NEAR = 0.1, 11  # of a stem's loudest frame; frames around a sound that it may tint
PRIOR = 60.0  # frames of the usual codes that each count begins with
RAREST = 2  # songs that a word must be said of
SILENT = 1e-3  # RMS under which nothing is left to hear
Hear = Callable[[np.ndarray], np.ndarray]


def wording(workspace: Workspace) -> dict[str, Any]:
    """The section: the words of the captions, and where songs have stems, what keeps each family of
    instruments out.
    """
    entries, rate = workspace.data.entries, workspace.config["semantic_tokenizer"]["sample_rate"]
    with_stems = [song for song in entries if stems_folder(song.path).is_dir()][:SONGS]
    encode, embed = _listeners(workspace)
    counts = Silences(workspace.config["semantic_tokenizer"]["codebook_size"])
    for song in with_stems:
        counts.hear(_stems(song, rate), encode, embed)
    return {
        "known": " ".join(known_words(entries)),
        "without": counts.without(),
        "away": counts.away(),
    }


@torch.no_grad()
def _listeners(workspace: Workspace) -> tuple[Hear, Hear]:
    """What makes codes (frames,) of samples (samples,), and a CLAP vector (dim,)."""
    device, config = workspace.device, workspace.config
    tokenizer = workspace.semantic_tokenizer().to(device)
    clap = workspace.clap().to(device)
    front_end = clap_parts.ClapFrontEnd(config["clap"]["audio_config"]["num_mel_bins"]).to(device)
    rate = config["semantic_tokenizer"]["sample_rate"]

    @torch.no_grad()
    def encode(samples: np.ndarray) -> np.ndarray:
        return tokenizer.encode(torch.from_numpy(samples)[None].to(device))[0].cpu().numpy()

    @torch.no_grad()
    def embed(samples: np.ndarray) -> np.ndarray:
        size = round(clap_parts.WINDOW_SECONDS * clap_parts.SAMPLE_RATE)
        heard = soxr.resample(samples, rate, clap_parts.SAMPLE_RATE)[:size]
        heard = np.pad(heard, (0, size - len(heard))).astype(np.float32)
        mels = front_end(torch.from_numpy(heard)[None].to(device))
        return clap_parts.embed_audio(clap, mels).float()[0].cpu().numpy()

    return encode, embed


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
    files = sorted(stems_folder(song.path).glob("*.wav"))
    return {
        file.stem: read_window(file, 0, seconds, sample_rate=sample_rate)[:, 0] for file in files
    }


class Silences:
    """What changes where a family of instruments falls silent, counted song by song.

    Each song is heard whole and without each family of its: so styles that a family often plays in
    count neither way.
    """

    def __init__(self, codes: int) -> None:
        self.codes = codes
        self.counts: dict[str, np.ndarray] = {}  # family -> (2, codes), with it and without
        self.steps: dict[str, list[np.ndarray]] = {}  # family -> changes (dim,) of CLAP vectors

    def hear(self, stems: dict[str, np.ndarray], encode: Hear, embed: Hear) -> None:
        """Count a song of these stems, family -> samples (samples,)."""
        if len(stems) < 2:
            return  # alone, a family leaves silence
        whole = sum(stems.values())
        played, heard = encode(whole), embed(whole)
        for family, own in stems.items():
            rest = whole - own
            left, level = encode(rest), _level(rest, len(played))
            sounds = maximum_filter1d(_level(own, len(played)), NEAR)
            here = (sounds > AUDIBLE * sounds.max()) & (level > SILENT)
            table = self.counts.setdefault(family, np.zeros((2, self.codes)))
            for row, codes in zip(table, (played, left), strict=True):
                np.add.at(row, codes[: len(played)][here], 1.0)
            if here.mean() > AUDIBLE:
                self.steps.setdefault(family, []).append(embed(rest) - heard)

    def without(self) -> dict[str, str]:
        """Family -> tenths of nats, one a code, by which the code is likelier where it plays."""
        if not self.counts:
            return {}
        usual = 1.0 + sum(table.sum(axis=0) for table in self.counts.values())
        usual /= usual.sum()
        found = {}
        for family, table in sorted(self.counts.items()):
            share = (table + PRIOR * usual) / (table.sum(axis=1, keepdims=True) + PRIOR)
            found[family] = _written(10 * np.log(share[0] / share[1]).clip(-5.0, 5.0))
        return found

    def away(self) -> dict[str, str]:
        """Family -> thousandths, one a number of a CLAP vector, by which it changes on average."""
        steps = sorted(self.steps.items())
        return {family: _written(1000 * np.mean(each, axis=0)) for family, each in steps}


def _written(numbers: np.ndarray) -> str:
    return " ".join(str(int(number)) for number in np.round(numbers))


def _level(samples: np.ndarray, frames: int) -> np.ndarray:
    """Loudness (RMS) of each of so many frames."""
    return np.array([np.sqrt(np.square(piece).mean()) for piece in np.array_split(samples, frames)])
