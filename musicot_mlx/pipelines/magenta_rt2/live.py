"""Music without end that is told on the way what to become.

Second by second the language model goes on from where it is. A thought holds for ten seconds, then
the next one is drawn of the same words and recordings; a line (lines.py) changes them, and the next
second begins to glide to what is asked for then. All that is kept has a fixed size.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import mlx.core as mx
import numpy as np

from musicot_mlx.audio.files import RenderCheck
from musicot_mlx.audio.loudness import Limiter, gain_towards, integrated_loudness
from musicot_mlx.errors import MusicotError, RunError
from musicot_mlx.generation.device import turn
from musicot_mlx.generation.magenta_rt2 import BLOCK, LEFT, FrameRun, gumbel
from musicot_mlx.generation.sampling import on_host
from musicot_mlx.pipelines.lines import Asks, Line
from musicot_mlx.pipelines.magenta_rt2.options import MagentaOptions
from musicot_mlx.pipelines.mastering import FIRST_SECONDS, MOST_SECONDS, QUIET, soft_limit
from musicot_mlx.pipelines.plans.thoughts import (
    embed_windows,
    quantised,
    slerp,
    unit,
    vectors_of,
    window_count,
)
from musicot_mlx.tokens.magenta_rt2 import STRENGTHS, frame_ids

if TYPE_CHECKING:
    from musicot_mlx.pipelines.magenta_rt2.pipeline import MagentaPipeline

GLIDE = 2.0  # seconds, where nothing else is asked for
GLIDE_STEPS = 8
MOST_GAIN = 40.0  # dB
MOST_SILENCE = 60.0  # seconds that the first sound is waited for
LEAST = 0.02  # what a source counts for below which it is left out
LATELY = 0.8  # how much of the time measured so far counts beside another block


@dataclass(frozen=True)
class Source:
    """Words, or a recording's file, and what they count for among the others."""

    text: str
    weight: float = 1.0
    file: bool = False

    def same(self, other: "Source") -> bool:
        return (self.text, self.file) == (other.text, other.file)

    def __str__(self) -> str:
        return f"@{Path(self.text).name}" if self.file else self.text


@dataclass(frozen=True)
class Wanted:
    """What the music is asked to be."""

    sources: tuple[Source, ...]
    drums: str
    strength: float
    seed: int

    def __str__(self) -> str:
        """For people: a jazz piano trio, 0.3 strings, no drums."""
        parts = [
            str(source) if len(self.sources) == 1 else f"{source.weight:.2g} {source}"
            for source in self.sources
        ]
        parts += {"none": ["no drums"], "play": ["drums"]}.get(self.drums, [])
        return ", ".join(parts)

    def after(self, line: Line) -> "Wanted":
        """What is wanted after a line."""
        if line.asks is Asks.DRUMS:
            return replace(self, drums=line.text)
        if line.asks is Asks.STRENGTH:
            return replace(self, strength=line.number)
        if line.asks is Asks.SEED:
            return replace(self, seed=int(line.number))
        if line.asks is Asks.PROMPT:
            return replace(self, sources=(Source(line.text),))
        new = Source(line.text, line.number, line.asks is Asks.FILE)
        less = [replace(each, weight=each.weight * (1 - new.weight)) for each in self.sources]
        rest = [each for each in less if not each.same(new)]
        new = replace(new, weight=new.weight + sum(each.weight for each in less if each.same(new)))
        return replace(self, sources=tuple(each for each in (*rest, new) if each.weight >= LEAST))


class Glide:
    """From one thought to the next in steps, frame by frame.

    here, there: unit vectors (dim,); codes (levels,) are those of `there`, steps (levels,
    GLIDE_STEPS) those on the way, which begins at frame `first` and takes `frames`.
    """

    def __init__(
        self,
        here: np.ndarray,
        there: np.ndarray,
        codes: np.ndarray,
        steps: np.ndarray | None = None,
        first: int = 0,
        frames: int = 0,
    ) -> None:
        self.here, self.there, self.codes, self.steps = here, there, codes, steps
        self.first, self.frames = first, frames

    def step(self, frame: int) -> int:
        """Which step a frame is in, from 0 on; GLIDE_STEPS where the way is gone."""
        since = frame - self.first
        return GLIDE_STEPS if since >= self.frames else since * GLIDE_STEPS // self.frames

    def at(self, frame: int) -> np.ndarray:
        """The codes (levels,) that a frame is asked for."""
        step = self.step(frame)
        return self.codes if step == GLIDE_STEPS else self.steps[:, step]

    def vector(self, frame: int) -> np.ndarray:
        """The unit vector that those codes stand for."""
        step = self.step(frame)
        return self.there if step == GLIDE_STEPS else slerp(self.here, self.there, amount(step))


def amount(step: int) -> float:
    """How far from one thought to the next a step is, 0 to 1."""
    return (step + 1) / (GLIDE_STEPS + 1)


class Live(Iterator[np.ndarray]):
    """An endless song: its blocks of sound, float32 (samples, channels), a second each.

    `take` changes what comes next. wish: MagentaOptions, of which `duration`, `plan` and what goes
    with these mean nothing here; clock gives seconds. Raises MusicotError for a wish without words.
    """

    def __init__(
        self,
        model: "MagentaPipeline",
        wish: MagentaOptions,
        *,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        if not (wish.words or "").strip():
            raise MusicotError("nothing to play; say what the music should be, as 'relaxing piano'")
        self.model, self.wish, self._clock = model, wish, clock
        self.sample_rate, self.channels = model.sample_rate, model.codec.config.channels
        self.glide = wish.glide  # seconds
        self.notes: list[str] = []  # what there is to tell that nobody asked for
        self.frame = 0  # the next to be drawn
        self.check = RenderCheck(self.sample_rate)  # of what the model made
        self._rate = model.frame_rate
        self._thought_frames = round(model.space.seconds * self._rate)
        source = Source(" ".join(wish.words.split()))
        self.wanted = Wanted((source,), wish.drums, wish.style_strength, wish.seed)
        self._for_good = self.wanted
        self._for_now: list[tuple[int, Line]] = []  # with the frame that each holds until
        # its number, and when the way to the next begins: as in a plan, it ends with the thought
        self._thought = 0
        self._due = max(0, self._thought_frames - round(self.glide * self._rate))
        with turn():
            vector, codes = self._draw(self.wanted)
            self._gliding = Glide(vector, vector, codes)
            self._noise = self._draws()
            self._run = FrameRun(
                model.lm,
                self._row(0)[None, None],
                temperature=wish.audio_temperature,
                top_k=wish.top_k,
            )
        self._kept: deque[tuple[mx.array, np.ndarray]] = deque(maxlen=LEFT + 1)
        self._pieces = model.codec.decode_stream(self._blocks())
        self._held: deque[np.ndarray] = deque()  # until its gain is known
        self._limiter: Limiter | None = None
        self._silence = self._work = self._made = 0.0  # seconds
        self._warm = False

    # --- what is asked for ------------------------------------------------------------------------

    @property
    def rtf(self) -> float:
        """Seconds of work for a second of sound, lately; 0 before the second block."""
        return self._work / self._made if self._made else 0.0

    @property
    def arrived(self) -> float:
        """How much of the way to the thought is gone, 0 to 1."""
        return self._gliding.step(self.frame) / GLIDE_STEPS

    @property
    def left(self) -> float | None:
        """Seconds until what holds for a while is over; None where nothing does."""
        ends = [end for end, _ in self._for_now]
        return (min(ends) - self.frame) / self._rate if ends else None

    def take(self, line: Line) -> None:
        """Let a line hold from the next block on: for good, or for its seconds.

        Raises MusicotError for a recording that can't be read, and then nothing changes.
        """
        if line.asks is Asks.GLIDE:
            self.glide = line.number
            return
        if line.asks is Asks.FILE:
            line = replace(line, text=str(Path(line.text).expanduser()))
        self._change(self.wanted.after(line), self.frame)
        if line.seconds is None:
            self._for_good = self._for_good.after(line)
        else:
            until = self.frame + max(1, round(line.seconds * self._rate))
            self._for_now.append((until, line))

    def _change(self, wanted: Wanted, frame: int) -> None:
        """Want something else from a frame on; other sources, and another seed, are a thought."""
        before = self.wanted
        if (before.sources, before.seed) != (wanted.sources, wanted.seed):
            with turn():
                self._think(wanted, frame)
        self.wanted = wanted
        if before.seed != wanted.seed:
            self._noise = self._draws()

    def _think(self, wanted: Wanted, frame: int) -> None:
        """Glide to a new thought from a frame on."""
        there, codes = self._draw(wanted)
        here, frames, steps = self._gliding.vector(frame), round(self.glide * self._rate), None
        if np.array_equal(self._gliding.at(frame), codes):
            frames = 0  # quantised once more, a thought would be another
        if frames:
            ways = [slerp(here, there, amount(step)) for step in range(GLIDE_STEPS)]
            steps = quantised(self.model, np.stack(ways))
        self._gliding = Glide(here, there, codes, steps, frame, frames)
        self._due = frame + self._thought_frames

    def _draw(self, wanted: Wanted) -> tuple[np.ndarray, np.ndarray]:
        """The thought of all sources, a unit vector (dim,) and its codes (levels,)."""
        each = [self._codes(source, wanted.seed) for source in wanted.sources]
        codes = each[0]
        if len(each) > 1:
            vectors = vectors_of(self.model, np.stack(each, axis=1))
            weights = np.array([source.weight for source in wanted.sources])
            codes = quantised(self.model, unit(weights @ vectors)[None])[:, 0]
        return vectors_of(self.model, codes[:, None])[0], codes

    def _codes(self, source: Source, seed: int) -> np.ndarray:
        """The codes (levels,) of one source's thought: drawn of words, heard in a recording, which
        begins anew where it ends.
        """
        seconds = self.model.space.seconds
        if source.file:
            window = self._thought % window_count(source.text, seconds)
            heard = embed_windows(self.model, source.text, seconds, [window])
            return quantised(self.model, heard)[:, 0]
        return self.model.draw_thoughts(
            self.model.text_vector(source.text),
            words=source.text,
            segments=1,
            first=self._thought,
            seed=seed,
            variation=self.wish.variation,
        )[0, :, 0]

    def _pass(self, frame: int) -> None:
        """Let what is over be over, and the next thought come when it is due."""
        still = [(until, line) for until, line in self._for_now if until > frame]
        try:
            if len(still) < len(self._for_now):
                self._for_now, wanted = still, self._for_good
                for _, line in still:
                    wanted = wanted.after(line)
                self._change(wanted, frame)
            if frame >= self._due:
                self._thought += 1
                self._think(self.wanted, frame)
        except MusicotError as error:  # a recording that is gone
            self.notes.append(f"the thought stays as it is: {error}")
            self._due = frame + self._thought_frames

    # --- what is played ---------------------------------------------------------------------------

    def __next__(self) -> np.ndarray:
        while True:
            began = self._clock()
            with turn():
                made = np.array(next(self._pieces)[0])
            self.check.add(soft_limit(made))
            if not self.check.finite:
                raise RunError("the model made what is no sound; begin again with another --seed")
            sound = self._mastered(made)
            if self._warm:  # the first block waits for what is compiled
                self._work = LATELY * self._work + self._clock() - began
                self._made = LATELY * self._made + len(made) / self.sample_rate
            self._warm = True
            if len(sound):
                return sound

    def _mastered(self, made: np.ndarray) -> np.ndarray:
        """A block at the level that the first seconds ask for, limited; none until that is known.

        Raises RunError where there is nothing to be heard for a minute.
        """
        if self.wish.loudness is False and self.wish.gain is None:
            return soft_limit(made)
        if self._limiter is not None:
            return self._limiter.take(made)
        self._held.append(made)
        heard = np.concatenate(self._held)
        gain = self._gain_of(heard) if self.wish.gain is None else self.wish.gain
        if gain is None:
            if len(heard) > MOST_SECONDS * self.sample_rate:  # silence, which nobody misses
                self._silence += len(self._held.popleft()) / self.sample_rate
            if self._silence > MOST_SILENCE:
                raise RunError("the music is silent; begin again with another --seed")
            return made[:0]
        self._held.clear()
        self._limiter = Limiter(self.sample_rate, self.channels, gain=gain)
        return self._limiter.take(heard)

    def _gain_of(self, heard: np.ndarray) -> float | None:
        """The gain in dB that the first seconds ask for; None where more of them are needed."""
        seconds = len(heard) / self.sample_rate
        level = 10 * np.log10(np.square(heard, dtype=np.float64).mean() + 1e-18)
        if seconds < FIRST_SECONDS or level < RenderCheck.quietest:
            return None
        if seconds < MOST_SECONDS and integrated_loudness(heard, self.sample_rate) < QUIET:
            return None
        return min(MOST_GAIN, gain_towards(heard, self.sample_rate, self.wish.loudness))

    def _blocks(self) -> Iterator[mx.array]:
        """Codes (1, codebooks, BLOCK) without end."""
        refresh = self.wish.refresh_frames(self._rate)
        while True:
            rows, first, drawn = self._requests()[None], self.frame, []
            self._run.ask(rows, first=first)
            for row in rows[0]:
                if refresh and self.frame and self.frame % refresh == 0:
                    self._forget()
                    self._run.ask(rows, first=first)
                drawn.append(self._run.next(next(self._noise)))
                mx.async_eval(drawn[-1])
                self._kept.append((drawn[-1], row))
                self.frame += 1
            yield mx.array(on_host(drawn))

    def _draws(self) -> Iterator[mx.array]:
        """Noise of frame after frame, by the seed that is wanted."""
        keys = [mx.random.key(self.wanted.seed)]
        return gumbel(self.model.lm, keys, self.wish.audio_temperature)

    def _forget(self) -> None:
        """Go on from the last frames alone."""
        if len(self._kept) <= LEFT:
            return
        (before, _), *past = self._kept
        first = self.frame - len(past)
        self._run.ask(np.stack([row for _, row in past])[None], first=first)
        self._run.begin(first, before)
        for codes, _ in past:
            self._run.feed(codes)

    def _requests(self) -> np.ndarray:
        """What the frames of the next block are asked to be, int32 (BLOCK, 144)."""
        rows = []
        for frame in range(self.frame, self.frame + BLOCK):
            self._pass(frame)
            rows.append(self._row(frame))
        return np.stack(rows)

    def _row(self, frame: int) -> np.ndarray:
        style = self._gliding.at(frame)[: self.wish.style_levels]
        strengths = (self.wanted.strength, *STRENGTHS[1:])
        return frame_ids(style, drums=self.wanted.drums, strengths=strengths)
