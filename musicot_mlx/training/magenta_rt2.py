"""What Magenta RealTime 2's language model learns from songs: the codes of every frame, given the
frames before and the thought of its ten seconds.

Both transformers learn at once, by cross-entropy of all twelve codes of a frame, in the layout that
generation steps through (generation/magenta_rt2.py): a frame is told of the one before, sees the
window's last ones, and is asked for a style that is held for a thought's length. That style is what
MusicCoCa hears in the song there or one of the thoughts that it makes of a caption, so that audio
and words both lead to what is learned. Codec and MusicCoCa stay as they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from musicot_mlx.models.depthformer import Depthformer
from musicot_mlx.models.rvq import ResidualVQ
from musicot_mlx.models.spectrostream import SpectroStream
from musicot_mlx.pipelines.magenta_rt2.embedder import MusicCoCaEmbedder
from musicot_mlx.pipelines.plans.thoughts import quantised
from musicot_mlx.pipelines.renderer import Space
from musicot_mlx.tokens.magenta_rt2 import STRENGTHS, frame_ids
from musicot_mlx.training.musicot import LearningOptions, spread
from musicot_mlx.training.songs import Encoder, Piece, digest, mono

THOUGHTS = 2  # of the longest excerpt: as many frames as one depends on
PIECE_THOUGHTS = 3  # encoded as one; excerpts begin anywhere in it
STEPS = 4  # to a thought's length: where excerpts begin, and windows are heard
WORDINGS = 8  # thoughts of a caption


class MagentaModel(Protocol):
    """The networks of a loaded model."""

    clap: MusicCoCaEmbedder
    rvq: ResidualVQ
    lm: Depthformer
    codec: SpectroStream
    space: Space
    sampling: Any

    def encode(self, waveform: np.ndarray, sample_rate: int) -> np.ndarray: ...

    def text_vector(self, words: str) -> np.ndarray: ...

    def draw_thoughts(self, vector: np.ndarray, **options: Any) -> np.ndarray: ...


@dataclass(frozen=True)
class StyledSong:
    """A piece of a song: codes (codebooks, frames), and of each window, a step of a quarter of a
    thought apart, MusicCoCa's vector (windows, dim), its thought (levels, windows) and thoughts of
    its captions (levels, wordings).
    """

    name: str
    codes: np.ndarray
    vectors: np.ndarray
    thoughts: np.ndarray
    words: tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Frames:
    """One training sequence: codes int32 (codebooks, frames), those of the frame before, None at a
    song's beginning, and what each frame is asked to be, int32 (frames, 144).
    """

    name: str
    codes: np.ndarray
    before: np.ndarray | None
    requests: np.ndarray


def frame_loss(lm: Depthformer, excerpts: Sequence[Frames]) -> mx.array:
    """Cross-entropy in nats of every code, summed. Right padding is never looked at."""
    time = max(each.codes.shape[1] for each in excerpts)
    codes = np.zeros((len(excerpts), time, lm.config.codebooks), np.int32)
    counted = np.zeros((len(excerpts), time, 1), np.float32)
    rows = []
    for i, each in enumerate(excerpts):
        frames = each.codes.shape[1]
        codes[i, :frames], counted[i, :frames] = each.codes.T, 1
        rows.append(np.pad(each.requests, ((0, time - frames), (0, 0)), mode="edge"))
    distinct, which = np.unique(np.concatenate(rows), axis=0, return_inverse=True)
    conditions = lm.condition(mx.array(distinct))[mx.array(which.reshape(len(rows), time))]
    logits = lm(mx.array(codes), conditions, _before(lm, excerpts))
    values = nn.losses.cross_entropy(logits, mx.array(codes), axis=-1)
    return (values * mx.array(counted)).sum()


def _before(lm: Depthformer, excerpts: Sequence[Frames]) -> mx.array:
    """Ids (rows, codebooks) of the frames before."""
    silent = mx.zeros(lm.config.codebooks, dtype=mx.int32)
    return mx.stack([silent if e.before is None else lm.ids(mx.array(e.before)) for e in excerpts])


class DepthformerTask:
    """Temporal and depth transformer of a Magenta RealTime 2."""

    part = "lm"

    def __init__(self, model: MagentaModel, options: LearningOptions) -> None:
        self.model, self.options = model, options
        self.unknown_tags: set[str] = set()  # it has none
        self.first_caption = ""
        self._wordings: dict[str, np.ndarray] = {}
        self._rate = model.lm.config.frame_rate

    @property
    def module(self) -> nn.Module:
        return self.model.lm

    @property
    def piece_seconds(self) -> float:
        return PIECE_THOUGHTS * self.model.space.seconds

    def encoders(self) -> dict[str, Encoder]:
        heard = f"musiccoca-{self.model.space.seconds:g}-" + digest(self.model.clap.coca)
        return {
            "codes": Encoder("spectrostream-" + digest(self.model.codec), self.model.encode),
            "vectors": Encoder(heard, self._hear),
        }

    def song(self, piece: Piece) -> StyledSong:
        """A piece with its thoughts quantised, and those of its captions drawn."""
        entry, vectors = piece.entry, piece.arrays["vectors"]
        self.first_caption = self.first_caption or entry.captions[0]
        starts = [piece.start + step * self._step for step in range(len(vectors))]
        captions = [entry.captions_near(start, self._step / 2) for start in starts]
        words = [np.concatenate([self._thoughts(text) for text in texts], 1) for texts in captions]
        thoughts = quantised(self.model, vectors)
        return StyledSong(piece.name, piece.arrays["codes"], vectors, thoughts, tuple(words))

    def centre(self, songs: Sequence[StyledSong]) -> np.ndarray:
        """The mean of all of MusicCoCa's vectors of songs, of unit length."""
        mean = np.concatenate([song.vectors for song in songs]).mean(axis=0)
        return mean / np.linalg.norm(mean)

    def draw(self, songs: Sequence[StyledSong], rng: np.random.Generator) -> Frames:
        song = songs[rng.integers(len(songs))]
        first = int(rng.integers(0, self._last_start(song) + 1))
        dropped = rng.random() < self.options.condition_dropout
        return self._excerpt(song, first, rng, dropped=dropped)

    def held_out(self, songs: Sequence[StyledSong], limit: int) -> list[Frames]:
        """Excerpts of every song, end to end, at most `limit` of them."""
        rng = np.random.default_rng(0)
        hop = STEPS * THOUGHTS
        places = [(s, first) for s in songs for first in range(0, self._last_start(s) + 1, hop)]
        return [self._excerpt(song, first, rng) for song, first in spread(places, limit)]

    def weight(self, item: Frames) -> float:
        return float(item.codes.size)

    def loss(self, items: Sequence[Frames]) -> mx.array:
        return frame_loss(self.model.lm, items)

    # --- excerpts ---------------------------------------------------------------------------------

    @property
    def _step(self) -> float:
        """Seconds between two windows."""
        return self.model.space.seconds / STEPS

    def _longest(self, song: StyledSong) -> int:
        """Frames of an excerpt of the song."""
        fitting = round(THOUGHTS * self.model.space.seconds * self._rate)
        return min(song.codes.shape[1], self.options.max_seq_length, fitting)

    def _last_start(self, song: StyledSong) -> int:
        """The last step at which a whole excerpt begins."""
        left = song.codes.shape[1] - self._longest(song)
        return int(left / (self._step * self._rate) + 1e-6)

    def _excerpt(
        self, song: StyledSong, first: int, rng: np.random.Generator, *, dropped: bool = False
    ) -> Frames:
        """The excerpt that begins `first` steps into the piece; dropped: without its style."""
        start, frames = round(first * self._step * self._rate), self._longest(song)
        told = rng.random() < self.options.text_condition_share
        style_levels, asked = self.model.sampling.style_levels, []
        for thought in range(THOUGHTS):
            window = min(first + STEPS * thought, len(song.words) - 1)
            choices = song.words[window] if told else song.thoughts[:, [window]]
            style = choices[:style_levels, rng.integers(choices.shape[1])]
            strengths = (self.model.sampling.style_strength, *STRENGTHS[1:])
            asked.append(frame_ids([] if dropped else style, strengths=strengths))
        held = np.arange(frames) / self._rate // self.model.space.seconds
        return Frames(
            name=f"{song.name} + {first * self._step:g} s",
            codes=song.codes[:, start : start + frames],
            before=song.codes[:, start - 1] if start else None,
            requests=np.stack(asked)[held.astype(int)],
        )

    def _thoughts(self, caption: str) -> np.ndarray:
        """Thoughts (levels, wordings) that generation may draw for a caption."""
        if caption not in self._wordings:
            self._wordings[caption] = self.model.draw_thoughts(
                self.model.text_vector(caption),
                words=caption,
                segments=WORDINGS,
                seed=0,
                variation=1.0,
            )[0]
        return self._wordings[caption]

    def _hear(self, waveform: np.ndarray, sample_rate: int) -> np.ndarray:
        """MusicCoCa's vectors of windows of a thought's length, a step apart: (windows, dim)."""
        config, seconds = self.model.clap.config, self.model.space.seconds
        audio = mono(waveform, sample_rate, config.sample_rate)
        size = round(seconds * config.sample_rate)
        starts = range(0, max(0, len(audio) - size) + 1, round(self._step * config.sample_rate))
        pieces = [audio[start : start + size] for start in starts]
        filled = [np.pad(piece, (0, config.clip_samples - len(piece))) for piece in pieces]
        return self.model.clap.embed_audio(np.concatenate(filled), config.sample_rate)
