"""musicot library: songs that are found by how they sound."""

import json
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from musicot_mlx.cli import flags
from musicot_mlx.cli.progress import Progress
from musicot_mlx.errors import MusicotError

if TYPE_CHECKING:
    from musicot_mlx.library import Added, Find, Library

TOLD = 8  # tags of a song, and lines of what was skipped, that are shown


def tempo_range(text: str) -> tuple[float | None, float | None] | float:
    """A check: one tempo, or two with a line between, either of which may be left out."""
    bpm, (low, line, high) = flags.number(1, 1000, unit="BPM"), text.partition("-")
    if not line:
        return bpm(text)
    if not low and not high:
        raise ValueError(f"expected BPM, or the lowest and the highest, as 90-120, got {text!r}")
    return bpm(low) if low else None, bpm(high) if high else None


@dataclass(kw_only=True)
class Arguments:
    """The flags of musicot library."""

    action: Literal["add", "search", "similar", "stats", "remove"] = flags.flag(
        "ACTION", "add, search, similar, stats or remove", positional=True
    )
    what: list[str] | None = flags.flag(
        "WHAT...",
        "add: folders or songs; search: words, in quotes; similar, remove: songs by id or file, "
        "remove: folders too",
        positional=True,
    )
    like: str | None = flags.flag("FILE", "search: for what sounds like this audio")
    limit: int = flags.flag(
        "N",
        "search, similar: songs to show (default: 10)",
        check=flags.number(1, 1000, whole=True),
        default=10,
    )
    key: str | None = flags.flag("KEY", "only songs in this key, as 'D minor'")
    tempo: Any = flags.flag(
        "BPM", "only songs of this tempo, or between two: 90-120, 90-, -120", check=tempo_range
    )
    tags: list[str] | None = flags.flag(
        "A,B", "only songs with all of these tags", check=flags.names
    )
    licence: str | None = flags.flag(
        "NAME", "only songs of this licence; add: the licence of what is added"
    )
    path: str | None = flags.flag("TEXT", "only songs with this in their path")
    missing: bool = flags.flag("", "remove: all songs whose files are gone", default=False)
    library: str | None = flags.flag(
        "PLACE", "folder, s3:// or other place of the library (default: the user's own)"
    )
    model: str | None = flags.flag(
        "NAME",
        "CLAP that hears, or a model with one: embedded name, folder or Hub id (default: the "
        "library's, else musicot-mini)",
    )
    json: bool = flags.flag("", "one line of JSON on standard output", default=False)


def run(args: Arguments) -> int:
    what = args.what or []
    _check(args, what)

    from musicot_mlx.library import Library

    library = Library(args.library, args.model)
    return _ACTIONS[args.action](library, args, what)


def _check(args: Arguments, what: list[str]) -> None:
    """Raise MusicotError for words that an action has no use for, or that it lacks."""
    if args.like and args.action != "search":
        raise MusicotError("--like goes with musicot library search")
    if args.missing and args.action != "remove":
        raise MusicotError("--missing goes with musicot library remove")
    if args.action == "search":
        if len(what) > 1:
            raise MusicotError(f'words of a search stand in quotes: "{" ".join(what)}"')
        if bool(what) == bool(args.like):
            raise MusicotError("search for words in quotes, or with --like FILE: one of the two")
    elif args.action == "stats" and what:
        raise MusicotError("musicot library stats takes no more words")
    elif args.action == "similar" and len(what) != 1:
        raise MusicotError("musicot library similar takes one song, by its id or file")
    elif args.action == "remove" and bool(what) == args.missing:
        raise MusicotError("name the songs or folders to remove, or --missing: one of the two")
    elif args.action == "add" and not what:
        raise MusicotError("name the folder or the songs to add")
    filters = (args.key, args.tempo, args.tags, args.path)
    if args.action not in ("search", "similar") and any(each is not None for each in filters):
        raise MusicotError("--key, --tempo, --tags and --path go with search and similar")


def _add(library: "Library", args: Arguments, what: list[str]) -> int:
    began, folders, songs = time.perf_counter(), [], 0
    for each in what:
        if not Path(each).exists():
            raise MusicotError(f"{each} does not exist")
    with Progress() as progress:
        for each in map(Path, what):
            if each.is_dir():
                folders.append(
                    library.add_folder(
                        each, licence=args.licence, progress=lambda *at: progress("songs", *at)
                    )
                )
            else:
                library.add(each, licence=args.licence)
                songs += 1
    seconds = time.perf_counter() - began
    if args.json:
        print(json.dumps({**_total(folders, songs), "seconds": round(seconds, 2)}))
        return 0
    for each in folders:
        for line in _skipped(each):
            print(line, file=sys.stderr)
    found = _total(folders, songs)
    counts = ", ".join(f"{found[name]} {name}" for name in ("new", "renewed", "moved", "unchanged"))
    print(f"{library.store.uri}: {counts}, {len(found['skipped'])} skipped, in {seconds:.1f} s")
    return 0


def _total(folders: Iterable["Added"], songs: int) -> dict[str, Any]:
    """What became of all that was to be added, songs named alone among the new."""
    folders = list(folders)
    counts = {
        name: sum(getattr(each, name) for each in folders)
        for name in ("new", "renewed", "moved", "unchanged")
    }
    counts["new"] += songs
    skipped = [{"file": file, "why": why} for each in folders for file, why in each.skipped]
    return {**counts, "skipped": skipped}


def _skipped(added: "Added") -> Iterable[str]:
    for file, why in added.skipped:
        yield f"skipped {_printable(file)}: {why}"


def _printable(name: str) -> str:
    """A file's name on one line, without what a terminal would obey."""
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in name
    )


def _search(library: "Library", args: Arguments, what: list[str]) -> int:
    words = what[0] if what else None
    return _show(args, library.search(words, like=args.like, limit=args.limit, **_filters(args)))


def _similar(library: "Library", args: Arguments, what: list[str]) -> int:
    return _show(args, library.similar(what[0], limit=args.limit, **_filters(args)))


def _filters(args: Arguments) -> dict[str, Any]:
    return {name: getattr(args, name) for name in ("key", "tempo", "tags", "licence", "path")}


def _show(args: Arguments, found: list["Find"]) -> int:
    if args.json:
        print(json.dumps({"found": [each.to_dict() for each in found]}))
        return 0
    if not found:
        print("nothing of the library is like that and fits the options")
    for each in found:
        about = [each.key, f"{each.tempo:.0f} BPM" if each.tempo else None, *each.tags[:TOLD]]
        where = f"{int(each.start) // 60}:{int(each.start) % 60:02d}"
        told = ", ".join(filter(None, about))
        print(f"{each.score:.2f}  {_printable(each.path)} at {where}  {told}")
    return 0


def _stats(library: "Library", args: Arguments, what: list[str]) -> int:
    found = library.stats()
    if args.json:
        print(json.dumps(found))
        return 0
    hours = found["seconds"] / 3600
    windows = f"{found['windows']} windows{' in an index' if found['indexed'] else ''}"
    print(f"{found['library']}: {found['songs']} songs, {hours:.1f} hours, {windows}")
    if found["songs"]:
        print(f"  heard by {found['model']} ({found['space']})")
    for name in ("keys", "tags", "licences"):
        listed = [f"{value} {count}" for value, count in list(found[name].items())[:TOLD]]
        if listed:
            print(f"  {name}: {', '.join(listed)}")
    if found["missing"]:
        print(f"  {found['missing']} files are gone; musicot library remove --missing forgets them")
    return 0


def _remove(library: "Library", args: Arguments, what: list[str]) -> int:
    count = library.remove_missing() if args.missing else sum(map(library.remove, what))
    print(json.dumps({"removed": count}) if args.json else f"{count} songs removed; files stay")
    return 0


_ACTIONS = {
    "add": _add,
    "search": _search,
    "similar": _similar,
    "stats": _stats,
    "remove": _remove,
}
