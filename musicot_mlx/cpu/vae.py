"""Parts of models/vae.py as MLX's CPU backend runs them fastest."""

import mlx.core as mx

from musicot_mlx.cpu.activations import in_blocks, layer_norm
from musicot_mlx.cpu.threads import guidance_streams
from musicot_mlx.models import vae

_LANE_REACHES = 6  # latents, in reaches, from which on two halves are worth what they share


class ConvNeXtBlock(vae.ConvNeXtBlock):
    def __call__(self, x: mx.array) -> mx.array:
        width = self.expand.weight.shape[0]
        return x + self.scale * in_blocks(self._mlp, self.depthwise(x), width)

    def _mlp(self, x: mx.array) -> mx.array:
        return self.project(self.activation(self.expand(layer_norm(self.norm, x))))


class VAE(vae.VAE):
    def decode(self, latents: mx.array, *, first: int = 0) -> mx.array:
        """Where two lanes are quicker, each has one half and what its convolutions reach."""
        time, reach = latents.shape[1], self.config.decoder_reach
        per_latent = self.config.samples_per_latent
        with guidance_streams() as lanes:
            if lanes is None or time < _LANE_REACHES * reach:
                return super().decode(latents, first=first)
            halves = []
            for lane, (start, stop) in zip(lanes, ((0, time // 2), (time // 2, time)), strict=True):
                low, high = max(0, start - reach), min(time, stop + reach)
                with mx.stream(lane):
                    audio = super().decode(latents[:, low:high], first=first + low)
                    halves.append(audio[:, (start - low) * per_latent : (stop - low) * per_latent])
            mx.eval(halves)
        return mx.concatenate(halves, axis=1)
