"""A tiny MuMu-LLaMA: its twin in PyTorch, the checkpoint.pth it would be published as, and the MLX
networks of it.
"""

from dataclasses import replace
from typing import Any

import mlx.core as mx
import torch

from musicot_mlx.convert.keymaps import mumu_llama as keymap
from musicot_mlx.models.mumu_bridges import Bridges, BridgesConfig
from musicot_mlx.models.mumu_llama import MumuLlama, MumuLlamaConfig, Words, WordsConfig
from musicot_mlx.reference import mumu_llama as reference
from musicot_mlx.weights.checkpoint import prepare
from musicot_mlx.weights.config import config_from_dict

TINY = reference.MumuConfig(
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=4,
    num_attention_heads=4,
    vocab_size=48,
    lora_rank=4,
    query_rows=3,
    audio_states=4,
    audio_size=32,
    image_tokens=5,
    image_size=32,
    video_tokens=9,
    video_size=32,
)
# as the published generations tell themselves apart: 20 rows are summed, 18 are split among three
GENERATIONS = {
    "sum": replace(TINY, routing="sum", query_rows=2),
    "split": TINY,
    "rnn": replace(TINY, rnn=True),
}


def twin(generation: str = "split", seed: int = 0) -> reference.MumuLlama:
    """A twin whose every weight can be seen to be wrong."""
    return reference.draw_weights(reference.MumuLlama(GENERATIONS[generation]), seed).eval()


def networks(model: reference.MumuLlama, *, merge: bool = True) -> tuple[MumuLlama, Words, Bridges]:
    """The MLX networks of a twin, float32, by the key maps that convert files."""
    state = {key: mx.array(value.numpy()) for key, value in model.state_dict().items()}
    return of_state(state, merge=merge)


def of_state(state: dict[str, mx.array], *, merge: bool) -> tuple[MumuLlama, Words, Bridges]:
    config = keymap.config({key: value.shape for key, value in state.items()}, norm_eps=1e-5)
    arrays = keymap.arrays(state, config, merge=merge)
    kinds: dict[str, tuple[Any, Any]] = {
        "llama": (MumuLlama, MumuLlamaConfig),
        "words": (Words, WordsConfig),
        "bridges": (Bridges, BridgesConfig),
    }
    return tuple(
        prepare(
            network(config_from_dict(kind, config[name], where=name)),
            None,
            arrays[name],
            where=name,
        )
        for name, (network, kind) in kinds.items()
    )


def features(model: reference.MumuLlama, seed: int = 1, batch: int = 1) -> dict[str, torch.Tensor]:
    """What encoders might give: states of a song, tokens of a picture and of a film."""
    config, generator = model.config, torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(batch, *shape, generator=generator)

    return {
        "audio": noise(config.audio_states, 7, config.audio_size),
        "image": noise(config.image_tokens, config.image_size),
        "video": noise(config.video_tokens, config.video_size),
    }


def as_mlx(value: torch.Tensor) -> mx.array:
    return mx.array(value.detach().numpy())
