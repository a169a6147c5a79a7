"""musicot convert: a PyTorch checkpoint becomes a folder that computes the same."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import pytest

from musicot_mlx.cli import main
from musicot_mlx.errors import MusicotError
from musicot_mlx.weights.checkpoint import load_arrays, read_config
from tests.support import tiny

ROOT = Path(__file__).resolve().parents[2]


def _convert(source: Path, target: Path, **options) -> str:
    from musicot_mlx.convert.convert import convert

    return convert(source, target, **options)


def _differences(source: Path, target: Path) -> dict[tuple[str, str], float]:
    """Largest difference by part and what: relative for numbers, a share for codes."""
    from musicot_mlx.convert.check import check

    found = check(source, target, progress=lambda *_: None)
    return {(row.part, row.what): row.error / row.scale for row in found}


def test_float32_folder_is_the_reference(tiny_reference: Path, tmp_path: Path) -> None:
    _convert(tiny_reference, tmp_path / "mlx", dtype="float32")
    found = _differences(tiny_reference, tmp_path / "mlx")
    settings = ("sampling", "usual_harmony")
    parts = {k for k, v in tiny.CONFIG.items() if isinstance(v, dict) and k not in settings}
    assert {part for part, _ in found} == parts
    for what, error in found.items():
        assert error <= (0 if what[1] == "codes" else 2e-5), (what, error)


@pytest.mark.parametrize(
    ("options", "limit"),
    [({}, 0.02), ({"quantize": True, "group_size": 32}, 0.1)],
    ids=["float16", "8-bit"],
)
def test_smaller_folders_are_near_the_reference(
    tiny_reference: Path, tmp_path: Path, options: dict, limit: float
) -> None:
    _convert(tiny_reference, tmp_path / "mlx", **options)
    found = _differences(tiny_reference, tmp_path / "mlx")
    assert found[("rvq", "codes")] == 0
    assert found[("semantic_tokenizer", "codes")] < 0.2
    for what, error in found.items():
        assert what[1] == "codes" or error < limit, (what, error)


def test_what_is_written(tiny_reference: Path, tmp_path: Path) -> None:
    line = _convert(tiny_reference, tmp_path / "mlx", quantize=True, group_size=16 * 2)
    assert line.startswith(f"{tmp_path / 'mlx'}: ") and "8-bit affine in groups of 32" in line
    config = read_config(tmp_path / "mlx")
    text = (tmp_path / "mlx" / "config.json").read_text()
    assert text == json.dumps(config, indent=2, sort_keys=True) + "\n"
    assert config["quantization"] == {"group_size": 32, "bits": 8, "mode": "affine"}
    arrays = load_arrays(tmp_path / "mlx")
    dtypes = {key: value.dtype for key, value in arrays.items()}
    assert {dtype for key, dtype in dtypes.items() if key.startswith("rvq.")} == {mx.float32}
    assert not any(".scales" in key for key in dtypes if key.startswith("rvq."))
    assert dtypes["semantic_lm.model.norm.weight"] == mx.float16
    names = {path.name for path in (tmp_path / "mlx").iterdir()}
    assert names == {
        "README.md",
        "config.json",
        "model.safetensors",
        "model.safetensors.index.json",
        "tokenizer.json",
    }


def test_command_needs_no_torch(tiny_reference: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['torch'] = None\n")
    command = [sys.executable, "-m", "musicot_mlx", "convert", "-q", "--q-group-size", "32"]
    found = subprocess.run(
        [*command, "--hf-path", tiny_reference, "--mlx-path", tmp_path / "mlx"],
        env=tiny.environment(PYTHONPATH=f"{tmp_path}:{ROOT}"),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "parameters" in found.stdout
    assert (tmp_path / "mlx" / "config.json").is_file()


def test_check_prints_a_line_for_each(
    tiny_reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = ["--hf-path", str(tiny_reference), "--mlx-path", str(tmp_path / "mlx")]
    assert main(["convert", *paths, "--dtype", "float32", "--check"]) == 0
    out = capsys.readouterr().out
    assert "rvq                 codes            0.00 % differ" in out
    assert out.count("\n") == 13


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("MLX", "is an MLX folder already"),
        ("other", "can't convert model_type 'flute'"),
        ("section", "lacks the sections vae"),
        ("key", "vae: 1 keys that the key map doesn't know: surprise"),
        ("part", "1 keys belong to no part: drummer.x"),
        ("missing", "missing (bias ("),
        ("range", "values beyond float16"),
        ("tokenizer", "holds no tokenizer.json"),
        ("itself", "is the checkpoint itself"),
        ("mode", "--q-mode mxfp4 has 4 bits in groups of 32"),
    ],
)
def test_refusals(tiny_reference: Path, tmp_path: Path, kind: str, words: str) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    shutil.copytree(tiny_reference, source)
    config = json.loads((source / "config.json").read_text())
    arrays = mx.load(str(source / "model.safetensors"))
    options = {}
    if kind == "MLX":
        config["model_type"] = "musicot"
    elif kind == "other":
        config["model_type"] = "flute"
    elif kind == "section":
        del config["vae"]
    elif kind == "key":
        arrays["vae.surprise"] = mx.zeros(1)
    elif kind == "part":
        arrays["drummer.x"] = mx.zeros(1)
    elif kind == "missing":
        del arrays["semantic_lm.clap_proj.bias"]
        words = "clap_proj.bias"
    elif kind == "range":
        arrays["semantic_lm.clap_proj.bias"] = arrays["semantic_lm.clap_proj.bias"] + 1e6
    elif kind == "tokenizer":
        (source / "tokenizer.json").unlink()
    elif kind == "itself":
        target = source
    elif kind == "mode":
        options = {"quantize": True, "mode": "mxfp4", "bits": 8}
    (source / "config.json").write_text(json.dumps(config))
    mx.save_safetensors(str(source / "model.safetensors"), arrays)
    with pytest.raises(MusicotError) as error:
        _convert(source, target, **options)
    assert words in str(error.value)
    assert not (tmp_path / "target").exists()
