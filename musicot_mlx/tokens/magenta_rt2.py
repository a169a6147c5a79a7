"""What Magenta RealTime 2 is asked for in one frame: 144 integers for its conditioner.

Live Music Models (arXiv 2508.04651); upstream `magenta_rt.mlx.model`: twelve style tokens of
MusicCoCa, a state for each of 128 pitches, one for drums, and how strictly style, notes and drums
are followed. Guidance is part of the input: no second pass is made for it.
"""

import numpy as np

STYLE_LEVELS = 12
PITCHES = 128
_OFFSET = 7  # six reserved values and the one that masks, before the first that means something
STYLE_SPECIAL = _OFFSET
_STRENGTHS = ((0.2, 6.8), (0.2, 6.8), (1.0, 6.0))  # step and highest value of style, notes, drums
_SIZES = [11] * PITCHES + [9, 47, 47, 15]  # values of each channel after the style
CONTROLS = np.cumsum([0, *_SIZES[:-1]]).astype(np.int32)  # where the rows of a channel begin
CONTROL_ROWS = 1536  # 1,482, and rows that pad
STRENGTHS = (3.0, 1.0, 1.0)
DRUMS = {"free": -1, "none": 0, "play": 1}


def frame_ids(
    style: np.ndarray,
    *,
    notes: np.ndarray | None = None,
    drums: str = "free",
    strengths: tuple[float, float, float] = STRENGTHS,
) -> np.ndarray:
    """The integers (144,) of one frame.

    style: int (levels,) codes of MusicCoCa, coarse first; what is -1 or left out is masked. notes:
    int (128,): -1 free, 0 silent, 1 sounding, 2 beginning, 3 either of these. drums: "free", "none"
    or "play". strengths: how strictly style, notes and drums are followed, -1 to 6.8 (drums 6).
    Raises ValueError for anything else.
    """
    levels = np.full(STYLE_LEVELS, -1)
    if len(style) > STYLE_LEVELS or np.min(style, initial=0) < -1:
        raise ValueError(f"a style is at most {STYLE_LEVELS} codes of 0 or more, -1 for masked")
    levels[: len(style)] = style
    pitches = np.full(PITCHES, -1) if notes is None else np.asarray(notes)
    if pitches.shape != (PITCHES,) or pitches.min() < -1 or pitches.max() > 3:
        raise ValueError(f"notes are {PITCHES} states of -1 to 3")
    if drums not in DRUMS:
        raise ValueError(f"drums are {drums!r}; use one of {', '.join(DRUMS)}")
    steps = []
    for name, value, (step, highest) in zip(
        ("style", "notes", "drums"), strengths, _STRENGTHS, strict=True
    ):
        # upstream adds the offset to these too, though they have no masked value, so that its
        # highest step would read the first row of the next channel: we stop before
        if not -1 <= value <= highest:
            raise ValueError(f"the strength of {name} is {value}; ask for -1 to {highest:g}")
        steps.append(round((value + 1) / step))
    return np.concatenate([levels, pitches, [DRUMS[drums]], steps]).astype(np.int32) + _OFFSET
