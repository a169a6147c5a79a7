"""musicot lora on MuMu-LLaMA: three stages on one's own sets, worn by a freshly loaded model."""

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import soundfile
from PIL import Image

torch = pytest.importorskip("torch")
pytest.importorskip("sentencepiece")

import musicot_mlx as mc  # noqa: E402
from musicot_mlx.cli import main  # noqa: E402
from musicot_mlx.convert.convert import convert  # noqa: E402
from musicot_mlx.errors import MusicotWarning  # noqa: E402
from musicot_mlx.training import trainer  # noqa: E402
from musicot_mlx.weights.adapters import read_adapters  # noqa: E402
from tests.support import tiny_mumu_checkpoint as tiny  # noqa: E402

RATE, ANSWERS = 24000, ["drums", "piano"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose gates are closed, as published ones may be."""
    folder = tmp_path_factory.mktemp("mumu")
    tensors = tiny.state("split", None)
    for key, value in tensors.items():
        if key.endswith("attention.gate"):
            value.zero_()
    convert(tiny.write(folder / "source", tensors=tensors), folder / "mlx", dtype="float32")
    return folder / "mlx"


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets")
    rng = np.random.default_rng(0)
    for number in range(4):
        time = np.arange(RATE // 2) / RATE
        loud = np.sin(2 * np.pi * 220 * time) if number % 2 else rng.normal(size=len(time))
        soundfile.write(folder / f"{number}.wav", 0.2 * loud, RATE)
    colour = Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8))
    colour.save(folder / "a.png")

    def entry(said: str, answer: str, file: str, source: str, music: bool = False) -> dict:
        kind = "audio" if music else "text"
        return {
            "input_file": file,
            "output_file": "1.wav" if music else "",
            "conversations": [
                {"from": "human", "value": said, "input_modality": source},
                {"from": "gpt", "value": answer, "output_modality": kind, "caption": answer},
            ],
        }

    asked = "What instruments play?"
    questions = [entry(asked, (2 * ANSWERS)[n], f"{n}.wav", "audio") for n in range(4)]
    pictures = [entry("Make music for this picture", "slow piano", "a.png", "image", True)]
    music = [entry("Make jazz", "slow jazz", "", "text", True)] * 4
    files = {
        "questions": questions,
        "edits": pictures,
        "captions": questions,
        "instructions": music,
    }
    for name, entries in files.items():
        (folder / f"{name}.json").write_text(json.dumps(entries))
    return folder


def tune(model: Path, sets: Path, folder: Path, *words: str) -> int:
    command = ["lora", "--train", "--model", str(model), "--data", str(sets), "--adapter-path"]
    command += [str(folder), "--cache-dir", str(sets / "cache"), "--batch-size", "2"]
    settings = [
        "--steps-per-eval",
        "10",
        "--save-every",
        "10",
        "--learning-rate",
        "3e-3",
        "--scale",
        "2",
    ]
    return main([*command, *settings, *words])


def test_answers_open_the_gates_and_are_worn(
    model: Path, sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = tmp_path / "adapter"
    assert tune(model, sets, folder, "--part", "answers", "--iters", "80") == 0
    out = capsys.readouterr().out
    assert "gates are open to 0." in out
    assert "5 exchanges" in out and "adapter keys applied to a freshly loaded model" in out
    losses = json.loads((folder / "losses.json").read_text())["train"]
    assert np.mean(losses[-4:]) < 0.5 * np.mean(losses[:4])
    (adapter,) = read_adapters(folder)
    assert adapter.whole and adapter.kind == "lora"
    assert {"llama.gates", "llama.queries", "words.norm.weight"} <= set(adapter.arrays)
    assert {"words.lm_head.lora_a", "words.embed_tokens.lora_b"} <= set(adapter.arrays)
    assert "bridges.audio.proj.lora_b" in adapter.arrays
    assert "bridges.audio.pool.weight" in adapter.arrays
    assert not [key for key in adapter.arrays if key.startswith(("mert", "vit", "vivit"))]
    worn = mc.load(str(model), adapter_path=str(folder))
    assert worn.adapter_keys == len(adapter.arrays)
    (llama,) = worn.shelf("llama")
    assert mx.abs(llama.gates).max().item() > 1e-3, "gates stayed closed"
    assert mx.array_equal(llama.gates, adapter.arrays["llama.gates"])
    file = str(sets / "1.wav")
    with pytest.warns(MusicotWarning, match="all gates are closed"):
        before = mc.load(str(model)).ask("What instruments play?", audio=file, answer_temperature=0)
    after = worn.ask("What instruments play?", audio=file, answer_temperature=0)
    assert before.text not in ANSWERS and after.text in ANSWERS and not after.music


def test_a_run_goes_on_as_if_unbroken(model: Path, sets: Path, tmp_path: Path) -> None:
    words = ["--part", "captions", "--iters", "20"]
    assert tune(model, sets, tmp_path / "whole", *words) == 0
    evaluate = trainer.Trainer.evaluate

    def stopping(self, items) -> float:
        if self.step == 20:
            raise KeyboardInterrupt
        return evaluate(self, items)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer.Trainer, "evaluate", stopping)
        assert tune(model, sets, tmp_path / "half", *words) == 130
    assert tune(model, sets, tmp_path / "half", *words, "--resume") == 0
    whole, half = (read_adapters(tmp_path / name)[0].arrays for name in ("whole", "half"))
    assert set(whole) == set(half)
    assert all(mx.array_equal(whole[key], half[key]) for key in whole)


def test_music_is_learned_as_a_token(model: Path, sets: Path, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    assert tune(model, sets, folder, "--part", "music", "--iters", "80") == 0
    worn = mc.load(str(model), adapter_path=str(folder))
    answer = worn.ask("Make jazz", answer_temperature=0.0)
    assert answer.text == "slow jazz" and answer.music


def test_everything_can_be_tuned_in_full_and_fused(
    model: Path, sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = tmp_path / "adapter"
    words = ["--part", "answers", "--iters", "10", "--fine-tune-type", "full"]
    assert tune(model, sets, folder, *words, "--learning-rate", "1e-3") == 0
    (adapter,) = read_adapters(folder)
    assert "llama.gates" in adapter.arrays and "words.lm_head.weight" in adapter.arrays
    assert not [key for key in adapter.arrays if "value_lora" in key]
    fused = tmp_path / "fused"
    command = ["fuse", "--model", str(model), "--adapter-path", str(folder)]
    assert main([*command, "--save-path", str(fused)]) == 0
    file = str(sets / "0.wav")
    said = [
        each.ask("What instruments play?", audio=file, answer_temperature=0.0).text
        for each in (mc.load(str(model), adapter_path=str(folder)), mc.load(str(fused)))
    ]
    assert said[0] == said[1]


def test_data_that_is_none_is_told(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "sets").mkdir()
    assert tune(model, tmp_path / "sets", tmp_path / "adapter", "--part", "answers") == 2
    err = capsys.readouterr().err
    assert "holds no questions.json or edits.json; musicot dataset makes them" in err
    assert tune(model, tmp_path / "sets", tmp_path / "adapter", "--part", "llama") == 2
    assert "captions, music, answers can be tuned" in capsys.readouterr().err
