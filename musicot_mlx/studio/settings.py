"""What a studio is started with."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

LOOPBACK = ("127.0.0.1", "localhost", "::1")
PORT = 8760


def usual_data_dir() -> Path:
    """MUSICOT_STUDIO, or the platform's place for what a user has made."""
    if chosen := os.environ.get("MUSICOT_STUDIO"):
        return Path(chosen).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "musicot" / "studio"
    share = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(share) / "musicot" / "studio"


@dataclass(frozen=True)
class Settings:
    """data_dir: where plans, songs and uploads are kept, one server's at a time. page: whether the
    page is served beside the API. token: what every request must show; None only on loopback.
    models: public name -> name, folder or Hub id, beside those at hand; the first is the usual
    one. adapters: public name -> folder. queue: songs that may wait. library: where the
    library of songs is, None for the user's own, False for none. names: hosts that it may be
    called by beside its address. upload_bytes and upload_seconds: the largest and the longest file
    taken; decode_seconds: how long it may take to read one.
    """

    data_dir: Path
    host: str = LOOPBACK[0]
    port: int = PORT
    page: bool = True
    token: str | None = None
    models: Mapping[str, str] = field(default_factory=dict)
    adapters: Mapping[str, str] = field(default_factory=dict)
    queue: int = 16
    library: str | bool | None = None
    names: tuple[str, ...] = ()
    upload_bytes: int = 200_000_000
    upload_seconds: float = 1200.0
    decode_seconds: float = 60.0

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it."""
        return self.host in LOOPBACK
