"""The loop of pretraining: resumed, accumulated, averaged, validated."""

import ast
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")
soundfile = pytest.importorskip("soundfile")
yaml = pytest.importorskip("yaml")

from torch import nn  # noqa: E402

from musicot_mlx.errors import MusicotError, RunError  # noqa: E402
from musicot_mlx.reference import trainer  # noqa: E402
from musicot_mlx.reference.trainer import Trainer, TrainingConfig, load_weights  # noqa: E402

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


@pytest.mark.parametrize("workers", [1, 2])
def test_processes_build_the_batches_that_a_thread_does(tmp_path: Path, workers: int) -> None:
    expected = Trainer(Regression(), draw, check, STEADY, tmp_path / "thread")
    expected.run()
    found = Trainer(Regression(), draw, check, STEADY, tmp_path / "processes", workers=workers)
    found.run()
    assert found.network.losses == expected.network.losses
