"""A song while it is made: its samples for those who listen, its waveform for those who look."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

PEAKS = 20  # a second


class Peaks:
    """The level of a waveform as it comes: a byte for each twentieth of a second, the largest
    sample of all channels on a square-root scale from 0 to 255, so that quiet music is seen.
    """

    def __init__(self, sample_rate: int, channels: int) -> None:
        self._step = sample_rate // PEAKS * channels
        self._rest = np.zeros(0, np.int16)
        self.levels = bytearray()

    def add(self, pcm: bytes) -> list[int]:
        """Take 16-bit samples; the levels that they make whole."""
        samples = np.concatenate([self._rest, np.frombuffer(pcm, "<i2")])
        whole = len(samples) // self._step
        self._rest = samples[whole * self._step :]
        return self._put(samples[: whole * self._step].reshape(whole, self._step))

    def finish(self) -> list[int]:
        """The level of what was left, which is less than a step."""
        rest, self._rest = self._rest, self._rest[:0]
        return self._put(rest[None]) if len(rest) else []

    def _put(self, rows: np.ndarray) -> list[int]:
        if not len(rows):
            return []
        highest = np.abs(rows.astype(np.int32)).max(axis=1) / 32768
        found = np.rint(255 * np.sqrt(highest)).astype(np.uint8)
        self.levels += found.tobytes()
        return found.tolist()


class Live:
    """One song in the making. Its thread writes, any number of listeners read: from the beginning,
    as far as it is. What is made lies in a file, so that memory stays flat.
    """

    def __init__(
        self, song: str, path: Path, tell: Callable[[float, float, list[int]], None]
    ) -> None:
        """tell(from, seconds, peaks) is called with what was added."""
        self.song, self.path, self._tell = song, path, tell
        self.began = time.monotonic()
        self.cancelled = threading.Event()
        self.sample_rate = self.channels = 0  # until the first sample is there
        self.made = 0  # bytes
        self.peaks: Peaks | None = None
        self.first_audio: float | None = None  # seconds after it began
        self.stage, self.fraction = "waiting", 0.0
        self.ended = threading.Event()
        self.failed = False

    @property
    def seconds(self) -> float:
        """How much of the song there is."""
        return self.made / (2 * self.channels * self.sample_rate) if self.sample_rate else 0.0

    @property
    def elapsed(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self.began

    @contextmanager
    def listen(self, sample_rate: int, channels: int) -> Iterator[Callable[[bytes], None]]:
        """What hears a song as it is written: a function of 16-bit PCM."""
        self.sample_rate, self.channels = sample_rate, channels
        self.peaks = Peaks(sample_rate, channels)
        with self.path.open("wb", buffering=0) as file:

            def hear(pcm: bytes) -> None:
                file.write(pcm)
                if self.first_audio is None:
                    self.first_audio = self.elapsed
                start, levels = self.seconds, self.peaks.add(pcm)
                self.made += len(pcm)
                self._tell(start, self.seconds - start, levels)

            yield hear

    def end(self, *, failed: bool) -> None:
        """Nothing more comes; failed: what came is no song."""
        self.failed = failed
        self.ended.set()


def wav_header(sample_rate: int, channels: int, frames: int) -> bytes:
    """The 44 bytes before 16-bit samples; frames not known yet are as many as it can tell."""
    size = min(frames * channels * 2, 0x7FFFFFFF - 36)
    fields = [
        b"RIFF",
        (size + 36).to_bytes(4, "little"),
        b"WAVEfmt ",
        (16).to_bytes(4, "little"),
        (1).to_bytes(2, "little"),
        channels.to_bytes(2, "little"),
        sample_rate.to_bytes(4, "little"),
        (sample_rate * channels * 2).to_bytes(4, "little"),
        (channels * 2).to_bytes(2, "little"),
        (16).to_bytes(2, "little"),
        b"data",
        size.to_bytes(4, "little"),
    ]
    return b"".join(fields)


def peaks_of(path: Path) -> bytes:
    """The levels of a file, read a piece at a time."""
    import soundfile

    with soundfile.SoundFile(path) as file:
        found = Peaks(file.samplerate, file.channels)
        for block in file.blocks(1 << 16, dtype="int16", always_2d=True):
            found.add(block.astype("<i2").tobytes())
    found.finish()
    return bytes(found.levels)
