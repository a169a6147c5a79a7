"""MERT's network against transformers' HubertModel. Weights are random and seeded."""

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from musicot_mlx.convert.keymaps.hubert import RULES, sizes
from musicot_mlx.convert.rules import apply_rules
from musicot_mlx.errors import MusicotError
from musicot_mlx.models.hubert import MERT_330M, Hubert, HubertConfig
from musicot_mlx.pipelines.parts import for_device
from musicot_mlx.weights.config import config_from_dict

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "conv_dim": [16, 16, 16],
    "conv_kernel": [10, 3, 2],
    "conv_stride": [5, 2, 2],
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}


def reference_config(**changes) -> "transformers.HubertConfig":
    values = {
        **SIZES,
        "feat_extract_norm": "group",
        "do_stable_layer_norm": True,
        "conv_bias": False,
        "num_feat_extract_layers": 3,
        **changes,
    }
    return transformers.HubertConfig(**values)


@pytest.fixture(scope="module")
def reference() -> "transformers.HubertModel":
    torch.manual_seed(0)
    model = transformers.HubertModel(reference_config()).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.ndim >= 2 and "original0" not in name:
                value.normal_(0, 1.5 * value[0].numel() ** -0.5, generator=generator)
            elif name.endswith("weight") or "original0" in name:
                value.uniform_(0.5, 1.5, generator=generator)
            else:
                value.normal_(0, 0.3, generator=generator)
    return model


def arrays_of(reference, *, old_names: bool = False) -> dict[str, mx.array]:
    arrays = {key: mx.array(value.numpy()) for key, value in reference.state_dict().items()}
    if old_names:
        for new, old in (("original0", "weight_g"), ("original1", "weight_v")):
            stem = "encoder.pos_conv_embed.conv."
            arrays[stem + old] = arrays.pop(f"{stem}parametrizations.weight.{new}")
    return arrays


def ours_of(reference, *, old_names: bool = False, plain: bool = False) -> Hubert:
    arrays = arrays_of(reference, old_names=old_names)
    shapes = {key: value.shape for key, value in arrays.items()}
    network = Hubert(config_from_dict(HubertConfig, sizes(shapes, heads=4)))
    network.load_weights(list(apply_rules(RULES, arrays).items()), strict=True)
    return network if plain else for_device(network)


def states_of(reference, waveform: np.ndarray) -> list[np.ndarray]:
    """Those of transformers 4, on which MERT was trained: the last is normed. 5 leaves it raw."""
    with torch.no_grad():
        out = reference(torch.from_numpy(waveform), output_hidden_states=True)
    return [state.numpy() for state in (*out.hidden_states[:-1], out.last_hidden_state)]


@pytest.mark.parametrize("old_names", [False, True], ids=["original0", "weight_g"])
@pytest.mark.parametrize("plain", [False, True], ids=["as it runs here", "plain"])
def test_every_state_is_the_reference(reference, old_names: bool, plain: bool) -> None:
    waveform = np.random.default_rng(0).normal(size=(2, 3000)).astype(np.float32) * 0.2 + 0.05
    ours = ours_of(reference, old_names=old_names, plain=plain)(mx.array(waveform))
    theirs = states_of(reference, waveform)
    assert len(ours) == len(theirs) == 4
    for mine, their in zip(ours, theirs, strict=True):
        assert np.abs(np.array(mine) - their).max() < 1e-4 * np.abs(their).max()


def test_means_are_of_the_reference_and_pieces_change_nothing(reference) -> None:
    waveform = np.random.default_rng(1).normal(size=(1, 4000)).astype(np.float32)
    network = ours_of(reference)
    whole = np.array(network.means(mx.array(waveform)))
    network.features.frames_at_once, network.frames_at_once = 13, 17
    pieces = np.array(network.means(mx.array(waveform)))
    theirs = np.stack([state.mean(1) for state in states_of(reference, waveform)], 1)
    assert np.abs(whole - theirs).max() < 1e-4 * np.abs(theirs).max()
    assert np.abs(pieces - theirs).max() < 1e-4 * np.abs(theirs).max()


def test_published_shape() -> None:
    """All 403 keys of MERT-v1-330M are used once and fill each parameter; sizes come from them."""
    config = transformers.HubertConfig(
        hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096,
        feat_extract_norm="group", do_stable_layer_norm=True, conv_bias=False,
    )  # fmt: skip
    with torch.device("meta"):
        model = transformers.HubertModel(config)
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    assert len(shapes) == 403
    assert config_from_dict(HubertConfig, sizes(shapes)) == MERT_330M
    arrays = {key: mx.zeros(shape) for key, shape in shapes.items()}  # never read: MLX is lazy
    ours = Hubert(MERT_330M)
    expected = {name: leaf.shape for name, leaf in tree_flatten(ours.parameters())}
    assert {name: leaf.shape for name, leaf in apply_rules(RULES, arrays).items()} == expected
    assert MERT_330M.frames(60 * 24000) == 4499


def test_another_kind_of_hubert_is_told() -> None:
    with torch.device("meta"):
        model = transformers.HubertModel(reference_config(feat_extract_norm="layer"))
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    with pytest.raises(MusicotError, match="no HuBERT with one group norm"):
        sizes(shapes)
