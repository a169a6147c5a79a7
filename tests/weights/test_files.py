"""Files of weights: which of them count, kinds that no network takes, names in wrappers."""

import json
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from safetensors.numpy import save_file

from musicot_mlx.errors import MusicotError
from musicot_mlx.weights.checkpoint import load_arrays, load_strict, prepare, quantize_arrays
from musicot_mlx.weights.files import load_file, plain_names, weight_files

ONE, TWO = {"a": mx.ones(2)}, {"b": mx.zeros(2)}
INDEX = "model.safetensors.index.json"


def write(folder: Path, files: dict[str, dict[str, mx.array]], index: dict | None = None) -> Path:
    for name, arrays in files.items():
        mx.save_safetensors(str(folder / name), arrays)
    if index is not None:
        (folder / INDEX).write_text(json.dumps({"weight_map": index}))
    return folder


def shard(number: int, count: int = 2) -> str:
    return f"model-{number:05d}-of-{count:05d}.safetensors"


@pytest.mark.parametrize(
    ("files", "index"),
    [
        ({"model.safetensors": {**ONE, **TWO}, "model.fp16.safetensors": ONE}, None),
        ({"model.safetensors": {**ONE, **TWO}}, {"a": shard(1), "c": shard(2)}),  # stale
        ({"model.safetensors": {**ONE, **TWO}}, {"a": "model.safetensors"}),  # stale too
        ({shard(1): ONE, shard(2): TWO}, {"a": shard(1), "b": shard(2)}),
        ({shard(1): ONE, shard(2): TWO}, None),
        ({shard(1): ONE, shard(2): TWO}, {"a": shard(1, 3)}),  # stale
        ({shard(1): ONE, shard(2): TWO, "model.fp16.safetensors": ONE}, None),
        ({"model.fp16.safetensors": {**ONE, **TWO}}, None),
        ({f"model.fp16{shard(k)[5:]}": part for k, part in ((1, ONE), (2, TWO))}, None),
        ({shard(k).replace(".", ".fp16."): part for k, part in ((1, ONE), (2, TWO))}, None),
    ],
)  # fmt: skip
def test_which_files_count(tmp_path: Path, files: dict, index: dict | None) -> None:
    assert set(load_arrays(write(tmp_path, files, index))) == {"a", "b"}


@pytest.mark.parametrize(
    ("files", "index", "words"),
    [
        ({"model.bf16.safetensors": ONE, "model.fp16.safetensors": ONE}, None,
         "as model.bf16.safetensors and model.fp16.safetensors; keep one of them"),
        ({shard(1): ONE}, None, f"lacks shards beside {shard(1)}"),
        ({shard(1): ONE}, {"a": shard(1), "b": shard(2)}, f"{shard(2)} is missing"),
        ({shard(1): ONE, shard(2): TWO}, {"a": shard(1), "c": shard(2)}, "disagree about b, c"),
    ],
)  # fmt: skip
def test_files_that_do_not_say_what_counts(
    tmp_path: Path, files: dict, index: dict | None, words: str
) -> None:
    with pytest.raises(MusicotError, match=words):
        load_arrays(write(tmp_path, files, index))


def test_pickles_are_chosen_alike(tmp_path: Path) -> None:
    for name in ("pytorch_model.bin", "pytorch_model.fp16.bin"):
        (tmp_path / name).touch()
    assert weight_files(tmp_path, "pytorch_model", ".bin") == [
        (tmp_path / "pytorch_model.bin", None)
    ]
    assert weight_files(tmp_path) == []


@pytest.mark.parametrize("kind", ["F64", "F8_E4M3", "F8_E5M2", "C64"])
def test_kinds_that_mlx_has_not_are_named(tmp_path: Path, kind: str) -> None:
    size = {"F64": 8, "C64": 8}.get(kind, 1)
    header = json.dumps({"net.w": {"dtype": kind, "shape": [2], "data_offsets": [0, 2 * size]}})
    header += " " * (-len(header) % 8)
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header.encode() + bytes(2 * size))
    with pytest.raises(MusicotError, match=rf"net.w is {kind}; save the model again in float32"):
        load_file(path)
    save_file({"net.w": np.ones(2, np.float32)}, path)
    assert load_file(path)["net.w"].dtype == mx.float32


def test_strict_loading_compares_kinds() -> None:
    linear = nn.Linear(4, 2)
    good = {"weight": mx.ones((2, 4), mx.bfloat16), "bias": mx.ones(2, mx.float16)}
    load_strict(linear, good, where="net")
    with pytest.raises(
        MusicotError, match="1 of another kind .weight holds int32, the network has"
    ):
        load_strict(linear, {**good, "weight": mx.ones((2, 4), mx.int32)}, where="net")


@pytest.mark.parametrize("expand", [True, False], ids=["as on a CPU", "as on Metal"])
@pytest.mark.parametrize(
    ("name", "kind"), [("weight", mx.int32), ("weight", mx.float32), ("scales", mx.int32)]
)
def test_packed_weights_of_another_kind(name: str, kind: mx.Dtype, expand: bool) -> None:
    network, packing = nn.Sequential(nn.Linear(32, 2)), {"group_size": 32, "bits": 8}
    arrays = {"layers.0.weight": mx.ones((2, 32)), "layers.0.bias": mx.ones(2)}
    arrays = quantize_arrays(network, arrays, **packing)
    prepare(nn.Sequential(nn.Linear(32, 2)), packing, arrays, where="net", expand=expand)
    wrong = {**arrays, f"layers.0.{name}": arrays[f"layers.0.{name}"].astype(kind)}
    with pytest.raises(MusicotError, match="net: .*layers.0"):
        prepare(nn.Sequential(nn.Linear(32, 2)), packing, wrong, where="net", expand=expand)


def test_names_in_wrappers() -> None:
    wrapped = {"module._orig_mod.a": 1, "_orig_mod.module.b": 2, "c._orig_mod.d": 3, "e.module": 4}
    assert plain_names(wrapped, "f") == {"a": 1, "b": 2, "c.d": 3, "e.module": 4}
    with pytest.raises(MusicotError, match="f: a stands there twice, once as module.a"):
        plain_names({"a": 1, "module.a": 2}, "f")
