"""ViT and ViViT: shapes, order of patches, dtype, save and load."""

from pathlib import Path

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from musicot_mlx.errors import MusicotError
from musicot_mlx.models.vit import ViT, ViTConfig
from musicot_mlx.weights.checkpoint import load_arrays, load_strict, part, save_checkpoint
from musicot_mlx.weights.config import config_from_dict
from tests.support.networks import randomize

PICTURE = {
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 20,
    "image_size": 8,
    "patch_size": 4,
}
FILM = {**PICTURE, "num_frames": 4, "tubelet_frames": 2, "hidden_act": "gelu_fast"}


def tiny_vit(values: dict, dtype: mx.Dtype = mx.float32) -> ViT:
    return randomize(ViT(config_from_dict(ViTConfig, values)), dtype=dtype)


def pixels(*shape: int) -> mx.array:
    return mx.random.uniform(-1, 1, shape, key=mx.random.key(1))


def test_shapes() -> None:
    assert tiny_vit(PICTURE)(pixels(2, 8, 8, 3)).shape == (2, 5, 12)
    assert tiny_vit(FILM)(pixels(2, 4, 8, 8, 3)).shape == (2, 9, 12)


def test_a_picture_is_a_film_of_one_frame() -> None:
    picture = pixels(2, 8, 8, 3)
    assert mx.array_equal(tiny_vit(PICTURE)(picture), tiny_vit(PICTURE)(picture[:, None]))


def test_patches_are_in_order_of_frames_rows_and_columns() -> None:
    network, film = tiny_vit(FILM), pixels(1, 4, 8, 8, 3)
    marked = mx.array(film)
    marked[:, 2:, :4, 4:] = 9.0  # second pair of frames, upper right
    changed = mx.abs(network._cut(marked) - network._cut(film)).max(axis=-1)[0]
    assert mx.argmax(changed).item() == 4 + 1 and mx.sum(changed > 0).item() == 1


@pytest.mark.parametrize("shape", [(1, 8, 9, 3), (1, 2, 8, 8, 3), (1, 8, 8, 1)])
def test_pixels_of_another_size_are_told(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected \(1, 8, 8, 3\)"):
        tiny_vit(PICTURE)(pixels(*shape))


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_16_bit_stays_16_bit(dtype: mx.Dtype) -> None:
    film = pixels(1, 4, 8, 8, 3)
    out, full = tiny_vit(FILM, dtype)(film), tiny_vit(FILM)(film)
    assert out.dtype == dtype
    assert mx.abs(out.astype(mx.float32) - full).max().item() < 0.15


def test_save_and_load_round_trip(tmp_path: Path) -> None:
    network, film = tiny_vit(FILM), pixels(1, 4, 8, 8, 3)
    arrays = {f"vivit.{name}": value for name, value in tree_flatten(network.parameters())}
    save_checkpoint(tmp_path / "m", {"model_type": "musicgen", "vivit": FILM}, arrays)
    loaded = ViT(config_from_dict(ViTConfig, FILM))
    load_strict(loaded, part(load_arrays(tmp_path / "m"), "vivit"), where="vivit")
    assert mx.array_equal(loaded(film), network(film))


@pytest.mark.parametrize("changes", [{"patch_size": 3}, {"num_frames": 3}, {"hidden_act": "relu"}])
def test_sizes_that_make_no_network_are_told(changes: dict) -> None:
    with pytest.raises(MusicotError, match="config ViTConfig"):
        config_from_dict(ViTConfig, {**FILM, **changes})
