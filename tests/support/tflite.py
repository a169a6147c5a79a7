"""A writer of small .tflite files, by the packages `flatbuffers` and `tflite`: what others write
is what our reader has to read.
"""

from collections.abc import Sequence
from pathlib import Path

import flatbuffers
import numpy as np
import tflite

_TYPES = {"float32": 0, "float16": 1, "int32": 2, "bool": 6}
Named = tuple[str, np.ndarray | None]  # a tensor; None for one that is computed
Operation = tuple[int, Sequence[int], Sequence[int]]  # code, inputs, outputs


def write_tflite(
    path: Path,
    subgraphs: Sequence[Sequence[Named]],
    operations: Sequence[Operation] = (),
    *,
    external: bool = False,
) -> Path:
    """The file of these subgraphs; operations are the first one's. external: constants lie behind
    the flatbuffer, as in files of more than 2 GB.
    """
    arrays = [array for graph in subgraphs for _, array in graph if array is not None]
    start = 1 << 40 if external else 0  # of the first external buffer: found by writing twice
    if external:
        start = -(-len(_flatbuffer(subgraphs, operations, start)) // 16) * 16
    data = _flatbuffer(subgraphs, operations, start)
    if external:
        data = data.ljust(start, b"\0") + b"".join(array.tobytes() for array in arrays)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def _flatbuffer(
    subgraphs: Sequence[Sequence[Named]], operations: Sequence[Operation], external: int
) -> bytes:
    builder = flatbuffers.Builder(1024)
    codes = sorted({code for code, _, _ in operations})
    buffers, graphs = [_buffer(builder, None, 0)], []
    for number, graph in enumerate(subgraphs):
        tensors = []
        for name, array in graph:
            index = 0
            if array is not None:
                index = len(buffers)
                buffers.append(_buffer(builder, array, external))
                external += array.nbytes if external else 0
            tensors.append(_tensor(builder, name, array, index))
        made = [_operator(builder, codes, *one) for one in operations] if number == 0 else []
        listed = _offsets(builder, tensors), _offsets(builder, made)
        tflite.SubGraphStart(builder)
        tflite.SubGraphAddTensors(builder, listed[0])
        tflite.SubGraphAddOperators(builder, listed[1])
        graphs.append(tflite.SubGraphEnd(builder))
    kinds = []
    for code in codes:
        tflite.OperatorCodeStart(builder)
        tflite.OperatorCodeAddDeprecatedBuiltinCode(builder, min(code, 127))
        tflite.OperatorCodeAddBuiltinCode(builder, code)
        kinds.append(tflite.OperatorCodeEnd(builder))
    listed = [_offsets(builder, items) for items in (kinds, graphs, buffers)]
    tflite.ModelStart(builder)
    tflite.ModelAddVersion(builder, 3)
    tflite.ModelAddOperatorCodes(builder, listed[0])
    tflite.ModelAddSubgraphs(builder, listed[1])
    tflite.ModelAddBuffers(builder, listed[2])
    builder.Finish(tflite.ModelEnd(builder), b"TFL3")
    return bytes(builder.Output())


def _buffer(builder: flatbuffers.Builder, array: np.ndarray | None, external: int) -> int:
    data = None
    if array is not None and not external:
        builder.StartVector(1, array.nbytes, 16)
        builder.head -= array.nbytes
        data = np.frombuffer(array.tobytes(), np.uint8)
        builder.Bytes[builder.head : builder.head + array.nbytes] = data.tobytes()
        data = builder.EndVector()
    tflite.BufferStart(builder)
    if data is not None:
        tflite.BufferAddData(builder, data)
    elif array is not None:
        tflite.BufferAddOffset(builder, external)
        tflite.BufferAddSize(builder, array.nbytes)
    return tflite.BufferEnd(builder)


def _tensor(builder: flatbuffers.Builder, name: str, array: np.ndarray | None, index: int) -> int:
    text = builder.CreateString(name)
    shape = builder.CreateNumpyVector(np.array((1,) if array is None else array.shape, np.int32))
    tflite.TensorStart(builder)
    tflite.TensorAddShape(builder, shape)
    tflite.TensorAddType(builder, 0 if array is None else _TYPES[array.dtype.name])
    tflite.TensorAddBuffer(builder, index)
    tflite.TensorAddName(builder, text)
    return tflite.TensorEnd(builder)


def _operator(
    builder: flatbuffers.Builder,
    codes: list[int],
    code: int,
    inputs: Sequence[int],
    outputs: Sequence[int],
) -> int:
    listed = [builder.CreateNumpyVector(np.array(x, np.int32)) for x in (inputs, outputs)]
    tflite.OperatorStart(builder)
    tflite.OperatorAddOpcodeIndex(builder, codes.index(code))
    tflite.OperatorAddInputs(builder, listed[0])
    tflite.OperatorAddOutputs(builder, listed[1])
    return tflite.OperatorEnd(builder)


def _offsets(builder: flatbuffers.Builder, items: Sequence[int]) -> int:
    builder.StartVector(4, len(items), 4)
    for item in reversed(items):
        builder.PrependUOffsetTRelative(item)
    return builder.EndVector()
