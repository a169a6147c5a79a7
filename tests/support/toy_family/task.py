"""Tunes the toy: its hum is to have the loudness of the songs."""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from musicot_mlx.training.songs import Encoder, Piece


class HumTask:
    part = "hum"
    piece_seconds = 10.0

    def __init__(self, model: Any, options: Any, listener: Any = None) -> None:
        self.model, self.listener = model, listener
        self.unknown_tags: set[str] = set()
        self.first_caption = ""

    @property
    def module(self) -> nn.Module:
        return self.model.hum

    def encoders(self) -> dict[str, Encoder]:
        return {"codes": Encoder("loudness", lambda audio, rate: np.abs(audio[:, 0]).mean()[None])}

    def song(self, piece: Piece) -> Any:
        self.first_caption = self.first_caption or piece.entry.captions[0]
        return _Song(piece.name, piece.arrays["codes"])

    def draw(self, songs: Sequence[Any], rng: np.random.Generator) -> Any:
        return songs[rng.integers(len(songs))]

    def held_out(self, songs: Sequence[Any], limit: int) -> list[Any]:
        return list(songs)

    def weight(self, item: Any) -> float:
        return 1.0

    def loss(self, items: Sequence[Any]) -> mx.array:
        heard = self.model.hum(mx.ones((len(items), 8)))[:, 0]
        return ((heard - mx.array(np.concatenate([item.codes for item in items]))) ** 2).sum()


class _Song:
    def __init__(self, name: str, codes: np.ndarray) -> None:
        self.name, self.codes = name, codes.astype(np.float32)
