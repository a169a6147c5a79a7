"""A model name to an MLX folder: a PyTorch checkpoint is converted once, into the user's cache.

The cache's key is the checkpoint's revision on the Hub, or what the files of a local folder look
like, and the dtype. A conversion that is there is used without asking the network.
"""

import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from musicot_mlx.errors import MusicotError
from musicot_mlx.texts import read_json
from musicot_mlx.weights import cache
from musicot_mlx.weights.hub import EMBEDDED, hub_id, resolve, split_size

DTYPE = "float16"


def mlx_folder(
    name_or_path: str | Path, *, say: Callable[[str], None] | None = None, dtype: str = DTYPE
) -> Path:
    """The MLX folder of a name: embedded, local, on the Hub, or converted into the cache.

    say gets the one line that tells of a conversion (None: standard error). Raises MusicotError
    for what can't be found or converted, RunError where the Hub or the disk fails.
    """
    say = say or (lambda line: print(line, file=sys.stderr, flush=True))
    name = str(name_or_path)
    on_hub = None if name in EMBEDDED else hub_id(name)
    if on_hub and (folder := cache.latest(*on_hub, dtype)):
        return folder
    source = resolve(name)
    if not is_pytorch(source):
        if size := split_size(name)[1]:
            raise MusicotError(f"{source} holds one model, converted before; leave out :{size}")
        return source
    if on_hub:  # the Hub client names a snapshot's folder by its commit
        label, version = on_hub[0], source.name[:12]
    else:
        source = source.resolve()
        label, version = f"{source.name}@{_digest(str(source))}", _fingerprint(source)
        label += f":{size}" if (size := split_size(name)[1]) else ""
    target = cache.entry(label, version, dtype)
    if not cache.is_complete(target):
        _convert(source, target, name=name, dtype=dtype, say=say)
    if on_hub:
        cache.remember(*on_hub, version)
    return target


def is_pytorch(folder: Path) -> bool:
    """Whether a folder holds a checkpoint for PyTorch, to be converted."""
    path = folder / "config.json"
    if not path.is_file():
        patterns = ("*.bin", "*.pt", "checkpoints/*.safetensors")  # the last: Magenta RealTime 2
        return any(path for pattern in patterns for path in folder.glob(pattern))
    try:
        config = read_json(path)
    except ValueError:
        return False  # whoever loads it says what is wrong
    if not isinstance(config, dict):
        return False
    upstream = any(key in config for key in ("architectures", "transformers_version"))
    return config.get("model_type") == "musicot-pytorch" or upstream


def _convert(
    source: Path, target: Path, *, name: str, dtype: str, say: Callable[[str], None]
) -> None:
    # Reached by name: nothing of the converter is loaded where nothing is to be converted.
    from musicot_mlx.convert.convert import convert

    def waiting() -> None:
        say(f"waiting for another musicot that is converting {name}")

    with cache.writing(target, waiting) as mine:
        if mine:
            say(f"converting {name} to {dtype} once, into {target}")
            with _bar(name) as progress:
                size = split_size(name)[1]
                convert(source, target, size=size, dtype=dtype, progress=progress)


@contextmanager
def _bar(name: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar of bytes on standard error, where that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        console=Console(file=sys.stderr),
        transient=True,
        redirect_stdout=sys.stdout.isatty(),
        disable=not sys.stderr.isatty(),
    ) as bars:
        task = bars.add_task(f"converting {name}")
        yield lambda done, total: bars.update(task, completed=done, total=total)


def _fingerprint(folder: Path) -> str:
    """What tells one state of a local checkpoint from another: names, sizes and times of files, in
    its folders too.
    """
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    stats = [
        (name, path.stat().st_size, path.stat().st_mtime_ns)
        for name, path in sorted(files.items())
        if not name.startswith(".")  # of a client or a version control, which come and go
    ]
    return _digest(json.dumps(stats))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
