"""What MusicGen's decoder learns from songs: the next code of every codebook, given the caption.

As audiocraft trains it (arXiv 2306.05284): codes in the delay pattern, cross-entropy of every
codebook, a tenth of the items without their text for guidance. Text encoder and codec stay as they
are. Melody models are not tuned: their prefix of chroma would have to be learned with them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from musicot_mlx.audio.files import resample
from musicot_mlx.errors import MusicotError
from musicot_mlx.generation.delay import delayed
from musicot_mlx.models.encodec import Encodec
from musicot_mlx.models.musicgen import Musicgen
from musicot_mlx.pipelines.clap import ClapEmbedder
from musicot_mlx.training.musicot import LearningOptions, spread
from musicot_mlx.training.songs import Encoder, Piece, digest, with_channels

PIECE_SECONDS = 30.0  # what MusicGen was trained on


class MusicgenModel(Protocol):
    """The networks of a loaded model."""

    decoder: Musicgen
    codec: Encodec

    def embed_text(self, text: str) -> mx.array: ...


@dataclass(frozen=True)
class CodedSong:
    """A piece of a song: codes (codebooks, frames), T5 states of its captions, CLAP embeddings."""

    name: str
    codes: np.ndarray
    texts: tuple[mx.array, ...]
    clap: np.ndarray


@dataclass(frozen=True)
class Excerpt:
    """One training sequence: codes (codebooks, frames) and its text, None where it is dropped."""

    name: str
    codes: np.ndarray
    text: mx.array | None


def decoder_loss(lm: Musicgen, excerpts: Sequence[Excerpt]) -> mx.array:
    """Cross-entropy in nats of every code, summed. Right padding is never looked at."""
    config = lm.config
    ordered = sorted(excerpts, key=lambda s: s.text is None)  # `cross` is of the first rows
    rows = [delayed(s.codes, config.pad_id, channels=config.audio_channels) for s in ordered]
    time = max(row.shape[1] for row in rows)
    tokens = np.full((len(rows), config.num_codebooks, time), config.pad_id, dtype=np.int32)
    for i, row in enumerate(rows):
        tokens[i, :, : row.shape[1]] = row
    targets = tokens[..., 1:]
    counted = targets != config.pad_id
    logits = lm(mx.array(tokens[..., :-1]), cross=_cross(lm, [s.text for s in ordered]))
    safe = mx.array(np.where(counted, targets, 0))
    values = nn.losses.cross_entropy(logits.astype(mx.float32), safe, axis=-1)
    return (values * mx.array(counted.astype(np.float32))).sum()


def _cross(lm: Musicgen, texts: Sequence[mx.array | None]) -> list[Any] | None:
    """The texts of the first rows as every layer attends to them; None where no row has one."""
    present = [text for text in texts if text is not None]
    if not present:
        return None
    longest = max(len(text) for text in present)
    padded = mx.stack([mx.pad(text, ((0, longest - len(text)), (0, 0))) for text in present])
    mask = np.arange(longest) < np.array([len(text) for text in present])[:, None]
    return lm.cross(padded, mx.array(mask))


class DecoderTask:
    """The decoder of a MusicGen; `listener` is a CLAP that judges renders, where one is wanted."""

    part = "decoder"

    def __init__(
        self, model: MusicgenModel, options: LearningOptions, listener: ClapEmbedder | None = None
    ) -> None:
        if model.decoder.config.melody:
            raise MusicotError("melody models are not tuned; tune the model without melody")
        self.model, self.options, self.listener = model, options, listener
        self.unknown_tags: set[str] = set()  # MusicGen has none of its own
        self.first_caption = ""

    @property
    def module(self) -> nn.Module:
        return self.model.decoder

    piece_seconds = PIECE_SECONDS

    def encoders(self) -> dict[str, Encoder]:
        encoders = {"codes": Encoder("encodec-" + digest(self.model.codec), self._encode)}
        if self.listener is not None:
            key = "clap-10-" + digest(self.listener.clap)
            encoders["clap"] = Encoder(key, self.listener.embed_audio)
        return encoders

    def song(self, piece: Piece) -> CodedSong:
        captions = piece.entry.captions
        self.first_caption = self.first_caption or captions[0]
        texts = tuple(self.model.embed_text(caption) for caption in captions)
        mx.eval(texts)
        none = np.zeros((0, 0), dtype=np.float32)
        return CodedSong(piece.name, piece.arrays["codes"], texts, piece.arrays.get("clap", none))

    def centre(self, songs: Sequence[CodedSong]) -> np.ndarray:
        """The mean of all CLAP embeddings of songs, of unit length."""
        mean = np.concatenate([song.clap for song in songs]).mean(axis=0)
        return mean / np.linalg.norm(mean)

    def draw(self, songs: Sequence[CodedSong], rng: np.random.Generator) -> Excerpt:
        song = songs[rng.integers(len(songs))]
        length = min(song.codes.shape[1], self._longest)
        first = int(rng.integers(0, song.codes.shape[1] - length + 1))
        text = song.texts[rng.integers(len(song.texts))]
        dropped = rng.random() < self.options.condition_dropout
        return self._excerpt(song, first, length, None if dropped else text)

    def held_out(self, songs: Sequence[CodedSong], limit: int) -> list[Excerpt]:
        """Excerpts of every song, end to end, at most `limit` of them."""
        excerpts = []
        for song in songs:
            length = min(song.codes.shape[1], self._longest)
            starts = range(0, song.codes.shape[1] - length + 1, length)
            excerpts += [self._excerpt(song, first, length, song.texts[0]) for first in starts]
        return spread(excerpts, limit)

    def weight(self, item: Excerpt) -> float:
        return float(item.codes.size)

    def loss(self, items: Sequence[Excerpt]) -> mx.array:
        return decoder_loss(self.model.decoder, items)

    @property
    def _longest(self) -> int:
        """Frames of the longest sequence: the delay pattern takes a position a codebook more."""
        return self.options.max_seq_length - self.model.decoder.config.num_codebooks

    @staticmethod
    def _excerpt(song: CodedSong, first: int, length: int, text: mx.array | None) -> Excerpt:
        return Excerpt(f"{song.name}, frame {first}", song.codes[:, first : first + length], text)

    def _encode(self, waveform: np.ndarray, sample_rate: int) -> np.ndarray:
        """Codes of whole frames, int32 (codebooks, frames)."""
        config = self.model.codec.config
        channels = self.model.decoder.config.audio_channels
        audio = resample(with_channels(waveform, channels), sample_rate, config.sampling_rate)
        audio = audio[: max(1, len(audio) // config.hop_length) * config.hop_length]
        return np.array(self.model.codec.encode(mx.array(audio[None])))[0]
