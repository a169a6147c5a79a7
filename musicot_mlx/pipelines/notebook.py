"""Songs and plans as a line, and as what a notebook shows: a player, the waveform, the plan.

Pictures are SVG, so that no plotting library loads and every script and screen shows them well.
"""

import base64
import html
import io
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from musicot_mlx.errors import MusicotError
from musicot_mlx.pipelines.plans.anchors import anchors_of

if TYPE_CHECKING:
    from musicot_mlx.pipelines.plans.plan import Plan
    from musicot_mlx.pipelines.song import Song

_MP3_RATES = (8000, 16000, 22050, 24000, 32000, 44100, 48000)
_WIDTH, _LABELS, _ROW = 720, 90, 22  # pixels
_COLUMNS = 360  # of a waveform


def line_of_song(song: "Song") -> str:
    """A song in a line: seconds, channels, rate, seed, words."""
    channels = song.waveform.shape[1]
    sides = {1: "mono", 2: "stereo"}.get(channels, f"{channels} channels")
    words = song.settings.get("prompt")
    parts = [f"{song.duration:.1f} s", sides, f"{song.sample_rate / 1000:g} kHz"]
    if "seed" in song.settings:
        parts.append(f"seed {song.settings['seed']}")
    return ", ".join(parts + ([_brief(words)] if words else []))


def line_of_plan(plan: "Plan") -> str:
    """A plan in a line: seconds, thoughts, seed, words, key, edits."""
    thoughts = f"{plan.segments} thought{'s' * (plan.segments != 1)}"
    parts = [f"{plan.duration:g} s", thoughts, f"seed {plan.seed}"]
    if plan.prompt:
        parts.append(_brief(plan.prompt))
    parts += [plan.key] if plan.key else []
    if plan.history:
        parts.append(f"{len(plan.history)} edit{'s' * (len(plan.history) != 1)}")
    return ", ".join(parts)


def html_of_song(song: "Song") -> str:
    """The line of a song, a player that holds its audio, its waveform and its plan."""
    parts = [f"<div>{html.escape(line_of_song(song))}</div>"]
    try:
        format = "mp3" if song.sample_rate in _MP3_RATES else "wav"
        file = io.BytesIO()
        song.save(file, format=format)
        kind = {"mp3": "audio/mpeg", "wav": "audio/wav"}[format]
        parts.append(
            f'<audio controls src="data:{kind};base64,{_base64(file.getvalue())}"></audio>'
        )
    except MusicotError as error:  # a broken render
        parts.append(f"<div>{html.escape(str(error))}</div>")
    parts.append(_image(_waveform(song.waveform), "the waveform"))
    if song.plan is not None:
        parts.append(_image(_picture(song.plan), "the plan"))
    return f"<div>{''.join(parts)}</div>"


def html_of_plan(plan: "Plan") -> str:
    """The line of a plan and its picture."""
    return (
        f"<div><div>{html.escape(line_of_plan(plan))}</div>{_image(_picture(plan), 'plan')}</div>"
    )


def _brief(words: str) -> str:
    words = " ".join(words.split())
    return repr(words if len(words) <= 60 else words[:57] + "...")


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _image(svg: str, what: str) -> str:
    source = f"data:image/svg+xml;base64,{_base64(svg.encode())}"
    return f'<div><img alt="{what}" style="max-width: 100%" src="{source}"></div>'


def _svg(height: float, shapes: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height:g}" '
        f'viewBox="0 0 {_WIDTH} {height:g}" font-family="sans-serif" font-size="12">'
        f'<rect width="100%" height="100%" fill="#fff"/>{"".join(shapes)}</svg>'
    )


def _text(x: float, y: float, words: str, *, fill: str = "#222", middle: bool = False) -> str:
    anchor = ' text-anchor="middle"' if middle else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{fill}"{anchor}>{html.escape(words)}</text>'


def _waveform(waveform: np.ndarray) -> str:
    """The loudest of every stretch of (frames, channels), up and down."""
    height, middle = 60, 30.0
    level = np.abs(waveform).max(axis=1) if waveform.size else np.zeros(1)
    level = np.nan_to_num(level, posinf=1.0).clip(0, 1)
    columns = [piece.max() for piece in np.array_split(level, _COLUMNS) if len(piece)]
    x = np.linspace(_LABELS, _WIDTH, len(columns))
    above = [f"{at:.1f},{middle - 28 * value:.1f}" for at, value in zip(x, columns, strict=True)]
    below = [f"{at:.1f},{middle + 28 * value:.1f}" for at, value in zip(x, columns, strict=True)]
    points = " ".join(above + below[::-1])
    return _svg(height, [f'<polygon points="{points}" fill="#3b6ea5" stroke="#3b6ea5"/>'])


def _picture(plan: "Plan") -> str:
    """The chords of a plan above what each thought sounds like, a row an instrument, and the
    controls of its segments.
    """
    shapes = list(_chords(plan))
    top = _ROW * bool(shapes)
    rows = [] if plan.model is None or not plan.segments else anchors_of(plan)
    values = plan.activity(rows) if rows else np.zeros((plan.segments, 0))  # (segments, rows)
    for row, (anchor, column) in enumerate(zip(rows, values.T, strict=True)):
        y = top + row * _ROW
        shapes.append(_text(4, y + 15, anchor))
        for segment, value in enumerate(column):
            x, width = _place(plan, segment)
            fill, ink = _colours(float(value))
            shapes.append(
                f'<rect x="{x:.1f}" y="{y}" width="{width - 1:.1f}" height="{_ROW - 1}" '
                f'fill="{fill}"/>'
            )
            shapes.append(_text(x + width / 2, y + 15, f"{value:.1f}", fill=ink, middle=True))
    controls = plan.control_rows()
    for row, (name, texts) in enumerate(controls, start=len(rows)):
        y = top + row * _ROW + 15
        shapes.append(_text(4, y, f"set {name}"[:14]))
        for segment, text in enumerate(texts):
            x, width = _place(plan, segment)
            shapes.append(_text(x + width / 2, y, text, middle=True))
    bottom = top + (len(rows) + len(controls)) * _ROW
    for segment in range(plan.segments):
        x, _ = _place(plan, segment)
        shapes.append(_text(x, bottom + 15, f"{segment * plan.thought_seconds:g} s"))
    return _svg(bottom + _ROW, shapes)


def _colours(value: float) -> tuple[str, str]:
    """Of a cell, the darker the more, and of the number in it."""
    share = float(np.clip((value + 1) / 4, 0, 1))
    red, green, blue = (round(255 - share * away) for away in (225, 165, 95))
    return f"#{red:02x}{green:02x}{blue:02x}", "#fff" if share > 0.7 else "#111"


def _place(plan: "Plan", segment: int) -> tuple[float, float]:
    """Where a segment begins and how wide it is, in pixels."""
    scale = (_WIDTH - _LABELS) / plan.duration
    start = segment * plan.thought_seconds
    end = min(start + plan.thought_seconds, plan.duration)
    return _LABELS + start * scale, max(1.0, (end - start) * scale)


def _chords(plan: "Plan") -> Iterator[str]:
    """The names of chords where they begin, as far as there is room."""
    scale, free = (_WIDTH - _LABELS) / plan.duration, 0.0
    for at, (second, chord) in enumerate(plan.chord_changes()):
        if not at:
            yield _text(4, 15, "chords")
        x = _LABELS + second * scale
        if x >= free:
            yield _text(x, 15, chord)
            free = x + 9 * len(chord) + 4
