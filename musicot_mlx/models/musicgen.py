"""MusicGen's decoder: a transformer over several codebooks at once, conditioned on text.

arXiv 2306.05284; reference implementations transformers.MusicgenForCausalLM and, for the melody
models, transformers.MusicgenMelodyForCausalLM. At each position every codebook has one token, their
embeddings are summed, and every codebook has a head of its own. Text reaches the music by
cross-attention; in a melody model there is none, and chroma and text stand before the first
position instead.

Where we differ: queries, keys and values are one matrix, all embeddings one table read by one
gather, all heads one matrix; keys and values of the text are projected once a song (`cross`), not
at each step; and a row without text skips cross-attention, because keys and values of nothing are
zeros and add nothing. Rows of one batch may have prefixes of different lengths: shorter ones are
padded on the left and masked, where the reference lets a row attend to its neighbours' padding.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from musicot_mlx.nn.mlx_lm import KVCache
from musicot_mlx.weights.config import config_from_dict

_ACTIVATIONS = {"gelu": nn.GELU, "relu": nn.ReLU}


@dataclass(frozen=True)
class MusicgenConfig:
    """Sizes of the decoder; the defaults are musicgen-small. Names are the checkpoint's.

    Raises ValueError where heads or channels do not divide.
    """

    vocab_size: int = 2048  # codes of a codebook; one more id, `pad_id`, stands where none is
    max_position_embeddings: int = 2048
    num_hidden_layers: int = 24
    ffn_dim: int = 4096
    num_attention_heads: int = 16
    hidden_size: int = 1024
    activation_function: Literal["gelu", "relu"] = "gelu"
    num_codebooks: int = 4  # of all channels: 8 in stereo
    audio_channels: int = 1
    text_hidden_size: int = 768  # of the text encoder
    num_chroma: int = 0  # pitch classes of a melody; 0 is a model without
    chroma_length: int = 235  # chroma frames before the first position of a melody model
    chroma_rate: float = 7.8125  # chroma frames a second: 32 kHz in hops of 4096 samples
    frame_rate: float = 50.0  # frames a second, the codec's

    def __post_init__(self) -> None:
        if self.hidden_size % (2 * self.num_attention_heads):
            raise ValueError(
                f"hidden_size {self.hidden_size} does not divide into "
                f"{self.num_attention_heads} heads of even size"
            )
        if self.audio_channels not in (1, 2):
            raise ValueError(f"audio_channels is {self.audio_channels}, expected 1 or 2")
        if self.num_codebooks % self.audio_channels:
            raise ValueError(
                f"num_codebooks is {self.num_codebooks}, expected a multiple of the "
                f"{self.audio_channels} channels"
            )

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "MusicgenConfig":
        return config_from_dict(cls, values, where="decoder")

    @property
    def pad_id(self) -> int:
        """The id of "no code here": before the first frame, and where a delay has not ended."""
        return self.vocab_size

    @property
    def melody(self) -> bool:
        return self.num_chroma > 0


_MEDIUM = {"hidden_size": 1536, "ffn_dim": 6144, "num_hidden_layers": 48, "num_attention_heads": 24}
_LARGE = {"hidden_size": 2048, "ffn_dim": 8192, "num_hidden_layers": 48, "num_attention_heads": 32}
_STEREO = {"num_codebooks": 8, "audio_channels": 2}
MUSICGEN_SMALL = MusicgenConfig()
MUSICGEN_MEDIUM = MusicgenConfig(**_MEDIUM)
MUSICGEN_LARGE = MusicgenConfig(**_LARGE)
MUSICGEN_MELODY = MusicgenConfig(**_MEDIUM, num_chroma=12)
MUSICGEN_MELODY_LARGE = MusicgenConfig(**_LARGE, num_chroma=12)
MUSICGEN_STEREO_SMALL = MusicgenConfig(**_STEREO)
MUSICGEN_STEREO_MEDIUM = MusicgenConfig(**_MEDIUM, **_STEREO)
MUSICGEN_STEREO_LARGE = MusicgenConfig(**_LARGE, **_STEREO)
MUSICGEN_STEREO_MELODY = MusicgenConfig(**_MEDIUM, **_STEREO, num_chroma=12)
MUSICGEN_STEREO_MELODY_LARGE = MusicgenConfig(**_LARGE, **_STEREO, num_chroma=12)


def sinusoids(positions: int, channels: int) -> np.ndarray:
    """Position embeddings, float32 (positions, channels): cosines first, then sines."""
    half = channels // 2
    steps = np.arange(half, dtype=np.float32) * np.float32(-math.log(10000) / (half - 1))
    angles = np.arange(positions, dtype=np.float32)[:, None] * np.exp(steps)[None]
    return np.concatenate([np.cos(angles), np.sin(angles)], axis=1)


@dataclass(frozen=True)
class TextKeysValues:
    """What the text of some rows is to one layer: keys and values (rows, heads, tokens, head_dim).

    mask: bool (rows, 1, 1, tokens), None where every token counts. `rows` may be fewer than the
    batch has: the rows after them have no text.
    """

    keys: mx.array
    values: mx.array
    mask: mx.array | None = None


Step = Callable[..., mx.array]  # takes and gives what `Musicgen.hidden` does


class SelfAttention(nn.Module):
    """Causal attention over what the cache holds."""

    def __init__(self, config: MusicgenConfig) -> None:
        super().__init__()
        self._heads = config.num_attention_heads
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=False)
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def __call__(
        self, x: mx.array, cache: KVCache | None, mask: mx.array | Literal["causal"] | None
    ) -> mx.array:
        batch, time, _ = x.shape
        qkv = self.qkv(x).reshape(batch, time, 3, self._heads, -1)
        q, k, v = qkv.transpose(2, 0, 3, 1, 4)  # (batch, heads, time, head_dim) each
        if cache is not None:
            k, v = cache.update_and_fetch(k, v)
        y = mx.fast.scaled_dot_product_attention(q, k, v, scale=q.shape[-1] ** -0.5, mask=mask)
        return self.out_proj(y.swapaxes(1, 2).reshape(batch, time, -1))


class CrossAttention(nn.Module):
    """Attention over the text; its keys and values are projected by `cross`, once."""

    def __init__(self, config: MusicgenConfig) -> None:
        super().__init__()
        self._heads = config.num_attention_heads
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.kv = nn.Linear(config.hidden_size, 2 * config.hidden_size, bias=False)
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def cross(self, text: mx.array, mask: mx.array | None) -> TextKeysValues:
        """Keys and values of text (rows, tokens, hidden)."""
        rows, tokens, _ = text.shape
        kv = self.kv(text).reshape(rows, tokens, 2, self._heads, -1)
        k, v = kv.transpose(2, 0, 3, 1, 4)  # (batch, heads, time, head_dim) each
        return TextKeysValues(mx.contiguous(k), mx.contiguous(v), mask)

    def __call__(self, x: mx.array, cross: TextKeysValues) -> mx.array:
        batch, time, _ = x.shape
        q = self.q_proj(x).reshape(batch, time, self._heads, -1).swapaxes(1, 2)
        y = mx.fast.scaled_dot_product_attention(
            q, cross.keys, cross.values, scale=q.shape[-1] ** -0.5, mask=cross.mask
        )
        return self.out_proj(y.swapaxes(1, 2).reshape(batch, time, -1))


class DecoderLayer(nn.Module):
    """Self-attention, attention over the text, feed-forward; a norm before each."""

    def __init__(self, config: MusicgenConfig) -> None:
        super().__init__()
        self.activation = _ACTIVATIONS[config.activation_function]()
        self.self_attn = SelfAttention(config)
        self.self_attn_layer_norm = nn.LayerNorm(config.hidden_size)
        if not config.melody:
            self.encoder_attn = CrossAttention(config)
            self.encoder_attn_layer_norm = nn.LayerNorm(config.hidden_size)
        self.fc1 = nn.Linear(config.hidden_size, config.ffn_dim, bias=False)
        self.fc2 = nn.Linear(config.ffn_dim, config.hidden_size, bias=False)
        self.final_layer_norm = nn.LayerNorm(config.hidden_size)

    def __call__(
        self,
        x: mx.array,
        cache: KVCache | None,
        mask: mx.array | Literal["causal"] | None,
        cross: TextKeysValues | None,
    ) -> mx.array:
        x = x + self.self_attn(self.self_attn_layer_norm(x), cache, mask)
        if cross is not None:
            x = self._cross_attend(x, cross)
        return x + self.fc2(self.activation(self.fc1(self.final_layer_norm(x))))

    def _cross_attend(self, x: mx.array, cross: TextKeysValues) -> mx.array:
        rows = cross.keys.shape[0]
        attended = x[:rows]
        attended = attended + self.encoder_attn(self.encoder_attn_layer_norm(attended), cross)
        return attended if rows == x.shape[0] else mx.concatenate([attended, x[rows:]])


class Musicgen(nn.Module):
    """Tokens of all codebooks to logits of the next ones.

    `lm(tokens)` maps int32 (batch, codebooks, time) to logits (batch, codebooks, time, vocab_size);
    rows with text pass `cross=lm.cross(...)`. Generation works with `embed`, `prefix`, `cross`,
    `hidden` and `logits` (generation/musicgen.py). The model holds no state: caches, positions and
    masks belong to the run.
    """

    def __init__(self, config: MusicgenConfig) -> None:
        super().__init__()
        self.config = config
        hidden = config.hidden_size
        self.embed_tokens = nn.Embedding(config.num_codebooks * (config.vocab_size + 1), hidden)
        self.layers = [DecoderLayer(config) for _ in range(config.num_hidden_layers)]
        self.layer_norm = nn.LayerNorm(hidden)
        self.lm_head = nn.Linear(hidden, config.num_codebooks * config.vocab_size, bias=False)
        if config.text_hidden_size != hidden:
            self.enc_to_dec_proj = nn.Linear(config.text_hidden_size, hidden)
        if config.melody:
            self.audio_enc_to_dec_proj = nn.Linear(config.num_chroma, hidden)

    def __call__(
        self,
        tokens: mx.array,
        cache: list[KVCache] | None = None,
        *,
        cross: Sequence[TextKeysValues] | None = None,
    ) -> mx.array:
        """Logits (batch, codebooks, time, vocab_size) of tokens (batch, codebooks, time)."""
        offset = cache[0].offset if cache else 0
        x = self.embed(tokens) + self.positions(offset + tokens.shape[-1])[offset:]
        mask = "causal" if tokens.shape[-1] > 1 else None
        logits = self.logits(self.hidden(x, cache, mask=mask, cross=cross))
        return logits.swapaxes(1, 2)

    @property
    def dtype(self) -> mx.Dtype:
        """Dtype of the hidden state: a norm is never quantised, so it tells."""
        return self.layer_norm.weight.dtype

    def embed(self, tokens: mx.array) -> mx.array:
        """The sum of all codebooks' embeddings: (batch, codebooks, time) -> (batch, time, hidden).

        One gather: codebook k's rows of the table begin at k * (vocab_size + 1).
        """
        config = self.config
        first = mx.arange(config.num_codebooks)[:, None] * (config.vocab_size + 1)
        return self.embed_tokens(tokens + first).sum(axis=1).astype(self.dtype)

    def positions(self, count: int) -> mx.array:
        """Embeddings of the first `count` positions, (count, hidden)."""
        return mx.array(sinusoids(count, self.config.hidden_size)).astype(self.dtype)

    def project_text(self, text: mx.array) -> mx.array:
        """T5 hidden states (..., tokens, text_hidden_size) to (..., tokens, hidden).

        Raises ValueError for states of another size.
        """
        if text.shape[-1] != self.config.text_hidden_size:
            raise ValueError(
                f"text has {text.shape[-1]} channels but this model takes "
                f"{self.config.text_hidden_size}; encode the prompt with the model's own T5"
            )
        text = text.astype(self.dtype)  # another dtype would promote every layer after it
        return self.enc_to_dec_proj(text) if "enc_to_dec_proj" in self else text

    def cross(self, text: mx.array, mask: mx.array | None = None) -> list[TextKeysValues]:
        """Keys and values of the text in every layer, to be kept for a whole song.

        text: T5 hidden states (rows, tokens, text_hidden_size) of the first rows of a batch; mask:
        bool (rows, tokens), false where padded. Raises ValueError in a melody model.
        """
        if self.config.melody:
            raise ValueError("a melody model has no cross-attention; its text goes into prefix()")
        projected = self.project_text(text)
        if mask is not None:
            projected = projected * mask[..., None]
            # a row without any text attends to zeros: its softmax must have something to run over
            mask = (mask | ~mask.any(axis=1, keepdims=True))[:, None, None]
        return [layer.encoder_attn.cross(projected, mask) for layer in self.layers]

    def prefix(
        self, text: mx.array | None, chroma: mx.array | None, *, tokens: int = 0
    ) -> mx.array:
        """What stands before the music of one row of a melody model, (positions, hidden).

        chroma: (frames, num_chroma), repeated or cut to chroma_length; None is "no melody", a
        constant first pitch class. text: T5 hidden states (tokens, text_hidden_size); None is
        `tokens` zeros, as the unconditional row of guidance has. Raises ValueError for another
        number of pitch classes, and in a model without melody.
        """
        config = self.config
        if not config.melody:
            raise ValueError(
                "only a melody model takes a prefix; this one's text goes into cross()"
            )
        if chroma is None:
            chroma = mx.arange(config.num_chroma)[None] == 0
        if chroma.ndim != 2 or chroma.shape[1] != config.num_chroma or not len(chroma):
            raise ValueError(f"chroma is {chroma.shape}, expected (frames, {config.num_chroma})")
        repeats = -(-config.chroma_length // len(chroma))
        chroma = mx.tile(chroma, (repeats, 1))[: config.chroma_length].astype(self.dtype)
        melody = self.audio_enc_to_dec_proj(chroma)
        if text is None:
            text_states = mx.zeros((tokens, config.hidden_size), dtype=self.dtype)
        else:
            text_states = self.project_text(text)
        return mx.concatenate([melody, text_states])

    def hidden(
        self,
        embeddings: mx.array,
        cache: list[KVCache] | None = None,
        *,
        mask: mx.array | Literal["causal"] | None = None,
        cross: Sequence[TextKeysValues] | None = None,
    ) -> mx.array:
        """Last hidden states (batch, time, hidden), normalised, of embeddings with positions."""
        x = embeddings
        count = len(self.layers)
        caches, texts = cache or [None] * count, cross or [None] * count
        for layer, layer_cache, text in zip(self.layers, caches, texts, strict=True):
            x = layer(x, layer_cache, mask, text)
        return self.layer_norm(x)

    def logits(self, hidden: mx.array) -> mx.array:
        """Every codebook's logits (..., codebooks, vocab_size) of hidden states (..., hidden)."""
        logits = self.lm_head(hidden)
        return logits.reshape(*hidden.shape[:-1], self.config.num_codebooks, -1)

    def fast_step(self, rows: int) -> Step:
        """`hidden` for single positions of a run of so many rows, in the quickest form there is."""
        return self.hidden

    def make_cache(self) -> list[KVCache]:
        """An empty cache a layer; it grows in blocks of 256 positions."""
        return [KVCache() for _ in self.layers]
