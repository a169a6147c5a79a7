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

Several songs run in one batch as well (`plan_many`, `audio_many`): candidates cost little more than
one song, because a step reads the weights once.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from musicot_mlx.generation import device
from musicot_mlx.generation.guidance import guided
from musicot_mlx.generation.sampling import (
    check_sampling,
    draw,
    draw_fused,
    keys_by_step,
    log_probabilities,
    on_host,
)
from musicot_mlx.generation.spans import Window
from musicot_mlx.models.semantic_lm import SemanticLM, SemanticLMConfig, Step, merge_caches
from musicot_mlx.tokens.vocabulary import AUD_BOS, COT_BOS, COT_EOS, Vocabulary

UNCONDITIONAL = ("without_thoughts", "with_thoughts")
BLOCK = 25  # audio codes handed out at a time: one second
PREFILL = 512  # positions a forward pass; bounds the attention scores of a long prefix


@dataclass(frozen=True)
class SemanticCondition:
    """What a song is asked to be: a CLAP vector (clap_dim,), tag ids, lyrics ids, beats a minute,
    chords and what audio codes lean to, all optional.

    Ids are vocabulary ids: Vocabulary.tag_id and Vocabulary.lyrics_ids make them. bpm goes to the
    audio tokens of a model that knows beats (`beat_harmonics`), from the song's start on; chords,
    (second, chord) at every change of the whole song, to one that knows `harmony`. part: what a
    segment belongs to, "" for the song itself: it is written as if only its part were there.
    lean (codes,) is added to the log-probabilities of the audio codes.
    """

    clap: np.ndarray | None = None
    tags: Sequence[int] = ()
    lyrics: Sequence[int] = ()
    bpm: float = 0.0
    chords: Sequence[tuple[float, str]] = ()
    part: str = ""
    lean: np.ndarray | None = None


def windows(segments: int, context: int) -> list[Window]:
    """Cut a song of `segments` thoughts into windows of at most `context`, hopping by half of one.

    The last window is moved back to be as long as the others: the model never sees a song shorter
    than it has to be. A song that fits is one window.
    """
    hop = (context + 1) // 2
    cut = [Window(0, min(segments, context))]
    while cut[-1].stop < segments:
        start = min(cut[-1].start + hop, segments - context)
        cut.append(Window(start, start + context))
    return cut


def plan_thoughts(
    lm: SemanticLM,
    condition: SemanticCondition,
    *,
    segments: int,
    temperature: float = 0.65,
    guidance_scale: float = 2.3,  # lambda_1
    key: mx.array,
    top_k: int = 0,
    top_p: float = 1.0,
    locked_codes: np.ndarray | None = None,
) -> np.ndarray:
    """Draw the thoughts of a song, level by level (eq 7): int32 codes (levels, segments).

    locked_codes: int32 (levels, segments) with -1 where free. They stand in the sequence at their
    place, so codes drawn after them depend on them; as the order is level-major, every later
    segment and all finer levels attend to a locked segment's coarse code. Each code has a random
    key of its own, so a lock does not reshuffle the draws around it. Temperature 0 is greedy.
    Raises ValueError for settings or locks that do not fit the model.
    """
    return plan_many(
        lm,
        [condition],
        segments=segments,
        temperature=temperature,
        guidance_scale=guidance_scale,
        keys=[key],
        top_k=top_k,
        top_p=top_p,
        locked_codes=locked_codes,
    )[0]


def audio_tokens(
    lm: SemanticLM,
    condition: SemanticCondition,
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
    thought_bias: float = 0.0,
) -> Iterator[np.ndarray]:
    """Draw the audio codes of a song (eq 8): blocks of int32 codes, `frames` in all.

    thoughts: int32 codes (levels, segments), from plan_thoughts, an edited plan or a reference;
    (levels, 0) leaves out the chain of thoughts.
    start: codes kept from an earlier render; they are fed, not drawn, and not handed out again.
    thought_bias: as in audio_many.
    Frame i always draws with the i-th key, so a render that continues its own first codes comes out
    the same. A block is handed out while the next step is already running.
    Raises ValueError, at the call and not at the first block, for what does not fit the model.
    """
    blocks = audio_many(
        lm,
        [condition],
        np.asarray(thoughts)[None],
        frames=frames,
        temperature=temperature,
        guidance_scale=guidance_scale,
        unconditional=unconditional,
        keys=[key],
        top_k=top_k,
        top_p=top_p,
        start=None if start is None else np.asarray(start)[None],
        thought_bias=thought_bias,
    )
    return (block[0] for block in blocks)


def plan_many(
    lm: SemanticLM,
    conditions: Sequence[SemanticCondition],
    *,
    segments: int,
    temperature: float = 0.65,
    guidance_scale: float = 2.3,  # lambda_1
    keys: Sequence[mx.array],
    top_k: int = 0,
    top_p: float = 1.0,
    locked_codes: np.ndarray | None = None,
) -> np.ndarray:
    """plan_thoughts for several songs in one batch, a condition and a key each, the locks shared.

    Returns int32 codes (songs, levels, segments). A step reads the weights once however many songs
    there are, so candidates in a batch cost little more than one.
    """
    config, vocabulary = lm.config, lm.config.vocabulary
    check_sampling(temperature, top_k, top_p)
    _check_conditions(vocabulary, conditions, keys)
    levels, songs = vocabulary.thought_codebooks, len(conditions)
    codes = np.tile(_with_locked(config, segments, locked_codes), (songs, 1, 1))
    step_keys = [mx.random.split(k, levels * segments).reshape(levels, segments, -1) for k in keys]
    for window in windows(segments, config.context_segments):
        held = codes[..., window.start : window.stop]  # a view: filled below
        free = held[0] < 0  # alike in all songs
        run = DecodingRun(lm, _thought_rows(lm, conditions, guidance_scale), songs)
        drawn: list[mx.array] = []
        with _core(config, run.rows):
            for level in range(levels):
                start, stop = vocabulary.thought_range(level)
                head = lm.head(start, stop)
                for i in range(window.stop - window.start):
                    if not free[level, i]:
                        run.feed(start + mx.array(held[:, level, i]))
                        continue
                    code = run.draw(
                        head,
                        [k[level, window.start + i] for k in step_keys],
                        guidance_scale=guidance_scale,
                        temperature=temperature,
                        top_k=top_k,
                        top_p=top_p,
                    )
                    run.feed(start + code)
                    mx.async_eval(code)
                    drawn.append(code)
            if drawn:  # in level-major order, as a boolean index reads the table
                held[:, free] = on_host(drawn)
    return codes


def audio_many(
    lm: SemanticLM,
    conditions: Sequence[SemanticCondition],
    thoughts: np.ndarray,
    *,
    frames: int,
    temperature: float = 0.75,
    guidance_scale: float = 1.3,  # lambda_2
    unconditional: str = "without_thoughts",
    keys: Sequence[mx.array],
    top_k: int = 0,
    top_p: float = 1.0,
    start: np.ndarray | None = None,
    changes: Mapping[int, Sequence[SemanticCondition]] | None = None,
    thought_bias: float = 0.0,
) -> Iterator[np.ndarray]:
    """audio_tokens for several songs of one length in one batch: blocks (songs, codes).

    thoughts: (songs, levels, segments); start: (songs, codes); a condition and a key each.
    changes: the conditions from a segment on, where a song is asked for something else there. Of
    the codes and thoughts a segment hears those of its own part alone: with the song's before it,
    a model this small plays on as it did ("solo piano" amid a jazz trio kept its drums for a second
    or more in 5 of 10, without in none). Beats and chords go on across a change.
    thought_bias: how much of log p(token | its segment's thought) - log p(token) is added to each
    token's, where the model has it (ThoughtBias) and there are thoughts; 0 is the paper's eq 8.
    """
    config, vocabulary = lm.config, lm.config.vocabulary
    check_sampling(temperature, top_k, top_p)
    _check_conditions(vocabulary, conditions, keys)
    if unconditional not in UNCONDITIONAL:
        raise ValueError(f"unconditional is {unconditional!r}, expected one of {UNCONDITIONAL}")
    if frames < 1:
        raise ValueError(f"frames is {frames}, expected at least 1")
    songs, segments = len(conditions), config.segments(frames)
    thoughts = np.asarray(thoughts, dtype=np.int32)
    if len(thoughts) != songs:
        raise ValueError(f"there are thoughts for {len(thoughts)} songs and {songs} conditions")
    for chain in thoughts:
        vocabulary.flatten_thoughts(chain)  # checks shape and range
    if segments > config.context_segments and thoughts.shape[-1] < segments:
        raise ValueError(
            f"{frames} frames need {segments} thoughts but the plan has {thoughts.shape[-1]}; plan "
            f"for the same duration, or ask for at most {config.context_seconds:g} s"
        )
    past_codes = np.zeros((songs, 0)) if start is None else np.asarray(start)
    if past_codes.ndim != 2 or len(past_codes) != songs or past_codes.shape[1] > frames:
        raise ValueError(
            f"start holds {past_codes.shape[-1]} codes for {len(past_codes)} songs, expected at "
            f"most {frames} for {songs}"
        )
    vocabulary.audio_ids(past_codes)  # checks the range
    conditions_by_segment = {0: conditions, **(changes or {})}
    for changed in conditions_by_segment.values():
        _check_conditions(vocabulary, changed, keys)
    features = _frame_features(lm, conditions_by_segment, frames, guidance_scale)
    parts = _parts(conditions_by_segment, segments)
    bias = _bias(lm, conditions_by_segment, thoughts, segments, thought_bias)

    def blocks() -> Iterator[np.ndarray]:
        codes = past_codes.astype(np.int32)  # (songs, frames so far)
        step_keys = zip(*(keys_by_step(k, skip=codes.shape[1]) for k in keys), strict=True)
        head = lm.head(*vocabulary.audio_range)
        for window, first, last in _pieces(
            segments, config.context_segments, conditions_by_segment
        ):
            stop = min(frames, config.first_frame(last))
            if stop <= codes.shape[1]:
                continue
            alike = [s for s in range(window.start, window.stop) if parts[s] == parts[first]]
            past = range(config.first_frame(window.start), codes.shape[1])
            past = [frame for frame in past if config.segment(frame) in alike]
            held = _held_thoughts(config, thoughts, window, alike)
            now = max(segment for segment in conditions_by_segment if segment <= first)
            asked = conditions_by_segment[now]
            rows = _audio_rows(lm, asked, held, codes[:, past], guidance_scale, unconditional)
            if features is not None:  # from <aud_bos>, which predicts the part's first frame
                past_features = features[:, mx.array([*past, codes.shape[1]])]
                rows = [_add_last(row, past_features[i : i + 1]) for i, row in enumerate(rows)]
            run = DecodingRun(lm, rows, songs)
            waiting: list[mx.array] = []
            with _core(config, run.rows) as core:
                for frame in range(codes.shape[1], stop):
                    lean = None
                    if bias is not None:
                        lean = bias[:, min(config.segment(frame), bias.shape[1] - 1)]
                    code = run.draw(
                        head,
                        next(step_keys),
                        guidance_scale=guidance_scale,
                        bias=lean,
                        temperature=temperature,
                        top_k=top_k,
                        top_p=top_p,
                    )
                    ahead = None if features is None else features[:, frame + 1 : frame + 2]
                    run.feed(code + config.audio_offset, ahead)
                    mx.async_eval(code)
                    if len(waiting) == BLOCK:
                        block = on_host(waiting)  # (songs, codes)
                        waiting = []
                        codes = np.concatenate([codes, block], axis=1)
                        with core.paused():
                            yield block
                    waiting.append(code)
                block = on_host(waiting)
            codes = np.concatenate([codes, block], axis=1)
            yield block

    return blocks()


def _core(config: SemanticLMConfig, rows: int) -> device.Decoding:
    """How the steps of a run of so many rows go."""
    widest = max(config.intermediate_size, config.audio_codebook_size)
    return device.decoding(products=rows * config.hidden_size * widest)


def _pieces(
    segments: int, context: int, starts: Collection[int]
) -> Iterator[tuple[Window, int, int]]:
    """Each window of a song, cut where one of `starts` lies in it: window, first, last segment."""
    for window in windows(segments, context):
        inside = sorted(start for start in starts if window.start < start < window.stop)
        ends = [*inside, window.stop]
        for first, last in zip([window.start, *inside], ends, strict=True):
            yield window, first, last


class DecodingRun:
    """One run of rows through the LM: caches and what waits to be fed. The model holds no state.

    `rows` are embedded prefixes (1, time, hidden): one a song, then, with guidance, the songs'
    unconditional rows in the same order. Each forward pass takes all that was fed since the last
    one, so forced tokens cost no pass of their own.
    """

    def __init__(self, lm: SemanticLM, rows: Sequence[mx.array], songs: int) -> None:
        self.lm = lm
        self.songs = songs
        self.prefixes = list(rows)
        self.rows = len(self.prefixes)
        self.cache: list | None = None
        self.step: Step = lm.hidden  # how single positions go once the caches are filled
        self.pending: list[mx.array] = []
        self.features: mx.array | None = None

    def feed(self, ids: mx.array, features: mx.array | None = None) -> None:
        """Put one id a song (songs,) after its rows; features (rows, 1, hidden) are added to it."""
        self.pending.append(ids)
        self.features = features

    def draw(
        self,
        head: Callable[[mx.array], mx.array],
        keys: Sequence[mx.array],
        *,
        guidance_scale: float,
        bias: mx.array | None = None,
        temperature: float,
        top_k: int = 0,
        top_p: float = 1.0,
    ) -> mx.array:
        """Run what waits; one code a song (songs,), each by its own key, so that a song is the same
        alone and in a batch. bias (songs, ids) is added to guided log-probabilities.
        """
        if device.fuses_draws() and temperature and not top_k and top_p == 1.0:
            return draw_fused(
                self.logits(head),
                keys,
                guidance_scale=guidance_scale,
                bias=bias,
                temperature=temperature,
            )
        logp = self.log_probabilities(head, guidance_scale)
        if bias is not None:
            logp = logp + bias
        settings = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
        return mx.concatenate(
            [draw(logp[i : i + 1], key, **settings) for i, key in enumerate(keys)]
        )

    def log_probabilities(
        self, head: Callable[[mx.array], mx.array], guidance_scale: float
    ) -> mx.array:
        """Run what waits; float32 log-probabilities (songs, ids) of the next token, guided."""
        logits = self.logits(head)
        if self.rows == self.songs:
            return log_probabilities(logits)
        return guided(logits, guidance_scale)

    def logits(self, head: Callable[[mx.array], mx.array]) -> mx.array:
        """Run what waits; logits (rows, ids) of the next token."""
        fed = None
        if self.pending:
            ids = mx.stack(self.pending, axis=1)  # (songs, time)
            fed = self.lm.embed(mx.concatenate([ids] * (self.rows // self.songs)))
            if self.features is not None:
                fed = _add_last(fed, self.features)
            self.pending = []
        if self.cache is None:
            hidden = self._prefill(fed)
        else:
            hidden = self._forward(fed, self.cache)
        return head(hidden)

    def _prefill(self, fed: mx.array | None) -> mx.array:
        """Each row alone, then one cache for all; hidden states (rows, hidden) after the last."""
        caches = [self.lm.make_cache() for _ in self.prefixes]
        last = []
        for i, (row, cache) in enumerate(zip(self.prefixes, caches, strict=True)):
            whole = row if fed is None else mx.concatenate([row, fed[i : i + 1]], axis=1)
            last.append(self._forward(whole, cache))
        self.cache, self.prefixes = merge_caches(caches), []
        self.step = self.lm.fast_step(self.rows)
        return mx.concatenate(last)

    def _forward(self, embeddings: mx.array, cache: list) -> mx.array:
        """Hidden states (rows, hidden) after the last of (rows, time, hidden)."""
        for first in range(0, embeddings.shape[1], PREFILL):
            piece = embeddings[:, first : first + PREFILL]
            hidden = (self.step if piece.shape[1] == 1 else self.lm.hidden)(piece, cache)
        return hidden[:, -1]


def _frame_features(
    lm: SemanticLM,
    conditions_by_segment: Mapping[int, Sequence[SemanticCondition]],
    frames: int,
    guidance_scale: float,
) -> mx.array | None:
    """Embeddings of each frame's place in the bar and of its chord, (rows, frames, hidden); None
    where neither is known. Where the tempo changes the bar goes on.

    Guidance that sees beats in one row alone plays them up as it does a wish, drums under a flute:
    the rows without conditions get `unconditional_beats` times them. Chords go to both alike.
    """
    config, songs = lm.config, conditions_by_segment[0]
    bpm = np.zeros((len(songs), frames))
    for segment, conditions in sorted(conditions_by_segment.items()):
        bpm[:, config.first_frame(segment) :] = [[condition.bpm] for condition in conditions]
    guided = guidance_scale != 1.0
    features = None
    if config.beat_harmonics and bpm.any():
        features = mx.stack([lm.beats(row) for row in bpm])
        if guided:
            features = mx.concatenate([features, config.unconditional_beats * features])
    if config.harmony and any(song.chords for song in songs):
        chords = mx.stack([lm.harmony(song.chords, frames) for song in songs])
        chords = mx.concatenate([chords, chords]) if guided else chords
        features = chords if features is None else features + chords
    return features


def _bias(
    lm: SemanticLM,
    conditions_by_segment: Mapping[int, Sequence[SemanticCondition]],
    thoughts: np.ndarray,
    segments: int,
    thought_bias: float,
) -> mx.array | None:
    """What is added to the log-probabilities of audio codes, (songs, segments, codes): their
    thought's bias, and what the conditions lean to; None where there is neither.
    """
    bias = None
    if thought_bias and lm.config.thought_bias_rank and thoughts.size:
        bias = thought_bias * lm.thought_bias(thoughts)
    if not any(
        each.lean is not None
        for conditions in conditions_by_segment.values()
        for each in conditions
    ):
        return bias
    lean = np.zeros((len(thoughts), segments, lm.config.audio_codebook_size), np.float32)
    for segment, conditions in sorted(conditions_by_segment.items()):
        for song, condition in enumerate(conditions):
            lean[song, segment:] = 0 if condition.lean is None else condition.lean
    if bias is None:
        return mx.array(lean)
    held = np.minimum(np.arange(segments), bias.shape[1] - 1)  # a reference may be shorter
    return bias[:, mx.array(held)] + mx.array(lean)


def _add_last(embeddings: mx.array, features: mx.array) -> mx.array:
    """`features` (..., n, hidden) added to the last n positions of (..., time, hidden)."""
    n = features.shape[-2]
    if n == embeddings.shape[-2]:
        return embeddings + features
    return mx.concatenate([embeddings[..., :-n, :], embeddings[..., -n:, :] + features], axis=-2)


def _thought_rows(
    lm: SemanticLM, conditions: Sequence[SemanticCondition], guidance_scale: float
) -> list[mx.array]:
    """Prefixes of eq 7: with the conditions, and from <cot_bos> alone."""
    rows = [lm.prefix(c.clap, [*c.tags, *c.lyrics, COT_BOS]) for c in conditions]
    if guidance_scale != 1.0:
        rows += [lm.prefix(None, [COT_BOS])] * len(conditions)
    return rows


def _audio_rows(
    lm: SemanticLM,
    conditions: Sequence[SemanticCondition],
    thoughts: np.ndarray,
    past: np.ndarray,
    guidance_scale: float,
    unconditional: str,
) -> list[mx.array]:
    """Prefixes of eq 8, `past` (songs, codes) being the audio that the window already has."""
    vocabulary = lm.config.vocabulary
    rows, without = [], []
    for condition, codes, audio in zip(conditions, thoughts, past, strict=True):
        chain = [COT_BOS, *vocabulary.flatten_thoughts(codes).tolist(), COT_EOS]
        chain = chain if codes.size else []  # as trained without thoughts: no marks either
        rest = [AUD_BOS, *vocabulary.audio_ids(audio).tolist()]
        prefix = [*condition.tags, *condition.lyrics, *chain, *rest]
        rows.append(lm.prefix(condition.clap, prefix))
        kept_chain = chain if unconditional == "with_thoughts" else []
        without.append(lm.prefix(None, [*kept_chain, *rest]))
    return rows if guidance_scale == 1.0 else rows + without


def _parts(
    conditions_by_segment: Mapping[int, Sequence[SemanticCondition]], segments: int
) -> list[str]:
    """What each segment belongs to."""
    parts = [""] * segments
    for start, conditions in sorted(conditions_by_segment.items()):
        parts[start:] = [conditions[0].part] * len(parts[start:])
    return parts


def _held_thoughts(
    config: SemanticLMConfig, thoughts: np.ndarray, window: Window, alike: Sequence[int]
) -> np.ndarray:
    """The thoughts that segments of a window are written under: those of their own part, `alike`.

    In a song of one window and one part that is the whole chain, be it a reference longer or
    shorter than the song (section 5.4), up to the context.
    """
    if len(alike) < window.stop - window.start:
        return thoughts[..., [segment for segment in alike if segment < thoughts.shape[-1]]]
    if window.start == 0:
        return thoughts[..., : config.context_segments]
    return thoughts[..., window.start : window.stop]


def _with_locked(
    config: SemanticLMConfig, segments: int, locked_codes: np.ndarray | None
) -> np.ndarray:
    """A new table of codes (levels, segments): the locked ones, -1 where free."""
    if segments < 1:
        raise ValueError(f"segments is {segments}, expected at least 1")
    shape = (config.thought_codebooks, segments)
    if locked_codes is None:
        return np.full(shape, -1, dtype=np.int32)
    codes = np.array(locked_codes, dtype=np.int32)
    if codes.shape != shape:
        raise ValueError(
            f"locked_codes has shape {codes.shape}, expected (levels, segments) {shape}"
        )
    if codes.min() < -1 or codes.max() >= config.thought_codebook_size:
        raise ValueError(
            f"locked_codes holds {codes.min()}..{codes.max()}, expected -1 (free) or "
            f"0..{config.thought_codebook_size - 1}"
        )
    return codes


def _check_conditions(
    vocabulary: Vocabulary, conditions: Sequence[SemanticCondition], keys: Sequence[mx.array]
) -> None:
    if not conditions or len(keys) != len(conditions):
        raise ValueError(f"there are {len(conditions)} conditions and {len(keys)} keys")
    for condition in conditions:
        vocabulary.check_conditions(condition.tags, condition.lyrics)
