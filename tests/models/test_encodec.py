"""EnCodec: shapes, pieces equal one pass, memory, stereo, the LSTM and transposed convolutions."""

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from musicot_mlx.errors import MusicotError
from musicot_mlx.models import encodec
from musicot_mlx.models.encodec import ENCODEC_32KHZ, Encodec, EncodecConfig
from musicot_mlx.nn.chunked import in_windows
from musicot_mlx.weights.checkpoint import load_arrays, load_strict, part, save_checkpoint
from tests.support.memory import peak_of
from tests.support.networks import randomize

TINY = {
    "sampling_rate": 1000,
    "hidden_size": 6,
    "num_filters": 4,
    "upsampling_ratios": [5, 4],
    "codebook_size": 16,
    "codebook_dim": 6,
    "num_quantizers": 3,
}


def tiny_codec(dtype: mx.Dtype = mx.float32, **changes) -> Encodec:
    return randomize(Encodec(EncodecConfig.from_dict({**TINY, **changes})), dtype=dtype)


def waveform(samples: int, channels: int = 1, batch: int = 1) -> mx.array:
    return 0.3 * mx.random.normal((batch, samples, channels), key=mx.random.key(1))


def some_codes(frames: int, codebooks: int = 3, batch: int = 1) -> mx.array:
    return mx.random.randint(0, 16, (batch, codebooks, frames), key=mx.random.key(2))


@pytest.mark.parametrize("channels", [1, 2])
def test_shapes(channels):
    codec = tiny_codec()
    codes = codec.encode(waveform(333, channels, batch=2))
    assert codes.shape == (2, 3 * channels, 17) and codes.dtype == mx.int32  # 16.65 frames begun
    assert len(np.unique(np.array(codes))) > 8
    audio = codec.decode(codes)
    assert audio.shape == (2, 340, channels) and audio.dtype == mx.float32
    assert mx.std(audio).item() > 1e-2
    assert codec.config.hop_length == 20 and codec.config.frame_rate == 50.0


@pytest.mark.parametrize(
    "changes", [{}, {"use_causal_conv": True}, {"num_residual_layers": 2, "pad_mode": "constant"}]
)
@pytest.mark.parametrize("sizes", [(60,), (1, 1, 58), (20, 20, 20), (3, 50, 7), (2,)])
def test_decoding_in_pieces_equals_decoding_at_once(changes, sizes):
    codec = tiny_codec(**changes)
    codes = some_codes(sum(sizes))
    whole = codec.decode(codes)
    chunks = mx.split(codes, np.cumsum(sizes)[:-1].tolist(), axis=-1)
    for longest in (250, 9):
        pieces = list(codec.decode_stream(iter(chunks), longest=longest))
        assert all(piece.shape[1] <= longest * 20 for piece in pieces)
        joined = mx.concatenate(pieces, axis=1)
        assert joined.shape == whole.shape
        alone = list(codec.decode_stream([codes], longest=longest))
        assert mx.array_equal(joined, mx.concatenate(alone, axis=1)), "however the codes come"
        assert mx.abs(joined - whole).max().item() < 1e-5 * mx.abs(whole).max().item()


@pytest.mark.parametrize("samples", [1, 19, 400, 1234])
@pytest.mark.parametrize("changes", [{}, {"use_causal_conv": True, "num_residual_layers": 2}])
def test_encoding_in_pieces_equals_encoding_at_once(changes, samples):
    codec = tiny_codec(**changes)
    audio = waveform(samples)
    assert mx.array_equal(codec.encode(audio, longest=7), codec.encode(audio, longest=1000))


def test_a_chunk_is_heard_before_the_next_one_is_read():
    codec, read = tiny_codec(), []

    def chunks():
        for i in range(4):
            read.append(i)
            yield some_codes(30)

    stream = codec.decode_stream(chunks())
    first = next(stream)
    assert read == [0] and 200 < first.shape[1] < 600
    assert sum(piece.shape[1] for piece in stream) + first.shape[1] == 120 * 20


def test_memory_does_not_grow_with_length():
    codec, peaks = tiny_codec(num_filters=16), []
    mx.eval(codec.parameters())
    for chunks in (24, 96):
        codes = [some_codes(20) for _ in range(chunks)]
        mx.eval(codes)
        peaks.append(peak_of(lambda c=codes: [0 for _ in codec.decode_stream(c, longest=20)]))
    assert peaks[1] < 1.4 * peaks[0], "four times as long"


@pytest.mark.parametrize(
    ("changes", "reach"),
    [
        ({}, 2),
        ({"upsampling_ratios": [8, 5, 4, 4]}, 1),  # MusicGen's
        ({"use_causal_conv": True, "num_residual_layers": 3}, 5),
    ],
)
def test_reach_is_what_is_stated(changes, reach):
    """A frame changes something so far away, of a waveform or of features, and nothing farther."""
    codec = tiny_codec(**changes)
    hop = codec.config.hop_length
    assert codec.config.sample_reach == reach

    def farthest(network, per_frame: int, channels: int) -> int:
        x = mx.random.normal((1, 20 * per_frame, channels), key=mx.random.key(3))
        here = (mx.arange(20 * per_frame) // per_frame == 10)[:, None]
        moved = np.array(network(x + here) != network(x))
        return np.abs(moved.reshape(20, -1).any(-1).nonzero()[0] - 10).max()

    assert farthest(codec.decoder.upsample, 1, codec.config.lstm_size) == reach
    assert farthest(codec.encoder.downsample, hop, 1) <= reach


def test_stereo_is_two_mono_codecs():
    """Trap 6: left and right are coded and decoded from their own interleaved codebooks."""
    codec = tiny_codec()
    audio = waveform(400, channels=2)
    left, right = codec.encode(audio[..., :1]), codec.encode(audio[..., 1:])
    codes = codec.encode(audio)
    assert mx.array_equal(codes[:, ::2], left) and mx.array_equal(codes[:, 1::2], right)
    assert not mx.array_equal(left, right)
    heard = codec.decode(codes)
    assert mx.abs(heard[..., :1] - codec.decode(left)).max().item() < 1e-5
    assert mx.abs(heard[..., 1:] - codec.decode(right)).max().item() < 1e-5
    assert mx.abs(heard[..., 0] - heard[..., 1]).mean().item() > 0.01


@pytest.mark.parametrize("inputs", [5, 50])
@pytest.mark.parametrize("stride", [1, 4, 5])
def test_transposed_convolution_in_both_forms(stride, inputs):
    x, weight = mx.random.normal((2, 11, inputs)), mx.random.normal((7, 2 * stride, inputs))
    plain = mx.conv_transpose1d(x, weight, stride=stride)
    added = encodec.overlap_add_conv(x, weight, stride=stride)
    assert added.shape == plain.shape
    assert mx.abs(added - plain).max().item() < 1e-4


def test_lstm_is_mlx_lstm_and_carries_its_state():
    import mlx.nn as nn

    lstm = randomize(encodec.LSTM(8))
    x = mx.random.normal((2, 30, 8), key=mx.random.key(4))
    plain = nn.LSTM(8, 8)
    plain.Wx, plain.Wh, plain.bias = lstm.wx, lstm.wh, lstm.bias
    whole, _ = lstm(x)
    assert mx.abs(whole - plain(x)[0]).max().item() < 1e-5
    first, state = lstm(x[:, :11])
    second, _ = lstm(x[:, 11:], state)
    assert mx.abs(mx.concatenate([first, second], axis=1) - whole).max().item() < 1e-6


def test_windows_refuse_what_does_not_divide():
    with pytest.raises(ValueError, match="multiples of 4"):
        list(in_windows([], lambda x, _: x, reach=3, down=4, longest=8))


def test_save_and_load_round_trip(tmp_path: Path):
    codec = tiny_codec()
    arrays = {f"codec.{k}": v for k, v in tree_flatten(codec.parameters())}
    save_checkpoint(tmp_path / "m", {"model_type": "musicgen", "codec": TINY}, arrays)
    loaded = Encodec(EncodecConfig.from_dict(TINY))
    load_strict(loaded, part(load_arrays(tmp_path / "m"), "codec"), where="codec")
    codes = codec.encode(waveform(500))
    assert mx.array_equal(loaded.encode(waveform(500)), codes)
    assert mx.array_equal(loaded.decode(codes), codec.decode(codes))


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_16_bit_stays_16_bit_until_the_waveform(dtype):
    codec, codes = tiny_codec(dtype), some_codes(20)
    x = codec.decoder.first(codec.quantizer.decode(codes))
    seen = [x]
    for layer in codec.decoder.lstm:
        x, (hidden, cell) = layer(x)
        seen += [x, hidden]
        assert cell.dtype == mx.float32, "it sums over all steps"
    for block in codec.decoder.blocks:
        x = block(x)
        seen.append(x)
    assert {value.dtype for value in seen} == {dtype}
    audio, full = codec.decode(codes), tiny_codec().decode(codes)
    assert audio.dtype == mx.float32
    assert mx.abs(audio - full).max().item() < 0.15 * mx.abs(full).max().item()


def test_32_khz_size():
    before = mx.get_active_memory()
    codec = Encodec(ENCODEC_32KHZ)
    count = sum(value.size for _, value in tree_flatten(codec.parameters()))
    assert 56e6 < count < 58e6 and codec.config.frame_rate == 50.0
    assert mx.get_active_memory() - before < 1 << 20, "built lazily"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"audio_channels": 2}, "expected 1"),
        ({"codebook_dim": 5}, "must be hidden_size"),
        ({"trim_right_ratio": 0.5}, "needs use_causal_conv"),
        ({"pad_mode": "edge"}, "expected one of"),
        ({"norm_type": "weight_norm"}, "unknown field 'norm_type'"),
    ],
)
def test_config_says_what_is_wrong(changes, words):
    with pytest.raises(MusicotError, match=words):
        EncodecConfig.from_dict({**TINY, **changes})


def test_other_shapes_are_refused():
    codec = tiny_codec()
    with pytest.raises(ValueError, match="1 or 2"):
        codec.encode(waveform(100, channels=3))
    with pytest.raises(ValueError, match="expected \\(batch, 3 codebooks, frames\\)"):
        codec.decode(some_codes(10, codebooks=4))


def test_pieces_come_in_pairs_that_double_however_the_signal_comes():
    signal = mx.arange(100.0).reshape(1, 100, 1)

    def pieces(chunks) -> list[int]:
        parts = list(in_windows(chunks, lambda x, _: x, reach=2, shortest=5, longest=20))
        assert mx.array_equal(mx.concatenate(parts, axis=1), signal)
        return [part.shape[1] for part in parts]

    assert pieces([signal]) == [5, 5, 10, 10, 20, 20, 20, 10]
    assert pieces(iter([signal])) == pieces([signal[:, :33], signal[:, 33:]]) == pieces([signal])
    assert pieces(signal[:, at : at + 7] for at in range(0, 100, 7)) == pieces([signal])
