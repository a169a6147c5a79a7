"""`python -m musicot_mlx.reference.band FOLDER --songs N`: make a data set of the band's songs."""

import argparse
import sys

from rich.console import Console
from rich.progress import track

from musicot_mlx.errors import MusicotError
from musicot_mlx.reference.band.dataset import make_dataset
from musicot_mlx.reference.band.tables import FIRST_ORDER, ORDER


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="musicot_mlx.reference.band", description=__doc__)
    parser.add_argument("folder", help="where songs, scores and metadata.json go")
    parser.add_argument("--songs", type=int, required=True, help="how many songs")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first song (default: 0)")
    parser.add_argument("--duration", type=float, default=60.0, help="seconds a song (default: 60)")
    parser.add_argument("--workers", type=int, default=2, help="processes (default: 2)")
    parser.add_argument("--channels", type=int, choices=(1, 2), default=1, help="(default: 1)")
    parser.add_argument("--stems", action="store_true", help="also a WAV a family of instruments")
    parser.add_argument(
        "--styles",
        metavar="A,B",
        default=",".join(ORDER),
        help=f"styles that seeds walk through, or `first`: the {len(FIRST_ORDER)} that the first "
        "musicot-mini heard (default: all)",
    )
    args = parser.parse_args(argv)
    options = {k: v for k, v in vars(args).items() if k != "folder"}
    named = tuple(name.strip() for name in args.styles.split(","))
    options["styles"] = FIRST_ORDER if args.styles == "first" else named
    try:
        songs = make_dataset(args.folder, **options)
        for _ in track(songs, "songs", total=args.songs, console=Console(stderr=True)):
            pass
    except MusicotError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
