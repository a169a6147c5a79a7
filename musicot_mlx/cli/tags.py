"""musicot tags: what a model plays, by the words that ask for it."""

import json
from dataclasses import dataclass
from typing import Any

from musicot_mlx.cli import flags
from musicot_mlx.errors import MusicotError


@dataclass(kw_only=True)
class Arguments:
    """The flags of musicot tags."""

    model: str | None = flags.flag(
        "NAME", "embedded name, folder or Hub id (default: musicot-mini)"
    )
    json: bool = flags.flag("", "one line of JSON on standard output", default=False)


def run(args: Arguments) -> int:
    import musicot_mlx as mc

    name = args.model or "musicot-mini"
    model = mc.load(name)
    if not hasattr(model, "vocabulary"):
        raise MusicotError(f"{name} has no tags; it takes any English words as a prompt")
    found = model.vocabulary()
    print(json.dumps(found) if args.json else _page(name, found))
    return 0


def _page(name: str, found: dict[str, Any]) -> str:
    """What the model plays as text, a line a kind."""
    families = found["instruments"]
    width = max((len(family) for family in families), default=0)
    lines = [f"{name} plays", f"  styles: {', '.join(found['styles']) or 'none by name'}"]
    lines += ["  instruments:"] if families else []
    lines += [f"    {family:<{width}}  {', '.join(tags)}" for family, tags in families.items()]
    if found["tempi"]:
        low, high = found["tempi"]
        lines.append(f"  tempi: {low:g} to {high:g} BPM, four beats a bar")
    lines.append(f"  keys and chords: {'any' if found['harmony'] else 'none'}")
    if found["left_out"]:
        lines.append(f"  no X, without X: {', '.join(found['left_out'])}")
    if found["words"]:
        lines.append(f"  other words: {', '.join(found['words'])}")
    lines.append(f"  singing: {'by lyrics' if found['sings'] else 'none'}")
    return "\n".join(lines)
