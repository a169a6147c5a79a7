"""The flags that commands share: parser, checked numbers, planning, what their files hold."""

import argparse
import difflib
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from musicot_mlx.errors import MusicotError

if TYPE_CHECKING:
    from musicot_mlx.pipelines.clap import ClapEmbedder

MAX_SECONDS = 300.0


class Parser(argparse.ArgumentParser):
    """argparse whose complaints are one line and name the nearest flag."""

    def error(self, message: str) -> NoReturn:
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown != message:
            flag = unknown.split()[0].split("=")[0]
            near = difflib.get_close_matches(flag, self._option_string_actions, n=1)
            if near:
                message = f"{message}; did you mean {near[0]}?"
        raise MusicotError(f"{message} ({self.prog} --help lists the options)")


def number(
    low: float, high: float = math.inf, *, whole: bool = False, unit: str = ""
) -> Callable[[str], Any]:
    """An argparse type: a finite number within [low, high]."""

    def parse(text: str) -> float | int:
        try:
            value = int(text) if whole else float(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:  # NaN fails too
            kind = "a whole number" if whole else "a number"
            bounds = f"from {low:g} to {high:g}" if high < math.inf else f"of at least {low:g}"
            suffix = f" {unit}" if unit else ""
            raise argparse.ArgumentTypeError(f"expected {kind} {bounds}{suffix}, got {text!r}")
        return value

    return parse


seconds = number(1.0, MAX_SECONDS, unit="seconds")
seed = number(0, 2**63 - 1, whole=True)


def names(text: str) -> list[str]:
    """An argparse type: comma-separated names."""
    found = [name.strip() for name in text.split(",") if name.strip()]
    if not found:
        raise argparse.ArgumentTypeError(f"expected names with commas between, got {text!r}")
    return found


def read_text(path: str, what: str) -> str:
    """A text file, or a one-line error."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise MusicotError(f"can't read the {what} {path} ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise MusicotError(f"the {what} {path} is not UTF-8 text") from error


def add_planning_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags that generate and plan share; absent ones leave the model's own defaults."""
    add = parser.add_argument
    add("--prompt", "-p", metavar="TEXT", help="what the music should be; - reads standard input")
    add("--model", metavar="NAME", help="embedded name, folder or Hub id (default: musicot-mini)")
    add(
        "--adapter-path",
        nargs="+",
        metavar="FOLDER",
        help="adapters from musicot lora; FOLDER:0.5 counts half (default: none)",
    )
    add(
        "--duration",
        "--seconds",
        type=seconds,
        metavar="S",
        help="length of the song in seconds, 1 to 300 (default: 30)",
    )
    add(
        "--reference",
        nargs="+",
        metavar="FILE",
        help="audio of any length whose thoughts the song borrows; several are blended (with "
        "MusicGen: what the candidates are compared with)",
    )
    add(
        "--reference-weights",
        nargs="+",
        type=number(0),
        metavar="W",
        help="how much each reference counts (default: alike)",
    )
    add("--lyrics-file", metavar="FILE", help="lyrics, with [VERSE] and other section marks")
    add(
        "--tags",
        type=names,
        metavar="A,B",
        help="tags (default: those that the prompt names and those near it, and a tempo)",
    )
    add(
        "--thought-temp",
        type=number(0, 10),
        metavar="T",
        help="temperature of the thoughts, 0 is greedy (default: the model's; 0.65 in the paper)",
    )
    add(
        "--thought-guidance",
        type=number(0, 50),
        metavar="L",
        help="guidance scale of the thoughts, 1 is off (default: the model's; 2.3)",
    )
    add(
        "--top-k",
        type=number(0, whole=True),
        metavar="K",
        help="draw from the K likeliest tokens, 0 is all (default: 0)",
    )
    add(
        "--top-p",
        type=number(0, 1),
        metavar="P",
        help="draw from the likeliest tokens that make up P, 1 is all (default: 1)",
    )


def check_references(args: argparse.Namespace) -> None:
    """Raise MusicotError for reference files that aren't there and weights that don't fit them."""
    for path in args.reference or ():
        if not Path(path).is_file():
            raise MusicotError(f"reference file {path} doesn't exist")
    count, weights = len(args.reference or ()), args.reference_weights
    if weights is not None and len(weights) != count:
        raise MusicotError(
            f"--reference-weights has {len(weights)} numbers for {count} references; give one each"
        )


def load_clap(name: str) -> "ClapEmbedder":
    """The CLAP of a model, or of a CLAP folder; MusicotError where there is none."""
    import musicot_mlx as mc
    from musicot_mlx.pipelines.clap import ClapEmbedder

    model = mc.load(name)
    clap = model if isinstance(model, ClapEmbedder) else getattr(model, "clap", None)
    if not isinstance(clap, ClapEmbedder):
        raise MusicotError(f"{name} holds no CLAP; pass one that does, or a CLAP folder")
    return clap
