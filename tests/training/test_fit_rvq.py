"""Fitting codebooks: they spread over the data, each level helps, the command writes a folder."""

import json
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import soundfile

import musicot_mlx as mc
from musicot_mlx.audio.files import write_audio
from musicot_mlx.cli import main
from musicot_mlx.errors import MusicotError
from musicot_mlx.evaluation.speed.cost import operations
from musicot_mlx.models.rvq import ResidualVQ
from musicot_mlx.training import rvq
from tests.support import tiny

OPTIONS = rvq.FitOptions(codebooks=3, codebook_size=16, passes=5)


def vectors(count: int = 600, dim: int = 12, seed: int = 0) -> np.ndarray:
    """Unit vectors in a few dozen clouds."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(7).standard_normal((24, dim))
    x = centres[rng.integers(0, 24, count)] + 0.3 * rng.standard_normal((count, dim))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def test_each_level_comes_closer_on_vectors_it_has_not_seen() -> None:
    fitted = rvq.fit(vectors(), OPTIONS)
    for found in (fitted.train, fitted.held_out):
        assert found == sorted(found) and found[-1] > 0.93
    assert fitted.vectors == 600 and min(fitted.used) > 0.9
    new = vectors(seed=1)
    codes = fitted.rvq.encode(mx.array(new)[None])
    made = np.array(fitted.rvq.decode(codes))[0]
    cosine = (made * new).sum(1) / np.linalg.norm(made, axis=1)
    assert cosine.mean() == pytest.approx(rvq.cosines(fitted.rvq, new)[-1], abs=1e-5)
    random = rvq.cosines(ResidualVQ(fitted.rvq.config), new)
    assert cosine.mean() > random[-1] + 0.2


def test_same_seed_same_codebooks() -> None:
    first, again = (rvq.fit(vectors(), OPTIONS).rvq.codebooks for _ in range(2))
    other = rvq.fit(vectors(), rvq.FitOptions(codebooks=3, codebook_size=16, passes=5, seed=1))
    for a, b, c in zip(first, again, other.rvq.codebooks, strict=True):
        assert mx.array_equal(a.weight, b.weight) and not mx.array_equal(a.weight, c.weight)


def test_sums_by_code_are_no_scatter(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU's scatter-add is float atomics, added in any order; k-means amplifies the last bit."""
    x, nearest = mx.array(vectors(40)), mx.arange(40) % 7
    sums, counts = rvq._sums(x, nearest, 7)
    expected = np.stack([np.array(x)[np.arange(40) % 7 == code].sum(axis=0) for code in range(7)])
    np.testing.assert_allclose(np.array(sums), expected, atol=1e-5)
    np.testing.assert_array_equal(np.array(counts), [6, 6, 6, 6, 6, 5, 5])
    monkeypatch.setattr(mx, "eval", lambda *arrays: None)
    assert not any("Scatter" in name for name in operations(rvq._sums(x, nearest, 7)))


def test_kmeans_finds_well_parted_clouds() -> None:
    """Codes are means of what chooses them, and no cloud is left without one."""
    rng = np.random.default_rng(0)
    centres = 10 * rng.standard_normal((8, 6)).astype(np.float32)
    x = np.repeat(centres, 50, axis=0) + 0.1 * rng.standard_normal((400, 6)).astype(np.float32)
    options = rvq.FitOptions(codebooks=1, codebook_size=16, kmeans_steps=30, passes=0)
    codes = np.array(rvq.fit_codebook(mx.array(x), options, key=mx.random.key(0)))
    distance = np.linalg.norm(x[:, None] - codes[None], axis=-1)  # (vectors, codes)
    assert distance.min(1).max() < 1.0  # clouds are ten and more apart
    chosen = distance.argmin(1)
    for code in np.unique(chosen):
        assert np.abs(x[chosen == code].mean(0) - codes[code]).max() < 1e-4


def test_moving_averages_follow_the_data() -> None:
    """Passes in small batches stay at the means that k-means found, within their noise."""
    x = mx.array(vectors(2000))
    still = rvq.FitOptions(codebooks=1, codebook_size=24, passes=0)
    moving = rvq.FitOptions(codebooks=1, codebook_size=24, passes=10, batch_size=250, decay=0.99)
    errors = []
    for options in (still, moving):
        codes = rvq.fit_codebook(x, options, key=mx.random.key(3))
        chosen = codes[rvq._nearest(x, codes)]
        errors.append(mx.square(x - chosen).sum(1).mean().item())
    assert errors[1] < 1.02 * errors[0]


def test_dead_codes_are_moved_to_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Codes that begin far from everything are chosen by nothing; they come back."""
    x = mx.array(vectors(800))

    def spread(x: mx.array, size: int, *, key: mx.array) -> mx.array:
        return mx.concatenate([x[: size // 2], mx.full((size - size // 2, x.shape[1]), 50.0)])

    monkeypatch.setattr(rvq, "_spread", spread)
    monkeypatch.setattr(rvq.np, "flatnonzero", lambda x: np.zeros(0, dtype=int))
    options = rvq.FitOptions(codebooks=1, codebook_size=32, kmeans_steps=1, passes=4)
    left = rvq.fit_codebook(x, options, key=mx.random.key(0))
    monkeypatch.undo()
    monkeypatch.setattr(rvq, "_spread", spread)
    moved = rvq.fit_codebook(x, options, key=mx.random.key(0))
    used = [len(np.unique(np.array(rvq._nearest(x, codes)))) for codes in (left, moved)]
    assert used[0] <= 17 and used[1] >= 30


def test_songs_are_held_out_whole() -> None:
    x, songs = vectors(), np.arange(600) // 30
    train, held_out = rvq._split(x, OPTIONS, songs)
    assert len(held_out) == 60 and len(train) == 540
    rows = {row.tobytes(): song for row, song in zip(x, songs, strict=True)}
    apart = [{rows[row.tobytes()] for row in part} for part in (train, held_out)]
    assert not apart[0] & apart[1] and len(apart[1]) == 2


def test_nothing_held_out() -> None:
    options = rvq.FitOptions(codebooks=1, codebook_size=8, passes=0, held_out=0)
    fitted = rvq.fit(vectors(50), options)
    assert fitted.held_out is None and "| 1 | 0." in rvq.table(fitted)


@pytest.mark.parametrize(
    ("embeddings", "words"),
    [
        (np.zeros((10, 4), np.float32), "9 vectors to fit can't fill a codebook of 16"),
        (np.full((30, 4), np.nan, np.float32), "NaN or infinite"),
        (np.zeros(30, np.float32), r"expected numbers of shape \(vectors, dim\)"),
        (np.array([["a"]]), "expected numbers"),
    ],
)
def test_vectors_that_do_not_fit(embeddings: np.ndarray, words: str) -> None:
    with pytest.raises(MusicotError, match=words):
        rvq.fit(embeddings, OPTIONS)


# --- the command ---


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of short songs, one of them in a folder of its own."""
    folder = tmp_path_factory.mktemp("songs")
    rng = np.random.default_rng(0)
    for number in range(10):
        place = folder / ("more" if number == 9 else ".")
        place.mkdir(exist_ok=True)
        tone = np.sin(np.arange(24 * 8000) * (0.02 + 0.01 * number))
        write_audio(place / f"{number}.wav", 0.3 * tone + 0.01 * rng.standard_normal(192000), 8000)
    (folder / "notes.txt").write_text("no audio")
    return folder


def test_command_from_audio_then_from_its_embeddings(
    songs: Path, tiny_model: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "musicot_mlx", "rvq", songs, "--model", tiny_model]
    command += ["--codebooks", "2", "--codebook-size", "8", "--json"]
    made = subprocess.run(
        [*command, "-o", tmp_path / "a", "--save-embeddings", tmp_path / "a.npz"],
        env=tiny.environment(),
        capture_output=True,
        text=True,
    )
    assert made.returncode == 0, made.stderr
    report = json.loads(made.stdout)
    assert report["vectors"] == 30 and report["dim"] == 16
    assert len(report["train_cosine"]) == len(report["held_out_cosine"]) == 2
    quantiser = mc.load(tmp_path / "a")
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    assert config["rvq"] == {"dim": 16, "codebooks": 2, "codebook_size": 8}
    assert config["fit"]["train_cosine"] == report["train_cosine"]
    with np.load(tmp_path / "a.npz") as kept:
        embeddings, groups = kept["embeddings"], kept["groups"]
    assert sorted(np.bincount(groups)) == [3] * 10
    assert quantiser.encode(mx.array(embeddings)[None]).shape == (1, 2, 30)
    options = ["--codebooks", "2", "--codebook-size", "8", "-o", str(tmp_path / "b")]
    assert main(["rvq", str(tmp_path / "a.npz"), *options]) == 0
    again = mc.load(tmp_path / "b")
    for one, other in zip(quantiser.codebooks, again.codebooks, strict=True):
        assert mx.array_equal(one.weight, other.weight)


def test_a_bad_file_is_named_and_left_out(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "songs"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(3):
        write_audio(folder / f"{number}.wav", 0.1 * rng.standard_normal(192000), 8000)
    (folder / "text.wav").write_text("no audio")
    (folder / "empty.mp3").write_bytes(b"")
    (folder / "song.m4a").write_bytes(b"\0\0\0\x20ftypM4A ")
    soundfile.write(folder / "nan.wav", np.full(8000, np.nan), 8000, subtype="FLOAT")
    (folder / ".hidden.wav").write_text("no audio, and nobody's business")
    command = ["rvq", str(folder), "--model", str(tiny_model), "--codebooks", "1"]
    command += ["--codebook-size", "2", "--held-out", "0"]
    assert main([*command, "-o", str(tmp_path / "out"), "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["vectors"] == 9
    lines = said.err.splitlines()
    assert [line.partition(": skipped ")[2].partition(":")[0] for line in lines] == [
        *("empty.mp3", "nan.wav", "song.m4a", "text.wav")
    ]
    for file in folder.glob("[0-9].wav"):
        file.unlink()
    assert main([*command, "-o", str(tmp_path / "other")]) == 2
    assert "holds no audio that can be read (skipped empty.mp3" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_command_prints_cosines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "x.npy", vectors())
    options = ["--codebooks", "2", "--codebook-size", "16", "-o", str(tmp_path / "out")]
    assert main(["rvq", str(tmp_path / "x.npy"), *options]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("| levels | cosine, fitted") and out[2].startswith("| 1 | 0.")
    assert "2 x 16 codes for 600 vectors of 12" in out[-1]
    assert (tmp_path / "out" / "README.md").is_file()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("nowhere -o out", "no folder or file at nowhere"),
        ("words.txt -o out", "words.txt is a file; pass a folder of audio"),
        ("empty -o out", "empty holds no audio"),
        ("x.npy -o out", "can't fill a codebook of 1024"),
        ("broken.npy -o out", "can't read broken.npy"),
        ("flat.npy -o out", "expected numbers of shape"),
        ("objects.npy -o out", "can't read objects.npy"),
        ("two.npz -o out", "two.npz holds a, b; name the vectors `embeddings`"),
        ("groups.npz -o out", "groups must hold a number for each of 30 vectors"),
        ("x.npy", "--output"),
        ("x.npy -o out --codebooks 0", "from 1 to 64"),
        ("x.npy -o out --save-embeddings y.npz", "is for a folder of audio"),
        ("empty -o out --save-embeddings y.npy", "should end in .npz"),
        ("empty -o out --model quantiser", "quantiser holds no CLAP"),
    ],
)
def test_command_says_what_is_wrong(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: str,
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("words.txt").write_text("words")
    Path("broken.npy").write_text("words")
    np.save("x.npy", vectors(30))
    np.save("flat.npy", np.zeros(30))
    np.save("objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.savez("two.npz", a=vectors(3), b=vectors(3))
    np.savez("groups.npz", embeddings=vectors(30), groups=np.zeros(3))
    if "quantiser" in arguments:
        small = rvq.FitOptions(codebooks=1, codebook_size=2, passes=0)
        rvq.save("quantiser", rvq.fit(vectors(30), small), small, source="noise")
    assert main(["rvq", *arguments.split()]) == 2
    line = capsys.readouterr().err
    assert words in line and line.count("\n") == 1
    assert not Path("out").exists()
