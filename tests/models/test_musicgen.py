"""MusicGen's decoder and its step loop, each known trap a test."""

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from musicot_mlx.errors import MusicotError
from musicot_mlx.generation import musicgen as loop
from musicot_mlx.generation.musicgen import MusicgenCondition, generate_codes, windows
from musicot_mlx.generation.sampling import draw_codebooks, keys_by_step
from musicot_mlx.models import musicgen as network
from musicot_mlx.models.musicgen import MUSICGEN_SMALL, CrossAttention, Musicgen, MusicgenConfig
from musicot_mlx.weights.checkpoint import load_arrays, load_strict, part, save_checkpoint
from tests.support.memory import peak_of
from tests.support.networks import randomize

TINY = {
    "vocab_size": 32,
    "num_hidden_layers": 2,
    "ffn_dim": 32,
    "num_attention_heads": 2,
    "hidden_size": 16,
    "text_hidden_size": 12,
}
MELODY = {"num_chroma": 12, "chroma_length": 9}
STEREO = {"num_codebooks": 8, "audio_channels": 2}
KEYS = list(mx.random.split(mx.random.key(7), 8))


def tiny_lm(dtype: mx.Dtype = mx.float32, **changes) -> Musicgen:
    return randomize(Musicgen(MusicgenConfig.from_dict({**TINY, **changes})), dtype=dtype)


def text(tokens: int, seed: int = 0) -> mx.array:
    return mx.random.normal((tokens, 12), key=mx.random.key(100 + seed))


def chroma(frames: int, seed: int = 0) -> mx.array:
    drawn = mx.random.randint(0, 12, (frames,), key=mx.random.key(200 + seed))
    return (drawn[:, None] == mx.arange(12)).astype(mx.float32)


def draw(lm: Musicgen, conditions: list[MusicgenCondition], **settings) -> np.ndarray:
    settings = {"frames": 30, "keys": KEYS[: len(conditions)], **settings}
    return np.concatenate(list(generate_codes(lm, conditions, **settings)), axis=-1)


# --- the network ---


def test_shapes():
    lm = tiny_lm()
    tokens = mx.random.randint(0, 33, (3, 4, 7), key=mx.random.key(1))
    logits = lm(tokens, cross=lm.cross(mx.stack([text(5)] * 3)))
    assert logits.shape == (3, 4, 7, 32) and mx.std(logits).item() > 0.5


@pytest.mark.parametrize("told", [True, False])
def test_cached_equals_uncached(told):
    lm = tiny_lm()
    tokens = mx.random.randint(0, 33, (2, 4, 9), key=mx.random.key(1))
    cross = lm.cross(mx.stack([text(5), text(5, 1)])) if told else None
    whole, cache = lm(tokens, cross=cross), lm.make_cache()
    pieces = [lm(piece, cache, cross=cross) for piece in mx.split(tokens, [4, 5, 6, 7, 8], axis=-1)]
    assert mx.abs(mx.concatenate(pieces, axis=2) - whole).max().item() < 1e-4


def test_one_gather_and_one_matrix_are_the_codebooks_own():
    lm = tiny_lm()
    tokens = mx.random.randint(0, 33, (2, 4, 3), key=mx.random.key(1))
    tables = lm.embed_tokens.weight.reshape(4, 33, 16)
    each = sum(tables[k][tokens[:, k]] for k in range(4))
    assert mx.abs(lm.embed(tokens) - each).max().item() < 1e-5
    hidden = mx.random.normal((2, 3, 16), key=mx.random.key(2))
    heads = lm.lm_head.weight.reshape(4, 32, 16)
    each = mx.stack([hidden @ heads[k].T for k in range(4)], axis=2)
    assert mx.abs(lm.logits(hidden) - each).max().item() < 1e-5


def test_rows_after_the_last_text_skip_cross_attention_and_lose_nothing():
    """Without a bias, keys and values of a masked text are zeros, which add nothing."""
    lm = tiny_lm()
    tokens = mx.random.randint(0, 33, (2, 4, 5), key=mx.random.key(1))
    both = mx.stack([text(4), text(4, 1)])
    masked = lm.cross(both, mx.array([[True] * 4, [False] * 4]))
    short = lm.cross(both[:1])
    assert short[0].keys.shape[0] == 1 and masked[0].keys.shape[0] == 2
    assert mx.abs(lm(tokens, cross=short) - lm(tokens, cross=masked)).max().item() < 1e-5


def test_positions_are_the_papers():
    table = network.sinusoids(1500, 16)
    for position, channel in ((0, 0), (7, 3), (1499, 7)):
        angle = position * 10000 ** (-channel / 7)
        np.testing.assert_allclose(table[position, channel], np.cos(angle), atol=1e-3)
        np.testing.assert_allclose(table[position, 8 + channel], np.sin(angle), atol=1e-3)


def test_save_and_load_round_trip(tmp_path: Path):
    lm = tiny_lm()
    arrays = {f"decoder.{k}": v for k, v in tree_flatten(lm.parameters())}
    save_checkpoint(tmp_path / "m", {"model_type": "musicgen", "decoder": TINY}, arrays)
    loaded = Musicgen(MusicgenConfig.from_dict(TINY))
    load_strict(loaded, part(load_arrays(tmp_path / "m"), "decoder"), where="decoder")
    assert (
        draw(loaded, [MusicgenCondition(text(5))]) == draw(lm, [MusicgenCondition(text(5))])
    ).all()


def test_small_size():
    before = mx.get_active_memory()
    lm = Musicgen(MUSICGEN_SMALL)
    count = sum(value.size for _, value in tree_flatten(lm.parameters()))
    assert round(count / 1e6, 2) == 420.37  # 419.58 and the projection of the text
    assert mx.get_active_memory() - before < 1 << 20, "built lazily"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_attention_heads": 3}, "does not divide"),
        ({"audio_channels": 3}, "expected 1 or 2"),
        ({"num_codebooks": 5, "audio_channels": 2}, "multiple of the 2 channels"),
        ({"activation_function": "tanh"}, "expected one of"),
        ({"layers": 2}, "unknown field 'layers'"),
    ],
)
def test_config_says_what_is_wrong(changes, words):
    with pytest.raises(MusicotError, match=words):
        MusicgenConfig.from_dict({**TINY, **changes})


def test_parts_that_do_not_fit_are_refused():
    lm, melody = tiny_lm(), tiny_lm(**MELODY)
    with pytest.raises(ValueError, match="own T5"):
        lm.cross(mx.zeros((1, 3, 13)))
    with pytest.raises(ValueError, match="prefix"):
        melody.cross(mx.zeros((1, 3, 12)))
    with pytest.raises(ValueError, match="only a melody model"):
        lm.prefix(text(3), None)
    with pytest.raises(ValueError, match=r"expected \(frames, 12\)"):
        melody.prefix(text(3), mx.zeros((5, 11)))


# --- the loop ---


@pytest.mark.parametrize("changes", [{}, STEREO, MELODY])
@pytest.mark.parametrize("frames", [1, 3, 30])
def test_frames_are_counted_right(changes, frames):
    """Trap 7: what comes out are `frames` frames, the delay's steps on top of them."""
    lm = tiny_lm(**changes)
    codes = draw(lm, [MusicgenCondition(text(5))], frames=frames)
    assert codes.shape == (1, lm.config.num_codebooks, frames) and codes.dtype == np.int32
    assert codes.min() >= 0 and codes.max() < 32, "no padding in what is handed out"


@pytest.mark.parametrize("changes", [{}, STEREO])
def test_steps(monkeypatch, changes):
    """One forward pass a step, frames + delays - 1 of them, and one draw for all codebooks."""
    lm, passes, draws = tiny_lm(**changes), [], []
    hidden, sample = Musicgen.hidden, loop.draw_codebooks
    monkeypatch.setattr(Musicgen, "hidden", lambda *a, **k: passes.append(1) or hidden(*a, **k))
    monkeypatch.setattr(
        loop,
        "draw_codebooks",
        lambda logits, *a, **k: draws.append(logits) or sample(logits, *a, **k),
    )
    draw(lm, [MusicgenCondition(text(5)), MusicgenCondition(text(3))], frames=20)
    assert len(passes) == len(draws) == 20 + 3
    assert {logits.shape for logits in draws} == {(2, lm.config.num_codebooks, 32)}


def test_text_is_projected_once(monkeypatch):
    """Trap 8: keys and values of the text are the same at every step."""
    lm, calls = tiny_lm(), []
    cross = CrossAttention.cross
    monkeypatch.setattr(CrossAttention, "cross", lambda *a: calls.append(1) or cross(*a))
    draw(lm, [MusicgenCondition(text(5))], frames=100, window_frames=40, overlap_frames=10)
    assert len(calls) == len(lm.layers)


CONDITIONS = [
    MusicgenCondition(text(5)),
    MusicgenCondition(text(3, 1), negative=text(7, 2)),
    MusicgenCondition(),
    MusicgenCondition(text(8, 3)),
]


@pytest.mark.parametrize("changes", [{}, STEREO, MELODY])
@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_a_song_is_the_same_alone_and_in_a_batch(changes, guidance_scale):
    lm = tiny_lm(**changes)
    conditions = CONDITIONS
    if changes == MELODY:
        heard = [chroma(4), None, chroma(20, 1), chroma(9, 2)]
        conditions = [
            MusicgenCondition(c.text, h, c.negative) for c, h in zip(CONDITIONS, heard, strict=True)
        ]
    together = draw(lm, conditions, guidance_scale=guidance_scale)
    for song, condition in enumerate(conditions):
        alone = draw(lm, [condition], guidance_scale=guidance_scale, keys=[KEYS[song]])
        np.testing.assert_array_equal(together[song], alone[0])
    assert len({codes.tobytes() for codes in together}) == 4


def test_every_condition_is_heard():
    lm, melody = tiny_lm(), tiny_lm(**MELODY)
    base = MusicgenCondition(text(5), chroma(9))
    for change in (
        MusicgenCondition(text(5, 1), chroma(9)),
        MusicgenCondition(text(5), chroma(9), negative=text(5, 2)),
        MusicgenCondition(None, chroma(9)),
        MusicgenCondition(text(5), None),
    ):
        for model in (melody,) if change.chroma is None else (lm, melody):
            assert (draw(model, [base]) != draw(model, [change])).any()


def test_negative_prompt_is_the_unconditional_row():
    lm = tiny_lm()
    run = loop.DecodingRun(lm, [MusicgenCondition(text(5), negative=text(3, 1))], 2.5)
    run.begin(0)
    tokens = mx.full((1, 4, 1), 32)
    rows = [
        lm(tokens, cross=lm.cross(states[None]))[:, :, 0] + mx.zeros(())
        for states in (text(5), text(3, 1))
    ]
    expected = rows[1] + 2.5 * (rows[0] - rows[1])
    assert mx.abs(run.logits(tokens) - expected).max().item() < 1e-4


@pytest.mark.parametrize("changes", [{}, STEREO, MELODY])
@pytest.mark.parametrize("known", [1, 2, 17])
def test_continuing_its_own_start_comes_out_the_same(changes, known):
    lm, conditions = tiny_lm(**changes), [MusicgenCondition(text(5)), MusicgenCondition(text(3, 1))]
    whole = draw(lm, conditions)
    rest = draw(lm, conditions, start=whole[..., :known])
    np.testing.assert_array_equal(rest, whole[..., known:])


def test_a_start_is_heard():
    lm = tiny_lm()
    start = np.random.default_rng(0).integers(0, 32, (1, 4, 10))
    codes = draw(lm, [MusicgenCondition(text(5))], start=start)
    assert (codes != draw(lm, [MusicgenCondition(text(5))])[..., 10:]).any()
    assert draw(lm, [MusicgenCondition(text(5))], start=np.zeros((1, 4, 29))).shape[-1] == 1


@pytest.mark.parametrize("frames", [40, 41, 69, 100, 153])
def test_windows_cover_a_song_with_their_overlap(frames):
    cut = windows(frames, done=0, window=40, overlap=10)
    assert cut[0].start == 0 and cut[-1].stop == frames
    for before, after in zip(cut, cut[1:], strict=False):
        assert after.stop - after.start == 40 and before.stop - after.start >= 10
        assert after.stop > before.stop
    assert len(cut) == 1 + -(-max(0, frames - 40) // 30)


@pytest.mark.parametrize("done", [0, 5, 39, 40, 77])
def test_windows_of_a_continuation(done):
    cut = windows(100, done=done, window=40, overlap=10)
    assert cut[0].start <= max(0, done - 1) and cut[0].stop > done
    assert all(window.stop - window.start <= 40 for window in cut) and cut[-1].stop == 100
    assert windows(100, done=100, window=40, overlap=10) == []


def test_a_long_song_is_written_in_windows():
    """The second window is what a song continuing the overlap would be."""
    lm, condition = tiny_lm(), [MusicgenCondition(text(5))]
    settings = {"temperature": 0.0, "window_frames": 40, "overlap_frames": 10}
    codes = draw(lm, condition, frames=100, **settings)
    assert codes.shape == (1, 4, 100)
    np.testing.assert_array_equal(codes[..., :40], draw(lm, condition, frames=40, temperature=0.0))
    again = draw(lm, condition, frames=40, temperature=0.0, start=codes[..., 30:40])
    np.testing.assert_array_equal(codes[..., 40:70], again)


def test_melody_moves_on_with_the_windows():
    lm, tune = tiny_lm(**MELODY, chroma_rate=10.0), chroma(20)
    settings = {"temperature": 0.0, "window_frames": 40, "overlap_frames": 10}
    codes = draw(lm, [MusicgenCondition(text(5), tune)], frames=70, **settings)
    later = mx.roll(tune, -6, axis=0)  # the second window begins at 30 frames, 0.6 s
    start = codes[..., 30:40]
    again = draw(lm, [MusicgenCondition(text(5), later)], frames=40, temperature=0.0, start=start)
    np.testing.assert_array_equal(codes[..., 40:], again)
    same = draw(lm, [MusicgenCondition(text(5), tune)], frames=40, temperature=0.0, start=start)
    assert (again != same).any()


def test_memory_is_flat_beyond_one_window():
    """Trap 12: the peak does not count the buffer cache; both are held down here."""
    lm, held = tiny_lm(num_attention_heads=2, hidden_size=64), []
    mx.eval(lm.parameters())
    for frames in (80, 80, 320):
        blocks = generate_codes(
            lm,
            [MusicgenCondition(text(5))],
            frames=frames,
            keys=KEYS[:1],
            window_frames=40,
            overlap_frames=10,
        )
        held.append((peak_of(lambda b=blocks: [0 for _ in b]), mx.get_cache_memory()))
    for first, last in zip(held[1], held[2], strict=True):
        assert last < 1.2 * first + 100_000, "four times as long"


def test_blocks_come_while_later_ones_are_to_be_made(monkeypatch):
    """The host reads nothing back between blocks, and each block is complete."""
    lm, steps = tiny_lm(), []
    hidden = Musicgen.hidden
    monkeypatch.setattr(Musicgen, "hidden", lambda *a, **k: steps.append(1) or hidden(*a, **k))
    blocks = generate_codes(lm, [MusicgenCondition(text(5))], frames=60, keys=KEYS[:1], block=10)
    first = next(blocks)
    assert first.shape[-1] == 10 - 3 and len(steps) == 11, "one step ahead of what is handed out"
    assert [block.shape[-1] for block in blocks] == [10] * 5 + [3]


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
@pytest.mark.parametrize("changes", [{}, MELODY])
def test_16_bit_stays_16_bit(monkeypatch, dtype, changes):
    """Trap 9: one operand of another dtype, here the text's, promotes all layers after it."""
    lm, seen = tiny_lm(dtype, **changes), []
    layer = network.DecoderLayer.__call__

    def record(self, x, cache, mask, cross):
        y = layer(self, x, cache, mask, cross)
        seen.extend([x.dtype, y.dtype, cache.keys.dtype, cache.values.dtype])
        return y

    monkeypatch.setattr(network.DecoderLayer, "__call__", record)
    other = mx.bfloat16 if dtype == mx.float16 else mx.float32
    draw(lm, [MusicgenCondition(text(5).astype(other), chroma(9))] * 2, frames=4)
    assert set(seen) == {dtype}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"frames": 0}, "at least 1"),
        ({"block": 0}, "at least 1"),
        ({"temperature": -1.0}, "temperature"),
        ({"overlap_frames": 0}, "overlap_frames"),
        ({"window_frames": 20, "overlap_frames": 20}, "less than"),
        ({"keys": KEYS[:2]}, "1 conditions and 2 keys"),
        ({"start": np.zeros((1, 3, 5))}, "expected \\(songs, codebooks, frames\\)"),
        ({"start": np.zeros((1, 4, 31))}, "at most 30"),
        ({"start": np.full((1, 4, 5), 32)}, "expected 0..31"),
    ],
)
def test_what_does_not_fit_is_refused_at_the_call(settings, words):
    settings = {"frames": 30, "keys": KEYS[:1], **settings}
    with pytest.raises(ValueError, match=words):
        generate_codes(tiny_lm(), [MusicgenCondition(text(5))], **settings)


# --- sampling all codebooks in one call ---

LOGITS = 3 * mx.random.normal((2, 4, 32), key=mx.random.key(3))
TWO_KEYS = mx.random.split(mx.random.key(4), 2)


def test_top_k_one_is_greedy():
    """Trap 3: `probs > threshold` keeps nothing for k = 1."""
    drawn = draw_codebooks(LOGITS, TWO_KEYS, temperature=1.0, top_k=1)
    greedy = draw_codebooks(LOGITS, TWO_KEYS, temperature=0.0)
    assert drawn.tolist() == greedy.tolist() == mx.argmax(LOGITS, axis=-1).tolist()


def test_top_k_reaches_exactly_k():
    """Trap 3: k = 3 draws three ids, not two."""
    logits = mx.broadcast_to(mx.array([0.0, 3.0, 3.0, 3.0, 0.0, -1.0]), (500, 4, 6))
    keys = mx.random.split(mx.random.key(5), 500)
    drawn = np.array(draw_codebooks(logits, keys, temperature=1.0, top_k=3))
    assert set(drawn.flatten()) == {1, 2, 3}


def test_draws_follow_the_probabilities():
    """Traps 4 and 5: logits, not probabilities, and each row normalised by itself."""
    wanted = np.array([[0.7, 0.2, 0.1, 1e-6], [0.05, 0.05, 0.3, 0.6]])
    rows = mx.log(mx.array(wanted)) + mx.array([[0.0], [40.0]])  # unnormalised
    logits = mx.broadcast_to(rows, (4000, 2, 4))
    keys = mx.random.split(mx.random.key(6), 4000)
    drawn = np.array(draw_codebooks(logits, keys, temperature=1.0, top_p=0.999))
    for codebook in range(2):
        share = np.bincount(drawn[:, codebook], minlength=4) / 4000
        np.testing.assert_allclose(share, wanted[codebook], atol=0.03)
    assert abs(np.corrcoef(drawn.T)[0, 1]) < 0.05, "codebooks draw independently"


def test_a_row_is_drawn_by_its_own_key():
    together = draw_codebooks(LOGITS, TWO_KEYS, temperature=1.0, top_k=20, top_p=0.9)
    mx.eval(mx.random.normal((100,)))
    mx.random.seed(99)
    for row in range(2):
        rows = slice(row, row + 1)
        alone = draw_codebooks(LOGITS[rows], TWO_KEYS[rows], temperature=1.0, top_k=20, top_p=0.9)
        assert alone.tolist() == together[rows].tolist()


def test_keys_by_step_do_not_depend_on_where_one_begins():
    def take(skip: int) -> list:
        stream = keys_by_step(mx.random.key(1), skip=skip)
        return [next(stream).tolist() for _ in range(300 - skip)]

    whole = take(0)
    assert len({tuple(key) for key in whole}) == 300
    assert take(5) == whole[5:] and take(257) == whole[257:]
