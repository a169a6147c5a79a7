"""Flags: a command's arguments are a dataclass, and each of its fields, made by `flag`, an option.

The dataclass is the one place where an option is written down. typer's option and its help, the
table in docs/commands.md and the check of a settings file all come from it. typer fills in only
what was given; the defaults are the dataclass's own.
"""

import dataclasses
import inspect
import math
import os
import secrets
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import NoneType
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    ClassVar,
    Literal,
    get_args,
    get_origin,
    get_type_hints,
)

import typer
from typer.core import TyperCommand

from musicot_mlx import atomic, texts
from musicot_mlx.errors import MusicotError
from musicot_mlx.pipelines import families, multi_host

if TYPE_CHECKING:
    from musicot_mlx.pipelines.clap import ClapEmbedder
    from musicot_mlx.pipelines.family import Family


@dataclass(frozen=True)
class Flag:
    """What is said of one option: its value in the help, its help, names and the check of a value.

    A metavar that ends in ... takes several values, until the next option.
    """

    metavar: str
    help: str
    names: tuple[str, ...] = ()
    panel: str = "Options"
    check: Callable[[str], Any] | None = None
    positional: bool = False
    choices: tuple[Any, ...] = ()

    @property
    def several(self) -> bool:
        return self.metavar.endswith("...")


def flag(
    metavar: str,
    help: str,
    *names: str,
    panel: str = "Options",
    check: Callable[[str], Any] | None = None,
    default: Any = None,
    required: bool = False,
    positional: bool = False,
) -> Any:
    """A field that is an option: named --like-the-field, or as `names` say; positional: a word of
    its own, which must be there unless it may be several.

    check makes a value of the text; it raises ValueError with what was expected.
    """
    said = {"flag": Flag(metavar, help, names, panel, check, positional)}
    if required or (positional and not metavar.endswith("...")):
        return field(metadata=said)
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=said)
    return field(default=default, metadata=said)


def listed(arguments: type) -> Iterator[tuple[str, Flag]]:
    """Field name and flag of every option of a command, with all that follows from the field."""
    hints = get_type_hints(arguments)
    for each in dataclasses.fields(arguments):
        said: Flag = each.metadata["flag"]
        choices = said.choices or choices_of(hints[each.name])
        yield (
            each.name,
            dataclasses.replace(
                said,
                metavar=said.metavar or "|".join(map(str, choices)),
                names=said.names or ("--" + each.name.replace("_", "-"),),
                check=said.check or (choice(choices) if choices else None),
                choices=choices,
            ),
        )


def require(arguments: type, name: str, value: Any, label: str) -> None:
    """Hold the value of a field, read from a file, to what its option takes.

    Raises MusicotError, which names the value by `label`.
    """
    said = dict(listed(arguments))[name]
    for each in value if said.several and isinstance(value, list) else [value]:
        if (
            each not in said.choices
            if said.choices
            else not (said.check or isinstance(each, (str, bool)))
        ):
            raise MusicotError(f"{label} can't be {value!r}")
        try:
            if said.check:
                said.check(",".join(map(str, each)) if isinstance(each, list) else str(each))
        except ValueError as error:
            raise MusicotError(f"{label}: {error}") from error


def spelled(arguments: type, name: str) -> str:
    """How the option of a field is written: --lyrics-file."""
    said = dict(listed(arguments))[name]
    return "the prompt" if said.positional else said.names[0]


def choices_of(hint: Any) -> tuple[Any, ...]:
    """The values that a Literal allows, by itself, in a list or beside None."""
    if get_origin(hint) is Literal:
        return get_args(hint)
    return tuple(choice for part in get_args(hint) for choice in choices_of(part))


class BareFlags:
    """For a command: an option that takes no value shows none in the help, --help too, and words
    without a name show no type.
    """

    def get_params(self, ctx: typer.Context) -> list[Any]:
        params = super().get_params(ctx)
        for param in params:
            if getattr(param, "is_flag", False):
                param.metavar = ""
            if param.param_type_name == "argument":
                param.display_type_rich = lambda ctx: None
        return params


class Command(BareFlags, TyperCommand):
    """typer's command, whose options may take several values one after another: --seed 1 2 3."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:
        if not ctx.resilient_parsing:  # as for a shell, whose words are not all there yet
            args = self._one_by_one(ctx, args)
        return super().parse_args(ctx, args)

    def _one_by_one(self, ctx: typer.Context, args: Sequence[str]) -> list[str]:
        """The words with the name before each value: --seed 1 --seed 2 --seed 3."""
        options = {name: option for option in self.params for name in option.opts}
        positional = any(param.param_type_name == "argument" for param in self.params)
        words, at = [], 0
        while at < len(args):
            word, option = args[at], options.get(args[at])
            at += 1
            words.append(word)
            if word == "--":
                return [*words, *args[at:]]
            if option is None or getattr(option, "is_flag", True):
                continue
            if at == len(args) or args[at] in options:
                raise MusicotError(
                    f"argument {'/'.join(option.opts)}: expected one argument "
                    f"({ctx.command_path} --help lists the options)"
                )
            if not (option.metavar or "").endswith("..."):
                words += args[at : at + option.nargs]
                at += option.nargs
                continue
            words.append(args[at])
            numbers = _is_number(args[at]) or args[at] == RANDOM
            at += 1
            while at < len(args) and not _is_option(args[at]):
                if numbers and positional and not (_is_number(args[at]) or args[at] == RANDOM):
                    break  # --seed 1 2 "a calm piano"
                words += [word, args[at]]
                at += 1
        return words


def _is_option(word: str) -> bool:
    """Whether a word begins another option; a negative number does not."""
    return not _is_number(word) and word.startswith("-") and word != "-"


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def command(
    name: str, help: str, arguments: type, run: Callable[[Any], int], **settings: Any
) -> TyperCommand:
    """A typer command that hands its arguments to `run` as the dataclass `arguments`."""

    def callback(**values: Any) -> int:
        given = {name: value for name, value in values.items() if value is not None}
        return run(arguments(**given))

    callback.__signature__ = inspect.Signature(list(_parameters(arguments)))
    app = typer.Typer(add_completion=False)
    app.command(name, help=help, cls=Command, **settings)(callback)
    return typer.main.get_command(app)


def _parameters(arguments: type) -> Iterator[inspect.Parameter]:
    hints, flags = get_type_hints(arguments), dict(listed(arguments))
    for each in dataclasses.fields(arguments):
        said, kind = flags[each.name], _value(hints[each.name], flags[each.name])
        # typer writes the dots of a positional that may be several
        metavar = said.metavar.removesuffix("...") if said.positional else said.metavar
        about: dict[str, Any] = {"metavar": metavar, "help": said.help}
        about |= {"rich_help_panel": said.panel, "show_default": False}
        if said.check:
            about["parser"] = partial(_checked, said.check)
        if said.choices:
            about["autocompletion"] = _completing(said.choices)
        info = typer.Argument(**about) if said.positional else typer.Option(*said.names, **about)
        required = each.default is each.default_factory is dataclasses.MISSING
        yield inspect.Parameter(
            each.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if required else None,
            annotation=Annotated[kind, info],
        )


def _value(hint: Any, said: Flag) -> Any:
    """The type that typer is to read: what the field holds, or texts for the field's check."""
    if said.check:
        return list[str] if said.several else str
    parts = [part for part in get_args(hint) if part is not NoneType]
    return parts[0] if NoneType in get_args(hint) else hint


def _completing(choices: Sequence[Any]) -> Callable[[str], list[str]]:
    def complete(incomplete: str) -> list[str]:
        return [str(each) for each in choices if str(each).startswith(incomplete)]

    return complete


def _checked(check: Callable[[str], Any], text: str) -> Any:
    try:
        return check(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def number(
    low: float,
    high: float = math.inf,
    *,
    whole: bool = False,
    unit: str = "",
    off: bool = False,
) -> Callable[[str], Any]:
    """A check: a finite number within [low, high], or, where it can be `off`, False."""

    def parse(text: str) -> float | int:
        if off and text in ("off", "False"):
            return False
        try:
            value = int(text) if whole else float(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high or value == math.inf:  # NaN fails too
            kind = "a whole number" if whole else "a number"
            bounds = f"from {low:g} to {high:g}" if high < math.inf else f"of at least {low:g}"
            suffix = f" {unit}" if unit else ""
            or_off = ", or off" if off else ""
            raise ValueError(f"expected {kind} {bounds}{suffix}{or_off}, got {text!r}")
        return value

    return parse


seconds = number(1.0, unit="seconds")  # of a song; how many at most, its family says
seconds_or_none = number(0, unit="seconds")


seed = number(0, 2**63 - 1, whole=True)
RANDOM = "random"


def seed_or_random(text: str) -> int:
    """A check: a seed, or the word that draws one."""
    if text == RANDOM and multi_host.launched():
        raise ValueError("each host would draw a random seed of its own; pass a number")
    return secrets.randbelow(2**31) if text == RANDOM else seed(text)


def choice(choices: Sequence[Any]) -> Callable[[str], Any]:
    """A check: one of `choices`, all of one type."""

    def parse(text: str) -> Any:
        for each in choices:
            if str(each) == text:
                return each
        number = text.isdigit() and isinstance(choices[0], int)
        listed = ", ".join(map(repr, choices))
        raise ValueError(f"invalid choice: {text if number else repr(text)} (choose from {listed})")

    return parse


def names(text: str) -> list[str]:
    """A check: comma-separated names."""
    listed = [name.strip() for name in text.split(",") if name.strip()]
    if not listed:
        raise ValueError(f"expected names with commas between, got {text!r}")
    return listed


def place(text: str) -> str:
    """A check: a file or folder to write, which standard output is not."""
    if text == "-":
        raise ValueError("standard output is not written to; name a file (a file - is ./-)")
    return text


def place_or_output(text: str) -> str:
    """A check: a file to write, or - for standard output."""
    return text


def folder(text: str) -> str:
    """A check: a folder to write."""
    return place(text)


@dataclass(kw_only=True)
class Writing:
    """What every command that writes files is asked for: it replaces none unless told to."""

    overwrite: bool = flag(
        "", "replace files that are there already", panel="Output", default=False
    )


def require_free(args: Any) -> None:
    """Raise MusicotError where a command would replace a file, or write into a folder that holds
    files, without --overwrite, and for a place that can't be written; before any work is done.
    """
    for name, said in listed(type(args)):
        given = getattr(args, name)
        if said.check not in (place, place_or_output, folder) or given in (None, "-"):
            continue
        require_writable(Path(given))
        if said.check is not folder:
            atomic.require_no_folder(given)
        if not args.overwrite:
            (require_empty if said.check is folder else atomic.require_free)(given)


def require_empty(given: str | Path, instead: str = "replace them") -> None:
    """Raise MusicotError where a folder holds files already."""
    path = Path(given).expanduser()
    if path.is_dir() and any(not each.name.startswith(".") for each in path.iterdir()):
        raise MusicotError(
            f"the folder {given} holds files already; name another, or ask to {instead} "
            "(--overwrite)"
        )


def require_writable(path: Path) -> None:
    """Raise MusicotError where no file `path` can be written: folders are made, but not in a file
    or where that is not allowed.
    """
    try:
        above = next(each for each in atomic.followed(path).absolute().parents if each.exists())
    except OSError as error:
        raise atomic.explain(error, path) from error
    if not above.is_dir():
        raise MusicotError(f"can't write {path}: {above} is no folder")
    atomic.require_file(path)
    if not os.access(above, os.W_OK):
        raise MusicotError(f"can't write {path}: permission denied; choose another place")


def read_text(path: str, what: str) -> str:
    """A text file without byte-order marks, or a one-line error."""
    try:
        return texts.read_text(path).replace(texts.MARK, "")
    except OSError as error:
        raise MusicotError(f"can't read the {what} {path} ({error.strerror})") from error
    except MusicotError as error:
        raise MusicotError(f"the {what} {error}") from None


def read_prompt(given: str) -> str:
    """A prompt of the command line on one line, read from standard input where it is "-"."""
    if given == "-":
        if sys.stdin is None:
            raise MusicotError("standard input is closed; write the prompt in quotes")
        raw = getattr(sys.stdin, "buffer", None)  # a notebook's is text alone
        where = "the prompt on standard input"
        given = sys.stdin.read() if raw is None else texts.decoded(raw.read(), where)
    prompt = texts.one_line(given)
    if not prompt:
        raise MusicotError("the prompt is empty; describe the music, e.g. 'solo piano, calm'")
    return prompt


song = partial(flag, panel="The song")
_PANELS = {
    "thought_temperature thought_guidance top_k top_p": "Thoughts",
    "audio_temperature audio_guidance unconditional thought_bias": "Audio tokens",
    "steps diffusion_guidance sampler": "Diffusion",
    "loudness gain fade_in fade_out loop": "Level and ends",
}


@dataclass(kw_only=True)
class Asked:
    """What generate and plan ask for that is no option of a family."""

    planning: ClassVar[bool] = False  # whether options of plans are all that it takes of families
    words: list[str] | None = song(
        "PROMPT...", "what the music should be, in quotes", positional=True
    )
    prompt: str | None = song("TEXT", "the same; - reads standard input", "--prompt", "-p")
    model: str | None = song("NAME", "embedded name, folder or Hub id (default: musicot-mini)")
    adapter_path: list[str] | None = song(
        "FOLDER...", "adapters from musicot lora; FOLDER:0.5 counts half (default: none)"
    )
    lyrics_file: str | None = song("FILE", "lyrics, with [VERSE] and other section marks")


def with_families(arguments: type[Asked]) -> type[Asked]:
    """The arguments of a command together with the options of families that are registered."""
    options = family_options(planning=arguments.planning)
    fields = [
        (name, list[str] | None if said.several else str | None, _given(said))
        if said.metavar or said.choices
        else (name, bool | None, _given(said))
        for name, said in options.items()
    ]
    base = dataclasses.make_dataclass("Options", fields, bases=(Asked,), kw_only=True)
    return dataclasses.make_dataclass("Arguments", (), bases=(arguments, base), kw_only=True)


def _given(said: Flag) -> Any:
    return field(default=None, metadata={"flag": said})


def family_options(*, planning: bool = False) -> dict[str, Flag]:
    """The options that families of songs have and that have a flag, by their own names.

    planning leaves those of plans alone. An option of a later family alone says whose it is. What
    families bound differently is not bounded here: the model at hand tells its own.
    """
    options: dict[str, Flag] = {}
    bounds: dict[str, tuple[float, float]] = {}
    singers = [family for family in families.known() if family.can("songs")]
    for family in singers:
        for name, option in family.get("options").about().items():
            about, help = option.metadata, option.metadata["help"]
            if not about["flags"] or (planning and not about["planning"]):
                continue
            own = about["low"], about["high"]
            low, high = bounds.get(name, own)
            bounds[name] = low if low == own[0] else -math.inf, high if high == own[1] else math.inf
            if name not in options:
                whose = "" if family is singers[0] else f"{family.title}: "
                options[name] = _of_option(name, about, whose + help)
            elif _sense(options[name].help) != _sense(help):
                both = f"{options[name].help} (with {family.title}: {help})"
                options[name] = dataclasses.replace(options[name], help=both)
            if (low, high) != bounds[name]:
                check = _number_of(about, *bounds[name])
                options[name] = dataclasses.replace(options[name], check=check)
    return options


def _sense(help: str) -> str:
    """A help text without its defaults, which differ from family to family."""
    return help.partition(" (default")[0].partition(", 0 is")[0]


def _of_option(name: str, about: Mapping[str, Any], help: str) -> Flag:
    """The flag of a family's option."""
    kind, several = about["kind"], about["several"]
    check = None
    if kind in (int, float):
        check = _number_of(about, about["low"], about["high"])
    elif several and kind is str:
        check = names if "," in about["metavar"] else str
    metavar = about["metavar"] + ("..." if several and kind is not str else "")
    panel = next((p for each, p in _PANELS.items() if name in each.split()), "The song")
    return Flag(metavar, help, about["flags"], panel, check, choices=about["offered"])


def _number_of(about: Mapping[str, Any], low: float, high: float) -> Callable[[str], Any]:
    """The check of a number of an option."""
    unit = {"s": "seconds"}.get(about["unit"], about["unit"])
    return number(low, high, whole=about["kind"] is int, unit=unit, off=about["off"])


def refuse_foreign(
    args: "Asked", options: Iterable[str], known: Collection[str], name: str, family: "Family"
) -> None:
    """Raise MusicotError for a flag of options of families that the family does not know."""
    for option in options:
        field = "lyrics_file" if option == "lyrics" else option  # lyrics come from a file
        if option not in known and getattr(args, field) is not None:
            flag = spelled(type(args), field)
            raise MusicotError(
                f"{flag} means nothing to {name}, a {family.title} model; leave it out"
            )


def require_file(path: str | Path, label: str) -> None:
    """Raise MusicotError where no file is there to be read."""
    if Path(path).is_dir():
        raise MusicotError(f"{label} file {path} is a folder; name a file in it")
    if not Path(path).is_file():
        raise MusicotError(f"{label} file {path} doesn't exist")


def check_references(args: Any) -> None:
    """Raise MusicotError for reference files that aren't there and weights that don't fit them."""
    for path in args.reference or ():
        require_file(path, "reference")
    count, weights = len(args.reference or ()), args.reference_weights
    if weights is not None and len(weights) != count:
        raise MusicotError(
            f"--reference-weights has {len(weights)} numbers for {count} references; give one each"
        )


def prompt_of(args: Asked) -> str | None:
    """The prompt, written by itself, with -p, or on standard input; None where there is none.

    Raises MusicotError for an empty one, for two, and for one without its quotes.
    """
    words, text = args.words or [], args.prompt
    if len(words) > 1 and text is None:
        raise MusicotError(f'a prompt of several words stands in quotes: "{" ".join(words)}"')
    if words and text is not None:
        raise MusicotError(f"there are two prompts, {text!r} and {words[0]!r}; pass one")
    text = words[0] if words else text
    return None if text is None else read_prompt(text)


def load_clap(name: str) -> "ClapEmbedder":
    """The CLAP of a model, or of a CLAP folder; MusicotError where there is none."""
    import musicot_mlx as mc
    from musicot_mlx.pipelines.clap import ClapEmbedder

    model = mc.load(name)
    clap = model if isinstance(model, ClapEmbedder) else getattr(model, "clap", None)
    if not isinstance(clap, ClapEmbedder):
        raise MusicotError(f"{name} holds no CLAP; pass one that does, or a CLAP folder")
    return clap
