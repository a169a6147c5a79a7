"""A picture of a tuning run: the loss of every iteration, its running mean, the held-out loss."""

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from musicot_mlx.atomic import atomic_path
from musicot_mlx.training.trainer import Log

_INK, _FAINT, _TRAIN, _VALID = "#23202b", "#d9d5dc", "#b9a3c9", "#5b2a6e"


def plot_losses(log: Log, title: str, path: str | Path) -> None:
    """Draw the losses of a run to a PNG, whole or not at all."""
    figure = Figure(figsize=(8, 4.5), dpi=140, facecolor="#fdfcfa", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_facecolor("#fdfcfa")
    train = np.asarray(log.train, dtype=np.float64)
    steps = np.arange(1, len(train) + 1)
    axes.plot(steps, train, color=_FAINT, linewidth=0.8)
    if len(train):
        width = max(1, len(train) // 20)
        mean = np.convolve(train, np.ones(width) / width, mode="valid")
        axes.plot(steps[width - 1 :], mean, color=_TRAIN, linewidth=1.8, label="training")
    axes.plot(
        *zip(*log.valid, strict=True),
        color=_VALID,
        linewidth=1.8,
        marker="o",
        markersize=4,
        label="held out",
    )
    if log.best:
        axes.axvline(log.best, color=_VALID, linewidth=0.8, linestyle=":", label="kept")
    axes.set_xlabel("iteration")
    axes.set_ylabel("loss")
    axes.set_title(title, loc="left", color=_INK, fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")
