"""A tiny MuMu-LLaMA as it would be published: checkpoint.pth and tokenizer.model."""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers

from musicot_mlx.reference import mumu_llama as reference
from tests.support import tiny_musicgen
from tests.support.tiny_mumu import GENERATIONS

PIECES = 400  # of the tiny tokenizer, byte pieces among them
AUDIO = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 1,
    "intermediate_size": 48,
    "conv_dim": [8] * 7,
    "conv_kernel": [10, 3, 3, 3, 3, 2, 2],
    "conv_stride": [5, 2, 2, 2, 2, 2, 2],  # 75 frames a second, as MERT
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "feat_extract_norm": "group",
    "do_stable_layer_norm": True,
    "conv_bias": False,
    "num_feat_extract_layers": 7,
}
VISION = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 1,
    "intermediate_size": 40,
    "image_size": 32,
}
# transformers 5's names -> those of 4, by which the published files were written
_OLD = {
    "layers.": "encoder.layer.",
    "attention.q_proj": "attention.attention.query",
    "attention.k_proj": "attention.attention.key",
    "attention.v_proj": "attention.attention.value",
    "attention.o_proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
WORDS = (
    "Below is an instruction that describes a task. Write a response that appropriately completes "
    "the request. ### Instruction: ### Response: What instruments play? piano guitar drums bass "
    "strings slow fast happy sad major minor jazz rock Make music for this picture"
)


def config(generation: str) -> reference.MumuConfig:
    """The twin's sizes, with the encoders' widths and the tokenizer's pieces."""
    return replace(
        GENERATIONS[generation],
        vocab_size=PIECES + 8,
        audio_states=4,
        audio_size=32,
        image_tokens=5,
        image_size=32,
        video_tokens=65,
        video_size=32,
    )


def twin(generation: str = "split", seed: int = 0) -> reference.MumuLlama:
    return reference.draw_weights(reference.MumuLlama(config(generation)), seed).eval()


def encoders(seed: int = 0) -> dict[str, Any]:
    """MERT, ViT and ViViT by the prefix of their keys."""
    torch.manual_seed(seed)
    models = {
        "mert_model": transformers.HubertModel(transformers.HubertConfig(**AUDIO)),
        "vit_model": transformers.ViTModel(
            transformers.ViTConfig(**VISION, patch_size=16, layer_norm_eps=1e-12)
        ),
        "vivit_model": transformers.VivitModel(
            transformers.VivitConfig(**VISION, num_frames=32, tubelet_size=[2, 16, 16])
        ),
    }
    with torch.no_grad():
        for model in models.values():
            for name, value in model.named_parameters():
                if value.ndim > 1 and "original0" not in name:
                    value.normal_(std=value[0].numel() ** -0.5)
    return {name: model.eval() for name, model in models.items()}


def state(generation: str, music: Path | None, seed: int = 0) -> dict[str, torch.Tensor]:
    """Everything that stands under `model`; music: folder of a MusicGen of transformers."""
    found = dict(twin(generation, seed).state_dict())
    for prefix, model in encoders(seed).items():
        for name, value in model.state_dict().items():
            if prefix != "mert_model":
                for new, old in _OLD.items():
                    name = name.replace(new, old)
            found[f"{prefix}.{name}"] = value
    found["output_projector.fc.weight"] = torch.ones(3, 5)
    if music is not None:
        from safetensors.torch import load_file

        for name, value in load_file(music / "model.safetensors").items():
            found[f"generation_model.{name}"] = value
    return found


def write(
    folder: Path,
    generation: str = "split",
    *,
    music: Path | None = None,
    tensors: dict[str, torch.Tensor] | None = None,
    mixed: bool = True,
    wrapped: bool = True,
    tokenizer: bool = True,
) -> Path:
    """Write checkpoint.pth and tokenizer.model.

    mixed: types as in the published files, LLaMA's base float16, its norms bfloat16, what was
    trained float32. wrapped: `module.` here and there, an optimiser, an epoch and the arguments of
    the training script beside the weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = state(generation, music) if tensors is None else dict(tensors)
    if mixed:
        tensors = {key: value.to(_stored(key)) for key, value in tensors.items()}
    package: Any = tensors
    if wrapped:
        named = {
            key.replace("llama.layers.", "llama.module.layers.").replace(
                "iu_vivit_rnn", "iu_vit_rnn"
            ): value
            for key, value in tensors.items()
        }
        named = {f"module.{k}" if k.startswith("iu_vit_proj") else k: v for k, v in named.items()}
        package = {
            "model": named,
            "optimizer": {
                "state": {0: {"exp_avg": torch.zeros(4)}},
                "param_groups": [{"lr": 1e-4}],
            },
            "epoch": 4,
            "scaler": {"scale": 65536.0},
            "args": argparse.Namespace(lr=1e-4, output_dir="out", world_size=1),
        }
    torch.save(package, folder / "checkpoint.pth")
    if tokenizer:
        write_tokenizer(folder / "LLaMA-2")
        (folder / "LLaMA-2" / "7B").mkdir(exist_ok=True)
        sizes = {"dim": 64, "n_heads": 4, "n_layers": 4, "norm_eps": 1e-5, "vocab_size": -1}
        (folder / "LLaMA-2" / "7B" / "params.json").write_text(json.dumps(sizes))
    return folder


def _stored(key: str) -> torch.dtype:
    if not key.startswith("llama."):
        return torch.float32
    if "norm" in key:
        return torch.bfloat16
    trained = any(word in key for word in ("lora", "bias", "gate", "tok_embeddings"))
    return torch.float32 if trained else torch.float16


def write_tokenizer(folder: Path) -> Path:
    """tokenizer.model with LLaMA-2's kind of pieces: BPE, bytes, spaces as they are."""
    import sentencepiece

    folder.mkdir(parents=True, exist_ok=True)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([WORDS] * 20),
        model_prefix=str(folder / "tokenizer"),
        model_type="bpe",
        vocab_size=PIECES,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        num_threads=1,
        minloglevel=2,
    )
    (folder / "tokenizer.vocab").unlink()
    return folder / "tokenizer.model"


def write_music(folder: Path) -> Path:
    """A tiny MusicGen of transformers, with config.json and T5's tokenizer.json."""
    return tiny_musicgen.write_upstream(folder)
