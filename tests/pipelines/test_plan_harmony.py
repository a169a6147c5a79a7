"""Plans in key: where key and chords come from, how edits carry them, who hears them."""

import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import musicot_mlx as mc
from musicot_mlx.audio.files import write_audio
from musicot_mlx.cli import main
from musicot_mlx.errors import MusicotError
from musicot_mlx.pipelines.musicot.pipeline import MusicotPipeline
from musicot_mlx.tokens.harmony import parse_chord
from musicot_mlx.tokens.progressions import parse_bars, transposed
from tests.support import tiny

BAR = 2.0  # seconds at 120 BPM


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> MusicotPipeline:
    return mc.load(tiny_model)


@pytest.fixture(scope="module")
def plan(model: MusicotPipeline) -> mc.Plan:
    return model.plan("piano, 120 BPM, Am F C G", duration=35, seed=4)


def test_a_prompt_names_key_and_chords(model: MusicotPipeline, plan: mc.Plan) -> None:
    assert plan.chords == ("Am", "F", "C", "G") * 4 + ("Am", "F")  # 17.5 bars
    assert plan.key == "A minor" or plan.key == "C major"
    assert plan.chord_changes()[:3] == ((0.0, "Am"), (BAR, "F"), (2 * BAR, "C"))
    named = model.plan("a waltz in D minor", duration=10)
    assert named.key == "D minor" and named.chords
    given = model.plan("a waltz in D minor", duration=10, key="E major", chords="I IV")
    assert given.key == "E major" and given.chords[:2] == ("E", "A")
    bars = model.plan("piano, 120 BPM", duration=10, chords=["Am F", "C"])
    assert bars.chord_changes()[:3] == ((0.0, "Am"), (1.0, "F"), (2.0, "C"))
    assert model.plan("piano", duration=10, chords="none").chords == ()


def test_a_prompt_that_names_none_gets_what_is_usual_by_the_seed(model: MusicotPipeline) -> None:
    plans = [model.plan("piano", tags=["piano"], duration=10, seed=seed) for seed in range(12)]
    assert len({plan.key for plan in plans}) > 4
    for plan in plans:  # the tiny model's table has one row
        tonic = parse_chord(plan.chords[0]).root
        assert transposed(plan.chords[:4], -tonic) == ("Cm", "Ab", "Eb", "Bb")
    again = model.plan("piano", tags=["piano"], duration=10, seed=3)
    assert (again.key, again.chords) == (plans[3].key, plans[3].chords)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"key": "H minor"}, "'H minor' is no key; write"),
        ({"chords": "Am X"}, "'X' is no chord; write"),
        ({"chords": ["Am", ""]}, "empty bar"),
    ],
)
def test_what_is_none_is_said(model: MusicotPipeline, options: dict, words: str) -> None:
    with pytest.raises(MusicotError, match=words):
        model.plan("piano", duration=10, **options)


def test_a_model_without_harmony_says_so(tmp_path: Path) -> None:
    config = json.loads(json.dumps(tiny.CONFIG))
    config["semantic_lm"]["harmony"] = config["diffusion"]["harmony"] = False
    bare = mc.load(tiny.write_model(tmp_path / "bare", config))
    plan = bare.plan("piano in D minor", duration=10)
    assert plan.key is None and plan.chords == ()
    with pytest.raises(MusicotError, match="knows no chords; leave out"):
        bare.plan("piano", duration=10, chords="Am F")


def test_chords_change_whole_or_by_segment(plan: mc.Plan) -> None:
    whole = plan.with_chords("Dm Bb F C")
    assert whole.chords == ("Dm", "Bb", "F", "C") * 4 + ("Dm", "Bb") and whole.key == "D minor"
    np.testing.assert_array_equal(whole.codes, plan.codes)
    part = plan.with_chords("E7", where=1)  # bars that begin in 10 to 20 s: 5 to 9
    assert [i for i, bar in enumerate(part.chords) if bar == "E7"] == [5, 6, 7, 8, 9]
    assert part.key == plan.key
    opened = plan.with_chords(None)
    assert opened.chords == () and opened.key is None and opened.chord_changes() == ()
    assert [edit["edit"] for edit in part.history] == ["chords"]
    with pytest.raises(MusicotError, match="no chord"):
        plan.with_chords("Am Q")


@given(st.integers(-30, 30))
@settings(max_examples=15)
def test_transposing_there_and_back(semitones: int) -> None:
    plan = mc.Plan(
        codes=np.zeros((3, 1), np.int32),
        embeddings=np.zeros((1, 4), np.float32),
        vector=np.zeros(4, np.float32),
        duration=10.0,
        thought_seconds=10.0,
        seed=0,
        key="A minor",
        chords=("Am", "F/C", "N", "E7 Am"),
        model=_Unchecked(),
    )
    moved = plan.transpose(semitones)
    back = moved.transpose(-semitones)
    assert [parse_bars(bar) for bar in back.chords] == [parse_bars(bar) for bar in plan.chords]
    assert back.key == plan.key and (moved.chords == plan.chords) == (semitones % 12 == 0)


class _Unchecked:
    def check_plan(self, plan: mc.Plan, where: str) -> mc.Plan:
        return plan


def test_another_key_of_the_same_mode(plan: mc.Plan) -> None:
    minor = plan.with_chords("Am F C G", key="A minor")
    assert minor.in_key("C minor").chords[:4] == ("Cm", "Ab", "Eb", "Bb")
    with pytest.raises(MusicotError, match="asks for other chords"):
        minor.in_key("C major")
    with pytest.raises(MusicotError, match="no chords to transpose"):
        plan.with_chords(None).transpose(1)


def test_segments_carry_their_chords(plan: mc.Plan) -> None:
    marked = plan.with_chords("Dm", where=0).with_chords("Em", where=1).with_chords("C", where=2)
    assert marked.reorder([1, 0, 2, 3]).chords[:10] == ("Em",) * 5 + ("Dm",) * 5
    assert marked[1].chords == ("Em",) * 5
    assert marked.repeat(0).chords[:10] == ("Dm",) * 10
    assert marked.delete(0).chords[:5] == ("Em",) * 5
    longer = plan.extend(10)
    assert longer.chords[:18] == plan.chords and longer.chords[18:20] == ("C", "G")
    wider = marked.insert(1, "piano")
    assert wider.chords[:5] == ("Dm",) * 5 and wider.chords[10:15] == ("Em",) * 5
    other = replace(plan, prompt="drums, 60 BPM").with_chords("F")
    assert (
        set(plan.morph(other, 0.8).chords) == {"F"} and plan.morph(other, 0.2).chords == plan.chords
    )


def test_other_chords_are_a_change(plan: mc.Plan) -> None:
    """An earlier song is kept up to there, though its thoughts are the same."""
    assert plan.changed(plan) == 4
    assert plan.changed(plan.with_chords("E7", where=2)) == 2
    assert plan.changed(plan.transpose(1)) == plan.changed(plan.with_chords(None)) == 0
    assert plan.with_chords(None).changed(plan) == 0
    assert plan.changed(plan.extend(10)) == 4


def test_bars_follow_the_tempo_of_a_segment_set_to_words(plan: mc.Plan) -> None:
    slow = plan.replace(1, "piano, 60 BPM")
    starts = [start for start, _ in slow.chord_changes()]
    assert starts[:7] == [0.0, 2.0, 4.0, 6.0, 8.0, 10.0, 14.0]
    assert 20.0 not in starts and 19.0 not in starts  # the bar from 18 s goes on at 120 BPM
    assert slow.chords == tuple(("Am", "F", "C", "G")[i % 4] for i in range(len(slow.chords)))


def test_plans_keep_their_harmony(plan: mc.Plan, model: MusicotPipeline, tmp_path: Path) -> None:
    plan.save(tmp_path / "plan.json")
    loaded = mc.Plan.load(tmp_path / "plan.json", model)
    assert (loaded.key, loaded.chords, loaded.bpm) == (plan.key, plan.chords, plan.bpm)
    older = plan.to_dict() | {"version": 2}
    for name in ("key", "chords", "bpm"):
        del older[name]
    assert mc.Plan.load(older, model).chords == ()


def test_both_networks_hear_the_chords(model: MusicotPipeline, plan: mc.Plan) -> None:
    short = replace(plan, duration=10.0, codes=plan.codes[:, :1], origins=plan.origins[:1])
    songs = [
        model.generate(plan=short.with_chords(chords), seed=1)
        for chords in ("Am F C G", "Bm G D A", None)
    ]
    assert (songs[0].codes != songs[1].codes).any() and (songs[0].codes != songs[2].codes).any()
    assert songs[0].settings["plan"]["chords"][:2] == ["Am", "F"]
    again = model.generate(plan=short.with_chords("Am F C G"), seed=1)
    np.testing.assert_array_equal(again.waveform, songs[0].waveform)


def _chords(bars: tuple[str, ...], rate: int = 8000) -> np.ndarray:
    """Chords of 2 s with a click a beat at 120 BPM, (samples, 2)."""
    time = np.arange(round(BAR * rate)) / rate
    clicks = (np.random.default_rng(0).normal(size=len(time)) * (time % 0.5 < 0.02)) * 0.4
    found = []
    for bar in bars:
        pitches = [60 + p for p in parse_chord(bar).pitch_classes]
        tones = [np.sin(2 * np.pi * time * 440 * 2 ** ((p - 69) / 12)) for p in pitches]
        found.append(0.08 * np.sum(tones, axis=0) * np.exp(-(time % 0.5)) + clicks)
    return np.repeat(np.concatenate(found)[:, None], 2, axis=1).astype(np.float32)


def test_audio_lends_its_chords(model: MusicotPipeline, tmp_path: Path) -> None:
    bars = ("Am", "F", "C", "G") * 3
    song = write_audio(tmp_path / "song.wav", _chords(bars), 8000)
    plan = model.plan_from_audio(song)
    starts = [start for start, _ in plan.chord_changes()]
    heard = {start: chord for start, chord in plan.chord_changes()}
    middles = [max(s for s in starts if s <= BAR * i + 1.5) for i in range(len(bars))]
    right = sum(heard[s] == bar for s, bar in zip(middles, bars, strict=True))
    assert right >= 10, plan.chords
    assert plan.key in ("A minor", "C major")
    asked = model.plan_from_audio(song, chords="Dm", key="D minor")
    assert set(asked.chords) == {"Dm"} and asked.key == "D minor"


def test_audio_lends_its_tempo(tiny_model: Path, tmp_path: Path) -> None:
    """The one that analyze tells, whatever stretch is planned; to the tenth of a BPM, though the
    model's nearest tag may be some percent away.
    """
    bars = _chords(("Am", "F", "C", "G") * 3)
    bars[: 8 * 8000] *= np.float32(0.01)  # its beginning has next to no beat
    song = write_audio(tmp_path / "song.wav", bars, 8000)
    config = copy.deepcopy(tiny.CONFIG)
    config["semantic_lm"] |= {"tags": [*tiny.TAGS, "piano solo", "117 bpm", "62 bpm"]}
    config["semantic_lm"]["harmony"] = True
    model = mc.load(tiny.write_model(tmp_path, config))
    told = mc.analyze(song, model=model).tempo
    assert told == pytest.approx(120, rel=0.01)
    for duration in (8, 20):
        plan = model.plan_from_audio(song, duration=duration)
        assert "117 bpm" in plan.tags and "62 bpm" not in plan.tags
        assert plan.bpm == told == model.conditioning.of_plan(plan).bpm
        assert plan.replace(0, "piano").chord_changes() == plan.chord_changes()
    named = model.plan_from_audio(song, "piano at 90 BPM")
    assert model.conditioning.of_plan(named).bpm == 90 and "117 bpm" not in named.tags


def test_command_line(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = ["plan", "--model", str(tiny_model), "--json"]
    file, picture = tmp_path / "plan.json", tmp_path / "plan.png"
    asked = ["-p", "piano, 120 BPM", "--duration", "20", "--chords", "i VI", "--key", "D minor"]
    assert main([*base, *asked, "-o", str(file), "--png", str(picture)]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert found["key"] == "D minor" and found["chords"][:3] == ["Dm", "Bb", "Dm"]
    assert "D minor, a bar 2 s: Dm | Bb, repeated" in err and picture.stat().st_size > 5000
    edit = [*base, "--plan", str(file), "--transpose", "2", "--set", "10-20=chords: A7"]
    assert main(edit) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["key"] == "E minor" and found["chords"] == ["Em", "C"] * 2 + ["Em"] + ["A7"] * 5
    assert main([*base, "--plan", str(file), "--key", "F minor"]) == 0
    assert json.loads(capsys.readouterr().out)["chords"][:2] == ["Fm", "Db"]
    for wrong in (["--chords", "H"], ["--key", "no"], ["--set", "0-10=chords: Z"]):
        assert main([*base, "--plan", str(file), *wrong]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and "write" in error
