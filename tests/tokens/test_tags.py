"""Tags that a prompt asks for: by CLAP cosine and by the tempo it names."""

import numpy as np
import pytest

from musicot_mlx.tokens.tags import chosen_tags
from musicot_mlx.tokens.tempo import (
    SLOWEST,
    STEP,
    STEPS,
    TEMPO_TAGS,
    asked_tempo,
    close_tempo,
    is_tempo,
    named_tempo,
    nearest_tempo,
    paced_tempi,
    tempo_of,
    tempo_tag,
)


def test_tempo_tags_are_a_grid_of_four_percent() -> None:
    tags = {tempo_tag(bpm) for bpm in np.arange(60, 181, 0.5)}
    tempi = sorted(int(tag.split()[0]) for tag in tags)
    assert tempi[0] == 60 and 170 < tempi[-1] < 190 and 25 <= len(tempi) <= 32
    for bpm in np.arange(60, 181, 0.5):
        assert abs(int(tempo_tag(bpm).split()[0]) / bpm - 1) < 0.03
    assert tempo_tag(240) == tempo_tag(120) == tempo_tag(480)
    for edge, end in ((SLOWEST / STEP**0.5, 0), (SLOWEST * STEP ** (STEPS - 0.5), -1)):
        near = {tempo_tag(bpm) for bpm in np.linspace(edge * (1 - 1e-12), edge * (1 + 1e-12), 21)}
        assert TEMPO_TAGS[end] in near and near <= set(TEMPO_TAGS)
    with pytest.raises(ValueError, match="expected one above 0"):
        tempo_tag(0)


@pytest.mark.parametrize(
    ("words", "bpm"),
    [
        ("techno at 132 BPM", 132.0),
        ("a waltz, 96bpm, then 120 bpm", 96.0),
        ("slow, 62.5 beats per minute", 62.5),
        ("a 90-bpm groove", 90.0),
        ("from 1984, with 12 violins", None),
        ("bpm", None),
        ("at 1000 BPM", 1000.0),
        ("0 bpm", None),
        (None, None),
    ],
)
def test_named_tempo(words: str | None, bpm: float | None) -> None:
    assert named_tempo(words) == bpm


@pytest.mark.parametrize(
    ("tags", "words", "bpm"),
    [
        ((), (None, "a waltz"), 0),
        ((), (None, "at 97 BPM"), 97),
        (("piano", "120 bpm"), ("slow",), 120),
        (("120 bpm",), ("at 97 BPM", "at 80 BPM"), 97),  # words before tags, the first that tells
        ((), ("at 240 BPM",), 120),
        ((), ("at 45 BPM",), 90),
    ],
)
def test_asked_tempo(tags: tuple[str, ...], words: tuple[str | None, ...], bpm: float) -> None:
    assert asked_tempo(tags, words) == bpm


def test_a_tempo_that_was_heard_counts_more_than_the_tag_it_was_rounded_to() -> None:
    assert asked_tempo(("122 bpm",), (None,), exact=120.2) == 120.2
    assert asked_tempo((), (None, "122 bpm"), exact=120.2) == 120.2  # a tag among the words
    assert asked_tempo(("80 bpm",), (None,), exact=120.2) == 80
    assert asked_tempo(("122 bpm",), ("at 118 BPM",), exact=120.2) == 118
    assert asked_tempo((), (None,), exact=120.2) == 0


def test_the_nearest_tempo_that_a_model_has() -> None:
    names = ["piano", "73 bpm", "79 bpm", "122 bpm"]
    assert [nearest_tempo(names, bpm) for bpm in (75.0, 77.0, 244.0)] == names[1:]
    assert nearest_tempo(names[:1], 75.0) is None


def test_tempo_tags_are_taken_from_words_alone() -> None:
    names = ["piano", tempo_tag(96), tempo_tag(120), "slow"]
    cosine = np.array([0.95, 0.99, 0.1, 0.5])
    assert chosen_tags(names, cosine, 0.9) == ["piano"]
    assert chosen_tags(names, cosine, 0.9, "a song at 120 BPM") == ["piano", tempo_tag(120)]
    assert chosen_tags(names, cosine, 0.9, None, "96 BPM") == ["piano", tempo_tag(96)]
    assert chosen_tags(names, cosine, 0.9, "at 150 BPM") == ["piano"]  # the model knows no such


@pytest.mark.parametrize(
    ("words", "tags"),
    [
        ("one Flute", ["flute", "drum kit", "blues"]),
        ("one Flute by itself", ["flute"]),
        ("all alone", ["drum kit", "blues"]),
        ("solo organ", ["organ"]),
        ("an organ solo over it", ["organ", "drum kit", "blues"]),
        ("a guitar solo, loud", ["guitar", "drum kit", "blues"]),
        ("Chicago blues, electric guitars", ["blues", "chicago blues", "guitar", "drum kit"]),
        ("a blue sky over organic fields", ["drum kit", "blues"]),  # names none: those near it
        ("soft and slow, no drums", ["blues"]),  # nor those near it that it will not have
        ("flutes without drums or guitar, but with blues", ["flute", "blues"]),
        ("blues, then nothing", ["blues", "drum kit"]),
        ("not too busy drums", ["drum kit", "blues"]),  # which denies no drums
        (None, ["drum kit", "blues"]),
    ],
)
def test_tags_that_words_name_go_before_those_near_them(words: str | None, tags: list[str]) -> None:
    names = ["drum kit", "flute", "blues", "chicago blues", "guitar", "organ", tempo_tag(96)]
    cosine = np.array([0.95, 0.1, 0.92, 0.3, 0.4, 0.2, 0.99])
    assert chosen_tags(names, cosine, 0.9, words) == tags


def test_tempo_of_metadata() -> None:
    assert tempo_of({"bpm": "139.7"}) == (tempo_tag(139.7),)
    assert is_tempo(*tempo_of({"bpm": 80}))
    for record in ({}, {"bpm": None}, {"bpm": "fast"}, {"bpm": -1}, {"bpm": float("nan")}):
        assert tempo_of(record) == ()


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        ("slowly drifting pads", [62, 93]),
        ("an up-tempo tune", [122, 180]),
        ("fast drums under a slow cello", [62, 93, 100, 122, 180]),
        ("fasting monks", [62, 93, 100, 122, 180]),
        ("a waltz, not too fast", [62, 93, 100, 122, 180]),
        ("not fast but slow", [62, 93]),
        (None, [62, 93, 100, 122, 180]),
    ],
)
def test_tempi_of_slow_and_fast_words(words: str | None, kept: list[int]) -> None:
    names = ["slow", "piano", *(f"{bpm} bpm" for bpm in (62, 93, 100, 122, 180))]
    assert paced_tempi(names, words) == [f"{bpm} bpm" for bpm in kept]
    assert paced_tempi(["132 bpm"], "slow") == ["132 bpm"]  # the only one there is
    assert paced_tempi(["slow"], "slow") == []


def test_a_tempo_has_a_tag_where_one_is_near() -> None:
    names = ["piano", "62 bpm", "122 bpm", "180 bpm"]
    assert close_tempo(names, 120) == "122 bpm"
    assert close_tempo(names, 61) == close_tempo(names, 244 / 4) == "62 bpm"
    assert close_tempo(names, 500) == "122 bpm"  # 125
    assert close_tempo(names, 90) is None
