"""Diffusion samplers: windows that meet, noise of a window's own, guidance, passes counted."""

import mlx.core as mx
import numpy as np
import pytest

from musicot_mlx.errors import MusicotError
from musicot_mlx.generation import diffusion
from musicot_mlx.generation.diffusion import Window, sample, sample_windows, windows
from musicot_mlx.models.dit import DiffusionConfig
from tests.test_dit import TINY, conditions, tiny_diffusion

SECONDS = 2.0  # a window of TINY: 86 latent frames, 22 of them overlap


def clap_for_window(start: float, end: float) -> np.ndarray:
    """Another number of vectors, and other vectors, for each window."""
    rng = np.random.default_rng(round(100 * start))
    return rng.standard_normal((1 + int(end > SECONDS), TINY["clap_dim"])).astype(np.float32)


def song(model, frames: int, **options) -> list[np.ndarray]:
    codes = np.random.default_rng(0).integers(0, 16, -(-frames * 25 // 43)).astype(np.int32)
    settings = {"steps": 3, "guidance_scale": 2.0, "key": mx.random.key(7), **options}
    return [
        np.array(c)
        for c in sample_windows(model, codes, clap_for_window, frames=frames, **settings)
    ]


@pytest.mark.parametrize("frames", [1, 86, 87, 100, 150, 151, 500])
def test_windows_cover_every_frame_once(frames):
    cut = windows(frames, 86, 22)
    assert cut[0].start == 0 and cut[0].fresh == 0 and cut[-1].stop == frames
    for before, window in zip(cut[:-1], cut[1:], strict=True):
        assert window.fresh == before.stop and window.fresh - window.start >= 22
        assert window.stop - window.start == 86
    if frames <= 86:
        assert cut == [Window(0, 0, frames)]


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


def test_a_short_song_is_one_exact_sample():
    model = tiny_diffusion(latent_scale=0.5)
    frames, key = 60, mx.random.key(7)
    (chunk,) = song(model, frames)
    noise_key, _ = mx.random.split(mx.random.split(key, 1)[0])
    codes = np.random.default_rng(0).integers(0, 16, -(-frames * 25 // 43)).astype(np.int32)
    expected = sample(
        model,
        mx.array(codes)[None],
        mx.array(clap_for_window(0, frames / model.config.latent_rate))[None],
        mx.zeros((1,)),
        mx.array([frames / model.config.latent_rate]),
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


def test_rows_of_a_batch_are_songs_of_their_own():
    model = tiny_diffusion()
    codes = np.random.default_rng(0).integers(0, 16, (2, 60)).astype(np.int32)
    clap = np.random.default_rng(1).standard_normal((2, 2, 12)).astype(np.float32)
    chunks = list(
        sample_windows(model, codes, lambda *_: clap, frames=100, steps=2, key=mx.random.key(0))
    )
    assert [c.shape for c in chunks] == [(2, 86, 4), (2, 14, 4)]
    assert mx.abs(chunks[0][0] - chunks[0][1]).max().item() > 0.1


def test_memory_does_not_grow_with_the_song():
    model = tiny_diffusion()
    peaks = []
    for frames in (200, 1000):
        mx.clear_cache()
        mx.reset_peak_memory()
        codes = np.zeros(frames, np.int32)
        for _ in sample_windows(
            model, codes, clap_for_window, frames=frames, steps=2, key=mx.random.key(0)
        ):
            pass
        peaks.append(mx.get_peak_memory())
    assert peaks[1] < 1.2 * peaks[0] + 100_000


def test_wrong_sampler_or_steps_are_refused_in_words():
    with pytest.raises(MusicotError, match="euler or heun"):
        song(tiny_diffusion(), 50, sampler="dpmpp")
    with pytest.raises(MusicotError, match="dpmpp or dpmpp_sde"):
        song(tiny_diffusion(objective="v"), 50, sampler="heun")
    with pytest.raises(MusicotError, match="at least 1"):
        song(tiny_diffusion(), 50, steps=0)
