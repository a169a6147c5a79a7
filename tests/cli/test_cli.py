"""The command line: what users type wrong is one line on stderr, and nothing half-written stays."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import soundfile

from musicot_mlx import __version__
from musicot_mlx.atomic import write_text
from musicot_mlx.audio.files import FORMATS
from musicot_mlx.cli import COMMANDS, app, doctor, flags, main, player
from musicot_mlx.cli.app import arguments
from musicot_mlx.cli.progress import Progress
from musicot_mlx.pipelines.musicgen.options import MusicgenOptions
from musicot_mlx.pipelines.musicot.options import MusicotOptions
from tests.support import tiny

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def _names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def _one_line(capsys: pytest.CaptureFixture[str]) -> str:
    error = capsys.readouterr().err
    assert error.startswith("musicot: ") and error.count("\n") == 1, error
    return error


# --- wrong input ---


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("genrate", "did you mean musicot generate?"),
        ("xyzzy", "there is generate, plan, "),
        ("generate --promt x", "did you mean --prompt?"),
        ("generate", "nothing to make"),
        ("generate -p", "expected one argument"),
        ("generate -p --duration 5", "argument --prompt/-p: expected one argument"),
        ("generate --seed -p x", "argument --seed: expected one argument"),
        ("generate x --seed 1 2.5", "expected a whole number from 0"),
        ("generate -p x y", "there are two prompts, 'x' and 'y'"),
        ("generate relaxing piano", 'stands in quotes: "relaxing piano"'),
        ("plan relaxing piano", 'stands in quotes: "relaxing piano"'),
        ("generate --seed 1 2 x -p y", "there are two prompts, 'y' and 'x'"),
        ("generate x --prompt-file y", "not both"),
        ("generate ''", "the prompt is empty"),
        ("generate x --bpm 5", "expected a number from 20 to 400 BPM, got '5'"),
        ("generate 'x, 90 BPM' --bpm 120", "the prompt names 90 BPM and bpm is 120"),
        ("plan --from-audio x.wav --bpm 120", "leave out --bpm"),
        ("generate x --temp 1", "--thought-temp and --audio-temp"),
        ("generate x --genre jazz", "say it in the prompt; musicot tags"),
        ("generate x --zzyzx", "No such option: --zzyzx (musicot"),  # near none: no guess
        ("webui", "musicot studio opens a page"),
        ("api", "musicot serve is an HTTP API"),
        ("generate calm --port 80", "of musicot studio and musicot serve"),
        ("chat", 'musicot generate "relaxing piano"'),
        ("tags --model x y", "unexpected extra argument(s) (y)"),
        ("generate --reference", "argument --reference: expected one argument"),
        ("generate --stream=1", "Option '--stream' does not take a value"),
        ("plan --morph a.json", "Option '--morph' requires 2 arguments"),
        ("generate -p ''", "the prompt is empty"),
        ("generate -p ' '", "the prompt is empty"),
        ("generate -p x --prompt-file y", "not both"),
        ("generate --prompt-file no.txt", "can't read the prompt file no.txt"),
        ("generate -p x --duration 0", "expected a number of at least 1 seconds, got '0'"),
        ("generate -p x --duration -5", "of at least 1 seconds"),
        ("generate -p x --duration 900", "duration is 900 s; ask for 1 to 300 s"),
        ("generate -p x --duration inf", "of at least 1 seconds"),
        ("generate -p x --duration nan", "of at least 1 seconds"),
        ("generate -p x --stream --duration 301", "ask for 1 to 300 s"),
        ("generate -p x --max-memory-gb 4 --duration 900", "ask for 1 to 300 s"),
        ("generate -p x --duration long", "got 'long'"),
        ("generate -p x --seed -1", "a whole number"),
        ("generate -p x --seed 1.5", "a whole number"),
        ("generate -p x --steps 0", "from 1 to 1000"),
        ("generate -p x --top-p 2", "from 0 to 1"),
        ("generate -p x --thought-temp -1", "from 0 to 10"),
        ("generate -p x --sampler magic", "invalid choice: 'magic'"),
        ("generate -p x --format aiff", "invalid choice: 'aiff'"),
        ("generate -p x -o song.aiff", "can't write .aiff audio"),
        ("generate -p x -o song.wav --format mp3", "ends in .wav"),
        ("generate -p x -o song.mp3 --sample-rate 96000", "MP3 has no 96000 Hz"),
        ("generate -p x -o /dev/null/song.wav", "/dev/null is no folder"),
        ("generate -p x -o - --json", "leave out --json"),
        ("generate -p x -o - --seed 1 2", "standard output takes one song, not 2"),
        ("generate -p x --seed randm", "expected a whole number from 0"),
        ("generate -p x -o .", "is a folder"),
        ("generate --plan no.json", "plan file no.json doesn't exist"),
        ("generate -p x --reference no.wav", "reference file no.wav doesn't exist"),
        ("generate -p x --lyrics-file no.txt", "can't read the lyrics file no.txt"),
        ("generate -p x --tags ,", "expected names with commas"),
        ("generate --config-from no.json", "can't read the settings no.json"),
        ("generate -p x --model ./nowhere", "no model folder at ./nowhere"),
        ("generate -p x --model nobody/nothing", "HF_HUB_OFFLINE is set"),
        ("plan", "nothing to plan"),
        ("plan -p ''", "the prompt is empty"),
        ("plan -p x --png /dev/null/a.png", "/dev/null is no folder"),
        ("plan -p x --duration 301", "ask for 1 to 300 s"),
        ("generate -p x --model musicot-mini:base", "no model folder at musicot-mini:base"),
        ("bench --duration 20 301", "duration is 301 s; ask for 1 to 300 s"),
        ("eval --duration 301 -o out", "duration is 301 s; ask for 1 to 300 s"),
        ("convert", "Missing option '--hf-path' / '--model'"),
        ("convert --hf-path .", "Missing option '--mlx-path'"),
        ("convert --hf-path ./no --mlx-path out", "no model folder at ./no"),
        ("convert --hf-path . --mlx-path out", "holds no config.json"),
        ("convert --hf-path . --mlx-path out --q-bits 9", "invalid choice: 9"),
    ],
)
def test_wrong_arguments(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: str, words: str
) -> None:
    import shlex

    code = main(shlex.split(arguments))
    assert code == (1 if "HF_HUB" in words else 2)
    assert words in _one_line(capsys)
    assert not _names(here)


def test_settings_that_are_none(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for text in ("{", "[]", "{}"):
        Path("a.json").write_text(text)
        assert main(["generate", "--config-from", "a.json"]) == 2
        assert "not a settings file" in _one_line(capsys)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"duration": "long"}, "duration: expected a number of at least 1 seconds"),
        ({"duration": 1e9}, "duration is 1e+09 s; ask for 1 to 300 s"),
        ({"seed": 0.5}, "seed: expected a whole number"),
        ({"steps": -1}, "steps: expected a whole number"),
        ({"sampler": "magic"}, "sampler can't be 'magic'"),
        ({"prompt": 3}, "prompt can't be 3"),
        ({"format": "aiff"}, "format can't be 'aiff'"),
        ({"audio_temperature": "hot"}, "audio_temperature: expected a number"),
    ],
)
def test_settings_edited_wrong(
    here: Path, capsys: pytest.CaptureFixture[str], changes: dict, words: str
) -> None:
    Path("a.json").write_text(json.dumps({"prompt": "piano", "duration": 3} | changes))
    assert main(["generate", "--config-from", "a.json"]) == 2
    assert words in _one_line(capsys)


def test_empty_prompt_file(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("prompts.txt").write_text("\n  \n")
    assert main(["generate", "--prompt-file", "prompts.txt"]) == 2
    assert "holds no prompt" in _one_line(capsys)
    Path("prompts.txt").write_bytes(b"\xff\xfe\xff")
    assert main(["generate", "--prompt-file", "prompts.txt"]) == 2
    assert "not UTF-8" in _one_line(capsys)


def _broken_models(tmp_path: Path, tiny_model: Path, kind: str) -> Path:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    weights = folder / "model.safetensors"
    config = json.loads((folder / "config.json").read_text())
    if kind == "truncated":
        weights.write_bytes(weights.read_bytes()[:-1000])
    elif kind == "no weights":
        weights.unlink()
    elif kind == "NaN":
        arrays = mx.load(str(weights))
        arrays["rvq.codebooks.0.weight"] = mx.full((8, 16), float("nan"))
        mx.save_safetensors(str(weights), arrays)
    elif kind == "unknown type":
        config["model_type"] = "band-in-a-box"
    elif kind == "unknown field":
        config["vae"]["hop_lenght"] = 3
    elif kind == "other sizes":
        config["rvq"]["codebook_size"] = 9
        config["semantic_lm"]["thought_codebook_size"] = 9
    elif kind == "no tokenizer":
        (folder / "tokenizer.json").unlink()
    elif kind == "no section":
        del config["vae"]
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("truncated", "is truncated"),
        ("no weights", "model.safetensors is missing"),
        ("NaN", "NaN or infinite weights in rvq.codebooks.0.weight"),
        ("unknown type", "model_type is 'band-in-a-box'"),
        ("unknown field", "unknown field 'hop_lenght'; did you mean hop_length?"),
        ("other sizes", "codebooks.0.weight is (8, 16), the config says (9, 16)"),
        ("no tokenizer", "tokenizer.json"),
        ("no section", "'vae'"),
    ],
)
def test_broken_models(
    tiny_model: Path,
    tmp_path: Path,
    here: Path,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    words: str,
) -> None:
    folder = _broken_models(tmp_path, tiny_model, kind)
    assert main(["generate", "-p", "x", "--model", str(folder)]) == 2
    assert words in _one_line(capsys)
    assert not _names(here)


@pytest.mark.parametrize("kind", ["text", "empty", "NaN"])
def test_broken_reference(
    tiny_model: Path, tmp_path: Path, here: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    path = tmp_path / "reference.wav"
    if kind == "text":
        path.write_text("RIFF, but no audio")
    else:
        samples = np.full((0 if kind == "empty" else 9, 1), np.nan)
        soundfile.write(path, samples, 8000, subtype="FLOAT")
    arguments = ["--model", str(tiny_model), "-p", "x", "--reference", str(path)]
    for command in ("generate", "plan"):
        assert main([command, *arguments]) == 2
        assert "reference.wav" in _one_line(capsys)
    assert not _names(here)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": "musicot-plan", "version": 1}'])
def test_broken_plan(
    tiny_model: Path, tmp_path: Path, here: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text(text)
    assert main(["generate", "--model", str(tiny_model), "--plan", str(plan)]) == 2
    assert "plan" in _one_line(capsys)
    assert not _names(here)


def test_unknown_tag(tiny_model: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--model", str(tiny_model), "-p", "x", "--tags", "pianoo"]) == 2
    assert "did you mean 'piano'?" in _one_line(capsys)


# --- failed runs ---


def _limit_file_size() -> None:
    import resource

    # Python ignores SIGXFSZ, so a write beyond the limit is an error, as on a full disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))


def test_full_disk_leaves_nothing(tiny_model: Path, here: Path) -> None:
    found = subprocess.run(
        [sys.executable, "-m", "musicot_mlx", "generate", "--model", tiny_model]
        + ["-p", "piano", "--duration", "3"],
        preexec_fn=_limit_file_size,
        env=tiny.environment(PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
    )
    assert found.returncode == 1
    assert "can't write piano-seed0.wav" in found.stderr and found.stderr.count("\n") == 1
    assert not _names(here)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupt_leaves_nothing(
    tiny_model: Path, here: Path, number: signal.Signals, code: int
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "musicot_mlx", "generate", "--stream", "--model", tiny_model]
        + ["-p", "piano", "--duration", "300", "--steps", "300"],
        env=tiny.environment(PYTHONPATH=str(ROOT)),
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not _names(here) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert _names(here), process.communicate()
    process.send_signal(number)
    _, error = process.communicate(timeout=120)
    assert process.returncode == code
    assert "Traceback" not in error
    assert not _names(here)


def test_ctrl_c_before_a_command_runs_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """While modules are imported, while words are read, and while help is drawn."""

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for owner, name in ((app, "main"), (app, "import_module"), (app, "_app")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, stop)
            assert main(["doctor"]) == 130
            assert _one_line(capsys) == "musicot: interrupted\n"


@pytest.mark.parametrize("words", ["generate -", "plan -p -", "ask --model nowhere a.wav"])
def test_standard_input_may_be_closed(
    words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    assert main(words.split()) == 2
    assert "this is a bug" not in _one_line(capsys)


def test_unexpected_errors_are_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for failure, code, words in (
        (ZeroDivisionError("oh"), 1, "ZeroDivisionError: oh (this is a bug"),
        (ValueError("bad\nvalue"), 2, "musicot: bad value"),
        (MemoryError(), 1, "out of memory"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (OSError(2, "No such file", "gone/x"), 1, "can't write gone/x: the folder gone doesn't"),
        (OSError(9, "Bad file descriptor", 7), 1, "Bad file descriptor"),
        (OSError(28, "No space left on device", "x.wav"), 1, "no space left"),
    ):

        def fail(_: object, failure: BaseException = failure) -> int:
            raise failure

        monkeypatch.setattr(doctor, "run", fail)
        assert main(["doctor"]) == code
        assert words in _one_line(capsys)
    monkeypatch.setenv("MUSICOT_DEBUG", "1")
    assert main(["doctor"]) == 1
    assert "Traceback" in capsys.readouterr().err


# --- help, and what a shell asks ---


def test_help_is_in_panels(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["--help"], ["-h"], ["help"]):
        assert main(words) == 0
        out = capsys.readouterr().out
        assert all(f" {name} " in out for name in COMMANDS)
        assert "─ Songs ─" in out and "--install-completion" in out and "\x1b" not in out
    for words in (["generate", "--help"], ["generate", "-h"], ["help", "generate"]):
        assert main(words) == 0
        out = capsys.readouterr().out
        assert "─ The song ─" in out and "[VERSE]" in out and "<" not in out
        assert "[PROMPT]...\n" in out.replace(" ", "") and "PROMPT..." not in out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    for word in ("--version", "-V"):
        assert main([word]) == 0
        assert capsys.readouterr().out == f"musicot {__version__}\n"


def test_help_answers_at_once() -> None:
    """What takes time is what is imported: nothing but what draws the help."""
    code = (
        "import sys\nfrom musicot_mlx.cli import main\nmain(['--help'])\n"
        "ours = [name for name in sys.modules if name.startswith('musicot_mlx.cli.')]\n"
        "assert sorted(ours) == ['musicot_mlx.cli.app', 'musicot_mlx.cli.flags'], ours\n"
        "packages = {name.partition('.')[0] for name in sys.modules} - sys.stdlib_module_names\n"
        "known = {'typer', 'rich', 'click', 'shellingham', 'pygments', 'markdown_it', 'mdurl'}\n"
        "others = {name for name in packages - known if not name.startswith('_')}\n"
        "assert others <= {'musicot_mlx', 'annotated_doc', 'typing_extensions'}, others\n"
        "assert len(sys.modules) < 500, len(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("musicot gen", "generate"),
        ("musicot generate --samp", "--sampler"),
        ("musicot generate --sampler h", "heun"),
    ],
)
def test_shells_are_told_what_completes_a_word(line: str, found: str) -> None:
    asked = {"_MUSICOT_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": line}
    answer = subprocess.run(
        [sys.executable, "-m", "musicot_mlx"],
        env=tiny.environment(PYTHONPATH=str(ROOT), **asked),
        capture_output=True,
        text=True,
        check=True,
    )
    assert found in answer.stdout


def test_completion_is_installed(tmp_path: Path) -> None:
    (tmp_path / "musicot").write_text(f'#!/bin/sh\nexec {sys.executable} -m musicot_mlx "$@"\n')
    (tmp_path / "musicot").chmod(0o755)
    env = tiny.environment(PYTHONPATH=str(ROOT), HOME=str(tmp_path))
    env["PATH"] = f"{tmp_path}:{env.get('PATH', os.environ['PATH'])}"
    said = subprocess.run(
        ["bash", "-c", "musicot --install-completion; echo $?"],
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "completion installed" in said.stdout and said.stdout.endswith("0\n")
    assert "musicot" in (tmp_path / ".bashrc").read_text()


# --- songs ---


def _generate(model: Path, *arguments: str) -> int:
    return main(["generate", "--model", str(model), "--duration", "2", *arguments])


def test_same_seed_same_file(tiny_model: Path, here: Path) -> None:
    assert _generate(tiny_model, "-p", "piano", "--seed", "3", "-o", "a.wav") == 0
    assert _generate(tiny_model, "-p", "piano", "--seed", "3", "-o", "b.wav") == 0
    assert _generate(tiny_model, "-p", "piano", "--seed", "4", "-o", "c.wav") == 0
    a, b, c = (Path(f"{name}.wav").read_bytes() for name in "abc")
    assert a == b != c
    assert _names(here) == ["a.json", "a.wav", "b.json", "b.wav", "c.json", "c.wav"]
    waveform, rate = soundfile.read("a.wav")
    assert len(waveform) == 2 * rate


def test_settings_make_the_file_again(tiny_model: Path, here: Path) -> None:
    options = ["--audio-temp", "0.9", "--thought-guidance", "1.5", "--steps", "3", "--top-k", "5"]
    options += ["--tags", "piano,drums", "--sampler", "heun", "--sample-rate", "16000"]
    assert _generate(tiny_model, "-p", "piano", *options, "--seed", "5", "-o", "a.flac") == 0
    assert main(["generate", "--config-from", "a.json", "-o", "b.flac"]) == 0
    assert Path("a.flac").read_bytes() == Path("b.flac").read_bytes()
    assert json.loads(Path("a.json").read_text()) == json.loads(Path("b.json").read_text())
    assert main(["generate", "--config-from", "a.flac", "--seed", "6"]) == 0
    assert Path("piano-seed6.flac").read_bytes() != Path("a.flac").read_bytes()


def test_plan_then_render(tiny_model: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = ["plan", "--model", str(tiny_model), "-p", "piano", "--duration", "12", "--json"]
    assert main([*plan, "-o", "a.plan.json", "--png", "a.png", "--anchors", "piano,drums"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert np.array(report["activity"]).shape == (2, 2)
    assert Path("a.png").read_bytes().startswith(b"\x89PNG")
    codes = json.loads(Path("a.plan.json").read_text())["codes"]
    assert np.array(codes).shape == (3, 2)
    model = ["generate", "--model", str(tiny_model)]
    assert main([*model, "--plan", "a.plan.json", "-o", "a.wav"]) == 0
    assert soundfile.info("a.wav").duration == 12
    assert json.loads(Path("a.json").read_text())["plan"]["codes"] == codes
    assert main(["generate", "--config-from", "a.json", "-o", "b.wav"]) == 0
    assert Path("a.wav").read_bytes() == Path("b.wav").read_bytes()
    for flag, value in (("--duration", "3"), ("-p", "drums"), ("--tags", "piano")):
        assert main([*model, "--plan", "a.plan.json", flag, value]) == 2
        assert "the plan is made" in capsys.readouterr().err
    assert main([*model, "--plan", "a.json", "-o", "a.wav", "--overwrite"]) == 2
    assert "written over a.json" in capsys.readouterr().err


def test_a_drawn_plan_is_the_song_of_its_prompt(tiny_model: Path, here: Path) -> None:
    assert _generate(tiny_model, "-p", "piano", "--seed", "2", "-o", "a.wav") == 0
    plan = ["plan", "--model", str(tiny_model), "-p", "piano", "--duration", "2", "--seed", "2"]
    assert main([*plan, "-o", "a.plan.json"]) == 0
    render = ["generate", "--model", str(tiny_model), "--plan", "a.plan.json"]
    assert main([*render, "-o", "b.wav"]) == 0
    assert Path("a.wav").read_bytes() == Path("b.wav").read_bytes()


def test_reference_takes_the_thought_slot(tiny_model: Path, here: Path) -> None:
    time_axis = np.arange(8000 * 12) / 8000
    soundfile.write("r.wav", np.sin(2 * np.pi * 300 * time_axis), 8000)
    plan = ["plan", "--model", str(tiny_model), "--reference", "r.wav", "--duration", "15"]
    assert main([*plan, "-o", "a.json"]) == 0
    assert main([*plan, "-o", "b.json", "--seed", "9"]) == 0
    a, b = (json.loads(Path(name).read_text()) for name in ("a.json", "b.json"))
    assert a["codes"] == b["codes"]
    assert _generate(tiny_model, "--reference", "r.wav", "-p", "piano", "-o", "a.wav") == 0


def test_stream_makes_the_same_file(
    tiny_model: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["-p", "piano", "--sample-rate", "16000", "--stream"]
    for name, words in (("b", asked), ("a", ["--config-from", "b.json"])):
        assert _generate(tiny_model, *words, "--duration", "11", "--json", "-o", f"{name}.wav") == 0
        report = json.loads(capsys.readouterr().out)
        assert report["files"] == [f"{name}.wav", f"{name}.json"]
        assert report["duration"] == pytest.approx(11, abs=1e-3) and report["rtf"] > 0
    a, b = (soundfile.read(f"{name}.wav")[0] for name in "ab")
    assert a.shape == b.shape
    np.testing.assert_allclose(a, b, atol=2e-3)
    assert json.loads(Path("a.json").read_text()) == json.loads(Path("b.json").read_text())


def test_several_prompts_and_seeds_are_numbered(
    tiny_model: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("prompts.txt").write_text("piano\n\ndrums\n")
    arguments = ["--prompt-file", "prompts.txt", "--seed", "1", "2", "--json"]
    assert _generate(tiny_model, *arguments, "-o", "x.flac") == 0
    reports = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(report["prompt"], report["seed"]) for report in reports] == [
        ("piano", 1),
        ("piano", 2),
        ("drums", 1),
        ("drums", 2),
    ]
    assert [report["files"][0] for report in reports] == [f"x-{i}.flac" for i in range(1, 5)]
    assert len({Path(report["files"][0]).read_bytes() for report in reports}) == 4


def test_prompt_from_standard_input(
    tiny_model: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import io

    monkeypatch.setattr(sys, "stdin", io.StringIO("solo\npiano\n"))
    assert _generate(tiny_model, "-p", "-") == 0
    assert json.loads(Path("solo-piano-seed0.json").read_text())["prompt"] == "solo piano"


def test_summary_line(tiny_model: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _generate(tiny_model, "-p", "piano", "--format", "mp3") == 0
    out = capsys.readouterr().out
    assert out.startswith("piano-seed0.mp3: 2.0 s, stereo, 8 kHz, seed 0, in ")
    assert "(RTF " in out and "peak memory" in out and out.count("\n") == 1


# --- the smaller parts ---


def test_play_runs_a_player(
    tiny_model: Path, tmp_path: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "aplay"
    program.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/played\n[ -t 0 ] || cat > /dev/null\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/bin:/usr/bin")
    monkeypatch.setattr(player, "_FILE_PLAYERS", {"aplay": (["-q"], ("flac", "mp3"))})
    assert _generate(tiny_model, "-p", "piano", "--play") == 0
    assert (tmp_path / "played").read_text() == "-q piano-seed0.wav\n"
    assert player.find_player(".mp3") is None


@pytest.mark.parametrize(
    ("name", "unable"),
    [("aplay", "flac mp3 ogg m4a"), ("paplay", "mp3 m4a"), ("play", "m4a"), ("afplay", "ogg")],
)
def test_players_are_asked_for_what_they_can(
    name: str, unable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """aplay would play a file of another kind than WAV as samples, that is as noise."""
    monkeypatch.setattr(player.shutil, "which", lambda asked: asked if asked == name else None)
    found = [kind for kind in FORMATS if player.find_player(f".{kind}") is None]
    assert found == unable.split()


def test_play_without_a_player_fails_before_the_work(
    tiny_model: Path, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(player, "_FILE_PLAYERS", {"no-such-player": ([], ())})
    assert _generate(tiny_model, "-p", "piano", "--play") == 2
    assert "no player" in _one_line(capsys)
    assert not _names(here)


def test_live_player_gets_the_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    got = tmp_path / "got"
    monkeypatch.setattr(player, "_pipe_command", lambda *_: ["sh", "-c", f"cat > {got}"])
    with player.live_player(8000, 2, wanted=True) as feed:
        feed(b"abcd")
    assert got.read_bytes() == b"abcd"
    with player.live_player(8000, 2, wanted=False) as feed:
        assert feed is None


def test_progress_takes_stages_in_turn(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run() -> str:
        with Progress(prefix="1/2 ") as progress:
            for step in range(3):
                progress("audio tokens", step, 2)
                progress("diffusion", step, 4)
        return capsys.readouterr().err

    monkeypatch.setattr("musicot_mlx.cli.progress.DELAY", 0.0)
    monkeypatch.setattr("musicot_mlx.cli.progress._PAUSE", 0.0)
    assert run() == ""  # no terminal, no bars
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    drawn = run()
    assert "1/2 audio tokens" in drawn and "100%" in drawn and "50%" in drawn
    monkeypatch.setattr("musicot_mlx.cli.progress.DELAY", 60.0)
    assert run() == ""  # a run that is over sooner shows none


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor", "--json"])
    found = {row["what"]: row for row in json.loads(capsys.readouterr().out)}
    assert found["MLX"]["state"] == "ok"
    assert {"system", "memory", "matrices", "audio files", "embedded model"} <= set(found)
    main(["doctor"])
    assert "embedded model" in capsys.readouterr().out


def _finding(what: str, capsys: pytest.CaptureFixture[str]) -> dict:
    main(["doctor", "--json"])
    return next(f for f in json.loads(capsys.readouterr().out) if f["what"] == what)


def test_doctor_names_the_formats(capsys: pytest.CaptureFixture[str]) -> None:
    assert "WAV, FLAC, MP3, OGG" in _finding("audio files", capsys)["found"]


def test_doctor_tells_of_tf32(capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    """M5 and NVIDIA multiply float32 in TF32 unless told not to; importing the package tells them.

    That their products are then exact is for `doctor --deep` on such a device to say.
    """
    assert _finding("float32", capsys)["state"] == "ok"
    monkeypatch.setenv("MLX_ENABLE_TF32", "1")
    assert _finding("float32", capsys)["state"] == "hint"
    code = "import os, musicot_mlx; print(os.environ['MLX_ENABLE_TF32'])"
    for given, expected in ((None, "0"), ("1", "1")):
        env = {k: v for k, v in os.environ.items() if k != "MLX_ENABLE_TF32"}
        env |= {"MLX_ENABLE_TF32": given} if given else {}
        command = [sys.executable, "-c", code]
        told = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
        assert told.stdout.strip() == expected


@pytest.mark.parametrize(("release", "state"), [("26.1", "hint"), ("26.2", "ok"), ("15.6", "ok")])
def test_doctor_knows_macs_without_the_kernels_of_m5(
    release: str, state: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wheel is built for 26.2 and enables kernels on 26.0 and 26.1 that are not there."""
    monkeypatch.setattr(doctor.platform, "mac_ver", lambda: (release, ("", "", ""), "arm64"))
    assert _finding("MLX", capsys)["state"] == state


def test_every_command_has_its_module() -> None:
    assert list(COMMANDS)[:3] == ["generate", "plan", "analyze"]
    assert all(flags.listed(arguments(name)) for name in COMMANDS)


def test_options_of_families_are_flags() -> None:
    """Each option of a family that has a flag is one of generate, under the option's name."""
    flagged = dict(flags.listed(arguments("generate")))
    assert flagged["audio_temperature"].names == ("--audio-temp", "--temperature")
    assert flagged["keep"].names == ("--keep-from",) and flagged["sampler"].choices
    assert flagged["negative_prompt"].help.startswith("MusicGen: ")
    assert "(with MusicGen: " in flagged["reference"].help
    for family in (MusicotOptions, MusicgenOptions):
        for name, option in family.about().items():
            if option.metadata["flags"]:
                assert flagged[name].names == option.metadata["flags"]
    assert "audio_temperature" not in dict(flags.listed(arguments("plan")))


def test_write_text_makes_folders(tmp_path: Path) -> None:
    write_text(tmp_path / "new" / "folder" / "a.json", "{}")
    assert (tmp_path / "new" / "folder" / "a.json").read_text() == "{}"


# --- words, tempi, tags ---


def test_a_prompt_may_stand_by_itself(
    tiny_model: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--model", str(tiny_model), "--duration", "1", "--json"]
    assert main(["generate", *common, "--seed", "1", "2", "soft piano", "-o", "a.wav"]) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(each["prompt"], each["seed"]) for each in told] == [
        ("soft piano", 1),
        ("soft piano", 2),
    ]
    assert main(["plan", "soft piano", *common]) == 0
    assert json.loads(capsys.readouterr().out)["prompt"] == "soft piano"


def test_bpm_is_a_tempo_that_the_prompt_names(
    tiny_model: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--model", str(tiny_model), "--duration", "1"]
    assert main(["generate", "piano", "--bpm", "120", *common, "-o", "a.wav"]) == 0
    assert main(["generate", "piano, 120 BPM", *common, "-o", "b.wav"]) == 0
    assert main(["generate", "--config-from", "a.json", "-o", "c.wav"]) == 0
    assert Path("a.wav").read_bytes() == Path("b.wav").read_bytes() == Path("c.wav").read_bytes()
    capsys.readouterr()
    assert main(["plan", "piano", "--bpm", "97.5", *common, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["prompt"] == "piano, 97.5 BPM"


def test_tags_tells_what_a_model_plays(
    tiny_model: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tags"]) == 0
    page = capsys.readouterr().out
    assert "bossa nova" in page and "62 to 180 BPM" in page and "singing: none" in page
    assert main(["tags", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (
        "drum kit" in found["instruments"]["drums"] and "synth bass" in found["instruments"]["bass"]
    )
    assert not {"drum and bass", "piano ballad"} & set(sum(found["instruments"].values(), []))
    assert "melancholic" in found["words"] and "the" not in found["words"]
    assert main(["tags", "--model", str(tiny_model)]) == 0


def test_every_answer_elsewhere_names_what_there_is() -> None:
    import re

    from musicot_mlx.cli import elsewhere

    assert not set(elsewhere.COMMANDS) & set(COMMANDS)
    listed = {name for command in COMMANDS for _, each in flags.listed(arguments(command))
              for name in each.names} | {"--version", "-q"}  # fmt: skip
    for answer in (*elsewhere.COMMANDS.values(), *elsewhere.FLAGS.values()):
        assert set(re.findall(r"(?<![\w-])--[a-z-]+", answer)) <= listed, answer
        assert set(re.findall(r"musicot (?!has|holds)([a-z]+)", answer)) <= set(COMMANDS), answer
