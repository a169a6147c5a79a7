"""MusicCoCa: a text or ten seconds of music to a vector of one space, and from text to music.

Live Music Models (arXiv 2508.04651), after CoCa (arXiv 2205.01917) and MuLan (arXiv 2208.12415);
upstream publishes it as TFLite files (magenta-rt 2.0.3), whose arrays convert reads. Two pre-norm
transformers of one shape, each pooled by one learned query: over the pieces of a text, and over
patches of a log-mel spectrogram. The mapper is a third network: a few tokens of noise, told what
the text is, become a vector such as music has; other noise is another thought for the same words.

Where we differ: upstream also blanks the padding inside the text tower's feed-forward layers, but
no key, value or pooled sum reads a padded place, so it changes nothing and texts may be cut to the
longest of a batch; the mapper's sink key is divided by the scale of queries that upstream leaves it
without, so it is one key among the others.
"""

from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from musicot_mlx.weights.config import config_from_dict

EPS = 1e-6


@dataclass(frozen=True)
class MelConfig:
    """The log-mel front end; frame, hop and fft in samples, frames as many as the tower takes."""

    frame: int = 400
    hop: int = 160
    fft: int = 2048
    bins: int = 128
    frames: int = 992
    pre_emphasis: float = 0.97
    floor: float = 1e-3  # added to the power before the logarithm


@dataclass(frozen=True)
class MapperConfig:
    """From a text's vector to one of music; context: channels learned beside the text's."""

    tokens: int = 12
    width: int = 256
    layers: int = 8
    heads: int = 8
    head_dim: int = 64
    ffn: int = 1024
    cap: float = 30.0
    context: int = 128


@dataclass(frozen=True)
class MusicCoCaConfig:
    """Sizes of both towers; the defaults are the published ones.

    cap: logits of attention stay within it. patch: side of a square of the spectrogram. mapper:
    None where a bundle came without.
    """

    dim: int = 768
    layers: int = 12
    heads: int = 12
    head_dim: int = 64
    ffn: int = 3072
    cap: float = 50.0
    pool_heads: int = 12
    pool_dim: int = 256
    vocab: int = 16000
    text_length: int = 128  # pieces, the first of them the start
    patch: int = 16
    sample_rate: int = 16000
    clip_seconds: float = 10.0
    tower_norm: float = 1.0  # length of the towers' vectors where they are quantised or mapped
    mel: MelConfig = field(default_factory=MelConfig)
    mapper: MapperConfig | None = field(default_factory=MapperConfig)

    def __post_init__(self) -> None:
        mel = self.mel
        if mel.frames % self.patch or mel.bins % self.patch:
            raise ValueError(
                f"a spectrogram of {mel.frames} x {mel.bins} has no whole patches of {self.patch}"
            )
        needed = (mel.frames - 1) * mel.hop + mel.frame
        if needed > self.clip_samples or mel.frame > mel.fft:
            raise ValueError(
                f"{mel.frames} frames of {mel.frame} samples, fft {mel.fft}, do not fit a clip of "
                f"{self.clip_samples} samples"
            )

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "MusicCoCaConfig":
        return config_from_dict(cls, values, where="musiccoca")

    @property
    def clip_samples(self) -> int:
        return round(self.clip_seconds * self.sample_rate)

    @property
    def patches(self) -> int:
        """Tokens of the audio tower."""
        return (self.mel.frames // self.patch) * (self.mel.bins // self.patch)


MUSICCOCA = MusicCoCaConfig()


class LogMel(nn.Module):
    """Clips (rows, samples) to float32 log-mel (rows, frames, bins).

    Window and filters are part of the published model, not derived here.
    """

    def __init__(self, config: MelConfig) -> None:
        super().__init__()
        self._config = config
        self.window = mx.zeros((config.frame,))
        self.filters = mx.zeros((config.fft // 2 + 1, config.bins))

    def __call__(self, clips: mx.array) -> mx.array:
        config = self._config
        x = clips.astype(mx.float32)
        x = x - config.pre_emphasis * mx.pad(x, ((0, 0), (1, 0)))[:, :-1]
        rows, samples = x.shape
        x = mx.as_strided(
            mx.contiguous(x), (rows, config.frames, config.frame), (samples, config.hop, 1)
        )
        spectrum = mx.fft.rfft(x * self.window.astype(mx.float32), n=config.fft)
        power = mx.square(spectrum.real) + mx.square(spectrum.imag)  # (rows, frames, fft / 2 + 1)
        return mx.log(power @ self.filters.astype(mx.float32) + config.floor)


class Attention(nn.Module):
    """Pre-norm self-attention with capped logits; the scale of queries lies in their weights."""

    def __init__(self, config: MusicCoCaConfig) -> None:
        super().__init__()
        self._heads, self._cap = config.heads, config.cap
        width = config.heads * config.head_dim
        self.norm = nn.LayerNorm(config.dim, eps=EPS)
        self.query = nn.Linear(config.dim, width)
        self.key = nn.Linear(config.dim, width)
        self.value = nn.Linear(config.dim, width)
        self.out = nn.Linear(width, config.dim)

    def __call__(self, x: mx.array, mask: mx.array | None) -> mx.array:
        normed = self.norm(x)
        q, k, v = (
            split_heads(project(normed), self._heads)
            for project in (self.query, self.key, self.value)
        )
        return x + self.out(self._attend(q, k, v, mask))

    def _attend(self, q: mx.array, k: mx.array, v: mx.array, mask: mx.array | None) -> mx.array:
        return capped_attention(q, k, v, cap=self._cap, mask=mask)


class FeedForward(nn.Module):
    """A norm, two layers with the exact GELU between, and the sum."""

    def __init__(self, config: MusicCoCaConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.dim, eps=EPS)
        self.up = nn.Linear(config.dim, config.ffn)
        self.down = nn.Linear(config.ffn, config.dim)

    def __call__(self, x: mx.array) -> mx.array:
        return x + self.down(nn.gelu(self.up(self.norm(x))))


class TowerLayer(nn.Module):
    """Attention and a feed-forward on (rows, time, dim)."""

    def __init__(self, config: MusicCoCaConfig) -> None:
        super().__init__()
        self.attn = Attention(config)
        self.ffn = FeedForward(config)

    def __call__(self, x: mx.array, mask: mx.array | None) -> mx.array:
        return self.ffn(self.attn(x, mask))


class Pooler(nn.Module):
    """CoCa's attention pooling: a learned query over (rows, time, dim) to (rows, dim).

    Logits are neither scaled nor capped.
    """

    def __init__(self, config: MusicCoCaConfig) -> None:
        super().__init__()
        width = config.pool_heads * config.pool_dim
        self.query = mx.zeros((config.pool_heads, config.pool_dim))
        self.key = nn.Linear(config.dim, width)
        self.value = nn.Linear(config.dim, width)
        self.out = nn.Linear(width, config.dim)
        self.norm = nn.LayerNorm(config.dim, eps=EPS)

    def __call__(self, x: mx.array, mask: mx.array | None) -> mx.array:
        heads, dim = self.query.shape
        q = mx.broadcast_to(self.query[None, :, None].astype(x.dtype), (len(x), heads, 1, dim))
        k, v = split_heads(self.key(x), heads), split_heads(self.value(x), heads)
        y = mx.fast.scaled_dot_product_attention(q, k, v, scale=1.0, mask=mask)
        return self.norm(self.out(y.reshape(len(x), heads * dim)))


class Tower(nn.Module):
    """Tokens (rows, time, dim) to one vector each, of whatever length it comes out."""

    def __init__(self, config: MusicCoCaConfig, places: int) -> None:
        super().__init__()
        self.positions = mx.zeros((places, config.dim))
        self.layers = [TowerLayer(config) for _ in range(config.layers)]
        self.norm = nn.LayerNorm(config.dim, eps=EPS)
        self.pooler = Pooler(config)

    def __call__(self, x: mx.array, mask: mx.array | None = None) -> mx.array:
        x = x + self.positions[: x.shape[1]]
        for layer in self.layers:
            x = layer(x, mask)
        return self.pooler(self.norm(x), mask)


class TextTower(Tower):
    """Pieces (rows, time), of which the first `lengths` (rows,) are the text, to (rows, dim)."""

    def __init__(self, config: MusicCoCaConfig) -> None:
        super().__init__(config, config.text_length)
        self.tokens = nn.Embedding(config.vocab, config.dim)

    def __call__(self, ids: mx.array, lengths: mx.array) -> mx.array:
        mask = (mx.arange(ids.shape[1]) < lengths[:, None])[:, None, None]  # (rows, 1, 1, time)
        return super().__call__(self.tokens(ids).astype(self.positions.dtype), mask)


class AudioTower(Tower):
    """Log-mel (rows, frames, bins), in patches row by row, to (rows, dim)."""

    def __init__(self, config: MusicCoCaConfig) -> None:
        super().__init__(config, config.patches)
        self._patch = config.patch
        # upstream's bias lies in the positions
        self.project = nn.Linear(config.patch**2, config.dim, bias=False)

    def __call__(self, log_mel: mx.array) -> mx.array:
        rows, frames, bins = log_mel.shape
        side = self._patch
        x = log_mel.reshape(rows, frames // side, side, bins // side, side)
        x = x.swapaxes(2, 3).reshape(rows, -1, side * side)  # (rows, patches, patch ** 2)
        return super().__call__(self.project(x.astype(self.positions.dtype)))


class MapperLayer(nn.Module):
    """Attention and a feed-forward, each on a norm that the context scales and shifts."""

    def __init__(self, config: MapperConfig, context_dim: int) -> None:
        super().__init__()
        width, inner = config.width, config.heads * config.head_dim
        self._heads, self._cap, self._scale = config.heads, config.cap, config.head_dim**-0.5
        self.attn_norm = nn.RMSNorm(width, eps=EPS)
        self.attn_condition = nn.Linear(context_dim, 2 * width)  # scale, shift
        self.qkv = nn.Linear(width, 3 * inner, bias=False)
        self.sink_key = mx.zeros((config.heads, config.head_dim))
        self.sink_value = mx.zeros((config.heads, config.head_dim))
        self.out = nn.Linear(inner, width, bias=False)
        self.ffn_norm = nn.RMSNorm(width, eps=EPS)
        self.ffn_condition = nn.Linear(context_dim, 2 * width)
        self.up = nn.Linear(width, config.ffn)
        self.down = nn.Linear(config.ffn, width)

    def __call__(self, x: mx.array, context: mx.array) -> mx.array:
        """x: (rows, tokens, width), context: (rows, 1, context_dim)."""
        normed = _adapted(self.attn_norm(x), self.attn_condition(context))
        q, k, v = (split_heads(y, self._heads) for y in mx.split(self.qkv(normed), 3, axis=-1))
        q, k = (
            mx.fast.rope(y, y.shape[-1], traditional=False, base=1e4, scale=1.0, offset=0)
            for y in (q, k)
        )
        k = self._after_sink(self.sink_key / self._scale, k)
        v = self._after_sink(self.sink_value, v)
        x = x + self.out(capped_attention(q * self._scale, k, v, cap=self._cap))
        normed = _adapted(self.ffn_norm(x), self.ffn_condition(context))
        return x + self.down(nn.gelu_approx(self.up(normed)))

    def _after_sink(self, sink: mx.array, x: mx.array) -> mx.array:
        shape = (*x.shape[:2], 1, x.shape[-1])
        return mx.concatenate([mx.broadcast_to(sink[None, :, None], shape).astype(x.dtype), x], 2)


class Mapper(nn.Module):
    """Vectors of texts and noise, both (rows, dim), to vectors of music (rows, dim) in one step."""

    def __init__(self, config: MapperConfig, dim: int) -> None:
        super().__init__()
        self._width = config.width
        flat = config.tokens * config.width
        self.context = mx.zeros((config.context,))
        self.first = nn.Linear(dim, flat)
        self.layers = [MapperLayer(config, 2 * config.context + dim) for _ in range(config.layers)]
        self.last = nn.Linear(flat, dim)

    def __call__(self, text: mx.array, noise: mx.array) -> mx.array:
        rows, dtype = len(text), self.context.dtype
        learned = mx.broadcast_to(self.context, (rows, self.context.size))
        context = mx.concatenate([learned, learned, text.astype(dtype)], axis=-1)[:, None]
        x = self.first(noise.astype(dtype)).reshape(rows, -1, self._width)
        for layer in self.layers:
            x = layer(x, context)
        return self.last(x.flatten(1))


class MusicCoCa(nn.Module):
    """Texts and clips to float32 vectors (rows, dim) of one space.

    What the towers give has no set length; `map_text` gives unit vectors.
    """

    def __init__(self, config: MusicCoCaConfig) -> None:
        super().__init__()
        self.config = config
        self.mel = LogMel(config.mel)
        self.text = TextTower(config)
        self.audio = AudioTower(config)
        if config.mapper is not None:
            self.mapper = Mapper(config.mapper, config.dim)

    def embed_text(self, ids: mx.array, lengths: mx.array) -> mx.array:
        """Vectors of texts: ids (rows, up to text_length) and how many of each are its own.

        The lengths are needed because 0, which fills a row, may also be the id of an unknown piece.
        Raises ValueError for longer rows.
        """
        if ids.shape[1] > self.config.text_length:
            raise ValueError(
                f"a text of {ids.shape[1]} ids is longer than the {self.config.text_length} that "
                "MusicCoCa reads; cut it"
            )
        return self.text(ids, lengths).astype(mx.float32)

    def embed_audio(self, clips: mx.array) -> mx.array:
        """Vectors of clips (rows, clip_samples) in mono at sample_rate; ValueError for others."""
        if clips.ndim != 2 or clips.shape[1] != self.config.clip_samples:
            raise ValueError(
                f"clips are {clips.shape}, expected (rows, {self.config.clip_samples}): "
                f"{self.config.clip_seconds:g} s in mono at {self.config.sample_rate} Hz"
            )
        return self.audio(self.mel(clips)).astype(mx.float32)

    def map_text(self, text_vectors: mx.array, noise: mx.array) -> mx.array:
        """Unit vectors such as music has, of texts as `embed_text` gives them and normal noise.

        Raises ValueError for a model without mapper.
        """
        if "mapper" not in self:
            raise ValueError("this MusicCoCa has no mapper; convert a bundle with mapper.tflite")
        vectors = self.mapper(text_vectors, noise).astype(mx.float32)
        return vectors / mx.linalg.norm(vectors, axis=-1, keepdims=True)


def split_heads(x: mx.array, heads: int) -> mx.array:
    """(rows, time, heads * head_dim) to (rows, heads, time, head_dim)."""
    return x.reshape(*x.shape[:2], heads, -1).swapaxes(1, 2)


def capped_attention(
    q: mx.array, k: mx.array, v: mx.array, *, cap: float, mask: mx.array | None = None
) -> mx.array:
    """Attention of scaled queries whose logits stay within +-cap: (rows, time, heads * head_dim).

    The fused kernel has no cap.
    """
    logits = (q @ k.swapaxes(-1, -2)).astype(mx.float32)
    logits = cap * mx.tanh(logits / cap)
    if mask is not None:
        logits = mx.where(mask, logits, -mx.inf)
    y = mx.softmax(logits, axis=-1).astype(v.dtype) @ v
    return y.swapaxes(1, 2).flatten(2)


def _adapted(normed: mx.array, condition: mx.array) -> mx.array:
    scale, shift = mx.split(condition, 2, axis=-1)
    return normed * (scale + 1) + shift
