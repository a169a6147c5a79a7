"""A library of 10,000 songs: how fast songs come in, how fast and how rightly they are found.

    python -m musicot_mlx.reference.band /tmp/band --songs 400 --seed 300000
    python benchmarks/library.py /tmp/band --json benchmarks/results/library.json

The band's songs are real audio whose style is known; they are added as anyone would. The others are
rows alone: each window lies between windows of two of these songs, with noise, so that they crowd
the places where music is. They have no style, so styles are asked for among the band's songs (by
`path`), in the library of all.

`right`: of the first ten finds of a style's name, the share of that style (each style has 18 or 19
of the 400 songs, so ten could be right); the interval draws styles. Pooling and all else was chosen
by songs 100000 to 100159, of which none is here. Times are of one machine, whose load is told.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from musicot_mlx.audio.files import read_audio
from musicot_mlx.evaluation.measures.bootstrap import mean_interval
from musicot_mlx.evaluation.speed.hardware import chip, cores
from musicot_mlx.library import Library
from musicot_mlx.library.ear import read_signal
from musicot_mlx.library.library import better_half
from musicot_mlx.reference.band.tables import STYLES

FIRST = 10  # finds that count
SAMPLE = 100  # songs by which adding is timed
LONG, LONG_SONGS = 4, 12  # songs of the band that make a long one; how many of these
ALONE = 300  # songs added one by one to the full library
NOISE = 0.25  # length of the noise beside vectors of length 1
PARTS = ["adding", "searching", "right"]
POOLS = {
    "better half": better_half,
    "best window": lambda cosines: float(cosines.max()),
    "mean": lambda cosines: float(cosines.mean()),
}


def adding(model: str, band: Path, work: Path) -> dict[str, Any]:
    """Songs a minute, of 60 s and of four minutes, and of a folder that is there already."""
    files = sorted(band.glob("*.wav"))
    short, long = work / "short", work / "long"
    short.mkdir()
    long.mkdir()
    for file in files[:SAMPLE]:
        (short / file.name).symlink_to(file)
    for number in range(LONG_SONGS):
        parts = [read_audio(file) for file in files[number * LONG : (number + 1) * LONG]]
        joined = np.concatenate([waveform for waveform, _ in parts])
        soundfile.write(long / f"{number}.wav", joined, parts[0][1])
    library = Library(work / "added", model)
    library.ear.hear(read_signal(files[0]))  # loads the networks
    rows = {}
    for name, folder in (("short", short), ("long", long)):
        began, busy = time.perf_counter(), time.process_time()
        added = library.add_folder(folder)
        wall, busy = time.perf_counter() - began, time.process_time() - busy
        rows[name] = {
            "songs": added.new,
            "a_minute": round(60 * added.new / wall, 1),
            "a_processor_minute": round(60 * added.new / busy, 1),
        }
    rows["long"]["seconds"] = LONG * 60
    began = time.perf_counter()
    rows["again"] = {"songs": library.add_folder(short).unchanged, "seconds": _since(began)}
    return rows


def fill(library: Library, songs: int, seed: int = 0) -> None:
    """Rows of songs that are not there, until the library has so many."""
    rng, real = np.random.default_rng(seed), library.store.rows("seconds > 0")
    vectors = np.stack([row["vector"] for row in real])
    windows, facts = 6, {k: v for k, v in real[0].items() if k != "vector"}
    keys = sorted({row["key"] for row in real if row["key"]})
    count = songs - library.stats()["songs"]
    for first in range(0, count, 500):
        rows = []
        for i in range(first, min(first + 500, count)):
            one, two = rng.integers(len(vectors) // windows, size=2) * windows
            mix = rng.uniform(0, 1, (windows, 1))
            made = mix * vectors[one : one + windows] + (1 - mix) * vectors[two : two + windows]
            noise = rng.standard_normal(made.shape)
            made = made + NOISE * noise / np.linalg.norm(noise, axis=1, keepdims=True)
            own = {
                "song": f"none-{i}", "content": f"none-{i}", "path": f"/none/{i}.wav",
                "title": f"none {i}", "tempo": float(rng.uniform(60, 180)),
                "key": str(rng.choice(keys)), "heard": [],
            }  # fmt: skip
            for number, vector in enumerate(made / np.linalg.norm(made, axis=1, keepdims=True)):
                place = {"number": number, "start": 10.0 * number, "vector": vector}
                rows.append({**facts, **own, **place})
        library.store.write(rows)
    library.store.tidy()


def alone(library: Library, band: Path) -> dict[str, Any]:
    """Songs that come one at a time to the full library: the write alone, and all of it."""
    rows = library.store.rows("song = 'none-0'")
    times = []
    for i in range(ALONE):
        one = [{**row, "song": f"one-{i}", "content": f"one-{i}"} for row in rows]
        began = time.perf_counter()
        library.store.write(one)
        times.append(1000 * (time.perf_counter() - began))
    files, whole = sorted(band.glob("*.wav"))[:4], []
    for i, file in enumerate(files):
        began = time.perf_counter()
        library.add(file, id=f"again-{i}")
        whole.append(time.perf_counter() - began)
    library.store.delete([f"one-{i}" for i in range(ALONE)])
    table = library.store.table.stats()
    for i, file in enumerate(files):
        library.remove(f"again-{i}")
        library.add(file)
    library.store.tidy()
    return {
        "write_ms": _spread(times),
        "mean_write_ms": round(float(np.mean(times)), 2),
        "add_60_s_song_seconds": round(float(np.median(whole)), 2),
        "fragments_after": table["fragment_stats"]["num_fragments"],
    }


def speed(library: Library, repeats: int) -> dict[str, Any]:
    """Milliseconds of searches, all of it, from words to finds, and the parts."""
    words, own = list(STYLES), library.search("piano", limit=1)[0].id
    vector = library.ear.words("piano")
    kinds: dict[str, Callable[[str], Any]] = {
        "words": lambda text: library.search(text, limit=FIRST),
        "words, a key and a tempo": lambda text: library.search(
            text, limit=FIRST, key="A minor", tempo=(90, 130)
        ),
        "words, one folder": lambda text: library.search(text, limit=FIRST, path="/none/77"),
        "similar": lambda text: library.similar(own, limit=FIRST),
        "of that, embedding the words": library.ear.words,
        "of that, the nearest windows": lambda text: library.store.nearest(vector, limit=400),
    }
    rows = {}
    for name, search in kinds.items():
        times = []
        for text in words * repeats:
            began = time.perf_counter()
            search(text)
            times.append(1000 * (time.perf_counter() - began))
        rows[name] = _spread(times)
    return rows


def searching(library: Library, band: Path, repeats: int) -> dict[str, Any]:
    """Songs that come one by one, and searches without and with the index."""
    stats = library.stats()
    found: dict[str, Any] = {"songs": stats["songs"], "windows": stats["windows"]}
    found["alone"] = alone(library, band)
    for index in library.store.table.list_indices():
        library.store.table.drop_index(index.name)
    found["without_index"] = speed(library, repeats)
    library.store.index()
    found["with_index"] = speed(library, repeats)
    return found


def recall(library: Library) -> dict[str, float]:
    """Of what comparing every window finds, the share that is found: windows by the index, and
    songs by a search, against the ranking of all songs by all their windows.
    """
    ids, _, _, vectors = library.store.windows(None)
    starts = np.array([i for i in range(len(ids)) if not i or ids[i] != ids[i - 1]])
    by_index, by_search = [], []
    for text in STYLES:
        vector = library.ear.words(text)
        pairs = [
            {(row["song"], row["start"]) for row in library.store.nearest(vector, limit=400, **how)}
            for how in ({}, {"exact": True})
        ]
        by_index.append(len(pairs[0] & pairs[1]) / len(pairs[1]))
        songs = np.split(vectors @ vector, starts[1:])
        order = np.argsort([-better_half(own) for own in songs])[:FIRST]
        best = {ids[starts[i]] for i in order}
        found = {find.id for find in library.search(text, limit=FIRST)}
        by_search.append(len(best & found) / FIRST)
    return {
        "windows_of_the_index": round(float(np.mean(by_index)), 4),
        "songs_of_a_search": round(float(np.mean(by_search)), 4),
    }


def rightness(library: Library, band: Path) -> dict[str, Any]:
    """The share of right finds among the first ten, by words and by songs."""
    told = json.loads((band / "metadata.json").read_text())
    style = {str(band / e["audio_file"]): e["title"].partition(" no. ")[0] for e in told}
    folder = os.path.join(str(band), "")

    def right(finds: list[Any], wanted: str) -> float:
        return sum(style[find.path] == wanted for find in finds) / FIRST

    names, wordings = {}, {}
    for wanted, about in STYLES.items():
        found = {
            text: right(library.search(text, limit=FIRST, path=folder), wanted)
            for text in dict.fromkeys((wanted, *about.words))
        }
        names[wanted] = found[wanted]
        wordings[wanted] = found
    every = [share for found in wordings.values() for share in found.values()]
    by_style = [float(np.mean(list(found.values()))) for found in wordings.values()]
    similar = [
        right(library.similar(path, limit=FIRST, path=folder), wanted)
        for path, wanted in style.items()
    ]
    return {
        "names": mean_interval(list(names.values())).to_dict(),
        "all_wordings": mean_interval(by_style).to_dict() | {"texts": len(every)},
        "similar": mean_interval(similar).to_dict(),
        "pooling": _pooling(library, style, folder),
        "by_name": names,
        "by_wording": wordings,
    }


def _pooling(library: Library, style: dict[str, str], folder: str) -> dict[str, float]:
    """Right finds of names where a song counts otherwise, every window compared."""
    where = f"starts_with(path, '{folder}')"
    ids, _, _, vectors = library.store.windows(where)
    paths = {song["song"]: song["path"] for song in library.store.songs(where)}
    starts = np.array([i for i in range(len(ids)) if not i or ids[i] != ids[i - 1]])
    kinds = np.array([style[paths[ids[i]]] for i in starts])
    found = {}
    for name, pool in POOLS.items():
        shares = []
        for wanted in STYLES:
            songs = np.split(vectors @ library.ear.words(wanted), starts[1:])
            order = np.argsort([-pool(own) for own in songs])[:FIRST]
            shares.append(float(np.mean(kinds[order] == wanted)))
        found[name] = round(float(np.mean(shares)), 4)
    return found


def _spread(times: list[float]) -> dict[str, float]:
    low, middle, high = np.quantile(times, (0, 0.5, 0.95))
    return {"least": round(low, 2), "median": round(middle, 2), "p95": round(high, 2)}


def _machine() -> dict[str, Any]:
    load = [round(each, 1) for each in os.getloadavg()]
    return {"machine": {"chip": chip(), "cores": cores(), "load": load}}


def _since(began: float) -> float:
    return round(time.perf_counter() - began, 2)


def table(found: dict[str, Any]) -> str:
    """The figures as Markdown."""
    right, plain, quick = found["right"], found["without_index"], found["with_index"]
    short, long, again = (found["adding"][name] for name in ("short", "long", "again"))
    alone = found["alone"]
    rows = [
        ("songs of 60 s added a minute; a minute of one processor",
         f"{short['a_minute']:g}; {short['a_processor_minute']:g}"),
        (f"songs of {long['seconds']} s added a minute; a minute of one processor",
         f"{long['a_minute']:g}; {long['a_processor_minute']:g}"),
        (f"a folder of {again['songs']} songs that are there added again",
         f"{again['seconds']:g} s"),
        ("one song written to the full library: least, median, mean with the joining",
         f"{alone['write_ms']['least']:g}, {alone['write_ms']['median']:g}, "
         f"{alone['mean_write_ms']:g} ms"),
        *((f"search, {name}: least (median) without the index; with it",
           f"{plain[name]['least']:g} ({plain[name]['median']:g}); "
           f"{quick[name]['least']:g} ({quick[name]['median']:g}) ms") for name in quick),
        ("of the 400 nearest windows the index finds",
         f"{found['recall']['windows_of_the_index']:.1%}"),
        ("of the ten nearest songs a search finds", f"{found['recall']['songs_of_a_search']:.1%}"),
        *((f"right among the first ten: {name.replace('_', ' ')}",
           f"{each['value']:.2f} [{each['low']:.2f}, {each['high']:.2f}]")
          for name, each in right.items() if "low" in each),
        *((f"names, where a song counts by its {name}", f"{share:.2f}")
          for name, share in right["pooling"].items()),
    ]  # fmt: skip
    return "\n".join(["| what | measured |", "|---|---|", *(f"| {a} | {b} |" for a, b in rows)])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="songs of the band")
    parser.add_argument("--model", default="musicot-mini")
    parser.add_argument("--songs", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=4, help="searches of each kind and style")
    parser.add_argument("--library", type=Path, help="keep the full library here, or use it again")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--json", type=Path, help="write the results here, beside other parts")
    args = parser.parse_args()
    band, work = args.folder.absolute(), Path(tempfile.mkdtemp(prefix="library-"))
    found: dict[str, Any] = {"model": args.model}
    if args.json and args.json.is_file():
        found |= json.loads(args.json.read_text())
    try:
        if "adding" in args.parts:
            found["adding"] = adding(args.model, band, work) | _machine()
        library = Library(args.library or work / "full", args.model)
        if args.parts != ["adding"] and library.stats()["songs"] < args.songs:
            library.add_folder(band)
            fill(library, args.songs)
        if "searching" in args.parts:
            found |= searching(library, band, args.repeats) | _machine()
        if "right" in args.parts:
            found |= {"recall": recall(library), "right": rightness(library, band)}
    finally:
        shutil.rmtree(work, ignore_errors=True)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")
    if {"adding", "alone", "right"} <= set(found):
        print(table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
