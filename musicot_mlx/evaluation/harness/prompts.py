"""The prompts that `musicot eval` asks with, and what each of them asks for.

Written by hand in words and orders that the band's captions never use, so they are held-out
wordings. `asked` are families of instruments that must be heard, `open` those that the style may
bring along and that count neither way; every other family counts as not asked.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from musicot_mlx.errors import MusicotError
from musicot_mlx.texts import lines_of, one_line, read_text


@dataclass(frozen=True)
class Prompt:
    """A prompt, its families asked and left open, its tempo in BPM (0: none named), its style."""

    text: str
    asked: tuple[str, ...] = ()
    open: tuple[str, ...] = ()
    bpm: float = 0.0
    style: str = ""


PROMPTS = (
    Prompt("pounding techno for a dark cellar, machine drums and a sawing synth line, 132 BPM",
           ("drums", "synth"), ("bass",), 132, "techno"),
    Prompt("a deep house tune with warm piano chords and a steady kick, 122 BPM",
           ("drums", "piano"), ("bass", "organ", "strings", "synth", "brass", "mallets"), 122,
           "house"),
    Prompt("rolling jungle breaks under a wide synth pad, 172 BPM", ("drums", "synth"),
           ("bass", "piano", "woodwind"), 172, "drum and bass"),
    Prompt("sleepy study music: dusty drums, rhodes chords, a soft bass, 78 BPM",
           ("drums", "piano", "bass"), ("mallets", "guitar", "woodwind", "strings", "synth"), 78,
           "lo-fi hip hop"),
    Prompt("tight funk with slapped bass and horn stabs, 104 BPM", ("bass", "brass"),
           ("drums", "guitar", "organ", "piano", "woodwind"), 104, "funk"),
    Prompt("loud rock: crunchy electric guitars, bass and a big drum kit, 126 BPM",
           ("guitar", "drums", "bass"), ("organ",), 126, "rock"),
    Prompt("furious metal with chugging guitars and double bass drums, 165 BPM",
           ("guitar", "drums"), ("bass",), 165, "metal"),
    Prompt("a small jazz club: walking bass, ride cymbal, tenor sax, 150 BPM",
           ("bass", "drums", "woodwind"), ("piano", "guitar", "brass", "mallets"), 150,
           "jazz swing"),
    Prompt("late night swing with muted trumpet over piano and upright bass",
           ("brass", "piano", "bass"), ("drums", "guitar", "woodwind", "mallets"), 0,
           "jazz swing"),
    Prompt("gentle bossa on nylon strings with a breathy flute, 120 BPM", ("guitar", "woodwind"),
           ("drums", "bass", "piano", "strings", "mallets"), 120, "bossa nova"),
    Prompt("a village dance: fiddle tune over strummed acoustic guitar, 100 BPM",
           ("strings", "guitar"), ("bass", "drums", "woodwind"), 100, "folk"),
    Prompt("slowly drifting synth pads, no drums, like fog over a lake", ("synth",),
           ("strings", "mallets", "piano", "organ", "woodwind"), 0, "ambient"),
    Prompt("still, glassy vibraphone notes above long strings", ("mallets", "strings"),
           ("synth", "piano", "organ", "woodwind"), 0, "ambient"),
    Prompt("a grand film score, soaring strings and noble french horns", ("strings", "brass"),
           ("drums", "woodwind", "mallets"), 0, "orchestral"),
    Prompt("marching orchestra: horns, snare drums and a bright glockenspiel, 96 BPM",
           ("brass", "drums", "mallets"), ("strings", "woodwind"), 96, "orchestral"),
    Prompt("neon night drive, eighties synths and a gated snare, 100 BPM", ("synth", "drums"),
           ("bass",), 100, "synthwave"),
    Prompt("a lone piano, tender and slow, after the guests have left", ("piano",), (), 0,
           "solo piano"),
    Prompt("somebody practising a sad cello suite alone", ("strings",), (), 0, "solo cello"),
    Prompt("unaccompanied classical guitar, calm fingerpicking", ("guitar",), (), 0,
           "solo guitar"),
    Prompt("one flute by itself playing a light pastoral air", ("woodwind",), (), 0, "solo flute"),
    Prompt("church organ swelling under slow synth strings", ("organ", "synth"),
           ("strings", "mallets", "piano", "woodwind"), 0, "ambient"),
    Prompt("greasy hammond organ groove with clean funk guitar and drums, 108 BPM",
           ("organ", "guitar", "drums"), ("bass", "brass", "piano", "woodwind"), 108, "funk"),
    Prompt("cool vibraphone lead with brushes and acoustic bass, 140 BPM",
           ("mallets", "bass", "drums"), ("piano", "guitar", "brass", "woodwind"), 140,
           "jazz swing"),
    Prompt("garage rock with a wheezing organ on top, 138 BPM", ("organ", "guitar", "drums"),
           ("bass",), 138, "rock"),
)  # fmt: skip


def read_prompts(path: str | Path) -> tuple[Prompt, ...]:
    """Prompts of a file: JSON, a list of objects with the fields of Prompt, or one text a line.

    Raises MusicotError that names the entry and what is wrong with it.
    """
    path = Path(path)
    try:
        text = read_text(path)
    except (OSError, MusicotError) as error:
        raise MusicotError(f"can't read the prompts {path} ({error})") from error
    if path.suffix.lower() != ".json":
        prompts = tuple(Prompt(line) for each in lines_of(text) if (line := one_line(each)))
    else:
        try:
            entries = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise MusicotError(f"{path} is not JSON ({error})") from error
        if not isinstance(entries, list):
            raise MusicotError(f"{path} must hold a list of prompts")
        prompts = tuple(_parse(entry, f"{path}, entry {i}") for i, entry in enumerate(entries))
    if not prompts:
        raise MusicotError(f"{path} holds no prompt; write one a line")
    return prompts


def _parse(entry: Any, where: str) -> Prompt:
    if isinstance(entry, str):
        entry = {"text": entry}
    if not isinstance(entry, dict) or not str(entry.get("text", "")).strip():
        raise MusicotError(f"{where}: expected a text, or an object with one")
    unknown = set(entry) - set(Prompt.__dataclass_fields__)
    if unknown:
        raise MusicotError(f"{where}: no field {', '.join(sorted(unknown))} in a prompt")
    try:
        return Prompt(
            text=one_line(str(entry["text"])),
            asked=tuple(map(str, entry.get("asked", ()))),
            open=tuple(map(str, entry.get("open", ()))),
            bpm=float(entry.get("bpm", 0.0)),
            style=str(entry.get("style", "")),
        )
    except (TypeError, ValueError) as error:
        raise MusicotError(f"{where}: {error}") from error
