"""Data sets for tuning: which files there are, what is said of them, and which can't be used.

Four forms, told apart by what lies in the folder (records.py reads them):

- `train.jsonl` (and `valid.jsonl`, `test.jsonl`), a song a line: `audio` and `caption`, or the
  field names below;
- the metadata JSON of the reference trainer (`metadata.json`, or the file itself): `audio_file,
  text_prompt, lyrics, genre_tags, instrument_tags, ...`;
- the Hub's AudioFolder: `metadata.jsonl` or `metadata.csv` with `file_name`, in the folder or in
  one for each split (`train`, `validation`, `test`);
- audio files, each with its caption in a `.txt` of the same name.

Without songs for validation every tenth song is held out, the first one always. Nothing that is
wrong with one file stops a run: it is named, left out and counted.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from musicot_mlx.audio.files import audio_frames
from musicot_mlx.errors import MusicotError, first_few
from musicot_mlx.texts import one_line
from musicot_mlx.tokens.tempo import tempo_of
from musicot_mlx.training.records import AUDIO_FIELDS, Skipped, first_of, records_of, shown

HELD_OUT = 10  # every tenth song, where the data set does not say
FEWEST = 2
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
    records_by_split = records_of(path, skipped)
    splits = {}
    for split, records in records_by_split.items():
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
        reasons = first_few(skipped, "; ")
        raise MusicotError(
            f"{where} holds {usable} usable songs, at least {FEWEST} are needed"
            + (f" ({reasons})" if reasons else "")
        )


def _entry(folder: Path, record: dict[str, Any], trigger: str | None, minutes: float) -> Entry:
    path = folder / first_of(record, AUDIO_FIELDS)
    look_at(path, minutes)
    named = next((name for name in _CAPTION_FIELDS if record.get(name)), _CAPTION_FIELDS[1])
    captions = _texts(record, named)
    if not captions and not trigger:
        raise MusicotError("the caption is empty; describe the music in words")
    captions = [*(captions or [""]), *_texts(record, "captions")]
    lyrics = record.get("lyrics")
    if lyrics is not None and not isinstance(lyrics, str):
        raise MusicotError(f"the lyrics must be a text, got {shown(lyrics)}")
    fields = ("tags", "genre_tags", "instrument_tags")
    tags = [tag for name in fields for tag in _texts(record, name, commas=True)]
    return Entry(
        path=path,
        captions=_triggered(list(dict.fromkeys(captions)), trigger),
        lyrics=_sound(lyrics or "", "the lyrics"),
        tags=tuple(dict.fromkeys([*tags, *tempo_of(record)])),
        windows=tuple(_windows(record, trigger)),
    )


def _windows(
    record: dict[str, Any], trigger: str | None
) -> Iterator[tuple[float, tuple[str, ...]]]:
    """(start in seconds, captions) of the stretches that have captions."""
    windows = record.get("windows") or []
    if not isinstance(windows, list) or not all(isinstance(each, dict) for each in windows):
        raise MusicotError(f"the windows must be a list of objects, got {shown(windows)}")
    for each in windows:
        captions = [*_texts(each, "caption"), *_texts(each, "captions")]
        if captions:
            yield _seconds(each.get("start")), _triggered(captions, trigger)


def _seconds(value: Any) -> float:
    """Where a window starts; MusicotError for what is no number of seconds from 0."""
    try:
        found = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if not 0 <= found < math.inf:
        raise MusicotError(f"a window must start at seconds from 0 on, got {shown(value)}")
    return found


def _triggered(texts: Sequence[str], trigger: str | None) -> tuple[str, ...]:
    if not trigger:
        return tuple(texts)
    return tuple(f"{trigger}, {text}" if text else trigger for text in texts)


def look_at(path: Path, minutes: float) -> None:
    """Raise MusicotError for a file that is absent, empty, no audio, or too long."""
    try:
        there = path.is_file()
    except OSError as error:  # a name that is too long
        raise MusicotError(f"there can be no such file ({error.strerror})") from None
    if not there:
        raise MusicotError("there is no such file")
    if not path.stat().st_size:
        raise MusicotError("the file is empty (0 bytes)")
    try:
        frames, rate = audio_frames(path)
    except MusicotError as error:
        why = str(error).removeprefix(f"can't read {path} as audio").strip()
        raise MusicotError(f"not readable as audio {why}") from error
    seconds = frames / rate
    if seconds > 60 * minutes:
        raise MusicotError(
            f"{seconds / 60:.0f} minutes long; cut it into songs of at most {minutes:g} minutes"
        )
    if seconds < 1:
        raise MusicotError(f"{seconds:.2f} s long; at least 1 s is needed")


def _texts(record: dict[str, Any], name: str, *, commas: bool = False) -> list[str]:
    """The texts of a field, given as a list or as one text (with commas between), each on a line.

    Raises MusicotError for anything else.
    """
    value = record.get(name)
    given = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(each, str) for each in given):
        raise MusicotError(f"{name} must be a text or a list of texts, got {shown(value)}")
    parts = value.split(",") if commas and isinstance(value, str) else given
    return [found for part in parts if (found := one_line(_sound(part, name)))]


def _sound(text: str, name: str) -> str:
    """A text that has no half characters, as "\\ud83d" in JSON is one."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise MusicotError(f"{name} has half a character at {error.start} (a surrogate)") from None
    return text


def _with_held_out(splits: dict[str, list[Entry]]) -> dict[str, list[Entry]]:
    """Every split present: songs for validation are taken from training where none are given."""
    entries = splits.get("train", splits.get("", []))
    valid = splits.get("valid")
    if not valid:
        songs = list(dict.fromkeys(entry.path.resolve() for entry in entries))
        held = set(songs[::HELD_OUT])  # with all of its rows, or training would hear what is held
        valid = [entry for entry in entries if entry.path.resolve() in held]
        entries = [entry for entry in entries if entry.path.resolve() not in held]
    return {"train": entries, "valid": valid, "test": splits.get("test", [])}
