"""Models of several sizes by name: owner/name:size, what is fetched of each, and from where on."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from musicot_mlx.errors import MusicotError
from musicot_mlx.pipelines import conversion_cache
from musicot_mlx.weights import cache, hub
from musicot_mlx.weights.published import published, sizes
from tests.support import hub_server, tiny

NAME = "google/magenta-realtime-2"
ROOT = Path(__file__).resolve().parents[2]
# published.py names a revision of the Hub's; the Hub of the tests has another
RESOLVE = f"""
import dataclasses, sys
from musicot_mlx.weights import hub, published
known = [dataclasses.replace(e, revision={hub_server.COMMIT!r}) for e in published.PUBLISHED]
published.PUBLISHED = tuple(known)
print(hub.downloaded(sys.argv[1]), hub.resolve(sys.argv[1]), hub.downloaded(sys.argv[1]))
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    for file, size in (
        ("checkpoints/mrt2_small.safetensors", 1000),
        ("checkpoints/mrt2_base.safetensors", 5000),
        ("resources/musiccoca/spm.model", 10),
        ("resources/spectrostream/encoder.safetensors", 20),
        ("models/mrt2_small/mrt2_small.mlxfn", 30),
    ):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(hashlib.sha256(file.encode()).digest()[:1] * size)
    return folder


def resolve(name: str, tmp_path: Path, **env: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", RESOLVE, name],
        env=tiny.environment(PYTHONPATH=str(ROOT), HF_HOME=str(tmp_path / "hf"), **env),
        capture_output=True,
        text=True,
    )


def test_each_size_is_fetched_once_and_goes_on_where_it_stopped(
    repository: Path, tmp_path: Path
) -> None:
    shared = ["resources/musiccoca/spm.model", "resources/spectrostream/encoder.safetensors"]
    with hub_server.serve({NAME: repository}) as (address, asked):
        env = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": address}
        small = resolve(NAME, tmp_path, **env)
        assert small.returncode == 0, small.stderr
        assert small.stderr == f"fetching {NAME}, 2.2 GB\n"
        assert small.stdout.split()[::2] == ["0", "1030"]
        assert sorted(asked) == sorted(["checkpoints/mrt2_small.safetensors", *shared])
        asked.clear()
        base = (repository / "checkpoints/mrt2_base.safetensors").read_bytes()
        blobs = tmp_path / "hf" / "hub" / f"models--{NAME.replace('/', '--')}" / "blobs"
        part = blobs / f"{hashlib.sha1(base).hexdigest()}.part"
        part.write_bytes(base[:3000])  # of a run that was stopped
        large = resolve(f"{NAME}:base", tmp_path, **env)
        assert large.returncode == 0, large.stderr
        assert f"fetching {NAME}:base, 10.9 GB\n" in large.stderr
        assert "going on with checkpoints/mrt2_base.safetensors" in large.stderr
        assert asked == ["checkpoints/mrt2_base.safetensors from 3000"] and not part.exists()
        before, folder, after = large.stdout.split()
        assert (before, after) == ("0", "5030")
        assert (Path(folder) / "checkpoints/mrt2_base.safetensors").read_bytes() == base
        again = resolve(f"{NAME}:small", tmp_path, **env)
        assert again.stdout.split()[0] == "1030" and not again.stderr
    offline = resolve(f"{NAME}:base", tmp_path)
    assert offline.returncode == 0 and not offline.stderr
    missing = resolve(f"{NAME}:base", tmp_path / "elsewhere")
    line = missing.stderr.splitlines()[-1]
    assert f"RunError: {NAME}:base is not a folder here" in line
    assert f"hf download {NAME} --revision {hub_server.COMMIT}" in line and "mrt2_base" in line


def test_a_download_that_breaks_off_is_one_line(repository: Path, tmp_path: Path) -> None:
    """What has come stays, for the next run."""
    code = (
        """
import huggingface_hub.file_download as client
def get(url, file, **_):
    file.write(b"half")
    raise OSError("the line went dead")
client.http_get = get
"""
        + RESOLVE
    )
    with hub_server.serve({NAME: repository}) as (address, _):
        run = subprocess.run(
            [sys.executable, "-c", code, NAME],
            env=tiny.environment(
                PYTHONPATH=str(ROOT), HF_HOME=str(tmp_path), HF_HUB_OFFLINE="0", HF_ENDPOINT=address
            ),
            capture_output=True,
            text=True,
        )
    line = run.stderr.splitlines()[-1]
    assert line.endswith(
        f"RunError: the download of {NAME} broke off (the line went dead); run it again, and it "
        "goes on"
    )
    (part,) = tmp_path.rglob("*.part")
    assert part.read_bytes() == b"half"


def test_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert hub.hub_id(NAME) == hub.hub_id(f"{NAME}:small") == (NAME, "main")
    assert hub.hub_id(f"{NAME}:base@v2") == (f"{NAME}:base", "v2")
    assert hub.split_size(f"{NAME}:base@v2") == (f"{NAME}@v2", "base")
    assert sizes(NAME) == ["small", "base"] and sizes("facebook/musicgen-small") == []
    assert published(f"{NAME}:small") is published(NAME) is not published(f"{NAME}:base")
    for name, words in (
        (f"{NAME}:huge", "has no size 'huge' that is known; there is small, base"),
        ("facebook/musicgen-small:base", "there is one alone, so leave out the colon"),
    ):
        with pytest.raises(MusicotError, match=words):
            hub.resolve(name)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "google" / "magenta-realtime-2").mkdir(parents=True)  # a folder goes before the Hub
    assert hub.hub_id(f"{NAME}:base") is None and hub.resolve(f"{NAME}:base") == Path(NAME)
    (tmp_path / "a:b").mkdir()
    assert hub.split_size("a:b") == ("a:b", None) and hub.resolve("a:b") == Path("a:b")


def test_each_size_has_a_conversion_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MUSICOT_CACHE", str(tmp_path / "cache"))
    source = tmp_path / "0123456789abcdef"
    (source / "checkpoints").mkdir(parents=True)
    (source / "checkpoints" / "mrt2_small.safetensors").touch()
    monkeypatch.setattr(conversion_cache, "resolve", lambda _: source)
    converted = []

    def convert(source: Path, target: Path, *, size: str | None, **_: object) -> None:
        converted.append(size)
        target.mkdir(parents=True)
        (target / "config.json").write_text("{}")

    monkeypatch.setattr("musicot_mlx.convert.convert.convert", convert)
    quiet = {"say": lambda _: None}
    folders = [
        conversion_cache.mlx_folder(name, **quiet)
        for name in (NAME, f"{NAME}:base", f"{NAME}:small", f"{NAME}:base")
    ]
    assert folders[0] == folders[2] != folders[1] == folders[3]
    assert converted == [None, "base"]
    assert [name for name, *_ in cache.entries()] == [NAME, f"{NAME}:base"]
    # of a folder, too, whose state is that of all its files
    local = [conversion_cache.mlx_folder(f"{source}{size}", **quiet) for size in ("", ":base")]
    assert local[0] != local[1] and converted[2:] == [None, "base"]
    (source / "checkpoints" / "mrt2_small.safetensors").write_bytes(b"another")
    assert conversion_cache.mlx_folder(source, **quiet) != local[0]
