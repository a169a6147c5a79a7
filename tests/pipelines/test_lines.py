"""What is typed while music plays: every line means one thing or is told off in a sentence."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from musicot_mlx.errors import MusicotError
from musicot_mlx.pipelines.lines import CHANGES, HELP, LONGEST_LINE, Asks, Line, read_line

PROMPT = {"asks": Asks.PROMPT, "number": 1.0}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", Line(Asks.NOTHING)),
        ("  \t\r", Line(Asks.NOTHING)),
        ("\x1b\x07", Line(Asks.NOTHING)),
        ("a jazz piano trio", Line(text="a jazz piano trio", **PROMPT)),
        ("  a  jazz\tpiano ", Line(text="a jazz piano", **PROMPT)),
        ("ジャズ・ピアノ", Line(text="ジャズ・ピアノ", **PROMPT)),
        ("piano \ud800trio", Line(text="piano trio", **PROMPT)),
        ("play help", Line(text="help", **PROMPT)),
        ("play no drums", Line(text="no drums", **PROMPT)),
        ("more strings", Line(Asks.MORE, "strings", 0.3)),
        ("MORE Cow Bell", Line(Asks.MORE, "Cow Bell", 0.3)),
        ("@song.wav", Line(Asks.FILE, "song.wav", 0.5)),
        ("@song.wav 0.25", Line(Asks.FILE, "song.wav", 0.25)),
        ("@ my song 2.wav 1", Line(Asks.FILE, "my song 2.wav", 1.0)),
        ('@"my song.wav" .5', Line(Asks.FILE, "my song.wav", 0.5)),
        ("@0.5", Line(Asks.FILE, "0.5", 0.5)),
        ("drums", Line(Asks.DRUMS, "play")),
        ("No Drums", Line(Asks.DRUMS, "none")),
        ("without drums", Line(Asks.DRUMS, "none")),
        ("free drums", Line(Asks.DRUMS, "free")),
        ("soft drums", Line(text="soft drums", **PROMPT)),
        ("strength 4", Line(Asks.STRENGTH, number=4)),
        ("strength -1", Line(Asks.STRENGTH, number=-1)),
        ("strength of a lion", Line(text="strength of a lion", **PROMPT)),
        ("glide 0", Line(Asks.GLIDE, number=0)),
        ("tempo 96.5", Line(Asks.TEMPO, number=96.5)),
        ("seed 3", Line(Asks.SEED, number=3)),
        ("seed 9007199254740993", Line(Asks.SEED, number=9007199254740993)),
        ("save song.flac", Line(Asks.SAVE, "song.flac")),
        ("save ~/my take.wav", Line(Asks.SAVE, "~/my take.wav")),
        ("help", Line(Asks.HELP)),
        ("Quit", Line(Asks.QUIT)),
        ("quiet rain", Line(text="quiet rain", **PROMPT)),
        ("quit it", Line(text="quit it", **PROMPT)),
        ("8 bars no drums", Line(Asks.DRUMS, "none", seconds=16)),
        ("1 bar drums", Line(Asks.DRUMS, "play", seconds=2)),
        ("for 4 bars: more strings", Line(Asks.MORE, "strings", 0.3, 8)),
        ("no drums for 8 bars", Line(Asks.DRUMS, "none", seconds=16)),
        ("2.5 bars @a.wav 1", Line(Asks.FILE, "a.wav", 1, 5)),
        ("30 seconds of rain", Line(text="rain", seconds=30, **PROMPT)),
        ("10 s seed 4", Line(Asks.SEED, number=4, seconds=10)),
        ("a bars blues", Line(text="a bars blues", **PROMPT)),
        ("nan bars blues", Line(text="nan bars blues", **PROMPT)),
        ("808 drums", Line(text="808 drums", **PROMPT)),
        ("12 string guitar", Line(text="12 string guitar", **PROMPT)),
    ],
)
def test_lines(text: str, line: Line) -> None:
    assert read_line(text, 120) == line


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("???", "'???' says nothing that can be played"),
        ("12345", "says nothing"),
        ("8", "says nothing"),
        ("more", "more takes words, as in: more strings"),
        ("more 3", "more takes words"),
        ("play", "play takes words"),
        ("@", "name the recording"),
        ("@ ''", "name the recording"),
        ("@a.wav 0", "more than 0 and at most 1, not 0"),
        ("@a.wav 1.5", "not 1.5"),
        ("@a.wav -1", "not -1"),
        ("strength", "strength takes a number from -1 to 6.8, got none"),
        ("strength 7", "got 7"),
        ("strength nan", "got nan"),
        ("strength high", "got high"),
        ("glide -1", "of seconds from 0 to 30"),
        ("glide 1e9", "of seconds from 0 to 30"),
        ("tempo 0", "beats a minute from 20 to 400"),
        ("seed -1", "of 0 or more"),
        ("seed 1.5", "of 0 or more"),
        ("seed 99999999999999999999", "of 0 or more"),
        ("seed ²", "of 0 or more"),
        ("save", "name the file to save"),
        ("save song", "name the file to save"),
        ("save .wav", "name the file to save"),
        ("save song.xyz", "name the file to save"),
        ("8 bars", "say what those 8 bars are"),
        ("8 bars help", "say what those 8 bars are"),
        ("8 bars save a.wav", "say what those 8 bars are"),
        ("8 bars 8 bars", "say what those 8 bars are"),
        ("8 bars 4 bars no drums", "say what those 8 bars are"),
        ("0 bars no drums", "ask for 0.1 s to an hour"),
        ("-3 bars no drums", "ask for 0.1 s to an hour"),
        ("1e6 bars no drums", "ask for 0.1 s to an hour"),
        ("x" * (LONGEST_LINE + 1), "at most 1000 characters, this one 1001"),
    ],
)
def test_odd_lines_are_told_off_in_a_sentence(text: str, words: str) -> None:
    with pytest.raises(MusicotError) as error:
        read_line(text, 120)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_bars_are_counted_by_the_tempo() -> None:
    assert read_line("8 bars no drums", 60).seconds == 32
    assert read_line("8 bars no drums", 240).seconds == 8
    assert read_line("8 s no drums", 60).seconds == 8


@given(st.text(max_size=60))
@settings(max_examples=300)
def test_any_text_is_a_line_or_a_sentence(text: str) -> None:
    try:
        line = read_line(text, 120)
    except MusicotError as error:
        assert str(error) and "\n" not in str(error)
    else:
        assert line.asks in Asks and (line.seconds is None or line.asks in CHANGES)


def test_words_in_any_order_are_a_line_or_a_sentence() -> None:
    words = (
        "8 2.5 bars s for of no drums more strings @a.wav 0.5 seed 3 strength save x.wav".split()
    )
    rng = random.Random(0)
    for _ in range(2000):
        text = " ".join(rng.choices(words, k=rng.randint(1, 6)))
        try:
            assert read_line(text, 120).asks in Asks
        except MusicotError as error:
            assert "\n" not in str(error), text


def test_help_tells_of_every_word() -> None:
    for word in ("play", "more", "@", "no drums", "bars", "4/4", "strength", "glide", "tempo"):
        assert word in HELP
    assert all(each.value in HELP for each in Asks)
    assert max(map(len, HELP.splitlines())) < 100
