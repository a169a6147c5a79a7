"""Pretraining: the loop, resumed and accumulated; a whole tiny model, from songs to a song in MLX.

The last tests hold the MLX pipeline against the PyTorch reference on that model, from one plan and
one noise to the waveform.
"""

import ast
import copy
import json
import math
import re
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")
soundfile = pytest.importorskip("soundfile")
yaml = pytest.importorskip("yaml")

from torch import nn  # noqa: E402

import musicot_mlx as mc  # noqa: E402
from musicot_mlx.convert.to_pytorch import main as write_pytorch  # noqa: E402
from musicot_mlx.errors import MusicotError, RunError  # noqa: E402
from musicot_mlx.reference import clap as clap_parts  # noqa: E402
from musicot_mlx.reference import trainer  # noqa: E402
from musicot_mlx.reference.clap import embed_text, tokenize  # noqa: E402
from musicot_mlx.reference.data import SongData  # noqa: E402
from musicot_mlx.reference.diffusion import SemanticDiffusion  # noqa: E402
from musicot_mlx.reference.musicot import PARTS, MusicotReference  # noqa: E402
from musicot_mlx.reference.semantic_lm import SemanticLM  # noqa: E402
from musicot_mlx.reference.train import (  # noqa: E402
    clap_robustness,
    command,
    diffusion_stages,
    encode,
    encoded,
    token_stages,
)
from musicot_mlx.reference.train.warm_start import ON_THEIR_OWN, WarmStart  # noqa: E402
from musicot_mlx.reference.train.workspace import MINI, Workspace, read_config  # noqa: E402
from musicot_mlx.reference.trainer import Trainer, TrainingConfig, load_weights  # noqa: E402
from musicot_mlx.tokens.harmony import harmony_features  # noqa: E402
from musicot_mlx.tokens.tempo import TEMPO_TAGS, tempo_tag  # noqa: E402
from musicot_mlx.tokens.vocabulary import AUD_EOS, Vocabulary  # noqa: E402
from tests.support import tiny  # noqa: E402

# --- the loop -------------------------------------------------------------------------------------

STEADY = TrainingConfig(
    steps=12,
    batch_size=4,
    learning_rate=1e-2,
    warmup_steps=3,
    precision="no",
    checkpoint_minutes=math.inf,
    validate_minutes=math.inf,
)


class Regression(nn.Module):
    """Noisy linear regression: the loss draws from torch's generator, as diffusion's does."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.linear = nn.Linear(3, 2)
        self.register_buffer("seen", torch.zeros(()))
        self.losses: list[float] = []

    def forward(self, batch: dict) -> tuple:
        if self.training:
            self.seen += 1
        x = batch["x"] + batch.get("noise", 0.1) * torch.randn_like(batch["x"])
        loss = (self.linear(x) - batch["y"]).square().mean()
        self.losses.append(loss.item())
        return loss, {"error": loss.item()}


def draw(step: int, rng: np.random.Generator) -> dict:
    x = torch.from_numpy(rng.standard_normal((4, 3)).astype(np.float32))
    return {"x": x, "y": x[:, :2] * 2 + 1}


def check(model: nn.Module) -> dict[str, float]:
    torch.manual_seed(0)  # a validation that draws must leave training alone
    return {"loss": float((model.linear.weight[:, :2] - 2 * torch.eye(2)).square().mean())}


class StopAfter(Trainer):
    """Killed after the checkpoint of one step, which no validation follows."""

    def __init__(self, *args, stop: int) -> None:
        self.stop = stop
        super().__init__(*args)

    def _learning_rate(self) -> float:
        if self.step == self.stop:
            self._save()
            raise KeyboardInterrupt
        return super()._learning_rate()


@pytest.mark.parametrize("accumulate", [1, 2])
def test_resumed_run_is_the_unbroken_one(tmp_path: Path, accumulate: int) -> None:
    config = replace(STEADY, accumulate=accumulate)
    whole = Trainer(Regression(), draw, check, config, tmp_path / "whole")
    expected = whole.run()
    first = StopAfter(Regression(), draw, check, config, tmp_path / "broken", stop=5)
    with pytest.raises(KeyboardInterrupt):
        first.run()
    torch.manual_seed(99)
    second = Trainer(Regression(), draw, check, config, tmp_path / "broken")
    assert second.step == 5
    found = second.run()
    assert first.network.losses + second.network.losses == whole.network.losses
    assert int(second.ema.n_averaged) == int(whole.ema.n_averaged) == 12
    for a, b in ((found, expected), (second.network, whole.network)):
        for (name, x), (_, y) in zip(a.state_dict().items(), b.state_dict().items(), strict=True):
            assert torch.equal(x, y), name
    logs = [json.loads((tmp_path / f / "log.json").read_text()) for f in ("whole", "broken")]
    assert logs[0]["best"] == logs[1]["best"]


def test_validating_does_not_change_training(tmp_path: Path) -> None:
    runs = [
        Trainer(
            Regression(),
            draw,
            check,
            replace(STEADY, validate_minutes=minutes, checkpoint_minutes=minutes),
            tmp_path / str(minutes),
        )
        for minutes in (math.inf, 0)
    ]
    for run in runs:
        run.run()
    assert runs[0].network.losses == runs[1].network.losses
    assert len(runs[1].log["valid"]) == 12 and len(runs[0].log["valid"]) == 1


def test_best_three_are_kept(tmp_path: Path) -> None:
    losses = iter([5.0, 3.0, math.nan, 4.0, 1.0, 9.0, 2.0, 6.0])
    made = Trainer(
        Regression(),
        draw,
        lambda model: {"loss": next(losses)},
        replace(STEADY, steps=8, validate_minutes=0),
        tmp_path,
    )
    made.run()
    files = {path.name for path in tmp_path.iterdir()}
    assert files == {"best-5.pt", "best-7.pt", "best-2.pt", "last.pt", "log.json"}
    assert [e["file"] for e in made.log["best"]] == ["best-5.pt", "best-7.pt", "best-2.pt"]
    weights = load_weights(tmp_path)
    best = torch.load(tmp_path / "best-5.pt", weights_only=True)
    assert all(torch.equal(weights[k], best[k]) for k in best)
    (tmp_path / "best-5.pt").unlink()
    second = torch.load(tmp_path / "best-7.pt", weights_only=True)
    assert torch.equal(load_weights(tmp_path)["linear.weight"], second["linear.weight"])


def test_a_step_validated_twice_is_kept_once(tmp_path: Path) -> None:
    made = Trainer(Regression(), draw, check, replace(STEADY, steps=2), tmp_path)
    made.run()
    made._validate()
    made._validate()
    assert [entry["file"] for entry in made.log["best"]] == ["best-2.pt"]
    assert (tmp_path / "best-2.pt").is_file()


def test_log_of_lost_steps_is_dropped(tmp_path: Path) -> None:
    made = Trainer(Regression(), draw, check, replace(STEADY, steps=2), tmp_path)
    made.run()
    made.step = 9  # validated, then killed before the next checkpoint
    made._validate()
    again = Trainer(Regression(), draw, check, STEADY, tmp_path)
    assert again.step == 2 and [row["step"] for row in again.log["valid"]] == [2]


def test_loss_that_is_no_number_stops_the_run(tmp_path: Path) -> None:
    def spoiled(step: int, rng: np.random.Generator) -> dict:
        batch = draw(step, rng)
        return {**batch, "y": batch["y"] * math.nan} if step == 4 else batch

    made = Trainer(Regression(), spoiled, check, STEADY, tmp_path)
    with pytest.raises(RunError, match="the loss is nan at step 4; ") as error:
        made.run()
    assert "\n" not in str(error.value)
    assert not any(weight.isnan().any() for weight in made.network.parameters())


def test_two_half_batches_are_one(tmp_path: Path) -> None:
    def half(step: int, rng: np.random.Generator) -> dict:
        batch = draw(0, np.random.default_rng(step // 2))
        part = slice(2 * (step % 2), 2 * (step % 2) + 2)
        return {"x": batch["x"][part], "y": batch["y"][part], "noise": 0.0}

    def full(step: int, rng: np.random.Generator) -> dict:
        return {**draw(0, np.random.default_rng(step)), "noise": 0.0}

    runs = []
    for n, make in ((1, full), (2, half)):
        config = replace(STEADY, accumulate=n)
        runs.append(Trainer(Regression(), make, check, config, tmp_path / str(n)))
        runs[-1].run()
    for one, two in zip(*(run.network.parameters() for run in runs), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)
    pairs = np.array(runs[1].network.losses).reshape(-1, 2).mean(1)
    np.testing.assert_allclose(pairs, runs[0].network.losses, rtol=1e-4)


def test_average_warms_up() -> None:
    average, update = [torch.zeros(1)], trainer.ema_update(0.9)
    for count, decay in ((1, 2 / 11), (8, 9 / 18), (80, 81 / 90), (81, 0.9), (10_000, 0.9)):
        average[0].fill_(1.0)
        update(average, [torch.zeros(1)], torch.tensor(count))
        assert average[0].item() == pytest.approx(decay)


def test_average_is_what_validates_and_is_kept(tmp_path: Path) -> None:
    made = Trainer(Regression(), draw, check, replace(STEADY, precision="bf16"), tmp_path)
    averaged = made.run()
    assert not torch.equal(averaged.linear.weight, made.network.linear.weight)
    assert torch.equal(averaged.seen, made.network.seen)  # buffers follow the network
    batch = {**draw(0, np.random.default_rng(0)), "noise": 0.0}
    found = averaged(batch)[0]  # the copy's forward must not be bound to the network
    expected = (averaged.linear(batch["x"]) - batch["y"]).square().mean()
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02)
    assert torch.equal(load_weights(tmp_path)["linear.weight"], averaged.linear.weight)


def test_rate_warms_up_and_falls(tmp_path: Path) -> None:
    made = Trainer(Regression(), draw, check, replace(STEADY, steps=103), tmp_path)
    rates = []
    for made.step in range(103):
        rates.append(made._learning_rate())
    np.testing.assert_allclose(rates[:3], [1e-2 / 3, 2e-2 / 3, 1e-2])
    assert rates[3:] == sorted(rates[3:], reverse=True) and rates[-1] < 2e-5


def test_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    Trainer(Regression(), draw, check, replace(STEADY, steps=1), tmp_path).run()
    other = Regression()
    other.linear = nn.Linear(3, 5)
    with pytest.raises(MusicotError, match="is of another config; go back to it, or move") as error:
        Trainer(other, draw, check, STEADY, tmp_path)
    assert "\n" not in str(error.value)
    with pytest.raises(MusicotError, match="holds no weights; run --stage clap first"):
        load_weights(tmp_path / "clap")


def test_weights_are_loaded_as_data_only() -> None:
    for file in Path(trainer.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                assert "weights_only=True" in ast.unparse(node), file


# --- a whole model --------------------------------------------------------------------------------

SECONDS = 16.0


def write_songs(folder: Path) -> Path:
    """Four songs of tones, each of another rate, format and count of channels, two with a score."""
    folder.mkdir()
    records = []
    files = [("a.wav", 22050, 1), ("b.flac", 44100, 2), ("c.mp3", 44100, 1), ("d.wav", 8000, 2)]
    for index, (name, rate, channels) in enumerate(files):
        t = np.arange(round(SECONDS * rate)) / rate
        notes = 220 * 2 ** (np.floor(2 * t + index) % 12 / 12)
        tone = 0.3 * np.sin(2 * np.pi * np.cumsum(notes) / rate) * (1 - (2 * t) % 1)
        soundfile.write(folder / name, np.repeat(tone[:, None], channels, axis=1), rate)
        np.savez(folder / f"{name[0]}.npz", roll=np.eye(400, 131, dtype=np.uint8))
        windows = [
            {"start": start, "captions": [f"tones {index} from {start}", "a melody"]}
            for start in (0.0, 2.5, 5.0)
        ]
        records.append(
            {
                "audio_file": name,
                "text_prompt": f"melody number {index}",
                "lyrics": "[VERSE] la la la" if index == 2 else "",
                "genre_tags": ["etude"],
                "instrument_tags": "piano, guitar" if index % 2 else ["drums"],
                "duration": SECONDS,
                "bpm": 120,
                "artist": "a test",
                "title": str(index),
                "windows": windows,
            }
        )
    (folder / "metadata.json").write_text(json.dumps(records))
    return folder


def tiny_config() -> dict:
    """The YAML config of the tiny twin: its sections, and two steps a stage."""
    config = {k: copy.deepcopy(v) for k, v in tiny.CONFIG.items() if isinstance(v, dict)}
    config["clap"]["audio_config"]["num_mel_bins"] = 64
    del config["semantic_lm"]["tags"], config["diffusion"]["latent_scale"]
    config["sampling"] |= {
        "thought_temperature": 0.65,
        "audio_temperature": 0.75,
        "thought_guidance": 2.3,
        "audio_guidance": 1.3,
        "unconditional": "without_thoughts",
    }
    config["data"] = {"score_frame_rate": 25.0}
    common = {"steps": 2, "batch_size": 2, "learning_rate": 1e-3, "warmup_steps": 1}
    config["training"] = {
        "vae": {**common, "seconds": 1.0, "kl_weight": 0.02, "accumulate": 2},
        "clap": common,
        "clap_noise": common,
        "rvq": common,
        "best_rq": common,
        "semantic_tokenizer": {**common, "precision": "no"},
        "tempo_head": {"steps": 20, "batch_size": 8, "learning_rate": 1e-1},
        "thought_bias": {"steps": 2, "batch_size": 2, "learning_rate": 1e-2},
        "semantic_lm": {
            **common,
            "condition_dropout": 0.1,
            "history_dropout": 0.5,
            "text_condition_share": 0.5,
        },
        "diffusion": {**common, "text_condition_share": 0.5},
        "diffusion_guided": {**common, "text_condition_share": 0.5},
    }
    return config


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Arguments of a finished tiny pretraining: every stage, two steps each, one at a time."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("training")
    paths = {
        "config": folder / "tiny.yaml",
        "data": write_songs(folder / "songs"),
        "out": folder / "out",
    }
    paths["config"].write_text(yaml.safe_dump(tiny_config()))
    for stage in command.STAGES:
        if stage != "diffusion_guided":  # a test of its own
            assert run(paths, "--stage", stage) == 0, stage
    return paths


def run(paths: dict[str, Path], *arguments: str) -> int:
    return command.main([*(x for k, v in paths.items() for x in (f"--{k}", str(v))), *arguments])


@pytest.fixture(scope="module")
def stirred(studio: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The trained checkpoint with noise on every matrix, so that nothing in it is near zero, as a
    PyTorch and as a float32 MLX folder.
    """
    from musicot_mlx.convert.convert import convert

    folder = tmp_path_factory.mktemp("stirred")
    model = MusicotReference.from_pretrained(studio["out"] / "checkpoint")
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.add_(torch.randn_like(weight) * 0.7 * weight[0].numel() ** -0.5)
    tokenizer = clap_parts.Tokenizer.from_file(str(studio["out"] / "tokenizer.json"))
    model.save_pretrained(folder / "torch", tokenizer)
    convert(folder / "torch", folder / "mlx", dtype="float32")
    return {"torch": folder / "torch", "mlx": folder / "mlx"}


def test_every_stage_leaves_its_weights(studio: dict[str, Path]) -> None:
    out = studio["out"]
    elsewhere = {"encode", "encode_latents", "rvq", "diffusion_guided", "assemble", *ON_THEIR_OWN}
    stages = set(command.STAGES) - elsewhere
    for stage in stages:
        log = json.loads((out / stage / "log.json").read_text())
        assert [row["step"] for row in log["valid"]] == [2], stage
        assert all(math.isfinite(row["loss"]) for row in log["valid"]), stage
    assert sorted(p.name for p in (out / "encoded").iterdir()) == [
        f"{song}.{kind}" for song in "abcd" for kind in ("npy", "npz")
    ]
    with np.load(out / "encoded" / "b.npz") as song:
        assert song["clap"].shape == (3, 16)
        assert song["codes"].shape == (400,) and song["window_text"].shape == (3, 2, 16)
        np.testing.assert_allclose(np.linalg.norm(song["clap"], axis=1), 1, rtol=1e-5)
    assert np.load(out / "encoded" / "b.npy").shape == (500, 8)
    config = json.loads((out / "checkpoint" / "config.json").read_text())
    assert set(PARTS) < set(config) and config["model_type"] == "musicot-pytorch"
    assert config["semantic_lm"]["tags"] == ["122 bpm", "drums", "etude", "guitar", "piano"]
    latents = np.concatenate([np.load(out / "encoded" / f"{song}.npy") for song in "bcd"])
    scale = config["diffusion"]["latent_scale"]
    assert scale * latents.astype(np.float32).std() == pytest.approx(1, rel=1e-3)


def test_tempo_head_learns_the_tempo_of_the_songs(studio: dict[str, Path], tmp_path: Path, capsys):
    """By 20 steps the one tempo there is; without any it keeps still, and so does training."""
    work = Workspace(read_config(studio["config"]), SongData(studio["data"]), studio["out"])
    head = work.weights("tempo_head")
    with np.load(studio["out"] / "encoded" / "a.npz") as song:
        logits = song["text"] @ head["weight"].numpy().T + head["bias"].numpy()
    assert {TEMPO_TAGS[i] for i in logits.argmax(1)} == {tempo_tag(120)}
    records = json.loads((studio["data"] / "metadata.json").read_text())
    for record in records:
        del record["bpm"]
        record["audio_file"] = str(studio["data"] / record["audio_file"])
    (tmp_path / "metadata.json").write_text(json.dumps(records))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "encoded").symlink_to(studio["out"] / "encoded")
    token_stages.train_tempo_head(Workspace(work.config, SongData(tmp_path), tmp_path / "out"))
    assert "no held-out song has a bpm" in capsys.readouterr().out
    assert (tmp_path / "out" / "tempo_head" / "last.pt").is_file()


def test_noise_teaches_the_audio_tower_alone(studio: dict[str, Path]) -> None:
    before, after = (load_weights(studio["out"] / stage) for stage in ("clap", "clap_noise"))
    changed = {key for key, value in after.items() if not torch.equal(value, before[key])}
    assert changed and all(key.startswith("clap.audio_") for key in changed)
    assert not any("running" in key for key in changed)


def test_degraded_windows_are_the_music_and_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    window = torch.full((1, 1001, 64), -20.0)
    window[:, :, ::7] = -90.0  # bands in which there is only noise
    degrade = clap_robustness.Degradation(64, seconds=11.0)
    heard = degrade(window, np.random.default_rng(0))
    assert heard.shape == window.shape and torch.isfinite(heard).all()
    assert not torch.equal(heard, degrade(window, np.random.default_rng(1)))
    assert torch.equal(heard, degrade(window, np.random.default_rng(0)))
    assert torch.isfinite(
        degrade(torch.full((1, 1001, 64), -100.0), np.random.default_rng(0))
    ).all()

    monkeypatch.setattr(clap_robustness, "GAIN", 0.0)
    monkeypatch.setattr(clap_robustness, "EQUALISER", 0.0)
    monkeypatch.setattr(clap_robustness, "LEVELS", (-200.0, -200.0))
    assert torch.allclose(degrade(window, np.random.default_rng(2)), window, atol=0.01)
    monkeypatch.setattr(clap_robustness, "LEVELS", (-20.0, -20.0))
    monkeypatch.setattr(clap_robustness, "COLOURS", (0.0, 0.0))
    heard = degrade(window, np.random.default_rng(2))
    assert heard[..., 1::7].mean().item() == pytest.approx(-20, abs=0.5)
    assert -45 < heard[..., ::7].mean().item() < -35


def test_finished_stages_have_nothing_to_do(studio: dict[str, Path]) -> None:
    weights = {p: p.read_bytes() for p in studio["out"].rglob("best-*.pt")}
    times = {p: p.stat().st_mtime_ns for p in (studio["out"] / "encoded").iterdir()}
    assert run(studio, "--stage", "best_rq", "encode", "semantic_lm", "encode_latents") == 0
    assert {p: p.read_bytes() for p in studio["out"].rglob("best-*.pt")} == weights
    assert {p: p.stat().st_mtime_ns for p in (studio["out"] / "encoded").iterdir()} == times


def test_encoding_takes_up_what_was_abandoned(studio: dict[str, Path], monkeypatch) -> None:
    folder = studio["out"] / "encoded"
    before = (folder / "d.npy").read_bytes()
    (folder / "d.npy").rename(folder / ".d.npy")
    assert run(studio, "--stage", "encode_latents") == 0
    assert not (folder / "d.npy").exists()  # another process may be at it
    monkeypatch.setattr(encode, "ABANDONED", -1.0)
    assert run(studio, "--stage", "encode_latents") == 0
    assert (folder / "d.npy").read_bytes() == before and not (folder / ".d.npy").exists()


def test_stretches_stay_inside_the_song(studio: dict[str, Path]) -> None:
    """Thousands of draws: a stretch at the end of a song once looked past its last window."""
    made = {}
    work = Workspace(read_config(studio["config"]), SongData(studio["data"]), studio["out"])
    work.run = lambda stage, model, batch, validate: made.update({stage: batch})
    token_stages.train_semantic_lm(work)
    diffusion_stages.train_diffusion(work)
    rng = np.random.default_rng(0)
    for _ in range(400):
        batch = made["semantic_lm"](0, rng)
        for thoughts, audio in zip(batch["thoughts"], batch["audio"], strict=True):
            assert 0 < len(audio) <= 375 and thoughts.shape[1] == -(-len(audio) // 250)
    for _ in range(100):
        batch = made["diffusion"](0, rng)
        assert batch["latents"].shape == (2, 8, 125) and batch["codes"].shape == (2, 101)
        assert batch["clap"].shape == (2, 3, 16) and (batch["start_seconds"] >= 0).all()
        assert (batch["total_seconds"] - batch["start_seconds"] >= 4 - 1e-3).all()  # one window


def test_windows_of_diffusion_hear_their_own_codes(studio: dict[str, Path]) -> None:
    """Codes count up in a song whose latents count up too: each latent must read its own code, and
    its own chord; songs that come later are drawn from as well.
    """
    work = Workspace(read_config(studio["config"]), SongData(studio["data"]), studio["out"])
    config = {**diffusion_stages.diffusion_config(work), "harmony": True}
    found = encoded.Encoded(work, work.data.training, text_share=0.5, latents=125).songs
    for _, song in found:
        song["codes"] = np.arange(len(song["codes"]), dtype=np.int32)
        song["latents"] = np.repeat(np.arange(500.0)[:, None], 8, axis=1)
    pool = diffusion_stages.WindowPool(config, work.rvq(), text_share=0.5, bare=0.0, device="cpu")
    chorded = [(replace(entry, chords=((0.0, "Am"), (7.0, "F"))), song) for entry, song in found]
    pool.add(chorded[:1])
    pool.add(chorded[1:])
    assert len(pool) == len(found)
    model = SemanticDiffusion(**config)
    for seed in range(20):
        batch = pool.draw(8, torch.Generator().manual_seed(seed))
        read = model.resample_codes(batch["codes"], 125, batch["frame_offset"])
        frame = batch["latents"][:, 0].double()
        assert torch.equal(read, ((frame + 0.5) * 25 / 31.25).floor().long())
        late = (frame + 0.5) / 31.25 >= 7.0
        roots = torch.where(late, 12 + 5, 12 + 9)  # F, A
        assert batch["harmony"].gather(2, roots[..., None]).all()
    again = pool.draw(8, torch.Generator().manual_seed(19))
    assert all(torch.equal(again[name], batch[name]) for name in batch)


def test_songs_join_while_a_stage_trains(studio: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "songs"
    folder.mkdir()
    for file in studio["data"].iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    records = json.loads((folder / "metadata.json").read_text())
    (folder / "metadata.json").write_text(json.dumps(records[:-1]))
    work = Workspace(read_config(studio["config"]), SongData(folder), studio["out"])
    songs = encoded.Encoded(work, work.data.training, text_share=0.5, growing=True)
    count = len(songs.songs)
    (folder / "metadata.json").write_text(json.dumps(records))
    assert songs.look() == []  # it looks every few seconds
    songs.looked -= encoded.LOOK
    assert len(songs.look()) == 1 and len(songs.songs) == count + 1
    songs.looked -= encoded.LOOK
    assert songs.look() == []


@pytest.mark.parametrize("workers", [1, 2])
def test_processes_build_the_batches_that_a_thread_does(tmp_path: Path, workers: int) -> None:
    expected = Trainer(Regression(), draw, check, STEADY, tmp_path / "thread")
    expected.run()
    found = Trainer(Regression(), draw, check, STEADY, tmp_path / "processes", workers=workers)
    found.run()
    assert found.network.losses == expected.network.losses


def test_several_songs_are_encoded_as_one_by_one(
    studio: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a GPU does it: in batches of one length, here on the CPU, against files made alone."""
    monkeypatch.setattr(encode, "_size", lambda device: 3)
    out = tmp_path / "out"
    out.mkdir()
    for part in studio["out"].iterdir():
        if part.name != "encoded":
            (out / part.name).symlink_to(part)
    work = Workspace(read_config(studio["config"]), SongData(studio["data"]), out)
    encode.encode(work)
    encode.encode_latents(work)
    for file in sorted((studio["out"] / "encoded").glob("*.npz")):
        with np.load(file) as alone, np.load(out / "encoded" / file.name) as together:
            np.testing.assert_array_equal(together["codes"], alone["codes"])
            for name in ("clap", "text", "window_text"):
                np.testing.assert_allclose(together[name], alone[name], atol=0.02)  # bfloat16
        one, other = (np.load(f / "encoded" / f"{file.stem}.npy") for f in (studio["out"], out))
        np.testing.assert_allclose(one.astype(float), other.astype(float), atol=0.1)


def test_a_guided_student_needs_one_row(studio: dict[str, Path], tmp_path: Path) -> None:
    """Its loss begins at what guidance adds and falls; assemble then turns guidance off."""
    out = tmp_path / "out"
    out.mkdir()
    for part in studio["out"].iterdir():
        if part.name != "checkpoint":
            (out / part.name).symlink_to(part)
    config = yaml.safe_load(studio["config"].read_text())
    guided = {**config["training"]["diffusion"], "steps": 30, "learning_rate": 3e-3}
    config["training"]["diffusion_guided"] = guided
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    flags = ["--config", str(file), "--data", str(studio["data"]), "--out", str(out)]
    assert command.main([*flags, "--stage", "diffusion_guided", "assemble"]) == 0
    log = json.loads((out / "diffusion_guided" / "log.json").read_text())
    assert math.isfinite(log["valid"][-1]["loss"])
    made = json.loads((out / "checkpoint" / "config.json").read_text())
    assert made["sampling"]["diffusion_guidance"] == 1.0
    assert "progressions" in made["usual_harmony"]
    assert "melody" in made["wording"]["known"].split() and "without" in made["wording"]


def test_round_trip_of_the_reference(stirred: dict[str, Path], tmp_path: Path) -> None:
    model = MusicotReference.from_pretrained(stirred["torch"])
    tokenizer = clap_parts.Tokenizer.from_file(str(stirred["torch"] / "tokenizer.json"))
    model.save_pretrained(tmp_path, tokenizer)
    again = MusicotReference.from_pretrained(tmp_path)
    assert again.config == model.config and not again.training
    state, expected = again.state_dict(), model.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[key], expected[key]) for key in expected)
    for name in ("config.json", "tokenizer.json"):
        assert (tmp_path / name).read_text() == (stirred["torch"] / name).read_text()


def test_trained_model_plays_in_mlx(studio: dict[str, Path], tmp_path: Path) -> None:
    from musicot_mlx.cli import main

    paths = ["--hf-path", str(studio["out"] / "checkpoint"), "--mlx-path", str(tmp_path / "mlx")]
    assert main(["convert", *paths]) == 0
    model = mc.load(tmp_path / "mlx")
    song = model.generate("melody number 1", duration=2, seed=3, tags=["piano"])
    assert song.waveform.shape == (16000, 2) and np.isfinite(song.waveform).all()
    assert song.codes.shape == (1, 50) and song.plan.codes.shape == (3, 1)
    again = model.generate("melody number 1", duration=2, seed=3, tags=["piano"])
    np.testing.assert_array_equal(song.waveform, again.waveform)


def test_reference_plays_by_itself(stirred: dict[str, Path]) -> None:
    model = MusicotReference.from_pretrained(stirred["torch"])
    draws = [torch.Generator().manual_seed(0) for _ in range(2)]
    clap = nn.functional.normalize(torch.randn(16, generator=draws[0]), dim=0)
    torch.randn(16, generator=draws[1])
    one, two = (model.generate(clap, duration=1.0, generator=draw) for draw in draws)
    assert one.shape == (8000, 2) and one.isfinite().all() and torch.equal(one, two)


@torch.no_grad()
def test_chain_is_that_of_the_reference(stirred: dict[str, Path]) -> None:
    """Prompt, plan, codes, latents, waveform: MLX beside PyTorch, greedy, from one noise."""
    from musicot_mlx.generation import diffusion

    model, reference = mc.load(stirred["mlx"]), MusicotReference.from_pretrained(stirred["torch"])
    tokenizer = clap_parts.Tokenizer.from_file(str(stirred["torch"] / "tokenizer.json"))
    prompt, seconds, options = "a melody", 3.0, {"tags": ["etude", "piano"], "lyrics": "la la"}
    vector = embed_text(reference.clap, *tokenize(tokenizer, [prompt], 64))[0]
    options["chords"] = ["Am F", "C"]
    plan = model.plan(prompt, duration=seconds, thought_temperature=0.0, **options)
    chords = plan.chord_changes()
    assert [chord for _, chord in chords[:2]] == ["Am", "F"]
    np.testing.assert_allclose(plan.vector, vector.numpy(), rtol=1e-4, atol=1e-5)

    vocabulary = reference.semantic_lm.vocabulary
    known = reference.config["semantic_lm"]["tags"]
    tags = [vocabulary.tag_id(known.index(tag)) for tag in options["tags"]]
    lyrics = vocabulary.lyrics_ids(
        options["lyrics"], lambda text: tokenizer.encode(text, add_special_tokens=False).ids
    )
    given = torch.from_numpy(plan.vector)
    thoughts = reference.semantic_lm.plan_thoughts(given, tags, lyrics, segments=1, temperature=0.0)
    np.testing.assert_array_equal(plan.codes, thoughts)
    vectors = reference.thought_vectors(torch.from_numpy(thoughts).long())
    np.testing.assert_allclose(plan.embeddings, vectors.numpy(), rtol=1e-5, atol=1e-6)

    frames = round(seconds * 25)
    song = model.generate(plan=plan, audio_temperature=0.0)
    codes = reference.semantic_lm.audio_tokens(
        given, tags, lyrics, thoughts=thoughts, frames=frames, temperature=0.0, chords=chords
    )
    np.testing.assert_array_equal(song.codes[0], codes)
    assert len(set(codes.tolist())) > 3  # a chain worth comparing

    latent_frames = math.ceil(seconds * 31.25)
    noise = np.random.default_rng(0).standard_normal((1, latent_frames, 8)).astype(np.float32)
    clap = torch.cat([given[None], vectors])[None]
    sampling = {"steps": 4, "guidance_scale": 2.0}
    told = harmony_features(chords, latent_frames, frame_rate=31.25)[None]
    expected = reference.diffusion.sample(
        torch.from_numpy(codes).long()[None],
        clap,
        torch.zeros(1),
        torch.full((1,), seconds),
        frames=latent_frames,
        noise=torch.from_numpy(noise).transpose(1, 2).contiguous(),
        harmony=torch.from_numpy(told),
        **sampling,
    ).transpose(1, 2)  # (batch, time, latent_dim)
    found = diffusion.sample(
        model.diffusion,
        mx.array(song.codes),
        mx.array(clap.numpy()),
        mx.zeros(1),
        mx.full((1,), seconds),
        noise=mx.array(noise),
        harmony=mx.array(told),
        **sampling,
    )
    assert difference(found, expected) < 1e-4
    waveform = model.vae.decode(found)
    assert difference(waveform, reference.vae.decode(expected)) < 1e-4
    assert np.abs(np.array(waveform)).max() > 1e-3


def difference(found: mx.array, expected: "torch.Tensor") -> float:
    """Largest difference, relative to the largest value expected."""
    expected = expected.numpy()
    assert found.shape == expected.shape
    return float(np.abs(np.array(found) - expected).max() / np.abs(expected).max())


# --- what is refused ------------------------------------------------------------------------------


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
