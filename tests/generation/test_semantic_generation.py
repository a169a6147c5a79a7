"""Drawing thoughts and audio tokens: legal ids, locks, windows, seeds, no waiting on the way."""

from dataclasses import replace

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from musicot_mlx.generation import sampling, semantic
from musicot_mlx.generation.sampling import log_probabilities
from musicot_mlx.generation.semantic import (
    SemanticCondition,
    audio_many,
    audio_tokens,
    plan_many,
    plan_thoughts,
    windows,
)
from musicot_mlx.generation.spans import Window
from tests.models.test_semantic_lm import tiny_lm

KEY = mx.random.key(7)


@pytest.fixture(scope="module")
def lm():
    return tiny_lm()


@pytest.fixture(scope="module")
def condition():
    clap = np.random.default_rng(0).normal(size=8).astype(np.float32)
    return SemanticCondition(clap=clap, tags=[30], lyrics=[6, 12, 14])


def render(lm, condition, thoughts, **settings) -> np.ndarray:
    settings = {"frames": 60, "key": KEY, **settings}
    return np.concatenate(list(audio_tokens(lm, condition, thoughts, **settings)))


def test_thoughts_stay_in_their_levels(lm, condition):
    for segments in (1, 3, 8):
        codes = plan_thoughts(lm, condition, segments=segments, key=KEY, temperature=3.0)
        assert codes.shape == (3, segments) and codes.dtype == np.int32
        assert 0 <= codes.min() and codes.max() < 8


def test_audio_is_handed_out_in_blocks(lm, condition):
    thoughts = np.zeros((3, 3), dtype=np.int32)
    blocks = list(audio_tokens(lm, condition, thoughts, frames=60, key=KEY))
    assert [block.shape for block in blocks] == [(25,), (25,), (10,)]
    assert all(block.dtype == np.int32 for block in blocks)
    codes = np.concatenate(blocks)
    assert 0 <= codes.min() and codes.max() < 16


def test_same_seed_same_codes_whatever_ran_before(lm, condition):
    first = plan_thoughts(lm, condition, segments=3, key=KEY)
    audio = render(lm, condition, first)
    mx.random.seed(1)
    mx.eval(mx.random.normal((50,)))
    plan_thoughts(lm, SemanticCondition(), segments=5, key=mx.random.key(1))
    np.testing.assert_array_equal(plan_thoughts(lm, condition, segments=3, key=KEY), first)
    np.testing.assert_array_equal(render(lm, condition, first), audio)
    other = plan_thoughts(lm, condition, segments=3, key=mx.random.key(8))
    assert (other != first).any()


def test_two_songs_at_once_do_not_disturb_each_other(lm, condition):
    """State belongs to the run: one model serves interleaved generators."""
    a, b = np.zeros((3, 3), np.int32), np.ones((3, 2), np.int32)
    wanted = render(lm, condition, a), render(lm, SemanticCondition(), b, frames=50)
    one = audio_tokens(lm, condition, a, frames=60, key=KEY)
    two = audio_tokens(lm, SemanticCondition(), b, frames=50, key=KEY)
    mixed = [next(one), next(two), next(one), next(two), next(one)]
    np.testing.assert_array_equal(np.concatenate(mixed[::2]), wanted[0])
    np.testing.assert_array_equal(np.concatenate(mixed[1::2]), wanted[1])


def test_songs_in_one_batch_are_the_songs_alone(lm, condition):
    conditions = [condition, SemanticCondition(), SemanticCondition(tags=[31])]
    keys = list(mx.random.split(KEY, 3))
    locked_codes = np.full((3, 5), -1)
    locked_codes[1, 2] = 4
    plans = plan_many(lm, conditions, segments=5, keys=keys, locked_codes=locked_codes)
    assert plans.shape == (3, 3, 5) and plans.dtype == np.int32
    settings = {"frames": 110, "unconditional": "with_thoughts"}
    codes = np.concatenate(list(audio_many(lm, conditions, plans, keys=keys, **settings)), axis=1)
    assert codes.shape == (3, 110) and codes.dtype == np.int32
    for i in range(3):
        alone = plan_thoughts(lm, conditions[i], segments=5, key=keys[i], locked_codes=locked_codes)
        np.testing.assert_array_equal(plans[i], alone)
        song = render(lm, conditions[i], alone, key=keys[i], **settings)
        np.testing.assert_array_equal(codes[i], song)
    with pytest.raises(ValueError, match="3 conditions and 1 keys"):
        plan_many(lm, conditions, segments=5, keys=keys[:1])
    with pytest.raises(ValueError, match="thoughts for 2 songs"):
        audio_many(lm, conditions, plans[:2], keys=keys, frames=10)


def test_locked_thoughts_stay_and_the_rest_answers_to_them(lm, condition):
    free = plan_thoughts(lm, condition, segments=3, key=KEY, temperature=0.0)
    locked_codes = np.full((3, 3), -1, dtype=np.int32)
    locked_codes[:, 1] = (free[:, 1] + 3) % 8
    locked = plan_thoughts(
        lm, condition, segments=3, key=KEY, temperature=0.0, locked_codes=locked_codes
    )
    np.testing.assert_array_equal(locked[:, 1], locked_codes[:, 1])
    assert locked[0, 0] == free[0, 0], "the first code comes before the lock"
    assert locked_codes[0, 0] == -1, "the caller's array is left alone"
    # each free code is the model's best after everything before it, locks included
    ids = lm.config.vocabulary.flatten_thoughts(locked).tolist()
    prefix = [*condition.tags, *condition.lyrics, 1]
    for guidance in (1.0, 2.3):
        redo = plan_thoughts(
            lm,
            condition,
            segments=3,
            key=KEY,
            temperature=0.0,
            guidance_scale=guidance,
            locked_codes=locked_codes,
        )
        ids = lm.config.vocabulary.flatten_thoughts(redo).tolist()
        for step in range(9):
            level, segment = divmod(step, 3)
            if locked_codes[level, segment] >= 0:
                continue
            start, stop = lm.config.vocabulary.thought_range(level)
            with_, without = (
                log_probabilities(lm(None, None, embedded)[0, -1, start:stop])
                for embedded in (
                    lm.prefix(condition.clap, prefix + ids[:step]),
                    lm.prefix(None, [1, *ids[:step]]),
                )
            )
            best = mx.argmax(guidance * with_ + (1 - guidance) * without).item()
            assert redo[level, segment] == best


def test_locking_the_drawn_codes_changes_nothing(lm, condition):
    free = plan_thoughts(lm, condition, segments=3, key=KEY)
    for seed in range(4):
        keep = np.random.default_rng(seed).random(free.shape) < 0.5
        locked_codes = np.where(keep, free, -1)
        again = plan_thoughts(lm, condition, segments=3, key=KEY, locked_codes=locked_codes)
        np.testing.assert_array_equal(again, free)
    np.testing.assert_array_equal(
        plan_thoughts(lm, condition, segments=3, key=mx.random.key(0), locked_codes=free), free
    )


@pytest.mark.parametrize("kept", [1, 25, 33, 60])
@pytest.mark.parametrize("unconditional", semantic.UNCONDITIONAL)
def test_a_render_continues_its_own_beginning(lm, condition, kept, unconditional):
    thoughts = plan_thoughts(lm, condition, segments=3, key=KEY)
    whole = render(lm, condition, thoughts, unconditional=unconditional)
    rest = list(
        audio_tokens(
            lm,
            condition,
            thoughts,
            frames=60,
            key=KEY,
            unconditional=unconditional,
            start=whole[:kept],
        )
    )
    np.testing.assert_array_equal(np.concatenate([whole[:kept], *rest]), whole)


def test_windows():
    assert windows(3, 3) == [Window(0, 3)]
    assert windows(2, 18) == [Window(0, 2)]
    assert windows(4, 3) == [Window(0, 3), Window(1, 4)]
    assert windows(8, 3) == [Window(0, 3), Window(2, 5), Window(4, 7), Window(5, 8)]
    assert windows(30, 18) == [Window(0, 18), Window(9, 27), Window(12, 30)]
    assert windows(3, 1) == [Window(0, 1), Window(1, 2), Window(2, 3)]


def test_a_song_that_fits_is_written_as_if_the_context_were_endless(lm, condition):
    wide = tiny_lm(context_seconds=300.0)
    plan = plan_thoughts(lm, condition, segments=3, key=KEY)
    np.testing.assert_array_equal(plan_thoughts(wide, condition, segments=3, key=KEY), plan)
    np.testing.assert_array_equal(
        render(wide, condition, plan, frames=75), render(lm, condition, plan, frames=75)
    )


def test_a_long_song_is_written_in_windows(lm, condition):
    """Each window is the plain path with what came before it locked_codes."""
    segments, frames = 5, 25 * 5 - 7
    greedy = {"key": KEY, "temperature": 0.0}
    plan = plan_thoughts(lm, condition, segments=segments, **greedy)
    for window in windows(segments, 3)[1:]:
        span = slice(window.start, window.stop)
        locked_codes = plan[:, span].copy()
        locked_codes[:, 1:] = -1  # hop 2 of 3: one segment is shared
        again = plan_thoughts(lm, condition, segments=3, locked_codes=locked_codes, **greedy)
        np.testing.assert_array_equal(again, plan[:, span])
    np.testing.assert_array_equal(plan[:, :3], plan_thoughts(lm, condition, segments=3, **greedy))

    codes = render(lm, condition, plan, frames=frames, temperature=0.0)
    assert codes.shape == (frames,)
    np.testing.assert_array_equal(
        codes[:75], render(lm, condition, plan[:, :3], frames=75, temperature=0.0)
    )
    second = render(
        lm, condition, plan[:, 2:], frames=frames - 50, temperature=0.0, start=codes[50:75]
    )
    np.testing.assert_array_equal(codes[75:], second)


def test_a_long_song_continues_its_own_beginning(lm, condition):
    plan = plan_thoughts(lm, condition, segments=5, key=KEY)
    whole = render(lm, condition, plan, frames=120)
    for kept in (75, 90):
        rest = render(lm, condition, plan, frames=120, start=whole[:kept])
        np.testing.assert_array_equal(rest, whole[kept:])


def test_a_reference_of_any_length_stands_in_the_thought_slot(lm, condition):
    for segments in (1, 2, 5):
        thoughts = np.full((3, segments), 2, dtype=np.int32)
        assert render(lm, condition, thoughts, frames=60).shape == (60,)
    with pytest.raises(ValueError, match="need 4 thoughts but the plan has 2"):
        audio_tokens(lm, condition, thoughts[:, :2], frames=80, key=KEY)


def test_guidance_of_one_runs_one_row(lm, condition, monkeypatch):
    rows = []
    hidden = type(lm).hidden

    def spy(self, embeddings, cache=None, **options):
        rows.append(embeddings.shape[0])
        return hidden(self, embeddings, cache, **options)

    monkeypatch.setattr(type(lm), "hidden", spy)
    plan_thoughts(lm, condition, segments=2, key=KEY, guidance_scale=1.0)
    assert rows == [1] * 6
    rows.clear()
    plan_thoughts(lm, condition, segments=2, key=KEY, guidance_scale=2.0)
    assert rows == [1, 1] + [2] * 5, "one prefill a row, then both rows in one batch"
    rows.clear()
    locked_codes = np.full((3, 2), -1)
    locked_codes[:, 0] = 1
    plan_thoughts(lm, condition, segments=2, key=KEY, locked_codes=locked_codes)
    assert rows == [1, 1] + [2] * 2, "a locked code costs no pass"


def test_one_queue_a_step_and_one_wait_a_block(lm, condition, monkeypatch):
    """The host never waits for a token; a block is read when the next step is already queued."""
    events = []
    queue, read = mx.async_eval, np.array
    monkeypatch.setattr(semantic.mx, "async_eval", lambda x: (events.append("queue"), queue(x)))

    class Numpy:
        def __getattr__(self, name):
            return getattr(np, name)

        def array(self, value, *args, **kwargs):
            if isinstance(value, mx.array):
                events.append("wait")
            return read(value, *args, **kwargs)

    monkeypatch.setattr(sampling, "np", Numpy())
    thoughts = np.zeros((3, 3), dtype=np.int32)
    list(audio_tokens(lm, condition, thoughts, frames=60, key=KEY))
    blocks = [["queue"] * 26, ["wait"] * 25, ["queue"] * 25, ["wait"] * 25, ["queue"] * 9]
    assert events == [*sum(blocks, []), *["wait"] * 10], "a wait is for a code long queued"
    events.clear()
    plan_thoughts(lm, condition, segments=3, key=KEY)
    assert events == ["queue"] * 9 + ["wait"] * 9


def test_a_long_prefix_in_pieces_gives_the_same_song(lm, condition, monkeypatch):
    thoughts = plan_thoughts(lm, condition, segments=3, key=KEY)
    whole = render(lm, condition, thoughts, temperature=0.0)
    monkeypatch.setattr(semantic, "PREFILL", 5)
    np.testing.assert_array_equal(render(lm, condition, thoughts, temperature=0.0), whole)


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "8-bit"])
def test_smaller_weights_sing_too(condition, kind):
    lm = tiny_lm(hidden_size=64)
    if kind == "8-bit":
        nn.quantize(lm, group_size=32, bits=8, class_predicate=_divides)
    else:
        lm.set_dtype(getattr(mx, kind))
    plan = plan_thoughts(lm, condition, segments=3, key=KEY)
    codes = render(lm, condition, plan, unconditional="with_thoughts")
    assert plan.shape == (3, 3) and codes.shape == (60,)
    assert 0 <= codes.min() and codes.max() < 16


def _divides(path: str, module: nn.Module) -> bool:
    return hasattr(module, "to_quantized") and module.weight.shape[-1] % 32 == 0


def test_filters_reach_the_draws(lm, condition):
    greedy = plan_thoughts(lm, condition, segments=3, key=KEY, temperature=0.0)
    for settings in ({"top_k": 1}, {"top_p": 1e-6}, {"temperature": 1e-4}):
        drawn = plan_thoughts(lm, condition, segments=3, key=KEY, **settings)
        np.testing.assert_array_equal(drawn, greedy)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -1.0}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"unconditional": "no_thoughts"}, "without_thoughts"),
        ({"frames": 0}, "frames"),
        ({"start": np.zeros(61, np.int32)}, "start holds 61"),
        ({"start": np.full(3, 16, np.int32)}, "audio codes"),
    ],
)
def test_bad_settings_are_refused_at_the_call(lm, condition, settings, message):
    with pytest.raises(ValueError, match=message):
        audio_tokens(
            lm, condition, np.zeros((3, 3), np.int32), **{"frames": 60, "key": KEY, **settings}
        )


@pytest.mark.parametrize(
    "locked_codes", [np.zeros((3, 2)), np.full((3, 3), 8), np.full((3, 3), -2), np.zeros((2, 3))]
)
def test_bad_locks_are_refused(lm, condition, locked_codes):
    with pytest.raises(ValueError, match="locked_codes"):
        plan_thoughts(lm, condition, segments=3, key=KEY, locked_codes=locked_codes)


def test_a_segment_may_be_asked_for_something_else(lm, condition):
    other = SemanticCondition(clap=-condition.clap, tags=[31])
    thoughts = np.arange(9, dtype=np.int32).reshape(1, 3, 3) % 8
    settings = {"frames": 60, "keys": [KEY], "temperature": 1.0}

    def draw(asked, **more) -> np.ndarray:
        blocks = audio_many(lm, [asked], thoughts, **settings, **more)
        return np.concatenate(list(blocks), axis=1)

    edge = [lm.config.first_frame(segment) for segment in range(3)]
    plain, changed = draw(condition), draw(condition, changes={1: [other], 2: [condition]})
    np.testing.assert_array_equal(changed[:, : edge[1]], plain[:, : edge[1]])
    # from there on it is a song of the other wish that goes on from these codes, and then back
    middle = draw(other, start=changed[:, : edge[1]])[:, : edge[2] - edge[1]]
    np.testing.assert_array_equal(changed[:, edge[1] : edge[2]], middle)
    np.testing.assert_array_equal(
        changed[:, edge[2] :], draw(condition, start=changed[:, : edge[2]])
    )
    assert (changed != plain).any()


def test_a_part_is_written_as_if_it_were_alone(condition):
    """What went before drowns out a wish; so a guest hears nothing of it, and the song, when it
    comes back, goes on from where it was left. Of the bar both hear where it stands.
    """
    four = 4 * tiny_lm().config.thought_seconds
    lm = tiny_lm(beat_harmonics=5, context_seconds=four)
    config = lm.config
    thoughts = np.arange(12, dtype=np.int32).reshape(1, 3, 4) % 8
    frames = config.first_frame(1)  # of a segment
    a_bar = 240 / config.thought_seconds  # BPM of four beats a segment: the bar begins with it

    def draw(asked, thoughts, frames=4 * frames, **more) -> np.ndarray:
        settings = {"frames": frames, "keys": [KEY], "temperature": 0.0}
        return np.concatenate([*audio_many(lm, [asked], thoughts, **settings, **more)], axis=1)

    song = replace(condition, bpm=a_bar)
    guest = SemanticCondition(clap=-condition.clap, tags=[31], bpm=a_bar, part="drums")
    changes = {1: [guest], 2: [guest], 3: [song]}
    made = draw(song, thoughts, changes=changes)
    alone = draw(guest, thoughts[..., 1:3], frames=2 * frames)
    np.testing.assert_array_equal(made[:, frames : 3 * frames], alone)
    went_on = draw(song, thoughts[..., [0, 3]], frames=2 * frames, start=made[:, :frames])
    np.testing.assert_array_equal(made[:, 3 * frames :], went_on)
    for kept in (frames - 3, frames + 7, 3 * frames + 1):
        rest = draw(song, thoughts, changes=changes, start=made[:, :kept])
        np.testing.assert_array_equal(rest, made[:, kept:])
    # a bar that has not ended goes on
    song, guest = replace(song, bpm=0.7 * a_bar), replace(guest, bpm=0.7 * a_bar)
    made = draw(song, thoughts, changes={1: [guest], 3: [song]})
    alone = draw(guest, thoughts[..., 1:3], frames=2 * frames)
    assert (made[:, frames : 3 * frames] != alone).any()
    # a part that fills the song is the song
    whole = draw(replace(song, part="all"), thoughts)
    np.testing.assert_array_equal(whole, draw(song, thoughts))


def test_thought_bias_leans_to_the_tokens_of_each_segment(condition):
    lm = tiny_lm(thought_bias_rank=4)
    thoughts = np.arange(9, dtype=np.int32).reshape(3, 3) % 8
    paper = render(lm, condition, thoughts)
    plain = tiny_lm()  # which has none
    np.testing.assert_array_equal(
        render(plain, condition, thoughts), render(plain, condition, thoughts, thought_bias=9.0)
    )
    biased = render(lm, condition, thoughts, thought_bias=1e4)
    best = np.array(lm.thought_bias(thoughts[None])[0].argmax(axis=-1))  # (segments,)
    segments = [lm.config.segment(frame) for frame in range(60)]
    assert [lm.config.first_frame(s) for s in (0, 1, 2)] == [segments.index(s) for s in (0, 1, 2)]
    np.testing.assert_array_equal(biased, best[segments])
    assert (paper != biased).any()
    bare = np.zeros((3, 0), dtype=np.int32)  # without thoughts there is nothing to lean on
    np.testing.assert_array_equal(
        render(lm, condition, bare), render(lm, condition, bare, thought_bias=1e4)
    )


@pytest.fixture(scope="module")
def beat_lm():
    return tiny_lm(beat_harmonics=5)


def test_a_tempo_is_told_to_the_audio(beat_lm, lm, condition):
    thoughts = np.arange(9, dtype=np.int32).reshape(3, 3) % 8
    fast = replace(condition, bpm=150.0)
    plain, told = (render(beat_lm, c, thoughts) for c in (condition, fast))
    assert (plain != told).any()
    np.testing.assert_array_equal(  # a model that knows no beats
        render(lm, condition, thoughts), render(lm, fast, thoughts)
    )
    thought = plan_thoughts(beat_lm, condition, segments=3, key=KEY)
    np.testing.assert_array_equal(plan_thoughts(beat_lm, fast, segments=3, key=KEY), thought)


@pytest.mark.parametrize("scale", [1.0, 1.3])
def test_bars_go_on_where_a_render_is_continued(beat_lm, condition, scale):
    thoughts = np.arange(9, dtype=np.int32).reshape(3, 3) % 8
    fast = replace(condition, bpm=150.0)
    settings = {"temperature": 0.0, "guidance_scale": scale}
    whole = render(beat_lm, fast, thoughts, **settings)
    for kept in (1, 26, 59):
        rest = render(beat_lm, fast, thoughts, start=whole[:kept], **settings)
        np.testing.assert_array_equal(rest, whole[kept:])


def test_a_song_at_a_tempo_is_the_same_in_a_batch_and_in_many_windows(beat_lm, condition):
    thoughts = np.arange(24, dtype=np.int32).reshape(3, 8) % 8
    songs = [replace(condition, bpm=bpm) for bpm in (150.0, 0.0, 96.0)]
    frames = beat_lm.config.first_frame(8)
    settings = {"frames": frames, "temperature": 0.0}
    alone = [render(beat_lm, song, thoughts, **settings) for song in songs]
    together = audio_many(beat_lm, songs, np.stack([thoughts] * 3), keys=[KEY] * 3, **settings)
    np.testing.assert_array_equal(np.concatenate(list(together), axis=1), alone)


def test_the_bar_goes_on_where_the_tempo_changes(beat_lm, condition):
    config, asked = beat_lm.config, [replace(condition, bpm=bpm) for bpm in (120.0, 60.0, 0.0)]
    frames = config.first_frame(3)
    features = np.array(
        semantic._frame_features(beat_lm, {i: [c] for i, c in enumerate(asked)}, frames, 1.3)
    )
    speeds = np.repeat([120.0, 60.0, 0.0], config.first_frame(1))
    np.testing.assert_allclose(features[0], np.array(beat_lm.beats(speeds)), atol=1e-6)
    assert not features[1].any() and not features[0, config.first_frame(2) :].any()
    assert semantic._frame_features(beat_lm, {0: asked[2:]}, frames, 1.3) is None
