"""Diffusion transformer of Stable Audio (arXiv 2407.14358), for MLX.

Reference: diffusers' StableAudioDiTModel. Conditions are cross-attended, and one global token made
of some of them and of the diffusion time stands in front.

Where we differ, without changing a number: everything is (batch, time, channels); query, key and
value are one matrix, as are the key and value of cross-attention; 1-tap convolutions are linear
layers; and what stays the same over the steps of a sampler (`keys_values`, the global token without
its time) is computed by the caller, once.
"""

import math
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from musicot_mlx.nn.activations import swiglu


@dataclass(frozen=True)
class DiTConfig:
    """Sizes of the transformer; names are diffusers'."""

    input_dim: int  # channels of what comes in: latents, and what is joined to them
    output_dim: int  # channels of the velocity
    num_layers: int
    attention_head_dim: int
    num_attention_heads: int
    num_key_value_attention_heads: int
    cross_attention_dim: int
    cross_attention_input_dim: int
    global_states_input_dim: int
    time_proj_dim: int = 256

    def __post_init__(self) -> None:
        if self.attention_head_dim % 4 or self.time_proj_dim % 2:
            raise ValueError(
                f"attention_head_dim {self.attention_head_dim} must divide by 4 (half of it is "
                f"rotated, in pairs) and time_proj_dim {self.time_proj_dim} by 2"
            )
        kv_heads = self.num_key_value_attention_heads
        if self.num_attention_heads % kv_heads:
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} must divide by "
                f"num_key_value_attention_heads {kv_heads}"
            )

    @property
    def inner_dim(self) -> int:
        return self.num_attention_heads * self.attention_head_dim


class FourierFeatures(nn.Module):
    """Diffusion times (times,) to cosines and sines at learned-once frequencies, float32."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = mx.random.normal((dim // 2,))

    def __call__(self, t: mx.array) -> mx.array:
        phase = 2 * math.pi * t.astype(mx.float32)[:, None] * self.weight.astype(mx.float32)
        return mx.concatenate([mx.cos(phase), mx.sin(phase)], axis=-1)  # (times, dim)


class Projection(nn.Module):
    """Linear, SiLU, linear."""

    def __init__(self, input_dim: int, dim: int, *, bias: bool) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(input_dim, dim, bias=bias)
        self.linear_2 = nn.Linear(dim, dim, bias=bias)

    def __call__(self, x: mx.array) -> mx.array:
        return self.linear_2(nn.silu(self.linear_1(x)))


class SelfAttention(nn.Module):
    """Attention over (batch, time, channels) with rotary positions on half of each head."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self._heads, self._head_dim = config.num_attention_heads, config.attention_head_dim
        self.to_qkv = nn.Linear(config.inner_dim, 3 * config.inner_dim, bias=False)
        self.to_out = nn.Linear(config.inner_dim, config.inner_dim, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        batch, time, dim = x.shape
        qkv = self.to_qkv(x).reshape(batch, time, 3 * self._heads, self._head_dim)
        qk, v = mx.split(qkv.swapaxes(1, 2), [2 * self._heads], axis=1)
        # (batch, heads, time, head_dim)
        rope = {"traditional": False, "base": 10000.0, "scale": 1.0, "offset": 0}
        q, k = mx.split(mx.fast.rope(qk, self._head_dim // 2, **rope), 2, axis=1)
        y = mx.fast.scaled_dot_product_attention(q, k, v, scale=self._head_dim**-0.5)
        return self.to_out(y.swapaxes(1, 2).reshape(batch, time, dim))


class CrossAttention(nn.Module):
    """Attention to conditions whose keys and values were projected once, on fewer heads."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self._heads, self._head_dim = config.num_attention_heads, config.attention_head_dim
        self._kv_heads = config.num_key_value_attention_heads
        self.to_q = nn.Linear(config.inner_dim, config.inner_dim, bias=False)
        self.to_kv = nn.Linear(
            config.cross_attention_dim, 2 * self._kv_heads * self._head_dim, bias=False
        )
        self.to_out = nn.Linear(config.inner_dim, config.inner_dim, bias=False)

    def keys_values(self, context: mx.array) -> tuple[mx.array, mx.array]:
        """Keys and values, (batch, kv_heads, vectors, head_dim) each."""
        batch, vectors, _ = context.shape
        kv = self.to_kv(context).reshape(batch, vectors, 2 * self._kv_heads, self._head_dim)
        keys, values = mx.split(kv.swapaxes(1, 2), 2, axis=1)
        return keys, values

    def __call__(
        self, x: mx.array, keys_values: tuple[mx.array, mx.array], mask: mx.array | None
    ) -> mx.array:
        batch, time, dim = x.shape
        q = self.to_q(x).reshape(batch, time, self._heads, self._head_dim).swapaxes(1, 2)
        scale = self._head_dim**-0.5
        y = mx.fast.scaled_dot_product_attention(q, *keys_values, scale=scale, mask=mask)
        return self.to_out(y.swapaxes(1, 2).reshape(batch, time, dim))


class FeedForward(nn.Module):
    """SwiGLU with four times the width: the second half of `gate_up` goes through SiLU."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gate_up = nn.Linear(dim, 8 * dim)
        self.down = nn.Linear(4 * dim, dim)

    def __call__(self, x: mx.array) -> mx.array:
        up, gate = mx.split(self.gate_up(x), 2, axis=-1)
        return self.down(swiglu(up, gate))


class DiTBlock(nn.Module):
    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.inner_dim, eps=1e-5)
        self.attn1 = SelfAttention(config)
        self.norm2 = nn.LayerNorm(config.inner_dim, eps=1e-5)
        self.attn2 = CrossAttention(config)
        self.norm3 = nn.LayerNorm(config.inner_dim, eps=1e-5)
        self.ff = FeedForward(config.inner_dim)

    def __call__(
        self, x: mx.array, keys_values: tuple[mx.array, mx.array], mask: mx.array | None
    ) -> mx.array:
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), keys_values, mask)
        return x + self.ff(self.norm3(x))


class DiT(nn.Module):
    """Noisy latents (batch, time, input_dim) to their velocity (batch, time, output_dim)."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        channels, inner = config.input_dim, config.inner_dim
        self.time_proj = FourierFeatures(config.time_proj_dim)
        self.timestep_proj = Projection(config.time_proj_dim, inner, bias=True)
        self.global_proj = Projection(config.global_states_input_dim, inner, bias=False)
        self.cross_attention_proj = Projection(
            config.cross_attention_input_dim, config.cross_attention_dim, bias=False
        )
        self.preprocess_conv = nn.Linear(channels, channels, bias=False)
        self.proj_in = nn.Linear(channels, inner, bias=False)
        self.transformer_blocks = [DiTBlock(config) for _ in range(config.num_layers)]
        self.proj_out = nn.Linear(inner, config.output_dim, bias=False)
        self.postprocess_conv = nn.Linear(config.output_dim, config.output_dim, bias=False)

    def __call__(
        self,
        x: mx.array,
        global_token: mx.array,
        keys_values: list[tuple[mx.array, mx.array]],
        mask: mx.array | None,
    ) -> tuple[mx.array, mx.array]:
        """Velocity and the last hidden state, without the token in front."""
        x = self.proj_in(x + self.preprocess_conv(x))
        x = mx.concatenate([global_token, x], axis=1)  # (batch, 1 + time, channels)
        for block, kv in zip(self.transformer_blocks, keys_values, strict=True):
            x = block(x, kv, mask)
        hidden = x[:, 1:]
        x = self.proj_out(hidden)
        return x + self.postprocess_conv(x), hidden

    def keys_values(self, context: mx.array) -> list[tuple[mx.array, mx.array]]:
        """What each block attends to, of conditions (batch, vectors, cross_attention_input_dim)."""
        context = self.cross_attention_proj(context)
        return [block.attn2.keys_values(context) for block in self.transformer_blocks]
