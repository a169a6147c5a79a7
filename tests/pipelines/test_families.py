"""One folder and one line make a family: all commands know the toy, and none knows its name."""

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import soundfile

import musicot_mlx as mc
from musicot_mlx.cli import main
from musicot_mlx.errors import MusicotError
from musicot_mlx.evaluation.speed import bench as speed
from musicot_mlx.pipelines import families, memory
from musicot_mlx.weights import cache


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(families.FAMILIES, "toy", "tests.support.toy_family:FAMILY")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy as toyland saves it."""
    folder = tmp_path_factory.mktemp("toyland")
    config = {"architectures": ["ToyModel"], "model_type": "toyland", "width": 32}
    (folder / "config.json").write_text(json.dumps(config))
    keys = iter(mx.random.split(mx.random.key(0), 4))
    shapes = {
        "layers.0.weight": (32, 8),
        "layers.0.bias": (32,),
        "layers.1.weight": (1, 32),
        "layers.1.bias": (1,),
    }
    arrays = {name: 0.3 * mx.random.normal(size, key=next(keys)) for name, size in shapes.items()}
    mx.save_safetensors(str(folder / "model.safetensors"), arrays)
    return folder


@pytest.fixture
def toy(checkpoint: Path, tmp_path: Path) -> Path:
    """The same as an MLX folder."""
    assert main(["convert", "--hf-path", str(checkpoint), "--mlx-path", str(tmp_path / "toy")]) == 0
    return tmp_path / "toy"


def test_each_has_its_longest_song() -> None:
    longest = {"magenta_rt2": 600, "clap": None, "rvq": None}
    for family in families.known():
        seconds = longest.get(family.model_type, 300)
        family.require_duration(seconds or 1e9)
        if seconds:
            with pytest.raises(MusicotError, match=f"render_seconds is .*; ask for 1 to {seconds}"):
                family.require_duration(seconds + 1, "render_seconds")


def test_a_checkpoint_is_loaded_and_sings(checkpoint: Path, tmp_path: Path) -> None:
    model = mc.load(checkpoint)
    assert model.family.title == "Toy" and any("toyland" in name for name, *_ in cache.entries())
    song = model.generate("hum", duration=3, seed=2, wobble=0.5)
    np.testing.assert_array_equal(
        song.waveform, np.concatenate(list(model.stream("hum", duration=3, seed=2, wobble=0.5)))
    )
    assert song.save(tmp_path / "a.wav")
    assert json.loads((tmp_path / "a.json").read_text())["wobble"] == 0.5
    with pytest.raises(TypeError, match="did you mean wobble"):
        model.generate("hum", woble=1)
    with pytest.raises(MusicotError, match="wobble is 2; ask for 0 to 1"):
        model.generate("hum", wobble=2)


def test_generate(toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["generate", "--model", str(toy), "-p", "hum", "--duration", "2"]
    whole, streamed = tmp_path / "a.wav", tmp_path / "b.wav"
    assert main([*command, "-o", str(whole), "--max-memory-gb", "1"]) == 0
    assert main([*command, "-o", str(streamed), "--stream"]) == 0
    assert whole.read_bytes() == streamed.read_bytes()
    assert main([*command, "-o", str(whole), "--wobble", "0.75", "--overwrite"]) == 0
    assert json.loads(whole.with_suffix(".json").read_text())["wobble"] == 0.75
    assert main([*command, "--steps", "3"]) == 2
    assert "a Toy model; leave it out" in capsys.readouterr().err
    assert main(["plan", "--model", str(toy), "-p", "hum"]) == 2
    assert "makes no plan of thoughts" in capsys.readouterr().err


def test_memory_and_bench(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = memory.predict(toy, duration=10)
    assert found.stages == {"humming": 4 * 32 * 8000} and found.waveform == 4 * 8000 * 10
    # a fresh process would have to be told of the toy
    monkeypatch.setattr(
        speed, "fresh_process", lambda command, order: json.dumps(speed.one_run(order))
    )
    assert main(["bench", "--model", str(toy), "--duration", "2", "-n", "1", "--bits", "16"]) == 0
    assert "| humming |" in capsys.readouterr().out


def test_lora(toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    songs = tmp_path / "songs"
    songs.mkdir()
    for number in range(3):
        tone = np.sin(np.arange(6 * 8000) * (0.1 + 0.01 * number)) * 0.1 * (1 + number)
        soundfile.write(songs / f"{number}.wav", tone, 8000)
        (songs / f"{number}.txt").write_text("a hum\n")
    adapter = tmp_path / "adapter"
    command = ["lora", "--model", str(toy), "--train", "--data", str(songs), "--iters", "4"]
    command += ["--render-seconds", "0", "--adapter-path", str(adapter)]
    command += ["--cache-dir", str(tmp_path / "cache"), "--steps-per-eval", "2"]
    assert main(command) == 0
    assert "4 adapter keys applied" in capsys.readouterr().out
    assert mc.load(toy, adapter_path=adapter).adapter_keys == 4


def test_doctor_and_docs_know_it(capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor"])
    assert (
        "MusiCoT, MusicGen, Magenta RealTime 2, MuMu-LLaMA, CLAP, RVQ, Toy"
        in capsys.readouterr().out
    )
    assert "| Toy (`toy`) | hum | yes |  | hum | Toy of toyland |" in families.table()


def test_the_docs_hold_the_table_of_families(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(families.FAMILIES, "toy")
    page = Path(__file__).resolve().parents[2] / "docs" / "architecture.md"
    assert f"<!-- families -->\n{families.table()}\n" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("family", families.known(), ids=lambda family: family.title)
def test_what_a_record_names_is_there(family: families.Family) -> None:
    pytest.importorskip("torch")  # what is compared with it
    for what in ("parts", "load", "options", "memory", "costs", "check"):
        assert bool(family.get(what)) == bool(getattr(family, what))
    assert all(families.named(reader) for reader in family.readers)
    assert all(family.task(part).part == part for part in family.tasks)
