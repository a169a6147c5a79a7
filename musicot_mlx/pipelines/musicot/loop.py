"""Loops: songs of whole bars whose end goes over into their beginning.

The model makes SEAM seconds more than the bars, and what follows the last of them is faded into the
first (pipelines/mastering.py), so that a player that repeats the file goes on as the music did.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from musicot_mlx.errors import MusicotError
from musicot_mlx.pipelines.mastering import SEAM
from musicot_mlx.pipelines.musicot.options import MusicotOptions
from musicot_mlx.pipelines.options import LONGEST
from musicot_mlx.pipelines.plans import harmony
from musicot_mlx.pipelines.plans.plan import Plan
from musicot_mlx.tokens.tempo import SLOWEST, STEP

LONGEST_BAR = 240.0 / SLOWEST * STEP  # seconds, at the slowest tempo that a plan has


def looped(wish: MusicotOptions, make: Callable[[MusicotOptions], Plan]) -> Plan:
    """The plan of a loop: as many whole bars as come nearest to the duration asked for, and SEAM.

    make(wish) gives the plan of a song. Where no tempo is told, bars are those of its chords.
    Raises MusicotError where not one bar fits, and for what a loop can't have.
    """
    if wish.fade_in or wish.fade_out:
        raise MusicotError("a loop has no end to fade; leave out the fades, or the loop")
    if wish.keep is not None:
        raise MusicotError("a loop's beginning follows its end, so nothing of a song can be kept")
    asked = wish.duration
    if wish.plan is None:
        roomy = min(LONGEST, asked + LONGEST_BAR + SEAM)
        plan = make(replace(wish, duration=roomy))
    else:
        plan = make(wish)
        asked = plan.duration
    ends = harmony.bar_starts(plan)[1:]
    ends = ends[ends + SEAM <= plan.duration + 1e-6]
    if not len(ends):
        raise MusicotError(f"not one bar fits into {asked:g} s; ask for a longer loop")
    seconds = float(ends[np.argmin(np.abs(ends - asked))])
    return _cut(plan, seconds + SEAM)


def loop_seconds(plan: Plan) -> float:
    """Seconds of the loop that a plan of `looped` makes."""
    return plan.duration - SEAM


def _cut(plan: Plan, duration: float) -> Plan:
    """The beginning of a plan."""
    segments = max(1, int(np.ceil(duration / plan.thought_seconds - 1e-9)))
    shorter = replace(
        plan,
        duration=duration,
        codes=plan.codes[:, :segments],
        embeddings=plan.embeddings[:segments],
        origins=plan.origins[:segments],
    )
    return replace(shorter, chords=harmony.fitted(shorter, plan.chords))
