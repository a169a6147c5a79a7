"""Drawing thoughts and audio tokens from the semantic LM: MusiCoT (arXiv 2503.19611), eq 7 and 8.

What happens at a step is known before it runs: M thoughts a level, each confined to its level's K
ids, then a fixed number of audio tokens confined to the A audio ids. So nothing is read back to
decide anything: tokens stay on the device, `mx.async_eval` runs one step ahead, and the host waits
only where a block of codes is handed out.

Guidance takes a second row without the conditions, in one batch with the first. The rows differ in
length and position: each is prefilled alone and exactly, then the caches are merged with padding on
the left, masked, every row keeping its own positions. In eq 8 as printed the second row has no
thoughts either (`unconditional="without_thoughts"`); the other reading keeps them.

Songs longer than the training context are written in windows of the context, each later window
beginning with what the window before it has already decided. A song that fits is one window.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from musicot_mlx.generation.guidance import guided
from musicot_mlx.generation.sampling import check_sampling, draw, log_probabilities
from musicot_mlx.models.semantic_lm import SemanticLM, SemanticLMConfig, merge_caches
from musicot_mlx.weights.vocabulary import AUD_BOS, COT_BOS, COT_EOS, Vocabulary

UNCONDITIONAL = ("without_thoughts", "with_thoughts")
BLOCK = 25  # audio codes handed out at a time: one second
PREFILL = 512  # positions a forward pass; bounds the attention scores of a long prefix
KEY_BLOCK = 256


@dataclass(frozen=True)
class Condition:
    """What a song is asked to be: a CLAP vector (clap_dim,), tag ids and lyrics ids, all optional.

    Ids are vocabulary ids: Vocabulary.tag_id and Vocabulary.lyrics_ids make them.
    """

    clap: np.ndarray | None = None
    tags: Sequence[int] = ()
    lyrics: Sequence[int] = ()


@dataclass(frozen=True)
class Window:
    """A stretch of a song the model sees at once: segments start..stop-1."""

    start: int
    stop: int


def windows(segments: int, context: int) -> list[Window]:
    """Cut a song of `segments` thoughts into windows of at most `context`, hopping by half of one.

    The last window is moved back to be as long as the others: the model never sees a song shorter
    than it has to be. A song that fits is one window.
    """
    hop = (context + 1) // 2
    found = [Window(0, min(segments, context))]
    while found[-1].stop < segments:
        start = min(found[-1].start + hop, segments - context)
        found.append(Window(start, start + context))
    return found


def plan_thoughts(
    lm: SemanticLM,
    condition: Condition,
    *,
    segments: int,
    temperature: float = 0.65,
    guidance_scale: float = 2.3,  # lambda_1
    key: mx.array,
    top_k: int = 0,
    top_p: float = 1.0,
    given: np.ndarray | None = None,
) -> np.ndarray:
    """Draw the thoughts of a song, level by level (eq 7): int32 codes (levels, segments).

    given: int32 (levels, segments) with -1 where free. Locked codes stand in the sequence at their
    place, so codes drawn after them answer to them; as the order is level-major, a locked segment's
    coarse code is heard by every later segment and by all finer levels. Each code has a random key
    of its own, so a lock does not reshuffle the draws around it. Temperature 0 is greedy.
    Raises ValueError for settings or locks that do not fit the model.
    """
    config, vocabulary = lm.config, lm.config.vocabulary
    check_sampling(temperature, top_k, top_p)
    vocabulary.check_conditions(condition.tags, condition.lyrics)
    codes = _free_or_given(config, segments, given)
    levels = vocabulary.thought_codebooks
    keys = mx.random.split(key, levels * segments).reshape(levels, segments, -1)
    for window in windows(segments, config.context_segments):
        span = slice(window.start, window.stop)
        tokens: list[mx.array] = []
        run = _Run(lm, _thought_rows(lm, condition, guidance_scale), guidance_scale)
        for level in range(levels):
            legal = vocabulary.thought_range(level)
            head = lm.head(*legal)
            for code, step_key in zip(codes[level, span].tolist(), keys[level, span], strict=True):
                if code >= 0:
                    run.feed(mx.array([legal[0] + code], dtype=mx.int32))
                    continue
                logp = run.log_probabilities(head)
                token = legal[0] + draw(
                    logp, step_key, temperature=temperature, top_k=top_k, top_p=top_p
                )
                run.feed(token)
                mx.async_eval(token)
                tokens.append(token)
        if tokens:
            codes[:, span] = _fill(vocabulary, codes[:, span], np.array(mx.concatenate(tokens)))
    return codes


def audio_tokens(
    lm: SemanticLM,
    condition: Condition,
    thoughts: np.ndarray,
    *,
    frames: int,
    temperature: float = 0.75,
    guidance_scale: float = 1.3,  # lambda_2
    unconditional: str = "without_thoughts",
    key: mx.array,
    top_k: int = 0,
    top_p: float = 1.0,
    start: np.ndarray | None = None,
) -> Iterator[np.ndarray]:
    """Draw the audio codes of a song (eq 8): blocks of int32 codes, `frames` in all.

    thoughts: int32 codes (levels, segments), from plan_thoughts, an edited plan or a reference.
    start: codes kept from an earlier render; they are fed, not drawn, and not handed out again.
    Frame i always draws with the i-th key, so a render that continues its own first codes comes out
    the same. A block is handed out while the next step is already running.
    Raises ValueError, at the call and not at the first block, for what does not fit the model.
    """
    config = lm.config
    check_sampling(temperature, top_k, top_p)
    config.vocabulary.check_conditions(condition.tags, condition.lyrics)
    if unconditional not in UNCONDITIONAL:
        raise ValueError(f"unconditional is {unconditional!r}, expected one of {UNCONDITIONAL}")
    thoughts = np.asarray(thoughts, dtype=np.int32)
    config.vocabulary.flatten_thoughts(thoughts)  # checks shape and range
    if frames < 1:
        raise ValueError(f"frames is {frames}, expected at least 1")
    kept = np.zeros(0, dtype=np.int32) if start is None else np.asarray(start, dtype=np.int32)
    config.vocabulary.audio_ids(kept)
    if kept.size > frames:
        raise ValueError(f"start holds {kept.size} codes but the song has only {frames} frames")
    segments = config.segments(frames)
    if segments > config.context_segments and thoughts.shape[1] < segments:
        raise ValueError(
            f"{frames} frames need {segments} thoughts but the plan has {thoughts.shape[1]}; plan "
            f"for the same duration, or ask for at most {config.context_seconds:g} s"
        )

    def step(logp: mx.array, step_key: mx.array) -> mx.array:
        return draw(logp, step_key, temperature=temperature, top_k=top_k, top_p=top_p)

    def blocks() -> Iterator[np.ndarray]:
        codes = kept
        keys = _keys(key, skip=kept.size)
        head = lm.head(*config.vocabulary.audio_range)
        for window in windows(segments, config.context_segments):
            stop = min(frames, config.first_frame(window.stop))
            if stop <= codes.size:
                continue
            past = codes[config.first_frame(window.start) :]
            held = _held_thoughts(config, thoughts, window)
            rows = _audio_rows(lm, condition, held, past, guidance_scale, unconditional)
            run = _Run(lm, rows, guidance_scale)
            waiting: list[mx.array] = []
            for _ in range(codes.size, stop):
                token = step(run.log_probabilities(head), next(keys))
                run.feed(token + config.audio_offset)
                mx.async_eval(token)
                if len(waiting) == BLOCK:
                    block = np.array(mx.concatenate(waiting))
                    waiting = []
                    codes = np.concatenate([codes, block])
                    yield block
                waiting.append(token)
            block = np.array(mx.concatenate(waiting))
            codes = np.concatenate([codes, block])
            yield block

    return blocks()


class _Run:
    """One run of rows through the LM: caches and what waits to be fed. The model holds no state.

    `rows` are embedded prefixes (1, time, hidden), the conditional row first. Each forward pass
    takes all that was fed since the last one, so forced tokens cost no pass of their own.
    """

    def __init__(self, lm: SemanticLM, rows: Sequence[mx.array], guidance_scale: float) -> None:
        self.lm = lm
        self.guidance_scale = guidance_scale
        self.row_count = len(rows)
        self.prefixes: list[mx.array] = list(rows)
        self.cache: list | None = None
        self.pending: list[mx.array] = []

    def feed(self, ids: mx.array) -> None:
        """Put one id (1,) after every row."""
        self.pending.append(ids)

    def log_probabilities(self, head: Callable[[mx.array], mx.array]) -> mx.array:
        """Run what waits; float32 log-probabilities (1, ids) of the next token, guided."""
        embedded = []
        if self.pending:
            ids = mx.concatenate(self.pending)[None]  # (1, time)
            embedded = [self.lm.embed(ids)]
            self.pending = []
        if self.cache is None:
            caches = [self.lm.make_cache() for _ in self.prefixes]
            last = [
                self._forward(mx.concatenate([prefix, *embedded], axis=1), cache)
                for prefix, cache in zip(self.prefixes, caches, strict=True)
            ]
            self.cache, self.prefixes = merge_caches(caches), []
            hidden = mx.concatenate(last)
        else:
            shape = (self.row_count, *embedded[0].shape[1:])
            hidden = self._forward(mx.broadcast_to(embedded[0], shape), self.cache)
        logits = head(hidden)  # (rows, ids)
        if self.row_count == 1:
            return log_probabilities(logits)
        return guided(logits, self.guidance_scale)

    def _forward(self, embeddings: mx.array, cache: list) -> mx.array:
        """Hidden state (rows, hidden) after the last of (rows, time, hidden)."""
        for first in range(0, embeddings.shape[1], PREFILL):
            hidden = self.lm.hidden(embeddings[:, first : first + PREFILL], cache)
        return hidden[:, -1]


def _thought_rows(lm: SemanticLM, condition: Condition, guidance_scale: float) -> list[mx.array]:
    """Prefixes of eq 7: with the conditions, and from <cot_bos> alone."""
    rows = [lm.prefix(condition.clap, [*condition.tags, *condition.lyrics, COT_BOS])]
    if guidance_scale != 1.0:
        rows.append(lm.prefix(None, [COT_BOS]))
    return rows


def _audio_rows(
    lm: SemanticLM,
    condition: Condition,
    thoughts: np.ndarray,
    past: np.ndarray,
    guidance_scale: float,
    unconditional: str,
) -> list[mx.array]:
    """Prefixes of eq 8, `past` being the audio codes that the window already has."""
    vocabulary = lm.config.vocabulary
    chain = [COT_BOS, *vocabulary.flatten_thoughts(thoughts).tolist(), COT_EOS]
    audio = [AUD_BOS, *vocabulary.audio_ids(past).tolist()]
    rows = [lm.prefix(condition.clap, [*condition.tags, *condition.lyrics, *chain, *audio])]
    if guidance_scale != 1.0:
        kept = chain if unconditional == "with_thoughts" else []
        rows.append(lm.prefix(None, [*kept, *audio]))
    return rows


def _held_thoughts(config: SemanticLMConfig, thoughts: np.ndarray, window: Window) -> np.ndarray:
    """The thoughts a window is written under.

    In a song of one window that is the whole chain, be it a reference longer or shorter than the
    song (section 5.4), up to the context.
    """
    if window.start == 0:
        return thoughts[:, : config.context_segments]
    return thoughts[:, window.start : window.stop]


def _free_or_given(config: SemanticLMConfig, segments: int, given: np.ndarray | None) -> np.ndarray:
    """A new table of codes (levels, segments): the locked ones, -1 where free."""
    if segments < 1:
        raise ValueError(f"segments is {segments}, expected at least 1")
    shape = (config.thought_codebooks, segments)
    if given is None:
        return np.full(shape, -1, dtype=np.int32)
    codes = np.array(given, dtype=np.int32)
    if codes.shape != shape:
        raise ValueError(f"given has shape {codes.shape}, expected (levels, segments) {shape}")
    if codes.min() < -1 or codes.max() >= config.thought_codebook_size:
        raise ValueError(
            f"given holds codes {codes.min()}..{codes.max()}, expected -1 (free) or "
            f"0..{config.thought_codebook_size - 1}"
        )
    return codes


def _fill(vocabulary: Vocabulary, codes: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Codes (levels, segments) with the -1 places filled by ids drawn in level-major order."""
    free = codes.reshape(-1) < 0
    ids = np.zeros(codes.size, dtype=np.int64)
    ids[~free] = vocabulary.flatten_thoughts(np.maximum(codes, 0))[~free]
    ids[free] = drawn
    return vocabulary.unflatten_thoughts(ids)


def _keys(key: mx.array, *, skip: int = 0) -> Iterator[mx.array]:
    """One key a step, from step `skip` on; step i has the same key however many steps there are."""
    step = 0
    while True:
        key, branch = mx.random.split(key)
        if step + KEY_BLOCK > skip:
            yield from mx.random.split(branch, KEY_BLOCK)[max(0, skip - step) :]
        step += KEY_BLOCK
