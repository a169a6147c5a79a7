"""What musicot generate is asked for: flags and settings read and checked before a model loads."""

import itertools
import os
import re
import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from musicot_mlx import atomic
from musicot_mlx.cli import flags
from musicot_mlx.errors import MusicotError
from musicot_mlx.pipelines import families
from musicot_mlx.pipelines.options import OF_TOKENS
from musicot_mlx.pipelines.sidecar import expected_sidecar, sidecar_to_write
from musicot_mlx.texts import lines_of, one_line, read_json

STANDARD_OUTPUT = "-"
_LONGEST_NAME = 40  # characters, of three or four bytes at most
# Options of families that are files, and flags of files that a song could be written over.
_FILES = ("plan", "keep", "melody", "continuation", "audio", "image", "video")
# Flags that belong to planning beside the options that do.
_PLANNED = ("words", "prompt", "prompt_file", "lyrics_file")


@dataclass(frozen=True)
class Request:
    """Prompts (None: the rest says what to play), options by name, files, and where it came from.

    plan: a file, a plan as JSON, or None; it is read once there is a model. written: how the file
    is, as Song.save takes it. paths: a file a song; None where they are named by what is made.
    """

    settings: dict[str, Any]
    model: str
    adapter_path: list[str] | None
    prompts: list[str | None]
    options: dict[str, Any]
    plan: Any
    written: dict[str, Any]
    paths: list[Path] | None

    def for_model(self, args: Any, model: Any) -> tuple[dict[str, Any], list[tuple]]:
        """Options of this model, and each song as (prompt, seed).

        What an earlier song of another family had is left out; a flag of one is an error.
        """
        message = f"{self.model} makes no songs; pass a {families.titles('songs')} model"
        family = families.require(model, "songs", message)
        flags.refuse_foreign(args, _options_of_families(), model.options, self.model, family)
        options = {key: value for key, value in self.options.items() if key in model.options}
        usual = self.settings.get("seed", 0)
        if "plan" in model.options and self.plan:
            import musicot_mlx as mc

            options["plan"] = plan = mc.Plan.load(self.plan, model)
            usual = self.settings.get("seed", plan.seed)  # a plan gives the song of its prompt
        return options, [(each, seed) for each in self.prompts for seed in args.seed or [usual]]

    def files(self, args: Any, songs: Sequence[tuple], plan: Any = None) -> list[Path]:
        """Where each song, (prompt, seed), goes: as asked for, or by what it is, a number more
        where that name is taken.
        """
        if self.paths is not None:
            return self.paths
        sources = (plan and plan.prompt, *(args.reference or ()), args.melody, args.continuation)
        source = next((Path(each).stem for each in sources if each), args.caption or "")
        found: list[Path] = []
        for prompt, seed in songs:
            name = f"{_slug(prompt or source)}-seed{seed}"
            names = itertools.chain([name], (f"{name}-{n}" for n in itertools.count(2)))
            paths = (Path(f"{each}.{self.written['format']}") for each in names)
            found.append(next(path for path in paths if path not in found and _is_free(path)))
        return found

    def budget(self, args: Any) -> Any:
        """How the song keeps to --max-memory-gb, told and applied before it loads, or None."""
        if args.max_memory_gb is None:
            return None
        from musicot_mlx.pipelines import memory

        duration = args.duration or self.settings.get("duration", 30.0)
        if args.plan:
            duration = settings_of(args.plan, type(args)).get("duration", duration)
        plan = memory.plan(
            self.model,
            duration=duration,
            max_memory_gb=args.max_memory_gb,
            songs=args.candidates or 1,
        )
        print(plan.line(), file=sys.stderr)
        plan.apply()
        return plan


def read(args: Any) -> Request:
    """The request of the flags; MusicotError for what is wrong, missing or contradicts itself."""
    from musicot_mlx.audio.files import format_of

    settings = settings_of(args.config_from, type(args))
    if args.no_loudness:
        if args.loudness is not None:
            raise MusicotError("pass --loudness or --no-loudness, not both")
        args.loudness = False
    if args.loudness is not None and args.gain is None:
        settings.pop("gain", None)  # that of a stream, which had another loudness
    plan = args.plan or settings.get("plan")
    if plan:
        _refuse_what_a_plan_fixes(args)
    if args.stream and (args.candidates or 1) > 1:
        raise MusicotError("a stream is heard before it can be chosen; leave out --candidates")
    prompts = _prompts(args, settings)
    options = _options(args, settings)
    format = args.format or (None if args.output else settings.get("format"))
    rate = args.sample_rate or settings.get("sample_rate")
    paths = _paths(args, format, rate, len(prompts) * len(args.seed or [0]))
    format = format_of(paths[0] if paths else Path("song"), format, rate)
    model = args.model or settings.get("model", "musicot-mini")
    adapters = args.adapter_path or settings.get("adapter_path")
    written = {"sample_rate": rate, "format": format}
    written |= _encoding(args, settings, format, rate)
    return Request(settings, model, adapters, prompts, options, plan, written, paths)


def settings_of(path: str | None, arguments: type) -> dict[str, Any]:
    """The settings beside an earlier song, held to what the flags would take."""
    if path is None:
        return {}
    from musicot_mlx.audio.files import FORMATS

    if Path(path).suffix[1:] in FORMATS:  # the song itself
        path = str(expected_sidecar(path))
    try:
        settings = read_json(path)
    except OSError as error:
        raise MusicotError(f"can't read the settings {path} ({error.strerror})") from error
    except ValueError as error:
        raise MusicotError(f"{path} is not a settings file: {error}") from error
    if not isinstance(settings, dict) or "duration" not in settings:
        raise MusicotError(f"{path} is not a settings file; pass the .json written beside a song")
    for name, _ in flags.listed(arguments):
        # a plan stands in the settings as it is, and is checked when it is read
        if name != "plan" and settings.get(name) is not None:
            flags.require(arguments, name, settings[name], f"{path}: {name}")
    return settings


def _options_of_families() -> list[str]:
    """The options of families that a flag or a settings file gives."""
    return [*flags.family_options(), "lyrics"]


def _prompts(args: Any, settings: dict[str, Any]) -> list[str | None]:
    prompt = flags.prompt_of(args)
    if prompt is not None and args.prompt_file is not None:
        raise MusicotError("pass a prompt or --prompt-file, not both")
    if args.prompt_file is not None:
        text = flags.read_text(args.prompt_file, "prompt file")
        prompts = [found for line in lines_of(text) if (found := one_line(line))]
        if not prompts:
            raise MusicotError(f"the prompt file {args.prompt_file} holds no prompt")
        return prompts
    if prompt is not None:
        return [prompt]
    if settings and not (args.plan or settings.get("plan")):
        return [settings.get("prompt")]
    carried = (settings, args.plan, args.reference, args.melody, args.continuation)
    if any(carried) or args.caption is not None:
        return [None]  # each carries what the song is conditioned on
    raise MusicotError(
        'nothing to make; write what the music should be, as in musicot generate "relaxing piano", '
        "or pass --prompt-file, --plan or --config-from"
    )


def _options(args: Any, settings: dict[str, Any]) -> dict[str, Any]:
    flags.check_references(args)
    for name in _FILES:
        path = getattr(args, name)
        if path is not None:
            flags.require_file(path, flags.spelled(type(args), name).strip("-"))
    if args.keep is not None and not (args.plan or settings.get("plan")):
        raise MusicotError("--keep-from goes with --plan, the edited plan of that song")
    lyrics = flags.read_text(args.lyrics_file, "lyrics file") if args.lyrics_file else None
    options = {}
    for name in _options_of_families():
        given = lyrics if name == "lyrics" else getattr(args, name)
        value = settings.get(name) if given is None else given
        if value is not None and name != "plan":
            options[name] = value
    if args.plan or settings.get("plan"):  # which has decided these
        decided = {*flags.family_options(planning=True), "lyrics"} - set(OF_TOKENS)
        options = {name: value for name, value in options.items() if name not in decided}
    return options


def _refuse_what_a_plan_fixes(args: Any) -> None:
    fixed = [name for name in flags.family_options(planning=True) if name not in OF_TOKENS]
    given = [name for name in (*_PLANNED, *fixed) if getattr(args, name) is not None]
    if given:
        flag = flags.spelled(type(args), given[0])
        raise MusicotError(f"{flag} belongs to planning, and the plan is made; leave out {flag}")


def _require_apart(outputs: set[Path], args: Any) -> None:
    """A song and its settings must not be written over what they are made from."""
    names = (*_FILES, "lyrics_file", "prompt_file")
    for source in (*(getattr(args, name) for name in names), *(args.reference or ())):
        if source is not None and Path(source).resolve() in outputs:
            raise MusicotError(
                f"the song would be written over {source}, which it is made from; "
                "pass another --output"
            )


def _encoding(args: Any, settings: dict[str, Any], format: str, rate: int | None) -> dict[str, Any]:
    """Bit depth, bit rate and title of the file; those of an earlier song where it is of its kind.

    Raises MusicotError for what the format doesn't have.
    """
    from musicot_mlx.audio.files import Encoding

    earlier = settings if settings.get("format") == format else {}
    found = {
        name: value
        for name in ("bit_depth", "bitrate", "title")
        if (value := getattr(args, name, None) or earlier.get(name)) is not None
    }
    Encoding(**found).require(format, rate)
    return found


def _paths(args: Any, format: str | None, rate: int | None, count: int) -> list[Path] | None:
    """Where the songs are asked to go: numbered names where there are several. None without
    --output. Raises MusicotError where a file would be replaced, unless that is asked for.
    """
    from musicot_mlx.audio.files import format_of

    if args.output is None:
        flags.require_writable(Path("song"))
        return None
    if args.output == STANDARD_OUTPUT:
        _require_one_stream(args, count)
        return [Path(f"song.{format or 'wav'}")]
    path = Path(args.output)
    atomic.require_no_folder(path)
    atomic.require_file(path)
    if not path.suffix:
        path = path.with_name(f"{path.name}.{format or 'wav'}")
    found = format_of(path, format, rate)
    flags.require_writable(path)
    width = len(str(count))
    numbered = [path.with_stem(f"{path.stem}-{i:0{width}d}") for i in range(1, count + 1)]
    paths = [path] if count == 1 else numbered
    sidecars = [sidecar_to_write(each, found, overwrite=args.overwrite) for each in paths]
    _require_apart({each.resolve() for each in (*paths, *sidecars)}, args)
    if not args.overwrite:
        for each in paths:
            atomic.require_free(each)
    return paths


def _require_one_stream(args: Any, count: int) -> None:
    """What standard output can't take: several songs, a report, a terminal."""
    if count > 1:
        raise MusicotError(f"standard output takes one song, not {count}; name a file")
    if args.json or args.play:
        flag = "--json" if args.json else "--play"
        raise MusicotError(f"the song goes to standard output; leave out {flag}")
    if sys.stdout.isatty():
        raise MusicotError("standard output is a terminal; send the song on: | aplay, > song.wav")


def _slug(text: str) -> str:
    """A prompt as the name of a file: its words in small letters."""
    words = re.findall(r"\w+", unicodedata.normalize("NFC", text).lower())
    name = ""
    for word in words:
        longer = f"{name}-{word}" if name else word[:_LONGEST_NAME]
        if len(longer) > _LONGEST_NAME:
            break
        name = longer
    return name or "song"


def _is_free(path: Path) -> bool:
    """Whether neither a song nor its settings would be written over anything."""
    return not any(os.path.lexists(each) for each in (path, path.with_suffix(".json")))
