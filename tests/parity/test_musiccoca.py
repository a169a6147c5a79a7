"""MusicCoCa against PyTorch, by way of .tflite files with upstream's names: 5e-6 relative."""

import mlx.core as mx
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("tflite")

from musicot_mlx.convert.keymaps.musiccoca import read_musiccoca  # noqa: E402
from musicot_mlx.models.musiccoca import MUSICCOCA, MusicCoCa  # noqa: E402
from musicot_mlx.reference.musiccoca import MusicCoCaReference, shapes  # noqa: E402
from musicot_mlx.weights.checkpoint import load_strict  # noqa: E402
from musicot_mlx.weights.config import config_to_dict  # noqa: E402
from tests.support import tiny_musiccoca as tiny  # noqa: E402


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[MusicCoCa, MusicCoCaReference]:
    folder = tmp_path_factory.mktemp("musiccoca")
    sizes = config_to_dict(tiny.CONFIG)
    arrays = tiny.arrays(shapes(sizes))
    tiny.write_files(folder, arrays)
    config, found = read_musiccoca(folder, folder, tiny.CONFIG)
    model = MusicCoCa(config)
    load_strict(model, found, where="musiccoca")
    reference = MusicCoCaReference({k: torch.from_numpy(v) for k, v in arrays.items()}, sizes)
    return model, reference


def close(ours: mx.array, theirs: "torch.Tensor") -> None:
    theirs = theirs.numpy()
    assert ours.shape == theirs.shape and np.isfinite(theirs).all()
    assert theirs.std(axis=0).min() > 1e-3  # rows differ, so the inputs are seen
    # as near as float32 adds up; 1e-4 would let one GELU pass for the other
    assert np.abs(np.array(ours) - theirs).max() < 5e-6 * np.abs(theirs).max()


def test_texts_of_any_length(both):
    model, reference = both
    ids, lengths = np.zeros((4, 11), np.int32), np.array([1, 2, 7, 11])
    rng = np.random.default_rng(1)
    for row, length in zip(ids, lengths, strict=True):
        row[:length] = [1, *rng.integers(0, 40, length - 1)]
    ids[2, 3] = 0  # an unknown piece inside a text is no padding
    paddings = torch.from_numpy((np.arange(11) >= lengths[:, None]).astype(np.float32))
    theirs = reference.text(torch.from_numpy(ids), paddings)
    close(model.embed_text(mx.array(ids), mx.array(lengths)), theirs)
    short = model.embed_text(mx.array(ids[:3, :7]), mx.array(lengths[:3]))
    close(short, theirs[:3])


def test_log_mel_and_audio(both):
    model, reference = both
    clips = np.random.default_rng(2).standard_normal((3, 1000)).astype(np.float32) * 0.3
    clips[1, 400:] = 0
    given = torch.from_numpy(clips)
    mel, theirs = np.array(model.mel(mx.array(clips))), reference.log_mel(given).numpy()
    assert mel.shape == (3, 24, 8) and np.abs(mel - theirs).max() < 1e-4
    close(model.embed_audio(mx.array(clips)), reference.audio(given))


@pytest.mark.parametrize("seed", [0, 1])
def test_mapper(both, seed):
    model, reference = both
    noise = np.random.RandomState(seed).randn(3, 20).astype(np.float32)
    text = np.random.default_rng(3).standard_normal((3, 20)).astype(np.float32)
    ours = model.map_text(mx.array(text), mx.array(noise))
    assert np.allclose(np.linalg.norm(np.array(ours), axis=1), 1, atol=1e-5)
    close(ours, reference.map(torch.from_numpy(text), torch.from_numpy(noise)))


def test_published_sizes():
    """The reference's arrays are those of the facts, and ours hold as many numbers."""
    from mlx.utils import tree_flatten

    named = shapes(config_to_dict(MUSICCOCA))
    assert named["text_encoder/x_layers_11/ff_layer/ffn_layer1/linear"] == (3072, 768)
    assert named["music_encoder/jax2tf_arg_47"] == (12, 768, 3072)
    assert named["music_encoder/jax2tf_arg_55"] == (12, 768, 12, 64)
    assert named["music_encoder/entry_stack/add"] == (1, 496, 768)
    assert named["mapper/jax2tf_arg_3"] == (8, 1024, 2, 256)
    assert named["mapper/jax2tf_arg_5"] == (8, 256, 3, 8, 64)
    assert named["audio_preprocessor/linear_to_mel_weight_matrix/Maximum"] == (1024, 128)
    theirs = sum(int(np.prod(shape)) for shape in named.values()) + 128  # the row of 0 Hz
    ours = {k: v.size for k, v in tree_flatten(MusicCoCa(MUSICCOCA).parameters())}
    assert sum(ours.values()) == theirs
    sizes = {name: sum(v for k, v in ours.items() if k.startswith(name)) / 1e6
             for name in ("text", "audio", "mapper")}  # fmt: skip
    assert sizes == pytest.approx({"text": 105, "audio": 93, "mapper": 21}, abs=1)
