"""Vision transformers: ViT for a picture, ViViT for a film, from pixels to a state a patch.

arXiv 2010.11929 and 2103.15691 (its model 1); reference implementations transformers.ViTModel and
VivitModel, without their pooler. One class is both: a picture is a film of one frame. Patches and
tubelets don't overlap, so their convolution is a linear layer of what each holds.
"""

from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from musicot_mlx.nn.encoder import EncoderLayer, check_encoder


@dataclass(frozen=True)
class ViTConfig:
    """Sizes; the defaults are vit-base-patch16-224. Names are the checkpoint's, but tubelet_frames,
    the first of ViViT's tubelet_size.
    """

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-12
    image_size: int = 224  # pixels a side
    patch_size: int = 16
    num_channels: int = 3
    num_frames: int = 1
    tubelet_frames: int = 1

    def __post_init__(self) -> None:
        check_encoder(self)
        least = min(self.patch_size, self.tubelet_frames)
        if least < 1 or self.image_size % self.patch_size or self.num_frames % self.tubelet_frames:
            raise ValueError(
                f"{self.num_frames} frames of {self.image_size} pixels a side don't divide into "
                f"patches of {self.tubelet_frames} frames and {self.patch_size} pixels"
            )

    @property
    def patches(self) -> int:
        """Patches of a picture or film; there is a token more, which stands for all of it."""
        side = self.image_size // self.patch_size
        return self.num_frames // self.tubelet_frames * side * side


VIT_BASE = ViTConfig()
VIVIT_BASE = ViTConfig(
    num_frames=32, tubelet_frames=2, hidden_act="gelu_fast", layer_norm_eps=1e-6
)  # vivit-b-16x2


class ViT(nn.Module):
    """Pixels (batch, frames, height, width, channels), for pictures also (batch, height, width,
    channels), to (batch, 1 + patches, hidden_size) after the final norm, the class token first.

    Patches are in order of frames, then rows, then columns. Raises ValueError for pixels of
    another size.
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        values = config.num_channels * config.tubelet_frames * config.patch_size**2
        self.patches = nn.Linear(values, config.hidden_size)
        self.class_token = mx.zeros((config.hidden_size,))
        self.positions = mx.zeros((config.patches + 1, config.hidden_size))
        self.layers = [EncoderLayer(config) for _ in range(config.num_hidden_layers)]
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def __call__(self, pixels: mx.array) -> mx.array:
        x = self.patches(self._cut(pixels).astype(self.positions.dtype))
        first = mx.broadcast_to(self.class_token, (len(x), 1, x.shape[-1]))
        x = mx.concatenate([first, x], axis=1) + self.positions  # (batch, time, channels)
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)

    def _cut(self, pixels: mx.array) -> mx.array:
        """The values of each patch, channel by channel as PyTorch's convolutions have them:
        (batch, patches, channels * frames * height * width).
        """
        config = self.config
        if pixels.ndim == 4:
            pixels = pixels[:, None]
        expected = (config.num_frames, config.image_size, config.image_size, config.num_channels)
        if pixels.shape[1:] != expected:
            raise ValueError(f"pixels are {pixels.shape[1:]} a row, expected {expected}")
        depth, side = config.tubelet_frames, config.patch_size
        across = config.image_size // side
        x = pixels.reshape(
            len(pixels), config.num_frames // depth, depth, across, side, across, side, -1
        )
        return x.transpose(0, 1, 3, 5, 7, 2, 4, 6).reshape(len(pixels), config.patches, -1)
