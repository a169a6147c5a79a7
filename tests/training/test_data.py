"""Data sets as people bring them: every form and encoding, and rows that can't be used by name."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from musicot_mlx.cli import main
from musicot_mlx.errors import MusicotError
from musicot_mlx.training.data import DataSet, read_data

RATE = 8000


def _song(path: Path, **options: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(2 * RATE) / RATE
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * 440 * time), RATE, **options)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(3):
        _song(tmp_path / f"{number}.wav")
    return tmp_path


def _captions(data: DataSet) -> dict[str, tuple[str, ...]]:
    return {e.path.name: e.captions for each in data.splits.values() for e in each}


def _skipped(data: DataSet) -> dict[str, str]:
    return {each.name: each.why for each in data.skipped}


ROWS = [{"audio": f"{i}.wav", "caption": f"solo piano né {i}"} for i in range(3)]
WANTED = {f"{i}.wav": (f"solo piano né {i}",) for i in range(3)}
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be")


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_form_in_every_encoding(folder: Path, encoding: str) -> None:
    forms = {
        "train.jsonl": "\r\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS),
        "metadata.json": json.dumps(ROWS, ensure_ascii=False),
    }
    for name, text in forms.items():
        (folder / name).write_bytes(text.encode(encoding))
        found = read_data(folder)
        assert not found.skipped and _captions(found) == WANTED, name
        (folder / name).unlink()
    for row in ROWS:
        (folder / row["audio"]).with_suffix(".txt").write_bytes(row["caption"].encode(encoding))
    found = read_data(folder)
    assert not found.skipped and _captions(found) == WANTED


def test_an_encoding_that_is_not_known_is_named(folder: Path) -> None:
    for row in ROWS:
        (folder / row["audio"]).with_suffix(".txt").write_text(row["caption"])
    (folder / "1.txt").write_bytes("solo piano né".encode("latin-1"))
    found = read_data(folder)
    assert set(_captions(found)) == {"0.wav", "2.wav"}
    assert "1.txt is not UTF-8 text (byte 0xe9 at 12)" in _skipped(found)["1.wav"]
    (folder / "train.jsonl").write_bytes(json.dumps(ROWS[0], ensure_ascii=False).encode("latin-1"))
    with pytest.raises(MusicotError, match="train.jsonl is not UTF-8 text"):
        read_data(folder)


def test_separators_within_texts_end_no_line(folder: Path) -> None:
    rows = [{**ROWS[0], "caption": "solo\u2028piano\x85slow\u2029calm"}, *ROWS[1:]]
    text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (folder / "train.jsonl").write_text(text, encoding="utf-8")
    found = read_data(folder)
    assert not found.skipped
    assert _captions(found)["0.wav"] == ("solo piano slow calm",)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "tags of a number": ({"tags": 5}, "tags must be a text or a list of texts, got 5"),
    "tags of an object": ({"genre_tags": {"a": 1}}, "genre_tags must be a text or a list"),
    "tags with numbers": ({"tags": ["jazz", 5]}, 'tags must be .*got ."jazz", 5.'),
    "tags of false": ({"tags": False}, "tags must be"),
    "a caption of a number": ({"caption": 7}, "caption must be a text or a list of texts, got 7"),
    "a caption of an object": ({"caption": {"en": "piano"}}, "caption must be"),
    "a caption with lists": ({"caption": [["piano"]]}, "caption must be"),
    "captions of a number": ({"captions": 7}, "captions must be"),
    "an empty list": ({"caption": []}, "the caption is empty"),
    "a list of nothing": ({"caption": [" ", ""]}, "the caption is empty"),
    "half a character": ({"caption": "piano \ud83d"}, "caption has half a character at 6"),
    "half a character in tags": ({"tags": ["\udc00"]}, "tags has half a character"),
    "lyrics of a list": ({"lyrics": ["la", "la"]}, "the lyrics must be a text"),
    "half a character of lyrics": ({"lyrics": "\ud83d"}, "lyrics has half a character"),
    "windows of a text": ({"windows": "all"}, "the windows must be a list of objects"),
    "windows of numbers": ({"windows": [3]}, "the windows must be a list of objects"),
    "a window from a": ({"windows": [{"start": "a", "captions": ["x"]}]}, "a window must start"),
    "a window from nowhere": ({"windows": [{"captions": ["x"]}]}, "a window must start"),
    "a window from NaN": ({"windows": [{"start": float("nan"), "captions": "x"}]}, "NaN"),
    "a window from -1": ({"windows": [{"start": -1, "captions": "x"}]}, "got -1"),
    "a window of a list": ({"windows": [{"start": [], "captions": "x"}]}, "a window must start"),
    "a window's number": ({"windows": [{"start": 0, "captions": 3}]}, "captions must be"),
    "no file": ({"audio": "no.wav"}, "there is no such file"),
    "a name with NUL": ({"audio": "a\0b.wav"}, "there is no such file"),
    "a name too long": ({"audio": "a" * 300 + ".wav"}, "there can be no such file"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_row_that_can_not_be_used_is_named_and_no_other(folder: Path, name: str) -> None:
    change, words = BAD[name]
    rows = [ROWS[0], {**ROWS[1], **change}, ROWS[2]]
    for file, text in (
        ("train.jsonl", "\n".join(map(json.dumps, rows))),
        ("metadata.json", json.dumps(rows)),
        ("metadata.jsonl", "\n".join(map(json.dumps, rows))),
    ):
        (folder / file).write_text(text)
        found = read_data(folder)
        assert set(_captions(found)) == {"0.wav", "2.wav"}
        (skipped,) = found.skipped
        assert skipped.name == change.get("audio", "1.wav")
        with pytest.raises(MusicotError, match=words):
            raise MusicotError(skipped.why)
        (folder / file).unlink()


def test_lines_that_are_no_rows(folder: Path) -> None:
    lines = ["{", "[1]", "5", "null", "{}", '{"audio": 5}', '{"audio": {"path": "0.wav"}}']
    lines += ["[" * 100_000, '"a"', "", json.dumps(ROWS[0]), json.dumps(ROWS[1])]
    (folder / "train.jsonl").write_text("\n".join(lines))
    found = read_data(folder)
    assert set(_captions(found)) == {"0.wav", "1.wav"}
    assert list(_skipped(found)) == [f"train.jsonl:{n}" for n in range(1, 10)]


def test_fields_that_are_understood(folder: Path) -> None:
    row = {
        "audio": "0.wav",
        "caption": ["solo  piano", "a piano\nalone", "solo piano"],
        "captions": "calm keys",
        "tags": "piano, calm",
        "genre_tags": None,
        "bpm": 10**400,
        "windows": [{"start": "1.5", "captions": "a chord, held"}, {"start": None, "captions": []}],
    }
    (folder / "train.jsonl").write_text("\n".join(json.dumps(each) for each in (row, ROWS[1])))
    found = read_data(folder)
    assert not found.skipped
    (entry,) = [e for e in found.splits["valid"] if e.path.name == "0.wav"]
    assert entry.captions == ("solo piano", "a piano alone", "calm keys")
    assert entry.tags == ("piano", "calm")
    assert entry.windows == ((1.5, ("a chord, held",)),)


def test_a_song_is_held_out_with_all_of_its_rows(folder: Path) -> None:
    again = [{**row, "caption": "the same again"} for row in ROWS]
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, [*ROWS, *again])))
    splits = read_data(folder).splits
    held, heard = ({e.path for e in splits[name]} for name in ("valid", "train"))
    assert [e.path.name for e in splits["valid"]] == ["0.wav", "0.wav"]
    assert heard and not held & heard


def test_a_window_may_have_one_caption(folder: Path) -> None:
    row = ROWS[0] | {"windows": [{"start": 2, "caption": "a solo"}]}
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, [row, ROWS[1]])))
    (entry,) = read_data(folder).splits["valid"]
    assert entry.windows == ((2.0, ("a solo",)),)


# --- the Hub's AudioFolder ------------------------------------------------------------------------


def _rows(names: list[str]) -> list[dict[str, str]]:
    return [{"file_name": name, "text": f"song, {name}"} for name in names]


def _write(path: Path, rows: list[dict[str, str]], delimiter: str = ",") -> None:
    if path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows))
        return
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        table = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        table.writeheader()
        table.writerows(rows)


@pytest.mark.parametrize("table", ["metadata.jsonl", "metadata.csv"])
def test_an_audio_folder(folder: Path, table: str) -> None:
    rows = _rows(["0.wav", "1.wav"])
    _write(folder / table, rows)
    found = read_data(folder)
    assert not found.skipped
    assert _captions(found) == {row["file_name"]: (row["text"],) for row in rows}
    assert _captions(read_data(folder / table)) == _captions(found)


@pytest.mark.parametrize("table", ["metadata.jsonl", "metadata.csv"])
def test_splits_of_an_audio_folder(tmp_path: Path, table: str) -> None:
    for split, count in (("train", 3), ("validation", 1), ("test", 2)):
        names = [f"{split}-{n}.wav" for n in range(count)]
        for name in names:
            _song(tmp_path / split / name)
        _write(tmp_path / split / table, _rows(names))
    sizes = {"train": 3, "valid": 1, "test": 2}
    assert {k: len(v) for k, v in read_data(tmp_path).splits.items()} == sizes
    for file in tmp_path.rglob(table):
        file.unlink()
    names = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.wav"))
    _write(tmp_path / table, _rows(names))  # one table for all of them
    assert {k: len(v) for k, v in read_data(tmp_path).splits.items()} == sizes


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_tables_of_spreadsheets(folder: Path, delimiter: str) -> None:
    rows = [
        {"file_name": "0.wav", "caption": 'solo piano; slow, "calm"\nand low', "bpm": "120"},
        {"file_name": "1.wav", "caption": "drums", "bpm": ""},
    ]
    _write(folder / "metadata.csv", rows, delimiter)
    found = read_data(folder)
    assert not found.skipped
    (entry,) = [e for e in found.splits["valid"] if e.path.name == "0.wav"]
    assert entry.captions == ('solo piano; slow, "calm" and low',) and entry.tags == ("122 bpm",)
    assert not found.splits["train"][0].tags


def test_rows_of_a_table_that_can_not_be_used(folder: Path) -> None:
    (folder / "metadata.csv").write_text(
        "file_name,caption\n0.wav,solo piano\n1.wav,solo piano, slow\n2.wav\n,drums\n"
    )
    found = read_data(folder)
    assert set(_captions(found)) == {"0.wav"}
    said = _skipped(found)
    assert "more cells than the header has" in said["metadata.csv:3"]
    assert "the caption is empty" in said["2.wav"]
    assert "names no audio file" in said["metadata.csv:5"]


def test_a_table_of_parquet_is_told(folder: Path) -> None:
    (folder / "metadata.parquet").write_bytes(b"PAR1")
    with pytest.raises(MusicotError, match="Parquet isn't read"):
        read_data(folder)


# --- folders of audio -----------------------------------------------------------------------------


def test_what_is_read_is_used_and_the_rest_is_named(tmp_path: Path) -> None:
    for name, options in {
        "a.wav": {},
        "b.FLAC": {"format": "FLAC"},
        "c.opus": {"format": "OGG", "subtype": "OPUS"},
        "deep/d.caf": {},
        "e.aifc": {"format": "AIFF"},
        "f.w64": {},
        "g.au": {},
        "h.oga": {"format": "OGG", "subtype": "VORBIS"},
        "i.mp3": {},
    }.items():
        _song(tmp_path / name, **options)
    for name in ("x.m4a", "x.aac", "x.WMA", "deep/x.webm", "x.mp4", "x.wv"):
        (tmp_path / name).write_bytes(b"\0\0\0\x20ftypM4A of another kind")
    for name in (".hidden.wav", ".cache/a.wav", "deep/.trash/b.wav", "__MACOSX/._a.wav"):
        _song(tmp_path / name, format="WAV")
    (tmp_path / "cover.jpg").write_bytes(b"\xff\xd8")
    (tmp_path / "folder.wav").mkdir()
    found = read_data(tmp_path, trigger="zyx")
    assert set(_captions(found)) == {
        *("a.wav", "b.FLAC", "c.opus", "d.caf", "e.aifc", "f.w64", "g.au", "h.oga", "i.mp3")
    }
    named = {"x.m4a", "x.aac", "x.WMA", str(Path("deep/x.webm")), "x.mp4", "x.wv"}
    assert set(_skipped(found)) == named
    assert all("not readable as audio" in each.why for each in found.skipped)


def test_a_folder_below_a_hidden_one_is_searched(tmp_path: Path) -> None:
    _song(tmp_path / ".cache" / "songs" / "a.wav")
    _song(tmp_path / ".cache" / "songs" / "b.wav")
    assert read_data(tmp_path / ".cache" / "songs", trigger="zyx").usable == 2


def test_only_what_can_not_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.m4a").write_bytes(b"no audio that is known here")
    assert main(["lora", "--train", "--data", str(tmp_path), "--model", "musicot-mini"]) == 2
    assert "skipped a.m4a" in capsys.readouterr().err
