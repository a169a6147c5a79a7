"""Songs that are found by how they sound: by words, by other songs, by what is told of them.

Words and audio are vectors of one space (CLAP), and a song is a row of windows of ten seconds. It
counts by the better half of them: one window that happens to lie near says less of a song than
three do, and an intro without drums speaks against none. It was chosen on 160 songs of the band (22
styles asked for by name: 86 % of the places that could be right are so, by the best window alone
80 %, by the mean of all 76 %) and holds on 400 others (benchmarks/library.py). Words lie apart from
audio in CLAP's space; with the mean of each taken off 88 % were right, no more than chance gives,
so scores are the plain cosines, lower for words than for audio. What words deny ("no drums") is
left to the tagger, window by window: a vector that leads away from a word leads away from the style
too.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from musicot_mlx.audio.files import read_audio
from musicot_mlx.errors import MusicotError
from musicot_mlx.library import likeness
from musicot_mlx.library.adding import ID, Added, add_folder, look_at_new, named, rows_of
from musicot_mlx.library.ear import Ear, require_audible
from musicot_mlx.library.filters import among, both, quoted, wanted, without
from musicot_mlx.library.store import Store, default_place
from musicot_mlx.pipelines.given import needed, path_of, text
from musicot_mlx.texts import one_line
from musicot_mlx.tokens.denials import reading
from musicot_mlx.weights.hub import EMBEDDED

MOST = 1000  # finds of one search
# For a find so many windows are looked at, and so many songs ranked by all their windows; as for
# FEWEST finds at least. With 40 and 5 of them 9 % of the ten nearest songs are missed.
WINDOWS_EACH, SONGS_EACH, FEWEST = 100, 20, 10

Audio = str | Path | tuple[np.ndarray, int]


@dataclass(frozen=True)
class Find:
    """A song that was found, and where: the window of `seconds` from second `start` on is the
    nearest. score: mean cosine of the better half of its windows; where audio is asked for, in a
    library of some size, how like that the song is (library/likeness.py). tempo: BPM.
    """

    id: str
    title: str
    score: float
    start: float
    seconds: float
    duration: float
    key: str | None
    tempo: float | None
    tags: tuple[str, ...]
    prompt: str | None
    licence: str | None
    path: str

    def to_dict(self) -> dict[str, Any]:
        """The find as JSON."""
        rounded = {"score": 4, "start": 2, "seconds": 2, "duration": 2, "tempo": 1}
        found = {**asdict(self), "tags": list(self.tags)}
        return {k: round(v, rounded[k]) if k in rounded and v else v for k, v in found.items()}


class Library:
    """Songs in LanceDB. uri: a folder, or where LanceDB has its tables (library/store.py); by
    default the user's own. connection: options of lancedb.connect.

    model: one that is loaded and has the capability "ear", or a name; by default the one that the
    library was made with, else musicot-mini. Its space is kept with each song, and what lives in
    another space is refused. One process writes at a time, others wait; any number may read
    meanwhile. Raises MusicotError where LanceDB is not installed.
    """

    def __init__(self, uri: str | Path | None = None, model: Any = None, **connection: Any) -> None:
        self.store = Store(default_place() if uri is None else uri, **connection)
        self._model = model
        self._measured: tuple[int, likeness.Likeness | None] | None = None

    @cached_property
    def ear(self) -> Ear:
        """What the songs are heard with."""
        if self._model is not None:
            return Ear(self._model)
        first = self._first()
        return Ear(first["model"] if first else EMBEDDED[0])

    def add(
        self,
        path: str | Path,
        *,
        id: str | None = None,
        title: str | None = None,
        prompt: str | None = None,
        licence: str | None = None,
    ) -> str:
        """Add one song and return its id, by default that of its content.

        A song of that id, or of that path, is replaced. What is not said here is read from the
        file's tags and the settings beside it. Raises MusicotError for audio that can't be read or
        heard, and for a model of another space than the library's.
        """
        path = path_of("the song", path).absolute()
        place = f"path = {quoted(named(path))}"
        self._require_space()
        looked = look_at_new(path, title=title, prompt=prompt, licence=licence)
        song = looked.content[:ID] if id is None else text("id", id)
        rows = rows_of(song, looked, self.ear)
        with self.store.writing():
            self.store.begin(len(rows[0]["vector"]))
            self.store.write(rows, instead_of=self._ids(f"song = {quoted(song)} OR {place}"))
        return song

    def add_folder(
        self,
        folder: str | Path,
        *,
        licence: str | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Added:
        """Add the songs of a folder and of those below it, in batches; what is there and has not
        changed stays as it is.

        A file whose size and time are those known is not read; one that moved, or is a copy, is
        known by its content. licence: of all of them, where the caller knows it. progress(done,
        files). Whatever ends it early, Ctrl-C too, leaves the songs so far in the library. Raises
        MusicotError where there is no such folder; songs that can't be read are told in `skipped`.
        """
        folder = path_of("the folder", folder).absolute()
        if not folder.is_dir():
            raise MusicotError(f"{folder} is no folder; name one that holds songs")
        self._require_space()
        return add_folder(self.store, self.ear, folder, licence=licence, progress=progress)

    def search(
        self,
        words: str | None = None,
        *,
        like: Audio | None = None,
        limit: int = 20,
        key: str | None = None,
        tempo: tuple[float | None, float | None] | float | None = None,
        tags: str | Sequence[str] | None = None,
        licence: str | None = None,
        path: str | None = None,
    ) -> list[Find]:
        """The songs nearest to words, or to audio (a file, or a waveform with its rate in Hz),
        nearest first.

        "techno, no drums" looks among windows in which the tagger hears none. key, tempo, tags,
        licence and path leave out the others (filters.wanted). Raises MusicotError for nothing to
        look for, an empty library, and a model of another space than the library's.
        """
        if (words is None) == (like is None):
            raise MusicotError("search for words, or for what is like a song: one of the two")
        condition = wanted(key=key, tempo=tempo, tags=tags, licence=licence, path=path)
        limit = needed("limit", limit, low=1, high=MOST, whole=True)
        self._require_space(songs=True)
        if words is None:
            waveform, rate = like if isinstance(like, tuple) else read_audio(like)
            require_audible(waveform, rate, "the audio" if isinstance(like, tuple) else str(like))
            return self._like(self.ear.vectors(waveform, rate), limit, condition)
        else:
            read = reading(one_line(text("words", words)))
            if not read.asked.strip():
                raise MusicotError("the search asks for nothing; say how it should sound")
            vector = self.ear.words(read.asked)
            labels = self.ear.tagger.config.labels if read.families else ()
            condition = both(condition, without(read.families & set(labels)))
        return self._nearest(vector, limit, condition)

    def similar(self, song: str | Path, *, limit: int = 20, **filters: Any) -> list[Find]:
        """The songs most like one of the library, by id or path; no model is loaded for it.

        filters are those of `search`. Raises MusicotError for a song that is not there.
        """
        limit = needed("limit", limit, low=1, high=MOST, whole=True)
        song = self._one(song)
        vectors = self.store.windows(f"song = {quoted(song)}")[3]
        return self._like(vectors, limit, both(wanted(**filters), f"song <> {quoted(song)}"))

    def remove(self, which: str | Path) -> int:
        """Forget a song, by id or path, or all songs below a folder; how many. Files stay."""
        return self._forget(lambda: self._meant(which), f"no song {which} is in the library")

    def remove_missing(self) -> int:
        """Forget the songs whose files are gone; how many."""

        def gone() -> list[str]:
            songs = self.store.songs()
            return [each["song"] for each in songs if not os.path.exists(each["path"])]

        return self._forget(gone)

    def _forget(self, which: Callable[[], list[str]], none: str | None = None) -> int:
        """Drop the songs that `which` finds; `none`: what is wrong where it finds none."""
        songs: list[str] = []
        if self.store.begun:
            with self.store.writing():
                songs = which()
                self.store.delete(songs)
        if none and not songs:
            raise MusicotError(none)
        return len(songs)

    def __len__(self) -> int:
        """How many songs."""
        return self.store.count("number = 0") if self.store.begun else 0

    def path(self, song: str) -> Path:
        """The file of a song, by its id; MusicotError where there is no such song."""
        return Path(self._facts(song)["path"])

    def sidecar(self, song: str) -> str | None:
        """The settings that a song was made with, as JSON without its audio tokens; None for a song
        that has none.
        """
        return self._facts(song, ("sidecar",))["sidecar"]

    def stats(self) -> dict[str, Any]:
        """Songs, windows, seconds; how many are in each key, of each tag and licence, gone from the
        disk; the space and the model; whether there is an index.
        """
        songs = self.store.songs() if self.store.begun else []
        counts = {
            "keys": Counter(each["key"] for each in songs if each["key"]),
            "tags": Counter(tag for each in songs for tag in each["tags"]),
            "licences": Counter(each["licence"] for each in songs if each["licence"]),
        }
        return {
            "library": self.store.uri,
            "songs": len(songs),
            "windows": self.store.count() if songs else 0,
            "seconds": round(sum(each["duration"] for each in songs), 1),
            "missing": sum(not os.path.exists(each["path"]) for each in songs),
            "space": songs[0]["space"] if songs else None,
            "model": songs[0]["model"] if songs else None,
            "indexed": bool(songs) and self.store.indexed,
            **{name: dict(found.most_common()) for name, found in counts.items()},
        }

    def _like(self, vectors: np.ndarray, limit: int, condition: str | None) -> list[Find]:
        """The songs most like one of these windows (windows, dim)."""
        return self._nearest(_middle(vectors), limit, condition, song=vectors.mean(axis=0))

    def _likeness(self) -> likeness.Likeness | None:
        """How songs of this library are compared, measured anew where it has doubled or halved."""
        count = self.store.count()
        if not self._measured or not 0.5 <= count / self._measured[0] <= 2:
            ids, _, _, vectors = self.store.windows(None, most=likeness.SAMPLE)
            self._measured = count, likeness.of(ids, vectors)
        return self._measured[1]

    def _nearest(
        self,
        vector: np.ndarray,
        limit: int,
        condition: str | None,
        *,
        song: np.ndarray | None = None,
    ) -> list[Find]:
        """The songs whose windows lie nearest: those of the nearest windows, ranked by the better
        half of all their windows that the condition holds for; or by how like `song` they are, the
        mean (dim,) of a song's windows.
        """
        room = max(limit, FEWEST)
        rows = self.store.nearest(vector, limit=WINDOWS_EACH * room, where=condition)
        near = list(dict.fromkeys(row["song"] for row in rows))[: SONGS_EACH * room]
        if not near:
            return []
        ids, starts, lengths, vectors = self.store.windows(both(condition, among("song", near)))
        cosines = vectors @ (vector / np.linalg.norm(vector))
        runs, ranked = list(_runs(ids)), []
        if song is not None and (alike := self._likeness()):
            means = np.stack([vectors[first:last].mean(axis=0) for _, first, last in runs])
            scores = alike.cosines(song, means)
        else:
            scores = [better_half(cosines[first:last]) for _, first, last in runs]
        for (each, first, last), score in zip(runs, scores, strict=True):
            best = first + int(cosines[first:last].argmax())
            ranked.append((float(score), each, float(starts[best]), float(lengths[best])))
        ranked = sorted(ranked, key=lambda each: (-each[0], each[1]))[:limit]
        found = self.store.songs(among("song", [song for _, song, *_ in ranked]))
        facts = {row["song"]: row for row in found}
        return [
            _find(facts[song], score, start=start, seconds=seconds)
            for score, song, start, seconds in ranked
            if song in facts  # one may have been removed meanwhile
        ]

    def _first(self) -> Mapping[str, Any] | None:
        """A row of the library, for what all have in common."""
        if not self.store.begun:
            return None
        return self.store.first(("space", "model"))

    def _require_songs(self) -> Mapping[str, Any]:
        """A row; MusicotError where there is none."""
        first = self._first()
        if first is None:
            raise MusicotError(f"the library {self.store.uri} is empty; musicot library add FOLDER")
        return first

    def _require_space(self, *, songs: bool = False) -> None:
        """Raise MusicotError for a model of another space; `songs`: and where there are none."""
        first = self._require_songs() if songs else self._first()
        if first is not None and first["space"] != self.ear.space:
            raise MusicotError(
                f"the songs of this library live in the space {first['space']!r} and this model "
                f"hears in {self.ear.space!r}; pass the model {first['model']}, or another library"
            )

    def _ids(self, where: str) -> list[str]:
        return [each["song"] for each in self.store.songs(where, columns=("song",))]

    def _meant(self, which: str | Path) -> list[str]:
        """The songs of an id, of a path, or below a folder."""
        given = os.fspath(path_of("the song", which))
        if not str(which).strip():  # which would be the folder one is in
            raise MusicotError("no song is named; pass its id or file")
        path = os.path.abspath(os.path.expanduser(given))
        below = quoted(os.path.join(path, ""))
        return self._ids(f"song = {quoted(given)}") or self._ids(
            f"path = {quoted(path)} OR starts_with(path, {below})"
        )

    def _one(self, which: str | Path) -> str:
        self._require_songs()
        songs = self._meant(which)
        if len(songs) != 1:
            how = "is none song of" if songs else "is not in"
            raise MusicotError(
                f"{which} {how} the library; pass a song's id or file, or search with --like"
            )
        return songs[0]

    def _facts(self, song: str, columns: Sequence[str] = ("path",)) -> Mapping[str, Any]:
        self._require_songs()
        found = self.store.songs(f"song = {quoted(song)}", columns=columns)
        if not found:
            raise MusicotError(f"no song {song} is in the library")
        return found[0]


def better_half(cosines: np.ndarray) -> float:
    """The mean of the higher half of cosines (windows,), the middle one with it."""
    return float(np.sort(cosines)[len(cosines) // 2 :].mean())


def _find(row: Mapping[str, Any], score: float, *, start: float, seconds: float) -> Find:
    return Find(
        id=row["song"],
        title=row["title"],
        score=score,
        start=start,
        seconds=seconds,
        duration=row["duration"],
        key=row["key"],
        tempo=row["tempo"],
        tags=tuple(row["tags"] or ()),
        prompt=row["prompt"],
        licence=row["licence"],
        path=row["path"],
    )


def _runs(ids: Sequence[str]) -> Iterable[tuple[str, int, int]]:
    """(id, first, behind the last) of equal neighbours."""
    edges = [i for i in range(len(ids)) if not i or ids[i] != ids[i - 1]]
    for first, last in zip(edges, [*edges[1:], len(ids)], strict=True):
        yield ids[first], first, last


def _middle(vectors: np.ndarray) -> np.ndarray:
    """The mean direction (dim,) of vectors (windows, dim)."""
    mean = vectors.mean(axis=0)
    return mean / max(float(np.linalg.norm(mean)), 1e-9)
