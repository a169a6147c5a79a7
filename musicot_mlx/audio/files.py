"""Audio files: any rate and channel count in; WAV, FLAC and MP3 out, whole or not at all.

Waveforms are float32 (frames, channels) in -1..1, as soundfile has them. The same waveform gives
the same bytes: 16-bit PCM without dither, no time stamps.
"""

import errno
import math
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import soundfile
import soxr

from musicot_mlx.atomic import atomic_path
from musicot_mlx.audio.headers import file_name, tell
from musicot_mlx.audio.reading import audio_frames as audio_frames
from musicot_mlx.audio.reading import read_audio as read_audio
from musicot_mlx.audio.waveforms import scaled
from musicot_mlx.errors import MusicotError, RunError, SilentRender

FORMATS = ("wav", "flac", "mp3")
# What a folder of songs is searched for. libsndfile reads the first three lines; the others are
# named as what can't be read, where leaving them out would pass unsaid.
AUDIO_SUFFIXES = frozenset(
    ".wav .wave .bwf .rf64 .w64 .flac .mp3 .mp2 .mp1 .mpga .ogg .oga .opus .aif .aiff .aifc .afc "
    ".caf .au .snd .voc .sf .ircam .avr .paf .pvf .svx .8svx .iff .nist .sph .sd2 .sds .htk .xi "
    ".wve .gsm .vox "
    ".m4a .m4b .m4r .m4p .mp4 .m4v .mov .3gp .aac .adts .alac .wma .asf .webm .mka .mkv .avi .ape "
    ".wv .tta .tak .ofr .shn .mpc .dsf .dff .ac3 .eac3 .dts .amr .ra .rm .spx .at3 .oma".split()
)
_SUBTYPE = {"wav": "PCM_16", "flac": "PCM_16", "mp3": "MPEG_LAYER_III"}
_BLOCK = 1 << 20  # frames handled at a time, so that long songs need no second copy in memory
_MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)


def audio_files(folder: str | Path, *, below: bool = True) -> list[Path]:
    """The audio files of a folder, and of the folders below it, by their endings, sorted; what is
    hidden is left out. Some of them may be of kinds that can't be read.
    """
    folder = Path(folder)
    return sorted(
        path
        for path in (folder.rglob("*") if below else folder.iterdir())
        if path.suffix.lower() in AUDIO_SUFFIXES and visible(path, folder) and not path.is_dir()
    )


def readable_files(folder: str | Path) -> list[Path]:
    """Those audio files of a folder, not below it, that hold samples; a MusicotWarning names each
    other one.
    """
    found = []
    for path in audio_files(folder, below=False):
        try:
            if not audio_frames(path)[0]:
                raise MusicotError(f"audio file {path} holds no samples")
            found.append(path)
        except MusicotError as error:
            tell(f"skipped {path.name}: {error}")
    return found


def visible(path: Path, folder: Path) -> bool:
    """Whether neither a file nor a folder between it and `folder` is hidden (".trash/a.wav")."""
    return not any(part.startswith(".") for part in path.relative_to(folder).parts)


def resample(waveform: np.ndarray, sample_rate: int, target_rate: int) -> np.ndarray:
    """Waveform (frames,) or (frames, channels) at another rate, float32 (soxr, high quality)."""
    waveform = scaled(waveform)
    if sample_rate == target_rate:
        return waveform
    return soxr.resample(waveform, sample_rate, target_rate).astype(np.float32, copy=False)


def resample_stream(
    pieces: Iterable[np.ndarray], sample_rate: int, target_rate: int
) -> Iterator[np.ndarray]:
    """Resample float32 (frames, channels) pieces as they come; joined they are one waveform."""
    if sample_rate == target_rate:
        yield from pieces
        return
    stream = None
    for piece in pieces:
        if stream is None:
            stream = soxr.ResampleStream(sample_rate, target_rate, piece.shape[1], dtype="float32")
            empty = piece[:0]
        yield stream.resample_chunk(piece)
    if stream is not None:
        yield stream.resample_chunk(empty, last=True)


def format_of(path: str | Path, format: str | None = None, sample_rate: int | None = None) -> str:
    """wav, flac or mp3: what was asked for, else what the file name ends in.

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
    format = format_of(path, format, sample_rate)
    with atomic_path(path) as temporary:
        try:
            with soundfile.SoundFile(
                file_name(temporary),
                "w",
                samplerate=int(sample_rate),
                channels=channels,
                format=format.upper(),
                subtype=_SUBTYPE[format],
            ) as file:

                def write(waveform: np.ndarray) -> None:
                    for start in range(0, len(waveform), _BLOCK):
                        pcm = to_pcm16(waveform[start : start + _BLOCK])
                        # libsndfile 1.2 makes noise of 16-bit samples in a stereo MP3
                        file.write(pcm / np.float32(32768) if format == "mp3" else pcm)

                yield write
        except soundfile.SoundFileError as error:
            # libsndfile reports a full disk as "System error", so ask the disk itself.
            if shutil.disk_usage(path.parent).free < 1 << 20:
                raise OSError(errno.ENOSPC, "no space left") from error
            why = (getattr(error, "error_string", None) or str(error)).strip().rstrip(".")
            raise RunError(f"can't write {path} ({why})") from error


def to_pcm16(waveform: np.ndarray) -> np.ndarray:
    """float32 in -1..1 to int16, rounded and clipped: 32768 is what readers divide by."""
    scaled = np.rint(np.asarray(waveform, dtype=np.float32) * np.float32(32768.0))
    return np.clip(scaled, -32768, 32767).astype(np.int16)


def write_audio(
    path: str | Path, waveform: np.ndarray, sample_rate: int, *, format: str | None = None
) -> Path:
    """Write a whole waveform (frames,) or (frames, channels) and return the path."""
    waveform = scaled(waveform)
    if waveform.ndim == 1:
        waveform = waveform[:, None]
    if not np.isfinite(waveform).all():
        raise RunError(f"not writing {path}: the waveform holds NaN or infinite samples")
    with audio_writer(path, sample_rate, waveform.shape[1], format=format) as write:
        write(waveform)
    return Path(path)


class RenderCheck:
    """Tells a broken render from music, piece by piece: add(waveform) as it comes, then finish().

    finish() raises RunError when the whole is not finite, silent, clipped, noise, or collapsed. The
    limits are wide of any music: silent (SilentRender) is below -50 dBFS RMS; clipped is 2 % of the
    samples at full scale; noise is a steady spectrum as flat as white noise's; collapsed (from two
    seconds on) is a spectrum that stands still from end to end, as when one token repeats.
    """

    quietest = -50.0  # dBFS
    size = 4096  # samples a spectrum
    bands = 24

    def __init__(self, sample_rate: int) -> None:
        self.sample_rate = sample_rate
        self._samples = self._bad = self._clipped = 0
        self._sum, self._squares = 0.0, 0.0
        self._rest = np.zeros(0, dtype=np.float32)  # mono samples of the frame begun
        self._power = np.zeros(self.size // 2 + 1)
        self._levels: list[np.ndarray] = []  # band energies (frames, bands) of each piece
        self._window = np.hanning(self.size).astype(np.float32)
        edges = np.unique(np.geomspace(2, self.size // 2, self.bands + 1).astype(int))
        self._starts, self._stop = edges[:-1], edges[-1]

    def add(self, waveform: np.ndarray) -> None:
        """Take float32 (frames, channels) in -1..1, of any length."""
        for start in range(0, len(waveform), _BLOCK):
            self._add(waveform[start : start + _BLOCK])

    def _add(self, block: np.ndarray) -> None:
        self._samples += block.size
        self._bad += int(block.size - np.isfinite(block).sum())
        if self._bad:
            return
        self._clipped += int((np.abs(block) >= 0.999).sum())
        self._sum += block.sum(dtype=np.float64)
        self._squares += np.square(block, dtype=np.float64).sum()
        mono = np.concatenate([self._rest, block.reshape(len(block), -1).mean(axis=1)])
        count = len(mono) // self.size
        self._rest = mono[count * self.size :]
        frames = mono[: count * self.size].reshape(count, self.size)
        power = np.abs(np.fft.rfft(frames * self._window, axis=1)) ** 2  # (frames, bins)
        self._power += power.sum(axis=0)
        self._levels.append(np.add.reduceat(power[:, : self._stop], self._starts, axis=1))

    @property
    def level(self) -> float:
        """RMS of what was added in dBFS, without its mean."""
        mean = self._sum / max(1, self._samples)
        power = self._squares / max(1, self._samples) - mean * mean
        return 10 * math.log10(max(power, 0.0) + 1e-18)

    @property
    def finite(self) -> bool:
        """Whether no sample was NaN or infinite."""
        return not self._bad

    @property
    def silent(self) -> bool:
        """Whether there was nothing to be heard so far."""
        return self.finite and self.level < self.quietest

    def finish(self) -> None:
        """Raise RunError when what was added is no music; otherwise return."""
        advice = "try another --seed, or the default temperatures and guidance"
        if not self._samples:
            raise RunError(f"the render is empty; {advice}")
        if self._bad:
            raise RunError(f"the render holds {self._bad:,} NaN or infinite samples; {advice}")
        if self.silent:
            raise SilentRender(f"the render is silent ({self.level:.0f} dBFS); {advice}")
        clipped = self._clipped / self._samples
        if clipped > 0.02:
            raise RunError(f"the render is clipped ({100 * clipped:.0f} % at full scale); {advice}")
        levels = np.concatenate(self._levels)  # (frames, bands)
        if len(levels) * self.size < 2 * self.sample_rate:
            return  # a short sound may stand still
        spectrum = self._power[2:] + 1e-20
        flatness = float(np.exp(np.log(spectrum).mean()) / spectrum.mean())
        heard = levels.mean(axis=0) > 1e-6 * levels.mean(axis=0).max()  # within 60 dB of the top
        motion = (10 * np.log10(levels[:, heard] + 1e-12)).std(axis=0)  # dB, per band
        if flatness > 0.6 and float(np.median(motion)) < 3.0:
            raise RunError(f"the render is noise (spectral flatness {flatness:.2f}); {advice}")
        if float(np.median(motion)) < 0.25:
            raise RunError(f"the render collapsed to one sound from end to end; {advice}")


def check_render(waveform: np.ndarray, sample_rate: int) -> None:
    """Raise RunError when a whole render (frames,) or (frames, channels) is broken: RenderCheck."""
    check = RenderCheck(sample_rate)
    check.add(scaled(waveform))
    check.finish()
