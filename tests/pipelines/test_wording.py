"""What becomes of a prompt's words: what it denies is kept out, what it can't have is told."""

import warnings
from pathlib import Path

import numpy as np
import pytest

import musicot_mlx as mc
from musicot_mlx.errors import MusicotError, MusicotWarning
from musicot_mlx.pipelines.musicot.pipeline import MusicotPipeline
from musicot_mlx.pipelines.musicot.wording import ACCOMPANIED, USUAL, Wording, told
from musicot_mlx.pipelines.plans.thoughts import vectors_of
from tests.support import tiny

CODES = tiny.CONFIG["semantic_lm"]["audio_codebook_size"]
DRUMS = np.where(np.arange(CODES) < CODES // 2, 50, -50)  # tenths of nats
DIM = tiny.CONFIG["semantic_lm"]["clap_dim"]
STRENGTH, AWAY = 2.0, 3.0
STEP = np.where(np.arange(DIM) == 3, 200, 0)  # thousandths
WORDING = {
    "known": "a and bass drums funk guitar no piano slow with",
    "without": {"drums": " ".join(map(str, DRUMS)), "bass": " ".join(["10"] * CODES)},
    "away": {"drums": " ".join(map(str, STEP))},
    "strength": {"drums": [STRENGTH, AWAY]},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> MusicotPipeline:
    folder = tmp_path_factory.mktemp("models") / "worded"
    lm = {**tiny.CONFIG["semantic_lm"], "tags": [*tiny.TAGS, "96 bpm", "131 bpm"]}
    config = {**tiny.CONFIG, "semantic_lm": lm, "wording": WORDING}
    return mc.load(tiny.write_model(folder, config))


def _told(prompt: str, **changes: object) -> str | None:
    usual = {"wording": Wording(**WORDING), "tags": ["funk", "96 bpm"], "names": ["funk"]}
    return told(prompt, **{"name": "mini", "knows_harmony": True, **usual, **changes})


@pytest.mark.parametrize(
    ("prompt", "line"),
    [
        ("slow funk with bass", None),
        ("slow funk, no drums", None),
        ("funk, no vocals", None),  # it has none
        ("funk, no banjo", None),
        ("no drums", "mini goes by funk, 96 bpm, as the prompt asks for nothing"),
        (
            "funk with banjo",
            'mini doesn\'t know "banjo" and goes by funk, 96 bpm instead; musicot tags lists what '
            "it knows",
        ),
        (
            "langsames Klavier",
            'mini knows none of the words of this prompt ("langsames", "Klavier") and goes by '
            "funk, 96 bpm instead; musicot tags lists what it knows",
        ),
        (
            "funk with " + 500 * "x",
            f'mini doesn\'t know "{39 * "x"}…" and goes by funk, 96 bpm instead; musicot tags lists'
            " what it knows",
        ),
        ("funk with singing", 'mini doesn\'t sing ("singing"); musicot tags lists what it knows'),
        (
            "vocals, singing",
            'mini knows none of the words of this prompt ("vocals", "singing") and goes by funk, '
            "96 bpm instead, and doesn't sing; musicot tags lists what it knows",
        ),
        ("a funk waltz", "mini plays four beats a bar, not waltz"),
        ("funk at 500 BPM", "mini plays 500 BPM as 125"),
        ("funk, no piano", 'mini can\'t keep out "piano"'),
        ("funk, no melody", 'mini can\'t keep out "melody"'),
        ("slow guitar, no electric guitar", 'mini can\'t keep out "electric guitar"'),
    ],
)
def test_what_a_prompt_asks_for_and_does_not_get_is_told(prompt: str, line: str | None) -> None:
    assert _told(prompt) == line


def test_a_key_is_told_where_a_model_knows_none() -> None:
    assert _told("funk in D minor") is None
    assert _told("funk in D minor", knows_harmony=False) == "mini knows no keys (D minor)"


def test_lyrics_are_told_where_a_model_does_not_sing() -> None:
    assert _told("funk", lyrics="la la") == "mini reads lyrics but doesn't sing them"
    sings = Wording(known=f"{WORDING['known']} singing")
    assert _told("funk", lyrics="la la", wording=sings) is None


def test_nothing_is_told_of_a_model_whose_words_are_not_known() -> None:
    assert _told("langsames Klavier", wording=Wording()) is None


def test_lean_keeps_out_what_words_deny() -> None:
    wording = Wording(**WORDING)
    np.testing.assert_allclose(wording.lean("funk, no drums"), -STRENGTH / 10 * DRUMS)
    both = wording.lean("no drums, no bass")
    np.testing.assert_allclose(both, -STRENGTH / 10 * DRUMS - USUAL[0], rtol=1e-6)
    assert wording.lean("funk", None) is None
    assert wording.lean("full drum kit", "funk, no drums") is None  # the segment's words go first
    assert wording.lean("piano, no drums", "funk with drums") is not None
    assert wording.asked("funk, no drums") == "funk"
    assert Wording().asked("funk, no drums") == "funk, no drums"


def test_an_instrument_alone_is_left_alone() -> None:
    """By less than what is denied, and not where a band plays."""
    wording = Wording(**WORDING)
    little = wording.lean("a guitar alone")
    np.testing.assert_allclose(
        little, ACCOMPANIED * wording.lean("a guitar, no drums, no bass"), rtol=1e-6
    )
    np.testing.assert_allclose(wording.leaving("solo guitar music"), wording.leaving("solo guitar"))
    assert wording.lean("a guitar solo over drums") is None
    assert wording.lean("alone in the rain") is None  # nothing is asked for
    np.testing.assert_allclose(
        wording.lean("solo bass guitar music"), -ACCOMPANIED * STRENGTH / 10 * DRUMS
    )
    denied = wording.lean("a guitar alone, no drums") - ACCOMPANIED * wording.lean("x, no bass")
    np.testing.assert_allclose(denied, wording.lean("x, no drums"), rtol=1e-6)


def test_a_song_has_no_codes_of_what_is_denied(model: MusicotPipeline) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", MusicotWarning)
        song = model.generate("funk, no drums", duration=3, seed=1, steps=1, audio_temperature=1.0)
    assert (song.codes >= CODES // 2).mean() > 0.95
    usual = model.generate("funk", duration=3, seed=1, steps=1, audio_temperature=1.0)
    assert (usual.codes >= CODES // 2).mean() < 0.9
    again = model.generate(plan=song.plan, duration=3, seed=1, steps=1, audio_temperature=1.0)
    np.testing.assert_array_equal(again.codes, song.codes)  # a plan keeps its word


def test_what_is_denied_is_read_by_no_network(model: MusicotPipeline) -> None:
    denied, usual = (model.plan(text, duration=10) for text in ("piano, no drums", "piano"))
    moved = usual.vector + AWAY / 1000 * STEP
    np.testing.assert_allclose(denied.vector, moved / np.linalg.norm(moved), rtol=1e-5)
    assert not [tag for tag in denied.tags if "drum" in tag]


def test_a_segment_is_kept_free_of_what_its_words_deny(model: MusicotPipeline) -> None:
    plan = model.plan("funk with drums", duration=20).replace(1, "piano, no drums")
    changes = model.conditioning.changes(plan, 1)
    np.testing.assert_allclose(changes[1][0].lean, -STRENGTH / 10 * DRUMS)
    assert model.conditioning.of_plan(plan).lean is None


def test_thoughts_leave_what_is_denied(model: MusicotPipeline) -> None:
    vector = model.text_vector("piano")
    usual = model.draw_thoughts(vector, words="piano", segments=4, seed=1)[0]
    denied = model.draw_thoughts(vector, words="piano, no drums", segments=4, seed=1)[0]
    step = STEP / np.linalg.norm(STEP)
    assert (vectors_of(model, denied) @ step).mean() > (vectors_of(model, usual) @ step).mean()
    given = np.where(np.arange(4) < 2, usual, -1)
    locked = model.draw_thoughts(
        vector, words="piano, no drums", segments=4, seed=1, locked_codes=given
    )[0]
    np.testing.assert_array_equal(locked[:, :2], usual[:, :2])


def test_planning_warns(model: MusicotPipeline) -> None:
    with pytest.warns(MusicotWarning, match='doesn\'t know "banjo"'):
        model.plan("piano and banjo", duration=10)


@pytest.mark.parametrize(("table", "size"), [("without", CODES), ("away", DIM)])
def test_a_table_that_does_not_fit_is_refused(tmp_path: Path, table: str, size: int) -> None:
    wording = {**WORDING, table: {"drums": "1 2 3"}}
    folder = tiny.write_model(tmp_path / "short", {**tiny.CONFIG, "wording": wording})
    with pytest.raises(MusicotError, match=f"{table}.drums: expected {size} numbers"):
        mc.load(folder)


@pytest.mark.parametrize(("asked", "taken"), [("97 bpm", "96 bpm"), ("388 BPM", "96 bpm")])
def test_a_tempo_among_tags_is_snapped_and_told(
    model: MusicotPipeline, asked: str, taken: str
) -> None:
    with pytest.warns(MusicotWarning, match=f"{asked!r} is taken as {taken!r}"):
        assert model.plan("piano", tags=["Piano", asked], duration=10).tags == ("piano", taken)


def test_an_unknown_tag_has_a_hint_only_where_one_is_near(model: MusicotPipeline) -> None:
    with pytest.raises(MusicotError, match="did you mean 'piano'"):
        model.plan("piano", tags=["paino"])
    with pytest.raises(MusicotError, match="musicot tags lists"):
        model.plan("piano", tags=["glockenspiel"])
