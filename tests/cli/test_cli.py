"""The command line: its help, its songs, and the smaller parts."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from musicot_mlx import __version__
from musicot_mlx.atomic import write_text
from musicot_mlx.audio.files import FORMATS
from musicot_mlx.cli import COMMANDS, doctor, flags, main, player
from musicot_mlx.cli.app import arguments
from musicot_mlx.cli.progress import Progress
from musicot_mlx.pipelines.musicgen.options import MusicgenOptions
from musicot_mlx.pipelines.musicot.options import MusicotOptions
from tests.support import tiny
from tests.support.command_line import names, one_line

ROOT = Path(__file__).resolve().parents[2]


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
    assert names(here) == ["a.json", "a.wav", "b.json", "b.wav", "c.json", "c.wav"]
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
    assert "no player" in one_line(capsys)
    assert not names(here)


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


def test_bpm_is_a_tempo_that_the_promptnames(
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
