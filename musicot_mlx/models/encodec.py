"""EnCodec: waveform to codes and back, at 50 frames a second and 32 kHz in MusicGen.

arXiv 2210.13438; reference implementation transformers.EncodecModel (SEANet convolutions with an
LSTM, and a residual quantiser). Weight norm is folded at conversion, so a convolution has one plain
weight. The 48 kHz model's group norm, loudness normalisation and fixed chunks are not here.

Where we differ: audio is channels last; everything runs in windows, so memory does not grow with
the length: convolutions overlap by their whole receptive field and the LSTM carries its state, so
the pieces equal one pass. A stereo signal is two mono ones whose codebooks interleave, as stereo
MusicGen has them. A transposed convolution is one matrix product whose blocks overlap: MLX's own
multiplies the zeros between steps too on Metal, and is a hundred times slower on a CPU.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any, Literal

import mlx.core as mx
import mlx.nn as nn

from musicot_mlx.models.rvq import ResidualVQ, RVQConfig
from musicot_mlx.nn.chunked import in_windows, one_lane
from musicot_mlx.weights.config import config_from_dict


@dataclass(frozen=True)
class EncodecConfig:
    """Sizes of the codec; the defaults are MusicGen's 32 kHz mono one. Names are the checkpoint's.

    Raises ValueError for a codec of two channels (its stereo is joint, which MusicGen has not).
    """

    sampling_rate: int = 32000  # Hz
    audio_channels: int = 1
    hidden_size: int = 128  # channels between encoder and quantiser
    num_filters: int = 64
    num_residual_layers: int = 1
    upsampling_ratios: tuple[int, ...] = (8, 5, 4, 4)
    kernel_size: int = 7
    last_kernel_size: int = 7
    residual_kernel_size: int = 3
    dilation_growth_rate: int = 2
    use_causal_conv: bool = False
    pad_mode: Literal["reflect", "constant"] = "reflect"
    compress: int = 2  # how much narrower a residual branch is
    num_lstm_layers: int = 2
    trim_right_ratio: float = 1.0  # of a causal transposed convolution's surplus
    codebook_size: int = 2048
    codebook_dim: int = 128
    num_quantizers: int = 4
    use_conv_shortcut: bool = False

    def __post_init__(self) -> None:
        if self.audio_channels != 1:
            raise ValueError(f"audio_channels is {self.audio_channels}, expected 1 (mono)")
        if self.codebook_dim != self.hidden_size:
            raise ValueError(
                f"codebook_dim {self.codebook_dim} must be hidden_size {self.hidden_size}"
            )
        if self.trim_right_ratio != 1.0 and not self.use_causal_conv:
            raise ValueError("trim_right_ratio other than 1 needs use_causal_conv")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "EncodecConfig":
        return config_from_dict(cls, values, where="codec")

    @property
    def hop_length(self) -> int:
        """Samples a frame."""
        return prod(self.upsampling_ratios)

    @property
    def frame_rate(self) -> float:
        """Frames a second."""
        return self.sampling_rate / self.hop_length

    @property
    def lstm_size(self) -> int:
        return self.num_filters * 2 ** len(self.upsampling_ratios)

    @property
    def dilations(self) -> tuple[int, ...]:
        return tuple(self.dilation_growth_rate**j for j in range(self.num_residual_layers))

    @property
    def sample_reach(self) -> int:
        """Frames on each side that the sampling-rate end of encoder and decoder looks at: one, of
        MusicGen's 32 kHz codec.
        """
        samples, stride = self.reach(max(self.kernel_size, self.last_kernel_size) - 1), 1
        for ratio in reversed(self.upsampling_ratios):
            surpluses = [(self.residual_kernel_size - 1) * d for d in self.dilations]
            samples += stride * sum(map(self.reach, [*surpluses, ratio]))
            stride *= ratio
        return -(-samples // self.hop_length)

    def reach(self, surplus: int) -> int:
        """Steps that a convolution looks at on one side, the farther one.

        surplus: taps beyond the stride, and beyond the first tap of a dilated one, in steps.
        """
        return surplus if self.use_causal_conv else -(-surplus // 2)


ENCODEC_32KHZ = EncodecConfig()


class Conv(nn.Module):
    """Convolution over (batch, time, channels) that makes ceil(time / stride) steps.

    Padding as SEANet does it: all on the left when causal, else on both sides, the odd sample on
    the left; a signal too short to be reflected is first lengthened by zeros.
    """

    def __init__(
        self,
        config: EncodecConfig,
        inputs: int,
        outputs: int,
        kernel_size: int,
        *,
        stride: int = 1,
        dilation: int = 1,
    ) -> None:
        super().__init__()
        bound = (inputs * kernel_size) ** -0.5
        self.weight = mx.random.uniform(-bound, bound, (outputs, kernel_size, inputs))
        self.bias = mx.zeros((outputs,))
        self._stride, self._dilation = stride, dilation
        self._causal, self._reflect = config.use_causal_conv, config.pad_mode == "reflect"

    def __call__(self, x: mx.array) -> mx.array:
        surplus = (self.weight.shape[1] - 1) * self._dilation + 1 - self._stride
        right = 0 if self._causal else surplus // 2
        extra = -x.shape[1] % self._stride
        x = self._pad(x, surplus - right, right + extra)
        return self._convolve(x)

    def _convolve(self, x: mx.array) -> mx.array:
        y = mx.conv1d(x, self.weight, stride=self._stride, dilation=self._dilation)
        return y + self.bias

    def _pad(self, x: mx.array, left: int, right: int) -> mx.array:
        if not left and not right:
            return x  # a concatenation with nothing would copy it
        if not self._reflect:
            return mx.pad(x, ((0, 0), (left, right), (0, 0)))
        lacking = max(0, max(left, right) - x.shape[1] + 1)
        if lacking:
            x = mx.pad(x, ((0, 0), (0, lacking), (0, 0)))
        last = x.shape[1] - 1
        parts = [x[:, 1 : left + 1][:, ::-1], x, x[:, last - right : last][:, ::-1]]
        x = mx.concatenate(parts, axis=1)
        return x[:, : x.shape[1] - lacking]


class ConvTranspose(nn.Module):
    """Transposed convolution that makes time * stride steps; its surplus is cut off both ends."""

    def __init__(self, config: EncodecConfig, inputs: int, outputs: int, *, stride: int) -> None:
        super().__init__()
        bound = (2 * inputs) ** -0.5
        self.weight = mx.random.uniform(-bound, bound, (outputs, 2 * stride, inputs))
        self.bias = mx.zeros((outputs,))
        self._stride = stride
        self._right = stride // 2
        if config.use_causal_conv:
            self._right = -int(-stride * config.trim_right_ratio // 1)  # rounded up

    def __call__(self, x: mx.array) -> mx.array:
        y = overlap_add_conv(x, self.weight, stride=self._stride)
        left = self._stride - self._right
        return y[:, left : y.shape[1] - self._right] + self.bias


def overlap_add_conv(x: mx.array, weight: mx.array, *, stride: int) -> mx.array:
    """mx.conv_transpose1d(x, weight, stride=stride) for 2 * stride taps, as one matrix product.

    Each step makes two blocks of `stride` steps, and the second falls on the next step's first: a
    block is the product of its own step and the one before with both halves of the taps.
    """
    batch, time, inputs = x.shape
    outputs, taps, _ = weight.shape
    none = (0, 0)
    if batch * time < inputs:  # turning the product around is less than turning the weights
        y = (x @ weight.reshape(outputs * taps, inputs).T).reshape(batch, time, outputs, taps)
        y = y.swapaxes(2, 3).reshape(batch, time, 2, stride, outputs)
        first, second = y[:, :, 0], y[:, :, 1]  # (batch, time, stride, channels)
        y = mx.pad(first, (none, (0, 1), none, none)) + mx.pad(second, (none, (1, 0), none, none))
    else:
        ends = mx.pad(x, (none, (1, 1), none))
        pairs = mx.concatenate([ends[:, 1:], ends[:, :-1]], axis=-1)  # (batch, time + 1, 2 inputs)
        halves = weight.reshape(outputs, 2, stride, inputs).transpose(2, 0, 1, 3)
        y = pairs @ halves.reshape(stride * outputs, 2 * inputs).T
    return y.reshape(batch, (time + 1) * stride, outputs)


class Residual(nn.Module):
    """Two convolutions, the first narrower and dilated, around a skip."""

    def __init__(self, config: EncodecConfig, channels: int, dilation: int) -> None:
        super().__init__()
        narrow, taps = channels // config.compress, config.residual_kernel_size
        self.narrow = Conv(config, channels, narrow, taps, dilation=dilation)
        self.widen = Conv(config, narrow, channels, 1)
        if config.use_conv_shortcut:
            self.shortcut = Conv(config, channels, channels, 1)
        self.elu = nn.ELU()

    def __call__(self, x: mx.array) -> mx.array:
        skip = self.shortcut(x) if "shortcut" in self else x
        return skip + self.widen(self.elu(self.narrow(self.elu(x))))


class EncoderBlock(nn.Module):
    """Residual blocks, then a strided convolution that doubles the channels."""

    def __init__(self, config: EncodecConfig, channels: int, ratio: int) -> None:
        super().__init__()
        self.residual = [Residual(config, channels, d) for d in config.dilations]
        self.elu = nn.ELU()
        self.downsample = Conv(config, channels, 2 * channels, 2 * ratio, stride=ratio)

    def __call__(self, x: mx.array) -> mx.array:
        for block in self.residual:
            x = block(x)
        return self.downsample(self.elu(x))


class DecoderBlock(nn.Module):
    """A transposed convolution that halves the channels, then residual blocks."""

    def __init__(self, config: EncodecConfig, channels: int, ratio: int) -> None:
        super().__init__()
        self.elu = nn.ELU()
        self.upsample = ConvTranspose(config, channels, channels // 2, stride=ratio)
        self.residual = [Residual(config, channels // 2, d) for d in config.dilations]

    def __call__(self, x: mx.array) -> mx.array:
        x = self.upsample(self.elu(x))
        for block in self.residual:
            x = block(x)
        return x


_FEW_FRAMES = 15  # of a stream's first piece, at most: the first half second of codes settles them
State = tuple[mx.array, mx.array]  # hidden and cell, (batch, channels) each


class LSTM(nn.Module):
    """One layer over (batch, time, channels) from a state, or zeros, to all outputs and the state.

    The gates stand in PyTorch's order: input, forget, cell, output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        bound = channels**-0.5
        self.wx = mx.random.uniform(-bound, bound, (4 * channels, channels))
        self.wh = mx.random.uniform(-bound, bound, (4 * channels, channels))
        self.bias = mx.zeros((4 * channels,))

    def __call__(self, x: mx.array, state: State | None = None) -> tuple[mx.array, State]:
        inputs = x @ self.wx.T + self.bias  # (batch, time, 4 * channels)
        if state is None:
            zeros = mx.zeros((len(inputs), self.wh.shape[1]), dtype=inputs.dtype)
            state = zeros, zeros.astype(mx.float32)
        return self._steps(inputs, state)

    def _steps(self, inputs: mx.array, state: State) -> tuple[mx.array, State]:
        """Pre-activations (batch, time, 4 * channels) of the inputs to all outputs and state."""
        hidden, cell = state
        outputs = []
        for step in range(inputs.shape[1]):
            hidden, cell = cell_step(inputs[:, step], hidden @ self.wh.T, cell)
            outputs.append(hidden)
        return mx.stack(outputs, axis=1), (hidden, cell)


@mx.compile
def cell_step(inputs: mx.array, recurrent: mx.array, cell: mx.array) -> State:
    """One LSTM step: pre-activations (batch, 4 * channels) of both sources, and the old cell, which
    is float32 whatever the dtype: it sums over thousands of steps.
    """
    gates = (inputs + recurrent).astype(mx.float32)
    i, f, g, o = mx.split(gates, 4, axis=-1)
    cell = mx.sigmoid(f) * cell + mx.sigmoid(i) * mx.tanh(g)
    return (mx.sigmoid(o) * mx.tanh(cell)).astype(inputs.dtype), cell


class Encoder(nn.Module):
    """Waveform (batch, samples, 1) to features (batch, frames, hidden_size)."""

    def __init__(self, config: EncodecConfig) -> None:
        super().__init__()
        channels = config.num_filters
        self.first = Conv(config, config.audio_channels, channels, config.kernel_size)
        self.blocks = []
        for ratio in reversed(config.upsampling_ratios):
            self.blocks.append(EncoderBlock(config, channels, ratio))
            channels *= 2
        self.lstm = [LSTM(channels) for _ in range(config.num_lstm_layers)]
        self.elu = nn.ELU()
        self.last = Conv(config, channels, config.hidden_size, config.last_kernel_size)

    def downsample(self, x: mx.array) -> mx.array:
        """What runs at the rate of samples: (batch, samples, 1) to (batch, frames, channels)."""
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        return x


class Decoder(nn.Module):
    """Features (batch, frames, hidden_size) to a waveform (batch, samples, 1)."""

    def __init__(self, config: EncodecConfig) -> None:
        super().__init__()
        channels = config.lstm_size
        self.first = Conv(config, config.hidden_size, channels, config.kernel_size)
        self.lstm = [LSTM(channels) for _ in range(config.num_lstm_layers)]
        self.blocks = []
        for ratio in config.upsampling_ratios:
            self.blocks.append(DecoderBlock(config, channels, ratio))
            channels //= 2
        self.elu = nn.ELU()
        self.last = Conv(config, channels, config.audio_channels, config.last_kernel_size)

    def upsample(self, x: mx.array) -> mx.array:
        """What runs at the rate of samples: (batch, frames, channels) to (batch, samples, 1)."""
        for block in self.blocks:
            x = block(x)
        return self.last(self.elu(x))


class Encodec(nn.Module):
    """Waveforms (batch, samples, channels) <-> codes int32 (batch, codebooks, frames).

    Codebooks are num_quantizers a channel. Two channels are coded one by one and interleave:
    codebook 0 of the left, 0 of the right, 1 of the left, and so on.
    """

    frames_at_once = 250  # 5 s; the more, the less is computed twice where pieces overlap
    pieces_at_once = 1  # that the upsampling is to find ready
    _lanes = staticmethod(one_lane)

    def __init__(self, config: EncodecConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quantizer = ResidualVQ(
            RVQConfig(
                dim=config.codebook_dim,
                codebooks=config.num_quantizers,
                codebook_size=config.codebook_size,
            )
        )

    @property
    def dtype(self) -> mx.Dtype:
        return self.decoder.first.bias.dtype

    def encode(self, waveform: mx.array, *, longest: int | None = None) -> mx.array:
        """Codes of a waveform at sampling_rate, ceil(samples / hop_length) frames.

        longest: frames encoded at once, `frames_at_once` by default. Raises ValueError for another
        shape or an empty waveform.
        """
        if waveform.ndim != 3 or waveform.shape[-1] not in (1, 2) or not waveform.shape[1]:
            raise ValueError(f"waveform is {waveform.shape}, expected (batch, samples, 1 or 2)")
        config, encoder = self.config, self.encoder
        longest = longest or self.frames_at_once
        batch, samples, channels = waveform.shape
        x = waveform.swapaxes(1, 2).reshape(batch * channels, samples, 1).astype(self.dtype)
        x = self._windowed(
            encoder.downsample,
            longest=longest * config.hop_length,
            reach=config.sample_reach * config.hop_length,
            down=config.hop_length,
        )([x])
        x = mx.concatenate(list(_recurrent(encoder.lstm, x)), axis=1)  # 50 Hz: small
        codes = self.quantizer.encode(encoder.last(encoder.elu(x)))
        codes = codes.reshape(batch, channels, *codes.shape[1:]).swapaxes(1, 2)
        return codes.reshape(batch, -1, codes.shape[-1])  # (batch, codebooks, frames)

    def decode(self, codes: mx.array) -> mx.array:
        """The waveform, float32 (batch, frames * hop_length, channels).

        Raises ValueError for a number of codebooks that is no whole number of channels.
        """
        return mx.concatenate(list(self._decode([codes], at_once=True)), axis=1)

    def decode_stream(
        self, chunks: Iterable[mx.array], *, longest: int | None = None
    ) -> Iterator[mx.array]:
        """Decode codes as they come, (batch, codebooks, any number of frames) each, in flat memory.

        Yields evaluated waveforms (batch, samples, channels) that join to the decode of all codes
        at once, to the last bit: what depends on frames still to come is held back, and pieces are
        cut at the same places. longest: frames at once, `frames_at_once` by default.
        """
        return self._decode(chunks, longest=longest)

    def _decode(
        self, chunks: Iterable[mx.array], *, longest: int | None = None, at_once: bool = False
    ) -> Iterator[mx.array]:
        """decode_stream; at_once: all frames are ready before the first is upsampled, so that its
        pieces, which are the same, find two cores from the first on.
        """
        longest = longest or self.frames_at_once
        config, decoder = self.config, self.decoder
        shape: list[int] = []  # batch and channels, known with the first chunk

        def features() -> Iterator[mx.array]:
            for codes in chunks:
                mono = self._by_channel(codes)
                shape[:] = [codes.shape[0], len(mono) // codes.shape[0]]
                yield self.quantizer.decode(mono).astype(self.dtype)

        few = min(_FEW_FRAMES, longest)
        ahead = longest * self.pieces_at_once
        reach = config.reach(config.kernel_size - 1)
        x = self._windowed(decoder.first, longest=ahead, shortest=few, reach=reach)(features())
        x = _recurrent(decoder.lstm, x)
        if at_once:
            x = [mx.concatenate(list(x), axis=1)]  # 50 Hz: small
        x = self._windowed(
            decoder.upsample,
            longest=longest,
            shortest=max(1, few - config.sample_reach),
            reach=config.sample_reach,
            up=config.hop_length,
        )(x)
        for y in x:
            y = y.reshape(*shape, -1).swapaxes(1, 2)  # (batch, samples, channels)
            yield y.astype(mx.float32)

    def _windowed(
        self, network: Callable[[mx.array], mx.array], **settings: int
    ) -> Callable[[Iterable[mx.array]], Iterator[mx.array]]:
        return partial(in_windows, network=lambda x, _: network(x), lanes=self._lanes, **settings)

    def _by_channel(self, codes: mx.array) -> mx.array:
        """(batch, codebooks, frames) with channels interleaved to (batch * channels, ...)."""
        each = self.config.num_quantizers
        if codes.ndim != 3 or codes.shape[1] not in (each, 2 * each):
            raise ValueError(
                f"codes are {codes.shape}, expected (batch, {each} codebooks, frames), or "
                f"{2 * each} codebooks for stereo"
            )
        batch, rows, frames = codes.shape
        by_channel = codes.reshape(batch, each, rows // each, frames).swapaxes(1, 2)
        return by_channel.reshape(-1, each, frames)


def _recurrent(layers: list[LSTM], chunks: Iterable[mx.array]) -> Iterator[mx.array]:
    """The stack of LSTM layers with its skip, from chunk to chunk."""
    states: list[State | None] = [None] * len(layers)
    for chunk in chunks:
        x = chunk
        for i, layer in enumerate(layers):
            x, states[i] = layer(x, states[i])
        x = chunk + x
        mx.eval(x, states)
        yield x
