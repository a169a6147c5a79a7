"""The TFLite reader on files that `flatbuffers` and `tflite` wrote, and on broken ones."""

from pathlib import Path

import numpy as np
import pytest

from musicot_mlx.convert.tflite import FULLY_CONNECTED, GATHER, read_tflite
from musicot_mlx.errors import MusicotError

pytest.importorskip("tflite")
from tests.support.tflite import write_tflite  # noqa: E402

RNG = np.random.default_rng(0)
CONSTANTS = {
    "matrix": RNG.standard_normal((3, 5)).astype(np.float32),
    "half": RNG.standard_normal((7,)).astype(np.float16),
    "whole": np.arange(-2, 4, dtype=np.int32).reshape(1, 2, 3),
    "flag": np.array([True, False, True]),
    "one": np.array(2.5, np.float32),
}
GRAPHS = [
    [("x", None), *list(CONSTANTS.items())[:3], ("é;ü", CONSTANTS["matrix"])],
    [],
    list(CONSTANTS.items())[3:],
]
OPERATIONS = [(FULLY_CONNECTED, (0, 1, -1), (0,)), (GATHER, (1, 3), (0,)), (205, (), (0,))]


@pytest.fixture(params=[False, True], ids=["inline", "external"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return write_tflite(tmp_path / "a.tflite", GRAPHS, OPERATIONS, external=request.param)


def test_tensors_and_operators(file):
    graphs = read_tflite(file)
    assert [len(graph.tensors) for graph in graphs] == [5, 0, 2]
    for graph, written in zip(graphs, GRAPHS, strict=True):
        for tensor, (name, array) in zip(graph.tensors, written, strict=True):
            assert tensor.name == name
            if array is None:
                assert tensor.data is None and tensor.dtype == np.float32
                continue
            assert tensor.shape == array.shape and tensor.dtype == array.dtype == tensor.data.dtype
            assert np.array_equal(tensor.data, array)
            assert not tensor.data.flags.writeable and not tensor.data.flags.owndata
    seen = [(one.code, one.inputs, one.outputs) for one in graphs[0].operators]
    assert seen == OPERATIONS
    assert not graphs[2].operators


def test_truncations_are_one_line(file, tmp_path):
    whole, short = file.read_bytes(), tmp_path / "short.tflite"
    for size in range(0, len(whole), 5):
        short.write_bytes(whole[:size])
        try:
            graphs = read_tflite(short)
        except MusicotError as error:
            assert str(short) in str(error) and "\n" not in str(error)
        else:  # what was cut is only padding behind the last table
            assert [len(graph.tensors) for graph in graphs] == [5, 0, 2]
            assert not any(whole[size:])


def test_noise_raises_nothing_else(file, tmp_path):
    whole, path = file.read_bytes(), tmp_path / "noise.tflite"
    rng, refused = np.random.default_rng(1), 0
    for _ in range(400):
        data = bytearray(whole)
        for place in rng.integers(0, len(data), rng.integers(1, 4)):
            data[place] = rng.choice([0, 1, 127, 128, 255, rng.integers(256)])
        path.write_bytes(data)
        try:
            read_tflite(path)
        except MusicotError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            refused += 1
    assert 30 < refused < 400


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"TFL3", "not a TFLite file"),
        (b"\x08\0\0\0TFL2" + bytes(50), "not a TFLite file"),
        (b"PK\x03\x04" + bytes(50), "not a TFLite file"),
        (b"\xff\xff\xff\xffTFL3" + bytes(50), "an offset points to byte 4,294,967,295"),
        (b"\x08\0\0\0TFL3", "broken or truncated"),
    ],
)
def test_what_is_no_tflite(tmp_path, content, words):
    path = tmp_path / "a.tflite"
    path.write_bytes(content)
    with pytest.raises(MusicotError, match=words):
        read_tflite(path)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(MusicotError, match="cannot read .*No such file"):
        read_tflite(tmp_path / "a.tflite")
    with pytest.raises(MusicotError, match="cannot read .*directory"):
        read_tflite(tmp_path)


def test_a_shape_that_its_bytes_do_not_fill(tmp_path):
    path = write_tflite(tmp_path / "a.tflite", [[("w", np.ones((3, 5), np.float32))]])
    data = path.read_bytes()
    wanted = np.array([2, 3, 5], "<i4").tobytes()  # a vector of two: 3, 5
    assert data.count(wanted) == 1
    path.write_bytes(data.replace(wanted, np.array([2, 3, 6], "<i4").tobytes()))
    with pytest.raises(MusicotError, match=r"w has shape \(3, 6\) but 60 bytes of float32"):
        read_tflite(path)
