"""What MuMu-LLaMA can be asked: how it answers, and how the song of its answer is made."""

from dataclasses import dataclass
from pathlib import Path

from musicot_mlx.pipelines.options import (
    Asked,
    Options,
    Progress,
    audio_guidance_option,
    audio_temperature_option,
    duration_option,
    option,
    progress_option,
    seed_option,
    top_k_option,
    top_p_option,
)

ANSWERING = ("answer_temperature", "answer_top_p", "answer_tokens", "seed", "progress")


class MumuAsked(Asked, total=False):
    """What `generate` and `stream` take, for editors."""

    audio: str | Path | None
    image: str | Path | None
    video: str | Path | None
    music: bool
    caption: str | None
    answer_temperature: float | None
    answer_top_p: float | None
    answer_tokens: int
    duration: float
    seed: int
    audio_temperature: float | None
    audio_guidance: float | None
    top_k: int | None
    top_p: float | None
    progress: Progress | None


def _file(what: str, flag: str, holds: str) -> str | Path | None:
    about = {"flags": (flag,), "metavar": "FILE", "saved": "given", "holds": holds}
    return option(None, what, kind=Path, **about)


@dataclass(frozen=True, kw_only=True)
class MumuOptions(Options):
    """Options of `generate` and `stream`; `ask` takes those of the answer."""

    audio: str | Path | None = _file(
        "audio that is listened to before the music is made", "--audio", "audio"
    )
    image: str | Path | None = _file("picture that the music is made for", "--image", "picture")
    video: str | Path | None = _file("film that the music is made for", "--video", "film")
    music: bool = option(
        False,
        "make music of the answer even where the model does not ask for it",
        kind=bool,
        flags=("--music",),
    )
    caption: str | None = option(
        None,
        "make the music of this caption instead of asking the model for one",
        flags=("--caption",),
        metavar="TEXT",
        saved="given",
    )
    answer_temperature: float | None = option(
        None,
        "temperature of the answer, 0 is greedy (default: the model's)",
        kind=float,
        low=0,
        high=10,
        flags=("--answer-temp",),
        metavar="T",
    )
    answer_top_p: float | None = option(
        None,
        "draw the answer from the likeliest words that make up P, 1 is all (default: the model's)",
        kind=float,
        low=0.01,
        high=1,
        flags=("--answer-top-p",),
        metavar="P",
    )
    answer_tokens: int = option(
        512,
        "longest answer in tokens, three quarters of a word each (default: 512)",
        kind=int,
        low=1,
        high=4096,
        flags=("--answer-tokens",),
        metavar="N",
    )
    duration: float = duration_option()
    seed: int = seed_option()
    audio_temperature: float | None = audio_temperature_option()
    audio_guidance: float | None = audio_guidance_option()
    top_k: int | None = top_k_option()
    top_p: float | None = top_p_option()
    progress: Progress | None = progress_option()
