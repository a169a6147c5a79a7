"""Features of the place in the bar: what stands where, through tempo changes and silence."""

import numpy as np

from musicot_mlx.tokens.beats import beat_features


def test_a_bar_has_four_beats_and_comes_again() -> None:
    features = beat_features(np.full(101, 120.0), frame_rate=25.0, harmonics=3)
    assert features.shape == (101, 6) and features.dtype == np.float32
    np.testing.assert_allclose(features[0], [1, 1, 1, 0, 0, 0], atol=1e-6)
    np.testing.assert_allclose(features[50], features[0], atol=1e-5)  # two seconds: a bar
    np.testing.assert_allclose(features[25], [-1, 1, -1, 0, 0, 0], atol=1e-5)  # half of it
    np.testing.assert_allclose(features[:, 1], np.cos(2 * np.pi * np.arange(101) / 25), atol=1e-4)


def test_the_first_frame_may_lie_anywhere() -> None:
    whole = beat_features(np.full(80, 96.0), frame_rate=25.0, harmonics=4)
    part = beat_features(np.full(50, 96.0), frame_rate=25.0, harmonics=4, start=30 / 25.0)
    np.testing.assert_allclose(part, whole[30:], atol=1e-5)


def test_the_bar_goes_on_through_changes_and_no_tempo_says_nothing() -> None:
    speeds = np.repeat([60.0, 120.0, 0.0], 25)
    features = beat_features(speeds, frame_rate=25.0, harmonics=1)
    turns = np.unwrap(np.arctan2(features[:50, 1], features[:50, 0])) / (2 * np.pi)
    np.testing.assert_allclose(np.diff(turns[:26]), 0.01, atol=1e-4)
    np.testing.assert_allclose(np.diff(turns[25:]), 0.02, atol=1e-4)
    assert not features[50:].any()
    assert beat_features(np.zeros(0), frame_rate=25.0, harmonics=2).shape == (0, 4)
