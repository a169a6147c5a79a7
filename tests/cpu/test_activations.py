"""Transcendental functions and attention for a CPU: they agree with MLX's own, gradients too."""

import math

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from musicot_mlx.cpu import activations, attention

NAMES = {
    "exp": mx.exp,
    "silu": nn.silu,
    "sigmoid": mx.sigmoid,
    "gelu": nn.gelu,
    "elu": nn.elu,
}


@pytest.mark.parametrize("name", NAMES)
def test_agrees_with_mlx(name):
    x = mx.array(np.linspace(-30, 30, 4001).astype(np.float32))
    ours, theirs = getattr(activations, name)(x), NAMES[name](x)
    scale = mx.maximum(mx.abs(theirs), 1.0)
    assert mx.max(mx.abs(ours - theirs) / scale).item() < 3e-6


def test_exp_far_out():
    x = np.array([-200.0, -87.0, -1.0, 0.0, 1.0, 87.0], np.float32)
    out = np.array(activations.exp(mx.array(x)))
    assert 0 <= out[0] < 1e-37 and out[3] == 1.0
    np.testing.assert_allclose(out[1:], np.exp(x[1:].astype(np.float64)), rtol=1e-5)
    assert math.isnan(activations.exp(mx.array([math.nan])).item()), "a broken value must show"


@pytest.mark.parametrize("name", NAMES)
def test_gradients_agree(name):
    x = mx.array(np.linspace(-4, 4, 101).astype(np.float32))
    ours = mx.grad(lambda y: getattr(activations, name)(y).sum())(x)
    theirs = mx.grad(lambda y: NAMES[name](y).sum())(x)
    assert mx.abs(ours - theirs).max().item() < 3e-5 * mx.abs(theirs).max().item()


@pytest.mark.parametrize("masked", [False, True])
def test_attention_agrees_with_mlx(monkeypatch, masked):
    monkeypatch.setattr(attention, "BLOCK", 300)
    monkeypatch.setattr(attention, "_FEWEST_QUERIES", 4)  # three blocks, the last one short
    keys = mx.random.split(mx.random.key(0), 3)
    q = 2 * mx.random.normal((2, 4, 11, 8), key=keys[0])
    k = 2 * mx.random.normal((2, 2, 9, 8), key=keys[1])
    v = mx.random.normal((2, 2, 9, 8), key=keys[2])
    mask = mx.array([[True] * 9, [True] * 4 + [False] * 5])[:, None, None] if masked else None
    expected = mx.fast.scaled_dot_product_attention(q, k, v, scale=8**-0.5, mask=mask)
    out = attention.many_queries(q, k, v, scale=8**-0.5, mask=mask)
    assert mx.abs(out - expected).max().item() < 3e-6


@pytest.mark.parametrize("rows", [1, 7, 40])
def test_blocks_join_to_the_whole(monkeypatch, rows):
    monkeypatch.setattr(activations, "BLOCK", 20)  # 40 elements a block, so 5 rows of 8
    monkeypatch.setattr(activations, "_FEWEST_ROWS", 1)
    x = mx.random.normal((2, rows, 3), key=mx.random.key(1))
    weight = mx.random.normal((3, 8), key=mx.random.key(2))
    out = activations.in_blocks(lambda y: y @ weight, x, 8)
    assert out.shape == (2, rows, 8)
    assert mx.abs(out - x @ weight).max().item() < 1e-6


def test_modules_are_the_functions() -> None:
    x = mx.array([-1.5, 0.0, 2.0])
    for name in ("SiLU", "GELU", "ELU", "Sigmoid"):
        assert mx.array_equal(
            getattr(activations, name)()(x), getattr(activations, name.lower())(x)
        )
