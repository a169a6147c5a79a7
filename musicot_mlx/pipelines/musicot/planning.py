"""Plans of a MusiCoT model: drawn by its language model, or taken from audio; and checked.

What planning needs is a part of the model alone: CLAP, the quantiser and the language model.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Unpack

import mlx.core as mx
import numpy as np

from musicot_mlx.audio.files import read_audio
from musicot_mlx.audio.signals import tempo
from musicot_mlx.errors import MusicotError, MusicotWarning
from musicot_mlx.generation.device import turn
from musicot_mlx.generation.semantic import plan_many
from musicot_mlx.models.rvq import ResidualVQ
from musicot_mlx.models.semantic_lm import SemanticLM
from musicot_mlx.pipelines.clap import ClapEmbedder
from musicot_mlx.pipelines.documented import documented
from musicot_mlx.pipelines.musicot.conditioning import Conditioning
from musicot_mlx.pipelines.musicot.options import DRAWING, PLANNED, MusicotOptions, MusicotPlanning
from musicot_mlx.pipelines.musicot.wording import Wording, told, vocabulary
from musicot_mlx.pipelines.plans import harmony
from musicot_mlx.pipelines.plans.plan import Plan
from musicot_mlx.pipelines.plans.planner import Planner
from musicot_mlx.pipelines.plans.thoughts import (
    Audio,
    checked_audio,
    quantised,
    vectors_of,
)
from musicot_mlx.pipelines.renderer import Space
from musicot_mlx.tokens.progressions import named_bars, named_key, usual
from musicot_mlx.tokens.tempo import asked_tempo, fold, is_tempo, named_tempo, nearest_tempo


@dataclass(frozen=True)
class MusicotSampling:
    """How a model is best sampled: the `sampling` section of config.json; each call may say
    otherwise.
    """

    thought_temperature: float = 0.65
    audio_temperature: float = 0.75
    thought_guidance: float = 2.3  # lambda_1
    audio_guidance: float = 1.3  # lambda_2
    unconditional: str = "without_thoughts"  # eq 8 as printed
    thought_bias: float = 0.0  # of the audio tokens, where the model has it; 0 is eq 8
    steps: int = 50
    sampler: str | None = None
    diffusion_guidance: float = 3.0
    tag_threshold: float = 0.5  # delta of section 4.1


@dataclass(frozen=True)
class UsualHarmony:
    """What songs like a prompt have where it names no chords: the `usual_harmony` section of
    config.json, rows of (tag, mode, bars in C with a line between, how many songs).
    """

    progressions: tuple[tuple[str, str, str, int], ...] = ()


class MusicotPlanner(Planner):
    """The thoughts of songs, on loaded networks. Options are keyword-only; None takes the model's
    default.
    """

    wishes, drawing = MusicotOptions, DRAWING

    def __init__(
        self,
        *,
        embedder: ClapEmbedder,
        rvq: ResidualVQ,
        semantic_lm: SemanticLM,
        sampling: MusicotSampling,
        usual_harmony: UsualHarmony | None = None,
        wording: Wording | None = None,
        name: str,
        space_name: str = "clap",
    ) -> None:
        config = semantic_lm.config
        space = Space(space_name, config.clap_dim, config.thought_codebooks, config.thought_seconds)
        super().__init__(embedder=embedder, rvq=rvq, sampling=sampling, name=name, space=space)
        self.semantic_lm = semantic_lm
        self.usual_harmony = usual_harmony or UsualHarmony()
        self.conditioning = Conditioning(
            embedder,
            semantic_lm,
            wording=wording or Wording(),
            tag_threshold=sampling.tag_threshold,
        )

    @documented(MusicotOptions, PLANNED)
    def plan(self, prompt: str | None = None, **options: Unpack[MusicotPlanning]) -> Plan:
        """The thoughts of a song of `duration` seconds: drawn by the LM, or those of a reference.

        options are those of MusicotOptions that belong to planning, `seed` and `progress`. The
        reference's CLAP-RVQ codes stand in the thought slot (section 5.4), and nothing else of it
        goes into the song; without a prompt its CLAP vector is the condition too. Several files are
        blended by weight (alike, where there are no weights), each followed from its beginning to
        its end.

        key and chords (Plan.with_chords says how they are written) go into the plan of a model that
        knows harmony; what is not given is what the prompt names, or what songs like it have, drawn
        by the seed. Raises MusicotError for an empty prompt, an unknown tag, a bad file, a key or
        chords that are none or that the model has no ear for.
        """
        return self._asked(prompt, options)

    def _completed(self, plan: Plan, wish: MusicotOptions) -> Plan:
        """The plan with its key and chords; what it asks for and will not get is told."""
        self._tell(plan)
        return self._harmonised(plan, wish)

    def _tags(self, vector: np.ndarray, wish: MusicotOptions) -> list[str]:
        """The tags of a song, and its tempo where no prompt says it."""
        words = f"{wish.bpm:g} BPM" if wish.prompt is None and wish.bpm else wish.prompt
        return self.conditioning.song_tags(vector, wish.tags, words)

    def tags_of(self, plan: Plan) -> list[Sequence[str]]:
        """The tags that each segment is asked for with: a guest's own, else the song's."""
        return self.conditioning.tags_of(plan)

    def _tell(self, plan: Plan) -> None:
        """Warn of what a prompt asks for and will not get."""
        line = told(
            plan.prompt or "",
            name=self.name,
            wording=self.conditioning.wording,
            tags=plan.tags,
            names=self.semantic_lm.config.tags,
            knows_harmony=self.knows_harmony,
            lyrics=plan.lyrics,
        )
        if line is not None:
            warnings.warn(line, MusicotWarning, stacklevel=2)

    @property
    def knows_harmony(self) -> bool:
        """Whether key and chords mean anything to the model."""
        return self.semantic_lm.config.harmony

    def _harmonised(self, plan: Plan, wish: MusicotOptions) -> Plan:
        """The plan with the key and chords asked for, else those that its prompt names, else those
        of songs like it.
        """
        if not self.knows_harmony:
            if wish.key is not None or wish.chords is not None:
                name = "chords" if wish.key is None else "key"
                message = f"{self.name} knows no chords; leave out key and chords"
                raise MusicotError(message, option=name)
            return plan
        bpm = asked_tempo(plan.tags, [plan.prompt])
        if not bpm:  # nothing tells it a tempo, but chords must change at some pace
            usual_tempo = self.semantic_lm.usual_tempo(plan.vector, plan.prompt)
            bpm = asked_tempo([usual_tempo] if usual_tempo else [], ())
        in_key = harmony.wanted_key(wish.key) or named_key(plan.prompt)
        bars = named_bars(plan.prompt, in_key) if wish.chords is None else ()
        if wish.chords is not None:
            bars = harmony.wanted_bars(wish.chords, in_key)
        elif not bars:
            rows = self.usual_harmony.progressions
            in_key, bars = usual(rows, plan.tags, plan.prompt, plan.seed, key=in_key)
        plan = replace(plan, bpm=bpm)
        bars = harmony.fitted(plan, bars)
        return replace(plan, key=harmony.named(in_key, bars), chords=bars)

    def plan_from_audio(
        self,
        audio: Audio,
        prompt: str | None = None,
        *,
        duration: float | None = None,
        seed: int = 0,
        lyrics: str | None = None,
        tags: Sequence[str] | None = None,
        key: str | None = None,
        chords: str | Sequence[str] | None = None,
    ) -> Plan:
        """The thoughts that audio itself holds, at its own pace: of all of it, or its beginning.

        audio: a file, or (waveform, rate in Hz). Without a prompt its CLAP vector is the condition.
        Where the model knows harmony, tempo, key and chords are heard too (audio/harmony.py) where
        neither the call nor the prompt names them; bars are counted from the beginning. Raises
        MusicotError for audio that can't be read, or is shorter than `duration`.
        """
        wish = MusicotOptions.of(
            self.sampling, prompt, seed=seed, lyrics=lyrics, tags=tags, key=key, chords=chords
        )
        audio = checked_audio(audio)
        plan = self._heard(audio, wish, duration)
        if self.knows_harmony:
            plan = self._overheard(plan, audio, wish, free=wish.tags is None)
        elif wish.key is not None or wish.chords is not None:
            plan = self._harmonised(plan, wish)  # which says that it knows none
        return self.check_plan(plan, "the plan")

    def _overheard(self, plan: Plan, audio: Audio, wish: MusicotOptions, *, free: bool) -> Plan:
        """The plan with the tempo, the key and the chords that the audio has. The tempo is that of
        all of it, as `musicot analyze` tells it: the beginning of a recording may have no beat.
        """
        waveform, rate = audio if isinstance(audio, tuple) else read_audio(audio)
        pace = tempo(waveform, rate)
        tag = nearest_tempo(self.semantic_lm.config.tags, pace) if pace else None
        if tag and free and not named_tempo(plan.prompt):
            kept = [tag for tag in plan.tags if not is_tempo(tag)]
            plan = replace(plan, tags=(*kept, tag))
        named = wish.key is not None or wish.chords is not None or named_bars(plan.prompt)
        if named or not pace:
            return self._harmonised(plan, wish)
        plan = replace(plan, bpm=fold(pace))
        bars, audio_key = harmony.of_audio(plan, waveform[: round(plan.duration * rate)], rate)
        return replace(plan, chords=bars, key=str(named_key(plan.prompt) or audio_key))

    def text_vector(self, words: str) -> np.ndarray:
        """The CLAP vector (dim,) of what words ask for."""
        return self.conditioning.vector(words)

    def anchors(self, texts: Sequence[str]) -> np.ndarray:
        """What thoughts are held against to read texts in them, float32 (texts, dim)."""
        return self.clap.embed_text(texts)

    def vocabulary(self) -> dict[str, Any]:
        """What the model plays, by the words that ask for it: `styles` and `instruments` (family ->
        tags), `tempi` (slowest, fastest BPM), whether `harmony` and singing (`sings`) mean anything
        to it, families that can be `left_out`, and all other `words` that its captions had.
        """
        return vocabulary(
            self.conditioning.wording,
            self.semantic_lm.config.tags,
            knows_harmony=self.knows_harmony,
        )

    def frames(self, duration: float) -> int:
        """Audio tokens of `duration` seconds."""
        return max(1, round(duration * self.semantic_lm.config.audio_frame_rate))

    def segments(self, duration: float) -> int:
        """Thoughts of a song of `duration` seconds."""
        return self.semantic_lm.config.segments(self.frames(duration))

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
        thought_temperature: float | None = None,
        thought_guidance: float | None = None,
        top_k: int = 0,
        top_p: float = 1.0,
    ) -> np.ndarray:
        """Codes from the LM, int32 (songs, levels, segments), under a CLAP vector (dim,) and the
        tags given or those that `words` call for, led away from what these deny.

        locked_codes: codes (levels, segments) that stay, -1 where free. Several songs draw from
        parts of the seed, in one batch.
        """
        condition = self.conditioning.condition(
            vector, self.conditioning.tags(vector, tags, words), lyrics
        )
        key = stage_key(seed, "thoughts")
        with turn():
            codes = plan_many(
                self.semantic_lm,
                [condition] * songs,
                segments=segments,
                temperature=_default(thought_temperature, self.sampling.thought_temperature),
                guidance_scale=_default(thought_guidance, self.sampling.thought_guidance),
                keys=[key] if songs == 1 else list(mx.random.split(key, songs)),
                top_k=top_k,
                top_p=top_p,
                locked_codes=locked_codes,
            )
        leaving = self.conditioning.wording.leaving(words)
        if leaving is None:
            return codes
        moved = np.stack([quantised(self, vectors_of(self, song) + leaving) for song in codes])
        return moved if locked_codes is None else np.where(locked_codes < 0, moved, codes)

    def _require_own(self, plan: Plan, where: str) -> None:
        """Raise MusicotError for a tag that the model does not have, a key or chords that are none.

        A plan without thoughts (`Plan.without_thoughts`) is rendered from its prompt.
        """
        self.conditioning.tags(plan.vector, plan.tags)
        harmony.check(plan, where)


def stage_key(seed: int, stage: str) -> mx.array:
    """A random key of its own for each stage of a seed."""
    stages = ("thoughts", "audio", "diffusion")
    return mx.random.split(mx.random.key(seed), len(stages))[stages.index(stage)]


def _default(value: Any, default: Any) -> Any:
    return default if value is None else value
