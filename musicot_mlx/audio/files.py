"""Audio files: any rate and channel count in; WAV, FLAC and MP3 out, whole or not at all.

Waveforms are float32 (frames, channels) in -1..1, as soundfile has them. The same waveform gives
the same bytes: 16-bit PCM without dither, no time stamps.
"""

import errno
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import soundfile
import soxr

from musicot_mlx.atomic import atomic_path
from musicot_mlx.errors import MusicotError, RunError

FORMATS = ("wav", "flac", "mp3")
_SUBTYPE = {"wav": "PCM_16", "flac": "PCM_16", "mp3": "MPEG_LAYER_III"}
_MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)


def read_audio(path: str | Path) -> tuple[np.ndarray, int]:
    """Waveform float32 (frames, channels) and its sample rate in Hz, from any file soundfile reads.

    Raises MusicotError for a missing, broken or empty file, and for samples that are not finite.
    """
    path = Path(path)
    if not path.is_file():
        kind = "is a folder" if path.is_dir() else "doesn't exist"
        raise MusicotError(f"audio file {path} {kind}")
    try:
        waveform, sample_rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, RuntimeError, OSError) as error:
        why = getattr(error, "error_string", None) or str(error)
        raise MusicotError(
            f"can't read {path} as audio ({why.strip().rstrip('.')}); pass a WAV, FLAC or MP3 file"
        ) from error
    if not len(waveform):
        raise MusicotError(f"audio file {path} holds no samples")
    if not np.isfinite(waveform).all():
        raise MusicotError(f"audio file {path} holds NaN or infinite samples")
    return waveform, int(sample_rate)


def resample(waveform: np.ndarray, sample_rate: int, target_rate: int) -> np.ndarray:
    """Waveform (frames,) or (frames, channels) at another rate, float32 (soxr, high quality)."""
    waveform = np.asarray(waveform, dtype=np.float32)
    if sample_rate == target_rate:
        return waveform
    return soxr.resample(waveform, sample_rate, target_rate).astype(np.float32, copy=False)


def format_of(path: str | Path, format: str | None = None) -> str:
    """wav, flac or mp3: what was asked for, else what the file name ends in."""
    suffix = Path(path).suffix.lower().lstrip(".")
    chosen = format or suffix or "wav"
    if chosen not in FORMATS:
        raise MusicotError(
            f"can't write .{chosen} audio ({path}); use {', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
        )
    if format and suffix in FORMATS and suffix != format:
        raise MusicotError(f"{path} ends in .{suffix} but the format asked for is {format}")
    return chosen


@contextmanager
def audio_writer(
    path: str | Path, sample_rate: int, channels: int, *, format: str | None = None
) -> Iterator[Callable[[np.ndarray], None]]:
    """Yield write(waveform) for a file that appears under its name only when the block ends well.

    write takes float32 (frames, channels) in pieces; what lies beyond -1..1 is clipped. Raises
    MusicotError for a place or rate that can't be written, RunError for a full disk.
    """
    path = Path(path)
    format = format_of(path, format)
    if format == "mp3" and sample_rate not in _MP3_RATES:
        raise MusicotError(f"MP3 has no {sample_rate} Hz; pass --sample-rate 44100 or 48000")
    with atomic_path(path) as temporary:
        try:
            with soundfile.SoundFile(
                temporary,
                "w",
                samplerate=int(sample_rate),
                channels=channels,
                format=format.upper(),
                subtype=_SUBTYPE[format],
            ) as file:
                yield lambda waveform: file.write(to_pcm16(waveform))
        except soundfile.SoundFileError as error:
            # libsndfile reports a full disk as "System error", so ask the disk itself.
            if shutil.disk_usage(path.parent).free < 1 << 20:
                raise OSError(errno.ENOSPC, "no space left") from error
            why = (getattr(error, "error_string", None) or str(error)).strip().rstrip(".")
            raise RunError(f"can't write {path} ({why})") from error


def to_pcm16(waveform: np.ndarray) -> np.ndarray:
    """float32 in -1..1 to int16, rounded and clipped, the same on every machine."""
    scaled = np.rint(np.asarray(waveform, dtype=np.float32) * np.float32(32767.0))
    return np.clip(scaled, -32768, 32767).astype(np.int16)


def write_audio(
    path: str | Path, waveform: np.ndarray, sample_rate: int, *, format: str | None = None
) -> Path:
    """Write a whole waveform (frames,) or (frames, channels) and return the path."""
    waveform = np.asarray(waveform, dtype=np.float32)
    if waveform.ndim == 1:
        waveform = waveform[:, None]
    if not np.isfinite(waveform).all():
        raise RunError(f"not writing {path}: the waveform holds NaN or infinite samples")
    with audio_writer(path, sample_rate, waveform.shape[1], format=format) as write:
        write(waveform)
    return Path(path)


def check_render(waveform: np.ndarray, sample_rate: int) -> None:
    """Raise RunError when a render is broken: not finite, silent, clipped, noise, or collapsed.

    waveform: float32 (frames, channels) in -1..1. Limits, wide of any music: silent is below -80
    dBFS RMS; clipped is 2 % of the samples at full scale; noise is a mean spectrum as flat as white
    noise's; collapsed (two seconds and longer) is a spectrum that stands still from end to end.
    """
    waveform = np.asarray(waveform, dtype=np.float32)
    if waveform.ndim == 1:
        waveform = waveform[:, None]
    advice = "; try another --seed, or the default temperatures and guidance"
    if not waveform.size:
        raise RunError(f"the render is empty{advice}")
    bad = int(waveform.size - np.isfinite(waveform).sum())
    if bad:
        raise RunError(f"the render holds {bad:,} NaN or infinite samples{advice}")
    centred = waveform - waveform.mean(axis=0)
    rms = float(np.sqrt(np.mean(np.square(centred, dtype=np.float64))))
    if rms < 1e-4:
        raise RunError(f"the render is silent ({20 * np.log10(rms + 1e-9):.0f} dBFS){advice}")
    clipped = float(np.mean(np.abs(waveform) >= 0.999))
    if clipped > 0.02:
        raise RunError(f"the render is clipped ({100 * clipped:.0f} % at full scale){advice}")
    if len(waveform) < 2 * sample_rate:
        return  # a short sound may stand still
    power = _frame_power(centred.mean(axis=1))  # (frames, bins)
    mean = power.mean(axis=0)[1:]
    flatness = float(np.exp(np.log(mean + 1e-20).mean()) / (mean.mean() + 1e-20))
    if flatness > 0.6:
        raise RunError(f"the render is noise (spectral flatness {flatness:.2f}){advice}")
    if _spectral_motion(power) < 0.25:
        raise RunError(f"the render collapsed: the same sound from end to end{advice}")


def _frame_power(mono: np.ndarray, size: int = 4096) -> np.ndarray:
    """Power spectra (frames, bins) of Hann windows, half overlapped; long audio is sampled."""
    starts = np.arange(0, max(len(mono) - size, 0) + 1, size // 2)
    starts = starts[:: max(1, len(starts) // 1000)]
    window = np.hanning(size).astype(np.float32)
    frames = np.stack([mono[start : start + size] for start in starts])
    return np.abs(np.fft.rfft(frames * window, axis=1)) ** 2


def _spectral_motion(power: np.ndarray, bands: int = 24) -> float:
    """How much the loudest bands move over time: median deviation in dB."""
    edges = np.unique(np.geomspace(2, power.shape[1], bands + 1).astype(int))
    energy = np.add.reduceat(power[:, : edges[-1]], edges[:-1], axis=1)  # (frames, bands)
    heard = energy.mean(axis=0) > 1e-6 * energy.mean(axis=0).max()  # within 60 dB of the loudest
    level = 10 * np.log10(energy[:, heard] + 1e-12)
    return float(np.median(level.std(axis=0)))
