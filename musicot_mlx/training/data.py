"""Data sets for tuning: which files there are, what is said of them, and which can't be used.

Three forms, told apart by what lies in the folder:

- `train.jsonl` (and `valid.jsonl`, `test.jsonl`), a song a line: `audio` and `caption`, or the
  field names below;
- the metadata JSON of the reference trainer (`metadata.json`, or the file itself): `audio_file,
  text_prompt, lyrics, genre_tags, instrument_tags, ...`;
- audio files, each with its caption in a `.txt` of the same name.

Without a valid.jsonl every tenth song is held out, the first one always. Nothing that is wrong with
one file stops a run: it is named, left out and counted.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import soundfile

from musicot_mlx.errors import MusicotError
from musicot_mlx.tokens.tempo import tempo_of

AUDIO_SUFFIXES = {".wav", ".flac", ".mp3", ".ogg", ".aif", ".aiff"}
SPLITS = ("train", "valid", "test")
HELD_OUT = 10  # every tenth song, where the data set does not say
FEWEST = 2
_AUDIO_FIELDS = ("audio_file", "audio", "file", "path")
_CAPTION_FIELDS = ("text_prompt", "caption", "prompt", "text")


@dataclass(frozen=True)
class Entry:
    """A song of a data set: its file, what is said of it, its tags, and captions of its stretches.

    windows: (start in seconds, captions) where the metadata has them.
    """

    path: Path
    captions: tuple[str, ...]
    lyrics: str = ""
    tags: tuple[str, ...] = ()
    windows: tuple[tuple[float, tuple[str, ...]], ...] = ()

    def captions_near(self, start: float, within: float) -> tuple[str, ...]:
        """Captions of the stretch that starts at `start` seconds, else of the song."""
        near = [w for w in self.windows if abs(w[0] - start) <= within]
        return min(near, key=lambda w: abs(w[0] - start))[1] if near else self.captions


@dataclass(frozen=True)
class Skipped:
    """A file or line that can't be used, and why."""

    name: str
    why: str

    def __str__(self) -> str:
        return f"skipped {self.name}: {self.why}"


@dataclass
class DataSet:
    """Songs by split, and what was skipped."""

    splits: dict[str, list[Entry]]
    skipped: list[Skipped] = field(default_factory=list)

    @property
    def usable(self) -> int:
        return sum(map(len, self.splits.values()))


def read_data(
    path: str | Path, *, trigger: str | None = None, max_minutes: float = 30.0
) -> DataSet:
    """A data set, each of its files looked at but not read.

    trigger: a word that every caption begins with; it stands in for captions that are missing.
    Songs longer than max_minutes are skipped. Raises MusicotError when the place holds no data set.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise MusicotError(f"no data at {path}; pass a folder with train.jsonl or audio files")
    skipped: list[Skipped] = []
    if path.is_file():
        found = {"": list(_metadata(path, skipped))}
    elif (path / "train.jsonl").is_file():
        files = {split: path / f"{split}.jsonl" for split in SPLITS}
        found = {s: list(_lines(f, skipped)) for s, f in files.items() if f.is_file()}
    elif (path / "metadata.json").is_file():
        found = {"": list(_metadata(path / "metadata.json", skipped))}
    else:
        found = {"": list(_captioned(path))}
        if not found[""]:
            raise MusicotError(
                f"{path} holds no train.jsonl, no metadata.json and no audio; put songs there, "
                "each with its caption in a .txt of the same name"
            )
    splits = {}
    for split, records in found.items():
        splits[split] = []
        for name, folder, record in records:
            try:
                splits[split].append(_entry(folder, record, trigger, max_minutes))
            except MusicotError as error:
                skipped.append(Skipped(name, str(error)))
    return DataSet(_with_held_out(splits), skipped)


def require_enough(usable: int, skipped: Sequence[Skipped], where: str | Path) -> None:
    """Raise MusicotError where fewer than two songs can be used, with the reasons."""
    if usable < FEWEST:
        reasons = "; ".join(map(str, skipped[:3])) + ("; ..." if len(skipped) > 3 else "")
        raise MusicotError(
            f"{where} holds {usable} usable songs, at least {FEWEST} are needed"
            + (f" ({reasons})" if reasons else "")
        )


Record = tuple[str, Path, dict[str, Any]]  # what to call it, its folder, its fields


def _lines(file: Path, skipped: list[Skipped]) -> Iterator[Record]:
    for number, line in enumerate(_text(file).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            skipped.append(Skipped(f"{file.name}:{number}", f"not JSON ({error})"))
            continue
        yield from _named(f"{file.name}:{number}", file.parent, record, skipped)


def _metadata(file: Path, skipped: list[Skipped]) -> Iterator[Record]:
    try:
        records = json.loads(_text(file))
    except ValueError as error:
        raise MusicotError(f"{file} is not JSON: {error}") from error
    if not isinstance(records, list):
        raise MusicotError(f"{file} must hold a list with an entry a song")
    for number, record in enumerate(records, start=1):
        yield from _named(f"{file.name}, entry {number}", file.parent, record, skipped)


def _named(where: str, folder: Path, record: Any, skipped: list[Skipped]) -> Iterator[Record]:
    name = _first(record, _AUDIO_FIELDS) if isinstance(record, dict) else None
    if name is None:
        skipped.append(Skipped(where, f"it names no audio file; give {_AUDIO_FIELDS[1]!r}"))
    else:
        yield str(name), folder, record


def _captioned(folder: Path) -> Iterator[Record]:
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in AUDIO_SUFFIXES and not path.name.startswith("."):
            caption = path.with_suffix(".txt")
            record: dict[str, Any] = {"audio": str(path.relative_to(folder))}
            if caption.is_file():
                record["caption"] = caption.read_text(encoding="utf-8", errors="replace")
            yield record["audio"], folder, record


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise MusicotError(f"can't read {file} ({error})") from error


def _first(record: dict[str, Any], names: Sequence[str]) -> Any:
    return next((record[name] for name in names if record.get(name)), None)


def _entry(folder: Path, record: dict[str, Any], trigger: str | None, minutes: float) -> Entry:
    path = folder / str(_first(record, _AUDIO_FIELDS))
    _look_at(path, minutes)
    caption = " ".join(str(_first(record, _CAPTION_FIELDS) or "").split())
    if not caption and not trigger:
        raise MusicotError("the caption is empty; describe the music in words")
    others = _strings(record.get("captions"), commas=False)

    def triggered(texts: Sequence[str]) -> tuple[str, ...]:
        if not trigger:
            return tuple(texts)
        return tuple(f"{trigger}, {text}" if text else trigger for text in texts)

    return Entry(
        path=path,
        captions=triggered(list(dict.fromkeys([caption, *others]))),
        lyrics=str(record.get("lyrics") or ""),
        tags=tuple(
            dict.fromkeys(
                tag
                for tags in (
                    *(_strings(record.get(n)) for n in ("tags", "genre_tags", "instrument_tags")),
                    tempo_of(record),
                )
                for tag in tags
            )
        ),
        windows=tuple(
            (float(w["start"]), triggered(_strings(w["captions"], commas=False)))
            for w in record.get("windows") or ()
            if isinstance(w, dict) and w.get("captions") and "start" in w
        ),
    )


def _look_at(path: Path, minutes: float) -> None:
    """Raise MusicotError for a file that is absent, empty, no audio, or too long."""
    if not path.is_file():
        raise MusicotError("there is no such file")
    if not path.stat().st_size:
        raise MusicotError("the file is empty (0 bytes)")
    try:
        seconds = soundfile.info(path).duration
    except (soundfile.SoundFileError, RuntimeError) as error:
        why = getattr(error, "error_string", None) or str(error)
        raise MusicotError(f"not readable as audio ({why.strip().rstrip('.')})") from error
    if seconds > 60 * minutes:
        raise MusicotError(
            f"{seconds / 60:.0f} minutes long; cut it into songs of at most {minutes:g} minutes"
        )
    if seconds < 1:
        raise MusicotError(f"{seconds:.2f} s long; at least 1 s is needed")


def _strings(value: Any, *, commas: bool = True) -> list[str]:
    """A field's strings, given as a list or as one string (with commas between)."""
    if not value:
        return []
    if isinstance(value, str):
        value = value.split(",") if commas else [value]
    return [str(item).strip() for item in value if str(item).strip()]


def _with_held_out(splits: dict[str, list[Entry]]) -> dict[str, list[Entry]]:
    """Every split present: songs for validation are taken from training where none are given."""
    entries = splits.get("train", splits.get("", []))
    valid = splits.get("valid")
    if not valid:
        valid, entries = entries[::HELD_OUT], [e for i, e in enumerate(entries) if i % HELD_OUT]
    return {"train": entries, "valid": valid, "test": splits.get("test", [])}
