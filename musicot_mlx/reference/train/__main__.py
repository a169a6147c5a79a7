"""`python -m musicot_mlx.reference.train --data FOLDER --out FOLDER`: all stages, or some."""

import sys

from musicot_mlx.reference.train.command import main

if __name__ == "__main__":
    sys.exit(main())
