"""Magenta RealTime 2's language model: a frame of twelve codes from the frames before and a style.

Live Music Models (arXiv 2508.04651); upstream `magenta_rt.mlx.depthformer` (magenta-rt 2.0.3). A
temporal transformer takes one step a frame of 40 ms, a small depth transformer then writes the
twelve codes of the frame, coarse to fine. There are no positions anywhere: attention sees a window
of the last frames as a set, and a learned sink. What a frame is asked to be (tokens/magenta_rt2.py)
is one vector that depends on nothing else, its keys and values are all that the temporal layers
need of it.

Where we differ: the keys of a window lie in a ring of fixed size, so a frame is one graph whose
shapes never change; the sink is the ring's first slot, its key divided by the scale of queries that
upstream leaves it without; keys and values of a condition are made once, not once a frame; each
level of the depth transformer has a head of the 1,024 codes that it can write.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from musicot_mlx.tokens.magenta_rt2 import CONTROL_ROWS, CONTROLS, STYLE_SPECIAL
from musicot_mlx.weights.config import config_from_dict

EPS = 1e-6
Ring = tuple[mx.array, mx.array]  # keys and values (rows, heads, 1 + window, head_dim)


@dataclass(frozen=True)
class DepthformerConfig:
    """Sizes; the defaults are those of `small`.

    past: frames before the present one that a temporal layer sees.
    """

    condition_dim: int = 256
    style_dim: int = 768
    temporal_layers: int = 12
    temporal_dim: int = 1024
    temporal_ffn_dim: int = 4096
    temporal_heads: int = 8
    past: int = 41
    depth_layers: int = 2
    depth_dim: int = 768
    depth_ffn_dim: int = 3072
    depth_heads: int = 6
    head_dim: int = 128
    codebooks: int = 12
    codebook_size: int = 1024
    reserved: int = 6  # ids before those of the first codebook
    style_levels: int = 12
    style_codes: int = 1024
    frame_rate: float = 25.0
    logit_cap: float = 30.0

    def __post_init__(self) -> None:
        sizes = {name: value for name, value in vars(self).items() if name != "logit_cap"}
        for name, value in sizes.items():
            if value < 1 and name not in ("past", "reserved"):
                raise ValueError(f"{name} is {value}, expected at least 1")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "DepthformerConfig":
        return config_from_dict(cls, values, where="lm")

    @property
    def window(self) -> int:
        """Frames that a temporal layer sees, the present one among them."""
        return self.past + 1

    @property
    def reach(self) -> int:
        """Frames before one that it depends on, but for the codes just before these."""
        return self.temporal_layers * self.past

    @property
    def vocabulary(self) -> int:
        return self.reserved + self.codebooks * self.codebook_size

    @property
    def style_rows(self) -> int:
        """Rows of the style table that belong to one level."""
        return self.style_codes + STYLE_SPECIAL


MRT2_SMALL = DepthformerConfig()
MRT2_BASE = DepthformerConfig(
    condition_dim=1024, temporal_layers=20, temporal_dim=3072, temporal_ffn_dim=8192,
    temporal_heads=24, past=25, depth_layers=6, depth_dim=1024, depth_ffn_dim=4096, depth_heads=8,
)  # fmt: skip


class Attention(nn.Module):
    """A norm, attention, a norm and the sum; keys and values may come from another width."""

    def __init__(self, config: DepthformerConfig, dim: int, heads: int, source_dim: int) -> None:
        super().__init__()
        self._heads, width = heads, heads * config.head_dim
        self.pre = nn.RMSNorm(dim, eps=EPS)
        self.query = nn.Linear(dim, width, bias=False)
        self.key = nn.Linear(source_dim, width, bias=False)
        self.value = nn.Linear(source_dim, width, bias=False)
        self.scale = mx.ones((config.head_dim,))  # of queries, a factor a channel
        self.out = nn.Linear(width, dim, bias=False)
        self.post = nn.RMSNorm(dim, eps=EPS)

    def keys_values(self, source: mx.array) -> Ring:
        """Of what is attended to, (rows, time, source_dim), which is normed already."""
        return self._split(self.key(source)), self._split(self.value(source))

    def attend(
        self, x: mx.array, normed: mx.array, keys: mx.array, values: mx.array, mask: Any
    ) -> mx.array:
        q = self._split(self.query(normed)) * self.scale.astype(x.dtype)
        y = mx.fast.scaled_dot_product_attention(q, keys, values, scale=1.0, mask=mask)
        return x + self.post(self.out(y.swapaxes(1, 2).flatten(2)))

    def _split(self, x: mx.array) -> mx.array:
        return x.reshape(*x.shape[:2], self._heads, -1).swapaxes(1, 2)


class SinkAttention(Attention):
    """Attention whose first key and value are learned: what to attend to where nothing fits."""

    def __init__(self, config: DepthformerConfig, dim: int, heads: int, source_dim: int) -> None:
        super().__init__(config, dim, heads, source_dim)
        self.sink_key = mx.zeros((heads, config.head_dim))
        self.sink_value = mx.zeros((heads, config.head_dim))

    def sink(self, rows: int) -> Ring:
        """Key and value (rows, heads, 1, head_dim); its logit is of the unscaled query."""
        key = self.sink_key.astype(mx.float32) / self.scale.astype(mx.float32)
        shape = (rows, *key.shape[:1], 1, key.shape[1])
        dtype = self.pre.weight.dtype
        key, value = key.astype(dtype), self.sink_value.astype(dtype)
        return mx.broadcast_to(key[:, None], shape), mx.broadcast_to(value[:, None], shape)


class FeedForward(nn.Module):
    """A norm, two layers with GELU between, a norm and the sum."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.pre = nn.RMSNorm(dim, eps=EPS)
        self.up = nn.Linear(dim, hidden)
        self.down = nn.Linear(hidden, dim)
        self.post = nn.RMSNorm(dim, eps=EPS)

    def __call__(self, x: mx.array) -> mx.array:
        return x + self.post(self.down(nn.gelu_approx(self.up(self.pre(x)))))


class TemporalLayer(nn.Module):
    """Attention over the frames of the window, over their conditions, and a feed-forward."""

    def __init__(self, config: DepthformerConfig) -> None:
        super().__init__()
        dim, heads = config.temporal_dim, config.temporal_heads
        self.self_attn = SinkAttention(config, dim, heads, dim)
        self.cross_attn = SinkAttention(config, dim, heads, config.condition_dim)
        self.ffn = FeedForward(dim, config.temporal_ffn_dim)

    def __call__(self, x: mx.array, conditions: mx.array, mask: mx.array) -> mx.array:
        """Frames (rows, time, dim) at once, each with its condition (rows, time, condition_dim)."""
        normed = self.self_attn.pre(x)
        keys, values = _after(self.self_attn.sink(len(x)), self.self_attn.keys_values(normed))
        x = self.self_attn.attend(x, normed, keys, values, mask)
        keys, values = _after(self.cross_attn.sink(len(x)), self.cross_attn.keys_values(conditions))
        x = self.cross_attn.attend(x, self.cross_attn.pre(x), keys, values, mask)
        return self.ffn(x)

    def step(
        self, x: mx.array, cross: Ring, rings: tuple[Ring, Ring], slot: mx.array, mask: mx.array
    ) -> tuple[mx.array, tuple[Ring, Ring]]:
        """One frame (rows, 1, dim); cross: its condition's key and value, (rows, heads, 1, ...)."""
        normed = self.self_attn.pre(x)
        own = _written(rings[0], self.self_attn.keys_values(normed), slot)
        x = self.self_attn.attend(x, normed, *own, mask)
        asked = _written(rings[1], cross, slot)
        x = self.cross_attn.attend(x, self.cross_attn.pre(x), *asked, mask)
        return self.ffn(x), (own, asked)


class DepthLayer(nn.Module):
    """Attention over the codes of the frame so far, and a feed-forward."""

    def __init__(self, config: DepthformerConfig) -> None:
        super().__init__()
        dim = config.depth_dim
        self.self_attn = Attention(config, dim, config.depth_heads, dim)
        self.ffn = FeedForward(dim, config.depth_ffn_dim)

    def __call__(
        self, x: mx.array, before: Ring | None = None, mask: str | None = None
    ) -> tuple[mx.array, Ring]:
        """Levels (rows, levels, dim) after those of which `before` are the keys and values."""
        normed = self.self_attn.pre(x)
        keys, values = self.self_attn.keys_values(normed)
        if before is not None:
            keys, values = _after(before, (keys, values))
        return self.ffn(self.self_attn.attend(x, normed, keys, values, mask)), (keys, values)


class DepthBody(nn.Module):
    """The codes of one frame, coarse to fine; its input 0 is the temporal transformer's output."""

    def __init__(self, config: DepthformerConfig) -> None:
        super().__init__()
        self._cap = config.logit_cap
        self.project = nn.Linear(config.temporal_dim, config.depth_dim, bias=False)
        self.layers = [DepthLayer(config) for _ in range(config.depth_layers)]
        self.norm = nn.LayerNorm(config.depth_dim, eps=EPS)
        self.heads = [
            nn.Linear(config.depth_dim, config.codebook_size) for _ in range(config.codebooks)
        ]

    def logits(self, level: int, x: mx.array) -> mx.array:
        """Float32 logits (..., codebook_size) of one level from hidden states (..., depth_dim)."""
        logits = self.heads[level](self.norm(x)).astype(mx.float32)
        return self._cap * mx.tanh(logits / self._cap)


class Conditioner(nn.Module):
    """The integers of a frame (tokens/magenta_rt2.py) to its condition (..., condition_dim)."""

    def __init__(self, config: DepthformerConfig) -> None:
        super().__init__()
        self._levels, self._rows = config.style_levels, config.style_rows
        self.style = nn.Embedding(config.style_levels * config.style_rows, config.style_dim)
        self.project = nn.Linear(config.style_dim, config.condition_dim, bias=False)
        self.controls = nn.Embedding(CONTROL_ROWS, config.condition_dim)
        self.norm = nn.LayerNorm(config.condition_dim, eps=EPS)

    def __call__(self, ids: mx.array) -> mx.array:
        style, controls = mx.split(ids, [self._levels], axis=-1)
        style = self.style(style + mx.arange(self._levels) * self._rows).sum(axis=-2)
        controls = self.controls(controls + mx.array(CONTROLS)).mean(axis=-2)
        return self.norm((self.project(style) + controls) / 2)


class Depthformer(nn.Module):
    """Frames of codes, one after another.

    `lm(codes, conditions)` gives the logits of all frames at once, to train and to score;
    generation (generation/magenta_rt2.py) works with `condition`, `cross`, `rings`, `step`, and
    `depth`. The model holds no state: rings belong to the run. Tokens are ids of one vocabulary:
    code + reserved + codebook_size * level; a song begins after a frame of zeros.
    """

    def __init__(self, config: DepthformerConfig) -> None:
        super().__init__()
        self.config = config
        self.conditioner = Conditioner(config)
        self.tokens = nn.Embedding(config.vocabulary, config.temporal_dim)
        self.layers = [TemporalLayer(config) for _ in range(config.temporal_layers)]
        self.depth = DepthBody(config)

    @property
    def dtype(self) -> mx.Dtype:
        """Dtype of the hidden states: a layer's norm is never quantised, so it tells; that before
        the heads is float32 wherever the model runs.
        """
        return self.layers[0].self_attn.pre.weight.dtype

    @property
    def blocks(self) -> list[nn.Module]:
        """The layers of both transformers, in the order that a frame goes through them."""
        return [*self.layers, *self.depth.layers]

    def __call__(
        self, codes: mx.array, conditions: mx.array, before: mx.array | None = None
    ) -> mx.array:
        """Float32 logits (rows, frames, codebooks, codebook_size) of codes (rows, frames,
        codebooks), each frame from those before it and its condition (rows, frames, condition_dim).

        before: ids (rows, codebooks) of the frame before the first; zeros, a song's, where None.
        """
        config, (rows, frames, levels) = self.config, codes.shape
        ids = self.ids(codes)
        first = mx.zeros_like(ids[:, 0]) if before is None else before
        shifted = mx.concatenate([first[:, None], ids[:, :-1]], axis=1)
        x, mask = self.embed(shifted), window_mask(frames, config.window)
        for layer in self.layers:
            x = layer(x, conditions, mask)
        coarser = self._scaled(ids[..., :-1]).astype(x.dtype)
        x = mx.concatenate([x[:, :, None], coarser], axis=2).reshape(rows * frames, levels, -1)
        x = self.depth.project(x)
        for layer in self.depth.layers:
            x, _ = layer(x, mask="causal")
        logits = [self.depth.logits(level, x[:, level]) for level in range(levels)]
        return mx.stack(logits, axis=1).reshape(rows, frames, levels, -1)

    def ids(self, codes: mx.array) -> mx.array:
        """Codes (..., codebooks) as ids of the vocabulary."""
        levels = mx.arange(self.config.codebooks) * self.config.codebook_size
        return codes + levels + self.config.reserved

    def embed(self, ids: mx.array) -> mx.array:
        """Frames of ids (rows, frames, codebooks) to (rows, frames, temporal_dim)."""
        return self._scaled(ids).astype(mx.float32).mean(axis=-2).astype(self.dtype)

    def condition(self, ids: mx.array) -> mx.array:
        """Conditions (..., condition_dim) of the integers (..., 144) of frames."""
        return self.conditioner(ids).astype(self.dtype)

    def cross(self, conditions: mx.array) -> list[Ring]:
        """What the layers need of conditions (rows, 1, condition_dim): a key and value each."""
        return [layer.cross_attn.keys_values(conditions) for layer in self.layers]

    def rings(self, rows: int) -> list[tuple[Ring, Ring]]:
        """A layer's windows before the first frame: the sinks, and slots to be filled."""
        config = self.config
        shape = (rows, config.temporal_heads, config.window, config.head_dim)
        empty = mx.zeros(shape, dtype=self.dtype)
        return [
            (
                _after(layer.self_attn.sink(rows), (empty, empty)),
                _after(layer.cross_attn.sink(rows), (empty, empty)),
            )
            for layer in self.layers
        ]

    def step(
        self,
        ids: mx.array,
        cross: Sequence[Ring],
        rings: Sequence[tuple[Ring, Ring]],
        frame: mx.array,
        first: mx.array,
    ) -> tuple[mx.array, list[tuple[Ring, Ring]]]:
        """One frame: ids (rows, codebooks) of the one before to (rows, 1, temporal_dim).

        frame and first: int32 arrays, which frame of the song it is and which the rings began with;
        a frame stands in the rings where its number says, so that sums are of the same order
        wherever a run began.
        """
        window = self.config.window
        x, slot = self.embed(ids[:, None]), 1 + frame % window
        held = frame - (frame - mx.arange(window)) % window  # the frame in each slot
        mask = mx.concatenate([mx.array([True]), held >= first])
        kept = []
        for layer, asked, own in zip(self.layers, cross, rings, strict=True):
            x, ring = layer.step(x, asked, own, slot, mask)
            kept.append(ring)
        return x, kept

    def level(
        self, level: int, x: mx.array, before: Sequence[Ring | None]
    ) -> tuple[mx.array, list[Ring]]:
        """Logits (rows, codebook_size) of a level from its input (rows, 1, temporal_dim), and the
        keys and values of the levels so far.
        """
        x, kept = self.depth.project(x), []
        for layer, ring in zip(self.depth.layers, before, strict=True):
            x, ring = layer(x, ring)
            kept.append(ring)
        return self.depth.logits(level, x[:, 0]), kept

    def level_input(self, level: int, codes: mx.array) -> mx.array:
        """What the next level is told of codes (rows,) of one: (rows, 1, temporal_dim)."""
        first = self.config.reserved + level * self.config.codebook_size
        return self._scaled((codes + first)[:, None]).astype(self.dtype)

    def _scaled(self, ids: mx.array) -> mx.array:
        return self.tokens(ids) * math.sqrt(self.config.temporal_dim)


def window_mask(frames: int, window: int) -> mx.array:
    """Who sees whom, bool (frames, 1 + frames): all the sink, each the last `window` frames."""
    frame, other = mx.arange(frames)[:, None], mx.arange(frames)[None]
    seen = (other <= frame) & (other > frame - window)
    return mx.pad(seen, ((0, 0), (1, 0)), constant_values=mx.array(True))


def _after(first: Ring, then: Ring) -> Ring:
    keys, values = (mx.concatenate(pair, axis=2) for pair in zip(first, then, strict=True))
    return keys, values


def _written(ring: Ring, new: Ring, slot: mx.array) -> Ring:
    """The ring with one frame's key and value in a slot."""
    keys, values = (
        mx.slice_update(old, value, slot, axes=(2,)) for old, value in zip(ring, new, strict=True)
    )
    return keys, values
