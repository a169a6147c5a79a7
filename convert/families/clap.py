"""CLAP folders of transformers, read for conversion: config.json with model_type clap.

laion/larger_clap_music, laion/larger_clap_general and laion/clap-htsat-unfused. Their tokenizer is
RoBERTa's, as tokenizer.json or as vocab.json and merges.txt.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx

from musicot_mlx.convert.families import Checkpoint
from musicot_mlx.convert.keymaps import clap as keymap
from musicot_mlx.convert.pickles import load_bin
from musicot_mlx.convert.roberta import roberta_tokenizer
from musicot_mlx.convert.rules import apply_rules
from musicot_mlx.errors import MusicotError
from musicot_mlx.models.clap import Clap, ClapConfig
from musicot_mlx.texts import read_json
from musicot_mlx.weights.checkpoint import load_arrays

PARTS = {"clap": (Clap, ClapConfig)}
EXAMPLE = (
    'python -c "import musicot_mlx as mc; '
    "print(mc.load('{name}').embed_text(['solo piano', 'full drum kit']))\""
)


def read(
    source: Path,
    config: Mapping[str, Any],
    scratch: Path,
    *,
    tokenizer: str | Path | None = None,
    **_: Any,
) -> Checkpoint | None:
    """The checkpoint of a folder that transformers.ClapModel wrote.

    tokenizer: a tokenizer.json, or a folder with one, where the checkpoint has none. Raises
    MusicotError for a fusion checkpoint, missing files, and a tokenizer that does not fit.
    """
    if config.get("model_type") != "clap" or "text_config" not in config:
        return None
    section = keymap.config(config, _json(source / "preprocessor_config.json"))
    longest = _json(source / "tokenizer_config.json").get("model_max_length")
    positions = ClapConfig.from_dict(section).text_config.max_tokens
    if isinstance(longest, int) and longest < positions:
        section["text_config"]["context_length"] = longest
    if not any(source.glob("model*.safetensors")) and any(source.glob("pytorch_model*.bin*")):
        arrays = load_bin(source, scratch)
    else:
        arrays = load_arrays(source, lazy=True)
    arrays = apply_rules(keymap.RULES, arrays, where="clap")
    return checkpoint(section, arrays, roberta_tokenizer(source, section, tokenizer))


def checkpoint(section: dict[str, Any], arrays: dict[str, mx.array], tokenizer: str) -> Checkpoint:
    """The Checkpoint of a CLAP: config section, arrays under MLX names, tokenizer.json."""
    return Checkpoint(
        config={"model_type": "clap", "clap": section},
        arrays={"clap": arrays},
        parts=PARTS,
        files={"tokenizer.json": tokenizer},
        example=EXAMPLE,
    )


def _json(path: Path) -> dict[str, Any]:
    """A JSON object of the folder, {} where the file is missing."""
    try:
        values = read_json(path) if path.is_file() else {}
    except ValueError as error:
        raise MusicotError(f"{path} is not valid JSON ({error}); get the model again") from error
    if not isinstance(values, dict):
        raise MusicotError(f"{path} should hold a JSON object")
    return values
