"""Words of prompts that a model does not know: told where they matter, and only there."""

import pytest

from musicot_mlx.evaluation.harness.prompts import PROMPTS
from musicot_mlx.pipelines.musicot.wording import Wording
from musicot_mlx.tokens.denials import reading
from musicot_mlx.tokens.known_words import METRE, Unknown, unknown_words
from musicot_mlx.weights import hub
from musicot_mlx.weights.checkpoint import read_config

CONFIG = read_config(hub.resolve("musicot-mini"))
TAGS = {word for tag in CONFIG["semantic_lm"]["tags"] for word in tag.split()}
KNOWN = Wording(**CONFIG["wording"]).words | TAGS


def _unknown(prompt: str) -> Unknown:
    return unknown_words(reading(prompt).asked, KNOWN)


@pytest.mark.parametrize("prompt", [prompt.text for prompt in PROMPTS])
def test_prompts_that_the_model_is_measured_by_are_known(prompt: str) -> None:
    assert _unknown(prompt) == Unknown()


@pytest.mark.parametrize(
    "prompt",
    [
        "fast techno beat with a synth lead",
        "lo-fi, Am F C G",
        "twelve-bar blues in E",
        "a calm piece in Bb major, ii V I",
        "80s synth pop at 110 BPM",
        "rainy café, soft electric piano",
        "the sunniest bossa, strummed guitars and brushed snares",
        "Solo Cello, Slow!",
    ],
)
def test_known_prompts_go_without_a_word(prompt: str) -> None:
    assert _unknown(prompt) == Unknown()


@pytest.mark.parametrize(
    ("prompt", "words", "voices", "nothing"),
    [
        ("a cappella vocals singing", [], ["cappella", "vocals", "singing"], True),
        ("silence", ["silence"], [], True),
        ("ruhiges Klavierstück", ["ruhiges", "Klavierstück"], [], True),
        ("ピアノの曲", ["ピアノの曲"], [], True),
        ("спокойное пианино", ["спокойное", "пианино"], [], True),
        ("asdf qwer zxcv", ["asdf", "qwer", "zxcv"], [], True),
        ("piano blorp", ["blorp"], [], False),
        ("música de piano", ["música", "de"], [], False),
        ("banjo and fiddle bluegrass", ["banjo", "bluegrass"], [], False),
        ("k-pop with a choir", ["k-pop"], ["choir"], True),
        ("dubstep", ["dubstep"], [], True),
        ("jazz with harp, no banjo", ["harp"], [], False),
        ("rain on a lake", ["rain", "lake"], [], True),
    ],
)
def test_unknown_words(prompt: str, words: list[str], voices: list[str], nothing: bool) -> None:
    found = _unknown(prompt)
    assert (list(found.words), list(found.voices), found.nothing_known) == (words, voices, nothing)


@pytest.mark.parametrize(
    ("words", "metre"),
    [
        ("a waltz in D minor", "waltz"),
        ("folk in 6/8", "6/8"),
        ("jazz, 5/4 time", "5/4"),
        ("a slow piece in three", "in three"),
        ("odd-time metal", "odd-time"),
        ("rock in 4/4", None),
        ("a march, 2/4", None),
        ("mixed 50/50", None),
    ],
)
def test_metres_that_are_not_of_four_beats(words: str, metre: str | None) -> None:
    found = METRE.search(words)
    assert (found and found[0]) == metre
