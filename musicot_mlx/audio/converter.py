"""What libsndfile doesn't know, by the system's own converter: afconvert on a Mac, or ffmpeg."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from musicot_mlx.errors import MusicotError, RunError

SUFFIXES = frozenset(".m4a .m4b .mp4 .aac".split())
INSTALL = "install ffmpeg (a Mac has afconvert)"


def find_converter() -> str | None:
    """The first of them that is installed."""
    return next((name for name in ("afconvert", "ffmpeg") if shutil.which(name)), None)


@contextmanager
def as_wav(path: Path) -> Iterator[Path]:
    """Within it a WAV of what a file holds; the file itself where nothing has to be converted, or
    nothing can. Raises MusicotError for a file that the converter can't read.
    """
    tool = find_converter() if path.suffix.lower() in SUFFIXES else None
    if tool is None:
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        wav = Path(folder) / "audio.wav"
        source, target = str(path.resolve()), str(wav)
        if tool == "afconvert":
            command = [tool, "-f", "WAVE", "-d", "LEF32", source, target]
        else:
            command = [tool, "-nostdin", "-v", "error", "-y", "-i", source, "-vn"]
            command += ["-c:a", "pcm_f32le", target]
        done = _run(command)
        if done.returncode or not wav.is_file():
            raise MusicotError(f"can't read {path} as audio ({tool}: {_last_line(done)})")
        yield wav


def to_m4a(wav: Path, path: Path, *, bitrate: int | None, title: str, comment: str) -> None:
    """Make an AAC file of a WAV. bitrate is in kbit/s; afconvert writes no title and comment.

    Raises RunError where the converter fails, MusicotError where there is none.
    """
    tool, rate = require_converter(path), str(1000 * (bitrate or 192))
    if tool == "afconvert":
        command = [tool, "-f", "m4af", "-d", "aac", "-b", rate, str(wav), str(path)]
    else:
        command = [tool, "-nostdin", "-v", "error", "-y", "-i", str(wav), "-c:a", "aac"]
        command += ["-b:a", rate, "-fflags", "+bitexact", "-flags:a", "+bitexact"]
        command += ["-metadata", f"title={title}", "-metadata", f"comment={comment}", str(path)]
    done = _run(command)
    if done.returncode:
        raise RunError(f"can't write {path} ({tool}: {_last_line(done)})")


def require_converter(path: Path) -> str:
    """The converter, or MusicotError before any work is done."""
    tool = find_converter()
    if tool is None:
        raise MusicotError(f"can't write {path}: no converter for .m4a here; {INSTALL}, or pass "
                           "--output with .wav, .flac, .mp3 or .ogg")  # fmt: skip
    return tool


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)


def _last_line(done: subprocess.CompletedProcess[str]) -> str:
    lines = (done.stderr or done.stdout or "").strip().splitlines()
    return lines[-1] if lines else f"exit code {done.returncode}"
