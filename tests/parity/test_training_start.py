"""Pretraining: where it starts from, and what it refuses."""

import json
import re
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")
soundfile = pytest.importorskip("soundfile")
yaml = pytest.importorskip("yaml")


from musicot_mlx.convert.to_pytorch import main as write_pytorch  # noqa: E402
from musicot_mlx.errors import MusicotError  # noqa: E402
from musicot_mlx.reference.data import SongData  # noqa: E402
from musicot_mlx.reference.musicot import PARTS, MusicotReference  # noqa: E402
from musicot_mlx.reference.semantic_lm import SemanticLM  # noqa: E402
from musicot_mlx.reference.train import (  # noqa: E402
    command,
    diffusion_stages,
    token_stages,
)
from musicot_mlx.reference.train.warm_start import ON_THEIR_OWN, WarmStart  # noqa: E402
from musicot_mlx.reference.train.workspace import MINI, Workspace, read_config  # noqa: E402
from musicot_mlx.reference.trainer import TrainingConfig, load_weights  # noqa: E402
from musicot_mlx.tokens.vocabulary import AUD_EOS, Vocabulary  # noqa: E402
from tests.support.pretraining import SECONDS, run, tiny_config  # noqa: E402


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.pop("vae"), "lacks the sections vae"),
        (lambda c: c["rvq"].update(dim=8), "clap.projection_dim is 16, rvq.dim is 8; they must"),
        (lambda c: c["rvq"].pop("dim"), "lacks rvq.dim"),
        (lambda c: c["vae"].update(dept=8), "vae knows no dept"),
        (lambda c: c["training"]["best_rq"].update(stpes=8), "training.best_rq knows no stpes"),
        (lambda c: c["training"]["best_rq"].update(steps="many"), "best_rq.steps is 'many'"),
        (lambda c: c["training"].pop("best_rq"), "the config lacks training.best_rq"),
    ],
)
def test_configs_refused(
    studio: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], change, words: str
) -> None:
    config = tiny_config()
    change(config)
    file = tmp_path / "wrong.yaml"
    file.write_text(yaml.safe_dump(config))
    wrong = {**studio, "config": file, "out": tmp_path / "out"}
    assert run(wrong, "--stage", "best_rq") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and words in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("config", "nowhere.yaml", "can't read nowhere.yaml: No such file"),
        ("config", "wrong.yaml", "wrong.yaml is not YAML"),
        ("data", "nowhere", "nowhere is not there; make one with"),
        ("out", "empty", "run --stage encode first"),
        ("stage", "rvq", "run --stage encode first"),
    ],
)
def test_paths_refused(
    studio: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    option: str,
    value: str,
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("wrong.yaml").write_text("a: [")
    Path("empty").mkdir()
    Path("empty/tokenizer.json").write_bytes((studio["out"] / "tokenizer.json").read_bytes())
    paths = {**studio, "out": Path("empty")}
    stage = value if option == "stage" else "semantic_lm"
    if option != "stage":
        paths[option] = Path(value)
    assert run(paths, "--stage", stage) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and words in error and error.count("\n") == 1


def test_start_from_a_checkpoint(studio: dict[str, Path], tmp_path: Path) -> None:
    """Stages that have no weights begin with the checkpoint's, tags by their names."""
    start = WarmStart.read(studio["out"] / "checkpoint")
    data = SongData(studio["data"])
    work = Workspace(read_config(studio["config"]), data, tmp_path, start)
    before = Workspace(work.config, data, studio["out"])
    for name in ("vae", "clap", "rvq", "semantic_tokenizer"):
        learned = dict(getattr(before, name)().named_parameters())
        for key, value in getattr(work, name)().named_parameters():
            assert torch.equal(value, learned[key]), (name, key)
    tags = ["etude", "flute", "piano"]  # "drums" and "guitar" are gone, "flute" is new
    model = token_stages.SemanticLMTraining(
        SemanticLM(
            {**work.config["semantic_lm"], "tags": tags, **dict.fromkeys(ON_THEIR_OWN.values())}
        )
    )
    rows = model.lm.llama.lm_head.weight
    drawn = rows.detach().clone()
    start.fill(model, "semantic_lm", tags)
    old = Vocabulary.from_config(start.config["semantic_lm"])
    new = model.lm.vocabulary
    learned = start.state["semantic_lm.llama.lm_head.weight"]
    known = start.config["semantic_lm"]["tags"]
    for tag in ("etude", "piano"):
        row = learned[old.tag_id(known.index(tag))]
        assert torch.equal(rows[new.tag_id(tags.index(tag))], row)
    assert torch.equal(rows[new.tag_id(1)], drawn[new.tag_id(1)])
    assert torch.equal(rows[new.audio_id(3)], learned[old.audio_id(3)])
    assert torch.equal(rows[new.thought_id(1, 2)], learned[old.thought_id(1, 2)])
    told = model.lm.beat_proj.weight
    assert torch.equal(told, start.state.pop("semantic_lm.beat_proj.weight"))
    start.fill(model, "semantic_lm", tags)  # a checkpoint from before there were beats
    for key in ("weight", "bias"):  # or tempi
        del start.state[f"semantic_lm.tempo_head.{key}"]
    with pytest.raises(MusicotError, match="has no tempo_head; run --stage tempo_head first"):
        work.weights("tempo_head")


def test_mlx_folder_turned_back(stirred: dict[str, Path], tmp_path: Path, capsys) -> None:
    """Every weight that conversion keeps comes back, bit for bit, where it was."""
    assert write_pytorch([str(stirred["mlx"]), str(tmp_path)]) == 0
    before = MusicotReference.from_pretrained(stirred["torch"]).state_dict()
    after = MusicotReference.from_pretrained(tmp_path).state_dict()
    assert after.keys() == before.keys()
    for name in PARTS:
        rules = import_module(f"musicot_mlx.convert.keymaps.{name}").RULES
        for key in (k.removeprefix(f"{name}.") for k in before if k.startswith(f"{name}.")):
            rule = next(rule for rule in rules if re.fullmatch(rule.pattern, key))
            same = torch.equal(after[f"{name}.{key}"], before[f"{name}.{key}"])
            assert same or rule.target is None, key
    config = json.loads((stirred["torch"] / "config.json").read_text())
    assert WarmStart.read(tmp_path).config["diffusion"] == config["diffusion"]
    assert write_pytorch([str(stirred["torch"]), str(tmp_path)]) == 2
    assert "is a PyTorch checkpoint" in capsys.readouterr().err
    assert write_pytorch([str(tmp_path / "nowhere"), str(tmp_path / "new")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_start_from_trains_on(studio: dict[str, Path], tmp_path: Path, capsys) -> None:
    paths = {**studio, "out": tmp_path / "out"}
    begin = ("--start-from", str(studio["out"] / "checkpoint"))
    stages = ("clap", "best_rq", "semantic_tokenizer", "encode", "rvq")
    assert run(paths, *begin, "--stage", *stages) == 0
    assert capsys.readouterr().out.count(", from ") == 2  # the tokenizer goes on from best_rq
    alone = {**studio, "out": tmp_path / "alone"}
    assert run(alone, *begin, "--stage", "rvq") == 0
    books = [
        [v for k, v in load_weights(out / "rvq").items() if k.endswith("embed")]
        for out in (studio["out"], paths["out"], alone["out"])
    ]
    for first, followed, kept in zip(*books, strict=True):
        assert torch.equal(first, kept)  # CLAP is the one they were made for
        assert not torch.equal(first, followed)
    was = load_weights(studio["out"] / "clap")
    moved = [
        float((value.float() - was[key].float()).abs().max())
        for key, value in load_weights(tmp_path / "out" / "clap").items()
        if value.ndim > 1  # running statistics move by more
    ]
    assert 0 < max(moved) < 0.1  # two steps away, not drawn anew
    (tmp_path / "other").mkdir()
    assert run(paths, "--start-from", str(tmp_path / "other"), "--stage", "clap") == 2
    assert "no checkpoint to start from" in capsys.readouterr().err


def test_training_without_thoughts(studio: dict[str, Path], tmp_path: Path) -> None:
    """The base system: no thought in any sequence, the prompt where diffusion looks for them."""
    config = tmp_path / "bare.yaml"
    stages = {name: {"thought_dropout": 1.0} for name in ("semantic_lm", "diffusion")}
    config.write_text(yaml.safe_dump({"base": str(studio["config"]), "training": stages}))
    made = {}
    work = Workspace(read_config(config), SongData(studio["data"]), studio["out"])
    work.run = lambda stage, model, batch, validate: made.update({stage: (model, batch, validate)})
    token_stages.train_semantic_lm(work)
    diffusion_stages.train_diffusion(work)
    model, batch, validate = made["semantic_lm"]
    seen = []
    model.lm.token_losses = lambda inputs: (seen.append(inputs), SemanticLM.token_losses)[1](
        model.lm, inputs
    )
    model(batch(0, np.random.default_rng(0)))
    targets = seen[0].targets[seen[0].targets >= 0]
    assert (targets >= model.lm.vocabulary.audio_offset).logical_or(targets == AUD_EOS).all()
    assert set(validate(model)) == {"loss", "audio"}
    clap = made["diffusion"][1](0, np.random.default_rng(0))["clap"]  # (batch, 1 + thoughts, dim)
    assert torch.equal(clap, clap[:, :1].expand_as(clap))


def test_stretches_know_their_place_in_the_bar(studio: dict[str, Path]) -> None:
    """Most items of a song whose bars are known, counted from where the stretch begins."""
    work = Workspace(read_config(studio["config"]), SongData(studio["data"]), studio["out"])
    work.data.training = [replace(e, bpm=90.0, first_bar=0.4) for e in work.data.training]
    made = []
    work.run = lambda stage, model, batch, validate: made.append(batch)
    token_stages.train_semantic_lm(work)
    told = []
    for step in range(30):
        drawn = made[0](step, np.random.default_rng(step))
        told += zip(drawn["beats"], drawn["audio"], strict=True)
    share = np.mean([beats is not None for beats, _ in told])
    assert 0.5 < share < 0.9
    for beats, audio in told:
        if beats is not None:
            turn = np.arctan2(beats[0, 4], beats[0, 0]) / (2 * np.pi)  # of the bar, -0.5 to 0.5
            starts = 2.5 * np.arange(int(SECONDS / 2.5))
            places = (starts - 0.4) * 90 / 240
            assert np.abs((places - turn + 0.5) % 1 - 0.5).min() < 0.01
            assert len(beats) >= len(audio)


def test_start_of_another_size_is_refused(studio: dict[str, Path]) -> None:
    start = WarmStart.read(studio["out"] / "checkpoint")
    config = {**start.config["semantic_lm"], "hidden_size": 32}
    model = token_stages.SemanticLMTraining(SemanticLM(config))
    with pytest.raises(MusicotError, match="does not fit the config of stage semantic_lm"):
        start.fill(model, "semantic_lm", config["tags"])


def test_config_without_thoughts_differs_in_that_alone() -> None:
    config, bare = read_config(MINI), read_config(MINI.parent / "no-thoughts.yaml")
    for stage in ("semantic_lm", "diffusion"):
        assert bare["training"][stage].pop("thought_dropout") == 1.0
    # nor a bias that goes by thoughts
    assert bare["semantic_lm"].pop("thought_bias_rank") == 0
    assert config["semantic_lm"].pop("thought_bias_rank") > 0
    assert bare == config


def test_config_of_the_mini_is_sound() -> None:
    config = read_config(MINI)
    work = Workspace(config, None, Path())
    for stage in set(command.STAGES) - {"encode", "encode_latents", "assemble"}:
        assert isinstance(work.training(stage), TrainingConfig)
    exact = yaml.safe_load("learning_rate: 1e-3")  # a string to YAML
    config["training"]["vae"] |= exact
    assert work.training("vae").learning_rate == 1e-3


def test_help_names_the_stages(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        command.main(["--help"])
    shown = capsys.readouterr().out
    assert error.value.code == 0
    assert "musicot_mlx.reference.train" in shown and "encode_latents" in shown
