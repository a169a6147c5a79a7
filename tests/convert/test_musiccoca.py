"""MusicCoCa's key tables: .tflite files with upstream's names to the parts musiccoca and rvq."""

import re
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from musicot_mlx.convert.keymaps.musiccoca import (
    FILES,
    QUANTIZER,
    TRANSFORMS,
    read_musiccoca,
    read_quantizer,
)
from musicot_mlx.errors import MusicotError
from musicot_mlx.models.musiccoca import MUSICCOCA, MusicCoCa
from musicot_mlx.models.rvq import ResidualVQ
from musicot_mlx.weights.checkpoint import load_strict
from musicot_mlx.weights.config import config_to_dict

pytest.importorskip("tflite")
pytest.importorskip("torch")  # the names of the arrays stand in the reference
from musicot_mlx.reference.musiccoca import shapes  # noqa: E402
from tests.support import tiny_musiccoca as tiny  # noqa: E402
from tests.support.tflite import write_tflite  # noqa: E402

ARRAYS = tiny.arrays(shapes(config_to_dict(tiny.CONFIG)))


def read(folder: Path) -> dict[str, np.ndarray]:
    """The arrays of a folder of files, checked to fill the network."""
    config, found = read_musiccoca(folder, folder, tiny.CONFIG)
    load_strict(MusicCoCa(config), found, where="musiccoca")
    return {name: np.array(array) for name, array in found.items()}


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    return read(tiny.write_files(tmp_path_factory.mktemp("plain"), ARRAYS))


def test_external_buffers_are_the_same(tmp_path, expected):
    found = read(tiny.write_files(tmp_path, ARRAYS, external=True))
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in found)


def test_float16_becomes_float32(tmp_path, expected):
    found = read(tiny.write_files(tmp_path, ARRAYS, dtype="float16"))
    for name, array in found.items():
        assert array.dtype == np.float32
        assert np.abs(array - expected[name]).max() < 2e-3 * max(1, np.abs(array).max())


def test_a_bundle_without_mapper(tmp_path, expected):
    tiny.write_files(tmp_path, ARRAYS)
    (tmp_path / "mapper.tflite").unlink()
    config, found = read_musiccoca(tmp_path, tmp_path, tiny.CONFIG)
    assert config.mapper is None and not any(name.startswith("mapper") for name in found)
    load_strict(MusicCoCa(config), found, where="musiccoca")
    with pytest.raises(ValueError, match="no mapper"):
        MusicCoCa(config).map_text(mx.zeros((1, 20)), mx.zeros((1, 20)))


def test_each_array_is_used_once(expected):
    """As many numbers as the files hold, and the row of 0 Hz."""
    theirs = sum(array.size for array in ARRAYS.values()) + tiny.CONFIG.mel.bins
    assert sum(array.size for array in expected.values()) == theirs
    assert not expected["mel.filters"][0].any()


def test_scales_and_queries_of_the_loop(expected):
    stacked = {int(k.rpartition("_")[2]): v for k, v in ARRAYS.items() if "music_encoder/jax" in k}
    for layer in range(2):
        of = f"audio.layers.{layer}."
        assert np.array_equal(expected[of + "attn.norm.weight"], stacked[53][layer] + 1)
        assert np.array_equal(expected[of + "ffn.norm.weight"], stacked[51][layer] + 1)
        query = stacked[59][layer].reshape(20, 12).T * 4**-0.5
        assert np.allclose(expected[of + "attn.query.weight"], query)
        assert np.allclose(expected[of + "attn.query.bias"], stacked[58][layer].ravel() / 2)
        out = stacked[57][layer].reshape(20, 12)
        assert np.array_equal(expected[of + "attn.out.weight"], out)


NAMES = [name for name in ARRAYS if "x_layers_1" not in name]


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_array_is_named(tmp_path, name):
    lacking = {key: array for key, array in ARRAYS.items() if key != name}
    file = name.partition("/")[0]
    tiny.write_files(tmp_path, lacking)
    with pytest.raises(MusicotError) as caught:
        read_musiccoca(tmp_path, tmp_path, tiny.CONFIG)
    message = str(caught.value)
    # of a value the key's constant remains, whose name has it in its tail
    found = re.search(r"holds (?:no tensor|one tensor for .* and) (\S+) (?:of shape|\()", message)
    assert f"{file}.tflite" in message and "\n" not in message
    assert re.search(found[1], tiny.tensor_name(name))


def test_zeros_that_two_share_are_no_missing_array(tmp_path, expected):
    graphs = tiny.files(ARRAYS)["text_encoder"]
    zeros, names = np.zeros(12, np.float32), []
    for name, array in list(graphs[0]):
        if "self_attention/key/add" in name:
            names.append(name.partition(";")[0])
            graphs[0].remove((name, array))
    graphs[0].append((";".join(names), zeros))
    tiny.write_files(tmp_path, ARRAYS)
    write_tflite(tmp_path / "text_encoder.tflite", graphs)
    found = read(tmp_path)
    changed = [name for name in found if not np.array_equal(found[name], expected[name])]
    assert sorted(changed) == [f"text.layers.{layer}.attn.key.bias" for layer in range(2)]
    assert not any(found[name].any() for name in changed)


def test_another_shape_is_told(tmp_path):
    name = "text_encoder/x_layers_1/ff_layer/ffn_layer2/bias"
    tiny.write_files(tmp_path, ARRAYS | {name: np.zeros(21, np.float32)})
    with pytest.raises(MusicotError, match=r"of shape \(20,\); it has shape \(21,\)"):
        read_musiccoca(tmp_path, tmp_path, tiny.CONFIG)


def test_two_of_one_name_are_refused_unless_they_share_the_buffer(tmp_path):
    graphs = tiny.files(ARRAYS)["text_encoder"]
    name = "x_layers_0/self_attention/value/einsum"
    graphs[0].append((name, ARRAYS["text_encoder/" + name] + 1))
    tiny.write_files(tmp_path, ARRAYS)
    write_tflite(tmp_path / "text_encoder.tflite", graphs)
    with pytest.raises(MusicotError, match=rf"holds 2 tensors .*value/einsum.*{name}"):
        read_musiccoca(tmp_path, tmp_path, tiny.CONFIG)


def test_a_tail_of_a_name_counts_only_where_no_head_fits(tmp_path, expected):
    """Keys whose tail names values are no values; a name found in a tail alone is good."""
    changed = {key: value for key, value in ARRAYS.items() if key != "text_encoder/position_emb"}
    graphs = tiny.files(changed)["text_encoder"]
    graphs[0].append(("add;position_emb", ARRAYS["text_encoder/position_emb"]))
    tiny.write_files(tmp_path, ARRAYS)
    write_tflite(tmp_path / "text_encoder.tflite", graphs)
    found = read(tmp_path)
    assert all(np.array_equal(found[name], expected[name]) for name in found)


@pytest.mark.parametrize("file", [*FILES, QUANTIZER])
def test_each_broken_file_is_one_line(tmp_path, file):
    tiny.write_files(tmp_path, ARRAYS)
    tiny.write_quantizer(tmp_path, tiny.codebooks())
    whole = (tmp_path / file).read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"not a model at all"):
        (tmp_path / file).write_bytes(content)
        with pytest.raises(MusicotError, match=file) as caught:
            read_musiccoca(tmp_path, tmp_path, tiny.CONFIG)
            read_quantizer(tmp_path, tiny.RVQ)
        assert "\n" not in str(caught.value)


def test_odd_values_and_graphs(tmp_path):
    name = "music_encoder/jax2tf_arg_47"
    broken = ARRAYS[name].copy()
    broken[1, 2, 3] = np.nan
    tiny.write_files(tmp_path, ARRAYS | {name: broken})
    with pytest.raises(MusicotError, match="jax2tf_arg_47/.* holds NaN"):
        read_musiccoca(tmp_path, tmp_path, tiny.CONFIG)
    tiny.write_files(tmp_path, ARRAYS | {name: np.ones(broken.shape, np.int32)})
    with pytest.raises(MusicotError, match="jax2tf_arg_47/.* is int32"):
        read_musiccoca(tmp_path, tmp_path, tiny.CONFIG)
    tiny.write_files(tmp_path, ARRAYS)
    write_tflite(tmp_path / "mapper.tflite", tiny.files(ARRAYS)["mapper"][:1])
    with pytest.raises(MusicotError, match="mapper.tflite has 1 subgraphs and lacks the loop"):
        read_musiccoca(tmp_path, tmp_path, tiny.CONFIG)


def test_codebooks(tmp_path):
    books = tiny.codebooks()
    tiny.write_quantizer(tmp_path, books)
    found = read_quantizer(tmp_path, tiny.RVQ)
    load_strict(ResidualVQ(tiny.RVQ), found, where="rvq")
    for level, book in enumerate(books):
        assert np.array_equal(np.array(found[f"codebooks.{level}.weight"]), book)


def test_codebooks_in_another_order_or_number(tmp_path):
    books = tiny.codebooks()
    tiny.write_quantizer(tmp_path, books, looked_up=books[::-1])
    with pytest.raises(MusicotError, match="distances of level 0 are not of its codebook"):
        read_quantizer(tmp_path, tiny.RVQ)
    tiny.write_quantizer(tmp_path, books[:3])
    with pytest.raises(MusicotError, match="has 2 look-ups and 3 products .* expected 3 and 4"):
        read_quantizer(tmp_path, tiny.RVQ)
    write_tflite(tmp_path / QUANTIZER, [])
    with pytest.raises(MusicotError, match="no subgraph"):
        read_quantizer(tmp_path, tiny.RVQ)


def test_the_published_tables_fill_the_published_network():
    """Names and shapes only: what the tables ask for, transformed, is what the network has."""
    filled: dict[str, tuple[int, ...]] = {}
    for tables in FILES.values():
        for table in tables.values():
            for line in table(MUSICCOCA):
                stacked = "{}" in line.target
                array = mx.zeros(line.shape[1:] if stacked else line.shape)  # lazy
                shape = TRANSFORMS[line.transform](array).shape
                for layer in range(line.shape[0] if stacked else 1):
                    target = line.target.format(layer)
                    assert target not in filled
                    filled[target] = shape
    network = {name: v.shape for name, v in tree_flatten(MusicCoCa(MUSICCOCA).parameters())}
    assert filled == network


def test_each_published_name_is_found_by_one_line():
    """Twelve layers: the second is not the eleventh or twelfth, and no name is left over."""
    named = shapes(config_to_dict(MUSICCOCA))
    for file, tables in FILES.items():
        lines = [line for table in tables.values() for line in table(MUSICCOCA)]
        theirs = [name for name in named if name.startswith(file.removesuffix("tflite")[:-1] + "/")]
        used = []
        for line in lines:
            fit = [
                name
                for name in theirs
                if named[name] == line.shape
                and re.search(line.pattern, tiny.tensor_name(name).partition(";")[0])
            ]
            assert len(fit) == 1, (line, fit)
            used += fit
        assert sorted(used) == sorted(theirs)
