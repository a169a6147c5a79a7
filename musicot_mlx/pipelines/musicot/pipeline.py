"""MusiCoT, from a prompt to a song: thoughts, semantic codes, latents, waveform (arXiv 2503.19611).

    prompt -> CLAP vector and tags -> LM writes thoughts -> LM writes audio tokens -> diffusion ->
    VAE

Everything that belongs to one run (caches, random keys, timings) lives in the run, so one loaded
model serves many.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Unpack

import mlx.core as mx
import numpy as np

from musicot_mlx.errors import MusicotError
from musicot_mlx.generation.device import turn
from musicot_mlx.generation.diffusion import sample_windows
from musicot_mlx.generation.semantic import audio_many
from musicot_mlx.models.clap import Clap, ClapConfig
from musicot_mlx.models.rvq import ResidualVQ, RVQConfig
from musicot_mlx.models.semantic_diffusion import DiffusionConfig, SemanticDiffusion
from musicot_mlx.models.semantic_lm import SemanticLM, SemanticLMConfig
from musicot_mlx.models.semantic_tokenizer import SemanticTokenizer, SemanticTokenizerConfig
from musicot_mlx.models.vae import VAE, VAEConfig
from musicot_mlx.pipelines.candidates import Score, best_of, candidate_seeds, score
from musicot_mlx.pipelines.clap import ClapEmbedder
from musicot_mlx.pipelines.documented import documented
from musicot_mlx.pipelines.mastering import Mastering
from musicot_mlx.pipelines.musicot import FAMILY
from musicot_mlx.pipelines.musicot.continuation import SEAM_SECONDS, Kept, join, kept_of
from musicot_mlx.pipelines.musicot.loop import loop_seconds, looped
from musicot_mlx.pipelines.musicot.options import MusicotAsked, MusicotOptions
from musicot_mlx.pipelines.musicot.planning import (
    MusicotPlanner,
    MusicotSampling,
    UsualHarmony,
    stage_key,
)
from musicot_mlx.pipelines.musicot.wording import Wording
from musicot_mlx.pipelines.options import Progress
from musicot_mlx.pipelines.parts import AdapterPath, load_parts
from musicot_mlx.pipelines.plans.plan import Plan
from musicot_mlx.pipelines.song import Clock, Song, Stream, Take, heard, passed
from musicot_mlx.weights.hub import resolve

PARTS: dict[str, tuple[type, type]] = {
    "clap": (Clap, ClapConfig),
    "rvq": (ResidualVQ, RVQConfig),
    "semantic_lm": (SemanticLM, SemanticLMConfig),
    "semantic_tokenizer": (SemanticTokenizer, SemanticTokenizerConfig),
    "diffusion": (SemanticDiffusion, DiffusionConfig),
    "vae": (VAE, VAEConfig),
}


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
        resolve(name_or_path),
        PARTS,
        model_type=FAMILY.model_type,
        name=called,
        adapter_path=adapter_path,
    )
    networks = dict(loaded.networks)
    return MusicotPipeline(
        embedder=ClapEmbedder(
            networks.pop("clap"),
            loaded.file("tokenizer.json"),
            space_name=loaded.config.get("space"),
        ),
        sampling=loaded.section("sampling", MusicotSampling),
        usual_harmony=loaded.section("usual_harmony", UsualHarmony),
        wording=loaded.section("wording", Wording),
        name=called,
        space_name=str(loaded.config.get("space", "clap")),
        adapters=loaded.adapters,
        adapter_keys=loaded.adapter_keys,
        **networks,
    )


class MusicotPipeline(MusicotPlanner):
    """The whole method on loaded networks. Options are keyword-only; None takes the model's
    default.
    """

    family = FAMILY
    options = frozenset(MusicotOptions.about())

    def __init__(
        self,
        *,
        embedder: ClapEmbedder,
        rvq: ResidualVQ,
        semantic_lm: SemanticLM,
        semantic_tokenizer: SemanticTokenizer,
        diffusion: SemanticDiffusion,
        vae: VAE,
        sampling: MusicotSampling,
        usual_harmony: UsualHarmony | None = None,
        wording: Wording | None = None,
        name: str,
        space_name: str = "clap",
        adapters: Sequence[str] = (),
        adapter_keys: int = 0,
    ) -> None:
        super().__init__(
            embedder=embedder,
            rvq=rvq,
            semantic_lm=semantic_lm,
            sampling=sampling,
            usual_harmony=usual_harmony,
            wording=wording,
            name=name,
            space_name=space_name,
        )
        self.semantic_tokenizer, self.diffusion, self.vae = semantic_tokenizer, diffusion, vae
        self.adapters, self.adapter_keys = tuple(adapters), adapter_keys  # keys applied
        self.decode_latents = 512  # at once; --max-memory-gb may take fewer

    @property
    def dtype(self) -> mx.Dtype:
        """What hidden states run in."""
        return self.semantic_lm.dtype

    @property
    def frame_rate(self) -> float:
        """Audio tokens a second."""
        return self.semantic_lm.config.audio_frame_rate

    @property
    def prefill_frames(self) -> int:
        """Audio tokens that a window of the language model looks back on at most."""
        config = self.semantic_lm.config
        return config.first_frame(config.context_segments // 2)

    @property
    def sample_rate(self) -> int:
        """Hz of the waveforms made."""
        return self.vae.config.sample_rate

    @property
    def knows_harmony(self) -> bool:
        """Whether key and chords mean anything to the model."""
        return super().knows_harmony or self.diffusion.config.harmony

    # --- a song -----------------------------------------------------------------------------------

    @documented(MusicotOptions)
    def generate(self, prompt: str | None = None, **options: Unpack[MusicotAsked]) -> Song:
        """Prompt to song: waveform, codes, plan and the settings that make it again.

        options are those of MusicotOptions. With `candidates` several songs are drawn in one batch,
        and the one nearest to its prompt and plan is kept: it is the song that its own seed, in the
        settings, makes alone. Raises MusicotError for input that does not fit, TypeError for an
        unknown option, RunError where there is nothing to be heard, also with another seed.
        """
        wish, clock = MusicotOptions.of(self.sampling, prompt, **options), Clock()  # 1. the wish
        with turn():
            if wish.candidates > 1:
                return self._best_of(wish, clock)
            return heard(lambda wish: self._song(wish, clock), wish)

    def _song(self, wish: MusicotOptions, clock: Clock) -> Song:
        """The song of a wish."""
        plan = self._planned(wish, clock)  # 2. thoughts
        kept = self._kept(wish)
        with clock("tokens"):  # 3. semantic codes
            codes = list(self.audio_tokens(plan, wish, kept))
        return self._rendered(plan, codes, wish, kept, clock)  # 4. diffusion and 5. VAE

    @documented(MusicotOptions)
    def stream(self, prompt: str | None = None, **options: Unpack[MusicotAsked]) -> Stream:
        """Chunks of waveform, float32 (frames, channels), while later audio is still being made.

        The plan is made at the call, the rest as chunks are taken; joined, they are the song that
        `generate` makes with the stream's own `gain`. Raises as `generate` does.
        """
        wish = MusicotOptions.of(self.sampling, prompt, **options)
        wish.require_one_candidate()
        if wish.loop:
            raise MusicotError("a loop begins with what follows its end; make it without streaming")
        return Stream(self._take, wish, self.sample_rate, self._settings)

    def _take(self, wish: MusicotOptions) -> Take:
        """The song of a wish, begun."""
        kept, codes = self._kept(wish), []
        plan = self._plan(wish, Clock())
        blocks = passed(self.audio_tokens(plan, wish, kept), codes)
        chunks = self.waveform(plan, blocks, wish, kept)
        return Take(plan, codes, chunks, self._mastering(plan, wish, kept))

    def _rendered(
        self,
        plan: Plan,
        codes: list[np.ndarray],
        wish: MusicotOptions,
        kept: Kept | None,
        clock: Clock,
    ) -> Song:
        """The song of a plan and its audio tokens, stage after stage: quickest to the whole."""
        with clock("diffusion"):
            latents = list(self.latents(plan, codes, wish, kept))
        with clock("decode"):
            chunks = self.decode(plan, iter(latents), wish, kept)
            channels = self.vae.config.audio_channels
            made = self._mastering(plan, wish, kept).whole(chunks, channels)
        return Song(
            made.waveform,
            self.sample_rate,
            np.concatenate(codes, axis=-1).astype(np.int32),
            plan,
            self._settings(wish),
            clock.seconds,
            made.gain,
            made.fault,
        )

    def _mastering(self, plan: Plan, wish: MusicotOptions, kept: Kept | None) -> Mastering:
        gain = None if kept is None else kept.gain
        loop = round(loop_seconds(plan) * self.sample_rate) if wish.loop else None
        return Mastering(wish, self.sample_rate, self._samples(plan), loop=loop, gain=gain)

    def _planned(self, wish: MusicotOptions, clock: Clock) -> Plan:
        """The plan of a song, or of a loop."""
        if not wish.loop:
            return self._plan(wish, clock)
        return self.check_plan(looped(wish, lambda wish: self._plan(wish, clock)), "the plan")

    def audio_tokens(
        self, plan: Plan, wish: MusicotOptions, kept: Kept | None = None
    ) -> Iterator[np.ndarray]:
        """The semantic codes of a plan in blocks (1, codes) as they come, those kept first."""
        frames, done = self.frames(plan.duration), 0
        for block in self.render([plan], [wish.seed], wish, kept):
            done += block.shape[1]
            if wish.progress:
                wish.progress("audio tokens", done, frames)
            yield block

    def latents(
        self,
        plan: Plan,
        codes: Sequence[np.ndarray] | Iterator[np.ndarray],
        wish: MusicotOptions,
        kept: Kept | None = None,
    ) -> Iterator[mx.array]:
        """The latents of audio tokens, window by window (1, frames, channels), from the first that
        is new.
        """
        return sample_windows(
            self.diffusion,
            codes,
            plan.vectors(),
            plan.embeddings,
            frames=-(-self._samples(plan) // self.vae.config.samples_per_latent),
            duration=plan.duration,
            thought_seconds=plan.thought_seconds,
            steps=wish.steps,
            sampler=wish.sampler,
            guidance_scale=wish.diffusion_guidance,
            key=stage_key(wish.seed, "diffusion"),
            chords=plan.chord_changes(),
            first=0 if kept is None else kept.first,
            past=None if kept is None else kept.latents,
            progress=wish.progress
            and (lambda done, total: wish.progress("diffusion", done, total)),
        )

    def decode(
        self,
        plan: Plan,
        latents: Iterator[mx.array],
        wish: MusicotOptions,
        kept: Kept | None = None,
    ) -> Iterator[np.ndarray]:
        """The waveform of latents in chunks (samples, channels), the earlier song's sound first, at
        the level that the model makes it.
        """
        samples, done = self._samples(plan), 0
        if kept is not None:
            latents = itertools.chain([kept.latents], latents)
        chunks = map(np.array, self.vae.decode_stream(latents, longest=self.decode_latents))
        if kept is not None:
            chunks = join(
                kept.waveform,
                chunks,
                before=kept.latents.shape[1] * self.vae.config.samples_per_latent,
                seam=round(SEAM_SECONDS * self.sample_rate),
            )
        for chunk in chunks:
            chunk = chunk[: samples - done]
            done += len(chunk)
            if wish.progress:
                wish.progress("waveform", done, samples)
            yield chunk

    def waveform(
        self,
        plan: Plan,
        codes: Sequence[np.ndarray],
        wish: MusicotOptions,
        kept: Kept | None = None,
    ) -> Iterator[np.ndarray]:
        """The waveform of a plan's audio tokens in chunks (samples, channels)."""
        return self.decode(plan, self.latents(plan, codes, wish, kept), wish, kept)

    # --- candidates -------------------------------------------------------------------------------

    def _best_of(self, wish: MusicotOptions, clock: Clock) -> Song:
        """Of several songs the one nearest to its prompt and plan; the scores are in its settings.

        Audio tokens are drawn in one batch. The songs are rendered from them one after another:
        memory does not grow with the candidates, and each sounds as it does alone.
        """
        seeds = candidate_seeds(wish.seed, wish.candidates)
        wishes = [replace(wish, seed=seed, candidates=1) for seed in seeds]
        kept = self._kept(wish)
        if wish.plan is None:
            plans = [self._planned(own, clock) for own in wishes]
        else:
            plans = [self._planned(wish, clock)] * len(seeds)
        with clock("tokens"):
            tokens = self._batch(plans, seeds, wish, kept)

        def render(number: int) -> Song:
            own = replace(wishes[number], progress=_share(wish.progress, number, len(seeds)))
            codes = [tokens[number : number + 1]]
            return self._rendered(plans[number], codes, own, kept, clock)

        def judge(number: int, song: Song) -> Score:
            return score(
                self.clap,
                song.waveform,
                song.sample_rate,
                seed=seeds[number],
                fault=song.fault,
                prompt=plans[number].vector,
                thoughts=plans[number].embeddings,
            )

        best = best_of(seeds, render, judge)
        number, song = best.number, best.song
        # A batch rounds otherwise than a song alone. Where that changed a token, what is kept is
        # the song that the seed makes alone, so that the settings keep their word.
        blocks = self.render([plans[number]], [seeds[number]], wish, kept)
        alone = np.concatenate(list(blocks), axis=1)
        if (alone != song.codes).any():
            song = self._rendered(plans[number], [alone], wishes[number], kept, clock)
        return replace(song, settings={**song.settings, "chosen": best.to_dict(wish.seed)})

    def _batch(
        self,
        plans: Sequence[Plan],
        seeds: Sequence[int],
        wish: MusicotOptions,
        kept: Kept | None,
    ) -> np.ndarray:
        """Audio tokens of several songs, int32 (songs, frames)."""
        blocks, drawn = [], 0
        for block in self.render(plans, seeds, wish, kept):
            blocks.append(block)
            drawn += block.shape[1]
            if wish.progress:
                wish.progress("audio tokens", drawn, self.frames(plans[0].duration))
        return np.concatenate(blocks, axis=1)

    def render(
        self,
        plans: Sequence[Plan],
        seeds: Sequence[int],
        wish: MusicotOptions,
        kept: Kept | None = None,
    ) -> Iterator[np.ndarray]:
        """Audio tokens of songs of one length in one batch: blocks (songs, codes), first those that
        are kept.
        """
        start = None if kept is None else np.tile(kept.codes, (len(plans), 1))
        blocks = audio_many(
            self.semantic_lm,
            [self.conditioning.of_plan(plan) for plan in plans],
            np.stack([plan.codes for plan in plans]),
            frames=self.frames(plans[0].duration),
            temperature=wish.audio_temperature,
            guidance_scale=wish.audio_guidance,
            unconditional=wish.unconditional,
            thought_bias=wish.thought_bias,
            keys=[stage_key(seed, "audio") for seed in seeds],
            top_k=wish.top_k,
            top_p=wish.top_p,
            start=start,
            changes=self.conditioning.changes(plans[0], len(plans)),
        )
        return blocks if start is None else itertools.chain([start], blocks)

    def _samples(self, plan: Plan) -> int:
        """Samples of a plan's song."""
        return round(plan.duration * self.sample_rate)

    def _kept(self, wish: MusicotOptions) -> Kept | None:
        """What stays of an earlier song."""
        return None if wish.keep is None else kept_of(wish.keep, wish.plan, self)


def _share(progress: Progress | None, number: int, songs: int) -> Progress | None:
    """Progress of one candidate's diffusion as a part of all; what else it does is not told."""

    def report(stage: str, done: int, total: int) -> None:
        if stage == "diffusion":
            progress(stage, number * total + done, songs * total)

    return progress and report
