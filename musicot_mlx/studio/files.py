"""The files of a studio, and what they are called outside: no path leaves the server.

A source of a request (a song, an upload, a find of the library) is a file here; in plans and
settings that are handed out it is called by a label, "upload:u_0f3a/beat.wav", that leads back.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from musicot_mlx.atomic import explain
from musicot_mlx.errors import MusicotError
from musicot_mlx.studio.bodies import Source
from musicot_mlx.studio.errors import Refused, status_of
from musicot_mlx.studio.store import Store

_LABEL = re.compile(r"(upload|song|library):([\w.:-]{1,100})/(.{1,200})")
_OURS = re.compile(r"\.?[su]_[0-9a-f]{16}\b")  # files by their names


class Files:
    """Where everything lies, and how what a request names becomes a file.

    library: the file and the title of a find by its id; raises Refused where there is no library.
    """

    def __init__(
        self, folder: Path, store: Store, library: Callable[[str], tuple[Path, str]]
    ) -> None:
        self.folder, self._store, self._library = folder, store, library
        self.songs, self.uploads = folder / "songs", folder / "uploads"
        self.temporary = folder / "temporary"

    def song(self, song: str) -> Path:
        """The audio of a song; its settings stand beside it."""
        return self.songs / f"{song}.wav"

    def live(self, song: str) -> Path:
        """What of a song is made so far, as raw samples."""
        return self.songs / f"{song}.live"

    def upload(self, upload: str) -> Path:
        """What an upload holds, decoded."""
        return self.uploads / f"{upload}.flac"

    def clean(self) -> None:
        """Remove what a server left that was killed: half-written files and those of no song. Only
        what a studio has named is touched.
        """
        known = {*self._store.song_ids(), *self._store.upload_ids()}
        for folder in (self.songs, self.uploads, self.temporary):
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise explain(error, folder) from error
            for path in folder.iterdir():
                ours = _OURS.match(path.name)
                whole = path.suffix in (".wav", ".json", ".flac") and path.stem in known
                if ours and not (whole and folder != self.temporary):
                    path.unlink(missing_ok=True)

    def remove_song(self, song: str) -> None:
        """All files of a song."""
        for path in (self.song(song), self.song(song).with_suffix(".json"), self.live(song)):
            path.unlink(missing_ok=True)

    def names(self) -> "Names":
        """A list of what files are called outside, to be filled by `Names.file`."""
        return Names(self)

    def located(self, source: Source) -> tuple[Path, str]:
        """The file of an audio source and its label."""
        if source.upload is not None:
            name = self._store.upload(source.upload)["name"]
            return self.upload(source.upload), f"upload:{source.upload}/{name}"
        if source.song is not None:
            row = self._store.song(source.song)
            if row.status != "done":
                raise Refused(409, f"the song {source.song} is not finished: {row.status}")
            return self.song(source.song), f"song:{source.song}/{file_name(row.body['title'])}"
        if source.library is not None:
            path, title = self._library(source.library)
            return path, f"library:{source.library}/{file_name(title)}"
        raise Refused(422, "an upload, a song or a find of the library is needed here")


@dataclass
class Names:
    """What the files of one job are called outside: path -> label."""

    files: Files
    labels: dict[str, str] = field(default_factory=dict)

    def file(self, source: Source) -> Path:
        """The file of an audio source, from now on known by its label."""
        path, label = self.files.located(source)
        self.labels[str(path)] = label
        return path

    def told(self, text: str) -> str:
        """A sentence that speaks of files by what people call them."""
        for path, label in self.labels.items():
            text = text.replace(path, shown(label))
        return text.replace(f"{self.files.folder}/", "")

    @contextmanager
    def telling(self) -> Iterator[None]:
        """Within it errors speak of files by what people call them."""
        try:
            yield
        except MusicotError as error:
            told = self.told(str(error))
            if told == str(error):
                raise
            raise Refused(status_of(error), told, param=error.option) from error

    def outside(self, value: Any) -> Any:
        """JSON in which all files of the job are called by their labels, and by their own names
        where only the name of a file stands.
        """
        if isinstance(value, Mapping):
            return {key: self.outside(each) for key, each in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.outside(each) for each in value]
        if isinstance(value, str):
            for path, label in self.labels.items():
                value = value.replace(path, label).replace(Path(path).name, shown(label))
        return value


def shown(label: str) -> str:
    """What people call a file that has a label."""
    return label.partition("/")[2] or label


def source_of(label: str | None) -> dict[str, str] | None:
    """The source that a label leads to; None for anything else."""
    match = _LABEL.fullmatch(label or "")
    return {match[1]: match[2]} if match else None


def file_name(given: str) -> str:
    """A client's name for a file as it is shown: the last part of it, printable and short."""
    name = re.split(r"[/\\]", given)[-1]
    name = "".join(letter for letter in name if letter.isprintable()).strip(" .")
    return name[-80:] or "audio"
