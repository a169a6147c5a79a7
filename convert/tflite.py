"""TFLite files: their tensors and operators, read with struct and numpy.

A .tflite file is a flatbuffer (github.com/tensorflow/tensorflow, lite/schema/schema.fbs, version
3): tables whose first word points back to a list of where each field lies. Nothing is run and
nothing is copied: constants are views of the file, which is mapped into memory. Every offset is
checked against the file's length, because files arrive truncated.
"""

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from musicot_mlx.errors import MusicotError

FULLY_CONNECTED, GATHER = 9, 36  # codes of operators
_DTYPES = {0: "<f4", 1: "<f2", 2: "<i4", 3: "u1", 4: "<i8", 6: "?", 9: "i1", 10: "<f8"}
Item = TypeVar("Item")


class _Broken(Exception):
    """The file is no flatbuffer at this place."""


@dataclass(frozen=True)
class Tensor:
    """data: a constant's values as a read-only view of the file; None for what is computed, and for
    a kind of number that is not read (strings, packed integers). buffer: where they lie; tensors of
    one buffer are the same constant.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype | None
    buffer: int
    data: np.ndarray | None


@dataclass(frozen=True)
class Operator:
    """Inputs and outputs are places in the subgraph's tensors; -1 is an input left out."""

    code: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True)
class Subgraph:
    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def read_tflite(path: str | Path) -> list[Subgraph]:
    """The subgraphs of a file, the main one first.

    Raises MusicotError for a file that is missing, no TFLite, or truncated.
    """
    path = Path(path)
    try:
        file = np.memmap(path, dtype=np.uint8, mode="r").view(np.ndarray)
    except OSError as error:
        raise MusicotError(f"cannot read {path}: {error.strerror}") from error
    except ValueError:  # an empty file can't be mapped
        raise MusicotError(f"{path} is empty; get the file again") from None
    if file[4:8].tobytes() != b"TFL3":
        raise MusicotError(f"{path} is not a TFLite file of version 3; get the file again")
    try:
        return _model(_Table(file, _number(file, 0, "<I")))
    except _Broken as error:
        raise MusicotError(
            f"{path} is a broken or truncated TFLite file ({file.size:,} bytes): {error}; "
            "get the file again"
        ) from error


def _number(file: np.ndarray, place: int, kind: str) -> int:
    if not 0 <= place <= file.size - struct.calcsize(kind):
        raise _Broken(f"an offset points to byte {place:,}")
    return struct.unpack_from(kind, file, place)[0]


class _Table:
    """A table of the flatbuffer at a place of the file; a field is named by its vtable offset."""

    def __init__(self, file: np.ndarray, place: int) -> None:
        self._file, self._place = file, place
        self._fields = place - _number(file, place, "<i")
        self._size = _number(file, self._fields, "<H")

    def _field(self, field: int) -> int | None:
        """Where the field lies; None where the table lacks it."""
        if field + 2 > self._size:
            return None
        offset = _number(self._file, self._fields + field, "<H")
        return self._place + offset if offset else None

    def number(self, field: int, kind: str) -> int:
        place = self._field(field)
        return 0 if place is None else _number(self._file, place, kind)

    def _vector(self, field: int) -> tuple[int, int]:
        """Where the items of a vector begin and how many there are."""
        place = self._field(field)
        if place is None:
            return 0, 0
        place += _number(self._file, place, "<I")
        return place + 4, _number(self._file, place, "<I")

    def bytes(self, field: int) -> np.ndarray:
        """A vector of bytes as a view of the file."""
        return _piece(self._file, *self._vector(field))

    def integers(self, field: int) -> tuple[int, ...]:
        start, count = self._vector(field)
        return tuple(_piece(self._file, start, 4 * count).view("<i4").tolist())

    def tables(self, field: int) -> Iterator["_Table"]:
        start, count = self._vector(field)
        for place in range(start, start + 4 * count, 4):
            yield _Table(self._file, place + _number(self._file, place, "<I"))

    def buffer(self) -> np.ndarray:
        """What a Buffer holds: its data, or the bytes behind the flatbuffer that it points to."""
        offset, size = self.number(6, "<Q"), self.number(8, "<Q")
        return _piece(self._file, offset, size) if offset > 1 else self.bytes(4)


def _piece(file: np.ndarray, place: int, size: int) -> np.ndarray:
    if place + size > file.size:
        raise _Broken(f"{size:,} bytes from byte {place:,} on end behind the file")
    return file[place : place + size]


def _model(model: _Table) -> list[Subgraph]:
    codes = [
        max(code.number(4, "<b"), code.number(10, "<i")) for code in model.tables(6)
    ]  # the first is of old files, which had fewer operators
    buffers = [table.buffer() for table in model.tables(12)]
    return [_subgraph(table, codes, buffers) for table in model.tables(8)]


def _subgraph(graph: _Table, codes: list[int], buffers: list[np.ndarray]) -> Subgraph:
    tensors = tuple(_tensor(table, buffers) for table in graph.tables(4))

    def places(table: _Table, field: int) -> tuple[int, ...]:
        found = table.integers(field)
        if found and not -1 <= min(found) <= max(found) < len(tensors):
            raise _Broken(f"an operator names tensor {max(found)} of {len(tensors)}")
        return found

    operators = tuple(
        Operator(_at(codes, table.number(4, "<I"), "operator"), places(table, 6), places(table, 8))
        for table in graph.tables(10)
    )
    return Subgraph(tensors, operators, places(graph, 6), places(graph, 8))


def _tensor(table: _Table, buffers: list[np.ndarray]) -> Tensor:
    name = table.bytes(10).tobytes().decode("utf-8", "replace")
    shape, buffer = table.integers(4), table.number(8, "<I")
    kind, values = _DTYPES.get(table.number(6, "<b")), _at(buffers, buffer, "buffer")
    dtype, data = None if kind is None else np.dtype(kind), None
    if values.size and dtype is not None:
        if min(shape, default=1) < 0 or math.prod(shape) * dtype.itemsize != values.size:
            raise _Broken(f"{name} has shape {shape} but {values.size:,} bytes of {dtype}")
        data = values.view(dtype).reshape(shape)
    return Tensor(name, shape, dtype, buffer, data)


def _at(items: list[Item], index: int, what: str) -> Item:
    if index >= len(items):
        raise _Broken(f"{what} {index} of {len(items)}")
    return items[index]
