"""musicot live: music without end on the speakers, changed by lines that are typed meanwhile."""

import os
import select
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

from musicot_mlx.cli import flags
from musicot_mlx.errors import MusicotError
from musicot_mlx.pipelines import families

if TYPE_CHECKING:
    from musicot_mlx.pipelines.playing import Session

_music = partial(flags.flag, panel="The music")
_heard = partial(flags.flag, panel="How it is heard")
_READ = 1 << 16  # bytes
_UP, _CLEAR, _SAVE, _BACK = "\x1b[1A", "\r\x1b[2K", "\x1b7", "\x1b8"  # of a terminal


@dataclass(kw_only=True)
class Arguments(flags.Writing):
    """The flags of musicot live."""

    words: list[str] | None = _music(
        "PROMPT...", "what the music should be at first, in quotes", positional=True
    )
    prompt: str | None = _music("TEXT", "the same", "--prompt", "-p")
    model: str = _music("NAME", "model that plays live: name, folder or Hub id", required=True)
    adapter_path: list[str] | None = _music(
        "FOLDER...", "adapters from musicot lora; FOLDER:0.5 counts half (default: none)"
    )
    seed: int | None = _music(
        "N", "same seed and lines, same music; random draws one (default: 0)",
        check=flags.seed_or_random,
    )  # fmt: skip
    tempo: float | None = _music(
        "BPM",
        "beats a minute that '8 bars no drums' is counted by, in 4/4; the music follows none "
        "(default: 120)",
        check=flags.number(20, 400, unit="BPM"),
    )
    glide: float | None = _music(
        "S",
        "seconds over which a thought becomes the next one (default: 2)",
        check=flags.number(0, 10, unit="seconds"),
    )
    variation: float | None = _music(
        "V",
        "how much the thoughts of one prompt differ, 0 to 1 (default: the model's)",
        check=flags.number(0, 1),
    )
    drums: Literal["free", "none", "play"] | None = _music("", "(default: free)")
    style_strength: float | None = _music(
        "S",
        "how strictly thoughts are followed, -1 to 6.8 (default: the model's)",
        check=flags.number(-1, 6.8),
    )
    audio_temperature: float | None = _music(
        "T",
        "temperature of the audio tokens, 0 is greedy (default: the model's)",
        "--audio-temp",
        "--temperature",
        check=flags.number(0, 10),
    )
    refresh: float | None = _music(
        "S",
        "seconds after which the model forgets all but the last five, 0 is never (default: the "
        "model's)",
        check=flags.number(0, 600, unit="seconds"),
    )
    buffer: float = _heard(
        "S",
        "seconds made ahead of what is heard: more of them bridge a slow machine, fewer answer "
        "sooner (default: 2)",
        check=flags.number(0.2, 600, unit="seconds"),
        default=2.0,
    )
    seconds: float | None = _heard(
        "S",
        "end by itself after so much music (default: play until quit or Ctrl-C)",
        "--seconds",
        "--duration",
        check=flags.number(1, unit="seconds"),
    )
    record: str | None = _heard("FILE", "write what is played, too", check=flags.place)
    output: str | None = _heard(
        "FILE",
        "play to this file instead of the speakers, in real time",
        "--output",
        "-o",
        check=flags.place,
    )
    loudness: float | bool | None = _heard(
        "LUFS",
        "loudness that the first seconds get, off leaves the level alone (default: -16)",
        check=flags.number(-40, -6, unit="LUFS", off=True),
    )


_OPTIONS = (
    "seed glide variation drums style_strength audio_temperature refresh loudness".split()
)  # of the model


def run(args: Arguments) -> int:
    prompt = flags.prompt_of(args)
    if prompt is None:
        raise MusicotError('nothing to play; say what the music should be: musicot live "piano"')
    if args.output and args.record:
        raise MusicotError("--output is a record already; leave out --record")
    record = args.output or args.record
    from musicot_mlx.audio.files import format_of
    from musicot_mlx.audio.playback import Paced, Speakers, sound_device

    if record:
        format_of(record)
    if not args.output:
        sound_device()  # or say so before the model is loaded

    import musicot_mlx as mc
    from musicot_mlx.pipelines.playing import TEMPO, Session

    model = mc.load(args.model, adapter_path=args.adapter_path)
    message = f"{args.model} does not play live; pass a {families.titles('live')} model"
    families.require(model, "live", message)
    given = {name: value for name in _OPTIONS if (value := getattr(args, name)) is not None}
    live = model.live(prompt, **given)
    kind = Paced if args.output else Speakers
    screen, lines = Screen(), Lines()
    session = Session(
        live,
        kind(live.sample_rate, live.channels, buffer=args.buffer),
        tell=screen.tell,
        show=screen.show,
        tempo=args.tempo or TEMPO,
        overwrite=args.overwrite,
    )
    screen.tell(f"playing {live.wanted}; help lists what may be typed, quit or Ctrl-C ends it")
    try:
        played = session.run(lambda: screen.typed(lines()), seconds=args.seconds, record=record)
    finally:
        screen.close()
    print(f"{played}{f' -> {record}' if record else ''}", flush=True)
    return 0


class Lines:
    """What is typed on standard input, line by line; never waits."""

    def __init__(self) -> None:
        self._begun, self._open = b"", True

    def __call__(self) -> Iterator[str]:
        try:
            file = sys.stdin.fileno()
            while self._open and select.select([file], [], [], 0)[0]:
                data = os.read(file, _READ)
                self._open = bool(data)
                *whole, self._begun = (self._begun + data).split(b"\n")
                if not self._open or len(self._begun) > _READ:
                    whole, self._begun = [*whole, self._begun], b""
                yield from (line.decode(errors="replace") for line in whole)
        except (OSError, ValueError, AttributeError):  # no standard input, or none any more
            self._open = False


class Screen:
    """Lines for people on standard output and, where that and the input are a terminal, a status
    above the line that is being typed.
    """

    def __init__(self) -> None:
        self._drawn = sys.stdout.isatty() and sys.stdin is not None and sys.stdin.isatty()
        if self._drawn:
            self._begin()

    def tell(self, line: str) -> None:
        if not self._drawn:
            print(line, flush=True)
            return
        print(f"{_CLEAR}{_UP}{_CLEAR}{line}")
        self._begin()

    def typed(self, lines: Iterator[str]) -> Iterator[str]:
        """Pass lines on; each has left the terminal on the line below it, and stays to be seen."""
        for line in lines:
            if self._drawn:
                shown = "".join(each for each in line if each.isprintable())
                print(f"{_CLEAR}{_UP}{_CLEAR}{_UP}{_CLEAR}> {shown}")
                self._begin()
            yield line

    def show(self, session: "Session") -> None:
        if self._drawn:
            width = shutil.get_terminal_size((80, 24)).columns - 1
            line = status(session)[:width]
            print(f"{_SAVE}{_UP}{_CLEAR}{line}{_BACK}", end="", flush=True)

    def close(self) -> None:
        if self._drawn:
            print(_CLEAR, end="", flush=True)

    def _begin(self) -> None:
        """A line for the status and one to type on."""
        print("\n> ", end="", flush=True)


def status(session: "Session") -> str:
    """Where the music is, what it is asked to be, and how this machine keeps up."""
    live, sink = session.live, session.sink
    at = int(sink.played / sink.sample_rate)
    parts = [f"{at // 60}:{at % 60:02d} {live.wanted}"]
    if live.left is not None:
        parts.append(f"{live.left:.0f} s left")
    if live.arrived < 1:
        parts.append(f"glide {live.arrived:.0%}")
    parts += [f"buffer {sink.buffered:.1f} s", f"RTF {live.rtf:.2f}"]
    if sink.underruns:
        parts.append(f"{sink.underruns} underruns")
    return " | ".join(parts)
