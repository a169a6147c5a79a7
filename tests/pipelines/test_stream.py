"""Streams: the chunks of the song in any thread, its bytes in a file, and an end in peace."""

import asyncio
import gc
import itertools
import json
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import musicot_mlx as mc
from musicot_mlx.errors import MusicotError, RunError
from musicot_mlx.generation import device
from musicot_mlx.pipelines.options import AS_MADE
from musicot_mlx.pipelines.song import Song
from tests.support import tiny

SONG = {"duration": 5, "seed": 1, **AS_MADE}


@pytest.fixture(scope="module", params=["tiny_model", "tiny_musicgen_upstream"])
def model(request: pytest.FixtureRequest) -> Any:
    """A model of either family."""
    return mc.load(request.getfixturevalue(request.param))


@pytest.fixture(scope="module")
def song(model: Any) -> Song:
    return model.generate("piano", **SONG)


def test_chunks_may_be_taken_in_any_thread(model: Any, song: Song) -> None:
    made = ThreadPoolExecutor(1).submit(model.stream, "piano", **SONG).result()
    chunks = []
    with ThreadPoolExecutor(3) as pool:
        while (chunk := pool.submit(next, made, None).result()) is not None:
            chunks.append(chunk)
    assert len(chunks) > 1
    assert (np.concatenate(chunks) == song.waveform).all()
    assert (made.codes.ravel() == song.codes.ravel()).all()


def test_several_streams_at_once_are_each_its_song(model: Any) -> None:
    def whole(seed: int) -> np.ndarray:
        return np.concatenate(list(model.stream("piano", **{**SONG, "seed": seed})))

    with ThreadPoolExecutor(3) as pool:
        heard = list(pool.map(whole, (1, 2, 3)))
    for seed, waveform in zip((1, 2, 3), heard, strict=True):
        assert (waveform == model.generate("piano", **{**SONG, "seed": seed}).waveform).all()


def test_one_stream_shared_by_threads_gives_each_chunk_once(model: Any, song: Song) -> None:
    stream, samples = model.stream("piano", **SONG), []

    def take() -> None:
        samples.extend(len(chunk) for chunk in stream)

    threads = [threading.Thread(target=take) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(samples) == len(song.waveform)


def test_a_web_server_reads_it_without_blocking(model: Any, song: Song) -> None:
    async def answer() -> list[np.ndarray]:
        loop = asyncio.get_running_loop()
        stream = await loop.run_in_executor(None, lambda: model.stream("piano", **SONG))
        chunks = []
        while (chunk := await loop.run_in_executor(None, next, stream, None)) is not None:
            chunks.append(chunk)
        return chunks

    assert (np.concatenate(asyncio.run(answer())) == song.waveform).all()


def test_a_stream_that_is_closed_or_let_go_ends_and_the_next_is_whole(
    model: Any, song: Song
) -> None:
    with model.stream("piano", **SONG) as stream:
        next(stream)
    assert list(stream) == []
    stream = model.stream("piano", **SONG)
    next(stream)
    ThreadPoolExecutor(1).submit(stream.close).result()
    assert next(stream, None) is None
    let_go = model.stream("piano", **SONG)
    next(let_go)
    del let_go
    gc.collect()
    assert (np.concatenate(list(model.stream("piano", **SONG))) == song.waveform).all()


def test_closing_stops_what_is_being_made_at_its_next_step(model: Any) -> None:
    told, waiting = [], threading.Event()

    def progress(*step: object) -> None:
        told.append(step)
        waiting.set()
        time.sleep(0.01)

    stream = model.stream("piano", duration=60, progress=progress)
    waiting.clear()
    taking = ThreadPoolExecutor(1).submit(next, stream, None)
    waiting.wait()
    stream.close()
    taking.result()
    count = len(told)
    time.sleep(0.1)
    assert len(told) == count < 50 and next(stream, None) is None


def test_what_progress_raises_comes_out_where_the_chunk_was_asked_for(model: Any) -> None:
    def progress(stage: str, done: int, total: int) -> None:
        if stage == "waveform":
            raise KeyError("mine")

    stream = model.stream("piano", progress=progress, **SONG)
    with pytest.raises(KeyError, match="mine"):
        list(stream)
    assert list(stream) == []


def test_progress_may_ask_for_another_song(model: Any) -> None:
    heard = []

    def progress(stage: str, done: int, total: int) -> None:
        if not heard:
            heard.append(next(model.stream("drums", duration=1)))

    next(model.stream("piano", progress=progress, **SONG))
    assert len(heard[0])


def test_errors_are_raised_at_the_call(model: Any) -> None:
    with pytest.raises(MusicotError, match="prompt is empty"):
        model.stream("  ")
    with pytest.raises(MusicotError, match="before it can be chosen"):
        model.stream("piano", candidates=2)
    with pytest.raises(TypeError, match="unknown option 'sed'; did you mean seed"):
        model.stream("piano", sed=1)


@pytest.mark.parametrize("rate", [None, 44100])
@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3", "ogg"])
def test_the_files_of_a_stream_are_the_songs(
    model: Any, tmp_path: Path, suffix: str, rate: int | None
) -> None:
    plain, streamed = tmp_path / f"a.{suffix}", tmp_path / f"b.{suffix}"
    options = {"duration": 5, "seed": 1}
    stream = model.stream("piano", **options)
    saved = stream.save(streamed, rate or model.sample_rate)
    model.generate("piano", gain=stream.gain, **options).save(plain, sample_rate=rate)
    assert plain.read_bytes() == streamed.read_bytes()
    assert plain.with_suffix(".json").read_text() == streamed.with_suffix(".json").read_text()
    assert saved.files == [streamed, streamed.with_suffix(".json")] and not saved.heard


def test_settings_that_cannot_be_written_leave_nothing(song: Song, tmp_path: Path) -> None:
    strange = Song(**{**vars(song), "settings": {"mine": object()}})
    with pytest.raises(TypeError):
        strange.save(tmp_path / "a.wav")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "b.json").mkdir()
    (tmp_path / "b.wav.json").mkdir()
    with pytest.raises(MusicotError, match="would be written over .*b.wav.json"):
        song.save(tmp_path / "b.wav")
    with pytest.raises(MusicotError, match="is where the settings go"):
        song.save(tmp_path / "c.json", format="wav")
    silent = Song(**{**vars(song), "waveform": 0 * song.waveform, "fault": None})
    with pytest.raises(RunError, match="silent"):
        silent.save(tmp_path / "d.wav")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["b.json", "b.wav.json"]


def test_how_a_song_is_written_is_plain_or_refused(song: Song, tmp_path: Path) -> None:
    song.save(tmp_path / "a.wav", bit_depth=24, bitrate=None, title="a\0b")
    song.save(tmp_path / "b.wav", bit_depth="24", title="a b")
    for suffix in ("wav", "json"):
        one, other = ((tmp_path / f"{name}.{suffix}").read_bytes() for name in "ab")
        assert one == other
    for name, value in {"title": 5, "bitrate": "high", "bit_depth": True}.items():
        with pytest.raises(MusicotError, match=name.replace("_", " ?.?")):
            song.save(tmp_path / "c.mp3", **{name: value})
    with pytest.raises(MusicotError, match="half a character"):
        song.save(tmp_path / "c.flac", title="a\ud800")
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize("end", ["pass", "del stream", "raise SystemExit(3)"])
def test_a_program_that_leaves_a_stream_unread_ends_in_peace(tiny_model: Path, end: str) -> None:
    code = f"""import musicot_mlx as mc
model = mc.load({str(tiny_model)!r})
stream = model.stream("piano", duration=8)
next(stream)
{end}"""
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=tiny.environment()
    )
    assert (run.returncode, run.stderr) == (3 if "3" in end else 0, "")


def test_a_sidecar_is_json_whatever_numbers_were_given(model: Any, tmp_path: Path) -> None:
    numbers = {"seed": np.int64(4), "duration": np.float32(1.5), "audio_temperature": np.array(1)}
    song = model.generate("piano", **numbers, top_k=np.array([5]), audio_guidance=np.float16(2))
    song.save(tmp_path / "a.wav", sample_rate=np.int32(16000))
    settings = json.loads((tmp_path / "a.json").read_text())
    assert settings["seed"] == 4 and settings["duration"] == 1.5 and settings["top_k"] == 5
    again = model.generate("piano", seed=4, duration=1.5, audio_temperature=1.0, top_k=5)
    assert again.settings == {**song.settings, "audio_guidance": again.settings["audio_guidance"]}


@pytest.mark.skipif(device.blas() == "MLX's own", reason="only OpenBLAS rounds by its threads")
def test_songs_of_several_threads_take_turns(tiny_model: Path) -> None:
    """And so have the bytes that each has alone: the number of BLAS's threads is the process's."""
    model, told = mc.load(tiny_model), []
    alone = {seed: model.generate("piano", duration=4, seed=seed) for seed in (1, 2, 3)}
    made: dict[int, np.ndarray] = {}

    def generate(seed: int) -> None:
        def heard(stage: str, done: int, total: int) -> None:
            told.append(seed)
            time.sleep(0.001)  # the others may run

        made[seed] = model.generate("piano", duration=4, seed=seed, progress=heard).waveform

    def streamed() -> None:
        chunks = model.stream("piano", duration=4, seed=3, gain=alone[3].gain)
        made[3] = np.concatenate(list(chunks))

    works = [partial(generate, 1), partial(generate, 2), streamed]
    threads = [threading.Thread(target=work) for work in works]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(list(itertools.groupby(told))) == 2  # one song to its end, then the other
    for seed, song in alone.items():
        np.testing.assert_array_equal(made[seed], song.waveform)


def test_who_waits_lends_the_turn(tiny_model: Path) -> None:
    model, found = mc.load(tiny_model), []

    def within(stage: str, done: int, total: int) -> None:
        if len(found) < 3:
            found.append(model.plan("drums", duration=1))

    def heard(stage: str, done: int, total: int) -> None:
        if not found:  # a stream within a song, and a song within that
            found.append("begun")
            next(model.stream("drums", duration=2, progress=within))

    model.generate("piano", duration=2, progress=heard)
    assert len(found) == 3
