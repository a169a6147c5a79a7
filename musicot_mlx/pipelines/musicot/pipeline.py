"""MusiCoT, from a prompt to a song: thoughts, semantic codes, latents, waveform (arXiv 2503.19611).

    prompt -> CLAP vector and tags -> LM writes thoughts -> LM writes audio tokens -> diffusion ->
    VAE

Everything that belongs to one run (caches, random keys, timings) lives in the run, so one loaded
model serves many.
"""

import difflib
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypedDict, Unpack

import mlx.core as mx
import numpy as np

from musicot_mlx import __version__
from musicot_mlx.audio.files import audio_frames
from musicot_mlx.errors import MusicotError
from musicot_mlx.generation.diffusion import sample_windows
from musicot_mlx.generation.semantic import Condition, audio_many, plan_many
from musicot_mlx.models.clap import Clap, ClapConfig
from musicot_mlx.models.rvq import ResidualVQ, RVQConfig
from musicot_mlx.models.semantic_diffusion import DiffusionConfig, SemanticDiffusion
from musicot_mlx.models.semantic_lm import SemanticLM, SemanticLMConfig
from musicot_mlx.models.semantic_tokenizer import SemanticTokenizer, SemanticTokenizerConfig
from musicot_mlx.models.vae import VAE, VAEConfig
from musicot_mlx.pipelines.candidates import MOST, candidate_seeds, score
from musicot_mlx.pipelines.clap import ClapEmbedder
from musicot_mlx.pipelines.musicot import harmony
from musicot_mlx.pipelines.musicot.continuation import SEAM_SECONDS, Kept, join, kept_of
from musicot_mlx.pipelines.musicot.plan import Origin, Plan
from musicot_mlx.pipelines.musicot.thoughts import (
    Audio,
    blended,
    hear,
    quantised,
    unit,
    vectors_of,
    window_count,
)
from musicot_mlx.pipelines.parts import AdapterPath, load_parts
from musicot_mlx.pipelines.song import Song, Stream, soft_limit
from musicot_mlx.tokens.progressions import named_bars, named_key, usual
from musicot_mlx.tokens.tags import alone, chosen_tags
from musicot_mlx.tokens.tempo import asked_tempo
from musicot_mlx.weights.hub import resolve

Progress = Callable[[str, int, int], None]

PARTS: dict[str, tuple[type, type]] = {
    "clap": (Clap, ClapConfig),
    "rvq": (ResidualVQ, RVQConfig),
    "semantic_lm": (SemanticLM, SemanticLMConfig),
    "semantic_tokenizer": (SemanticTokenizer, SemanticTokenizerConfig),
    "diffusion": (SemanticDiffusion, DiffusionConfig),
    "vae": (VAE, VAEConfig),
}
SHORTEST, LONGEST = 1.0, 300.0  # seconds
Reference = str | Path | Sequence[str | Path]  # one file or several


def load(
    name_or_path: str | Path = "musicot-mini",
    *,
    adapter_path: AdapterPath = None,
    name: str | None = None,
) -> "MusicotPipeline":
    """A model ready to generate: an embedded name, a local MLX folder, or a Hub id.

    adapter_path: one or several folders from `musicot lora`; `folder:0.5` counts half.
    name: what the settings of a song call the model, name_or_path if None.
    Raises MusicotError that says what is wrong with the folder and what to do.
    """
    called = name or str(name_or_path)
    loaded = load_parts(
        resolve(name_or_path), PARTS, model_type="musicot", name=called, adapter_path=adapter_path
    )
    networks = dict(loaded.networks)
    return MusicotPipeline(
        embedder=ClapEmbedder(networks.pop("clap"), loaded.file("tokenizer.json")),
        sampling=loaded.section("sampling", Sampling),
        usual_harmony=loaded.section("usual_harmony", UsualHarmony),
        name=called,
        adapters=loaded.adapters,
        adapter_keys=loaded.adapter_keys,
        **networks,
    )


@dataclass(frozen=True)
class Sampling:
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


# What a call may leave to the model, and what it may not.
_SAMPLED = tuple(f.name for f in fields(Sampling) if f.name != "tag_threshold")
_DEFAULTS: dict[str, Any] = {
    **dict.fromkeys(_SAMPLED),
    "top_k": 0,
    "top_p": 1.0,
    "duration": 30.0,
    "seed": 0,
    "candidates": 1,
    "reference_weights": None,
    "lyrics": None,
    "tags": None,
    "key": None,
    "chords": None,
}
_PLANNING = (
    *("duration", "reference", "reference_weights", "lyrics", "tags", "key", "chords"),
    *("thought_temperature", "thought_guidance", "top_k", "top_p"),
)


class RenderOptions(TypedDict, total=False):
    """Options of `generate` and `stream`; what is left out, or None, takes the model's default."""

    plan: Plan | None  # render this plan; the options that plan anew are then without effect
    keep: Song | str | Path | None  # earlier song, kept up to the first thought that changed
    duration: float  # seconds, 1 to 300
    seed: int
    candidates: int  # songs drawn, of which the nearest to prompt and plan is kept
    reference: Reference | None  # audio files whose thoughts are borrowed (section 5.4)
    reference_weights: Sequence[float] | None  # one for each; None: alike
    lyrics: str | None
    tags: Sequence[str] | None  # those of the model; None: every tag near the prompt (eq 5)
    key: str | None  # "D minor"; None: the one the prompt names, or one of songs like it
    chords: str | Sequence[str] | None  # "Am F C G", a chord a bar; "none" leaves them open
    thought_temperature: float | None
    audio_temperature: float | None
    thought_guidance: float | None  # lambda_1
    audio_guidance: float | None  # lambda_2
    unconditional: str | None  # "without_thoughts" (eq 8 as printed) or "with_thoughts"
    thought_bias: float | None  # how much audio tokens lean to those that go with their thought
    steps: int | None  # of the diffusion
    sampler: str | None  # "euler" or "heun"; "dpmpp" or "dpmpp_sde" for a v model
    diffusion_guidance: float | None
    top_k: int  # 0: all
    top_p: float
    progress: Progress | None  # called as progress(stage, done, total)


@dataclass
class Take:
    """What one run leaves behind besides sound."""

    plan: Plan
    codes: list[np.ndarray] = field(default_factory=list)
    timings: dict[str, float] = field(default_factory=dict)

    def timed(self, stage: str, items: Iterator[Any]) -> Iterator[Any]:
        """Pass items on; add the time each took to `stage`."""
        while True:
            began = time.perf_counter()
            item = next(items, None)
            spent = time.perf_counter() - began
            self.timings[stage] = self.timings.get(stage, 0.0) + spent
            if item is None:
                return
            yield item


class MusicotPipeline:
    """The whole method on loaded networks. Options are keyword-only; None takes the model's
    default.
    """

    family = "musicot"
    options = frozenset(RenderOptions.__annotations__)

    def __init__(
        self,
        *,
        embedder: ClapEmbedder,
        rvq: ResidualVQ,
        semantic_lm: SemanticLM,
        semantic_tokenizer: SemanticTokenizer,
        diffusion: SemanticDiffusion,
        vae: VAE,
        sampling: Sampling,
        usual_harmony: UsualHarmony | None = None,
        name: str,
        adapters: Sequence[str] = (),
        adapter_keys: int = 0,
    ) -> None:
        self.clap, self.rvq, self.semantic_lm = embedder, rvq, semantic_lm
        self.semantic_tokenizer, self.diffusion, self.vae = semantic_tokenizer, diffusion, vae
        self.sampling, self.name = sampling, name
        self.usual_harmony = usual_harmony or UsualHarmony()
        self.adapters, self.adapter_keys = tuple(adapters), adapter_keys  # keys applied
        self.decode_latents = 512  # at once; --max-memory-gb may take fewer

    @property
    def sample_rate(self) -> int:
        """Hz of the waveforms made."""
        return self.vae.config.sample_rate

    def plan(
        self,
        prompt: str | None = None,
        *,
        duration: float = 30.0,
        seed: int = 0,
        reference: Reference | None = None,
        reference_weights: Sequence[float] | None = None,
        lyrics: str | None = None,
        tags: Sequence[str] | None = None,
        key: str | None = None,
        chords: str | Sequence[str] | None = None,
        thought_temperature: float | None = None,
        thought_guidance: float | None = None,
        top_k: int = 0,
        top_p: float = 1.0,
        progress: Progress | None = None,
    ) -> Plan:
        """The thoughts of a song of `duration` seconds: drawn by the LM, or those of a reference.

        The reference's CLAP-RVQ codes stand in the thought slot (section 5.4), and nothing else of
        it goes into the song; without a prompt its CLAP vector is the condition too. Several files
        are blended by weight (alike, where there are no weights), each followed from its beginning
        to its end.

        key and chords (Plan.with_chords says how they are written) go into the plan of a model that
        knows harmony; what is not given is what the prompt names, or what songs like it have, drawn
        by the seed. Raises MusicotError for an empty prompt, an unknown tag, a bad file, a key or
        chords that are none or that the model has no ear for.
        """
        if not SHORTEST <= duration <= LONGEST:
            raise MusicotError(f"duration is {duration:g} s; ask for {SHORTEST:g} to {LONGEST:g} s")
        if prompt is not None and not prompt.strip():
            raise MusicotError("the prompt is empty; describe the music, e.g. 'solo piano, calm'")
        if prompt is None and reference is None:
            raise MusicotError("nothing to plan; give a prompt or a reference")
        segments, step = self.segments(duration), self.semantic_lm.config.thought_seconds
        if reference is None:
            if reference_weights is not None:
                raise MusicotError("there are reference weights, but no reference")
            vector = self.clap.embed_text([prompt])[0]
            origin = Origin("drawn", prompt, seed=seed)
        else:
            files = _references(reference)
            weights = reference_weights or [1.0] * len(files)
            heard = blended(self, files, weights, step, segments)  # (segments, dim)
            vector = unit(heard.mean(0)) if prompt is None else self.clap.embed_text([prompt])[0]
            names = " + ".join(Path(file).name for file in files)
            origin = Origin("audio", names, file=str(files[0]) if len(files) == 1 else None)
        chosen = self._song_tags(vector, tags, prompt)
        if reference is not None:
            codes = quantised(self, heard)
        else:
            if progress:
                progress("thoughts", 0, segments)
            codes = self.draw_thoughts(
                vector,
                segments=segments,
                seed=seed,
                tags=chosen,
                lyrics=lyrics or "",
                thought_temperature=thought_temperature,
                thought_guidance=thought_guidance,
                top_k=top_k,
                top_p=top_p,
            )[0]
            if progress:
                progress("thoughts", segments, segments)
        plan = Plan(
            codes=codes,
            embeddings=np.zeros((0, 0), dtype=np.float32),
            vector=vector,
            duration=float(duration),
            thought_seconds=step,
            seed=seed,
            prompt=prompt,
            tags=tuple(chosen),
            lyrics=lyrics or "",
            origins=(origin,) * segments,
        )
        return self.check_plan(self._harmonised(plan, key, chords), "the plan")

    @property
    def knows_harmony(self) -> bool:
        """Whether key and chords mean anything to the model."""
        return self.semantic_lm.config.harmony or self.diffusion.config.harmony

    def _harmonised(self, plan: Plan, key: str | None, chords: str | Sequence[str] | None) -> Plan:
        """The plan with the key and chords asked for, else those that its prompt names, else those
        of songs like it.
        """
        if not self.knows_harmony:
            if key is not None or chords is not None:
                raise MusicotError(f"{self.name} knows no chords; leave out key and chords")
            return plan
        bpm = asked_tempo(plan.tags, [plan.prompt])
        if not bpm:  # nothing tells it a tempo, but chords must change at some pace
            usual_tempo = self.semantic_lm.usual_tempo(plan.vector, plan.prompt)
            bpm = asked_tempo([usual_tempo] if usual_tempo else [], ())
        told = harmony.wanted_key(key) or named_key(plan.prompt)
        bars = named_bars(plan.prompt, told) if chords is None else ()
        if chords is not None:
            bars = harmony.wanted_bars(chords, told)
        elif not bars:
            rows = self.usual_harmony.progressions
            told, bars = usual(rows, plan.tags, plan.prompt, plan.seed, key=told)
        plan = replace(plan, bpm=bpm)
        bars = harmony.fitted(plan, bars)
        return replace(plan, key=harmony.named(told, bars), chords=bars)

    def plan_from_audio(
        self,
        audio: Audio,
        prompt: str | None = None,
        *,
        duration: float | None = None,
        seed: int = 0,
        lyrics: str | None = None,
        tags: Sequence[str] | None = None,
    ) -> Plan:
        """The thoughts that audio itself holds, at its own pace: of all of it, or its beginning.

        audio: a file, or (waveform, rate in Hz). Without a prompt its CLAP vector is the condition.
        Raises MusicotError for audio that can't be read, or is shorter than `duration`.
        """
        frames, rate = (
            (len(audio[0]), audio[1]) if isinstance(audio, tuple) else audio_frames(audio)
        )
        name = "the audio" if isinstance(audio, tuple) else str(audio)
        lasts, duration = frames / rate, _or(duration, frames / rate)
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
        heard = hear(self, audio, step, windows.tolist())  # (segments, dim)
        vector = unit(heard.mean(0)) if prompt is None else self.clap.embed_text([prompt])[0]
        file = None if isinstance(audio, tuple) else str(audio)
        origins = [Origin("audio", file=file, start=float(window * step)) for window in windows]
        plan = Plan(
            codes=quantised(self, heard),
            embeddings=np.zeros((0, 0), dtype=np.float32),
            vector=vector,
            duration=float(duration),
            thought_seconds=step,
            seed=seed,
            prompt=prompt,
            tags=tuple(self._song_tags(vector, tags, prompt)),
            lyrics=lyrics or "",
            origins=tuple(origins),
        )
        return self.check_plan(plan, "the plan")

    def segments(self, duration: float) -> int:
        """Thoughts of a song of `duration` seconds."""
        return self.semantic_lm.config.segments(self._frames(duration))

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
        given: np.ndarray | None = None,
        thought_temperature: float | None = None,
        thought_guidance: float | None = None,
        top_k: int = 0,
        top_p: float = 1.0,
    ) -> np.ndarray:
        """Codes from the LM, int32 (songs, levels, segments), under a CLAP vector (dim,) and the
        tags given or those that `words` call for.

        given: codes (levels, segments) that stay, -1 where free. Several songs draw from parts of
        the seed, in one batch.
        """
        condition = self._condition(vector, self._tags(vector, tags, words), lyrics)
        key = _key(seed, "thoughts")
        return plan_many(
            self.semantic_lm,
            [condition] * songs,
            segments=segments,
            temperature=_or(thought_temperature, self.sampling.thought_temperature),
            guidance_scale=_or(thought_guidance, self.sampling.thought_guidance),
            keys=[key] if songs == 1 else list(mx.random.split(key, songs)),
            top_k=top_k,
            top_p=top_p,
            given=given,
        )

    def check_plan(self, plan: Plan, where: str) -> Plan:
        """The plan with its vectors, if it is one that this model can render; MusicotError
        otherwise. A plan without thoughts (`Plan.without_thoughts`) is heard as its prompt.
        """
        config, rvq = self.semantic_lm.config, self.rvq.config
        codes = plan.codes
        if codes.ndim != 2 or codes.shape[0] != rvq.codebooks:
            raise MusicotError(
                f"{where}: codes have shape {codes.shape}, expected ({rvq.codebooks}, segments)"
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
        self._tags(plan.vector, plan.tags)
        harmony.check(plan, where)
        if bare:
            return plan.with_vectors(unit(plan.vector)[None], self)
        return plan.with_vectors(vectors_of(self, codes), self)

    def generate(self, prompt: str | None = None, **options: Unpack[RenderOptions]) -> Song:
        """Prompt to song: waveform, codes, plan and the settings that make it again.

        With `candidates` several songs are drawn in one batch, and the one nearest to its prompt
        and plan is kept: it is the song that its own seed, in the settings, makes alone. Raises
        MusicotError for input that does not fit, TypeError for an unknown option.
        """
        wanted = {k: v for k, v in options.items() if k != "progress"}
        settings = self.settings(prompt, **wanted)
        if settings["candidates"] > 1:
            return self._best_of(prompt, **options)
        take, chunks = self._render(prompt, stages_in_turn=True, **options)
        return self._song(take, self._joined(take, chunks), settings)

    def _joined(self, take: Take, chunks: Iterator[np.ndarray]) -> np.ndarray:
        """The song's one array, filled as it is made: joining a list would hold the song twice."""
        song = np.empty(
            (round(take.plan.duration * self.sample_rate), self.vae.config.audio_channels),
            dtype=np.float32,
        )
        made = 0
        for chunk in chunks:
            song[made : made + len(chunk)] = chunk
            made += len(chunk)
        return song[:made]

    def _song(self, take: Take, waveform: np.ndarray, settings: dict[str, Any]) -> Song:
        codes = np.concatenate(take.codes)[None].astype(np.int32)
        return Song(waveform, self.sample_rate, codes, take.plan, settings, take.timings)

    def _best_of(
        self,
        prompt: str | None,
        *,
        candidates: int,
        seed: int = 0,
        plan: Plan | None = None,
        progress: Progress | None = None,
        **options: Any,
    ) -> Song:
        """Of several songs the one nearest to its prompt and plan; the scores are in its settings.

        Audio tokens are drawn in one batch. The songs are rendered from them one after another:
        memory does not grow with the candidates, and each sounds as it does alone.
        """
        began = time.perf_counter()
        seeds = candidate_seeds(seed, candidates)
        earlier = self._kept(options.get("keep"), plan)
        if plan is None:
            planning = {name: options[name] for name in _PLANNING if name in options}
            plans = [self.plan(prompt, seed=own, **planning) for own in seeds]
        else:
            plans = [self.check_plan(plan, "the plan")] * candidates
        planned = time.perf_counter()
        blocks, drawn = [], 0
        for block in self._draw(plans, seeds, kept=earlier, **options):  # (songs, codes)
            blocks.append(block)
            drawn += block.shape[1]
            if progress:
                progress("audio tokens", drawn, self._frames(plans[0].duration))
        timings = {"plan": planned - began, "tokens": time.perf_counter() - planned}

        def render(k: int, tokens: np.ndarray) -> tuple[Take, np.ndarray]:
            def report(stage: str, done: int, total: int) -> None:
                if progress and stage == "diffusion":
                    progress(stage, k * total + done, candidates * total)

            take, chunks = self._render(
                prompt,
                stages_in_turn=True,
                tokens=tokens,
                seed=seeds[k],
                plan=plans[k],
                progress=report,
                **options,
            )
            return take, self._joined(take, chunks)

        scores, best = [], None
        for k, tokens in enumerate(np.concatenate(blocks, axis=1)):
            take, waveform = render(k, tokens)
            for stage, spent in take.timings.items():
                timings[stage] = timings.get(stage, 0.0) + spent
            scores.append(
                score(
                    self.clap,
                    waveform,
                    self.sample_rate,
                    seed=seeds[k],
                    prompt=plans[k].vector,
                    thoughts=plans[k].embeddings,
                )
            )
            if best is None or scores[k].score > scores[best[0]].score:
                best = k, take, waveform
        kept, take, waveform = best
        # A batch rounds otherwise than a song alone. Where that changed a token, what is kept is
        # the song that the seed makes alone, so that the settings keep their word.
        alone = np.concatenate(
            list(self._draw(plans[kept : kept + 1], [seeds[kept]], kept=earlier, **options)), 1
        )
        if (alone[0] != np.concatenate(take.codes)).any():
            take, waveform = render(kept, alone[0])
        take.timings = timings
        settings = self.settings(prompt, **options, plan=plan, seed=seeds[kept])
        settings["chosen"] = {"of_seed": seed, "scores": [each.to_dict() for each in scores]}
        return self._song(take, waveform, settings)

    def _draw(
        self,
        plans: Sequence[Plan],
        seeds: Sequence[int],
        *,
        audio_temperature: float | None = None,
        audio_guidance: float | None = None,
        unconditional: str | None = None,
        thought_bias: float | None = None,
        top_k: int = 0,
        top_p: float = 1.0,
        kept: Kept | None = None,
        **_: Any,
    ) -> Iterator[np.ndarray]:
        """Audio tokens of songs of one length in one batch: blocks (songs, codes), first those that
        are kept.
        """
        start = None if kept is None else np.tile(kept.codes, (len(plans), 1))
        blocks = audio_many(
            self.semantic_lm,
            [self._song_condition(plan) for plan in plans],
            np.stack([plan.codes for plan in plans]),
            frames=self._frames(plans[0].duration),
            temperature=_or(audio_temperature, self.sampling.audio_temperature),
            guidance_scale=_or(audio_guidance, self.sampling.audio_guidance),
            unconditional=_or(unconditional, self.sampling.unconditional),
            thought_bias=_or(thought_bias, self.sampling.thought_bias),
            keys=[_key(seed, "audio") for seed in seeds],
            top_k=top_k,
            top_p=top_p,
            start=start,
            changes=self._changes(plans[0], len(plans)),
        )
        return blocks if start is None else itertools.chain([start], blocks)

    def _changes(self, plan: Plan, songs: int) -> dict[int, list[Condition]]:
        """What the LM is asked for from a segment on: where a segment was set to words, these and
        its own thought, as in training, where the vector is that of audio; then the song again.
        """
        changes: dict[int, list[Condition]] = {}
        words = plan.words()
        for segment, text in enumerate(words):
            if text is not None:
                said = (text, plan.prompt, *plan.tags)  # the first to tell a tempo counts
                tags = self._tags(self.clap.embed_text([text])[0], None, *said)
                own = self._condition(plan.embeddings[segment], tags, plan.lyrics, *said)
                changes[segment] = [own] * songs
            elif segment and words[segment - 1] is not None:
                changes[segment] = [self._song_condition(plan)] * songs
        return changes

    def _kept(self, keep: Song | str | Path | None, plan: Plan | None) -> Kept | None:
        """What stays of an earlier song."""
        if keep is None:
            return None
        if plan is None:
            raise MusicotError("an earlier song is kept where an edited plan says; pass the plan")
        rate = self.semantic_lm.config.audio_frame_rate
        return kept_of(keep, plan, self, sample_rate=self.sample_rate, frame_rate=rate)

    def stream(self, prompt: str | None = None, **options: Unpack[RenderOptions]) -> Stream:
        """Chunks of waveform, float32 (frames, channels), while later audio is still being made.

        The plan is made at the call, the rest as chunks are taken; joined, they are the song that
        `generate` makes. Raises as `generate` does.
        """
        take, chunks = self._render(prompt, stages_in_turn=False, **options)
        return Stream(take.plan, take.codes, chunks)

    def settings(self, prompt: str | None = None, **options: Any) -> dict[str, Any]:
        """All that makes a song again, as JSON: what the sidecar of a song holds."""
        plan, reference = options.pop("plan", None), options.pop("reference", None)
        keep = options.pop("keep", None)
        for name in options:
            if name not in _DEFAULTS:
                near = difflib.get_close_matches(name, list(RenderOptions.__annotations__), n=1)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise TypeError(f"unknown option {name!r}{hint}")
        values = {**_DEFAULTS, **options}
        values["candidates"] = _or(values["candidates"], 1)
        if values["candidates"] not in range(1, MOST + 1):
            raise MusicotError(f"candidates is {values['candidates']}; ask for 1 to {MOST}")
        for name in _SAMPLED:
            if values[name] is None:
                values[name] = getattr(self.sampling, name)
        if plan is not None:
            values |= {"plan": plan.to_dict(), "duration": plan.duration}
            prompt = plan.prompt if prompt is None else prompt
        if reference is not None:
            files = [str(file) for file in _references(reference)]
            values["reference"] = files[0] if len(files) == 1 else files
        if keep is not None:
            values["keep"] = "a song in memory" if isinstance(keep, Song) else str(keep)
        if self.adapters:
            values["adapter_path"] = list(self.adapters)
        for name in ("tags", "reference_weights"):
            values[name] = None if values[name] is None else list(values[name])
        return {**values, "prompt": prompt, "model": self.name, "version": __version__}

    # --- one run ----------------------------------------------------------------------------------

    def _render(
        self,
        prompt: str | None,
        *,
        stages_in_turn: bool,
        plan: Plan | None = None,
        keep: Song | str | Path | None = None,
        duration: float = 30.0,
        seed: int = 0,
        reference: Reference | None = None,
        reference_weights: Sequence[float] | None = None,
        lyrics: str | None = None,
        tags: Sequence[str] | None = None,
        key: str | None = None,
        chords: str | Sequence[str] | None = None,
        thought_temperature: float | None = None,
        audio_temperature: float | None = None,
        thought_guidance: float | None = None,
        audio_guidance: float | None = None,
        unconditional: str | None = None,
        thought_bias: float | None = None,
        steps: int | None = None,
        sampler: str | None = None,
        diffusion_guidance: float | None = None,
        top_k: int = 0,
        top_p: float = 1.0,
        candidates: int | None = 1,
        tokens: np.ndarray | None = None,
        progress: Progress | None = None,
    ) -> tuple[Take, Iterator[np.ndarray]]:
        """The plan, made at once, and the chunks of its render: each stage pulls on the one before
        it.

        `stages_in_turn` finishes each stage before the next begins, which is quickest to the whole
        song; otherwise a chunk is handed on as soon as it can be. tokens: audio tokens (frames,)
        that are already drawn.
        """
        if _or(candidates, 1) != 1:
            raise MusicotError("a stream is heard before it can be chosen; ask for 1 candidate")
        began = time.perf_counter()
        kept = self._kept(keep, plan)
        if plan is None:
            plan = self.plan(
                prompt,
                duration=duration,
                seed=seed,
                reference=reference,
                reference_weights=reference_weights,
                lyrics=lyrics,
                tags=tags,
                key=key,
                chords=chords,
                thought_temperature=thought_temperature,
                thought_guidance=thought_guidance,
                top_k=top_k,
                top_p=top_p,
                progress=progress,
            )
        else:
            plan = self.check_plan(plan, "the plan")
        take = Take(plan, timings={"plan": time.perf_counter() - began})
        report = progress or (lambda stage, done, total: None)
        frames = self._frames(plan.duration)
        blocks: Iterator[np.ndarray] = iter([tokens])
        if tokens is None:
            rows = self._draw(
                [plan],
                [seed],
                audio_temperature=audio_temperature,
                audio_guidance=audio_guidance,
                unconditional=unconditional,
                thought_bias=thought_bias,
                top_k=top_k,
                top_p=top_p,
                kept=kept,
            )
            blocks = (row[0] for row in rows)

        def codes() -> Iterator[np.ndarray]:
            for block in take.timed("tokens", blocks):
                take.codes.append(block)
                report("audio tokens", sum(map(len, take.codes)), frames)
                yield block

        samples = round(plan.duration * self.sample_rate)
        first, before = self._latents_before(kept)
        latents = sample_windows(
            self.diffusion,
            list(codes()) if stages_in_turn else codes(),
            plan.vectors(),
            plan.embeddings,
            frames=-(-samples // self.vae.config.samples_per_latent),
            duration=plan.duration,
            thought_seconds=plan.thought_seconds,
            steps=_or(steps, self.sampling.steps),
            sampler=_or(sampler, self.sampling.sampler),
            guidance_scale=_or(diffusion_guidance, self.sampling.diffusion_guidance),
            key=_key(seed, "diffusion"),
            chords=plan.chord_changes(),
            first=first,
            made=before,
            progress=lambda done, total: report("diffusion", done, total),
        )
        if stages_in_turn:
            latents = iter(list(take.timed("diffusion", latents)))

        def chunks() -> Iterator[np.ndarray]:
            made = 0
            stage = "decode" if stages_in_turn else "diffusion and decode"
            ahead = latents if before is None else itertools.chain([before], latents)
            pieces = self.vae.decode_stream(ahead, longest=self.decode_latents)
            decoded = map(np.array, take.timed(stage, pieces))
            if kept is not None:
                per_latent = self.vae.config.samples_per_latent
                decoded = join(
                    kept.waveform[: first * per_latent],
                    decoded,
                    before=before.shape[1] * per_latent,
                    seam=round(SEAM_SECONDS * self.sample_rate),
                )
            for chunk in decoded:
                chunk = chunk[: samples - made]
                chunk = soft_limit(chunk) if kept is None else chunk  # join has done it
                made += len(chunk)
                report("waveform", made, samples)
                yield chunk

        return take, chunks()

    def _latents_before(self, kept: Kept | None) -> tuple[int, mx.array | None]:
        """The latent frame that new sound begins with, and the latents that lead up to it.

        These are of the earlier sound itself, so it may come from a file: as many as the first new
        window and the decoder look back on. Beyond the cut the encoder hears how it went on then.
        """
        if kept is None:
            return 0, None
        per_latent, reach = self.vae.config.samples_per_latent, self.vae.config.decoder_reach
        first = int(kept.seconds * self.sample_rate / per_latent + 1e-6)
        low = max(0, first - self.diffusion.config.window_frames - 2 * reach)
        waveform = kept.waveform[low * per_latent : (first + 2 * reach) * per_latent]
        if waveform.shape[1] != self.vae.config.audio_channels:
            raise MusicotError(
                f"the song to keep has {waveform.shape[1]} channels, this model makes "
                f"{self.vae.config.audio_channels}"
            )
        latents = self.vae.encode(mx.array(waveform)[None]).mean.astype(mx.float32)
        return first, latents[:, : first - low]

    def _frames(self, duration: float) -> int:
        """Audio tokens of `duration` seconds."""
        return max(1, round(duration * self.semantic_lm.config.audio_frame_rate))

    def _condition(
        self, vector: np.ndarray, tags: Sequence[str], lyrics: str, *words: str | None
    ) -> Condition:
        """Tags, lyrics and the tempo of words or tags as the language model takes them."""
        vocabulary = self.semantic_lm.config.vocabulary
        names = self.semantic_lm.config.tags

        def encode(text: str) -> list[int]:
            return self.clap.tokenizer.encode(text, add_special_tokens=False).ids

        return Condition(
            clap=vector,
            tags=[vocabulary.tag_id(names.index(tag)) for tag in tags],
            lyrics=vocabulary.lyrics_ids(lyrics, encode),
            bpm=asked_tempo(tags, words),
        )

    def _song_condition(self, plan: Plan) -> Condition:
        condition = self._condition(plan.vector, plan.tags, plan.lyrics, plan.prompt)
        return replace(condition, chords=plan.chord_changes())

    @cached_property
    def _tag_vectors(self) -> np.ndarray:
        """CLAP text embeddings of the model's tags, (tags, dim); constant for a model."""
        return self.clap.embed_text(list(self.semantic_lm.config.tags))

    def _song_tags(
        self, vector: np.ndarray, wanted: Sequence[str] | None, prompt: str | None
    ) -> list[str]:
        """The tags of a song; where none is asked for and no tempo named, that of songs like it.

        But an instrument alone is left its own time: a small model hears a beat as drums.
        """
        tags, names = self._tags(vector, wanted, prompt), self.semantic_lm.config.tags
        free = wanted is not None or alone(names, prompt)
        if not free and not asked_tempo(tags, [prompt]):
            usual = self.semantic_lm.usual_tempo(vector, prompt)
            tags += [usual] if usual else []
        return tags

    def _tags(
        self, vector: np.ndarray, wanted: Sequence[str] | None, *words: str | None
    ) -> list[str]:
        """The tags asked for, or those that the prompt's words or its CLAP vector call for."""
        names = self.semantic_lm.config.tags
        if wanted is None:
            if not names:
                return []
            cosine = self._tag_vectors @ vector
            return chosen_tags(names, cosine, self.sampling.tag_threshold, *words)
        for tag in wanted:
            if tag not in names:
                near = difflib.get_close_matches(tag, names, n=1)
                hint = (
                    f"did you mean {near[0]!r}?" if near else f"it has {', '.join(names) or 'none'}"
                )
                raise MusicotError(f"tag {tag!r} is unknown to this model; {hint}")
        return list(wanted)


def _key(seed: int, stage: str) -> mx.array:
    """A random key of its own for each stage of a seed."""
    stages = ("thoughts", "audio", "diffusion")
    return mx.random.split(mx.random.key(seed), len(stages))[stages.index(stage)]


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value


def _references(reference: Reference) -> list[str | Path]:
    return [reference] if isinstance(reference, (str, Path)) else list(reference)
