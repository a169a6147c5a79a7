"""Songs, plans and options as Python has them: lines, pictures, likes, pickles, names, lists."""

import base64
import copy
import inspect
import io
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_overloads
from xml.etree import ElementTree

import numpy as np
import pytest
import soundfile

import musicot_mlx as mc
from musicot_mlx.errors import MusicotError
from musicot_mlx.pipelines import families
from musicot_mlx.pipelines.documented import other_names
from musicot_mlx.pipelines.magenta_rt2 import options as magenta_options
from musicot_mlx.pipelines.magenta_rt2.options import MagentaAsked, MagentaOptions, MagentaPlanning
from musicot_mlx.pipelines.musicgen.options import MusicgenAsked, MusicgenOptions
from musicot_mlx.pipelines.musicot.options import (
    PLANNED,
    MusicotAsked,
    MusicotOptions,
    MusicotPlanning,
)
from musicot_mlx.pipelines.musicot.pipeline import MusicotPipeline
from musicot_mlx.pipelines.plans.plan import Plan
from musicot_mlx.pipelines.song import Song

PROMPT = "solo <b>piano</b> & drums"


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> MusicotPipeline:
    return mc.load(tiny_model)


@pytest.fixture(scope="module")
def song(model: MusicotPipeline) -> Song:
    return model.generate(PROMPT, duration=12, seed=3)


@pytest.fixture(scope="module")
def plan(song: Song) -> Plan:
    return song.plan


# --- values ---


def test_a_line_is_short(song: Song, plan: Plan) -> None:
    assert repr(song) == f"<Song: 12.0 s, stereo, 8 kHz, seed 3, {PROMPT!r}>"
    assert repr(plan).startswith(f"<Plan: 12 s, 2 thoughts, seed 3, {PROMPT!r}")
    assert repr(plan.repeat(0)).endswith(", 1 edit>")
    long = Song(**{**vars(song), "settings": {"prompt": "word " * 500}})
    assert len(repr(long)) < 120 and "\n" not in repr(long)


def test_a_notebook_shows_player_and_pictures(song: Song, plan: Plan) -> None:
    page = song._repr_html_()
    assert "<b>" not in page  # a prompt is no markup
    audio = base64.b64decode(
        re.search(r'<audio controls src="data:audio/mpeg;base64,(.+?)"', page)[1]
    )
    heard, rate = soundfile.read(io.BytesIO(audio))
    assert rate == 8000 and abs(len(heard) - len(song)) < 4000
    pictures = [base64.b64decode(each) for each in re.findall(r'svg\+xml;base64,(.+?)"', page)]
    words = ["".join(ElementTree.fromstring(each).itertext()) for each in pictures]
    assert len(words) == 2 and "piano" in words[1] and "10 s" in words[1]
    assert pictures[1] in base64.b64decode(re.search(r'base64,(.+?)"', plan._repr_html_())[1])
    broken = Song(**{**vars(song), "fault": "the render is noise"})
    assert "the render is noise" in broken._repr_html_() and "<audio" not in broken._repr_html_()


@pytest.mark.parametrize(
    "changed",
    [
        lambda p: p.without_thoughts(),
        lambda p: Plan(**{**vars(p), "model": None}),
        lambda p: p.repeat(0, 3),
        lambda p: Plan(**{**vars(p), "prompt": "静かな" * 90, "chords": ()}),
    ],
)
def test_every_plan_has_a_picture(plan: Plan, changed: Callable[[Plan], Plan]) -> None:
    other = changed(plan)
    svg = base64.b64decode(re.search(r'base64,(.+?)"', other._repr_html_())[1])
    assert ElementTree.fromstring(svg).tag.endswith("svg") and bool(other)


def test_equal_is_what_is_alike(model: MusicotPipeline, song: Song, plan: Plan) -> None:
    again = model.generate(PROMPT, duration=12, seed=3)
    assert again == song and hash(again) == hash(song) and again is not song
    assert again.plan == plan and hash(again.plan) == hash(plan)
    assert song != model.generate(PROMPT, duration=12, seed=4) and song != 3 and plan != "plan"
    assert plan != plan.repeat(0) and plan != plan.replace(0, "drums")
    other = Song(**{**vars(song), "waveform": song.waveform + np.float32(1e-4)})
    assert song != other and len({song, again, other}) == 2


def test_len_is_frames_and_segments(song: Song, plan: Plan) -> None:
    assert len(song) == len(song.waveform) == 12 * 8000 and len(plan) == plan.segments == 2
    assert [len(each) for each in plan] == [1, 1]


def test_pickles_leave_the_model_behind(model: MusicotPipeline, song: Song, plan: Plan) -> None:
    for protocol in (0, pickle.HIGHEST_PROTOCOL):
        found = pickle.loads(pickle.dumps(song, protocol))
        assert found == song and found.plan == plan and found.plan.model is None
    again = model.generate(plan=found.plan, seed=3)
    np.testing.assert_array_equal(again.waveform, song.waveform)
    with pytest.raises(MusicotError, match="no model at hand"):
        found.plan.activity("drums")
    assert copy.copy(plan) is plan and copy.deepcopy(song) == song
    assert copy.deepcopy(song).plan.model is model


def test_a_saved_plan_is_the_same(model: MusicotPipeline, plan: Plan, tmp_path: Path) -> None:
    plan.save(tmp_path / "a.json")
    assert Plan.load(tmp_path / "a.json", model) == plan


@pytest.mark.parametrize("format", [None, "wav", "flac", "mp3", "ogg"])
def test_a_song_is_saved_into_what_is_open(song: Song, tmp_path: Path, format: str | None) -> None:
    memory, file = io.BytesIO(), tmp_path / f"a.{format or 'wav'}"
    assert song.save(memory, format=format) == []
    song.save(file)
    assert memory.getvalue() == file.read_bytes()
    with (tmp_path / "b").open("wb") as target:
        song.save(target, format=format)
    assert (tmp_path / "b").read_bytes() == file.read_bytes()
    with pytest.raises(MusicotError, match="mode 'wb'"):
        song.save(io.StringIO(), format=format)


def test_a_stream_is_saved_into_what_is_open(model: MusicotPipeline) -> None:
    memory = io.BytesIO()
    saved = model.stream("piano", duration=2).save(memory)
    assert saved.files == [] and saved.duration == pytest.approx(2)
    assert soundfile.info(io.BytesIO(memory.getvalue())).frames == 16000


# --- names ---


@pytest.mark.parametrize(
    ("typed", "options", "among"),
    [
        (MusicotAsked, MusicotOptions, None),
        (MusicotPlanning, MusicotOptions, PLANNED),
        (MusicgenAsked, MusicgenOptions, None),
        (MagentaAsked, MagentaOptions, None),
        (MagentaPlanning, MagentaOptions, magenta_options.PLANNED),
    ],
)
def test_editors_and_help_know_every_option(typed: type, options: type, among: Any) -> None:
    assert set(typed.__annotations__) == set(among or options.about())


@pytest.mark.parametrize("method", ["generate", "stream", "plan"])
def test_help_tells_the_options(model: MusicotPipeline, method: str) -> None:
    call = getattr(model, method)
    found = inspect.signature(call).parameters
    names = PLANNED if method == "plan" else MusicotOptions.about()
    assert list(found)[0] == "prompt" and set(found) == {"prompt", *names}
    assert found["duration"].default == 30.0
    for name in names:
        also = "".join(f", {other}" for other in other_names(MusicotOptions, name))
        assert f"\n{name}{also}\n    " in inspect.getdoc(call)


def test_options_may_be_called_as_on_the_command_line(model: MusicotPipeline) -> None:
    own = {"duration": 3.0, "audio_temperature": 0.5, "thought_temperature": 0.4, "bpm": 100.0}
    flags = {"seconds": 3, "temperature": 0.5, "thought_temp": 0.4, "tempo": 100}
    assert model.settings("piano", **own) == model.settings("piano", **flags)
    assert model.plan("piano", seconds=3, thought_temp=0.4) == model.plan(
        "piano", duration=3, thought_temperature=0.4
    )
    with pytest.raises(TypeError, match="duration is given twice, as seconds too"):
        model.settings("piano", duration=3, seconds=3)
    with pytest.raises(TypeError, match="unknown option 'temprature'"):
        model.settings("piano", temprature=1)
    for options in (MusicotOptions, MusicgenOptions):
        names = list(options.aliases())
        assert not [n for n in names if n in options.about() and options.aliases()[n] != n]


def test_load_tells_editors_what_it_gives() -> None:
    given = [each.__annotations__["return"] for each in get_overloads(families.load)]
    classes = ["MusicotPipeline", "MusicgenPipeline", "MagentaPipeline"]
    assert given == [*classes, families.SongModel]
    for name in given[:2]:
        model = getattr(mc, name)
        assert {"generate", "stream", "settings", "sample_rate"} <= set(dir(model)), name


def test_a_plan_has_decided(model: MusicotPipeline, plan: Plan) -> None:
    odd = {"duration": 3, "tags": "piano", "chords": "Am F", "key": "C major", "bpm": 90}
    odd |= {"thought_temperature": 1, "thought_guidance": 2, "lyrics": "la", "reference": "a.wav"}
    odd |= {"reference_weights": 1}
    assert set(odd) == set(MusicotOptions.decided())
    for name, value in odd.items():
        for call in (model.generate, model.stream):
            with pytest.raises(MusicotError, match=f"{name} belongs to planning"):
                call(plan=plan, **{name: value})
    for call in (model.generate, model.stream):
        with pytest.raises(MusicotError, match="prompt belongs to planning"):
            call("something else", plan=plan)
    song = model.generate(PROMPT, plan=plan, seed=3, top_k=5)  # its own prompt says nothing new
    assert song.settings["prompt"] == PROMPT


# --- one where several may be ---


def test_one_text_is_a_list_of_one(model: MusicotPipeline, plan: Plan) -> None:
    np.testing.assert_array_equal(plan.activity("drums"), plan.activity(["drums"]))
    assert plan.activity("drums").shape == (2, 1)
    np.testing.assert_array_equal(model.clap.embed_text("drums"), model.clap.embed_text(["drums"]))
    assert model.plan("x", duration=2, tags="piano") == model.plan("x", duration=2, tags=["piano"])
    assert mc.analyze(plan=plan, model=model, anchors="drums").anchors == ("drums",)


@pytest.mark.parametrize("odd", [5, None, [], "", [" "], [1], [None], {"drums": 1}, b"drums", 2.5])
def test_odd_anchors_are_a_line(model: MusicotPipeline, plan: Plan, odd: Any) -> None:
    for call in (plan.activity, lambda each: mc.analyze(plan=plan, model=model, anchors=each)):
        with pytest.raises(MusicotError, match="anchors") as error:
            call(odd)
        assert "\n" not in str(error.value)
