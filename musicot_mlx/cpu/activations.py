"""Exponential, SiLU, GELU, ELU and layer norm as MLX's CPU backend runs them fastest, in float32.

It calls the C library once per element for exp, sigmoid and erf (16 to 22 ns each), so that two
thirds of a transformer's time goes into softmax and gates. Here the same functions are written as
multiplications and additions, which it does vectorise: about five times faster, and as close to the
exact values as the library's. Compiled, they go over memory once instead of once an operation,
twice as fast again; MLX needs a C++ compiler for that and runs them as they stand where there is
none.
"""

import math
from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn

BLOCK = 1 << 17  # elements, half a megabyte: what a core's cache holds twice
_FEWEST_ROWS = 256  # of a block in a matrix product, whose weights are read again for each
_LOG2_E = 1 / math.log(2)
_ROUND = 1.5 * 2.0**23  # added and taken off again, rounds a float32 to the nearest integer
# 2^f for |f| <= 1/2, minimax in relative error, highest power first
_POWERS = (
    1.535336188319500e-4,
    1.339887440266574e-3,
    9.618437357674640e-3,
    5.550332471162809e-2,
    2.402264791363012e-1,
    6.931472028550421e-1,
    1.0,
)
# erf, Abramowitz and Stegun 7.1.26: within 1.5e-7
_ERF_SCALE = 0.3275911
_ERF = (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592)


def exp_steps(x: mx.array) -> mx.array:
    """2^n times 2^f, n being put into the exponent's bits.

    The polynomial is shallow and the limits are of integers, so that MLX makes two operations of it
    all and the compiler vectorises them, which it does not with limits of floats.
    """
    exponent = x * _LOG2_E
    whole = (exponent + _ROUND) - _ROUND
    f = exponent - whole
    c6, c5, c4, c3, c2, c1, c0 = _POWERS
    square = f * f
    power = ((c6 * square + (c5 * f + c4)) * square + (c3 * f + c2)) * square + (c1 * f + c0)
    bits = mx.clip(whole.astype(mx.int32) + 127, 0, 254) << 23
    return power * bits.view(mx.float32)


def _sigmoid_steps(x: mx.array) -> mx.array:
    return 1 / (1 + exp_steps(-x))


def silu_steps(x: mx.array) -> mx.array:
    return x / (1 + exp_steps(-x))


def gelu_steps(x: mx.array) -> mx.array:
    """erf with its exponential apart: MLX cuts a compiled run that is too long at a bad place."""
    return _gelu_of(x, _bell(x))


@mx.compile
def _bell(x: mx.array) -> mx.array:
    return exp_steps(-0.5 * x * x)


@mx.compile
def _gelu_of(x: mx.array, bell: mx.array) -> mx.array:
    size = mx.abs(x)
    t = 1 / (1 + (_ERF_SCALE / math.sqrt(2)) * size)
    c5, c4, c3, c2, c1 = _ERF
    square = t * t
    tail = ((c5 * square + (c4 * t + c3)) * square + (c2 * t + c1)) * (t * bell)  # 1 - erf
    return 0.5 * (x + size - size * tail)


def _elu_steps(x: mx.array) -> mx.array:
    # one pass over memory: no integers as in exp_steps, and no minimum, which g++ leaves a loop of
    # single elements. e^y - 1 of a small y by its series, then e^2y - 1 = (e^y - 1) (e^y - 1 + 2)
    # six times, which keeps what is near 0 exact
    below = 0.5 * (x - mx.abs(x))
    y = mx.where(below < -18.0, -18.0, below) * 2.0**-6
    power = 1 / math.factorial(6)
    for n in range(5, 0, -1):
        power = power * y + 1 / math.factorial(n)
    power = power * y
    for _ in range(6):
        power = power * (power + 2)
    return (x - below) + power


def _exp_slope(x: mx.array, y: mx.array) -> mx.array:
    return y


def _sigmoid_slope(x: mx.array, y: mx.array) -> mx.array:
    return y * (1 - y)


def _silu_slope(x: mx.array, y: mx.array) -> mx.array:
    gate = _sigmoid_steps(x)
    return gate + y * (1 - gate)


def _gelu_slope(x: mx.array, y: mx.array) -> mx.array:
    below = gelu_steps(mx.abs(x)) / mx.maximum(mx.abs(x), 1e-30)  # Phi(|x|); 0 at 0, as x then is
    density = exp_steps(-0.5 * x * x) / math.sqrt(2 * math.pi)
    return mx.where(x > 0, below, mx.where(x < 0, 1 - below, 0.5)) + x * density


def _elu_slope(x: mx.array, y: mx.array) -> mx.array:
    return mx.where(x > 0, 1, y + 1)


def _with_slope(
    steps: Callable[[mx.array], mx.array], slope: Callable[[mx.array, mx.array], mx.array]
) -> Callable[[mx.array], mx.array]:
    """steps with a derivative: bit tricks have none of their own."""
    function = mx.custom_function(steps)
    function.vjp(lambda primal, cotangent, output: cotangent * slope(primal, output))
    return function


exp = _with_slope(mx.compile(exp_steps), _exp_slope)
sigmoid = _with_slope(mx.compile(_sigmoid_steps), _sigmoid_slope)
silu = _with_slope(mx.compile(silu_steps), _silu_slope)
gelu = _with_slope(gelu_steps, _gelu_slope)
elu = _with_slope(mx.compile(_elu_steps), _elu_slope)


@mx.custom_function
def exp_below(x: mx.array, largest: mx.array) -> mx.array:
    return exp_difference(x, largest)


@exp_below.vjp
def _exp_below_slope(
    primals: tuple[mx.array, mx.array], cotangent: mx.array, output: mx.array
) -> tuple[mx.array, mx.array]:
    slope = cotangent * output
    return slope, mx.zeros_like(primals[1])  # softmax is the same whatever is taken off


@mx.custom_function
def capped(x: mx.array, cap: mx.array) -> mx.array:
    """cap * tanh(x / cap)."""
    return _capped_of(_exp_of_ratio(x, cap), cap)


@capped.vjp
def _capped_slope(
    primals: tuple[mx.array, mx.array], cotangent: mx.array, output: mx.array
) -> tuple[mx.array, mx.array]:
    cap = primals[1]
    return cotangent * (1 - (output / cap).square()), mx.zeros_like(cap)


@mx.custom_function
def swiglu(up: mx.array, gate: mx.array) -> mx.array:
    return _swiglu_product(up, gate)


@swiglu.vjp
def _swiglu_slope(
    primals: tuple[mx.array, mx.array], cotangent: mx.array, output: mx.array
) -> tuple[mx.array, mx.array]:
    up, gate = primals
    y = silu(gate)
    return cotangent * y, cotangent * up * _silu_slope(gate, y)


@mx.compile
def exp_difference(x: mx.array, largest: mx.array) -> mx.array:
    return exp_steps(x - largest)


@mx.compile
def _exp_of_ratio(x: mx.array, cap: mx.array) -> mx.array:
    return exp_steps(x * (2 / cap))


@mx.compile
def _capped_of(power: mx.array, cap: mx.array) -> mx.array:
    return cap - (2 * cap) / (1 + power)


def _swiglu_product(up: mx.array, gate: mx.array) -> mx.array:
    # in two runs: compiled as one, MLX cuts it where the second part goes number by number
    return _gated(up, gate, _exp_of_negative(gate))


@mx.compile
def _exp_of_negative(x: mx.array) -> mx.array:
    return exp_steps(-x)


@mx.compile
def _gated(up: mx.array, gate: mx.array, below: mx.array) -> mx.array:
    return up * gate / (1 + below)


class SiLU(nn.SiLU):
    def __call__(self, x: mx.array) -> mx.array:
        return silu(x)


class GELU(nn.GELU):
    """With the normal distribution itself, not its tanh approximation."""

    def __call__(self, x: mx.array) -> mx.array:
        return gelu(x)


class ELU(nn.ELU):
    """Of alpha 1, as it is everywhere here."""

    def __call__(self, x: mx.array) -> mx.array:
        return elu(x)


class Sigmoid(nn.Sigmoid):
    def __call__(self, x: mx.array) -> mx.array:
        return sigmoid(x)


def in_blocks(f: Callable[[mx.array], mx.array], x: mx.array, width: int) -> mx.array:
    """f(x) for an f that treats each row of x (..., channels) alone, in blocks that stay in cache.

    width: the most channels that f makes of a row.
    """
    rows = x.size // x.shape[-1]
    count = rows // max(_FEWEST_ROWS, 2 * BLOCK // width)
    if count < 2:
        return f(x)
    flat, block = x.reshape(rows, x.shape[-1]), -(-rows // count)  # of one size, none a mere rest
    y = mx.concatenate([f(flat[i : i + block]) for i in range(0, rows, block)])
    return y.reshape(*x.shape[:-1], y.shape[-1])


def layer_norm(layer: nn.LayerNorm, x: mx.array) -> mx.array:
    """layer(x) with BLAS taking the means."""
    mean = mx.full((x.shape[-1], 1), 1 / x.shape[-1])
    x = x - x @ mean
    return x * mx.rsqrt((x * x) @ mean + layer.eps) * layer.weight + layer.bias
