"""Questions, captions, edits and instructions made of known songs, as MuMu-LLaMA's trainer reads
them.

Each set is a JSON list, an entry a line: `input_file`, `output_file` (relative to the set's folder;
empty where there is none) and `conversations`, a turn of the human and one of the model with what
each is (`input_modality`, `output_modality`) and the caption of music that comes out; questions
also have the `audio_name` that upstream's MusicQA class asks for. Beyond upstream each entry tells
its `kind`, the song's `licence` and its `origin`. What is said of a song is drawn by the seed and
the song's name alone, so a song more changes no other.
"""

import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from musicot_mlx.atomic import write_json, write_text
from musicot_mlx.audio.files import read_audio, write_audio
from musicot_mlx.audio.stretch import stretched, transposed
from musicot_mlx.errors import MusicotError
from musicot_mlx.texts import read_json
from musicot_mlx.tokens.instruments import FAMILIES
from musicot_mlx.training.known_songs import UNKNOWN, KnownSong, listed

Set = Literal["questions", "captions", "edits", "instructions"]
SETS: tuple[Set, ...] = get_args(Set)
SPEEDS = (0.5, 0.7, 1.0, 1.3, 1.5)  # upstream's factors; here 1.5 is faster
CENTS = (-200, -100, 100, 200)
HELD_OUT = 10  # every tenth song is for validation, the first one always
MANIFEST = "dataset.json"
VERSION = 1  # of what is drawn: other sets need another number

QUESTIONS: dict[str, tuple[str, ...]] = {
    "instruments": (
        "What instruments play in this music?",
        "Which instruments can be heard?",
        "What instruments play?",
        "Name the instruments of this song.",
    ),
    "tempo": (
        "Is this music slow, medium or fast?",
        "How fast is this music?",
        "What is the tempo of this song?",
        "Is the tempo slow, medium or fast?",
    ),
    "bpm": ("How many beats a minute does this music have?", "What is the tempo in BPM?"),
    "key": (
        "What key is this music in?",
        "Which key is this song in?",
        "In what key is it played?",
        "Name the key of this music.",
    ),
    "style": (
        "What style of music is this?",
        "Which genre is this song?",
        "What kind of music is it?",
        "Name the style of this music.",
    ),
    "presence": ("Can you hear {thing}?", "Is there {thing} in this music?", "Does {thing} play?"),
}
ANSWERS = {
    "instruments": "You hear {}.",
    "tempo": "The tempo is {}.",
    "bpm": "It has about {} beats a minute.",
    "key": "It is in {}.",
    "style": "The style is {}.",
    "presence": "{}.",
}
DESCRIBE = (
    "Describe the music in detail.",
    "Describe this music in a sentence.",
    "What does this music sound like?",
    "Write a caption for this song.",
)
REQUESTS = ("Generate {}.", "Make {}.", "I would like to hear {}.", "Play {}.", "Compose {}.")
CHANGES = ("Play it {}.", "Make this music {}.", "The same, but {}.", "Change it to be {}.")


@dataclass(frozen=True)
class SetOptions:
    """What is made. edits: of a song at most. seed: same seed, same sets."""

    sets: tuple[Set, ...] = SETS
    edits: int = 2
    speeds: tuple[float, ...] = SPEEDS
    cents: tuple[int, ...] = CENTS
    seed: int = 0

    def __post_init__(self) -> None:
        unknown = [name for name in self.sets if name not in SETS]
        if unknown or not self.sets:
            raise MusicotError(f"sets are {', '.join(SETS)}; got {', '.join(unknown) or 'none'}")


Entry = dict[str, Any]
Progress = Callable[[int, int], None]


def make_sets(
    songs: Sequence[KnownSong],
    folder: Path,
    options: SetOptions,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> dict[str, int]:
    """Write the sets of some songs into a folder; how many entries each has.

    `<set>.json` is for training, `valid/<set>.json` of every tenth song for validation, `audio/`
    holds the edits. An interrupted run goes on where it stopped. Raises MusicotError for a folder
    that holds another data set, or files that are none of ours, unless overwrite is set.
    """
    if not songs:
        raise MusicotError("there are no songs to make a data set of")
    _begin(folder, songs, options, overwrite=overwrite)
    made: dict[tuple[bool, str], list[Entry]] = {}
    for number, song in enumerate(songs):
        if progress:
            progress(number, len(songs))
        for name, entry in _entries(song, folder, options):
            made.setdefault((number % HELD_OUT == 0 and len(songs) > 1, name), []).append(entry)
    counts = dict.fromkeys(options.sets, 0)
    for (held_out, name), entries in made.items():
        write_text(_file(folder, name, held_out), _as_json(entries))
        counts[name] += len(entries)
    write_json(folder / MANIFEST, {**_manifest(songs, options, folder), "complete": True})
    if progress:
        progress(len(songs), len(songs))
    return counts


def _begin(
    folder: Path, songs: Sequence[KnownSong], options: SetOptions, *, overwrite: bool
) -> None:
    """Make the folder ready, or refuse it before anything is written."""
    manifest = _manifest(songs, options, folder)
    if folder.is_dir() and any(not each.name.startswith(".") for each in folder.iterdir()):
        try:
            found = read_json(folder / MANIFEST)
        except (OSError, ValueError):
            found = None
        ours = isinstance(found, dict) and "complete" in found
        same = ours and {**found, "complete": False} == {**manifest, "complete": False}
        if not ours and not overwrite:
            raise MusicotError(f"{folder} holds files that are no data set; name another folder")
        if ours and found["complete"] and not overwrite:
            raise MusicotError(
                f"{folder} is a finished data set; name another folder, or ask to replace it "
                "(--overwrite)"
            )
        if ours and not same and not overwrite:
            raise MusicotError(
                f"{folder} was begun with other songs or settings; go on with those, name another "
                "folder, or ask to replace it (--overwrite)"
            )
        if ours and overwrite and not same:
            for name in SETS:
                for held_out in (False, True):
                    _file(folder, name, held_out).unlink(missing_ok=True)
            shutil.rmtree(folder / "audio", ignore_errors=True)
    write_json(folder / MANIFEST, manifest)


def _manifest(songs: Sequence[KnownSong], options: SetOptions, folder: Path) -> dict[str, Any]:
    """What decides the sets: settings, and a number for what is known of all songs."""
    told = [repr(replace(song, path=Path(_relative(song.path, folder)))) for song in songs]
    known = zlib.crc32("\n".join(told).encode())
    settings = json.loads(json.dumps(asdict(options)))
    licences = sorted({song.licence for song in songs})
    return {"version": VERSION, "songs": len(songs), "known": known, "licences": licences,
            **settings, "complete": False}  # fmt: skip


def _file(folder: Path, name: str, held_out: bool) -> Path:
    return (folder / "valid" if held_out else folder) / f"{name}.json"


def _as_json(entries: Sequence[Entry]) -> str:
    """A JSON list with an entry a line."""
    lines = ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in entries)
    return f"[\n{lines}\n]\n"


def _entries(song: KnownSong, folder: Path, options: SetOptions) -> Iterator[tuple[str, Entry]]:
    """All entries of a song, the edits of it rendered where they are not there yet."""
    place = zlib.crc32(_relative(song.path, folder).encode())
    drawn = {name: np.random.default_rng([options.seed, place, n]) for n, name in enumerate(SETS)}
    found: list[tuple[str, Entry]] = []
    if "questions" in options.sets:
        found += [("questions", entry) for entry in questions(song, drawn["questions"])]
    if "captions" in options.sets:
        found += [("captions", entry) for entry in captions(song, drawn["captions"])]
    if "edits" in options.sets:
        for entry, result in edits(song, drawn["edits"], folder=folder, options=options):
            found.append(("edits", entry))
            if "questions" in options.sets and result.path != song.path:
                found += [("questions", each) for each in questions(result, drawn["questions"])]
    if "instructions" in options.sets:
        found += [("instructions", entry) for entry in instructions(song, drawn["instructions"])]
    for name, entry in found:
        for key in ("input_file", "output_file"):
            entry[key] = _relative(Path(entry[key]), folder) if entry[key] else ""
        if name == "questions":
            entry["audio_name"] = entry["input_file"]
        yield name, entry


def _relative(path: Path, folder: Path) -> str:
    """A path as upstream joins it to the folder of the set."""
    return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()


def _entry(
    song: KnownSong, kind: str, said: str, answer: str, *, caption: str = "",
    source: str = "audio", output: Path | None = None,
) -> Entry:  # fmt: skip
    """One exchange. caption: of the music that comes out. output: that music."""
    human = {"from": "human", "value": said, "input_modality": source, "caption": ""}
    model = {"from": "gpt", "value": answer, "caption": caption}
    model["output_modality"] = "audio" if output else "text"
    return {
        "input_file": str(song.path) if source == "audio" else "",
        "output_file": str(output) if output else "",
        "conversations": [human, model],
        "kind": kind,
        "licence": song.licence,
        "origin": song.origin,
    }


def facts_of(song: KnownSong) -> dict[str, str]:
    """The answer to each kind of question that can be answered."""
    found = {
        "instruments": listed(song.families) if song.families else None,
        "tempo": song.tempo_word,
        "bpm": str(round(song.bpm)) if song.bpm else None,
        "key": str(song.key) if song.key else None,
        "style": song.style,
    }
    return {kind: answer for kind, answer in found.items() if answer}


def questions(song: KnownSong, rng: np.random.Generator) -> Iterator[Entry]:
    """One question of each kind that can be answered, and two of instruments that do or don't
    play.
    """
    for kind, answer in facts_of(song).items():
        said = str(rng.choice(QUESTIONS[kind]))
        yield _entry(song, kind, said, ANSWERS[kind].format(answer))
    absent = [family for family in FAMILIES if family not in song.families]
    for family, there in ((song.families, True), (absent, False)):
        if song.families and family:
            form = str(rng.choice(QUESTIONS["presence"]))
            said = form.format(thing=str(rng.choice(family)))
            yield _entry(song, "presence", said, "Yes." if there else "No.")


def captions(song: KnownSong, rng: np.random.Generator) -> Iterator[Entry]:
    """One caption: of those that were given, or of the facts."""
    said = caption_of(song, rng)
    if said:
        yield _entry(song, "caption", str(rng.choice(DESCRIBE)), _sentence(said), caption=said)


def instructions(song: KnownSong, rng: np.random.Generator) -> Iterator[Entry]:
    """Words to music: what the song is asked for by, and the song."""
    said = caption_of(song, rng)
    if said:
        asked = str(rng.choice(REQUESTS)).format(said.rstrip("."))
        answer = f"Here is the music: {_sentence(said)}"
        yield _entry(
            song, "instruction", asked, answer, caption=said, source="text", output=song.path
        )


def caption_of(song: KnownSong, rng: np.random.Generator) -> str:
    return str(rng.choice(song.captions)) if song.captions else song.facts()


def _sentence(words: str) -> str:
    return words[:1].upper() + words[1:] + ("" if words.endswith((".", "!", "?")) else ".")


def edits(
    song: KnownSong, rng: np.random.Generator, *, folder: Path, options: SetOptions
) -> Iterator[tuple[Entry, KnownSong]]:
    """The song faster, slower, higher or lower, as asked for in words, and what is known of that;
    rendered in folder/audio.
    """
    kinds = [("speed", value) for value in options.speeds]
    kinds += [("pitch", value) for value in options.cents]
    drawn = rng.permutation(len(kinds))[: options.edits]
    for kind, value in (kinds[index] for index in sorted(drawn.tolist())):
        sign = "" if kind == "speed" else "+"
        made = folder / "audio" / f"{_stem(song.path, folder)}-{kind}{value:{sign}g}.flac"
        path = song.path if (kind, value) == ("speed", 1.0) else made
        if kind == "speed":
            told = f"{value:g} times as fast"
            result = song.edited(path, speed=value)
        else:
            told = f"{_interval(value)} {'higher' if value > 0 else 'lower'}"
            result = song.edited(path, semitones=value / 100)
        if not path.is_file():
            _render(song.path, path, kind, value)
        caption = result.facts() or f"{caption_of(song, rng)}, {told}"
        asked = str(rng.choice(CHANGES)).format(told)
        answer = f"Here is the music, {told}: {_sentence(caption)}"
        yield _entry(song, kind, asked, answer, caption=caption, output=path), result


def _interval(cents: int) -> str:
    steps = abs(cents) / 100
    return {1.0: "a semitone", 2.0: "two semitones"}.get(steps, f"{steps:g} semitones")


def _stem(path: Path, folder: Path) -> str:
    """A name for the edits of a song that no other song's edits have."""
    return f"{path.stem[:60]}-{zlib.crc32(_relative(path, folder).encode()):08x}"


def _render(source: Path, target: Path, kind: str, value: float) -> None:
    waveform, rate = read_audio(source)
    made = (
        stretched(waveform, rate, value) if kind == "speed" else transposed(waveform, rate, value)
    )
    peak = float(np.abs(made).max(initial=0.0))
    write_audio(target, made / max(1.0, peak), rate)


def unknown_licences(songs: Sequence[KnownSong]) -> int:
    """How many songs tell no licence."""
    return sum(song.licence == UNKNOWN for song in songs)
