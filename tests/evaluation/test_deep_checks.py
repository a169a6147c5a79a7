"""doctor --deep: what it compares, and what it says of a device that computes wrongly.

On the CPU each check compares it with itself. That the figures stay in their bounds on Metal is
what the command is for: nothing here can tell it.
"""

import json

import mlx.core as mx
import pytest

from musicot_mlx.cli import main
from musicot_mlx.evaluation import deep_checks, deep_networks
from musicot_mlx.pipelines.families import load

QUICK = ("float32", "fourier", "spectrograms", "attention", "draws")


@pytest.fixture
def tiny(tiny_model, monkeypatch: pytest.MonkeyPatch):
    """The 16-channel model in the place of the embedded one."""
    deep_checks._model.cache_clear()
    monkeypatch.setattr(deep_checks, "load", lambda name: load(tiny_model))
    yield
    deep_checks._model.cache_clear()


def test_this_device_is_within_its_bounds() -> None:
    outcomes = list(deep_checks.run(QUICK))
    assert len(outcomes) >= 12
    assert [str(outcome) for outcome in outcomes if not outcome.ok] == []
    assert len({outcome.name for outcome in outcomes}) == len(outcomes)


def test_a_device_that_computes_wrongly_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if products were TF32, and a Fourier transform dropped out."""
    real = mx.fft.rfft
    monkeypatch.setattr(mx.fft, "rfft", lambda x, *a, **k: 0.999 * real(x, *a, **k))
    found = {outcome.name: outcome.ok for outcome in deep_checks.run(("fourier",))}
    assert not found["rfft 1024"] and found["irfft 2048"]


def test_every_network_of_every_family_has_a_line(tiny) -> None:
    outcomes = list(deep_checks.run(("families",)))
    assert [str(outcome) for outcome in outcomes if not outcome.ok] == []
    assert len({outcome.name for outcome in outcomes}) == len(outcomes) >= 14
    known = {network for _, _, network in deep_networks.networks()}
    embedded = {network for network, _ in deep_checks._model().family.get("parts").values()}
    assert known == deep_networks.EXAMPLES.keys() | embedded


def test_networks_and_batches(tiny) -> None:
    outcomes = list(deep_checks.run(("batch", "quantised", "gradients")))
    assert [str(outcome) for outcome in outcomes if not outcome.ok] == []


def test_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fails() -> None:
        raise RuntimeError("no kernel of that name")

    checks = {"float32": deep_checks.CHECKS["float32"]}
    monkeypatch.setattr(deep_checks, "run", lambda real=deep_checks.run: real(list(checks)))
    monkeypatch.setattr(deep_checks, "CHECKS", checks)
    code = main(["doctor", "--deep"])
    assert "product of 512 rows" in capsys.readouterr().out
    checks["broken"] = fails
    assert main(["doctor", "--deep", "--json"]) == 1 and code == main(["doctor"])
    rows = {}
    for line in capsys.readouterr().out.splitlines():
        if line.startswith("["):
            rows = {row["what"]: row for row in json.loads(line)}
    assert rows["broken"]["state"] == "LOOK" and "no kernel" in rows["broken"]["found"]
    assert rows["product of 512 rows"]["state"] == "ok"
