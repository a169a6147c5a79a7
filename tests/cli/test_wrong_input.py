"""What users type wrong and runs that fail: one line on stderr, and nothing half-written stays."""

import json
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

from musicot_mlx.cli import app, doctor, main
from tests.support import tiny
from tests.support.command_line import names, one_line

ROOT = Path(__file__).resolve().parents[2]


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
    assert words in one_line(capsys)
    assert not names(here)


def test_settings_that_are_none(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for text in ("{", "[]", "{}"):
        Path("a.json").write_text(text)
        assert main(["generate", "--config-from", "a.json"]) == 2
        assert "not a settings file" in one_line(capsys)


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
    assert words in one_line(capsys)


def test_empty_prompt_file(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("prompts.txt").write_text("\n  \n")
    assert main(["generate", "--prompt-file", "prompts.txt"]) == 2
    assert "holds no prompt" in one_line(capsys)
    Path("prompts.txt").write_bytes(b"\xff\xfe\xff")
    assert main(["generate", "--prompt-file", "prompts.txt"]) == 2
    assert "not UTF-8" in one_line(capsys)


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
    assert words in one_line(capsys)
    assert not names(here)


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
        assert "reference.wav" in one_line(capsys)
    assert not names(here)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": "musicot-plan", "version": 1}'])
def test_broken_plan(
    tiny_model: Path, tmp_path: Path, here: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text(text)
    assert main(["generate", "--model", str(tiny_model), "--plan", str(plan)]) == 2
    assert "plan" in one_line(capsys)
    assert not names(here)


def test_unknown_tag(tiny_model: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--model", str(tiny_model), "-p", "x", "--tags", "pianoo"]) == 2
    assert "did you mean 'piano'?" in one_line(capsys)


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
    assert not names(here)


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
    while not names(here) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert names(here), process.communicate()
    process.send_signal(number)
    _, error = process.communicate(timeout=120)
    assert process.returncode == code
    assert "Traceback" not in error
    assert not names(here)


def test_ctrl_c_before_a_command_runs_isone_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """While modules are imported, while words are read, and while help is drawn."""

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for owner, name in ((app, "main"), (app, "import_module"), (app, "_app")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, stop)
            assert main(["doctor"]) == 130
            assert one_line(capsys) == "musicot: interrupted\n"


@pytest.mark.parametrize("words", ["generate -", "plan -p -", "ask --model nowhere a.wav"])
def test_standard_input_may_be_closed(
    words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    assert main(words.split()) == 2
    assert "this is a bug" not in one_line(capsys)


def test_unexpected_errors_areone_line(
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
        assert words in one_line(capsys)
    monkeypatch.setenv("MUSICOT_DEBUG", "1")
    assert main(["doctor"]) == 1
    assert "Traceback" in capsys.readouterr().err
