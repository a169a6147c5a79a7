"""A server that streams songs while they are made, with FastAPI.

    pip install fastapi uvicorn
    uvicorn stream_server:app
    curl "localhost:8000/song.wav?prompt=calm+harp&duration=20" | ffplay -autoexit -

The chunks of a stream may be taken in any thread, so FastAPI's pool of them will do. When the
listener goes, the generator is closed and with it the stream: no more of the song is made.
"""

import struct
from collections.abc import Iterator
from functools import cache

import numpy as np
from fastapi import FastAPI, HTTPException
from fastapi.responses import StreamingResponse

import musicot_mlx as mc

app = FastAPI()


@cache
def model() -> mc.MusicotPipeline:
    """The model, loaded at the first song."""
    return mc.load("musicot-mini")


@app.get("/song.wav")
def song(prompt: str, duration: float = 20.0, seed: int = 0) -> StreamingResponse:
    """A song as WAV, from its first second on."""
    try:
        stream = model().stream(prompt, duration=duration, seed=seed)
    except mc.MusicotError as error:  # one line that says what to ask for instead
        raise HTTPException(status_code=400, detail=str(error)) from error
    return StreamingResponse(wav(stream), media_type="audio/wav")


def wav(stream: mc.Stream) -> Iterator[bytes]:
    """A stream as the bytes of a 16-bit WAV whose length is not told, as it is not known yet."""
    with stream:
        first = next(stream)
        yield header(stream.sample_rate, first.shape[1])
        yield pcm(first)
        yield from map(pcm, stream)


def pcm(chunk: np.ndarray) -> bytes:
    """float32 (frames, channels) in -1..1 as 16-bit samples."""
    return np.clip(np.rint(chunk * 32768), -32768, 32767).astype("<i2").tobytes()


def header(rate: int, channels: int) -> bytes:
    """What a WAV begins with; players read on to the end where the length is the longest."""
    longest, width = 0xFFFFFFFF, 2 * channels
    form = struct.pack("<4sI4s", b"RIFF", longest, b"WAVE")
    sound = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, channels, rate, rate * width, width, 16)
    return form + sound + struct.pack("<4sI", b"data", longest)
