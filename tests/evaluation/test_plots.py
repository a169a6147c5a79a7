"""Pictures of plans and songs: readable files of a sane size, whole or not at all."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from matplotlib.figure import Figure
from matplotlib.image import imread

from musicot_mlx.errors import MusicotError
from musicot_mlx.evaluation.harness.plots import plot_plan, plot_song

ANCHORS = ["drums", "bass", "piano"]
RATE = 44100


def _activity(segments: int, rows: int = 3) -> np.ndarray:
    return np.random.default_rng(0).uniform(-2, 2, (segments, rows))


def _song(seconds: float = 2.0) -> np.ndarray:
    time = np.arange(int(seconds * RATE)) / RATE
    tone = 0.3 * np.sin(2 * np.pi * 440 * time)
    return np.stack([tone, 0.5 * tone], axis=1).astype(np.float32)


def _picture(path: Path) -> np.ndarray:
    """Pixels (height, width, channels) after checks that any picture of ours passes."""
    pixels = imread(path)
    height, width = pixels.shape[:2]
    assert 300 <= height <= 3000 and 600 <= width <= 3000
    assert pixels[..., :3].std() > 0.02, "the picture is blank"
    assert path.stat().st_size < 2_000_000
    assert [entry.name for entry in path.parent.iterdir()] == [path.name], "something is left over"
    return pixels


@pytest.mark.parametrize("segments", [1, 2, 6, 30])
def test_plan_of_any_length(tmp_path: Path, segments: int) -> None:
    plot_plan(_activity(segments), ANCHORS, 10.0, "a slow piano piece", tmp_path / "plan.png")
    _picture(tmp_path / "plan.png")


def test_more_thoughts_make_it_wider_and_more_anchors_higher(tmp_path: Path) -> None:
    sizes = {}
    for name, segments, rows in (("base", 12, 3), ("wide", 18, 3), ("high", 12, 8)):
        anchors = [f"anchor {row}" for row in range(rows)]
        path = tmp_path / name / "plan.png"
        path.parent.mkdir()
        plot_plan(_activity(segments, rows), anchors, 10.0, "a song", path)
        sizes[name] = _picture(path).shape[:2]
    assert sizes["wide"][1] > sizes["base"][1] and sizes["wide"][0] == sizes["base"][0]
    assert sizes["high"][0] > sizes["base"][0]


def test_a_high_cosine_is_darker(tmp_path: Path) -> None:
    low, high = np.full((4, 3), -1.5), np.full((4, 3), -1.5)
    high[:, 0] = 1.5
    pictures = []
    for index, activity in enumerate((low, high)):
        path = tmp_path / f"{index}" / "plan.png"
        path.parent.mkdir()
        plot_plan(activity, ANCHORS, 10.0, "a song", path)
        pictures.append(_picture(path))
    difference = (pictures[0] - pictures[1])[..., :3].mean(axis=-1)
    assert difference.max() > 0.3


@pytest.mark.parametrize(
    "title",
    [
        "",
        "costs $5 and $6_x^",
        "word " * 80,
        "two\nlines",
        "\u7ffb\u5531 \u97f3\u4e50",
        "\u97f3" * 300,
        "\\frac{",
        "\U0001f3b9\ufe0f \U0001f469\u200d\U0001f3a4",
    ],
)
@pytest.mark.filterwarnings("error:Glyph")
def test_any_title_and_anchor_can_be_drawn(tmp_path: Path, title: str) -> None:
    anchors = [title or "drums", "$x$", "long " * 20]
    plot_plan(_activity(6), anchors, 10.0, title, tmp_path / "plan.png")
    _picture(tmp_path / "plan.png")


def test_what_no_font_has_is_put_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    from musicot_mlx.evaluation.harness import lettering

    monkeypatch.setattr(lettering, "OTHERS", ())  # whatever this system has
    assert lettering.drawable("piano, Cm\u266d \u043f\u0438") == "piano, Cm\u266d \u043f\u0438"
    assert lettering.drawable("\u7ffb\u5531 \u97f3") == "[2 CJK characters] [1 CJK character]"
    assert lettering.drawable("\u3072\ud55c") == "[1 Hiragana character][1 Hangul character]"
    assert lettering.drawable("a \U0001f3b9\ufe0f!") == "a [musical keyboard]!"
    assert lettering.drawable("\U0001f469\u200d\U0001f3a4") == "[woman][microphone]"
    assert lettering.drawable("\ue123") == "[unknown character]"


def test_a_font_of_the_system_is_taken_for_what_ours_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    from musicot_mlx.evaluation.harness import lettering

    own = lettering._letters(lettering.OWN)
    have = {lettering.OWN: own, "Unifont": frozenset(map(ord, "\u7ffb\u5531"))}
    monkeypatch.setattr(lettering, "_letters", lambda family: have.get(family, frozenset()))
    assert lettering.families("a \u7ffb") == [lettering.OWN, "Unifont"]
    assert lettering.families("a") == [lettering.OWN]
    assert lettering.drawable("\u7ffb\u5531 \u97f3") == "\u7ffb\u5531 [1 CJK character]"


def test_text_can_be_read_on_any_cell() -> None:
    from musicot_mlx.evaluation.harness import lettering, plots

    assert lettering.contrast("black", "white") == pytest.approx(21)
    for value in np.linspace(0, 1, 256):
        behind = plots.PLAN_COLOURS(value)[:3]
        colour = lettering.readable(behind, ink=plots.INK, paper=plots.PAPER)
        assert lettering.contrast(colour, behind) >= 4.5
    for grey in np.linspace(0, 1, 256):
        behind = (grey, grey, grey)
        colour = lettering.readable(behind, ink=plots.INK, paper=plots.PAPER)
        assert lettering.contrast(colour, behind) >= 4.5
    pairs = [(plots.SOFT, plots.PAPER), (plots.INK, plots.PAPER), (plots.INK, plots.WAVE)]
    assert min(lettering.contrast(*pair) for pair in pairs) >= 4.5


def test_sections_are_told_by_what_is_alike() -> None:
    from musicot_mlx.evaluation.measures.sections import begins, joined_sections, section_letters

    rng = np.random.default_rng(0)
    a, b, c = np.eye(3, 16)

    def form(*parts: np.ndarray) -> np.ndarray:
        return np.stack(parts) + rng.normal(0, 0.05, (len(parts), 16))

    assert section_letters(form(a, b, a)) == ["A", "B", "A"]
    letters = section_letters(form(a, b, b, a, c, c))
    assert letters == list("ABBACC") and begins(letters) == [1, 3, 4]
    assert section_letters(form(*[a] * 9)) == ["A"] * 9 and begins("A" * 9) == []
    # where the novelty of a waveform cuts one piano in three, it is joined again
    assert joined_sections([6.5, 14.0], form(a, a, a)) == ([], ["A"])
    assert joined_sections([6.5, 10.0, 20.0], form(a, a, b, a)) == ([10.0, 20.0], ["A", "B", "A"])
    lone = ["piano", "piano", None, "piano"]  # whatever CLAP makes of it
    assert joined_sections([3.0, 10.0, 20.0], form(a, c, b, c), lone) == (
        [10.0, 20.0],
        ["A", "B", "A"],
    )


def test_plan_refuses_what_does_not_fit(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\(6, 3\).*2 anchors"):
        plot_plan(_activity(6), ANCHORS[:2], 10.0, "a song", tmp_path / "plan.png")
    with pytest.raises(ValueError, match="NaN"):
        plot_plan(np.full((2, 3), np.nan), ANCHORS, 10.0, "a song", tmp_path / "plan.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("seconds", [0.01, 5.0])
def test_song(tmp_path: Path, seconds: float) -> None:
    plot_song(_song(seconds), RATE, tmp_path / "song.png", "a tone")
    _picture(tmp_path / "song.png")


def test_song_mono_silent_and_at_another_rate(tmp_path: Path) -> None:
    for name, waveform, rate in (
        ("mono", _song()[:, 0], 16000),
        ("silent", np.zeros((RATE, 2), np.float32), RATE),
    ):
        path = tmp_path / name / "song.png"
        path.parent.mkdir()
        plot_song(waveform, rate, path, name)
        _picture(path)


@pytest.mark.parametrize("name", ["plan.svg", "plan.pdf", "plan"])
def test_other_formats(tmp_path: Path, name: str) -> None:
    plot_plan(_activity(3), ANCHORS, 10.0, "a song", tmp_path / name)
    head = (tmp_path / name).read_bytes()[:200]
    assert (b"<?xml" in head) if name.endswith("svg") else head[:4] in (b"%PDF", b"\x89PNG")


def test_errors_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(MusicotError, match="name a .png"):
        plot_plan(_activity(3), ANCHORS, 10.0, "a song", tmp_path / "plan.wav")
    assert not list(tmp_path.iterdir())
    plot_plan(_activity(3), ANCHORS, 10.0, "a song", tmp_path / "new" / "plan.png")
    assert (tmp_path / "new" / "plan.png").is_file()


def test_nothing_half_written_remains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "plan.png"
    plot_plan(_activity(3), ANCHORS, 10.0, "a song", path)
    before = path.read_bytes()

    def interrupted(self: Figure, where: Path, **options: object) -> None:
        Path(where).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(Figure, "savefig", interrupted)
    for draw in (
        lambda: plot_plan(_activity(5), ANCHORS, 10.0, "another", path),
        lambda: plot_song(_song(), RATE, path, "another"),
    ):
        with pytest.raises(KeyboardInterrupt):
            draw()
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_no_global_state_of_matplotlib_is_touched() -> None:
    script = (
        "import matplotlib\nbefore = dict(matplotlib.rcParams)\n"
        "import musicot_mlx.evaluation.harness.plots\n"
        "assert dict(matplotlib.rcParams) == before\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
