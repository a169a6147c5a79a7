"""What MusiCoT's two tunable networks learn from songs: batches as pretraining draws them.

`SemanticLMTask` cuts excerpts of 5 s up to the context, `DiffusionTask` windows of the diffusion's
own length, both from multiples of 2.5 s, where the songs' CLAP embeddings lie
(reference/train.py). All that is random about a batch comes from the generator handed in, so a step
is the same on every machine and after every interruption.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist
from typing import Any, Protocol

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from musicot_mlx.audio.files import resample
from musicot_mlx.models.rvq import ResidualVQ
from musicot_mlx.models.semantic_diffusion import SemanticDiffusion
from musicot_mlx.models.semantic_lm import SemanticLM
from musicot_mlx.models.semantic_tokenizer import SemanticTokenizer
from musicot_mlx.models.vae import VAE
from musicot_mlx.pipelines.clap import ClapEmbedder
from musicot_mlx.pipelines.plans.thoughts import vectors_of
from musicot_mlx.tokens.tags import chosen_tags
from musicot_mlx.tokens.tempo import is_tempo
from musicot_mlx.training.losses import (
    NoisyWindow,
    TokenSequence,
    diffusion_loss,
    sequence_loss,
    sequence_weight,
)
from musicot_mlx.training.songs import Encoder, Piece, digest, mono, with_channels

HOP = 2.5  # seconds between two CLAP windows of a song
WINDOW = 10.0  # seconds of one
PER_WINDOW = int(WINDOW / HOP)
CLOSE = 0.13 * WINDOW  # seconds: how near an excerpt's caption must lie to its start
_GOLDEN = (math.sqrt(5) - 1) / 2


class Musicot(Protocol):
    """The networks of a loaded model."""

    clap: ClapEmbedder
    rvq: ResidualVQ
    semantic_lm: SemanticLM
    semantic_tokenizer: SemanticTokenizer
    diffusion: SemanticDiffusion
    vae: VAE
    sampling: Any


@dataclass(frozen=True)
class LearningOptions:
    """How batches are drawn; the defaults are pretraining's.

    thought_weight: what a thought counts beside an audio token (1 in the paper).
    condition_dropout: share of items that lose their conditions, for guidance.
    text_condition_share: share of items conditioned on a caption instead of on audio.
    max_seq_length: tokens of the longest sequence.
    """

    thought_weight: float = 1.0
    condition_dropout: float = 0.1
    text_condition_share: float = 0.5
    max_seq_length: int = 2048


@dataclass(frozen=True)
class EncodedSong:
    """A piece of a song with all that a batch may need; see `Piece` for its seconds.

    clap (windows, dim) every 2.5 s, thoughts (levels, windows), text (captions, dim), window_text
    (windows, wordings, dim).
    """

    name: str
    start: float
    duration: float
    total: float
    clap: np.ndarray
    thoughts: np.ndarray
    codes: np.ndarray
    latents: np.ndarray | None
    text: np.ndarray
    window_text: np.ndarray
    tags: tuple[int, ...]
    lyrics: tuple[int, ...]

    @property
    def windows(self) -> int:
        return len(self.clap)

    @property
    def steps(self) -> int:
        """The piece's length in steps of 2.5 s."""
        return max(1, int(self.duration / HOP + 1e-6))


class MusicotTask:
    """What both tasks share: the encoders, and songs made of what they give."""

    part = ""
    needs_latents = False

    def __init__(self, model: Musicot, options: LearningOptions) -> None:
        self.model, self.options = model, options
        self.unknown_tags: set[str] = set()
        self.first_caption = ""  # of the songs made; what a run renders unless told otherwise

    @property
    def piece_seconds(self) -> float:
        """Seconds of the longest excerpt that is encoded as one."""
        return max(self.model.semantic_lm.config.context_seconds, WINDOW)

    def encoders(self) -> dict[str, Encoder]:
        model = self.model
        encoders = {
            "clap": Encoder("clap-" + digest(model.clap.clap), self._embed),
            "codes": Encoder("codes-" + digest(model.semantic_tokenizer), self._tokenize),
        }
        if self.needs_latents:
            encoders["latents"] = Encoder("latents-" + digest(model.vae), self._latents)
        return encoders

    def song(self, piece: Piece) -> EncodedSong:
        """A piece with its captions embedded and its thoughts quantised."""
        clap, entry = piece.arrays["clap"], piece.entry
        self.first_caption = self.first_caption or entry.captions[0]
        windows = [entry.captions_near(piece.start + HOP * i, CLOSE)[:2] for i in range(len(clap))]
        wordings = [[texts[0], texts[-1]] for texts in windows]
        texts = [*entry.captions, *(text for pair in wordings for text in pair)]
        distinct = list(dict.fromkeys(texts))
        vectors = self.model.clap.embed_text(distinct)
        vectors = vectors[[distinct.index(text) for text in texts]]
        count = len(entry.captions)
        return EncodedSong(
            name=piece.name,
            start=piece.start,
            duration=piece.duration,
            total=piece.total,
            clap=clap,
            thoughts=np.array(self.model.rvq.encode(mx.array(clap)[None])[0]),
            codes=piece.arrays["codes"],
            latents=piece.arrays.get("latents"),
            text=vectors[:count],
            window_text=vectors[count:].reshape(len(clap), 2, -1),
            tags=self._tag_ids(entry.tags, vectors[0]),
            lyrics=tuple(self._lyrics_ids(entry.lyrics)),
        )

    def centre(self, songs: Sequence[EncodedSong]) -> np.ndarray:
        """The mean of all CLAP embeddings of songs, of unit length."""
        mean = np.concatenate([song.clap for song in songs]).mean(axis=0)
        return mean / np.linalg.norm(mean)

    def prompt(
        self, song: EncodedSong, first: int, last: int, rng: np.random.Generator
    ) -> np.ndarray:
        """The condition of eq 4, float32 (dim,): of a random 10 s among the windows first..last,
        its audio or a caption.
        """
        window = rng.integers(first, last + 1)
        if rng.random() >= self.options.text_condition_share:
            return song.clap[window]
        texts = song.text if rng.random() < 0.5 else song.window_text[window]
        return texts[rng.integers(len(texts))]

    # --- encoders ---------------------------------------------------------------------------------

    def _embed(self, waveform: np.ndarray, sample_rate: int) -> np.ndarray:
        """CLAP embeddings of 10 s windows, one every 2.5 s: (windows, dim)."""
        rate = self.model.clap.config.feature_config.sampling_rate
        audio = mono(waveform, sample_rate, rate)
        size = round(WINDOW * rate)
        if len(audio) <= size:
            return self.model.clap.embed_audio(audio, rate)[:1]
        starts = range(0, len(audio) - size + 1, round(HOP * rate))
        return self.model.clap.embed_audio(
            np.concatenate([audio[s : s + size] for s in starts]), rate
        )

    def _tokenize(self, waveform: np.ndarray, sample_rate: int) -> np.ndarray:
        tokenizer = self.model.semantic_tokenizer
        audio = mono(waveform, sample_rate, tokenizer.config.sample_rate)
        return np.array(tokenizer.encode(mx.array(audio)[None])[0])  # (frames,)

    def _latents(self, waveform: np.ndarray, sample_rate: int) -> np.ndarray:
        """Posterior means, float16 (time, latent_dim)."""
        config = self.model.vae.config
        audio = resample(
            with_channels(waveform, config.audio_channels), sample_rate, config.sample_rate
        )
        mean = self.model.vae.encode(mx.array(audio)[None]).mean[0]
        return np.array(mean.astype(mx.float32)).astype(np.float16)

    # --- words ------------------------------------------------------------------------------------

    @cached_property
    def _tag_vectors(self) -> np.ndarray:
        return self.model.clap.embed_text(list(self.model.semantic_lm.config.tags))

    def _tag_ids(self, tags: Sequence[str], caption: np.ndarray) -> tuple[int, ...]:
        """The song's tags that the model has; where it has none, those near its caption (eq 5)."""
        config = self.model.semantic_lm.config
        if not config.tags:
            return ()
        if tags:
            self.unknown_tags |= {tag for tag in tags if not is_tempo(tag)} - set(config.tags)
            chosen = [config.tags.index(tag) for tag in tags if tag in config.tags]
        else:
            threshold = self.model.sampling.tag_threshold
            near = chosen_tags(config.tags, self._tag_vectors @ caption, threshold)
            chosen = [config.tags.index(tag) for tag in near]
        return tuple(config.vocabulary.tag_id(index) for index in chosen)

    def _lyrics_ids(self, lyrics: str) -> list[int]:
        tokenizer = self.model.clap.tokenizer
        return self.model.semantic_lm.config.vocabulary.lyrics_ids(
            lyrics, lambda text: tokenizer.encode(text, add_special_tokens=False).ids
        )


class SemanticLMTask(MusicotTask):
    """Thoughts and audio tokens after the conditions (Fig 3)."""

    part = "semantic_lm"

    @property
    def module(self) -> nn.Module:
        return self.model.semantic_lm

    def draw(self, songs: Sequence[EncodedSong], rng: np.random.Generator) -> TokenSequence:
        song = songs[rng.integers(len(songs))]
        longest = self._longest(song)
        whole = rng.random() < 0.4
        length = longest if whole else int(rng.integers(min(2, longest), longest + 1))
        first = int(rng.integers(0, song.steps - length + 1))
        some = [tag for tag in song.tags if rng.random() < 0.6] if rng.random() < 0.7 else []
        dropping = rng.random()
        rate = self.options.condition_dropout
        return self._sequence(song, first, length, some, rng, dropping < rate, dropping < rate / 2)

    def held_out(self, songs: Sequence[EncodedSong], limit: int) -> list[TokenSequence]:
        """Excerpts of every song, end to end, at most `limit` of them, spread over the songs."""
        rng = np.random.default_rng(0)
        excerpts = []
        for song in songs:
            length = self._longest(song)
            excerpts += [(song, s) for s in range(0, song.steps - length + 1, length)]
        chosen = spread(excerpts, limit)
        return [self._sequence(s, first, self._longest(s), s.tags, rng) for s, first in chosen]

    def weight(self, item: TokenSequence) -> float:
        vocabulary = self.model.semantic_lm.config.vocabulary
        return sequence_weight(item, vocabulary, self.options.thought_weight)

    def loss(self, items: Sequence[TokenSequence]) -> mx.array:
        return sequence_loss(self.model.semantic_lm, items, self.options.thought_weight)

    def _longest(self, song: EncodedSong) -> int:
        """Steps of 2.5 s that fit the context and max_seq_length."""
        config = self.model.semantic_lm.config
        fixed = 1 + len(song.tags) + len(song.lyrics) + 4  # the CLAP vector and the four marks
        per_step = HOP * config.audio_frame_rate + config.thought_codebooks / PER_WINDOW
        fitting = int((self.options.max_seq_length - fixed - config.thought_codebooks) / per_step)
        return max(1, min(song.steps, int(config.context_seconds / HOP), fitting))

    def _sequence(
        self,
        song: EncodedSong,
        first: int,
        length: int,
        tags: Sequence[int],
        rng: np.random.Generator,
        drop_conditions: bool = False,
        drop_thoughts: bool = False,
    ) -> TokenSequence:
        rate = HOP * self.model.semantic_lm.config.audio_frame_rate
        last_window = song.windows - 1
        starts = np.minimum(np.arange(first, first + length, PER_WINDOW), last_window)
        near = min(first, last_window)  # a short excerpt at the end lies in the last window
        last = max(near, min(first + length - PER_WINDOW, last_window))
        return TokenSequence(
            clap=self.prompt(song, near, last, rng),
            tags=list(tags),
            lyrics=list(song.lyrics),
            thoughts=song.thoughts[:, starts],
            audio=song.codes[round(first * rate) : max(1, round((first + length) * rate))],
            drop_conditions=drop_conditions,
            drop_thoughts=drop_thoughts,
            name=f"{song.name} + {first * HOP:g} s",
        )


class DiffusionTask(MusicotTask):
    """Latents from codes, thoughts and timing, in windows of the diffusion's length."""

    part = "diffusion"
    needs_latents = True

    @property
    def module(self) -> nn.Module:
        return self.model.diffusion

    def draw(self, songs: Sequence[EncodedSong], rng: np.random.Generator) -> NoisyWindow:
        song = songs[rng.integers(len(songs))]
        first = int(rng.integers(0, self._last_start(song) + 1))
        t = 1 / (1 + math.exp(-rng.standard_normal()))  # logit-normal
        dropped = rng.random() < self.options.condition_dropout
        return self._window(song, first, rng, t, dropped, crop=True)

    def held_out(self, songs: Sequence[EncodedSong], limit: int) -> list[NoisyWindow]:
        """Windows of every song, at most `limit`, their times spread over the distribution."""
        rng = np.random.default_rng(0)
        hop = max(1, round(self.model.diffusion.config.window_seconds / HOP))
        places = [(s, f) for s in songs for f in range(0, self._last_start(s) + 1, hop)]
        items = []
        for index, (song, first) in enumerate(spread(places, limit)):
            quantile = ((index + 0.5) * _GOLDEN) % 1
            t = 1 / (1 + math.exp(-NormalDist().inv_cdf(min(max(quantile, 1e-3), 1 - 1e-3))))
            items.append(self._window(song, first, rng, t, dropped=False, crop=False))
        return items

    def weight(self, item: NoisyWindow) -> float:
        return item.weight

    def loss(self, items: Sequence[NoisyWindow]) -> mx.array:
        return diffusion_loss(self.model.diffusion, items)

    def _last_start(self, song: EncodedSong) -> int:
        """The last step of 2.5 s at which a whole window starts."""
        config = self.model.diffusion.config
        seconds = len(song.latents) / config.latent_rate
        return max(0, int((seconds - config.window_seconds) / HOP + 1e-6))

    def _window(
        self,
        song: EncodedSong,
        first: int,
        rng: np.random.Generator,
        t: float,
        dropped: bool,
        crop: bool,
    ) -> NoisyWindow:
        """The window that starts `first` steps into the piece.

        crop: the song that it is said to be of is anything from the window to the recording.
        """
        config = self.model.diffusion.config
        time, per_code = config.window_frames, config.latent_rate / config.audio_frame_rate
        begin = min(round(first * HOP * config.latent_rate), max(0, len(song.latents) - time))
        latents = song.latents[begin : begin + time].astype(np.float32)
        counted = len(latents)
        latents = np.pad(latents, ((0, time - counted), (0, 0)))
        code, frames = int(begin / per_code), math.ceil(time / per_code) + 1
        codes = song.codes[code : code + frames]
        codes = np.pad(codes, (0, frames - len(codes)), mode="edge")
        before, after = song.start + first * HOP, song.total
        after = max(0.0, after - before - config.window_seconds)
        grid = 0
        if crop:
            grid = int(rng.integers(0, PER_WINDOW))
            before = rng.uniform(0, before) if rng.random() < 0.7 else before
            after = rng.uniform(0, after) if rng.random() < 0.7 else after
        inside = min(first, song.windows - 1)
        around = 2 * PER_WINDOW
        prompt = self.prompt(
            song, max(0, inside - around), min(song.windows - 1, inside + around), rng
        )
        return NoisyWindow(
            latents=latents,
            noise=rng.standard_normal(latents.shape).astype(np.float32),
            t=t,
            codes=codes,
            frame_offset=begin - code * per_code,
            clap=np.concatenate([prompt[None], self._thoughts(song, first, grid)]),
            start_seconds=before,
            total_seconds=before + config.window_seconds + after,
            counted=counted,
            dropped=dropped,
            name=f"{song.name} + {first * HOP:g} s",
        )

    def _thoughts(self, song: EncodedSong, first: int, grid: int) -> np.ndarray:
        """Dequantised thoughts that a window meets, as many as one can meet at most.

        They lie on the song's 10 s grid, which starts `grid` steps before the window.
        """
        seconds = self.model.diffusion.config.window_seconds
        slots = math.ceil(seconds / WINDOW) + 1
        met = math.ceil((HOP * grid + seconds) / WINDOW - 1e-6)
        index = first - grid + PER_WINDOW * np.minimum(np.arange(slots), met - 1)
        codes = song.thoughts[:, np.clip(index, 0, song.windows - 1)]  # (levels, slots)
        return vectors_of(self.model, codes)


def spread(items: list, limit: int) -> list:
    """At most `limit` of the items, evenly; a negative limit is all."""
    if limit < 0 or len(items) <= limit:
        return items
    return [items[i] for i in np.linspace(0, len(items) - 1, limit).round().astype(int)]
