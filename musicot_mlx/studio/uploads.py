"""Files that come over the network: counted while they come, read in a process of their own."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from musicot_mlx.atomic import explain
from musicot_mlx.studio.errors import NO_ROOM, Refused
from musicot_mlx.studio.files import Files, file_name
from musicot_mlx.studio.settings import Settings
from musicot_mlx.studio.store import Store, new_id

AT_ONCE = 4  # uploads; more are told to come again
SLOWEST = 600.0  # seconds that one may take to come
MEMORY = 4 << 30  # bytes of address space of the process that reads one
LEFT_FREE = 256 << 20  # bytes of the disk that uploads leave alone
# What a name may end in: how the reader is to take it, where that does not follow from the bytes.
_SUFFIXES = frozenset(".wav .flac .mp3 .ogg .oga .opus .aif .aiff .m4a .m4b .mp4 .aac".split())


class Uploads:
    """The way of a file from a client to the folder of uploads."""

    def __init__(self, settings: Settings, store: Store, files: Files) -> None:
        self._settings, self._store, self._files = settings, store, files
        self._now = 0

    async def take(
        self, chunks: AsyncIterator[bytes], name: str, length: int | None
    ) -> dict[str, Any]:
        """Take a file of `length` bytes, if that is known; what is known of it then. Refused for
        what is too large (413), too slow (408), no audio (422), or one too many at once (429).
        """
        if self._now >= AT_ONCE:
            raise Refused(429, f"{AT_ONCE} files are coming in already; try again", wait=5)
        self._now += 1
        upload, name = new_id("u"), file_name(name)
        suffix = Path(name).suffix.lower()
        raw = self._files.temporary / (upload + (suffix if suffix in _SUFFIXES else ""))
        target = self._files.temporary / f"{upload}.flac.part.flac"
        try:
            self._require_room(length or 0)
            try:
                async with asyncio.timeout(SLOWEST):
                    await self._receive(chunks, raw)
            except TimeoutError:
                raise Refused(408, f"the file took longer than {SLOWEST:.0f} s to come") from None
            found = await self._decode(raw, target)
            found = {"name": name, **found}
            target.replace(self._files.upload(upload))
            self._store.add_upload(upload, found)
            return self._store.upload(upload)
        except OSError as error:
            raise explain(error, Path(name)) from error
        finally:
            self._now -= 1
            raw.unlink(missing_ok=True)
            target.unlink(missing_ok=True)

    def _require_room(self, size: int) -> None:
        """Raise Refused for more bytes than are taken, or than the disk has room for."""
        most = self._settings.upload_bytes
        if size > most:
            raise Refused(413, f"the file is larger than the {most / 1e6:g} MB that are taken")
        if shutil.disk_usage(self._files.temporary).free < size + LEFT_FREE:
            raise Refused(507, NO_ROOM)

    async def _receive(self, chunks: AsyncIterator[bytes], raw: Path) -> None:
        size = 0
        with raw.open("wb") as file:
            async for chunk in chunks:
                size += len(chunk)
                self._require_room(size)
                file.write(chunk)
        if not size:
            raise Refused(422, "the file is empty; send its bytes as the body of the request")

    async def _decode(self, raw: Path, target: Path) -> dict[str, Any]:
        """What the process tells of a file that it has read."""
        longest = self._settings.upload_seconds
        arguments = [raw, target, str(longest), str(MEMORY)]
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "musicot_mlx.studio.decode",
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env={**os.environ, "MUSICOT_NO_OPENBLAS": "1", "OPENBLAS_NUM_THREADS": "1"},
            start_new_session=True,  # so that what it starts ends with it
        )
        try:
            async with asyncio.timeout(self._settings.decode_seconds):
                told, _ = await process.communicate()
        except TimeoutError:
            seconds = self._settings.decode_seconds
            raise Refused(422, f"the file took longer than {seconds:g} s to read") from None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        try:
            found = json.loads(told)
        except ValueError:  # it was ended by the system
            raise Refused(422, "the file can't be read: its reader gave up") from None
        if found.get("full"):
            raise Refused(507, NO_ROOM)
        if "error" in found:
            raise Refused(422, f"the file can't be used: {found['error']}")
        return found
