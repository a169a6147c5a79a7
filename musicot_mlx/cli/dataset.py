"""musicot dataset: questions, captions, edits and instructions from a folder of songs."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from musicot_mlx.cli import flags
from musicot_mlx.cli.progress import Progress
from musicot_mlx.errors import MusicotError


def _speeds(text: str) -> list[float]:
    """A check: factors with commas between."""
    return [flags.number(0.25, 4.0)(part.strip()) for part in text.split(",")]


def _cents(text: str) -> list[int]:
    """A check: hundredths of a semitone with commas between."""
    return [flags.number(-2400, 2400, whole=True)(part.strip()) for part in text.split(",")]


@dataclass(kw_only=True)
class Arguments:
    """The flags of musicot dataset."""

    songs: str = flags.flag(
        "FOLDER",
        "songs: with the band's metadata.json, train.jsonl, metadata.csv, settings that musicot "
        "wrote, or a .txt beside each",
        positional=True,
    )
    output: str = flags.flag(
        "FOLDER",
        "folder to write; a run that was interrupted goes on there",
        "--output",
        "-o",
        required=True,
        check=flags.place,
    )
    sets: list[str] = flags.flag(
        "A,B",
        "sets to make (default: questions,captions,edits,instructions)",
        check=flags.names,
        default=["questions", "captions", "edits", "instructions"],
    )
    edits: int = flags.flag(
        "N",
        "edits a song at most (default: 2)",
        check=flags.number(0, 100, whole=True),
        default=2,
    )
    speeds: list[float] = flags.flag(
        "X,Y",
        "times as fast, by WSOLA (default: 0.5,0.7,1,1.3,1.5)",
        check=_speeds,
        default=[0.5, 0.7, 1.0, 1.3, 1.5],
    )
    cents: list[int] = flags.flag(
        "X,Y",
        "hundredths of a semitone higher (default: -200,-100,100,200)",
        check=_cents,
        default=[-200, -100, 100, 200],
    )
    model: str | None = flags.flag(
        "FOLDER", "model that listens (MuMu-LLaMA) and describes songs that have no caption"
    )
    licence: str | None = flags.flag(
        "TEXT", "licence of songs that don't tell theirs (default: unknown)"
    )
    seed: int = flags.flag("N", "same seed, same sets (default: 0)", check=flags.seed, default=0)
    overwrite: bool = flags.flag(
        "", "replace a data set that is there already", panel="Output", default=False
    )
    json: bool = flags.flag("", "one line of JSON on standard output", default=False)


def run(args: Arguments) -> int:
    from musicot_mlx.audio.headers import tell
    from musicot_mlx.training import known_songs, question_sets
    from musicot_mlx.training.records import Skipped

    output = Path(args.output)
    flags.require_writable(output / question_sets.MANIFEST)
    options = question_sets.SetOptions(
        sets=tuple(args.sets),
        edits=args.edits,
        speeds=tuple(args.speeds),
        cents=tuple(args.cents),
        seed=args.seed,
    )
    skipped: list[Skipped] = []
    describe = _describer(args.model) if args.model else None
    songs = known_songs.known_songs(
        Path(args.songs), licence=args.licence, describe=describe, skipped=skipped
    )
    for each in skipped:
        tell(str(each))
    if not songs:
        raise MusicotError(f"{args.songs} holds no song of which anything is known")
    with Progress() as progress:
        counts = question_sets.make_sets(
            songs,
            output,
            options,
            overwrite=args.overwrite,
            progress=lambda done, total: progress("songs", done, total),
        )
    unknown = question_sets.unknown_licences(songs)
    if args.json:
        said = {"output": str(output), "songs": len(songs), "skipped": len(skipped)}
        print(json.dumps({**said, "unknown_licences": unknown, "entries": counts}))
        return 0
    made = ", ".join(f"{count} {name}" for name, count in counts.items())
    licences = f"; {unknown} of unknown licence (--licence says it)" if unknown else ""
    print(f"{output}: {made} of {len(songs)} songs{licences}")
    return 0


def _describer(name: str) -> Callable[[Path], str]:
    """What a model says of a song, as its caption."""
    import musicot_mlx as mc

    model = mc.load(name)
    if not hasattr(model, "ask"):
        raise MusicotError(f"{name} doesn't listen; pass a MuMu-LLaMA folder, or leave --model out")
    return lambda path: model.ask("Describe the music in detail.", audio=path).text
