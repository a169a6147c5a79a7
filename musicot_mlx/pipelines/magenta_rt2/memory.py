"""What a song of Magenta RealTime 2 takes beside its weights, from config.json alone."""

from typing import Any

from musicot_mlx.generation.device import compute_dtype
from musicot_mlx.generation.magenta_rt2 import BLOCK
from musicot_mlx.models.depthformer import DepthformerConfig
from musicot_mlx.models.spectrostream import REACH, SpectroStreamConfig
from musicot_mlx.pipelines.memory import Needs

# Arrays of the codec's widest stage that a decode holds: left and right, in and out of a unit.
_CODEC_ARRAYS = 6
_UNFOLDED = 32 << 20  # bytes of convolutions on a CPU, two pieces (cpu/spectrostream.py)
_COPIES = 2  # of the rings: those of a frame are made from those of the one before


def needs(
    config: dict[str, Any], duration: float, *, songs: int = 1, piece: int | None = None
) -> Needs:
    """What songs of `duration` seconds, drawn in one batch and decoded one by one, add: the same
    for every length, as the windows of the language model and the pieces of the codec are.
    """
    lm = DepthformerConfig.from_dict(config["lm"])
    codec = SpectroStreamConfig.from_dict(config["codec"])
    ring = songs * (1 + lm.window) * lm.temporal_heads * lm.head_dim * compute_dtype().size
    frames = 4 * (BLOCK + REACH + 1)  # of the spectrogram
    widest = 2 * frames * 480 * codec.decoder_widths[-1] * 4
    stages = {
        "audio tokens": 4 * lm.temporal_layers * ring * _COPIES,
        "decode": widest * _CODEC_ARRAYS + _UNFOLDED,
    }
    return Needs(stages, codec.channels, codec.sample_rate)
