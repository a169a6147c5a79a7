"""python -m musicot_mlx.reference.band FOLDER --songs N: write a data set of songs."""

import argparse
import sys

from musicot_mlx.errors import MusicotError
from musicot_mlx.reference.band.dataset import make_dataset


def main(argv: list[str] | None = None) -> int:
    """Parse, make, report."""
    parser = argparse.ArgumentParser(prog="python -m musicot_mlx.reference.band")
    parser.add_argument("folder", help="where songs, rolls and metadata.json go")
    parser.add_argument("--songs", type=int, required=True, help="number of songs")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first song")
    parser.add_argument("--duration", type=float, default=60.0, help="seconds a song")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--channels", type=int, default=1, choices=(1, 2), help="1 mono, 2 stereo")
    options = parser.parse_args(argv)
    try:
        path = make_dataset(**vars(options))
    except MusicotError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
