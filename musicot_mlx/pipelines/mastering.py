"""What every render goes through before it is a song: a check, fades, one gain, a limiter.

Models make music at any level, up to 30 dB apart from one seed to the next. A song is handed on at
the loudness asked for, with no peak above -1 dBTP, and it ends instead of breaking off. Where a
song is heard while it is made, the gain that its first seconds ask for holds to its end: some songs
grow by 20 dB, which nothing tells in advance (the loudness of a segment and its planned thought
correlate with r 0.6, too little to do better than the first seconds alone).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from musicot_mlx.audio.files import RenderCheck
from musicot_mlx.audio.loudness import Limiter, gain_towards, integrated_loudness, limited
from musicot_mlx.errors import RunError, SilentRender
from musicot_mlx.pipelines.options import Options

FADE_OUT = 1.5  # seconds, where nothing else is asked for
LONGEST_FADE_OUT = 1 / 6  # of the song, then
FIRST_SECONDS, MOST_SECONDS = 3.0, 10.0  # of a stream, that its gain is found from
QUIET = -30.0  # LUFS below which more of them are waited for
SEAM = 0.15  # seconds over which the end of a loop goes over into its beginning
_BLOCK = 1 << 18  # frames at a time


def fade_out_seconds(asked: float | None, duration: float) -> float:
    """How long a song of `duration` seconds fades: as asked, or short and less in a short song."""
    usual = min(FADE_OUT, LONGEST_FADE_OUT * duration)
    return min(usual if asked is None else asked, duration)


@dataclass(frozen=True)
class Mastered:
    """A finished waveform (frames, channels), the gain in dB that it got, and what is broken about
    the render, "" for nothing.
    """

    waveform: np.ndarray
    gain: float
    fault: str


class Mastering:
    """The way of one render: `whole` or `stream`, once.

    samples: frames of the render. loop: frames of it that are to repeat without a seam; the render
    has SEAM seconds more. gain: dB that hold whatever the loudness, where the song goes on with an
    earlier one, whose fade-in stands.
    """

    def __init__(
        self,
        wish: Options,
        sample_rate: int,
        samples: int,
        *,
        loop: int | None = None,
        gain: float | None = None,
    ) -> None:
        self.wish, self.sample_rate, self.samples, self.loop = wish, sample_rate, samples, loop
        self.gain = 0.0  # dB, as soon as it is known
        self.check = RenderCheck(sample_rate)  # of what the model made
        self._given = gain if wish.gain is None else wish.gain
        self._as_made = wish.loudness is False and wish.gain is None
        fade_out = fade_out_seconds(wish.fade_out, samples / sample_rate)
        fade_out = 0.0 if loop is not None else fade_out
        fade_in = wish.fade_in if gain is None else 0.0
        self._fade_in, self._fade_out = (round(s * sample_rate) for s in (fade_in, fade_out))

    def whole(self, chunks: Iterable[np.ndarray], channels: int) -> Mastered:
        """The song of a render's chunks (frames, channels), in one array filled as they come.

        Raises SilentRender where the loudness is to be set and there is nothing to be heard.
        """
        waveform, made = np.empty((self.samples, channels), dtype=np.float32), 0
        for chunk in chunks:  # joining a list would hold the song twice
            waveform[made : made + len(chunk)] = chunk
            made += len(chunk)
        waveform, fault = waveform[:made], ""
        for block in _blocks(waveform):
            self.check.add(soft_limit(block))
        try:
            self.check.finish()
        except SilentRender as silent:
            if not self._as_made:
                raise
            fault = str(silent)
        except RunError as error:
            fault = str(error)
        if not self.check.finite:
            return Mastered(waveform, self.gain, fault)
        if self.loop is not None:
            waveform = folded(waveform, self.loop)
        for start in range(0, len(waveform), _BLOCK):
            self._fade(waveform[start : start + _BLOCK], start)
        pieces: Iterable[np.ndarray] = map(soft_limit, _blocks(waveform))
        if not self._as_made:
            self.gain = self._gain_of(waveform)
            pieces = self._limited(waveform)
        made = 0
        for piece in pieces:  # never ahead of what they are made from
            waveform[made : made + len(piece)] = piece
            made += len(piece)
        return Mastered(waveform, self.gain, fault)

    def stream(self, chunks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """The song in chunks, the first when there is something to be heard.

        Raises SilentRender instead, where that is never. Whether the render is broken otherwise,
        `check` knows at the end.
        """
        held: list[np.ndarray] = []
        limiter, made = None, 0
        for chunk in chunks:
            self.check.add(soft_limit(chunk))
            chunk = self._fade(np.array(chunk, np.float32), made)
            made += len(chunk)
            if self._as_made:
                yield soft_limit(chunk)
                continue
            if limiter is None:
                held.append(chunk)
                if self._given is None and not self._enough(held, made):
                    continue
                limiter, chunk = self._limiter(held), np.concatenate(held)
                held = []
            if len(ready := limiter.take(chunk)):
                yield ready
        if self._as_made:
            return
        if limiter is None:  # a song that is over before
            self.check.finish()
            limiter = self._limiter(held)
            yield limiter.take(np.concatenate(held))
        yield limiter.rest()

    def _enough(self, held: list[np.ndarray], made: int) -> bool:
        """Whether the gain of a stream can be told from what was made of it."""
        seconds = made / self.sample_rate
        if seconds < FIRST_SECONDS or self.check.silent:
            return False
        heard = integrated_loudness(np.concatenate(held), self.sample_rate)
        return seconds >= MOST_SECONDS or heard >= QUIET

    def _limiter(self, held: list[np.ndarray]) -> Limiter:
        heard = np.concatenate(held)
        self.gain = self._gain_of(heard)
        return Limiter(self.sample_rate, heard.shape[1], gain=self.gain)

    def _gain_of(self, waveform: np.ndarray) -> float:
        if self._given is not None:
            return self._given
        return gain_towards(waveform, self.sample_rate, self.wish.loudness)

    def _limited(self, waveform: np.ndarray) -> Iterator[np.ndarray]:
        """Pieces of the waveform with its gain, no peak too high; of a loop at its seam either."""
        if self.loop is None:
            yield from limited(_blocks(waveform), self.sample_rate, gain=self.gain)
            return
        around = min(self.sample_rate, len(waveform))  # a second: no gain comes back later
        turning = [waveform[-around:], waveform, waveform[:around]]
        pieces = np.concatenate(list(limited(turning, self.sample_rate, gain=self.gain)))
        yield pieces[around : around + len(waveform)]

    def _fade(self, chunk: np.ndarray, start: int) -> np.ndarray:
        """The chunk that begins at frame `start`, faded where it lies in a fade; in place."""
        stop = start + len(chunk)
        if start >= self._fade_in and stop <= self.samples - self._fade_out:
            return chunk
        places = np.arange(start, stop)
        if start < self._fade_in:
            chunk *= _raised_cosine((places + 0.5) / self._fade_in)
        if stop > self.samples - self._fade_out:
            chunk *= _raised_cosine((self.samples - places - 0.5) / max(1, self._fade_out))
        return chunk


def folded(waveform: np.ndarray, loop: int) -> np.ndarray:
    """The first `loop` frames of a waveform (frames, channels), whose beginning is faded over from
    what followed them: played again and again, it goes on as the music did.
    """
    after = waveform[loop:]
    after = after[: min(len(after), loop)]
    weights = _raised_cosine((np.arange(len(after)) + 0.5) / max(1, len(after)))
    song = waveform[:loop]
    song[: len(after)] = after + weights * (song[: len(after)] - after)
    return song


def soft_limit(waveform: np.ndarray, knee: float = 0.9) -> np.ndarray:
    """Samples beyond `knee` bent towards 1 by tanh, the rest untouched; the same for every
    chunking.
    """
    size = np.abs(waveform)
    bent = knee + (1 - knee) * np.tanh((size - knee) / (1 - knee))
    return np.where(size > knee, np.sign(waveform) * bent, waveform).astype(np.float32)


def _raised_cosine(places: np.ndarray) -> np.ndarray:
    """From 0 to 1 as places do, (frames, 1)."""
    rising = 0.5 - 0.5 * np.cos(np.pi * np.clip(places, 0.0, 1.0))
    return rising.astype(np.float32)[:, None]


def _blocks(waveform: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(waveform), _BLOCK):
        yield waveform[start : start + _BLOCK]
