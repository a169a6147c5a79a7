"""A stranger's file to a file of ours: the process that reads what was uploaded, and nothing else.

    python -m musicot_mlx.studio.decode FILE TARGET SECONDS MEMORY

It reads at most SECONDS of audio in at most MEMORY bytes, writes a FLAC of at most two channels,
and tells on standard output, as one line of JSON, what it holds or why it can't be used. Whoever
starts it sets the time that it may take. A header may promise hours in a few kilobytes, so what is
promised is looked at before anything is read, and no more is read than is allowed.
"""

import json
import resource
import sys
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

SHORTEST = 0.1  # seconds
MOST_CHANNELS = 2


def main(argv: list[str]) -> int:
    """Decode one file; 0 where it was, 1 where it can't be."""
    source, target, seconds, memory = Path(argv[0]), Path(argv[1]), float(argv[2]), int(argv[3])
    with suppress(ValueError, OSError):  # a system without such limits
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    from musicot_mlx.errors import DiskFull, MusicotError

    told: list[str] = []
    warnings.showwarning = lambda message, *_: told.append(str(message))
    try:
        found = decoded(source, target, seconds)
    except DiskFull as error:
        found = {"error": str(error), "full": True}
    except MusicotError as error:
        found = {"error": str(error).replace(str(source), "it")}
    except MemoryError:
        found = {"error": "it takes more memory to read than is allowed"}
    told = [line.replace(str(source), "the file") for line in told]
    print(json.dumps({**found, "warnings": told}))
    return 1 if "error" in found else 0


def decoded(source: Path, target: Path, longest: float) -> dict[str, Any]:
    """Write what a file holds to `target`; what that is. Raises MusicotError where it is no audio,
    broken, too short or longer than `longest` seconds.
    """
    from musicot_mlx.audio.files import audio_frames, read_audio, write_audio
    from musicot_mlx.errors import MusicotError
    from musicot_mlx.studio.live import peaks_of

    _require_container(source)
    frames, rate = audio_frames(source)
    if frames > longest * rate:
        raise MusicotError(f"it lasts {frames / rate:.0f} s; at most {longest:.0f} s are taken")
    waveform, rate = read_audio(source, seconds=longest + 1)
    if len(waveform) > longest * rate:
        raise MusicotError(f"it lasts longer than the {longest:.0f} s that are taken")
    if len(waveform) < SHORTEST * rate:
        raise MusicotError(
            f"it lasts {len(waveform) / rate:.2f} s; at least {SHORTEST} s are needed"
        )
    if waveform.shape[1] > MOST_CHANNELS:
        waveform = waveform.mean(axis=1, keepdims=True)
    highest = float(abs(waveform).max())
    if highest > 1:  # 16 bits would clip it
        waveform = waveform / highest
    write_audio(target, waveform, rate)
    return {
        "duration": round(len(waveform) / rate, 3),
        "sample_rate": rate,
        "channels": waveform.shape[1],
        "peaks": list(peaks_of(target)),
    }


def _require_container(source: Path) -> None:
    """Raise MusicotError for a file that a converter would be asked for and that is not what its
    name says: it might be a playlist, which names other files.
    """
    from musicot_mlx.audio.converter import SUFFIXES
    from musicot_mlx.errors import MusicotError

    if source.suffix not in SUFFIXES:
        return
    with source.open("rb") as file:
        head = file.read(12)
    is_adts = head[:1] == b"\xff" and head[1:2] >= b"\xf0"
    if head[4:8] != b"ftyp" and not is_adts:
        raise MusicotError(f"it is no {source.suffix} file")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
