"""python -m musicot_mlx, for when the musicot command is not on the PATH."""

import sys

from musicot_mlx.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
