"""Adapters: read, applied, refused; what they do to a layer, in float32, 16 bits and quantised."""

import json
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

import musicot_mlx as mc
from musicot_mlx.cli import main
from musicot_mlx.convert.convert import convert
from musicot_mlx.errors import MusicotError
from musicot_mlx.nn import adapters as nn_adapters
from musicot_mlx.nn.adapters import add_layers, apply_adapters, dense_weight, fingerprint
from musicot_mlx.pipelines.families import FAMILIES
from musicot_mlx.pipelines.family import named
from musicot_mlx.training.fuse import fuse
from musicot_mlx.weights.adapters import change, read_adapters, save_adapter
from musicot_mlx.weights.checkpoint import load_arrays, part, quantize_arrays, save_checkpoint
from tests.models.test_semantic_lm import tiny_lm
from tests.support import tiny
from tests.support.kernels import as_on_a_gpu, kernels

WIDE = {"hidden_size": 32, "intermediate_size": 64, "clap_dim": 32}  # whole quantisation groups
RANK = {"rank": 3, "scale": 2.0, "dropout": 0.0}


def disturb(module: nn.Module, seed: int = 0, size: float = 0.3) -> dict[str, mx.array]:
    """Trainable parameters drawn anew, so that an adapter does something; what they became."""
    keys = iter(mx.random.split(mx.random.key(seed), 512))
    drawn = {
        path: value + size * mx.random.normal(value.shape, key=next(keys))
        for path, value in tree_flatten(module.trainable_parameters())
    }
    module.load_weights(list(drawn.items()), strict=False)
    return drawn


def write_adapter(
    folder: Path, module: nn.Module, part: str, *, kind: str = "lora", seed: int = 0, **config
) -> Path:
    """Put adapter layers on `module`, disturb them, and save them as an adapter folder."""
    config.setdefault("base", {"model": "tiny", "fingerprints": {part: fingerprint(module)}})
    mx.random.seed(seed)
    add_layers(module, kind=kind, num_layers=-1, **RANK)
    arrays = {f"{part}.{path}": value for path, value in disturb(module, seed).items()}
    config |= {"fine_tune_type": kind, "lora_parameters": dict(RANK)}
    save_adapter(folder, config, arrays)
    return folder


def ids(lm: nn.Module) -> mx.array:
    return mx.random.randint(0, lm.config.vocab_size, (2, 9), key=mx.random.key(3))


def out(lm: nn.Module) -> np.ndarray:
    return np.array(lm(ids(lm)).astype(mx.float32))


@pytest.mark.parametrize("kind", ["lora", "dora", "full"])
def test_applied_is_what_was_trained(tmp_path: Path, kind: str) -> None:
    base, tuned, loaded = tiny_lm(), tiny_lm(), tiny_lm()
    write_adapter(tmp_path / "a", tuned, "semantic_lm", kind=kind)
    (adapter,) = read_adapters(tmp_path / "a")
    applied = apply_adapters({"semantic_lm": loaded}, [adapter], model="tiny")
    assert applied == len(adapter.arrays) > 0
    assert np.abs(out(tuned) - out(base)).max() > 0.1, "the adapter should do something"
    np.testing.assert_allclose(out(loaded), out(tuned), atol=1e-5 * np.abs(out(tuned)).max())
    assert {type(m) for _, m in loaded.named_modules()} == {
        type(m) for _, m in base.named_modules()
    }


def test_several_add_up_and_strength_scales(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 2)):
        write_adapter(tmp_path / name, tiny_lm(), "semantic_lm", seed=seed)
    a, b = f"{tmp_path}/a:0.5", f"{tmp_path}/b:-1"
    adapters = read_adapters([a, b])
    assert [adapter.strength for adapter in adapters] == [0.5, -1.0]
    assert [adapter.spec for adapter in adapters] == [a, b]
    base, both = tiny_lm(), tiny_lm()
    apply_adapters({"semantic_lm": both}, adapters, model="tiny")
    path = "model.layers.0.self_attn.q_proj.weight"
    expected = dict(tree_flatten(base.parameters()))[path]
    for adapter in adapters:
        t = {
            k.rpartition(".")[2]: v for k, v in adapter.arrays.items() if "0.self_attn.q_proj" in k
        }
        expected = expected + adapter.strength * 2.0 * (t["lora_a"] @ t["lora_b"]).T
    found = dict(tree_flatten(both.parameters()))[path]
    np.testing.assert_allclose(np.array(found), np.array(expected), atol=1e-6)


def stored_lm(stored: str) -> nn.Module:
    """As on a GPU: 16-bit, and in 8 bits too."""
    lm = tiny_lm(**WIDE)
    lm.set_dtype(mx.bfloat16 if stored == "bfloat16" else mx.float16)
    if stored == "quantised":
        nn.quantize(lm, group_size=32, bits=8)
    return lm


@pytest.mark.parametrize("stored", ["float16", "bfloat16", "quantised"])
@pytest.mark.parametrize("kind", ["lora", "dora"])
@pytest.mark.parametrize("small", [True, False])
def test_where_weights_are_not_float32(
    tmp_path: Path, stored: str, kind: str, small: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU: added to small layers of float16, around large ones and those of bfloat16, where
    two adapters are one layer.
    """
    if not small:
        monkeypatch.setattr(nn_adapters, "_SMALL", 0)
    one, exact = stored_lm(stored), stored_lm(stored)
    for name, seed in (("a", 1), ("b", 2)):
        write_adapter(tmp_path / name, stored_lm(stored), "semantic_lm", kind=kind, seed=seed)
    adapters = read_adapters([tmp_path / "a", f"{tmp_path}/b:0.5"])
    apply_adapters({"semantic_lm": one}, adapters, model="tiny")
    layer = one.model.layers[0].mlp.gate_proj
    around = kind == "lora" and (not small or stored == "bfloat16")
    assert isinstance(layer, nn_adapters.AppliedLoRA) == around
    before = exact.model.layers[0].mlp.gate_proj
    weight = dense_weight(before)
    for adapter in adapters:
        tensors = adapter.layers()["semantic_lm.model.layers.0.mlp.gate_proj"]
        weight = weight + change(dense_weight(before), adapter, tensors, embedding=False)
    x = mx.random.normal((4, weight.shape[1]), key=mx.random.key(0)).astype(one.dtype)
    expected = np.array(x.astype(mx.float32) @ weight.T)
    found = layer(x)
    assert found.dtype == one.dtype
    np.testing.assert_allclose(
        np.array(found.astype(mx.float32)),
        expected,
        atol=(2e-2 if stored == "bfloat16" else 4e-3) * np.abs(expected).max(),
    )
    whole, cut = one(ids(one)), one.head(5, 20)(one.hidden(one.embed(ids(one))))
    assert cut.dtype == one.dtype and cut.shape[-1] == 15
    difference = mx.abs(whole[..., 5:20] - cut).astype(mx.float32).max().item()
    assert difference <= 1e-2 * mx.abs(whole).max().item()


@pytest.mark.parametrize("stored", ["float16", "quantised"])
def test_kernels_of_a_token_with_an_adapter(
    tmp_path: Path, stored: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a GPU needs for a token is the time it takes to start kernels: at most 1.3 x as many."""
    plain, wearing = stored_lm(stored), stored_lm(stored)
    write_adapter(tmp_path / "a", stored_lm(stored), "semantic_lm")
    apply_adapters({"semantic_lm": wearing}, read_adapters(tmp_path / "a"), model="tiny")

    def token(lm: nn.Module) -> int:
        cache = lm.make_cache()
        head, step = lm.head(5, 20), mx.array([[7]])
        mx.eval(lm.hidden(lm.embed(step), cache))
        with as_on_a_gpu(monkeypatch):
            return kernels(head(lm.hidden(lm.embed(step), cache)))

    before, after = token(plain), token(wearing)
    assert before > 20 and after <= 1.3 * before


def test_a_quantised_layer_with_a_bias_keeps_it(tmp_path: Path) -> None:
    lm = tiny_lm(**WIDE)
    add_layers(lm, kind="dora", num_layers=0, keys=["clap_proj"], **RANK)
    config = {"fine_tune_type": "dora", "lora_parameters": dict(RANK)}
    arrays = {f"semantic_lm.{k}": v for k, v in disturb(lm).items()}
    save_adapter(tmp_path / "a", config, arrays)
    packed = tiny_lm(**WIDE)
    nn.quantize(packed, group_size=32, bits=8)
    apply_adapters({"semantic_lm": packed}, read_adapters(tmp_path / "a"), model="tiny")
    x = mx.random.normal((4, 32), key=mx.random.key(0))
    expected = np.array(lm.clap_proj(x))
    found = np.array(packed.clap_proj(x))
    np.testing.assert_allclose(found, expected, atol=0.02 * np.abs(expected).max())


def test_quantised_layers_learn(tmp_path: Path) -> None:
    """QLoRA: the packed weights are left alone, the gradient reaches the adapter."""
    lm = tiny_lm(**WIDE)
    nn.quantize(lm, group_size=32, bits=4)
    names = add_layers(lm, kind="lora", num_layers=1, **RANK)
    assert names and all(name.startswith("model.layers.") for name in names)
    _, gradients = nn.value_and_grad(lm, lambda x: lm(x).square().mean())(ids(lm))
    flat = dict(tree_flatten(gradients))
    assert set(flat) == set(names)
    assert max(mx.abs(v).max().item() for k, v in flat.items() if k.endswith("lora_b")) > 0
    with pytest.raises(MusicotError, match="full tuning needs weights that are not quantised"):
        add_layers(lm, kind="full", num_layers=1, **RANK)


def test_keys_and_layers_are_checked() -> None:
    lm = tiny_lm()
    with pytest.raises(MusicotError, match="asked to tune 99 layers but the model has"):
        add_layers(lm, kind="lora", num_layers=99, **RANK)
    with pytest.raises(MusicotError, match="keys self_attn.query name no linear layer"):
        add_layers(lm, kind="lora", num_layers=-1, keys=["self_attn.query"], **RANK)
    names = add_layers(
        lm, kind="lora", num_layers=1, keys=["self_attn.q_proj", "lm_head", "clap_proj"], **RANK
    )
    last = len(lm.layers) - 1
    assert {name.rpartition(".")[0] for name in names} == {
        f"model.layers.{last}.self_attn.q_proj",
        "lm_head",
        "clap_proj",
    }


# --- what is refused ------------------------------------------------------------------------------


def test_adapters_that_do_not_fit(tmp_path: Path) -> None:
    lm = tiny_lm()
    folder = write_adapter(tmp_path / "a", tiny_lm(), "semantic_lm", base=None)
    (adapter,) = read_adapters(folder)

    def refuse(arrays: dict[str, mx.array], words: str) -> None:
        other = type(adapter)("a", 1.0, adapter.config, arrays)
        with pytest.raises(MusicotError, match=words):
            apply_adapters({"semantic_lm": lm}, [other], model="tiny")

    moved = {f"other.{key}": value for key, value in adapter.arrays.items()}
    refuse(moved, "changes nothing: none of its .* keys belongs to a layer of tiny")
    refuse({}, "changes nothing")
    extra = {k.replace("layers.0", "layers.7"): v for k, v in adapter.arrays.items()}
    refuse(
        {**adapter.arrays, **extra}, "of its .* layers are not in tiny: semantic_lm.model.layers.7"
    )
    wrong = {k: mx.zeros((5, 3)) if k.endswith("lora_a") else v for k, v in adapter.arrays.items()}
    refuse(wrong, "does not fit: .* has")
    apply_adapters({"semantic_lm": lm}, [adapter], model="tiny")  # the adapter itself is fine


def test_folders_that_are_no_adapters(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a", tiny_lm(), "semantic_lm")
    config_file, file = folder / "adapter_config.json", folder / "adapters.safetensors"

    def refuse(words: str, spec: str | Path = folder) -> None:
        with pytest.raises(MusicotError, match=words):
            read_adapters(spec)

    refuse("no adapter folder at nowhere", "nowhere")
    refuse("'half' is no number; write FOLDER or FOLDER:STRENGTH", f"{folder}:half")
    refuse("the strength must lie in", f"{folder}:nan")
    refuse("holds no adapter_config.json", tmp_path)
    whole, config = file.read_bytes(), json.loads(config_file.read_text())
    file.write_bytes(whole[:40])
    refuse("truncated or not safetensors")
    file.unlink()
    refuse("holds no adapters.safetensors")
    arrays = {"x.lora_a": mx.array([[mx.nan]]), "x.lora_b": mx.ones((1, 1))}
    save_adapter(folder, config, arrays)
    refuse("x.lora_a holds NaN or infinity")
    save_adapter(folder, config, {"x.lora_a": mx.ones((1, 1))})
    refuse("x holds lora_a; a lora adapter has lora_a, lora_b")
    config_file.write_text(json.dumps({"peft_type": "LORA"}))
    refuse("is a PEFT checkpoint; run musicot convert")
    config_file.write_text("{")
    refuse("is not valid JSON")


def test_a_fingerprint_survives_quantisation_and_tells_models_apart() -> None:
    lm, other, packed = tiny_lm(**WIDE), tiny_lm(seed=5, **WIDE), tiny_lm(**WIDE)
    nn.quantize(packed, group_size=32, bits=4)
    own = fingerprint(lm)
    assert np.dot(own, own) == pytest.approx(1.0, abs=1e-3)
    assert np.dot(own, fingerprint(packed)) > 0.95
    assert abs(np.dot(own, fingerprint(other))) < 0.7


# --- the door -------------------------------------------------------------------------------------


def test_songs_with_an_adapter(tiny_model: Path, tmp_path: Path) -> None:
    base = mc.load(tiny_model)
    lm = write_adapter(tmp_path / "lm", mc.load(tiny_model).semantic_lm, "semantic_lm")
    dit = write_adapter(tmp_path / "dit", mc.load(tiny_model).diffusion, "diffusion")
    both = mc.load(tiny_model, adapter_path=[lm, f"{dit}:0.5"])
    plain = base.generate("piano", duration=2, seed=1)
    song = both.generate("piano", duration=2, seed=1)
    assert np.abs(song.waveform - plain.waveform).max() > 1e-3
    assert song.settings["adapter_path"] == [str(lm), f"{dit}:0.5"]
    assert "adapter_path" not in plain.settings
    off = mc.load(tiny_model, adapter_path=[f"{lm}:0", f"{dit}:0"])
    assert (off.generate("piano", duration=2, seed=1).waveform == plain.waveform).all()


def test_an_adapter_for_another_model_is_refused_by_name(tiny_model: Path, tmp_path: Path) -> None:
    other = mc.load(tiny.write_model(tmp_path / "other", seed=9))
    config = {"model": "other", "fingerprints": {"diffusion": fingerprint(other.diffusion)}}
    folder = write_adapter(tmp_path / "a", other.diffusion, "diffusion", base=config)
    with pytest.raises(MusicotError, match=f"was made for other, not for {tiny_model}"):
        mc.load(tiny_model, adapter_path=folder)


# --- fused ----------------------------------------------------------------------------------------


def both_parts(model: Path, folder: Path, kind: str = "lora") -> list[str]:
    """Adapters of both networks, one of them at half strength."""
    write_adapter(folder / "lm", mc.load(model).semantic_lm, "semantic_lm", kind=kind)
    write_adapter(folder / "dit", mc.load(model).diffusion, "diffusion", kind=kind)
    return [str(folder / "lm"), f"{folder / 'dit'}:0.5"]


@pytest.mark.parametrize("kind", ["lora", "dora", "full"])
def test_fused_is_base_and_adapter(
    tiny_model: Path, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    adapters = both_parts(tiny_model, tmp_path, kind)
    out = tmp_path / "fused"
    command = ["fuse", "--model", str(tiny_model), "--save-path", str(out), "--adapter-path"]
    assert main([*command, *adapters]) == 0
    assert "adapter keys fused into" in capsys.readouterr().out
    worn, fused = mc.load(tiny_model, adapter_path=adapters), mc.load(out)
    for network in ("semantic_lm", "diffusion"):
        expected = dict(tree_flatten(getattr(worn, network).parameters()))
        for name, value in tree_flatten(getattr(fused, network).parameters()):
            assert mx.abs(value - expected[name]).max().item() < 1e-6, name
    lm, other = worn.semantic_lm, fused.semantic_lm
    assert np.abs(out_of(lm) - out_of(other)).max() < 1e-5 * np.abs(out_of(lm)).max()
    one, two = (m.generate("piano", duration=2, seed=1).waveform for m in (worn, fused))
    assert np.abs(one - two).max() < 1e-4
    with pytest.raises(MusicotError, match="is the model itself"):
        fuse(tiny_model, adapters, tiny_model, load=mc.load)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_what_decides_stays_float32(tiny_model: Path, tmp_path: Path, dtype: str) -> None:
    """As `convert` keeps codebooks, decibels, phases: of rounded ones a code would be another."""
    adapter = write_adapter(tmp_path / "a", mc.load(tiny_model).semantic_lm, "semantic_lm")
    fuse(tiny_model, adapter, tmp_path / "fused", load=mc.load, dtype=dtype)
    before, after = load_arrays(tiny_model), load_arrays(tmp_path / "fused")
    require_stored(after, "musicot", dtype)
    exact = [key for key in after if key.startswith("rvq.")]
    assert exact and all((after[key] == before[key]).all() for key in exact)


def require_stored(arrays: dict[str, mx.array], model_type: str, dtype: str) -> None:
    """Each float as the family says it is stored where `dtype` is asked for."""
    family = named(FAMILIES[model_type])
    kinds = set()
    for key, value in arrays.items():
        part, _, name = key.partition(".")
        kind = family.stored(part, name, dtype)
        assert value.dtype == getattr(mx, kind), key
        kinds.add(kind)
    assert kinds >= {dtype, "float32"}


def out_of(lm: nn.Module) -> np.ndarray:
    return np.array(lm(mx.arange(40)[None]))


@pytest.mark.parametrize("dequantize", [False, True])
def test_a_quantised_model_is_fused(tmp_path: Path, dequantize: bool) -> None:
    config = json.loads(json.dumps(tiny.CONFIG))
    config["semantic_lm"] |= {"hidden_size": 32, "intermediate_size": 64}
    plain, packed = tiny.write_model(tmp_path / "plain", config), tmp_path / "packed"
    arrays = load_arrays(plain)
    lm = mc.load(plain).semantic_lm
    packing = {"group_size": 32, "bits": 8}
    quantised = quantize_arrays(lm, part(arrays, "semantic_lm"), **packing)
    rest = {k: v for k, v in arrays.items() if not k.startswith("semantic_lm.")}
    config["quantization"] = packing
    whole = {**rest, **{f"semantic_lm.{k}": v for k, v in quantised.items()}}
    save_checkpoint(packed, config, whole, {"tokenizer.json": plain / "tokenizer.json"})

    adapter = write_adapter(tmp_path / "a", mc.load(packed).semantic_lm, "semantic_lm")
    made = fuse(packed, adapter, tmp_path / "fused", load=mc.load, dequantize=dequantize)
    expected = out_of(mc.load(packed, adapter_path=adapter).semantic_lm)
    found = out_of(mc.load(tmp_path / "fused").semantic_lm)
    stored = load_arrays(tmp_path / "fused")
    key = "semantic_lm.model.layers.0.self_attn.q_proj"
    assert (f"{key}.scales" in stored) == (not dequantize)
    if dequantize:
        assert "quantization" not in json.loads((tmp_path / "fused" / "config.json").read_text())
        assert made.error < 1e-6
        assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()
    else:
        assert 1e-4 < made.error < 1e-2, "the rounding is told"
        assert np.abs(found - expected).max() < 0.1 * np.abs(expected).max()
        untouched = "semantic_lm.lm_head.weight"
        assert (stored[untouched] == load_arrays(packed)[untouched]).all()


@pytest.mark.parametrize("dtype", ["", "bfloat16", "float32"])  # "": the PyTorch folder itself
@pytest.mark.parametrize("kind", ["lora", "dora", "full"])
def test_a_fused_musicgen_is_the_worn_one_code_for_code(
    tiny_musicgen_upstream: Path,
    tmp_path: Path,
    dtype: str,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MUSICOT_CACHE", str(tmp_path / "cache"))
    model = tiny_musicgen_upstream
    if dtype:
        model = tmp_path / dtype
        convert(tiny_musicgen_upstream, model, dtype=dtype)
    base = mc.load(model)
    song = {"prompt": "piano", "duration": 3, "seed": 1}
    plain = base.generate(**song).codes
    adapter = write_adapter(tmp_path / "a", base.decoder, "decoder", kind=kind)
    fused = tmp_path / "fused"
    made = fuse(model, adapter, fused, load=mc.load)
    assert made.error == 0
    worn = mc.load(model, adapter_path=adapter).generate(**song).codes
    assert (worn != plain).mean() > 0.3, "the adapter should do something"
    assert (mc.load(fused).generate(**song).codes == worn).all()
    if kind == "lora" and dtype == "float32":
        fuse(model, adapter, tmp_path / "narrow", load=mc.load, dtype="float16")
        arrays = load_arrays(tmp_path / "narrow")
        require_stored(arrays, "musicgen", "float16")
        assert arrays["text_encoder.norm.weight"].dtype == mx.bfloat16
    with pytest.raises(MusicotError, match="is the model itself"):
        fuse(model, adapter, model, load=mc.load)


def test_no_adapter_path_passes_without_a_weight(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = write_adapter(tmp_path / "a", mc.load(tiny_model).diffusion, "diffusion")
    monkeypatch.setattr(
        "musicot_mlx.training.fuse.load_arrays",
        lambda folder: {f"other.{key}": value for key, value in load_arrays(folder).items()},
    )
    with pytest.raises(MusicotError, match=r"holds no diffusion.*weight.*, which the adapters"):
        fuse(tiny_model, adapter, tmp_path / "fused", load=mc.load)
    assert not (tmp_path / "fused").exists()
