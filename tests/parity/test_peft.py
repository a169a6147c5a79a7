"""PEFT checkpoints: PyTorch's network with the adapter added to its weights, and ours wearing it.

The state dicts are laid out as peft 0.21 saves them. Its rule is W + alpha / rank * B A, and for
DoRA the rows of that scaled to the learned magnitudes.
"""

import json
import re
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("diffusers")
from safetensors.torch import load_file, save_file  # noqa: E402

import musicot_mlx as mc  # noqa: E402
from musicot_mlx.cli import main  # noqa: E402
from musicot_mlx.convert.convert import convert  # noqa: E402
from musicot_mlx.convert.peft import convert_peft  # noqa: E402
from musicot_mlx.errors import MusicotError  # noqa: E402
from musicot_mlx.nn.adapters import apply_adapters  # noqa: E402
from musicot_mlx.weights.adapters import read_adapters  # noqa: E402
from tests.parity import test_diffusion as diffusion  # noqa: E402
from tests.parity import test_semantic_lm as semantic_lm  # noqa: E402

lm_twins = pytest.fixture(semantic_lm.twins.__wrapped__)  # anew for each test


def add_peft(
    network: torch.nn.Module,
    pattern: str,
    folder: Path,
    *,
    dora: bool = False,
    ranks: tuple[int, ...] = (2,),
    **config,
) -> Path:
    """Add LoRA to the layers that `pattern` finds, and write the checkpoint that PEFT would."""
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": "tiny",
        "r": ranks[0],
        "lora_alpha": 6,
        "use_dora": dora,
        "use_rslora": False,
        "alpha_pattern": {},
        **config,
    }
    generator = torch.Generator().manual_seed(0)
    state = {}
    found = [(n, m) for n, m in network.named_modules() if re.search(pattern, n)]
    assert found
    for index, (name, layer) in enumerate(found):
        rank, key = ranks[index % len(ranks)], f"base_model.model.{name}"
        alpha = next(
            (v for k, v in config["alpha_pattern"].items() if name.endswith(k)),
            config["lora_alpha"],
        )
        scale = alpha / (rank**0.5 if config["use_rslora"] else rank)
        a = 0.3 * torch.randn(rank, layer.in_features, generator=generator)
        b = 0.3 * torch.randn(layer.out_features, rank, generator=generator)
        state |= {f"{key}.lora_A.weight": a, f"{key}.lora_B.weight": b}
        with torch.no_grad():
            changed = layer.weight + scale * b @ a
            if dora:
                magnitude = 1 + torch.rand(layer.out_features, generator=generator)
                changed *= (magnitude / changed.norm(dim=1))[:, None]
                state[f"{key}.lora_magnitude_vector"] = magnitude
            layer.weight.copy_(changed)
    folder.mkdir(parents=True)
    save_file(state, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("pattern", "options"),
    [
        (r"(q|v)_proj$|lm_head", {"ranks": (2, 3)}),
        (r"_proj$", {"use_rslora": True, "alpha_pattern": {"q_proj": 3, "mlp.up_proj": 1}}),
        (r"self_attn\.\w_proj$", {"dora": True}),
    ],
)
def test_semantic_lm(lm_twins, tmp_path: Path, pattern: str, options: dict) -> None:
    lm, reference = lm_twins
    clap = np.random.default_rng(1).normal(size=12).astype(np.float32)
    row = reference.row([31], [6, 12], np.arange(8).reshape(4, 2), np.arange(30))
    before = np.array(lm(None, None, lm.prefix(clap, row[1:])))
    source = add_peft(reference, pattern, tmp_path / "peft", **options)
    code = main(["convert", "--hf-path", str(source), "--mlx-path", str(tmp_path / "mlx")])
    assert code == 0
    adapters = read_adapters(tmp_path / "mlx")
    assert apply_adapters({"semantic_lm": lm}, adapters, model="tiny") == len(adapters[0].arrays)
    with torch.no_grad():
        embedded = reference.embed(torch.tensor([row]), torch.tensor(clap)[None])
        expected = reference.llama(inputs_embeds=embedded).logits.numpy()
    got = np.array(lm(None, None, lm.prefix(clap, row[1:])))
    assert np.abs(expected - before).max() > 0.5, "the adapter should do something"
    assert np.abs(got - expected).max() < 2e-5 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("pattern", "dora"),
    [
        (r"attn1\.to_[qv]$|attn2\.to_k$|to_out\.0$", False),  # parts of joined matrices
        (r"attn1\.to_[qkv]$|attn2\.to_[qkv]$|ff\.net\.(0\.proj|2)$", True),
    ],
)
def test_diffusion(tmp_path: Path, pattern: str, dora: bool) -> None:
    model, reference = diffusion.build_twins()
    source = add_peft(reference.dit, pattern, tmp_path / "peft", dora=dora, ranks=(2, 3))
    convert_peft(source, tmp_path / "mlx")
    before = mx.array(model.dit.transformer_blocks[0].attn1.to_qkv.weight)
    apply_adapters({"diffusion": model}, read_adapters(tmp_path / "mlx"), model="tiny")
    assert mx.abs(model.dit.transformer_blocks[0].attn1.to_qkv.weight - before).max() > 0.1
    given, x = diffusion.inputs(), diffusion.noise()
    t = np.array([0.3, 0.8], np.float32)
    with torch.no_grad():
        tensors = diffusion.to_torch(given)
        expected = reference(torch.from_numpy(x).transpose(1, 2), torch.from_numpy(t), **tensors)
    got = np.array(model(mx.array(x), mx.array(t), **{k: mx.array(v) for k, v in given.items()}))
    expected = expected.transpose(1, 2).numpy()
    assert np.abs(got - expected).max() < 2e-5 * np.abs(expected).max()


def test_what_can_not_be_converted(lm_twins, tmp_path: Path) -> None:
    _, reference = lm_twins
    source = add_peft(reference, r"q_proj$", tmp_path / "peft")
    config, weights = source / "adapter_config.json", source / "adapter_model.safetensors"

    def refuse(words: str) -> None:
        with pytest.raises(MusicotError, match=words):
            convert_peft(source, tmp_path / "mlx")
        assert not (tmp_path / "mlx").exists()

    plain = json.loads(config.read_text())
    for option, words in (
        ({"lora_alpha": None}, "lora_alpha of .* is None, expected a number"),
        ({"lora_alpha": "16"}, "lora_alpha of .* is '16'"),
        ({"alpha_pattern": [1]}, "alpha_pattern has no names and numbers"),
        ({"alpha_pattern": {"(": 2}}, "alpha_pattern has no names and numbers"),
    ):
        config.write_text(json.dumps({**plain, **option}))
        refuse(words)
    config.write_text(json.dumps(plain))
    state = {"base_model.model.encoder.block.0.query.lora_A.weight": torch.ones(2, 4)}
    state["base_model.model.encoder.block.0.query.lora_B.weight"] = torch.ones(4, 2)
    save_file(state, weights)
    refuse("1 of 1 layers have no place in our networks: encoder.block.0.query")
    save_file({"base_model.model.lm_head.modules_to_save.weight": torch.ones(2, 2)}, weights)
    refuse("1 keys are no LoRA weights")
    save_file({"base_model.model.lm_head.lora_A.weight": torch.ones(2, 2)}, weights)
    refuse("lm_head lacks lora_A or lora_B")
    weights.unlink()
    refuse("holds no adapter_model.safetensors")
    config.write_text('{"peft_type": ')
    refuse("is not valid JSON")
    config.write_text(json.dumps({"peft_type": "IA3"}))
    refuse("is PEFT's IA3; only LORA is converted")


MUSICGEN = (
    r"(q|k|v|out)_proj$|fc[12]$|lm_heads\.\d$|^enc_to_dec_proj$|SelfAttention\.[qkvo]$|\.w[io]$"
)


@pytest.mark.parametrize("base", ["known", "elsewhere"])
def test_adapters_of_musicgens_usual_trainer(
    tiny_musicgen_upstream: Path, tmp_path: Path, base: str
) -> None:
    """ylacombe/musicgen-dreambooth: heads, embeddings and T5 among its layers; codes of the merged
    weights.
    """
    transformers = pytest.importorskip("transformers")
    kind = transformers.MusicgenForConditionalGeneration
    network = kind.from_pretrained(tiny_musicgen_upstream, dtype=torch.float32)
    name = str(tiny_musicgen_upstream) if base == "known" else "facebook/musicgen-small"
    source = add_peft(
        network, MUSICGEN, tmp_path / "peft", ranks=(2, 3), base_model_name_or_path=name
    )
    file = source / "adapter_model.safetensors"
    state = load_file(file)
    generator = torch.Generator().manual_seed(1)
    for k, table in enumerate(network.decoder.model.decoder.embed_tokens[:3]):  # not of the last
        a = 0.3 * torch.randn(2, table.num_embeddings, generator=generator)
        b = 0.3 * torch.randn(table.embedding_dim, 2, generator=generator)
        key = f"base_model.model.decoder.model.decoder.embed_tokens.{k}.lora_embedding"
        state |= {f"{key}_A": a, f"{key}_B": b}
        with torch.no_grad():
            table.weight.add_(3 * (b @ a).T)  # alpha / rank
    save_file({f"module.{key}": value for key, value in state.items()}, file)
    network.save_pretrained(tmp_path / "merged")
    (tmp_path / "merged" / "tokenizer.json").write_bytes(
        (tiny_musicgen_upstream / "tokenizer.json").read_bytes()
    )
    convert_peft(source, tmp_path / "adapter")
    for folder, name in ((tiny_musicgen_upstream, "plain"), (tmp_path / "merged", "expected")):
        convert(folder, tmp_path / name, dtype="float32")
    worn = mc.load(tmp_path / "plain", adapter_path=tmp_path / "adapter")
    expected, plain = mc.load(tmp_path / "expected"), mc.load(tmp_path / "plain")
    song = {"prompt": "piano", "duration": 2, "audio_temperature": 0}
    codes = worn.generate(**song).codes
    assert (codes == expected.generate(**song).codes).all()
    assert (codes != plain.generate(**song).codes).mean() > 0.3
    text = np.array(expected.embed_text("piano"))
    np.testing.assert_allclose(np.array(worn.embed_text("piano")), text, atol=1e-4)


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        *(
            ("init_lora_weights", start, rf"started by {start}, which changes the base's .*merge")
            for start in ("pissa", "pissa_niter_16", "olora", "corda", "loftq", "lora_ga")
        ),
        ("bias", "all", "trained with bias='all', which is more than LoRA"),
        ("use_qalora", True, "trained with use_qalora=True"),
        ("alora_invocation_tokens", [3], "trained with alora_invocation_tokens"),
        ("layer_replication", [[0, 1]], "trained with layer_replication"),
    ],
)
def test_what_is_more_than_lora_is_refused(
    lm_twins, tmp_path: Path, option: str, value: object, words: str
) -> None:
    source = add_peft(lm_twins[1], r"q_proj$", tmp_path / "peft", **{option: value})
    with pytest.raises(MusicotError, match=words):
        convert_peft(source, tmp_path / "mlx")
    assert not (tmp_path / "mlx").exists()
    add_peft(lm_twins[1], r"q_proj$", tmp_path / "plain", init_lora_weights="gaussian", bias="none")
    convert_peft(tmp_path / "plain", tmp_path / "mlx")
