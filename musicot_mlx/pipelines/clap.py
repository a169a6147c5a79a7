"""CLAP with its tokenizer and audio front end: texts and waveforms to vectors.

Reference: transformers.ClapFeatureExtractor with truncation="rand_trunc", but that long audio is
cut into windows in order instead of one random crop.
"""

import hashlib
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten
from tokenizers import Tokenizer

from musicot_mlx.errors import MusicotError
from musicot_mlx.models.clap import Clap, ClapConfig
from musicot_mlx.models.roberta import ClapTextConfig
from musicot_mlx.pipelines.alone import CLAP
from musicot_mlx.pipelines.embedding import batched, cut, mono_at
from musicot_mlx.pipelines.families import family_of
from musicot_mlx.pipelines.given import items, shown, text
from musicot_mlx.pipelines.parts import load_parts
from musicot_mlx.weights.hub import EMBEDDED, resolve
from musicot_mlx.weights.tokenizer import read_tokenizer

PARTS = {"clap": (Clap, ClapConfig)}


class ClapEmbedder:
    """Texts and waveforms to unit vectors in CLAP's space; their dot product is a cosine.

    tokenizer is a tokenizers.Tokenizer or the path of its tokenizer.json; without one only audio
    can be embedded. batch_size windows go through the network at once, so that memory does not grow
    with the song. space_name: what the model calls its space, `space` of config.json. Raises
    MusicotError when the tokenizer does not fit the config: another vocabulary size or other ids of
    <s>, <pad>, </s>.
    """

    family = CLAP

    def __init__(
        self,
        clap: Clap,
        tokenizer: Tokenizer | str | os.PathLike[str] | None = None,
        *,
        batch_size: int = 4,
        space_name: str | None = None,
    ) -> None:
        self.clap, self.config, self.batch_size = clap, clap.config, batch_size
        self.space_name = space_name
        self.tokenizer = None
        if tokenizer is not None:
            self.tokenizer = checked_tokenizer(tokenizer, self.config.text_config)

    @property
    def network(self) -> Clap:
        """What hears, as every embedder tells."""
        return self.clap

    @cached_property
    def space(self) -> str:
        """The id of the space that vectors live in, "clap-musicot-mini-256"; where the model gives
        it no name, one that follows from the weights of its last layers.
        """
        name = self.space_name or f"clap-{_digest(self.clap.audio_projection)}"
        return f"{name}-{self.config.projection_dim}"

    def embed_text(self, texts: str | Sequence[str]) -> np.ndarray:
        """Embeddings float32 (texts, projection_dim), of one text too; texts beyond max_tokens lose
        their end.
        """
        found = [texts] if isinstance(texts, str) else items(texts)
        if found is None:
            raise MusicotError(f"embed_text takes texts, not {shown(texts)}; write [text]")
        texts = found
        ids, mask = self.text_ids(texts)
        return batched(
            lambda rows: self.clap.embed_text_ids(mx.array(ids[rows]), mx.array(mask[rows])),
            len(ids),
            self.config.projection_dim,
            batch_size=32,
        )

    def text_ids(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Token ids with <s>, </s> and padding, and their mask, both int32 (texts, time)."""
        if self.tokenizer is None:
            raise MusicotError(
                "this CLAP has no tokenizer, so it cannot embed text; "
                "put tokenizer.json into the model folder"
            )
        config = self.config.text_config
        texts = [text("the text", each) for each in texts]
        encoded = self.tokenizer.encode_batch(texts, add_special_tokens=False)
        rows = [
            [config.bos_token_id, *item.ids[: config.max_tokens - 2], config.eos_token_id]
            for item in encoded
        ]
        ids = np.full((len(rows), max(map(len, rows), default=2)), config.pad_token_id, np.int32)
        for row, tokens in zip(ids, rows, strict=True):
            row[: len(tokens)] = tokens
        lengths = np.array([len(row) for row in rows], dtype=np.int32)
        mask = np.arange(ids.shape[1])[None] < lengths[:, None]
        return ids, mask.astype(np.int32)

    def embed_audio(self, waveform: np.ndarray, sample_rate: int) -> np.ndarray:
        """Embeddings of consecutive 10 s windows, float32 (windows, projection_dim).

        waveform: (samples,) or (samples, channels) at sample_rate Hz, floats in -1..1 or integers
        of 8, 16 or 32 bits (audio/waveforms.py); channels are averaged. See `windows`.
        """
        windows, log_mel = self.windows(waveform, sample_rate), self.config.log_mel()
        return batched(
            lambda rows: self.clap.embed_mel(log_mel(mx.array(windows[rows]))),
            len(windows),
            self.config.projection_dim,
            batch_size=self.batch_size,
        )

    @property
    def window_seconds(self) -> float:
        """Seconds that are embedded at a time."""
        features = self.config.feature_config
        return features.window_samples / features.sampling_rate

    def windows(self, waveform: np.ndarray, sample_rate: int) -> np.ndarray:
        """The waveform at CLAP's rate in mono, cut into windows, float32 (windows, window_samples).

        A last window of less than 1 s is dropped unless it is the only one; a shorter one is
        repeated as often as it fits whole, then zero-padded ("repeatpad"). Raises MusicotError for
        empty, non-finite or wrongly shaped audio.
        """
        features = self.config.feature_config
        mono = mono_at(waveform, sample_rate, features.sampling_rate)
        if features.int16:
            mono = to_int16(mono)
        size = features.window_samples
        return np.stack([repeat_pad(p, size) for p in cut(mono, size, features.sampling_rate)])


def load(folder: str | Path, *, name: str | None = None, batch_size: int = 4) -> ClapEmbedder:
    """The ClapEmbedder of a folder with model_type "clap", or of a larger model that holds one;
    name is for messages. No other network of the folder is read.

    Raises MusicotError for a folder without CLAP, weights that don't fit the config, or a missing
    or foreign tokenizer.json.
    """
    family = family_of(folder)
    if "clap" not in family.get("parts"):
        raise MusicotError(f"{name or folder} holds no CLAP; pass one that does, or a CLAP folder")
    loaded = load_parts(
        folder, family.get("parts"), model_type=family.model_type, only=("clap",), name=name
    )
    tokenizer = loaded.file("tokenizer.json")
    return ClapEmbedder(
        loaded.networks["clap"],
        tokenizer,
        batch_size=batch_size,
        space_name=loaded.config.get("space"),
    )


def load_embedded() -> ClapEmbedder:
    """The CLAP of the embedded model, alone."""
    return load(resolve(EMBEDDED[0]), name=EMBEDDED[0])


def _digest(module: nn.Module) -> str:
    """Eight letters that other weights hardly share, whatever dtype they are kept in."""
    state = hashlib.blake2b(digest_size=4)
    for name, value in sorted(tree_flatten(module.parameters())):
        state.update(name.encode())
        state.update(np.array(value.astype(mx.float32)).tobytes())
    return state.hexdigest()


def to_int16(waveform: np.ndarray) -> np.ndarray:
    """The waveform as laion_clap reads it: clipped to -1..1, cut (not rounded) to 1 / 32767."""
    clipped = np.clip(waveform, -1.0, 1.0).astype(np.float32)
    return ((clipped * np.float32(32767.0)).astype(np.int16) / 32767.0).astype(np.float32)


def repeat_pad(waveform: np.ndarray, samples: int) -> np.ndarray:
    """A short waveform (n,) repeated floor(samples / n) times, then zeros: float32 (samples,)."""
    out = np.zeros(samples, dtype=np.float32)
    if len(waveform):
        repeated = np.tile(waveform[:samples], max(samples // len(waveform), 1))
        out[: len(repeated)] = repeated
    return out


def checked_tokenizer(
    tokenizer: Tokenizer | str | os.PathLike[str],
    config: ClapTextConfig,
    *,
    where: str = "the tokenizer",
) -> Tokenizer:
    """The tokenizer, if its vocabulary is the one that the text tower was trained on.

    Raises MusicotError for an unreadable file, another vocabulary size, or other ids of <s>, <pad>
    and </s>; `where` names the tokenizer in the message.
    """
    if not isinstance(tokenizer, Tokenizer):
        where = os.fspath(tokenizer)
        tokenizer = read_tokenizer(where)
    size = tokenizer.get_vocab_size(with_added_tokens=True)
    if size != config.vocab_size:
        raise MusicotError(
            f"{where} has {size} tokens but clap.text_config.vocab_size is {config.vocab_size}; "
            "use the tokenizer.json that came with the checkpoint"
        )
    wanted = {
        "<s>": config.bos_token_id,
        "<pad>": config.pad_token_id,
        "</s>": config.eos_token_id,
    }
    for token, expected in wanted.items():
        if tokenizer.token_to_id(token) != expected:
            raise MusicotError(
                f"{where} gives {token} the id {tokenizer.token_to_id(token)}, "
                f"CLAP expects {expected}; "
                "use the tokenizer.json that came with the checkpoint"
            )
    tokenizer.no_padding()  # what its last user asked for would pad or cut a second time
    tokenizer.no_truncation()
    return tokenizer
