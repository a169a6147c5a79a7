"""The command line: app.py dispatches, flags.py says what an option is, a file a command."""

from musicot_mlx.cli.app import COMMANDS as COMMANDS
from musicot_mlx.cli.app import main as main
