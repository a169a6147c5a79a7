"""A procedural band: it composes songs from a seed, knows exactly what it wrote, and plays them.

`compose(seed)` gives a Piece (notes, sections, tempo, key) that answers truthfully what sounds when:
activity per family, instruments, tags, captions of any window, piano roll. `render(piece)` plays it
through FluidSynth; `make_dataset` writes a folder of songs for pretraining. Only numpy is needed to
compose. The music is the repository's own, so whatever is trained on it can be given away.
"""

from musicot_mlx.reference.band.compose import compose
from musicot_mlx.reference.band.dataset import make_dataset
from musicot_mlx.reference.band.piece import Note, Piece, Section
from musicot_mlx.reference.band.render import can_render, render, render_stems

__all__ = [
    "Note",
    "Piece",
    "Section",
    "can_render",
    "compose",
    "make_dataset",
    "render",
    "render_stems",
]
