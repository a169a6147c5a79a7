"""Plans in MusicCoCa's space: a thought is the style that Magenta RealTime 2 follows for 10 s.

No language model draws these thoughts. The mapper turns the words of a prompt and noise into a
vector such as music has, and other noise is another thought for the same words.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from musicot_mlx.errors import MusicotError
from musicot_mlx.models.depthformer import DepthformerConfig
from musicot_mlx.models.rvq import ResidualVQ
from musicot_mlx.pipelines.documented import documented
from musicot_mlx.pipelines.magenta_rt2.embedder import MusicCoCaEmbedder
from musicot_mlx.pipelines.magenta_rt2.options import (
    LONGEST,
    PLANNED,
    MagentaOptions,
    MagentaPlanning,
)
from musicot_mlx.pipelines.options import SHORTEST, files_of
from musicot_mlx.pipelines.plans.origin import Origin
from musicot_mlx.pipelines.plans.plan import Plan
from musicot_mlx.pipelines.plans.thoughts import (
    Audio,
    blended,
    checked_audio,
    embed_windows,
    length_of,
    quantised,
    unit,
    vectors_of,
    window_count,
)
from musicot_mlx.pipelines.renderer import Space
from musicot_mlx.pipelines.song import Clock

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


class MagentaPlanner:
    """The thoughts of songs. Options are keyword-only; None takes the model's default."""

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
        self.clap, self.rvq, self.sampling, self.name = embedder, rvq, sampling, name
        self.frame_rate = config.frame_rate
        self.space = Space("musiccoca", rvq.config.dim, rvq.config.codebooks, thought_seconds)

    @documented(MagentaOptions, PLANNED)
    def plan(self, prompt: str | None = None, **options: Unpack[MagentaPlanning]) -> Plan:
        """The thoughts of a song of `duration` seconds, of a prompt or of references.

        options are those of MagentaOptions that belong to planning, `seed` and `progress`. Raises
        MusicotError for an empty prompt and a bad file.
        """
        options = MagentaOptions.by_field(options)
        MagentaOptions.require_known(options, PLANNED)
        return self._plan(MagentaOptions.of(self.sampling, prompt, **options), Clock())

    def _plan(self, wish: MagentaOptions, clock: Clock) -> Plan:
        """The plan of a wish: the one it holds, or a new one."""
        if wish.plan is not None:
            with clock("plan"):
                return self.check_plan(wish.plan, "the plan")
        prompt, files = wish.prompt, files_of(wish.reference)
        if prompt is not None and not prompt.strip():
            raise MusicotError("the prompt is empty; describe the music, e.g. 'a jazz piano trio'")
        if prompt is None and not files:
            raise MusicotError("nothing to plan; give a prompt or a reference")
        if wish.reference_weights is not None and not files:
            raise MusicotError("there are reference weights, but no reference")
        vector, segments = None, self.segments(wish.duration)
        if prompt is not None:
            with clock("text"):
                vector = self.clap.embed_text([prompt])[0]
        with clock("plan"):
            if files:
                weights = wish.reference_weights or [1.0] * len(files)
                borrowed = blended(self, files, weights, self.space.seconds, segments)
                vector = unit(borrowed.mean(axis=0)) if vector is None else vector
                codes = quantised(self, borrowed)
                names = " + ".join(Path(file).name for file in files)
                origin = Origin("audio", names, file=str(files[0]) if len(files) == 1 else None)
            else:
                codes = self.draw_thoughts(
                    vector,
                    words=prompt,
                    segments=segments,
                    seed=wish.seed,
                    variation=wish.variation,
                )[0]
                origin = Origin("drawn", prompt, seed=wish.seed)
            return self._made(codes, vector, [origin] * segments, wish)

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
        audio = checked_audio(audio)
        frames, rate = length_of(audio)
        name = "the audio" if isinstance(audio, tuple) else str(audio)
        duration = frames / rate if duration is None else duration
        if not SHORTEST <= duration <= LONGEST:
            raise MusicotError(
                f"{name}: {duration:.4g} s; a plan covers {SHORTEST:g} to {LONGEST:g} s, so pass a "
                "duration"
            )
        if frames / rate < duration - 0.1:
            raise MusicotError(
                f"{name} lasts {frames / rate:.4g} s, less than the {duration:g} s asked for"
            )
        segments = self.segments(duration)
        last = window_count(audio, self.space.seconds) - 1
        windows = np.minimum(np.arange(segments), last).tolist()
        vectors = embed_windows(self, audio, self.space.seconds, windows)
        vector = unit(vectors.mean(0)) if prompt is None else self.clap.embed_text([prompt])[0]
        file = None if isinstance(audio, tuple) else str(audio)
        origins = [
            Origin("audio", file=file, start=window * self.space.seconds) for window in windows
        ]
        wish = MagentaOptions.of(self.sampling, prompt, duration=duration, seed=seed)
        return self._made(quantised(self, vectors), vector, origins, wish)

    def _made(
        self,
        codes: np.ndarray,
        vector: np.ndarray,
        origins: Sequence[Origin],
        wish: MagentaOptions,
    ) -> Plan:
        plan = Plan(
            codes=codes,
            embeddings=np.zeros((0, 0), dtype=np.float32),
            vector=vector,
            duration=float(wish.duration),
            thought_seconds=self.space.seconds,
            seed=wish.seed,
            prompt=wish.prompt,
            origins=tuple(origins),
            space=self.space.id,
        )
        return self.check_plan(plan, "the plan")

    def frames(self, duration: float) -> int:
        """Frames of codes that sound for `duration` seconds."""
        return max(1, math.ceil(duration * self.frame_rate - 1e-6))

    def segments(self, duration: float) -> int:
        """Thoughts of a song of `duration` seconds."""
        return max(1, math.ceil(duration / self.space.seconds - 1e-6))

    def draw_thoughts(
        self,
        vector: np.ndarray,
        *,
        segments: int,
        seed: int,
        songs: int = 1,
        words: str | None = None,
        locked_codes: np.ndarray | None = None,
        variation: float | None = None,
        **_: Any,
    ) -> np.ndarray:
        """Codes int32 (songs, levels, segments) of thoughts for a unit vector (dim,).

        The noise of a segment is the song's, mixed with some of its own by `variation`; without
        any, the first song's thought is that of upstream's mapper for the same seed. locked_codes:
        (levels, segments) that stay, -1 where free. words: the text that the vector is of, if any.
        What else a language model would be asked by is of no account.
        """
        own = self.sampling.variation if variation is None else variation
        dim = self.rvq.config.dim
        noise = np.stack(
            [
                math.sqrt(1 - own**2) * _noise(dim, seed, song)
                + own * _noise(dim, seed, song, 1 + segment)
                for song in range(songs)
                for segment in range(segments)
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

    def text_vector(self, words: str) -> np.ndarray:
        """The vector (dim,) of what words ask for."""
        return self.clap.embed_text([words])[0]

    def anchors(self, texts: Sequence[str]) -> np.ndarray:
        """What texts are compared with thoughts by, float32 (texts, dim): the mean of some of their
        thoughts, because texts and music lie apart in MusicCoCa's space and the mapper is the way.
        """
        seeds = [seed for _ in texts for seed in range(ANCHOR_SEEDS)]
        each = [text for text in texts for _ in range(ANCHOR_SEEDS)]
        vectors = self.clap.map_text(each, seeds)
        return unit(vectors.reshape(len(texts), ANCHOR_SEEDS, -1).mean(axis=1))

    def check_plan(self, plan: Plan, where: str) -> Plan:
        """The plan with its vectors, if it is one that this model can render; MusicotError
        otherwise.
        """
        self.space.require(plan.space, where)
        rvq, codes = self.rvq.config, plan.codes
        if codes.ndim != 2 or codes.shape[0] != rvq.codebooks or not codes.shape[1]:
            raise MusicotError(
                f"{where}: codes have shape {codes.shape}, expected ({rvq.codebooks}, segments)"
            )
        if plan.thought_seconds != self.space.seconds:
            raise MusicotError(
                f"{where}: a thought covers {plan.thought_seconds:g} s, of this model "
                f"{self.space.seconds:g} s"
            )
        if codes.min() < 0 or codes.max() >= rvq.codebook_size:
            raise MusicotError(f"{where}: codes must lie in 0..{rvq.codebook_size - 1}")
        if plan.vector.shape != (rvq.dim,) or not np.isfinite(plan.vector).all():
            raise MusicotError(f"{where}: vector must hold {rvq.dim} finite numbers")
        if not SHORTEST <= plan.duration <= LONGEST:
            raise MusicotError(f"{where}: duration must lie in {SHORTEST:g} to {LONGEST:g} s")
        if self.segments(plan.duration) != codes.shape[1]:
            raise MusicotError(
                f"{where}: {codes.shape[1]} thoughts do not cover {plan.duration:g} s; one covers "
                f"{self.space.seconds:g} s"
            )
        if plan.chords or plan.key:
            raise MusicotError(f"{where} names chords, which {self.name} does not know")
        plan = replace(plan, space=self.space.id)
        return plan.with_vectors(vectors_of(self, codes), self)


def _noise(dim: int, seed: int, *part: int) -> np.ndarray:
    """Noise (dim,) of a part of a seed; the first song's own is upstream's."""
    if part != (0,):
        seed = int(np.random.SeedSequence([seed, *part]).generate_state(1)[0])
    return np.random.RandomState(seed % 2**32).randn(dim).astype(np.float32)
