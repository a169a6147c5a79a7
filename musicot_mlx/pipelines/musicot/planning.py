"""Plans of a MusiCoT model: drawn by its language model, or taken from audio; and checked.

What planning needs is a part of the model alone: CLAP, the quantiser and the language model.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
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
from musicot_mlx.pipelines.given import items, number
from musicot_mlx.pipelines.musicot.conditioning import Conditioning
from musicot_mlx.pipelines.musicot.options import PLANNED, MusicotOptions, MusicotPlanning
from musicot_mlx.pipelines.musicot.wording import Wording, told, vocabulary
from musicot_mlx.pipelines.options import LONGEST, SHORTEST, checked, files_of
from musicot_mlx.pipelines.plans import harmony
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


class Planner:
    """The thoughts of songs, on loaded networks. Options are keyword-only; None takes the model's
    default.
    """

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
        self.clap, self.rvq, self.semantic_lm = embedder, rvq, semantic_lm
        self.sampling, self.name = sampling, name
        self.usual_harmony = usual_harmony or UsualHarmony()
        config = semantic_lm.config
        self.space = Space(
            space_name, config.clap_dim, config.thought_codebooks, config.thought_seconds
        )
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
        options = MusicotOptions.by_field(options)
        MusicotOptions.require_known(options, PLANNED)
        wish = MusicotOptions.of(self.sampling, prompt, **options)
        with turn():
            return self._plan(wish, Clock())

    def _plan(self, wish: MusicotOptions, clock: Clock) -> Plan:
        """The plan of a wish: the one it holds, or a new one."""
        if wish.plan is not None:
            with clock("plan"):
                return self.check_plan(wish.plan, "the plan")
        wish = replace(wish, prompt=wish.words)
        prompt, files = wish.prompt, files_of(wish.reference)
        if prompt is not None and not prompt.strip():
            raise MusicotError("the prompt is empty; describe the music, e.g. 'solo piano, calm'")
        if prompt is None and wish.reference is None:
            raise MusicotError("nothing to plan; give a prompt or a reference")
        if wish.reference is None and wish.reference_weights is not None:
            raise MusicotError("there are reference weights, but no reference")
        vector = None
        if prompt is not None:
            with clock("text"):
                vector = self.text_vector(prompt)
        with clock("plan"):
            if wish.reference is None:
                plan = self._drawn(vector, wish)
            else:
                plan = self._borrowed(vector, files, wish)
            self._tell(plan)
            return self.check_plan(self._harmonised(plan, wish), "the plan")

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
                raise MusicotError(f"{self.name} knows no chords; leave out key and chords")
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

    def _drawn(self, vector: np.ndarray, wish: MusicotOptions) -> Plan:
        """A plan that the LM draws under the prompt's vector (dim,)."""
        segments = self.segments(wish.duration)
        tags = self.conditioning.song_tags(vector, wish.tags, wish.prompt)
        if wish.progress:
            wish.progress("thoughts", 0, segments)
        codes = self.draw_thoughts(
            vector,
            segments=segments,
            seed=wish.seed,
            words=wish.prompt,
            tags=tags,
            lyrics=wish.lyrics or "",
            thought_temperature=wish.thought_temperature,
            thought_guidance=wish.thought_guidance,
            top_k=wish.top_k,
            top_p=wish.top_p,
        )[0]
        if wish.progress:
            wish.progress("thoughts", segments, segments)
        origins = [Origin("drawn", wish.prompt, seed=wish.seed)] * segments
        return self._made(codes, vector, tags, origins, wish)

    def _borrowed(
        self, vector: np.ndarray | None, files: Sequence[str | Path], wish: MusicotOptions
    ) -> Plan:
        """A plan of the thoughts of a reference, under the prompt's vector or the reference's."""
        segments, step = self.segments(wish.duration), self.semantic_lm.config.thought_seconds
        given = wish.reference_weights
        weights = [1.0] * len(files) if given is None else items(given) or [given]
        embeddings = blended(self, files, weights, step, segments)  # (segments, dim)
        vector = unit(embeddings.mean(0)) if vector is None else vector
        names = " + ".join(Path(file).name for file in files)
        origin = Origin("audio", names, file=str(files[0]) if len(files) == 1 else None)
        words = f"{wish.bpm:g} BPM" if wish.prompt is None and wish.bpm else wish.prompt
        tags = self.conditioning.song_tags(vector, wish.tags, words)
        return self._made(quantised(self, embeddings), vector, tags, [origin] * segments, wish)

    def _made(
        self,
        codes: np.ndarray,
        vector: np.ndarray,
        tags: Sequence[str],
        origins: Sequence[Origin],
        wish: MusicotOptions,
    ) -> Plan:
        return Plan(
            codes=codes,
            embeddings=np.zeros((0, 0), dtype=np.float32),
            vector=vector,
            duration=float(wish.duration),
            thought_seconds=self.semantic_lm.config.thought_seconds,
            seed=wish.seed,
            prompt=wish.prompt,
            tags=tuple(tags),
            lyrics=wish.lyrics or "",
            origins=tuple(origins),
            space=self.space.id,
        )

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
        asked = number("duration", duration, unit="s")
        wish = MusicotOptions.of(
            self.sampling, prompt, seed=seed, lyrics=lyrics, tags=tags, key=key, chords=chords
        )
        prompt, audio = wish.prompt, checked_audio(audio)
        frames, rate = length_of(audio)
        name = "the audio" if isinstance(audio, tuple) else str(audio)
        lasts = frames / rate
        duration = lasts if asked is None else asked
        if not SHORTEST <= duration <= LONGEST:
            raise MusicotError(
                f"{name}: {duration:.4g} s; a plan covers {SHORTEST:g} to {LONGEST:g} s, so pass a "
                "duration"
            )
        if lasts < duration - 0.1:
            raise MusicotError(
                f"{name} lasts {lasts:.4g} s, less than the {duration:g} s asked for"
            )
        step, segments = self.semantic_lm.config.thought_seconds, self.segments(duration)
        windows = np.minimum(np.arange(segments), window_count(audio, step) - 1)
        embeddings = embed_windows(self, audio, step, windows.tolist())  # (segments, dim)
        vector = unit(embeddings.mean(0)) if prompt is None else self.text_vector(prompt)
        file = None if isinstance(audio, tuple) else str(audio)
        origins = [Origin("audio", file=file, start=float(window * step)) for window in windows]
        wish = replace(wish, duration=duration)
        song_tags = self.conditioning.song_tags(vector, wish.tags, prompt)
        plan = self._made(quantised(self, embeddings), vector, song_tags, origins, wish)
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
        key, about = stage_key(seed, "thoughts"), MusicotOptions.about()
        thought_temperature = checked(about["thought_temperature"], thought_temperature)
        thought_guidance = checked(about["thought_guidance"], thought_guidance)
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

    def check_plan(self, plan: Plan, where: str) -> Plan:
        """The plan with its vectors, if it is one that this model can render; MusicotError
        otherwise. A plan without thoughts (`Plan.without_thoughts`) is rendered from its prompt.
        """
        self.space.require(plan.space, where)
        config, rvq = self.semantic_lm.config, self.rvq.config
        codes = plan.codes
        if codes.ndim != 2 or codes.shape[0] != rvq.codebooks:
            raise MusicotError(
                f"{where}: codes have shape {codes.shape}, expected ({rvq.codebooks}, segments)"
            )
        if plan.thought_seconds != config.thought_seconds:
            raise MusicotError(
                f"{where}: a thought covers {plan.thought_seconds:g} s, of this model "
                f"{config.thought_seconds:g} s"
            )
        bare = not codes.shape[1]
        if not bare and (codes.min() < 0 or codes.max() >= rvq.codebook_size):
            raise MusicotError(f"{where}: codes must lie in 0..{rvq.codebook_size - 1}")
        if plan.vector.shape != (config.clap_dim,) or not np.isfinite(plan.vector).all():
            raise MusicotError(f"{where}: vector must hold {config.clap_dim} finite numbers")
        if not SHORTEST <= plan.duration <= LONGEST:
            raise MusicotError(f"{where}: duration must lie in {SHORTEST:g} to {LONGEST:g} s")
        if not bare and self.segments(plan.duration) != codes.shape[1]:
            raise MusicotError(
                f"{where}: {codes.shape[1]} thoughts do not cover {plan.duration:g} s; one covers "
                f"{config.thought_seconds:g} s"
            )
        self.conditioning.tags(plan.vector, plan.tags)
        harmony.check(plan, where)
        plan = replace(plan, space=self.space.id)
        if bare:
            return plan.with_vectors(unit(plan.vector)[None], self)
        return plan.with_vectors(vectors_of(self, codes), self)


def stage_key(seed: int, stage: str) -> mx.array:
    """A random key of its own for each stage of a seed."""
    stages = ("thoughts", "audio", "diffusion")
    return mx.random.split(mx.random.key(seed), len(stages))[stages.index(stage)]


def _default(value: Any, default: Any) -> Any:
    return default if value is None else value
