"""Magenta RealTime 2, from a prompt to a song: thoughts, frames of codes, waveform.

    prompt -> MusicCoCa -> thoughts -> the language model writes 25 frames a second -> SpectroStream

Live Music Models (arXiv 2508.04651). A thought is what the model is asked for over its ten seconds,
so a plan drives it as it is. Everything that belongs to one run lives in the run.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack

import mlx.core as mx
import numpy as np

from musicot_mlx.audio.files import read_audio, resample
from musicot_mlx.errors import MusicotError, MusicotWarning
from musicot_mlx.generation.device import turn
from musicot_mlx.generation.magenta_rt2 import BLOCK, generate_codes
from musicot_mlx.models.depthformer import Depthformer, DepthformerConfig
from musicot_mlx.models.musiccoca import MusicCoCa, MusicCoCaConfig
from musicot_mlx.models.rvq import ResidualVQ, RVQConfig
from musicot_mlx.models.spectrostream import REACH, SpectroStream, SpectroStreamConfig
from musicot_mlx.pipelines.candidates import Score, best_of, candidate_seeds, score
from musicot_mlx.pipelines.documented import documented
from musicot_mlx.pipelines.magenta_rt2 import FAMILY
from musicot_mlx.pipelines.magenta_rt2.embedder import MusicCoCaEmbedder
from musicot_mlx.pipelines.magenta_rt2.live import GLIDE, GLIDE_STEPS, Live
from musicot_mlx.pipelines.magenta_rt2.options import REQUESTED, MagentaAsked, MagentaOptions
from musicot_mlx.pipelines.magenta_rt2.planning import (
    THOUGHT_SECONDS,
    MagentaPlanner,
    MagentaSampling,
)
from musicot_mlx.pipelines.mastering import Mastered, Mastering
from musicot_mlx.pipelines.parts import AdapterPath, load_parts
from musicot_mlx.pipelines.plans.earlier import EarlierSong, earlier_song
from musicot_mlx.pipelines.plans.origin import Origin
from musicot_mlx.pipelines.plans.plan import Plan
from musicot_mlx.pipelines.plans.thoughts import SHORTEST_WINDOW, embed_windows, quantised, slerp
from musicot_mlx.pipelines.song import Clock, Song, Stream, Take, heard, passed
from musicot_mlx.tokens.magenta_rt2 import STRENGTHS, frame_ids

PARTS: dict[str, tuple[type, type]] = {
    "musiccoca": (MusicCoCa, MusicCoCaConfig),
    "rvq": (ResidualVQ, RVQConfig),
    "lm": (Depthformer, DepthformerConfig),
    "codec": (SpectroStream, SpectroStreamConfig),
}


def load(folder: Path, *, name: str, adapter_path: AdapterPath = None) -> "MagentaPipeline":
    """The model of an MLX folder with model_type "magenta_rt2", ready to generate.

    adapter_path: one or several adapter folders; `folder:0.5` counts half. Raises MusicotError that
    says what is wrong with the folder and what to do.
    """
    loaded = load_parts(
        folder, PARTS, model_type=FAMILY.model_type, name=name, adapter_path=adapter_path
    )
    networks = dict(loaded.networks)
    return MagentaPipeline(
        embedder=MusicCoCaEmbedder(networks.pop("musiccoca"), loaded.file("tokenizer.json")),
        sampling=loaded.section("sampling", MagentaSampling),
        name=name,
        thought_seconds=float(loaded.config.get("thought_seconds", THOUGHT_SECONDS)),
        adapters=loaded.adapters,
        adapter_keys=loaded.adapter_keys,
        **networks,
    )


class MagentaPipeline(MagentaPlanner):
    """The whole model. Options are keyword-only; None takes the model's default."""

    family = FAMILY
    options = frozenset(MagentaOptions.about())

    def __init__(
        self,
        *,
        embedder: MusicCoCaEmbedder,
        rvq: ResidualVQ,
        lm: Depthformer,
        codec: SpectroStream,
        sampling: MagentaSampling,
        name: str,
        thought_seconds: float = THOUGHT_SECONDS,
        adapters: Sequence[str] = (),
        adapter_keys: int = 0,
    ) -> None:
        super().__init__(
            embedder=embedder,
            rvq=rvq,
            config=lm.config,
            sampling=sampling,
            name=name,
            thought_seconds=thought_seconds,
        )
        self.lm, self.codec = lm, codec
        self.adapters, self.adapter_keys = tuple(adapters), adapter_keys  # keys applied
        self.prefill_frames = lm.config.reach

    @property
    def dtype(self) -> mx.Dtype:
        """What hidden states run in."""
        return self.lm.dtype

    @property
    def sample_rate(self) -> int:
        """Hz of the waveforms made."""
        return self.codec.config.sample_rate

    # --- a song -----------------------------------------------------------------------------------

    @documented(MagentaOptions)
    def generate(self, prompt: str | None = None, **options: Unpack[MagentaAsked]) -> Song:
        """Prompt to song: waveform, codes, plan and the settings that make it again.

        options are those of MagentaOptions. With `candidates` several songs are drawn in one batch,
        and the one nearest to its prompt and plan is kept; with `follow` versions of each thought's
        ten seconds. Raises MusicotError for input that does not fit, TypeError for an unknown
        option.
        """
        wish, clock = self._wish(prompt, options), Clock()  # 1. the wish
        with turn():
            if wish.candidates > 1:
                return self._best_of(wish, clock)
            return heard(lambda wish: self._song(wish, clock), wish)

    def _song(self, wish: MagentaOptions, clock: Clock) -> Song:
        """The song of a wish."""
        (plan,), start = self._begun([wish], clock)  # 2. thoughts
        followed: list[dict[str, Any]] = []
        with clock("tokens"):  # 3. codes
            codes = list(self._codes(plan, wish, start, followed))
        with clock("decode"):  # 4. the waveform
            made = self._mastering(plan, wish, start).whole(self.waveform(plan, codes, wish), 2)
        settings = self._settings(wish) | _versions(followed)
        tokens = np.concatenate(codes, axis=-1)
        return self._made_song(made, tokens, plan, settings, clock)

    @documented(MagentaOptions)
    def stream(self, prompt: str | None = None, **options: Unpack[MagentaAsked]) -> Stream:
        """Chunks of waveform, float32 (frames, channels), while later audio is still being made.

        The plan is made at the call, the rest as chunks are taken; joined, they are the song that
        `generate` makes with the stream's own `gain`. Raises as `generate` does.
        """
        wish = self._wish(prompt, options)
        wish.require_one_candidate()
        return Stream(self._take, wish, self.sample_rate, self._settings)

    def _take(self, wish: MagentaOptions) -> Take:
        """The song of a wish, begun."""
        codes: list[np.ndarray] = []
        followed: list[dict[str, Any]] = []
        (plan,), start = self._begun([wish], Clock())
        blocks = passed(self._codes(plan, wish, start, followed), codes)
        chunks, mastering = self.waveform(plan, blocks, wish), self._mastering(plan, wish, start)
        return Take(plan, codes, chunks, mastering, lambda: _versions(followed))

    @documented(MagentaOptions)
    def live(self, prompt: str | None = None, **options: Unpack[MagentaAsked]) -> Live:
        """Music without end: blocks of a second, float32 (samples, channels), that `take` changes.

        options are those of MagentaOptions that have no end or plan in them; a glide takes 2 s.
        Raises MusicotError for no words and for bad options.
        """
        return Live(self, MagentaOptions.of(self.sampling, prompt, **{"glide": GLIDE, **options}))

    def _made_song(
        self,
        made: Mastered,
        codes: np.ndarray,
        plan: Plan,
        settings: dict[str, Any],
        clock: Clock,
    ) -> Song:
        return Song(
            made.waveform,
            self.sample_rate,
            codes,
            plan,
            settings,
            clock.seconds,
            made.gain,
            made.fault,
        )

    def _mastering(self, plan: Plan, wish: MagentaOptions, start: "Begun") -> Mastering:
        return Mastering(wish, self.sample_rate, self._samples(plan), gain=start.gain)

    def _wish(self, prompt: str | None, options: dict[str, Any]) -> MagentaOptions:
        wish = MagentaOptions.of(self.sampling, prompt, **options)
        if wish.lyrics:
            words = f"{self.name} sings no words: the lyrics are left out"
            warnings.warn(words, MusicotWarning, stacklevel=4)
            wish = replace(wish, lyrics=None)
        if wish.keep is not None and wish.continuation is not None:
            raise MusicotError("a song goes on from an earlier one or from a recording, not both")
        if wish.follow > 1 and wish.candidates > 1:
            raise MusicotError("ask for candidates of the song or of each thought (follow)")
        return wish

    def _begun(self, wishes: Sequence[MagentaOptions], clock: Clock) -> tuple[list[Plan], "Begun"]:
        """The plans of wishes that differ in their seeds, and what all their songs begin with."""
        plans = [self._plan(wish, clock) for wish in wishes]
        if wishes[0].continuation is not None:
            return self._continued(plans, wishes[0], clock)
        return plans, self._kept(wishes[0])

    def _kept(self, wish: MagentaOptions) -> "Begun":
        """The codes of an earlier song up to the first frame that is asked for otherwise."""
        if wish.keep is None:
            return Begun()
        if wish.plan is None:
            raise MusicotError("an earlier song is kept where an edited plan says; pass the plan")
        earlier = earlier_song(wish.keep, self, codebooks=self.lm.config.codebooks)
        theirs, plan = self._requested(wish, earlier), earlier.plan
        frames = min(self.frames(wish.plan.duration), earlier.codes.shape[1])
        before, now = self.requests(plan, frames, theirs), self.requests(wish.plan, frames, wish)
        differ = (before != now).any(axis=1)
        frames = int(np.argmax(differ)) if differ.any() else frames
        if not frames:
            why = "the plan differs from its first segment on"
            if plan.changed(wish.plan):
                why = "its first segment glides to one that differs"
            if plan.changed(wish.plan) and (name := _first_other(theirs, wish)):
                here, there = getattr(wish, name), getattr(theirs, name)
                why = f"{name} was {there} and is {here} now; ask for the same"
            raise MusicotError(f"nothing of {earlier.where} can be kept: {why}")
        return Begun(earlier.codes[:, :frames], earlier.gain)

    def _requested(self, wish: MagentaOptions, earlier: EarlierSong) -> MagentaOptions:
        """The wish with what the frames of an earlier song were asked for beside its plan."""
        given = {name: earlier.settings.get(name) for name in REQUESTED}
        try:
            made = MagentaOptions.of(self.sampling, **given)
        except MusicotError as error:
            raise MusicotError(f"the settings of {earlier.where}: {error}") from None
        return replace(wish, **{name: getattr(made, name) for name in REQUESTED})

    def _continued(
        self, plans: list[Plan], wish: MagentaOptions, clock: Clock
    ) -> tuple[list[Plan], "Begun"]:
        """The plans with a recording's thoughts at first, where they were not given; its codes."""
        path = wish.continuation
        waveform, rate = read_audio(path)
        codes = self.encode(waveform, rate)
        lasts, duration = codes.shape[1] / self.frame_rate, plans[0].duration
        if codes.shape[1] >= self.frames(duration):
            raise MusicotError(
                f"{path} lasts {lasts:.1f} s and the song {duration:g} s, the file included; "
                "ask for a longer duration"
            )
        if wish.plan is not None:
            return plans, Begun(codes)
        with clock("plan"):
            own = quantised(self, embed_windows(self, (waveform, rate), self.space.seconds))
        count = min(own.shape[1], max(1, round(lasts / self.space.seconds)), plans[0].segments)
        starts = [segment * self.space.seconds for segment in range(count)]
        heard = [Origin("audio", file=str(path), start=start) for start in starts]
        opened = []
        for plan in plans:
            thoughts = np.concatenate([own[:, :count], plan.codes[:, count:]], axis=1)
            origins = (*heard, *plan.origins[count:])
            opened.append(
                self.check_plan(replace(plan, codes=thoughts, origins=origins), "the plan")
            )
        return opened, Begun(codes)

    def encode(self, waveform: np.ndarray, sample_rate: int) -> np.ndarray:
        """Codes int32 (codebooks, frames) of the whole frames of a waveform (samples, channels)."""
        channels = self.codec.config.channels
        if waveform.shape[1] != channels:
            waveform = np.repeat(waveform.mean(axis=1, keepdims=True), channels, axis=1)
        waveform = resample(waveform, sample_rate, self.sample_rate) / self.codec.config.gain
        whole = len(waveform) // self.codec.config.hop_length * self.codec.config.hop_length
        if not whole:
            raise MusicotError("the recording to go on from is shorter than 40 ms")
        return np.array(self.codec.encode_long(mx.array(waveform[None, :whole])))[0]

    # --- codes ------------------------------------------------------------------------------------

    def render(
        self,
        plans: Sequence[Plan],
        seeds: Sequence[int],
        wish: MagentaOptions,
        kept: "Begun | None" = None,
        choose: Callable[[np.ndarray], int] | None = None,
        block: int = BLOCK,
    ) -> Iterator[np.ndarray]:
        """Codes of songs of one length in one batch: blocks (songs, codebooks, frames), first those
        that are kept.
        """
        # the codec hears one frame ahead, so there is one more than sounds
        frames = self.frames(plans[0].duration) + 1
        requests = np.stack([self.requests(plan, frames, wish) for plan in plans])
        start = None
        if kept is not None and kept.codes is not None:
            start = np.repeat(kept.codes[None], len(plans), axis=0)
            yield start if choose is None else start[:1]
        yield from generate_codes(
            self.lm,
            requests,
            keys=[mx.random.key(seed) for seed in seeds],
            temperature=wish.audio_temperature,
            top_k=wish.top_k,
            start=start,
            refresh=wish.refresh_frames(self.frame_rate),
            block=block,
            choose=choose,
        )

    def requests(self, plan: Plan, frames: int, wish: MagentaOptions) -> np.ndarray:
        """What each frame is asked to be, int32 (frames, 144): by the thought and the controls of
        its segment, and by the wish where these say nothing.
        """
        levels = wish.style_levels
        gliding = self._gliding(plan, wish.glide)
        each: dict[tuple[int, int], np.ndarray] = {}
        rows = []
        thought, glide = (round(s * self.frame_rate) for s in (self.space.seconds, wish.glide))
        moves = (plan.codes[:, 1:] != plan.codes[:, :-1]).any(axis=0)  # to another thought
        for frame in range(frames):
            segment = min(frame // thought, plan.segments - 1)
            left = (segment + 1) * thought - frame  # frames until the next thought
            step = 0
            if left <= glide and segment + 1 < plan.segments and moves[segment]:
                step = 1 + (glide - left) * GLIDE_STEPS // glide
            if (segment, step) not in each:
                style = gliding[step - 1][:, segment] if step else plan.codes[:, segment]
                own = plan.controls_of(segment)
                strength = own.get("style_strength", wish.style_strength)
                each[segment, step] = frame_ids(
                    style[:levels],
                    drums=own.get("drums", wish.drums),
                    strengths=(strength, *STRENGTHS[1:]),
                )
            rows.append(each[segment, step])
        return np.stack(rows)

    def _gliding(self, plan: Plan, glide: float) -> list[np.ndarray]:
        """Codes (levels, segments - 1) of the steps from each thought to the next."""
        if not glide or plan.segments < 2:
            return []
        here, there = plan.embeddings[:-1], plan.embeddings[1:]
        amounts = np.arange(1, GLIDE_STEPS + 1) / (GLIDE_STEPS + 1)
        return [quantised(self, slerp(here, there, amount)) for amount in amounts]

    def _codes(
        self,
        plan: Plan,
        wish: MagentaOptions,
        start: "Begun",
        followed: list[dict[str, Any]],
    ) -> Iterator[np.ndarray]:
        """Codes of one song in blocks (codebooks, frames); `followed` learns how its versions came
        out, thought by thought.
        """
        frames, done = self.frames(plan.duration) + 1, 0
        if wish.follow == 1:
            blocks = self.render([plan], [wish.seed], wish, start)
        else:
            seeds = candidate_seeds(wish.seed, wish.follow)
            choose = self._nearest(plan, start, followed)
            thought = round(self.space.seconds * self.frame_rate)
            blocks = self.render([plan] * len(seeds), seeds, wish, start, choose, thought)
        for block in blocks:
            done += block.shape[-1]
            if wish.progress:
                wish.progress("audio tokens", done, frames)
            yield block[0]

    def _nearest(
        self, plan: Plan, start: "Begun", followed: list[dict[str, Any]]
    ) -> Callable[[np.ndarray], int]:
        """Of versions of a thought's frames the row that sounds most like it."""
        known, last = [] if start.codes is None else [start.codes], plan.segments - 1

        def choose(codes: np.ndarray) -> int:
            new = codes.shape[-1]
            first = sum(each.shape[-1] for each in known)
            if new < self.frame_rate * SHORTEST_WINDOW:  # too short to be heard
                known.append(codes[0])
                return 0
            segment = min(int((first + new / 2) / self.frame_rate // self.space.seconds), last)
            cosines = []
            for row in codes:
                heard = np.concatenate([*known, row], axis=-1)[None, :, -new - REACH - 1 :]
                sound = np.array(self.codec.decode(mx.array(heard)))[0]
                sound = sound[-new * self.codec.config.hop_length :]
                vectors = self.clap.embed_audio(sound, self.sample_rate)
                cosines.append(float((vectors @ plan.embeddings[segment]).mean()))
            best = int(np.argmax(cosines))
            known.append(codes[best])
            shown = [round(cosine, 6) for cosine in cosines]
            followed.append({"segment": segment, "cosines": shown, "kept": best})
            return best

        return choose

    # --- sound ------------------------------------------------------------------------------------

    def waveform(
        self, plan: Plan, codes: Iterable[np.ndarray], wish: MagentaOptions, kept: Any = None
    ) -> Iterator[np.ndarray]:
        """The waveform of codes (codebooks, frames) in chunks (samples, channels) as they come, at
        the level that the model makes them.

        They are decoded second by second wherever the blocks end, so that a song with another
        ending has the same bits before it.
        """
        samples, done = self._samples(plan), 0
        for piece in self.codec.decode_stream(mx.array(block)[None] for block in _seconds(codes)):
            chunk = np.array(piece[0])[: samples - done]
            done += len(chunk)
            if wish.progress:
                wish.progress("waveform", done, samples)
            if len(chunk):
                yield chunk

    def _samples(self, plan: Plan) -> int:
        return round(plan.duration * self.sample_rate)

    # --- candidates -------------------------------------------------------------------------------

    def _best_of(self, wish: MagentaOptions, clock: Clock) -> Song:
        """Of several songs the one nearest to its prompt and plan; the scores are in its settings.

        Codes are drawn in one batch; the songs are decoded one after another.
        """
        seeds = candidate_seeds(wish.seed, wish.candidates)
        wishes = [replace(wish, seed=seed, candidates=1) for seed in seeds]
        plans, start = self._begun(wishes, clock)
        with clock("tokens"):
            codes = np.concatenate(list(self.render(plans, seeds, wish, start)), axis=-1)
        prompt = None if wish.words is None else self.anchors([wish.words])[0]

        def render(number: int) -> Mastered:
            with clock("decode"):
                plan, own = plans[number], wishes[number]
                chunks = self.waveform(plan, [codes[number]], own)
                return self._mastering(plan, own, start).whole(chunks, 2)

        def judge(number: int, made: Mastered) -> Score:
            return score(
                self.clap,
                made.waveform,
                self.sample_rate,
                seed=seeds[number],
                prompt=prompt,
                thoughts=plans[number].embeddings,
                fault=made.fault,
            )

        best = best_of(seeds, render, judge)
        number, settings = best.number, self._settings(wishes[best.number])
        settings["chosen"] = best.to_dict(wish.seed)
        return self._made_song(best.song, codes[number], plans[number], settings, clock)


@dataclass(frozen=True)
class Begun:
    """What a song begins with: codes (codebooks, frames) of an earlier one or of a recording, and
    the gain in dB that the earlier one got.
    """

    codes: np.ndarray | None = None
    gain: float | None = None


def _versions(followed: list[dict[str, Any]]) -> dict[str, Any]:
    """What a song's settings say of the versions of its thoughts."""
    return {"followed": followed} if followed else {}


def _first_other(a: MagentaOptions, b: MagentaOptions) -> str | None:
    """The first option that frames are asked for by and two wishes differ in."""
    return next((each for each in REQUESTED if getattr(a, each) != getattr(b, each)), None)


def _seconds(blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Codes (codebooks, frames) cut anew into blocks of BLOCK frames."""
    waiting: list[np.ndarray] = []
    for block in blocks:
        waiting.append(block)
        if sum(each.shape[-1] for each in waiting) >= BLOCK:
            joint = np.concatenate(waiting, axis=-1)
            whole = joint.shape[-1] // BLOCK * BLOCK
            for first in range(0, whole, BLOCK):
                yield joint[:, first : first + BLOCK]
            waiting = [joint[:, whole:]]
    rest = np.concatenate(waiting, axis=-1) if waiting else np.zeros((1, 0))
    if rest.shape[-1]:
        yield rest
