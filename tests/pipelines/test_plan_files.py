"""Plans as files: what they keep, and whatever else stands in one."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import musicot_mlx as mc
from musicot_mlx.errors import MusicotError
from musicot_mlx.pipelines.musicot.pipeline import MusicotPipeline
from musicot_mlx.pipelines.plans import file as plan_file
from musicot_mlx.pipelines.renderer import Renderer
from musicot_mlx.weights.checkpoint import read_config
from musicot_mlx.weights.hub import resolve
from tests.support import tiny
from tests.support.sounds import noise


def test_a_plan_file_holds_where_all_of_it_came_from(
    model: MusicotPipeline, plan: mc.Plan, tmp_path: Path
) -> None:
    edited = plan.replace(1, "solo piano", seed=9).replace(2, noise(tmp_path / "a.wav", 12))
    edited = edited.morph(plan[0], 0.3, where=3).redraw(lock=[1, 2, 3]).extend(10).repeat(0)
    edited.save(tmp_path / "a.plan.json")
    loaded = mc.Plan.load(tmp_path / "a.plan.json", model)
    assert loaded.origins == edited.origins and loaded.history == edited.history
    for name in ("codes", "embeddings", "vector"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(edited, name))
    for name in ("duration", "seed", "prompt", "tags", "lyrics", "thought_seconds"):
        assert getattr(loaded, name) == getattr(edited, name)
    text = (tmp_path / "a.plan.json").read_text()
    assert f"  {json.dumps(edited.codes[0].tolist())}," in text  # a level a line, for people
    assert json.loads(text) == edited.to_dict()
    assert loaded.delete(0).history[:-1] == edited.history


def test_plans_of_version_1_load(model: MusicotPipeline, plan: mc.Plan) -> None:
    old = plan.to_dict() | {"version": 1}
    for name in ("origins", "history", "begins"):
        del old[name]
    loaded = mc.Plan.load(old, model)
    np.testing.assert_array_equal(loaded.codes, plan.codes)
    assert {origin.kind for origin in loaded.origins} == {"unknown"} and loaded.history == ()
    assert loaded.replace(0, "drums").to_dict()["version"] == 4


def test_a_plan_carries_its_space_and_enters_no_other(
    model: MusicotPipeline, plan: mc.Plan, tmp_path: Path
) -> None:
    assert isinstance(model, Renderer)
    assert plan.space == model.space.id == "clap-16" == plan.to_dict()["space"]
    assert model.settings("piano")["space"] == "clap-16"
    unsaid = mc.Plan.load({k: v for k, v in plan.to_dict().items() if k != "space"}, model)
    assert unsaid.space == "clap-16"
    plan.save(tmp_path / "a.json")
    foreign = json.loads((tmp_path / "a.json").read_text()) | {"space": "musiccoca-768"}
    (tmp_path / "a.json").write_text(json.dumps(foreign))
    other = replace(plan, space="musiccoca-768")
    for use in (
        lambda: mc.Plan.load(tmp_path / "a.json", model),
        lambda: model.generate(plan=other),
        lambda: plan.replace(0, other),
        lambda: plan.morph(other, 0.5),
    ):
        with pytest.raises(MusicotError, match="made in the space 'musiccoca-768'"):
            use()


def test_the_embedded_model_names_its_space() -> None:
    assert read_config(resolve("musicot-mini"))["space"] == "clap-musicot-mini"


def test_a_plan_of_another_model_is_noticed(
    model: MusicotPipeline, plan: mc.Plan, tmp_path: Path
) -> None:
    other = mc.load(tiny.write_model(tmp_path / "other", seed=1))
    with pytest.raises(MusicotError, match="made with another model"):
        mc.Plan.load(plan.to_dict(), other)


def test_the_schema_is_the_one_shipped_and_holds_for_what_is_written(plan: mc.Plan) -> None:
    rules = plan_file.schema()
    assert rules["$schema"].endswith("2020-12/schema")
    written = plan.replace(0, "drums").morph(plan, 0.5).extend(10).to_dict()
    assert plan_file.problem(written, rules) is None
    assert set(written) == set(rules["properties"])
    # every key of JSON Schema that the schema uses is one that `problem` reads
    told = {"$schema", "$id", "title", "description"}
    read = {"type", "const", "enum", "required", "properties", "additionalProperties", "items"}
    read |= {"minItems", "maxItems", "minimum", "maximum", "maxLength"}

    def keys(rules: dict) -> set[str]:
        inner = [*rules.get("properties", {}).values(), *filter(None, [rules.get("items")])]
        return set(rules).union(*map(keys, inner))

    assert keys(rules) <= told | read


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": 5}, "version 5, expected 1 to 4; update musicot"),
        ({"chords": ["H7"]}, "'H7' is no chord"),
        ({"key": "H minor"}, "'H minor' is no key"),
        ({"version": True}, "version True"),
        ({"version": "2"}, "version '2'"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"seed": 1.5}, "seed must be of type integer"),
        ({"seed": 10**30}, "seed must be at most"),
        ({"prompt": ["a"]}, "prompt must be of type string or null, got a list"),
        ({"prompt": "\ud800"}, "prompt must be of type string"),
        ({"lyrics": None}, "lyrics must be of type string, got None"),
        ({"tags": [3]}, "tags[0] must be of type string, got 3"),
        ({"codes": [[0, 1], [0]]}, "rows of codes differ in length"),
        ({"codes": [[0.5]]}, "codes[0][0] must be of type integer"),
        ({"codes": []}, "codes has 0 items"),
        ({"duration": float("inf")}, "duration must be of type number"),
        ({"duration": "30"}, "duration must be of type number, got '30'"),
        ({"thought_seconds": 0}, "thought_seconds must be at least"),
        ({"vector": [1e999] * 16}, "vector[0] must be of type number"),
        ({"origins": [{"kind": "magic"}] * 4}, "origins[0].kind must be one of drawn"),
        ({"origins": [{"kind": "drawn", "x\ny": 1}] * 4}, "origins[0] has 'x\\ny'"),
        ({"origins": []}, "0 origins for 4 segments"),
        ({"history": [{}]}, "history[0] lacks 'edit'"),
        ({"history": [{"edit": "redraw", "amount": 7}]}, "history[0].amount must be at most 1"),
        ({"begins": [[9.0]] * 4}, "made with another model"),
    ],
)
def test_hostile_values(model: MusicotPipeline, plan: mc.Plan, change: dict, words: str) -> None:
    with pytest.raises(MusicotError) as caught:
        mc.Plan.load(plan.to_dict() | change, model)
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"format": "musicot-plan", "version": 2, "seed": ' + b"[" * 100_000, "not JSON"),
        (b'{"seed": ' + b"9" * 10_000 + b"}", "not JSON"),
        (b'{"a": NaN}', "NaN is not a number in JSON"),
        (b'{"a": -Infinity}', "-Infinity is not a number"),
        (b"[]", "is not a plan"),
        (b'"musicot-plan"', "is not a plan"),
        (b'{"format": ["musicot-plan"]}', "is not a plan"),
        (b'{"format": "wav", "made": 3}', "is not a plan"),
        (b'{"format": "wav", "made": {"plan": [1]}}', "is not a plan"),
        (b'{"format": "musicot-plan"}', "version None"),
    ],
)
def test_hostile_files(model: MusicotPipeline, tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "a.plan.json"
    path.write_bytes(content)
    with pytest.raises(MusicotError) as caught:
        mc.Plan.load(path, model)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_huge_file_is_not_read(model: MusicotPipeline, tmp_path: Path) -> None:
    with open(tmp_path / "a.plan.json", "wb") as file:
        file.truncate(1 << 33)  # 8 GB of nothing
    with pytest.raises(MusicotError, match="too large to be a plan"):
        mc.Plan.load(tmp_path / "a.plan.json", model)


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["\ud800", "musicot-plan", "drawn", "\u202e\x00\n"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=12,
)


@given(st.data())
@settings(max_examples=120)
def test_whatever_stands_in_a_plan_is_a_plan_or_one_line(
    model: MusicotPipeline, plan: mc.Plan, data: st.DataObject
) -> None:
    value = json.loads(json.dumps(plan.replace(1, plan[0]).to_dict()))
    for _ in range(data.draw(st.integers(1, 3))):
        place = value
        while True:  # walk down to some place, and put something there or take it away
            keys = sorted(place) if isinstance(place, dict) else range(len(place))
            key = data.draw(st.sampled_from(list(keys)))
            if not (
                isinstance(place[key], (dict, list)) and place[key] and data.draw(st.booleans())
            ):
                break
            place = place[key]
        if data.draw(st.integers(0, 4)):
            place[key] = data.draw(JSON_VALUES)
        else:
            del place[key]
        if not value:
            break
    try:
        loaded = mc.Plan.load(value, model)
    except MusicotError as error:
        message = str(error)
        assert message and message.isprintable() and len(message) < 400, message
    else:
        assert loaded.embeddings.shape == (loaded.segments, 16)
        assert len(loaded.origins) == loaded.segments
        json.dumps(loaded.to_dict(), allow_nan=False).encode()
        if loaded.segments:
            assert loaded.delete(-1).segments if loaded.segments > 1 else True


@given(st.binary(max_size=60), st.integers(0, 10_000))
@settings(max_examples=100)
def test_whatever_happens_to_a_plan_file_is_a_plan_or_one_line(
    model: MusicotPipeline, plan: mc.Plan, tmp_path_factory: pytest.TempPathFactory,
    put: bytes, place: int,
) -> None:  # fmt: skip
    content = json.dumps(plan.to_dict()).encode()
    place %= len(content)
    path = tmp_path_factory.getbasetemp() / "fuzzed.plan.json"
    path.write_bytes(content[:place] + put + content[place + len(put) // 2 :])
    try:
        assert mc.Plan.load(path, model).segments
    except MusicotError as error:
        assert str(error).isprintable()
