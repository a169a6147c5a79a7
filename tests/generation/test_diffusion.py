"""Diffusion samplers: windows that meet, noise of a window's own, guidance, passes counted."""

import mlx.core as mx
import numpy as np
import pytest

from musicot_mlx.errors import MusicotError
from musicot_mlx.generation import diffusion
from musicot_mlx.generation.diffusion import (
    LatentWindow,
    sample,
    sample_windows,
    window_vectors,
    windows,
)
from musicot_mlx.models.semantic_diffusion import DiffusionConfig
from tests.models.test_dit import TINY, conditions, tiny_diffusion
from tests.support.memory import peak_of

VECTOR = np.random.default_rng(1).standard_normal(12).astype(np.float32)
THOUGHTS = np.random.default_rng(2).standard_normal((12, 12)).astype(np.float32)
# a window of TINY is 2 s: 86 latent frames, of which 22 overlap


def song_codes(frames: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 16, -(-frames * 25 // 43)).astype(np.int32)


def song(model, frames: int, codes=None, **options) -> list[np.ndarray]:
    settings = {"steps": 3, "guidance_scale": 2.0, "key": mx.random.key(7), **options}
    codes = song_codes(frames) if codes is None else codes
    chunks = sample_windows(
        model, codes, VECTOR, THOUGHTS, frames=frames, thought_seconds=1.5, **settings
    )
    return [np.array(chunk) for chunk in chunks]


@pytest.mark.parametrize("frames", [1, 86, 87, 100, 150, 151, 500])
def test_windows_cover_every_frame_once(frames):
    cut = windows(frames, 86, 22)
    assert cut[0].start == 0 and cut[0].fresh == 0 and cut[-1].stop == frames
    for before, window in zip(cut[:-1], cut[1:], strict=True):
        assert window.fresh == before.stop and window.fresh - window.start >= 22
        assert window.stop - window.start == 86
    if frames <= 86:
        assert cut == [LatentWindow(0, frames, fresh=0)]


@pytest.mark.parametrize(
    ("objective", "sampler"),
    [("rectified_flow", "euler"), ("rectified_flow", "heun"), ("v", "dpmpp"), ("v", "dpmpp_sde")],
)
def test_chunks_join_to_the_song_and_do_not_depend_on_the_reader(objective, sampler):
    model = tiny_diffusion(objective=objective)
    chunks = song(model, 200, sampler=sampler)
    assert [c.shape for c in chunks] == [(1, 86, 4), (1, 64, 4), (1, 50, 4)]
    mx.random.normal((3,))  # whatever else draws in between
    again = song(model, 200, sampler=sampler)
    assert all(np.array_equal(a, b) for a, b in zip(chunks, again, strict=True))
    # the first window is made before anything after it is looked at
    first = next(iter(song(model, 200, sampler=sampler)))
    assert np.array_equal(first, chunks[0])
    assert all(np.isfinite(c).all() and c.std() > 0.1 for c in chunks)


def test_codes_may_come_in_blocks_and_are_read_no_further_than_needed():
    model, frames, read = tiny_diffusion(), 200, []
    codes = song_codes(frames)

    def blocks():
        for start in range(0, len(codes), 10):
            read.append(start)
            yield codes[start : start + 10]

    chunks = sample_windows(
        model, blocks(), VECTOR, THOUGHTS, frames=frames, steps=1, key=mx.random.key(7)
    )
    next(chunks)
    assert read[-1] < 50 + 10, "2 s are 50 codes"
    rest = [np.array(c) for c in chunks]
    whole = sample_windows(
        model, codes, VECTOR, THOUGHTS, frames=frames, steps=1, key=mx.random.key(7)
    )
    assert all(np.array_equal(a, b) for a, b in zip(rest, list(whole)[1:], strict=True))


def test_a_window_has_the_prompt_and_the_thoughts_it_touches():
    def rows(first: float, last: float, window: float = 10.0) -> list[int]:
        vectors = window_vectors(
            np.array([-1.0]),
            np.arange(5, dtype=np.float32)[:, None],
            first=first,
            last=last,
            thought_seconds=10.0,
            window_seconds=window,
        )
        return vectors[:, 0].astype(int).tolist()

    assert rows(0.01, 9.99) == [-1, 0, 0]  # on the grid: one thought, twice
    assert rows(8.01, 18.02) == [-1, 0, 1]
    assert rows(10.01, 19.99) == [-1, 1, 1]
    assert rows(0.01, 4.0) == [-1, 0, 0]  # a short song
    assert rows(45.0, 55.0) == [-1, 4, 4]  # no thought beyond the last
    assert rows(25.0, 49.0, window=25.0) == [-1, 2, 3, 4, 4]


def test_a_window_as_long_as_a_thought_hears_that_thought_alone(monkeypatch):
    """10 s are 430.66 latent frames, so the window's 431 last a little longer than its thought."""
    model, heard = tiny_diffusion(window_seconds=10.0, overlap_seconds=2.0), []
    monkeypatch.setattr(
        diffusion, "sample", lambda *given, noise, **_: heard.append(given) or noise
    )
    thoughts = np.arange(36, dtype=np.float32).reshape(3, 12)
    codes = song_codes(900)
    list(sample_windows(model, codes, thoughts[0], thoughts, frames=900, key=mx.random.key(0)))
    claps = [np.array(given[2])[0, 1:, 0].tolist() for given in heard]
    assert claps == [[0.0, 0.0], [0.0, 12.0], [12.0, 24.0]]


def test_a_short_song_is_one_exact_sample():
    model = tiny_diffusion(latent_scale=0.5)
    frames, key = 60, mx.random.key(7)
    (chunk,) = song(model, frames, duration=1.3)
    noise_key, _ = mx.random.split(mx.random.split(key, 1)[0])
    expected = sample(
        model,
        mx.array(song_codes(frames))[None],
        mx.array(np.stack([VECTOR, *THOUGHTS[[0, 0, 0]]]))[None],
        mx.zeros((1,)),
        mx.array([1.3]),
        noise=mx.random.normal((1, frames, 4), key=noise_key),
        steps=3,
        guidance_scale=2.0,
    )
    assert np.array_equal(chunk, np.array(expected))


@pytest.mark.parametrize(
    ("objective", "sampler"),
    [("rectified_flow", "euler"), ("rectified_flow", "heun"), ("v", "dpmpp"), ("v", "dpmpp_sde")],
)
def test_known_latents_come_back_as_they_were(objective, sampler):
    model = tiny_diffusion(objective=objective, latent_scale=0.25)
    known = 3 * mx.random.normal((2, 9, 4), key=mx.random.key(2))
    noise = mx.random.normal((2, 31, 4), key=mx.random.key(3))
    settings = {"noise": noise, "steps": 4, "sampler": sampler, "key": mx.random.key(4)}
    free = sample(model, **conditions(), **settings)
    held = sample(model, **conditions(), **settings, known=known)
    assert mx.abs(held[:, :9] - known).max().item() < 1e-5
    assert mx.abs(held[:, 9:] - free[:, 9:]).max().item() > 1e-3, "the rest must hear of it"


def test_guidance_is_the_stated_combination_of_two_rows():
    model, config = tiny_diffusion(), DiffusionConfig.from_dict(TINY)
    given = conditions()
    noise = mx.random.normal((2, 31, 4), key=mx.random.key(3))
    one = mx.ones((2,))
    cond = model(noise, one, **given)
    nothing = {"codes": mx.full((2, 40), config.no_token), "clap": mx.zeros_like(given["clap"])}
    base = model(noise, one, **{**given, **nothing})
    expected = noise - (base + 2.5 * (cond - base))  # one Euler step from t = 1 to 0
    out = sample(model, **given, noise=noise, steps=1, guidance_scale=2.5)
    assert mx.abs(out - expected).max().item() < 1e-4
    assert mx.abs(cond - base).max().item() > 1e-2


@pytest.mark.parametrize(("sampler", "per_window"), [("euler", 5), ("heun", 9)])
def test_progress_counts_the_passes_that_are_run(sampler, per_window):
    model, seen = tiny_diffusion(), []
    song(
        model,
        200,
        steps=5,
        sampler=sampler,
        progress=lambda done, total: seen.append((done, total)),
    )
    total = diffusion.forward_passes(model.config, 200, steps=5, sampler=sampler)
    assert total == 3 * per_window
    assert seen == [(i + 1, total) for i in range(total)]


def test_memory_does_not_grow_with_the_song():
    model = tiny_diffusion()
    mx.eval(model.parameters())
    short, long = (peak_of(lambda n=n: [0 for _ in song(model, n, steps=2)]) for n in (200, 1000))
    assert long < 1.2 * short + 100_000


def test_wrong_sampler_or_steps_are_refused_in_words():
    with pytest.raises(MusicotError, match="euler or heun"):
        song(tiny_diffusion(), 50, sampler="dpmpp")
    with pytest.raises(MusicotError, match="dpmpp or dpmpp_sde"):
        song(tiny_diffusion(objective="v"), 50, sampler="heun")
    with pytest.raises(MusicotError, match="no audio codes"):
        song(tiny_diffusion(), 50, codes=np.zeros(0, np.int32))
    with pytest.raises(MusicotError, match="at least 1"):
        song(tiny_diffusion(), 50, steps=0)


def test_segments_may_be_asked_for_different_things():
    model, settings = tiny_diffusion(), {"frames": 200, "thought_seconds": 1.5, "steps": 2}

    def render(vector: np.ndarray) -> list[np.ndarray]:
        key = mx.random.key(7)
        chunks = sample_windows(model, song_codes(200), vector, THOUGHTS, key=key, **settings)
        return [np.array(chunk) for chunk in chunks]

    alike, apart = np.tile(VECTOR, (4, 1)), np.tile(VECTOR, (4, 1))
    apart[2] = -VECTOR
    plain, same, other = render(VECTOR), render(alike), render(apart)
    for a, b in zip(plain, same, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(plain[0], other[0])  # its middle lies in the first segment
    assert (plain[-1] != other[-1]).any()


def test_a_song_goes_on_from_latents_that_are_there():
    model = tiny_diffusion()
    whole = np.concatenate(song(model, 200), axis=1)
    first = 150  # where the first two windows of this song end
    rest = song(model, 200, first=first, past=mx.array(whole[:, :first]))
    np.testing.assert_allclose(np.concatenate(rest, axis=1), whole[:, first:], atol=1e-5)
    later = song(model, 200, first=170, past=mx.array(whole[:, 60:170]))
    assert np.concatenate(later, axis=1).shape[1] == 30
    assert song(model, 200, first=200, past=mx.array(whole)) == []
