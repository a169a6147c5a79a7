"""The summary of a training: curves thinned without losing their means, stages in order."""

import importlib.util
import json
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "training.py"
spec = importlib.util.spec_from_file_location("training_summary", SCRIPT)
training = importlib.util.module_from_spec(spec)
spec.loader.exec_module(training)


def write(folder: Path, stage: str, rows: int) -> None:
    (folder / stage).mkdir(parents=True)
    log = {
        "config": {"steps": 50, "max_minutes": "inf", "seed": 0, "validate_minutes": 5.0},
        "train": [{"step": i, "minutes": i / 7, "loss": float(i)} for i in range(rows)],
        "valid": [{"step": 9, "minutes": 1.23456, "loss": 0.123456}],
        "best": [],
    }
    (folder / stage / "log.json").write_text(json.dumps(log))


def test_curves_are_thinned(tmp_path: Path) -> None:
    write(tmp_path, "tagger", 3)
    write(tmp_path, "semantic_lm", 200)
    write(tmp_path, "vae", 41)
    assert training.main([str(tmp_path), "--json", str(tmp_path / "a.json")]) == 0
    found = json.loads((tmp_path / "a.json").read_text())
    assert list(found) == ["vae", "semantic_lm", "tagger"]
    curve = found["semantic_lm"]["train"]
    assert len(curve) == 40 and curve[0] == {"step": 4, "minutes": 0.5714, "loss": 2.0}
    assert sum(point["loss"] for point in curve) / 40 == pytest.approx(99.5)
    assert [p["loss"] for p in found["tagger"]["train"]] == [0, 1, 2]
    assert found["vae"]["train"][-1]["step"] == 40
    assert found["vae"]["valid"] == [{"step": 9, "minutes": 1.235, "loss": 0.1235}]
    assert found["vae"]["config"] == {"steps": 50}


def test_no_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert training.main([str(tmp_path)]) == 2
    assert "holds no stage" in capsys.readouterr().err
