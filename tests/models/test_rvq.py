"""The residual quantiser: shapes, round trip, coarse to fine, save and load, float32 decisions."""

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from musicot_mlx.errors import MusicotError
from musicot_mlx.models.rvq import RVQ_12X1024, ResidualVQ, RVQConfig
from musicot_mlx.weights.checkpoint import load_arrays, load_strict, save_checkpoint

TINY = {"dim": 6, "codebooks": 4, "codebook_size": 16}


def tiny_rvq(seed: int = 0) -> ResidualVQ:
    """Codebooks that shrink from level to level, as trained ones do."""
    rvq = ResidualVQ(RVQConfig.from_dict(TINY))
    for level, (codebook, key) in enumerate(
        zip(rvq.codebooks, mx.random.split(mx.random.key(seed), 4), strict=True)
    ):
        codebook.weight = mx.random.normal((16, 6), key=key) * 0.5**level
    return rvq


def vectors(batch: int = 2, time: int = 9) -> mx.array:
    return mx.random.normal((batch, time, 6), key=mx.random.key(1))


def test_shapes_and_dtype():
    rvq = tiny_rvq()
    codes = rvq.encode(vectors())
    assert codes.shape == (2, 4, 9) and codes.dtype == mx.int32
    assert rvq.decode(codes).shape == (2, 9, 6)


def test_level_k_quantises_what_the_levels_before_leave():
    rvq, x = tiny_rvq(), np.array(vectors())
    codes, residual = np.array(rvq.encode(mx.array(x))), x
    for level, codebook in enumerate(rvq.codebooks):
        weight = np.array(codebook.weight)
        distance = np.square(residual[:, :, None] - weight).sum(-1)
        assert np.array_equal(codes[:, level], distance.argmin(-1))
        residual = residual - weight[codes[:, level]]


def test_codes_survive_the_round_trip_and_more_levels_come_closer():
    rvq, x = tiny_rvq(), vectors(1, 200)
    codes = rvq.encode(x)
    errors = [mx.square(rvq.decode(codes[:, :n]) - x).mean().item() for n in (1, 2, 3, 4)]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.5 * errors[0]
    coarse = rvq.codebooks[0](codes[:, 0])
    assert mx.array_equal(rvq.decode(codes[:, :1]), coarse)


def test_wrong_shapes_say_how_to_fix_them():
    rvq = tiny_rvq()
    with pytest.raises(ValueError, match="pass codes\\[:, :4\\]"):
        rvq.decode(mx.zeros((1, 5, 3), dtype=mx.int32))
    with pytest.raises(ValueError, match="expected \\(batch, time, 6\\)"):
        rvq.encode(mx.zeros((3, 6)))
    with pytest.raises(MusicotError, match="at least 1"):
        RVQConfig.from_dict({**TINY, "codebooks": 0})


def test_save_and_load_round_trip(tmp_path: Path):
    rvq = tiny_rvq()
    arrays = {f"rvq.{k}": v for k, v in tree_flatten(rvq.parameters())}
    assert sorted(arrays) == [f"rvq.codebooks.{i}.weight" for i in range(4)]
    save_checkpoint(tmp_path / "m", {"model_type": "musicot", "rvq": TINY}, arrays)
    loaded = ResidualVQ(RVQConfig.from_dict(TINY))
    read = {k.removeprefix("rvq."): v for k, v in load_arrays(tmp_path / "m").items()}
    load_strict(loaded, read, where="rvq")
    assert mx.array_equal(loaded.encode(vectors()), rvq.encode(vectors()))


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_decisions_are_float32_and_vectors_keep_the_dtype(dtype):
    rvq = tiny_rvq()
    rvq.set_dtype(dtype)
    codes = rvq.encode(vectors().astype(dtype))
    assert rvq.decode(codes).dtype == dtype
    same = tiny_rvq()
    same.update({"codebooks": [{"weight": c.weight.astype(mx.float32)} for c in rvq.codebooks]})
    assert mx.array_equal(codes, same.encode(vectors().astype(dtype)))


def test_related_work_size_is_built_lazily():
    before = mx.get_active_memory()
    rvq = ResidualVQ(RVQ_12X1024)
    assert sum(v.size for _, v in tree_flatten(rvq.parameters())) == 12 * 1024 * 512
    assert mx.get_active_memory() - before < 1 << 20
