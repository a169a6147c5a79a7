"""musicot doctor: what this machine has, and what to change to make songs faster or at all."""

import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from musicot_mlx.cli import flags, player
from musicot_mlx.evaluation.speed import hardware

GOOD, HINT, BAD, LOOK = "ok", "hint", "missing", "LOOK"
_NARROW_KERNELS = ("haswell", "zen", "sandybridge", "nehalem")  # of OpenBLAS, without AVX-512


@dataclass(frozen=True)
class Finding:
    """One line of the report: what was looked at, how it is, and what to do about it."""

    what: str
    state: str
    found: str
    advice: str = ""


@dataclass(kw_only=True)
class Arguments:
    """The flags of musicot doctor."""

    deep: bool = flags.flag(
        "", "check every network on this device against the CPU (minutes)", default=False
    )
    json: bool = flags.flag("", "one line of JSON on standard output", default=False)


def run(args: Arguments) -> int:
    findings = [_python(), _memory(), _mlx()]
    if findings[-1].state != BAD:
        findings += [_matmul(), _float32()]
    findings += [_files(), _model(), _families(), _converted(), _player(), _disk(), _torch()]
    width = max(len(finding.what) for finding in findings)
    for finding in [] if args.json else findings:
        advice = f" -> {finding.advice}" if finding.advice else ""
        print(f"{finding.state:<7} {finding.what:<{width}}  {finding.found}{advice}")
    if args.deep:
        findings += _deep(quiet=args.json)
    if args.json:
        print(json.dumps([asdict(finding) for finding in findings]))
    return 1 if any(finding.state in (BAD, LOOK) for finding in findings) else 0


def _deep(*, quiet: bool) -> list[Finding]:
    """Every check of deep_checks.py, printed as it comes."""
    from musicot_mlx.evaluation import deep_checks

    findings = []
    for outcome in deep_checks.run():
        findings.append(Finding(outcome.name, GOOD if outcome.ok else LOOK, outcome.text))
        if not quiet:
            print(outcome, flush=True)
    return findings


def _python() -> Finding:
    system = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    if sys.platform == "darwin" and platform.machine() != "arm64":
        return Finding("system", BAD, system, "MLX needs an Apple silicon Mac and an arm64 Python")
    return Finding("system", GOOD, system)


def _memory() -> Finding:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    state = GOOD if total >= 4 else HINT
    advice = "" if state == GOOD else "close other programs before rendering long songs"
    return Finding("memory", state, f"{total:.0f} GB", advice)


def _mlx() -> Finding:
    try:
        import mlx.core as mx

        device = mx.default_device()
        version = importlib.metadata.version("mlx")
        mx.eval(mx.ones(4) + 1)
    except Exception as error:  # a missing backend shows itself in many ways
        extra = "mlx[cpu]" if sys.platform == "linux" else "mlx"
        return Finding("MLX", BAD, f"not working ({error})", f'pip install "{extra}"')
    if sys.platform == "darwin" and not mx.metal.is_available():
        return Finding("MLX", HINT, f"{version} on {device}, no Metal", "use a native arm64 Python")
    running = f"{version} on {hardware.device()}"
    if platform.mac_ver()[0].startswith(("26.0", "26.1")):
        advice = (
            "update to macOS 26.2, for which MLX is built: before it an M5 may lack its kernels"
        )
        return Finding("MLX", HINT, running, advice)
    return Finding("MLX", GOOD, running)


def _float32() -> Finding:
    """Codes are decided in float32; TF32 keeps 10 of its 23 bits."""
    if hardware.tf32():
        advice = "unset MLX_ENABLE_TF32: where the device has TF32, codes may differ"
        return Finding("float32", HINT, "multiplied in TF32 where the device can", advice)
    return Finding("float32", GOOD, "multiplied exactly (MLX_ENABLE_TF32 is 0)")


def _matmul() -> Finding:
    flops, products = hardware.multiplied()
    speed = f"{flops / 1e9:.0f} GFLOP/s ({products})"
    if sys.platform != "linux":
        return Finding("matrices", GOOD, speed)
    if "openblas" in Path("/proc/self/maps").read_text():
        core_type = os.environ.get("OPENBLAS_CORETYPE", "")
        speed = f"{speed}, {hardware.blas()}"
        if core_type.lower() in _NARROW_KERNELS and "avx512f" in Path("/proc/cpuinfo").read_text():
            advice = f"this processor has AVX-512: unset OPENBLAS_CORETYPE={core_type}"
            return Finding("matrices", HINT, speed, advice)
        return Finding("matrices", GOOD, speed)
    if os.environ.get("MUSICOT_NO_OPENBLAS", "0") not in ("", "0"):
        return Finding("matrices", HINT, f"{speed}, no OpenBLAS", "unset MUSICOT_NO_OPENBLAS")
    advice = "30 x faster with: sudo apt-get install libopenblas0-pthread"
    return Finding("matrices", HINT, f"{speed}, no OpenBLAS", advice)


def _files() -> Finding:
    try:
        import soundfile
        import soxr
    except (ImportError, OSError) as error:
        return Finding("audio files", BAD, str(error), "pip install soundfile soxr")
    formats = soundfile.available_formats()
    kinds = [kind for kind in ("WAV", "FLAC", "MP3", "OGG") if kind in formats]
    versions = f"libsndfile {soundfile.__libsndfile_version__}, soxr {soxr.__version__}"
    summary = f"{', '.join(kinds)} ({versions})"
    if "MP3" not in kinds:
        return Finding("audio files", HINT, summary, "MP3 needs libsndfile 1.1 or newer")
    return Finding("audio files", GOOD, summary)


def _model() -> Finding:
    from musicot_mlx.errors import MusicotError
    from musicot_mlx.weights.hub import EMBEDDED, resolve

    try:
        folder = resolve(EMBEDDED[0])
    except MusicotError as error:
        return Finding("embedded model", BAD, str(error))
    size = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
    return Finding("embedded model", GOOD, f"{EMBEDDED[0]}, {size:.0f} MB")


def _families() -> Finding:
    from musicot_mlx.pipelines.families import known

    return Finding("families", GOOD, ", ".join(family.title for family in known()))


def _converted() -> Finding:
    from musicot_mlx.errors import first_few
    from musicot_mlx.weights import cache

    entries = cache.entries()
    if not entries:
        return Finding("converted models", GOOD, f"none in {cache.cache_root()}")
    size = sum(size for _, _, size in entries) / 1e9
    names = sorted({name for name, _, _ in entries})
    shown = first_few(names)
    summary = f"{len(entries)} in {cache.cache_root()}, {size:.1f} GB ({shown})"
    return Finding("converted models", GOOD, summary, "delete the folders you don't need")


def _player() -> Finding:
    name = player.find_player()
    if name is None:
        return Finding("player", HINT, "none", "install ffmpeg or alsa-utils to use --play")
    return Finding("player", GOOD, name)


def _disk() -> Finding:
    free = shutil.disk_usage(".").free / 1e9
    state = GOOD if free > 0.5 else HINT
    return Finding("disk", state, f"{free:.1f} GB free here", "" if state == GOOD else "make room")


def _torch() -> Finding:
    names = ("torch", "transformers", "diffusers", "vector_quantize_pytorch", "accelerate", "yaml")
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        summary = f"not installed ({', '.join(missing)} missing)"
        advice = "only to train or check conversions: pip install '.[torch]' in a checkout"
        return Finding("PyTorch", GOOD, summary, advice)
    return Finding("PyTorch", GOOD, f"torch {importlib.metadata.version('torch')}")
