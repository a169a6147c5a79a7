"""Residual vector quantiser of musical thoughts: CLAP embeddings to codes and back.

SoundStream (arXiv 2107.03312), Algorithm 1; the paper's eq 6 is misprinted: the argmin is over the
residual that the levels before leave. Reference: vector_quantize_pytorch.ResidualVQ with Euclidean
codebooks and no projection. Distances are float32 whatever the dtype, because a code is a decision.
"""

from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from musicot_mlx.weights.config import config_from_dict


@dataclass(frozen=True)
class RVQConfig:
    """L codebooks of K codes over vectors of `dim` channels."""

    dim: int
    codebooks: int  # L
    codebook_size: int  # K

    def __post_init__(self) -> None:
        if min(self.dim, self.codebooks, self.codebook_size) < 1:
            raise ValueError(
                f"dim {self.dim}, codebooks {self.codebooks} and codebook_size "
                f"{self.codebook_size} must be at least 1"
            )

    @classmethod
    def from_dict(cls, d: dict) -> "RVQConfig":
        return config_from_dict(cls, d)


# MuLan prefix of MeLoDy and CLAP prefix of open-musiclm: the sizes that related work suggests.
RVQ_12X1024 = RVQConfig(dim=512, codebooks=12, codebook_size=1024)


class Codebook(nn.Module):
    """Vectors (codebook_size, dim); `nearest` finds the closest, calling it looks codes up."""

    def __init__(self, codebook_size: int, dim: int) -> None:
        super().__init__()
        self.weight = mx.random.normal((codebook_size, dim))

    def nearest(self, x: mx.array) -> mx.array:
        """int32 codes (batch, time) of float32 x (batch, time, channels)."""
        weight = self.weight.astype(mx.float32)
        # |x - e|^2 without |x|^2, which is the same for every e
        distance = mx.sum(weight * weight, axis=-1) - 2 * (x @ weight.T)
        return mx.argmin(distance, axis=-1).astype(mx.int32)

    def __call__(self, codes: mx.array) -> mx.array:
        return self.weight[codes]  # (batch, time, channels)


class ResidualVQ(nn.Module):
    """One code per codebook, coarse to fine.

    encode maps (batch, time, channels) to int32 codes (batch, codebooks, time); decode maps codes
    back, from as many of the first codebooks as are given: one alone is the coarse outline.
    """

    def __init__(self, config: RVQConfig) -> None:
        super().__init__()
        self.config = config
        self.codebooks = [
            Codebook(config.codebook_size, config.dim) for _ in range(config.codebooks)
        ]

    def encode(self, x: mx.array) -> mx.array:
        """Raises ValueError when x has other than config.dim channels."""
        if x.ndim != 3 or x.shape[-1] != self.config.dim:
            raise ValueError(f"x is {x.shape}, expected (batch, time, {self.config.dim})")
        residual, codes = x.astype(mx.float32), []
        for codebook in self.codebooks:
            code = codebook.nearest(residual)  # (batch, time)
            residual = residual - codebook(code).astype(mx.float32)
            codes.append(code)
        return mx.stack(codes, axis=1)  # (batch, codebooks, time)

    def decode(self, codes: mx.array) -> mx.array:
        """Vectors (batch, time, channels). Raises ValueError for more codebooks than there are."""
        if codes.ndim != 3 or not 0 < codes.shape[1] <= len(self.codebooks):
            raise ValueError(
                f"codes are {codes.shape}, expected (batch, 1 to {len(self.codebooks)} codebooks, "
                f"time); pass codes[:, :{len(self.codebooks)}]"
            )
        levels = zip(self.codebooks, codes.swapaxes(0, 1), strict=False)
        return sum(codebook(code) for codebook, code in levels)
