"""Instrument tagger: which families of instruments play in ten seconds of audio.

A small convolutional network on log-mels, a judge of generated music that shares nothing with
CLAP: it learned from the band's scores (`musicot_mlx/reference/tagger.py`, the PyTorch twin, whose
batch norms are folded into the convolutions here). Powers count relative to the window's mean, so
loudness says nothing; mean and maximum over time let an instrument that enters late still count.
"""

from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from musicot_mlx.audio.files import resample
from musicot_mlx.audio.mel import LogMel
from musicot_mlx.audio.waveforms import as_waveform

CLEARLY, UNLIKELY = 0.6, 0.4  # chances of what plays and of what does not
LEAST_SECONDS = 1.0  # a shorter rest of a song is no window


@dataclass(frozen=True)
class TaggerConfig:
    """Labels, front end and sizes; `held_out` are the figures measured when it was trained."""

    labels: tuple[str, ...]
    sample_rate: int = 44100  # Hz
    n_fft: int = 2048  # samples
    hop_length: int = 1024  # samples
    num_mel_bins: int = 64
    min_frequency: float = 40.0  # Hz
    max_frequency: float = 11000.0  # Hz
    window_seconds: float = 10.0
    channels: tuple[int, ...] = (16, 32, 48, 64, 64)
    hidden: int = 64
    quietest: float = -14.0  # nats below the window's mean power
    held_out: dict[str, float] | None = None

    def __post_init__(self) -> None:
        if self.num_mel_bins % self.shrinks:
            raise ValueError(
                f"num_mel_bins is {self.num_mel_bins}, expected a multiple of {self.shrinks}, by "
                f"which {len(self.channels)} convolutions shrink it"
            )

    @property
    def shrinks(self) -> int:
        """How many mel bins become one: strides of the first convolution and the poolings."""
        return 2 ** (len(self.channels) - 1)


class Tagger(nn.Module):
    """Log-mels (batch, frames, mels) to logits (batch, labels)."""

    def __init__(self, config: TaggerConfig) -> None:
        super().__init__()
        self.config = config
        widths = (1, *config.channels)
        self.convs = [
            nn.Conv2d(before, after, 5 if i == 0 else 3, 2 if i == 0 else 1, 2 if i == 0 else 1)
            for i, (before, after) in enumerate(zip(widths, widths[1:], strict=False))
        ]
        height = config.num_mel_bins // config.shrinks
        self.hidden = nn.Linear(2 * widths[-1] * height, config.hidden)
        self.head = nn.Linear(config.hidden, len(config.labels))

    def __call__(self, log_mel: mx.array) -> mx.array:
        level = mx.log(mx.exp(log_mel).mean(axis=(1, 2), keepdims=True))
        x = mx.maximum(log_mel - level, self.config.quietest)[..., None] / 4 + 1
        x = x.astype(self.head.weight.dtype)
        for index, conv in enumerate(self.convs):
            x = nn.relu(conv(x))  # (batch, frames, mels, channels)
            if 0 < index < len(self.convs) - 1:
                x = _pool(x)
        x = x.reshape(*x.shape[:2], -1)  # (batch, frames, mels * channels)
        x = mx.concatenate((x.mean(axis=1), x.max(axis=1)), axis=-1)
        return self.head(nn.relu(self.hidden(x))).astype(mx.float32)

    def tag(self, waveform: np.ndarray, sample_rate: int) -> np.ndarray:
        """How likely each label plays in each 10 s of a waveform, float32 0-1 (windows, labels).

        waveform: (samples,) or (samples, channels); channels are averaged. A rest under 1 s is left
        out unless it is all there is; a short window is tagged as it is, not padded.
        """
        config = self.config
        mono = as_waveform(waveform)
        mono = mono if mono.ndim == 1 else mono.mean(axis=1)
        mono = resample(mono, sample_rate, config.sample_rate)
        size, least = (
            round(s * config.sample_rate) for s in (config.window_seconds, LEAST_SECONDS)
        )
        pieces = [mono[start : start + size] for start in range(0, len(mono), size)]
        if len(pieces) > 1 and len(pieces[-1]) < least:
            pieces.pop()
        if not pieces or len(pieces[0]) < least:
            raise ValueError(f"waveform lasts {len(mono) / config.sample_rate:.2f} s, expected 1 s")
        log_mel = self._front_end()
        logits = [self(log_mel(mx.array(piece)[None])) for piece in pieces]
        return np.array(mx.sigmoid(mx.concatenate(logits)))

    def lone(self, waveform: np.ndarray, sample_rate: int) -> str | None:
        """The one label that plays in the first 10 s of a waveform; None where several do, none
        does, or one is in doubt.
        """
        chances = self.tag(waveform, sample_rate)[0]
        likeliest = int(chances.argmax())
        others = np.delete(chances, likeliest)
        clear = chances[likeliest] > CLEARLY and (others < UNLIKELY).all()
        return self.config.labels[likeliest] if clear else None

    def _front_end(self) -> LogMel:
        c = self.config
        return LogMel(
            c.sample_rate,
            c.n_fft,
            c.hop_length,
            c.num_mel_bins,
            c.min_frequency,
            c.max_frequency,
            decibels=False,
        )


def _pool(x: mx.array) -> mx.array:
    """Mean of 2 x 2 of (batch, frames, mels, channels); an odd last frame falls away."""
    batch, frames, mels, channels = x.shape
    x = x[:, : frames // 2 * 2].reshape(batch, frames // 2, 2, mels // 2, 2, channels)
    return x.mean(axis=(2, 4))
