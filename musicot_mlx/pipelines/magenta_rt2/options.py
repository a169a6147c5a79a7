"""What a song of Magenta RealTime 2 can be asked for, option by option."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from musicot_mlx.pipelines.options import (
    Asked,
    PlannedOptions,
    Progress,
    Reference,
    audio_temperature_option,
    candidates_option,
    duration_option,
    keep_option,
    option,
    plan_option,
    progress_option,
    reference_option,
    reference_weights_option,
    seed_option,
    top_k_option,
)

if TYPE_CHECKING:
    from musicot_mlx.pipelines.plans.plan import Plan
    from musicot_mlx.pipelines.song import Song

LONGEST = 600.0  # seconds of a song


class MagentaPlanning(TypedDict, total=False):
    """What `plan` takes, for editors: MagentaOptions says all there is to say of each."""

    duration: float
    seed: int
    reference: Reference | None
    reference_weights: float | Sequence[float] | None
    variation: float | None
    progress: Progress | None


class MagentaAsked(MagentaPlanning, Asked, total=False):
    """What `generate` and `stream` take, for editors."""

    plan: "Plan | None"
    keep: "Song | str | Path | None"
    continuation: str | Path | None
    candidates: int
    follow: int
    glide: float | None
    drums: str | None
    style_strength: float | None
    style_levels: int | None
    refresh: float | None
    audio_temperature: float | None
    top_k: int | None
    lyrics: str | None


@dataclass(frozen=True, kw_only=True)
class MagentaOptions(PlannedOptions):
    """Options of `generate` and `stream`; those of planning are `plan`'s as well."""

    plan: "Plan | None" = plan_option()
    keep: "Song | str | Path | None" = keep_option()
    continuation: str | Path | None = option(
        None,
        "audio that the song begins with and goes on",
        kind=Path,
        flags=("--continue",),
        metavar="FILE",
        saved="given",
    )
    duration: float = duration_option(LONGEST)
    seed: int = seed_option()
    candidates: int = candidates_option()
    follow: int = option(
        1,
        "draw K versions of each thought's ten seconds and go on from the one nearest to it "
        "(default: 1)",
        kind=int,
        low=1,
        high=8,
        flags=("--follow",),
        metavar="K",
    )
    reference: Reference | None = reference_option()
    reference_weights: Sequence[float] | None = reference_weights_option()
    variation: float | None = option(
        None,
        "how much the thoughts of a song differ, 0 to 1 (default: the model's)",
        kind=float,
        low=0,
        high=1,
        flags=("--variation",),
        metavar="V",
        planning=True,
    )
    glide: float | None = option(
        None,
        "seconds over which a thought becomes the next one (default: the model's)",
        kind=float,
        low=0,
        high=10,
        unit="s",
        flags=("--glide",),
        metavar="S",
    )
    drums: str | None = option(
        None,
        "free, none or play, where the plan does not say (default: free)",
        choices=("free", "none", "play"),
        flags=("--drums",),
        metavar="HOW",
        by_segment=True,
    )
    style_strength: float | None = option(
        None,
        "how strictly thoughts are followed, -1 to 6.8, where the plan does not say (default: the "
        "model's)",
        kind=float,
        low=-1,
        high=6.8,
        flags=("--style-strength",),
        metavar="S",
        by_segment=True,
    )
    style_levels: int | None = option(
        None,
        "codes of a thought that are given, coarse ones first; fewer leave more free "
        "(default: the model's)",
        kind=int,
        low=1,
        high=12,
        flags=("--style-levels",),
        metavar="N",
    )
    refresh: float | None = option(
        None,
        "seconds after which the model forgets all but the last ones it needs, 0 is never "
        "(default: the model's)",
        kind=float,
        low=0,
        high=LONGEST,
        unit="s",
        flags=("--refresh",),
        metavar="S",
    )
    audio_temperature: float | None = audio_temperature_option()
    top_k: int | None = top_k_option()
    lyrics: str | None = option(None, "it sings no words: a warning", saved="never")
    progress: Progress | None = progress_option()

    def refresh_frames(self, rate: float) -> int:
        """Frames between two refreshes at `rate` frames a second; 0 is never."""
        return max(1, round(self.refresh * rate)) if self.refresh else 0


PLANNED = MagentaOptions.planned()  # what `plan` takes
DRAWING = ("variation",)
# what frames are asked for by, beside the plan
REQUESTED = ("drums", "style_strength", "style_levels", "glide")
