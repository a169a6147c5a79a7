"""How loud music is, and how high its peaks are: LUFS, dBTP, and a limiter that holds them.

Loudness is ITU-R BS.1770-5: K-weighted power in blocks of 400 ms, gated at -70 LUFS and 10 LU
below what is left. True peaks are those of the waveform at four times its rate (Annex 2 of the
same). Everything takes a song piece by piece, so that one of 300 s needs no second copy; that is
why it is written here and held against pyloudnorm in the tests. scipy.signal would filter as well,
but half a second is a long time to wait for its import.
"""

import math
from collections.abc import Iterable, Iterator
from functools import lru_cache

import numpy as np
from scipy.ndimage import minimum_filter1d

QUIETEST = -70.0  # LUFS below which a block counts as silence
GATE = 10.0  # LU below the mean of what is louder than that
_HOPS = 4  # of 100 ms in a block of 400 ms

CEILING = -1.0  # dBTP that nothing exceeds
_HIGHEST = -1.2  # dBTP that passes: between four looks a peak may be some tenths higher
_HELD = -1.3  # dBTP to which the rest is taken: a gain that moves shifts a peak by hundredths
OVERSAMPLED, _TAPS = 4, 24  # taps of each of the four phases
LOOK_AHEAD = 0.005  # seconds in which the gain comes down before a peak
RELEASE = 40.0  # dB a second at which it comes back
_BLOCK = 8192  # frames the limiter works on, whatever pieces come: the same bytes for any chunking


class LoudnessMeter:
    """Integrated loudness of what was added so far: add(waveform), then integrated()."""

    def __init__(self, sample_rate: int, channels: int) -> None:
        self._hop = max(1, round(0.1 * sample_rate))
        self._filter = _k_weighting(sample_rate, self._hop)
        # the hop before, which the filter still hears, and the samples of the hop begun
        self._kept = np.zeros((self._hop, channels))
        self._power: list[np.ndarray] = []  # of each hop, summed over the channels

    def add(self, waveform: np.ndarray) -> None:
        """Take float32 (frames, channels) in -1..1, of any length."""
        for start in range(0, len(waveform), 1 << 18):
            heard = np.concatenate([self._kept, waveform[start : start + (1 << 18)]])
            whole = len(heard) // self._hop - 1
            if whole:
                self._power.append(self._powers(heard[: (whole + 1) * self._hop]))
            self._kept = heard[whole * self._hop :]

    def integrated(self) -> float:
        """LUFS; -inf for silence. Less than 400 ms count as one block."""
        hops = np.concatenate([*self._power, np.zeros(0)])
        if len(hops) < _HOPS:
            rest = len(self._kept) - self._hop  # samples of the hop begun
            ended = self._powers(np.pad(self._kept, ((0, self._hop - rest), (0, 0))))
            frames = len(hops) * self._hop + rest
            blocks = np.array([(hops.sum() + ended.sum()) * self._hop / max(frames, 1)])
        else:
            blocks = np.convolve(hops, np.ones(_HOPS) / _HOPS, "valid")
        blocks = blocks[blocks > _power(QUIETEST)]
        if len(blocks):
            blocks = blocks[blocks > blocks.mean() * 10 ** (-GATE / 10)]
        return _lufs(float(blocks.mean())) if len(blocks) else -math.inf

    def _powers(self, heard: np.ndarray) -> np.ndarray:
        """Weighted power (hops,) of whole hops (hops + 1, times a hop, channels) but the first."""
        hops = heard.reshape(-1, self._hop, heard.shape[1])
        pairs = np.concatenate([hops[:-1], hops[1:]], axis=1)  # (hops, 2 * hop, channels)
        spectrum = np.fft.rfft(pairs, axis=1) * self._filter[:, None]
        weighted = np.fft.irfft(spectrum, 2 * self._hop, axis=1)[:, self._hop :]
        return np.square(weighted).mean(axis=1).sum(axis=1)


def integrated_loudness(waveform: np.ndarray, sample_rate: int) -> float:
    """Integrated loudness of a waveform (frames,) or (frames, channels) in LUFS, -inf for silence.

    One channel counts once, as meters do: over two loudspeakers it is 3 dB louder.
    """
    waveform = np.asarray(waveform)
    waveform = waveform[:, None] if waveform.ndim == 1 else waveform
    meter = LoudnessMeter(sample_rate, waveform.shape[1])
    meter.add(waveform)
    return meter.integrated()


def true_peak(waveform: np.ndarray) -> float:
    """The highest peak of a waveform (frames,) or (frames, channels) in dBTP, -inf for silence."""
    waveform = np.asarray(waveform, np.float32)
    waveform = waveform[:, None] if waveform.ndim == 1 else waveform
    side = _TAPS // 2
    padded = np.pad(waveform, ((side, side), (0, 0)))
    highest = max(
        (
            float(_peaks(padded[start : start + (1 << 16) + 2 * side]).max())
            for start in range(0, len(waveform), 1 << 16)
        ),
        default=0.0,
    )
    return 20 * math.log10(highest) if highest > 0 else -math.inf


class Limiter:
    """Gain, then a look-ahead limiter: take(waveform) as it comes, then rest().

    No true peak of what comes out lies above CEILING. Before a peak the gain comes down within
    LOOK_AHEAD, after it returns by RELEASE; what needs no limiting is not touched, so that a song
    limited before passes as it is. What comes out is the same for every chunking, and as long as
    what went in, some thousand frames later.
    """

    def __init__(self, sample_rate: int, channels: int, *, gain: float = 0.0) -> None:
        self._factor = np.float32(10 ** (gain / 20))
        self._ahead = max(1, round(LOOK_AHEAD * sample_rate))
        self._slope = RELEASE / sample_rate  # dB a frame
        self._side = _TAPS // 2  # frames on both sides that a peak between two of them depends on
        self._late = self._ahead + self._side  # frames needed beyond a block
        self._kept = np.zeros((self._side, channels), np.float32)  # behind the block, amplified
        # amplified, not limited yet; silence first, so that the gain can come down before a peak
        self._waiting = np.zeros((self._ahead, channels), np.float32)
        self._silence = self._ahead  # frames of it that are to be left out
        self._gains = np.zeros(self._ahead)  # dB of the frames before, oldest first

    def take(self, waveform: np.ndarray) -> np.ndarray:
        """What is ready (frames, channels), maybe none, after the next piece."""
        amplified = np.asarray(waveform, np.float32) * self._factor
        self._waiting = np.concatenate([self._waiting, amplified])
        done = []
        while len(self._waiting) >= _BLOCK + self._late:
            done.append(self._limited(_BLOCK))
        return self._without_silence(np.concatenate([*done, self._waiting[:0]]))

    def rest(self) -> np.ndarray:
        """What is left, after the last piece."""
        frames = len(self._waiting)
        self._waiting = np.pad(self._waiting, ((0, self._late), (0, 0)))
        return self._without_silence(self._limited(frames))

    def _without_silence(self, ready: np.ndarray) -> np.ndarray:
        ready, self._silence = ready[self._silence :], max(0, self._silence - len(ready))
        return ready

    def _limited(self, frames: int) -> np.ndarray:
        """The next frames; they and `_late` more are waiting."""
        heard = np.concatenate([self._kept, self._waiting[: frames + self._late]])
        block = self._waiting[:frames]
        gains = self._gains_of(heard, frames)
        smooth = np.concatenate([self._gains, gains])  # (ahead + frames,)
        self._kept = heard[frames : frames + self._side]
        self._waiting = self._waiting[frames:]
        self._gains = smooth[frames:]
        if not smooth.any():
            return block
        sums = np.cumsum(np.concatenate([[0.0], smooth]))
        span = self._ahead + 1
        mean = (sums[span:] - sums[:-span]) / span  # each of them at or below what its peak asks
        return block * np.exp((mean * (math.log(10) / 20)).astype(np.float32))[:, None]

    def _gains_of(self, heard: np.ndarray, frames: int) -> np.ndarray:
        """Gain in dB (frames,) before it is smoothed: down at once, LOOK_AHEAD early, up slowly."""
        before = float(self._gains[-1])
        highest = 10 ** (_HIGHEST / 20)
        peaks = _peaks(heard, enough=highest)  # (frames + ahead,)
        above = peaks > highest
        if before == 0.0 and not above.any():
            return np.zeros(frames)
        wanted = np.zeros(len(peaks))
        wanted[above] = _HELD - 20 * np.log10(peaks[above])
        span = self._ahead + 1
        least = minimum_filter1d(wanted, span, origin=-(span // 2))  # of a frame and those ahead
        rising = self._slope * np.arange(1, frames + 1)
        held = np.minimum.accumulate(np.minimum(least[:frames] - rising, before))
        return np.minimum(held + rising, 0.0)


def limited(
    pieces: Iterable[np.ndarray], sample_rate: int, *, gain: float = 0.0
) -> Iterator[np.ndarray]:
    """Pieces (frames, channels) amplified by `gain` dB and limited; joined as long as before."""
    limiter = None
    for piece in pieces:
        if limiter is None:
            limiter = Limiter(sample_rate, piece.shape[1], gain=gain)
        if len(ready := limiter.take(piece)):
            yield ready
    if limiter is not None and len(ready := limiter.rest()):
        yield ready


def gain_towards(waveform: np.ndarray, sample_rate: int, target: float) -> float:
    """The gain in dB after which, and after the limiter, a waveform (frames, channels) has the
    loudness `target` in LUFS; 0 for silence.
    """
    found = integrated_loudness(waveform, sample_rate)
    if found == -math.inf:
        return 0.0
    gain = target - found
    if true_peak(waveform) + gain <= _HIGHEST:
        return gain
    for _ in range(4):  # what the limiter takes is given back, most of it in the first round
        meter = LoudnessMeter(sample_rate, waveform.shape[1])
        blocks = (waveform[start : start + (1 << 18)] for start in range(0, len(waveform), 1 << 18))
        for piece in limited(blocks, sample_rate, gain=gain):
            meter.add(piece)
        missing = target - meter.integrated()
        gain += missing
        if abs(missing) < 0.2:
            break
    return gain


def _peaks(heard: np.ndarray, enough: float = 0.0) -> np.ndarray:
    """The highest true peak about each frame (frames,), of all channels.

    heard: (frames, channels) with half the filter's taps more on both sides. Where no peak can
    exceed `enough`, samples alone are looked at.
    """
    side, filters = _TAPS // 2, _interpolator()
    frames = len(heard) - 2 * side
    inner = np.abs(heard[side : side + frames]).max(axis=1)
    bound = np.abs(filters).sum(axis=1).max()
    if not frames or np.abs(heard).max() * bound <= enough:
        return inner
    between = np.zeros(frames + 1, np.float32)  # before each frame, and after the last
    for channel in heard.T:
        for filter in filters:
            np.maximum(between, np.abs(np.convolve(channel, filter, "valid")), out=between)
    return np.maximum(inner, np.maximum(between[:-1], between[1:]))


@lru_cache(maxsize=1)
def _interpolator() -> np.ndarray:
    """Windowed sincs (phases, taps) that give what lies a quarter, half and three quarters of the
    way between the two frames in the middle.
    """
    between = np.arange(1, OVERSAMPLED)[:, None] / OVERSAMPLED
    places = between + np.arange(_TAPS) - _TAPS // 2
    window = np.i0(6.0 * np.sqrt(1 - np.square(places / (_TAPS / 2)))) / np.i0(6.0)  # Kaiser's
    return (np.sinc(places) * window).astype(np.float32)


def _lufs(power: float) -> float:
    return -0.691 + 10 * math.log10(power)


def _power(lufs: float) -> float:
    return 10 ** ((lufs + 0.691) / 10)


@lru_cache(maxsize=8)
def _k_weighting(sample_rate: int, hop: int) -> np.ndarray:
    """The response (hop + 1,) of BS.1770's two filters, for transforms of two hops of 100 ms.

    The recommendation lists coefficients for 48 kHz; these are the analogue filters behind them, a
    shelf of 4 dB above 1.7 kHz and a high pass at 38 Hz (as in libebur128), which give the same.
    What they answer to an impulse is over after a hop.
    """
    turn = math.tan(math.pi * 1681.974450955533 / sample_rate)
    quality, top = 0.7071752369554196, 10 ** (3.999843853973347 / 20)
    middle = top**0.4996667741545416
    rising = [top + middle * turn / quality + turn**2, 2 * (turn**2 - top)]
    rising.append(top - middle * turn / quality + turn**2)
    falling = [1 + turn / quality + turn**2, 2 * (turn**2 - 1), 1 - turn / quality + turn**2]
    turn, quality = math.tan(math.pi * 38.13547087602444 / sample_rate), 0.5003270373238773
    scale = 1 + turn / quality + turn**2
    damped = [1, 2 * (turn**2 - 1) / scale, (1 - turn / quality + turn**2) / scale]
    points = 16 * hop
    response = np.ones(points // 2 + 1, complex)
    for above, below in ((rising, falling), ([1, -2, 1], damped)):
        response *= np.fft.rfft(above, points) / np.fft.rfft(below, points)
    impulse = np.fft.irfft(response, points)[:hop]
    return np.fft.rfft(impulse, 2 * hop)
