"""Controls of segments: what plans ask for beside thoughts, wherever segments go, and in songs."""

import base64
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

import musicot_mlx as mc
from musicot_mlx.cli import main
from musicot_mlx.errors import MusicotError
from musicot_mlx.pipelines.magenta_rt2 import pipeline
from musicot_mlx.pipelines.magenta_rt2.options import MagentaOptions
from musicot_mlx.pipelines.magenta_rt2.pipeline import MagentaPipeline
from musicot_mlx.tokens.magenta_rt2 import frame_ids
from tests.support import tiny_magenta_model

SECOND = 48000
QUIET, STRICT = {"drums": "none"}, {"drums": "play", "style_strength": 5.0}


@pytest.fixture(scope="module")
def model() -> MagentaPipeline:
    model = tiny_magenta_model.pipeline()
    table = model.lm.conditioner.controls
    table.weight = 100 * table.weight  # a control is one of 132, which random weights don't hear
    return model


@pytest.fixture(scope="module")
def plan(model: MagentaPipeline) -> mc.Plan:
    """Three thoughts of a second; the first is asked for without drums."""
    return model.plan("calm piano", duration=3, seed=3).set(0, drums="none")


@pytest.fixture(scope="module")
def song(model: MagentaPipeline, plan: mc.Plan) -> mc.Song:
    return model.generate(plan=plan, seed=3)


@pytest.fixture(autouse=True)
def any_sound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random weights make noise, which no song may be saved as."""
    monkeypatch.setattr("musicot_mlx.pipelines.song.check_render", lambda *_: None)


# --- in a plan ---


def test_set_and_taken_back(model: MagentaPipeline, plan: mc.Plan, tmp_path: Path) -> None:
    both = plan.set([1, -1], drums="play", style_strength=np.float32(5))
    assert both.controls == (QUIET, STRICT, STRICT) and plan.controls == (QUIET, {}, {})
    assert (both.codes == plan.codes).all()
    record = {"edit": "set", "segments": [1, 2], "by": "drums play, style strength 5"}
    assert both.history[-1] == record
    back = both.set(slice(1, 3), drums=None, style_strength=None)
    assert back.controls == (QUIET, {}, {}) and back.set(0, drums=None).controls == ()
    both.save(tmp_path / "p.json")
    assert mc.Plan.load(tmp_path / "p.json", model) == both
    older = both.to_dict() | {"version": 3}
    del older["controls"]
    assert mc.Plan.load(older, model).controls == ()
    rows = [("drums", ["none", "play", "play"]), ("style strength", ["", "5", "5"])]
    assert both.control_rows() == rows
    picture = both._repr_html_().partition("base64,")[2].partition(chr(34))[0]
    assert ">play<" in base64.b64decode(picture).decode()


def test_they_go_with_their_segments(model: MagentaPipeline, plan: mc.Plan) -> None:
    assert plan.reorder([2, 0, 1]).controls == ({}, QUIET, {})
    assert plan.repeat(0).controls == (QUIET, QUIET, {}, {})
    assert plan.delete(0).controls == () and plan[0].controls == (QUIET,)
    assert plan.arrange([1, 0, 0]).controls == ({}, QUIET, QUIET)
    assert plan.extend(2).controls == (QUIET, {}, {}, {}, {})
    assert plan.redraw(lock=1, seed=9).controls == plan.controls
    # other thoughts in their place; a new place has those of the plan that it comes from
    assert plan.replace(0, "drums").controls == plan.controls
    assert plan.insert(1, "drums").controls == (QUIET, {}, {}, {})
    assert plan.insert(3, plan[0]).controls == (QUIET, {}, {}, QUIET)
    other = model.plan("drums", duration=2, seed=4).set(slice(0, 2), **STRICT)
    assert plan.morph(other, 0.2).controls == plan.controls
    assert plan.morph(other, 0.8).controls == (STRICT,) * 3
    assert plan.morph(other, 1.0, where=0).controls == plan.controls
    assert other.morph(plan.delete(0), 1.0).controls == ()


def test_they_are_a_change(plan: mc.Plan) -> None:
    assert plan.changed(plan.set(2, drums="none")) == 2
    assert plan.changed(plan.set(0, drums="play")) == 0 and plan.changed(plan) == 3
    assert plan.set(1, drums=None).changed(plan) == 3  # nothing was said of it


def test_what_is_refused(model: MagentaPipeline, plan: mc.Plan) -> None:
    for controls, words in (
        ({"drums": "loud"}, "ask for one of free, none, play"),
        ({"style_strength": 9}, "ask for -1 to 6.8"),
        ({"style_strength": "4"}, "ask for -1 to 6.8"),
        ({"glide": 1.0}, "takes no 'glide' of a segment; it takes drums and style_strength"),
        ({}, "nothing is set"),
    ):
        with pytest.raises(MusicotError, match=words):
            plan.set(1, **controls)
    for controls, words in (
        ([{}], "1 controls for 3 segments"),
        ([{"drums": [1]}, {}, {}], "drums"),
        ([{"bells": 1}, {}, {}], "takes no 'bells' of a segment"),
        ([1, {}, {}], r"controls\[0\] must be of type object"),
    ):
        with pytest.raises(MusicotError, match=words):
            mc.Plan.load(plan.to_dict() | {"controls": controls}, model)


def test_a_family_without_them_says_so(tiny_model: Path) -> None:
    plan = mc.load(tiny_model).plan("piano", duration=20)
    with pytest.raises(MusicotError, match="takes no 'drums' of a segment; set it to words"):
        plan.set(1, drums="none")
    assert plan.to_dict()["controls"] == []


# --- in a song ---


def test_requests(model: MagentaPipeline, plan: mc.Plan) -> None:
    """The plan says it of its segments, the song of all others."""
    plan = plan.set(2, style_strength=5)
    wish = MagentaOptions.of(model.sampling, drums="play", style_strength=2.0)
    rows = model.requests(plan, 76, wish)
    for frame, segment, drums, strength in (
        (0, 0, "none", 2.0),
        (25, 1, "play", 2.0),
        (50, 2, "play", 5.0),
        (75, 2, "play", 5.0),
    ):
        expected = frame_ids(plan.codes[:, segment], drums=drums, strengths=(strength, 1.0, 1.0))
        np.testing.assert_array_equal(rows[frame], expected)
    wish = MagentaOptions.of(model.sampling, glide=0.2)  # towards the next thought, as it is
    gliding = model.requests(plan, 76, wish)
    plain = model.requests(plan, 76, MagentaOptions.of(model.sampling))
    np.testing.assert_array_equal(gliding[:, 12:], plain[:, 12:])


def test_a_song_is_kept_up_to_the_first_that_changed(
    model: MagentaPipeline, plan: mc.Plan, song: mc.Song, tmp_path: Path
) -> None:
    free = model.generate(plan=plan.set(0, drums=None), seed=3)
    assert (free.codes != song.codes).any()  # it is heard
    edited = plan.set(2, style_strength=-1, drums="play")
    again = model.generate(plan=edited, keep=song, seed=3)
    np.testing.assert_array_equal(again.codes[:, :50], song.codes[:, :50])
    np.testing.assert_array_equal(again.waveform[: 49 * 1920], song.waveform[: 49 * 1920])
    assert (again.codes[:, 50:] != song.codes[:, 50:]).any()
    whole = model.generate(plan=edited, seed=3)
    np.testing.assert_array_equal(whole.codes, again.codes)
    stream = model.stream(plan=edited, keep=song, seed=3, gain=0.0)
    chunks = np.concatenate(list(stream))
    np.testing.assert_array_equal(stream.codes, again.codes)
    np.testing.assert_array_equal(
        chunks, model.generate(plan=edited, keep=song, seed=3, gain=0.0).waveform
    )
    replace(song, fault=None).save(tmp_path / "a.wav")  # whatever it sounds like
    assert json.loads((tmp_path / "a.json").read_text())["plan"]["controls"][0] == QUIET
    from_file = model.generate(plan=edited, keep=tmp_path / "a.wav", seed=3)
    np.testing.assert_array_equal(from_file.waveform, again.waveform)
    with pytest.raises(MusicotError, match="differs from its first segment on"):
        model.generate(plan=plan.set(0, drums="play"), keep=song)


def test_what_the_song_is_asked_for_counts_where_it_is_kept(
    model: MagentaPipeline, song: mc.Song, plan: mc.Plan, tmp_path: Path
) -> None:
    """Options of the whole song, of which the plan says nothing, and glides."""
    edited = plan.set(2, drums="play")
    for other in ({"style_strength": 6}, {"style_levels": 3}):
        name, value = next(iter(other.items()))
        with pytest.raises(MusicotError, match=f"{name} was .* and is {value}.* now; ask for"):
            model.generate(plan=edited, keep=song, **other)
    whole = model.generate(plan=edited, seed=3, drums="play")  # the plan says it of the first
    again = model.generate(plan=edited, seed=3, drums="play", keep=song)
    np.testing.assert_array_equal(again.codes, whole.codes)
    assert (whole.codes[:, 25:50] != song.codes[:, 25:50]).any()
    replace(song, fault=None).save(tmp_path / "a.wav")
    with pytest.raises(MusicotError, match="style_levels was 12 and is 3 now"):
        model.generate(plan=edited, keep=tmp_path / "a.wav", style_levels=3)
    settings = json.loads((tmp_path / "a.json").read_text())
    (tmp_path / "a.json").write_text(json.dumps({**settings, "drums": "loud"}))
    with pytest.raises(MusicotError, match="the settings of .*a.wav: drums is 'loud'"):
        model.generate(plan=edited, keep=tmp_path / "a.wav")


def test_a_glide_to_what_changed_is_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_magenta_model.pipeline()
    style = model.lm.conditioner.style
    style.weight = 30 * style.weight  # heard amid random weights
    plan = model.plan("calm piano", duration=3, seed=3)
    still = plan.replace([1, 2], plan[0])  # what stays has no way to go
    asked = [MagentaOptions.of(model.sampling, glide=glide) for glide in (0.0, 1.0)]
    np.testing.assert_array_equal(*(model.requests(still, 75, each) for each in asked))
    earlier = model.generate(plan=plan, seed=3, glide=0.4)
    edited = plan.replace(2, "drums")
    again = model.generate(plan=edited, keep=earlier, seed=3, glide=0.4)
    np.testing.assert_array_equal(again.codes, model.generate(plan=edited, seed=3, glide=0.4).codes)
    np.testing.assert_array_equal(again.codes[:, :40], earlier.codes[:, :40])
    assert (again.codes[:, 40:50] != earlier.codes[:, 40:50]).any()
    assert plan.shared_seconds(edited, glide=0.4) == pytest.approx(1.6)
    assert plan.shared_seconds(plan, glide=0.4) == 3 and plan.shared_seconds(plan[:2]) == 2
    monkeypatch.setattr(pipeline, "GLIDE_STEPS", 1)  # half the way from the first frame on
    earlier = model.generate(plan=plan, seed=3, glide=1)
    with pytest.raises(MusicotError, match="its first segment glides to one that differs"):
        model.generate(plan=plan.replace(1, "drums"), keep=earlier, seed=3, glide=1)


def test_whatever_draws_asks_for_them(
    model: MagentaPipeline, plan: mc.Plan, song: mc.Song, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Candidates, versions of each thought, a recording that goes on, a memory that is cut."""
    plan = plan.set(2, drums="play")
    seen: list[np.ndarray] = []
    requests = MagentaPipeline.requests

    def watched(self: MagentaPipeline, *given: object) -> np.ndarray:
        seen.append(requests(self, *given))
        return seen[-1]

    monkeypatch.setattr(MagentaPipeline, "requests", watched)
    soundfile.write(tmp_path / "a.wav", np.full((SECOND, 1), 0.1), SECOND)
    for options in (
        {"candidates": 2},
        {"follow": 2},
        {"continuation": tmp_path / "a.wav"},
        {"refresh": 0.8},
    ):
        model.generate(plan=plan, seed=3, **options)
        drums = seen[-1][:, 12 + 128]
        assert [len(set(drums[i : i + 25])) for i in (0, 25, 50)] == [1, 1, 1]
        assert len({int(drums[0]), int(drums[25]), int(drums[50])}) == 3
    monkeypatch.setattr("musicot_mlx.generation.magenta_rt2.LEFT", 2)
    fresh = model.generate(plan=plan, refresh=0.8, seed=3)
    edited = plan.set(2, drums="none")
    kept = model.generate(plan=edited, keep=fresh, refresh=0.8, seed=3)
    np.testing.assert_array_equal(
        kept.codes, model.generate(plan=edited, refresh=0.8, seed=3).codes
    )


# --- on the command line ---


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    tiny_model: Path,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    folder = str(tiny_magenta_model.write(tmp_path / "model"))
    plan = ["plan", "--model", folder]
    assert main([*plan, "-p", "calm piano", "--duration", "3", "-o", "a.json"]) == 0
    capsys.readouterr()
    edits = ["--set", "0-2=drums: none", "--set", "2-3=Style-Strength: 4.5", "--set", "1-2=drums:"]
    shown = ["--anchors", "piano", "--png", "a.png", "--json"]
    assert main([*plan, "--plan", "a.json", *edits, *shown, "-o", "b.json"]) == 0
    out, table = capsys.readouterr()
    report = json.loads(out)
    found = [{"drums": "none"}, {}, {"style_strength": 4.5}]
    assert report["controls"] == json.loads(Path("b.json").read_text())["controls"] == found
    assert "\nset drums           none     -     -\nset style strength     -     -   4.5" in table
    before, after = (json.loads(Path(name).read_text()) for name in ("a.json", "b.json"))
    assert before["codes"] == after["codes"] and Path("a.png").stat().st_size
    longer = ["--plan", "b.json", "--extend", "397", "-o", "c.json"]  # a family has its own longest
    assert main([*plan, *longer]) == 0 and main([*plan, "-p", "piano", "--duration", "400"]) == 0
    capsys.readouterr()
    for line, words in (
        ([*plan, "--plan", "c.json", "--extend", "201"], "a plan covers at most 600 s"),
        ([*plan, "--plan", "a.json", "--set", "0-1=drums: loud"], "one of free, none, play"),
        ([*plan, "--plan", "a.json", "--set", "0-1=style strength: 9"], "from -1 to 6.8"),
        ([*plan, "-p", "x", "--bpm", "100"], "--bpm means nothing to"),
        ([*plan, "--plan", "a.json", "--transpose", "2"], "--transpose means nothing to"),
        ([*plan, "--plan", "a.json", "--variation", "1"], "none is drawn; leave out --variation"),
        ([*plan, "-p", "x", "--reference", folder], "is a folder; name a file in it"),
        ([*plan, "--plan", "a.json", "--set", "0-2=bpm:3"],
         "takes no 'bpm' of a segment; it takes drums and style_strength"),
        ([*plan, "--plan", "a.json", "--set", "0-2=Tempo: 90"], "takes no 'bpm' of a segment"),
        ([*plan, "--plan", "a.json", "--set", "0-2=key: D minor"], "takes no 'key' of a segment"),
        ([*plan, "--plan", "a.json", "--set", "0-2=chords: Dm"], "names chords, which"),
        ([*plan, "-p", "x", "--duration", "900"], "duration is 900 s; ask for 1 to 600 s"),
        (["plan", "--model", str(tiny_model), "-p", "x", "--set", "0-10=drums: none"],
         "takes no 'drums' of a segment; set it to words instead"),
    ):  # fmt: skip
        assert main(line) == 2
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1
