"""Words for what the band plays: from "piano" to a full sentence, true for their window."""

import numpy as np

from musicot_mlx.reference.band.piece import Piece
from musicot_mlx.reference.band.tables import CYMBALS, INSTRUMENTS, KICKS, SNARES, STYLES

SLOW, FAST = 92.0, 122.0  # BPM below and above which a tempo word may be said
RHYTHM = ("bass", "drums")
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


def _roles(piece: Piece, names: list[str], words: list[str], genre: str, mood: str) -> list[str]:
    """Captions that say who leads and who carries; "drums and bass" where that is all there is."""
    parts = STYLES[piece.style].parts
    chordal = {n for part in parts if part.play != "melody" for n in part.instruments}
    melodic = {n for part in parts if part.play == "melody" for n in part.instruments} - chordal
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
