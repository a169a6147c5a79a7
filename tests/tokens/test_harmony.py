"""Harmony as text, as features, and as a reader hears it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from musicot_mlx.audio.harmony import (
    bar_spans,
    chords_heard,
    heard_harmony,
    pitch_classes,
    share_in_key,
)
from musicot_mlx.tokens.harmony import (
    CHORD_FEATURES,
    QUALITIES,
    SCALES,
    Chord,
    Key,
    chord_name,
    chord_of,
    harmony_features,
    parse_chord,
    parse_key,
)
from musicot_mlx.tokens.progressions import (
    chord_changes,
    key_of,
    named_bars,
    named_key,
    named_mode,
    parse_bars,
    repeated,
    transposed,
    usual,
)

RATE = 22050
TABLE = (
    ("pop", "major", "C|G|Am|F", 3),
    ("metal", "minor", "Cm|Ab|Bb|Cm", 2),
    ("jazz", "dorian", "Cm7|F7", 1),
)
chords = st.builds(Chord, st.integers(0, 11), st.sampled_from(sorted(QUALITIES)))
keys = st.builds(Key, st.integers(0, 11), st.sampled_from(sorted(SCALES)))


@given(chords, keys)
def test_a_chord_is_read_as_it_is_written(chord: Chord, key: Key) -> None:
    for name in (chord.name(), chord.name(key)):
        assert parse_chord(name) == chord
    assert set(chord_of(chord.pitch_classes).pitch_classes) == set(chord.pitch_classes)


@given(keys)
def test_a_key_is_read_as_it_is_written(key: Key) -> None:
    assert parse_key(str(key)) == key
    assert named_key(f"a tune in {key}, slow") == key


@pytest.mark.parametrize(
    ("text", "notes"),
    [
        ("Am", (9, 0, 4)),
        ("C/E", (0, 4, 7)),
        ("C/D", (0, 4, 7, 2)),
        ("F#m7b5", (6, 9, 0, 4)),
        ("Bbmaj7", (10, 2, 5, 9)),
        ("Gmin7", (7, 10, 2, 5)),
        ("E°", (4, 7, 10)),
        ("A♭", (8, 0, 3)),
        ("D5", (2, 9)),
        ("C6/9", (0, 4, 7, 9, 2)),
    ],
)
def test_lead_sheet_spellings(text: str, notes: tuple[int, ...]) -> None:
    chord = parse_chord(text)
    assert chord is not None and chord.pitch_classes == notes


@pytest.mark.parametrize("text", ["", "H", "am", "C##b", "Cfoo", "C/", "C/H", "7"])
def test_what_is_no_chord_is_said(text: str) -> None:
    with pytest.raises(ValueError, match="is no chord; write"):
        parse_chord(text)


@pytest.mark.parametrize("text", ["", "X major", "C blue", "minor"])
def test_what_is_no_key_is_said(text: str) -> None:
    with pytest.raises(ValueError, match="is no key; write"):
        parse_key(text)


@pytest.mark.parametrize(
    ("words", "key", "bars"),
    [
        ("a waltz in D minor", "D minor", ""),
        ("lo-fi in Bb major, Am F C G", "Bb major", "Am F C G"),
        ("piano in e flat minor", "Eb minor", ""),
        ("key of F#", "F# major", ""),
        ("recorded in Am, 90 bpm", "A minor", ""),
        ("song in F sharp minor", "F# minor", ""),
        ("Dm7 - G7 - Cmaj7 ballad", None, "Dm7 G7 Cmaj7"),
        ("bossa: Cmaj7, A7, Dm7, G7", None, "Cmaj7 A7 Dm7 G7"),
        ("jazz, ii V I in F", "F major", "Gm C F"),
        ("rock, i VI III VII", None, "Cm Ab Eb Bb"),
        ("twelve-bar blues in E", "E major", "E7 E7 E7 E7 A7 A7 E7 E7 B7 A7 E7 B7"),
        ("a sad 12 bar blues", None, "Cm7 Cm7 Cm7 Cm7 Fm7 Fm7 Cm7 Cm7 G7 Fm7 Cm7 G7"),
        ("A D minor song", "D minor", ""),
        ("a minor inconvenience for a big band", None, ""),
        ("A Bb clarinet and I", None, ""),
        ("sad song in a minor key", None, ""),
        ("plan B, vitamin C and D", None, ""),
        ("I love it. A loud E guitar", None, ""),
    ],
)
def test_what_a_prompt_names(words: str, key: str | None, bars: str) -> None:
    found = named_key(words)
    assert (found and str(found)) == key
    assert " ".join(named_bars(words, found)) == bars


@pytest.mark.parametrize(
    ("words", "mode"),
    [
        ("in a minor key", "minor"),
        ("dark techno", "minor"),
        ("happy ukulele", "major"),
        ("relaxing piano melody", "major"),
        ("dark but happy", None),
        ("drums", None),
    ],
)
def test_moods_lean_to_a_mode(words: str, mode: str | None) -> None:
    assert named_mode(words) == mode


@pytest.mark.parametrize(
    ("text", "bars"),
    [
        ("Am F C G", ("Am", "F", "C", "G")),
        ("Am,F,C,G", ("Am", "F", "C", "G")),
        ("| Dm7 G7 | Cmaj7 | % |", ("Dm7 G7", "Cmaj7", "Cmaj7")),
        ("i VI bII V7", ("Am", "F", "Bb", "E7")),
        ("N.C. Am", ("N", "Am")),
        ("none", ()),
    ],
)
def test_bars_as_they_are_typed(text: str, bars: tuple[str, ...]) -> None:
    assert parse_bars(text, Key(9, "minor")) == bars


@pytest.mark.parametrize("text", ["", "|", "Am H", "Am | | C", "Am hello"])
def test_bars_that_are_none_are_said(text: str) -> None:
    with pytest.raises(ValueError, match="chord"):
        parse_bars(text)


def test_the_key_of_chords() -> None:
    for bars, key in (
        (("C", "G", "Am", "F"), "C major"),
        (("Dm7", "G7", "Cmaj7"), "C major"),
        (("Em", "C", "D", "Em"), "E minor"),
        (("Am", "Dm", "E7", "Am"), "A minor"),
    ):
        assert str(key_of(bars)) == key
        moved = transposed(bars, 5)
        assert key_of(moved) == parse_key(key).transposed(5)


def test_what_is_usual_comes_of_the_tags_and_the_seed() -> None:
    found = {usual(TABLE, ["metal"], None, seed) for seed in range(40)}
    assert {key.mode for key, _ in found} == {"minor"}
    assert len({key.tonic for key, _ in found}) > 8
    for key, bars in found:
        assert transposed(bars, -key.tonic, Key(0, "minor")) == ("Cm", "Ab", "Bb", "Cm")
    assert usual(TABLE, ["metal"], None, 7) == usual(TABLE, ["metal"], None, 7)
    modes = {usual(TABLE, [], "happy", seed)[0].mode for seed in range(20)}
    assert modes == {"major"}
    dark = (("pop", "dorian", "Adim|Adim|F|F", 9), ("pop", "dorian", "Cm|F", 1))
    assert all("dim" not in "".join(usual(dark, ["pop"], None, n)[1]) for n in range(20))
    assert "dim" in "".join(usual(dark[:1], ["pop"], None, 0)[1])  # where there is nothing else
    key, bars = usual(TABLE, ["pop"], None, 1, key=parse_key("E dorian"))
    assert str(key) == "E dorian" and all(parse_chord(bar) for bar in bars)
    assert len({usual((), [], None, seed)[0].mode for seed in range(20)}) == 2


def test_bars_in_time() -> None:
    assert repeated(("Am", "F"), 5) == ("Am", "F", "Am", "F", "Am")
    assert repeated(("Am", "F", "Am", "F", "Am"), 7) == ("Am", "F", "Am", "F", "Am", "F", "Am")
    assert chord_changes(("Am F", "C"), (0.0, 2.0, 4.0)) == ((0.0, "Am"), (1.0, "F"), (2.0, "C"))


def test_features_say_the_chord_at_the_middle_of_each_frame() -> None:
    found = harmony_features(((0.5, "Am"), (1.0, "N"), (1.5, "C/D")), 8, frame_rate=4.0)
    assert found.shape == (8, CHORD_FEATURES)
    silent = [0, 1, 4, 5]
    assert not found[silent].any() and found[[2, 3, 6, 7]].any(1).all()
    assert np.flatnonzero(found[2]).tolist() == [0, 4, 9, 12 + 9]
    assert np.flatnonzero(found[7]).tolist() == [0, 2, 4, 7, 12]
    later = harmony_features(((0.5, "Am"),), 2, frame_rate=4.0, start=0.25)
    assert not later[0].any() and later[1].any()


def _played(bars: tuple[str, ...], seconds: float) -> np.ndarray:
    """Chords as sums of harmonics over a bass note, (samples,) at RATE."""
    time = np.arange(round(seconds * RATE)) / RATE
    parts = []
    for bar in bars:
        chord = parse_chord(bar)
        pitches = [36 + chord.root, *(60 + p for p in chord.pitch_classes)] if chord else []
        tones = [
            np.sin(2 * np.pi * time * n * 440 * 2 ** ((p - 69) / 12)) / n**1.5
            for p in pitches
            for n in (1, 2, 3, 4, 5)
        ]
        parts.append(0.05 * np.sum(tones, axis=0) if tones else np.zeros_like(time))
    return np.concatenate(parts)


@pytest.mark.parametrize(
    "bars", [("Am", "F", "C", "G"), ("Em", "C", "D", "Em"), ("Dm7", "G7", "C")]
)
def test_chords_that_are_played_are_heard(bars: tuple[str, ...]) -> None:
    heard = pitch_classes(_played((*bars, "N"), 2.0), RATE)
    spans = bar_spans(2.0 * (len(bars) + 1), 120.0)
    key, chords = heard_harmony(heard, spans)
    assert chords == [*(chord_name(bar, key_of(bars)) for bar in bars), "N"]
    assert key == key_of(bars)
    assert share_in_key(_played(bars, 2.0), RATE) > 0.9
    asked = [(2.0 * i, bar) for i, bar in enumerate(bars)]
    assert chords_heard(_played(bars, 2.0), RATE, asked) == 1.0
    wrong = [(start, chord_name(transposed((bar,), 1)[0])) for start, bar in asked]
    assert chords_heard(_played(bars, 2.0), RATE, wrong) == 0.0


def test_noise_is_in_no_key_and_silence_in_none() -> None:
    noise = np.random.default_rng(0).normal(size=3 * RATE).astype(np.float32) * 0.1
    assert share_in_key(noise, RATE) < 0.75
    assert share_in_key(np.zeros(RATE), RATE) == 0.0
    assert chords_heard(np.zeros(4 * RATE), RATE, [(0.0, "C")]) is None
    assert chords_heard(noise, RATE, []) is None
