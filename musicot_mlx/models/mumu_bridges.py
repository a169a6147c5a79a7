"""MuMu-LLaMA's bridges: what encoders make of a song, a picture or a film, as LLaMA hears it.

MuMu-LLaMA (arXiv 2412.06660), section 3, after ImageBind-LLM (arXiv 2309.03905). Of each modality

    encoder states -> one vector (a weighted sum over layers or tokens) -> length 1
                   -> linear -> three residual SwiGLU blocks -> one vector of LLaMA's width

A song's states are averaged over time; upstream's newest code has an RNN and attention over time
instead ("rnn"), of which no weights were ever published. That code has an RNN for films too, of
another width than its features, so that it fails at the first film: films are pooled as before.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

_SHRINK = 1 / (1 + 1e-6)  # upstream weighs the one input of a modality by 1 / (1 + 1e-6)


@dataclass(frozen=True)
class BridgesConfig:
    """audio_states: encoder states of a song, one more than layers; image_tokens and video_tokens:
    tokens that ViT and ViViT give. pooling: how a song becomes one vector.
    """

    hidden_size: int
    audio_states: int = 25
    audio_size: int = 1024
    image_tokens: int = 197
    image_size: int = 768
    video_tokens: int = 3137
    video_size: int = 768
    pooling: Literal["mean", "rnn"] = "mean"


class Block(nn.Module):
    """x + f2(silu(f1(n)) * f3(n)), n the norm of x."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(size, eps=1e-6)
        self.f1, self.f2, self.f3 = (nn.Linear(size, size, bias=False) for _ in range(3))

    def __call__(self, x: mx.array) -> mx.array:
        normed = self.norm(x).astype(x.dtype)
        return x + self.f2(nn.silu(self.f1(normed)) * self.f3(normed))


class Bridge(nn.Module):
    """One modality's way: parts (batch, parts, size) to one vector (batch, hidden)."""

    def __init__(self, parts: int, size: int, hidden: int) -> None:
        super().__init__()
        self.pool = nn.Linear(parts, 1)
        self.proj = nn.Linear(size, hidden)
        self.blocks = [Block(hidden) for _ in range(3)]

    def pooled(self, parts: mx.array) -> mx.array:
        """Weighted sum of (..., parts, size) over the parts, float32 (..., size)."""
        weight, bias = (self.pool[name].astype(mx.float32) for name in ("weight", "bias"))
        return (weight @ parts.astype(mx.float32)).squeeze(-2) + bias

    def __call__(self, x: mx.array) -> mx.array:
        # of the bias, which is never quantised and may lie a level down, under LoRA
        floats = tree_flatten(self.proj.parameters())
        dtype = next(value.dtype for path, value in floats if path.endswith("bias"))
        x = self.proj(x.astype(dtype))
        for block in self.blocks:
            x = block(x)
        return x


class TimePooling(nn.Module):
    """Frames (batch, time, size) to one vector (batch, size): an RNN, and attention over its states
    by what each says of itself.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.inputs = nn.Linear(size, size)
        self.states = nn.Linear(size, size)
        self.attention = nn.Linear(size, 1)

    def __call__(self, x: mx.array) -> mx.array:
        inputs, state, states = self.inputs(x), mx.zeros_like(x[:, 0]), []
        for frame in range(x.shape[1]):
            state = mx.tanh(inputs[:, frame] + self.states(state))
            states.append(state)
        found = mx.stack(states, axis=1)
        weights = mx.softmax(self.attention(found).astype(mx.float32), axis=1)
        return (weights * found).sum(axis=1)


class Bridges(nn.Module):
    """The three of them: `pool_audio` or `pool`, then `feature`.

    A song longer than a window of its encoder is pooled window by window, and the windows are
    averaged by their frames before `feature`.
    """

    def __init__(self, config: BridgesConfig) -> None:
        super().__init__()
        self.config = config
        self.audio = Bridge(config.audio_states, config.audio_size, config.hidden_size)
        self.image = Bridge(config.image_tokens, config.image_size, config.hidden_size)
        self.video = Bridge(config.video_tokens, config.video_size, config.hidden_size)
        if config.pooling == "rnn":
            self.audio_time = TimePooling(config.audio_size)

    def pool_audio(self, states: Sequence[mx.array]) -> mx.array:
        """All states of an encoder over one window, each (batch, frames, audio_size), to one vector
        (batch, audio_size), float32.
        """
        bridge = self.audio
        if self.config.pooling == "mean":
            means = [state.astype(mx.float32).mean(axis=1) for state in states]
            return bridge.pooled(mx.stack(means, axis=1))
        weight, bias = bridge.pool.weight[0].astype(mx.float32), bridge.pool.bias
        frames = bias.astype(mx.float32)  # summed state by state: all at once would be gigabytes
        for number, state in enumerate(states):
            frames = frames + weight[number] * state.astype(mx.float32)
        return self.audio_time(_normalised(frames))

    def pool(self, modality: Literal["image", "video"], tokens: mx.array) -> mx.array:
        """Tokens (batch, tokens, size) to one vector (batch, size), float32."""
        return self[modality].pooled(tokens)

    def feature(self, modality: Literal["audio", "image", "video"], pooled: mx.array) -> mx.array:
        """(batch, size) to what LLaMA hears, (batch, hidden)."""
        if modality != "audio" or self.config.pooling == "mean":
            pooled = _normalised(pooled)
        return self[modality](pooled)


def _normalised(x: mx.array) -> mx.array:
    """Vectors of length 1, or nearly: upstream divides by 1 + 1e-6 more."""
    x = x.astype(mx.float32)
    length = mx.sqrt((x * x).sum(axis=-1, keepdims=True))
    return x / mx.maximum(length, 1e-12) * _SHRINK
