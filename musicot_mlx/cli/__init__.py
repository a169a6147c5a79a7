"""The musicot command: dispatch, and the one place where an error becomes a line and an exit code.

A command is a module with add_arguments(parser) and run(args) -> int; nothing heavier than argparse
is imported until run, so that help answers at once.
"""

import difflib
import os
import signal
import sys
import traceback
import warnings
from importlib import import_module

from musicot_mlx import __version__
from musicot_mlx.atomic import explain
from musicot_mlx.cli.flags import Parser
from musicot_mlx.errors import MusicotError, MusicotWarning

COMMANDS = {
    "generate": "make a song from a text prompt",
    "plan": "make only the plan of a song, and look at it",
    "analyze": "what a song holds over time, and whether it followed its plan",
    "convert": "turn a PyTorch checkpoint into an MLX folder",
    "lora": "tune a model on your own songs",
    "fuse": "melt adapters into a model",
    "eval": "measure how good a model is, with intervals, and write a page of results",
    "bench": "how fast songs are made here: seconds, memory and limits of each stage",
    "rvq": "fit codebooks of musical thoughts to a CLAP's embeddings",
    "doctor": "what this machine has, and what to change",
}
_HELP = ("-h", "--help", "help")


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 1 failed run, 2 bad input, 130 Ctrl-C."""
    argv = sys.argv[1:] if argv is None else argv
    # Raising lets `finally` remove half-written files, as Ctrl-C does.
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    show, warnings.showwarning = warnings.showwarning, _show_warning
    try:
        return _dispatch(argv)
    except SystemExit as stop:  # argparse after --help, or SIGTERM
        return stop.code if isinstance(stop.code, int) else 0
    except KeyboardInterrupt:
        return _fail("interrupted; no half-written file is left", 130)
    except MusicotError as error:
        return _fail(str(error), error.exit_code)
    except BrokenPipeError:
        # The reader of our output has gone (musicot plan | head); Python would complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        found = explain(error, error.filename) if error.filename else error
        return _fail(str(found), 1)
    except ValueError as error:
        return _fail(str(error), 2)
    except MemoryError:
        return _fail("out of memory; try a shorter --duration or close other programs", 1)
    except Exception as error:
        return _fail(
            f"{type(error).__name__}: {error} (this is a bug; MUSICOT_DEBUG=1 shows where)", 1
        )
    finally:
        signal.signal(signal.SIGTERM, before)
        warnings.showwarning = show


def usage() -> str:
    """The help of the command itself."""
    rows = "\n".join(f"  {name:<10} {text}" for name, text in COMMANDS.items())
    return (
        "usage: musicot COMMAND [options]\n\n"
        "Text to music through musical thoughts: see the plan of a song, then render it.\n\n"
        f"commands:\n{rows}\n\n"
        "musicot COMMAND --help lists its options; musicot --version tells the version."
    )


def build_parser(command: str) -> Parser:
    """The argument parser of one command."""
    parser = Parser(prog=f"musicot {command}", description=COMMANDS[command], allow_abbrev=False)
    import_module(f"musicot_mlx.cli.{command}").add_arguments(parser)
    return parser


def _dispatch(argv: list[str]) -> int:
    if not argv or argv[0] in _HELP:
        print(usage())
        return 0
    if argv[0] in ("--version", "-V"):
        print(f"musicot {__version__}")
        return 0
    command = argv[0]
    if command not in COMMANDS:
        near = difflib.get_close_matches(command, COMMANDS, n=1, cutoff=0.4)
        hint = f"did you mean musicot {near[0]}?" if near else f"there is {', '.join(COMMANDS)}"
        raise MusicotError(f"no command {command!r}; {hint}")
    args = build_parser(command).parse_args(argv[1:])
    return import_module(f"musicot_mlx.cli.{command}").run(args)


def _fail(message: str, code: int) -> int:
    if os.environ.get("MUSICOT_DEBUG", "0") not in ("", "0"):
        traceback.print_exc()
    print(f"musicot: {' '.join(message.split())}", file=sys.stderr)
    return code


def _show_warning(message: object, category: type[Warning], *where: object) -> None:
    """Ours as one line; those of libraries are for developers."""
    if issubclass(category, MusicotWarning):
        print(f"musicot: {message}", file=sys.stderr)
