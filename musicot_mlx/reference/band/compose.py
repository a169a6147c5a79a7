"""How the band writes a piece: form, harmony, parts and feel, all drawn from one seed."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from musicot_mlx.errors import MusicotError
from musicot_mlx.reference.band.piece import Note, Piece, Section
from musicot_mlx.reference.band.tables import (
    BASS,
    DRUM_NOTES,
    DRUMS,
    INSTRUMENTS,
    KEYS,
    MELODIES,
    ORDER,
    PROGRESSIONS,
    RHYTHMS,
    SCALES,
    SOLO_STYLES,
    STYLES,
    TOMS,
    Part,
    Style,
)
from musicot_mlx.tokens.harmony import Key, chord_of

STEPS = 16  # sixteenth notes a bar
ACCENT = {"X": 1.1, "x": 0.95, "o": 0.65}
LEVEL = {"INTRO": 0.86, "VERSE": 0.94, "CHORUS": 1.06, "BREAK": 0.86, "OUTRO": 0.84}
TAIL = 1.6  # seconds the last chord may ring
MODE_MOODS = {  # (minor-like, slow) -> words that follow from mode and tempo
    (True, True): ("sad", "melancholic", "wistful"),
    (True, False): ("dark", "tense"),
    (False, True): ("peaceful", "warm", "tender"),
    (False, False): ("happy", "bright", "uplifting"),
}


@dataclass(frozen=True)
class Seat:
    """A part that made it into this song: its instrument, its patterns for each kind of section."""

    part: Part
    instrument: str
    patterns: dict[str, str]  # section name -> pattern name or rhythm string


@dataclass(frozen=True)
class Passage:
    """A section in bars, and which seats play."""

    name: str
    first: int
    bars: int
    seats: tuple[int, ...]


@dataclass
class Song:
    """What the parts share while they write."""

    style: Style
    bpm: float
    tonic: int
    scale: tuple[int, ...]
    progressions: dict[str, tuple[int, ...]]
    seats: list[Seat]
    motifs: dict[tuple[int, str], tuple[str, list[int]]]
    rng: np.random.Generator

    @property
    def step(self) -> float:
        """Seconds of a sixteenth note."""
        return 60.0 / self.bpm / 4

    def seconds(self, bar: int, step: float) -> float:
        """When a step of a bar falls, swing included."""
        whole = int(step)
        late = 0.0
        if whole % 4 == 2:
            late = self.style.swing8
        elif whole % 2 == 1:
            late = self.style.swing16
        return (bar * STEPS + step + late) * self.step

    def degree(self, number: int) -> int:
        """Semitones above the tonic of a scale degree (0 = tonic; any octave, negative too)."""
        return 12 * (number // 7) + self.scale[number % 7]

    def chord(self, name: str, bar: int) -> list[int]:
        """Pitch classes of a bar's chord (bars count from its section): root, third, fifth, ..."""
        progression = self.progressions[name]
        root = progression[(bar // (2 if self.style.slow_chords else 1)) % len(progression)]
        steps = (0, 2, 4, 6) if self.style.sevenths else (0, 2, 4)
        return [(self.tonic + self.degree(root + step)) % 12 for step in steps]


def compose(
    seed: int, *, duration: float = 60.0, style: str | None = None, order: Sequence[str] = ORDER
) -> Piece:
    """Write a piece of `duration` seconds; the same seed always gives the same piece.

    Without a style the seed walks through those of `order`; "solo" draws one of the solo styles.
    Raises MusicotError for an unknown style or less than 5 seconds.
    """
    if duration < 5:
        raise MusicotError(f"the band needs at least 5 seconds to play; got {duration}")
    rng = np.random.default_rng(seed)
    if style == "solo":
        style = SOLO_STYLES[rng.integers(len(SOLO_STYLES))]
    style = style or order[seed % len(order)]
    if style not in STYLES:
        raise MusicotError(f"unknown style {style!r}; choose one of {', '.join(STYLES)} or solo")
    kind = STYLES[style]
    bpm, bars = _tempo(rng, kind, duration)
    mode = kind.modes[rng.integers(len(kind.modes))]
    key = int(rng.integers(12))
    seats = _seats(rng, kind)
    progressions = _progressions(rng, kind, mode)
    song = Song(kind, bpm, key, SCALES[mode], progressions, seats, {}, rng)
    form = _form(rng, kind, seats, bars, 240.0 / bpm)
    notes: list[Note] = []
    for passage in form:
        for seat in passage.seats:
            notes.extend(_play(song, passage, seat, last=passage is form[-1]))
    bar = 240.0 / bpm
    sections = tuple(
        Section(
            s.name,
            s.first * bar,
            duration if s is form[-1] else (s.first + s.bars) * bar,
            frozenset(seats[i].instrument for i in s.seats),
        )
        for s in form
    )
    moods = _moods(rng, kind, mode, bpm)
    chords = _harmony(song, form, Key(key, mode), duration)
    used = frozenset(seats[i].patterns[s.name] for s in form for i in s.seats)
    tidy = _tidy(notes, duration)
    return Piece(seed, style, bpm, KEYS[key], mode, moods, sections, tidy, duration, used, chords)


def _harmony(
    song: Song, form: Sequence[Passage], key: Key, duration: float
) -> tuple[tuple[float, str], ...]:
    """(second, chord) at every change; after the last bar the tonic triad rings on."""
    bar = STEPS * song.step
    bars = [
        ((passage.first + index) * bar, chord_of(song.chord(passage.name, index)).name(key))
        for passage in form
        for index in range(passage.bars)
    ]
    end = (form[-1].first + form[-1].bars) * bar
    if end < duration:
        bars.append((end, key.chord(0).name(key)))
    changes = [
        (round(time, 4), name)
        for i, (time, name) in enumerate(bars)
        if i == 0 or name != bars[i - 1][1]
    ]
    return tuple(changes)


def _tempo(rng: np.random.Generator, style: Style, duration: float) -> tuple[float, int]:
    """A tempo at which a whole number of bars fills the duration but for the last chord's tail."""
    low, high = style.bpm
    wanted = rng.uniform(low, high)
    bars = max(2, round((duration - TAIL) * wanted / 240.0))
    bpm = 240.0 * bars / (duration - TAIL)
    if not low <= bpm <= high:  # the style's edge, as many bars as fit and a longer tail
        bpm = min(max(bpm, low), high)
        bars = max(1, int((duration - 0.4) * bpm / 240.0))
    return float(bpm), bars


def _moods(rng: np.random.Generator, style: Style, mode: str, bpm: float) -> tuple[str, ...]:
    words = list(rng.permutation(style.moods)[:3])
    minor = mode in ("minor", "phrygian", "dorian")
    if mode != "dorian" and style.words[0] not in ("metal", "techno"):
        words.append(rng.choice(MODE_MOODS[minor, bpm < 92]))
    return tuple(dict.fromkeys(str(word) for word in words))


def _progressions(rng: np.random.Generator, style: Style, mode: str) -> dict[str, tuple[int, ...]]:
    def draw() -> tuple[int, ...]:
        name = style.progressions[rng.integers(len(style.progressions))]
        if name == "jazz" and mode in ("minor", "dorian"):
            name = "minor jazz"
        if name == "pop" and mode in ("minor", "dorian"):
            name = "minor pop"
        bank = PROGRESSIONS[name]
        return bank[rng.integers(len(bank))]

    verse, chorus, bridge = draw(), draw(), draw()
    return {"INTRO": verse, "VERSE": verse, "CHORUS": chorus, "BREAK": bridge, "OUTRO": verse}


def _seats(rng: np.random.Generator, style: Style) -> list[Seat]:
    """Who plays in this song, and what in each kind of section."""
    taken: set[str] = set()
    shared: dict[tuple[str, ...], str] = {}  # in solo styles every part sits on one instrument
    seats = []
    for part in style.parts:
        if rng.random() > part.chance:
            continue
        free = [name for name in part.instruments if name not in taken]
        if style.solo:
            name = shared.setdefault(part.instruments, str(rng.choice(part.instruments)))
        elif free:
            name = str(rng.choice(free))
            taken.add(name)
        else:
            continue
        verse, chorus = (_pattern(rng, part) for _ in range(2))
        patterns = {"INTRO": verse, "VERSE": verse, "CHORUS": chorus, "BREAK": chorus}
        seats.append(Seat(part, name, patterns | {"OUTRO": verse}))
    return seats


def _pattern(rng: np.random.Generator, part: Part) -> str:
    name = str(rng.choice(part.patterns))
    if part.play == "drums":
        return name
    bank = {"bass": BASS, "melody": MELODIES}.get(part.play, RHYTHMS)[name]
    return str(rng.choice(bank))


def _form(
    rng: np.random.Generator, style: Style, seats: list[Seat], bars: int, bar: float
) -> list[Passage]:
    """Sections of about 8 to 16 s; neighbours always differ in who plays (in band styles)."""
    lengths = [n for n in (2, 3, 4, 6, 8, 12) if 7.4 <= n * bar <= 16.4 and (n != 3 or bar > 2.6)]
    lengths = lengths or [max(1, round(10 / bar))]
    sizes: list[int] = []
    while (left := bars - sum(sizes)) > 0:
        size = int(rng.choice(lengths))
        sizes.append(left if left - size < min(lengths) * 0.75 else size)
    names = _names(rng, len(sizes))
    form: list[Passage] = []
    first = 0
    for name, size in zip(names, sizes, strict=True):
        before = set(form[-1].seats) if form else None
        chosen = _cast(rng, style, len(seats), name, before)
        form.append(Passage(name, first, size, chosen))
        first += size
    return form


def _names(rng: np.random.Generator, count: int) -> list[str]:
    if count == 1:
        return [str(rng.choice(("VERSE", "CHORUS")))]
    start = int(rng.integers(3))
    cycle = ("VERSE", "CHORUS", "BREAK", "CHORUS", "VERSE", "BREAK")
    middle = [cycle[(start + i) % len(cycle)] for i in range(count)]
    names = middle if rng.random() < 0.25 else ["INTRO", *middle[: count - 1]]
    return [*names[:-1], "OUTRO"]


def _cast(
    rng: np.random.Generator, style: Style, seats: int, name: str, before: set[int] | None
) -> tuple[int, ...]:
    """Which seats play in a section, unlike the section before."""
    for _ in range(40):
        if name == "CHORUS":
            count = seats - int(rng.random() < 0.3)
        elif name == "VERSE":
            count = int(rng.integers(2, max(3, seats)))
        else:
            count = 1 if rng.random() < 0.55 else 2
        chosen = set(rng.choice(seats, size=min(max(count, 1), seats), replace=False).tolist())
        if style.solo or seats == 1:
            break
        if name in ("CHORUS", "VERSE") and style.parts[0].play == "drums" and rng.random() < 0.8:
            chosen.add(0)
        if chosen != before:
            break
    return tuple(sorted(chosen))


def _tidy(notes: list[Note], duration: float) -> tuple[Note, ...]:
    """Inside the piece, sorted; a pitch struck again first ends its older note."""
    kept: list[Note] = []
    last: dict[tuple[str, int], int] = {}
    for note in sorted(notes, key=lambda n: (n.start, n.instrument, n.pitch)):
        start, end = max(0.0, note.start), min(note.end, duration)
        if end - start < 0.02:
            continue
        where = last.get((note.instrument, note.pitch))
        if where is not None and kept[where].end > start:
            if start - kept[where].start < 0.02:
                continue
            old = kept[where]
            kept[where] = Note(old.start, start - 0.005, old.pitch, old.velocity, old.instrument)
        last[note.instrument, note.pitch] = len(kept)
        kept.append(Note(start, end, note.pitch, note.velocity, note.instrument))
    return tuple(kept)


# --- parts -------------------------------------------------------------------------------------


def _play(song: Song, passage: Passage, seat: int, *, last: bool) -> Iterator[Note]:
    """All notes of one seat in one section, then its share of the last chord of the piece."""
    part = song.seats[seat].part
    yield from PLAYERS[part.play](song, passage, seat)
    if last:
        yield from _ending(song, passage, song.seats[seat])


def _note(
    song: Song,
    seat: Seat,
    passage: Passage,
    where: tuple[int, float, float],
    pitch: int,
    touch: float,
) -> Note:
    """A note at (bar, step, length in steps), with a human velocity and a human moment."""
    bar, step, length = where
    rng = song.rng
    loose = 0.002 if "synth" in seat.instrument or "electronic" in seat.instrument else 0.006
    start = song.seconds(bar, step) + float(rng.normal(0.0, loose))
    end = song.seconds(bar, 0) + (step + length) * song.step - 0.01
    velocity = seat.part.velocity * LEVEL[passage.name] * touch + float(rng.normal(0.0, 4.0))
    if song.style.breath:
        swell = _swell(bar - passage.first + step / STEPS)
        velocity *= 1 + song.style.breath * swell
        start -= 0.1 * song.style.breath * max(swell, 0.0) * song.step  # leans in, never drags
    start = max(start, 0.0)
    return Note(
        start,
        max(end, start + 0.06),
        pitch,
        int(np.clip(velocity, 20, 127)),
        seat.instrument,
    )


def _swell(bar: float) -> float:
    """-1 to 1: a phrase of four bars rises to its third bar and falls back."""
    place = bar % 4 / 4
    return float(np.sin(np.pi * place**1.4) * 2 - 1)


def _hits(rhythm: str) -> Iterator[tuple[int, int, str]]:
    """(step, length in steps, letter) of every onset; `-` lengthens the note before it."""
    for step, letter in enumerate(rhythm):
        if letter not in ".-":
            length = 1
            while step + length < len(rhythm) and rhythm[step + length] == "-":
                length += 1
            yield step, length, letter


def _drums(song: Song, passage: Passage, number: int) -> Iterator[Note]:
    seat = song.seats[number]
    pattern = DRUMS[seat.patterns[passage.name]]
    steady = {"electronic drums", "drum machine"}
    for index in range(passage.bars):
        bar = passage.first + index
        fill = 0
        if index == passage.bars - 1:
            fill = int(song.rng.choice((4, 8)))
        elif index % 4 == 3:
            fill = int(song.rng.choice((0, 4)))
        if index == 0 and song.style.words[0] not in ("ambient", "lo-fi hip hop", "bossa nova"):
            yield _note(song, seat, passage, (bar, 0, 2), DRUM_NOTES["crash"], 0.95)
        for voice, rhythm in pattern.items():
            for step, length, letter in _hits(rhythm):
                if step >= STEPS - fill and voice != "kick":
                    continue
                if letter == "o" and seat.instrument not in steady and song.rng.random() < 0.15:
                    continue
                touch = ACCENT[letter] * (0.78 if voice in ("hat", "shaker", "pedal") else 1.0)
                yield _note(song, seat, passage, (bar, step, length), DRUM_NOTES[voice], touch)
        yield from _fill(song, passage, seat, bar, fill)


def _fill(song: Song, passage: Passage, seat: Seat, bar: int, steps: int) -> Iterator[Note]:
    """A run over snare and toms in the last steps of a bar."""
    dense = seat.part.velocity > 95
    for index in range(0, steps, 1 if dense else 2):
        drum = 38 if index < steps // 3 else TOMS[(index * len(TOMS)) // max(steps, 1)]
        where = (bar, STEPS - steps + index, 1)
        yield _note(song, seat, passage, where, drum, 0.7 + 0.35 * index / steps)


def _fold(pitch: int, low: int, high: int) -> int:
    while pitch < low:
        pitch += 12
    while pitch > high:
        pitch -= 12
    return pitch


def _bass(song: Song, passage: Passage, number: int) -> Iterator[Note]:
    seat = song.seats[number]
    tool = INSTRUMENTS[seat.instrument]
    low = max(tool.low, seat.part.register - 7)
    for index in range(passage.bars):
        chord = song.chord(passage.name, index)
        following = song.chord(passage.name, index + 1)
        root = low + (chord[0] - low) % 12
        above = {"3": chord[1], "5": chord[2], "7": chord[-1]}
        walking = "a" in seat.patterns[passage.name] and index % 2
        for step, length, letter in _hits(seat.patterns[passage.name]):
            if letter in above:
                pitch = root + (above[letter] - root) % 12
                pitch -= 12 if walking and pitch - 12 >= tool.low else 0
            elif letter == "a":
                pitch = low + (following[0] - low) % 12
                pitch += int(song.rng.choice((-1, -2, 1))) if pitch > tool.low + 2 else 1
            else:
                pitch = root + (12 if letter == "8" else 0)
            where = (passage.first + index, step, length)
            touch = 1.06 if step % 8 == 0 else 0.96
            yield _note(song, seat, passage, where, _fold(pitch, tool.low, tool.high), touch)


def _voicing(chord: list[int], center: int, before: list[int] | None) -> list[int]:
    """The chord's inversion and octave nearest to the voicing before (or to the register)."""
    goal = np.mean(before) if before else center
    best: list[int] = []
    cost = np.inf
    for base in range(center - 14, center + 3):
        if base % 12 not in chord:
            continue
        voices = sorted(base + (tone - base) % 12 for tone in chord)
        moved = abs(np.mean(voices) - goal) + 0.4 * abs(np.mean(voices) - center)
        if before:
            moved += sum(min(abs(v - b) for b in before) for v in voices) * 0.5
        if moved < cost:
            best, cost = voices, moved
    return best


def _voicings(song: Song, passage: Passage, seat: Seat) -> Iterator[tuple[int, list[int]]]:
    """(bar, voicing) through a section, each led from the one before."""
    tool = INSTRUMENTS[seat.instrument]
    voices: list[int] | None = None
    for index in range(passage.bars):
        chord = song.chord(passage.name, index)
        voices = _voicing(chord, seat.part.register, voices)
        yield passage.first + index, [_fold(v, tool.low, tool.high) for v in voices]


def _chords(song: Song, passage: Passage, number: int) -> Iterator[Note]:
    seat = song.seats[number]
    for bar, voices in _voicings(song, passage, seat):
        for step, length, letter in _hits(seat.patterns[passage.name]):
            for voice in voices:
                where = (bar, step, length)
                yield _note(song, seat, passage, where, voice, ACCENT[letter])


def _strum(song: Song, passage: Passage, number: int) -> Iterator[Note]:
    """Full guitar chords, string after string, down on the beat and up between."""
    seat = song.seats[number]
    for bar, voices in _voicings(song, passage, seat):
        bottom = _fold(voices[0] - 12, INSTRUMENTS[seat.instrument].low, 60)
        strings = sorted({bottom, *voices, _fold(voices[0] + 12, 52, 79)})
        for step, length, letter in _hits(seat.patterns[passage.name]):
            down = step % 4 == 0
            for index, voice in enumerate(strings if down else strings[:0:-1]):
                where = (bar, step + 0.09 * index, max(length, 2))
                yield _note(song, seat, passage, where, voice, ACCENT[letter] * 0.95)


def _arpeggio(song: Song, passage: Passage, number: int) -> Iterator[Note]:
    seat = song.seats[number]
    shape = int(song.rng.integers(3))
    tool = INSTRUMENTS[seat.instrument]
    for bar, voices in _voicings(song, passage, seat):
        ladder = [*voices, voices[0] + 12]
        order = (ladder, [*ladder, *ladder[-2:0:-1]], [ladder[0], ladder[2], ladder[1], ladder[-1]])
        for count, (step, length, letter) in enumerate(_hits(seat.patterns[passage.name])):
            pitch = _fold(order[shape][count % len(order[shape])], tool.low, tool.high)
            ring = length if tool.sustained or "synth" in seat.instrument else length + 2
            yield _note(song, seat, passage, (bar, step, ring), pitch, ACCENT[letter])


def _power(song: Song, passage: Passage, number: int) -> Iterator[Note]:
    """Root, fifth and octave; short strokes are muted single strings."""
    seat = song.seats[number]
    low = max(INSTRUMENTS[seat.instrument].low, seat.part.register - 5)
    for index in range(passage.bars):
        chord = song.chord(passage.name, index)
        root = low + (chord[0] - low) % 12
        for step, length, letter in _hits(seat.patterns[passage.name]):
            shift = 0
            if letter == "X" and step >= 12 and song.style.words[0] == "metal" and index % 2:
                shift = song.degree(1) if song.rng.random() < 0.5 else 3
            intervals = (0, 7, 12) if letter == "X" or length > 1 else (0, 7)
            held = length if length > 1 else 0.8
            for interval in intervals:
                where = (passage.first + index, step, held)
                pitch = root + shift + interval
                yield _note(song, seat, passage, where, pitch, ACCENT[letter])


def _melody(song: Song, passage: Passage, number: int) -> Iterator[Note]:
    """Two-bar motifs in the order A A' B A', snapped to the chord where the ear leans."""
    seat = song.seats[number]
    tool = INSTRUMENTS[seat.instrument]
    plan = ("A", "A'", "B", "A'")
    for pair in range((passage.bars + 1) // 2):
        rhythm, contour = _motif(song, number, passage.name, plan[pair % 4])
        for count, (step, length, letter) in enumerate(_hits(rhythm)):
            index = pair * 2 + step // STEPS
            if index >= passage.bars:
                break
            length = min(length, (passage.bars - index) * STEPS - step % STEPS)
            pitch = seat.part.register - seat.part.register % 12 + song.tonic
            pitch += song.degree(contour[count])
            if step % 8 == 0 or length >= 4:
                pitch = _snap(pitch, song.chord(passage.name, index))
            pitch = _fold(pitch, max(tool.low, seat.part.register - 14), tool.high)
            where = (passage.first + index, step % STEPS, length)
            yield _note(song, seat, passage, where, pitch, ACCENT[letter])


def _snap(pitch: int, chord: list[int]) -> int:
    return min((pitch + d for d in (0, -1, 1, -2, 2, -3, 3) if (pitch + d) % 12 in chord),
               key=lambda p: abs(p - pitch), default=pitch)  # fmt: skip


def _motif(song: Song, number: int, name: str, letter: str) -> tuple[str, list[int]]:
    """Rhythm and scale degrees of a motif, drawn once a song; A' is A with a new ending."""
    rhythm = song.seats[number].patterns[name]
    key = (number, f"{rhythm} {letter}")
    if key in song.motifs:
        return song.motifs[key]
    onsets = sum(1 for _ in _hits(rhythm))
    if letter == "A'":
        head = _motif(song, number, name, "A")[1]
        keep = max(1, onsets * 2 // 3)
        contour = [*head[:keep], *_walk(song.rng, onsets - keep, head[keep - 1])]
    else:
        contour = _walk(song.rng, onsets, int(song.rng.choice((0, 2, 4))))
    song.motifs[key] = (rhythm, contour)
    return song.motifs[key]


def _walk(rng: np.random.Generator, count: int, start: int) -> list[int]:
    """A line of scale degrees: mostly steps, some leaps, turning back at the edges."""
    line, here = [], start
    moves, odds = (-4, -3, -2, -1, 0, 1, 2, 3, 4), (2, 3, 8, 28, 8, 28, 12, 6, 5)
    for _ in range(count):
        here += int(rng.choice(moves, p=np.array(odds) / sum(odds)))
        here = 8 - (here - 8) if here > 8 else -4 - (here + 4) if here < -4 else here
        line.append(here)
    return line


def _ending(song: Song, passage: Passage, seat: Seat) -> Iterator[Note]:
    """What a seat adds to the chord that ends the piece."""
    where = (passage.first + passage.bars, 0.0, TAIL / song.step * 0.9)
    tool, part = INSTRUMENTS[seat.instrument], seat.part
    chord = [(song.tonic + song.degree(step)) % 12 for step in (0, 2, 4)]
    if part.play == "drums":
        pitches = [DRUM_NOTES["kick"], DRUM_NOTES["crash"]]
    elif part.play == "bass":
        pitches = [_fold(part.register - 7 + (chord[0] - part.register + 7) % 12, tool.low, 60)]
    elif part.play == "melody":
        root = part.register + (chord[0] - part.register) % 12
        pitches = [_fold(root, tool.low, tool.high)]
    elif part.play == "power":
        root = tool.low + (chord[0] - tool.low) % 12
        pitches = [root, root + 7, root + 12]
    else:
        pitches = [_fold(v, tool.low, tool.high) for v in _voicing(chord, part.register, None)]
    for pitch in pitches:
        yield _note(song, seat, passage, where, pitch, 0.9)


PLAYERS: dict[str, Callable[[Song, Passage, int], Iterator[Note]]] = {
    "drums": _drums,
    "bass": _bass,
    "chords": _chords,
    "strum": _strum,
    "arpeggio": _arpeggio,
    "power": _power,
    "melody": _melody,
}
