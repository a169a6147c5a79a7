"""musicot studio: the page on which songs are made by looking, and the API behind it."""

from dataclasses import dataclass

from musicot_mlx.cli import flags, serve


@dataclass(kw_only=True)
class Arguments(serve.Arguments):
    """The flags of musicot studio."""

    no_open: bool = flags.flag("", "do not open the browser", default=False)


def run(args: Arguments) -> int:
    return serve.serve(args, page=True, opening=not args.no_open)
