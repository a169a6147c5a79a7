"""ViT and ViViT against transformers, and the pixels that their processors make."""

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from PIL import Image

from musicot_mlx.convert.keymaps.vit import RULES, sizes
from musicot_mlx.convert.rules import apply_rules
from musicot_mlx.errors import MusicotError
from musicot_mlx.models.vit import VIT_BASE, VIVIT_BASE, ViT, ViTConfig
from musicot_mlx.pictures.images import frame_pixels, image_pixels
from musicot_mlx.pipelines.parts import for_device
from musicot_mlx.weights.config import config_from_dict

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SIZES = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "image_size": 32,
}
KINDS = ["picture", "film"]
# names of transformers 5 -> 4, whose files the published weights are
OLD_NAMES = [
    ("layers.", "encoder.layer."),
    ("attention.q_proj", "attention.attention.query"),
    ("attention.k_proj", "attention.attention.key"),
    ("attention.v_proj", "attention.attention.value"),
    ("attention.o_proj", "attention.output.dense"),
    ("mlp.fc1", "intermediate.dense"),
    ("mlp.fc2", "output.dense"),
]


def reference_of(kind: str, **changes) -> "transformers.PreTrainedModel":
    if kind == "picture":
        values = {**SIZES, "patch_size": 16, "layer_norm_eps": 1e-12, **changes}
        return transformers.ViTModel(transformers.ViTConfig(**values)).eval()
    values = {**SIZES, "num_frames": 4, "tubelet_size": [2, 16, 16], **changes}
    return transformers.VivitModel(transformers.VivitConfig(**values)).eval()


def seeded(model):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "layernorm" in name and name.endswith("weight"):
                value.uniform_(0.5, 1.5, generator=generator)
            elif value.ndim >= 2 and "embeddings.p" not in name.replace("patch_embeddings", ""):
                value.normal_(0, 1.5 * value[0].numel() ** -0.5, generator=generator)
            else:
                value.normal_(0, 0.3, generator=generator)
    return model


def ours_of(model, *, frames: int, old_names: bool, plain: bool) -> ViT:
    arrays = {key: mx.array(value.numpy()) for key, value in model.state_dict().items()}
    if old_names:
        for new, old in OLD_NAMES:
            arrays = {key.replace(new, old): value for key, value in arrays.items()}
    shapes = {key: value.shape for key, value in arrays.items()}
    network = ViT(config_from_dict(ViTConfig, sizes(shapes, heads=3, frames=frames)))
    network.load_weights(list(apply_rules(RULES, arrays).items()), strict=True)
    return network if plain else for_device(network)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("old_names", [False, True], ids=["5", "4"])
@pytest.mark.parametrize("plain", [False, True], ids=["as it runs here", "plain"])
def test_states_are_the_reference(kind: str, old_names: bool, plain: bool) -> None:
    model = seeded(reference_of(kind))
    shape = (2, 32, 32, 3) if kind == "picture" else (2, 4, 32, 32, 3)
    pixels = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    ours = np.array(ours_of(model, frames=4, old_names=old_names, plain=plain)(mx.array(pixels)))
    with torch.no_grad():
        theirs = model(torch.from_numpy(np.moveaxis(pixels, -1, -3))).last_hidden_state.numpy()
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() < 1e-4 * np.abs(theirs).max()


@pytest.mark.parametrize(("kind", "config"), [("picture", VIT_BASE), ("film", VIVIT_BASE)])
def test_published_shapes(kind: str, config: ViTConfig) -> None:
    """All 200 keys of either are used once and fill each parameter; sizes come from them."""
    base = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
            "intermediate_size": 3072, "image_size": 224}  # fmt: skip
    with torch.device("meta"):
        model = reference_of(kind, **base, **({"num_frames": 32} if kind == "film" else {}))
    shapes = {}
    for key, value in model.state_dict().items():
        for new, old in OLD_NAMES:
            key = key.replace(new, old)
        shapes[key] = tuple(value.shape)
    assert len(shapes) == 200
    assert config_from_dict(ViTConfig, sizes(shapes)) == config
    arrays = {key: mx.zeros(shape) for key, shape in shapes.items()}  # never read: MLX is lazy
    expected = {name: leaf.shape for name, leaf in tree_flatten(ViT(config).parameters())}
    assert {name: leaf.shape for name, leaf in apply_rules(RULES, arrays).items()} == expected
    assert config.patches + 1 == (197 if kind == "picture" else 3137)


def test_a_film_of_another_length_is_told() -> None:
    with torch.device("meta"):
        model = reference_of("film")
    with pytest.raises(MusicotError, match="no square pictures"):
        sizes({key: tuple(value.shape) for key, value in model.state_dict().items()}, frames=6)


PICTURES = [(300, 400), (97, 61), (224, 224), (50, 640)]


def noise(height: int, width: int) -> np.ndarray:
    """Something of all scales, uint8 (height, width, 3)."""
    rng = np.random.default_rng(height)
    coarse = Image.fromarray(rng.integers(0, 256, (7, 9, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height)), dtype=np.int64)
    return np.clip(smooth + rng.integers(-40, 40, smooth.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("size", PICTURES)
def test_pixels_of_a_picture_are_those_of_the_processor(size: tuple[int, int]) -> None:
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    picture = noise(*size)
    theirs = ViTImageProcessorPil()(Image.fromarray(picture))["pixel_values"][0]
    ours = image_pixels(picture)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, np.moveaxis(np.asarray(theirs), 0, -1), atol=1e-6)


@pytest.mark.parametrize("size", PICTURES)
@pytest.mark.parametrize("twice", [False, True], ids=["-1..1", "-3..1"])
def test_pixels_of_a_film_are_those_of_the_processor(size: tuple[int, int], twice: bool) -> None:
    from transformers import VivitImageProcessor

    edge = 224 if twice else 256
    processor = VivitImageProcessor(do_normalize=twice, size={"shortest_edge": edge})
    frames = [noise(*size), noise(*size)[::-1]]
    theirs = np.asarray(processor([Image.fromarray(frame) for frame in frames])["pixel_values"][0])
    ours = np.stack([frame_pixels(frame, shortest_edge=edge, twice=twice) for frame in frames])
    np.testing.assert_allclose(ours, np.moveaxis(theirs, 1, -1), atol=2e-6)
    assert ours.min() < (-2.5 if twice else -0.9)
