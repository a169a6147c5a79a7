"""What a MusicGen song takes beside its weights, stage by stage, from config.json alone."""

from typing import Any

from musicot_mlx.generation.device import compute_dtype
from musicot_mlx.pipelines.memory import Needs, lm_cache_bytes, product

WINDOW = 30.0  # seconds that the decoder holds at once
_CODEC_FRAMES = 250  # that the codec decodes at once
# Arrays of (samples, filters) that the codec's widest stage holds.
_CODEC_ARRAYS = 8


def needs(
    config: dict[str, Any], duration: float, *, songs: int = 1, piece: int | None = None
) -> Needs:
    """What songs of `duration` seconds, drawn in one batch, add."""
    codec, channels = config["codec"], config["decoder"].get("audio_channels", 1)
    by_stage = stages(config["decoder"], codec, duration, songs=songs)
    return Needs(by_stage, channels, codec.get("sampling_rate", 32000))


def stages(
    decoder: dict[str, Any], codec: dict[str, Any], duration: float, *, songs: int = 1
) -> dict[str, int]:
    """What each stage adds to the weights, from the sections `decoder` and `codec`."""
    rate = decoder.get("frame_rate", 50.0)
    frames = int(min(duration, WINDOW) * rate) + decoder.get("num_codebooks", 4)
    heads = decoder["num_attention_heads"]
    section = {**decoder, "num_key_value_heads": heads}
    cache = lm_cache_bytes(section, frames, 2 * songs, compute_dtype().size)
    ratios = codec.get("upsampling_ratios", (8, 5, 4, 4))
    window = min(_CODEC_FRAMES, int(duration * rate)) * product(tuple(ratios))
    return {
        "audio tokens": int(cache * (1 + 1 / decoder["num_hidden_layers"])),
        "decode": 4 * window * codec.get("num_filters", 64) * _CODEC_ARRAYS,
    }
