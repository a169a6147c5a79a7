"""Frames of codes drawn one after another from Magenta RealTime 2's language model.

Live Music Models (arXiv 2508.04651). What a frame is asked to be (tokens/magenta_rt2.py) is known
before the loop begins, so its keys and values are made once for each request that differs, and a
frame is one graph of fixed shapes: on a GPU it is compiled once. Codes stay on the device, the next
frame is queued while the last one runs, and the host waits where a block is handed out.

Going on from codes that are there is exact: what comes next depends on the last
`config.reach` frames alone, and those are stepped through as they were drawn, in the same slots.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import repeat

import mlx.core as mx
import numpy as np

from musicot_mlx.generation import device
from musicot_mlx.generation.sampling import check_sampling, keys_by_step, on_host
from musicot_mlx.models.depthformer import Depthformer, Ring

BLOCK = 25  # frames handed out at a time: a second
LEFT = 125  # frames that a refresh leaves: 5 s


class FrameRun:
    """One batch of songs through the model. Rows are songs, or candidates of one.

    requests: int32 (rows, frames, 144), what each frame is asked to be; of the later ones `ask` may
    tell when their time comes. temperature 0 is greedy; top_k 0 keeps every code.
    """

    def __init__(
        self, lm: Depthformer, requests: np.ndarray, *, temperature: float = 1.3, top_k: int = 40
    ) -> None:
        check_sampling(temperature, top_k, 1.0)
        self.lm, self.rows, self.temperature = lm, len(requests), temperature
        self.ask(requests)

        def follow(
            ids: mx.array, cross: list[Ring], rings: list, frame: mx.array, first: mx.array
        ) -> list:
            return lm.step(ids, cross, rings, frame, first)[1]

        def draw(
            ids: mx.array,
            cross: list[Ring],
            rings: list,
            frame: mx.array,
            first: mx.array,
            noise: mx.array,
        ) -> tuple[mx.array, list]:
            x, rings = lm.step(ids, cross, rings, frame, first)
            return draw_levels(lm, x, noise, top_k), rings

        self._follow, self._draw = device.compiled(follow), device.compiled(draw)
        self.begin(0, None)

    def ask(self, requests: np.ndarray, *, first: int = 0) -> None:
        """Let the frames from `first` on be what requests (rows, frames, 144) say."""
        flat = requests.reshape(-1, requests.shape[-1])
        distinct, which = np.unique(flat, axis=0, return_inverse=True)
        self._which, self._asked = which.reshape(requests.shape[:2]), first
        self._cross = self.lm.cross(self.lm.condition(mx.array(distinct))[:, None])
        self._chosen: tuple[tuple[int, ...], list[Ring]] | None = None

    def begin(self, frame: int, codes: mx.array | None) -> None:
        """Forget all; the next frame is `frame`, after one of codes (rows, codebooks)."""
        config = self.lm.config
        silent = mx.zeros((self.rows, config.codebooks), dtype=mx.int32)
        self.ids = silent if codes is None else self.lm.ids(codes)
        self.frame, self.first = frame, mx.array(frame)
        self.rings = self.lm.rings(self.rows)

    def prefill(self, codes: np.ndarray, *, first: int | None = None) -> None:
        """Go on from codes (rows, codebooks, frames), the beginning of the songs; `first`: the
        frame from which on they count, None for all that can be seen of them.
        """
        frames, given = codes.shape[-1], mx.array(codes)
        first = max(0, frames - self.lm.config.reach, first or 0)
        self.begin(first, given[..., first - 1] if first else None)
        for frame in range(first, frames):
            self.feed(given[..., frame])
            mx.async_eval(self.rings)

    def feed(self, codes: mx.array) -> None:
        """One frame that is given, codes (rows, codebooks)."""
        self.rings = self._follow(*self._inputs())
        self._advance(codes)

    def next(self, noise: mx.array) -> mx.array:
        """Draw one frame -> int32 (rows, codebooks); noise: see `gumbel`."""
        codes, self.rings = self._draw(*self._inputs(), noise)
        self._advance(codes)
        return codes

    def choose(self, row: int) -> None:
        """Let every row go on from where one stands."""
        rows = [row] * self.rows
        self.ids = self.ids[rows]
        self.rings = [
            tuple((keys[rows], values[rows]) for keys, values in rings) for rings in self.rings
        ]

    def _advance(self, codes: mx.array) -> None:
        self.ids, self.frame = self.lm.ids(codes), self.frame + 1

    def _inputs(self) -> tuple:
        """What the model reads of the frame that comes."""
        which = tuple(self._which[:, self.frame - self._asked].tolist())
        if self._chosen is None or self._chosen[0] != which:
            rows = list(which)
            self._chosen = which, [(keys[rows], values[rows]) for keys, values in self._cross]
        return self.ids, self._chosen[1], self.rings, mx.array(self.frame), self.first


def draw_levels(lm: Depthformer, x: mx.array, noise: mx.array, top_k: int) -> mx.array:
    """The codes of one frame (rows, codebooks), coarse to fine, from the temporal transformer's
    output (rows, 1, temporal_dim); each is the largest of its `top_k` logits with noise.
    """
    codes, before = [], [None] * lm.config.depth_layers
    for level in range(lm.config.codebooks):
        logits, before = lm.level(level, x, before)
        if 0 < top_k < logits.shape[-1]:
            least = mx.partition(logits, -top_k, axis=-1)[:, -top_k, None]
            logits = mx.where(logits >= least, logits, -mx.inf)
        code = mx.argmax(logits + noise[:, level], axis=-1).astype(mx.int32)
        codes.append(code)
        x = lm.level_input(level, code)
    return mx.stack(codes, axis=-1)


def gumbel(
    lm: Depthformer, keys: Sequence[mx.array], temperature: float, *, skip: int = 0
) -> Iterator[mx.array]:
    """Noise (rows, codebooks, codebook_size) of each frame from `skip` on; a key a row.

    A frame's is the same whatever was drawn before it.
    """
    shape = lm.config.codebooks, lm.config.codebook_size
    if temperature == 0.0:
        yield from repeat(mx.zeros((len(keys), *shape)))
    for step in zip(*(keys_by_step(key, skip=skip) for key in keys), strict=True):
        yield temperature * mx.stack([mx.random.gumbel(shape, key=key) for key in step])


def generate_codes(
    lm: Depthformer,
    requests: np.ndarray,
    *,
    keys: Sequence[mx.array],
    temperature: float = 1.3,
    top_k: int = 40,
    start: np.ndarray | None = None,
    refresh: int = 0,
    block: int = BLOCK,
    choose: Callable[[np.ndarray], int] | None = None,
) -> Iterator[np.ndarray]:
    """Codes int32 (rows, codebooks, up to `block` frames), block after block.

    requests: int32 (rows, frames, 144), of every frame of the songs. keys: one a row. start: codes
    (rows, codebooks, frames) that the songs begin with; they are not handed out again. refresh: at
    every so many frames all that is older than LEFT frames is forgotten; 0 is never.

    choose(codes (rows, codebooks, frames of the block)) says which row's block stays: all rows go
    on from it, and it alone is handed out.
    """
    run = FrameRun(lm, requests, temperature=temperature, top_k=top_k)
    frames = requests.shape[1]
    known = np.zeros((run.rows, lm.config.codebooks, 0), np.int32) if start is None else start
    begun = done = known.shape[-1]
    noise = gumbel(lm, keys, temperature, skip=done)

    def go_on(known: np.ndarray) -> None:
        """From codes, as far back as a refresh leaves."""
        last = known.shape[-1] // refresh * refresh if refresh else 0
        run.prefill(known, first=last - LEFT if refresh else 0)

    if begun:
        go_on(known)
    while done < frames:
        drawn: list[mx.array] = []
        for frame in range(done, min(frames, (done // block + 1) * block)):
            if refresh and frame > begun and frame % refresh == 0:
                go_on(np.concatenate([known, on_host(drawn)], axis=-1) if drawn else known)
            drawn.append(run.next(next(noise)))
            mx.async_eval(drawn[-1])
        codes = on_host(drawn)
        if choose is not None:
            row = choose(codes)
            run.choose(row)
            codes = codes[[row] * run.rows]
        known, done = np.concatenate([known, codes], axis=-1), done + len(drawn)
        yield codes if choose is None else codes[:1]
