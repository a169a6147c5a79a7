"""musicot live as it is typed: to a file in real time, and to speakers that are none."""

import io
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from musicot_mlx.cli import live, main
from tests.audio.test_playback import Device
from tests.support import tiny, tiny_magenta_model

ROOT = Path(__file__).resolve().parents[2]
# random weights make noise, which would be no record
ANY_SOUND = "import musicot_mlx.audio.files as f\nf.RenderCheck.finish = lambda self: None\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_magenta_model.write(tmp_path_factory.mktemp("magenta") / "tiny")


@contextmanager
def command(folder: Path, where: Path, *flags: str) -> Iterator[subprocess.Popen]:
    (where / "sitecustomize.py").write_text(ANY_SOUND)
    env = tiny.environment(PYTHONPATH=f"{where}:{ROOT}")
    words = ["live", "calm piano", "--model", str(folder), "--buffer", "1", *flags]
    with subprocess.Popen(
        [sys.executable, "-m", "musicot_mlx", *words],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env,
        cwd=where,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:  # of a test that failed; one that has ended it is past this
            process.kill()


def test_lines_while_it_plays(folder: Path, tmp_path: Path) -> None:
    """A real process with real time: every line is answered, and the file is as long as asked."""
    with command(folder, tmp_path, "-o", "a.wav", "--seconds", "4", "--loudness", "off") as process:
        assert process.stdout.readline().startswith("playing calm piano; help lists what")
        process.stdin.write("more drums\n8 bars no drums\n???\n")
        process.stdin.flush()
        began = time.monotonic()
        told = [process.stdout.readline() for _ in range(3)]
        process.stdin.write("strength 9\nseed 3")  # a last line without an end
        process.stdin.close()
        told += process.stdout.read().splitlines()
        assert process.wait(60) == 0, process.stderr.read()
        assert time.monotonic() - began > 2.5, "in real time"
        assert process.stderr.read() == ""
    text = "".join(told)
    assert "s: 0.7 calm piano, 0.3 drums, gliding 2 s" in text
    assert "s for 16 s: 0.7 calm piano, 0.3 drums, no drums, gliding 2 s" in text
    assert "'???' says nothing" in text and "strength takes a number" in text
    assert text.count("gliding 2 s") == 3 and "4.0 s played (RTF" in told[-1]
    assert told[-1].endswith(" -> a.wav") and "\x1b" not in text
    waveform, rate = soundfile.read(tmp_path / "a.wav")
    assert len(waveform) == 4 * rate and np.abs(waveform).max() > 0.01


@pytest.mark.parametrize(
    ("how", "code"),
    [(signal.SIGINT, 0), (signal.SIGTERM, 143), (signal.SIGHUP, 129), (None, 1)],
    ids=["Ctrl-C", "terminated", "terminal closed", "nobody reads"],
)
def test_what_ends_it_leaves_its_record(
    folder: Path, tmp_path: Path, how: int | None, code: int
) -> None:
    with command(folder, tmp_path, "-o", "a.flac", "--loudness", "off") as process:
        assert process.stdout.readline().startswith("playing")
        process.stdin.write("help\n")
        process.stdin.flush()
        while "help, quit" not in process.stdout.readline():
            pass
        time.sleep(1)
        if how is None:
            process.stdout.close()
            process.stdin.write("help\n")
            process.stdin.flush()
        else:
            process.send_signal(how)
        assert process.wait(30) == code, process.stderr.read()
        assert process.stderr.read() == ""
    assert soundfile.info(tmp_path / "a.flac").frames > 0
    assert not [path for path in tmp_path.iterdir() if "part" in path.name]


def test_speakers(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    device = Device(rate=48000)
    monkeypatch.setitem(sys.modules, "sounddevice", device)
    monkeypatch.setattr("musicot_mlx.audio.files.RenderCheck.finish", lambda self: None)
    monkeypatch.setattr("sys.stdin", io.StringIO())  # which has no number
    flags = f"-p piano --model {folder} --seconds 1 --loudness off --record {tmp_path}/a.wav"
    assert main(["live", *flags.split()]) == 0
    said = capsys.readouterr()
    assert "1.0 s played" in said.out and said.err == ""
    heard = np.concatenate(device.heard)
    kept, _ = soundfile.read(tmp_path / "a.wav", dtype="float32")
    music = heard[(heard != 0).any(axis=1)]  # without the pauses
    assert len(kept) == 48000 and len(music) > 47990  # the first frame may be silent
    np.testing.assert_allclose(kept[-len(music) :], music, atol=1 / 32767)
    # --overwrite is asked for before anything is loaded
    assert main(["live", *flags.split()]) == 2
    assert "a.wav" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--model {folder}", "nothing to play; say what the music should be"),
        ("-p piano", "Missing option '--model'"),
        ("-p piano --model {folder}", "sounddevice"),
        ("-p piano --model {folder} -o a.xyz", "can't write .xyz audio"),
        ("-p piano --model {folder} -o a.wav --record b.wav", "leave out --record"),
        ("-p piano --model {folder} -o a.wav --buffer 0", "from 0.2 to 600 seconds"),
        ("-p piano --model {folder} -o a.wav --tempo 5", "from 20 to 400 BPM"),
        (
            "-p piano --model {other} -o a.wav",
            "does not play live; pass a Magenta RealTime 2 model",
        ),
        ("-p piano --model {folder} -o a.wav/b.wav", "a.wav"),
    ],
)
def test_wrong_input_is_one_line(
    folder: Path,
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flags: str,
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    if "/b.wav" in flags:
        (tmp_path / "a.wav").write_text("a file")
    before = sorted(tmp_path.iterdir())
    assert main(["live", *flags.format(folder=folder, other=tiny_model).split()]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


def test_the_status_is_of_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    """It stands above the line that is typed; answers push it down."""
    session = SimpleNamespace(
        live=SimpleNamespace(wanted="piano, no drums", left=7.6, arrived=0.25, rtf=0.5),
        sink=SimpleNamespace(played=65 * 10, sample_rate=10, buffered=1.9, underruns=2),
    )
    line = "1:05 piano, no drums | 8 s left | glide 25% | buffer 1.9 s | RTF 0.50 | 2 underruns"
    assert live.status(session) == line
    master, slave = pty.openpty()
    with os.fdopen(slave, "w") as out, os.fdopen(os.dup(slave)) as typed:
        monkeypatch.setattr("sys.stdout", out)
        monkeypatch.setattr("sys.stdin", typed)
        monkeypatch.setenv("COLUMNS", "40")
        screen = live.Screen()
        screen.show(session)
        assert list(screen.typed(iter(["more \x1b[2Kstrings"]))) == ["more \x1b[2Kstrings"]
        screen.tell("in 2 s: piano")
        screen.close()
        drawn = ""
        while select.select([master], [], [], 0.2)[0]:
            drawn += os.read(master, 4096).decode()
    os.close(master)
    assert line[:39] in drawn and line[:40] not in drawn
    assert drawn.index(line[:39]) < drawn.index("> more [2Kstrings")
    assert drawn.index("> more") < drawn.index("in 2 s: piano") < drawn.rindex("> ")


def test_lines_come_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    with os.fdopen(read) as typed:
        monkeypatch.setattr("sys.stdin", typed)
        lines = live.Lines()
        assert list(lines()) == []
        os.write(write, b"more str")
        assert list(lines()) == []
        os.write(write, b"ings\n\xff\xfe rain\nlast")
        assert list(lines()) == ["more strings", "\ufffd\ufffd rain"]
        os.write(write, b"x" * (1 << 15))
        assert list(lines()) == []
        os.close(write)
        assert list(lines()) == ["last" + "x" * (1 << 15)] and list(lines()) == []
