"""Magenta RealTime 2 against upstream's own code (magenta-rt 2.0.3): MLX for the language model and
the decoder, JAX for the encoder.

The weights are random and made anew here; what upstream made of them lies beside
(magenta_rt2/upstream.py writes it). Tokens and codes are the same, each of them; logits agree to
1e-4, sound to one step of 16 bits.
"""

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from musicot_mlx.convert.keymaps import depthformer, spectrostream
from musicot_mlx.convert.rules import apply_rules
from musicot_mlx.errors import MusicotError
from musicot_mlx.generation.magenta_rt2 import FrameRun, generate_codes
from musicot_mlx.models.depthformer import MRT2_BASE, MRT2_SMALL, Depthformer, DepthformerConfig
from musicot_mlx.models.spectrostream import (
    ENCODER_REACH,
    SpectroStream,
    SpectroStreamConfig,
    stft,
)
from musicot_mlx.tokens.magenta_rt2 import DRUMS, STRENGTHS, frame_ids
from musicot_mlx.weights.checkpoint import load_strict
from tests.support import tiny_magenta as tiny

EXPECTED = np.load(Path(__file__).parent / "magenta_rt2" / "expected.npz")
CODEC = SpectroStreamConfig(
    decoder_widths=(32, 64, 16, 16, 16, 8, 8, 4), encoder_widths=(2, 4, 4, 8, 8, 8, 16, 16)
)


def under(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, mx.array]:
    return {
        key.removeprefix(prefix): mx.array(value)
        for key, value in arrays.items()
        if key.startswith(prefix)
    }


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    return tiny.weights(tiny.shapes())


@pytest.fixture(scope="module")
def lm(arrays: dict[str, np.ndarray]) -> Depthformer:
    return network_of(arrays)


def network_of(arrays: dict[str, np.ndarray]) -> Depthformer:
    values = depthformer.config({key: value.shape for key, value in arrays.items()}, past=tiny.PAST)
    network = Depthformer(DepthformerConfig.from_dict(values))
    made = apply_rules(depthformer.RULES, under(arrays, depthformer.PREFIX), where="lm")
    load_strict(network, made, where="lm")
    return network


@pytest.fixture(scope="module")
def codec(arrays: dict[str, np.ndarray]) -> SpectroStream:
    made = apply_rules(spectrostream.DECODER_RULES, under(arrays, spectrostream.DECODER))
    heard = tiny.weights(tiny.encoder_shapes())
    made |= apply_rules(spectrostream.ENCODER_RULES, under(heard, spectrostream.ENCODER))
    network = SpectroStream(CODEC)
    load_strict(network, made, where="codec")
    return network


@pytest.fixture(scope="module")
def requests() -> np.ndarray:
    """The integers of the song's frames, made from what they mean."""
    rows = []
    for raw in tiny.requests():
        style, notes, drums = raw[:12], raw[12:140], ("free", "none", "play")[raw[140] + 1]
        strengths = (raw[141] * 0.2 - 1, raw[142] * 0.2 - 1, raw[143] - 1.0)
        rows.append(frame_ids(style, notes=notes, drums=drums, strengths=strengths))
    assert (np.stack(rows) == tiny.requests() + 7).all()
    return np.stack(rows)[None]


def greedy(lm: Depthformer, requests: np.ndarray, **options: object) -> np.ndarray:
    keys = [mx.random.key(row) for row in range(len(requests))]
    blocks = generate_codes(lm, requests, keys=keys, temperature=0.0, **options)
    return np.concatenate(list(blocks), axis=-1)


def test_tokens(lm: Depthformer, requests: np.ndarray) -> None:
    """60 frames of 12 codes, the style changed at frame 30 and masked from 45 on; the window of 4
    frames goes round fifteen times.
    """
    np.testing.assert_array_equal(greedy(lm, requests)[0], EXPECTED["codes"])


@pytest.mark.parametrize("seed", [1, 2])
def test_tokens_of_other_weights(seed: int) -> None:
    """Styles of some levels alone, all states of notes and drums, strengths of all steps."""
    shapes = {key: shape for key, shape in tiny.shapes().items() if "soundstream" not in key}
    rows = tiny.odd_requests(seed)[None] + 7
    codes = greedy(network_of(tiny.weights(shapes, seed)), rows)[0]
    np.testing.assert_array_equal(codes, EXPECTED[f"codes_{seed}"])


@pytest.mark.parametrize("number", range(len(tiny.DRAWS)))
def test_draws(lm: Depthformer, number: int) -> None:
    """The same noise, temperature and top-k: the same tokens."""
    temperature, top_k = tiny.DRAWS[number]
    rows = tiny.odd_requests(3, tiny.DRAWN_FRAMES)[None] + 7
    run = FrameRun(lm, rows, temperature=temperature, top_k=top_k)
    drawn = []
    for frame in range(tiny.DRAWN_FRAMES):
        noise = [tiny.noise(frame, level)[6 + 1024 * level :][:1024] for level in range(12)]
        drawn.append(np.array(run.next(temperature * mx.array(np.stack(noise))[None]))[0])
    np.testing.assert_array_equal(np.stack(drawn, axis=-1), EXPECTED[f"drawn_{number}"])


def test_what_a_frame_is_asked_for() -> None:
    """Masks, drums, notes and strengths as upstream turns them into integers."""
    for (wanted, strengths), row in zip(tiny.ASKED, EXPECTED["asked"], strict=True):
        drums = {value: name for name, value in DRUMS.items()}[wanted.get("drums", -1)]
        notes = np.full(128, wanted["notes"]) if "notes" in wanted else None
        asked = [
            strengths.get(name, STRENGTHS[i]) for i, name in enumerate(("style", "notes", "drums"))
        ]
        made = frame_ids(wanted.get("style", []), notes=notes, drums=drums, strengths=asked)
        np.testing.assert_array_equal(made, row)


def test_logits_of_all_frames_at_once(lm: Depthformer, requests: np.ndarray) -> None:
    codes = mx.array(EXPECTED["codes"].astype(np.int32)).T[None]
    logits = lm(codes, lm.condition(mx.array(requests)))[0, -4:]
    np.testing.assert_allclose(logits, EXPECTED["logits"], rtol=1e-4, atol=1e-4)


def test_going_on_is_exact(lm: Depthformer, requests: np.ndarray) -> None:
    """A run that begins with codes is in the very state of one that drew them, from as many frames
    as the layers look back on; one fewer leaves a trace.
    """
    codes = EXPECTED["codes"].astype(np.int32)[None]
    whole, later, less = (FrameRun(lm, requests, temperature=0.0) for _ in range(3))
    for frame in range(40):
        whole.feed(mx.array(codes[..., frame]))
    later.prefill(codes[..., :40])
    first = 40 - lm.config.reach + 1
    less.begin(first, mx.array(codes[..., first - 1]))
    for frame in range(first, 40):
        less.feed(mx.array(codes[..., frame]))
    noise = mx.zeros((1, 12, 1024))
    outs = [run.lm.step(*run._inputs())[0] for run in (whole, later, less)]
    np.testing.assert_array_equal(outs[0], outs[1])
    assert np.abs(np.array(outs[0] - outs[2])).max() > 1e-5
    np.testing.assert_array_equal(whole.next(noise), later.next(noise))
    tail = greedy(lm, requests, start=codes[..., :40])
    np.testing.assert_array_equal(tail, codes[..., 40:])


def test_rows_and_blocks(lm: Depthformer, requests: np.ndarray) -> None:
    """A song is the same alone, in a batch, and in blocks of any size."""
    few = requests[:, :12]
    keys = [mx.random.key(1), mx.random.key(2)]
    both = list(generate_codes(lm, np.repeat(few, 2, axis=0), keys=keys, block=5))
    assert [block.shape for block in both] == [(2, 12, 5), (2, 12, 5), (2, 12, 2)]
    for row, key in enumerate(keys):
        alone = np.concatenate(list(generate_codes(lm, few, keys=[key])), axis=-1)
        np.testing.assert_array_equal(np.concatenate(both, axis=-1)[row], alone[0])
    start = np.concatenate(both, axis=-1)[:1, :, :7]
    rest = np.concatenate(list(generate_codes(lm, few, keys=keys[:1], start=start)), axis=-1)
    np.testing.assert_array_equal(rest[0], np.concatenate(both, axis=-1)[0, :, 7:])


def test_sound(codec: SpectroStream) -> None:
    """At most one step of 16 bits from upstream's, which it rounds to."""
    frames = len(EXPECTED["sound"]) // 1920 + 1
    codes = mx.array(EXPECTED["codes"].astype(np.int32))[None, :, :frames]
    sound = np.array(codec.decode(codes))[0]
    steps = np.round(32767.5 * np.clip(sound, -1, 1) - 0.5)
    assert np.abs(EXPECTED["sound"]).max() > 1000
    assert np.abs(steps - EXPECTED["sound"]).max() <= 1


@pytest.mark.parametrize("size", [1, 7, 25])
def test_sound_in_pieces(codec: SpectroStream, size: int) -> None:
    codes = mx.array(EXPECTED["codes"].astype(np.int32))[None]
    whole = np.array(codec.decode(codes))
    pieces = codec.decode_stream(codes[..., i : i + size] for i in range(0, 60, size))
    joined = np.concatenate([np.array(piece) for piece in pieces], axis=1)
    np.testing.assert_allclose(joined, whole, atol=1e-6)


def test_heard_codes(codec: SpectroStream) -> None:
    wave = np.random.RandomState(1).standard_normal((1, 9600, 2)).astype(np.float32) * 0.1
    np.testing.assert_array_equal(codec.encode(mx.array(wave))[0], EXPECTED["heard"])
    assert codec.encode(mx.array(wave[:, :9599])).shape == (1, 12, 5)
    assert codec.decode(codec.encode(mx.array(wave))).shape == (1, 4 * 1920, 2)


@pytest.fixture(scope="module")
def wave() -> np.ndarray:
    """40 frames but for their end, growing louder: float32[1, samples, 2]."""
    noise = np.random.RandomState(2).standard_normal((1, 40 * 1920 - 700, 2)).astype(np.float32)
    return noise * np.linspace(0.01, 0.3, noise.shape[1], dtype=np.float32)[None, :, None]


@pytest.mark.parametrize("frames", [1, 7, 50])
def test_heard_in_pieces(codec: SpectroStream, wave: np.ndarray, frames: int) -> None:
    """The same codes as of the whole."""
    whole = codec.encode(mx.array(wave))
    assert whole.shape == (1, 12, 40)
    np.testing.assert_array_equal(codec.encode_long(mx.array(wave), frames), whole)


def test_how_far_back_is_heard(codec: SpectroStream, wave: np.ndarray) -> None:
    """Another recording before the encoder's reach changes no bit; a frame later it does."""

    def heard(other: int) -> np.ndarray:
        """The embedding of frame 30, so many frames from the start on replaced."""
        piece = wave[:, : 31 * 1920 + 480].copy()
        piece[:, : other * 1920] *= -1
        spectra = mx.concatenate([stft(mx.array(piece[..., side])) for side in range(2)])
        return np.array(codec.encoder(spectra)[0, 30])

    np.testing.assert_array_equal(heard(30 - ENCODER_REACH), heard(0))
    assert (heard(31 - ENCODER_REACH) != heard(0)).any()


@pytest.mark.parametrize(("name", "config"), [("small", MRT2_SMALL), ("base", MRT2_BASE)])
def test_the_released_keys(name: str, config: DepthformerConfig) -> None:
    """All 374 and 618 arrays of the released files are used once, and fill all there is to fill."""
    shapes = tiny.keys(name)
    assert len(shapes) == {"small": 374, "base": 618}[name]
    assert DepthformerConfig.from_dict(depthformer.config(shapes)) == config
    lazy = {key: mx.zeros(shape) for key, shape in shapes.items()}  # of no memory until read
    made = apply_rules(depthformer.RULES, taken(lazy, depthformer.PREFIX), where="lm")
    load_strict(Depthformer(config), made, where="lm")
    made = apply_rules(spectrostream.DECODER_RULES, taken(lazy, spectrostream.DECODER))
    encoder = {key: mx.zeros(shape) for key, shape in tiny.keys("encoder").items()}
    made |= apply_rules(spectrostream.ENCODER_RULES, taken(encoder, spectrostream.ENCODER))
    load_strict(SpectroStream(SpectroStreamConfig()), made, where="codec")
    assert not lazy and not encoder


def taken(arrays: dict[str, mx.array], prefix: str) -> dict[str, mx.array]:
    keys = [key for key in arrays if key.startswith(prefix)]
    return {key.removeprefix(prefix): arrays.pop(key) for key in keys}


def test_odd_keys_are_named(arrays: dict[str, np.ndarray]) -> None:
    found = under(arrays, depthformer.PREFIX)
    with pytest.raises(MusicotError, match="decoder/new_layer"):
        apply_rules(depthformer.RULES, {**found, "decoder/new_layer": mx.zeros(1)}, where="lm")
    with pytest.raises(MusicotError, match="lacks 'params/depthformer/encoder/body/encoder_ln/sc"):
        shapes = {key: value.shape for key, value in arrays.items() if "encoder_ln" not in key}
        depthformer.config(shapes)
