"""VAE between 44.1 kHz waveforms and 43 Hz latents: ConvNeXt over STFT frames, with an iSTFT head.

The paper asks for 44.1 kHz audio at 43 Hz x 64 latents (arXiv 2503.19611, section 5.1) and names no
network. Reference: `musicot_mlx/reference/vae.py`, which follows Vocos (arXiv 2306.00814) except
that the head predicts real and imaginary parts of power-compressed spectra, that no norm stands
outside the blocks, and that noise stands where the decoder finds no phase (`noise_above`). Some of
the latents may be MDCT coefficients of the waveform as they are, which the decoder's output takes
over (`core_band`): a coded core with a guessed rest, as HE-AAC has it.

Here audio is channels last, the inverse STFT adds frames by reshaping, and `decode_stream` decodes
latents as they come: its pieces overlap by the network's whole receptive field, so they equal one
decode.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from musicot_mlx.audio.mdct import mdct_basis, sine_window
from musicot_mlx.audio.mel import hann_window, stft
from musicot_mlx.audio.noise import FRAMES, noise_spectra
from musicot_mlx.nn.chunked import in_windows
from musicot_mlx.nn.depthwise import DepthwiseConv1d
from musicot_mlx.weights.config import config_from_dict

_CORE_LOG_VARIANCE = -6.0  # that the decoder was trained to bear


@dataclass(frozen=True)
class VAEConfig:
    """Sizes of encoder and decoder; a latent lasts 2 * hop_length samples."""

    sample_rate: int = 44100  # Hz
    audio_channels: int = 1
    n_fft: int = 2048  # samples
    hop_length: int = 512  # samples
    latent_dim: int = 64
    encoder_dim: int = 256
    encoder_layers: tuple[int, int] = (4, 2)  # at the frame rate, at the latent rate
    decoder_dim: int = 384
    decoder_layers: tuple[int, int] = (3, 5)  # at the latent rate, at the frame rate
    expansion: int = 3
    kernel_size: int = 7
    compression: float = 0.5  # exponent of magnitudes on both sides of the network
    noise_above: float = 0.0  # Hz from which on what stands still is turned into noise; 0: nowhere
    core_band: tuple[int, int] = (0, 0)  # MDCT coefficients, first to last, that latents end with

    def __post_init__(self) -> None:
        if self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size is {self.kernel_size}, expected an odd number")
        if self.n_fft % 2 or (self.n_fft - self.hop_length) % 2:
            raise ValueError(
                f"n_fft {self.n_fft} and hop_length {self.hop_length} must both be even"
            )
        if not 0 < self.hop_length <= self.n_fft // 2:
            raise ValueError(
                f"hop_length is {self.hop_length}, expected at most half of n_fft {self.n_fft}"
            )
        if self.audio_channels not in (1, 2):
            raise ValueError(f"audio_channels is {self.audio_channels}, expected 1 or 2")
        if not 0 <= self.noise_above < self.sample_rate / 2:
            raise ValueError(
                f"noise_above is {self.noise_above} Hz, expected 0 to {self.sample_rate / 2:g}"
            )
        first, last = self.core_band
        if not 0 <= first <= last <= self.samples_per_latent or self.learned_dim < 1:
            raise ValueError(
                f"core_band {first} to {last} must lie within the {self.samples_per_latent} "
                f"coefficients of a latent and leave some of latent_dim {self.latent_dim}"
            )

    @classmethod
    def from_dict(cls, d: dict) -> "VAEConfig":
        return config_from_dict(cls, d)

    @property
    def samples_per_latent(self) -> int:
        return 2 * self.hop_length

    @property
    def core_dim(self) -> int:
        """How many of the latents, the last ones, are coefficients."""
        return (self.core_band[1] - self.core_band[0]) * self.audio_channels

    @property
    def learned_dim(self) -> int:
        """How many of the latents the encoder makes."""
        return self.latent_dim - self.core_dim

    @property
    def latent_rate(self) -> float:
        """Latents per second."""
        return self.sample_rate / self.samples_per_latent

    @property
    def bins(self) -> int:
        return self.n_fft // 2 + 1

    @property
    def features(self) -> int:
        """Real and imaginary parts of every bin of every channel."""
        return 2 * self.bins * self.audio_channels

    @property
    def first_noise_bin(self) -> int:
        """The bin from which on there is noise; `bins` where there is none."""
        if not self.noise_above:
            return self.bins
        return math.ceil(self.noise_above * self.n_fft / self.sample_rate)

    @property
    def decoder_reach(self) -> int:
        """Latents on each side that a decoded sample depends on."""
        side = self.kernel_size // 2
        stft_frames = -(-self.n_fft // self.hop_length)
        frames = self.decoder_layers[1] * side + stft_frames + bool(self.noise_above)
        # a sample lies in two blocks, each of which reaches into its neighbour
        blocks = 2 if self.core_dim else 0
        return self.decoder_layers[0] * side + -(-frames // 2) + blocks


# What the paper asks for, at about Stable Audio's VAE's number of parameters.
PAPER_STEREO = VAEConfig(
    audio_channels=2,
    encoder_dim=512,
    encoder_layers=(6, 6),
    decoder_dim=1024,
    decoder_layers=(6, 12),
    expansion=4,
)


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution over time, then a pointwise MLP; arXiv 2201.03545."""

    def __init__(self, dim: int, *, expansion: int, kernel_size: int) -> None:
        super().__init__()
        self.depthwise = DepthwiseConv1d(dim, kernel_size)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.expand = nn.Linear(dim, expansion * dim)
        self.activation = nn.GELU()
        self.project = nn.Linear(expansion * dim, dim)
        self.scale = mx.full((dim,), 0.1)

    def __call__(self, x: mx.array) -> mx.array:
        y = self.norm(self.depthwise(x))
        return x + self.scale * self.project(self.activation(self.expand(y)))


class Encoder(nn.Module):
    """Compressed STFT frames (batch, frames, features) to latent mean and log-variance."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        dim = config.encoder_dim
        block = {"expansion": config.expansion, "kernel_size": config.kernel_size}
        self.embed = nn.Linear(config.features, dim)
        self.fine = [ConvNeXtBlock(dim, **block) for _ in range(config.encoder_layers[0])]
        self.downsample = nn.Linear(2 * dim, dim)
        self.coarse = [ConvNeXtBlock(dim, **block) for _ in range(config.encoder_layers[1])]
        self.head = nn.Linear(dim, 2 * config.learned_dim)

    def __call__(self, x: mx.array) -> mx.array:
        x = self.embed(x)
        for block in self.fine:
            x = block(x)
        batch, frames, dim = x.shape
        x = self.downsample(x.reshape(batch, frames // 2, 2 * dim))  # (batch, time, channels)
        for block in self.coarse:
            x = block(x)
        return self.head(x)  # (batch, time, 2 * learned_dim)


class Decoder(nn.Module):
    """Latents (batch, time, latent_dim) to compressed STFT frames (batch, 2 * time, features)."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        dim = config.decoder_dim
        block = {"expansion": config.expansion, "kernel_size": config.kernel_size}
        self.embed = nn.Linear(config.latent_dim, dim)
        self.coarse = [ConvNeXtBlock(dim, **block) for _ in range(config.decoder_layers[0])]
        self.upsample = nn.Linear(dim, 2 * dim)
        self.fine = [ConvNeXtBlock(dim, **block) for _ in range(config.decoder_layers[1])]
        self.head = nn.Linear(dim, config.features)

    def __call__(self, z: mx.array) -> mx.array:
        x = self.embed(z)
        for block in self.coarse:
            x = block(x)
        batch, time, dim = x.shape
        x = self.upsample(x).reshape(batch, 2 * time, dim)  # (batch, frames, channels)
        for block in self.fine:
            x = block(x)
        return self.head(x)


@dataclass(frozen=True)
class Latents:
    """Mean and log-variance of the posterior, (batch, time, latent_dim) each."""

    mean: mx.array
    log_variance: mx.array

    def sample(self, key: mx.array) -> mx.array:
        noise = mx.random.normal(self.mean.shape, key=key).astype(self.mean.dtype)
        return self.mean + noise * mx.exp(0.5 * self.log_variance)


class VAE(nn.Module):
    """Waveform (batch, samples, channels) <-> latents (batch, time, latent_dim).

    encode pads the waveform with zeros to whole latents; decode returns float32, time * 2 *
    hop_length samples.
    """

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.bin_scale = mx.zeros((config.features,))  # natural log, of compressed spectra
        if config.core_dim:
            self.core_scale = mx.zeros((config.core_dim,))  # the same of the core

    @property
    def dtype(self) -> mx.Dtype:
        return self.decoder.embed.bias.dtype

    def _scale(self) -> mx.array:
        return mx.exp(self.bin_scale.astype(mx.float32))

    def spectrum(self, waveform: mx.array) -> mx.array:
        """Power-compressed STFT, float32 (batch, frames, features), real parts first.

        Frame i is centred on sample (i + 0.5) * hop_length: a latent covers just its own samples.
        """
        c = self.config
        batch, samples, channels = waveform.shape
        missing = -samples % c.samples_per_latent
        edge = (c.n_fft - c.hop_length) // 2
        x = mx.pad(waveform.swapaxes(1, 2), ((0, 0), (0, 0), (edge, edge + missing)))
        x = stft(
            x.reshape(batch * channels, -1), n_fft=c.n_fft, hop_length=c.hop_length, centered=False
        )
        power = mx.square(mx.real(x)) + mx.square(mx.imag(x)) + 1e-12
        x = mx.stack([mx.real(x), mx.imag(x)]) * power ** ((c.compression - 1) / 2)
        x = x.reshape(2, batch, channels, -1, c.bins).transpose(1, 3, 0, 2, 4)
        x = x.reshape(batch, -1, c.features)  # (batch, frames, 2 * channels * bins)
        return x / self._scale()

    def waveform(self, features: mx.array, *, first: int = 0) -> mx.array:
        """Inverse of `spectrum`: features to a waveform (batch, frames * hop_length, channels).

        In float32: the uncompressed bass would leave the range of 16 bits. first: the number of the
        first frame in its song, which its noise goes by.
        """
        c = self.config
        batch, frames, _ = features.shape
        features = features.astype(mx.float32) * self._scale()
        parts = features.reshape(batch, frames, 2, c.audio_channels, c.bins)
        if c.noise_above:
            low, high = mx.split(parts, [c.first_noise_bin], axis=-1)
            parts = mx.concatenate([low, _unsteady(high, first)], axis=-1)
        power = mx.square(parts).sum(axis=2, keepdims=True) + 1e-12
        # at 0.5, as all models have it, a root, which is quicker than a power everywhere
        scale = mx.sqrt(power) if c.compression == 0.5 else power ** ((1 / c.compression - 1) / 2)
        parts = (parts * scale).transpose(0, 3, 1, 4, 2)  # (batch, channels, frames, bins, 2)
        spectra = mx.contiguous(parts).view(mx.complex64)[..., 0]
        window = hann_window(c.n_fft).astype(np.float32)
        pieces = mx.fft.irfft(spectra, n=c.n_fft) * mx.array(window)
        hops = -(-c.n_fft // c.hop_length)
        pieces = _overlap_add(pieces, hops, c.hop_length)  # (batch, channels, samples)
        power = mx.array(_window_power(window, frames, hops, c.hop_length))
        edge = (c.n_fft - c.hop_length) // 2
        audio = (pieces / power)[..., edge : edge + frames * c.hop_length]
        return audio.swapaxes(1, 2)  # (batch, samples, channels)

    def encode(self, waveform: mx.array) -> Latents:
        """The posterior. Raises ValueError when the waveform has other channels than the model."""
        if waveform.ndim != 3 or waveform.shape[-1] != self.config.audio_channels:
            raise ValueError(
                f"waveform is {waveform.shape}, expected (batch, samples, "
                f"{self.config.audio_channels})"
            )
        x = self.encoder(self.spectrum(waveform).astype(self.dtype))
        mean, log_variance = mx.split(x, 2, axis=-1)
        if self.config.core_dim:
            core = self._core(waveform)
            power = self.config.compression
            core = mx.sign(core) * mx.abs(core) ** power
            core = core.reshape(*core.shape[:2], -1) / mx.exp(self.core_scale.astype(mx.float32))
            mean = mx.concatenate([mean, core.astype(mean.dtype)], axis=-1)
            sure = mx.full(core.shape, _CORE_LOG_VARIANCE, dtype=mean.dtype)
            log_variance = mx.concatenate([log_variance, sure], axis=-1)
        return Latents(mean, log_variance)

    def decode(self, latents: mx.array, *, first: int = 0) -> mx.array:
        """first: the number of the first latent in its song."""
        waveform = self.waveform(self.decoder(latents.astype(self.dtype)), first=2 * first)
        if not self.config.core_dim:
            return waveform
        return self._with_core(waveform, latents[..., self.config.learned_dim :])

    def _basis(self) -> mx.array:
        """(2 * samples_per_latent, bins of the core)."""
        basis = mdct_basis(self.config.samples_per_latent, *self.config.core_band)
        return mx.array(basis.astype(np.float32))

    def _core(self, waveform: mx.array) -> mx.array:
        """MDCT coefficients of the core, (batch, time, channels, bins), a block centred on each
        latent."""
        samples = self.config.samples_per_latent
        edge = samples // 2
        missing = -waveform.shape[1] % samples
        x = waveform.astype(mx.float32).swapaxes(1, 2)
        x = mx.pad(x, ((0, 0), (0, 0), (edge, edge + missing)))
        halves = x.reshape(*x.shape[:2], -1, samples)
        blocks = mx.concatenate([halves[:, :, :-1], halves[:, :, 1:]], axis=-1)
        return (blocks @ self._basis()).swapaxes(1, 2)

    def _with_core(self, waveform: mx.array, core: mx.array) -> mx.array:
        """The waveform with core latents (batch, time, core_dim) for its own coefficients."""
        c = self.config
        core = core.astype(mx.float32) * mx.exp(self.core_scale.astype(mx.float32))
        core = mx.sign(core) * mx.abs(core) ** (1 / c.compression)
        own = self._core(waveform)
        change = (core.reshape(own.shape) - own) @ self._basis().T
        samples = c.samples_per_latent
        change = _overlap_add(change.swapaxes(1, 2), 2, samples)  # (batch, channels, samples)
        # one block alone reaches the first and the last half latent, where its window still shows
        window = sine_window(2 * samples).astype(np.float32)
        power = mx.array(_window_power(window, own.shape[1], 2, samples))
        edge = samples // 2
        return waveform + (change / power)[..., edge:-edge].swapaxes(1, 2)

    def decode_stream(
        self, latents: Iterable[mx.array], *, longest: int = 512
    ) -> Iterator[mx.array]:
        """Decode one song's latents as they come, (1, any time, latent_dim) each, in flat memory.

        Yields evaluated waveforms (samples, channels) that join to the decode of all latents at
        once: what depends on latents still to come is held back. longest: latents decoded at once.
        """
        pieces = in_windows(
            latents,
            lambda piece, first: self.decode(piece, first=first),
            reach=self.config.decoder_reach,
            up=self.config.samples_per_latent,
            longest=longest,
        )
        return (piece[0] for piece in pieces)

    def decode_windows(self, latents: mx.array, *, longest: int = 512) -> mx.array:
        """decode, in memory bounded by `longest` latents of one row."""
        rows = [list(self.decode_stream([row[None]], longest=longest)) for row in latents]
        return mx.stack([mx.concatenate(pieces) for pieces in rows])


def _unsteady(parts: mx.array, first: int) -> mx.array:
    """Spectra (batch, frames, 2, channels, bins) with what stands still in them made noise.

    Where a decoder of few weights finds no phase it gives every frame the same one, the mean's: a
    steady tone at each multiple of the frame rate. What three frames have in common is that, since
    a note's phase turns; noise of its size takes its place. `first` is the first frame's number.
    """
    none, (_, frames, _, channels, bins) = (0, 0), parts.shape
    ends = mx.pad(parts, (none, (1, 1), none, none, none))
    steady = (ends[:, :-2] + parts + ends[:, 2:]) * (1 / 3)
    size = mx.sqrt(mx.square(steady).sum(axis=2, keepdims=True))
    turn = np.arange(first, first + frames) % FRAMES
    return parts - steady + size * mx.array(noise_spectra(channels, bins)[turn])


def _overlap_add(pieces: mx.array, hops: int, hop_length: int) -> mx.array:
    """Sum pieces (..., frames, hops * hop_length or less) placed every hop_length samples."""
    *rows, frames, length = pieces.shape
    none = [(0, 0)] * len(rows)
    pieces = mx.pad(pieces, [*none, (0, 0), (0, hops * hop_length - length)])
    pieces = pieces.reshape(*rows, frames, hops, hop_length)
    total = sum(
        mx.pad(pieces[..., i, :], [*none, (i, hops - 1 - i), (0, 0)]) for i in range(hops)
    )  # (..., frames + hops - 1, hop_length)
    return total.reshape(*rows, (frames + hops - 1) * hop_length)


def _window_power(window: np.ndarray, frames: int, hops: int, hop_length: int) -> np.ndarray:
    """What the squared windows of `frames` frames add up to at each sample, at least 1e-8."""
    squares = np.zeros(hops * hop_length, dtype=np.float32)
    squares[: len(window)] = window**2
    block = np.arange(frames + hops - 1)[:, None] - np.arange(hops)  # frame that lies there
    inside = ((block >= 0) & (block < frames)).astype(np.float32)
    return np.maximum(inside @ squares.reshape(hops, hop_length), 1e-8).reshape(-1)
