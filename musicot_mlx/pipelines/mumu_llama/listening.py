"""Songs, pictures and films to what LLaMA hears of them: encoder, pooling, bridge.

A song is heard from beginning to end, a minute at a time, however long it is, and each minute
counts by its frames. Upstream hears the first minute alone, and of a film 32 consecutive frames
from a random place: here they are spread over all of it, always the same ones.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import mlx.core as mx
import numpy as np

from musicot_mlx.audio.files import mono_windows
from musicot_mlx.audio.reading import audio_frames
from musicot_mlx.models.hubert import Hubert, song_means
from musicot_mlx.models.mumu_bridges import Bridges
from musicot_mlx.models.vit import ViT
from musicot_mlx.pictures.films import read_film
from musicot_mlx.pictures.images import frame_pixels, image_pixels, read_image
from musicot_mlx.pipelines.mumu_llama.memory import WINDOW
from musicot_mlx.pipelines.options import Progress

Audio = str | Path | tuple[np.ndarray, int]  # a file, or samples and their rate in Hz
LISTENING = "listening"  # what progress calls it


@dataclass(frozen=True)
class FilmPixels:
    """How frames become pixels (pictures/images.py): section `film` of config.json."""

    shortest_edge: int = 256
    twice: bool = False  # as the model with MusicGen small was trained


def hear(mert: Hubert, bridges: Bridges, audio: Audio, progress: Progress | None) -> mx.array:
    """What LLaMA hears of a song of any length, (1, hidden).

    Raises MusicotError for a file that is missing, broken, empty or shorter than a frame.
    """
    if bridges.config.pooling == "mean":
        pooled = bridges.audio.pooled(audio_states(mert, audio, progress)[None])
        return bridges.feature("audio", pooled)
    total, frames = mx.zeros((1, bridges.config.audio_size)), 0
    for window in _windows(mert, audio, progress):
        if count := mert.config.frames(len(window)):
            total = total + count * bridges.pool_audio(mert.states(mx.array(window)[None]))
            frames += count
            mx.eval(total)
    if not frames:
        song_means(mert, [], name=_name(audio))  # says that the song is too short
    return bridges.feature("audio", total / frames)


def audio_states(mert: Hubert, audio: Audio, progress: Progress | None = None) -> mx.array:
    """The means over time of MERT's states of a whole song, (states, size)."""
    return song_means(mert, _windows(mert, audio, progress), name=_name(audio))


def image_states(vit: ViT, image: str | Path) -> mx.array:
    """What ViT makes of a picture, (1, tokens, size). Raises MusicotError for what is none."""
    return vit(mx.array(image_pixels(read_image(image), vit.config.image_size))[None])


def video_states(vivit: ViT, video: str | Path, how: FilmPixels) -> mx.array:
    """What ViViT makes of a film, (1, tokens, size). Raises MusicotError for what is none."""
    config = vivit.config
    prepare = partial(
        frame_pixels, size=config.image_size, shortest_edge=how.shortest_edge, twice=how.twice
    )
    film = read_film(video, count=config.num_frames, prepare=prepare)
    return vivit(mx.array(film.frames)[None])


def _name(audio: Audio) -> str:
    """What errors call a song."""
    return "a waveform" if isinstance(audio, tuple) else f"audio file {audio}"


def _windows(mert: Hubert, audio: Audio, progress: Progress | None) -> Iterator[np.ndarray]:
    """The song as MERT takes it, a minute at a time."""
    rate = mert.config.sampling_rate
    return _counted(audio, mono_windows(audio, sample_rate=rate, seconds=WINDOW), progress)


def _counted(
    audio: Audio, windows: Iterator[np.ndarray], progress: Progress | None
) -> Iterator[np.ndarray]:
    """The windows of a song, told of as each has been heard."""
    if progress is None:
        yield from windows
        return
    frames, rate = (len(audio[0]), audio[1]) if isinstance(audio, tuple) else audio_frames(audio)
    total = max(1, -int(-frames // (WINDOW * rate)))
    for number, window in enumerate(windows, start=1):
        yield window
        progress(LISTENING, min(number, total), total)


def look(vit: ViT, bridges: Bridges, image: str | Path) -> mx.array:
    """What LLaMA sees of a picture, (1, hidden). Raises MusicotError for what is none."""
    return bridges.feature("image", bridges.pool("image", image_states(vit, image)))


def watch(vivit: ViT, bridges: Bridges, video: str | Path, how: FilmPixels) -> mx.array:
    """What LLaMA sees of a film, (1, hidden). Raises MusicotError for what is none."""
    return bridges.feature("video", bridges.pool("video", video_states(vivit, video, how)))
