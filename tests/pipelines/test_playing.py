"""A session: lines meet the music block by block, what is played is kept, slowness is told."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from musicot_mlx.audio.files import RenderCheck
from musicot_mlx.audio.playback import DeviceLost, Paced
from musicot_mlx.errors import MusicotError, RunError, SilentRender
from musicot_mlx.pipelines.lines import HELP, Line
from musicot_mlx.pipelines.playing import Played, Session
from tests.audio.test_playback import Watch

RATE = 8000


class Music:
    """A live model whose blocks of a second take so many seconds; it writes down what it was told
    before which block.
    """

    sample_rate, channels, glide, arrived, left = RATE, 2, 2.0, 1.0, None

    def __init__(self, watch: Watch, slow: float = 0.0) -> None:
        self.watch, self.rtf = watch, slow
        self.made: list[np.ndarray] = []
        self.told: list[tuple[int, Line]] = []
        self.notes: list[str] = []
        self.wanted = "piano"
        self.check = RenderCheck(RATE)

    def take(self, line: Line) -> None:
        if "odd" in line.text:
            raise MusicotError("there is no such recording")
        self.told.append((len(self.made), line))
        self.wanted = line.text

    def __iter__(self) -> Iterator[np.ndarray]:
        rng = np.random.default_rng(0)
        while True:
            self.watch.sleep(self.rtf)
            tone = np.sin(np.arange(RATE)[:, None] * rng.uniform(0.1, 1, 2))
            self.made.append((0.1 * tone * rng.uniform(0.2, 1)).astype(np.float32))
            self.check.add(self.made[-1])
            yield self.made[-1]


class Room:
    """A session with the time that passes in it, and what it says."""

    def __init__(self, slow: float = 0.0, buffer: float = 2.0, **options: bool) -> None:
        self.watch = Watch()
        self.music = Music(self.watch, slow)
        self.sink = Paced(RATE, 2, clock=self.watch, buffer=buffer)
        self.said: list[str] = []
        self.session = Session(self.music, self.sink, tell=self.said.append, **options)

    def typed(self, *lines: tuple[float, str | BaseException]) -> Callable[[], list[str]]:
        """Lines by the second that they are typed at."""
        waiting = [(100.0 + at, line) for at, line in lines]

        def since() -> list[str]:
            now = [line for at, line in waiting if at <= self.watch.now() + 1e-9]
            del waiting[: len(now)]
            for line in now:
                if isinstance(line, BaseException):
                    raise line
            return now

        return since

    def heard(self) -> np.ndarray:
        return self.sink.recent()


@pytest.fixture
def room() -> Room:
    return Room()


def test_a_line_is_heard_from_the_next_block_on(room: Room) -> None:
    """Two seconds are buffered: what is typed at 5 s is of the block that is heard from 7 s on."""
    played = room.session.run(room.typed((5.0, "rain")), seconds=10)
    ((block, line),) = room.music.told
    assert line.text == "rain" and block == 7
    assert room.said == ["in 2.0 s: rain, gliding 2 s"]
    assert played == Played(10.0, 0, 0.0, 0.0) and str(played) == "10.0 s played (RTF 0.00)"


def test_the_record_is_what_was_played(room: Room, tmp_path: Path) -> None:
    room.session.run(room.typed((3.0, "rain")), seconds=9.3, record=tmp_path / "a.wav")
    kept, rate = soundfile.read(tmp_path / "a.wav", dtype="float32")
    assert rate == RATE and len(kept) == round(9.3 * RATE)
    np.testing.assert_allclose(kept, room.heard(), atol=1 / 32767)
    made = np.concatenate(room.music.made)
    np.testing.assert_allclose(kept[: 7 * RATE], made[: 7 * RATE], atol=1 / 32767)
    assert np.abs(kept[-8:]).max() < 1e-3, "it fades out"


def test_odd_lines_do_not_stop_the_music(room: Room) -> None:
    lines = room.typed((1.0, "???"), (1.0, "@odd.wav"), (2.0, "help"), (2.5, ""), (3.0, "tempo 60"),
                       (3.0, "1 bars drums"), (3.5, "strength 99"))  # fmt: skip
    assert room.session.run(lines, seconds=6).seconds == 6
    odd, recording, text, tempo, drums, strength = room.said
    assert odd.startswith("'???' says nothing") and recording == "there is no such recording"
    assert text == HELP and tempo == "bars are counted by 60 beats a minute"
    assert "for 4 s: play" in drums and "strength takes a number" in strength
    assert [line.seconds for _, line in room.music.told] == [4.0]


@pytest.mark.parametrize("how", ["quit", KeyboardInterrupt()], ids=["quit", "Ctrl-C"])
def test_it_stops_soon_and_keeps_the_record(
    room: Room, tmp_path: Path, how: str | BaseException
) -> None:
    played = room.session.run(room.typed((4.0, how)), record=tmp_path / "a.flac")
    assert 4.0 <= played.seconds <= 4.6 and room.watch.now() <= 104.8
    kept, _ = soundfile.read(tmp_path / "a.flac", dtype="float32")
    assert len(kept) == round(played.seconds * RATE)
    np.testing.assert_allclose(kept, room.heard(), atol=1 / 32767)
    assert np.abs(kept[-8:]).max() < 1e-3


def test_the_end_of_the_process_keeps_it_too(room: Room, tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        room.session.run(room.typed((4.0, SystemExit(143))), record=tmp_path / "a.wav")
    assert (tmp_path / "a.wav").is_file()


def test_a_slow_machine_is_told_of(tmp_path: Path) -> None:
    """Underruns are counted, the silence in them too, and the record has none of it."""
    room = Room(slow=1.5)
    played = room.session.run(seconds=12, record=tmp_path / "a.wav")
    assert room.said[0] == (
        "this machine takes 1.50 s for a second of music: after some 6 s there will be pauses; "
        "--buffer 100 plays 5 minutes without"
    )
    assert played.underruns >= 2 and played.seconds == 12
    assert room.watch.now() - 100 == pytest.approx(1.5 * 2 + 12 + played.gap, abs=0.2)
    assert "underruns (" in str(played)
    kept, _ = soundfile.read(tmp_path / "a.wav", dtype="float32")
    made = np.concatenate(room.music.made)
    np.testing.assert_allclose(kept[: 10 * RATE], made[: 10 * RATE], atol=1 / 32767)
    ahead = Room(slow=1.5, buffer=100.0)
    assert ahead.session.run(seconds=250).underruns == 0
    assert ahead.said[0].endswith("after some 300 s there will be pauses")
    assert Room(slow=0.9).session.run(seconds=20).underruns == 0


def test_save_keeps_what_was_heard_last(tmp_path: Path) -> None:
    room = Room()
    (tmp_path / "there.wav").write_text("mine")
    names = ((0.0, "early.wav"), (3.0, "a.wav"), (3.0, "there.wav"), (4.0, "no/b.wav"))
    typed = [(at, f"save {tmp_path}/{name}") for at, name in names]
    room.session.run(room.typed(*typed), seconds=6)
    kept, _ = soundfile.read(tmp_path / "a.wav", dtype="float32")
    assert 2.9 * RATE < len(kept) < 3.2 * RATE
    np.testing.assert_allclose(kept, room.heard()[: len(kept)], atol=1 / 32767)
    assert room.said[0] == "nothing was heard yet"
    assert (tmp_path / "there.wav").read_text() == "mine" and any(
        "there.wav" in s for s in room.said
    )
    assert any(line.startswith(f"{tmp_path}/a.wav: the last 3.") for line in room.said)
    assert (tmp_path / "no" / "b.wav").is_file(), "folders are made"


def test_what_is_no_music_is_not_recorded(tmp_path: Path) -> None:
    room = Room()
    room.music.check.finish = lambda: (_ for _ in ()).throw(SilentRender("the render is silent"))
    with pytest.raises(SilentRender):
        room.session.run(seconds=3, record=tmp_path / "a.wav")
    other = Room()
    other.music.watch.sleep = lambda seconds: (_ for _ in ()).throw(KeyboardInterrupt)
    with pytest.raises(RunError, match="nothing was played"):
        other.session.run(record=tmp_path / "b.wav")
    assert list(tmp_path.iterdir()) == []


def test_a_record_is_kept_where_the_speakers_are_gone(room: Room, tmp_path: Path) -> None:
    with pytest.raises(DeviceLost):
        room.session.run(room.typed((4.0, DeviceLost("gone"))), record=tmp_path / "a.wav")
    assert soundfile.info(tmp_path / "a.wav").frames == 4 * RATE


def test_notes_are_told(room: Room) -> None:
    room.music.notes = ["the thought stays as it is"]
    room.session.run(seconds=1)
    assert room.said == ["the thought stays as it is"] and room.music.notes == []
