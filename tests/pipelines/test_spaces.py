"""Plans of another space: refused wherever they could get in, and planned anew from their words."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

import musicot_mlx as mc
from musicot_mlx.cli import main
from musicot_mlx.errors import MusicotError
from tests.support import tiny_magenta_model

SAYS = "made in the space '{}' and the thoughts of this model live in '{}'.*--from-words FILE"


@pytest.fixture(scope="module")
def folders(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    magenta = tiny_magenta_model.write(tmp_path_factory.mktemp("spaces") / "magenta")
    return {"musicot": tiny_model, "magenta": magenta}


@pytest.fixture(scope="module")
def models(folders: dict[str, Path]) -> dict:
    return {name: mc.load(folder) for name, folder in folders.items()}


@pytest.fixture(autouse=True)
def any_sound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("musicot_mlx.pipelines.song.check_render", lambda *_: None)


BOTH = pytest.mark.parametrize(("ours", "theirs"), [("musicot", "magenta"), ("magenta", "musicot")])


@BOTH
def test_they_are_refused(models: dict, ours: str, theirs: str) -> None:
    model, other = models[ours], models[theirs]
    foreign = other.plan("calm piano", duration=3, seed=1)
    song = other.generate(plan=foreign, seed=1, loudness=False)
    own = model.plan("calm piano", duration=3, seed=1)
    says = SAYS.format(other.space.id, model.space.id)
    for use in (
        lambda: model.generate(plan=foreign),
        lambda: model.stream(plan=foreign),
        lambda: model.generate(plan=own, keep=song),
        lambda: own.replace(0, foreign),
        lambda: own.insert(0, foreign),
        lambda: own.morph(foreign, 0.5),
        lambda: mc.Plan.load(foreign.to_dict(), model),
        lambda: mc.analyze(song.waveform, song.sample_rate, model=model, plan=foreign),
    ):
        with pytest.raises(MusicotError, match=says) as refused:
            use()
        assert "\n" not in str(refused.value)


@BOTH
def test_what_is_said_can_be_done(
    folders: dict, models: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], ours: str, theirs: str,
) -> None:  # fmt: skip
    """Each command names the way; its words, and what segments were set to, are the plan's."""
    monkeypatch.chdir(tmp_path)
    model, other = models[ours], models[theirs]
    long = 3 * max(model.space.seconds, other.space.seconds)
    noise = np.random.default_rng(0).normal(0, 0.1, (8000 * 20, 1))
    soundfile.write("noise.wav", noise, 8000)
    foreign = other.plan("calm piano", duration=long, seed=1)
    third = foreign.segments // 3
    foreign = foreign.replace(range(third, 2 * third), "drums", seed=5)
    foreign = foreign.replace(range(2 * third, 3 * third), Path("noise.wav"))
    foreign.save("a.json")
    soundfile.write("a.wav", noise, 8000)
    command = ["--model", str(folders[ours])]
    says = f"musicot plan --model {folders[ours]} --from-words a.json -o new.plan.json"
    for line in (
        ["generate", *command, "--plan", "a.json", "-o", "b.wav"],
        ["generate", *command, "--plan", "a.json", "-o", "b.wav", "--stream"],
        ["plan", *command, "--plan", "a.json", "-o", "b.json"],
        ["plan", *command, "-p", "piano", "--duration", "30", "--morph", "a.json", "0.5"],
        ["plan", *command, "-p", "piano", "--duration", "30", "--set", "0-10=@a.json"],
        ["analyze", *command, "a.wav", "--plan", "a.json"],
    ):
        assert main(line) == 2, line
        error = capsys.readouterr().err
        assert says in error and error.count("\n") == 1, line
    assert main(says.split()[1:]) == 0 and Path("new.plan.json").rename("b.json")
    made = mc.Plan.load("b.json", model)
    assert made == model.plan_from_words(foreign)
    assert made.prompt == "calm piano" and made.duration == long and made.space == model.space.id
    words = made.words()
    third = made.segments // 3
    assert words[:third] == [None] * third and words[third : 2 * third] == ["drums"] * third
    assert {each.file for each in made.origins[2 * third :]} == {"noise.wav"}
    plain = model.plan("calm piano", duration=long, seed=1)
    assert (made.codes[:, :third] == plain.codes[:, :third]).all()
    made[0].save("c.json")
    assert main(["generate", *command, "--plan", "c.json", "-o", "b.wav", "--no-loudness"]) == 0


def test_what_a_plan_of_words_leaves_out(models: dict, tmp_path: Path) -> None:
    """Chords and controls stay where they mean something; a plan of sound alone says nothing."""
    magenta, musicot = models["magenta"], models["musicot"]
    plan = magenta.plan("calm piano", duration=30).set(range(0, 10), drums="none")
    assert musicot.plan_from_words(plan).controls == ()
    assert magenta.plan_from_words(plan).controls == plan.controls
    assert magenta.plan_from_words(magenta.plan("piano", duration=400)).duration == 400
    assert musicot.plan_from_words(magenta.plan("piano", duration=400)).duration == 300
    noise = np.random.default_rng(0).normal(0, 0.1, (8000 * 20, 1))
    with pytest.raises(MusicotError, match="plan anew with a prompt"):
        musicot.plan_from_words(magenta.plan_from_audio((noise, 8000)))
    soundfile.write(tmp_path / "a.wav", noise, 8000)
    heard = musicot.plan_from_words(magenta.plan_from_audio(tmp_path / "a.wav"))
    assert heard.duration == 20 and heard.origins[0].kind == "audio"
    (tmp_path / "a.json").write_text(json.dumps({"no": "plan"}))
    with pytest.raises(MusicotError, match="is not a plan"):
        musicot.plan_from_words(tmp_path / "a.json")
