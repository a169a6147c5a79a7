"""Audio files out: WAV, FLAC, MP3 and Ogg by libsndfile, M4A by the system's converter.

They appear whole or not at all. The same waveform gives the same bytes: no dither, no time stamps.
"""

import errno
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from musicot_mlx.atomic import atomic_path
from musicot_mlx.audio.converter import require_converter, to_m4a
from musicot_mlx.audio.headers import file_name
from musicot_mlx.audio.tags import add_id3, fix_ogg_serial
from musicot_mlx.audio.waveforms import scaled
from musicot_mlx.errors import MusicotError, RunError

FORMATS = ("wav", "flac", "mp3", "ogg", "m4a")
BIT_DEPTHS = ("16", "24", "float")
LOWEST_BITRATE, HIGHEST_BITRATE = 32, 320  # kbit/s
_DEPTHS = {"wav": BIT_DEPTHS, "flac": BIT_DEPTHS[:2]}
_SUBTYPE = {"16": "PCM_16", "24": "PCM_24", "float": "FLOAT"}
_OTHERS = {"mp3": "MPEG_LAYER_III", "ogg": "VORBIS"}
_BLOCK = 1 << 20  # frames handled at a time, so that long songs need no second copy in memory
_MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
_TITLED = ("flac", "ogg", "m4a")  # and MP3, in a way of its own
_UNTOLD = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # controls, half characters


@dataclass(frozen=True)
class Encoding:
    """bit_depth: of WAV (16, 24, float) and FLAC (16, 24). bitrate: kbit/s of MP3 and M4A, None for
    the encoder's own. title and comment stand as tags in all but WAV.
    """

    bit_depth: str = "16"
    bitrate: int | None = None
    title: str = ""
    comment: str = ""

    def require(self, format: str, sample_rate: int | None = None) -> None:
        """Raise MusicotError for what a format doesn't have."""
        if self.bit_depth not in _DEPTHS.get(format, BIT_DEPTHS[:1]):
            have = " or ".join(_DEPTHS.get(format, ())) or "none to choose"
            raise MusicotError(f"{format.upper()} has no bit depth {self.bit_depth}, but {have}")
        if self.bitrate is None:
            return
        if format not in ("mp3", "m4a"):
            raise MusicotError(
                f"a bit rate is for mp3 and m4a; {format.upper()} has none to choose"
            )
        if not LOWEST_BITRATE <= self.bitrate <= HIGHEST_BITRATE:
            raise MusicotError(
                f"the bit rate is {self.bitrate}; ask for {LOWEST_BITRATE} to {HIGHEST_BITRATE} "
                "kbit/s"
            )
        highest = _mp3_bitrates(sample_rate or 44100)[1]
        if format == "mp3" and self.bitrate > highest:
            raise MusicotError(f"MP3 at {sample_rate} Hz has at most {highest} kbit/s")

    def texts(self) -> dict[str, str]:
        """The tags that are not empty, without what no tag can hold."""
        found = {"title": self.title, "comment": self.comment}
        lines = {name: " ".join(_UNTOLD.sub(" ", text).split()) for name, text in found.items()}
        return {name: line for name, line in lines.items() if line}


def format_of(path: str | Path, format: str | None = None, sample_rate: int | None = None) -> str:
    """One of FORMATS: what was asked for, else what the file name ends in.

    Raises MusicotError for another format, a name that says otherwise, or a rate it doesn't have.
    """
    suffix = Path(path).suffix.lower().lstrip(".")
    chosen = format or suffix or "wav"
    if chosen not in FORMATS:
        raise MusicotError(
            f"can't write .{chosen} audio ({path}); use {', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
        )
    if format and suffix in FORMATS and suffix != format:
        raise MusicotError(f"{path} ends in .{suffix} but the format asked for is {format}")
    if chosen == "mp3" and sample_rate is not None and sample_rate not in _MP3_RATES:
        raise MusicotError(f"MP3 has no {sample_rate} Hz; pass --sample-rate 44100 or 48000")
    if chosen == "m4a":
        require_converter(Path(path))
    return chosen


@contextmanager
def audio_writer(
    path: str | Path,
    sample_rate: int,
    channels: int,
    *,
    format: str | None = None,
    encoding: Encoding | None = None,
    replace: bool = True,
) -> Iterator[Callable[[np.ndarray], None]]:
    """Yield write(waveform) for a file that appears under its name only when the block ends well.

    write takes float32 (frames, channels) in pieces; what lies beyond -1..1 is clipped. replace:
    whether a file of that name is. Raises MusicotError for a place, rate or encoding that can't be
    written, RunError for a full disk.
    """
    path, encoding = Path(path), encoding or Encoding()
    format = format_of(path, format, sample_rate)
    encoding.require(format, sample_rate)
    with atomic_path(path, replace=replace) as temporary:
        target = temporary.with_suffix(".part.wav") if format == "m4a" else temporary
        kind = "wav" if format == "m4a" else format
        depth = "24" if format == "m4a" else encoding.bit_depth
        try:
            with soundfile.SoundFile(
                file_name(target),
                "w",
                samplerate=int(sample_rate),
                channels=channels,
                format=kind.upper(),
                subtype=_OTHERS.get(kind) or _SUBTYPE[depth],
                **_compression(format, encoding.bitrate, sample_rate),
            ) as file:
                for name, text in encoding.texts().items() if format in _TITLED[:2] else ():
                    setattr(file, name, text)

                def put(block: np.ndarray) -> None:
                    if depth != "16":
                        file.write(np.clip(block, -1.0, 1.0))
                        return
                    pcm = to_pcm16(block)
                    # libsndfile 1.2 makes noise of 16-bit samples in a stereo MP3
                    file.write(pcm / np.float32(32768) if format == "mp3" else pcm)

                rest = np.zeros((0, channels), dtype=np.float32)

                def write(waveform: np.ndarray) -> None:
                    # Vorbis makes other bytes of samples that come in other pieces
                    nonlocal rest
                    joined = np.concatenate([rest, waveform]) if len(rest) else waveform
                    whole = len(joined) // _BLOCK * _BLOCK
                    for start in range(0, whole, _BLOCK):
                        put(joined[start : start + _BLOCK])
                    rest = np.array(joined[whole:])

                yield write
                put(rest)
            if format == "mp3":
                add_id3(target, encoding.texts())
            elif format == "ogg":
                fix_ogg_serial(target)
            elif format == "m4a":
                texts = {"title": "", "comment": ""} | encoding.texts()
                to_m4a(target, temporary, bitrate=encoding.bitrate, **texts)
        except soundfile.SoundFileError as error:
            # libsndfile reports a full disk as "System error", so ask the disk itself.
            if shutil.disk_usage(target.parent).free < 1 << 20:
                raise OSError(errno.ENOSPC, "no space left") from error
            why = (getattr(error, "error_string", None) or str(error)).strip().rstrip(".")
            raise RunError(f"can't write {path} ({why})") from error
        finally:
            if target != temporary:
                target.unlink(missing_ok=True)


def _compression(format: str, bitrate: int | None, sample_rate: int) -> dict[str, Any]:
    """How libsndfile is told a bit rate: as a part of the way from its highest to its lowest."""
    if format != "mp3" or bitrate is None:
        return {}
    low, high = _mp3_bitrates(sample_rate)
    level = min(1.0, (high - bitrate) / (high - low))
    return {"compression_level": level, "bitrate_mode": "CONSTANT"}


def _mp3_bitrates(sample_rate: int) -> tuple[int, int]:
    """The lowest and highest of MPEG 1, 2 and 2.5, kbit/s."""
    if sample_rate >= 32000:
        return 32, 320
    return (8, 160) if sample_rate >= 16000 else (8, 64)


def to_pcm16(waveform: np.ndarray) -> np.ndarray:
    """float32 in -1..1 to int16, rounded and clipped: 32768 is what readers divide by."""
    scaled = np.rint(np.asarray(waveform, dtype=np.float32) * np.float32(32768.0))
    return np.clip(scaled, -32768, 32767).astype(np.int16)


def write_audio(
    path: str | Path,
    waveform: np.ndarray,
    sample_rate: int,
    *,
    format: str | None = None,
    encoding: Encoding | None = None,
) -> Path:
    """Write a whole waveform (frames,) or (frames, channels) and return the path."""
    waveform = scaled(waveform)
    if waveform.ndim == 1:
        waveform = waveform[:, None]
    if not np.isfinite(waveform).all():
        raise RunError(f"not writing {path}: the waveform holds NaN or infinite samples")
    channels = waveform.shape[1]
    with audio_writer(path, sample_rate, channels, format=format, encoding=encoding) as write:
        write(waveform)
    return Path(path)
