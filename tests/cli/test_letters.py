"""Letters in and out of commands: files of any encoding, terminals and names of another one."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from musicot_mlx.cli import main
from musicot_mlx.errors import MusicotError
from musicot_mlx.evaluation.harness.prompts import read_prompts
from musicot_mlx.training.options import read_options
from tests.support import tiny

ROOT = Path(__file__).resolve().parents[2]
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be")


def _song(model: Path, *arguments: object) -> int:
    return main(["generate", "--model", str(model), "--duration", "1", *map(str, arguments)])


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_files_of_any_encoding(tiny_model: Path, tmp_path: Path, encoding: str) -> None:
    prompts, lyrics = tmp_path / "prompts.txt", tmp_path / "lyrics.txt"
    prompts.write_bytes("café piano\r\n\r\ndrums\u2028and bass\r\n".encode(encoding))
    lyrics.write_bytes("[verse]\r\nné la\r\n".encode(encoding))
    given = ["--prompt-file", prompts, "--lyrics-file", lyrics, "-o", tmp_path / "a.wav"]
    assert _song(tiny_model, *given) == 0
    made = [json.loads((tmp_path / f"a-{n}.json").read_text()) for n in (1, 2)]
    assert [each["prompt"] for each in made] == ["café piano", "drums and bass"]
    assert [each["lyrics"] for each in made] == ["[verse]\nné la\n"] * 2
    assert [each.text for each in read_prompts(prompts)] == ["café piano", "drums and bass"]
    # what a command wrote, saved again by an editor
    settings, plan = tmp_path / "a-1.json", tmp_path / "a.plan.json"
    settings.write_bytes(settings.read_text().encode(encoding))
    assert _song(tiny_model, "--config-from", settings, "-o", tmp_path / "b.wav") == 0
    assert (tmp_path / "b.wav").read_bytes() == (tmp_path / "a-1.wav").read_bytes()
    make = ["plan", "--model", str(tiny_model), "-p", "piano", "--duration", "20", "-o", str(plan)]
    assert main(make) == 0
    plan.write_bytes(plan.read_text().encode(encoding))
    again = ["plan", "--plan", str(plan), "--model", str(tiny_model)]
    assert main(again) == 0
    (tmp_path / "lora.yaml").write_bytes("iters: 7\ntrigger: né\n".encode(encoding))
    options = read_options({}, str(tmp_path / "lora.yaml"))
    assert (options.iters, options.trigger) == (7, "né")


def test_what_is_no_utf8_is_named(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.txt"
    bad.write_bytes("café".encode("latin-1"))
    for flag, what in (("--prompt-file", "prompt file"), ("--lyrics-file", "lyrics file")):
        given = [flag, bad] if flag == "--prompt-file" else ["-p", "piano", flag, bad]
        assert _song(tiny_model, *given, "-o", tmp_path / "a.wav") == 2
        said = capsys.readouterr().err
        assert f"the {what} {bad} is not UTF-8 text (byte 0xe9 at 3)" in said
        assert said.count("\n") == 1
    with pytest.raises(MusicotError, match="bad.txt is not UTF-8 text"):
        read_prompts(bad)
    assert not (tmp_path / "a.wav").exists()


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_standard_input_of_any_encoding(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    data = io.BytesIO("café\r\npiano\r\n".encode(encoding))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(data, encoding="ascii"))
    assert _song(tiny_model, "-p", "-", "-o", tmp_path / "a.wav") == 0
    assert json.loads((tmp_path / "a.json").read_text())["prompt"] == "café piano"


def test_a_mark_on_the_command_line_is_nothing(tiny_model: Path, tmp_path: Path) -> None:
    assert _song(tiny_model, "-p", "\ufeffpiano", "-o", tmp_path / "a.wav") == 0
    assert json.loads((tmp_path / "a.json").read_text())["prompt"] == "piano"


def _command(*arguments: object, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "musicot_mlx", *map(os.fspath, arguments)],
        env=tiny.environment(PYTHONPATH=str(ROOT), **environment),
        capture_output=True,
    )


def test_a_terminal_without_the_letters(tiny_model: Path, tmp_path: Path) -> None:
    song = ["generate", "--model", tiny_model, "-p", "café", "--duration", "1"]
    found = _command(*song, "-o", tmp_path / "café.wav", PYTHONIOENCODING="ascii")
    assert found.returncode == 0, found.stderr
    assert rb"caf\xe9.wav: 1.0 s" in found.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["café.json", "café.wav"]
    found = _command(
        "analyze", "--model", tiny_model, tmp_path / "café.wav", PYTHONIOENCODING="latin-1"
    )
    assert found.returncode == 0 and "café.wav: 1.0 s".encode("latin-1") in found.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere file names are Unicode")
def test_names_of_another_encoding(tiny_model: Path, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.wav")
    song = ["generate", "--model", tiny_model, "-p", "piano", "--duration", "1"]
    found = _command(*song, "-o", path)
    assert found.returncode == 0, found.stderr
    assert path.stat().st_size and path.with_suffix(".json").stat().st_size
    found = _command("analyze", "--model", tiny_model, path, "--json")
    assert found.returncode == 0 and b"caf" in found.stdout


@pytest.mark.parametrize(
    "line",
    [
        "plan -p piano -o -",
        "plan -p piano --png -",
        "analyze a.wav --png -",
        "rvq . -o -",
    ],
)
def test_standard_output_is_not_written_to(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    line: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(line.split()) == 2
    said = capsys.readouterr()
    assert "standard output is not written to; name a file" in said.err
    assert said.err.count("\n") == 1 and not said.out and not list(tmp_path.iterdir())
