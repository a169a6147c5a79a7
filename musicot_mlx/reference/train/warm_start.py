"""Where a pretraining may begin: the weights of a finished checkpoint instead of chance.

The band learns new styles and with them new tags, which moves every id that stands after the tags
in the language model's vocabulary; rows of its embedding and head are therefore carried over by
what they mean. Rows of tags that the checkpoint did not know stay as they were drawn.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from musicot_mlx.errors import MusicotError
from musicot_mlx.reference.musicot import MODEL_TYPE
from musicot_mlx.tokens.vocabulary import Vocabulary

# stage -> the part of a checkpoint that it trains, and that part's name in the stage's own weights
PART_OF = {
    "vae": ("vae", "vae."),
    "clap": ("clap", "clap."),
    "rvq": ("rvq", ""),
    "best_rq": ("semantic_tokenizer", "tokenizer."),
    "semantic_tokenizer": ("semantic_tokenizer", "tokenizer."),
    "semantic_lm": ("semantic_lm", "lm."),
    "tempo_head": ("semantic_lm.tempo_head", ""),
    "thought_bias": ("semantic_lm.thought_bias", ""),
    "diffusion": ("diffusion", "diffusion."),
}
# Parts of the language model that have stages of their own, and the options that ask for them.
ON_THEIR_OWN = {"tempo_head": "tempo_head", "thought_bias": "thought_bias_rank"}
# The semantic tokenizer goes on from best_rq; what is on its own is quickly fitted anew.
FIRST = set(PART_OF) - {"semantic_tokenizer", *ON_THEIR_OWN}
LATER = (
    "beat_proj.weight",
    "harmony_proj.weight",
)  # what older checkpoints lack: zeros, which change nothing
ROWS = ("llama.model.embed_tokens.weight", "llama.lm_head.weight")  # a row an id
MET = 8.0  # times that each code of a quantiser counts as met, so that none is replaced as dead


@dataclass(frozen=True)
class WarmStart:
    """A checkpoint folder: its config.json and its weights by their full names."""

    folder: Path
    config: dict[str, Any]
    state: dict[str, Tensor]

    @classmethod
    def read(cls, folder: Path) -> "WarmStart":
        """The checkpoint in `folder`; MusicotError where it is none that the trainer wrote."""
        try:
            config = json.loads((folder / "config.json").read_text())
            state = load_file(folder / "model.safetensors")
        except (OSError, ValueError) as error:
            raise MusicotError(f"{folder} is no checkpoint to start from: {error}") from error
        if config.get("model_type") != MODEL_TYPE:
            raise MusicotError(
                f"{folder} is a {config.get('model_type')} folder; start from the checkpoint/ "
                f"folder of a training, which is {MODEL_TYPE}; an MLX folder becomes one again by "
                f"python -m musicot_mlx.convert.to_pytorch"
            )
        return cls(folder, config, state)

    def part(self, stage: str) -> dict[str, Tensor]:
        """The weights of the part that a stage trains, by the part's own names."""
        prefix = PART_OF[stage][0] + "."
        weights = {k.removeprefix(prefix): v for k, v in self.state.items() if k.startswith(prefix)}
        for key, value in weights.items():
            if key.endswith("initted"):
                weights[key] = torch.ones_like(value)
            elif key.endswith("cluster_size"):
                weights[key] = torch.full_like(value, MET)
            elif key.endswith("embed_avg"):
                weights[key] = weights[key.removesuffix("_avg")] * MET
        return weights

    def fill(self, model: nn.Module, stage: str, tags: list[str]) -> None:
        """Put the part's weights into a stage's model, whose other weights stay as they are.

        Raises MusicotError where a weight is missing, or has another shape than the config asks.
        """
        prefix = PART_OF[stage][1]
        weights = self.part(stage).items()
        part = {prefix + k: v for k, v in weights if k.split(".")[0] not in ON_THEIR_OWN}
        own = model.state_dict()
        if stage == "semantic_lm":
            for key in ROWS:
                part[prefix + key] = self._rows(part[prefix + key], own[prefix + key], tags)
        needed = (k for k in own if k.startswith(prefix) and not k.endswith(LATER))
        lost = [k for k in needed if k not in part]
        lost += [k for k, v in part.items() if k not in own or own[k].shape != v.shape]
        if lost:
            raise MusicotError(
                f"{self.folder} does not fit the config of stage {stage}: {', '.join(lost[:3])}; "
                "start from a checkpoint of the same sizes"
            )
        model.load_state_dict(part, strict=False)

    def _rows(self, rows: Tensor, own: Tensor, tags: list[str]) -> Tensor:
        """The checkpoint's rows (ids, hidden) under the ids that they have with `tags`."""
        config = self.config["semantic_lm"]
        old, new = (Vocabulary.from_config({**config, "tags": t}) for t in (config["tags"], tags))
        if own.shape != (new.vocab_size, rows.shape[1]) or len(rows) != old.vocab_size:
            return rows  # sizes of the config differ, which fill() says
        moved = own.clone()
        moved[: old.tag_offset] = rows[: old.tag_offset]
        known = {tag: old.tag_id(i) for i, tag in enumerate(config["tags"])}
        for i, tag in enumerate(tags):
            if tag in known:
                moved[new.tag_id(i)] = rows[known[tag]]
        moved[new.thought_offset : new.used_size] = rows[old.thought_offset : old.used_size]
        return moved
