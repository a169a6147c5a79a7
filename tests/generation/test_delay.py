"""The delay pattern: round trip, stereo pairs, and durations counted in frames."""

import numpy as np
import pytest

from musicot_mlx.generation.delay import delayed, delays, frames_of, undelayed

PAD = 99


def test_the_pattern_of_the_paper():
    codes = np.arange(8).reshape(4, 2)
    expected = [
        [PAD, 0, 1, PAD, PAD, PAD],
        [PAD, PAD, 2, 3, PAD, PAD],
        [PAD, PAD, PAD, 4, 5, PAD],
        [PAD, PAD, PAD, PAD, 6, 7],
    ]
    assert delayed(codes, PAD).tolist() == expected


@pytest.mark.parametrize(("codebooks", "channels"), [(4, 1), (8, 2), (1, 1)])
def test_round_trip(codebooks, channels):
    codes = np.random.default_rng(0).integers(0, 64, (3, codebooks, 11))
    there = delayed(codes, PAD, channels=channels)
    assert there.shape[-1] == 11 + codebooks // channels
    np.testing.assert_array_equal(undelayed(there, channels=channels), codes)


def test_a_stereo_pair_shares_its_delay():
    assert delays(8, 2).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_300_steps_are_297_frames():
    """Trap 7: a duration is frames, not steps; at 50 Hz 300 steps are 5.94 s, not 10 s."""
    steps = 300
    positions = np.zeros((4, steps + 1), dtype=np.int32)  # the first position is not drawn
    assert undelayed(positions).shape[-1] == 297
    assert 297 / 50 == 5.94
    assert frames_of(5.94, 50.0) == 297 and frames_of(30.0, 50.0) == 1500
    assert delayed(np.zeros((4, frames_of(10.0, 50.0))), PAD).shape[-1] - 1 == 503


def test_a_stretch_without_a_whole_frame_is_refused():
    with pytest.raises(ValueError, match="at least 5"):
        undelayed(np.zeros((4, 4)))


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_no_duration_is_refused(seconds):
    with pytest.raises(ValueError, match="more than 0"):
        frames_of(seconds, 50.0)
