"""PyTorch's files: read as they were written, or refused in a line; nothing in them runs."""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from musicot_mlx.convert.pickles import lazy_arrays, unpickle  # noqa: E402
from musicot_mlx.errors import MusicotError  # noqa: E402

GRID = torch.arange(120, dtype=torch.float32).reshape(10, 12)


def _written(folder: Path, **options: Any) -> Path:
    torch.save({"model": {"a": GRID, "b": GRID[0].bfloat16()}, "epoch": 3}, folder / "a.pth",
               **options)  # fmt: skip
    return folder / "a.pth"


def test_a_bit_that_flipped_is_told(tmp_path: Path) -> None:
    """In a weight, a name or the directory: no file with one is read as if it were whole."""
    path = _written(tmp_path)
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        values = archive.getinfo("a/data/0")
    at = whole.index(GRID.numpy().tobytes())
    changed = bytearray(whole)
    changed[at + 100] ^= 4
    path.write_bytes(changed)
    with pytest.raises(MusicotError, match="changed since it was written: a/data/0 is not what"):
        unpickle(path)
    told = 0
    for place in range(values.header_offset, len(whole), 61):
        changed = bytearray(whole)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        try:
            assert torch.equal(unpickle(path)["model"]["a"], GRID)  # a bit that nothing reads
        except MusicotError:
            told += 1
    assert told > 10


def test_files_without_sums_are_read(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        path = _written(tmp_path)
    finally:
        torch.serialization.set_crc32_options(True)
    assert torch.equal(unpickle(path)["model"]["a"], GRID)


def test_files_of_before_torch_had_zips(tmp_path: Path) -> None:
    path = _written(tmp_path, _use_new_zipfile_serialization=False)
    assert torch.equal(unpickle(path)["model"]["a"], GRID)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(MusicotError, match="is truncated"):
        unpickle(path)


@pytest.mark.parametrize("part", range(0, 20))
def test_a_file_cut_off_is_told(tmp_path: Path, part: int) -> None:
    path = _written(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * part // 20])
    with pytest.raises(MusicotError, match="is truncated or not a PyTorch file"):
        unpickle(path)


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.T,
        lambda x: x[::3, 1::2],
        lambda x: x[2:4],
        lambda x: x[0].expand(5, 12),
        lambda x: x[:, :1],
        lambda x: x.half()[:, None].transpose(0, 2),
        lambda x: torch.tensor(1.5, dtype=torch.bfloat16),
        lambda x: torch.nn.Parameter(x.flip(0)),
        lambda x: torch._neg_view(x),
    ],
)
def test_any_view_of_a_storage_is_its_values(tmp_path: Path, view: Callable) -> None:
    """Strided, expanded, negated when read, beside another view of the same storage, of no axis."""
    torch.save({"x": view(GRID), "whole": GRID}, tmp_path / "a.pth")
    (tmp_path / "scratch").mkdir()
    arrays = lazy_arrays(unpickle(tmp_path / "a.pth"), tmp_path / "scratch")
    expected = view(GRID).detach().float().resolve_neg().numpy()
    assert np.array_equal(np.array(arrays["x"].astype(mx.float32)), expected)
    assert np.array_equal(np.array(arrays["whole"]), GRID.numpy())
