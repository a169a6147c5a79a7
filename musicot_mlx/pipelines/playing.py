"""A model that plays live, a sink that is heard, and lines that are typed meanwhile.

The lines are looked for many times a second, so that an answer comes at once; what they ask for is
heard when what is buffered has been. Nothing that is typed stops the music but `quit`.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from musicot_mlx.atomic import require_free
from musicot_mlx.audio.files import RenderCheck, audio_writer, check_render
from musicot_mlx.audio.playback import DeviceLost, Sink
from musicot_mlx.errors import MusicotError, RunError
from musicot_mlx.pipelines.lines import HELP, Asks, Line, read_line

SLICE = 0.1  # seconds of sound between two looks at the lines
FADE_OUT = 1.5  # seconds at the end of a session of so many seconds
LONGEST_BUFFER = 600.0  # seconds
WITHOUT_PAUSE = 300.0  # seconds that a buffer is advised for
TEMPO = 120.0  # beats a minute


class Live(Protocol):
    """A song without end: its blocks (samples, channels), and what is said of it.

    wanted: what it is asked to be, as words; glide: seconds to the next thought, arrived: how much
    of that way is gone; left: seconds until what holds for a while is over. rtf: seconds of work a
    second of sound takes; notes: what there is to tell; check: of all that was made. `take` raises
    MusicotError for a line that can't be followed, and changes nothing then.
    """

    sample_rate: int
    channels: int
    glide: float
    notes: list[str]
    check: RenderCheck

    @property
    def wanted(self) -> Any: ...

    @property
    def rtf(self) -> float: ...

    @property
    def arrived(self) -> float: ...

    @property
    def left(self) -> float | None: ...

    def take(self, line: Line) -> None: ...

    def __iter__(self) -> Iterator[np.ndarray]: ...


@dataclass(frozen=True)
class Played:
    """What a session came to: seconds of music, underruns and the seconds of silence in them."""

    seconds: float
    underruns: int
    gap: float
    rtf: float

    def __str__(self) -> str:
        pauses = f", {self.underruns} underruns ({self.gap:.1f} s of silence)" * (
            self.underruns > 0
        )
        return f"{self.seconds:.1f} s played (RTF {self.rtf:.2f}){pauses}"


class Session:
    """One session. tell is called with a line for people; show with the session, many times a
    second.
    """

    def __init__(
        self,
        live: Live,
        sink: Sink,
        *,
        tell: Callable[[str], None],
        show: Callable[["Session"], None] = lambda session: None,
        tempo: float = TEMPO,
        overwrite: bool = False,
    ) -> None:
        self.live, self.sink, self.tempo, self.overwrite = live, sink, tempo, overwrite
        self._tell, self._show = tell, show
        self._over, self._unwritten = False, 0  # frames of the block that is being written
        self._saving: list[tuple[str, Future[None]]] = []

    def run(
        self,
        lines: Callable[[], Iterable[str]] = tuple,
        *,
        seconds: float | None = None,
        record: str | Path | None = None,
    ) -> Played:
        """Play until `quit`, Ctrl-C, or `seconds` of music; lines() gives what was typed since.

        record: a file for what is heard, without the pauses. Raises RunError where that is no
        music, and then no file is left; DeviceLost where the speakers are gone, OSError
        where nobody reads what is told.
        """
        stopped: BaseException | None = None
        with ExitStack() as stack:
            write = stack.enter_context(self._recording(record)) if record else None
            saver = stack.enter_context(ThreadPoolExecutor(1))
            with self.sink:
                try:
                    self._play(lines, seconds, write, saver)
                except (KeyboardInterrupt, SystemExit, OSError) as error:
                    stopped = error
                    with suppress(DeviceLost):
                        self.sink.stop()
                except DeviceLost as error:
                    stopped = error
            if write:
                write(self.sink.collect())
                if not self.sink.played:
                    raise RunError("nothing was played, so there is nothing to record")
                self.live.check.finish()
        self._tell_saved(wait=True)
        if stopped is not None and not isinstance(stopped, KeyboardInterrupt):
            raise stopped
        sink = self.sink
        rate = sink.sample_rate
        return Played(sink.played / rate, sink.underruns, sink.gap / rate, self.live.rtf)

    def _play(
        self,
        lines: Callable[[], Iterable[str]],
        seconds: float | None,
        write: Callable[[np.ndarray], None] | None,
        saver: ThreadPoolExecutor,
    ) -> None:
        sink, rate = self.sink, self.sink.sample_rate
        last, told = math.inf if seconds is None else round(seconds * rate), False
        for block in self.live:
            if not told and self.live.rtf:
                self._tell_speed()
                told = True
            block = block[: int(min(len(block), last - sink.written))]
            for first in range(0, len(block), round(SLICE * rate)):
                sink.write(block[first : first + round(SLICE * rate)])
                self._unwritten = max(0, len(block) - first - round(SLICE * rate))
                for text in lines():
                    self._answer(text, saver)
                self._show(self)
                if self._over:
                    return sink.stop()
            self._tell_saved()
            if write:
                write(sink.collect())
            while self.live.notes:
                self._tell(self.live.notes.pop(0))
            if sink.written >= last:
                return sink.stop(min(FADE_OUT, seconds / 6), cut=False)

    def _answer(self, text: str, saver: ThreadPoolExecutor) -> None:
        """Do what a line asks for, and say so in a line."""
        try:
            line = read_line(text, self.tempo)
            if line.asks is Asks.QUIT:
                self._over = True
            elif line.asks is Asks.HELP:
                self._tell(HELP)
            elif line.asks is Asks.SAVE:
                self._save(line.text, saver)
            elif line.asks is Asks.TEMPO:
                self.tempo = line.number
                self._tell(f"bars are counted by {line.number:g} beats a minute")
            elif line.asks is not Asks.NOTHING:
                self.live.take(line)
                self._tell(self._coming(line.seconds))
        except (MusicotError, OSError) as error:
            self._tell(" ".join(str(error).split()))

    def _coming(self, seconds: float | None) -> str:
        """What was asked for, for how long, and when it is heard."""
        held = "" if seconds is None else f" for {seconds:.3g} s"
        glide = f", gliding {self.live.glide:g} s" if self.live.glide else ""
        ahead = self.sink.buffered + self._unwritten / self.sink.sample_rate
        return f"in {ahead:.1f} s{held}: {self.live.wanted}{glide}"

    def _save(self, name: str, saver: ThreadPoolExecutor) -> None:
        """Write what was heard last, beside the music."""
        path, heard = Path(name).expanduser(), self.sink.recent()
        if not self.overwrite:
            require_free(path)
        if not len(heard):
            raise MusicotError("nothing was heard yet")

        about = self.sink.sample_rate, self.sink.channels

        def keep() -> None:
            check_render(heard, about[0])
            with audio_writer(path, *about, replace=self.overwrite) as write:
                write(heard)

        seconds = len(heard) / self.sink.sample_rate
        self._saving.append((f"{path}: the last {seconds:.1f} s", saver.submit(keep)))

    def _tell_saved(self, *, wait: bool = False) -> None:
        """Tell of files that are written by now, or of all."""
        for each in [each for each in self._saving if wait or each[1].done()]:
            self._saving.remove(each)
            try:
                each[1].result()
                self._tell(each[0])
            except (MusicotError, OSError) as error:
                self._tell(" ".join(str(error).split()))

    def _tell_speed(self) -> None:
        """Say before the first sound that this machine is too slow, and what helps."""
        rtf, ahead = self.live.rtf, self.sink.ahead / self.sink.sample_rate
        if rtf <= 1:
            return
        share = 1 - 1 / rtf  # of a second that is missing every second
        line = (
            f"this machine takes {rtf:.2f} s for a second of music: after some {ahead / share:.0f} "
            "s there will be pauses"
        )
        wanted = math.ceil(WITHOUT_PAUSE * share - 1e-6)
        if ahead < wanted <= LONGEST_BUFFER:
            line += f"; --buffer {wanted} plays {WITHOUT_PAUSE / 60:g} minutes without"
        self._tell(line)

    @contextmanager
    def _recording(self, path: str | Path) -> Iterator[Callable[[np.ndarray], None]]:
        rate, channels = self.sink.sample_rate, self.sink.channels
        with audio_writer(path, rate, channels, replace=self.overwrite) as write:
            yield write
