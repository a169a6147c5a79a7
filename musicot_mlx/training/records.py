"""What a data set says of its songs: a record each, from whichever form the folder has.

What can't be read is skipped by name. Fields are checked where an entry is made of them (data.py).
"""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from musicot_mlx.audio.files import audio_files, visible
from musicot_mlx.errors import MusicotError
from musicot_mlx.texts import lines_of, read_json, read_text

SPLITS = ("train", "valid", "test")
AUDIO_FIELDS = ("audio_file", "audio", "file_name", "audio_file_name", "file", "path")
_TABLES = ("metadata.jsonl", "metadata.csv")  # of the Hub's AudioFolder
_SPLIT_FOLDERS = {  # as the Hub reads them
    "train": ("train", "training"),
    "valid": ("valid", "validation", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}


@dataclass(frozen=True)
class Skipped:
    """A file or line that can't be used, and why."""

    name: str
    why: str

    def __str__(self) -> str:
        return f"skipped {self.name}: {self.why}"


Record = tuple[str, Path, dict[str, Any]]  # what to call it, its folder, its fields


def records_of(path: Path, skipped: list[Skipped]) -> dict[str, list[Record]]:
    """Records by split, under "" where the data set has none.

    path: a folder, or a file of JSON, JSON lines or CSV. Raises MusicotError where there is no
    data set.
    """
    if path.is_file():
        return {"": list(_listed(path, skipped))}
    if (path / "train.jsonl").is_file():
        files = {split: path / f"{split}.jsonl" for split in SPLITS}
        return {s: list(_lines(f, skipped)) for s, f in files.items() if f.is_file()}
    if (path / "metadata.json").is_file():
        return {"": list(_metadata(path / "metadata.json", skipped))}
    tables = sorted(p for p in path.rglob("metadata.*") if p.name in _TABLES and visible(p, path))
    if tables:
        return _by_folder(path, [each for table in tables for each in _listed(table, skipped)])
    if (path / "metadata.parquet").is_file():
        raise MusicotError(f"{path}: Parquet isn't read; write its rows as metadata.jsonl or .csv")
    records = list(_captioned(path, skipped))
    if not records and not skipped:
        raise MusicotError(
            f"{path} holds no train.jsonl, no metadata.json and no audio; put songs there, each "
            "with its caption in a .txt of the same name, or name them in a metadata.csv"
        )
    return {"": records}


def _listed(file: Path, skipped: list[Skipped]) -> Iterator[Record]:
    readers = {".jsonl": _lines, ".ndjson": _lines, ".csv": _table, ".tsv": _table}
    return readers.get(file.suffix.lower(), _metadata)(file, skipped)


def _lines(file: Path, skipped: list[Skipped]) -> Iterator[Record]:
    for where, record in json_lines(file, skipped):
        yield from _named(where, file.parent, record, skipped)


def json_lines(file: Path, skipped: list[Skipped]) -> Iterator[tuple[str, Any]]:
    """What each line of a file holds as JSON, with its name; lines that are none go to `skipped`.

    Raises MusicotError for a file that can't be read.
    """
    for number, line in enumerate(lines_of(_text(file)), start=1):
        if not line.strip():
            continue
        where = f"{file.name}:{number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            skipped.append(Skipped(where, f"not JSON ({error})"))
            continue
        yield where, record


def _table(file: Path, skipped: list[Skipped]) -> Iterator[Record]:
    """Rows of a CSV under a header, with commas, semicolons or tabs between, as its header has."""
    text = _text(file)
    header = text.partition("\n")[0]
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=header.count))
    while True:
        try:
            record = next(rows, None)
        except csv.Error as error:
            raise MusicotError(f"{file} is not CSV ({error})") from error
        if record is None:
            return
        where = f"{file.name}:{rows.line_num}"
        if None in record:
            skipped.append(
                Skipped(where, "more cells than the header has; put captions in double quotes")
            )
        else:
            yield from _named(where, file.parent, record, skipped)


def _metadata(file: Path, skipped: list[Skipped]) -> Iterator[Record]:
    for where, record in json_list(file, "a song"):
        yield from _named(where, file.parent, record, skipped)


def json_list(file: Path, what: str) -> Iterator[tuple[str, Any]]:
    """The entries of a JSON list, each with its name; MusicotError for a file that holds none."""
    try:
        records = read_json(file)
    except OSError as error:
        raise MusicotError(f"can't read {file} ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise MusicotError(f"{file} is not JSON: {error}") from error
    if not isinstance(records, list):
        raise MusicotError(f"{file} must hold a list with an entry {what}")
    for number, record in enumerate(records, start=1):
        yield f"{file.name}, entry {number}", record


def _named(where: str, folder: Path, record: Any, skipped: list[Skipped]) -> Iterator[Record]:
    name = first_of(record, AUDIO_FIELDS) if isinstance(record, dict) else None
    if name is None:
        skipped.append(Skipped(where, f"it names no audio file; give {AUDIO_FIELDS[1]!r}"))
    elif not isinstance(name, str):
        skipped.append(Skipped(where, f"the audio must be the name of a file, got {shown(name)}"))
    else:
        yield name, folder, record


def _by_folder(root: Path, records: Sequence[Record]) -> dict[str, list[Record]]:
    """Splits by the folders that files lie in; those that name none are for training."""
    found: dict[str, list[Record]] = {"train": []}
    for record in records:
        name, folder, _ = record
        try:
            folders = (folder / name).relative_to(root).parts[:-1]
        except ValueError:
            folders = ()  # a file elsewhere
        split = next(
            (s for part in folders for s, names in _SPLIT_FOLDERS.items() if part.lower() in names),
            "train",
        )
        found.setdefault(split, []).append(record)
    return found


def _captioned(folder: Path, skipped: list[Skipped]) -> Iterator[Record]:
    for path in audio_files(folder):
        name, caption = str(path.relative_to(folder)), path.with_suffix(".txt")
        record: dict[str, Any] = {"audio": name}
        try:
            if caption.is_file():
                record["caption"] = read_text(caption)
        except OSError as error:
            skipped.append(Skipped(name, f"can't read {caption.name} ({error.strerror})"))
        except MusicotError as error:
            skipped.append(Skipped(name, str(error)))
        else:
            yield name, folder, record


def _text(file: Path) -> str:
    try:
        return read_text(file)
    except OSError as error:
        raise MusicotError(f"can't read {file} ({error.strerror})") from error


def first_of(record: dict[str, Any], names: Sequence[str]) -> Any:
    """The first field of these names that holds anything, or None."""
    return next((record[name] for name in names if record.get(name) not in (None, "", [])), None)


def shown(value: Any) -> str:
    """A value as JSON writes it, cut to what fits a line."""
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
