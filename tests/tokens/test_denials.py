"""Prompts taken apart: what they deny, and the words that are left to ask with."""

import pytest

from musicot_mlx.tokens.denials import reading


@pytest.mark.parametrize(
    ("words", "asked", "families"),
    [
        ("techno, no drums", "techno", {"drums"}),
        ("no drums", "", {"drums"}),
        ("lo-fi hip hop beat without piano", "lo-fi hip hop beat", {"piano"}),
        ("rock without the guitars, just bass", "rock, just bass", {"guitar"}),
        ("slow pads, no drums, like fog", "slow pads, like fog", {"drums"}),
        (
            "techno, no drums, bass or piano, but strings",
            "techno, but strings",
            {"drums", "bass", "piano"},
        ),
        ("folk with neither hat, no drums nor bass", "folk with neither hat", {"drums", "bass"}),
        ("jazz without drums and with piano", "jazz and with piano", {"drums"}),
        ("drumless ambient", "ambient", {"drums"}),
        ("drum-free house", "house", {"drums"}),
        ("funk minus bass", "funk", {"bass"}),
        ("don't use any drums, piano only", "piano only", {"drums"}),
        ("bossa, no flute or saxophone", "bossa", {"woodwind"}),
        ("ambient, no synth strings", "ambient", {"synth"}),
        ("house, no drum machine", "house", {"drums"}),
        ("drum and bass without bass", "drum and bass", {"bass"}),
        ("flute tune, no saxophone", "flute tune", set()),  # one family: it is asked for
        ("jazz, no vocals", "jazz", set()),
        ("not too busy drums", "not too busy drums", set()),
        ("no doubt a restless techno song", "no doubt a restless techno song", set()),
        ("sonata no. 5 for piano", "sonata no. 5 for piano", set()),
        ("", "", set()),
        (None, "", set()),
    ],
)
def test_what_is_denied_is_taken_out(words: str | None, asked: str, families: set[str]) -> None:
    read = reading(words)
    assert (read.asked, read.families) == (asked, families)


def test_each_thing_that_is_denied_is_named() -> None:
    assert reading("a song with no reverb, brushed drums or vocals").denied == (
        "reverb", "brushed drums", "vocals",
    )  # fmt: skip
