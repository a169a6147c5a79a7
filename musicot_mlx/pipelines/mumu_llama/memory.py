"""What an answer and its song take beside the networks, stage by stage, from config.json alone."""

from typing import Any

from musicot_mlx.generation.device import compute_dtype
from musicot_mlx.generation.mumu_llama import PREFILL
from musicot_mlx.pipelines.memory import Needs, lm_cache_bytes
from musicot_mlx.pipelines.musicgen.memory import stages

# Parts that are in memory together, where not all of them stay (pipelines/shelf.py).
PHASES = (
    ("mert", "bridges"),
    ("vit", "bridges"),
    ("vivit", "bridges"),
    ("llama", "words"),
    ("text_encoder", "decoder", "codec"),
)
WINDOW = 60.0  # seconds of a song that are heard at once
_STATES = 12  # arrays of (frames, hidden_size) that a layer of an encoder holds


def needs(
    config: dict[str, Any], duration: float, *, songs: int = 1, piece: int | None = None
) -> Needs:
    """What a minute of listening, the longest answer and a song of `duration` seconds add."""
    item = compute_dtype().size
    found = {"listening and looking": item * _encoding(config), "answer": answer(config, item)}
    channels, rate = 1, 32000
    if "codec" in config:
        found |= stages(config["decoder"], config["codec"], duration, songs=songs)
        channels = config["decoder"].get("audio_channels", 1)
        rate = config["codec"].get("sampling_rate", rate)
    return Needs(found, channels, rate, phases=PHASES)


def answer(config: dict[str, Any], item: int, *, positions: int | None = None) -> int:
    """Keys and values of a text of so many tokens, question and answer together (None: the longest
    there is), and what a pass over the question holds. item: bytes of a value.
    """
    llama = config["llama"]
    positions = positions or llama.get("max_position_embeddings", 1024)
    section = {**llama, "num_key_value_heads": llama["num_attention_heads"]}
    cache = lm_cache_bytes(section, positions, 1, item)
    layer = 4 * llama["hidden_size"] + 3 * llama["intermediate_size"]
    rows = min(PREFILL, positions)
    # a cache that grows by a block holds one layer twice
    return int(cache * (1 + 1 / llama["num_hidden_layers"])) + item * rows * layer


def _encoding(config: dict[str, Any]) -> int:
    """Values that the largest encoder holds at once."""
    mert, vivit = config["mert"], config["vivit"]
    hop = 1
    for stride in mert.get("conv_stride", (5, 2, 2, 2, 2, 2, 2)):
        hop *= stride
    samples = int(WINDOW * mert.get("sampling_rate", 24000))
    heard = samples // hop * mert.get("hidden_size", 1024) * _STATES
    side = vivit.get("image_size", 224) // vivit.get("patch_size", 16)
    frames = vivit.get("num_frames", 1) // vivit.get("tubelet_frames", 1)
    seen = (1 + frames * side * side) * vivit.get("hidden_size", 768) * _STATES
    return max(heard, seen)
