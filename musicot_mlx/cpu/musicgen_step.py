"""One position through MusicGen's decoder on two CPU cores, in a third of the operations.

On MLX's CPU backend an operation costs some microseconds however little it does, and a step of
musicgen-small had 3,200 of them. Here the halves of every weight matrix that the two lanes read
(cpu/matmul.py) are found once a song, what stands between two attentions is compiled, and the
state is kept in columns (hidden, rows), as the products want it. The numbers are those of the plain
path up to rounding; tests hold the two together.
"""

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from musicot_mlx.cpu import threads
from musicot_mlx.cpu.activations import gelu_steps
from musicot_mlx.cpu.attention import one_query
from musicot_mlx.cpu.matmul import Halves, split_weight, times_halves

_Layer = dict[str, Any]


class Step:
    """Hidden states of one more position; belongs to a run, as the streams do to its thread."""

    def __init__(self, decoder: nn.Module, layers: list[_Layer], lane: mx.Stream) -> None:
        self._layers, self._norm = layers, decoder.layer_norm
        self._first, self._next, self._last = _compiled(decoder.config.num_attention_heads, lane)

    def __call__(
        self, x: mx.array, cache: Sequence[Any], mask: mx.array | None, cross: Sequence[Any] | None
    ) -> mx.array:
        """x (rows, 1, hidden) to hidden states of that shape, normalised; `cache` grows by it."""
        h = x[:, 0].T  # (hidden, rows)
        for number, (layer, kept) in enumerate(zip(self._layers, cache, strict=True)):
            q, k, v = self._first(h, layer["norm"], layer["qkv"])
            k, v = kept.update_and_fetch(k, v)
            y = one_query(q, k, v, scale=q.shape[-1] ** -0.5, mask=mask)
            out = layer["out"]
            if cross is not None:
                text = cross[number]
                text_rows = mx.zeros((len(text.keys), 0))  # a shape is all that it says
                h, q = self._next(h, y, text_rows, out, layer["text_norm"], layer["text_q"])
                y = one_query(q, text.keys, text.values, scale=q.shape[-1] ** -0.5, mask=text.mask)
                out = layer["text_out"]
            h = self._last(h, y, out, layer["last_norm"], layer["fc1"], layer["fc2"])
        return self._norm(h.T)[:, None]


def prepare(decoder: nn.Module, rows: int) -> Step | None:
    """A Step for so many rows, or None where the plain path is the better or the only one."""
    lane = threads.second_lane()
    if lane is None:
        return None
    layers = [_parts(layer, rows) for layer in decoder.layers]
    return Step(decoder, layers, lane) if all(layers) else None


def _parts(layer: nn.Module, rows: int) -> _Layer:
    """Halves of the matrices and values of the norms; empty for a layer that is not plain."""
    linear = {"qkv": layer.self_attn.qkv, "out": layer.self_attn.out_proj}
    norms = {"norm": layer.self_attn_layer_norm, "last_norm": layer.final_layer_norm}
    linear |= {"fc1": layer.fc1, "fc2": layer.fc2}
    if "encoder_attn" in layer:
        linear |= {"text_q": layer.encoder_attn.q_proj, "text_out": layer.encoder_attn.out_proj}
        norms |= {"text_norm": layer.encoder_attn_layer_norm}
    cut = {name: split_weight(matrix, rows) for name, matrix in linear.items()}
    if not isinstance(layer.activation, nn.GELU) or any(part is None for part in cut.values()):
        return {}
    if any(type(norm) is not nn.LayerNorm or norm.eps != 1e-5 for norm in norms.values()):
        return {}
    return cut | {name: (norm.weight[:, None], norm.bias[:, None]) for name, norm in norms.items()}


def _compiled(heads: int, lane: mx.Stream) -> tuple[Callable[..., Any], ...]:
    """What stands before, between and after the attentions of a layer."""

    def norm(h: mx.array, values: tuple[mx.array, mx.array]) -> mx.array:
        weight, bias = values
        centred = h - mx.sum(h, axis=0, keepdims=True) * (1 / len(h))
        power = mx.sum(centred * centred, axis=0, keepdims=True) * (1 / len(h))
        return centred * mx.rsqrt(power + 1e-5) * weight + bias

    def columns(y: mx.array) -> mx.array:
        return y.reshape(len(y), -1).T  # (batch, heads, 1, head_dim) to (channels, rows)

    def by_head(y: mx.array, parts: int) -> list[mx.array]:
        y = y.reshape(parts, heads, 1, -1, y.shape[1])
        y = y.transpose(0, 4, 1, 2, 3)  # (parts, batch, heads, 1, head_dim)
        return [part[0] for part in mx.split(y, parts)]

    @mx.compile
    def first(h: mx.array, values: tuple[mx.array, mx.array], qkv: Halves) -> list[mx.array]:
        return by_head(times_halves(qkv, norm(h, values), lane), 3)

    @mx.compile
    def following(
        h: mx.array,
        y: mx.array,
        text_rows: mx.array,
        out: Halves,
        values: tuple[mx.array, mx.array],
        q: Halves,
    ) -> tuple[mx.array, mx.array]:
        h = h + times_halves(out, columns(y), lane)
        x = h if len(text_rows) == h.shape[1] else h[:, : len(text_rows)]
        return h, by_head(times_halves(q, norm(x, values), lane), 1)[0]

    @mx.compile
    def last(
        h: mx.array,
        y: mx.array,
        out: Halves,
        values: tuple[mx.array, mx.array],
        fc1: Halves,
        fc2: Halves,
    ) -> mx.array:
        attending = len(y)
        attended = h[:, :attending] + times_halves(out, columns(y), lane)
        h = (
            attended
            if attending == h.shape[1]
            else mx.concatenate([attended, h[:, attending:]], axis=1)
        )
        x = gelu_steps(times_halves(fc1, norm(h, values), lane))
        return h + times_halves(fc2, x, lane)

    return first, following, last
