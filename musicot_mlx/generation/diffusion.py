"""Songs by latent diffusion, made window by window in flat memory.

Windows overlap: in the overlap, latents that are already made are imposed at every step, so that a
window goes on from the one before it. One step is always in flight while the next is being queued.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from musicot_mlx.errors import MusicotError
from musicot_mlx.generation import device
from musicot_mlx.generation.samplers import choose_sampler, passes, schedule, solve
from musicot_mlx.generation.spans import Window
from musicot_mlx.models.semantic_diffusion import (
    DiffusionConditions,
    DiffusionConfig,
    SemanticDiffusion,
    without_codes_and_clap,
)
from musicot_mlx.tokens.harmony import harmony_features


@dataclass(frozen=True)
class LatentWindow(Window):
    """Latent frames of a song, of which those before `fresh` are already made."""

    fresh: int


def windows(frames: int, window_frames: int, overlap_frames: int) -> list[LatentWindow]:
    """Cut `frames` into windows; the last one ends at the end, with as much overlap as that takes.

    Every window is window_frames long, unless one window holds the whole song.
    """
    if frames <= window_frames:
        return [LatentWindow(0, frames, fresh=0)]
    cut, fresh, start = [], 0, 0
    while fresh < frames:
        start = min(start, frames - window_frames)
        cut.append(LatentWindow(start, start + window_frames, fresh))
        fresh = start + window_frames
        start = fresh - overlap_frames
    return cut


def forward_passes(
    config: DiffusionConfig, frames: int, *, steps: int, sampler: str | None = None
) -> int:
    """How many times sample_windows runs the network; guidance doubles the rows, not this."""
    per_window = passes(config.objective, steps=steps, sampler=sampler)
    return per_window * len(windows(frames, config.window_frames, config.overlap_frames))


class GuidedVelocity:
    """The network over one window: float32 velocity of x at the i-th of the given times.

    With guidance both rows run in one batch, or each on a lane of its own:
    v = v_0 + guidance_scale * (v_c - v_0), where v_0 has neither codes nor CLAP vectors. `passes`
    counts runs of the network for both rows, `on_pass` is called for each.
    """

    def __init__(
        self,
        model: SemanticDiffusion,
        conditions: DiffusionConditions,
        times: list[float],
        *,
        guidance_scale: float,
        on_pass: Callable[[], None] | None = None,
        lanes: Sequence[mx.Stream] | None = None,
    ) -> None:
        self.model, self.conditions, self.guidance_scale = model, conditions, guidance_scale
        self.embeddings = model.time_embeddings(mx.array(times, dtype=mx.float32))
        self.on_pass, self.passes = on_pass, 0
        mx.eval(self.embeddings, conditions.semantic, conditions.keys_values)
        self._in_flight: mx.array | None = None
        self._lanes: list[tuple[mx.Stream, DiffusionConditions]] = []
        if lanes is not None and guidance_scale != 1 and len(conditions.semantic) == 2:
            self._lanes = [(lane, conditions.row(i)) for i, lane in enumerate(lanes)]

    def _rows(self, x: mx.array, time_embedding: mx.array) -> tuple[mx.array, mx.array]:
        """Velocities with and without the conditions, each (batch, time, latent_dim)."""
        if not self._lanes:
            rows = self.model.step(mx.concatenate([x, x]), time_embedding, self.conditions)
            return tuple(mx.split(rows.astype(mx.float32), 2))
        rows = []
        for lane, conditions in self._lanes:
            with mx.stream(lane):
                row = self.model.step(x, time_embedding, conditions).astype(mx.float32)
                rows.append(row)
        return tuple(rows)

    def __call__(self, x: mx.array, i: int) -> mx.array:
        if self.guidance_scale == 1:
            v = self.model.step(x, self.embeddings[i], self.conditions).astype(mx.float32)
        else:
            v, base = self._rows(x, self.embeddings[i])
            v = base + self.guidance_scale * (v - base)
        mx.async_eval(v)
        if self._in_flight is not None:
            mx.eval(self._in_flight)  # at most two passes are queued, so memory stays flat
        self._in_flight = v
        self.passes += 1
        if self.on_pass:
            self.on_pass()
        return v


def sample(
    model: SemanticDiffusion,
    codes: mx.array,
    clap: mx.array,
    start_seconds: mx.array,
    total_seconds: mx.array,
    *,
    noise: mx.array,
    steps: int = 16,
    sampler: str | None = None,
    guidance_scale: float = 1.0,
    known: mx.array | None = None,
    frame_offset: int = 0,
    clap_mask: mx.array | None = None,
    harmony: mx.array | None = None,
    key: mx.array | None = None,
    on_pass: Callable[[], None] | None = None,
) -> mx.array:
    """Latents of one window, float32 of the shape of noise (batch, frames, latent_dim), evaluated.

    known (batch, up to frames, latent_dim): latents that the window begins with. The other
    conditions are those of SemanticDiffusion.conditions; key is needed by dpmpp_sde only.
    Raises MusicotError for a sampler that the model was not trained for, or steps below 1.
    """
    config = model.config
    sampler = choose_sampler(config.objective, sampler)
    if steps < 1:
        raise MusicotError(f"steps is {steps}, expected at least 1")
    if sampler == "dpmpp_sde" and key is None:
        raise ValueError("dpmpp_sde draws noise at every step: pass key=mx.random.key(seed)")
    if guidance_scale != 1:
        no_codes, no_clap = without_codes_and_clap(config, codes, clap)
        codes, clap = mx.concatenate([codes, no_codes]), mx.concatenate([clap, no_clap])
        start_seconds = mx.concatenate([start_seconds, start_seconds])
        total_seconds = mx.concatenate([total_seconds, total_seconds])
        clap_mask = None if clap_mask is None else mx.concatenate([clap_mask, clap_mask])
        harmony = None if harmony is None else mx.concatenate([harmony, harmony])
    conditions = model.conditions(
        codes,
        clap,
        start_seconds,
        total_seconds,
        frames=noise.shape[1],
        clap_mask=clap_mask,
        frame_offset=frame_offset,
        harmony=harmony,
    )
    levels, times = schedule(config.objective, steps)
    noise = noise.astype(mx.float32)
    known = None if known is None else known.astype(mx.float32) * config.latent_scale
    with device.lanes() as lanes:
        velocity = GuidedVelocity(
            model, conditions, times, guidance_scale=guidance_scale, on_pass=on_pass, lanes=lanes
        )
        x = solve(velocity, noise, sampler=sampler, levels=levels, known=known, key=key)
        x = x / config.latent_scale
        mx.eval(x)
    return x


def window_vectors(
    vector: np.ndarray,
    thoughts: np.ndarray,
    *,
    first: float,
    last: float,
    thought_seconds: float,
    window_seconds: float,
) -> np.ndarray:
    """CLAP vectors of a window, float32 (vectors, clap_dim): the prompt's, then its thoughts.

    first and last are the centres of the window's outermost latent frames, in seconds; thoughts
    (segments, clap_dim) lie on the song's grid of thought_seconds. As in training there are as many
    as a window can touch; one that touches fewer has its last one again.
    """
    slots = math.ceil(window_seconds / thought_seconds) + 1
    final = min(int(last / thought_seconds), len(thoughts) - 1)
    index = np.minimum(int(first / thought_seconds) + np.arange(slots), final)
    return np.concatenate([vector[None], thoughts[index]]).astype(np.float32)


class _CodeReader:
    """Codes that may still be in the making: `upto(count)` is all there are, at least count."""

    def __init__(self, codes: np.ndarray | Iterable[np.ndarray]) -> None:
        self.blocks = iter([codes] if isinstance(codes, np.ndarray) else codes)
        self.codes = np.zeros(0, dtype=np.int32)

    def upto(self, count: int) -> np.ndarray:
        parts = [self.codes]
        while sum(map(len, parts)) < count and (block := next(self.blocks, None)) is not None:
            parts.append(np.asarray(block, dtype=np.int32).reshape(-1))
        self.codes = np.concatenate(parts)
        return self.codes


def sample_windows(
    model: SemanticDiffusion,
    codes: np.ndarray | Iterable[np.ndarray],
    vector: np.ndarray,
    thoughts: np.ndarray,
    *,
    frames: int,
    duration: float | None = None,
    thought_seconds: float = 10.0,
    steps: int = 16,
    sampler: str | None = None,
    guidance_scale: float = 1.0,
    key: mx.array,
    chords: Sequence[tuple[float, str]] = (),
    first: int = 0,
    past: mx.array | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[mx.array]:
    """Latents of one song, float32 chunks (1, new frames, latent_dim) in order, evaluated.

    codes: int32 (frames25,) of the song, or blocks of them as they are made, read no further than
    the window at hand needs. vector (clap_dim,): CLAP of the prompt, or (segments,
    clap_dim) where segments have conditions of their own. thoughts (segments, clap_dim).
    chords: (second, chord) at every change, for a model that knows harmony.
    frames: latent frames in all; duration: seconds of the song, frames / latent_rate by default.
    first, past: latents (1, some, latent_dim) that end where frame `first` begins, a window of them
    or all there are; what is handed out goes on from there.
    progress(done, total) counts forward passes. Each window draws from its own part of key, so
    chunks don't depend on who reads them, or how fast. Raises MusicotError when there are no codes.
    """
    config = model.config
    if frames < 1:
        raise MusicotError(f"frames is {frames}, expected at least 1")
    cut = windows(frames, config.window_frames, config.overlap_frames)
    cut = [LatentWindow(w.start, w.stop, max(w.fresh, first)) for w in cut]
    left = [index for index, window in enumerate(cut) if window.stop > first]
    total = forward_passes(config, frames, steps=steps, sampler=sampler) * len(left) // len(cut)
    reader, done = _CodeReader(codes), 0
    total_seconds = mx.array([duration or frames / config.latent_rate])

    def on_pass() -> None:
        nonlocal done
        done += 1
        if progress:
            progress(done, total)

    keys = mx.random.split(key, len(cut))
    for index in left:
        window = cut[index]
        end = window.stop / config.latent_rate
        window_codes = reader.upto(math.ceil(end * config.audio_frame_rate))
        if not len(window_codes):
            raise MusicotError("there are no audio codes to render")
        middle = (window.fresh + window.stop) / 2 / config.latent_rate
        vectors = np.atleast_2d(vector)  # one for the song, or one a segment
        clap = window_vectors(
            vectors[min(int(middle / thought_seconds), len(vectors) - 1)],
            thoughts,
            # centres, because a window of 10 s is a fraction of a frame longer than 10 s
            first=(window.start + 0.5) / config.latent_rate,
            last=(window.stop - 0.5) / config.latent_rate,
            thought_seconds=thought_seconds,
            window_seconds=config.window_seconds,
        )
        noise_key, step_key = mx.random.split(keys[index])
        shape = (1, window.stop - window.start, config.latent_dim)
        overlap = window.fresh - window.start
        harmony = harmony_features(
            chords,
            shape[1],
            frame_rate=config.latent_rate,
            start=window.start / config.latent_rate,
        )
        known = past[:, past.shape[1] - overlap :] if overlap else None
        past = sample(
            model,
            mx.array(window_codes)[None],
            mx.array(clap)[None],
            mx.array([window.start / config.latent_rate]),
            total_seconds,
            noise=mx.random.normal(shape, key=noise_key),
            steps=steps,
            sampler=sampler,
            guidance_scale=guidance_scale,
            known=known,
            frame_offset=window.start,
            harmony=mx.array(harmony)[None] if chords else None,
            key=step_key,
            on_pass=on_pass,
        )
        yield past[:, window.fresh - window.start :]
