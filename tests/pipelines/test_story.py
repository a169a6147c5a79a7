"""The way of a prompt to its waveform: which rooms it enters, as docs/architecture.md draws it."""

import re
import sys
from collections import Counter
from itertools import groupby
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import musicot_mlx as mc
from musicot_mlx.pipelines.musicot import pipeline

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "musicot_mlx"
# What hands nothing on: clocks and turns, keys of draws, and what plans and configs say of
# themselves.
ASIDE = (
    "Clock.", "heard", "turn", "stage_key", "keys_by_step", "Plan.", "VAEConfig.",
    "MusicotPlanner.frames", "MusicotPlanner.knows_harmony",
)  # fmt: skip


def entered(model: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The rooms that calls of the pipeline lead to while a song is made, each stay once."""
    rooms = []

    def follow(frame: FrameType, event: str, _: Any) -> None:
        code, caller = frame.f_code, frame.f_back
        here = Path(code.co_filename)
        from_story = caller is not None and caller.f_code.co_filename == pipeline.__file__
        if event == "call" and from_story and here.is_relative_to(PACKAGE):
            if code.co_filename != pipeline.__file__ and not code.co_qualname.startswith(ASIDE):
                rooms.append(str(here.relative_to(PACKAGE)))

    made = pipeline.Song

    def song(*parts: Any) -> Any:  # a dataclass has no frame of its own file
        rooms.append("pipelines/song.py")
        return made(*parts)

    monkeypatch.setattr(pipeline, "Song", song)
    before = sys.getprofile()
    sys.setprofile(follow)
    try:
        model.generate("piano", duration=12, seed=1)
    finally:
        sys.setprofile(before)
    return [room for room, _ in groupby(rooms)]


def test_a_prompt_enters_the_rooms_that_are_drawn(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = mc.load(tiny_model)
    stays = entered(model, monkeypatch)
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    drawing = page.partition("## The visits of a prompt")[2].split("```")[1]
    drawn = re.findall(r"(?:pipelines|generation|models)/[\w/]+\.py", drawing)
    assert set(stays) == set(drawn) and len(drawn) <= 8
    twice = {room for room, count in Counter(stays).items() if count > 1}
    assert twice == {"pipelines/plans/planner.py"} and len(stays) == len(drawn) + 1
