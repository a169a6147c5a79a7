"""Checkpoint folders: configs, strict loading, atomic saving, the Hub."""

import errno
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import mlx.core as mx
import mlx.nn as nn
import pytest
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from mlx.utils import tree_flatten

from musicot_mlx.errors import MusicotError, RunError
from musicot_mlx.weights import checkpoint, hub
from musicot_mlx.weights.config import config_from_dict, config_to_dict

try:
    import httpx2 as http  # what huggingface-hub asks by from 2.0 on
except ModuleNotFoundError:
    import httpx as http


@dataclass(frozen=True)
class Inner:
    width: int
    rate: float = 1.0


@dataclass(frozen=True)
class Outer:
    inner: Inner
    shape: tuple[int, ...] = (1,)
    mode: Literal["a", "b"] = "a"
    names: list[str] = field(default_factory=list)
    limit: int | None = None

    def __post_init__(self) -> None:
        if self.inner.width % 2:
            raise ValueError("width must be even")


def test_config_round_trip() -> None:
    values = {"inner": {"width": 4, "rate": 2}, "shape": [1, 2], "names": ["x"], "limit": None}
    config = config_from_dict(Outer, values)
    assert config == Outer(Inner(4, 2.0), (1, 2), "a", ["x"])
    assert isinstance(config.inner.rate, float)
    assert config_from_dict(Outer, json.loads(json.dumps(config_to_dict(config)))) == config


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"inner": {"widht": 4}}, "Outer.inner: unknown field 'widht'; did you mean width?"),
        ({}, "missing field inner"),
        ({"inner": {"width": "4"}}, "Outer.inner.width: expected int, got '4'"),
        ({"inner": {"width": True}}, "expected int, got True"),
        ({"inner": {"width": 2.5}}, "expected int, got 2.5"),
        ({"inner": {"width": 3}}, "width must be even"),
        ({"inner": 3}, "expected an object, got 3"),
        ({"inner": {"width": 4}, "mode": "c"}, "expected one of 'a', 'b', got 'c'"),
        ({"inner": {"width": 4}, "shape": 3}, "Outer.shape: expected a list, got 3"),
        ({"inner": {"width": 4}, "limit": "x"}, "Outer.limit: expected int, got 'x'"),
    ],
)
def test_config_errors_name_the_field(values: dict, words: str) -> None:
    with pytest.raises(MusicotError, match="config Outer") as error:
        config_from_dict(Outer, values)
    assert words in str(error.value)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(8, 64)
        self.layers = [nn.Linear(64, 64), nn.Linear(64, 12)]
        self.norm = nn.LayerNorm(12)

    def __call__(self, ids: mx.array) -> mx.array:
        return self.norm(self.layers[1](self.layers[0](self.embed(ids))))


def _filled() -> tuple[Net, dict[str, mx.array]]:
    mx.random.seed(0)
    net = Net()
    return net, dict(tree_flatten(net.parameters()))


CONFIG = {"model_type": "musicot", "net": {}}


def _save(folder: Path, arrays: dict[str, mx.array], config: dict = CONFIG, **options) -> Path:
    prefixed = {f"net.{key}": value for key, value in arrays.items()}
    return checkpoint.save_checkpoint(folder, config, prefixed, {"README.md": "card"}, **options)


@pytest.mark.parametrize("shard_bytes", [checkpoint.SHARD_BYTES, 5000])
def test_save_load_round_trip(tmp_path: Path, shard_bytes: int) -> None:
    net, arrays = _filled()
    folder = _save(tmp_path / "a", arrays, shard_bytes=shard_bytes)
    assert checkpoint.read_config(folder) == CONFIG
    assert (folder / "README.md").read_text() == "card"
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == {f"net.{key}" for key in arrays}
    assert len(set(index["weight_map"].values())) == (1 if shard_bytes > 5000 else 3)
    found = checkpoint.part(checkpoint.load_arrays(folder), "net")
    again = checkpoint.prepare(Net(), CONFIG.get("quantization"), found)
    ids = mx.arange(8)[None]
    assert mx.array_equal(again(ids), net(ids))


def test_saving_over_a_folder_replaces_its_weights_and_keeps_other_files(tmp_path: Path) -> None:
    _, arrays = _filled()
    folder = _save(tmp_path / "a", arrays, shard_bytes=5000)
    (folder / "notes.txt").write_text("mine")
    _save(folder, arrays)
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "model.safetensors.index.json",
        "notes.txt",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize(
    ("failure", "kind", "words"),
    [
        (OSError(errno.ENOSPC, "full"), RunError, "no space left"),
        (RuntimeError("[read] no"), MusicotError, "can't read the weights"),
    ],
)
def test_failed_save_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception, kind: type, words: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise failure

    _, arrays = _filled()
    monkeypatch.setattr(checkpoint, "write_safetensors", fail)
    with pytest.raises(kind, match=words):
        _save(tmp_path / "a", arrays)
    assert not list(tmp_path.iterdir())


def test_written_files_are_safetensors(tmp_path: Path) -> None:
    arrays = {
        "half": mx.arange(5).astype(mx.bfloat16),
        "turned": mx.arange(12.0).reshape(3, 4).T,
        "scalar": mx.array(3.5),
        "none": mx.zeros((0, 3)),
        "bytes": mx.arange(3, dtype=mx.uint8),
        "long": mx.array([[1, 2], [3, 4]], dtype=mx.int64),
        "float16": mx.ones((7,), dtype=mx.float16),
    }
    left = dict(arrays)
    checkpoint.write_safetensors(tmp_path / "a.safetensors", left)
    assert not left
    found = mx.load(str(tmp_path / "a.safetensors"))
    assert set(found) == set(arrays)
    for name, value in arrays.items():
        assert found[name].dtype == value.dtype and mx.array_equal(found[name], value), name


def test_saving_lazy_arrays_holds_one_at_a_time(tmp_path: Path) -> None:
    size = 1_000_000  # numbers an array
    keys = mx.random.split(mx.random.key(0), 12)
    arrays = {f"a{i}": mx.random.normal((size,), key=keys[i]) for i in range(12)}
    seen = []
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    progress = {"consume": True, "progress": lambda done, total: seen.append((done, total))}
    checkpoint.save_checkpoint(tmp_path / "a", {}, arrays, **progress)
    assert not arrays and mx.get_peak_memory() - before < 4 * 4 * size
    assert seen[-1] == (48 * size, 48 * size) and len(seen) == 12
    lazy = checkpoint.load_arrays(tmp_path / "a", lazy=True)
    mx.reset_peak_memory()
    half = {key: value.astype(mx.float16) for key, value in lazy.items()}
    del lazy
    checkpoint.save_checkpoint(tmp_path / "b", {}, half, consume=True)
    assert mx.get_peak_memory() - before < 4 * 4 * size


def test_saving_refuses_what_is_not_finite(tmp_path: Path) -> None:
    arrays = {"net.big": mx.array([1e6]).astype(mx.float16)}
    with pytest.raises(MusicotError, match="net.big .* float16; .* --dtype bfloat16"):
        checkpoint.save_checkpoint(tmp_path / "a", {}, arrays)
    assert not list(tmp_path.iterdir())


def test_quantization_of_parts() -> None:
    whole = {"bits": 8, "group_size": 64, "mode": "affine"}
    config = {"quantization": {**whole, "codec": False, "decoder": {**whole, "bits": 4}}}
    assert checkpoint.quantization_of({}, "decoder") is None
    assert checkpoint.quantization_of(config, "codec") is None
    assert checkpoint.quantization_of(config, "decoder")["bits"] == 4
    assert checkpoint.quantization_of(config, "text_encoder")["bits"] == 8


@pytest.mark.parametrize("expand", [True, False], ids=["as on a CPU", "as on Metal"])
def test_quantised_folder(tmp_path: Path, expand: bool) -> None:
    net, arrays = _filled()
    half = {key: value.astype(mx.float16) for key, value in arrays.items()}
    packed = checkpoint.quantize_arrays(net, half, group_size=32, bits=8)
    assert "layers.0.scales" in packed and "norm.scales" not in packed
    config = {**CONFIG, "quantization": {"group_size": 32, "bits": 8}}
    found = checkpoint.part(checkpoint.load_arrays(_save(tmp_path / "a", packed, config)), "net")
    dtype = mx.float32 if expand else mx.float16
    again = checkpoint.prepare(Net(), config["quantization"], found, expand=expand)
    assert isinstance(again.layers[0], nn.Linear if expand else nn.QuantizedLinear)
    out = again(mx.arange(8)[None])
    assert out.dtype == dtype
    assert mx.abs(out - net(mx.arange(8)[None])).max().item() < 0.05
    assert checkpoint.parameter_count(config, packed) == sum(x.size for x in arrays.values())


def test_strict_loading_lists_each_kind() -> None:
    net, arrays = _filled()
    del arrays["embed.weight"]
    arrays["norm.bias"] = mx.zeros(3)
    arrays["layers.7.weight"] = mx.zeros(3)
    with pytest.raises(MusicotError) as error:
        checkpoint.load_strict(net, arrays, where="net")
    text = str(error.value)
    assert "1 missing (embed.weight (" in text
    assert "1 unexpected (layers.7.weight (" in text
    assert "norm.bias is (3,), the config says (12,)" in text


def test_stray_parts_are_named() -> None:
    with pytest.raises(MusicotError, match="1 keys belong to no part: b.x"):
        checkpoint.require_parts({"a.x": mx.zeros(1), "b.x": mx.zeros(1)}, ["a"], where="f")


@pytest.mark.parametrize("kept", [4, 40, 0.5])
def test_truncated_weights(tmp_path: Path, kept: float) -> None:
    _, arrays = _filled()
    path = _save(tmp_path / "a", arrays) / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[: kept if kept > 1 else int(len(data) * kept)])
    with pytest.raises(MusicotError, match="truncated"):
        checkpoint.load_arrays(path.parent)


def test_nan_weights_are_named(tmp_path: Path) -> None:
    _, arrays = _filled()
    folder = _save(tmp_path / "a", arrays)
    broken = mx.load(str(folder / "model.safetensors"))
    broken["net.norm.weight"] = mx.array([float("nan")] * 12)
    mx.save_safetensors(str(folder / "model.safetensors"), broken)
    with pytest.raises(MusicotError, match="NaN or infinite weights in net.norm.weight"):
        checkpoint.load_arrays(folder)


def test_missing_shard_and_broken_index(tmp_path: Path) -> None:
    _, arrays = _filled()
    folder = _save(tmp_path / "a", arrays, shard_bytes=5000)
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(MusicotError, match="model-00002-of-00003.safetensors is missing"):
        checkpoint.load_arrays(folder)
    (folder / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(MusicotError, match="not a valid index"):
        checkpoint.load_arrays(folder)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "holds no config.json"),
        ({"pytorch_model.bin": ""}, "musicot convert"),
        ({"config.json": "{"}, "not valid JSON"),
        ({"config.json": "[]"}, "JSON object"),
        ({"config.json": '{"model_type": "musicot-pytorch"}'}, "musicot convert --hf-path"),
        ({"config.json": '{"model_type": "clap", "architectures": []}'}, "musicot convert"),
        ({"config.json": '{"_class_name": "X"}'}, "musicot convert"),
        ({"config.json": '{"model_type": "tango"}'}, "'tango', expected 'musicot'"),
    ],
)
def test_folders_that_are_no_mlx_model(tmp_path: Path, files: dict[str, str], words: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(MusicotError) as error:
        checkpoint.read_config(tmp_path)
    assert words in str(error.value)


def test_resolve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert hub.resolve(tmp_path) == tmp_path
    (tmp_path / "file").touch()
    with pytest.raises(MusicotError, match="is a file"):
        hub.resolve(tmp_path / "file")
    with pytest.raises(MusicotError, match="no model folder at ./nowhere"):
        hub.resolve("./nowhere")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(RunError, match="HF_HUB_OFFLINE is set"):
        hub.resolve("nobody/no-model")


@pytest.mark.parametrize(
    ("code", "exit_code", "words"),
    [
        (401, 2, "wants to know who asks for a/b .401.: log in with `hf auth login`"),
        (403, 2, "does not let you have a/b .403.: ask its owner"),
        (429, 1, "too many requests from here .429. to give a/b: wait"),
        (503, 1, "itself fails .503. for a/b: try again later"),
        (404, 1, "answers 404 to who asks for a/b"),
        (451, 1, "answers 451 to who asks for a/b"),
        (200, 1, "not the Hub but perhaps a login page"),
    ],
)
def test_what_the_hub_answers_is_told(
    code: int, exit_code: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        """As the client does: the answer lies beneath an error of its cache."""
        if code == 200:
            json.loads("<html>")
        answer = http.Response(code, request=http.Request("GET", "http://hub/a/b"))
        try:
            raise HfHubHTTPError("no", response=answer)
        except HfHubHTTPError as error:
            raise LocalEntryNotFoundError("not in the cache") from error

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    with pytest.raises(MusicotError, match=words) as error:
        hub.resolve("a/b")
    assert error.value.exit_code == exit_code
    with pytest.raises(RunError, match=words):
        hub.fetch_file("a/b", "tokenizer.json")
