"""A song that another goes on from: its plan and codes, from a Song or from the .json beside it."""

import base64
import binascii
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from musicot_mlx.errors import MusicotError
from musicot_mlx.pipelines.plans.plan import Plan
from musicot_mlx.pipelines.plans.thoughts import PlanModel
from musicot_mlx.pipelines.sidecar import expected_sidecar
from musicot_mlx.pipelines.song import Song
from musicot_mlx.texts import read_json


@dataclass(frozen=True)
class EarlierSong:
    """A song as another is to go on from it: what it is called, its plan, codes int32 (codebooks,
    frames), the settings it was made by, and the gain in dB that it got.
    """

    where: str
    plan: Plan
    codes: np.ndarray
    settings: dict[str, Any]
    gain: float


def earlier_song(
    earlier: Song | str | Path, model: PlanModel, *, codebooks: int = 1
) -> EarlierSong:
    """A Song, or a file with its .json beside it. Raises MusicotError for one without a plan, and
    for a .json that doesn't tell how it was made.
    """
    if isinstance(earlier, Song):
        if earlier.plan is None:
            raise MusicotError("the song to keep has no plan; only songs made from thoughts can be")
        where, codes = "the song to keep", earlier.codes.astype(np.int32)
        plan = model.check_plan(earlier.plan, where)
        return EarlierSong(where, plan, codes, earlier.settings, earlier.gain)
    path = Path(earlier)
    sidecar = expected_sidecar(path)
    try:
        settings = read_json(sidecar)
        text = settings["made"]["codes"]
        codes = np.frombuffer(base64.b64decode(text, validate=True), "<u2").astype(np.int32)
        codes = codes.reshape(codebooks, -1)
        gain = float(settings["made"].get("gain", 0.0))  # songs of earlier versions had none
    except OSError as error:
        raise MusicotError(
            f"can't read {sidecar} ({error.strerror}), which tells how {path} was made"
        ) from error
    except (KeyError, TypeError, ValueError, RecursionError, binascii.Error):
        raise MusicotError(
            f"{sidecar} doesn't tell the audio tokens of {path}; make it again with "
            f"musicot generate --config-from {sidecar}"
        ) from None
    return EarlierSong(str(path), Plan.load(sidecar, model), codes, settings, gain)
