"""OpenBLAS for MLX's Linux CPU backend, loaded before MLX, and what can be told to it and to glibc.

This module must not import MLX.
"""

import ctypes
import os
import re
import sys
from functools import lru_cache

_set_here: dict[str, str] = {}  # the kernels that this module, not the user, asked for


def preload() -> None:
    """Load OpenBLAS ahead of MLX, whose Linux CPU wheel bundles the 30 x slower reference BLAS.

    MLX calls cblas by plain name, so whichever BLAS is global first answers; after MLX is loaded
    it is too late. MUSICOT_NO_OPENBLAS=1 turns this off. The PyTorch side is left alone: PyTorch
    would call OpenBLAS too, whose threads and OpenMP's then wait for each other, 20 x slower.
    """
    if any("musicot_mlx.reference" in word for word in sys.orig_argv):
        return
    if sys.platform == "linux" and os.environ.get("MUSICOT_NO_OPENBLAS", "0") in ("", "0"):
        if "OPENBLAS_CORETYPE" not in os.environ and (core := core_type(_processor())):
            os.environ["OPENBLAS_CORETYPE"] = _set_here["core"] = core
        try:
            ctypes.CDLL("libopenblas.so.0", mode=ctypes.RTLD_GLOBAL)
        except OSError:
            return  # slower, not wrong; `musicot doctor` says how to install it
        keep_freed_memory()


def core_type(processor: str) -> str | None:
    """The kernels that OpenBLAS should take, by what /proc/cpuinfo says; None: it knows itself.

    OpenBLAS goes by an Intel's model number and gives one that came after it the kernels of 2004:
    3 x slower songs on a Xeon whose instructions are those of Skylake.
    """
    if "GenuineIntel" not in processor:
        return None
    match = re.search(r"^flags\s*:(.*)$", processor, re.M)
    flags = set(match[1].split()) if match else set()
    if {"avx512f", "avx512bw", "avx512dq", "avx512vl"} <= flags:
        return "SKYLAKEX"
    return "HASWELL" if {"avx2", "fma"} <= flags else None


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            return file.read(8192)
    except OSError:
        return ""


def keep_freed_memory() -> None:
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


def give_freed_memory_back() -> None:
    """Have glibc give the system what it keeps, of all threads; some hundredths of a second."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except AttributeError:
        return  # not glibc
    trim(0)


@lru_cache(maxsize=1)
def openblas() -> ctypes.CDLL | None:
    """The OpenBLAS that MLX calls, or None: `preload` loaded it, if it is there."""
    if sys.platform != "linux":
        return None
    try:
        library = ctypes.CDLL("libopenblas.so.0", mode=os.RTLD_NOLOAD | os.RTLD_LAZY)
        library.openblas_get_num_threads  # noqa: B018  (another BLAS by that name has none)
    except (OSError, AttributeError):
        return None
    return library


@lru_cache(maxsize=1)
def multiplies_in_place() -> bool:
    """Whether OpenBLAS has kernels that multiply small matrices without copying them first.

    They came with 0.3.17, for processors with AVX-512; they never use more than one thread.
    """
    library = openblas()
    if library is None:
        return False
    library.openblas_get_config.restype = library.openblas_get_corename.restype = ctypes.c_char_p
    kernels = library.openblas_get_corename().decode()
    match = re.match(r"OpenBLAS (\d+)\.(\d+)\.(\d+)", library.openblas_get_config().decode())
    version = tuple(map(int, match.groups())) if match else (0,)
    return version >= (0, 3, 17) and kernels in ("SkylakeX", "Cooperlake", "SapphireRapids")


def describe() -> str:
    """OpenBLAS's kernels, threads, and whether the environment chose them; "" without it."""
    library = openblas()
    if library is None:
        return ""
    library.openblas_get_corename.restype = ctypes.c_char_p
    name = library.openblas_get_corename().decode()
    asked = os.environ.get("OPENBLAS_CORETYPE")
    chosen = " (by OPENBLAS_CORETYPE)" if asked and asked != _set_here.get("core") else ""
    return f"OpenBLAS {name}{chosen}, {library.openblas_get_num_threads()} threads"
