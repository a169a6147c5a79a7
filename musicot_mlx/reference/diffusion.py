"""Latent diffusion on semantic codes, thoughts and timing, with diffusers' networks (PyTorch).

The paper says of its acoustic model only "as Stable Audio" (arXiv 2503.19611, section 4.1), so the
transformer, the projection of conditions and the v-diffusion sampler are diffusers' own (arXiv
2407.14358). Ours is how the codes come in: each code has an embedding, held for as many latent
frames as it lasts and joined to the noisy latents on channels; a code says hardly which notes, so
the chord of the frame is added to it where the harmony is known. The CLAP vector of the prompt and
the dequantised thoughts stand where Stable Audio has its text.

Two objectives share the network: "rectified_flow" (arXiv 2209.03003; x_t = (1 - t) x_0 + t noise,
target noise - x_0) and "v" (arXiv 2202.00512; x_t = cos(pi t / 2) x_0 + sin(pi t / 2) noise).
`skip` adds the noisy latents themselves, by gains that the time and the last hidden state set for
each channel, as a Wiener filter does: latents then need not pass through hidden states that may
have hardly more channels, and where nothing is known of one but how large it is, that is enough.
`musicot_mlx/models/semantic_diffusion.py` is the same in MLX.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import EDMDPMSolverMultistepScheduler
from diffusers.models.embeddings import get_1d_rotary_pos_embed
from diffusers.models.transformers.stable_audio_transformer import (
    StableAudioDiTModel,
    StableAudioGaussianFourierProjection,
)
from diffusers.pipelines.stable_audio.modeling_stable_audio import StableAudioProjectionModel
from torch import Tensor, nn

from musicot_mlx.errors import MusicotError
from musicot_mlx.tokens.harmony import CHORD_FEATURES

HARMONY_DROPOUT = 0.1  # share of training items without chords


class TimeFeatures(StableAudioGaussianFourierProjection):
    """Fourier features of the diffusion time in float32: autocast would round the phase."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.float())


@contextmanager
def _inputs_of(layer: nn.Module) -> Iterator[list[Tensor]]:
    """The inputs that a layer inside a network is given, while the context lasts."""
    inputs_seen: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, inputs: inputs_seen.append(inputs[0]))
    try:
        yield inputs_seen
    finally:
        hook.remove()


class SemanticDiffusion(nn.Module):
    """Velocity of noisy latents given codes, CLAP vectors and the window's place in the song.

    The arguments are the `diffusion` section of config.json (as DiffusionConfig of
    models/semantic_diffusion.py has them), as keywords. Latents are (batch, latent_dim, time) as
    diffusers has them; `loss` takes and `sample` returns them unscaled.
    """

    def __init__(
        self,
        *,
        latent_dim: int,
        semantic_dim: int,
        audio_codebook_size: int,
        clap_dim: int,
        num_layers: int,
        attention_head_dim: int,
        num_attention_heads: int,
        num_key_value_attention_heads: int,
        cross_attention_dim: int,
        cross_attention_input_dim: int,
        time_proj_dim: int = 256,
        global_states_input_dim: int | None = None,
        max_seconds: float = 512.0,
        latent_rate: float = 44100 / 1024,
        audio_frame_rate: float = 25.0,
        window_seconds: float = 20.0,
        overlap_seconds: float = 5.0,
        objective: str = "rectified_flow",
        latent_scale: float = 1.0,
        skip: bool = False,
        harmony: bool = False,
    ) -> None:
        super().__init__()
        if objective not in ("rectified_flow", "v"):
            raise MusicotError(f"objective is {objective!r}; expected 'rectified_flow' or 'v'")
        global_dim = global_states_input_dim or 2 * cross_attention_input_dim
        if global_dim != 2 * cross_attention_input_dim:
            raise MusicotError(
                f"global_states_input_dim is {global_dim}; start and total seconds joined have "
                f"2 * cross_attention_input_dim = {2 * cross_attention_input_dim}"
            )
        self.latent_dim, self.no_token = latent_dim, audio_codebook_size
        self.latent_rate, self.audio_frame_rate = latent_rate, audio_frame_rate
        self.window_seconds, self.overlap_seconds = window_seconds, overlap_seconds
        self.objective, self.latent_scale = objective, latent_scale
        self.rotary_dim = attention_head_dim // 2
        self.dit = StableAudioDiTModel(
            in_channels=latent_dim + semantic_dim,
            num_layers=num_layers,
            attention_head_dim=attention_head_dim,
            num_attention_heads=num_attention_heads,
            num_key_value_attention_heads=num_key_value_attention_heads,
            out_channels=latent_dim,
            cross_attention_dim=cross_attention_dim,
            time_proj_dim=time_proj_dim,
            global_states_input_dim=global_dim,
            cross_attention_input_dim=cross_attention_input_dim,
        )
        self.dit.time_proj = TimeFeatures(
            time_proj_dim // 2, flip_sin_to_cos=True, log=False, set_W_to_weight=False
        )
        self.projection = StableAudioProjectionModel(
            text_encoder_dim=clap_dim,
            conditioning_dim=cross_attention_input_dim,
            min_value=0.0,
            max_value=max_seconds,
        )
        self.semantic_embedding = nn.Embedding(audio_codebook_size + 1, semantic_dim)
        if harmony:
            self.harmony_proj = nn.Linear(CHORD_FEATURES, semantic_dim, bias=False)
            nn.init.zeros_(
                self.harmony_proj.weight
            )  # weights that know no chords go on as they are
        self.skip = nn.Linear(time_proj_dim, latent_dim) if skip else None
        inner_dim = num_attention_heads * attention_head_dim
        self.gate = nn.Linear(inner_dim, latent_dim, bias=False) if skip else None
        self._zero_residual_branches()

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "SemanticDiffusion":
        return cls(**config)

    @torch.no_grad()
    def _zero_residual_branches(self) -> None:
        """Residual branches start at zero, as stable-audio-tools has it and diffusers does not."""
        self.dit.preprocess_conv.weight.zero_()
        self.dit.postprocess_conv.weight.zero_()
        for block in self.dit.transformer_blocks:
            block.attn1.to_out[0].weight.zero_()
            block.attn2.to_out[0].weight.zero_()
            block.ff.net[2].weight.zero_()
            block.ff.net[2].bias.zero_()
        if self.skip is not None:
            self.skip.weight.zero_()
            self.skip.bias.zero_()
            self.gate.weight.zero_()

    def resample_codes(
        self, codes: Tensor, frames: int, frame_offset: Tensor | None = None
    ) -> Tensor:
        """Codes (batch, frames25) as they sound at each latent frame, (batch, frames).

        Latent frame i reads code floor((frame_offset + i + 0.5) * 25 / latent_rate), clipped to
        those given, so codes may be the whole song's and frame_offset (batch,) the latent frame at
        which a window starts.
        """
        offset = 0 if frame_offset is None else frame_offset.to(codes.device)[:, None]
        frame = torch.arange(frames, device=codes.device, dtype=torch.float64)[None] + offset
        # multiplied before divided: frame centres that fall on a code's edge then come out exactly
        index = ((frame + 0.5) * self.audio_frame_rate / self.latent_rate).floor().long()
        index = index.clamp(0, codes.shape[1] - 1).expand(codes.shape[0], -1)
        return codes.long().gather(1, index)

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        codes: Tensor,
        clap: Tensor,
        start_seconds: Tensor,
        total_seconds: Tensor,
        *,
        clap_mask: Tensor | None = None,
        frame_offset: Tensor | None = None,
        harmony: Tensor | None = None,
    ) -> Tensor:
        """Velocity (batch, latent_dim, time) of x_t of the same shape at time t (batch,) in (0, 1).

        codes (batch, frames25) with no_token where there is none; clap (batch, vectors, clap_dim);
        clap_mask (batch, vectors) is true where a vector counts; start_seconds and total_seconds
        (batch,); harmony (batch, time, 24), the chord of each latent frame, which counts only where
        there is a code.
        """
        frames = x_t.shape[-1]
        sounding = self.resample_codes(codes, frames, frame_offset)
        semantic = self.semantic_embedding(sounding)
        if harmony is not None and hasattr(self, "harmony_proj"):
            features = harmony.to(semantic) * (sounding != self.no_token)[..., None]
            semantic = semantic + self.harmony_proj(features)
        hidden = torch.cat((x_t, semantic.transpose(1, 2).to(x_t.dtype)), dim=1)
        conditions = self.projection(clap, start_seconds.float(), total_seconds.float())
        start = conditions.seconds_start_hidden_states  # (batch, 1, channels)
        total = conditions.seconds_end_hidden_states
        context = torch.cat((conditions.text_hidden_states, start, total), dim=1)
        mask = None if clap_mask is None else F.pad(clap_mask.bool(), (0, 2), value=True)
        rotary = get_1d_rotary_pos_embed(
            self.rotary_dim,
            torch.arange(frames + 1, device=x_t.device),  # one more for the prepended global token
            use_real=True,
            repeat_interleave_real=False,
        )
        with _inputs_of(self.dit.proj_out) as inputs:
            velocity = self.dit(
                hidden,
                t,
                encoder_hidden_states=context,
                global_hidden_states=torch.cat((start, total), dim=2),
                rotary_embedding=rotary,
                encoder_attention_mask=mask,
                return_dict=False,
            )[0]
        if self.skip is None:
            return velocity
        gains = self.skip(self.dit.time_proj(t))[:, None] + self.gate(inputs[0][:, 1:])
        return velocity + gains.transpose(1, 2) * x_t  # without the global token in front

    def signal_and_noise(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """How much of the latents and of the noise is in x_t at t (batch,), (batch, 1, 1) each."""
        t = t[:, None, None]
        if self.objective == "rectified_flow":
            return 1 - t, t
        return (t * math.pi / 2).cos(), (t * math.pi / 2).sin()

    def without(self, conditions: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What stands for `codes` and `clap` in the row that guidance compares with."""
        return {
            "codes": torch.full_like(conditions["codes"], self.no_token),
            "clap": torch.zeros_like(conditions["clap"]),
        }

    def loss(
        self,
        latents: Tensor,
        codes: Tensor,
        clap: Tensor,
        start_seconds: Tensor,
        total_seconds: Tensor,
        *,
        clap_mask: Tensor | None = None,
        frame_offset: Tensor | None = None,
        frame_mask: Tensor | None = None,
        harmony: Tensor | None = None,
        dropout: float = 0.1,
        harmony_dropout: float = HARMONY_DROPOUT,
        timesteps: str = "logit_normal",
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Mean squared error of the velocity, a scalar; latents (batch, latent_dim, time) unscaled.

        With probability `dropout` an item loses its codes and its CLAP vectors together, which is
        the row that guidance compares with; with probability `harmony_dropout` it loses its chords,
        so that a song without any stays possible. frame_mask (batch, time) is true where a frame
        counts. timesteps: "logit_normal" or "uniform".
        """
        batch, device = latents.shape[0], latents.device
        draw = {"generator": generator, "device": device}
        x0 = latents.float() * self.latent_scale
        noise = torch.randn(x0.shape, **draw)
        if timesteps == "logit_normal":
            t = torch.randn(batch, **draw).sigmoid()
        elif timesteps == "uniform":
            t = torch.rand(batch, **draw)
        else:
            raise MusicotError(f"timesteps is {timesteps!r}; expected 'logit_normal' or 'uniform'")
        dropped = torch.rand(batch, **draw) < dropout
        codes = torch.where(dropped[:, None], self.no_token, codes.long())
        clap = torch.where(dropped[:, None, None], 0.0, clap)
        alpha, sigma = self.signal_and_noise(t)
        flow = self.objective == "rectified_flow"
        target = noise - x0 if flow else alpha * noise - sigma * x0
        x_t = alpha * x0 + sigma * noise
        if harmony is not None:
            with_harmony = torch.rand(batch, **draw) >= harmony_dropout
            harmony = harmony * with_harmony[:, None, None]
        where = {"clap_mask": clap_mask, "frame_offset": frame_offset, "harmony": harmony}
        velocity = self(x_t, t, codes, clap, start_seconds, total_seconds, **where)
        error = (velocity.float() - target).square()
        if frame_mask is None:
            return error.mean()
        weight = frame_mask[:, None].float().expand_as(error)
        return (error * weight).sum() / weight.sum().clamp(min=1)

    @torch.no_grad()
    def sample(
        self,
        codes: Tensor,
        clap: Tensor,
        start_seconds: Tensor,
        total_seconds: Tensor,
        *,
        frames: int,
        steps: int = 16,
        sampler: str | None = None,
        guidance_scale: float = 1.0,
        noise: Tensor | None = None,
        clap_mask: Tensor | None = None,
        frame_offset: Tensor | None = None,
        harmony: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Latents (batch, latent_dim, frames) from noise of the same shape, drawn where it is not
        given.

        sampler: "euler" or "heun" for rectified flow (Heun's last step is an Euler step), "dpmpp"
        for v: diffusers' EDM multistep solver over Stable Audio's exponential noise levels.
        guidance_scale 1 leaves out the second row.
        """
        sampler = sampler or ("euler" if self.objective == "rectified_flow" else "dpmpp")
        allowed = ("euler", "heun") if self.objective == "rectified_flow" else ("dpmpp",)
        if sampler not in allowed:
            raise MusicotError(
                f"sampler is {sampler!r}; a {self.objective} model takes {' or '.join(allowed)}"
            )
        if noise is None:
            shape = (codes.shape[0], self.latent_dim, frames)
            noise = torch.randn(shape, generator=generator, device=codes.device)

        def velocity(x: Tensor, t: float) -> Tensor:
            time = torch.full((x.shape[0],), t, device=x.device)
            where = {"clap_mask": clap_mask, "frame_offset": frame_offset, "harmony": harmony}
            seconds = {"start_seconds": start_seconds, "total_seconds": total_seconds}
            v = self(x, time, codes, clap, **seconds, **where).float()
            if guidance_scale == 1:
                return v
            none = self.without({"codes": codes, "clap": clap})
            base = self(x, time, **none, **seconds, **where).float()
            return base + guidance_scale * (v - base)

        if self.objective == "v":
            x = self._sample_v(velocity, noise, steps)
        else:
            x = noise
            times = torch.linspace(1, 0, steps + 1, dtype=torch.float64).tolist()
            for t, after in zip(times[:-1], times[1:], strict=True):
                v = velocity(x, t)
                if sampler == "heun" and after > 0:
                    v = (v + velocity(x + (after - t) * v, after)) / 2
                x = x + (after - t) * v
        return x / self.latent_scale

    @staticmethod
    def _sample_v(velocity: Any, noise: Tensor, steps: int) -> Tensor:
        scheduler = EDMDPMSolverMultistepScheduler(
            sigma_min=0.3,
            sigma_max=500.0,
            sigma_data=1.0,
            sigma_schedule="exponential",
            prediction_type="v_prediction",
        )
        scheduler.set_timesteps(steps, device=noise.device)
        x = noise * scheduler.init_noise_sigma
        for sigma, timestep in zip(scheduler.sigmas[:-1], scheduler.timesteps, strict=True):
            t = math.atan(float(sigma)) * 2 / math.pi  # what Stable Audio's network takes
            v = velocity(scheduler.scale_model_input(x, timestep), t)
            x = scheduler.step(v, timestep, x).prev_sample
        return x
