"""What a MusiCoT song takes beside its weights, stage by stage, from config.json alone.

What cannot be read off is measured once and named below.
"""

from typing import Any

from musicot_mlx.generation.device import compute_dtype
from musicot_mlx.pipelines.memory import Needs, lm_cache_bytes

DECODE_LATENTS = (512, 256, 128, 64)  # latents decoded at once, the quickest first
# Float32 arrays of (frames, features) that the inverse Fourier transform holds at its peak.
_DECODE_ARRAYS = 6
# Arrays of (rows, frames, width) that one block of a pass leaves; a pass is queued whole.
_PASS_ARRAYS = 19


def needs(
    config: dict[str, Any], duration: float, *, songs: int = 1, piece: int | None = None
) -> Needs:
    """What songs of `duration` seconds, drawn in one batch and rendered one by one, add."""
    vae = config["vae"]
    stages = {
        "audio tokens": _lm_bytes(config["semantic_lm"], duration, songs),
        "diffusion": _diffusion_bytes(config["diffusion"], duration),
        "decode": _decode_bytes(vae, duration, piece or DECODE_LATENTS[0]),
    }
    return Needs(stages, vae["audio_channels"], vae["sample_rate"], DECODE_LATENTS)


def _lm_bytes(section: dict[str, Any], duration: float, songs: int) -> int:
    seconds = min(duration, section.get("context_seconds", 30.0))
    thoughts = section["thought_codebooks"] * -(-seconds // section.get("thought_seconds", 10.0))
    positions = int(seconds * section.get("audio_frame_rate", 25.0) + thoughts) + 64
    item = compute_dtype().size
    # a cache that grows is copied, layer by layer; two steps are in flight
    layers = section["num_hidden_layers"]
    cache = lm_cache_bytes(section, positions, 2 * songs, item)
    return int(cache * (1 + 1 / layers))


def _diffusion_bytes(section: dict[str, Any], duration: float) -> int:
    seconds = min(duration, section.get("window_seconds", 20.0))
    frames = seconds * section.get("latent_rate", 44100 / 1024)
    width = section["num_attention_heads"] * section["attention_head_dim"]
    item = compute_dtype().size
    return int(2 * frames * width * item * _PASS_ARRAYS * section["num_layers"])


def _decode_bytes(section: dict[str, Any], duration: float, latents: int) -> int:
    hop, n_fft = section["hop_length"], section["n_fft"]
    reach = sum(section["decoder_layers"]) * section["kernel_size"] // 2 + n_fft // hop
    song = duration * section["sample_rate"] / (2 * hop)
    frames = 2 * min(latents + 2 * reach, song)
    features = (n_fft + 2) * section["audio_channels"]
    return int(frames * features * 4 * _DECODE_ARRAYS)
