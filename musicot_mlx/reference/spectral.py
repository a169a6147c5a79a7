"""Spectral training losses and measures in PyTorch: multi-scale log-mel, compressed complex STFT,
waveform L1.
"""

from functools import lru_cache

import torch
from torch import Tensor
from transformers.audio_utils import mel_filter_bank


@lru_cache(maxsize=16)
def _mel(n_fft: int, mels: int, sample_rate: int, device: str) -> Tensor:
    filters = mel_filter_bank(
        n_fft // 2 + 1, mels, 0.0, sample_rate / 2, sample_rate, norm=None, mel_scale="htk"
    )  # (bins, mels)
    return torch.from_numpy(filters.T).float().to(device)


def stft(waveform: Tensor, n_fft: int) -> Tensor:
    """Complex STFT of (rows, samples) with a periodic Hann window and a hop of a quarter, (rows,
    bins, frames).
    """
    window = torch.hann_window(n_fft, device=waveform.device)
    return torch.stft(waveform, n_fft, n_fft // 4, window=window, return_complex=True)


def magnitudes(spectrum: Tensor) -> Tensor:
    """Magnitude of a complex spectrum, with a gradient that stays finite at zero."""
    return torch.view_as_real(spectrum).square().sum(-1).add(1e-10).sqrt()


def log_mel(magnitude: Tensor, mels: int, sample_rate: int) -> Tensor:
    """Natural log of mel magnitudes with a floor of 1e-5, (rows, mels, frames)."""
    filters = _mel(2 * (magnitude.shape[1] - 1), mels, sample_rate, str(magnitude.device))
    return (filters @ magnitude).clamp(min=1e-5).log()


def reconstruction_loss(
    target: Tensor, output: Tensor, sample_rate: int, scales: tuple[int, ...] = (512, 1024, 2048)
) -> tuple[Tensor, dict[str, float]]:
    """Multi-scale loss between waveforms (rows, samples), and its parts for the log.

    Each scale adds the L1 distance of log-mels and, relative to the target's mean, of the complex
    spectra and their magnitudes after power compression with exponent 0.3, which hears quiet
    partials beside loud ones.
    """
    mel = spectral = target.new_zeros(())
    for n_fft in scales:
        a, b = stft(target, n_fft), stft(output, n_fft)
        size_a, size_b = magnitudes(a), magnitudes(b)
        mels = (log_mel(size, n_fft // 16, sample_rate) for size in (size_a, size_b))
        mel = mel + (next(mels) - next(mels)).abs().mean()
        gain_a, gain_b = size_a**-0.5, size_b**-0.5
        small_a, small_b = size_a * gain_a, size_b * gain_b
        parts = (
            torch.view_as_real(a) * gain_a[..., None] - torch.view_as_real(b) * gain_b[..., None]
        )
        scale = small_a.mean().clamp(min=1e-3)
        spectral = spectral + (parts.abs().mean() + (small_a - small_b).abs().mean()) / scale
    mel, spectral = mel / len(scales), spectral / len(scales)
    wave = (target - output).abs().mean() / target.abs().mean().clamp(min=1e-3)
    parts = {"mel": mel.item(), "spectral": spectral.item(), "wave": wave.item()}
    return mel + spectral + 3 * wave, parts


def signal_to_noise(target: Tensor, output: Tensor) -> Tensor:
    """Signal-to-noise ratio of each row of (rows, samples), in dB."""
    noise = (target - output).square().sum(-1).clamp(min=1e-12)
    return 10 * (target.square().sum(-1).clamp(min=1e-12) / noise).log10()


def log_mel_error(target: Tensor, output: Tensor, sample_rate: int) -> Tensor:
    """Mean absolute log-mel difference (128 bins, 2048/512, natural log, floor 1e-5) of waveforms
    (rows, samples).
    """
    a, b = (log_mel(magnitudes(stft(x, 2048)), 128, sample_rate) for x in (target, output))
    return (a - b).abs().mean()
