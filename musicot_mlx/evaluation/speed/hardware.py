"""What a machine is and what it can reach at most: facts for a benchmark's row, measured ceilings.

Published bandwidths are Apple's, from the technical specifications of each Mac (support.apple.com);
the larger where a chip was sold in two versions. They bound, they do not predict.
"""

import ctypes
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

# GB/s of memory bandwidth.
PUBLISHED_BANDWIDTH = {
    "Apple M1": 68.25,
    "Apple M1 Pro": 200.0,
    "Apple M1 Max": 400.0,
    "Apple M1 Ultra": 800.0,
    "Apple M2": 100.0,
    "Apple M2 Pro": 200.0,
    "Apple M2 Max": 400.0,
    "Apple M2 Ultra": 800.0,
    "Apple M3": 100.0,
    "Apple M3 Pro": 150.0,
    "Apple M3 Max": 400.0,
    "Apple M3 Ultra": 819.0,
    "Apple M4": 120.0,
    "Apple M4 Pro": 273.0,
    "Apple M4 Max": 546.0,
    "Apple M5": 153.0,
    "Apple M5 Pro": 307.0,
    "Apple M5 Max": 614.0,
}


def facts() -> dict[str, Any]:
    """Chip, cores, memory, system, packages, power source, BLAS: what a figure was measured on."""
    import mlx.core as mx

    from musicot_mlx.generation.device import memory_bytes

    packages = {}
    for name in ("mlx", "mlx-lm", "numpy", "torch", "musicot-mlx"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "chip": chip(),
        "cores": cores(),
        "memory_gb": round(memory_bytes() / 1e9, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": packages,
        "device": str(mx.default_device()),
        "tf32": tf32(),
        "blas": blas(),
        "power": power_source(),
    }


def device() -> str:
    """MLX's default device and what it says of it: backend, name, memory it may fill."""
    import mlx.core as mx

    device, info = mx.default_device(), mx.device_info()
    if device == mx.Device(mx.cpu):
        return f"{device}, {info.get('device_name', 'unknown')}"
    backend = "Metal" if mx.metal.is_available() else "CUDA"
    text = f"{device}, {backend}, {info.get('device_name', 'unknown')}"
    limit = info.get("max_recommended_working_set_size")
    return f"{text}, {limit / 1e9:.1f} GB for MLX" if limit else text


def tf32() -> bool:
    """Whether MLX may multiply float32 in TF32, where the device can; importing the package says no
    unless MLX_ENABLE_TF32 is set.
    """
    return os.environ.get("MLX_ENABLE_TF32", "1") != "0"


def chip() -> str:
    """The processor's name, as the system gives it."""
    if sys.platform == "darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        name = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
        return name or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def peak_resident() -> int:
    """Bytes of memory that this process held at most, on a Mac those of its GPU among them."""
    if sys.platform == "darwin":
        return _footprint()
    if sys.platform == "linux":
        # getrusage would count what the parent process held before it started this one.
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _footprint() -> int:
    """macOS's ri_lifetime_max_phys_footprint; what Metal holds is not resident in its sense."""
    words = (ctypes.c_uint64 * 64)()  # struct rusage_info_v4: 16 bytes of uuid, then numbers
    version, lifetime_max = 4, 2 + 28
    library = ctypes.CDLL("/usr/lib/libproc.dylib")
    if library.proc_pid_rusage(os.getpid(), version, words):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes there, KiB elsewhere
    return words[lifetime_max]


def blas() -> str:
    """OpenBLAS's kernels, threads, and whether the environment chose them; else what MLX has."""
    from musicot_mlx.generation import device as seam

    return seam.blas()


def power_source() -> str:
    """mains, battery or unknown: a laptop on battery is slower."""
    if sys.platform == "darwin":
        command = ["pmset", "-g", "batt"]
        status = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        sources = {"AC Power": "mains", "Battery Power": "battery"}
        return next((name for words, name in sources.items() if words in status), "unknown")
    for supply in sorted(Path("/sys/class/power_supply").glob("*/online")):
        return "mains" if supply.read_text().strip() == "1" else "battery"
    return "unknown"


def ceilings(dtype: str = "float32") -> dict[str, Any]:
    """The most this machine reaches in MLX: bytes a second copied, FLOP a second multiplied in
    `dtype`; `matmul` says in what products that was.

    A copy reads and writes 256 MB. Best of several.
    """
    import mlx.core as mx

    big = mx.zeros((64 << 20,), dtype=mx.float32)
    mx.eval(big)

    def copies(count: int) -> None:
        copy = big
        for _ in range(count):
            copy = copy + 1.0
        mx.eval(copy)

    seconds, count = _per_step(copies)
    flops, matmul = multiplied(dtype)
    return {
        "copy_bytes_per_second": 2 * big.nbytes / seconds,
        "matmul_flops": flops,
        "matmul": matmul,
    }


def multiplied(dtype: str = "float32") -> tuple[float, str]:
    """FLOP a second of matrix products in `dtype`, and what was multiplied, in words.

    The products are as large, and as many are queued at once, as it takes for starting and waiting
    for them not to count: a GPU is done with one of 1024 rows before it could be asked for.
    """
    import mlx.core as mx

    def products(size: int) -> Callable[[int], None]:
        a = mx.random.normal((size, size), key=mx.random.key(0))
        a = (a / size**0.5).astype(getattr(mx, dtype))  # a product of many stays finite
        mx.eval(a)

        def run(count: int) -> None:
            product = a
            for _ in range(count):
                product = product @ a
            mx.eval(product)

        return run

    size = 1024
    while size < 4096 and _best(partial(products(size), 1), 1) < _ENOUGH / 8:
        size *= 2
    seconds, count = _per_step(products(size))
    return 2 * size**3 / seconds, f"{count} product{'s' * (count > 1)} of {size} rows in {dtype}"


_ENOUGH = 0.04  # seconds beside which starting and waiting, some 0.3 ms, are little


def _per_step(run: Callable[[int], None]) -> tuple[float, int]:
    """Seconds of each of so many steps at once that together they last, and how many they are."""
    count, best = 1, _best(lambda: run(1), 3)
    while best < _ENOUGH and count < 256:
        count *= 2
        best = _best(lambda c=count: run(c), 3)
    return best / count, count


def _best(run: Callable[[], None], repeats: int) -> float:
    run()
    best = float("inf")
    for _ in range(repeats):
        began = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - began)
    return best
