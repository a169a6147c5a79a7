"""What a toy can be asked for."""

from dataclasses import dataclass

from musicot_mlx.pipelines.options import (
    Options,
    Progress,
    duration_option,
    option,
    progress_option,
    seed_option,
)


@dataclass(frozen=True, kw_only=True)
class ToyOptions(Options):
    """Length, seed, and how much the hum wobbles."""

    duration: float = duration_option()
    seed: int = seed_option()
    wobble: float | None = option(
        None,
        "how much the hum wobbles (default: the model's)",
        kind=float,
        low=0,
        high=1,
        flags=("--wobble",),
        metavar="W",
    )
    progress: Progress | None = progress_option()
