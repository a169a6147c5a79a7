"""How much memory a song will take, known before a weight is read; and what to do when it is short.

Sizes come from the headers of the safetensors files and from config.json. On a CPU device weights
become float32, whatever is stored. What cannot be read off is measured once and named below.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from safetensors import SafetensorError, safe_open

from musicot_mlx.errors import MusicotError
from musicot_mlx.weights.checkpoint import compute_dtype, quantization_of, read_config
from musicot_mlx.weights.hub import resolve

GB = 1e9
# Python, MLX, numpy, BLAS buffers, tokenizer and sound libraries: measured on Linux and alike on
# every machine, as none of it grows with the model.
PROCESS = 0.09 * GB
DECODE_LATENTS = (512, 256, 128, 64)  # latents decoded at once, the quickest first
# Float32 arrays of (frames, features) that the inverse Fourier transform holds at its peak.
_DECODE_ARRAYS = 6
# Arrays of (rows, frames, width) that one block of a pass leaves; a pass is queued whole.
_PASS_ARRAYS = 19
MUSICGEN_WINDOW = 30.0  # seconds that its decoder holds at once
_CODEC_FRAMES = 250  # that the codec decodes at once
# Arrays of (samples, filters) that the codec's widest stage holds.
_CODEC_ARRAYS = 8
_CACHE_SHARE = 0.7  # of the largest stage, that MLX keeps to use again
_ITEM = {"F32": 4, "F16": 2, "BF16": 2, "U32": 4, "I32": 4, "U8": 1, "I64": 8, "F64": 8, "I8": 1}


@dataclass(frozen=True)
class Footprint:
    """Predicted bytes: what is stored, weights as they run, and the most that each stage adds."""

    stored: int
    weights: int
    loading: int  # the peak while weights are read and expanded
    stages: dict[str, int]
    waveform: int  # held outside MLX

    def peak(self, *, loading: bool = True) -> int:
        """What mx.get_peak_memory() will say of load and song, or of the song alone."""
        song = self.weights + max(self.stages.values())
        return max(self.loading, song) if loading else song

    def resident(self, cache: int) -> int:
        """Peak of the process with at most `cache` bytes kept for reuse."""
        return int(PROCESS) + self.peak() + cache + self.waveform


@dataclass(frozen=True)
class MemoryPlan:
    """How a song stays within a budget; `apply` sets what is set for the process."""

    budget: int
    footprint: Footprint
    cache_limit: int
    decode_latents: int
    stream: bool  # written as it is made: the waveform is never held

    @property
    def resident(self) -> int:
        return self.footprint.resident(self.cache_limit)

    def apply(self) -> None:
        """Bound MLX's buffer cache, which otherwise grows to the largest stage."""
        mx.set_cache_limit(self.cache_limit)

    def line(self) -> str:
        """The plan for people, on one line."""
        weights, stages = self.footprint.weights / GB, self.footprint.stages
        worst = max(stages, key=stages.get)
        how = "written as it is made" if self.stream else "held whole"
        return (
            f"memory plan: {self.resident / GB:.2f} of {self.budget / GB:.2f} GB: weights "
            f"{weights:.2f}, {worst} {stages[worst] / GB:.2f}, cache {self.cache_limit / GB:.2f}; "
            f"parts load one after another, {self.decode_latents} latents are decoded at once, "
            f"the song is {how}"
        )


def tensors(folder: str | Path) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """Name, safetensors dtype and shape of every stored array; only file headers are read."""
    files = sorted(Path(folder).glob("model*.safetensors"))
    if not files:
        raise MusicotError(f"{folder} holds no model.safetensors; get the model again")
    for path in files:
        try:
            with safe_open(path, framework="numpy") as file:
                for name in file.offset_keys():
                    header = file.get_slice(name)
                    yield name, header.get_dtype(), tuple(header.get_shape())
        except (OSError, SafetensorError) as error:
            raise MusicotError(f"{path} is truncated or not safetensors ({error})") from error


def weight_bytes(folder: str | Path, config: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """Of each part, bytes stored and bytes as it runs on this device."""
    found = {name: (dtype, shape) for name, dtype, shape in tensors(folder)}
    expand = compute_dtype() == mx.float32
    parts: dict[str, tuple[int, int]] = {}
    for name, (dtype, shape) in found.items():
        path, _, leaf = name.rpartition(".")
        values = _product(shape)
        stored = runs = values * _ITEM.get(dtype, 4)
        if expand and f"{path}.scales" in found and leaf in ("weight", "scales", "biases"):
            # packed weights expand to the values that their scales cover; the rest goes
            packing = quantization_of(config, name.split(".", 1)[0]) or {}
            covered = packing.get("group_size", 64) * _product(found[f"{path}.scales"][1])
            runs = 4 * covered if leaf == "weight" else 0
        elif expand and dtype in ("F16", "BF16"):
            runs = 4 * values
        part = name.split(".", 1)[0]
        before = parts.get(part, (0, 0))
        parts[part] = (before[0] + stored, before[1] + runs)
    return parts


def predict(
    name_or_path: str | Path,
    *,
    duration: float,
    songs: int = 1,
    decode_latents: int = DECODE_LATENTS[0],
    stream: bool = False,
) -> Footprint:
    """What a song of `duration` seconds will take, from headers and config.json alone.

    Raises MusicotError for a folder that holds neither MusiCoT nor MusicGen.
    """
    folder = resolve(name_or_path)
    config = read_config(folder, model_types=("musicot", "musicgen"))
    sizes = weight_bytes(folder, config)
    if config["model_type"] == "musicgen":
        codec = config["codec"]
        channels = config["decoder"].get("audio_channels", 1)
        rate = codec.get("sampling_rate", 32000)
        stages = musicgen_stages(config["decoder"], codec, duration, songs=songs)
    else:
        vae = config["vae"]
        channels, rate = vae["audio_channels"], vae["sample_rate"]
        stages = {
            "audio tokens": _lm_bytes(config["semantic_lm"], duration, songs),
            "diffusion": _diffusion_bytes(config["diffusion"], duration),
            "decode": _decode_bytes(vae, duration, decode_latents),
        }
    # MusiCoT fills one array; MusicGen joins pieces, and candidates keep the best one so far
    held = 1 if config.get("model_type") == "musicot" and songs == 1 else 2
    waveform = 0 if stream else int(held * 4 * channels * rate * duration)
    return Footprint(
        stored=sum(stored for stored, _ in sizes.values()),
        weights=sum(runs for _, runs in sizes.values()),
        loading=_loading(sizes),
        stages=stages,
        waveform=waveform,
    )


def plan(
    name_or_path: str | Path, *, duration: float, max_memory_gb: float, songs: int = 1
) -> MemoryPlan:
    """The quickest way to make the song within max_memory_gb, the whole process counted.

    Raises MusicotError when there is none, with what it would take.
    """
    budget = int(max_memory_gb * GB)
    needed = 0
    for stream in (False, True) if songs == 1 else (False,):  # of several the best is kept
        for latents in DECODE_LATENTS:
            found = predict(name_or_path, duration=duration, decode_latents=latents, stream=stream)
            wanted = int(_CACHE_SHARE * max(found.stages.values()))
            needed = found.resident(0)
            if needed + wanted // 8 <= budget:  # less cache than that costs time at every step
                cache = min(wanted, budget - needed)
                return MemoryPlan(budget, found, cache, latents, stream)
    raise MusicotError(
        f"{duration:g} s with {name_or_path} takes at least {needed / GB:.2f} GB and "
        f"--max-memory-gb is {max_memory_gb:g}; quantise the model (musicot convert -q), close "
        "other programs and raise it, or make a shorter song"
    )


def of_network(network: nn.Module) -> int:
    """Bytes of a network's parameters, by shape: nothing is evaluated, so nothing is allocated."""
    return sum(value.nbytes for _, value in tree_flatten(network.parameters()))


def musicgen_stages(
    decoder: dict[str, Any], codec: dict[str, Any], duration: float, *, songs: int = 1
) -> dict[str, int]:
    """What MusicGen's stages add to its weights, from the sections `decoder` and `codec`."""
    rate = decoder.get("frame_rate", 50.0)
    frames = int(min(duration, MUSICGEN_WINDOW) * rate) + decoder.get("num_codebooks", 4)
    heads = decoder["num_attention_heads"]
    section = {**decoder, "num_key_value_heads": heads}
    cache = lm_cache_bytes(section, frames, 2 * songs, compute_dtype().size)
    ratios = codec.get("upsampling_ratios", (8, 5, 4, 4))
    window = min(_CODEC_FRAMES, int(duration * rate)) * _product(tuple(ratios))
    return {
        "audio tokens": int(cache * (1 + 1 / decoder["num_hidden_layers"])),
        "decode": 4 * window * codec.get("num_filters", 64) * _CODEC_ARRAYS,
    }


def _loading(sizes: dict[str, tuple[int, int]]) -> int:
    """Parts are made ready one after another, and what was stored of each is then dropped."""
    waiting, ready, peak = sum(s for s, _ in sizes.values()), 0, 0
    for stored, runs in sizes.values():
        expands = runs != stored
        peak = max(peak, ready + waiting + (runs if expands else 0))
        ready, waiting = ready + runs, waiting - stored
    return peak


def lm_cache_bytes(section: dict[str, Any], positions: int, rows: int, item: int) -> int:
    """Keys and values of `rows` rows over `positions`, which caches take in blocks of 256."""
    blocks = -(-positions // 256) * 256
    head_dim = section["hidden_size"] // section["num_attention_heads"]
    width = section["num_key_value_heads"] * head_dim
    return 2 * rows * section["num_hidden_layers"] * width * blocks * item


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


def _product(shape: tuple[int, ...]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total
