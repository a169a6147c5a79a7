"""A composed piece: notes in seconds, sections, and exact answers about what sounds when."""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from musicot_mlx.reference.band.tables import CYMBALS, FAMILIES, INSTRUMENTS, KICKS, SNARES, STYLES

GRID = 20.0  # frames per second of the activity grid
DRUM_RING = 0.25  # seconds a drum hit counts as sounding
HEARD = 0.05  # share of a window from which an instrument counts as playing in it
UNHEARD = 0.02  # share of a window up to which it counts as absent


@dataclass(frozen=True)
class Note:
    """One note: start and end in seconds, MIDI pitch and velocity, instrument name."""

    start: float
    end: float
    pitch: int
    velocity: int
    instrument: str


@dataclass(frozen=True)
class Section:
    """A stretch of the form: INTRO, VERSE, CHORUS, BREAK or OUTRO, in seconds, with who plays."""

    name: str
    start: float
    end: float
    instruments: frozenset[str]


@dataclass(frozen=True)
class Piece:
    """A piece of music as the band wrote it; whatever a caption or tag may say is answered here."""

    seed: int
    style: str
    bpm: float
    key: str
    mode: str
    moods: tuple[str, ...]
    sections: tuple[Section, ...]
    notes: tuple[Note, ...]
    duration: float
    patterns: frozenset[str] = field(default_factory=frozenset)
    chords: tuple[tuple[float, str], ...] = ()  # (second, chord) at every change

    @cached_property
    def _grid(self) -> dict[str, np.ndarray]:
        """Loudest velocity sounding (0-1) per instrument on the activity grid, (frames,)."""
        frames = int(np.ceil(self.duration * GRID))
        grid: dict[str, np.ndarray] = {}
        for note in self.notes:
            row = grid.setdefault(note.instrument, np.zeros(frames, np.float32))
            end = note.end
            if INSTRUMENTS[note.instrument].family == "drums":
                end = max(end, note.start + DRUM_RING)
            first = int(note.start * GRID)
            part = row[first : max(first + 1, int(np.ceil(end * GRID)))]
            np.maximum(part, note.velocity / 127.0, out=part)
        return grid

    def _frames(self, start: float, end: float | None) -> slice:
        """Of a window; one that starts after the end is the last frame."""
        end = self.duration if end is None else end
        first = min(int(start * GRID), int(np.ceil(self.duration * GRID)) - 1)
        return slice(first, max(first + 1, int(round(end * GRID))))

    def shares(self, start: float = 0.0, end: float | None = None) -> dict[str, float]:
        """Share of the window (0-1) in which each instrument of the piece sounds."""
        frames = self._frames(start, end)
        return {name: float((row[frames] > 0).mean()) for name, row in self._grid.items()}

    def activity(self, start: float = 0.0, end: float | None = None) -> dict[str, float]:
        """Per family: mean over the window of the loudest velocity sounding (0-1)."""
        frames = self._frames(start, end)
        rows: dict[str, list[np.ndarray]] = {family: [] for family in FAMILIES}
        for name, row in self._grid.items():
            rows[INSTRUMENTS[name].family].append(row[frames])
        return {f: float(np.max(r, axis=0).mean()) if r else 0.0 for f, r in rows.items()}

    def instruments(self, start: float = 0.0, end: float | None = None) -> list[str]:
        """Instruments that play in the window (at least 5 % of it), the busiest first."""
        frames = self._frames(start, end)
        shares = self.shares(start, end)
        playing = [name for name, share in shares.items() if share >= HEARD]
        return sorted(playing, key=lambda name: -float(self._grid[name][frames].mean()))

    def only(self, start: float = 0.0, end: float | None = None) -> str | None:
        """The instrument that plays alone in the window (nothing else above 2 % of it), or None."""
        shares = self.shares(start, end)
        playing = [name for name, share in shares.items() if share > UNHEARD]
        return playing[0] if len(playing) == 1 and shares[playing[0]] >= HEARD else None

    @property
    def tags(self) -> dict[str, list[str]]:
        """Words for the whole piece: {"genre": [...], "mood": [...], "instruments": [...]}."""
        names = self.instruments()
        families = [INSTRUMENTS[name].family for name in names]
        genre = list(dict.fromkeys((self.style, *STYLES[self.style].words)))
        return {
            "genre": genre,
            "mood": list(self.moods),
            "instruments": list(dict.fromkeys(names + families)),
        }

    def loudness(self, frame_rate: float = 25.0) -> np.ndarray:
        """Loudest velocity sounding (0-1) in each of FAMILIES, float16 (frames, families)."""
        frames = int(round(self.duration * frame_rate))
        table = np.zeros((frames, len(FAMILIES)), np.float16)
        place = ((np.arange(frames) + 0.5) / frame_rate * GRID).astype(int)
        for name, row in self._grid.items():
            column = FAMILIES.index(INSTRUMENTS[name].family)
            velocities = row[np.minimum(place, len(row) - 1)].astype(np.float16)
            table[:, column] = np.maximum(table[:, column], velocities)
        return table

    def roll(self, frame_rate: float = 25.0) -> np.ndarray:
        """Piano roll, uint8 0/1 (frames, 131): 128 pitches, then kick, snare and cymbal onsets."""
        frames = int(round(self.duration * frame_rate))
        roll = np.zeros((frames, 131), np.uint8)
        for note in self.notes:
            first = int(note.start * frame_rate)
            if INSTRUMENTS[note.instrument].family != "drums":
                last = max(first + 1, int(round(note.end * frame_rate)))
                roll[first:last, note.pitch] = 1
            else:
                for row, pitches in enumerate((KICKS, SNARES, CYMBALS)):
                    if note.pitch in pitches:
                        roll[first : first + 1, 128 + row] = 1
        return roll
