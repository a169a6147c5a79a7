"""Words for what the band plays: from "piano" to a full sentence, true for their window."""

import numpy as np

from musicot_mlx.reference.band.piece import Piece
from musicot_mlx.reference.band.tables import CYMBALS, INSTRUMENTS, KICKS, SNARES, STYLES, Style

SLOW, FAST = 92.0, 122.0  # BPM below and above which a tempo word may be said
RHYTHM = ("bass", "drums")
SOFT, LOUD = 66, 106  # mean velocity up to which an instrument is soft, and from which it is loud
MISSABLE = ("drums", "bass", "guitar", "piano", "strings")  # families whose absence is worth saying
SECTION_WORDS = {
    "INTRO": ("intro", "opening"), "VERSE": ("verse",), "CHORUS": ("chorus", "full part"),
    "BREAK": ("break", "quiet part"), "OUTRO": ("outro", "ending"),
}  # fmt: skip
TEMPO_WORDS = {
    "slow": ("slow", "slow", "slow-paced", "unhurried", "down-tempo"),
    "medium": ("mid-tempo", "medium-tempo", "moderate"),
    "fast": ("fast", "fast", "up-tempo", "quick", "fast-paced"),
}


def tempo_word(piece: Piece, rng: np.random.Generator) -> str:
    """A word for the piece's tempo."""
    kind = "slow" if piece.bpm < SLOW else "fast" if piece.bpm > FAST else "medium"
    return str(rng.choice(TEMPO_WORDS[kind]))


def caption(
    piece: Piece, rng: np.random.Generator, start: float = 0.0, end: float | None = None
) -> str:
    """A natural caption, true for the window [start, end) seconds or for the whole piece."""
    names = piece.instruments(start, end)
    if not names:
        return str(rng.choice(("silence", "near silence")))
    alone = piece.only(start, end)
    style = STYLES[piece.style]
    genre = str(rng.choice(style.words))
    noun = str(rng.choice(style.nouns))
    mood = str(rng.choice(piece.moods))
    tempo = tempo_word(piece, rng)
    words = [_word(piece, name, rng, start, end) for name in names]
    kind = rng.random()
    if alone:
        word = words[0]
        drums = INSTRUMENTS[alone].family == "drums"
        forms = (
            f"solo {word}",
            f"{word} only" if drums else f"solo {word}, {tempo}",
            f"solo {word}, {tempo} and {mood}",
            f"{_a(mood)} {word} {'solo' if drums else 'melody'}",
            f"{tempo} solo {word}",
            f"{_a(tempo)}, {mood} piece for solo {word}",
            f"just {word}, {mood}",
            word,
        )
        return str(rng.choice(forms))
    if rng.random() < 0.28:
        captions = _detailed(piece, names, words, rng, start, end)
        if captions:
            return str(rng.choice(captions))
    if kind < 0.22:  # one instrument that can be heard: what anchors are made of
        return str(rng.choice(words))
    if kind < 0.42:
        return _listed(words, rng, most=3)
    if kind < 0.52:
        return str(
            rng.choice((genre, f"{mood} {genre}", f"{tempo} {genre} {noun}", f"{genre} {noun}"))
        )
    if kind < 0.6 and piece.bpm:
        return f"{genre} at {round(piece.bpm)} BPM with {_listed(words, rng, most=2)}"
    if kind < 0.7:
        return str(rng.choice(_roles(piece, names, words, genre, mood)))
    band = _listed(words, rng, most=4)
    forms = (
        f"{_a(tempo)} {genre} {noun} with {band}",
        f"{_a(mood)} {genre} {noun} with {band}",
        f"{_a(tempo)}, {mood} {genre} {noun} featuring {band}",
        f"{mood} {genre}: {band}",
        f"{tempo} {genre} with {band}",
        f"{_a(mood)} {noun} in {piece.key} {piece.mode} played by {band}",
        f"{tempo} and {mood}, {band}",
        f"{_a(tempo)} {genre} {noun} at {round(piece.bpm)} BPM, {mood}, with {band}",
    )
    return str(rng.choice(forms))


def _detailed(
    piece: Piece,
    names: list[str],
    words: list[str],
    rng: np.random.Generator,
    start: float,
    end: float | None,
) -> list[str]:
    """Captions that tell more: what is missing, who comes and goes, which part of a song it is, how
    softly it is played, and tempo in other words; only what the score proves.
    """
    style = STYLES[piece.style]
    genre, mood = str(rng.choice(style.words)), str(rng.choice(piece.moods))
    tempo, bpm = tempo_word(piece, rng), round(piece.bpm)
    band = _listed(words, rng, most=3)
    forms = [
        f"around {bpm} beats per minute, {band}",
        f"{genre}, {bpm} BPM",
        f"{tempo} {genre}, about {bpm} BPM, with {band}",
    ]
    usual = {INSTRUMENTS[name].family for part in style.parts for name in part.instruments}
    absent = [
        family
        for family in MISSABLE
        if (family in usual or family in RHYTHM) and not _sounds(piece, family, start, end)
    ]
    if any("strings" in word for word in words):  # synth strings are no strings, but sound so
        absent = [family for family in absent if family != "strings"]
    if absent:
        gone = str(rng.choice(absent))
        forms += [f"{band}, no {gone}", f"{genre} without {gone}", f"{mood} {genre}, no {gone}"]
        if len(absent) > 1:
            one, other = (str(x) for x in rng.permutation(absent)[:2])
            forms += [f"{band}, without {one} or {other}"]
    forms += _touched(piece, names, words, tempo, mood, start, end)
    forms += _changes(piece, rng, start, end)
    forms += _part_of_song(piece, style, genre, band, rng, start, end)
    return forms


def _sounds(piece: Piece, family: str, start: float, end: float | None) -> bool:
    """Whether any of a family can be heard in the window, however briefly."""
    shares = piece.shares(start, end)
    return any(share > 0 and INSTRUMENTS[name].family == family for name, share in shares.items())


def _touched(
    piece: Piece,
    names: list[str],
    words: list[str],
    tempo: str,
    mood: str,
    start: float,
    end: float | None,
) -> list[str]:
    """ "A slow, sad cello over soft piano": who is soft or loud, by the velocities played."""
    stop = piece.duration if end is None else end
    forms, soft = [], []
    for name, word in zip(names, words, strict=True):
        struck = [
            n.velocity for n in piece.notes if n.instrument == name and start <= n.start < stop
        ]
        if len(struck) < 4:
            continue
        if np.mean(struck) <= SOFT:
            soft.append(name)
            forms += [f"soft {word}", f"quietly played {word}"]
        elif np.mean(struck) >= LOUD:
            forms += [f"loud {word}"]
    said = dict(zip(names, words, strict=True))
    lead = [n for n in _melodic(piece) if n in names]
    for name in soft:
        forms += [f"{_a(tempo)}, {mood} {said[top]} over soft {said[name]}"
                  for top in lead if top != name]  # fmt: skip
    return forms


def _changes(piece: Piece, rng: np.random.Generator, start: float, end: float | None) -> list[str]:
    """Who comes in and who drops out between the first and the last third of a window."""
    stop = piece.duration if end is None else end
    third = (stop - start) / 3
    if not 2.0 < third < 8.0:
        return []
    before = piece.instruments(start, start + third)
    after = piece.instruments(stop - third, stop)
    early, late = piece.shares(start, start + third), piece.shares(stop - third, stop)
    enter = [n for n in after if early.get(n, 0.0) == 0.0]
    leave = [n for n in before if late.get(n, 0.0) == 0.0]
    stay = [n for n in before if n in after]

    def word(name: str) -> str:
        return _word(piece, name, rng, start, end)

    forms = []
    if enter and stay:
        forms += [
            f"{word(stay[0])} joined by {word(enter[0])}",
            f"{word(stay[0])}, later with {word(enter[0])}",
        ]
    if leave and stay:
        forms += [f"{word(stay[0])} going on after {word(leave[0])}"]
    return forms


def _part_of_song(
    piece: Piece,
    style: Style,
    genre: str,
    band: str,
    rng: np.random.Generator,
    start: float,
    end: float | None,
) -> list[str]:
    """Which part of the song the window lies in, where it lies in one alone."""
    stop = piece.duration if end is None else end
    inside = [s for s in piece.sections if s.start < stop - 1.0 and s.end > start + 1.0]
    if len(inside) != 1:
        return []
    part = str(rng.choice(SECTION_WORDS[inside[0].name]))
    noun = str(rng.choice(style.nouns))
    return [f"the {part} of {_a(genre)} {noun}: {band}", f"{genre} {part} with {band}"]


def _melodic(piece: Piece) -> list[str]:
    """Instruments that only ever carry the melody in this style."""
    parts = STYLES[piece.style].parts
    chordal = {n for part in parts if part.play != "melody" for n in part.instruments}
    melodic = [n for part in parts if part.play == "melody" for n in part.instruments]
    return [name for name in dict.fromkeys(melodic) if name not in chordal]


def _roles(piece: Piece, names: list[str], words: list[str], genre: str, mood: str) -> list[str]:
    """Captions that say who leads and who carries; "drums and bass" where that is all there is."""
    melodic = _melodic(piece)
    family = {name: INSTRUMENTS[name].family for name in names}
    said = dict(zip(names, words, strict=True))
    lead = [said[name] for name in names if name in melodic]
    below = [said[n] for n in sorted(names, key=lambda n: family[n]) if family[n] in RHYTHM]
    forms = [f"{mood} {genre}", f"{genre} with {' and '.join(words[:2])}"]
    if lead and below:
        top = lead[0] if lead[0].endswith("lead") else f"{lead[0]} melody"
        forms += [f"{top} over {' and '.join(below)}"] * 2
        forms += [f"{_a(mood)} {genre} with {_a(top)} over {' and '.join(below)}"]
    if sorted(family.values()) == ["bass", "drums"]:
        forms += ["drums and bass", "bass and drums", "drum and bass groove", "rhythm section"]
    if len(names) >= 4:
        forms += [f"full band: {', '.join(words)}", "full band", f"{genre}, full band"]
    return forms


def _word(
    piece: Piece, name: str, rng: np.random.Generator, start: float, end: float | None
) -> str:
    """One of the instrument's words, its family's plain name often, or what it plays here."""
    words = INSTRUMENTS[name].words
    kind = rng.random()
    if kind < 0.4:
        return words[0]
    if kind < 0.55:
        return str(rng.choice(_playing(piece, name, start, end) or words))
    return str(rng.choice(words))


def _playing(piece: Piece, name: str, start: float, end: float | None) -> list[str]:
    """What the instrument plays in this window, as far as the score proves it."""
    family = INSTRUMENTS[name].family
    if family == "bass" and piece.style == "jazz swing":
        return ["walking bass"]
    if name == "distorted guitar" and piece.style == "metal":
        return ["heavy guitar riffs", "distorted guitar riff", "power chords"]
    if family != "drums":
        return []
    stop = piece.duration if end is None else end
    hits = [n.pitch for n in piece.notes if n.instrument == name and start <= n.start < stop]
    forms = ["driving drums"] if piece.bpm > FAST and len(hits) > 4 * (stop - start) else []
    if all(sum(p in voices for p in hits) >= 4 for voices in (KICKS, SNARES, CYMBALS)):
        forms += ["full drum kit"] * 2
    if "double kick" in piece.patterns and sum(p in KICKS for p in hits) > 7 * (stop - start):
        forms += ["double kick drums"]
    return forms


def _listed(words: list[str], rng: np.random.Generator, *, most: int) -> str:
    """Some of the words in any order: "bass, drums and piano"."""
    unique = list(dict.fromkeys(words))
    count = min(len(unique), int(rng.integers(1, most + 1)))
    chosen = [unique[i] for i in rng.permutation(len(unique))[:count]]
    if len(chosen) == 1:
        return chosen[0]
    return f"{', '.join(chosen[:-1])} and {chosen[-1]}"


def _a(word: str) -> str:
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"
