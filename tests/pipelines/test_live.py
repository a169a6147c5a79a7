"""Music without end: what each frame is asked for, what lines change and when, and what is kept."""

import gc
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import pytest
import soundfile

from musicot_mlx.audio.loudness import integrated_loudness
from musicot_mlx.errors import MusicotError, RunError
from musicot_mlx.pipelines.lines import read_line
from musicot_mlx.pipelines.magenta_rt2 import live as live_module
from musicot_mlx.pipelines.magenta_rt2.live import GLIDE_STEPS, Live
from musicot_mlx.pipelines.magenta_rt2.pipeline import MagentaPipeline
from musicot_mlx.pipelines.plans.thoughts import embed_windows, quantised, slerp, unit, vectors_of
from musicot_mlx.tokens.magenta_rt2 import frame_ids
from tests.support import tiny_magenta_model

BLOCK = 25
STILL = {"variation": 0.0, "glide": 0.0, "loudness": False}


class Tones:
    """A codec that is quick: a frame is a tone by its first code, and remembers all codes."""

    config = SimpleNamespace(channels=2, sample_rate=48000, hop_length=1920)
    level = 0.1

    def decode_stream(self, blocks: Iterator[mx.array]) -> Iterator[mx.array]:
        self.codes: list[np.ndarray] = []
        for block in blocks:
            self.codes.append(np.array(block)[0])
            first = self.codes[-1][0].astype(np.float32)
            tones = np.sin(np.arange(1920) * (0.01 + 0.01 * first[:, None])).reshape(-1, 1)
            yield mx.array(self.level * np.repeat(tones, 2, axis=1))[None]


def model_with_tones() -> MagentaPipeline:
    made = tiny_magenta_model.pipeline()
    made.codec = Tones()
    return made


@pytest.fixture
def model() -> MagentaPipeline:
    return model_with_tones()


def rows(live: Live, monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """What the run is told of the blocks from now on."""
    told: list[np.ndarray] = []
    ask = live._run.ask

    def heard(requests: np.ndarray, *, first: int) -> None:
        assert first == live.frame
        told.append(requests[0])
        ask(requests, first=first)

    monkeypatch.setattr(live._run, "ask", heard)
    return told


def say(live: Live, text: str, tempo: float = 120) -> None:
    live.take(read_line(text, tempo))


def style(row: np.ndarray) -> np.ndarray:
    return row[:4] - 7


def drums(table: np.ndarray) -> list[str]:
    return [{7: "none", 8: "play", 6: "free"}[int(value)] for value in table[:, 140]]


def test_it_is_the_song_that_generate_makes(model: MagentaPipeline) -> None:
    """Thought by thought and frame by frame, as long as nothing is typed."""
    live = model.live("calm piano", seed=8, glide=0, variation=1.0, loudness=False)
    for _ in range(3):
        next(live)
    tiny = model_with_tones()
    song = tiny.generate("calm piano", duration=3, seed=8, variation=1.0, loudness=False)
    np.testing.assert_array_equal(np.concatenate(model.codec.codes, 1)[:, :75], song.codes[:, :75])
    assert len({tuple(codes) for codes in song.plan.codes.T}) > 1


def test_with_its_glide_it_is_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked for of every frame, on the way between thoughts too."""
    asked, requests = [], MagentaPipeline.requests
    monkeypatch.setattr(
        MagentaPipeline, "requests", lambda *given: asked.append(requests(*given)) or asked[-1]
    )
    for glide in (0.0, 0.5, 1.0):
        live = model_with_tones().live("calm piano", seed=8, glide=glide, variation=1.0)
        told = rows(live, monkeypatch)
        for _ in range(3):
            next(live._pieces)
        model_with_tones().generate("calm piano", duration=5, seed=8, glide=glide, variation=1.0)
        np.testing.assert_array_equal(np.concatenate(told), asked[-1][:75])
    ways = [table[:75].tobytes() for table in asked]
    assert len(set(ways)) == 3


def test_refreshed_it_is_too(model: MagentaPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("musicot_mlx.generation.magenta_rt2.LEFT", 2)
    monkeypatch.setattr(live_module, "LEFT", 2)
    live = model.live("calm piano", seed=3, glide=0, refresh=1.2, loudness=False)
    for _ in range(3):
        next(live)
    tiny = model_with_tones()
    plain, fresh = (
        tiny.generate("calm piano", duration=3, seed=3, loudness=False, refresh=seconds).codes
        for seconds in (0.0, 1.2)
    )
    made = np.concatenate(model.codec.codes, 1)[:, :75]
    np.testing.assert_array_equal(made, fresh[:, :75])
    assert (made != plain[:, :75]).any()


def test_a_line_is_the_next_thought_with_a_glide(
    model: MagentaPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exactly: 10 frames in 8 steps of the great circle, quantised, then the thought itself."""
    live = model.live("calm piano", seed=1, variation=0.0, glide=0.4, loudness=False)
    told = rows(live, monkeypatch)
    next(live)
    say(live, "play drums")
    assert live.arrived == 0.0 and str(live.wanted) == "drums"
    next(live)
    before, after = (
        model.draw_thoughts(model.text_vector(text), words=text, segments=1, seed=1, variation=0.0)[
            0, :, 0
        ]
        for text in ("calm piano", "drums")
    )
    here, there = (vectors_of(model, codes[:, None])[0] for codes in (before, after))
    assert (before != after).any()
    for row in told[0]:
        np.testing.assert_array_equal(style(row), before)
    for frame, row in enumerate(told[1]):
        expected = after
        if frame < 10:
            step = frame * GLIDE_STEPS // 10
            expected = quantised(model, slerp(here, there, (step + 1) / 9)[None])[:, 0]
        np.testing.assert_array_equal(row, frame_ids(expected, strengths=(3.0, 1.0, 1.0)))
    assert live.arrived == 1.0


def test_a_line_amid_a_glide_goes_on_from_there(
    model: MagentaPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = model.live("calm piano", seed=1, variation=0.0, glide=4.0, loudness=False)
    told = rows(live, monkeypatch)
    say(live, "play drums")
    next(live)  # 25 of 100 frames
    half = live._gliding.vector(25)
    first = live._gliding.here
    say(live, "piano")
    np.testing.assert_array_equal(live._gliding.here, half)
    assert np.abs(half - first).max() > 1e-3
    next(live)
    way = slerp(half, live._gliding.there, 1 / 9)
    np.testing.assert_array_equal(style(told[1][0]), quantised(model, way[None])[:, 0])


def test_thoughts_follow_one_another(
    model: MagentaPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One a second here, the numbered draws of the same words; a line begins the second anew."""
    live = model.live("calm piano", seed=1, variation=1.0, glide=0, loudness=False)
    told = rows(live, monkeypatch)
    for _ in range(4):
        next(live)

    def drawn(words: str, count: int, seed: int = 1) -> np.ndarray:
        vector = model.text_vector(words)
        return model.draw_thoughts(vector, words=words, segments=count, seed=seed, variation=1.0)[0]

    expected = drawn("calm piano", 4)
    assert len({tuple(codes) for codes in expected.T}) > 1
    for block, codes in zip(told, expected.T, strict=True):
        assert (block[:, :4] - 7 == codes).all()
    say(live, "seed 5")
    next(live)
    np.testing.assert_array_equal(style(told[-1][0]), drawn("calm piano", 4, seed=5)[:, 3])


def test_more_is_a_share_of_the_thought(
    model: MagentaPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = model.live("calm piano", seed=1, **STILL)
    told = rows(live, monkeypatch)
    say(live, "more drums")
    next(live)
    each = [
        model.draw_thoughts(model.text_vector(text), words=text, segments=1, seed=1, variation=0.0)[
            0, :, 0
        ]
        for text in ("calm piano", "drums")
    ]
    vectors = vectors_of(model, np.stack(each, axis=1))
    mixed = quantised(model, unit(0.7 * vectors[0] + 0.3 * vectors[1])[None])[:, 0]
    np.testing.assert_array_equal(style(told[0][0]), mixed)
    say(live, "more drums")
    assert str(live.wanted) == "0.49 calm piano, 0.51 drums"
    for _ in range(20):
        say(live, "more piano")
    assert str(live.wanted) == "piano", "what hardly counts is left out"
    for number in range(15):
        say(live, f"more piano {number} drums")
    assert len(live.wanted.sources) <= 12


def test_a_recording_is_followed(
    model: MagentaPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = np.random.default_rng(0).standard_normal((2 * 8000, 1)) * 0.1
    noise[8000:, 0] = 0.3 * np.sin(2 * np.pi * 400 * np.arange(8000) / 8000)
    soundfile.write(tmp_path / "a.wav", noise, 8000)
    live = model.live("calm piano", seed=1, **STILL)
    told = rows(live, monkeypatch)
    say(live, f"@{tmp_path}/a.wav 1")
    assert str(live.wanted) == "@a.wav"
    for _ in range(3):
        next(live)
    heard = quantised(model, embed_windows(model, tmp_path / "a.wav", 1.0))
    assert (heard[:, 0] != heard[:, 1]).any()
    for block, window in zip(told, (0, 1, 0), strict=True):
        np.testing.assert_array_equal(style(block[0]), heard[:, window])
    (tmp_path / "a.wav").unlink()
    next(live)
    assert len(live.notes) == 1 and "the thought stays as it is: " in live.notes[0]
    np.testing.assert_array_equal(style(told[3][0]), heard[:, 0])


def test_what_can_not_be_read_changes_nothing(model: MagentaPipeline, tmp_path: Path) -> None:
    live = model.live("calm piano", seed=1, **STILL)
    (tmp_path / "text.wav").write_text("no audio")
    before = live.wanted, live._gliding
    for line in (f"@{tmp_path}/none.wav", f"@{tmp_path}/text.wav", f"4 bars @{tmp_path}"):
        with pytest.raises(MusicotError) as error:
            say(live, line)
        assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)
        assert (live.wanted, live._gliding) == before and live.left is None
    say(live, "no drums")
    assert live.wanted.drums == "none"


def test_some_bars_of_something(model: MagentaPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the frame; what is typed meanwhile for good stays, and two may overlap."""
    live = model.live("calm piano", seed=1, **STILL)
    told = rows(live, monkeypatch)
    say(live, "1 bars no drums", tempo=120)  # 2 s: 50 frames
    next(live)
    assert live.left == pytest.approx(1.0)
    say(live, "more drums")  # for good
    say(live, "0.4 s strength 5")  # 10 frames
    next(live)
    next(live)
    table = np.concatenate(told)
    assert drums(table) == ["none"] * 50 + ["free"] * 25
    assert (table[25:35, 141] == frame_ids([], strengths=(5.0, 1, 1))[141]).all()
    assert (table[35:, 141] == frame_ids([], strengths=(3.0, 1, 1))[141]).all()
    assert str(live.wanted) == "0.7 calm piano, 0.3 drums" and live.left is None
    say(live, "1 s play drums")
    next(live)
    assert str(live.wanted) == "drums"
    next(live)
    assert str(live.wanted) == "0.7 calm piano, 0.3 drums"
    np.testing.assert_array_equal(style(told[-1][0]), style(told[2][0]))


def test_level(model: MagentaPipeline) -> None:
    """The first seconds tell the gain, which holds."""
    live = model.live("calm piano", seed=1)
    blocks = [next(live) for _ in range(4)]
    assert len(blocks[0]) > 2.8 * 48000 and len(blocks[1]) < 1.1 * 48000
    assert integrated_loudness(np.concatenate(blocks), 48000) == pytest.approx(-16, abs=1)
    made = model.live("calm piano", seed=1, loudness=False)
    assert np.abs(next(made)).max() == pytest.approx(0.1, abs=1e-3)
    fixed = model.live("calm piano", seed=1, gain=6.0)
    assert np.abs(next(fixed)).max() == pytest.approx(0.2, abs=2e-3)


@pytest.mark.parametrize(("level", "words"), [(0.0, "is silent"), (np.nan, "no sound")])
def test_what_is_no_sound_ends_it(
    model: MagentaPipeline, level: float, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.codec.level = level
    monkeypatch.setattr(live_module, "MOST_SECONDS", 1.0)
    monkeypatch.setattr(live_module, "MOST_SILENCE", 2.0)
    live = model.live("calm piano", seed=1)
    with pytest.raises(RunError, match=words):
        next(live)


def test_speed_is_what_lately_was(model: MagentaPipeline) -> None:
    pieces = iter([mx.zeros((1, 48000, 2))] * 40)
    taken = iter([100.0, 2.0, 2.0, *[0.5] * 30])
    time = 0.0

    def slow() -> Iterator[mx.array]:
        nonlocal time
        for piece in pieces:
            time += next(taken)
            yield piece

    live = Live(model, model.live("piano", **STILL).wish, clock=lambda: time)
    live._pieces = slow()
    next(live)
    assert live.rtf == 0.0, "the first one waits for the compiler"
    next(live)
    next(live)
    assert live.rtf == pytest.approx(2.0)
    for _ in range(25):
        next(live)
    assert live.rtf == pytest.approx(0.5, abs=0.02)


def test_memory_is_flat(model: MagentaPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines come all the time, thoughts too; five times the blocks leave no more than that."""
    monkeypatch.setattr(live_module, "BLOCK", 5)
    monkeypatch.setattr(live_module, "LEFT", 20)
    live = model.live("calm piano", seed=1, loudness=False, glide=0.5)
    lines = ["more drums", "calm piano", "1 bars no drums", "0.2 s drums", "seed 4"]

    def play(blocks: int) -> tuple[int, int]:
        for block in range(blocks):
            say(live, lines[block % len(lines)], tempo=1200)
            next(live)
            model.codec.codes.clear()
        gc.collect()
        return mx.get_active_memory(), len(gc.get_objects())

    play(10)
    memory, objects = play(5)
    later, more = play(25)
    assert later <= memory * 1.02 and more <= objects + 50


def test_nothing_to_play(model: MagentaPipeline) -> None:
    for prompt in (None, " "):
        with pytest.raises(MusicotError, match="nothing to play"):
            model.live(prompt)
    with pytest.raises(MusicotError, match="ask for one of free, none, play"):
        model.live("piano", drums="loud")
