"""What is known of a folder's songs: style, instruments, tempo, key, words, whose they are.

From the folder's own metadata (records.py: the band's metadata.json, train.jsonl, AudioFolder, a
.txt beside a song), and from the settings beside a song that this project made. Tempo words are
those of the prompts that models are trained on: slow below 92 BPM, fast above 122.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from musicot_mlx.errors import MusicotError
from musicot_mlx.pipelines.sidecar import sidecar_of
from musicot_mlx.texts import one_line, read_json
from musicot_mlx.tokens.harmony import Key, parse_key
from musicot_mlx.tokens.instruments import FAMILIES, families_in, family_of
from musicot_mlx.tokens.tempo import named_tempo
from musicot_mlx.training.data import look_at
from musicot_mlx.training.records import AUDIO_FIELDS, Skipped, first_of, records_of

SLOW, FAST = 92.0, 122.0  # BPM below which music is slow, and above which it is fast
LONGEST = 30.0  # minutes
UNKNOWN = "unknown"
_CAPTIONS = ("text_prompt", "caption", "prompt", "text")


@dataclass(frozen=True)
class KnownSong:
    """A song and what is true of it; None and empty where nothing is known.

    instruments: by name ("electric piano"). licence, origin: as they were told, or "unknown".
    """

    path: Path
    captions: tuple[str, ...] = ()
    style: str | None = None
    instruments: tuple[str, ...] = ()
    bpm: float | None = None
    key: Key | None = None
    licence: str = UNKNOWN
    origin: str = UNKNOWN

    @property
    def families(self) -> tuple[str, ...]:
        found = {family_of(name) for name in self.instruments}
        return tuple(family for family in FAMILIES if family in found)

    @property
    def tempo_word(self) -> str | None:
        """Slow, medium or fast."""
        if self.bpm is None:
            return None
        return "slow" if self.bpm < SLOW else "fast" if self.bpm > FAST else "medium"

    def edited(self, path: Path, *, speed: float = 1.0, semitones: float = 0.0) -> "KnownSong":
        """What is known of the song played `speed` times as fast, or so many semitones higher; its
        captions may tell of the old tempo or key, so they go.
        """
        key = self.key.transposed(int(semitones)) if self.key and not semitones % 1 else None
        return replace(self, path=path, captions=(), bpm=self.bpm and self.bpm * speed, key=key)

    def facts(self) -> str:
        """All of it in a sentence's words: "fast jazz in D minor at 140 BPM with piano and bass";
        empty where nothing is known.
        """
        if not (self.style or self.instruments or self.bpm or self.key):
            return ""
        tempo = {"medium": "mid-tempo"}.get(self.tempo_word or "", self.tempo_word)
        words = " ".join(word for word in (tempo, self.style or "music") if word)
        words += f" in {self.key}" if self.key else ""
        words += f" at {round(self.bpm)} BPM" if self.bpm else ""
        names = self.instruments and (self.specific() or self.families)
        return words + (f" with {listed(names)}" if names else "")

    def specific(self) -> tuple[str, ...]:
        """The instruments by name, without the names of families that others tell better."""
        return tuple(
            name
            for name in self.instruments
            if name not in FAMILIES
            or not any(o != name and family_of(o) == name for o in self.instruments)
        )


def listed(names: tuple[str, ...]) -> str:
    """ "bass, drums and piano"."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def key_of(value: Any) -> Key | None:
    """The key that a field tells; None where it tells none."""
    try:
        return parse_key(value) if isinstance(value, str) and value else None
    except ValueError:
        return None


def known_songs(
    folder: Path,
    *,
    licence: str | None = None,
    describe: Callable[[Path], str] | None = None,
    skipped: list[Skipped],
) -> list[KnownSong]:
    """The songs of a folder of which anything is known, by the order of their names.

    licence: of songs that don't tell theirs. describe: makes the caption of a song that has none.
    What can't be used goes to `skipped`. Raises MusicotError where there is no data set.
    """
    if not folder.is_dir():
        raise MusicotError(f"no folder of songs at {folder}")
    found: dict[Path, KnownSong] = {}
    for records in records_of(folder, skipped).values():
        for name, place, record in records:
            try:
                song = _known(place, record, licence)
                if not song.captions and describe:
                    song = replace(song, captions=(one_line(describe(song.path)),))
                if not song.captions and not song.facts():
                    raise MusicotError(
                        "nothing is known of it; put a caption in a .txt of the same name, or pass "
                        "--model, which listens"
                    )
                found.setdefault(song.path.resolve(), song)
            except MusicotError as error:
                skipped.append(Skipped(name, str(error)))
    return sorted(found.values(), key=lambda song: str(song.path))


def _known(folder: Path, record: dict[str, Any], licence: str | None) -> KnownSong:
    path = folder / first_of(record, AUDIO_FIELDS)
    look_at(path, LONGEST)
    made = _settings(path)
    record = {**made, **{name: value for name, value in record.items() if value not in (None, "")}}
    captions = [*next((c for name in _CAPTIONS if (c := _texts(record, name))), [])]
    captions += _texts(record, "captions")
    styles = _texts(record, "genre_tags") or _texts(record, "genre") or _texts(record, "style")
    instruments = _texts(record, "instrument_tags") or _texts(record, "instruments")
    tags = _texts(record, "tags")
    instruments = instruments or [tag for tag in tags if family_of(tag)]
    if not instruments:
        named = families_in(" ".join(captions[:1]))
        instruments = [family for family in FAMILIES if family in named]
    told = _texts(record, "licence") or _texts(record, "license")
    return KnownSong(
        path=path,
        captions=tuple(dict.fromkeys(captions)),
        style=styles[0] if styles else None,
        instruments=tuple(dict.fromkeys(instruments)),
        bpm=_bpm(record.get("bpm")) or next(filter(None, map(named_tempo, captions)), None),
        key=key_of(record.get("key")),
        licence=told[0] if told else licence or UNKNOWN,
        origin=_origin(record, made),
    )


def _settings(path: Path) -> dict[str, Any]:
    """The settings beside a song that this project made; empty where there are none."""
    sidecar = sidecar_of(path)
    if sidecar is None:
        return {}
    try:
        found = read_json(sidecar)
    except (OSError, ValueError):
        return {}
    names = ("prompt", "bpm", "key", "model", "seed", "version", "licence", "license")
    return {name: found[name] for name in names if found.get(name) is not None}


def _origin(record: dict[str, Any], made: dict[str, Any]) -> str:
    """Where a song came from, in words."""
    told = _texts(record, "origin") or _texts(record, "source")
    if told:
        return told[0]
    if made.get("model"):
        version = f" {made['version']}" if made.get("version") else ""
        return f"made by musicot{version} with {made['model']}, seed {made.get('seed', UNKNOWN)}"
    who = [*_texts(record, "artist"), *_texts(record, "title")]
    return ", ".join(who) if who else UNKNOWN


def _bpm(value: Any) -> float | None:
    try:
        bpm = 0.0 if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return bpm if 0 < bpm < math.inf else None


def _texts(record: dict[str, Any], name: str) -> list[str]:
    """The texts of a field, given as a list, or as one text; none for anything else."""
    value = record.get(name)
    given = value if isinstance(value, list) else [value]
    return [line for each in given if isinstance(each, str) and (line := one_line(each))]
