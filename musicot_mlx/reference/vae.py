"""VAE between 44.1 kHz waveforms and 43 Hz latents: ConvNeXt over STFT frames, with an iSTFT head
(PyTorch).

The paper asks for 44.1 kHz audio at 43 Hz x 64 latents (arXiv 2503.19611, section 5.1) and names no
network. This one reads and writes the complex STFT, as Vocos (arXiv 2306.00814) does on its output
side, so a second of audio costs 30-45 times less than the strided convolutions of Oobleck.

Where it differs from Vocos: the head predicts real and imaginary parts, not magnitude and phase,
because in short training runs the phase was never found. Spectra are power-compressed on both sides
and each frequency bin has a learned scale, so that the top octave, 60 dB below the bass, is not
lost; no norm stands outside the blocks, so that from spectrum to spectrum there is a linear path
which the blocks only bend.

A small network finds phase in the bass only. `core_band` therefore lets some of the latents be
coefficients of the waveform's MDCT as they are (Princen and Bradley, 1986), a block a latent, and
the decoder's output takes them over: a coded core with a guessed rest, as HE-AAC has it.

`musicot_mlx/models/vae.py` is the same network in MLX.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from musicot_mlx.audio.mdct import mdct_basis, sine_window
from musicot_mlx.audio.noise import FRAMES, noise_spectra

CORE_RMS = 0.65  # of core latents: about half of the others', which a diffusion settles first
CORE_LOG_VARIANCE = -6.0  # so that the decoder learns to bear a core that is not quite right


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution over time, then a pointwise MLP; (batch, time, channels) in and out.
    arXiv 2201.03545.
    """

    def __init__(self, dim: int, *, expansion: int, kernel_size: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(dim, dim, kernel_size, padding=kernel_size // 2, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.expand = nn.Linear(dim, expansion * dim)
        self.project = nn.Linear(expansion * dim, dim)
        self.scale = nn.Parameter(torch.full((dim,), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.depthwise(x.transpose(1, 2)).transpose(1, 2)  # (batch, time, channels)
        return x + self.scale * self.project(F.gelu(self.expand(self.norm(y))))


class Encoder(nn.Module):
    """Compressed complex STFT frames (batch, frames, features) to latent mean and log-variance at
    half the rate.
    """

    def __init__(
        self, features: int, dim: int, layers: tuple[int, int], latent_dim: int, **block: int
    ) -> None:
        super().__init__()
        self.embed = nn.Linear(features, dim)
        self.fine = nn.ModuleList(ConvNeXtBlock(dim, **block) for _ in range(layers[0]))
        self.downsample = nn.Linear(2 * dim, dim)
        self.coarse = nn.ModuleList(ConvNeXtBlock(dim, **block) for _ in range(layers[1]))
        self.head = nn.Linear(dim, 2 * latent_dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.embed(x)
        for block in self.fine:
            x = block(x)
        batch, frames, dim = x.shape
        x = self.downsample(x.reshape(batch, frames // 2, 2 * dim))  # (batch, time, channels)
        for block in self.coarse:
            x = block(x)
        mean, log_variance = self.head(x).chunk(2, dim=-1)
        return mean, log_variance


class Decoder(nn.Module):
    """Latents (batch, time, latent_dim) to real and imaginary STFT parts (batch, 2 * time,
    features).
    """

    def __init__(
        self, features: int, dim: int, layers: tuple[int, int], latent_dim: int, **block: int
    ) -> None:
        super().__init__()
        self.embed = nn.Linear(latent_dim, dim)
        self.coarse = nn.ModuleList(ConvNeXtBlock(dim, **block) for _ in range(layers[0]))
        self.upsample = nn.Linear(dim, 2 * dim)
        self.fine = nn.ModuleList(ConvNeXtBlock(dim, **block) for _ in range(layers[1]))
        self.head = nn.Linear(dim, features)

    def forward(self, z: Tensor) -> Tensor:
        x = self.embed(z)
        for block in self.coarse:
            x = block(x)
        batch, time, dim = x.shape
        x = self.upsample(x).reshape(batch, 2 * time, dim)  # (batch, frames, channels)
        for block in self.fine:
            x = block(x)
        return self.head(x)


@dataclass
class Latents:
    """Mean and log-variance of the posterior, (batch, time, latent_dim) each."""

    mean: Tensor
    log_variance: Tensor

    def sample(self) -> Tensor:
        return self.mean + torch.randn_like(self.mean) * (0.5 * self.log_variance).exp()

    def kl(self) -> Tensor:
        """KL divergence to a unit Gaussian, mean over elements, in nats."""
        return 0.5 * (self.mean**2 + self.log_variance.exp() - 1 - self.log_variance).mean()


class VAE(nn.Module):
    """Waveform (batch, samples, channels) <-> latents (batch, time, latent_dim) at sample_rate / (2
    * hop_length).

    encode pads the waveform with zeros to whole latents; decode returns time * 2 * hop_length
    samples.
    """

    def __init__(
        self,
        *,
        sample_rate: int = 44100,
        audio_channels: int = 1,
        n_fft: int = 2048,
        hop_length: int = 512,
        latent_dim: int = 64,
        encoder_dim: int = 256,
        encoder_layers: tuple[int, int] = (4, 2),
        decoder_dim: int = 384,
        decoder_layers: tuple[int, int] = (3, 5),
        expansion: int = 3,
        kernel_size: int = 7,
        compression: float = 0.5,
        noise_above: float = 0.0,
        core_band: tuple[int, int] = (0, 0),
    ) -> None:
        super().__init__()
        self.sample_rate, self.audio_channels = sample_rate, audio_channels
        self.n_fft, self.hop_length, self.compression = n_fft, hop_length, compression
        self.bins = n_fft // 2 + 1
        # from this bin on, what stands still from frame to frame is turned into noise
        self.first_noise_bin = self.bins
        if noise_above:
            self.first_noise_bin = math.ceil(noise_above * n_fft / sample_rate)
        features = 2 * self.bins * audio_channels
        self.core_dim = (core_band[1] - core_band[0]) * audio_channels
        learned_dim = latent_dim - self.core_dim
        block = {"expansion": expansion, "kernel_size": kernel_size}
        self.encoder = Encoder(features, encoder_dim, tuple(encoder_layers), learned_dim, **block)
        self.decoder = Decoder(features, decoder_dim, tuple(decoder_layers), latent_dim, **block)
        self.bin_scale = nn.Parameter(torch.zeros(features))  # natural log, of compressed spectra
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        if self.core_dim:
            basis = torch.from_numpy(mdct_basis(self.samples_per_latent, *core_band)).float()
            self.register_buffer("core_basis", basis, persistent=False)  # (2 * samples, bins)
            # natural log, of compressed coefficients; fit_core finds it
            self.register_buffer("core_scale", torch.zeros(self.core_dim))
        with torch.no_grad():  # music falls by about 6 dB an octave above 100 Hz
            hertz = torch.arange(self.bins) * sample_rate / n_fft
            tilt = 2.0 - (hertz.clamp(min=100.0) / 100.0).log()
            self.bin_scale.copy_(compression * tilt.repeat(2 * audio_channels))

    @property
    def samples_per_latent(self) -> int:
        return 2 * self.hop_length

    def spectrum(self, waveform: Tensor) -> Tensor:
        """Power-compressed STFT, (batch, frames, 2 * bins * channels) real parts first; frame i is
        centred on sample (i + 0.5) * hop_length, so that a latent covers exactly its own
        samples."""
        batch, samples, channels = waveform.shape
        samples_padded = -(-samples // self.samples_per_latent) * self.samples_per_latent
        edge = (self.n_fft - self.hop_length) // 2
        x = F.pad(waveform.transpose(1, 2), (edge, edge + samples_padded - samples))
        x = x.reshape(batch * channels, -1)
        spectrum = torch.stft(
            x, self.n_fft, self.hop_length, window=self.window, center=False, return_complex=True
        )  # (batch * channels, bins, frames)
        parts = torch.view_as_real(spectrum)
        magnitude = parts.square().sum(-1, keepdim=True).add(1e-12).sqrt()
        parts = parts * magnitude ** (self.compression - 1)
        parts = parts.reshape(batch, channels, self.bins, -1, 2)
        features = parts.permute(0, 3, 4, 1, 2).flatten(2)  # (batch, frames, 2 * channels * bins)
        return features / self.bin_scale.exp()

    def waveform(self, features: Tensor) -> Tensor:
        """Inverse of `spectrum`: features to a waveform (batch, frames * hop_length, channels)."""
        batch, frames, _ = features.shape
        parts = features.float() * self.bin_scale.exp()
        parts = parts.reshape(batch, frames, 2, self.audio_channels, self.bins)
        if self.first_noise_bin < self.bins:
            low, high = parts.split([self.first_noise_bin, self.bins - self.first_noise_bin], -1)
            parts = torch.cat([low, _unsteady(high)], dim=-1)
        size = parts.square().sum(2, keepdim=True).add(1e-12).sqrt()
        parts = parts * size ** (1 / self.compression - 1)
        spectrum = torch.complex(parts[:, :, 0], parts[:, :, 1])  # (batch, frames, channels, bins)
        pieces = torch.fft.irfft(spectrum, n=self.n_fft) * self.window
        pieces = pieces.permute(0, 2, 3, 1).reshape(batch * self.audio_channels, self.n_fft, frames)
        length = (frames - 1) * self.hop_length + self.n_fft
        fold = {"output_size": (1, length), "kernel_size": (1, self.n_fft)}
        audio = F.fold(pieces, stride=(1, self.hop_length), **fold).reshape(-1, length)
        power = self.window.square().reshape(1, -1, 1).expand(1, -1, frames)
        power = F.fold(power, stride=(1, self.hop_length), **fold).reshape(1, length)
        edge = (self.n_fft - self.hop_length) // 2
        audio = (audio / power.clamp(min=1e-8))[:, edge : edge + frames * self.hop_length]
        return audio.reshape(batch, self.audio_channels, -1).transpose(1, 2)

    def _core(self, waveform: Tensor) -> Tensor:
        """MDCT coefficients of the core band, (batch, time, channels, bins); waveform of whole
        latents."""
        samples = self.samples_per_latent
        x = F.pad(waveform.float().transpose(1, 2), (samples // 2, samples // 2))
        blocks = x.unfold(-1, 2 * samples, samples)  # (batch, channels, time, 2 * samples)
        return (blocks @ self.core_basis).transpose(1, 2)

    def _compressed_core(self, waveform: Tensor) -> Tensor:
        missing = -waveform.shape[1] % self.samples_per_latent
        core = self._core(F.pad(waveform, (0, 0, 0, missing)))
        return (core.sign() * core.abs() ** self.compression).flatten(2)

    @torch.no_grad()
    def fit_core(self, waveform: Tensor) -> None:
        """Find the scale at which core latents of such waveforms have CORE_RMS."""
        size = self._compressed_core(waveform).square().mean((0, 1)).sqrt()
        self.core_scale.copy_((size / CORE_RMS).clamp(min=1e-4).log())

    def _with_core(self, waveform: Tensor, core: Tensor) -> Tensor:
        """The waveform with core latents (batch, time, core_dim) for its own coefficients."""
        batch, time, _ = core.shape
        channels, samples = self.audio_channels, self.samples_per_latent
        core = core.float() * self.core_scale.exp()
        core = core.sign() * core.abs() ** (1 / self.compression)
        change = core.reshape(batch, time, channels, -1) - self._core(waveform)
        pieces = (change @ self.core_basis.T).permute(0, 2, 3, 1).flatten(0, 1)
        length = (time + 1) * samples
        fold = {"output_size": (1, length), "kernel_size": (1, 2 * samples)}
        change = F.fold(pieces, stride=(1, samples), **fold).reshape(-1, length)
        edge = samples // 2
        change = change[:, edge:-edge].reshape(batch, channels, -1).transpose(1, 2)
        # one block alone reaches the first and the last half latent, where its window still shows
        rise = torch.from_numpy(sine_window(2 * samples)[edge:samples])
        power = change.new_ones(change.shape[1], 1)
        power[:edge, 0] = rise.square().to(power)
        power[-edge:, 0] = rise.flip(0).square().to(power)
        return waveform + change / power

    def encode(self, waveform: Tensor) -> Latents:
        """The posterior: what the network finds, then the core, if there is one."""
        mean, log_variance = self.encoder(self.spectrum(waveform))
        if self.core_dim:
            core = self._compressed_core(waveform) / self.core_scale.exp()
            mean = torch.cat([mean, core.to(mean)], dim=-1)
            sure = torch.full_like(core, CORE_LOG_VARIANCE)
            log_variance = torch.cat([log_variance, sure.to(log_variance)], dim=-1)
        return Latents(mean, log_variance)

    def decode(self, latents: Tensor) -> Tensor:
        waveform = self.waveform(self.decoder(latents))
        if not self.core_dim:
            return waveform
        return self._with_core(waveform, latents[..., -self.core_dim :])


def _unsteady(parts: Tensor) -> Tensor:
    """Spectra (batch, frames, 2, channels, bins) with what three frames have in common made noise
    of its size: where no phase was found it is every frame's mean, a tone at each multiple of the
    frame rate.
    """
    _, frames, _, channels, bins = parts.shape
    ends = F.pad(parts, (0, 0, 0, 0, 0, 0, 1, 1))
    steady = (ends[:, :-2] + parts + ends[:, 2:]) / 3
    size = steady.square().sum(2, keepdim=True).add(1e-20).sqrt()  # its slope is finite at 0
    noise = torch.from_numpy(noise_spectra(channels, bins)[np.arange(frames) % FRAMES])
    return parts - steady + size * noise.to(parts)
