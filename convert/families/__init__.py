"""Readers of checkpoints: each module reads the checkpoints of one kind, under MLX names.

A reader is a function `read(source, config, scratch, **options) -> Checkpoint | None` that the
record of its family names (pipelines/families.py); it gives None where the source is not of its
kind. source is a folder or one file of weights, config is config.json, or {} where there is none.
Options that a reader does not know are not its business.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from inspect import signature
from pathlib import Path
from typing import Any

import mlx.core as mx

from musicot_mlx.errors import MusicotError
from musicot_mlx.pipelines.families import FAMILIES, known
from musicot_mlx.pipelines.family import named
from musicot_mlx.texts import read_json


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on its way to an MLX folder.

    config: config.json of the MLX folder, a section a part. arrays: by part, under MLX names,
    unread where the source allows it. parts: network and config class by part. files: what else
    the folder holds, name -> path or text.
    quantised: the parts that -q quantises where none are named; embeddings: whether theirs are too,
    or those of which parts; least_bits: of parts that suffer below, unless bits are named for them.
    example: a command for the model card; notice: whose weights they are, where that must be said.
    """

    config: dict[str, Any]
    arrays: dict[str, dict[str, mx.array]]
    parts: Mapping[str, tuple[type, type]]
    files: Mapping[str, Path | str]
    quantised: tuple[str, ...] | None = None  # None: all
    embeddings: bool | tuple[str, ...] = True
    least_bits: Mapping[str, int] = field(default_factory=dict)
    example: str = ""
    notice: str = ""


def read(source: Path, scratch: Path, **options: Any) -> Checkpoint:
    """The checkpoint of a folder or file, by the family that knows it.

    scratch: an empty folder for what has to be unpacked; it must last until the arrays are used.
    Raises MusicotError for an MLX folder, and for a kind that no family knows.
    """
    path = source / "config.json"
    try:
        config = read_json(path) if path.is_file() else {}
    except ValueError as error:
        raise MusicotError(f"{path} is not valid JSON ({error}); get the model again") from error
    if not isinstance(config, dict):
        raise MusicotError(f"{path} should hold a JSON object")
    for reader in (reader for family in known() for reader in family.readers):
        if checkpoint := named(reader)(source, config, scratch, **options):
            if options.get("size") and "size" not in signature(named(reader)).parameters:
                raise MusicotError(f"{source} holds one size alone; leave out :{options['size']}")
            return checkpoint
    kind = config.get("model_type")
    upstream = any(key in config for key in ("architectures", "transformers_version"))
    if kind in FAMILIES and not upstream:
        raise MusicotError(f"{source} is an MLX folder already; load it as it is")
    if not config and source.is_dir():
        raise MusicotError(f"{source} holds no config.json, so it is not a model folder")
    what = f"can't convert model_type {kind!r}" if config else "its weights are of no known kind"
    raise MusicotError(
        f"{source}: {what}; musicot convert reads "
        + ", ".join(family.reads for family in known() if family.reads)
    )
