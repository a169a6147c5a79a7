"""MusicCoCa with its tokenizer and windows: texts and waveforms to vectors.

Reference: `magenta_rt.musiccoca` (magenta-rt 2.0.3).
"""

import os
from collections.abc import Sequence

import mlx.core as mx
import numpy as np
from tokenizers import Tokenizer

from musicot_mlx.errors import MusicotError
from musicot_mlx.models.musiccoca import MusicCoCa
from musicot_mlx.pipelines.embedding import batched, cut, mono_at
from musicot_mlx.weights.tokenizer import read_tokenizer

START, FILL = 1, 0  # ids: before a text, and behind it up to the longest of a batch
_TEXTS = 32  # a batch of them is less than one of windows


class MusicCoCaEmbedder:
    """Texts and waveforms to unit vectors in MusicCoCa's space; their dot product is a cosine.

    tokenizer is a tokenizers.Tokenizer or the path of its tokenizer.json; without one only audio
    can be embedded. batch_size windows go through the network at once. Raises MusicotError when the
    tokenizer has more tokens than the text tower knows.
    """

    def __init__(
        self,
        coca: MusicCoCa,
        tokenizer: Tokenizer | str | os.PathLike[str] | None = None,
        *,
        batch_size: int = 4,
    ) -> None:
        self.coca, self.config, self.batch_size = coca, coca.config, batch_size
        if tokenizer is not None and not isinstance(tokenizer, Tokenizer):
            tokenizer = read_tokenizer(tokenizer)
        if tokenizer is not None and tokenizer.get_vocab_size() > self.config.vocab:
            raise MusicotError(
                f"the tokenizer has {tokenizer.get_vocab_size()} tokens but musiccoca.vocab is "
                f"{self.config.vocab}; use the tokenizer.json that came with the model"
            )
        self.tokenizer = tokenizer

    @property
    def network(self) -> MusicCoCa:
        """What hears, as every embedder tells."""
        return self.coca

    def embed_text(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors float32 (texts, dim); texts beyond text_length pieces lose their end."""
        return _unit(self.raw_text(texts))

    def map_text(self, texts: Sequence[str], seeds: Sequence[int]) -> np.ndarray:
        """Unit vectors float32 (texts, dim) such as music has: of a seed for each text, which
        upstream's `embed(text, use_mapper=True, seed=seed)` gives too.

        Other seeds are other thoughts for the same words. Raises ValueError for a model without
        mapper and for another number of seeds.
        """
        if len(seeds) != len(texts):
            raise ValueError(f"map_text got {len(texts)} texts and {len(seeds)} seeds")
        noise = np.array([np.random.RandomState(seed).randn(self.config.dim) for seed in seeds])
        return self._mapped(self.raw_text(texts), noise)

    def map_vectors(self, vectors: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Unit vectors float32 (rows, dim) such as music has, of the text tower's vectors (rows,
        dim) and noise of the same shape. Without a mapper these vectors, at unit length.
        """
        if self.config.mapper is None:
            return _unit(np.asarray(vectors, dtype=np.float32))
        return self._mapped(vectors, noise)

    def _mapped(self, vectors: np.ndarray, noise: np.ndarray) -> np.ndarray:
        dim = self.config.dim
        vectors, noise = (np.asarray(x, np.float32).reshape(-1, dim) for x in (vectors, noise))
        return batched(
            lambda rows: self.coca.map_text(mx.array(vectors[rows]), mx.array(noise[rows])),
            len(vectors),
            dim,
            batch_size=_TEXTS,
        )

    def text_ids(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Token ids int32 (texts, time) with START before and FILL behind, and how many are each
        text's own (texts,); in lower case, as upstream reads them.
        """
        if self.tokenizer is None:
            raise MusicotError(
                "this MusicCoCa has no tokenizer, so it cannot embed text; "
                "put tokenizer.json into the model folder"
            )
        encoded = self.tokenizer.encode_batch(
            [text.lower() for text in texts], add_special_tokens=False
        )
        rows = [[START, *item.ids[: self.config.text_length - 1]] for item in encoded]
        lengths = np.array([len(row) for row in rows], dtype=np.int32)
        ids = np.full((len(rows), max(lengths, default=1)), FILL, np.int32)
        for row, tokens in zip(ids, rows, strict=True):
            row[: len(tokens)] = tokens
        return ids, lengths

    def embed_audio(self, waveform: np.ndarray, sample_rate: int) -> np.ndarray:
        """Unit vectors of consecutive 10 s windows, float32 (windows, dim).

        waveform: (samples,) or (samples, channels) at sample_rate Hz, floats in -1..1 or integers
        of 8, 16 or 32 bits (audio/waveforms.py); channels are averaged. See `windows`.
        """
        windows = self.windows(waveform, sample_rate)
        vectors = batched(
            lambda rows: self.coca.embed_audio(mx.array(windows[rows])),
            len(windows),
            self.config.dim,
            batch_size=self.batch_size,
        )
        return _unit(vectors)

    @property
    def window_seconds(self) -> float:
        """Seconds that are embedded at a time."""
        return self.config.clip_seconds

    def windows(self, waveform: np.ndarray, sample_rate: int) -> np.ndarray:
        """The waveform at MusicCoCa's rate in mono, float32 (windows, clip_samples).

        A last window of less than 1 s is dropped unless it is the only one; a shorter one ends in
        zeros. Raises MusicotError for what is no waveform.
        """
        rate, size = self.config.sample_rate, self.config.clip_samples
        pieces = cut(mono_at(waveform, sample_rate, rate), size, rate)
        return np.stack([np.pad(piece, (0, size - len(piece))) for piece in pieces])

    def raw_text(self, texts: str | Sequence[str]) -> np.ndarray:
        """Vectors float32 (texts, dim), of one text too, as the text tower gives them."""
        texts = [texts] if isinstance(texts, str) else texts
        ids, lengths = self.text_ids(texts)

        def embed(rows: slice) -> mx.array:
            longest = int(lengths[rows].max())
            return self.coca.embed_text(mx.array(ids[rows, :longest]), mx.array(lengths[rows]))

        return batched(embed, len(ids), self.config.dim, batch_size=_TEXTS)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
