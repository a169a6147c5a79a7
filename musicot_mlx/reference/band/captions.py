"""What can be said about a piece or a window of it, in many wordings, all of them true."""

from dataclasses import dataclass

import numpy as np

from musicot_mlx.reference.band.piece import Piece
from musicot_mlx.reference.band.tables import INSTRUMENTS, STYLES

TEMPO_WORDS = (  # up to this BPM
    (72, ("slow", "very slow", "slow-paced")),
    (92, ("slow", "unhurried", "downtempo")),
    (114, ("mid-tempo", "moderate", "medium-tempo")),
    (136, ("upbeat", "fast", "brisk")),
    (999, ("fast", "very fast", "high-speed")),
)
DRUM_ADJECTIVES = {"fast": ("driving", "fast", "energetic"), "slow": ("slow", "laid-back", "soft")}


@dataclass(frozen=True)
class Facts:
    """What is true of a window: who plays (busiest first), who plays alone, who leads, how fast."""

    piece: Piece
    names: list[str]
    only: str | None
    leads: list[str]  # of `names`, those that carry a melody
    tempo: tuple[str, ...]
    rng: np.random.Generator

    def pick(self, words) -> str:
        """One of the words."""
        return str(words[int(self.rng.integers(len(words)))])

    def chance(self, odds: float) -> bool:
        """True with these odds."""
        return bool(self.rng.random() < odds)

    @property
    def style(self) -> str:
        """The style in one of its words."""
        return self.pick(STYLES[self.piece.style].words)

    @property
    def mood(self) -> str:
        """One of the piece's mood words."""
        return self.pick(self.piece.moods)

    @property
    def noun(self) -> str:
        """track, beat, piece ..."""
        return self.pick(STYLES[self.piece.style].nouns)

    def say(self, name: str) -> str:
        """An instrument in words: its own, its family's, or with what it plays."""
        tool = INSTRUMENTS[name]
        family = {"woodwind": name, "mallets": tool.words[0]}.get(tool.family, tool.family)
        if tool.family == "piano":
            family = "piano"
        if self.chance(0.3):
            return family
        if tool.family == "drums" and self.chance(0.25):
            pace = "fast" if self.piece.bpm > 118 else "slow" if self.piece.bpm < 92 else None
            if pace:
                return f"{self.pick(DRUM_ADJECTIVES[pace])} drums"
        played = {part.play for part in STYLES[self.piece.style].parts if name in part.instruments}
        if tool.family == "bass" and self.piece.style == "jazz swing" and self.chance(0.6):
            return "walking bass"
        if self.piece.style == "metal" and name == "distorted guitar" and self.chance(0.5):
            return self.pick(("heavy guitar riffs", "distorted guitar riff", "power chords"))
        if played == {"strum"} and self.chance(0.3):
            return f"strummed {tool.words[0]}"
        if "arpeggio" == "".join(played) and self.chance(0.2):
            return f"{tool.words[0]} arpeggio"
        return self.pick(tool.words)

    def listed(self, names: list[str]) -> str:
        """"piano, bass and drums", without saying a word twice."""
        words = list(dict.fromkeys(self.say(name) for name in names))
        if len(words) == 1:
            return words[0]
        if self.chance(0.1):
            return ", ".join(words)
        return ", ".join(words[:-1]) + self.pick((" and ", " and ", " with ")) + words[-1]


def caption(
    piece: Piece, rng: np.random.Generator, start: float = 0.0, end: float | None = None
) -> str:
    """A caption of a window of the piece, or of all of it, from one word to a full sentence."""
    facts = _facts(piece, rng, start, end)
    if not facts.names:
        return "silence"
    if facts.only:
        text = _alone(facts)
    else:
        text = _together(facts, whole=start <= 0.0 and end is None)
    return text[0].upper() + text[1:] if len(text.split()) > 4 and facts.chance(0.5) else text


def _facts(piece: Piece, rng: np.random.Generator, start: float, end: float | None) -> Facts:
    names = piece.instruments(start, end)
    melodic = {
        name
        for part in STYLES[piece.style].parts
        if part.play == "melody"
        for name in part.instruments
    }
    chordal = {
        name
        for part in STYLES[piece.style].parts
        if part.play != "melody"
        for name in part.instruments
    }
    leads = [name for name in names if name in melodic - chordal]
    tempo = next(words for limit, words in TEMPO_WORDS if piece.bpm <= limit)
    return Facts(piece, names, piece.only(start, end), leads, tempo, rng)


def article(text: str) -> str:
    """The text with "a" or "an" before it."""
    return ("an " if text[0].lower() in "aeio" or text.startswith("80s") else "a ") + text


def _alone(facts: Facts) -> str:
    """One instrument plays and nothing else."""
    name = facts.only or facts.names[0]
    say = facts.say(name)
    tempo, mood = facts.pick(facts.tempo), facts.mood
    bpm = f"{facts.piece.bpm:.0f} BPM"
    solo = STYLES[facts.piece.style].solo
    genre = facts.style
    forms = [
        say,
        say,
        f"solo {say}",
        f"solo {say}, {tempo} and {mood}",
        f"{mood} {say}",
        f"{tempo} {say}",
        f"{tempo} solo {say} at {bpm}",
        f"{say} only",
        f"just {say}, nothing else",
        f"{say} playing alone",
        f"{article(mood)} passage with only {say}",
        f"a {tempo}, {mood} recording of {say} alone",
    ]
    if solo:
        forms += [
            genre,
            f"{mood} {genre}",
            f"{tempo} {mood} {genre}",
            f"{article(mood)} {facts.noun} for {say}",
            f"{genre}, {bpm}",
            f"a {tempo} {mood} {say} melody",
            f"{genre} in {_key(facts.piece)}",
        ]
    else:
        forms += [f"{genre}, {say} only", f"unaccompanied {say} in {article(genre)} {facts.noun}"]
    return facts.pick(forms)


def _key(piece: Piece) -> str:
    return f"{piece.key} {piece.mode}"


def _together(facts: Facts, *, whole: bool) -> str:
    """Several instruments play."""
    names = facts.names
    tempo, mood, genre, noun = facts.pick(facts.tempo), facts.mood, facts.style, facts.noun
    bpm = f"{facts.piece.bpm:.0f} BPM"
    everyone = facts.listed(names[:5])
    some = facts.listed(names[: int(facts.rng.integers(1, 4))])
    forms = [
        everyone,
        everyone,
        some,
        genre,
        f"{mood} {genre}",
        f"{genre} with {everyone}",
        f"{mood} {genre} with {some}",
        f"{tempo} {genre}, {everyone}",
        f"{genre} at {bpm}",
        f"{article(tempo)} {genre} {noun} at {bpm} with {everyone}",
        f"{article(mood)} {genre} {noun} featuring {some}",
        f"{mood}, {tempo} {noun} with {everyone}",
        f"{genre}, {mood}, {bpm}, {everyone}",
        f"{some}, {mood}",
        f"{tempo} {some}",
        f"an instrumental {genre} {noun} played by {everyone}",
    ]
    rhythm = [n for n in names if INSTRUMENTS[n].family in ("drums", "bass")]
    leads = facts.leads
    if leads and rhythm:
        lead, below = facts.say(leads[0]), facts.listed(rhythm)
        line = facts.pick(("melody", "lead", "line", "solo")) if not lead.endswith("lead") else ""
        top = f"{lead} {line}".strip()
        forms += [
            f"{top} over {below}",
            f"{article(tempo)} {genre} {noun} at {bpm} with {article(top)} over {below}",
            f"{article(mood)} {top} over {below}",
        ]
    if len(rhythm) == len(names) == 2:
        forms += ["drums and bass", "rhythm section only", "bass and drums", "a drum and bass groove"]
    if not any(INSTRUMENTS[n].family == "drums" for n in facts.piece.shares()) and whole:
        forms += [f"{mood} {genre} without drums"]
    if len(names) >= 4:
        forms += [f"full band: {everyone}", f"full arrangement with {everyone}", f"{genre}, full band"]
    if whole:
        forms += [f"{mood} {genre} in {_key(facts.piece)}", f"{article(tempo)} {mood} {genre} {noun}"]
    return facts.pick(forms)


