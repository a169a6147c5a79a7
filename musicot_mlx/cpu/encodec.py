"""Parts of models/encodec.py as MLX's CPU backend runs them fastest: its own dilated convolutions
are a hundred times slower than matrix products.
"""

import ctypes

import mlx.core as mx
import numpy as np

from musicot_mlx.cpu.openblas import openblas
from musicot_mlx.cpu.threads import guidance_streams
from musicot_mlx.models import encodec
from musicot_mlx.models.encodec import State

_ROW_MAJOR, _NOT_TURNED = 101, 111  # as cblas.h has them


class Encodec(encodec.Encodec):
    """In pieces of a second, of which a cache holds the most part, on two cores where two help."""

    frames_at_once = 50
    pieces_at_once = 2  # one a core
    _lanes = staticmethod(guidance_streams)


class Conv(encodec.Conv):
    def _convolve(self, x: mx.array) -> mx.array:
        if self._stride == 1:
            return shifted_conv(x, self.weight, self.bias, dilation=self._dilation)
        return super()._convolve(x)


def shifted_conv(
    x: mx.array, weight: mx.array, bias: mx.array | None = None, *, dilation: int = 1
) -> mx.array:
    """mx.conv1d(x, weight, dilation=dilation) as a matrix product a tap, or one for all taps.

    Where there are fewer outputs than taps, shifting the products is less than shifting x.
    """
    outputs, taps, inputs = weight.shape
    time = x.shape[1] - (taps - 1) * dilation
    starts = [tap * dilation for tap in range(taps)]
    if outputs < taps:
        y = x @ weight.reshape(outputs * taps, inputs).T
        products = [y[:, at : at + time, tap::taps] for tap, at in enumerate(starts)]
    else:
        shifts = [x[:, at : at + time] for at in starts]
        products = [shift @ weight[:, tap].T for tap, shift in enumerate(shifts)]
    return _sum(products if bias is None else [*products, bias])


@mx.compile
def _sum(parts: list[mx.array]) -> mx.array:
    """All parts added in one pass over memory."""
    return sum(parts[1:], start=parts[0])


class LSTM(encodec.LSTM):
    def _steps(self, inputs: mx.array, state: State) -> tuple[mx.array, State]:
        return host_steps(inputs, self.wh, state)


def host_steps(inputs: mx.array, wh: mx.array, state: State) -> tuple[mx.array, State]:
    """The recurrence in numpy, float32, with a product of a matrix and a vector, which reads the
    weights three times as fast as MLX's product of two matrices does on a CPU. From three rows on
    the product of matrices reads them once for all.
    """
    mx.eval(inputs, wh, state)
    source, weights = np.array(inputs, copy=False), np.ascontiguousarray(wh, np.float32)
    hidden, cell = (np.array(part, dtype=np.float32) for part in state)
    channels = hidden.shape[1]
    outputs = np.empty((*source.shape[:2], channels), dtype=np.float32)
    with np.errstate(over="ignore"):  # a gate that is shut: 1 / (1 + inf) is the 0 it should be
        for step in range(source.shape[1]):
            if len(hidden) <= 2:
                recurrent = [times(weights, row) for row in hidden]
            else:
                recurrent = (weights @ hidden.T).T
            gates = source[:, step] + recurrent
            opened = 1 / (1 + np.exp(-gates))
            i, f, o = (opened[:, n * channels : (n + 1) * channels] for n in (0, 1, 3))
            cell = f * cell + i * np.tanh(gates[:, 2 * channels : 3 * channels])
            hidden = o * np.tanh(cell)
            outputs[:, step] = hidden
    return mx.array(outputs), (mx.array(hidden), mx.array(cell))


def times(weights: np.ndarray, row: np.ndarray) -> np.ndarray:
    """weights @ row, contiguous float32, by the OpenBLAS that MLX multiplies with.

    numpy has one of its own, and the threads of either wait for more work for 25 ms on the cores
    that the other's want: a decode took a fifth longer.
    """
    blas = openblas()
    if blas is None:
        return weights @ row
    y, (rows, columns) = np.empty(len(weights), dtype=np.float32), weights.shape
    a, x, out = (ctypes.c_void_p(each.ctypes.data) for each in (weights, row, y))
    one, zero = ctypes.c_float(1), ctypes.c_float(0)
    blas.cblas_sgemv(_ROW_MAJOR, _NOT_TURNED, rows, columns, one, a, columns, x, 1, zero, out, 1)
    return y
