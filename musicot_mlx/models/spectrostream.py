"""SpectroStream: 48 kHz stereo as 25 frames a second of residual codes, and back.

arXiv 2508.05207; upstream `magenta_rt.mlx.spectrostream` and `magenta_rt.jax.spectrostream`
(magenta-rt 2.0.3), the 40 ms model. Convolutions run over the complex spectrogram, (batch, time,
frequency, channels); left and right share the weights of what lies near the sound and meet in the
middle. The codec stays float32: in float16 it overflows.

Where we differ: a transposed convolution whose kernel is twice its stride is a convolution of two
taps that gives a group of channels for each place between, so no zeros are multiplied; and a piece
of a song is decoded with the frames that it still hears, so no state is carried.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from musicot_mlx.models.rvq import ResidualVQ, RVQConfig
from musicot_mlx.weights.config import config_from_dict

FFT, HOP = 960, 480
STFT_FRAMES = 4  # a frame of codes
REACH = 15  # frames of codes that a sample hears before its own
ENCODER_REACH = 14  # frames before its own that a frame of codes is heard from
ENCODED = 50  # frames of codes that are heard at a time: the first convolutions are large
Size = tuple[int, int]  # time, frequency

# kernel and stride of each unit from the codes to the sound; the encoder has them the other way
_UNITS: tuple[tuple[Size, Size], ...] = (
    ((4, 3), (2, 1)), ((4, 4), (2, 2)), ((3, 4), (1, 2)), ((3, 4), (1, 2)),
    ((3, 6), (1, 3)), ((3, 4), (1, 2)), ((3, 4), (1, 2)),
)  # fmt: skip


@dataclass(frozen=True)
class SpectroStreamConfig:
    """Widths of the decoder from the codes to the sound, and of the encoder the other way round.

    gain: what the decoder's output is multiplied by.
    """

    sample_rate: int = 48000
    channels: int = 2
    dim: int = 256  # of an embedding
    codebooks: int = 12
    codebook_size: int = 1024
    bins: int = 5  # of frequency, where time and frequency are coarsest
    decoder_widths: tuple[int, ...] = (512, 1024, 256, 256, 256, 128, 128, 64)
    encoder_widths: tuple[int, ...] = (32, 64, 64, 128, 128, 128, 256, 256)
    gain: float = 0.5

    def __post_init__(self) -> None:
        for name, widths in (("decoder", self.decoder_widths), ("encoder", self.encoder_widths)):
            if len(widths) != len(_UNITS) + 1:
                raise ValueError(f"{name}_widths are {len(widths)}, expected {len(_UNITS) + 1}")
        if self.channels != 2:
            raise ValueError(f"channels is {self.channels}, expected 2")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "SpectroStreamConfig":
        return config_from_dict(cls, values, where="codec")

    @property
    def hop_length(self) -> int:
        """Samples of one frame of codes."""
        return STFT_FRAMES * HOP

    @property
    def frame_rate(self) -> float:
        return self.sample_rate / self.hop_length


class Conv(nn.Module):
    """A convolution over (batch, time, frequency, channels), padded to keep their number.

    In time all padding but a stride's is on the left, so that nothing is heard early.
    """

    def __init__(self, inputs: int, outputs: int, kernel: Size, stride: Size = (1, 1)) -> None:
        super().__init__()
        bound = (inputs * kernel[0] * kernel[1]) ** -0.5
        self.weight = mx.random.uniform(-bound, bound, (outputs, *kernel, inputs))
        self.bias = mx.zeros((outputs,))
        left, around = (max(k - s, 0) for k, s in zip(kernel, stride, strict=True))
        self._stride = stride
        self._padding = (
            (0, 0),
            (left, kernel[0] - 1 - left),
            (around // 2, around - around // 2),
            (0, 0),
        )

    def __call__(self, x: mx.array) -> mx.array:
        return self._convolve(mx.pad(x, self._padding)) + self.bias

    def _convolve(self, x: mx.array) -> mx.array:
        return mx.conv2d(x, self.weight, stride=self._stride)


class UpConv(nn.Module):
    """A transposed convolution that makes `stride` frames and bins of each.

    An axis with a stride has a kernel of twice as many taps: each place between two inputs hears
    both. So it is a convolution of two taps along that axis to a group of channels a place, which
    are then put in order. The weight is (time places, frequency places, outputs) by the taps and
    inputs. The padding is upstream's: nothing later in time, and the middle in frequency.
    """

    def __init__(self, inputs: int, outputs: int, kernel: Size, stride: Size) -> None:
        super().__init__()
        taps = [2 if s > 1 else k for k, s in zip(kernel, stride, strict=True)]
        bound = (inputs * taps[0] * taps[1]) ** -0.5
        places = stride[0] * stride[1]
        self.weight = mx.random.uniform(-bound, bound, (places * outputs, *taps, inputs))
        self.bias = mx.zeros((outputs,))
        self._stride, self._taps = stride, taps
        # how many of the first outputs come before those that are wanted
        middle = -(-(kernel[1] + stride[1] - 2) // 2)
        self._early = kernel[1] - 1 - middle if stride[1] > 1 else 0

    def __call__(self, x: mx.array) -> mx.array:
        batch, time, bins, _ = x.shape
        (places, groups), (taps, across) = self._stride, self._taps
        # with a stride one input on either side; without, as a convolution has it
        ahead = (1, 1) if places > 1 else (taps - 1, 0)
        beside = (1, 1) if groups > 1 else ((across - 1) // 2, across // 2)
        y = self._convolve(mx.pad(x, ((0, 0), ahead, beside, (0, 0))))
        y = y.reshape(*y.shape[:3], places, groups, -1).transpose(0, 1, 3, 2, 4, 5)
        y = y.reshape(batch, y.shape[1] * places, y.shape[3] * groups, -1)
        return y[:, : time * places, self._early : self._early + bins * groups] + self.bias

    def _convolve(self, x: mx.array) -> mx.array:
        return mx.conv2d(x, self.weight)


class UpUnit(nn.Module):
    """Two convolutions, of which the first may add frames and bins, and a way past them."""

    def __init__(self, inputs: int, outputs: int, kernel: Size, stride: Size) -> None:
        super().__init__()
        self._stride = stride
        first = Conv if stride == (1, 1) else UpConv
        self.first = first(inputs, outputs, kernel, stride)
        self.second = Conv(outputs, outputs, (3, 3))
        if inputs != outputs:
            self.shortcut = Conv(inputs, outputs, (1, 1))

    def __call__(self, x: mx.array) -> mx.array:
        y = self.second(nn.elu(self.first(nn.elu(x))))
        past = self.shortcut(x) if "shortcut" in self else x
        for axis, times in zip((1, 2), self._stride, strict=True):
            past = mx.repeat(past, times, axis=axis) if times > 1 else past
        return y + past


class DownUnit(nn.Module):
    """Two convolutions, of which the second may leave out frames and bins, and their mean."""

    def __init__(self, inputs: int, outputs: int, kernel: Size, stride: Size) -> None:
        super().__init__()
        self._stride = stride
        self.first = Conv(inputs, inputs, (3, 3))
        self.second = Conv(inputs, outputs, kernel, stride)
        if inputs != outputs:
            self.shortcut = Conv(inputs, outputs, (1, 1))

    def __call__(self, x: mx.array) -> mx.array:
        y = self.second(nn.elu(self.first(nn.elu(x))))
        past = self._mean(x)
        past = self.shortcut(past) if "shortcut" in self else past
        return y + past

    def _mean(self, x: mx.array) -> mx.array:
        times, groups = self._stride
        x = mx.pad(x, ((0, 0), (0, -x.shape[1] % times), (0, 0), (0, 0)))
        batch, time, bins, channels = x.shape
        x = x.reshape(batch, time // times, times, bins // groups, groups, channels)
        return x.mean(axis=(2, 4))


class Bend(nn.Module):
    """A layer of 1 x 1 convolutions and two such that bend it."""

    def __init__(self, inputs: int, outputs: int, hidden: int) -> None:
        super().__init__()
        self.straight = Conv(inputs, outputs, (1, 1))
        self.first = Conv(inputs, hidden, (1, 1))
        self.second = Conv(hidden, outputs, (1, 1))

    def __call__(self, x: mx.array, bent: mx.array) -> mx.array:
        return self.straight(x) + self.second(nn.elu(self.first(bent)))


class Decoder(nn.Module):
    """Embeddings (batch, frames, dim) to complex spectrograms, see `Encoder`."""

    def __init__(self, config: SpectroStreamConfig) -> None:
        super().__init__()
        widths, flat = config.decoder_widths, config.bins * config.decoder_widths[0]
        self._bins = config.bins
        self.first = Bend(config.dim, flat, flat)
        self.residual = UpUnit(widths[0], widths[0], (3, 3), (1, 1))
        self.units = [
            UpUnit(inputs if i != 1 else inputs // 2, outputs, *_UNITS[i])
            for i, (inputs, outputs) in enumerate(zip(widths[:-1], widths[1:], strict=True))
        ]
        self.last = Conv(widths[-1], 2, (7, 7))

    def __call__(self, x: mx.array) -> mx.array:
        batch, frames, _ = x.shape
        x = self.first(x[:, :, None], x[:, :, None])
        x = self.residual(x.reshape(batch, frames, self._bins, -1))
        x = mx.concatenate(mx.split(self.units[0](x), 2, axis=-1))  # left, right
        for unit in self.units[1:]:
            x = unit(x)
        return self.last(nn.elu(x))


class Encoder(nn.Module):
    """Complex spectrograms (2 * batch, time, 480, 2), all left channels first, real and imaginary
    parts, to embeddings (batch, frames, dim).
    """

    def __init__(self, config: SpectroStreamConfig) -> None:
        super().__init__()
        widths, middle = config.encoder_widths, config.encoder_widths[-1]
        self.first = Conv(2, widths[0], (7, 7))
        self.units = [
            DownUnit(inputs if i != 6 else 2 * inputs, outputs, *_UNITS[-1 - i])
            for i, (inputs, outputs) in enumerate(zip(widths[:-1], widths[1:], strict=True))
        ]
        self.residual = DownUnit(middle, middle, (3, 3), (1, 1))
        flat = config.bins * middle
        self.last = Bend(flat, config.dim, flat)

    def __call__(self, x: mx.array) -> mx.array:
        x = self.first(x)
        for unit in self.units[:-1]:
            x = unit(x)
        x = mx.concatenate(mx.split(x, 2), axis=-1)  # left and right of a song side by side
        x = self.residual(self.units[-1](x))
        x = x.reshape(*x.shape[:2], 1, -1)
        return self.last(x, nn.elu(x))[:, :, 0]


class SpectroStream(nn.Module):
    """Waveforms (batch, samples, 2) <-> codes int32 (batch, codebooks, frames).

    The decoder hears one frame ahead, so `frames` of codes are `frames - 1` of sound.
    """

    def __init__(self, config: SpectroStreamConfig) -> None:
        super().__init__()
        self.config = config
        self.quantizer = ResidualVQ(RVQConfig(config.dim, config.codebooks, config.codebook_size))
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    def decode(self, codes: mx.array) -> mx.array:
        """Codes (batch, codebooks, frames) to sound (batch, (frames - 1) * hop_length, 2)."""
        x = self.decoder(self.quantizer.decode(codes))
        left, right = mx.split(x[:, STFT_FRAMES:], 2)
        return self.config.gain * mx.stack([inverse_stft(left), inverse_stft(right)], axis=-1)

    def decode_stream(self, blocks: Iterable[mx.array]) -> Iterator[mx.array]:
        """`decode` of all blocks of codes as one, block by block: the first sounds a frame less."""
        kept = None
        for block in blocks:
            known = 0 if kept is None else kept.shape[-1]
            codes = block if kept is None else mx.concatenate([kept, block], axis=-1)
            sound = self.decode(codes) if codes.shape[-1] > 1 else None
            if sound is not None:
                yield sound[:, max(known - 1, 0) * self.config.hop_length :]
            kept = codes[..., -REACH - 1 :]

    def encode(self, waveform: mx.array) -> mx.array:
        """Sound (batch, samples, 2) to codes; a frame for each 1920 samples that begin."""
        spectra = [stft(waveform[..., channel]) for channel in range(2)]
        return self.quantizer.encode(self.encoder(mx.concatenate(spectra)))

    def encode_long(self, waveform: mx.array, frames: int = ENCODED) -> mx.array:
        """`encode` of a waveform of any length, so many frames at a time: memory stays the same."""
        hop, codes = self.config.hop_length, []
        for first in range(0, -(-waveform.shape[1] // hop), frames):
            start = max(0, first - ENCODER_REACH)
            # the last spectrum of a frame hears half a window beyond it
            piece = waveform[:, start * hop : (first + frames) * hop + FFT - HOP]
            codes.append(self.encode(piece)[..., first - start : first - start + frames])
            mx.eval(codes[-1])
        return mx.concatenate(codes, axis=-1)


def _window() -> mx.array:
    return 0.5 - 0.5 * mx.cos(2 * mx.pi / FFT * mx.arange(FFT))


def stft(waveform: mx.array) -> mx.array:
    """(batch, samples) to (batch, ceil(samples / hop), 480, 2), without the highest bin."""
    samples = waveform.shape[-1]
    frames = (samples + FFT - 1 - FFT) // HOP + 1
    x = mx.pad(waveform, ((0, 0), (0, FFT)))[:, : (frames + 1) * HOP]
    x = x.reshape(len(x), frames + 1, HOP)
    x = mx.concatenate([x[:, :-1], x[:, 1:]], axis=-1) * _window()
    spectrum = mx.fft.rfft(x)[..., :-1]
    return mx.stack([spectrum.real, spectrum.imag], axis=-1)


def inverse_stft(spectrum: mx.array) -> mx.array:
    """(batch, time, 480, 2) to (batch, time * hop)."""
    x = mx.pad(spectrum, ((0, 0), (0, 0), (0, 1), (0, 0)))
    frames = mx.fft.irfft(x[..., 0] + 1j * x[..., 1], n=FFT)
    window = _window()
    frames = frames * (window / mx.tile((window**2).reshape(2, HOP).sum(axis=0), 2))
    first, second = mx.split(frames, 2, axis=-1)
    y = first + mx.pad(second[:, :-1], ((0, 0), (1, 0), (0, 0)))
    return y.reshape(len(y), -1)
