"""MusiCoT in PyTorch (arXiv 2503.19611): the upstream classes and their twins under one roof, one
checkpoint folder.

A folder holds `config.json` (model_type musicot-pytorch, a section a part), `model.safetensors`
with the parts as key prefixes, and `tokenizer.json`. `musicot convert` turns it into an MLX folder.
"""

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from vector_quantize_pytorch import ResidualVQ

from musicot_mlx.errors import MusicotError
from musicot_mlx.reference.clap import build_clap
from musicot_mlx.reference.diffusion import SemanticDiffusion
from musicot_mlx.reference.semantic_lm import SemanticLM
from musicot_mlx.reference.semantic_tokenizer import SemanticTokenizer
from musicot_mlx.reference.vae import VAE
from musicot_mlx.tokens.harmony import harmony_features

MODEL_TYPE = "musicot-pytorch"
PARTS = ("clap", "rvq", "semantic_lm", "semantic_tokenizer", "diffusion", "vae")


def build_rvq(config: dict[str, Any], **training: Any) -> ResidualVQ:
    """The residual quantiser of CLAP embeddings (eq 6); `training` sets k-means and EMA."""
    return ResidualVQ(
        dim=config["dim"],
        num_quantizers=config["codebooks"],
        codebook_size=config["codebook_size"],
        **training,
    )


class MusicotReference(nn.Module):
    """The whole system from one config with a section for each of PARTS."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.config = {**config, "model_type": MODEL_TYPE}
        self.clap = build_clap(config["clap"])
        self.rvq = build_rvq(config["rvq"])
        self.semantic_lm = SemanticLM(config["semantic_lm"])
        self.semantic_tokenizer = SemanticTokenizer(**config["semantic_tokenizer"])
        self.diffusion = SemanticDiffusion(**config["diffusion"])
        self.vae = VAE(**config["vae"])

    def save_pretrained(self, folder: str | Path, tokenizer: Tokenizer) -> None:
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        state = {k: v.contiguous() for k, v in self.state_dict().items()}
        save_file(state, folder / "model.safetensors.tmp", metadata={"format": "pt"})
        os.replace(folder / "model.safetensors.tmp", folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(self.config, indent=2, sort_keys=True))
        tokenizer.save(str(folder / "tokenizer.json"))

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "MusicotReference":
        folder = Path(folder)
        model = cls(json.loads((folder / "config.json").read_text()))
        model.load_state_dict(load_file(folder / "model.safetensors"))
        return model.eval()

    def thought_vectors(self, thoughts: Tensor) -> Tensor:
        """Codes (levels, segments) to quantised, L2-normalised embeddings (segments, dim)."""
        return F.normalize(self.rvq.get_output_from_indices(thoughts.T[None])[0], dim=-1)

    @torch.no_grad()
    def generate(
        self,
        clap: Tensor,
        *,
        duration: float,
        tags: tuple[int, ...] = (),
        bpm: float = 0.0,
        chords: Sequence[tuple[float, str]] = (),
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """CLAP vector (dim,) to a waveform (samples, channels), in bars of bpm and with chords,
        (second, chord).

        Raises MusicotError for a song longer than one diffusion window: windows are the pipeline's.
        """
        sampling, rate = self.config["sampling"], self.config["diffusion"]["latent_rate"]
        longest = self.config["diffusion"]["window_seconds"]
        if duration > longest:
            raise MusicotError(
                f"duration is {duration:g} s; the reference makes up to {longest:g} s"
            )
        thought_seconds = self.config["semantic_lm"]["thought_seconds"]
        segments = math.ceil(duration / thought_seconds)
        thoughts = self.semantic_lm.plan_thoughts(
            clap,
            tags,
            segments=segments,
            temperature=sampling["thought_temperature"],
            guidance_scale=sampling["thought_guidance"],
            generator=generator,
        )
        codes = self.semantic_lm.audio_tokens(
            clap,
            tags,
            thoughts=thoughts,
            frames=round(duration * self.config["semantic_lm"]["audio_frame_rate"]),
            temperature=sampling["audio_temperature"],
            guidance_scale=sampling["audio_guidance"],
            unconditional=sampling["unconditional"],
            thought_bias=sampling.get("thought_bias", 0.0),
            bpm=bpm,
            chords=chords,
            generator=generator,
        )
        vectors = self.thought_vectors(torch.from_numpy(thoughts).long())
        # as many as in training: all that a window can touch, the last one again where it is fewer
        touched = torch.arange(math.ceil(longest / thought_seconds) + 1).clamp(max=segments - 1)
        vectors = vectors[touched]
        time = -int(-duration * rate // 1)
        harmony = torch.from_numpy(harmony_features(chords, time, frame_rate=rate))[None]
        latents = self.diffusion.sample(
            torch.from_numpy(codes).long()[None],
            torch.cat([clap[None], vectors])[None],
            torch.zeros(1),
            torch.full((1,), duration),
            frames=time,
            harmony=harmony if chords else None,
            generator=generator,
            steps=sampling["steps"],
            sampler=sampling["sampler"],
            guidance_scale=sampling["diffusion_guidance"],
        )  # (batch, latent_dim, time)
        waveform = self.vae.decode(latents.transpose(1, 2))[0]
        return waveform[: round(duration * self.vae.sample_rate)]
