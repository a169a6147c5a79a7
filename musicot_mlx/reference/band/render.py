"""The band's sound: FluidSynth with a freely licensed General MIDI sound font."""

import ctypes
import ctypes.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from scipy.signal import butter, sosfilt

from musicot_mlx.errors import MusicotError
from musicot_mlx.reference.band.piece import Note, Piece
from musicot_mlx.reference.band.tables import FAMILIES, INSTRUMENTS

SOUND_FONTS = (
    "/usr/share/sounds/sf2/FluidR3_GM.sf2",
    "/usr/share/soundfonts/FluidR3_GM.sf2",
    "/opt/homebrew/share/soundfonts/FluidR3_GM.sf2",
)
DRUM_CHANNEL, DRUM_BANK = 9, 128
LOUDNESS = 0.12  # RMS a piece is brought to, as far as the peak allows
PEAK = 0.9
LOWEST = 20.0  # Hz; FluidR3's pads and leads carry a constant offset, louder than some songs


def sound_font() -> str:
    """The General MIDI sound font: $MUSICOT_SOUND_FONT, or FluidR3 (MIT) where systems keep it."""
    for path in (os.environ.get("MUSICOT_SOUND_FONT", ""), *SOUND_FONTS):
        if path and Path(path).is_file():
            return path
    raise MusicotError(
        "no General MIDI sound font; on Debian: apt-get install fluidsynth fluid-soundfont-gm, "
        "or set MUSICOT_SOUND_FONT to an .sf2 file"
    )


def available() -> bool:
    """Whether FluidSynth, its Python binding and a sound font are here."""
    try:
        import fluidsynth  # noqa: F401

        sound_font()
    except (ImportError, MusicotError):
        return False
    return ctypes.util.find_library("fluidsynth") is not None


@contextmanager
def _synth(sample_rate: int) -> Iterator[tuple[Any, int]]:
    """A synthesiser and its sound font for one piece.

    Not kept for the next: a voice's first samples fade from the loudness its last note had, so a
    piece would depend on the one before. The font is read as far as the piece needs it, in 0.1 s.
    """
    import fluidsynth

    settings = {"reverb.active": 0, "chorus.active": 0, "dynamic-sample-loading": 1}
    settings = {f"synth.{name}": value for name, value in settings.items()}
    synth = fluidsynth.Synth(gain=0.3, samplerate=float(sample_rate), **settings)
    try:
        yield synth, synth.sfload(sound_font())
    finally:
        synth.delete()


def render(piece: Piece, *, sample_rate: int = 44100) -> np.ndarray:
    """The piece as float32 (samples, 2), peaks below 0.9, about equally loud whatever the style."""
    audio = _play(piece.notes, piece.duration, sample_rate)
    return audio * _gain(audio)


def render_stems(piece: Piece, *, sample_rate: int = 44100) -> dict[str, np.ndarray]:
    """The piece by family of instruments, float32 (samples, 2) each; they add up to `render`."""
    stems = {}
    for family in FAMILIES:
        notes = tuple(n for n in piece.notes if INSTRUMENTS[n.instrument].family == family)
        if notes:
            stems[family] = _play(notes, piece.duration, sample_rate)
    gain = _gain(sum(stems.values()))
    return {family: audio * gain for family, audio in stems.items()}


def _gain(audio: np.ndarray) -> float:
    rms, peak = float(np.sqrt(np.square(audio).mean())), float(np.abs(audio).max())
    return min(LOUDNESS / max(rms, 1e-6), PEAK / max(peak, 1e-6))


def _play(notes: tuple[Note, ...], duration: float, sample_rate: int) -> np.ndarray:
    """Notes to float32 (samples, 2): each event within 64 samples of its moment."""
    events = [(round(n.start * sample_rate), 1, n) for n in notes]
    events += [(round(n.end * sample_rate), 0, n) for n in notes]
    events.sort(key=lambda event: event[:2])  # at one sample, notes end before others begin
    audio = np.zeros((round(duration * sample_rate), 2), np.float32)
    now = 0
    with _synth(sample_rate) as (synth, font):
        channels = _channels(synth, font, sorted({note.instrument for note in notes}))
        for at, begins, note in events:
            at = min(at, len(audio))
            _fill(synth, audio[now:at])
            now = at
            if begins:
                synth.noteon(channels[note.instrument], note.pitch, note.velocity)
            else:
                synth.noteoff(channels[note.instrument], note.pitch)
        _fill(synth, audio[now:])
    audible = butter(2, LOWEST, "highpass", fs=sample_rate, output="sos")
    return sosfilt(audible, audio, axis=0).astype(np.float32)


def _channels(synth: Any, font: int, names: list[str]) -> dict[str, int]:
    """Give each instrument a channel with its sound, volume and place."""
    free = [channel for channel in range(16) if channel != DRUM_CHANNEL]
    channels = {}
    for name in names:
        instrument = INSTRUMENTS[name]
        drums = instrument.family == "drums"
        channel = DRUM_CHANNEL if drums else free.pop(0)
        synth.program_select(channel, font, DRUM_BANK if drums else 0, instrument.program)
        synth.cc(channel, 7, instrument.volume)
        synth.cc(channel, 10, instrument.pan)
        channels[name] = channel
    return channels


def _fill(synth: Any, block: np.ndarray) -> None:
    """Let the synthesiser write the block, float32 (samples, 2), in place; 16 bits would clip."""
    import fluidsynth

    if len(block) == 0:
        return
    write = fluidsynth._fl.fluid_synth_write_float  # pyfluidsynth wraps the 16-bit call only
    at = ctypes.c_void_p(block.ctypes.data)
    write(ctypes.c_void_p(synth.synth), len(block), at, 0, 2, at, 1, 2)
