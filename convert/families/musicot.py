"""MusiCoT checkpoints, read for conversion: those that musicot_mlx.reference writes."""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from musicot_mlx.convert.families import Checkpoint
from musicot_mlx.convert.rules import apply_rules
from musicot_mlx.errors import MusicotError
from musicot_mlx.pipelines.musicot.pipeline import PARTS
from musicot_mlx.weights.checkpoint import load_arrays, part, require_parts


def read(folder: Path, config: Mapping[str, Any], scratch: Path, **_: Any) -> Checkpoint | None:
    """The checkpoint of a folder with model_type musicot-pytorch.

    Raises MusicotError for missing sections or files and keys that belong to no part.
    """
    if config.get("model_type") != "musicot-pytorch":
        return None
    missing = [name for name in PARTS if not isinstance(config.get(name), dict)]
    if missing:
        raise MusicotError(f"{folder}/config.json lacks the sections {', '.join(missing)}")
    source = load_arrays(folder, lazy=True)
    require_parts(source, PARTS, where=str(folder))
    out: dict[str, Any] = {**config, "model_type": "musicot"}
    arrays = {}
    for name in PARTS:
        keymap = import_module(f"musicot_mlx.convert.keymaps.{name}")
        if hasattr(keymap, "config"):
            out[name] = keymap.config(config[name])
        arrays[name] = apply_rules(keymap.RULES, part(source, name), where=name)
    tokenizer = folder / "tokenizer.json"
    if not tokenizer.is_file():
        raise MusicotError(f"{folder} holds no tokenizer.json, which prompts and lyrics need")
    return Checkpoint(
        config=out,
        arrays=arrays,
        parts=PARTS,
        files={"tokenizer.json": tokenizer},
        example='musicot generate --model {name} -p "solo piano, slow and calm" --duration 20',
    )
