"""What songs with stems teach of "no X": codes and vectors with a family and without it."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from musicot_mlx.reference.data import SongEntry
from musicot_mlx.reference.train.wording import Silences, known_words

RATE = 400  # samples of a frame


def _encode(samples: np.ndarray) -> np.ndarray:
    """Code 1 where a frame is loud, 0 where it is not."""
    frames = samples.reshape(-1, RATE)
    return (np.abs(frames).max(axis=1) > 0.4).astype(int)


def _embed(samples: np.ndarray) -> np.ndarray:
    return np.array([np.abs(samples).max(), 0.25])


def test_codes_and_vectors_tell_what_falls_silent() -> None:
    drums, bass = np.full(100 * RATE, 0.3, np.float32), np.full(100 * RATE, 0.2, np.float32)
    drums[50 * RATE :] = 0.0  # half of the song
    counts = Silences(codes=3)
    counts.hear({"drums": drums, "bass": bass}, _encode, _embed)
    counts.hear({"piano": drums}, _encode, _embed)  # alone: it leaves silence
    without = {family: np.array(text.split(), int) for family, text in counts.without().items()}
    assert sorted(without) == ["bass", "drums"]
    assert without["drums"][1] > 5 > -5 > without["drums"][0] and without["drums"][2] == 0
    away = {family: text.split() for family, text in counts.away().items()}
    assert away == {"drums": ["-300", "0"], "bass": ["-200", "0"]}


def test_songs_without_stems_teach_nothing() -> None:
    assert Silences(codes=3).without() == Silences(codes=3).away() == {}


def test_known_words_are_those_of_two_songs() -> None:
    records = [
        {"audio_file": "a.wav", "text_prompt": "Slow lo-fi, no drums", "duration": 10},
        {"audio_file": "b.wav", "text_prompt": "slow banjo", "duration": 10,
         "windows": [{"start": 0, "captions": ["drums"]}]},
    ]  # fmt: skip
    entries = [SongEntry.parse(record, Path()) for record in records]
    assert known_words(entries) == ["drums", "slow"]
