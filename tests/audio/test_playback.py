"""Sinks: what is written is heard at the pace of time, and where they run empty that is counted."""

import sys
import threading
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest

from musicot_mlx.audio.playback import DeviceLost, Paced, Sink, Speakers, sound_device
from musicot_mlx.errors import MusicotError

RATE = 1000


class Watch:
    """Time that passes where someone sleeps, and where a test says so."""

    def __init__(self) -> None:
        self.time = 100.0

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds


@pytest.fixture
def watch() -> Watch:
    return Watch()


def ramp(first: int, count: int) -> np.ndarray:
    """Frames that tell their place, float32 (count, 2)."""
    return np.repeat(np.arange(first, first + count, dtype=np.float32)[:, None], 2, axis=1)


def paced(watch: Watch, **options: float) -> Paced:
    return Paced(RATE, 2, clock=watch, **{"buffer": 1.0, "history": 2.0, **options})


def test_it_is_heard_at_the_pace_of_time(watch: Watch) -> None:
    sink = paced(watch)
    sink.write(ramp(0, 600))
    watch.sleep(5)  # the buffer is not full yet
    assert len(sink.collect()) == 0
    sink.write(ramp(600, 500))  # 100 frames more than there is room for
    assert watch.now() == pytest.approx(105.1) and sink.buffered == pytest.approx(1.0)
    watch.sleep(0.25)
    assert sink.buffered == 1.0, "nobody looked at the clock"
    sink.write(ramp(1100, 250))
    assert watch.now() == pytest.approx(105.35), "there was room for all of it"
    heard = sink.collect()
    np.testing.assert_array_equal(heard, ramp(0, 350))
    assert (sink.underruns, sink.gap) == (0, 0)


def test_a_tape_of_fixed_size_holds_hours(watch: Watch) -> None:
    sink = paced(watch)
    size, heard = sink._tape.nbytes, 0
    for second in range(500):
        sink.write(ramp(1000 * second, 1000))
        part = sink.collect()
        np.testing.assert_array_equal(part, ramp(heard, len(part)))
        heard += len(part)
    assert sink._tape.nbytes == size and heard == 499_000
    np.testing.assert_array_equal(sink.recent(), ramp(497_000, 2000))


def test_an_underrun_is_silence_until_the_buffer_is_full(watch: Watch) -> None:
    sink = paced(watch)
    sink.write(ramp(0, 1000))
    watch.sleep(1.5)  # the maker was slow
    sink.write(ramp(1000, 400))
    assert (sink.underruns, sink.gap, sink.played) == (1, 500, 1000)
    watch.sleep(0.25)
    sink.write(ramp(1400, 600))  # full again
    assert (sink.underruns, sink.gap, sink.played) == (1, 750, 1000)
    watch.sleep(0.1)
    np.testing.assert_array_equal(sink.collect(), ramp(0, 1100))
    watch.sleep(5)
    sink.write(ramp(2000, 1000))
    assert (sink.underruns, sink.gap) == (2, 750 + 4100)


@pytest.mark.parametrize("written", [1000, 300])
def test_a_stop_fades_and_is_soon(watch: Watch, written: int) -> None:
    sink = paced(watch)
    sink.write(np.ones((written, 2), np.float32))
    before = watch.now()
    sink.stop(fade=0.2)
    assert watch.now() - before == pytest.approx(0.2)
    heard = sink.collect()
    assert len(heard) == 200 and (np.diff(heard[:, 0]) < 0).all()
    assert heard[0, 0] == pytest.approx(1, abs=1e-3) and heard[-1, 0] < 1e-3
    assert sink.underruns == 0


def test_an_end_plays_all_that_is_written(watch: Watch) -> None:
    sink = paced(watch)
    sink.write(np.ones((1000, 2), np.float32))
    sink.stop(fade=0.2, cut=False)
    heard = sink.collect()
    assert len(heard) == 1000 and (heard[:800] == 1).all() and heard[-1, 0] < 1e-3


def test_nothing_written_is_nothing_played(watch: Watch) -> None:
    sink = paced(watch)
    sink.stop()
    assert len(sink.collect()) == 0 and sink.played == 0


# --- speakers -------------------------------------------------------------------------------------


class Device:
    """A sounddevice whose stream asks for 64 frames at a time, in a thread of its own."""

    PortAudioError = type("PortAudioError", (Exception,), {})

    def __init__(self, outputs: bool = True, rate: int = RATE) -> None:
        self.outputs, self.rate = outputs, rate
        self.status = SimpleNamespace(output_underflow=False)
        self.heard: list[np.ndarray] = []

    def query_devices(self, kind: str) -> dict:
        if not self.outputs:
            raise self.PortAudioError("Error querying device -1")
        return {"name": "default"}

    def OutputStream(self, callback: Callable, **about: object) -> SimpleNamespace:  # noqa: N802
        assert about == {
            "samplerate": self.rate, "channels": 2, "dtype": "float32", "latency": 0.2,
        }  # fmt: skip
        stopping = threading.Event()
        stream = SimpleNamespace(active=False, closed=False)

        def play() -> None:
            while not stopping.wait(1e-4):
                out = np.full((64, 2), np.nan, np.float32)
                callback(out, 64, None, self.status)
                self.heard.append(out)

        thread = threading.Thread(target=play)

        def start() -> None:
            stream.active = True
            thread.start()

        def stop() -> None:
            stopping.set()
            if stream.active:
                thread.join()

        stream.start, stream.stop = start, stop
        stream.close = lambda: setattr(stream, "closed", True)
        self.stream = stream
        return stream


def test_speakers_ask_for_what_they_play(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device()
    monkeypatch.setitem(sys.modules, "sounddevice", device)
    with Speakers(RATE, 2, buffer=0.2) as sink:
        for start in range(1, 3001, 100):
            sink.write(ramp(start, 100))
        sink.stop(fade=0.001)
    heard = np.concatenate(device.heard)
    music = heard[heard[:, 0] != 0]
    count = len(music) - 1  # the last one is faded
    np.testing.assert_array_equal(music[:count], ramp(1, count))
    assert count >= 2800 - 1 and device.stream.closed and np.isfinite(heard).all()


def test_a_device_that_goes_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device()
    monkeypatch.setitem(sys.modules, "sounddevice", device)
    with Speakers(RATE, 2, buffer=0.2) as sink:
        sink.write(ramp(0, 1000))
        before, device.status.output_underflow = sink.underruns, True
        sink.write(ramp(0, 1000))  # sixteen calls
        assert sink.underruns >= before + 8
        device.stream.stop()
        device.stream.active = False
        for end in (lambda: sink.write(ramp(0, 1000)), sink.stop):
            with pytest.raises(DeviceLost, match="the sound device is gone"):
                end()


def test_what_is_missing_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(MusicotError, match="pip install sounddevice, or pass --output"):
        sound_device()
    monkeypatch.setitem(sys.modules, "sounddevice", Device(outputs=False))
    with pytest.raises(MusicotError, match="no sound device to play on .*Error querying device"):
        Speakers(RATE, 2)


def test_a_sink_alone_waits_for_its_reader() -> None:
    """What fills the buffer is read elsewhere, as by speakers."""
    sink = Sink(RATE, 2, buffer=0.5)

    def read() -> None:
        while sink.played < 1200:
            with sink._lock:
                sink._take(50)

    reader = threading.Thread(target=read)
    sink.write(ramp(0, 500))
    reader.start()
    sink.write(ramp(500, 700))
    sink.stop(fade=0, cut=False)
    reader.join(10)
    assert not reader.is_alive() and sink.played == 1200
    np.testing.assert_array_equal(sink.collect(), ramp(0, 1200))
