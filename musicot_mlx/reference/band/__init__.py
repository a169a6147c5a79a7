"""A procedural band that composes, captions and plays the music the embedded model learns from.

`compose(seed)` writes a Piece: style, harmony, sections in which instruments enter and leave, every
note. A Piece knows exactly what sounds when, so its captions and tags are true. `render(piece)`
plays it through FluidSynth. `python -m musicot_mlx.reference.band FOLDER --songs N` makes a data
set of songs.
"""

from musicot_mlx.reference.band.captions import caption
from musicot_mlx.reference.band.compose import compose
from musicot_mlx.reference.band.dataset import make_dataset
from musicot_mlx.reference.band.piece import Note, Piece, Section
from musicot_mlx.reference.band.render import available, render, render_stems

__all__ = [
    "Note",
    "Piece",
    "Section",
    "available",
    "caption",
    "compose",
    "make_dataset",
    "render",
    "render_stems",
]
