"""Does a song copy another? Its audio tokens, held against the other's.

A song that borrows thoughts from a reference (arXiv 2503.19611, section 5.4) should sound related
and copy nothing. Two seconds of its tokens at a time, the place in the reference is looked for
where most tokens are the same; beside that, the longest run of tokens that both have. What chance
gives is measured each time, on the reference played backwards (the same sounds in an order that
nobody copied) and on unrelated songs where there are any.

Best is to ask with the tokens that the model wrote (`Song.codes`): they say all that it knew. Read
from audio, tokens find a copy at another place or level and most of one through MP3 again, but
noise and lossy codecs change them. A copy need not begin on a token's edge, so audio is read at
four offsets within one token. Windows that stand still (silence, a held tone) tell nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import mlx.core as mx
import numpy as np

from musicot_mlx.audio.files import resample
from musicot_mlx.errors import MusicotError
from musicot_mlx.evaluation.measures.agreement import audible

if TYPE_CHECKING:
    from musicot_mlx.models.semantic_tokenizer import SemanticTokenizer

WINDOW, HOP = 50, 5  # tokens
MOVING = 10  # changes of token from which a window tells something
LEAST = 0.3  # share of tokens below which no window counts as copied
CLEAR = 1.5  # times the most that chance gave
ROW = 4  # windows in a row from which a stretch counts as copied: 2.6 s
SLACK = 0.1  # seconds by which the places of neighbouring windows may differ from a straight copy
OFFSETS = 4  # readings of audio within one token
LEVEL = 0.1  # RMS that audio is brought to before it is read
BLOCK = 1 << 13  # places of the reference looked at together, so that an album fits


class Reader(Protocol):
    """A loaded model that reads audio as tokens: MusicotPipeline."""

    semantic_tokenizer: "SemanticTokenizer"


@dataclass(frozen=True)
class CopyCheck:
    """How much of a song stands in a reference.

    shared: float32 (windows,), share of its tokens that each window of the song has in common with
    its nearest place in the reference, 0 where it stands still; at, place: seconds where the window
    and that place begin. run: seconds of the longest run of tokens that both have, a held token
    counted once. chance, float32 (windows,), and chance_run: the same with what the song can't have
    copied.
    """

    shared: np.ndarray
    at: np.ndarray
    place: np.ndarray
    chance: np.ndarray
    run: float
    chance_run: float

    @property
    def limit(self) -> np.ndarray:
        """Share of tokens from which each window counts as copied: clearly more than by chance."""
        return np.clip(CLEAR * self.chance, LEAST, 0.95)

    @property
    def copied_windows(self) -> np.ndarray:
        """Which windows are copied, bool (windows,): several in a row, from places in a row."""
        alike = self.shared >= self.limit
        apart = np.diff(self.place - self.at)
        together = alike[1:] & alike[:-1] & (np.abs(apart) < SLACK)
        copied, begun = np.zeros(len(alike), bool), 0
        for stop in [*(np.flatnonzero(~together) + 1), len(alike)]:
            if stop - begun >= ROW:
                copied[begun:stop] = True
            begun = stop
        return copied

    @property
    def copied(self) -> float:
        """Share of the windows that are copied, 0-1."""
        return float(self.copied_windows.mean())

    @property
    def verdict(self) -> str:
        """One line for people."""
        if not self.shared.any():
            return "no copy can be told: the song stands still"
        most = int(self.shared.argmax())
        facts = (
            f"2 s of it share at most {self.shared[most]:.0%} of their tokens with the reference "
            f"(chance: {self.chance[most]:.0%}), the longest common run is {self.run:.1f} s "
            f"(chance: {self.chance_run:.1f} s)"
        )
        if not self.copied:
            return f"no copy: {facts}"
        best = int((self.shared * self.copied_windows).argmax())
        return (
            f"COPIED: {self.copied:.0%} of the song, such as {self.at[best]:.1f} s from "
            f"{self.place[best]:.1f} s of the reference; {facts}"
        )

    def to_dict(self) -> dict[str, Any]:
        """The check as JSON."""
        numbers = {
            "copied": self.copied,
            "most_shared": float(self.shared.max()),
            "chance": float(self.chance[self.shared.argmax()]),
            "run_seconds": self.run,
            "chance_run_seconds": self.chance_run,
        }
        rounded = {name: round(value, 4) for name, value in numbers.items()}
        return {**rounded, "verdict": self.verdict}


def copy_check(
    song: str | Path | np.ndarray,
    reference: str | Path | np.ndarray,
    *,
    model: Reader,
    sample_rate: int | None = None,
    codes: np.ndarray | None = None,
    unrelated: Sequence[str | Path | np.ndarray] = (),
) -> CopyCheck:
    """Whether stretches of a song stand in a reference; files, or waveforms at sample_rate Hz.

    codes: the tokens that the model wrote the song in, int32 (frames,), where they are known: the
    audio is then not read. unrelated: other songs, to know better what chance gives. Raises
    MusicotError for audio that can't be read, is silent, or is too short to tell (2 s).
    """
    config = model.semantic_tokenizer.config
    if codes is not None:
        readings = [np.asarray(codes, np.int32)]
    else:
        waveform = _mono(song, sample_rate, config.sample_rate)
        step = config.samples_per_code / OFFSETS
        readings = [_read(model, waveform[round(i * step) :]) for i in range(OFFSETS)]
    waveform = _mono(reference, sample_rate, config.sample_rate)
    target, others = _read(model, waveform), [_read(model, waveform[::-1])]
    others += [_read(model, _mono(each, sample_rate, config.sample_rate)) for each in unrelated]
    shortest = min(map(len, (*readings, target, *others)))
    if shortest < WINDOW:
        raise MusicotError(
            f"{shortest / config.frame_rate:.1f} s are too short to tell a copy by; "
            f"pass songs of {WINDOW / config.frame_rate + 0.1:.1f} s and more"
        )
    by_reading = [(*nearest(reading, target), reading) for reading in readings]
    shared, places, tell, best = max(by_reading, key=lambda scored: float(scored[0].mean()))
    chance = np.max([nearest(best, other)[0] for other in others], axis=0)  # (windows,)
    rate = config.frame_rate
    return CopyCheck(
        shared=shared * tell,
        at=(np.arange(len(shared)) * HOP / rate).astype(np.float32),
        place=(places / rate).astype(np.float32),
        chance=chance * tell,
        run=longest_run(best, target) / rate,
        chance_run=max(longest_run(best, other) for other in others) / rate,
    )


def nearest(codes: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The place in `target` most like each window of `codes`, both int32 (frames,).

    Returns the share of tokens alike, float32 (windows,), the place, int (windows,), and whether
    the window moves enough to tell anything, bool (windows,).
    """
    first = np.arange(0, len(codes) - WINDOW + 1, HOP)
    windows = codes[first[:, None] + np.arange(WINDOW)]  # (windows, tokens)
    moves = (np.diff(windows, axis=1) != 0).sum(axis=1) >= MOVING
    best, place = np.full(len(first), -1, np.int32), np.zeros(len(first), np.int64)
    for start in range(0, len(target) - WINDOW + 1, BLOCK):
        part = target[start : start + BLOCK + WINDOW - 1]
        count = np.zeros((len(first), len(part) - WINDOW + 1), np.uint8)
        for k in range(WINDOW):
            count += windows[:, k : k + 1] == part[k : k + count.shape[1]]
        here = count.argmax(axis=1)
        most = count[np.arange(len(first)), here]
        better = most > best
        best[better], place[better] = most[better], start + here[better]
    return (best / WINDOW).astype(np.float32), place, moves


def longest_run(codes: np.ndarray, target: np.ndarray) -> int:
    """Tokens of the longest run that both (frames,) have; a token held on counts once."""
    changes = np.append(1, codes[1:] != codes[:-1]).astype(np.int32)
    longest, ending = 0, np.zeros(len(target) + 1, np.int32)  # runs that end before each token
    for code, change in zip(codes, changes, strict=True):
        # a run that begins on a held token counts that token too
        grown = np.where(target == code, np.maximum(ending[:-1] + change, 1), 0)
        ending = np.append(0, grown)
        longest = max(longest, int(grown.max()))
    return longest


def _mono(audio: str | Path | np.ndarray, sample_rate: int | None, target_rate: int) -> np.ndarray:
    """One channel (samples,) at the target rate, at the level that tokens are compared at."""
    waveform, rate = audible(audio, sample_rate)
    mono = waveform if np.ndim(waveform) == 1 else np.mean(waveform, axis=1)
    mono = resample(mono, rate, target_rate)
    return mono * (LEVEL / max(float(np.sqrt(np.square(mono).mean())), 1e-6))


def _read(model: Reader, waveform: np.ndarray) -> np.ndarray:
    """Audio tokens of a waveform (samples,), int32 (frames,)."""
    return np.array(
        model.semantic_tokenizer.encode(mx.array(np.ascontiguousarray(waveform))[None])[0]
    )
