"""Words for what the band plays: from "piano" to a full sentence, true for the window they describe."""

import numpy as np

from musicot_mlx.reference.band.piece import Piece
from musicot_mlx.reference.band.tables import INSTRUMENTS, STYLES

SLOW, FAST = 92.0, 122.0  # BPM below and above which a tempo word may be said
TEMPO_WORDS = {
    "slow": ("slow", "slow", "slow-paced", "unhurried", "down-tempo"),
    "medium": ("mid-tempo", "medium-tempo", "moderate"),
    "fast": ("fast", "fast", "up-tempo", "quick", "fast-paced"),
}


def tempo_word(piece: Piece, rng: np.random.Generator) -> str:
    """A word for the piece's tempo."""
    kind = "slow" if piece.bpm < SLOW else "fast" if piece.bpm > FAST else "medium"
    return str(rng.choice(TEMPO_WORDS[kind]))


def caption(piece: Piece, rng: np.random.Generator, start: float, end: float | None) -> str:
    """A natural caption of the window [start, end) seconds, or of the whole piece."""
    names = piece.instruments(start, end)
    if not names:
        return str(rng.choice(("silence", "near silence")))
    alone = piece.only(start, end)
    style = STYLES[piece.style]
    genre = str(rng.choice(style.words))
    noun = str(rng.choice(style.nouns))
    mood = str(rng.choice(piece.moods))
    tempo = tempo_word(piece, rng)
    words = [_word(name, rng) for name in names]
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
        return str(rng.choice((genre, f"{mood} {genre}", f"{tempo} {genre} {noun}", f"{genre} {noun}")))
    if kind < 0.6 and piece.bpm:
        return f"{genre} at {round(piece.bpm)} BPM with {_listed(words, rng, most=2)}"
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


def _word(name: str, rng: np.random.Generator) -> str:
    """One of the instrument's words; the first, its family's plain name, as often as the rest."""
    words = INSTRUMENTS[name].words
    return words[0] if rng.random() < 0.4 else str(rng.choice(words))


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
