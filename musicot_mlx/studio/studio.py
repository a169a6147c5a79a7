"""All that one server holds, put together."""

import threading
from contextlib import suppress
from pathlib import Path

from musicot_mlx.errors import MusicotError
from musicot_mlx.studio.engine import Engine
from musicot_mlx.studio.events import Events
from musicot_mlx.studio.files import Files
from musicot_mlx.studio.finds import Finds
from musicot_mlx.studio.queue import Queue
from musicot_mlx.studio.settings import Settings
from musicot_mlx.studio.store import Store
from musicot_mlx.studio.uploads import Uploads


class Studio:
    """The data folder is opened here; `start` begins to make songs, `close` ends that."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.store = Store(settings.data_dir.absolute())
        self.engine, self.events = Engine(settings), Events()
        self.finds = Finds(settings.library, self.engine, self.store)
        self.files = Files(settings.data_dir.absolute(), self.store, self._find)
        self.queue = Queue(self.store, self.files, self.engine, self.events)
        self.uploads = Uploads(settings, self.store, self.files)
        self.queue.on_done = self._add_to_library

    def start(self) -> None:
        """Take up the queue, and load the usual model meanwhile."""
        self.queue.start()
        threading.Thread(target=self._warm, name="musicot-warm", daemon=True).start()

    def close(self) -> None:
        """End all that goes on; what was begun is gone on with by the next server."""
        self.events.close()
        self.queue.stop()
        self.store.close()

    def _warm(self) -> None:
        with suppress(MusicotError):  # told when a plan or a song asks for it
            self.engine.warm()

    def _find(self, found: str) -> tuple[Path, str]:
        return self.finds.located(found)

    def _add_to_library(self, song: str) -> None:
        """A finished song is found again by how it sounds, where there is a library."""
        if (added := self.finds.add(self.store.song(song), self.files.song(song))) is not None:
            self.events.publish("library", {"added": added, "song": song}, song)
