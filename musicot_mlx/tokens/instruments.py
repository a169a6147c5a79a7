"""What English calls instruments: ten families with their words, voices, and what is none of them.

These are the words of anybody's prompt, whatever a model knows of them: its own are its tags.
"""

import re

FAMILIES: dict[str, tuple[str, ...]] = {
    "drums": (
        "drum", "drumkit", "drummer", "drumming", "percussion", "percussive", "beat", "beats",
        "breakbeat", "backbeat", "kick", "snare", "hihat", "hi-hat", "cymbal", "tom", "tambourine",
        "shaker", "cowbell", "bongo", "conga", "djembe", "cajon", "timpani", "taiko", "tabla",
    ),
    "bass": ("bass", "bassline", "contrabass", "sub-bass", "subbass"),
    "piano": (
        "piano", "keys", "keyboard", "rhodes", "wurlitzer", "pianist", "clavinet", "harpsichord",
    ),
    "guitar": ("guitar", "guitarist", "banjo", "mandolin", "ukulele", "lute", "sitar"),
    "strings": (
        "string", "violin", "viola", "cello", "fiddle", "violinist", "cellist", "pizzicato",
    ),
    "synth": ("synth", "synthesizer", "synthesiser", "pad", "arpeggiator", "arp", "theremin"),
    "brass": ("brass", "trumpet", "trombone", "tuba", "horn", "cornet", "flugelhorn"),
    "woodwind": (
        "woodwind", "saxophone", "sax", "clarinet", "flute", "oboe", "bassoon", "piccolo",
        "recorder", "panpipe",
    ),
    "organ": ("organ", "hammond", "harmonium"),
    "mallets": (
        "mallet", "vibraphone", "vibes", "marimba", "xylophone", "glockenspiel", "bell", "celesta",
        "kalimba",
    ),
}  # fmt: skip
VOICES = frozenset(
    """voice vocal vocals vocalist vocalise sing singer singing sung choir choral chorale acapella
    cappella lyric lyrics rapper rapping raps rapped mc opera operatic aria soprano alto baritone
    falsetto chant chanting hum humming growl growls scream screaming screamed shout shouted yodel
    yodeling yodelling beatbox beatboxing autotune vocoder barbershop scat scatting whispered
    spoken speech""".split()
)
ELSEWHERE = frozenset(  # instruments, styles and sounds of other models' music
    """accordion bagpipe balalaika bandoneon banjo bongo bouzouki cajon celesta charango clavinet
    conga cornet cymbalom didgeridoo djembe dulcimer erhu flugelhorn gamelan guqin guzheng handpan
    harmonica harmonium harp harpsichord kalimba kora koto lute lyre mandolin maracas mbira
    melodica melodeon mellotron oboe bassoon oud panpipe pipa recorder santoor shakuhachi shamisen
    sitar steelpan tabla taiko theremin timpani tuba ukulele viola whistle xylophone zither

    afrobeat afrobeats amapiano americana bachata baroque bhangra bluegrass bolero breakcore
    britpop calypso celtic chanson chillwave chiptune cumbia dancehall dembow dixieland disco
    dixie drill dubstep electro electroswing emo eurodance fado flamenco fugue gabber glitch gospel
    gregorian grime grindcore grunge hardstyle highlife hyperpop idm industrial italo kpop jpop
    klezmer krautrock lullaby madrigal mariachi mazurka merengue minuet motown nocturne phonk polka
    psytrance qawwali raga ragtime rave reggaeton renaissance rnb rocksteady rumba salsa samba
    shoegaze ska skiffle soca tango tarantella trance trap tropicalia vaporwave waltz zouk zydeco

    atonal microtonal dodecaphonic modulation modulating polyrhythm polyrhythmic rubato
    applause birdsong foley thunder siren silence silent""".split()
)

_NO_DRUMS = re.compile(r"\bdrums?\s*(?:and|&|'?n'?)\s*bass\b|\b(?:back|break)?beats?\b", re.I)
_PLAYING = re.compile(r"(?:ist|ing|ive|mer)$|^(?:drum.+|key|keyboard|pad|tom|kick|vibe|bassline)$")
_WORD = re.compile(r"[^\W_][\w'’-]*")


def singular(word: str) -> str:
    """A word, small, without the ending of a plural."""
    word = word.lower().replace("’", "'").removesuffix("'s")
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def family_of(thing: str) -> str | None:
    """The family of instruments that a thing is of, by its last word that is one; None of none.

    "brushed drums" are drums, "drum machine" too; "bass drum" is a drum, "string bass" a bass,
    "synth strings" a synth.
    """
    found = [family for word in _WORD.findall(thing) if (family := _family(word))]
    if not found:
        return None
    return "synth" if found[-2:] == ["synth", "strings"] else found[-1]


def families_in(words: str) -> frozenset[str]:
    """All families that words name: "electric bass and strings" is bass and strings. Neither a
    beat nor the style drum and bass says that there must be drums.
    """
    named = _WORD.findall(_NO_DRUMS.sub(" ", words))
    return frozenset(family for word in named if (family := _family(word)))


def named_instruments(words: str) -> list[str]:
    """The instruments that words name, as they stand there but for plurals, each once: "two cellos
    over a drum kit" is cello and drum. Players, playing and beats are none.
    """
    named = [singular(word) for word in _WORD.findall(_NO_DRUMS.sub(" ", words))]
    return list(
        dict.fromkeys(name for name in named if _family(name) and not _PLAYING.search(name))
    )


def _family(word: str) -> str | None:
    small = (word.lower(), singular(word))
    return next((f for f, words in FAMILIES.items() if any(w in words for w in small)), None)
