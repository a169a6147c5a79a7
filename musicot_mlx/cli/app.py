"""The musicot command: its list, and the one place where an error becomes a line and an exit code.

A command is a module with `Arguments`, a dataclass of flags, and run(args) -> int. It is imported
when it is run or its own help is asked for, and imports nothing heavy until run.
"""

import os
import signal
import sys
import traceback
import warnings
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from musicot_mlx import __version__
from musicot_mlx.atomic import explain
from musicot_mlx.cli import flags
from musicot_mlx.errors import MusicotError, MusicotWarning, nearest

_PANELS = {
    "Songs": {
        "generate": "make a song from a text prompt",
        "plan": "make only the plan of a song, and look at it",
        "analyze": "what a song holds over time, and whether it followed its plan",
        "live": "play without end on the speakers, and type what the music becomes",
        "ask": "ask about a song, a picture or a film, and get an answer",
        "library": "songs found by how they sound: add, search, similar, stats, remove",
    },
    "Studio": {
        "studio": "make songs by looking, in a page on this machine",
        "serve": "the studio's HTTP API without its page",
    },
    "Models": {
        "models": "which models are here or can be had, and delete conversions",
        "tags": "what a model plays: styles, instruments, tempi, words",
        "convert": "turn a PyTorch checkpoint into an MLX folder",
        "dataset": "questions, captions, edits and instructions from a folder of songs",
        "lora": "tune a model on your own songs",
        "fuse": "fuse adapters into a model",
    },
    "Measures": {
        "eval": "measure how good a model is, with intervals, and write a page of results",
        "bench": "how fast songs are made here: seconds, memory and limits of each stage",
        "rvq": "fit codebooks of musical thoughts to a CLAP's embeddings",
        "doctor": "what this machine has, and what to change",
    },
}
COMMANDS = {name: what for panel in _PANELS.values() for name, what in panel.items()}
_ENDS = (signal.SIGTERM, signal.SIGHUP)  # the second: the terminal is closed
_SETTINGS = {"help_option_names": ["-h", "--help"]}


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 1 failed run, 2 bad input, 130 Ctrl-C."""
    argv = sys.argv[1:] if argv is None else argv
    # Raising lets `finally` remove half-written files, as Ctrl-C does.
    ends = [each for each in _ENDS if signal.getsignal(each) != signal.SIG_IGN]  # as nohup asks
    before = {each: signal.signal(each, lambda number, _: sys.exit(128 + number)) for each in ends}
    show, warnings.showwarning = warnings.showwarning, _show_warning
    strict = _write_any_letter()
    try:
        if not argv or argv[0] == "help":
            argv = [*argv[1:], "--help"]
        code = _app().main(argv, prog_name="musicot", standalone_mode=False) or 0
        # typer makes this of a Ctrl-C that meets it before a command runs, without a word
        return _fail("interrupted", 130) if code == 130 else code
    except SystemExit as stop:  # a signal, or a shell that asked what completes a word
        return stop.code if isinstance(stop.code, int) else 0
    except _Interrupted:
        return _fail("interrupted; no half-written file is left", 130)
    except typer.Abort:
        return _fail("nothing was done", 130)
    except typer.TyperException as error:
        return _fail(_usage(error), error.exit_code)
    except MusicotError as error:
        return _fail(str(error), error.exit_code)
    except BrokenPipeError:
        # The reader of our output has gone (musicot plan | head); Python would complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        named = isinstance(error.filename, str)  # a number where it was a file that is open
        explained = explain(error, Path(error.filename)) if named else error
        return _fail(str(explained), 1)
    except ValueError as error:
        return _fail(str(error), 2)
    except MemoryError:
        return _fail("out of memory; try a shorter --duration or close other programs", 1)
    except Exception as error:
        return _fail(
            f"{type(error).__name__}: {error} (this is a bug; MUSICOT_DEBUG=1 shows where)", 1
        )
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
        warnings.showwarning = show
        for stream in strict:
            stream.reconfigure(errors="strict")


def arguments(name: str) -> type:
    """The dataclass that holds the flags of one command."""
    own = import_module(f"musicot_mlx.cli.{name}").Arguments
    return flags.with_families(own) if issubclass(own, flags.Asked) else own


class _Interrupted(Exception):
    """Ctrl-C in a command; typer would turn KeyboardInterrupt into an exit without a word."""


class _Commands(flags.BareFlags, TyperGroup):
    """Knows the commands by name and line; the module of one is imported when it is resolved."""

    def resolve_command(
        self, ctx: typer.Context, args: list[str]
    ) -> tuple[str | None, TyperCommand | None, list[str]]:
        name = args[0]
        if name in COMMANDS:
            return name, _command(name), args[1:]
        from musicot_mlx.cli import elsewhere

        near = nearest(name, COMMANDS)
        hint = f"did you mean musicot {near}?" if near else f"there is {', '.join(COMMANDS)}"
        if " " in name.strip():
            hint = f"a song of it is made by musicot generate {name!r}"
        hint = elsewhere.COMMANDS.get(name.lower(), hint)
        raise MusicotError(f"no command {name!r}; {hint}")


def _command(name: str) -> TyperCommand:
    module = import_module(f"musicot_mlx.cli.{name}")

    def run(args: object) -> int:
        try:
            if isinstance(args, flags.Writing):
                flags.require_free(args)
            return module.run(args)
        except KeyboardInterrupt as stop:
            raise _Interrupted from stop

    return flags.command(name, COMMANDS[name], arguments(name), run, context_settings=_SETTINGS)


@cache
def _app() -> TyperGroup:
    app = typer.Typer(
        cls=_Commands, context_settings=_SETTINGS, subcommand_metavar="COMMAND [options]"
    )

    def version(asked: bool) -> None:
        if asked:
            print(f"musicot {__version__}")
            raise typer.Exit

    @app.callback(
        help="Text to music through musical thoughts: see the plan of a song, then render it.",
        epilog="musicot COMMAND --help lists the options of a command.",
    )
    def root(
        version: Annotated[
            bool,
            typer.Option(
                "--version", "-V", callback=version, is_eager=True, help="Tell the version."
            ),
        ] = False,
    ) -> None:
        pass

    for panel, commands in _PANELS.items():
        for name, what in commands.items():
            # stands for the command in the list
            app.command(name, help=what, rich_help_panel=panel)(lambda: None)
    return typer.main.get_command(app)


def _usage(error: typer.TyperException) -> str:
    """What was wrong with the words of a command line, and where to read on."""
    from musicot_mlx.cli import elsewhere

    option = getattr(error, "option_name", None)  # of one that there is not
    message = error.message if option else error.format_message()
    near = nearest(option, getattr(error, "possibilities", None) or ()) if option else None
    hint = f"; did you mean {near}?" if near else ""
    if option in elsewhere.FLAGS:
        hint = f"; {elsewhere.FLAGS[option]}"
    ctx = getattr(error, "ctx", None)
    where = ctx.command_path if ctx else "musicot"
    return f"{message.rstrip('.')}{hint} ({where} --help lists the options)"


def _write_any_letter() -> list[Any]:
    """Let a terminal that has not all letters show the others as \\xe9: a song that is written must
    not fail by its own name. The streams that were changed.
    """
    strict = [s for s in (sys.stdout, sys.stderr) if getattr(s, "errors", None) == "strict"]
    strict = [stream for stream in strict if hasattr(stream, "reconfigure")]
    for stream in strict:
        stream.reconfigure(errors="backslashreplace")
    return strict


def _fail(message: str, code: int) -> int:
    if os.environ.get("MUSICOT_DEBUG", "0") not in ("", "0"):
        traceback.print_exc()
    print(f"musicot: {' '.join(message.split())}", file=sys.stderr)
    return code


def _show_warning(message: object, category: type[Warning], *where: object) -> None:
    """Ours as one line; those of libraries are for developers."""
    if issubclass(category, MusicotWarning):
        print(f"musicot: {message}", file=sys.stderr)
