"""Plans in MusicCoCa's space: a thought is the style that Magenta RealTime 2 follows for 10 s.

No language model draws these thoughts. The mapper turns the words of a prompt and noise into a
vector such as music has, and other noise is another thought for the same words.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Unpack

import numpy as np

from musicot_mlx.errors import MusicotError
from musicot_mlx.models.depthformer import DepthformerConfig
from musicot_mlx.models.rvq import ResidualVQ
from musicot_mlx.pipelines.documented import documented
from musicot_mlx.pipelines.magenta_rt2.embedder import MusicCoCaEmbedder
from musicot_mlx.pipelines.magenta_rt2.options import (
    DRAWING,
    PLANNED,
    MagentaOptions,
    MagentaPlanning,
)
from musicot_mlx.pipelines.plans.plan import Plan
from musicot_mlx.pipelines.plans.planner import Planner
from musicot_mlx.pipelines.plans.thoughts import (
    Audio,
    checked_audio,
    quantised,
    unit,
)
from musicot_mlx.pipelines.renderer import Space

THOUGHT_SECONDS = 10.0
ANCHOR_SEEDS = 8  # thoughts whose mean stands for a text where it is compared with music


@dataclass(frozen=True)
class MagentaSampling:
    """How the model is best sampled: the `sampling` section of config.json; each call may say
    otherwise. The defaults are upstream's; variation and glide are ours.
    """

    audio_temperature: float = 1.3
    top_k: int = 40
    style_strength: float = 3.0
    style_levels: int = 12
    variation: float = 0.35
    glide: float = 0.0
    refresh: float = 0.0
    drums: str = "free"


class MagentaPlanner(Planner):
    """The thoughts of songs. Options are keyword-only; None takes the model's default."""

    wishes, drawing = MagentaOptions, DRAWING

    def __init__(
        self,
        *,
        embedder: MusicCoCaEmbedder,
        rvq: ResidualVQ,
        config: DepthformerConfig,
        sampling: MagentaSampling,
        name: str,
        thought_seconds: float = THOUGHT_SECONDS,
    ) -> None:
        space = Space("musiccoca", rvq.config.dim, rvq.config.codebooks, thought_seconds)
        super().__init__(embedder=embedder, rvq=rvq, sampling=sampling, name=name, space=space)
        self.frame_rate = config.frame_rate

    @documented(MagentaOptions, PLANNED)
    def plan(self, prompt: str | None = None, **options: Unpack[MagentaPlanning]) -> Plan:
        """The thoughts of a song of `duration` seconds, of a prompt or of references.

        options are those of MagentaOptions that belong to planning, `seed` and `progress`. Raises
        MusicotError for an empty prompt and a bad file.
        """
        return self._asked(prompt, options)

    def plan_from_audio(
        self,
        audio: Audio,
        prompt: str | None = None,
        *,
        duration: float | None = None,
        seed: int = 0,
    ) -> Plan:
        """The thoughts that audio itself holds, at its own pace: of all of it, or its beginning.

        audio: a file, or (waveform, rate in Hz). Raises MusicotError for audio that can't be read,
        or is shorter than `duration`.
        """
        wish = MagentaOptions.of(self.sampling, prompt, seed=seed)
        return self.check_plan(self._heard(checked_audio(audio), wish, duration), "the plan")

    def frames(self, duration: float) -> int:
        """Frames of codes that sound for `duration` seconds."""
        return max(1, math.ceil(duration * self.frame_rate - 1e-6))

    def draw_thoughts(
        self,
        vector: np.ndarray,
        *,
        segments: int,
        seed: int,
        songs: int = 1,
        words: str | None = None,
        tags: Sequence[str] | None = None,
        lyrics: str = "",
        locked_codes: np.ndarray | None = None,
        variation: float | None = None,
        first: int = 0,
    ) -> np.ndarray:
        """Codes int32 (songs, levels, segments) of thoughts for a unit vector (dim,).

        The noise of a segment is the song's, mixed with some of its own by `variation`; without
        any, the first song's thought is that of upstream's mapper for the same seed. locked_codes:
        (levels, segments) that stay, -1 where free. words: the text that the vector is of, if any.
        first: the number of the first segment. Tags and lyrics are of no account.
        """
        own = self.sampling.variation if variation is None else variation
        dim = self.rvq.config.dim
        noise = np.stack(
            [
                math.sqrt(1 - own**2) * _noise(dim, seed, song)
                + own * _noise(dim, seed, song, 1 + segment)
                for song in range(songs)
                for segment in range(first, first + segments)
            ]
        )
        exact = None if words is None else self.clap.raw_text([words])[0]
        if exact is None or not np.allclose(unit(exact), vector, atol=1e-3):
            exact = vector * self.clap.config.tower_norm
        vectors = self.clap.map_vectors(np.repeat(exact[None], len(noise), axis=0), noise)
        drawn = quantised(self, vectors)  # (levels, songs * segments)
        codes = drawn.reshape(len(drawn), songs, segments).swapaxes(0, 1)
        if locked_codes is None:
            return codes.copy()
        return np.where(locked_codes >= 0, locked_codes, codes)

    def anchors(self, texts: Sequence[str]) -> np.ndarray:
        """What texts are compared with thoughts by, float32 (texts, dim): the mean of some of their
        thoughts, because texts and music lie apart in MusicCoCa's space and the mapper is the way.
        """
        noise = np.stack([_noise(self.rvq.config.dim, seed, 0) for seed in range(ANCHOR_SEEDS)])
        each = np.repeat(self.clap.raw_text(texts), ANCHOR_SEEDS, axis=0)
        vectors = self.clap.map_vectors(each, np.tile(noise, (len(texts), 1)))
        return unit(vectors.reshape(len(texts), ANCHOR_SEEDS, -1).mean(axis=1))

    def _require_own(self, plan: Plan, where: str) -> None:
        """Raise MusicotError for a plan without thoughts, or with chords."""
        if not plan.segments:
            raise MusicotError(f"{where} has no thoughts, and {self.name} plays nothing else")
        if plan.chords or plan.key:
            raise MusicotError(f"{where} names chords, which {self.name} does not know")


def _noise(dim: int, seed: int, *part: int) -> np.ndarray:
    """Noise (dim,) of a part of a seed; the first song's own is upstream's."""
    if part != (0,):
        seed = int(np.random.SeedSequence([seed, *part]).generate_state(1)[0])
    return np.random.RandomState(seed % 2**32).randn(dim).astype(np.float32)
