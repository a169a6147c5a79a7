"""SpectroStream's convolutions on a CPU: some frames at a time, the same sums, little memory."""

import mlx.core as mx
import numpy as np
import pytest

from musicot_mlx.cpu import optimise, spectrostream
from musicot_mlx.models.spectrostream import Conv, UpConv


@pytest.mark.parametrize(
    ("kind", "kernel", "stride"),
    [
        (Conv, (3, 3), (1, 1)),
        (Conv, (7, 7), (1, 1)),
        (Conv, (4, 4), (2, 2)),
        (Conv, (3, 6), (1, 3)),
        (UpConv, (4, 3), (2, 1)),
        (UpConv, (3, 4), (1, 2)),
    ],
)
def test_pieces_are_the_whole(
    kind: type, kernel: tuple, stride: tuple, monkeypatch: pytest.MonkeyPatch
) -> None:
    mx.random.seed(0)
    layer, x = kind(3, 5, kernel, stride), mx.random.normal((2, 23, 12, 3))
    mx.eval(layer.parameters(), x)
    whole = np.array(layer(x))
    calls, real = [], mx.conv2d
    monkeypatch.setattr(mx, "conv2d", lambda *a, **k: calls.append(a[0].shape[1]) or real(*a, **k))
    monkeypatch.setattr(spectrostream, "UNFOLDED", 2000)
    pieces = np.array(optimise(layer)(x))
    assert len(calls) > 2, "the bound is to be met"
    np.testing.assert_allclose(pieces, whole, atol=1e-5 * np.abs(whole).max())


def test_a_second_of_sound_unfolds_little() -> None:
    """The last convolution at its released size: 2 GB in MLX's own way, of 40 MB that it reads."""
    last = optimise(Conv(64, 2, (7, 7)))
    x = mx.zeros((2, 100, 480, 64))
    mx.eval(last.parameters(), x)
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    mx.eval(last(x))
    assert mx.get_peak_memory() - before < 4 * x.nbytes
