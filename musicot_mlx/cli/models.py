"""musicot models: which models there are, embedded, converted or to be had, and which to delete."""

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from musicot_mlx.cli import flags
from musicot_mlx.errors import MusicotError
from musicot_mlx.texts import read_json
from musicot_mlx.weights import cache, hub
from musicot_mlx.weights.published import PUBLISHED

_LICENCES = {model.name: model.licence for model in PUBLISHED}


@dataclass(kw_only=True)
class Arguments:
    """The flags of musicot models."""

    delete: str | None = flags.flag(
        "NAME", "delete the conversions of this model; they are made again when it is next loaded"
    )
    yes: bool = flags.flag("", "do not ask before deleting", "--yes", "-y", default=False)
    json: bool = flags.flag("", "one line of JSON on standard output", default=False)


@dataclass(frozen=True)
class Model:
    """One row: how the model is had, its size there, and whose terms hold."""

    name: str
    kind: Literal["embedded", "converted", "published"]
    size: int  # bytes, of a published one those of its conversion to float16
    licence: str
    sample_rate: int | None
    what: str
    cached: str = ""  # of a published one: converted, downloaded, or neither
    folder: str | None = None


def run(args: Arguments) -> int:
    if args.delete is not None:
        return _delete(args)
    models = [*_embedded(), *_converted(), *_published()]
    if args.json:
        print(json.dumps([asdict(model) for model in models]))
        return 0
    titles = {
        "embedded": "embedded",
        "converted": f"converted, in {cache.cache_root()}",
        "published": "published, fetched and converted to float16 when first loaded: --model NAME",
    }
    for kind, title in titles.items():
        rows = [model for model in models if model.kind == kind]
        print(title)
        print("\n".join(_table(rows)) if rows else "  none")
    return 0


def _table(models: list[Model]) -> Iterator[str]:
    name, licence, what = (
        max(len(getattr(model, key)) for model in models) for key in ("name", "licence", "what")
    )
    for model in models:
        rate = f"{model.sample_rate / 1000:g} kHz" if model.sample_rate else ""
        row = f"  {model.name:<{name}}  {_size(model.size):>7}  {rate:>8}  "
        yield f"{row}{model.licence:<{licence}}  {model.what:<{what}}  {model.cached}".rstrip()


def _embedded() -> Iterator[Model]:
    for name in hub.EMBEDDED:
        folder = hub.resolve(name)
        channels = read_json(folder / "config.json")["vae"]["audio_channels"]
        what = f"songs, {'mono' if channels == 1 else 'stereo'}"
        size, place = _bytes(folder), str(folder)
        yield Model(name, "embedded", size, "MIT", _rate(folder), what, folder=place)


def _converted() -> Iterator[Model]:
    for name, folder, size in cache.entries():
        licence = _LICENCES.get(name, "")
        yield Model(
            name, "converted", size, licence, _rate(folder), folder.name, folder=str(folder)
        )


def _published() -> Iterator[Model]:
    converted = {name for name, *_ in cache.entries()}
    for model in PUBLISHED:
        there = "downloaded" if hub.downloaded(model.name) else ""
        there = "converted" if model.name in converted else there
        what = f"{model.what}, {model.parameters:.0f} M parameters"
        yield Model(
            model.name, "published", model.size, model.licence, model.sample_rate, what, there
        )


def _delete(args: Arguments) -> int:
    import typer

    on_hub = hub.hub_id(args.delete)
    name = on_hub[0] if on_hub else args.delete
    if name in hub.EMBEDDED:
        raise MusicotError(f"{name} is part of the installation and can't be deleted")
    conversions = [(folder, size) for other, folder, size in cache.entries() if other == name]
    if not conversions:
        names = ", ".join(sorted({other for other, *_ in cache.entries()})) or "none"
        said = name if name.strip() else repr(name)
        raise MusicotError(f"no conversion of {said} in {cache.cache_root()}; there is {names}")
    freed = sum(size for _, size in conversions)
    listed = ", ".join(folder.name for folder, _ in conversions)
    if not args.yes:
        if sys.stdin is None or not sys.stdin.isatty():
            raise MusicotError(f"deleting {name} asks first; pass --yes where nobody can answer")
        if not typer.confirm(f"Delete {name} ({listed}), {_size(freed)}?", err=True):
            raise typer.Abort
    for folder, _ in conversions:
        cache.delete(folder)
    left = hub.downloaded(name) if on_hub else 0
    if args.json:
        report = {"deleted": name, "conversions": [str(folder) for folder, _ in conversions]}
        print(json.dumps({**report, "freed": freed, "download": left}))
        return 0
    print(f"deleted {name} ({listed}): {_size(freed)} freed")
    if left:
        repository = hub.split_size(name)[0]
        print(f"its download stays, {_size(left)}; `hf cache rm model/{repository}` frees that too")
    return 0


def _rate(folder: Path) -> int | None:
    """The sample rate in Hz that a model's config names, wherever it does."""

    def named(section: Any) -> Iterator[int]:
        for key, value in section.items() if isinstance(section, dict) else ():
            if key in ("sample_rate", "sampling_rate"):
                yield value
            yield from named(value)

    config = read_json(folder / "config.json")
    # of a codec or VAE before that of what listens
    ordered = [config.get("vae"), config.get("codec"), config]
    return next((rate for section in ordered for rate in named(section)), None)


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


def _size(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
