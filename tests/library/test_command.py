"""musicot library: each action on real files with the tiny model, and its lines for bad input."""

import json
from pathlib import Path

import numpy as np
import pytest

from musicot_mlx.cli import main
from musicot_mlx.cli.library import tempo_range
from tests.library.support import song

pytest.importorskip("lancedb")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MUSICOT_LIBRARY", str(tmp_path / "library"))
    monkeypatch.chdir(tmp_path)
    for i, name in enumerate(("deep", "high")):
        song(tmp_path / "music" / f"{name}.wav", name, name, seed=i)
    (tmp_path / "music" / "broken.mp3").write_bytes(b"none")
    return tmp_path


def test_add_search_similar_stats_remove(
    here: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["library", "add", "music", "--model", str(tiny_model)]) == 0
    told = capsys.readouterr()
    assert "2 new, 0 renewed, 0 moved, 0 unchanged, 1 skipped" in told.out
    assert told.err.count("\n") == 1 and "broken.mp3" in told.err
    assert main(["library", "add", "music", "--licence", "MIT", "--json"]) == 0
    added = json.loads(capsys.readouterr().out)
    assert added["moved"] == 2 and added["skipped"][0]["file"].endswith("broken.mp3")
    assert main(["library", "search", "deep piano", "--licence", "mit", "--limit", "1"]) == 0
    assert capsys.readouterr().out.count("\n") == 1
    assert main(["library", "search", "--like", "music/high.wav", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["found"]
    assert [Path(each["path"]).name for each in found] == ["high.wav", "deep.wav"]
    assert found[0]["licence"] == "MIT" and found[0]["score"] == pytest.approx(1, abs=1e-3)
    assert main(["library", "similar", "music/high.wav"]) == 0
    assert "deep.wav at 0:00" in capsys.readouterr().out
    assert main(["library", "search", "piano", "--tags", "no such tag"]) == 0
    assert "nothing of the library" in capsys.readouterr().out
    assert main(["library", "stats", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["songs"] == 2
    assert main(["library", "stats"]) == 0
    assert "2 songs" in capsys.readouterr().out
    assert main(["library", "remove", "music/high.wav"]) == 0
    (here / "music" / "deep.wav").unlink()
    assert main(["library", "remove", "--missing", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"removed": 1}
    assert main(["library", "search", "piano"]) == 2
    assert "is empty; musicot library add FOLDER" in capsys.readouterr().err


def test_looking_makes_no_library(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["search", "x"], ["similar", "x"], ["remove", "x"]):
        assert main(["library", *words]) == 2
        line = capsys.readouterr().err
        assert line.count("\n") == 1 and ("empty" in line or "no song x" in line), line
    for words in (["stats"], ["remove", "--missing"], ["add", "music/broken.mp3"]):
        main(["library", *words])
    assert not (here / "library").exists()
    (here / "library").write_text("a file")
    assert main(["library", "search", "x"]) == 2
    assert "it is no folder" in capsys.readouterr().err


def test_names_that_are_none_or_hold_lines(
    here: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "music" / "high.wav").rename(here / "music" / "two\nlines\x1b[2J.wav")
    (here / "music" / "broken.mp3").rename(here / "music" / "bro\nken.mp3")
    assert main(["library", "add", "music", "--model", str(tiny_model)]) == 0
    told = capsys.readouterr()
    assert told.err.count("\n") == 1 and "bro\\nken.mp3: " in told.err
    assert main(["library", "search", "piano"]) == 0
    told = capsys.readouterr().out
    assert told.count("\n") == 2 and "two\\nlines\\x1b[2J.wav" in told and "\x1b" not in told
    for words in (["remove", ""], ["similar", " "], ["stats", "--library", ""]):
        assert main(["library", *words]) == 2  # not the folder one is in, and what lies below it
        line = capsys.readouterr().err
        assert line.count("\n") == 1 and ("no song is named" in line or "no name" in line), line
    main(["library", "stats", "--json"])
    assert json.loads(capsys.readouterr().out)["songs"] == 2


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["search"], "one of the two"),
        (["search", "a", "b"], "stand in quotes"),
        (["search", "a", "--like", "b"], "one of the two"),
        (["similar"], "takes one song"),
        (["stats", "all"], "no more words"),
        (["remove"], "or --missing"),
        (["add"], "name the folder"),
        (["add", "nowhere"], "does not exist"),
        (["add", ".", "--key", "Am"], "go with search"),
        (["stats", "--like", "x"], "--like goes with"),
        (["find", "x"], "invalid choice: 'find'"),
        (["search", "a", "--tempo", "-"], "expected BPM"),
    ],
)
def test_bad_words_are_one_line(
    words: list[str], why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert main(["library", *words]) == 2
    told = capsys.readouterr().err
    assert why in told and told.count("\n") == 1


def test_tempo_range() -> None:
    assert tempo_range("120") == 120
    assert tempo_range("90-120") == (90, 120)
    assert tempo_range("90-") == (90, None) and tempo_range("-120") == (None, 120)
    assert np.isfinite(tempo_range("99.5"))
