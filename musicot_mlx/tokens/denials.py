"""What a prompt will not have: "no drums", "without piano or bass", "drumless"; and what is left.

To a small text model "no drums" is a text about drums, so what is denied is taken out of the words
before they are read, and kept out by other means (generation/semantic.py).
"""

import re
from dataclasses import dataclass

from musicot_mlx.tokens.instruments import families_in, family_of

_WORD = r"[^\W_][\w'’/&-]*"
_TURN = (  # where "no drums ..." ends and something asked for begins
    r"(?:(?:and\s+|or\s+)?(?:but|with|only|just|over|under|above|on|in|at|for|by|from|to|like|as"
    r"|is|are|then|instead|yet|while|which|that|plus|please|solo)\b"
    r"|and\s+(?:an?|the|some|plenty|lots)\b)"
)
_PHRASE = rf"(?:(?!{_TURN}){_WORD})(?:\s+(?!{_TURN}){_WORD})*"
_LED = (
    r"no(?:\s+more)?|without(?:\s+using)?|w/o|minus|sans|free\s+of|lacking|except(?:\s+for)?"
    r"|(?:with\s+)?(?:not|never)\s+(?:any|an?)|(?:leave|leaving)\s+out|leave|remove|avoid(?:ing)?"
    r"|(?:don['’]?t|do\s+not|never)\s+(?:use|add|play|want|have|include)"
)
# "no drums, bass or piano" denies three things; "no drums, soft piano" one
_DENIED = re.compile(
    rf"(?<![\w'’-])(?:{_LED})\s+(?:(?:any|an?|the|kind\s+of|sort\s+of)\s+)*"
    rf"(?P<led>{_PHRASE}(?:(?:\s*,\s*{_PHRASE})*\s*,?\s+n?or\s+{_PHRASE})?)",
    re.I,
)
_LESS = re.compile(rf"(?<![\w'’-])(?P<what>{_WORD}?)(?:-?less|-free)\b", re.I)
_IDIOM = re.compile(  # says no to nothing that sounds
    r"\s*(?:doubt|matter|wonder|longer|need|one|end|less|more|time|limits?|rush|hurry|fail|way)\b"
    r"|.*\b(?:left|behind)\b",
    re.I,
)
_BETWEEN = re.compile(r"\s*,\s*(?:n?or\s+|and\s+)?|\s+(?:n?or|and|&)\s+", re.I)


@dataclass(frozen=True)
class Reading:
    """A prompt taken apart: the words that it asks with, and each thing that it will not have."""

    asked: str
    denied: tuple[str, ...] = ()

    @property
    def asked_families(self) -> frozenset[str]:
        """The families of instruments that it asks for."""
        return families_in(self.asked)

    @property
    def families(self) -> frozenset[str]:
        """The families of instruments denied, but for those that it asks for all the same."""
        named = {family_of(thing) for thing in self.denied} - {None}
        return frozenset(named - self.asked_families)


def reading(words: str | None) -> Reading:
    """The prompt without what it denies, and what that is; "not too busy drums" denies nothing."""
    denied: list[str] = []

    def without(found: re.Match) -> str:
        if _IDIOM.match(found["led"]):
            return found[0]
        denied.extend(part for part in _BETWEEN.split(found["led"]) if part)
        return " "

    def less(found: re.Match) -> str:
        if family_of(found["what"]) is None:  # "restless" denies no rest
            return found[0]
        denied.append(found["what"])
        return " "

    asked = _LESS.sub(less, _DENIED.sub(without, words or ""))
    if not denied:
        return Reading(" ".join(asked.split()))
    asked = re.sub(r"\s+(?=[,.;:!?])|(?:\band\s*)?(?=[,.;:]|$)", "", " ".join(asked.split()))
    asked = re.sub(r"^[\s,.;:]+|[\s,;:]+$|([,;:])(?=[\s,.;:]*[,.;:])", "", asked)
    return Reading(" ".join(asked.split()), tuple(denied))
