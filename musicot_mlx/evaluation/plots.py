"""Pictures: a plan as a heat map over time, a song as waveform and spectrogram.

Figures are drawn without pyplot, so no window opens, no backend is chosen and nothing global
changes. Import this module where a picture is asked for: matplotlib takes a while to load.
"""

import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colorbar import Colorbar
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure

from musicot_mlx.atomic import atomic_path
from musicot_mlx.audio.mel import hertz_to_mel
from musicot_mlx.errors import MusicotError
from musicot_mlx.evaluation.signals import mel_decibels, power_spectrogram

DPI = 160
PAPER, INK, SOFT, FAINT = "#fdfcfa", "#23202b", "#77727f", "#d9d5dc"
WAVE, CORE = "#b9a3c9", "#5b2a6e"  # peaks and loudness of a waveform
# magma from its light end: perceptually uniform, and paper where nothing sounds
PLAN_COLOURS = LinearSegmentedColormap.from_list(
    "plan", matplotlib.colormaps["magma_r"](np.linspace(0.0, 0.78, 256))
)
SONG_COLOURS = matplotlib.colormaps["magma"]
MEL_BANDS, DYNAMIC_RANGE = 128, 72.0  # of the spectrogram; dB
COLUMNS = 1500  # columns a song is reduced to
STEPS = (1, 2, 5, 10, 15, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600)  # seconds between ticks
PITCHES = (200, 500, 1000, 2000, 5000, 10000)  # Hz that are labelled


def plot_plan(
    activity: np.ndarray,
    anchors: Sequence[str],
    thought_seconds: float,
    title: str,
    path: str | Path,
) -> None:
    """Draw a plan to a PNG (or SVG, PDF): a row an anchor, a column a thought, colour the cosine.

    activity is (segments, anchors), a segment thought_seconds long. Thin lines part the sections:
    they lie where one thought differs most from the next. The file appears whole or not at all.
    Raises ValueError when the shapes disagree, MusicotError when the file can't be written.
    """
    activity = np.asarray(activity, np.float64)
    if activity.ndim != 2 or activity.shape[1] != len(anchors) or activity.size == 0:
        raise ValueError(
            f"activity has shape {activity.shape}; expected (segments, anchors) with "
            f"{len(anchors)} anchors and at least one segment"
        )
    if not np.isfinite(activity).all():
        raise ValueError("activity holds NaN or infinity; check the thoughts it was made from")
    segments, rows = activity.shape
    names = [
        textwrap.shorten(" ".join(name.split()), 34, placeholder=" \u2026") for name in anchors
    ]
    left = 0.4 + 0.08 * max(max(len(name) for name in names), 6)
    right, foot = 0.95, 0.62
    across = float(np.clip(0.62 * segments, 4.4, 12.5))
    width = left + across + right
    lines = _wrap(title, width)
    head = 0.68 + 0.26 * len(lines)
    down = 0.46 * rows
    figure = _figure(width, head + down + foot)
    against = f"each held against {rows} text{'s' * (rows > 1)}"
    length = _clock(segments * thought_seconds)
    _title(figure, lines, f"{length} in thoughts of {thought_seconds:g} s, {against}")

    axes = _axes(figure, left, foot, across, down)
    low, high = float(activity.min()), float(activity.max())
    if high - low < 0.1:  # an even plan looks even
        low, high = (low + high) / 2 - 0.05, (low + high) / 2 + 0.05
    edges = np.arange(segments + 1) * thought_seconds
    cells = axes.pcolormesh(edges, np.arange(rows + 1), activity.T, cmap=PLAN_COLOURS,
                            vmin=low, vmax=high, edgecolors=PAPER, linewidth=1.2)  # fmt: skip
    if across / segments > 0.33:
        _values(axes, activity, (activity - low) / (high - low), thought_seconds)
    for boundary in _boundaries(activity):
        axes.plot(2 * [boundary * thought_seconds], [-0.16, rows], color=INK, linewidth=0.9,
                  clip_on=False, solid_capstyle="butt")  # fmt: skip
    axes.set_xlim(0, edges[-1])
    axes.set_ylim(rows, 0)  # the first anchor on top
    axes.set_yticks(np.arange(rows) + 0.5, names)
    for label in axes.get_yticklabels():
        label.set_parse_math(False)
    axes.tick_params(axis="y", length=0, labelsize=10, pad=7, labelcolor=INK)
    _time_axis(axes, edges[-1], thought_seconds, across)

    bar = _axes(figure, width - right + 0.2, foot, 0.1, down)
    scale = figure.colorbar(cells, cax=bar)
    ticks = np.linspace(low, high, 3 if rows > 1 else 2)
    _scale(scale, ticks, [_cosine(tick) for tick in ticks])
    scale.ax.set_title("cosine", fontsize=8, color=SOFT, pad=6, loc="left")
    _save(figure, path)


def plot_song(waveform: np.ndarray, sample_rate: int, path: str | Path, title: str) -> None:
    """Draw a song to a PNG (or SVG, PDF): waveform above, mel spectrogram below, over m:ss.

    waveform is (samples,) or (samples, channels) at sample_rate Hz; channels are averaged. The file
    appears whole or not at all. Raises ValueError for an empty waveform or one that is not finite,
    MusicotError when the file can't be written.
    """
    spectrogram = power_spectrogram(waveform, sample_rate)
    mono = np.asarray(waveform, np.float32)
    mono = mono if mono.ndim == 1 else mono.mean(axis=1)
    seconds = len(mono) / sample_rate
    width, left, right = 11.0, 0.75, 0.85
    lines = _wrap(title, width)
    head, above, gap, below, foot = 0.52 + 0.26 * len(lines), 1.15, 0.14, 2.9, 0.62
    height = head + above + gap + below + foot
    figure = _figure(width, height)
    kind = "mono" if np.ndim(waveform) == 1 or np.shape(waveform)[1] == 1 else "stereo"
    _title(figure, lines, f"{_clock(seconds)}, {sample_rate / 1000:g} kHz {kind}")

    wave = _axes(figure, left, foot + below + gap, width - left - right, above)
    _envelope(wave, mono, seconds)

    axes = _axes(figure, left, foot, width - left - right, below)
    image = mel_decibels(spectrogram, MEL_BANDS, DYNAMIC_RANGE)  # (frames, mels)
    pooled = _pool(image, COLUMNS)
    top = min(16000.0, sample_rate / 2)
    ends = hertz_to_mel(np.array([30.0, top]))
    shown = axes.imshow(pooled.T, cmap=SONG_COLOURS, vmin=-DYNAMIC_RANGE, vmax=0.0,
                        extent=(0, seconds, *ends), origin="lower", aspect="auto",
                        interpolation="bilinear")  # fmt: skip
    pitches = [pitch for pitch in PITCHES if pitch < top]
    labels = [f"{p // 1000} kHz" if p >= 1000 else f"{p} Hz" for p in pitches]
    axes.set_yticks(hertz_to_mel(np.array(pitches)), labels)
    axes.tick_params(axis="y", length=3, color=FAINT, labelsize=8, labelcolor=SOFT, pad=4)
    _time_axis(axes, seconds, 1.0, width - left - right)
    wave.set_xlim(axes.get_xlim())

    bar = _axes(figure, width - right + 0.18, foot, 0.1, below)
    scale = figure.colorbar(shown, cax=bar)
    _scale(scale, [0, -20, -40, -60], ["0 dB", "\u221220", "\u221240", "\u221260"])
    _save(figure, path)


def _boundaries(activity: np.ndarray) -> list[int]:
    """Segments that begin a section: where the step from the one before stands out."""
    steps = np.linalg.norm(np.diff(activity, axis=0), axis=1)
    if len(steps) < 3 or steps.max() < 1e-3:
        return []
    padded = np.pad(steps, 1)
    peak = (steps >= padded[:-2]) & (steps >= padded[2:])
    return [int(i) + 1 for i in np.flatnonzero(peak & (steps > steps.mean() + 0.5 * steps.std()))]


def _values(axes: Axes, activity: np.ndarray, shade: np.ndarray, thought_seconds: float) -> None:
    """Each cosine in its cell, in the cell's own colour moved towards ink or paper."""
    for (segment, row), value in np.ndenumerate(activity):
        behind = np.array(PLAN_COLOURS(shade[segment, row])[:3])
        dark = float(behind @ (0.2126, 0.7152, 0.0722)) < 0.5
        towards = np.array(to_rgb(PAPER if dark else INK))
        axes.text((segment + 0.5) * thought_seconds, row + 0.52, _cosine(value), fontsize=7.5,
                  color=tuple(behind + 0.72 * (towards - behind)),
                  ha="center", va="center")  # fmt: skip


def _cosine(value: float) -> str:
    return f"{value:.2f}".replace("-", "\u2212")  # a minus as wide as a digit


def _envelope(axes: Axes, mono: np.ndarray, seconds: float) -> None:
    """Highest and lowest sample, and the loudness (RMS) inside, a column a pixel."""
    columns = min(COLUMNS, len(mono))
    starts = np.linspace(0, len(mono), columns, endpoint=False).astype(int)
    sizes = np.diff(np.append(starts, len(mono)))
    loud = np.sqrt(np.add.reduceat(np.square(mono, dtype=np.float64), starts) / sizes)
    times = (starts + sizes / 2) / len(mono) * seconds
    low, high = np.minimum.reduceat(mono, starts), np.maximum.reduceat(mono, starts)
    axes.fill_between(times, low, high, color=WAVE, linewidth=0)
    axes.fill_between(times, -loud, loud, color=CORE, linewidth=0)
    axes.axhline(0, color=CORE, linewidth=0.5)
    reach = max(float(np.abs(mono).max()), 1e-3) * 1.05
    axes.set_ylim(-reach, reach)
    axes.set_xticks([])
    axes.set_yticks([])


def _pool(image: np.ndarray, columns: int) -> np.ndarray:
    """Frames averaged down to about `columns`, (frames, mels)."""
    size = max(1, len(image) // columns)
    starts = np.arange(0, len(image), size)
    return np.add.reduceat(image, starts) / np.diff(np.append(starts, len(image)))[:, None]


def _time_axis(axes: Axes, seconds: float, step: float, inches: float) -> None:
    """Ticks in m:ss, half an inch apart or more, on multiples of `step` seconds."""
    room = max(seconds / inches * 0.55, step)
    nice = [s for s in STEPS if s >= room and abs(s / step - round(s / step)) < 1e-6]
    every = nice[0] if nice else step * np.ceil(room / step)
    ticks = np.arange(0, seconds + 1e-6, every)
    axes.set_xticks(ticks, [_clock(tick) for tick in ticks])
    axes.tick_params(axis="x", length=3, color=FAINT, labelsize=9, labelcolor=SOFT, pad=4)


def _clock(seconds: float) -> str:
    """75 -> 1:15; tenths are kept where there are any."""
    minutes, rest = divmod(round(seconds, 1), 60)
    return f"{int(minutes)}:{rest:04.1f}".removesuffix(".0")


def _wrap(title: str, inches: float) -> list[str]:
    """The title in one to three lines that fit."""
    lines = textwrap.wrap(title, int((inches - 0.8) * 9.2), max_lines=3, placeholder=" \u2026")
    return lines or ["untitled"]


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor=PAPER)
    FigureCanvasAgg(figure)
    return figure


def _axes(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Axes placed in inches, without a frame."""
    wide, high = figure.get_size_inches()
    axes = figure.add_axes((left / wide, bottom / high, width / wide, height / high))
    axes.set_facecolor(PAPER)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return axes


def _title(figure: Figure, lines: list[str], below: str) -> None:
    wide, high = figure.get_size_inches()
    words = {"ha": "left", "va": "top", "parse_math": False}  # a prompt may hold dollar signs
    figure.text(0.35 / wide, 1 - 0.2 / high, "\n".join(lines), fontsize=13, color=INK, **words)
    down = 0.22 + 0.26 * len(lines)
    figure.text(0.35 / wide, 1 - down / high, below, fontsize=8.5, color=SOFT, **words)


def _scale(scale: Colorbar, ticks: Sequence[float], labels: list[str]) -> None:
    """Quiet ticks beside a colour bar."""
    scale.outline.set_visible(False)
    scale.set_ticks(ticks, labels=labels)
    scale.ax.tick_params(length=0, labelsize=8, labelcolor=SOFT, pad=4)


def _save(figure: Figure, path: str | Path) -> None:
    """Write the figure whole or not at all, in the format the file is named for."""
    kind = Path(path).suffix.lstrip(".").lower() or "png"
    if kind not in figure.canvas.get_supported_filetypes():
        raise MusicotError(f"can't draw a .{kind} file; name a .png, .svg or .pdf")
    with atomic_path(path) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a prompt in another script: boxes
        figure.savefig(temporary, format=kind, facecolor=PAPER)
