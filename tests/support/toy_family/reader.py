"""Reads the toy's checkpoints: `layers.0.weight` is our `layers.0.linear.weight`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from musicot_mlx.convert.families import Checkpoint
from musicot_mlx.convert.rules import Rule, apply_rules
from musicot_mlx.weights.checkpoint import load_arrays
from tests.support.toy_family.pipeline import PARTS


def read(folder: Path, config: Mapping[str, Any], scratch: Path, **_: Any) -> Checkpoint | None:
    if config.get("model_type") != "toyland":
        return None
    rules = [Rule(r"(layers\.\d)\.(.*)", r"\1.linear.\2")]
    arrays = apply_rules(rules, load_arrays(folder, lazy=True), where="hum")
    return Checkpoint(
        config={"model_type": "toy", "hum": {"hidden": config["width"], "sample_rate": 8000}},
        arrays={"hum": arrays},
        parts=PARTS,
        files={},
        example='musicot generate --model {name} -p "hum"',
    )
