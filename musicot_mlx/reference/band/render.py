"""Notes to audio through FluidSynth with the FluidR3 General MIDI sound font (MIT licence).

One synthesiser is kept loaded per process; events fall on exact sample offsets of the call, which
FluidSynth rounds to its own blocks of 64 samples (1.5 ms).
"""

import ctypes
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from musicot_mlx.errors import MusicotError
from musicot_mlx.reference.band.piece import Note, Piece
from musicot_mlx.reference.band.tables import INSTRUMENTS

SOUND_FONTS = (
    "/usr/share/sounds/sf2/FluidR3_GM.sf2",
    "/usr/share/soundfonts/FluidR3_GM.sf2",
    "/opt/homebrew/share/soundfonts/FluidR3_GM.sf2",
)
LOUDNESS = 0.13  # target RMS of the louder half of a piece
DRUM_CHANNEL = 9


def sound_font() -> Path | None:
    """The sound font: $MUSICOT_SOUND_FONT, or where Debian, Fedora and Homebrew put FluidR3."""
    for path in (os.environ.get("MUSICOT_SOUND_FONT", ""), *SOUND_FONTS):
        if path and Path(path).is_file():
            return Path(path)
    return None


def can_render() -> bool:
    """Whether FluidSynth and a sound font are on this machine."""
    try:
        import fluidsynth  # noqa: F401
    except (ImportError, OSError):
        return False
    return sound_font() is not None


@lru_cache(maxsize=2)
def _synth(sample_rate: int) -> tuple[Any, int, Any]:
    """(synth, sound font id, write function) of this process."""
    try:
        import fluidsynth
    except (ImportError, OSError) as error:
        raise MusicotError(
            "rendering needs FluidSynth: install the fluidsynth library (apt install "
            "libfluidsynth3, brew install fluid-synth) and pip install pyfluidsynth"
        ) from error
    font = sound_font()
    if font is None:
        raise MusicotError(
            "no General MIDI sound font found; apt install fluid-soundfont-gm, or set "
            "MUSICOT_SOUND_FONT to a .sf2 file"
        )
    synth = fluidsynth.Synth(gain=0.3, samplerate=float(sample_rate), channels=32)
    synth.setting("synth.chorus.active", 0)
    synth.setting("synth.polyphony", 160)
    write = fluidsynth._fl.fluid_synth_write_float  # pyfluidsynth itself only offers 16 bits
    pointer, integer = ctypes.c_void_p, ctypes.c_int
    write.argtypes = [pointer, integer, pointer, integer, integer, pointer, integer, integer]
    write.restype = integer
    return synth, synth.sfload(str(font)), write


def _seat_channels(synth: Any, font: int, names: list[str]) -> dict[str, int]:
    """Give each instrument its own channel, sound, volume, pan and a little room."""
    channels: dict[str, int] = {}
    free = [c for c in range(32) if c % 16 != DRUM_CHANNEL]
    for name in names:
        tool = INSTRUMENTS[name]
        drums = tool.family == "drums"
        channel = DRUM_CHANNEL if drums else free.pop(0)
        synth.program_select(channel, font, 128 if drums else 0, tool.program)
        for control, value in ((7, tool.volume), (10, tool.pan), (91, 18 if drums else 36)):
            synth.cc(channel, control, value)
        channels[name] = channel
    return channels


def _events(notes: list[Note], sample_rate: int) -> list[tuple[int, int, str, int, int]]:
    """(sample, 0 off / 1 on, instrument, pitch, velocity), offs first where both fall together."""
    events = []
    for note in notes:
        events.append(
            (round(note.start * sample_rate), 1, note.instrument, note.pitch, note.velocity)
        )
        events.append((round(note.end * sample_rate), 0, note.instrument, note.pitch, 0))
    return sorted(events)


def _perform(notes: list[Note], duration: float, sample_rate: int) -> np.ndarray:
    """The raw sound of the notes, float32 (samples, 2)."""
    synth, font, write = _synth(sample_rate)
    synth.system_reset()
    channels = _seat_channels(synth, font, sorted({note.instrument for note in notes}))
    samples = round(duration * sample_rate)
    out = np.zeros((samples, 2), np.float32)
    base, here = out.ctypes.data, 0

    def advance(to: int) -> None:
        nonlocal here
        to = min(to, samples)
        if to > here:
            where = base + here * 8  # two float32 a frame
            write(synth.synth, to - here, where, 0, 2, where, 1, 2)
            here = to

    for sample, on, name, pitch, velocity in _events(notes, sample_rate):
        advance(sample)
        if on:
            synth.noteon(channels[name], pitch, velocity)
        else:
            synth.noteoff(channels[name], pitch)
    advance(samples)
    return out


def _gain(sound: np.ndarray) -> float:
    """What brings the louder half of the sound to the common loudness."""
    blocks = sound[: len(sound) // 4096 * 4096].reshape(-1, 4096 * sound.shape[1])
    power = np.sort((blocks**2).mean(axis=1))[len(blocks) // 2 :]
    return LOUDNESS / max(float(np.sqrt(power.mean())) if len(power) else 0.0, 1e-6)


def _limit(sound: np.ndarray, knee: float = 0.6, ceiling: float = 0.94) -> np.ndarray:
    """Leave what is below the knee alone and bend peaks softly under the ceiling."""
    size = np.abs(sound)
    room = ceiling - knee
    bent = np.sign(sound) * (knee + room * np.tanh((size - knee) / room))
    return np.where(size > knee, bent, sound).astype(np.float32)


def _fade(sound: np.ndarray, sample_rate: int) -> np.ndarray:
    tail = min(len(sound), round(0.15 * sample_rate))
    sound[len(sound) - tail :] *= np.linspace(1.0, 0.0, tail, dtype=np.float32)[:, None]
    return sound


def render(piece: Piece, *, sample_rate: int = 44100) -> np.ndarray:
    """The piece as audio: float32 (samples, 2), peaks under 0.95, loudness alike between pieces.

    Raises MusicotError where FluidSynth or the sound font is missing.
    """
    sound = _perform(list(piece.notes), piece.duration, sample_rate)
    return _fade(_limit(sound * _gain(sound)), sample_rate)


def render_stems(piece: Piece, *, sample_rate: int = 44100) -> dict[str, np.ndarray]:
    """Family -> float32 (samples, 2), at the gain of the whole mix (before its limiter)."""
    families: dict[str, list[Note]] = {}
    for note in piece.notes:
        families.setdefault(INSTRUMENTS[note.instrument].family, []).append(note)
    stems = {f: _perform(n, piece.duration, sample_rate) for f, n in families.items()}
    gain = _gain(np.sum(list(stems.values()), axis=0))
    return {family: stem * gain for family, stem in stems.items()}
