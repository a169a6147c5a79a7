"""What is told of models: from their records and options alone, whatever the family."""

import shutil
from pathlib import Path

import pytest

import musicot_mlx as mc
from musicot_mlx.errors import MusicotError
from musicot_mlx.pipelines import families
from musicot_mlx.studio.engine import Engine, Model
from musicot_mlx.studio.errors import Refused
from musicot_mlx.studio.settings import Settings
from musicot_mlx.studio.wishes import checked_options

SONGS = [name for name, each in zip(families.FAMILIES, families.known(), strict=True)
         if each.can("songs")]  # fmt: skip


def _model(name: str, monkeypatch: pytest.MonkeyPatch) -> Model:
    record = dict(zip(families.FAMILIES, families.known(), strict=True))[name]
    monkeypatch.setattr("musicot_mlx.studio.engine._family", lambda folder: record)
    return Model(name, name, Path("nowhere"), "given")


@pytest.mark.parametrize("name", SONGS)
def test_every_family_is_described_and_its_defaults_are_taken(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = _model(name, monkeypatch)
    told = {each["name"]: each for each in model.described()["options"]}
    assert "duration" in told and not {"plan", "keep", "seed", "progress", "clap"} & set(told)
    assert bool(model.edits) == model.plans
    assert ("key" in model.edits) == (model.plans and "chords" in told)
    defaults = {n: each["default"] for n, each in told.items() if each["default"] is not None}
    assert checked_options(model, defaults) == defaults
    for each in told.values():
        low = each["low"]
        if each["kind"] in ("number", "integer") and low is not None and not each["several"]:
            with pytest.raises(Refused, match=each["name"]) as refused:
                checked_options(model, {each["name"]: low - 1})
            assert refused.value.param == f"options.{each['name']}"
        if each["kind"] == "file":
            with pytest.raises(Refused, match="takes audio"):
                checked_options(model, {each["name"]: "/etc/passwd"})


def test_models_used_longest_ago_make_room(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[str] = []
    monkeypatch.setattr(mc, "load", lambda source: loads.append(source) or source, raising=False)
    models = {name: str(tiny_model) + "/" * (k + 1) for k, name in enumerate("abc")}
    given = Engine(Settings(tmp_path, models=models))
    size = given.model("a").size
    monkeypatch.setattr("musicot_mlx.generation.device.memory_bytes", lambda: 7 * size)
    for name in "aabab":
        given.loaded(name)
    assert loads == [models["a"], models["b"]]
    assert given.is_loaded(given.model("a")) and not given.is_loaded(given.model("c"))
    given.loaded("c")  # there is room for two
    assert not given.is_loaded(given.model("a")) and given.is_loaded(given.model("b"))
    given.loaded("b")
    assert loads == [models[name] for name in "abc"]


def test_a_model_that_is_gone_from_the_disk_is_told_of(tmp_path: Path, tiny_model: Path) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    given = Engine(Settings(tmp_path, models={"a": str(folder)}))
    assert given.model("a").size > 0
    shutil.rmtree(folder)
    with pytest.raises(MusicotError, match="no model folder at a; pass"):
        given.loaded("a")


def test_pictures_and_films_are_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SONGS:
        model = _model(name, monkeypatch)
        about = model.family.get("options").about()
        looked_at = {n for n, each in about.items() if each.metadata["holds"] != "audio"}
        assert not looked_at & set(model.options)


def test_what_is_off_and_what_is_several(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _model("musicot", monkeypatch)
    assert checked_options(model, {"loudness": False}) == {"loudness": False}
    assert checked_options(model, {"tags": "piano"}) == {"tags": ["piano"]}
    source = {"upload": "u_1"}
    assert checked_options(model, {"reference": source}) == {"reference": [source]}
    with pytest.raises(Refused, match="did you mean steps"):
        checked_options(model, {"step": 3})
    with pytest.raises(Refused, match="at most 64"):
        checked_options(model, {"tags": ["x"] * 65})
