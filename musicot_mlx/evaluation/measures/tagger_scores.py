"""Does the music hold the instruments that were asked for? Areas and divergences of a tagger."""

from collections.abc import Sequence

import numpy as np
from scipy.stats import rankdata


def area_under_curve(scores: np.ndarray, truth: np.ndarray) -> float:
    """Chance (0-1) that a positive scores above a negative, ties counted half; NaN without both.

    scores (n,) of any scale; truth (n,) bool.
    """
    scores, truth = np.asarray(scores, np.float64), np.asarray(truth, bool)
    count, others = int(truth.sum()), int((~truth).sum())
    if not count or not others:
        return float("nan")
    ranks = rankdata(scores)[truth].sum()
    return float((ranks - count * (count + 1) / 2) / (count * others))


def mean_area(scores: np.ndarray, asked: np.ndarray) -> float:
    """Mean over labels of the area of asked against not asked; NaN where no label has both.

    scores (songs, labels); asked (songs, labels): 1 asked, 0 not asked, NaN may be either.
    """
    areas = areas_by_label(scores, asked)
    known = areas[np.isfinite(areas)]
    return float(known.mean()) if len(known) else float("nan")


def areas_by_label(scores: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """The area of each label (labels,), NaN where it was asked of all songs or of none."""
    scores, asked = np.asarray(scores, np.float64), np.asarray(asked, np.float64)
    if scores.shape != asked.shape or scores.ndim != 2:
        raise ValueError(f"scores {scores.shape} and asked {asked.shape}: expected (songs, labels)")
    areas = []
    for column, wanted in zip(scores.T, asked.T, strict=True):
        known = np.isfinite(wanted)
        areas.append(area_under_curve(column[known], wanted[known] > 0.5))
    return np.array(areas)


def divergence(reference: np.ndarray, generated: np.ndarray) -> float:
    """Kullback-Leibler divergence in nats of what a tagger hears, reference from generated.

    Both (windows, labels) of probabilities. Labels are independent, so the divergence is the sum
    over labels of that of their mean probabilities (playing or not).
    """
    p, q = (np.clip(np.mean(x, axis=0, dtype=np.float64), 1e-4, 1 - 1e-4)
            for x in (reference, generated))  # fmt: skip
    return float((p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).sum())


def tempo_error(bpm: float, asked: float) -> float:
    """How far a tempo is from the one asked, its double or its half: 0.05 is 5 %; 1 for none."""
    if asked <= 0:
        raise ValueError(f"asked is {asked} BPM, expected a tempo above 0")
    if bpm <= 0:
        return 1.0
    return float(min(abs(bpm / (asked * factor) - 1) for factor in (0.5, 1.0, 2.0)))


def label_columns(labels: Sequence[str], wanted: Sequence[str], open_: Sequence[str]) -> np.ndarray:
    """A row of `asked` for mean_area: 1 for `wanted`, NaN for `open_`, 0 for the rest (labels,)."""
    unknown = set(wanted) - set(labels)
    if unknown:
        raise ValueError(f"no label {', '.join(sorted(unknown))}; there is {', '.join(labels)}")
    return np.array(
        [1.0 if name in wanted else np.nan if name in open_ else 0.0 for name in labels]
    )
