"""CLAP's published checkpoints, written down: keys and shapes of laion_clap and transformers."""

from importlib.util import find_spec

import mlx.core as mx
import numpy as np
import pytest

from tests.support.laion_clap import SMALL

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
if not (find_spec("laion_clap") and find_spec("torchlibrosa")):  # importing it needs all it names
    pytest.skip("make test installs laion_clap", allow_module_level=True)

from musicot_mlx.convert.keymaps import clap as keymap  # noqa: E402
from musicot_mlx.convert.rules import apply_rules  # noqa: E402
from musicot_mlx.reference import laion_clap  # noqa: E402

# laion_clap's name | transformers' names | shape. One line a weight: {s} stage, {b} block, {l} text
# layer; C channels of the stage, H heads, E first and D last channels, T text channels, F inner
# ones, P projection, V words, M mel bins, N window, B bins of the spectrum. From clap_module/
# {model,htsat}.py of laion-clap 1.1.7, modeling_clap.py of transformers; "-" has no counterpart.
LAYOUT = """
logit_scale_a | logit_scale_a |
logit_scale_t | logit_scale_t |
audio_branch.spectrogram_extractor.stft.conv_real.weight | - | B 1 N
audio_branch.spectrogram_extractor.stft.conv_imag.weight | - | B 1 N
audio_branch.logmel_extractor.melW | - | B M
audio_branch.bn0.weight | {Audio}.batch_norm.weight | M
audio_branch.bn0.bias | {Audio}.batch_norm.bias | M
audio_branch.bn0.running_mean | {Audio}.batch_norm.running_mean | M
audio_branch.bn0.running_var | {Audio}.batch_norm.running_var | M
audio_branch.bn0.num_batches_tracked | {Audio}.batch_norm.num_batches_tracked |
audio_branch.patch_embed.proj.weight | {Audio}.patch_embed.proj.weight | E 1 4 4
audio_branch.patch_embed.proj.bias | {Audio}.patch_embed.proj.bias | E
audio_branch.patch_embed.norm.weight | {Audio}.patch_embed.norm.weight | E
audio_branch.patch_embed.norm.bias | {Audio}.patch_embed.norm.bias | E
{block}.attn_mask | - | K W2 W2
{block}.norm1.weight | {Block}.layernorm_before.weight | C
{block}.norm1.bias | {Block}.layernorm_before.bias | C
{block}.attn.relative_position_bias_table | {Block}.{self}.relative_position_bias_table | R H
{block}.attn.relative_position_index | {Block}.attention.self.relative_position_index | W2 W2
{block}.attn.qkv.weight | {Block}.attention.self.{qkv}.weight | 3*C C
{block}.attn.qkv.bias | {Block}.attention.self.{qkv}.bias | 3*C
{block}.attn.proj.weight | {Block}.attention.output.dense.weight | C C
{block}.attn.proj.bias | {Block}.attention.output.dense.bias | C
{block}.norm2.weight | {Block}.layernorm_after.weight | C
{block}.norm2.bias | {Block}.layernorm_after.bias | C
{block}.mlp.fc1.weight | {Block}.intermediate.dense.weight | 4*C C
{block}.mlp.fc1.bias | {Block}.intermediate.dense.bias | 4*C
{block}.mlp.fc2.weight | {Block}.output.dense.weight | C 4*C
{block}.mlp.fc2.bias | {Block}.output.dense.bias | C
{stage}.downsample.reduction.weight | {Stage}.downsample.reduction.weight | 2*C 4*C
{stage}.downsample.norm.weight | {Stage}.downsample.norm.weight | 4*C
{stage}.downsample.norm.bias | {Stage}.downsample.norm.bias | 4*C
audio_branch.norm.weight | {Audio}.norm.weight | D
audio_branch.norm.bias | {Audio}.norm.bias | D
audio_branch.tscam_conv.weight | - | 527 D 2 3
audio_branch.tscam_conv.bias | - | 527
audio_branch.head.weight | - | 527 527
audio_branch.head.bias | - | 527
{words}.position_ids | {Words}.position_ids | 1 514
- | {Words}.token_type_ids | 1 514
{words}.word_embeddings.weight | {Words}.word_embeddings.weight | V T
{words}.position_embeddings.weight | {Words}.position_embeddings.weight | 514 T
{words}.token_type_embeddings.weight | {Words}.token_type_embeddings.weight | 1 T
{words}.LayerNorm.weight | {Words}.LayerNorm.weight | T
{words}.LayerNorm.bias | {Words}.LayerNorm.bias | T
{text}.attention.self.{qkv}.weight | {Text}.attention.self.{qkv}.weight | T T
{text}.attention.self.{qkv}.bias | {Text}.attention.self.{qkv}.bias | T
{text}.attention.output.dense.weight | {Text}.attention.output.dense.weight | T T
{text}.attention.output.dense.bias | {Text}.attention.output.dense.bias | T
{text}.attention.output.LayerNorm.weight | {Text}.attention.output.LayerNorm.weight | T
{text}.attention.output.LayerNorm.bias | {Text}.attention.output.LayerNorm.bias | T
{text}.intermediate.dense.weight | {Text}.intermediate.dense.weight | F T
{text}.intermediate.dense.bias | {Text}.intermediate.dense.bias | F
{text}.output.dense.weight | {Text}.output.dense.weight | T F
{text}.output.dense.bias | {Text}.output.dense.bias | T
{text}.output.LayerNorm.weight | {Text}.output.LayerNorm.weight | T
{text}.output.LayerNorm.bias | {Text}.output.LayerNorm.bias | T
text_branch.pooler.dense.weight | text_model.pooler.dense.weight | T T
text_branch.pooler.dense.bias | text_model.pooler.dense.bias | T
{side}_transform.sequential.{layer}.weight | - | P P
{side}_transform.sequential.{layer}.bias | - | P
audio_projection.0.weight | audio_projection.linear1.weight | P D
text_projection.0.weight | text_projection.linear1.weight | P T
{side}_projection.0.bias | {side}_projection.linear1.bias | P
{side}_projection.2.weight | {side}_projection.linear2.weight | P P
{side}_projection.2.bias | {side}_projection.linear2.bias | P
"""
# What is published: file -> first channels and depths of the audio tower.
PUBLISHED = {
    "music_audioset_epoch_15_esc_90.14.pt": (128, (2, 2, 12, 2)),
    "music_speech_audioset_epoch_15_esc_89.98.pt": (128, (2, 2, 12, 2)),
    "630k-audioset-best.pt": (96, (2, 2, 6, 2)),
    "630k-best.pt": (96, (2, 2, 6, 2)),
    "laion/larger_clap_music": (128, (2, 2, 12, 2)),
    "laion/larger_clap_general": (128, (2, 2, 12, 2)),
    "laion/clap-htsat-unfused": (96, (2, 2, 6, 2)),
}
ROBERTA = {"V": 50265, "T": 768, "F": 3072, "P": 512}


def layout(
    column: int, width: int, depths: tuple[int, ...], words: dict[str, int], layers: int = 12
) -> dict[str, tuple[int, ...]]:
    """Key -> shape of a checkpoint: column 0 is laion_clap's, 1 is transformers'."""
    out = {}
    towers = {"{words}": "text_branch.embeddings", "{Words}": "text_model.embeddings"}
    towers |= {"{Audio}": "audio_model.audio_encoder", "{self}": "attention.self"}
    for line in LAYOUT.strip().splitlines():
        fields = [field.strip() for field in line.split("|")]
        name, shape = fields[column], fields[2]
        if name == "-":
            continue
        places = [{}]
        if "{block}" in line or "{stage}" in line:
            places = [{"s": s, "b": b} for s, depth in enumerate(depths) for b in range(depth)]
        elif "{text}" in line:
            places = [{"l": layer} for layer in range(layers)]
        elif "{side}" in line:
            sides = ("audio", "text")
            places = [{"side": side, "layer": layer} for side in sides for layer in (0, 3)]
        for at in places:
            stage, last = at.get("s", 0), len(depths) - 1
            side = 64 // 2**stage
            if "attn_mask" in name and (at["b"] % 2 == 0 or side <= 8):
                continue  # every second block is shifted, and one window has no neighbours
            if "downsample" in name and stage == last:
                continue
            values = words | {
                "N": 1024, "B": 513, "M": 64, "E": width, "C": width * 2**stage, "R": 225, "W2": 64,
                "H": 4 * 2**stage, "D": width * 2**last, "K": (side // 8) ** 2,
            }  # fmt: skip
            sizes = []
            for item in shape.split():
                factors = [values.get(part) or int(part) for part in item.split("*")]
                sizes.append(int(np.prod(factors)))
            block, text = f"layers.{stage}.blocks.{at.get('b')}", f"encoder.layer.{at.get('l')}"
            names = towers | {
                "{stage}": f"audio_branch.layers.{stage}",
                "{Stage}": f"audio_model.audio_encoder.layers.{stage}",
                "{block}": f"audio_branch.{block}",
                "{Block}": f"audio_model.audio_encoder.{block}",
                "{text}": f"text_branch.{text}",
                "{Text}": f"text_model.{text}",
                "{side}": at.get("side", ""),
                "{layer}": str(at.get("layer")),
            }
            full = name
            for short, long in names.items():
                full = full.replace(short, long)
            if "{qkv}" not in full:
                out[full] = tuple(sizes)
                continue
            if "3*C" in shape:
                sizes[0] //= 3
            for part in ("query", "key", "value"):
                out[full.replace("{qkv}", part)] = tuple(sizes)
    return out


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_weights_fit_our_network(name: str) -> None:
    """Every key of the table is known to the rules, and what they keep fills the MLX network."""
    from mlx.utils import tree_flatten

    from musicot_mlx.models.clap import CLAP_HTSAT_BASE, CLAP_HTSAT_TINY, Clap, ClapConfig

    width, depths = PUBLISHED[name]
    laion = name.endswith(".pt")
    shapes = layout(0 if laion else 1, width, depths, ROBERTA)
    arrays = {key: mx.zeros(shape) for key, shape in shapes.items()}  # lazy: no memory is used
    rules = keymap.LAION_RULES if laion else keymap.RULES
    found = {key: value.shape for key, value in apply_rules(rules, arrays).items()}
    released = CLAP_HTSAT_BASE if width == 128 else CLAP_HTSAT_TINY
    expected = {key: value.shape for key, value in tree_flatten(Clap(released).parameters())}
    assert found == expected
    if laion:
        assert len(shapes) == (505 if width == 128 else 418)  # position_ids and all
        inferred = ClapConfig.from_dict(keymap.laion_config(shapes))
        assert inferred.audio_config == released.audio_config
        assert inferred.text_config.num_attention_heads == 12
        assert inferred.text_config.layer_norm_eps == 1e-5
        assert inferred.text_config.max_tokens == 77
        assert inferred.projection_dim == 512 and inferred.feature_config.int16


@pytest.mark.parametrize("depths", [(2, 2, 12, 2), (2, 2, 6, 2)])
def test_the_table_is_laions_state_dict(depths: tuple[int, ...]) -> None:
    """Depths and layers as published, narrower; benchmarks/clap_parity.py has the full widths."""
    words = {"V": 70, "T": 64, "F": 32, "P": 8}
    config = {
        "projection_dim": 8,
        "text_config": SMALL["text_config"]
        | {"vocab_size": 70, "hidden_size": 64, "num_attention_heads": 1, "num_hidden_layers": 12}
        | {"intermediate_size": 32, "max_position_embeddings": 514},
        "audio_config": SMALL["audio_config"]
        | {"patch_embeds_hidden_size": 32, "depths": list(depths), "hidden_size": 256}
        | {"num_attention_heads": [4, 8, 16, 32]},
    }
    state = laion_clap.build_laion_clap(config).state_dict()
    expected = layout(0, 32, depths, words)
    del expected["text_branch.embeddings.position_ids"]  # published files have it, now it is none
    assert {key: tuple(value.shape) for key, value in state.items()} == expected


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name.startswith("laion/")])
def test_the_table_is_transformers_state_dict(name: str) -> None:
    from transformers import ClapConfig, ClapModel

    width, depths = PUBLISHED[name]
    audio = {"patch_embeds_hidden_size": width, "depths": list(depths), "hidden_size": 8 * width}
    with torch.device("meta"):
        state = ClapModel(ClapConfig(audio_config=audio)).state_dict()
    expected = layout(1, width, depths, ROBERTA)
    assert {key: tuple(value.shape) for key, value in state.items()} == expected
