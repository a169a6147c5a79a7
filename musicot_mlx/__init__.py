"""MusiCoT in MLX: text to music through musical thoughts that can be seen, edited and rendered.

import musicot_mlx as mc; mc.load("musicot-mini").generate("solo piano", duration=20).save("a.wav")

The door is lazy: importing the package loads neither MLX nor numpy, so `musicot --help` is quick.
"""

import os
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from musicot_mlx.errors import MusicotError as MusicotError
    from musicot_mlx.evaluation.measures.agreement import Analysis as Analysis
    from musicot_mlx.evaluation.measures.agreement import analyze as analyze
    from musicot_mlx.pipelines.families import load as load
    from musicot_mlx.pipelines.musicgen.pipeline import MusicgenPipeline as MusicgenPipeline
    from musicot_mlx.pipelines.musicot.pipeline import MusicotPipeline as MusicotPipeline
    from musicot_mlx.pipelines.plans.plan import Plan as Plan
    from musicot_mlx.pipelines.song import Song as Song
    from musicot_mlx.pipelines.song import Stream as Stream

__version__ = "0.1.0"
__all__ = [
    "Analysis",
    "MusicgenPipeline",
    "MusicotError",
    "MusicotPipeline",
    "Plan",
    "Song",
    "Stream",
    "__version__",
    "analyze",
    "load",
]

_DOOR = {
    "load": "pipelines.families",
    "MusicotError": "errors",
    "MusicotPipeline": "pipelines.musicot.pipeline",
    "MusicgenPipeline": "pipelines.musicgen.pipeline",
    "Song": "pipelines.song",
    "Stream": "pipelines.song",
    "Plan": "pipelines.plans.plan",
    "analyze": "evaluation.measures.agreement",
    "Analysis": "evaluation.measures.agreement",
}


def __getattr__(name: str) -> Any:
    if name not in _DOOR:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_DOOR[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_DOOR})


if find_spec("musicot_mlx.cpu"):
    import_module("musicot_mlx.cpu.openblas").preload()
# M5 and NVIDIA multiply float32 in TF32 by MLX's default, with errors of 3e-4 instead of 3e-7. Here
# float32 is what codes are decided by; 16-bit products, which songs are made of, lose nothing.
os.environ.setdefault("MLX_ENABLE_TF32", "0")

# A wheel carries convert/ inside the package; a checkout keeps it beside.
_checkout = Path(__file__).resolve().parent.parent
if (_checkout / "pyproject.toml").is_file() and (_checkout / "convert").is_dir():
    __path__.append(str(_checkout))
