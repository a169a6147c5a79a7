"""CLAP: transformers' ClapModel or laion_clap's own class beside ours."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import torch
from transformers import ClapFeatureExtractor, ClapModel

from musicot_mlx.convert.check import long, sound
from musicot_mlx.convert.pickles import pickled_state
from musicot_mlx.pipelines.clap import ClapEmbedder, load
from musicot_mlx.reference import clap as twin
from musicot_mlx.reference import laion_clap
from musicot_mlx.weights.config import config_to_dict

Pairs = Iterator[tuple[str, mx.array | np.ndarray, torch.Tensor]]
TEXTS = ["solo piano, slow", "full drum kit, fast techno with a heavy bass line", "a"]


def comparisons(source: Path, target: Path) -> list[tuple[str, Callable[[Any], Pairs]]]:
    """Log-mel, text and audio embeddings; MLX sees the words and the waveform, as a user's call."""
    ours = load(target)
    theirs = _Transformers(source) if (source / "config.json").is_file() else _Laion(source, ours)

    def waveforms(rng: np.random.Generator) -> np.ndarray:
        features = ours.config.feature_config
        waveform = sound(features.sampling_rate, 2 * features.max_length_s, rng)
        return ours.windows(waveform, features.sampling_rate)  # (windows, samples)

    def mel(rng: np.random.Generator) -> Pairs:
        windows = waveforms(rng)
        yield "log-mel, dB", ours.config.log_mel()(mx.array(windows)), theirs.log_mel(windows)

    def text(rng: np.random.Generator) -> Pairs:
        ids, mask = ours.text_ids(TEXTS)
        yield "embeddings", ours.embed_text(TEXTS), theirs.embed_text(long(ids), long(mask))

    def audio(rng: np.random.Generator) -> Pairs:
        windows = waveforms(rng)
        embeddings = ours.clap.embed_mel(ours.config.log_mel()(mx.array(windows)))
        yield "embeddings", embeddings, theirs.embed_audio(windows)

    return [("front end", mel), ("text", text), ("audio", audio)]


class _Transformers:
    """A folder of transformers: its ClapModel and its feature extractor."""

    def __init__(self, folder: Path) -> None:
        self.model = ClapModel.from_pretrained(folder, dtype=torch.float32).eval()
        self.extractor = ClapFeatureExtractor.from_pretrained(folder)

    def log_mel(self, windows: np.ndarray) -> torch.Tensor:
        rate = self.extractor.sampling_rate
        features = self.extractor(list(windows), sampling_rate=rate, return_tensors="pt")
        return features["input_features"][:, 0].float()

    def embed_text(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return twin.embed_text(self.model, ids, mask)

    def embed_audio(self, windows: np.ndarray) -> torch.Tensor:
        return twin.embed_audio(self.model, self.log_mel(windows)[:, None])


class _Laion:
    """A .pt file in laion_clap's own class, of the sizes that the conversion found."""

    def __init__(self, source: Path, ours: ClapEmbedder) -> None:
        self.model = laion_clap.build_laion_clap(config_to_dict(ours.config))
        state = pickled_state(source)
        state.pop("text_branch.embeddings.position_ids", None)  # as load_ckpt does
        # its front end is computed, not learned; a file in 16 bits has rounded it
        own = {k: v for k, v in self.model.state_dict().items() if "_extractor." in k}
        self.model.load_state_dict({**state, **own})

    def log_mel(self, windows: np.ndarray) -> torch.Tensor:
        return laion_clap.log_mel(self.model, torch.from_numpy(windows))

    def embed_text(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return laion_clap.embed_text(self.model, ids, mask)

    def embed_audio(self, windows: np.ndarray) -> torch.Tensor:
        return laion_clap.embed_audio(self.model, torch.from_numpy(windows))
