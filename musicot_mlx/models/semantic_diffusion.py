"""Latent diffusion on semantic codes, thoughts and timing: what MusiCoT asks a DiT for.

The paper says of its acoustic model only "as Stable Audio" (arXiv 2503.19611, section 4.1).
Reference: diffusers' StableAudioDiTModel and StableAudioProjectionModel, composed by
`musicot_mlx/reference/diffusion.py`. Latents meet code embeddings on channels; a CLAP vector and
the dequantised thoughts are cross-attended beside start and total seconds, which also make the one
global token in front.

Where we differ, without changing a number: what stays the same over the steps of a sampler
(cross-attention keys and values, code embeddings, the global token, time embeddings) is computed
once, by `conditions` and `time_embeddings`, for `step` to use.
"""

import math
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from musicot_mlx.models.dit import DiT, DiTConfig
from musicot_mlx.tokens.harmony import CHORD_FEATURES
from musicot_mlx.weights.config import config_from_dict

_NUMBER_FEATURES = 256  # of the seconds' embedding; diffusers fixes it


@dataclass(frozen=True)
class DiffusionConfig:
    """Sizes of the transformer, of its conditions, and of the windows that songs are made in."""

    latent_dim: int
    semantic_dim: int
    audio_codebook_size: int
    clap_dim: int
    num_layers: int
    attention_head_dim: int
    num_attention_heads: int
    num_key_value_attention_heads: int
    cross_attention_dim: int
    cross_attention_input_dim: int
    time_proj_dim: int = 256
    global_states_input_dim: int = 0  # 0: start and total seconds joined
    max_seconds: float = 512.0
    latent_rate: float = 44100 / 1024  # latent frames per second
    audio_frame_rate: float = 25.0  # codes per second
    window_seconds: float = 20.0
    overlap_seconds: float = 5.0
    objective: str = "rectified_flow"
    latent_scale: float = 1.0  # latents are multiplied by this before diffusion
    harmony: bool = False  # whether it knows the chord of each latent frame
    skip: bool = False  # whether noisy latents also go straight to the velocity, by gains

    def __post_init__(self) -> None:
        joined = 2 * self.cross_attention_input_dim
        if not self.global_states_input_dim:
            object.__setattr__(self, "global_states_input_dim", joined)
        if self.global_states_input_dim != joined:
            raise ValueError(
                f"global_states_input_dim is {self.global_states_input_dim}; start and total "
                f"seconds joined have 2 * cross_attention_input_dim = {joined}"
            )
        _ = self.transformer  # checks the heads
        if self.objective not in ("rectified_flow", "v"):
            raise ValueError(f"objective is {self.objective!r}; expected 'rectified_flow' or 'v'")
        if not 0 < self.overlap_seconds < self.window_seconds:
            raise ValueError(
                f"overlap_seconds {self.overlap_seconds} must lie between 0 and "
                f"window_seconds {self.window_seconds}"
            )
        if not self.latent_scale > 0:
            raise ValueError(f"latent_scale is {self.latent_scale}, expected more than 0")

    @classmethod
    def from_dict(cls, d: dict[str, Any]) -> "DiffusionConfig":
        return config_from_dict(cls, d)

    @property
    def transformer(self) -> DiTConfig:
        return DiTConfig(
            input_dim=self.latent_dim + self.semantic_dim,
            output_dim=self.latent_dim,
            num_layers=self.num_layers,
            attention_head_dim=self.attention_head_dim,
            num_attention_heads=self.num_attention_heads,
            num_key_value_attention_heads=self.num_key_value_attention_heads,
            cross_attention_dim=self.cross_attention_dim,
            cross_attention_input_dim=self.cross_attention_input_dim,
            global_states_input_dim=self.global_states_input_dim,
            time_proj_dim=self.time_proj_dim,
        )

    @property
    def inner_dim(self) -> int:
        return self.transformer.inner_dim

    @property
    def no_token(self) -> int:
        """The code that stands for "no code here": the last row of the embedding."""
        return self.audio_codebook_size

    @property
    def window_frames(self) -> int:
        return round(self.window_seconds * self.latent_rate)

    @property
    def overlap_frames(self) -> int:
        return round(self.overlap_seconds * self.latent_rate)

    def codes_until(self, frame: int) -> int:
        """How many codes the latent frames before `frame` read."""
        return math.floor((frame - 0.5) * self.audio_frame_rate / self.latent_rate) + 1


# Stable Audio Open's transformer, about 1 B parameters as the paper's, on the paper's latents.
STABLE_AUDIO_SIZE = DiffusionConfig(
    latent_dim=64,
    semantic_dim=64,
    audio_codebook_size=16384,
    clap_dim=512,
    num_layers=24,
    attention_head_dim=64,
    num_attention_heads=24,
    num_key_value_attention_heads=12,
    cross_attention_dim=768,
    cross_attention_input_dim=768,
    window_seconds=47.55,
    overlap_seconds=10.0,
)


class NumberConditioner(nn.Module):
    """Seconds (batch,) to one token (batch, 1, dim); clipped to 0 .. max_seconds."""

    def __init__(self, dim: int, max_seconds: float) -> None:
        super().__init__()
        self._max_seconds = max_seconds
        self.frequencies = mx.random.normal((_NUMBER_FEATURES // 2,))
        self.linear = nn.Linear(_NUMBER_FEATURES + 1, dim)

    def __call__(self, seconds: mx.array, dtype: mx.Dtype) -> mx.array:
        share = mx.clip(seconds.astype(mx.float32), 0, self._max_seconds) / self._max_seconds
        phase = share[:, None] * self.frequencies.astype(mx.float32) * 2 * math.pi
        features = mx.concatenate([share[:, None], mx.sin(phase), mx.cos(phase)], axis=-1)
        return self.linear(features.astype(dtype))[:, None]  # (batch, 1, channels)


class ConditionProjection(nn.Module):
    """CLAP vectors and seconds in one space; a clap_dim that matches needs no projection."""

    def __init__(self, clap_dim: int, dim: int, max_seconds: float) -> None:
        super().__init__()
        if clap_dim != dim:
            self.text_projection = nn.Linear(clap_dim, dim)
        self.start_number_conditioner = NumberConditioner(dim, max_seconds)
        self.end_number_conditioner = NumberConditioner(dim, max_seconds)

    def text(self, clap: mx.array) -> mx.array:
        return self.text_projection(clap) if "text_projection" in self else clap


@dataclass(frozen=True)
class DiffusionConditions:
    """What stays the same over the steps of one window, rows in batch order."""

    semantic: mx.array  # (batch, time, semantic_dim) embeddings of the codes at latent frames
    global_token: mx.array  # (batch, 1, channels), the time embedding still to be added
    keys_values: list[tuple[mx.array, mx.array]]  # of each block, (batch, heads, vectors, head_dim)
    mask: mx.array | None  # (batch, 1, 1, vectors), true where a vector counts

    def row(self, i: int) -> "DiffusionConditions":
        """The i-th row alone, a batch of one."""
        one = slice(i, i + 1)
        return DiffusionConditions(
            semantic=self.semantic[one],
            global_token=self.global_token[one],
            keys_values=[(k[one], v[one]) for k, v in self.keys_values],
            mask=None if self.mask is None else self.mask[one],
        )


class SemanticDiffusion(nn.Module):
    """Velocity of noisy latents given codes, CLAP vectors and the window's place in the song.

    `model(x_t, t, codes, clap, start_seconds, total_seconds)` is the whole network at once;
    samplers call `conditions` and `time_embeddings` once and `step` for every time.
    """

    def __init__(self, config: DiffusionConfig) -> None:
        super().__init__()
        self.config = config
        self.dit = DiT(config.transformer)
        self.projection = ConditionProjection(
            config.clap_dim, config.cross_attention_input_dim, config.max_seconds
        )
        self.semantic_embedding = nn.Embedding(config.audio_codebook_size + 1, config.semantic_dim)
        if config.harmony:
            self.harmony_proj = nn.Linear(CHORD_FEATURES, config.semantic_dim, bias=False)
        if config.skip:
            self.skip = nn.Linear(config.time_proj_dim, config.latent_dim)
            self.gate = nn.Linear(config.inner_dim, config.latent_dim, bias=False)

    @property
    def layers(self) -> list[nn.Module]:
        """The blocks, under the name that adapters look for."""
        return self.dit.transformer_blocks

    @property
    def dtype(self) -> mx.Dtype:
        """Of hidden states; read off a norm, because linear weights may be packed integers."""
        return self.dit.transformer_blocks[0].norm1.weight.dtype

    def conditions(
        self,
        codes: mx.array,
        clap: mx.array,
        start_seconds: mx.array,
        total_seconds: mx.array,
        *,
        frames: int,
        clap_mask: mx.array | None = None,
        frame_offset: int | np.ndarray = 0,
        harmony: mx.array | None = None,
    ) -> DiffusionConditions:
        """Everything but latents and time, for `frames` latent frames.

        codes (batch, frames25), config.no_token where there is none: the window's own, or the whole
        song's with frame_offset (an int or one per row) the latent frame at which the window
        starts. clap (batch, vectors, clap_dim); clap_mask (batch, vectors) true where one counts;
        start_seconds and total_seconds (batch,). harmony (batch, frames, 24): the chord of each
        latent frame (tokens/harmony.py), which counts only where there is a code.
        """
        index = code_index(self.config, frames, frame_offset, length=codes.shape[1])
        index = mx.broadcast_to(mx.array(index), (codes.shape[0], frames))
        sounding = mx.take_along_axis(codes, index, axis=1)  # (batch, frames)
        semantic = self.semantic_embedding(sounding)
        if harmony is not None and self.config.harmony:
            features = harmony * (sounding != self.config.no_token)[..., None]
            semantic = semantic + self.harmony_proj(features.astype(self.dtype))
        start = self.projection.start_number_conditioner(start_seconds, self.dtype)
        total = self.projection.end_number_conditioner(total_seconds, self.dtype)
        text = self.projection.text(clap.astype(self.dtype))
        mask = clap_mask
        if mask is not None:
            mask = mx.pad(mask.astype(mx.bool_), ((0, 0), (0, 2)), constant_values=True)
            mask = mask[:, None, None]
        return DiffusionConditions(
            semantic=semantic.astype(self.dtype),
            global_token=self.dit.global_proj(mx.concatenate([start, total], axis=2)),
            keys_values=self.dit.keys_values(mx.concatenate([text, start, total], axis=1)),
            mask=mask,
        )

    def time_embeddings(self, t: mx.array) -> mx.array:
        """Diffusion times (times,) in [0, 1] to (times, channels), and latent_dim gains if the
        latents skip the network."""
        features = self.dit.time_proj(t).astype(self.dtype)
        embedding = self.dit.timestep_proj(features)
        if not self.config.skip:
            return embedding
        return mx.concatenate([embedding, self.skip(features)], axis=-1)

    def step(
        self, x_t: mx.array, time_embedding: mx.array, conditions: DiffusionConditions
    ) -> mx.array:
        """Velocity of x_t (batch, time, latent_dim) at one time or one per row, (.., channels)."""
        x_t = x_t.astype(self.dtype)
        x = mx.concatenate([x_t, conditions.semantic], axis=-1)
        if time_embedding.ndim == 2:
            time_embedding = time_embedding[:, None]
        embedding, gains = mx.split(time_embedding, [self.config.inner_dim], axis=-1)
        token = conditions.global_token + embedding  # (batch, 1, channels)
        velocity, hidden = self.dit(x, token, conditions.keys_values, conditions.mask)
        if not self.config.skip:
            return velocity
        return velocity + (gains + self.gate(hidden)) * x_t

    def __call__(
        self,
        x_t: mx.array,
        t: mx.array,
        codes: mx.array,
        clap: mx.array,
        start_seconds: mx.array,
        total_seconds: mx.array,
        *,
        clap_mask: mx.array | None = None,
        frame_offset: int | np.ndarray = 0,
        harmony: mx.array | None = None,
    ) -> mx.array:
        conditions = self.conditions(
            codes,
            clap,
            start_seconds,
            total_seconds,
            frames=x_t.shape[1],
            clap_mask=clap_mask,
            frame_offset=frame_offset,
            harmony=harmony,
        )
        return self.step(x_t, self.time_embeddings(t), conditions)


def code_index(
    config: DiffusionConfig, frames: int, frame_offset: int | np.ndarray = 0, *, length: int
) -> np.ndarray:
    """The code that sounds at the centre of each latent frame, int32 (1 or rows, frames).

    floor((frame_offset + i + 0.5) * 25 / latent_rate), clipped to the `length` codes there are.
    """
    offset = np.asarray(frame_offset, dtype=np.float64).reshape(-1, 1)
    # multiplied before divided: frame centres that fall on a code's edge then come out exactly
    centre = (offset + np.arange(frames) + 0.5) * config.audio_frame_rate
    return np.clip(np.floor(centre / config.latent_rate), 0, length - 1).astype(np.int32)


def without_codes_and_clap(
    config: DiffusionConfig, codes: mx.array, clap: mx.array
) -> tuple[mx.array, mx.array]:
    """The row that guidance compares with: no codes, CLAP vectors of zeros."""
    return mx.full(codes.shape, config.no_token, dtype=codes.dtype), mx.zeros_like(clap)
