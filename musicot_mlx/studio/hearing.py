"""What a finished song holds beside what was asked: segment by segment, as `musicot analyze` tells.

Runs in the engine's thread.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from musicot_mlx.evaluation.measures.agreement import analyze, nearness
from musicot_mlx.pipelines.plans.anchors import anchors_of


def heard(
    path: Path, plan: Any, model: Any, anchors: Sequence[str] | None = None
) -> dict[str, Any]:
    """Asked and heard of each segment, by these anchors or the plan's usual ones. Raises
    MusicotError where the audio can't be held against the plan.
    """
    anchors = list(anchors or anchors_of(plan))
    found = analyze(path, model=model, plan=plan, anchors=anchors)
    segments = [
        {
            "index": index,
            "cosine": _number(cosine),
            "verdict": nearness(float(cosine)) if np.isfinite(cosine) else None,
            "asked": [_number(value) for value in found.planned[index]],
            "heard": [_number(value) for value in found.achieved[index]],
        }
        for index, cosine in enumerate(found.cosine[: plan.segments])
    ]
    return {
        "anchors": anchors,
        "mean_cosine": None if found.mean_cosine is None else _number(found.mean_cosine),
        "tempo": round(found.tempo, 1) or None,
        "key": found.key,
        "segments": segments,
    }


def _number(value: float) -> float | None:
    return round(float(value), 3) if np.isfinite(value) else None
