"""Products with a few rows and attention of one query as cpu/ has them: the numbers are MLX's."""

import mlx.core as mx
import mlx.nn as nn
import pytest

from musicot_mlx.cpu import attention, matmul, threads

pytestmark = pytest.mark.skipif(
    mx.default_device() != mx.Device(mx.cpu), reason="these forms are for MLX's CPU backend"
)


@pytest.mark.parametrize("rows", [1, 2, 5, 8, 9])
def test_few_rows(rows):
    layer, x = nn.Linear(6, 10, bias=False), mx.random.normal((rows, 1, 6))
    y = matmul.linear(layer, x)
    assert y.shape == (rows, 1, 10)
    assert mx.abs(y - layer(x)).max().item() < 1e-5


@pytest.mark.parametrize("rows", [1, 2, 5, 16, 17])
def test_few_rows_in_two_lanes(monkeypatch, rows):
    """Halves of the channels on two streams, in blocks, are the layer; 17 rows are too many."""
    monkeypatch.setattr(matmul, "_FEWEST_WEIGHTS", 1)
    lane, taken, times = mx.new_stream(mx.cpu), [], matmul.times_halves
    monkeypatch.setattr(threads, "second_lane", lambda: lane)
    monkeypatch.setattr(matmul, "times_halves", lambda *a: taken.append(1) or times(*a))
    for channels, inputs in ((64, 24), (96, 24), (40, 24)):
        layer = nn.Linear(inputs, channels, bias=False)
        x = mx.random.normal((rows, 1, inputs))
        y = matmul.linear(layer, x)
        assert y.shape == (rows, 1, channels)
        assert mx.abs(y - layer(x)).max().item() < 1e-5
    assert len(taken) == (2 if rows <= 16 else 0), "20 channels divide into no blocks of 8"


def test_blocks_are_small_products():
    for channels, inputs, rows in ((2048, 1024, 2), (512, 4096, 16), (768, 6144, 4)):
        block = matmul.block_size(channels, inputs, rows)
        assert block >= 8 and channels % block == 0
        assert block * rows * inputs <= 100**3 and block * rows <= 1200
    assert matmul.block_size(20, 64, 2) == matmul.block_size(1024, 1 << 20, 2) == 0


@pytest.mark.parametrize("time", [1, 3])
def test_attention_of_one_query(monkeypatch, time):
    monkeypatch.setattr(attention, "_FEWEST_KEYS", 1)
    q, k, v = (mx.random.normal((2, 3, n, 8)) * 2 for n in (time, 11, 11))
    mask = (mx.arange(11) >= mx.array([0, 4])[:, None])[:, None, None]
    for kind in (None, mask, "causal"):
        expected = mx.fast.scaled_dot_product_attention(q, k, v, scale=0.5, mask=kind)
        y = attention.one_query(q, k, v, scale=0.5, mask=kind)
        assert mx.abs(y - expected).max().item() < 1e-5


def test_few_rows_leaves_other_layers_alone():
    x = mx.random.normal((2, 1, 64))
    for layer in (nn.Linear(64, 10), nn.Linear(64, 10, bias=False).to_quantized(bits=8)):
        assert mx.array_equal(matmul.linear(layer, x), layer(x))
