"""The diffusion transformer: shapes, what is computed once, save and load, dtype, paper size."""

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from musicot_mlx.errors import MusicotError
from musicot_mlx.models.semantic_diffusion import (
    STABLE_AUDIO_SIZE,
    DiffusionConfig,
    SemanticDiffusion,
    code_index,
)
from musicot_mlx.weights.checkpoint import load_arrays, load_strict, save_checkpoint

TINY = {
    "latent_dim": 4,
    "semantic_dim": 6,
    "audio_codebook_size": 16,
    "clap_dim": 12,
    "num_layers": 2,
    "attention_head_dim": 8,
    "num_attention_heads": 4,
    "num_key_value_attention_heads": 2,
    "cross_attention_dim": 16,
    "cross_attention_input_dim": 8,
    "time_proj_dim": 16,
    "max_seconds": 60.0,
    "window_seconds": 2.0,
    "overlap_seconds": 0.5,
}


def tiny_diffusion(seed: int = 0, dtype: mx.Dtype = mx.float32, **changes) -> SemanticDiffusion:
    """A twin with weights large enough for a lively velocity."""
    model = SemanticDiffusion(DiffusionConfig.from_dict({**TINY, **changes}))
    leaves = tree_flatten(model.parameters())
    keys = mx.random.split(mx.random.key(seed), len(leaves))
    model.load_weights(
        [
            (
                name,
                (
                    mx.random.normal(leaf.shape, key=key)
                    * (leaf.shape[-1] ** -0.5 if leaf.ndim > 1 else 0.3)
                    + (1.0 if "norm" in name and name.endswith("weight") else 0.0)
                ).astype(dtype),
            )
            for key, (name, leaf) in zip(keys, leaves, strict=True)
        ]
    )
    return model


def conditions(batch: int = 2, codes: int = 40, vectors: int = 3) -> dict[str, mx.array]:
    keys = mx.random.split(mx.random.key(5), 2)
    return {
        "codes": mx.random.randint(0, 17, (batch, codes), key=keys[0]).astype(mx.int32),
        "clap": mx.random.normal((batch, vectors, 12), key=keys[1]),
        "start_seconds": mx.zeros((batch,)),
        "total_seconds": mx.full((batch,), 30.0),
    }


def latents(batch: int = 2, frames: int = 31) -> mx.array:
    return mx.random.normal((batch, frames, 4), key=mx.random.key(1))


def test_shapes_and_every_input_counts():
    model, x, t = tiny_diffusion(), latents(), mx.array([0.3, 0.8])
    given = conditions()
    velocity = model(x, t, **given)
    assert velocity.shape == x.shape
    assert mx.std(velocity).item() > 0.1
    other = {
        "codes": (given["codes"] + 1) % 17,
        "clap": given["clap"] + 1,
        "start_seconds": given["start_seconds"] + 9,
        "total_seconds": given["total_seconds"] - 9,
    }
    for name, value in other.items():
        changed = model(x, t, **{**given, name: value})
        assert mx.abs(changed - velocity).max().item() > 1e-3, name
    assert mx.abs(model(x, t + 0.1, **given) - velocity).max().item() > 1e-3
    assert mx.abs(model(x, t, **given, frame_offset=9) - velocity).max().item() > 1e-3


def test_computed_once_equals_computed_each_time():
    model, x, given = tiny_diffusion(), latents(), conditions()
    times = mx.array([0.9, 0.5, 0.1])
    fixed = model.conditions(**given, frames=x.shape[1])
    embeddings = model.time_embeddings(times)
    for i, t in enumerate(times.tolist()):
        whole = model(x, mx.full((2,), t), **given)
        step = model.step(x, embeddings[i], fixed)
        assert mx.abs(whole - step).max().item() < 1e-5 * mx.abs(whole).max().item()


def test_masked_vectors_do_not_count():
    model, x, t = tiny_diffusion(), latents(), mx.array([0.3, 0.8])
    given = conditions()
    mask = mx.array([[True, True, False]] * 2)
    masked = model(x, t, **given, clap_mask=mask)
    shorter = model(x, t, **{**given, "clap": given["clap"][:, :2]})
    assert mx.abs(masked - shorter).max().item() < 1e-5


def test_code_index_is_exact_on_edges_and_continues_across_windows():
    config = DiffusionConfig.from_dict(TINY)
    whole = code_index(config, 2000, length=10_000)[0]
    exact = [(2 * i + 1) * 128 // 441 for i in range(2000)]  # 25 Hz against 44100 / 1024 Hz
    assert whole.tolist() == exact
    window = code_index(config, 50, np.array([0, 220, 700]), length=10_000)
    for row, start in zip(window, (0, 220, 700), strict=True):
        assert row.tolist() == exact[start : start + 50]
    assert code_index(config, 100, length=20)[0, -1] == 19


def test_save_and_load_round_trip(tmp_path: Path):
    model = tiny_diffusion()
    arrays = {f"diffusion.{k}": v for k, v in tree_flatten(model.parameters())}
    save_checkpoint(tmp_path / "m", {"model_type": "musicot", "diffusion": TINY}, arrays)
    loaded = SemanticDiffusion(DiffusionConfig.from_dict(TINY))
    read = {k.removeprefix("diffusion."): v for k, v in load_arrays(tmp_path / "m").items()}
    load_strict(loaded, read, where="diffusion")
    x, t = latents(), mx.array([0.3, 0.8])
    assert mx.array_equal(loaded(x, t, **conditions()), model(x, t, **conditions()))


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_16_bit_stays_16_bit(dtype):
    """From float32 latents and times on, every hidden state has the dtype of the weights."""
    model = tiny_diffusion(dtype=dtype)
    for name in ("dit.time_proj.weight", "projection.start_number_conditioner.frequencies"):
        value = dict(tree_flatten(model.parameters()))[name]
        model.load_weights([(name, value.astype(mx.float32))], strict=False)
    assert model.dtype == dtype
    fixed = model.conditions(**conditions(), frames=31)
    seen = [fixed.semantic, fixed.global_token, *(kv for pair in fixed.keys_values for kv in pair)]
    seen.append(model.time_embeddings(mx.array([0.5])))
    x = mx.concatenate([latents().astype(dtype), fixed.semantic], axis=-1)
    x = model.dit.proj_in(x)
    seen.append(x)
    for block, kv in zip(model.dit.transformer_blocks, fixed.keys_values, strict=True):
        x = block(x, kv, None)
        seen.append(x)
    seen.append(model(latents(), mx.array([0.3, 0.8]), **conditions()))
    assert {value.dtype for value in seen} == {dtype}
    full = tiny_diffusion()(latents(), mx.array([0.3, 0.8]), **conditions())
    assert mx.abs(seen[-1].astype(mx.float32) - full).max().item() < 0.15 * mx.abs(full).max()


def test_paper_size_is_built_lazily():
    before = mx.get_active_memory()
    model = SemanticDiffusion(STABLE_AUDIO_SIZE)
    count = sum(value.size for _, value in tree_flatten(model.parameters()))
    assert 1.0e9 < count < 1.1e9
    assert mx.get_active_memory() - before < 1 << 20


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"objective": "epsilon"}, "rectified_flow"),
        ({"num_key_value_attention_heads": 3}, "must divide by"),
        ({"global_states_input_dim": 7}, "2 \\* cross_attention_input_dim"),
        ({"overlap_seconds": 2.0}, "between 0 and"),
        ({"latent_scale": 0.0}, "more than 0"),
        ({"layers": 3}, "unknown field 'layers'"),
    ],
)
def test_config_says_what_is_wrong(changes, words):
    with pytest.raises(MusicotError, match=words):
        DiffusionConfig.from_dict({**TINY, **changes})
