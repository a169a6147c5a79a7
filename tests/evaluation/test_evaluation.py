"""Measures of generated music, held against other definitions and sounds of known faults."""

import numpy as np
import pytest
from scipy import linalg

from musicot_mlx.evaluation.measures import bootstrap, codec, fad, tagger_scores

RATE = 44100


def frechet_by_sqrtm(first: np.ndarray, second: np.ndarray) -> float:
    """FAD as fadtk and pytorch-fid compute it: scipy's general matrix square root."""
    a, b = (np.cov(x, rowvar=False) for x in (first, second))
    root = linalg.sqrtm(a @ b)
    shift = first.mean(axis=0) - second.mean(axis=0)
    return float(shift @ shift + np.trace(a) + np.trace(b) - 2 * np.trace(root).real)


def embeddings(seed: int, count: int, dim: int = 24) -> np.ndarray:
    """Unit vectors that lie unevenly, as CLAP's do."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((count, dim)) * np.geomspace(1, 0.05, dim) + rng.standard_normal(dim)
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("count", [60, 400])
def test_fad_is_that_of_scipy_s_square_root(count: int) -> None:
    first, second = embeddings(1, 300), embeddings(2, count)
    assert fad.fad(first, second) == pytest.approx(frechet_by_sqrtm(first, second), abs=1e-4)
    assert fad.fad(first, second) > 0.1


def test_fad_of_few_embeddings_is_exact() -> None:
    """Fewer rows than dimensions: the covariance is singular, and its eigenvalues say it all."""
    first, second = embeddings(1, 300), embeddings(2, 9)
    root = linalg.sqrtm(np.cov(first, rowvar=False))
    middle = root @ np.cov(second, rowvar=False) @ root
    shared = np.sqrt(np.linalg.eigvalsh(middle).clip(min=0)).sum()
    a, b = fad.gaussian(first), fad.gaussian(second)
    shift = a.mean - b.mean
    expected = shift @ shift + np.trace(a.covariance) + np.trace(b.covariance) - 2 * shared
    assert fad.fad(first, second) == pytest.approx(expected, abs=1e-5)
    np.testing.assert_allclose(a.covariance, np.cov(first, rowvar=False), atol=1e-9)
    np.testing.assert_allclose(b.covariance, np.cov(second, rowvar=False), atol=1e-9)


def test_fad_of_known_gaussians() -> None:
    a = fad.Gaussian(np.zeros(3), np.diag([1.0, 2.0, 3.0]))
    b = fad.Gaussian(np.array([1.0, 0, 2.0]), np.diag([2.0, 2.0, 1.0]))
    assert fad.frechet_distance(a, b) == pytest.approx(5 + 1 + 0 + 4)  # (s1 - s2)^2 where diagonal
    assert fad.frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    with pytest.raises(ValueError, match="at least 2 finite rows"):
        fad.gaussian(np.ones((1, 3)))


def test_fad_infinity_takes_off_what_few_songs_add() -> None:
    reference = fad.gaussian(embeddings(1, 4000))
    rng = np.random.default_rng(0)
    same = embeddings(1, 4000)[rng.permutation(4000)[:120]]
    songs = list(same.reshape(40, 3, -1))
    few = frechet = fad.frechet_distance(reference, fad.gaussian(same))
    found = fad.fad_infinity(reference, songs)
    assert found is not None and abs(found.value) < 0.4 * few and found.r2 > 0.8
    assert frechet > 0.003
    assert fad.fad_infinity(reference, songs[:5]) is None


def test_intervals_hold_what_they_promise() -> None:
    """Of 95 % intervals of a mean, about 95 % hold the true mean."""
    rng = np.random.default_rng(0)
    held = 0
    for trial in range(150):
        found = bootstrap.mean_interval(rng.normal(3, 1, 40), draws=200, seed=trial)
        assert found.n == 40 and found.low < found.value < found.high
        held += found.low <= 3 <= found.high
    assert 0.86 < held / 150 < 0.995
    assert bootstrap.mean_interval([]) is None
    assert bootstrap.mean_interval([np.nan]) is None
    assert bootstrap.mean_interval([2.0, 2.0]).to_dict() == {
        "value": 2.0, "low": 2.0, "high": 2.0, "n": 2,
    }  # fmt: skip


def test_interval_of_fad_lies_around_it() -> None:
    reference = fad.gaussian(embeddings(1, 500))
    songs = list(embeddings(2, 90).reshape(30, 3, -1))
    found = bootstrap.interval(songs, fad.fad_of_songs(reference), draws=60)
    assert found.low < found.value < found.high < 2 * found.value


def test_area_under_curve() -> None:
    assert tagger_scores.area_under_curve([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1]) == 0.75
    assert tagger_scores.area_under_curve([1, 1, 1], [0, 1, 1]) == 0.5
    assert np.isnan(tagger_scores.area_under_curve([1, 2], [1, 1]))
    labels = ("drums", "bass", "piano")
    asked = np.stack(
        [
            tagger_scores.label_columns(labels, ["drums"], ["bass"]),
            tagger_scores.label_columns(labels, ["piano"], []),
            tagger_scores.label_columns(labels, ["drums", "bass"], []),
        ]
    )
    scores = np.array([[0.9, 0.1, 0.3], [0.2, 0.4, 0.4], [0.8, 0.3, 0.5]])
    areas = tagger_scores.areas_by_label(scores, asked)
    np.testing.assert_allclose(areas, [1.0, 0.0, 0.5])  # the open bass of the first counts nowhere
    assert tagger_scores.mean_area(scores, asked) == 0.5
    with pytest.raises(ValueError, match="no label tuba"):
        tagger_scores.label_columns(labels, ["tuba"], [])


def test_divergence_grows_with_what_is_missing() -> None:
    real = np.array([[0.9, 0.1], [0.7, 0.1]])
    assert tagger_scores.divergence(real, real) == 0
    near, far = np.array([[0.7, 0.1]]), np.array([[0.1, 0.1]])
    assert 0 < tagger_scores.divergence(real, near) < tagger_scores.divergence(real, far)
    expected = 0.8 * np.log(0.8 / 0.1) + 0.2 * np.log(0.2 / 0.9)
    assert tagger_scores.divergence(real, far) == pytest.approx(expected)


def test_tempo_error_forgives_octaves() -> None:
    assert tagger_scores.tempo_error(61, 120) == pytest.approx(1 / 60)
    assert tagger_scores.tempo_error(240, 120) == 0 == tagger_scores.tempo_error(120, 120)
    assert tagger_scores.tempo_error(90, 120) == 0.25
    assert tagger_scores.tempo_error(0, 120) == 1
    with pytest.raises(ValueError, match="above 0"):
        tagger_scores.tempo_error(100, 0)


def music(seconds: float = 4.0) -> np.ndarray:
    """Notes that come and go over noise: no steady tone, no clicks."""
    rng = np.random.default_rng(0)
    t = np.arange(round(seconds * RATE)) / RATE
    notes = 220 * 2 ** (rng.integers(0, 24, len(t) // 11025 + 1).repeat(11025)[: len(t)] / 12)
    tone = np.sin(2 * np.pi * np.cumsum(notes) / RATE) * (1 - (4 * t) % 1)
    return (0.3 * tone + 0.003 * rng.standard_normal(len(t))).astype(np.float32)


def test_comb_is_heard_below_the_music() -> None:
    clean, tooth = music(), RATE / 512
    t = np.arange(len(clean)) / RATE
    teeth = sum(np.cos(2 * np.pi * k * tooth * t) for k in range(40, 200))
    combed = (clean + 2e-4 * teeth).astype(np.float32)
    assert abs(codec.comb(clean, RATE, tooth)) < 0.5
    faults = codec.compare(clean, combed, RATE, tooth)
    assert faults.comb > 6 and faults.snr > 35 and faults.clicks == pytest.approx(0, abs=0.3)


def test_clicks_are_counted() -> None:
    clean = music()
    clicked = clean.copy()
    clicked[3000 :: RATE // 4] += 0.25  # between the onsets of notes
    faults = codec.compare(clean, clicked, RATE, RATE / 512)
    assert faults.clicks == pytest.approx(4, abs=0.6)
    assert abs(faults.comb) < 1


def test_log_mel_error_and_signal_to_noise() -> None:
    clean = music(2.0)
    assert codec.log_mel_error(clean, clean, RATE) == 0
    assert codec.log_mel_error(clean, clean * np.e, RATE) == pytest.approx(1, abs=0.02)
    assert codec.signal_to_noise(clean, 0.9 * clean) == pytest.approx(20, abs=1e-3)
    with pytest.raises(ValueError, match="of one length"):
        codec.compare(clean, clean[:-1], RATE, 86.0)


def test_log_mel_error_is_the_trainer_s() -> None:
    torch = pytest.importorskip("torch")
    from musicot_mlx.reference import spectral

    first, second = music(1.5), music(1.5)[::-1].copy()
    rows = (torch.from_numpy(x)[None] for x in (first, second))
    expected = spectral.log_mel_error(*rows, RATE).item()
    assert codec.log_mel_error(first, second, RATE) == pytest.approx(expected, rel=1e-3)
