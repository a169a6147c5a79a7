"""The library of songs as the API has it: searched by words and by ear, fed with what is made.

It is there where LanceDB is (the extra [library]); without it the studio is whole but for these
routes. All of it runs in the engine's thread, whose model it hears with.
"""

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from musicot_mlx.errors import MusicotError
from musicot_mlx.studio.engine import Engine
from musicot_mlx.studio.errors import Refused, not_found, status_of
from musicot_mlx.studio.store import SongRow, Store

Made = TypeVar("Made")
_HERE = ("library", "path")  # what is told of it that is a path


class Finds:
    """The library of one studio. place: where it is, None for the user's own, False for none."""

    def __init__(self, place: str | bool | None, engine: Engine, store: Store) -> None:
        self._place, self._engine, self._store = place, engine, store
        self._opened: Any = None

    @property
    def there(self) -> bool:
        """Whether there is a library at all."""
        return self._place is not False and find_spec("lancedb") is not None

    def search(
        self, words: str | None, like: Path | None, limit: int, **filters: Any
    ) -> list[dict[str, Any]]:
        """The songs nearest to words or to audio; none where the library is empty."""
        if not self._do(len):
            return []
        return self._found(lambda library: library.search(words, like=like, limit=limit, **filters))

    def similar(self, song: str, limit: int) -> list[dict[str, Any]]:
        """The songs nearest to one of the library."""
        self.located(song)
        return self._found(lambda library: library.similar(song, limit=limit))

    def stats(self) -> dict[str, Any]:
        """What the library holds."""
        told = self._do(lambda library: library.stats())
        return {name: value for name, value in told.items() if name not in _HERE}

    def located(self, song: str) -> tuple[Path, str]:
        """The file of a song and what it is called; Refused (404) where there is none."""
        try:
            path = self._do(lambda library: library.path(song))
        except Refused as refused:
            unknown = refused.status == 422
            raise (not_found("song in the library") if unknown else refused) from None
        if not path.is_file():
            raise Refused(404, "the file of that song is gone from the disk")
        return path, path.name

    def add(self, row: SongRow, path: Path) -> str | None:
        """A finished song, found from now on; None where there is no library. What goes wrong with
        it is told of the song, whose audio is whole.
        """
        if not self.there:
            return None
        prompt, title = row.body["prompt"], row.body["title"]
        try:
            added = {"id": row.id, "title": title, "prompt": prompt}
            return self._do(lambda library: library.add(path, **added), always=True)
        except MusicotError as error:
            told = [*row.body["warnings"], f"it is not in the library: {error}"]
            self._store.update_song(row.id, warnings=told)
            return None

    def remove(self, song: str) -> None:
        """Forget a song that was deleted, if it is there."""
        if self.there:
            try:
                self._do(lambda library: library.remove(song), always=True)
            except MusicotError:  # it was never added
                return

    def _do(self, job: Callable[[Any], Made], *, always: bool = False) -> Made:
        """What a job gives that is done with the library, in the engine's thread; always: however
        many jobs wait.
        """
        from musicot_mlx.pipelines.worker import in_worker

        if not self.there:
            why = "was left out (--no-library)" if self._place is False else "is not installed: "
            how = "" if self._place is False else "pip install 'musicot-mlx[library]'"
            raise Refused(501, f"the library {why}{how}")

        def with_library() -> Made:
            from musicot_mlx.library import Library

            if self._opened is None:
                self._opened = Library(self._place)
            try:
                return job(self._opened)
            except MusicotError as error:
                told = str(error).replace(f" {self._opened.store.uri}", "")
                raise Refused(status_of(error), told) from error

        return in_worker(with_library) if always else self._engine.run(with_library)

    def _found(self, search: Callable[[Any], list[Any]]) -> list[dict[str, Any]]:
        return [self._document(each.to_dict()) for each in self._do(search)]

    def _document(self, found: Mapping[str, Any]) -> dict[str, Any]:
        song = found["id"] if str(found["id"]).startswith("s_") else None
        return {**{k: v for k, v in found.items() if k not in _HERE}, "song": song}
