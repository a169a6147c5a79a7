"""laion_clap's own CLAP class, at a size of our choice: the reference of its published files.

The package declares 49 dependencies, needs torchvision, which it does not declare, and fetches
roberta-base when it is imported. Only its model class is needed here, so it is imported past the
package's own __init__ with stand-ins for what the class never calls:

    pip install --no-deps laion-clap==1.1.7 torchlibrosa==0.1.0
"""

import importlib
import importlib.util
import sys
import types
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.signal import get_window
from torch import Tensor, nn
from transformers import RobertaConfig, RobertaModel
from transformers.audio_utils import mel_filter_bank

from musicot_mlx.errors import MusicotError

PACKAGES = ("laion_clap", "torchlibrosa")
INSTALL = "pip install --no-deps laion-clap==1.1.7 torchlibrosa==0.1.0"
_NAME = "laion_clap_module"  # what laion_clap.clap_module is called here


def build_laion_clap(config: Mapping[str, Any], *, fusion: bool = False) -> nn.Module:
    """laion_clap's CLAP with random weights, in eval mode.

    config: the `clap` section of an MLX config.json. Raises MusicotError where laion_clap is not
    installed.
    """
    text, audio = config["text_config"], config["audio_config"]
    features = config.get("feature_config", {})
    with _stand_ins():
        model = importlib.import_module(f"{_NAME}.model")
        htsat = importlib.import_module(f"{_NAME}.htsat")
    roberta = RobertaConfig(
        vocab_size=text["vocab_size"],
        hidden_size=text["hidden_size"],
        num_hidden_layers=text["num_hidden_layers"],
        num_attention_heads=text["num_attention_heads"],
        intermediate_size=text["intermediate_size"],
        max_position_embeddings=text["max_position_embeddings"],
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
    )
    fusion_type = "aff_2d" if fusion else "None"

    def audio_tower(settings: Any, *_: Any) -> nn.Module:
        return htsat.HTSAT_Swin_Transformer(
            spec_size=256,
            patch_size=audio["patch_size"],
            patch_stride=tuple(audio["patch_stride"]),
            num_classes=527,
            embed_dim=audio["patch_embeds_hidden_size"],
            depths=list(audio["depths"]),
            num_heads=list(audio["num_attention_heads"]),
            window_size=audio["window_size"],
            config=settings,
            enable_fusion=fusion,
            fusion_type=fusion_type,
        )

    # the two places where the class reads a size by name, or weights from the Hub
    model.create_htsat_model = audio_tower
    model.RobertaModel = types.SimpleNamespace(from_pretrained=lambda name: RobertaModel(roberta))
    with warnings.catch_warnings():  # torch.meshgrid wants an argument that was new once
        warnings.simplefilter("ignore")
        clap = model.CLAP(
            embed_dim=audio["hidden_size"],
            audio_cfg={
                "audio_length": 1024,
                "clip_samples": 480000,
                "mel_bins": audio["num_mel_bins"],
                "sample_rate": 48000,
                "window_size": features.get("fft_window_size", 1024),
                "hop_size": 480,
                "fmin": 50,
                "fmax": 14000,
                "class_num": 527,
                "model_type": "HTSAT",
                "model_name": "base",
            },
            text_cfg={
                "context_length": 77,
                "vocab_size": 49408,
                "width": 512,
                "heads": 8,
                "layers": 12,
            }
            | {"model_type": "roberta"},
            enable_fusion=fusion,
            fusion_type=fusion_type,
            joint_embed_shape=config["projection_dim"],
        )
    if text["hidden_size"] != 768:  # the class writes 768
        clap.text_projection[0] = nn.Linear(text["hidden_size"], config["projection_dim"])
    return clap.eval()


@torch.no_grad()
def embed_text(clap: nn.Module, ids: Tensor, mask: Tensor) -> Tensor:
    """L2-normalised text embeddings (texts, projection_dim) of token ids and their mask."""
    text = {"input_ids": ids, "attention_mask": mask}
    return F.normalize(clap.encode_text(text, device=ids.device), dim=-1)


@torch.no_grad()
def embed_audio(clap: nn.Module, waveform: Tensor) -> Tensor:
    """L2-normalised audio embeddings (windows, projection_dim) of 48 kHz windows of 10 s."""
    audio = {"waveform": waveform, "longer": torch.zeros(len(waveform), 1, dtype=torch.bool)}
    embedding = clap.encode_audio(audio, device=waveform.device)["embedding"]
    return F.normalize(clap.audio_projection(embedding), dim=-1)


@torch.no_grad()
def log_mel(clap: nn.Module, waveform: Tensor) -> Tensor:
    """The class's own log-mel (windows, frames, mels) in dB."""
    power = clap.audio_branch.spectrogram_extractor(waveform)
    return clap.audio_branch.logmel_extractor(power)[:, 0]


@torch.no_grad()
def save_as_upstream(clap: nn.Module, path: Path) -> None:
    """Write the .pt file that laion_clap's training writes, without an optimiser."""
    state = {f"module.{key}": value for key, value in clap.state_dict().items()}
    # the RoBERTa of its time kept these in the state
    positions = clap.text_branch.config.max_position_embeddings
    state["module.text_branch.embeddings.position_ids"] = torch.arange(positions)[None]
    torch.save({"epoch": 15, "name": "reference", "state_dict": state}, path)


@contextmanager
def _stand_ins() -> Iterator[None]:
    """laion_clap.clap_module importable under _NAME, without what the package drags along."""
    specs = {name: importlib.util.find_spec(name) for name in PACKAGES}
    missing = [name for name, spec in specs.items() if spec is None]
    if missing:
        raise MusicotError(f"{' and '.join(missing)} is not installed: {INSTALL}")
    root = Path(specs["laion_clap"].origin).parent

    def module(name: str, **values: Any) -> types.ModuleType:
        stand_in = types.ModuleType(name)
        stand_in.__dict__.update(values)
        stand_in.__path__ = []
        return stand_in

    def filters(*, sr: int, n_fft: int, n_mels: int, fmin: float, fmax: float) -> np.ndarray:
        bank = mel_filter_bank(
            n_fft // 2 + 1, n_mels, fmin, fmax, sr, norm="slaney", mel_scale="slaney"
        )
        return bank.T.astype(np.float32)

    names = {
        _NAME: module(_NAME),
        "h5py": module("h5py"),
        "torchvision": module("torchvision"),
        "torchvision.ops": module("torchvision.ops"),
        "torchvision.ops.misc": module("torchvision.ops.misc", FrozenBatchNorm2d=nn.BatchNorm2d),
        "librosa": module(
            "librosa",
            filters=types.SimpleNamespace(get_window=get_window, mel=filters),
            # its windows are as long as the transform
            util=types.SimpleNamespace(pad_center=lambda window, size: window),
        ),
    }
    names[_NAME].__path__ = [str(root / "clap_module")]
    before = {name: sys.modules.get(name) for name in names}
    for name, stand_in in names.items():
        if name == _NAME or before[name] is None:
            sys.modules.setdefault(name, stand_in)
    try:
        yield
    finally:
        for name, was in before.items():
            if was is None and name != _NAME:
                sys.modules.pop(name, None)
