"""Waveforms that callers bring: every type is the same sound, and what is no sound is one line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import musicot_mlx as mc
from musicot_mlx.audio import files, harmony, signals
from musicot_mlx.audio.waveforms import as_rate, as_waveform
from musicot_mlx.errors import MusicotError
from musicot_mlx.evaluation.measures.copying import copy_check

RATE = 22050


def _music(seconds: float = 12.0) -> np.ndarray:
    """Notes over a beat, float32 (samples, 2) in -1..1, on the grid of 8 bits."""
    time = np.arange(int(seconds * RATE)) / RATE
    notes = np.sin(2 * np.pi * np.where(time % 1 < 0.5, 262.0, 392.0) * time)
    beat = np.sin(2 * np.pi * 60 * time) * np.exp(-(time % 0.5) * 20)
    mix = np.stack([0.4 * notes + 0.3 * beat, 0.3 * notes], axis=1)
    return (np.rint(mix * 128) / 128).astype(np.float32)


MUSIC = _music()
TYPES: dict[str, Callable[[np.ndarray], Any]] = {
    "int8": lambda x: (x * 2**7).astype(np.int8),
    "uint8": lambda x: (x * 2**7 + 128).astype(np.uint8),
    "int16": lambda x: (x * 2**15).astype(np.int16),
    "big-endian int16": lambda x: (x * 2**15).astype(">i2"),
    "int32": lambda x: (x.astype(np.float64) * 2**31).astype(np.int32),
    "float16": lambda x: x.astype(np.float16),
    "float64": lambda x: x.astype(np.float64),
    "list": lambda x: x.tolist(),
    "mlx": mx.array,
}


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Any:
    return mc.load(str(tiny_model))


@pytest.mark.parametrize("name", TYPES)
def test_every_type_is_the_same_waveform(name: str) -> None:
    for waveform in (MUSIC, MUSIC[:, 0]):
        found = as_waveform(TYPES[name](waveform))
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, waveform)


def test_the_ends_of_each_scale() -> None:
    for name in ("int8", "int16", "int32"):
        ends = np.iinfo(name)
        low, high = as_waveform(np.array([ends.min, ends.max], name))
        assert low == -1.0 and 0.99 < high <= 1.0
    np.testing.assert_array_equal(
        as_waveform(np.array([0, 128, 255], np.uint8)), np.float32([-1, 0, 127 / 128])
    )


@pytest.mark.parametrize("name", TYPES)
def test_every_door_hears_the_same(model: Any, name: str) -> None:
    """The embedder, analysis, plans, measures and files alike."""
    other, plan = TYPES[name](MUSIC), model.plan("piano", duration=20)
    np.testing.assert_array_equal(
        model.clap.embed_audio(other, RATE), model.clap.embed_audio(MUSIC, RATE)
    )
    heard, wanted = (mc.analyze(x, RATE, model=model, plan=plan) for x in (other, MUSIC))
    assert heard.to_dict() == wanted.to_dict()
    for made in (
        lambda x: model.plan_from_audio((x, RATE), seed=1),
        lambda x: plan.replace(1, (x, RATE)),
        lambda x: plan.insert(1, (x, RATE)),
    ):
        ours, theirs = made(other), made(MUSIC)
        np.testing.assert_array_equal(ours.codes, theirs.codes)
        assert (ours.tags, ours.key, ours.chords) == (theirs.tags, theirs.key, theirs.chords)
    assert signals.measure(other, RATE) == signals.measure(MUSIC, RATE)
    assert harmony.share_in_key(other, RATE) == harmony.share_in_key(MUSIC, RATE)


def test_copies_and_files_of_integers(model: Any, tmp_path: Path) -> None:
    ints = TYPES["int16"](MUSIC)
    found = [copy_check(x, x, model=model, sample_rate=RATE).to_dict() for x in (ints, MUSIC)]
    assert found[0] == found[1]
    paths = [files.write_audio(tmp_path / f"{i}.wav", x, RATE) for i, x in enumerate((ints, MUSIC))]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    np.testing.assert_array_equal(
        files.resample(ints, RATE, 16000), files.resample(MUSIC, RATE, 16000)
    )


BAD = {
    "channels first": (MUSIC.T, "2, 264600.*pass .samples, channels., so waveform.T"),
    "channels first, int16": (TYPES["int16"](MUSIC.T), "so waveform.T"),
    "a batch": (MUSIC[None], "expected .samples,. or .samples, channels."),
    "a number": (0.5, "expected .samples,."),
    "empty": (np.zeros((0, 2), np.float32), "at least one sample"),
    "NaN": (np.array([0.0, np.nan]), "NaN or infinite"),
    "int64": ((MUSIC * 2**15).astype(np.int64), "int64, whose full scale is not known"),
    "a list of integers": ([1, -5, 300], "int64, whose full scale"),
    "uint16": (np.zeros(9, np.uint16), "uint16, whose full scale"),
    "bool": (np.ones(9, bool), "bool"),
    "complex": (np.ones(9, complex), "complex128"),
    "text": ("a.wav", "<U5"),
    "None": (None, "object"),
    "lists of several lengths": ([[0.1], [0.2, 0.3]], "no array of samples"),
    "bfloat16": (mx.zeros((9,), mx.bfloat16), "no array of samples"),
    "integers as floats": (MUSIC * 32768, "divide it by its full scale"),
}


@pytest.mark.parametrize("name", BAD)
def test_one_sentence_everywhere(model: Any, name: str) -> None:
    waveform, words = BAD[name]
    doors = [
        as_waveform,
        lambda x: signals.measure(x, RATE),
        lambda x: harmony.pitch_classes(x, RATE),
        lambda x: model.clap.embed_audio(x, RATE),
        lambda x: model.plan_from_audio((x, RATE)),
        lambda x: model.plan("piano", duration=2).replace(0, (x, RATE)),
    ]
    if not isinstance(waveform, str) and waveform is not None:  # to analyze a file, or nothing
        doors.append(lambda x: mc.analyze(x, RATE, model=model))
    for door in doors:
        with pytest.raises(MusicotError, match=words):
            door(waveform)


@pytest.mark.parametrize(
    "rate", [None, True, 0, 1, -1, 22050.5, np.nan, np.inf, "fast", np.zeros(3)]
)
def test_rates_that_are_none(model: Any, rate: Any) -> None:
    for door in (
        as_rate,
        lambda x: model.clap.embed_audio(MUSIC, x),
        lambda x: model.plan_from_audio((MUSIC, x)),
        lambda x: model.plan("piano", duration=2).replace(0, (MUSIC, x)),
    ):
        with pytest.raises(MusicotError, match="sample rate"):
            door(rate)


def test_rates_of_any_type() -> None:
    for rate in (44100, 44100.0, np.int64(44100), np.float32(44100), np.array(44100)):
        assert as_rate(rate) == 44100 and type(as_rate(rate)) is int


def test_a_pair_the_wrong_way_round_is_told(model: Any) -> None:
    with pytest.raises(MusicotError, match="the audio"):
        model.plan_from_audio((RATE, MUSIC))  # as scipy.io.wavfile gives it
