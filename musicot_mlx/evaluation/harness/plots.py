"""Pictures: a plan and what became of it as heat maps over time, a song as a spectrogram.

Figures are drawn without pyplot, so no window opens, no backend is chosen and nothing global
changes. Import this module where a picture is asked for: matplotlib takes a while to load.
"""

import textwrap
import unicodedata
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from musicot_mlx.atomic import atomic_path
from musicot_mlx.audio.mel import hertz_to_mel
from musicot_mlx.audio.signals import mel_decibels, power_spectrogram
from musicot_mlx.audio.waveforms import as_waveform
from musicot_mlx.errors import MusicotError
from musicot_mlx.evaluation.harness.lettering import drawable, families, readable
from musicot_mlx.evaluation.measures.agreement import Analysis
from musicot_mlx.evaluation.measures.sections import begins

DPI = 160
PAPER, INK, SOFT, FAINT, BED = "#fdfcfa", "#23202b", "#77727f", "#d9d5dc", "#f0edf1"
WAVE, CORE = "#b9a3c9", "#5b2a6e"  # peaks and loudness of a waveform
# magma from its light end: perceptually uniform, and paper where nothing sounds
PLAN_COLOURS = LinearSegmentedColormap.from_list(
    "plan", matplotlib.colormaps["magma_r"](np.linspace(0.0, 0.78, 256))
)
# Activity from paper to darkest, the same in every picture: 0 is a typical thought of the model,
# 1 a standard deviation more.
RANGE = (-1.5, 1.5)
COSINES = (-0.1, 0.6)  # the same for bare cosines
_CONTROL = 0.26  # inches of a row of text
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
    *,
    duration: float | None = None,
    letters: Sequence[str] = (),
    chords: Sequence[tuple[float, str]] = (),
    controls: Sequence[tuple[str, Sequence[str]]] = (),
) -> None:
    """Draw a plan to a PNG (or SVG, PDF): a row an anchor, a column a thought, colour the activity.

    activity is (segments, anchors), a segment thought_seconds long, as plan.activity counts it.
    letters: the kind of section each segment is of (section_letters), none by default; sections
    stand apart and bear theirs. chords, (second, chord) in order, stand above them; controls,
    (name, a text a segment), below. The file appears whole or not at all. Raises ValueError when
    the shapes disagree, MusicotError when the file can't be written.
    """
    activity = _checked_activity(activity, anchors)
    starts = begins(letters)
    seconds = min(duration or np.inf, len(activity) * thought_seconds)
    parts = f", {len(starts) + 1} sections" if starts else ""
    _draw_activity(
        [activity],
        anchors,
        thought_seconds,
        title,
        f"{_clock(seconds)} in thoughts of {thought_seconds:g} s{parts}; 0 is a typical thought",
        path,
        seconds=seconds,
        sections=[(start, letters[start]) for start in (0, *starts)] if letters else (),
        chords=chords,
        controls=controls,
    )


def plot_analysis(
    analysis: Analysis,
    title: str,
    path: str | Path,
    *,
    waveform: np.ndarray | None = None,
) -> None:
    """Draw an analysis: what is planned, what is heard, or both, one under the other, per anchor.

    With both, the rows end in Pearson's r, and bars below tell how near each segment came to its
    thought. waveform, (samples,) or (samples, channels), is drawn above what is heard. Thin lines
    mark where sections begin. Raises MusicotError when the file can't be written.
    """
    sides = [side for side in (analysis.planned, analysis.achieved) if side is not None]
    step, count = analysis.segment_seconds, max(map(len, sides))
    parts = f", {len(analysis.boundaries) + 1} sections" if analysis.boundaries else ""
    facts = f"{_clock(analysis.duration)} in segments of {step:g} s{parts}"
    if analysis.achieved is not None:
        facts += f", {analysis.tempo:.0f} BPM" if analysis.tempo else ""
    if analysis.mean_cosine is not None:
        facts += f"; {analysis.mean_cosine:.2f} cosine of plan and song"
    seconds = min(analysis.duration, count * step)  # a rest of under a second is not analyzed
    if waveform is not None:
        waveform = waveform[: round(len(waveform) * seconds / analysis.duration)]
    _draw_activity(
        sides,
        analysis.anchors,
        step,
        title,
        facts,
        path,
        seconds=seconds,
        marks=[at for at in analysis.boundaries if at < seconds],
        ends=analysis.correlation if len(sides) == 2 else None,
        bars=analysis.cosine,
        waveform=waveform,
        limits=RANGE if analysis.calibrated else COSINES,
    )


def _checked_activity(activity: np.ndarray, anchors: Sequence[str]) -> np.ndarray:
    activity = np.asarray(activity, np.float64)
    if activity.ndim != 2 or activity.shape[1] != len(anchors) or activity.size == 0:
        raise ValueError(
            f"activity has shape {activity.shape}; expected (segments, anchors) with "
            f"{len(anchors)} anchors and at least one segment"
        )
    if not np.isfinite(activity).all():
        raise ValueError("activity holds NaN or infinity; check the thoughts it was made from")
    return activity


def _draw_activity(
    sides: Sequence[np.ndarray],
    anchors: Sequence[str],
    step: float,
    title: str,
    facts: str,
    path: str | Path,
    *,
    seconds: float,
    sections: Sequence[tuple[int, str]] = (),
    marks: Sequence[float] = (),
    ends: Mapping[str, float | None] | None = None,
    bars: np.ndarray | None = None,
    waveform: np.ndarray | None = None,
    chords: Sequence[tuple[float, str]] = (),
    controls: Sequence[tuple[str, Sequence[str]]] = (),
    limits: tuple[float, float] = RANGE,
) -> None:
    """Strips of cells over `seconds`; `sides` is a table (segments, anchors), or planned, achieved.

    sections: (segment, letter) that begin blocks standing apart; marks: seconds of thin lines;
    ends: a number at the end of each anchor's rows; chords: (second, chord) above all;
    controls: (name, a text a segment) under the anchors; bars: a value from 0 to 1 a segment below.
    """
    rows, count = len(anchors), max(map(len, sides))
    named = [*anchors, *(name for name, _ in controls)]
    fonts = families("".join(named))
    names = [
        textwrap.shorten(drawable(" ".join(name.split())), 34, placeholder=" \u2026")
        for name in named
    ]
    pair = len(sides) == 2
    left = 0.45 + 0.082 * max(max(len(name) for name in names), 6) + 0.62 * pair
    right, foot = 0.95 + 0.5 * pair, 0.62
    across = float(np.clip(0.62 * count, 4.4, 12.5))
    strip, gap = (0.27, 0.13) if pair else (0.42, 0.05)
    cells = rows * (len(sides) * strip + gap) - gap
    down = cells + _CONTROL * len(controls)
    under = 0.62 if bars is not None else 0.0
    wave = 0.66 if waveform is not None else 0.0
    width = left + across + right
    lines = _wrap(title, width)
    lettered, sung = 0.28 * bool(sections), 0.26 * bool(chords)
    head = 0.62 + 0.26 * len(lines) + wave + lettered + sung
    figure = _figure(width, head + down + under + foot)
    _title(figure, lines, facts)
    axes = _axes(figure, left, foot + under, across, down)
    whole = max(seconds, (count - 1) * step + 0.1 * step)  # of the last segment too
    axes.set_xlim(0, whole)
    axes.set_ylim(down, 0)  # the first anchor on top

    begins = {segment for segment, _ in sections}
    apart = min(0.028 * whole / across * 2, 0.12 * step)  # seconds between cells: 0.06 inches
    for row in range(rows):
        for k, side in enumerate(sides):
            top = row * (len(sides) * strip + gap) + k * strip
            values = side[:, row]
            for i, value in enumerate(values):
                start = i * step + apart * (0.16 if i == 0 or i not in begins else 1.6)
                stop = min((i + 1) * step, whole) - apart * (1.6 if i + 1 in begins else 0.16)
                _cell(axes, start, stop, top, strip, value, limits,
                      (stop - start) / whole * across > 0.33)  # fmt: skip
            if pair:
                axes.annotate("plan" if k == 0 else "song", (0, top + strip / 2), (-5, 0),
                              textcoords="offset points", ha="right", va="center_baseline",
                              fontsize=7.5, color=SOFT)  # fmt: skip
    heights = [row * (len(sides) * strip + gap) + len(sides) * strip / 2 for row in range(rows)]
    for row, (_, texts) in enumerate(controls):
        heights.append(cells + (row + 0.5) * _CONTROL)
        for i, text in enumerate(texts):
            axes.text((i * step + min((i + 1) * step, whole)) / 2, heights[-1], text, fontsize=7.5,
                      color=INK, ha="center", va="center_baseline", parse_math=False)  # fmt: skip
    axes.set_yticks(heights, names)
    for label in axes.get_yticklabels():
        label.set_parse_math(False)
        label.set_fontfamily(fonts)
    axes.tick_params(axis="y", length=0, labelsize=10, pad=34 if pair else 7, labelcolor=INK)
    for at in marks:
        axes.plot([at, at], [-0.07, down + 0.07], color=INK, linewidth=0.9, alpha=0.75,
                  clip_on=False, dashes=(4, 2.5))  # fmt: skip
    stops = [*(segment for segment, _ in sections[1:]), count]
    for (segment, letter), stop in zip(sections, stops, strict=False):
        start = segment * step + apart * (1.6 if segment else 0.16)
        _section(axes, start, min(stop * step, whole) - apart * (1.6 if stop < count else 0.16),
                 letter)  # fmt: skip
    if chords:
        _chords(axes, chords, whole, across / whole, -0.13 - lettered)
    if ends is not None:
        _ends(axes, heights, anchors, ends)
    last = axes
    if bars is not None:
        last = _axes(figure, left, foot, across, under - 0.16)
        _bars(last, bars, step, whole, 0.32 * apart, across / count > 0.33)
        axes.set_xticks([])
    _time_axis(last, whole, step, across)
    if waveform is not None:
        mono = as_waveform(waveform)
        mono = mono if mono.ndim == 1 else mono.mean(axis=1)
        above = _axes(figure, left, foot + under + down + 0.12, across, wave - 0.1)
        _envelope(above, mono, seconds)
        above.set_xlim(0, whole)
    _activity_scale(figure, width - 0.78, foot + under, down, limits)
    _save(figure, path)


def _cell(
    axes: Axes, start: float, stop: float, top: float, height: float, value: float,
    limits: tuple[float, float], written: bool,
) -> None:  # fmt: skip
    """One segment of one row, with its number in the cell's own colour moved to ink or paper."""
    inner = height - 0.025
    place = ((start, top), stop - start, inner)
    if not np.isfinite(value):  # silence
        axes.add_patch(Rectangle(*place, facecolor="none", edgecolor=FAINT, hatch="////"))
        return
    colour = PLAN_COLOURS(Normalize(*limits, clip=True)(value))
    axes.add_patch(Rectangle(*place, facecolor=colour, linewidth=0))
    if written:
        axes.text((start + stop) / 2, top + inner / 2, _number(value, 1 if limits == RANGE else 2),
                  fontsize=6.5 if height < 0.3 else 7.5, va="center_baseline", ha="center",
                  color=readable(colour[:3], ink=INK, paper=PAPER))  # fmt: skip


def _section(axes: Axes, start: float, stop: float, letter: str) -> None:
    """A section's letter over a line as long as the section."""
    axes.plot([start, stop], [-0.09, -0.09], color=INK, linewidth=1.1,
              clip_on=False, solid_capstyle="butt")  # fmt: skip
    axes.text((start + stop) / 2, -0.15, letter, fontsize=9, color=INK, ha="center", va="bottom")


def _chords(
    axes: Axes, chords: Sequence[tuple[float, str]], whole: float, scale: float, height: float
) -> None:
    """A chord where it begins, over a tick; one that would run into the next is only a tick.

    scale: inches a second."""
    named = [c for i, c in enumerate(chords) if i == 0 or c[1] != chords[i - 1][1]]
    free = 0.0
    for start, chord in named:
        if start >= whole:
            break
        axes.plot([start, start], [height + 0.03, height + 0.09], color=SOFT, linewidth=0.8,
                  clip_on=False, solid_capstyle="butt")  # fmt: skip
        if start >= free:
            text = "\u2013" if chord == "N" else chord
            axes.text(start, height, text, fontsize=7, color=INK, ha="left", va="bottom",
                      parse_math=False)  # fmt: skip
            free = start + (0.062 * len(text) + 0.08) / scale  # and a space before the next


def _ends(
    axes: Axes, heights: list[float], anchors: Sequence[str], ends: Mapping[str, float | None]
) -> None:
    """Pearson's r at the end of each anchor's rows."""
    right = axes.get_xlim()[1]
    words = {"textcoords": "offset points", "va": "center_baseline", "annotation_clip": False}
    axes.annotate("r", (right, 0), (12, 9), color=SOFT, fontsize=8, **words)
    for height, anchor in zip(heights, anchors, strict=True):
        value = ends.get(anchor)
        axes.annotate("\u2013" if value is None else _number(value), (right, height), (9, 0),
                      color=SOFT if value is None or value <= 0.5 else INK, fontsize=10,
                      **words)  # fmt: skip


def _bars(
    axes: Axes, values: np.ndarray, step: float, whole: float, apart: float, written: bool
) -> None:
    """How near each segment came to its thought: a bar a segment, from 0 to 1."""
    nearness = np.nan_to_num(values).clip(0.0, 1.0)
    edges = np.minimum(np.arange(len(values) + 1) * step, whole)
    middles, widths = (edges[1:] + edges[:-1]) / 2, np.diff(edges) - apart
    axes.bar(middles, np.ones(len(values)), widths, color=BED, linewidth=0)
    axes.bar(middles, nearness, widths, color=WAVE, linewidth=0)
    for middle, value in zip(middles, values, strict=True):
        if written and np.isfinite(value):
            axes.text(middle, 0.06, _number(value), fontsize=7, color=INK, ha="center")
    axes.set_xlim(0, whole)
    axes.set_ylim(0, 1)
    axes.set_yticks([0.5], ["cosine"])
    axes.tick_params(axis="y", length=0, labelsize=9, pad=7, labelcolor=SOFT)


def _activity_scale(
    figure: Figure, left: float, bottom: float, height: float, limits: tuple[float, float]
) -> None:
    """The colour bar of the cells."""
    tall = min(height, 2.4)
    scale = figure.colorbar(
        ScalarMappable(Normalize(*limits), PLAN_COLOURS),
        cax=_axes(figure, left, bottom + height - tall, 0.1, tall),
    )
    low, high = (_number(limit, 1) for limit in limits)
    _scale(scale, [limits[0], 0.0, limits[1]], [f"\u2264 {low}", "0", f"\u2265 {high}"])
    title = "activity" if limits == RANGE else "cosine"
    scale.ax.set_title(title, fontsize=8, color=SOFT, pad=6, loc="left")


def plot_song(waveform: np.ndarray, sample_rate: int, path: str | Path, title: str) -> None:
    """Draw a song to a PNG (or SVG, PDF): waveform above, mel spectrogram below, over m:ss.

    waveform is (samples,) or (samples, channels) at sample_rate Hz; channels are averaged. The file
    appears whole or not at all. Raises ValueError for an empty waveform or one that is not finite,
    MusicotError when the file can't be written.
    """
    spectrogram = power_spectrogram(waveform, sample_rate)
    mono = as_waveform(waveform)
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


def _number(value: float, decimals: int = 2) -> str:
    value = round(float(value), decimals) + 0.0  # no minus zero
    return f"{value:.{decimals}f}".replace("-", "\u2212")  # a minus as wide as a digit


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
    """The title in one to three lines that fit, of letters that can be drawn."""
    title, room = drawable(title), int((inches - 0.8) * 9.2)
    wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in title)
    room = round(room * len(title) / (len(title) + wide)) if wide else room  # these take two
    lines = textwrap.wrap(title, room, max_lines=3, placeholder=" \u2026")
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
    text = "\n".join(lines)
    figure.text(0.35 / wide, 1 - 0.2 / high, text, fontsize=13, color=INK,
                fontfamily=families(text), **words)  # fmt: skip
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
        warnings.filterwarnings("ignore", message="Glyph")  # of a font that says it has one
        figure.savefig(temporary, format=kind, facecolor=PAPER)
