"""musicot serve: the studio's HTTP API without its page."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from musicot_mlx.cli import flags
from musicot_mlx.errors import MusicotError
from musicot_mlx.studio.settings import LOOPBACK, PORT

if TYPE_CHECKING:
    from musicot_mlx.studio.settings import Settings

_address = partial(flags.flag, panel="Address")
_limits = partial(flags.flag, panel="Limits")


@dataclass(kw_only=True)
class Arguments:
    """The flags of musicot serve, and of musicot studio beside one of its own."""

    model: list[str] | None = flags.flag(
        "NAME...",
        "embedded name, folder or Hub id, beside those at hand; the first is the usual one "
        "(default: musicot-mini)",
    )
    adapter_path: list[str] | None = flags.flag(
        "FOLDER...", "adapters from musicot lora that songs may be asked for with"
    )
    data_dir: str | None = flags.flag(
        "FOLDER",
        "where plans, songs and uploads are kept (default: MUSICOT_STUDIO, or the system's place "
        "for such)",
    )
    library: str | None = flags.flag(
        "PLACE", "the library of songs that they are added to (default: that of musicot library)"
    )
    no_library: bool = flags.flag("", "do without a library of songs", default=False)
    host: str | None = _address(
        "HOST", f"address to listen on (default: {LOOPBACK[0]}, this machine alone)"
    )
    port: int | None = _address(
        "N", f"port, 0 takes any (default: {PORT})", check=flags.number(0, 65535, whole=True)
    )
    token: str | None = _address("WORD", "what every request must show; needed for another --host")
    allow_host: list[str] | None = _address(
        "NAME...", "host names that it may be called by, beside localhost and its address"
    )
    queue: int | None = _limits(
        "N", "songs that may wait (default: 16)", check=flags.number(1, 1000, whole=True)
    )
    max_upload: float | None = _limits(
        "MB", "largest file taken (default: 200)", check=flags.number(0.001, 10_000, unit="MB")
    )


def run(args: Arguments) -> int:
    return serve(args, page=False)


def serve(args: Arguments, *, page: bool, opening: bool = False) -> int:
    """Run the studio until Ctrl-C; its address is the one line on standard output."""
    from musicot_mlx.studio import server

    server.require_extra()
    settings = _settings(args, page=page)

    def listening(address: str) -> None:
        print(address, flush=True)
        if opening:
            import webbrowser

            webbrowser.open(address)

    try:
        server.serve(settings, listening=listening)
    except KeyboardInterrupt:  # how a server is ended
        return 0
    return 0


def _settings(args: Arguments, *, page: bool) -> "Settings":
    from musicot_mlx.studio.settings import Settings, usual_data_dir

    given = {
        "host": args.host,
        "port": args.port,
        "queue": args.queue,
        "names": args.allow_host and tuple(args.allow_host),
        "library": False if args.no_library else args.library,
        "upload_bytes": args.max_upload and round(args.max_upload * 1e6),
    }
    if args.no_library and args.library is not None:
        raise MusicotError("pass --library or --no-library, not both")
    if args.token is not None and (not args.token.isascii() or not args.token.strip()):
        raise MusicotError("--token: letters, digits and signs of ASCII, at least one")
    return Settings(
        data_dir=Path(args.data_dir).expanduser() if args.data_dir else usual_data_dir(),
        page=page,
        token=args.token,
        models=_named(args.model or []),
        adapters=_named(args.adapter_path or []),
        **{name: value for name, value in given.items() if value is not None},
    )


def _named(places: list[str]) -> dict[str, str]:
    """What the API calls models and adapters: a folder by its own name, all else as it is."""
    found: dict[str, str] = {}
    for place in places:
        folder = Path(place).expanduser()
        name = folder.absolute().name if folder.is_dir() else place
        if name in found:
            raise MusicotError(f"two folders are called {name}; rename one")
        found[name] = str(folder) if folder.is_dir() else place
    return found
