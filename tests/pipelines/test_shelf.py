"""Parts loaded when they are needed: adapters find them, what would not fit stays packed."""

import json
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

pytest.importorskip("torch")
pytest.importorskip("sentencepiece")

import musicot_mlx as mc  # noqa: E402
from musicot_mlx.convert.convert import convert  # noqa: E402
from musicot_mlx.errors import MusicotError  # noqa: E402
from musicot_mlx.generation import device  # noqa: E402
from musicot_mlx.pipelines import memory  # noqa: E402
from musicot_mlx.pipelines.requantize import store_with_bits  # noqa: E402
from tests.support import tiny_mumu_checkpoint as tiny  # noqa: E402

IDS = mx.array([[1, 300, 7, 31, 9]])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("shelf")
    convert(tiny.write(place / "source"), place / "model", dtype="float32")
    return place / "model"


def _logits(model) -> np.ndarray:
    llama, words = model.shelf("llama", "words")
    return np.array(words.logits(llama(words.embed(IDS), offsets=llama.offsets({}))))


def _adapter(place: Path, path: str, inputs: int, outputs: int) -> Path:
    place.mkdir()
    keys = mx.random.split(mx.random.key(0), 2)
    arrays = {
        f"{path}.lora_a": 0.3 * mx.random.normal((inputs, 2), key=keys[0]),
        f"{path}.lora_b": 0.3 * mx.random.normal((2, outputs), key=keys[1]),
    }
    mx.save_safetensors(str(place / "adapters.safetensors"), arrays)
    about = {"fine_tune_type": "lora", "lora_parameters": {"scale": 1.0, "rank": 2}}
    (place / "adapter_config.json").write_text(json.dumps(about))
    return place


def test_nothing_is_read_before_it_is_needed(folder: Path) -> None:
    model = mc.load(folder)
    assert model.shelf.here == ()
    model.shelf("bridges")
    assert model.shelf.here == ("bridges",)


def test_an_adapter_waits_for_its_part(folder: Path, tmp_path: Path) -> None:
    adapter = _adapter(tmp_path / "adapter", "llama.layers.3.self_attn.q_proj", 64, 64)
    model = mc.load(folder, adapter_path=adapter)
    assert model.adapter_keys == 2 and model.adapters == (str(adapter),)
    assert np.abs(_logits(model) - _logits(mc.load(folder))).max() > 1e-3
    assert model.settings("x")["adapter_path"] == [str(adapter)]
    strange = _adapter(tmp_path / "strange", "decoder.layers.0.q", 64, 64)
    with pytest.raises(MusicotError, match="changes decoder.layers.0.q, which"):
        mc.load(folder, adapter_path=strange)


@pytest.fixture(scope="module")
def four_bits(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return store_with_bits(folder, tmp_path_factory.mktemp("bits") / "four", bits=4, group_size=32)


def test_fewer_bits_spare_what_suffers(four_bits: Path) -> None:
    quantization = json.loads((four_bits / "config.json").read_text())["quantization"]
    assert quantization["words"]["bits"] == quantization["bridges"]["bits"] == 8
    assert quantization["bits"] == 4 and quantization["mert"] is False
    assert (four_bits / "tokenizer.json").is_file()


def test_what_would_fill_the_memory_stays_packed(
    four_bits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU: the same numbers, and as many bytes as memory.py says of either way."""
    config = json.loads((four_bits / "config.json").read_text())
    expanded = mc.load(four_bits)
    expected = _logits(expanded)
    layer = expanded.shelf("llama", "words")[0].layers[0].mlp.up_proj
    assert type(layer) is nn.Linear
    _check_bytes(expanded, memory.weight_bytes(four_bits, config))
    monkeypatch.setattr(device, "memory_bytes", lambda: 1 << 20)
    small = mc.load(four_bits)
    found = _logits(small)
    layer = small.shelf("llama", "words")[0].layers[0].mlp.up_proj
    assert isinstance(layer, nn.QuantizedLinear) and layer.scales.dtype == mx.float32
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
    _check_bytes(small, memory.weight_bytes(four_bits, config))


def _check_bytes(model, said: dict[str, tuple[int, int]]) -> None:
    for name in ("llama", "words"):
        (network,) = model.shelf(name)
        assert sum(v.nbytes for _, v in tree_flatten(network.parameters())) == said[name][1]
