"""musicot plan as a user meets it: plans made, edited, drawn, and rendered in part."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from musicot_mlx.cli import main

Runner = Callable[[str], tuple[int, dict | None]]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with a plan and two pieces of audio."""
    monkeypatch.chdir(tmp_path)
    for name, seconds in (("chorus.wav", 12), ("long take.wav", 45)):
        noise = np.random.default_rng(seconds).normal(0, 0.1, (8000 * seconds, 2))
        soundfile.write(name, noise * np.linspace(0.2, 1, len(noise))[:, None], 8000)
    return tmp_path


@pytest.fixture
def plan(here: Path, tiny_model: Path) -> Runner:
    """Runs musicot plan on the tiny model: (exit code, the plan written, or None)."""
    runs = iter(range(1000))

    def run(line: str) -> tuple[int, dict | None]:
        file = here / f"{next(runs)}.plan.json"
        words = ["plan", "--model", str(tiny_model), "-o", str(file), *shlex.split(line)]
        code = main(words)
        return code, json.loads(file.read_text()) if file.is_file() else None

    return run


@pytest.fixture
def first(plan: Runner) -> dict:
    """A plan of 35 s, in a.plan.json too."""
    code, made = plan("-p piano --duration 35")
    assert code == 0
    Path("a.plan.json").write_text(json.dumps(made))
    return made


def _changed(before: dict, after: dict) -> list[int]:
    a, b = np.array(before["codes"]), np.array(after["codes"])
    return np.flatnonzero((a != b).any(axis=0)).tolist()


def test_set_and_lock(plan: Runner, first: dict, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    code, edited = plan(
        "--plan a.plan.json --set '10-20=full drum kit and bass' --set '30-35 = @chorus.wav' "
        "--anchors drums,bass --png a.png"
    )
    out = capsys.readouterr().out
    assert code == 0 and set(_changed(first, edited)) <= {1, 3}
    assert "\n10-20 s: full drum kit and bass; " in out and " -> " in out
    assert "\n30-35 s: chorus.wav at 0 s; " in out
    assert "\ntags: piano" in out
    assert [record["by"] for record in edited["history"]] == [
        "full drum kit and bass",
        "chorus.wav",
    ]
    assert Path("a.png").read_bytes().startswith(b"\x89PNG")
    code, locked = plan("--plan a.plan.json --lock 0,1 --set '20-30=drums' --seed 7")
    assert code == 0
    _, only_set = plan("--plan a.plan.json --set '20-30=drums' --seed 7")
    codes = np.array(locked["codes"])
    np.testing.assert_array_equal(codes[:, :2], np.array(first["codes"])[:, :2])
    np.testing.assert_array_equal(codes[:, 2], np.array(only_set["codes"])[:, 2])
    assert locked["origins"][3] == {"kind": "drawn", "words": "piano", "seed": 7}
    # a prompt and its edits in one command, as in two
    code, both = plan("-p piano --duration 35 --set '10-20=drums' --seed 0")
    assert (
        code == 0
        and both["codes"] == plan("--plan a.plan.json --set '10-20=drums' --seed 0")[1]["codes"]
    )


def test_arrange_extend_morph(plan: Runner, first: dict) -> None:
    codes = np.array(first["codes"])
    code, edited = plan("--plan a.plan.json --arrange 1,1,0,3")
    assert code == 0 and edited["duration"] == 35
    np.testing.assert_array_equal(np.array(edited["codes"]), codes[:, [1, 1, 0, 3]])
    code, edited = plan("--plan a.plan.json --extend 12")
    assert code == 0 and edited["duration"] == 47
    np.testing.assert_array_equal(np.array(edited["codes"])[:, :4], codes)
    other = plan("-p drums --duration 40 --seed 5")[1]
    Path("b.plan.json").write_text(json.dumps(other))
    code, edited = plan("--plan a.plan.json --morph b.plan.json 1")
    assert code == 0 and edited["codes"] == other["codes"] and edited["prompt"] == "drums"
    code, edited = plan("--plan a.plan.json --set '0-10=@b.plan.json#t=20'")
    assert code == 0
    np.testing.assert_array_equal(np.array(edited["codes"])[:, 0], np.array(other["codes"])[:, 2])


def test_plans_of_audio(plan: Runner, first: dict) -> None:
    code, heard = plan("--from-audio 'long take.wav'")
    assert code == 0 and heard["duration"] == 45 and len(heard["origins"]) == 5
    assert heard["origins"][2] == {"kind": "audio", "file": "long take.wav", "start": 20.0}
    code, edited = plan("--plan a.plan.json --set '10-35=@long take.wav#t=20'")
    assert code == 0
    np.testing.assert_array_equal(np.array(edited["codes"])[:, 1:], np.array(heard["codes"])[:, 2:])
    blend = "--reference chorus.wav 'long take.wav' --duration 40 -p piano"
    codes = [
        plan(f"{blend} --reference-weights {weights}")[1]["codes"] for weights in ("1 1", "0 3")
    ]
    assert codes[0] == plan(blend)[1]["codes"]
    assert codes[1] == plan("--reference 'long take.wav' --duration 40 -p piano")[1]["codes"]


def test_an_edit_costs_a_partial_render(
    plan: Runner,
    here: Path,
    tiny_model: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = ["--model", str(tiny_model)]
    assert main(["generate", *model, "-p", "piano", "--duration", "12", "-o", "a.wav"]) == 0
    code, edited = plan("--plan a.json --set '10-12=drums' --seed 3")  # a song's .json is a plan
    assert code == 0
    Path("b.plan.json").write_text(json.dumps(edited))
    keep = [*model, "--plan", "b.plan.json", "--keep-from", "a.wav"]
    assert main(["generate", *keep, "-o", "b.wav"]) == 0
    a, b = soundfile.read("a.wav", dtype="int16")[0], soundfile.read("b.wav", dtype="int16")[0]
    until = 10 * 8000 - 256 - 160
    np.testing.assert_array_equal(a[:until], b[:until])
    assert len(a) == len(b) and (a[until:] != b[until:]).any()
    assert main(["generate", "--config-from", "b.json", "-o", "c.wav"]) == 0
    assert Path("b.wav").read_bytes() == Path("c.wav").read_bytes()
    assert main(["generate", *keep, "--stream", "-o", "d.wav"]) == 0
    streamed = json.loads(Path("d.json").read_text())
    assert streamed["made"] == json.loads(Path("b.json").read_text())["made"]
    capsys.readouterr()
    assert main(["generate", *keep, "-o", "a.wav"]) == 2
    assert "written over a.wav" in capsys.readouterr().err
    assert main(["generate", *model, "-p", "x", "--keep-from", "a.wav"]) == 2
    assert "--keep-from goes with --plan" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--set '10-25=x'", "a thought covers 10 s, so give multiples of it, such as 10-30"),
        ("--set '30-50=x'", "the plan covers 0 to 35 s"),
        ("--set '20-10=x'", "the plan covers 0 to 35 s"),
        ("--set '10-20'", "isn't understood; write seconds"),
        ("--set 'a-b=x'", "isn't understood"),
        ("--set '1.2.3-4=x'", "isn't understood"),
        ("--set '10-20= '", "says nothing"),
        ("--set '10-20=@'", "says nothing"),
        ("--set '10-20=@no.wav'", "source file no.wav doesn't exist"),
        ("--set '10-20=@a.plan.json#t=90'", "no segment is meant"),
        ("--set '10-20=@chorus.wav#t=90'", "it can't begin at 90 s"),
        ("--lock 0,x", "expected segments from 0"),
        ("--lock 9", "there is no segment 9; this plan has 0 to 3"),
        ("--lock 0,1,2,3", "all segments are locked"),
        ("--arrange 4", "there is no segment 4"),
        ("--arrange " + ",".join("0" * 40), "at most 300 s"),
        ("--extend 290", "at most 300 s"),
        ("--morph a.plan.json 2", "--morph: expected a number from 0 to 1"),
        ("--morph no.json 0.5", "plan file no.json doesn't exist"),
        ("-p drums", "--prompt belongs to planning"),
        ("--from-audio chorus.wav", "--from-audio belongs to planning"),
    ],
)
def test_edits_that_are_refused(
    plan: Runner,
    first: dict,
    capsys: pytest.CaptureFixture[str],
    line: str,
    words: str,
) -> None:
    capsys.readouterr()
    assert plan(f"--plan a.plan.json {line}") == (2, None)
    error = capsys.readouterr().err
    assert error.startswith("musicot: ") and error.count("\n") == 1 and words in error


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--reference chorus.wav --reference-weights 1 2", "2 numbers for 1 references"),
        ("-p x --reference-weights 1", "1 numbers for 0 references"),
        ("--reference chorus.wav --reference-weights 0", "not all of them 0"),
        ("--reference chorus.wav no.wav", "reference file no.wav doesn't exist"),
        ("--from-audio chorus.wav --reference chorus.wav", "not both"),
        ("--from-audio chorus.wav --duration 60", "less than the 60 s asked for"),
        ("--plan no.json", "plan file no.json doesn't exist"),
    ],
)
def test_sources_that_are_refused(
    plan: Runner,
    capsys: pytest.CaptureFixture[str],
    line: str,
    words: str,
) -> None:
    assert plan(line) == (2, None)
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and words in error


def test_the_table_shows_what_words_name_and_tags_follow_an_edit(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, file = ["plan", "--model", str(tiny_model), "--json"], str(tmp_path / "plan.json")
    asked = ["-p", "two cellos and a flute, no trumpet", "--duration", "30", "-o", file]
    assert main([*base, *asked, "--tags", "guitar"]) == 0
    report, table = json.loads((told := capsys.readouterr()).out), told.err
    usual = ["drums", "bass", "guitar", "piano", "strings", "synth"]
    assert report["anchors"] == [*usual, "cello", "flute"] and "cello" in table
    assert report["segment_tags"] == [["guitar"]] * 3
    assert main([*base, "--plan", file, "--set", "10-20=piano and oboe"]) == 0
    report, table = json.loads((told := capsys.readouterr()).out), told.err
    assert report["anchors"] == [*usual, "cello", "flute", "oboe"]
    assert "piano" in report["segment_tags"][1] and report["segment_tags"][2] == ["guitar"]
    assert "tags: guitar" in table and "tags of 10-20 s: piano" in table
    assert main([*base, "--plan", file, "--anchors", "harp"]) == 0
    assert json.loads(capsys.readouterr().out)["anchors"] == ["harp"]


def test_a_song_ends_with_what_is_far_from_its_thoughts(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from musicot_mlx.evaluation.measures import agreement

    song = ["generate", "--model", str(tiny_model), "-p", "piano", "--duration", "14"]
    for level, said in ((2.0, "0-10 s is far from its thought, 'piano' (cosine"), (-2.0, None)):
        monkeypatch.setattr(agreement, "FAR", level)  # a tiny model's songs are noise
        for extra in ([], ["--stream"]):
            assert (
                main([*song, *extra, "-o", str(tmp_path / "song.wav"), "--json", "--overwrite"])
                == 0
            )
            told = capsys.readouterr()
            assert (said is None) == ("far from" not in told.err)
            assert said is None or said in told.err and "10-14 s" not in told.err
            assert len(json.loads(told.out)["far"]) == (said is not None)
