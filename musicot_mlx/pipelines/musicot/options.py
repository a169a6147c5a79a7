"""What a MusiCoT song can be asked for, option by option."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from musicot_mlx.pipelines.options import (
    Asked,
    PlannedOptions,
    Progress,
    Reference,
    bpm_option,
    candidates_option,
    duration_option,
    keep_option,
    option,
    plan_option,
    progress_option,
    reference_option,
    reference_weights_option,
    seed_option,
)

if TYPE_CHECKING:
    from musicot_mlx.pipelines.plans.plan import Plan
    from musicot_mlx.pipelines.song import Song

SAMPLERS = ("euler", "heun", "dpmpp", "dpmpp_sde")  # the latter two of a v model


class MusicotPlanning(TypedDict, total=False):
    """What `plan` takes, for editors: MusicotOptions says all there is to say of each."""

    duration: float
    seed: int
    reference: Reference | None
    reference_weights: float | Sequence[float] | None
    lyrics: str | None
    tags: str | Sequence[str] | None
    key: str | None
    chords: str | Sequence[str] | None
    bpm: float | None
    thought_temperature: float | None
    thought_guidance: float | None
    top_k: int
    top_p: float
    progress: Progress | None


class MusicotAsked(MusicotPlanning, Asked, total=False):
    """What `generate` and `stream` take, for editors."""

    plan: "Plan | None"
    keep: "Song | str | Path | None"
    candidates: int
    audio_temperature: float | None
    audio_guidance: float | None
    unconditional: str | None
    thought_bias: float | None
    steps: int | None
    diffusion_guidance: float | None
    sampler: str | None
    loop: bool


@dataclass(frozen=True, kw_only=True)
class MusicotOptions(PlannedOptions):
    """Options of `generate` and `stream`; those of planning are `plan`'s as well."""

    plan: "Plan | None" = plan_option()
    keep: "Song | str | Path | None" = keep_option()
    duration: float = duration_option()
    seed: int = seed_option()
    candidates: int = candidates_option()
    reference: Reference | None = reference_option()
    reference_weights: Sequence[float] | None = reference_weights_option()
    lyrics: str | None = option(None, "lyrics, with [VERSE] and other section marks", planning=True)
    tags: Sequence[str] | None = option(
        None,
        "tags (default: those that the prompt names and those near it, and a tempo)",
        several=True,
        listed=True,
        flags=("--tags",),
        metavar="A,B",
        planning=True,
    )
    key: str | None = option(
        None,
        'as "D minor" (default: what the prompt names, or a key of songs like it)',
        flags=("--key",),
        metavar="KEY",
        planning=True,
    )
    chords: str | Sequence[str] | None = option(
        None,
        'a chord a bar, "Am F C G", repeated; with lines as many as a bar holds, "Am F | C | G"; '
        "numerals in the key; none leaves them open (default: what the prompt names, or chords of "
        "songs like it)",
        several=True,
        flags=("--chords",),
        metavar="TEXT",
        planning=True,
    )
    bpm: float | None = bpm_option()
    thought_temperature: float | None = option(
        None,
        "temperature of the thoughts, 0 is greedy (default: the model's; 0.65 in the paper)",
        kind=float,
        low=0,
        high=10,
        flags=("--thought-temp",),
        metavar="T",
        planning=True,
    )
    thought_guidance: float | None = option(  # lambda_1
        None,
        "guidance scale of the thoughts, 1 is off (default: the model's; 2.3)",
        kind=float,
        low=0,
        high=50,
        flags=("--thought-guidance",),
        metavar="L",
        planning=True,
    )
    top_k: int = option(
        0,
        "draw from the K likeliest tokens, 0 is all (default: 0)",
        kind=int,
        low=0,
        flags=("--top-k",),
        metavar="K",
        planning=True,
    )
    top_p: float = option(
        1.0,
        "draw from the likeliest tokens that make up P, 1 is all (default: 1)",
        kind=float,
        low=0,
        high=1,
        flags=("--top-p",),
        metavar="P",
        planning=True,
    )
    audio_temperature: float | None = option(
        None,
        "temperature of the audio tokens (default: the model's; 0.75 in the paper)",
        kind=float,
        low=0,
        high=10,
        flags=("--audio-temp", "--temperature"),
        metavar="T",
    )
    audio_guidance: float | None = option(  # lambda_2
        None,
        "guidance scale of the audio tokens, 1 is off (default: the model's; 1.3)",
        kind=float,
        low=0,
        high=50,
        flags=("--audio-guidance", "--guidance"),
        metavar="L",
    )
    unconditional: str | None = option(
        None,
        "guidance row of the audio tokens: as equation 8 is printed, or with the thoughts kept "
        "(default: the model's)",
        choices=("without_thoughts", "with_thoughts"),
        flags=("--unconditional",),
    )
    thought_bias: float | None = option(
        None,
        "how much audio tokens lean to those that go with their thought, 0 is the paper's equation "
        "8 (default: the model's)",
        kind=float,
        low=0,
        high=10,
        flags=("--thought-bias",),
        metavar="W",
    )
    steps: int | None = option(
        None,
        "diffusion steps (default: the model's)",
        kind=int,
        low=1,
        high=1000,
        flags=("--steps",),
        metavar="N",
    )
    diffusion_guidance: float | None = option(
        None,
        "guidance scale of the diffusion (default: the model's)",
        kind=float,
        low=0,
        high=50,
        flags=("--diffusion-guidance",),
        metavar="S",
    )
    sampler: str | None = option(
        None,
        "diffusion sampler (default: the model's)",
        choices=SAMPLERS,
        offered=SAMPLERS[:2],
        flags=("--sampler",),
    )
    loop: bool = option(
        False,
        "whole bars, nearest to the duration, that join without a seam when they are repeated",
        kind=bool,
        flags=("--loop",),
    )
    progress: Progress | None = progress_option()


PLANNED = MusicotOptions.planned()  # what `plan` takes
DRAWING = ("thought_temperature", "thought_guidance", "top_k", "top_p")
