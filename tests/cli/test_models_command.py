"""musicot models: what is embedded, converted and published, and what --delete takes away."""

import json
import sys
from pathlib import Path

import pytest

from musicot_mlx.cli import main
from musicot_mlx.weights import cache
from musicot_mlx.weights.published import PUBLISHED

NAME = "facebook/musicgen-small"


@pytest.fixture
def conversions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """A cache with two conversions of a model on the Hub and one of a folder, and a download."""
    monkeypatch.setenv("MUSICOT_CACHE", str(tmp_path / "cache"))
    hub = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hub))
    folders = [
        cache.entry(NAME, "4c8334b02c6e", "float16"),
        cache.entry(NAME, "4c8334b02c6e", "float32"),
        cache.entry("mine@0123456789ab", "0", "float16"),
    ]
    for folder in folders:
        folder.mkdir(parents=True)
        config = {"model_type": "musicgen", "codec": {"sampling_rate": 32000}}
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "model.safetensors").write_bytes(bytes(3_000_000))
    cache.remember(NAME, "main", "4c8334b02c6e")
    for name in (NAME, "laion/larger_clap_music"):
        blobs = hub / f"models--{name.replace('/', '--')}" / "blobs"
        blobs.mkdir(parents=True)
        (blobs / "0").write_bytes(bytes(7_000_000))
    return folders


def _listed(capsys: pytest.CaptureFixture[str]) -> list[dict]:
    assert main(["models", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_models_are_listed(conversions: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    models = _listed(capsys)
    kinds = [model["kind"] for model in models]
    assert kinds == ["embedded", *["converted"] * 3, *["published"] * len(PUBLISHED)]
    embedded = models[0]
    assert (embedded["name"], embedded["sample_rate"]) == ("musicot-mini", 44100)
    assert Path(embedded["folder"]).is_dir() and embedded["size"] > 30e6
    here = {model["folder"]: model for model in models if model["kind"] == "converted"}
    assert set(here) == {str(folder) for folder in conversions}
    model = here[str(conversions[0])]
    assert (model["name"], model["licence"]) == (NAME, "CC-BY-NC-4.0")
    assert model["sample_rate"] == 32000 and 3e6 < model["size"] < 3.1e6
    published = {model["name"]: model for model in models if model["kind"] == "published"}
    assert published[NAME]["cached"] == "converted"
    assert published["laion/larger_clap_music"]["cached"] == "downloaded"
    assert published["facebook/musicgen-large"]["cached"] == ""
    assert published["facebook/musicgen-large"]["size"] > 6e9


def test_models_as_text(conversions: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "embedded" and lines[1].split()[0] == "musicot-mini"
    assert " MB  44.1 kHz  MIT" in lines[1]
    (row,) = [line for line in lines if "musicgen-stereo-melody-large" in line]
    assert "5.3 GB" in row and "32 kHz" in row and "CC-BY-NC-4.0" in row and "2652 M" in row


def test_without_a_cache_only_names_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MUSICOT_CACHE", str(tmp_path / "nowhere"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "nowhere"))
    assert {model["cached"] for model in _listed(capsys)} == {""}
    assert main(["models"]) == 0
    assert "\n  none\n" in capsys.readouterr().out


def test_deleting(conversions: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--delete", NAME, "--yes", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["conversions"] == [str(folder) for folder in conversions[:2]]
    assert 6e6 < report["freed"] < 6.1e6 and report["download"] == 7_000_000
    assert not conversions[0].parent.exists() and conversions[2].is_dir()
    assert cache.latest(NAME, "main", "float16") is None
    assert main(["models", "--delete", "mine@0123456789ab", "-y"]) == 0
    assert "3 MB freed" in capsys.readouterr().out
    assert cache.entries() == []


def test_deleting_asks(
    conversions: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["models", "--delete", NAME]
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)
    assert main(command) == 2
    assert "pass --yes" in capsys.readouterr().err
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    for answer, code in ((False, 130), (True, 0)):
        monkeypatch.setattr("typer.confirm", lambda *_, answer=answer, **__: answer)
        assert conversions[0].is_dir()
        assert main(command) == code
    assert not conversions[0].exists()
    assert "`hf cache rm model/facebook/musicgen-small` frees that too" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "words"),
    [("musicot-mini", "part of the installation"), ("nobody/nothing", "there is facebook/")],
)
def test_what_can_not_be_deleted(
    conversions: list[Path], capsys: pytest.CaptureFixture[str], name: str, words: str
) -> None:
    assert main(["models", "--delete", name, "--yes"]) == 2
    assert words in capsys.readouterr().err
    assert all(folder.is_dir() for folder in conversions)
