"""Sampling and guidance, each known trap a test."""

import mlx.core as mx
import numpy as np
import pytest

from musicot_mlx.generation.guidance import guided
from musicot_mlx.generation.sampling import (
    check_sampling,
    draw,
    draw_fused,
    log_probabilities,
    on_host,
    sampling_logits,
)


def _kept(logits: mx.array) -> np.ndarray:
    return np.isfinite(np.array(logits)).sum(axis=-1)


@pytest.mark.parametrize("k", [1, 2, 7, 8])
def test_top_k_keeps_exactly_k(k):
    """Trap 3: `probs > threshold` keeps k - 1, and nothing for k = 1."""
    logp = log_probabilities(mx.random.normal((3, 8), key=mx.random.key(0)))
    kept = sampling_logits(logp, temperature=1.0, top_k=k)
    assert _kept(kept).tolist() == [k, k, k]
    assert np.array(mx.argmax(kept, axis=-1)).tolist() == np.array(mx.argmax(logp, -1)).tolist()


def test_top_k_keeps_exactly_k_among_equals():
    logp = log_probabilities(mx.zeros((2, 8)))
    assert _kept(sampling_logits(logp, temperature=1.0, top_k=3)).tolist() == [3, 3]


def test_top_k_one_is_greedy():
    logp = log_probabilities(mx.random.normal((5, 40), key=mx.random.key(1)))
    drawn = draw(logp, mx.random.key(2), temperature=1.0, top_k=1)
    assert drawn.tolist() == draw(logp, mx.random.key(3), temperature=0.0).tolist()


def test_draws_follow_the_probabilities():
    """Trap 4: categorical takes logits; given probabilities it draws near-uniform noise."""
    wanted = np.array([0.7, 0.2, 0.1, 0.0001])
    logp = mx.broadcast_to(mx.log(mx.array(wanted)), (4000, 4))
    drawn = np.bincount(np.array(draw(logp, mx.random.key(0), temperature=1.0)), minlength=4)
    np.testing.assert_allclose(drawn / 4000, wanted, atol=0.03)


def test_temperature_sharpens():
    logp = mx.broadcast_to(mx.log(mx.array([0.6, 0.4])), (4000, 2))
    drawn = np.array(draw(logp, mx.random.key(0), temperature=0.5))
    assert abs(drawn.mean() - 0.16 / 0.52) < 0.03


def test_each_row_is_normalised_by_itself():
    """Trap 5: a log-sum-exp without an axis runs over the whole batch."""
    logits = mx.random.normal((3, 9), key=mx.random.key(0)) * 5
    together = log_probabilities(logits)
    np.testing.assert_allclose(np.exp(np.array(together)).sum(-1), np.ones(3), atol=1e-5)
    for row in range(3):
        np.testing.assert_array_equal(
            np.array(together[row]), np.array(log_probabilities(logits[row : row + 1])[0])
        )


def test_top_p_keeps_the_fewest_that_reach_p_row_by_row():
    rows = np.array([[0.5, 0.3, 0.15, 0.05], [0.05, 0.9, 0.03, 0.02]])
    kept = sampling_logits(mx.log(mx.array(rows)), temperature=1.0, top_p=0.75)
    assert np.isfinite(np.array(kept)).tolist() == [
        [True, True, False, False],
        [False, True, False, False],
    ]


def test_top_p_counts_unnormalised_rows_right():
    """Guided log-probabilities do not sum to one."""
    rows = mx.log(mx.array([[0.5, 0.3, 0.15, 0.05]])) + 30.0
    assert _kept(sampling_logits(rows, temperature=1.0, top_p=0.75)).tolist() == [2]


def test_same_key_same_draw_whatever_ran_before():
    logp = log_probabilities(mx.random.normal((1, 64), key=mx.random.key(0)))
    first = draw(logp, mx.random.key(5), temperature=1.0, top_k=20, top_p=0.9).item()
    mx.eval(mx.random.normal((100,)))
    mx.random.seed(99)
    assert draw(logp, mx.random.key(5), temperature=1.0, top_k=20, top_p=0.9).item() == first


@pytest.mark.parametrize(
    "settings", [(-0.1, 0, 1.0), (float("nan"), 0, 1.0), (1.0, -1, 1.0), (1.0, 0, 0.0), (1, 0, 1.5)]
)
def test_meaningless_settings_are_refused(settings):
    with pytest.raises(ValueError, match="expected"):
        check_sampling(*settings)


def test_guidance_mixes_log_probabilities():
    """Eq 7 and 8, in numbers worked out by hand."""
    conditional, without = np.array([[0.6, 0.3, 0.1]]), np.array([[0.2, 0.5, 0.3]])
    logits = mx.log(mx.array(np.concatenate([conditional * 7, without * 0.01])))
    expected = 2.3 * np.log(conditional) - 1.3 * np.log(without)
    np.testing.assert_allclose(np.array(guided(logits, 2.3)), expected, rtol=1e-5)


def test_guidance_accumulates_in_float32():
    logits = (mx.random.normal((2, 50), key=mx.random.key(0)) * 8).astype(mx.float16)
    mixed = guided(logits, 2.3)
    assert mixed.dtype == mx.float32
    wide = np.array(logits).astype(np.float64)
    logp = wide - np.log(np.exp(wide).sum(-1, keepdims=True))
    np.testing.assert_allclose(np.array(mixed)[0], 2.3 * logp[0] - 1.3 * logp[1], atol=1e-4)


def test_a_fused_draw_is_of_the_same_distribution():
    """Guidance, bias and temperature in one run: shares of 20,000 draws are the probabilities."""
    logits = mx.random.normal((2, 8), key=mx.random.key(0))
    bias = mx.random.normal((1, 8), key=mx.random.key(1))
    expected = mx.softmax((guided(logits, 2.3) + bias) / 0.75, axis=-1)[0]
    songs = 20000
    rows = mx.concatenate([mx.broadcast_to(row[None], (songs, 8)) for row in logits])
    keys = list(mx.random.split(mx.random.key(2), songs))
    codes = draw_fused(rows, keys, guidance_scale=2.3, bias=bias, temperature=0.75)
    assert codes.dtype == mx.int32 and codes.shape == (songs,)
    shares = np.bincount(np.array(codes), minlength=8) / songs
    np.testing.assert_allclose(shares, np.array(expected), atol=0.015)


def test_a_fused_draw_is_the_same_alone_and_in_a_batch():
    logits, keys = (
        mx.random.normal((6, 40), key=mx.random.key(0)),
        mx.random.split(mx.random.key(1), 3),
    )
    batch = draw_fused(logits, list(keys), guidance_scale=1.7, temperature=0.9).tolist()
    for i in range(3):
        alone = draw_fused(logits[i::3], [keys[i]], guidance_scale=1.7, temperature=0.9)
        assert alone.tolist() == [batch[i]]


def test_codes_come_to_the_host_in_order():
    codes = [mx.array([[step, 10 + step]]) for step in range(3)]
    assert on_host(codes).tolist() == [[[0, 1, 2], [10, 11, 12]]]
