"""Options of a call: a frozen dataclass a family, whose fields say all there is to say of each.

A field made by `option` holds its default, its bounds, its flags and its help. What a caller may
pass, what a flag takes, what a sidecar holds and what the error says all come from there. This
module loads nothing heavy, so that `--help` can read it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol, Self, TypedDict

from musicot_mlx.errors import MusicotError, nearest
from musicot_mlx.pipelines.given import LARGEST_SEED, flag, items, number, path_of, shown, text
from musicot_mlx.tokens.tempo import named_tempo

Progress = Callable[[str, int, int], None]  # called as progress(stage, done, total)
Reference = str | Path | Sequence[str | Path]  # one file or several

SHORTEST, LONGEST = 1.0, 300.0  # seconds of a song
MOST_CANDIDATES = 16


class Embedder(Protocol):
    """What a CLAP offers: unit vectors, float32 (texts or windows of 10 s, dim)."""

    def embed_text(self, texts: Sequence[str]) -> Any: ...

    def embed_audio(self, waveform: Any, sample_rate: int) -> Any: ...


def option(
    default: Any,
    help: str,
    *,
    kind: type = str,
    low: float = -math.inf,
    high: float = math.inf,
    unit: str = "",
    choices: Sequence[str] = (),
    several: bool = False,
    flags: Sequence[str] = (),
    metavar: str = "",
    offered: Sequence[str] = (),
    planning: bool = False,
    off: bool = False,
    saved: str = "always",
    takes: str = "",
    needs: Sequence[str] = (),
    listed: bool = False,
    by_segment: bool = False,
    holds: str = "audio",
) -> Any:
    """A field of a family's options.

    kind: str, int, float, bool, Path (a file), or object (Python callers alone, no flag). low, high
    bound numbers, in `unit`. choices: the words it takes; offered: those that a flag offers, all if
    empty. several: a list, too; listed: one alone becomes a list of one. flags: names on the
    command line, the first ones first; planning: part of a plan, so without effect where the plan
    is made. off: a number may be False, which turns off what it is of. saved: "always", "given"
    (only where it is not None) or "never" stands in the sidecar of a song. takes: what objects are
    given, in words, and needs: the attributes that tell them. by_segment: a plan may say it of each
    of its segments (Plan.set). holds: what a file is of, "audio", "picture" or "film".
    """
    about = {
        "help": help,
        "kind": kind,
        "low": low,
        "high": high,
        "unit": unit,
        "choices": tuple(choices),
        "several": several,
        "flags": tuple(flags),
        "metavar": metavar,
        "offered": tuple(offered or choices),
        "planning": planning,
        "off": off,
        "saved": saved,
        "takes": takes,
        "needs": tuple(needs),
        "listed": listed,
        "holds": holds,
        "by_segment": by_segment,
    }
    return field(default=default, metadata=about)


class Asked(TypedDict, total=False):
    """What songs of every family take, for editors: Options says all there is to say of each."""

    loudness: float | bool
    gain: float | None
    fade_in: float
    fade_out: float | None


@dataclass(frozen=True, kw_only=True)
class Options:
    """What one call asks for; None is the model's own default, which `of` has filled in."""

    prompt: str | None = None

    # How songs of every family are handed on (pipelines/mastering.py).
    loudness: float | bool = option(
        -16.0,
        "loudness of the song, LUFS; off leaves the level as the model made it (default: -16)",
        kind=float,
        low=-40,
        high=-6,
        unit="LUFS",
        off=True,
        flags=("--loudness",),
        metavar="LUFS",
    )
    gain: float | None = option(
        None,
        "amplify the song by this much instead of finding its loudness",
        kind=float,
        low=-60,
        high=60,
        unit="dB",
        flags=("--gain",),
        metavar="DB",
        saved="given",
    )
    fade_in: float = option(
        0.0,
        "seconds over which the song fades in (default: 0)",
        kind=float,
        low=0,
        high=60,
        unit="s",
        flags=("--fade-in",),
        metavar="S",
    )
    fade_out: float | None = option(
        None,
        "seconds over which it fades out, 0 is none (default: 1.5, or a sixth of a short song)",
        kind=float,
        low=0,
        high=60,
        unit="s",
        flags=("--fade-out",),
        metavar="S",
    )

    @classmethod
    def about(cls) -> dict[str, Field]:
        """The options by name, but for the prompt; a family's own first."""
        shared = {each.name for each in fields(Options)}
        found = sorted(fields(cls), key=lambda each: each.name in shared)
        return {each.name: each for each in found if each.metadata}

    @classmethod
    def of(
        cls,
        sampling: Any,
        prompt: str | None = None,
        /,
        **given: Any,
    ) -> Self:
        """The options of a call, checked once and made plain; what is left out, or None, is the
        model's default.

        sampling: the model's defaults, by attribute. Raises TypeError for an unknown name, with the
        nearest; MusicotError for a value out of bounds, or of a kind that the option is not.
        """
        about, given = cls.about(), cls.by_field(given)
        cls.require_known(given, about)
        values = {}
        for name, each in about.items():
            value = given.get(name)
            if value is None:
                value = getattr(sampling, name, each.default)
            values[name] = checked(each, value)
        return cls(prompt=None if prompt is None else text("prompt", prompt), **values)

    @classmethod
    def aliases(cls) -> dict[str, str]:
        """What an option may be called beside its own name: as its flags are, without their dashes.

        {"temperature": "audio_temperature", "seconds": "duration", ...}
        """
        return {
            flag.lstrip("-").replace("-", "_"): name
            for name, each in cls.about().items()
            for flag in each.metadata["flags"]
        }

    @classmethod
    def by_field(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """The options given, each by its field's name; TypeError for one that is given twice."""
        aliases, found = cls.aliases(), {}
        for called, value in given.items():
            name = called if called in cls.about() else aliases.get(called, called)
            if name in found:
                raise TypeError(f"{name} is given twice, as {called} too; leave one out")
            found[name] = value
        return found

    @classmethod
    def require_known(cls, given: Mapping[str, Any], known: Sequence[str] | Mapping) -> None:
        """Raise TypeError for a name that is no option."""
        for name in given:
            if name not in known:
                near = nearest(name, known)
                hint = f"; did you mean {near}?" if near else ""
                raise TypeError(f"unknown option {name!r}{hint}")

    @property
    def words(self) -> str | None:
        """The prompt with the `bpm` asked for beside it, as captions write it; None without a
        prompt. Raises MusicotError for a prompt that names another tempo.
        """
        bpm = getattr(self, "bpm", None)
        if bpm is None or not (self.prompt or "").strip():
            return self.prompt
        named = named_tempo(self.prompt)
        if named is not None and named != bpm:
            message = f"the prompt names {named:g} BPM and bpm is {bpm:g}; leave one out"
            raise MusicotError(message, option="bpm")
        return self.prompt if named else f"{self.prompt}, {bpm:g} BPM"

    def require_one_candidate(self) -> None:
        """Raise MusicotError where candidates are asked of a stream."""
        if getattr(self, "candidates", 1) != 1:
            raise MusicotError("a stream is heard before it can be chosen; ask for 1 candidate")

    def saved(self) -> dict[str, Any]:
        """The options as JSON, as the sidecar of a song holds them."""
        settings: dict[str, Any] = {"prompt": self.prompt}
        for name, each in self.about().items():
            value, when = getattr(self, name), each.metadata["saved"]
            if each.metadata["kind"] is Path and each.metadata["several"]:
                files = [str(file) for file in files_of(value)]
                value = files[0] if len(files) == 1 else files or None
            if when == "always" or when == "given" and value is not None:
                settings[name] = as_json(value)
        return settings


def checked(each: Field, value: Any) -> Any:
    """A value that keeps to its field's kind, bounds and choices; MusicotError otherwise."""
    if value is None:
        return None
    several = items(value) if each.metadata["several"] else None
    if several is not None:
        return [_one(each, one) for one in several]
    return [_one(each, value)] if each.metadata["listed"] else _one(each, value)


def _one(each: Field, value: Any) -> Any:
    """One value of an option that may take several."""
    about, name = each.metadata, each.name
    kind, needs = about["kind"], about["needs"]
    if needs and all(hasattr(value, attribute) for attribute in needs):
        return value
    if kind is bool or about["off"]:
        yes = flag(value)
        if yes is not None and (kind is bool or not yes):
            return yes
    if kind is bool:
        raise MusicotError(f"{name} is {shown(value)}; pass True or False")
    if kind is object:
        raise MusicotError(f"{name} is {shown(value)}; pass {about['takes']}")
    if value is None:
        raise MusicotError(f"{name} holds None; leave it out of the list")
    if kind is Path:
        path = path_of(name, value)
        return str(value) if isinstance(value, str) else path  # as it was written: "./a.wav"
    if kind in (int, float):
        low, high, unit = about["low"], about["high"], about["unit"]
        words = f"ask for numbers of at least {low:g}" if about["several"] else ""
        return number(name, value, low=low, high=high, whole=kind is int, unit=unit, words=words)
    value = text(name, value)
    if about["choices"] and value not in about["choices"]:
        raise MusicotError(f"{name} is {value!r}; ask for one of {', '.join(about['choices'])}")
    return value


def as_json(value: Any) -> Any:
    """An option's value as the sidecar holds it: files by name, one of a list alone by itself."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (list, tuple)):
        return [as_json(each) for each in value]
    if hasattr(value, "to_dict"):
        return value.to_dict()
    return value


def files_of(reference: Reference | None) -> list[str | Path]:
    """The files of a reference: none, one, or several."""
    if reference is None:
        return []
    return [reference] if isinstance(reference, (str, Path)) else list(reference)


IN_MEMORY = "a song in memory"


OF_TOKENS = ("top_k", "top_p")  # options of planning that audio tokens are drawn by, too


@dataclass(frozen=True, kw_only=True)
class PlannedOptions(Options):
    """Options of a family whose songs have plans: with `plan` and `keep` among them."""

    @classmethod
    def of(cls, sampling: Any, prompt: str | None = None, /, **given: Any) -> Self:
        """Options.of; MusicotError for what the plan has decided otherwise, beside that plan."""
        wish = super().of(sampling, prompt, **given)
        if wish.plan is None:
            return wish
        asked = {"prompt": prompt, **cls.by_field(given)}
        for name in ("prompt", *cls.decided()):
            decided = getattr(wish.plan, name, None)
            decided = list(decided) if isinstance(decided, tuple) else decided
            if asked.get(name) is not None and getattr(wish, name) != decided:
                raise MusicotError(
                    f"{name} belongs to planning, and the plan is made; leave out {name}"
                )
        return wish

    @classmethod
    def planning_names(cls) -> list[str]:
        """The options that a plan is made by."""
        return [name for name, each in cls.about().items() if each.metadata["planning"]]

    @classmethod
    def controls(cls) -> tuple[str, ...]:
        """The options that a plan may say of each of its segments."""
        return tuple(name for name, each in cls.about().items() if each.metadata["by_segment"])

    @classmethod
    def planned(cls) -> tuple[str, ...]:
        """The options that `plan` takes."""
        return (*cls.planning_names(), "seed", "progress")

    @classmethod
    def decided(cls) -> list[str]:
        """The options that a plan has decided once it is made."""
        return [name for name in cls.planning_names() if name not in OF_TOKENS]

    @property
    def planning(self) -> dict[str, Any]:
        """What a plan is made by."""
        return {name: getattr(self, name) for name in self.planning_names()}

    def saved(self) -> dict[str, Any]:
        settings = super().saved()
        if self.plan is not None:
            settings["duration"] = self.plan.duration
            settings["prompt"] = self.plan.prompt if self.prompt is None else self.prompt
        if self.keep is not None:
            in_file = isinstance(self.keep, (str, Path))
            settings["keep"] = str(self.keep) if in_file else IN_MEMORY
        return settings


# A render as the model made it, for whoever measures models.
AS_MADE: dict[str, Any] = {"loudness": False, "fade_out": 0.0}


# What songs of every family are asked for by.
def duration_option(longest: float = LONGEST) -> Any:
    """Seconds of the song."""
    return option(
        30.0,
        f"length of the song in seconds, {SHORTEST:g} to {longest:g} (default: 30)",
        kind=float,
        low=SHORTEST,
        high=longest,
        unit="s",
        flags=("--duration", "--seconds"),
        metavar="S",
        planning=True,
    )


def bpm_option() -> Any:
    """Beats a minute, where the prompt does not name them."""
    return option(
        None,
        "beats a minute, as a prompt that ends in '120 BPM' asks for them (default: what the "
        "prompt names, or that of songs like it)",
        kind=float,
        low=20,
        high=400,
        unit="BPM",
        flags=("--bpm", "--tempo"),
        metavar="BPM",
        planning=True,
    )


def plan_option() -> Any:
    """The thoughts of the song, made before."""
    return option(
        None,
        "render this plan (from musicot plan) instead of a new one",
        kind=object,
        flags=("--plan",),
        metavar="FILE",
        saved="given",
        takes="a Plan; Plan.load(file, model) reads one",
        needs=("codes", "vector", "chord_changes"),
    )


def keep_option() -> Any:
    """The song that this one has its beginning in common with."""
    return option(
        None,
        "song made from an earlier form of the plan: kept up to the first thought that changed, so "
        "that only the rest is made",
        kind=Path,
        flags=("--keep-from",),
        metavar="FILE",
        saved="given",
        needs=("waveform", "plan"),
    )


def reference_option() -> Any:
    """Files whose thoughts are borrowed."""
    return option(
        None,
        "audio of any length whose thoughts the song borrows; several are blended",
        kind=Path,
        several=True,
        flags=("--reference",),
        metavar="FILE",
        planning=True,
        saved="given",
    )


def reference_weights_option() -> Any:
    """How much each of them counts."""
    return option(
        None,
        "how much each reference counts (default: equal weights)",
        kind=float,
        low=0,
        several=True,
        listed=True,
        flags=("--reference-weights",),
        metavar="W",
        planning=True,
    )


def audio_temperature_option() -> Any:
    """How freely tokens of sound are drawn."""
    return option(
        None,
        "temperature of the audio tokens, 0 is greedy (default: the model's)",
        kind=float,
        low=0,
        high=10,
        flags=("--audio-temp", "--temperature"),
        metavar="T",
    )


def top_k_option() -> Any:
    """Of how many."""
    return option(
        None,
        "draw from the K likeliest tokens, 0 is all (default: the model's)",
        kind=int,
        low=0,
        flags=("--top-k",),
        metavar="K",
    )


def audio_guidance_option() -> Any:
    """The option of models whose audio tokens are drawn with guidance."""
    return option(
        None,
        "guidance scale of the audio tokens, 1 is off (default: the model's)",
        kind=float,
        low=0,
        high=50,
        flags=("--audio-guidance", "--guidance"),
        metavar="L",
    )


def top_p_option() -> Any:
    """The option of models that can draw from the likeliest tokens alone, by their sum."""
    return option(
        None,
        "draw from the likeliest tokens that make up P, 1 is all (default: the model's)",
        kind=float,
        low=0,
        high=1,
        flags=("--top-p",),
        metavar="P",
    )


def seed_option() -> Any:
    """The seed of all draws."""
    return option(0, "same seed, same song", kind=int, low=0, high=LARGEST_SEED)


def candidates_option() -> Any:
    """Songs drawn, of which one is kept."""
    return option(
        1,
        "draw N songs and keep the one nearest to prompt and plan (default: 1)",
        kind=int,
        low=1,
        high=MOST_CANDIDATES,
        flags=("--candidates",),
        metavar="N",
    )


def progress_option() -> Any:
    """What is called with how far the song is."""
    return option(
        None,
        "called as progress(stage, done, total)",
        kind=object,
        saved="never",
        takes="a function of stage, done and total",
        needs=("__call__",),
    )
