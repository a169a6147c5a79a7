"""MusiCoT in MLX: text to music through musical thoughts that can be seen, edited and rendered.

import musicot_mlx as mc; mc.load("musicot-mini").generate("solo piano", duration=20).save("a.wav")

The door is lazy: importing the package loads neither MLX nor numpy, so `musicot --help` is quick.
"""

import ctypes
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from musicot_mlx.evaluation.agreement import Analysis as Analysis
    from musicot_mlx.evaluation.agreement import analyze as analyze
    from musicot_mlx.pipelines.families import load as load
    from musicot_mlx.pipelines.musicot.plan import Plan as Plan
    from musicot_mlx.pipelines.song import Song as Song

__version__ = "0.1.0"
__all__ = ["Analysis", "Plan", "Song", "__version__", "analyze", "load"]

_DOOR = {
    "load": "pipelines.families",
    "Song": "pipelines.song",
    "Plan": "pipelines.musicot.plan",
    "analyze": "evaluation.agreement",
    "Analysis": "evaluation.agreement",
}


def __getattr__(name: str) -> Any:
    if name not in _DOOR:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_DOOR[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_DOOR})


def _preload_openblas() -> None:
    """Load OpenBLAS ahead of MLX, whose Linux CPU wheel bundles the 30 x slower reference BLAS.

    MLX calls cblas by plain name, so whichever BLAS is global first answers; after MLX is loaded
    it is too late. MUSICOT_NO_OPENBLAS=1 turns this off. The PyTorch side is left alone: PyTorch
    would call OpenBLAS too, whose threads and OpenMP's then wait for each other, 20 x slower.
    """
    if any("musicot_mlx.reference" in word for word in sys.orig_argv):
        return
    if sys.platform == "linux" and os.environ.get("MUSICOT_NO_OPENBLAS", "0") in ("", "0"):
        try:
            ctypes.CDLL("libopenblas.so.0", mode=ctypes.RTLD_GLOBAL)
        except OSError:
            return  # slower, not wrong; `musicot doctor` says how to install it
        _keep_freed_memory()


def _keep_freed_memory() -> None:
    """Let glibc keep what MLX frees for what it allocates next.

    On a CPU MLX has no store of freed buffers of its own. Given back to the system each time, their
    pages take a third of an EnCodec decode to come again. At most 256 MB are kept.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return  # not glibc
    trim_threshold, mmap_threshold = -1, -3
    mallopt(mmap_threshold, 32 << 20)
    mallopt(trim_threshold, 256 << 20)


_preload_openblas()
# M5 and NVIDIA multiply float32 in TF32 by MLX's default, with errors of 3e-4 instead of 3e-7. Here
# float32 is what codes are decided by; 16-bit products, which songs are made of, lose nothing.
os.environ.setdefault("MLX_ENABLE_TF32", "0")

# A wheel carries convert/ inside the package; a checkout keeps it beside.
_checkout = Path(__file__).resolve().parent.parent
if (_checkout / "pyproject.toml").is_file() and (_checkout / "convert").is_dir():
    __path__.append(str(_checkout))
