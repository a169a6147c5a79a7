"""Drawing MusicGen's codes: arXiv 2306.05284, with the delay pattern of generation/delay.py.

A step draws one code for every codebook of every song in one call. Which positions hold a code, a
given one or padding is known before the loop begins, so nothing is read back to decide anything:
codes stay on the device, `mx.async_eval` runs one step ahead, and the host waits only where a block
of frames is handed out.

Guidance takes a second row a song, without text or with a negative prompt, in one batch with the
first. Songs longer than the model's context are written in windows: each later one begins with the
last `overlap_frames` of what is there, its positions counted from zero again (audiocraft extends by
18 s of 30, an overlap of 12 s, the default here), and a melody moves on with it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from musicot_mlx.generation import device
from musicot_mlx.generation.delay import delayed, delays, undelayed
from musicot_mlx.generation.sampling import check_sampling, draw_codebooks, keys_by_step, on_host
from musicot_mlx.generation.spans import Window
from musicot_mlx.models.musicgen import Musicgen, TextKeysValues

WINDOW = 1500  # frames, 30 s: what the released models were trained on
OVERLAP = 600  # frames, 12 s
BLOCK = 25  # frames handed out at a time: half a second
POSITIONS = 512  # position embeddings are made in steps of this


@dataclass(frozen=True)
class MusicgenCondition:
    """What a song is asked to be; every part is optional and has its own length.

    text and negative: T5 hidden states (tokens, text_hidden_size) of the prompt and of what the
    song should not be. chroma: (frames, num_chroma) of audio/chroma.py, for melody models.
    """

    text: mx.array | None = None
    chroma: mx.array | None = None
    negative: mx.array | None = None


def windows(frames: int, *, done: int, window: int, overlap: int) -> list[Window]:
    """Cut a song that has `done` frames into windows that write the rest.

    Each later window sees at least the `overlap` frames before its first new one, the last one more
    so that it is as long as the others.
    """
    cut, start = [], 0
    while done < frames:
        if done >= start + window:
            start = min(done - overlap, frames - window) if frames > window else 0
            start = max(start, done - window + 1)
        done = min(frames, start + window)
        cut.append(Window(start, done))
    return cut


def generate_codes(
    lm: Musicgen,
    conditions: Sequence[MusicgenCondition],
    *,
    frames: int,
    keys: Sequence[mx.array],
    guidance_scale: float = 3.0,
    temperature: float = 1.0,
    top_k: int = 250,
    top_p: float = 1.0,
    start: np.ndarray | None = None,
    window_frames: int = WINDOW,
    overlap_frames: int = OVERLAP,
    block: int = BLOCK,
) -> Iterator[np.ndarray]:
    """Draw the codes of songs of one length in one batch: blocks int32 (songs, codebooks, frames).

    frames: frames of audio in all; the steps that the delay adds are counted here, not by the
    caller. start: codes (songs, codebooks, fewer frames) that the songs continue; they are fed, not
    drawn, and not handed out again. A condition and a random key a song: a song is the same alone
    and in a batch, and step i always draws with the i-th key, so a song that continues its own
    first frames comes out the same. Temperature 0 is greedy; guidance_scale 1 is off.
    Raises ValueError, at the call and not at the first block, for what does not fit the model.
    """
    config = lm.config
    check_sampling(temperature, top_k, top_p)
    if not conditions or len(keys) != len(conditions):
        raise ValueError(f"there are {len(conditions)} conditions and {len(keys)} keys")
    if not 0 < overlap_frames < window_frames:
        raise ValueError(
            f"overlap_frames is {overlap_frames}, expected 1 to {window_frames - 1}: less than "
            "window_frames"
        )
    if min(frames, block) < 1:
        raise ValueError(f"frames is {frames} and block {block}, expected at least 1")
    codes = _start_codes(config.vocab_size, (len(conditions), config.num_codebooks), frames, start)
    cut = windows(frames, done=codes.shape[-1], window=window_frames, overlap=overlap_frames)
    run = DecodingRun(lm, conditions, guidance_scale)
    settings = {"temperature": temperature, "top_k": top_k, "top_p": top_p}

    def blocks() -> Iterator[np.ndarray]:
        past = codes  # what a window may begin with
        first = 0  # its first frame's number in the song
        for window in cut:
            past, first = past[..., window.start - first :], window.start
            for new in _write(run, past, window, keys, block, settings):
                past = np.concatenate([past, new], axis=-1)
                yield new

    return blocks()


def _write(
    run: "DecodingRun",
    past: np.ndarray,
    window: Window,
    keys: Sequence[mx.array],
    block: int,
    settings: dict[str, float],
) -> Iterator[np.ndarray]:
    """One window: the frames after `past` (songs, codebooks, frames), in blocks."""
    config = run.lm.config
    songs, codebooks, known = past.shape
    free = np.full((songs, codebooks, window.stop - window.start - known), -1, dtype=np.int32)
    table = np.concatenate([past, free], axis=-1)
    table = delayed(table, config.pad_id, channels=config.audio_channels)  # -1 is to be drawn
    span = int(delays(codebooks, config.audio_channels)[-1]) + 1
    numbers = zip(*(keys_by_step(key, skip=window.start + known) for key in keys), strict=True)
    seen = table[..., : known + 1]  # positions that are on the host
    waiting: list[mx.array] = []  # and those after them, (songs, codebooks) each
    sent = known  # frames

    def whole() -> np.ndarray:
        nonlocal seen, sent
        seen = np.concatenate([seen, on_host(waiting)], axis=-1)
        waiting.clear()
        if seen.shape[-1] - span <= sent:
            return past[..., :0]
        new = undelayed(seen, channels=config.audio_channels)[..., sent:]
        sent += new.shape[-1]
        return new

    run.begin(window.start)
    tokens = mx.array(seen)
    for position in range(known + 1, table.shape[-1]):
        drawn = draw_codebooks(run.logits(tokens), mx.stack(next(numbers)), **settings)
        fixed = table[..., position]
        if fixed.max() >= 0:  # later codebooks of given frames, and padding at the end
            drawn = mx.where(mx.array(fixed >= 0), mx.array(fixed), drawn)
        mx.async_eval(drawn)
        tokens = drawn[..., None]  # (songs, codebooks, 1)
        if len(waiting) == block and (new := whole()).shape[-1]:
            yield new
        waiting.append(drawn)
    yield whole()


class DecodingRun:
    """One batch of songs through the decoder: rows, text, caches. The model holds no state.

    Rows are one a song, then, with guidance, the songs' unconditional rows in the same order.
    """

    def __init__(
        self, lm: Musicgen, conditions: Sequence[MusicgenCondition], guidance_scale: float
    ) -> None:
        self.lm = lm
        self.scale = guidance_scale
        self.songs = len(conditions)
        self.copies = 1 if guidance_scale == 1.0 else 2
        self.conditions = conditions
        self.cross = None if lm.config.melody else self._cross()
        self.positions = mx.zeros((0, lm.config.hidden_size))

    def begin(self, first_frame: int) -> None:
        """Forget all positions and begin again, at a frame of the song."""
        self.cache = self.lm.make_cache()
        self.step = self.lm.fast_step(self.songs * self.copies)
        self.offset = 0  # positions fed so far, the prefix not counted
        self.prefix, self.padding = None, None
        if self.lm.config.melody:
            self._set_prefix(first_frame)

    def logits(self, tokens: mx.array) -> mx.array:
        """Feed tokens (songs, codebooks, time); guided float32 logits (songs, codebooks, ids)."""
        time = tokens.shape[-1]
        x = mx.concatenate([self.lm.embed(tokens)] * self.copies)  # (rows, time, hidden)
        if self.prefix is not None:
            x = mx.concatenate([self.prefix, x], axis=1)
            self.prefix = None
        begin = self.cache[0].offset
        x = x + self._positions(begin, begin + x.shape[1])
        self.offset += time
        size = device.prefill()
        for first in range(0, x.shape[1], size):
            if first:  # or all pieces would be held at once
                mx.eval([kept.state for kept in self.cache])
            piece = x[:, first : first + size]
            mask = self._mask(begin + first, piece.shape[1])
            run = self.step if piece.shape[1] == 1 else self.lm.hidden
            hidden = run(piece, self.cache, mask=mask, cross=self.cross)
        logits = self.lm.logits(hidden[:, -1]).astype(mx.float32)  # (rows, codebooks, ids)
        if self.copies == 1:
            return logits
        conditional, without = mx.split(logits, 2)
        # of raw logits: a constant a row, such as a log-sum-exp, would fall out of any draw
        return without + self.scale * (conditional - without)

    def _cross(self) -> list[TextKeysValues] | None:
        """Keys and values of the rows up to the last one with text."""
        texts = [condition.text for condition in self.conditions]
        if self.copies == 2:
            texts += [condition.negative for condition in self.conditions]
        while texts and texts[-1] is None:
            texts.pop()
        if not texts:
            return None
        longest = max(len(text) for text in texts if text is not None)
        size = self.lm.config.text_hidden_size
        rows, mask = [], np.zeros((len(texts), longest), dtype=bool)
        for row, text in enumerate(texts):
            text = mx.zeros((0, size)) if text is None else text
            mask[row, : len(text)] = True
            rows.append(mx.pad(text, ((0, longest - len(text)), (0, 0))))
        return self.lm.cross(mx.stack(rows), None if mask.all() else mx.array(mask))

    def _set_prefix(self, first_frame: int) -> None:
        """A melody model's rows before the music, padded on the left to one length."""
        config = self.lm.config
        rows, without = [], []
        for condition in self.conditions:
            chroma = condition.chroma
            if chroma is not None:
                past = round(first_frame / config.frame_rate * config.chroma_rate)
                chroma = mx.roll(chroma, -past, axis=0)
            tokens = 0 if condition.text is None else len(condition.text)
            rows.append(self.lm.prefix(condition.text, chroma))
            without.append(self.lm.prefix(condition.negative, None, tokens=tokens))
        rows = rows if self.copies == 1 else rows + without
        longest = max(len(row) for row in rows)
        missing = np.array([longest - len(row) for row in rows])
        rows = [mx.pad(row, ((longest - len(row), 0), (0, 0))) for row in rows]
        self.prefix = mx.stack(rows)  # (rows, positions, hidden)
        self.padding = missing if missing.any() else None

    def _positions(self, begin: int, end: int) -> mx.array:
        """Position embeddings (1 or rows, time, hidden); a row's own begin after its padding."""
        if len(self.positions) < end:
            self.positions = self.lm.positions(-(-end // POSITIONS) * POSITIONS)
        if self.padding is None:
            return self.positions[None, begin:end]
        own = np.maximum(np.arange(begin, end)[None] - self.padding[:, None], 0)
        return self.positions[mx.array(own)]

    def _mask(self, begin: int, time: int) -> mx.array | str | None:
        """Which keys each of `time` queries attends to, the first of them at position `begin`."""
        if self.padding is None:
            return "causal" if time > 1 else None
        query, key = np.arange(begin, begin + time)[:, None], np.arange(begin + time)[None]
        attended = (key <= query) & (key >= self.padding[:, None, None])
        # what is padding itself must attend to something, or its softmax is 0 / 0
        return mx.array((attended | (key == query))[:, None])  # (rows, 1, time, keys)


def _start_codes(
    vocab_size: int, shape: tuple[int, int], frames: int, start: np.ndarray | None
) -> np.ndarray:
    """The start of the songs, checked: int32 (songs, codebooks, frames so far)."""
    if start is None:
        return np.zeros((*shape, 0), dtype=np.int32)
    codes = np.asarray(start)
    if codes.ndim != 3 or codes.shape[:2] != shape or codes.shape[2] > frames:
        raise ValueError(
            f"start has shape {codes.shape}, expected (songs, codebooks, frames) "
            f"({shape[0]}, {shape[1]}, at most {frames})"
        )
    if codes.size and not 0 <= codes.min() <= codes.max() < vocab_size:
        raise ValueError(
            f"start holds codes {codes.min()}..{codes.max()}, expected 0..{vocab_size - 1}"
        )
    return codes.astype(np.int32)
