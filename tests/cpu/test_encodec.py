"""EnCodec with the classes of cpu/: the same sound, in lanes too."""

import copy

import mlx.core as mx
import numpy as np
import pytest

from musicot_mlx.cpu import encodec, optimise, threads
from musicot_mlx.cpu.openblas import openblas
from musicot_mlx.models.encodec import LSTM
from tests.models.test_encodec import some_codes, tiny_codec, waveform
from tests.support.networks import randomize

pytestmark = pytest.mark.skipif(
    mx.default_device() != mx.Device(mx.cpu), reason="these forms are for MLX's CPU backend"
)


def test_it_sounds_alike() -> None:
    for changes in ({"num_residual_layers": 2}, {"use_causal_conv": True}):
        plain, codes = tiny_codec(**changes), some_codes(40)
        fast = optimise(copy.deepcopy(plain))
        assert mx.abs(fast.decode(codes) - plain.decode(codes)).max().item() < 1e-4
        assert (fast.encode(waveform(500)) == plain.encode(waveform(500))).mean().item() > 0.95


@pytest.mark.parametrize("outputs", [1, 7])
@pytest.mark.parametrize("dilation", [1, 2, 9])
def test_dilated_convolution(dilation, outputs):
    x, weight = mx.random.normal((2, 40, 5)), mx.random.normal((outputs, 3, 5))
    plain = mx.conv1d(x, weight, dilation=dilation)
    shifted = encodec.shifted_conv(x, weight, dilation=dilation)
    assert shifted.shape == plain.shape
    assert mx.abs(shifted - plain).max().item() < 1e-4


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_lstm_steps(batch):
    plain = randomize(LSTM(8))
    fast = optimise(copy.deepcopy(plain))
    x = mx.random.normal((batch, 30, 8), key=mx.random.key(4))
    state = tuple(mx.random.normal((batch, 8), key=mx.random.key(k)) for k in (5, 6))
    for ours, theirs in zip(fast(x, state), plain(x, state), strict=True):
        pairs = [(ours, theirs)] if isinstance(ours, mx.array) else zip(ours, theirs, strict=True)
        assert all(mx.abs(a - b).max().item() < 1e-5 for a, b in pairs)


def test_a_gate_far_out_is_shut_without_a_warning():
    inputs = mx.full((1, 3, 16), -200.0)
    with np.errstate(all="raise"):
        y, _ = encodec.host_steps(inputs, mx.zeros((16, 4)), (mx.ones((1, 4)), mx.ones((1, 4))))
    assert mx.abs(y).max().item() == 0


@pytest.mark.parametrize("frames", [5, 33, 60])
def test_windows_side_by_side_are_windows_one_by_one(monkeypatch, frames):
    codec, codes = optimise(tiny_codec()), some_codes(frames)
    heard = {}
    for two in (False, True):
        monkeypatch.setattr(threads, "worth_it", lambda two=two: two)
        if two and openblas() is None:
            pytest.skip("lanes need OpenBLAS")
        heard[two] = [np.array(y) for y in codec.decode_stream([codes], longest=10)]
    for one, other in zip(heard[False], heard[True], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
