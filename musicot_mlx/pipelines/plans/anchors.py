"""The texts that a plan is held against where nobody says which."""

from typing import TYPE_CHECKING

from musicot_mlx.tokens.denials import reading
from musicot_mlx.tokens.instruments import named_instruments, singular

if TYPE_CHECKING:
    from musicot_mlx.pipelines.plans.plan import Plan

ANCHORS = ["drums", "bass", "guitar", "piano", "strings", "synth"]


def anchors_of(plan: "Plan | None") -> list[str]:
    """The usual anchors, and the instruments that the plan's words name beside them."""
    texts = [] if plan is None else [plan.prompt, *plan.words()]
    named = [name for text in texts for name in named_instruments(reading(text).asked)]
    usual = {singular(anchor) for anchor in ANCHORS}
    return [*ANCHORS, *dict.fromkeys(name for name in named if name not in usual)]
