"""Audio files: any rate and channel count in; WAV, FLAC, MP3, Ogg and M4A out.

Waveforms are float32 (frames, channels) in -1..1, as soundfile has them. The same waveform gives
the same bytes: 16-bit PCM without dither, no time stamps.
"""

import itertools
import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import soxr

from musicot_mlx.audio.headers import tell
from musicot_mlx.audio.reading import audio_blocks as audio_blocks
from musicot_mlx.audio.reading import audio_frames as audio_frames
from musicot_mlx.audio.reading import audio_texts as audio_texts
from musicot_mlx.audio.reading import read_audio as read_audio
from musicot_mlx.audio.waveforms import as_waveform, scaled
from musicot_mlx.audio.writing import BIT_DEPTHS as BIT_DEPTHS
from musicot_mlx.audio.writing import FORMATS as FORMATS
from musicot_mlx.audio.writing import Encoding as Encoding
from musicot_mlx.audio.writing import audio_writer as audio_writer
from musicot_mlx.audio.writing import format_of as format_of
from musicot_mlx.audio.writing import to_pcm16 as to_pcm16
from musicot_mlx.audio.writing import write_audio as write_audio
from musicot_mlx.errors import MusicotError, RunError, SilentRender

# What a folder of songs is searched for. libsndfile reads the first three lines; the others are
# named as what can't be read, where leaving them out would pass unsaid.
AUDIO_SUFFIXES = frozenset(
    ".wav .wave .bwf .rf64 .w64 .flac .mp3 .mp2 .mp1 .mpga .ogg .oga .opus .aif .aiff .aifc .afc "
    ".caf .au .snd .voc .sf .ircam .avr .paf .pvf .svx .8svx .iff .nist .sph .sd2 .sds .htk .xi "
    ".wve .gsm .vox "
    ".m4a .m4b .m4r .m4p .mp4 .m4v .mov .3gp .aac .adts .alac .wma .asf .webm .mka .mkv .avi .ape "
    ".wv .tta .tak .ofr .shn .mpc .dsf .dff .ac3 .eac3 .dts .amr .ra .rm .spx .at3 .oma".split()
)
_BLOCK = 1 << 20  # frames handled at a time, so that long songs need no second copy in memory


def audio_files(folder: str | Path, *, below: bool = True) -> list[Path]:
    """The audio files of a folder, and of the folders below it, by their endings, sorted; what is
    hidden is left out, and so is what is no file: a pipe or a device never ends. Some of them may
    be of kinds that can't be read.
    """
    folder = Path(folder)
    return sorted(
        path
        for path in (folder.rglob("*") if below else folder.iterdir())
        if path.suffix.lower() in AUDIO_SUFFIXES and visible(path, folder)
        if path.is_file() or not path.exists()  # a link that leads nowhere is told of
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


def mono_windows(
    audio: str | Path | tuple[np.ndarray, int], *, sample_rate: int, seconds: float = 60.0
) -> Iterator[np.ndarray]:
    """A song, from a file or as (waveform, its rate), as mono float32 (samples,) at sample_rate Hz,
    `seconds` at a time and the rest: hours of it never stand in memory together.

    Raises MusicotError for a missing, broken or empty file, and for samples that are not finite.
    """
    where = "the waveform" if isinstance(audio, tuple) else f"audio file {audio}"
    blocks = iter([audio]) if isinstance(audio, tuple) else audio_blocks(audio)
    first, rate = next(blocks, (None, sample_rate))
    if first is None:
        raise MusicotError(f"{where} holds no samples")
    waveforms = itertools.chain([first], (block for block, _ in blocks))
    mono = (_mono(as_waveform(waveform, where)) for waveform in waveforms)
    size, kept, held = round(seconds * sample_rate), [], 0
    for piece in resample_stream(mono, rate, sample_rate):
        kept.append(piece[:, 0])
        held += len(piece)
        while held >= size:
            joined = np.concatenate(kept)
            yield joined[:size]
            kept, held = [joined[size:]], held - size
    if held:
        yield np.concatenate(kept)


def _mono(waveform: np.ndarray) -> np.ndarray:
    """The mean of the channels, (frames, 1)."""
    return waveform.reshape(len(waveform), -1).mean(axis=1, keepdims=True)


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
        self._window = np.hanning(self.size).astype(np.float32)
        edges = np.unique(np.geomspace(2, self.size // 2, self.bands + 1).astype(int))
        self._starts, self._stop = edges[:-1], edges[-1]
        # of the bands' energies: frames, their sum, and mean and squared deviations of their dB
        self._frames, self._energy = 0, np.zeros(len(edges) - 1)
        self._mean, self._deviation = np.zeros((2, len(edges) - 1))

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
        if count:
            self._measure(np.add.reduceat(power[:, : self._stop], self._starts, axis=1))

    def _measure(self, levels: np.ndarray) -> None:
        """Take the energies of bands (frames, bands), so that hours take no more memory than
        minutes (Chan, Golub, LeVeque 1979).
        """
        levels = levels.astype(np.float64)
        decibels = 10 * np.log10(levels + 1e-12)
        new, before = len(levels), self._frames
        self._frames += new
        self._energy += levels.sum(axis=0)
        apart = decibels.mean(axis=0) - self._mean
        self._mean += apart * new / self._frames
        self._deviation += decibels.var(axis=0) * new + apart**2 * before * new / self._frames

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
        if self._frames * self.size < 2 * self.sample_rate:
            return  # a short sound may stand still
        spectrum = self._power[2:] + 1e-20
        flatness = float(np.exp(np.log(spectrum).mean()) / spectrum.mean())
        loud = self._energy > 1e-6 * self._energy.max()  # within 60 dB of the top
        motion = np.sqrt(self._deviation[loud] / self._frames)  # dB, per band
        if flatness > 0.6 and float(np.median(motion)) < 3.0:
            raise RunError(f"the render is noise (spectral flatness {flatness:.2f}); {advice}")
        if float(np.median(motion)) < 0.25:
            raise RunError(f"the render collapsed to one sound from end to end; {advice}")


def check_render(waveform: np.ndarray, sample_rate: int) -> None:
    """Raise RunError when a whole render (frames,) or (frames, channels) is broken: RenderCheck."""
    check = RenderCheck(sample_rate)
    check.add(scaled(waveform))
    check.finish()
