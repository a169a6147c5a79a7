"""CLAP: one space for text and audio, so a prompt, a song and a thought can be compared by cosine.

Paper: Wu et al., "Large-scale Contrastive Language-Audio Pretraining" (arXiv 2211.06687). MusiCoT
(arXiv 2503.19611) takes its prompt vector (eq 4) and its thoughts, one embedding per 10 s, from
here. References: transformers.ClapModel without fusion, whose parameter names are kept, and
laion_clap's CLAP, whose published files differ in layer_norm_eps, in the length of a text and in
rounding audio to 16 bits.

The towers are models/roberta.py and models/htsat.py; here are their projections and the front end.
pipelines/clap.py adds the tokenizer and waveforms. Embeddings are float32.
"""

from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from musicot_mlx.audio.mel import LogMel
from musicot_mlx.models.htsat import AudioModel, ClapAudioConfig
from musicot_mlx.models.roberta import ClapTextConfig, TextModel
from musicot_mlx.nn.activations import ACTIVATIONS, check_activation
from musicot_mlx.nn.unit import unit
from musicot_mlx.weights.config import config_from_dict


@dataclass(frozen=True)
class ClapFeatureConfig:
    """Audio front end; fields are named as in transformers' ClapFeatureExtractor."""

    sampling_rate: int = 48000  # Hz
    fft_window_size: int = 1024  # samples
    hop_length: int = 480  # samples
    max_length_s: float = 10.0  # seconds in one window
    frequency_min: float = 50.0  # Hz
    frequency_max: float = 14000.0  # Hz
    int16: bool = False  # laion_clap rounds the waveform to 16 bits, transformers does not

    @property
    def window_samples(self) -> int:
        return round(self.max_length_s * self.sampling_rate)

    @property
    def frames(self) -> int:
        return self.window_samples // self.hop_length + 1


@dataclass(frozen=True)
class ClapConfig:
    """Both towers and the front end; `projection_dim` is the length of an embedding."""

    text_config: ClapTextConfig = field(default_factory=ClapTextConfig)
    audio_config: ClapAudioConfig = field(default_factory=ClapAudioConfig)
    projection_dim: int = 512
    projection_hidden_act: str = "relu"
    feature_config: ClapFeatureConfig = field(default_factory=ClapFeatureConfig)

    def __post_init__(self) -> None:
        check_activation(self.projection_hidden_act)
        if self.feature_config.frames > self.audio_config.max_frames:
            raise ValueError(
                f"a window has {self.feature_config.frames} mel frames but spec_size "
                f"{self.audio_config.spec_size} holds {self.audio_config.max_frames}; "
                "shorten max_length_s, or raise hop_length or spec_size"
            )

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ClapConfig":
        """From the `clap` section of config.json; MusicotError names an unknown or bad field."""
        return config_from_dict(cls, values, where="clap")

    def log_mel(self) -> LogMel:
        """The front end that makes what `Clap.embed_mel` takes, in dB."""
        features = self.feature_config
        return LogMel(
            sample_rate=features.sampling_rate,
            n_fft=features.fft_window_size,
            hop_length=features.hop_length,
            num_mel_bins=self.audio_config.num_mel_bins,
            min_frequency=features.frequency_min,
            max_frequency=features.frequency_max,
        )


# Released sizes. TINY: laion/clap-htsat-unfused. BASE: laion/larger_clap_general,
# laion/larger_clap_music and the HTSAT-base files of laion_clap.
CLAP_HTSAT_TINY = ClapConfig()
CLAP_HTSAT_BASE = ClapConfig(
    audio_config=ClapAudioConfig(
        patch_embeds_hidden_size=128, depths=(2, 2, 12, 2), hidden_size=1024
    )
)


class Projection(nn.Module):
    """Two linear layers from a tower into the shared space."""

    def __init__(self, hidden_size: int, config: ClapConfig) -> None:
        super().__init__()
        self.linear1 = nn.Linear(hidden_size, config.projection_dim)
        self.linear2 = nn.Linear(config.projection_dim, config.projection_dim)
        self.activation = ACTIVATIONS[config.projection_hidden_act]

    def __call__(self, x: mx.array) -> mx.array:
        return self.linear2(self.activation(self.linear1(x)))


class Clap(nn.Module):
    """Both towers and their projections; `ClapEmbedder` adds tokenizer and audio front end."""

    def __init__(self, config: ClapConfig) -> None:
        super().__init__()
        self.config = config
        self.text_model = TextModel(config.text_config)
        self.text_projection = Projection(config.text_config.hidden_size, config)
        self.audio_model = AudioModel(config.audio_config)
        self.audio_projection = Projection(config.audio_config.hidden_size, config)

    def embed_text_ids(self, ids: mx.array, mask: mx.array | None = None) -> mx.array:
        """Unit vectors, float32 (batch, projection_dim), of token ids (batch, time).

        mask is 1 where a token is real, 0 where it is padding; None means all are real.
        """
        return unit(self.text_projection(self.text_model(ids, mask)))

    def embed_mel(self, log_mel: mx.array) -> mx.array:
        """Unit vectors, float32 (batch, projection_dim), of log-mel windows (batch, frames, mels).

        The mel is in dB, as `config.log_mel()` makes it.
        Raises ValueError when there are more frames than one window holds, or other mel bins.
        """
        return unit(self.audio_projection(self.audio_model(log_mel)))
