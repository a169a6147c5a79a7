"""Sound that is played while it is made: a tape of fixed size between its maker and its listener.

A `Sink` is written to in blocks and read from at the pace of time: by the speakers (`Speakers`), or
by a clock where nobody listens (`Paced`). It waits until its buffer is full before the first sound;
where it runs empty that is an underrun, silence until the buffer is full again. What was played
last stays on the tape, so that it can be kept, and hours take no more memory than minutes.
"""

import threading
import time
from typing import Any, Protocol, Self

import numpy as np

from musicot_mlx.errors import MusicotError, RunError

HISTORY = 120.0  # seconds that stay on the tape
FADE = 0.5  # seconds over which a stop fades out
LATENCY = 0.2  # seconds that the device is to hold, in which Python may be busy elsewhere
_PATIENCE = 0.05  # seconds between two looks at a tape that is full


class DeviceLost(RunError):
    """The speakers are gone while music plays."""


class Clock(Protocol):
    """Time in seconds, and how to let some pass."""

    def now(self) -> float: ...

    def sleep(self, seconds: float) -> None: ...


class RealTime:
    """The clock of the machine."""

    def now(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class Sink:
    """What plays blocks of float32 (frames, channels) one after another.

    buffer: seconds that may be written ahead of what is heard; history: seconds that stay on the
    tape behind it. written and played count frames of music; gap those of silence in underruns.
    """

    def __init__(
        self, sample_rate: int, channels: int, *, buffer: float = 2.0, history: float = HISTORY
    ) -> None:
        self.sample_rate, self.channels = sample_rate, channels
        self.ahead = max(1, round(buffer * sample_rate))
        self._behind = max(1, round(history * sample_rate))
        self._tape = np.zeros((self.ahead + self._behind, channels), np.float32)
        self._lock = threading.Condition()
        self.written = self.played = self.underruns = self.gap = 0
        self._collected, self._waiting, self._ending = 0, True, False

    # --- who makes the sound ----------------------------------------------------------------------

    @property
    def buffered(self) -> float:
        """Seconds that are written and not played."""
        return (self.written - self.played) / self.sample_rate

    def write(self, block: np.ndarray) -> None:
        """Put a block behind what is written; returns when the last of it found room."""
        while len(block):
            with self._lock:
                room = self.ahead - (self.written - self.played)
                part, block = block[:room], block[room:]
                self._put(part)
                full = self._waiting and self.written - self.played >= self.ahead
                self._waiting = self._waiting and not full
            if full:
                self._begin()
            if len(block):
                self._wait(len(block))

    def stop(self, fade: float = FADE, *, cut: bool = True) -> None:
        """Fade out over the last `fade` seconds of what is to be heard, play that, and be done.

        cut: leave away what would be heard after so many seconds.
        """
        with self._lock:
            left = min(self.written - self.played, round(fade * self.sample_rate))
            self.written = self.played + left if cut else self.written
            places = np.arange(self.written - left, self.written) % len(self._tape)
            falling = np.cos(np.pi / 2 * (np.arange(left) + 0.5) / max(1, left)) ** 2
            self._tape[places] *= falling[:, None].astype(np.float32)
            self._ending, self._waiting = True, False
        if self.played < self.written:
            self._begin()
        while self.played < self.written:
            self._wait(self.written - self.played)
        self.close()

    def collect(self) -> np.ndarray:
        """What was played since the last call; at least once every `history` seconds."""
        with self._lock:
            first = max(self._collected, self.played - self._behind)
            self._collected = self.played
            return self._read(first, self.played)

    def recent(self) -> np.ndarray:
        """What was played last, up to `history` seconds."""
        with self._lock:
            return self._read(max(0, self.played - self._behind), self.played)

    # --- who hears it -----------------------------------------------------------------------------

    def _take(self, frames: int) -> np.ndarray:
        """The next frames to be heard, silence where there are none; the lock is held."""
        have = 0 if self._waiting else min(frames, self.written - self.played)
        block = np.zeros((frames, self.channels), np.float32)
        block[:have] = self._read(self.played, self.played + have)
        self.played += have
        if have < frames and not self._ending:
            self.underruns += not self._waiting
            self._waiting = True
            self.gap += frames - have
        self._lock.notify_all()
        return block

    def _put(self, block: np.ndarray) -> None:
        self._tape[np.arange(self.written, self.written + len(block)) % len(self._tape)] = block
        self.written += len(block)

    def _read(self, first: int, last: int) -> np.ndarray:
        return self._tape[np.arange(first, last) % len(self._tape)]

    # --- what a sink says otherwise ---------------------------------------------------------------

    def _begin(self) -> None:
        """The buffer is full; the first time, time begins."""

    def _wait(self, frames: int) -> None:
        """Return after a while, when some of so many frames may have been played."""
        with self._lock:
            self._lock.wait(_PATIENCE)

    def close(self) -> None:
        """Let go of what plays."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class Paced(Sink):
    """Nobody listens: what would have been heard by now is taken off the tape by a clock."""

    def __init__(self, *given: Any, clock: Clock | None = None, **options: Any) -> None:
        super().__init__(*given, **options)
        self._clock = clock or RealTime()
        self._began: float | None = None

    def write(self, block: np.ndarray) -> None:
        self._catch_up()
        super().write(block)

    def collect(self) -> np.ndarray:
        self._catch_up()
        return super().collect()

    def _begin(self) -> None:
        if self._began is None:
            self._began = self._clock.now()

    def _wait(self, frames: int) -> None:
        self._clock.sleep(frames / self.sample_rate)
        self._catch_up()

    def _catch_up(self) -> None:
        """Hear what is due."""
        with self._lock:
            if self._began is not None:
                due = round((self._clock.now() - self._began) * self.sample_rate)
                due -= self.played + self.gap
                while due > 0:
                    part = min(due, len(self._tape))  # a pause of any length takes no more memory
                    self._take(part)
                    due -= part


class Speakers(Sink):
    """The machine's default output, by sounddevice (PortAudio), which asks for what it plays."""

    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        device, self._begun = sound_device(), False
        try:
            self._stream = device.OutputStream(
                samplerate=self.sample_rate,
                channels=self.channels,
                dtype="float32",
                latency=LATENCY,
                callback=self._hear,
            )
        except device.PortAudioError as error:
            raise _no_output(error) from error

    def _hear(self, out: np.ndarray, frames: int, time: Any, status: Any) -> None:
        with self._lock:
            out[:] = self._take(frames)
            if status and status.output_underflow:  # this process came too late
                self.underruns += 1

    def _begin(self) -> None:
        if not self._begun:
            self._begun = True
            self._stream.start()

    def _wait(self, frames: int) -> None:
        super()._wait(frames)
        if self._begun and not self._stream.active:
            raise DeviceLost("the sound device is gone; plug it in, and begin again")

    def close(self) -> None:
        self._stream.stop()  # when all that was handed over is heard
        self._stream.close()


def sound_device() -> Any:
    """The module sounddevice, with an output to play on; MusicotError where either is missing."""
    try:
        import sounddevice
    except ImportError:
        raise MusicotError(
            "the speakers are played by sounddevice, which is not installed; "
            "pip install sounddevice, or pass --output FILE"
        ) from None
    except OSError as error:  # the wheels of Linux come without PortAudio
        raise MusicotError(
            f"sounddevice can't be used: {error}; install PortAudio (apt-get install "
            "libportaudio2), or pass --output FILE"
        ) from None
    try:
        sounddevice.query_devices(kind="output")
    except (sounddevice.PortAudioError, ValueError) as error:
        raise _no_output(error) from error
    return sounddevice


def _no_output(error: Exception) -> MusicotError:
    said = " ".join(str(error).split()) or "none is there"
    return MusicotError(f"no sound device to play on ({said}); pass --output FILE")
