"""No run of `musicot generate` removes or changes a file that it did not write: by names that
collide, in any order, with a model that only stands for one.
"""

import io
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

import musicot_mlx as mc
from musicot_mlx import atomic
from musicot_mlx.atomic import atomic_path
from musicot_mlx.cli import main
from musicot_mlx.errors import MusicotError
from musicot_mlx.pipelines.mastering import Mastering
from musicot_mlx.pipelines.musicgen import FAMILY
from musicot_mlx.pipelines.musicgen.options import MusicgenOptions
from musicot_mlx.pipelines.sidecar import sidecar_of
from musicot_mlx.pipelines.song import Song, Stream, Take

RATE = 8000


class Stub:
    """A model whose songs are a few milliseconds of noise, by their seed."""

    family, batch, sample_rate = FAMILY, 1, RATE
    options = frozenset(MusicgenOptions.about())

    def generate(self, prompt: str, *, seed: int, **_: Any) -> Song:
        codes = np.zeros((1, 1), np.int32)
        return Song(self.sound(seed), RATE, codes, None, self.settings(prompt, seed), fault="")

    def stream(self, prompt: str, *, seed: int, **_: Any) -> Stream:
        wish = MusicgenOptions.of(SimpleNamespace(), prompt, seed=seed, duration=1, loudness=False)

        def make(wish: MusicgenOptions) -> Take:
            sound = np.tile(self.sound(seed), (30, 1))
            return Take(None, [], iter([sound]), Mastering(wish, RATE, len(sound)))

        return Stream(make, wish, RATE, lambda wish: self.settings(prompt, seed))

    def sound(self, seed: int) -> np.ndarray:
        return np.random.default_rng(seed).normal(0, 0.1, (400, 1)).astype(np.float32)

    def settings(self, prompt: str, seed: int) -> dict[str, Any]:
        return {"prompt": prompt, "seed": seed, "duration": 1.0, "model": "stub", "version": "0"}


FOREIGN = {
    "package.json": '{"name": "package", "version": "1.0.0"}',
    "a.json": "[1, 2]",
    "a.wav.json": "no JSON at all",
    "a.flac.json": '{"format": "flac", "duration": 3}',
    "b.json": '{"format": "musicot-plan", "version": 3}',
    "b.wav": "not audio",
    "piano-seed1.json": "{}",
    "piano-seed1-2.wav": "mine",
    "new": "a file where a folder would be",
}
NAMES = (
    "a a.wav a.mp3 a.flac a.WAV a.wav.wav a.wav.flac a.json.wav package.wav package.flac b.wav b "
    "new/a.wav sub/deep/a.wav sub/deep/a.ogg link.wav dangling.wav odd.bin a.b.wav a-1.wav "
    "a-1.flac piano-seed1.wav .hidden.wav loop.wav"
).split()
RUN = st.fixed_dictionaries(
    {
        "name": st.none() | st.sampled_from(NAMES),
        "format": st.sampled_from([None, None, "wav", "flac"]),
        "seeds": st.sampled_from([(1,), (2,), (1, 2), (2, 2)]),
        "stream": st.booleans(),
        "overwrite": st.booleans(),
    }
)


@contextmanager
def folder_of(names: set[str]) -> Iterator[Path]:
    """A current folder with files of others, and the links that a run may be pointed at."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        try:
            for name in names:
                Path(name).write_text(FOREIGN[name])
            Path("link.wav").symlink_to("linked.wav")
            Path("linked.wav").write_text("what a link leads to")
            Path("dangling.wav").symlink_to("elsewhere/made.wav")
            Path("loop.wav").symlink_to("loop.wav")
            yield Path(place)
        finally:
            os.chdir(before)


def files() -> dict[str, bytes]:
    """Every file and link here by name, and what it holds."""
    found = {}
    for path in Path().rglob("*"):
        if path.is_symlink():
            found[str(path)] = os.readlink(path).encode()
        elif path.is_file():
            found[str(path)] = path.read_bytes()
    return found


def run(run: dict[str, Any]) -> tuple[int, list[tuple[Path, list[str]]]]:
    """The exit code of a run, and (song, its files) of each that it says it wrote."""
    words = ["generate", "piano", "--json", "--seed", *map(str, run["seeds"])]
    words += ["-o", run["name"]] if run["name"] else []
    words += ["--format", run["format"]] if run["format"] else []
    words += ["--stream"] * run["stream"] + ["--overwrite"] * run["overwrite"]
    told: list[dict] = []
    with mock.patch("musicot_mlx.cli.generate._tell", lambda _, path, report: told.append(report)):
        code = main(words)
    return code, [(each["seed"], each["files"]) for each in told]


@settings(max_examples=60)
@given(
    foreign=st.sets(st.sampled_from(sorted(FOREIGN))),
    runs=st.lists(RUN, min_size=1, max_size=6),
)
def test_no_run_changes_what_it_did_not_write(foreign: set[str], runs: list[dict]) -> None:
    with mock.patch.object(mc, "load", lambda *_, **__: Stub()), folder_of(foreign):
        songs: dict[str, int] = {}  # whose settings must tell this seed
        for each in runs:
            before = files()
            code, made = run(each)
            after = files()
            assert code in (0, 2)
            wrote = {os.path.relpath(os.path.realpath(file)) for _, pair in made for file in pair}
            changed = {name for name, held in before.items() if after.get(name) != held}
            if not each["overwrite"]:
                assert not changed
            else:  # a song that it was told to replace, and its own settings
                assert not changed & foreign - {"b.wav", "piano-seed1-2.wav"}
                assert changed <= wrote
            assert set(after) - set(before) <= wrote  # nothing half-written
            if code:
                assert after == before and not made
            for seed, (song, sidecar) in made:
                songs[os.path.relpath(os.path.realpath(song))] = seed
                assert soundfile.info(song).frames > 0
                assert os.path.realpath(sidecar_of(song)) == os.path.realpath(sidecar)
            for song, seed in songs.items():
                assert json.loads(sidecar_of(song).read_text())["seed"] == seed, song
            assert len({sidecar_of(song) for song in songs}) == len(songs)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(mc, "load", lambda *_, **__: Stub())
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("asked", [["--output=-"], ["-o", "-", "--stream", "--format", "flac"]])
def test_standard_output_is_the_audio_alone(
    here: Path, capfdbinary: pytest.CaptureFixture[bytes], asked: list[str]
) -> None:
    assert main(["generate", "piano", "--seed", "4", *asked]) == 0
    said = capfdbinary.readouterr()
    heard, rate = soundfile.read(io.BytesIO(said.out), always_2d=True, dtype="float32")
    format = soundfile.info(io.BytesIO(said.out)).format
    assert (rate, format) == (RATE, "FLAC" if "flac" in asked else "WAV")
    np.testing.assert_allclose(heard[:400], Stub().sound(4), atol=1e-4)
    assert said.err.startswith(b"standard output: ") and b"seed 4" in said.err
    assert not list(here.iterdir())


def test_a_random_seed_is_told(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        assert main(["generate", "--seed", "random", "Relaxing piano, in D!", "--json"]) == 0
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert first["seed"] != second["seed"]
    seed = first["seed"]
    assert first["files"] == [f"relaxing-piano-in-d-seed{seed}.{kind}" for kind in ("wav", "json")]
    assert json.loads(Path(first["files"][1]).read_text())["seed"] == seed


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("../../etc/passwd", "etc-passwd"),
        ("静かなピアノ", "静かなピアノ"),
        ("\U0001f3b9!", "song"),
        ("word " * 40, "word-" * 7 + "word"),
        ("x" * 400, "x" * 40),
    ],
)
def test_names_are_made_of_prompts(here: Path, prompt: str, name: str) -> None:
    for number in ("", "-2", "-3"):
        assert main(["generate", prompt]) == 0
        assert Path(f"{name}-seed0{number}.wav").is_file()
    assert len(list(here.iterdir())) == 6


def test_a_link_to_a_song_has_its_settings(here: Path) -> None:
    assert main(["generate", "piano", "-o", "songs/one.wav"]) == 0
    Path("link.wav").symlink_to("songs/one.wav")
    assert sidecar_of("link.wav").resolve() == Path("songs/one.json").resolve()
    assert main(["generate", "piano", "-o", "link.wav", "--seed", "2"]) == 2
    assert main(["generate", "piano", "-o", "link.wav", "--seed", "2", "--overwrite"]) == 0
    assert Path("link.wav").is_symlink() and not Path("link.json").exists()
    assert json.loads(Path("songs/one.json").read_text())["seed"] == 2


@pytest.mark.parametrize(
    ("line", "there"),
    [
        ("plan piano -o there", "file"),
        ("plan piano --png there", "file"),
        ("analyze a.wav --png there", "file"),
        ("bench --json there", "file"),
        ("eval --report there", "file"),
        ("rvq . -o out --save-embeddings there.npz", "file"),
        ("rvq . -o there", "folder"),
        ("eval -o there", "folder"),
        ("convert --hf-path . --mlx-path there", "folder"),
        ("fuse --save-path there", "folder"),
        ("fuse", "folder"),
        ("lora --train --data .", "folder"),
        ("lora --train --data . --adapter-path there", "folder"),
    ],
)
def test_every_command_asks_before_it_replaces(
    here: Path, capsys: pytest.CaptureFixture[str], line: str, there: str
) -> None:
    places = ["there.npz" if "npz" in line else "there", "adapters", "fused_model"]
    for place in map(Path, places if there == "folder" else places[:1]):
        place.parent.mkdir(exist_ok=True)
        place = place / "adapters.safetensors" if there == "folder" else place
        place.parent.mkdir(exist_ok=True)
        place.write_text("older")
    before = files()
    assert main(line.split()) == 2
    error = capsys.readouterr().err
    assert "already; name another" in error and "--overwrite" in error and error.count("\n") == 1
    assert files() == before


@pytest.mark.parametrize(
    "line", ["plan piano -o {}", "plan piano --png {}", "bench --json {}", "generate piano -o {}"]
)
def test_neither_a_folder_nor_a_pipe_is_written_over(
    here: Path, capsys: pytest.CaptureFixture[str], line: str
) -> None:
    """A pipe stands for /dev/null, which a file moved into its place would be the end of."""
    os.mkfifo("pipe")
    Path("folder").mkdir()
    for place, words in (("pipe", "a device or a pipe; name a file"), ("folder", "is a folder")):
        for more in ([], ["--overwrite"]):
            assert main([*line.format(place).split(), *more]) == 2
            error = capsys.readouterr().err
            assert words in error and error.count("\n") == 1
    assert Path("pipe").is_fifo()


def test_a_file_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    with pytest.raises(MusicotError, match="there already"):
        with atomic_path(tmp_path / "new" / "a.wav", replace=False) as temporary:
            temporary.write_text("ours")
            (tmp_path / "new" / "a.wav").write_text("theirs")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.wav"]
    assert (tmp_path / "new" / "a.wav").read_text() == "theirs"
    with pytest.raises(KeyboardInterrupt), atomic_path(tmp_path / "gone" / "deep" / "a.wav"):
        raise KeyboardInterrupt
    assert not (tmp_path / "gone").exists()


def test_what_a_killed_process_left_is_removed_and_nothing_else(
    tmp_path: Path,
) -> None:
    dying = (
        "import os; from musicot_mlx.atomic import atomic_path\n"
        "with atomic_path('song.wav') as temporary:\n"
        "    temporary.write_text('half'); print(temporary.name, flush=True); os.abort()"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(atomic.__file__).parents[1])}
    child = subprocess.run(
        [sys.executable, "-c", dying], cwd=tmp_path, capture_output=True, text=True, env=environment
    )
    left = tmp_path / child.stdout.strip()
    assert left.read_text() == "half" and left.name.startswith(".song.")
    node, pid, letters = re.search(r"(\w{8})-(\d+)-(\w{8})", left.name).groups()
    others = {
        left.name.replace(pid, str(os.getpid())),  # of a process that lives
        left.name.replace(node, "00000000"),  # of another machine
        left.name.replace(letters, "mine"),
        "song.wav",
    }
    for name in others:
        (tmp_path / name).write_text("kept")
    young = tmp_path / left.name.replace(letters, "01234567")
    for path in tmp_path.iterdir():
        os.utime(path, (0, 0))
    young.write_text("of a moment ago")
    with atomic_path(tmp_path / "next.wav") as temporary:
        temporary.write_text("whole")
    assert {path.name for path in tmp_path.iterdir()} == {*others, young.name, "next.wav"}
