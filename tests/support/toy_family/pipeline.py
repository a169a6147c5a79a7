"""The toy: phases of four tones, two layers, a hum."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from musicot_mlx.pipelines.mastering import Mastering
from musicot_mlx.pipelines.memory import Needs
from musicot_mlx.pipelines.parts import AdapterPath, load_parts
from musicot_mlx.pipelines.song import Clock, Song, Stream, Take, heard
from tests.support.toy_family import FAMILY
from tests.support.toy_family.options import ToyOptions


@dataclass(frozen=True)
class HumConfig:
    hidden: int = 16
    sample_rate: int = 8000


class Layer(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)

    def __call__(self, x: mx.array) -> mx.array:
        return self.linear(x)


class Hum(nn.Module):
    """Phases (time, 8) to samples (time, 1)."""

    def __init__(self, config: HumConfig) -> None:
        super().__init__()
        self.config = config
        self.layers = [Layer(8, config.hidden), Layer(config.hidden, 1)]

    def __call__(self, x: mx.array) -> mx.array:
        first, second = self.layers
        return second(mx.tanh(first(x)))


@dataclass(frozen=True)
class Sampling:
    wobble: float = 0.25


PARTS = {"hum": (Hum, HumConfig)}


def load(folder: Path, *, name: str, adapter_path: AdapterPath = None) -> "ToyPipeline":
    loaded = load_parts(
        folder, PARTS, model_type=FAMILY.model_type, name=name, adapter_path=adapter_path
    )
    sampling = loaded.section("sampling", Sampling)
    return ToyPipeline(loaded.networks["hum"], sampling, name, loaded.adapter_keys)


def needs(config: dict[str, Any], duration: float, *, songs: int = 1, piece: Any = None) -> Needs:
    hum = config["hum"]
    return Needs({"humming": 4 * hum["hidden"] * hum["sample_rate"]}, 1, hum["sample_rate"])


class ToyPipeline:
    family = FAMILY
    options = frozenset(ToyOptions.about())
    dtype = mx.float32
    adapters: tuple[str, ...] = ()

    def __init__(self, hum: Hum, sampling: Sampling, name: str, adapter_keys: int = 0) -> None:
        self.hum, self.sampling, self.name = hum, sampling, name
        self.sample_rate, self.channels = hum.config.sample_rate, 1
        self.adapter_keys = adapter_keys

    def generate(self, prompt: str | None = None, **options: Any) -> Song:
        return heard(self._song, ToyOptions.of(self.sampling, prompt, **options))

    def _song(self, wish: ToyOptions) -> Song:
        clock, codes = Clock(), np.zeros((1, 0), dtype=np.int32)
        with clock("hum"):
            made = self._mastering(wish).whole(self._hum(wish), 1)
        settings, seconds = self._settings(wish), clock.seconds
        return Song(
            made.waveform, self.sample_rate, codes, None, settings, seconds, made.gain, made.fault
        )

    def stream(self, prompt: str | None = None, **options: Any) -> Stream:
        wish = ToyOptions.of(self.sampling, prompt, **options)
        return Stream(self._take, wish, self.sample_rate, self._settings)

    def _take(self, wish: ToyOptions) -> Take:
        return Take(None, [], self._hum(wish), self._mastering(wish))

    def settings(self, prompt: str | None = None, **options: Any) -> dict[str, Any]:
        return self._settings(ToyOptions.of(self.sampling, prompt, **options))

    def _settings(self, wish: ToyOptions) -> dict[str, Any]:
        return {**wish.saved(), "model": self.name}

    def _mastering(self, wish: ToyOptions) -> Mastering:
        return Mastering(wish, self.sample_rate, round(wish.duration * self.sample_rate))

    def _hum(self, wish: ToyOptions) -> Iterator[np.ndarray]:
        samples, rate = round(wish.duration * self.sample_rate), self.sample_rate
        pitches = np.random.default_rng(wish.seed).uniform(100, 400, 4)
        for first in range(0, samples, rate):
            time = np.arange(first, min(first + rate, samples))[:, None] / rate
            angle = 2 * np.pi * pitches * time + wish.wobble * np.sin(2 * np.pi * 3 * time)
            heard = self.hum(mx.array(np.hstack([np.sin(angle), np.cos(angle)]), dtype=mx.float32))
            yield 0.3 * np.tanh(np.array(heard)).astype(np.float32)
