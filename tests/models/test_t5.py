"""The T5 encoder: shapes, padding, save and load, dtype."""

from pathlib import Path

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from musicot_mlx.errors import MusicotError
from musicot_mlx.models.t5 import T5_BASE, T5Config, T5Encoder
from musicot_mlx.weights.checkpoint import load_arrays, load_strict, part, save_checkpoint
from tests.support.networks import randomize

TINY = {"vocab_size": 50, "d_model": 12, "d_kv": 4, "d_ff": 20, "num_layers": 2, "num_heads": 3}
IDS = mx.array([[5, 7, 1, 0], [3, 9, 8, 1]])
MASK = mx.array([[True, True, True, False], [True] * 4])


def tiny_t5(dtype: mx.Dtype = mx.float32, **changes) -> T5Encoder:
    return randomize(T5Encoder(T5Config.from_dict({**TINY, **changes})), dtype=dtype)


@pytest.mark.parametrize("feed_forward", ["relu", "gelu", "gated-gelu", "gated-silu"])
def test_shapes(feed_forward):
    hidden = tiny_t5(feed_forward_proj=feed_forward)(IDS, MASK)
    assert hidden.shape == (2, 4, 12) and mx.std(hidden).item() > 0.3


def test_padding_changes_nothing():
    encoder = tiny_t5()
    alone, padded = encoder(IDS[:1, :3]), encoder(IDS, MASK)[:1, :3]
    assert mx.abs(alone - padded).max().item() < 1e-5
    assert mx.abs(encoder(IDS)[:1, :3] - padded).max().item() > 1e-3, "the mask does nothing"


def test_position_counts():
    """The same tokens in another order are something else: the bias is there and is not even."""
    encoder = tiny_t5()
    forward, backward = encoder(IDS), encoder(IDS[:, ::-1])[:, ::-1]
    assert mx.abs(forward - backward).max().item() > 1e-2


def test_save_and_load_round_trip(tmp_path: Path):
    encoder = tiny_t5()
    arrays = {f"text_encoder.{k}": v for k, v in tree_flatten(encoder.parameters())}
    save_checkpoint(tmp_path / "m", {"model_type": "musicgen", "text_encoder": TINY}, arrays)
    loaded = T5Encoder(T5Config.from_dict(TINY))
    load_strict(loaded, part(load_arrays(tmp_path / "m"), "text_encoder"), where="text_encoder")
    assert mx.array_equal(loaded(IDS, MASK), encoder(IDS, MASK))


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_16_bit_stays_16_bit(dtype):
    hidden, full = tiny_t5(dtype)(IDS, MASK), tiny_t5()(IDS, MASK)
    assert hidden.dtype == dtype
    off = mx.where(MASK[..., None], mx.abs(hidden.astype(mx.float32) - full), 0)
    assert off.max().item() < 0.15


def test_float16_does_not_overflow():
    """Residuals of T5's larger sizes leave float16's range, and one infinity makes all NaN."""
    encoder = tiny_t5(mx.float16)
    encoder.layers[0].down.weight = encoder.layers[0].down.weight * 3e4
    assert mx.isfinite(encoder(IDS)).all().item()


def test_base_size():
    before = mx.get_active_memory()
    encoder = T5Encoder(T5_BASE)
    count = sum(value.size for _, value in tree_flatten(encoder.parameters()))
    assert round(count / 1e6, 3) == 109.629
    assert mx.get_active_memory() - before < 1 << 20, "built lazily"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"relative_attention_num_buckets": 6}, "multiple of 4"),
        ({"feed_forward_proj": "swish"}, "expected one of"),
        ({"layers": 2}, "unknown field 'layers'"),
    ],
)
def test_config_says_what_is_wrong(changes, words):
    with pytest.raises(MusicotError, match=words):
        T5Config.from_dict({**TINY, **changes})


def test_a_mask_of_another_shape_is_refused():
    with pytest.raises(ValueError, match="expected the shape of the ids"):
        tiny_t5()(IDS, MASK[:, :3])
