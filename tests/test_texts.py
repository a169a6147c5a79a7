"""Texts from any editor are what was written, or refused by name: never another text."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from musicot_mlx.errors import MusicotError
from musicot_mlx.texts import decoded, lines_of, one_line, read_json, read_text

TEXTS = {
    "English": "solo piano, slow\nand calm\n",
    "German": "Übermütige Geigen und Flöten",
    "Russian": "медленное пианино и скрипка\n",
    "Greek": "αργό πιάνο\n",
    "Japanese": "静かなピアノの曲、ゆっくり\n",
    "emoji": "🎹 piano 🎻\n",
    "JSON": '{"audio": "a.wav", "caption": "solo piano"}\n',
    "nothing": "",
}
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32")


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("name", TEXTS)
def test_encodings_that_are_read(tmp_path: Path, name: str, encoding: str) -> None:
    (tmp_path / "a.txt").write_bytes(TEXTS[name].replace("\n", "\r\n").encode(encoding))
    assert read_text(tmp_path / "a.txt") == TEXTS[name]


@pytest.mark.parametrize("name", TEXTS)
def test_marked_utf16_of_either_order(name: str) -> None:
    for encoding in ("utf-16-le", "utf-16-be", "utf-32-be"):
        assert decoded(("\ufeff" + TEXTS[name]).encode(encoding), "a") == TEXTS[name]


@given(st.text("aeiouäöüéè nrst\nавежлшдц静かな", max_size=30))
def test_no_encoding_gives_another_text(text: str) -> None:
    for encoding in (*ENCODINGS, "latin-1", "cp1251", "shift-jis", "utf-32-le"):
        try:
            found = decoded(text.encode(encoding), "a")
        except UnicodeEncodeError:
            continue  # it has no such letters
        except MusicotError:
            assert encoding not in ("utf-8", "utf-8-sig", "utf-16", "utf-32")
            continue
        assert found == text or encoding in ("cp1251", "shift-jis", "utf-16-le", "utf-16-be")


@pytest.mark.parametrize(
    "data",
    [
        "café".encode("latin-1"),
        "пианино".encode("cp1251"),
        b"solo\0piano",
        b"solo piano\0\0",
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
        b"\xff\xfea",  # half of a UTF-16 character
        b"\xff\xfe\x00\xd8a\x00",  # half a pair
    ],
)
def test_what_is_no_text_is_named(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "caption.txt").write_bytes(data)
    with pytest.raises(MusicotError, match=r"caption.txt is not UTF-8 text .*save it as UTF-8"):
        read_text(tmp_path / "caption.txt")


def test_marks_between_files_that_were_joined() -> None:
    assert decoded("\ufeffone\n\ufefftwo".encode(), "a") == "one\ntwo"


def test_a_mark_within_a_line_stands(tmp_path: Path) -> None:
    text = '{"vocab": {"\ufeff": 5}}'  # as a tokenizer may have it
    (tmp_path / "a.json").write_text("\ufeff" + text, encoding="utf-8")
    assert read_json(tmp_path / "a.json") == {"vocab": {"\ufeff": 5}}


def test_only_line_ends_end_lines() -> None:
    text = "a\u2028b\u2029c\x85d\x0ce\x1cf\ng"
    assert lines_of(text) == ["a\u2028b\u2029c\x85d\x0ce\x1cf", "g"]
    assert one_line("\ufeff solo\u2028piano,\n  slow ") == "solo piano, slow"


def test_json_that_is_nested_without_end(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="nested too deep"):
        read_json(tmp_path / "a.json")
    (tmp_path / "b.json").write_bytes(json.dumps({"a": "é"}).encode("utf-16"))
    assert read_json(tmp_path / "b.json") == {"a": "é"}
