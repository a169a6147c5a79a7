"""What the band knows: instruments, drum patterns, rhythms, scales and styles, all as plain tables.

Rhythms are strings with one character a sixteenth note: `X` accent, `x` plain, `o` soft, `-` hold,
`.` rest. Bass lines name the chord tone instead: `R` root, `3` third, `5` fifth, `7` seventh,
`8` octave, `a` a step from the next root.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Instrument:
    """A General MIDI sound: program, family, playable MIDI range, pan and volume (0-127), words."""

    program: int
    family: str
    low: int
    high: int
    pan: int
    volume: int
    words: tuple[str, ...]
    sustained: bool = False


FAMILIES = (
    "drums", "bass", "piano", "guitar", "strings", "synth", "brass", "woodwind", "organ", "mallets",
)  # fmt: skip

_KIT = ("drums", "drum kit", "drum beat")
# fmt: off
INSTRUMENTS = {
    "drum kit": Instrument(0, "drums", 27, 87, 64, 104, _KIT + ("acoustic drums",)),
    "rock drum kit": Instrument(16, "drums", 27, 87, 64, 108,
                                _KIT + ("hard-hitting drums", "rock drums")),
    "electronic drums": Instrument(24, "drums", 27, 87, 64, 108,
                                   _KIT + ("electronic drums", "electronic beat")),
    "drum machine": Instrument(25, "drums", 27, 87, 64, 110,
                               _KIT + ("drum machine", "808 drums", "programmed beat")),
    "jazz drum kit": Instrument(32, "drums", 27, 87, 64, 108, _KIT + ("jazz drums", "ride cymbal")),
    "brushed drums": Instrument(40, "drums", 27, 87, 64, 112,
                                ("drums", "brushed drums", "soft drums", "drum brushes")),
    "orchestral percussion": Instrument(48, "drums", 27, 87, 64, 112,
                                        ("drums", "orchestral percussion", "orchestral drums",
                                         "percussion")),
    "acoustic bass": Instrument(32, "bass", 28, 55, 60, 118,
                                ("bass", "acoustic bass", "upright bass", "double bass")),
    "electric bass": Instrument(33, "bass", 28, 55, 62, 110,
                                ("bass", "electric bass", "bass guitar", "bass line")),
    "slap bass": Instrument(36, "bass", 28, 57, 62, 106,
                            ("bass", "slap bass", "funky bass", "bass line")),
    "synth bass": Instrument(38, "bass", 26, 52, 64, 110,
                             ("bass", "synth bass", "electronic bass", "bass line")),
    "piano": Instrument(0, "piano", 33, 96, 54, 104, ("piano", "acoustic piano", "grand piano")),
    "electric piano": Instrument(4, "piano", 36, 88, 52, 106,
                                 ("electric piano", "rhodes", "piano", "mellow keys")),
    "nylon guitar": Instrument(24, "guitar", 40, 84, 78, 110,
                               ("guitar", "nylon guitar", "classical guitar", "acoustic guitar")),
    "acoustic guitar": Instrument(25, "guitar", 40, 84, 80, 106,
                                  ("guitar", "acoustic guitar", "steel-string guitar")),
    "jazz guitar": Instrument(26, "guitar", 40, 86, 82, 108,
                              ("guitar", "jazz guitar", "mellow electric guitar")),
    "clean guitar": Instrument(27, "guitar", 40, 86, 84, 102,
                               ("guitar", "clean electric guitar", "electric guitar")),
    "overdriven guitar": Instrument(29, "guitar", 40, 88, 44, 92,
                                    ("guitar", "electric guitar", "overdriven guitar",
                                     "rock guitar")),
    "distorted guitar": Instrument(30, "guitar", 38, 88, 80, 94,
                                   ("guitar", "distorted guitar", "heavy guitar",
                                    "distorted electric guitar")),
    "violin": Instrument(40, "strings", 55, 98, 50, 100, ("violin", "strings", "fiddle"), True),
    "cello": Instrument(42, "strings", 36, 76, 72, 108, ("cello", "strings"), True),
    "string section": Instrument(48, "strings", 36, 93, 56, 94,
                                 ("strings", "string section", "string ensemble",
                                  "orchestral strings"), True),
    "pizzicato strings": Instrument(45, "strings", 36, 90, 74, 108,
                                    ("strings", "pizzicato strings", "plucked strings")),
    "trumpet": Instrument(56, "brass", 55, 84, 70, 92, ("trumpet", "brass"), True),
    "trombone": Instrument(57, "brass", 40, 72, 48, 94, ("trombone", "brass"), True),
    "french horn": Instrument(60, "brass", 41, 76, 76, 100, ("french horn", "horns", "brass"),
                              True),
    "brass section": Instrument(61, "brass", 43, 84, 58, 92,
                                ("brass section", "brass", "horn section"), True),
    "saxophone": Instrument(66, "woodwind", 46, 78, 66, 96,
                            ("saxophone", "sax", "tenor saxophone"), True),
    "clarinet": Instrument(71, "woodwind", 52, 88, 70, 100, ("clarinet", "woodwind"), True),
    "flute": Instrument(73, "woodwind", 60, 96, 58, 106, ("flute", "woodwind"), True),
    "synth lead": Instrument(81, "synth", 48, 93, 66, 84,
                             ("synth lead", "synth", "synthesizer", "saw lead"), True),
    "square lead": Instrument(80, "synth", 48, 93, 62, 80,
                              ("synth lead", "synth", "square-wave synth"), True),
    "synth pad": Instrument(89, "synth", 40, 90, 56, 104,
                            ("synth pad", "warm synth pad", "synth", "pad"), True),
    "synth strings": Instrument(50, "synth", 40, 90, 60, 92,
                                ("synth strings", "synth pad", "synth"), True),
    "synth pluck": Instrument(84, "synth", 45, 93, 76, 88,
                              ("synth arpeggio", "plucky synth", "synth", "arpeggiator")),
    "organ": Instrument(17, "organ", 36, 88, 50, 90, ("organ", "hammond organ", "electric organ"),
                        True),
    "church organ": Instrument(19, "organ", 36, 88, 64, 88,
                               ("church organ", "organ", "pipe organ"), True),
    "vibraphone": Instrument(11, "mallets", 53, 89, 74, 112, ("vibraphone", "vibes", "mallets")),
    "marimba": Instrument(12, "mallets", 48, 90, 76, 112, ("marimba", "mallets")),
    "glockenspiel": Instrument(9, "mallets", 72, 100, 80, 96, ("glockenspiel", "bells", "mallets")),
}

DRUM_NOTES = {
    "kick": 36, "snare": 38, "clap": 39, "rim": 37, "hat": 42, "pedal": 44, "open": 46, "ride": 51,
    "crash": 49,
    "tom": 47, "shaker": 70, "tambourine": 54, "cowbell": 56, "conga": 63,
}
KICKS, SNARES, TOMS = (35, 36), (37, 38, 39, 40), (50, 47, 45, 43)
CYMBALS = (42, 44, 46, 49, 51, 52, 53, 55, 57, 59, 54, 70)

DRUMS = {
    "four on the floor": {"kick": "X...X...X...X...", "clap": "....X.......X...",
                          "open": "..x...x...x...x.",
                          "hat": "x...x...x...x..."},
    "techno drive": {"kick": "X...X...X...X...", "clap": "....X.......X...",
                     "hat": "xoxoxoxoxoxoxoxo",
                     "open": "..X...X...X...X.", "rim": "...o..o....o..o."},
    "techno minimal": {"kick": "X...X...X...X...", "open": "..X...X...X...X.",
                       "shaker": "oxoxoxoxoxoxoxox"},
    "house": {"kick": "X...X...X...X...", "clap": "....X.......X...", "open": "..X...X...X...X.",
              "shaker": "xoxoxoxoxoxoxoxo", "conga": "...x..x.......x."},
    "breakbeat": {"kick": "X.x.......xx....", "snare": "....X..o.o..X..o",
                  "hat": "x.x.x.x.x.x.x.x."},
    "two step": {"kick": "X.........x.....", "snare": "....X.......X..o",
                 "hat": "xox.xoxoxox.xoxo", "ride": "x...x...x...x..."},
    "boom bap": {"kick": "X......x..X.....", "snare": "....X.......X...",
                 "hat": "x.x.x.x.x.x.x.xo"},
    "lazy beat": {"kick": "X.....x.X.......", "rim": "....X.......X...", "hat": "x.o.x.o.x.o.x.o.",
                  "shaker": "..o...o...o...o."},
    "funk": {"kick": "X..x..x...x..x..", "snare": "....X..o.o..X..o", "hat": "xoxoxoxoxoxoxo..",
             "open": "..............x."},
    "funk tight": {"kick": "X.x.......x.x...", "snare": "....X..o....X.o.",
                   "hat": "xxXxxxXxxxXxxxXx", "cowbell": "x...x...x...x..."},
    "rock": {"kick": "X.......X.x.....", "snare": "....X.......X...", "hat": "X.x.X.x.X.x.X.x."},
    "rock ride": {"kick": "X.x.....X.x...x.", "snare": "....X.......X...",
                  "ride": "X.x.X.x.X.x.X.x."},
    "double kick": {"kick": "XxxxXxxxXxxxXxxx", "snare": "....X.......X...",
                    "ride": "X...X...X...X..."},
    "gallop": {"kick": "X.xxX.xxX.xxX.xx", "snare": "....X.......X...",
               "crash": "x.......x.......", "hat": "x.x.x.x.x.x.x.x."},
    "thrash": {"kick": "X.xxX.xxX.xxX.xx", "snare": "..X...X...X...X.", "ride": "x.x.x.x.x.x.x.x."},
    "swing": {"ride": "X...X.x.X...X.x.", "pedal": "....x.......x...", "kick": "o...o...o...o...",
              "snare": "......o........."},
    "swing brushes": {"snare": "x...X.o.x...X.o.", "pedal": "....x.......x...",
                      "ride": "o.......o......."},
    "bossa": {"rim": "X..X..X...X..X..", "kick": "X..xX..xX..xX..x", "hat": "xoxoxoxoxoxoxoxo"},
    "folk stomp": {"kick": "X.......X.......", "tambourine": "....X.......X...",
                   "shaker": "x.o.x.o.x.o.x.o."},
    "retro": {"kick": "X...X...X...X...", "snare": "....X.......X...", "hat": "x.x.x.x.x.x.x.x."},
    "retro tom": {"kick": "X..x..X.X..x..X.", "snare": "....X.......X...",
                  "hat": "xoxoxoxoxoxoxoxo", "tom": ".............xxx"},
    "march": {"kick": "X.......X.......", "snare": "x..xx.x.x..xxxxx", "crash": "x..............."},
    "hip hop": {"kick": "X..x....x.X.....", "snare": "....X.......X...",
                "hat": "x.x.x.x.x.x.x.xx"},
    "half time": {"kick": "X.....x...x..x..", "clap": "........X.......",
                  "hat": "xoxoxxxoxoxoxxxx", "open": "......x........."},
    "punk": {"kick": "X.x.....X.x.....", "snare": "....X.......X...", "hat": "X.X.X.X.X.X.X.X."},
    "punk gallop": {"kick": "X..X..X.X..X..X.", "snare": "..X...X...X...X.",
                    "crash": "X.......X......."},
    "shuffle": {"ride": "X.x.X.x.X.x.X.x.", "kick": "X.......X.x.....",
                "snare": "....X.......X..."},
    "slow shuffle": {"hat": "X.x.X.x.X.x.X.x.", "kick": "X.....x.X.......",
                     "snare": "....X.......X..o"},
    "one drop": {"kick": "........X.......", "rim": "........X.......", "hat": "x.x.x.x.x.x.x.x."},
    "steppers": {"kick": "X...X...X...X...", "rim": "........X.....o.",
                 "hat": "xoxoxoxoxoxoxoxo"},
    "cinematic": {"kick": "X.....x.X.......", "tom": "....x.xx....x.xx",
                  "crash": "x..............."},
}

RHYTHMS = {  # chords, strums, arpeggios, power chords
    "whole": ("X---------------",),
    "halves": ("X-------x-------", "X-----------x---"),
    "quarters": ("X---x---x---x---",),
    "offbeats": ("..X...X...X...X.", "..x...X-..x...X-"),
    "stabs": ("X..X..X.........", "...X..X...X..X..", "X..x..x.X..x....", "..X..X....X..X.."),
    "house stabs": ("X..X..X..X..X...", "..X..X..X..X..X.", "X-.X-.X-..X-.X-."),
    "comping": ("..X-......X-....", "X-....X-........", "......X---..x-..", "X--...X-....x-..",
                "....X-....X-...."),
    "strum": ("X---x-x-..x-x-x-", "X---x---x-x-x-x-", "X-xxX-x-X-xxX-x-", "X---X-x---x-X-x-"),
    "funk guitar": ("xo.xxo.xxo.xxoxo", "X.xo.xX..xo.xX.o", "..Xo..Xo..Xo.xXo"),
    "bossa guitar": ("X-..X-.X-..X-.X-", "X--X--X---X--X--", "X-.X..X-..X..X-."),
    "chug": ("X-xxX-xxX-xxX-xx", "XxxXxxXxxXxxX-X-", "X-X-xxxxX-X-xxxx", "XxxxX-X-XxxxX-X-"),
    "power": ("X-------X---X---", "X---X---X-X-X---", "X-x-X-x-X-x-X-x-", "X---------X-X---"),
    "eighths": ("x-x-x-x-x-x-x-x-", "X-x-x-X-x-x-X-x-"),
    "sixteenths": ("XxxxXxxxXxxxXxxx", "XxxXxxXxxXxxXxXx", "X.xxX.xxX.xxX.xx"),
    "flowing": ("x-x-x-x-x-x-x-x-", "x---x-x-x---x-x-", "x---x---x-x-x---"),
    "skank": ("....X.......X...", "....X.o.....X.o.", "..X...X...X...X."),
    "bubble": ("..x.x.x...x.x.x.", "..x.x.....x.x..."),
    "downstrokes": ("X-X-X-X-X-X-X-X-", "X-x-x-x-X-x-x-x-", "X-X-X-X-X---X---"),
    "shuffle chords": ("X-x.X-x.X-x.X-x.", "..x-X-....x-X-..", "X-....x-X-....x-"),
    "loop": ("X-------..x-X---", "X---..x-....x---", "X-----x-----x---"),
    "slow arpeggio": ("x---x---x---x---", "x---x---x-------", "x-----x-----x---"),
}

BASS = {
    "long": ("R---------------", "R-----------5---", "R-------5-------"),
    "fours": ("R---R---R---R---", "R---R---5---R---"),
    "offbeat": ("..R-..R-..R-..R-", "..R-..R-..8-..R-"),
    "rolling": (".RRR.RRR.RRR.RRR", "R.RRR.RRR.RR8.RR"),
    "octaves": ("R-8-R-8-R-8-R-8-", "R.R8R.R8R.R8R.R8"),
    "house": ("R--R--R---8-R-..", "..R..R-...R..8R.", "R-..8-..R-.R8-.."),
    "reese": ("R-----------R---", "R-------..R-5---", "R-----R---------"),
    "laid back": ("R-----..R-..5-..", "R-....R-R-....a-", "R-----R-..5-8-.."),
    "funk": ("R..R..8-..7-8.R.", "R.R..R8..7.8..5R", "R-.R.8.R..5.7.8."),
    "rock": ("R-R-R-R-R-R-R-R-", "R---R-R-R---R-a-", "R-R-R-R-5-5-R-a-"),
    "chug": ("R-RRR-RRR-RRR-RR", "RRRRRRRRRRRRRRRR", "R-R-RRRRR-R-RRRR"),
    "walking": ("R---3---5---a---", "R---5---7---a---", "R---7---5---a---", "R---5---3---a---"),
    "bossa": ("R-----5-5-----5-", "R-----5-8-----5-"),
    "folk": ("R-------5-------", "R---..5-R---..5-"),
    "boom": ("R-------....R-..", "R---------R-....", "R-----..R--R..5-"),
    "boogie": ("R-3-5-7-8-7-5-3-", "R-R-3-3-5-5-7-5-", "R---3---5---3-a-"),
    "dub": ("R-..R-5-..R-..8-", "R-----5-8-..5-R-", "....R-R-..5-R-8-"),
    "synthwave": ("R-R-R-R-R-R-R-R-", "RRRRRRRRRRRRRRRR", "R.RRR.RRR.RRR.RR"),
}

MELODIES = {  # two bars each
    "driving": ("X-x.x-x.X-..x-x-X-x.x-x.X---....", "X..x..x.X..x..x.X..x..x.x-x-x-x-",
                "XxxxX.x.XxxxX.x.X.x.X.x.X---x---"),
    "song": ("x---x-x-x---x---x-----x-x-------", "..x-x-x-x---x-x-x-------........",
             "x-----x-x---x---x-x-x---x-------", "x-x-x---..x-x-x-x-----x-x-------"),
    "sparse": ("x-----------x---x---------------", "........x-----x-x---------......",
               "x-------x-------x---------------"),
    "swing": ("..x-x-x-x---..x-..x-x-----......", "x---x-x-..x-x-x-x-x---..x-----..",
              "x-x-x-x-x-x---x-....x-x-x-x-x---", "....x-x-x-..x---x-x-..x-x-------"),
    "bossa": ("x--x--x---x--x--x-----x-x-------", "..x-x--x--x---..x--x--x---------"),
    "funky": ("x..x..x.....x.x-..x..x..x---....", "x.x...x..x..x...x-..x.x.x---...."),
    "heroic": ("X-------x---x-x-X-----------....", "X---x-x-X---x---x-------x-------",
               "X-----x-X-------x---x---x-------"),
    "shred": ("xxxxxxxxxxxxxxxxX---xxxxX-------", "x-x-xxxxx-x-xxxxX-X-x-x-X-------"),
    "bluesy": ("x-x-X---........x-x-x-X---......", "..x-x-x-X-----..............x-x-",
               "X---x-x-....x---X-x-x---........"),
    "hook": ("x-x-..x-x---....x-x-..x-X---....", "X---..x-x-x-....X---..x-x---....",
             "x-x-x-x-....x---x-x-x-x-........"),
    "dubby": ("x---....x-x-............x---....", "..x-x---........x-x-x---........"),
    "lyrical": ("x-------x-----x-x-----------x---", "x-----x-x---x---x---------------",
                "x---x---x-------x-------x---..--", "x-----------x---x---x---x-------"),
    "etude": ("x-x-x-x-x-x-x-x-x-x-x-x-x-------", "x-x-x-x-x---x-x-x-x-x-x-x---x---"),
    "jig": ("x-xxx-x-x-xxx-x-x-x-x-xxx---x---", "x-x-xxx-x-x-x---x-xxx-x-x-------"),
}

SCALES = {
    "major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10),
    "dorian": (0, 2, 3, 5, 7, 9, 10),
    "mixolydian": (0, 2, 4, 5, 7, 9, 10), "phrygian": (0, 1, 3, 5, 7, 8, 10),
}
KEYS = ("C", "Db", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")
PROGRESSIONS = {  # scale degrees from 0, one chord a bar
    "pop": ((0, 4, 5, 3), (0, 5, 3, 4), (5, 3, 0, 4), (0, 3, 5, 4), (0, 2, 3, 4)),
    "minor pop": ((0, 5, 2, 6), (0, 6, 5, 6), (0, 3, 5, 6), (0, 5, 3, 4), (0, 2, 6, 5)),
    "blues": ((0, 0, 0, 0, 3, 3, 0, 0, 4, 3, 0, 4), (0, 3, 0, 0, 3, 3, 0, 0, 4, 3, 0, 0)),
    "punk": ((0, 3, 4, 3), (0, 4, 5, 3), (0, 3, 0, 4), (0, 5, 3, 4)),
    "reggae": ((0, 0, 3, 3), (0, 3, 4, 3), (0, 5, 3, 4), (5, 5, 3, 3)),
    "loop": ((0, 0, 5, 5), (0, 3, 0, 3), (0, 0, 3, 0), (0, 5, 3, 5)),
    "static": ((0, 0, 0, 0), (0, 0, 5, 6), (0, 0, 3, 0), (0, 6, 0, 5)),
    "jazz": ((1, 4, 0, 5), (0, 5, 1, 4), (2, 5, 1, 4), (1, 4, 0, 0), (0, 3, 2, 5, 1, 4, 0, 4)),
    "minor jazz": ((0, 3, 4, 0), (1, 4, 0, 0), (0, 5, 1, 4)),
    "funk": ((0, 0, 3, 0), (0, 3, 0, 3), (0, 0, 0, 4), (0, 6, 3, 0)),
    "riff": ((0, 0, 5, 6), (0, 1, 0, 6), (0, 0, 2, 1), (0, 5, 0, 6), (0, 0, 0, 1)),
    "folk": ((0, 3, 0, 4), (0, 4, 5, 3), (0, 3, 4, 0), (0, 5, 3, 0)),
    "drift": ((0, 0, 3, 3), (0, 0, 5, 5), (0, 2, 3, 3), (5, 5, 3, 3)),
    "classical": ((0, 3, 4, 0), (0, 5, 1, 4), (0, 4, 5, 2, 3, 0, 3, 4), (0, 3, 6, 2, 5, 1, 4, 0)),
}


@dataclass(frozen=True)
class Part:
    """A seat in the band: what it does, who may sit there, what they may play, how loud, how often.

    play is drums, bass, chords, strum, arpeggio,
    power or melody; register is the middle MIDI pitch.
    """

    play: str
    instruments: tuple[str, ...]
    patterns: tuple[str, ...]
    velocity: int = 90
    chance: float = 1.0
    register: int = 64


@dataclass(frozen=True)
class Style:
    """A way of playing: BPM range, modes, progressions, seats, words, swing as part of a step.

    breath: share by which phrases of four bars swell and fall back, and lean into the beat.
    """

    words: tuple[str, ...]
    bpm: tuple[float, float]
    modes: tuple[str, ...]
    progressions: tuple[str, ...]
    parts: tuple[Part, ...]
    moods: tuple[str, ...]
    nouns: tuple[str, ...] = ("track", "piece")
    swing8: float = 0.0
    swing16: float = 0.0
    sevenths: bool = False
    slow_chords: bool = False
    solo: bool = False
    breath: float = 0.0


STYLES = {
    "techno": Style(
        ("techno", "techno", "electronic dance music", "club techno"), (125, 145),
        ("minor", "phrygian"), ("static",),
        (Part("drums", ("electronic drums", "drum machine"),
              ("techno drive", "techno minimal", "four on the floor"), 106),
         Part("bass", ("synth bass",), ("rolling", "offbeat", "octaves"), 100, register=36),
         Part("melody", ("synth lead", "square lead"), ("driving",), 96, register=72),
         Part("chords", ("synth pad", "synth strings"), ("whole", "house stabs"), 78, 0.8, 62),
         Part("arpeggio", ("synth pluck",), ("sixteenths",), 88, 0.6, 67)),
        ("driving", "energetic", "hypnotic", "dark"), ("track", "track", "beat", "club tune"),
        slow_chords=True),
    "house": Style(
        ("house", "house music", "deep house", "dance music"), (118, 128),
        ("minor", "dorian", "major"),
        ("minor pop", "drift"),
        (Part("drums", ("electronic drums", "drum machine"), ("house", "four on the floor"), 102),
         Part("bass", ("synth bass", "electric bass"), ("house", "offbeat"), 98, register=38),
         Part("chords", ("piano", "organ", "electric piano"), ("house stabs", "offbeats"), 90,
              register=64),
         Part("chords", ("string section", "synth pad"), ("whole",), 76, 0.7, 67),
         Part("melody", ("synth lead", "vibraphone", "brass section"), ("funky", "song"), 90, 0.7,
              72)),
        ("groovy", "uplifting", "energetic", "warm"), ("track", "groove", "beat"), swing16=0.12,
        sevenths=True),
    "drum and bass": Style(
        ("drum and bass", "drum and bass", "jungle", "dnb"), (165, 178), ("minor", "dorian"),
        ("minor pop", "drift"),
        (Part("drums", ("drum kit", "electronic drums"), ("breakbeat", "two step"), 108),
         Part("bass", ("synth bass",), ("reese", "laid back"), 108, register=33),
         Part("chords", ("synth pad", "electric piano", "synth strings"), ("whole", "stabs"), 78,
              0.9, 64),
         Part("melody", ("synth lead", "flute", "square lead"), ("sparse", "song"), 88, 0.7, 74)),
        ("energetic", "intense", "fast-paced", "dark"), ("track", "tune"), slow_chords=True,
        sevenths=True),
    "lo-fi hip hop": Style(
        ("lo-fi hip hop", "lo-fi", "chill hip hop", "lofi beat"), (68, 90),
        ("major", "dorian", "minor"),
        ("jazz", "drift"),
        (Part("drums", ("drum kit", "drum machine"), ("boom bap", "lazy beat"), 86),
         Part("chords", ("electric piano", "piano"), ("halves", "comping", "quarters"), 74,
              register=62),
         Part("bass", ("electric bass", "acoustic bass"), ("laid back", "long"), 88, register=36),
         Part("melody", ("vibraphone", "jazz guitar", "flute", "saxophone"), ("sparse", "song"),
              78, 0.8, 72),
         Part("chords", ("synth pad", "string section"), ("whole",), 60, 0.4, 67)),
        ("mellow", "relaxing", "chill", "laid-back", "warm"), ("beat", "beat", "track"),
        swing16=0.3, sevenths=True),
    "funk": Style(
        ("funk", "funk", "funky groove", "funk and soul"), (96, 116), ("dorian", "mixolydian"),
        ("funk",),
        (Part("drums", ("drum kit",), ("funk", "funk tight"), 102),
         Part("bass", ("slap bass", "electric bass"), ("funk",), 104, register=38),
         Part("chords", ("clean guitar",), ("funk guitar",), 86, register=64),
         Part("chords", ("brass section",), ("stabs",), 98, 0.8, 67),
         Part("chords", ("organ", "electric piano"), ("comping", "whole"), 78, 0.6, 62),
         Part("melody", ("saxophone", "trumpet"), ("funky",), 94, 0.6, 70)),
        ("groovy", "funky", "energetic", "upbeat"), ("groove", "jam", "track"), swing16=0.12,
        sevenths=True),
    "rock": Style(
        ("rock", "rock", "rock song", "classic rock"), (108, 148), ("major", "minor", "mixolydian"),
        ("pop", "minor pop"),
        (Part("drums", ("rock drum kit", "drum kit"), ("rock", "rock ride"), 106),
         Part("bass", ("electric bass",), ("rock", "fours"), 100, register=36),
         Part("power", ("overdriven guitar", "distorted guitar"), ("power",), 98, register=45),
         Part("arpeggio", ("clean guitar",), ("eighths",), 84, 0.6, 62),
         Part("melody", ("distorted guitar", "overdriven guitar", "organ"), ("song", "heroic"), 98,
              0.8, 71)),
        ("energetic", "powerful", "upbeat", "rebellious"), ("song", "track", "anthem")),
    "metal": Style(
        ("metal", "heavy metal", "thrash metal", "metal"), (140, 190), ("phrygian", "minor"),
        ("riff",),
        (Part("drums", ("rock drum kit",), ("double kick", "gallop", "thrash"), 116),
         Part("power", ("distorted guitar",), ("chug",), 116, register=42),
         Part("bass", ("electric bass",), ("chug",), 106, register=33),
         Part("melody", ("overdriven guitar",), ("shred", "heroic"), 106, 0.7, 74)),
        ("heavy", "aggressive", "intense", "dark"), ("track", "song", "riff")),
    "jazz swing": Style(
        ("jazz", "swing jazz", "jazz swing", "bebop"), (120, 190), ("major", "dorian"), ("jazz",),
        (Part("drums", ("jazz drum kit", "brushed drums"), ("swing", "swing brushes"), 88),
         Part("bass", ("acoustic bass",), ("walking",), 98, register=40),
         Part("chords", ("piano", "jazz guitar"), ("comping",), 80, register=62),
         Part("melody", ("saxophone", "trumpet", "vibraphone", "clarinet"), ("swing",), 94,
              register=69),
         Part("melody", ("trombone", "piano"), ("swing",), 82, 0.35, 62)),
        ("swinging", "smooth", "cool", "lively"), ("tune", "piece", "track"), swing8=0.66,
        sevenths=True),
    "bossa nova": Style(
        ("bossa nova", "bossa nova", "latin jazz", "brazilian bossa"), (112, 136),
        ("major", "minor", "dorian"),
        ("jazz",),
        (Part("drums", ("brushed drums", "jazz drum kit"), ("bossa",), 78),
         Part("strum", ("nylon guitar",), ("bossa guitar",), 86, register=60),
         Part("bass", ("acoustic bass",), ("bossa",), 92, register=38),
         Part("melody", ("flute", "saxophone", "clarinet", "vibraphone"), ("bossa", "song"), 84,
              register=74),
         Part("chords", ("piano", "string section"), ("comping", "whole"), 66, 0.5, 64)),
        ("relaxing", "sunny", "smooth", "romantic"), ("tune", "piece", "groove"), sevenths=True),
    "folk": Style(
        ("folk", "acoustic folk", "folk song", "country folk"), (84, 118),
        ("major", "mixolydian", "dorian"),
        ("folk",),
        (Part("strum", ("acoustic guitar",), ("strum",), 88, register=59),
         Part("bass", ("acoustic bass",), ("folk",), 90, 0.9, 36),
         Part("melody", ("violin", "flute", "clarinet"), ("jig", "song"), 90, register=74),
         Part("drums", ("drum kit",), ("folk stomp",), 84, 0.8),
         Part("arpeggio", ("nylon guitar",), ("eighths",), 80, 0.5, 66)),
        ("warm", "happy", "rustic", "gentle"), ("song", "tune")),
    "ambient": Style(
        ("ambient", "ambient", "ambient soundscape", "atmospheric music"), (56, 76),
        ("major", "minor", "dorian"),
        ("drift",),
        (Part("chords", ("synth pad", "synth strings"), ("whole",), 78, register=62),
         Part("arpeggio", ("vibraphone", "electric piano", "glockenspiel"), ("slow arpeggio",), 66,
              register=72),
         Part("chords", ("string section", "church organ"), ("whole",), 66, 0.7, 55),
         Part("melody", ("flute", "cello", "piano"), ("sparse",), 72, 0.8, 69)),
        ("calm", "dreamy", "peaceful", "meditative", "relaxing"), ("piece", "soundscape", "track"),
        slow_chords=True,
        sevenths=True),
    "orchestral": Style(
        ("orchestral", "classical orchestra", "cinematic orchestral", "symphonic music"), (72, 116),
        ("minor", "major", "dorian"), ("classical", "minor pop"),
        (Part("chords", ("string section",), ("whole", "halves", "eighths"), 90, register=62),
         Part("melody", ("french horn", "trumpet", "brass section"), ("heroic",), 96, register=65),
         Part("melody", ("flute", "clarinet", "violin"), ("song", "lyrical"), 86, register=77),
         Part("bass", ("cello",), ("long", "fours"), 92, register=43),
         Part("drums", ("orchestral percussion",), ("cinematic", "march"), 92, 0.8),
         Part("arpeggio", ("pizzicato strings", "glockenspiel"), ("eighths",), 80, 0.6, 72)),
        ("epic", "dramatic", "majestic", "emotional"), ("piece", "score", "theme")),
    "synthwave": Style(
        ("synthwave", "synthwave", "retro 80s electronic", "80s synth pop"), (84, 118),
        ("minor", "dorian"),
        ("minor pop",),
        (Part("drums", ("electronic drums",), ("retro", "retro tom"), 106),
         Part("bass", ("synth bass",), ("synthwave", "octaves"), 100, register=36),
         Part("chords", ("synth pad", "synth strings"), ("whole",), 80, register=64),
         Part("arpeggio", ("synth pluck",), ("sixteenths", "eighths"), 84, 0.8, 69),
         Part("melody", ("synth lead", "square lead"), ("song", "heroic"), 92, 0.9, 74)),
        ("nostalgic", "dreamy", "retro", "driving"), ("track", "tune")),
    "hip hop": Style(
        ("hip hop", "hip hop", "rap beat", "hip hop instrumental"), (80, 100), ("minor", "dorian"),
        ("loop",),
        (Part("drums", ("drum machine", "drum kit"), ("hip hop", "half time"), 108),
         Part("bass", ("synth bass", "electric bass"), ("boom",), 106, register=33),
         Part("chords", ("piano", "string section", "electric piano"), ("loop", "stabs"), 84,
              register=62),
         Part("melody", ("flute", "synth lead", "vibraphone", "trumpet"), ("hook", "sparse"), 84,
              0.7, 72),
         Part("chords", ("synth pad", "brass section"), ("whole", "stabs"), 72, 0.5, 65)),
        ("hard", "streetwise", "laid-back", "moody"), ("beat", "beat", "track", "instrumental"),
        swing16=0.15, slow_chords=True, breath=0.08),
    "punk": Style(
        ("punk", "punk rock", "fast punk", "hardcore punk"), (150, 180), ("major", "mixolydian"),
        ("punk",),
        (Part("drums", ("rock drum kit",), ("punk", "punk gallop"), 114),
         Part("power", ("distorted guitar", "overdriven guitar"), ("downstrokes",), 112,
              register=44),
         Part("bass", ("electric bass",), ("chug", "rock"), 108, register=34),
         Part("melody", ("overdriven guitar", "distorted guitar"), ("hook", "song"), 104, 0.6, 72)),
        ("raw", "angry", "energetic", "rebellious"), ("song", "track", "anthem"), breath=0.05),
    "blues": Style(
        ("blues", "blues", "twelve-bar blues", "chicago blues"), (60, 116),
        ("mixolydian", "dorian"), ("blues",),
        (Part("drums", ("drum kit", "brushed drums"), ("shuffle", "slow shuffle"), 92),
         Part("bass", ("electric bass", "acoustic bass"), ("boogie", "walking"), 98, register=38),
         Part("chords", ("piano", "organ", "clean guitar"), ("shuffle chords", "comping"), 82,
              register=62),
         Part("melody", ("overdriven guitar", "clean guitar", "saxophone"), ("bluesy",), 98,
              register=68),
         Part("chords", ("organ", "brass section"), ("whole", "stabs"), 70, 0.4, 65)),
        ("soulful", "gritty", "lonesome", "smoky"), ("tune", "song", "jam"), swing8=0.66,
        sevenths=True, breath=0.16),
    "reggae": Style(
        ("reggae", "roots reggae", "reggae", "dub reggae"), (66, 88), ("minor", "major", "dorian"),
        ("reggae",),
        (Part("drums", ("drum kit",), ("one drop", "steppers"), 98),
         Part("bass", ("electric bass",), ("dub",), 112, register=33),
         Part("chords", ("clean guitar",), ("skank",), 92, register=66),
         Part("chords", ("organ",), ("bubble",), 76, 0.9, 60),
         Part("melody", ("trombone", "trumpet", "saxophone", "brass section"), ("dubby", "hook"),
              90, 0.7, 66)),
        ("sunny", "relaxed", "warm", "easygoing"), ("tune", "song", "groove"), swing16=0.1,
        breath=0.12),
    "solo piano": Style(
        ("solo piano", "piano music", "piano piece", "piano ballad"), (54, 84),
        ("major", "minor", "dorian"),
        ("pop", "classical", "drift"),
        (Part("arpeggio", ("piano",), ("flowing", "slow arpeggio"), 58, register=50),
         Part("melody", ("piano",), ("song", "lyrical", "sparse"), 70, register=74),
         Part("chords", ("piano",), ("halves", "whole"), 54, 0.6, 60)),
        ("relaxing", "calm", "gentle", "soft", "peaceful"), ("piece", "ballad"), solo=True),
    "solo cello": Style(
        ("solo cello", "cello solo", "cello piece"), (55, 80), ("minor", "major", "dorian"),
        ("classical", "drift"),
        (Part("melody", ("cello",), ("lyrical", "etude"), 88, register=50),
         Part("arpeggio", ("cello",), ("flowing",), 82, 0.5, 48)),
        ("emotional", "expressive", "deep", "contemplative"), ("piece", "solo"), solo=True),
    "solo guitar": Style(
        ("solo guitar", "guitar piece", "fingerstyle guitar", "acoustic guitar music"), (66, 104),
        ("minor", "major", "dorian"), ("folk", "classical", "minor pop"),
        (Part("arpeggio", ("nylon guitar", "acoustic guitar"), ("eighths", "flowing"), 82,
              register=55),
         Part("melody", ("nylon guitar", "acoustic guitar"), ("song", "lyrical"), 90, register=70),
         Part("strum", ("nylon guitar", "acoustic guitar"), ("strum",), 80, 0.5, 58)),
        ("intimate", "gentle", "warm", "calm"), ("piece", "solo"), solo=True),
    "solo flute": Style(
        ("solo flute", "flute solo", "flute melody"), (66, 108), ("major", "minor", "dorian"),
        ("folk", "classical"),
        (Part("melody", ("flute",), ("lyrical", "etude", "song", "jig"), 90, register=77),),
        ("airy", "gentle", "light", "pastoral"), ("piece", "melody", "solo"), solo=True),
    "solo violin": Style(
        ("solo violin", "violin solo", "violin piece"), (66, 112), ("minor", "major", "dorian"),
        ("classical", "folk"),
        (Part("melody", ("violin",), ("lyrical", "etude", "jig"), 90, register=74),
         Part("arpeggio", ("violin",), ("sixteenths", "eighths"), 84, 0.5, 67)),
        ("expressive", "emotional", "passionate", "lyrical"), ("piece", "solo"), solo=True),
}
# fmt: on
SOLO_STYLES = tuple(name for name, style in STYLES.items() if style.solo)
# the styles that the first musicot-mini heard, in the order of its songs
FIRST_ORDER = (
    "techno", "solo piano", "metal", "jazz swing", "solo cello", "lo-fi hip hop", "rock",
    "orchestral", "house",
    "solo guitar", "drum and bass", "bossa nova", "ambient", "funk", "solo flute", "synthwave",
    "folk", "solo violin",
)  # fmt: skip
# the order in which seeds walk through the styles: neighbours differ
ORDER = (*FIRST_ORDER[:4], "reggae", *FIRST_ORDER[4:8], "hip hop", *FIRST_ORDER[8:13], "punk",
         *FIRST_ORDER[13:], "blues")  # fmt: skip
