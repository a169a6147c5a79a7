"""MusicCoCa: upstream's .tflite files -> models/musiccoca.py and models/rvq.py.

The files are exports of Praxis and JAX graphs (google/magenta-realtime-2, resources/musiccoca);
what a tensor is, its name tells: paths of modules, `;` between those of several users of one
constant. The text encoder's layers are unrolled, as (out, in) matrices with the scale of queries in
them. Those of the music encoder and the mapper are stacked arguments of a loop (subgraph 2), in
JAX's layout, known by number; there norms are stored less 1 and queries unscaled.
"""

import os
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import mlx.core as mx
import numpy as np

from musicot_mlx.convert.rules import ONE_TO_ONE
from musicot_mlx.convert.tflite import FULLY_CONNECTED, GATHER, Subgraph, Tensor, read_tflite
from musicot_mlx.errors import MusicotError, MusicotWarning
from musicot_mlx.models.musiccoca import MUSICCOCA, MusicCoCaConfig
from musicot_mlx.models.rvq import RVQConfig

MAIN, LOOP = 0, 2  # subgraphs
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Line:
    """One line of the tables: a constant by name and shape, which must be there exactly once.

    pattern: searched in the name up to its first `;`, and in all of it where none fits. target: a
    `{}` in it is the number of a layer, along the first axis of the shape.
    """

    pattern: str
    shape: Shape
    target: str
    transform: str = "keep"


TRANSFORMS: Mapping[str, Callable[[mx.array], mx.array]] = {
    **ONE_TO_ONE,
    "flat": lambda x: x.reshape(-1),
    "plus_one": lambda x: x + 1,
    "zero_row": lambda x: mx.pad(x, ((1, 0), (0, 0))),  # the filters of 0 Hz
    "query": lambda x: x * x.shape[-1] ** -0.5,  # (heads, dim) or (in, heads, dim)
}
TRANSFORMS |= {
    "query_in": lambda x: TRANSFORMS["heads_in"](TRANSFORMS["query"](x)),
    "query_flat": lambda x: TRANSFORMS["flat"](TRANSFORMS["query"](x)),
}


def _norm(source: str, target: str, dim: int) -> list[Line]:
    return [
        Line(source + r"/broadcast_in_dim1", (1, 1, dim), target + ".weight", "flat"),
        Line(source + r"/broadcast_in_dim(?!1)", (1, 1, dim), target + ".bias", "flat"),
    ]


def _linear(weight: str, bias: str, target: str, outputs: int, inputs: int) -> list[Line]:
    return [
        Line(weight, (outputs, inputs), target + ".weight"),
        Line(bias, (outputs,), target + ".bias"),
    ]


def _pooler(scope: str, target: str, config: MusicCoCaConfig) -> list[Line]:
    heads, width, dim = config.pool_heads, config.pool_dim, config.dim
    source = scope + r"/pool_attn/"
    return [
        Line(source + r".*qk_einsum", (1, heads, 1, width), target + ".query", "squeeze"),
        *(
            line
            for theirs, ours, outputs, inputs in (
                ("key", "key", heads * width, dim),
                ("value", "value", heads * width, dim),
                ("post", "out", dim, heads * width),
            )
            for line in _linear(
                f"{source}{theirs}/einsum", f"{source}{theirs}/add", f"{target}.{ours}",
                outputs, inputs,
            )
        ),
        *_norm(scope + r"/pool_attn_ln", target + ".norm", dim),
    ]  # fmt: skip


def preprocessor(config: MusicCoCaConfig) -> list[Line]:
    """audio_preprocessor.tflite."""
    mel = config.mel
    filters = (mel.fft // 2, mel.bins)
    return [
        Line(r"linear_to_mel_weight_matrix/Maximum", filters, "mel.filters", "zero_row"),
        Line(r"hann_window", (mel.frame,), "mel.window"),
    ]


def text_encoder(config: MusicCoCaConfig) -> list[Line]:
    """text_encoder.tflite."""
    dim, inner, ffn = config.dim, config.heads * config.head_dim, config.ffn
    lines = [
        Line(r"emb", (config.vocab, dim), "text.tokens.weight"),
        Line(r"position_emb", (1, config.text_length, dim), "text.positions", "squeeze0"),
        *_norm(r"exit_stack/ln", "text.norm", dim),
        *_pooler("contrastive_txt_pooler", "text.pooler", config),
    ]
    for i in range(config.layers):
        layer, target = rf"x_layers_{i}/", f"text.layers.{i}."
        query = layer + r"self_attention/.*_scale_query/mul"
        lines += _linear(query, query, target + "attn.query", inner, dim)
        for theirs, ours, outputs, inputs in (
            ("key", "key", inner, dim),
            ("value", "value", inner, dim),
            ("post", "out", dim, inner),
        ):
            source = f"{layer}self_attention/{theirs}/"
            lines += _linear(
                source + "einsum", source + "add", f"{target}attn.{ours}", outputs, inputs
            )
        lines += _norm(layer + r"layer_norm", target + "attn.norm", dim)
        lines += _norm(layer + r"ff_layer/layer_norm", target + "ffn.norm", dim)
        for number, ours, outputs, inputs in ((1, "up", ffn, dim), (2, "down", dim, ffn)):
            source = rf"{layer}.*ffn_layer{number}/"
            lines += _linear(
                source + "linear", source + "bias", f"{target}ffn.{ours}", outputs, inputs
            )
    return lines


def music_encoder(config: MusicCoCaConfig) -> list[Line]:
    """music_encoder.tflite, outside its loop over layers."""
    dim = config.dim
    return [
        Line(r"patch_projection/linear", (dim, config.patch**2), "audio.project.weight"),
        # with the projection's bias in it
        Line(r"entry_stack/add", (1, config.patches, dim), "audio.positions", "squeeze0"),
        *_norm(r"exit_stack/ln", "audio.norm", dim),
        *_pooler("contrastive_music_pooler", "audio.pooler", config),
    ]


def _arguments(
    table: Iterable[tuple[int, Shape, str, str]], layers: int, target: str
) -> list[Line]:
    return [
        Line(rf"^jax2tf_arg_{number}/", (layers, *shape), target + name, transform)
        for number, shape, name, transform in table
    ]


def music_layers(config: MusicCoCaConfig) -> list[Line]:
    """The loop of music_encoder.tflite."""
    dim, ffn, heads = config.dim, config.ffn, (config.heads, config.head_dim)
    table = (
        (46, (ffn,), "ffn.up.bias", "keep"),
        (47, (dim, ffn), "ffn.up.weight", "transpose"),
        (48, (dim,), "ffn.down.bias", "keep"),
        (49, (ffn, dim), "ffn.down.weight", "transpose"),
        (50, (dim,), "ffn.norm.bias", "keep"),
        (51, (dim,), "ffn.norm.weight", "plus_one"),
        (52, (dim,), "attn.norm.bias", "keep"),
        (53, (dim,), "attn.norm.weight", "plus_one"),
        (54, heads, "attn.key.bias", "flat"),
        (55, (dim, *heads), "attn.key.weight", "heads_in"),
        (56, (dim,), "attn.out.bias", "keep"),
        (57, (dim, *heads), "attn.out.weight", "heads_out"),
        (58, heads, "attn.query.bias", "query_flat"),
        (59, (dim, *heads), "attn.query.weight", "query_in"),
        (60, heads, "attn.value.bias", "flat"),
        (61, (dim, *heads), "attn.value.weight", "heads_in"),
    )
    return _arguments(table, config.layers, "audio.layers.{}.")


def mapper(config: MusicCoCaConfig) -> list[Line]:
    """mapper.tflite, outside its loop over layers."""
    sizes, dim = config.mapper, config.dim
    flat = sizes.tokens * sizes.width
    return [
        Line(r"arith\.constant1$", (1, 1, sizes.context), "mapper.context", "flat"),
        *_linear("input_projection", "input_projection", "mapper.first", flat, dim),
        *_linear("output_projection", "output_projection", "mapper.last", dim, flat),
    ]


def mapper_layers(config: MusicCoCaConfig) -> list[Line]:
    """The loop of mapper.tflite."""
    sizes = config.mapper
    width, ffn, heads = sizes.width, sizes.ffn, (sizes.heads, sizes.head_dim)
    context = (2 * sizes.context + config.dim, 2, width)
    table = (
        (2, (2, width), "attn_condition.bias", "flat"),
        (3, context, "attn_condition.weight", "heads_in"),
        (4, (width,), "attn_norm.weight", "keep"),
        (5, (width, 3, *heads), "qkv.weight", "heads_in"),
        (6, (1, *heads), "sink_key", "squeeze0"),
        (7, (1, *heads), "sink_value", "squeeze0"),
        (8, (width, *heads), "out.weight", "heads_out"),
        (9, (2, width), "ffn_condition.bias", "flat"),
        (10, context, "ffn_condition.weight", "heads_in"),
        (11, (ffn,), "up.bias", "keep"),
        (12, (width, ffn), "up.weight", "transpose"),
        (13, (width,), "down.bias", "keep"),
        (14, (ffn, width), "down.weight", "transpose"),
        (15, (width,), "ffn_norm.weight", "keep"),
    )
    return _arguments(table, sizes.layers, "mapper.layers.{}.")


# file -> subgraph -> its table
FILES: Mapping[str, Mapping[int, Callable[[MusicCoCaConfig], list[Line]]]] = {
    "audio_preprocessor.tflite": {MAIN: preprocessor},
    "text_encoder.tflite": {MAIN: text_encoder},
    "music_encoder.tflite": {MAIN: music_encoder, LOOP: music_layers},
    "mapper.tflite": {MAIN: mapper, LOOP: mapper_layers},
}
QUANTIZER = "pretrained_vector_quantizer.tflite"


def read_musiccoca(
    folder: Path, scratch: Path, sizes: MusicCoCaConfig = MUSICCOCA
) -> tuple[MusicCoCaConfig, dict[str, mx.array]]:
    """The config and the arrays of the part `musiccoca`, unread, by way of files in `scratch`.

    The config's mapper is None where the folder has none. Raises MusicotError for a missing or
    broken file, and for a tensor that is missing, there twice, or not a finite number.
    """
    mapper = folder / "mapper.tflite"
    if not os.path.lexists(mapper):  # bundles of the first weeks; a link that leads nowhere is told
        sizes = replace(sizes, mapper=None)
        warnings.warn(
            f"{mapper} is missing: all thoughts of the same words will be one; newer downloads "
            "have it",
            MusicotWarning,
            stacklevel=2,
        )
    arrays: dict[str, mx.array] = {}
    for name, tables in FILES.items():
        if name == "mapper.tflite" and sizes.mapper is None:
            continue
        graphs, found = read_tflite(folder / name), {}
        for number, table in tables.items():
            if number >= len(graphs):
                raise MusicotError(
                    f"{folder / name} has {len(graphs)} subgraphs and lacks the loop over layers; "
                    "get the file again"
                )
            found |= _collected(graphs[number], table(sizes), folder / name)
        # a file's arrays at a time in memory, however many files there are
        piece = scratch / f"{Path(name).stem}.safetensors"
        mx.save_safetensors(str(piece), found)
        arrays |= mx.load(str(piece))
    return sizes, arrays


def _collected(graph: Subgraph, lines: Iterable[Line], where: Path) -> dict[str, mx.array]:
    out, used = {}, {}
    for line in lines:
        tensor = _find(graph, line, where)
        values = _values(tensor, where)
        # exporters join constants of one content, which only untrained zeros and ones have
        other = used.setdefault(tensor.buffer, line.pattern)
        if other != line.pattern and values.min() != values.max():
            raise MusicotError(
                f"{where} holds one tensor for {other} and {line.pattern} ({tensor.name}), "
                "expected two; it is of another version or damaged"
            )
        array = mx.array(values)
        transform = TRANSFORMS[line.transform]
        if "{}" in line.target:
            for layer, one in enumerate(array):
                out[line.target.format(layer)] = mx.contiguous(transform(one))
        else:
            out[line.target] = mx.contiguous(transform(array))
    return out


def _find(graph: Subgraph, line: Line, where: Path) -> Tensor:
    """The constant of a line; one that two tensors share counts once."""
    fit = [x for x in graph.tensors if x.data is not None and x.shape == line.shape]
    for end in (1, None):
        named = [x for x in fit if re.search(line.pattern, ";".join(x.name.split(";")[:end]))]
        if len({x.buffer for x in named}) == 1:
            return named[0]
        if named:
            raise MusicotError(
                f"{where} holds {len(named)} tensors {line.pattern} of shape {line.shape} "
                f"({named[0].name}, {named[1].name}), expected one; it is of another version"
            )
    others = [x.shape for x in graph.tensors if x.data is not None and _named(x, line)]
    shapes = f"; it has shape {', '.join(map(str, others[:3]))}" if others else ""
    raise MusicotError(
        f"{where} holds no tensor {line.pattern} of shape {line.shape}{shapes}; it is of another "
        "version or damaged"
    )


def _named(tensor: Tensor, line: Line) -> bool:
    return re.search(line.pattern, tensor.name) is not None


def _values(tensor: Tensor, where: Path) -> np.ndarray:
    """A constant as float32."""
    if tensor.dtype.kind != "f":
        raise MusicotError(
            f"{where}: {tensor.name} is {tensor.dtype}, expected floats; get the file again"
        )
    values = tensor.data.astype(np.float32)
    if not np.isfinite(values).all():
        raise MusicotError(f"{where}: {tensor.name} holds NaN or infinity; get the file again")
    return values


def read_quantizer(folder: Path, sizes: RVQConfig) -> dict[str, mx.array]:
    """The arrays of the part `rvq`: pretrained_vector_quantizer.tflite.

    Each level is a matrix product for the distances, of -2 c and |c|^2, and a look-up of what is
    left to the next; the last needs none, so its codebook comes from the product. Raises
    MusicotError for a file of another structure, and for products that are not of the codebooks
    looked up, which would mean another order.
    """
    where, shape = folder / QUANTIZER, (sizes.codebook_size, sizes.dim)
    graph = read_tflite(where)[MAIN:1]
    if not graph:
        raise MusicotError(f"{where} has no subgraph; get the file again")
    (graph,) = graph

    def constant(operator_inputs: tuple[int, ...], place: int) -> Tensor | None:
        number = operator_inputs[place] if place < len(operator_inputs) else -1
        tensor = graph.tensors[number] if number >= 0 else None
        return tensor if tensor is not None and tensor.data is not None else None

    tables, products = [], []
    for operator in graph.operators:
        if operator.code == GATHER:
            table = constant(operator.inputs, 0)
            if table is not None and table.shape == shape:
                tables.append(_values(table, where))
        elif operator.code == FULLY_CONNECTED:
            weight, bias = constant(operator.inputs, 1), constant(operator.inputs, 2)
            if weight is not None and bias is not None and weight.shape == shape:
                products.append((_values(weight, where), _values(bias, where)))
    if len(tables) != sizes.codebooks - 1 or len(products) != sizes.codebooks:
        raise MusicotError(
            f"{where} has {len(tables)} look-ups and {len(products)} products of shape {shape}, "
            f"expected {sizes.codebooks - 1} and {sizes.codebooks}; it is of another version"
        )
    tables.append(-0.5 * products[-1][0])
    for level, (table, (weight, bias)) in enumerate(zip(tables, products, strict=True)):
        norms = (table * table).sum(axis=-1)
        if not (
            np.allclose(weight, -2 * table, rtol=1e-3, atol=1e-6)
            and bias.shape == norms.shape
            and np.allclose(bias, norms, rtol=2e-3, atol=1e-5)
        ):
            raise MusicotError(
                f"{where}: the distances of level {level} are not of its codebook; the file is "
                "damaged or of another version"
            )
    return {f"codebooks.{level}.weight": mx.array(table) for level, table in enumerate(tables)}
