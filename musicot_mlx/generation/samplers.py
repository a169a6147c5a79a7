"""Samplers of diffusion: from noise to latents along any velocity.

Rectified flow (arXiv 2209.03003) runs from t = 1 (noise) to 0 by Euler's or Heun's method. v models
(arXiv 2202.00512) are sampled as Stable Audio samples: DPM-Solver++ (arXiv 2211.01095), multistep
and of second order, over exponentially spaced noise levels; `dpmpp` is diffusers'
EDMDPMSolverMultistepScheduler, `dpmpp_sde` the same with fresh noise at every step, as diffusers'
CosineDPMSolverMultistepScheduler has it (ours comes from the key, theirs from a Brownian tree).

The state is float32 whatever the network's dtype. Latents that are already made may be imposed on
the first frames, at every step with the noise that belongs to that step.
"""

import math
from typing import Protocol

import mlx.core as mx

from musicot_mlx.errors import MusicotError

SAMPLERS = {"rectified_flow": ("euler", "heun"), "v": ("dpmpp", "dpmpp_sde")}
_SIGMA_MIN, _SIGMA_MAX = 0.3, 500.0  # Stable Audio Open's noise levels; data have deviation 1


class Velocity(Protocol):
    """A network with all its conditions, over the times of `schedule`."""

    def __call__(self, x: mx.array, i: int) -> mx.array:
        """Float32 velocity of x at the i-th time, of the shape of x."""
        ...


def choose_sampler(objective: str, sampler: str | None) -> str:
    """The sampler by name, or the objective's first; MusicotError for one that doesn't fit."""
    known = SAMPLERS[objective]
    if sampler is not None and sampler not in known:
        raise MusicotError(
            f"sampler is {sampler!r}; a model trained for {objective} takes {' or '.join(known)}"
        )
    return sampler or known[0]


def passes(objective: str, *, steps: int, sampler: str | None = None) -> int:
    """How many velocities a sampler takes."""
    return 2 * steps - 1 if choose_sampler(objective, sampler) == "heun" else steps


def schedule(objective: str, steps: int) -> tuple[list[float], list[float]]:
    """Noise levels, the last of which is 0, and the times in [0, 1] of those but the last."""
    if objective == "rectified_flow":
        levels = [1 - i / steps for i in range(steps)] + [0.0]
        return levels, levels[:-1]
    levels = exponential_sigmas(steps)
    return levels, [math.atan(sigma) * 2 / math.pi for sigma in levels[:-1]]


def exponential_sigmas(steps: int) -> list[float]:
    """Noise levels from 500 down to 0.3, evenly spaced in the logarithm, then 0."""
    low, high = math.log(_SIGMA_MIN), math.log(_SIGMA_MAX)
    if steps == 1:
        return [_SIGMA_MIN, 0.0]  # as torch.linspace, and so diffusers, has it
    return [math.exp(high + (low - high) * i / (steps - 1)) for i in range(steps)] + [0.0]


def solve(
    velocity: Velocity,
    noise: mx.array,
    *,
    sampler: str,
    levels: list[float],
    known: mx.array | None = None,
    key: mx.array | None = None,
) -> mx.array:
    """Latents of the shape of noise (batch, time, channels), float32, by a sampler of SAMPLERS.

    levels: of `schedule`. known (batch, up to time, channels): what the latents begin with. key is
    needed by dpmpp_sde only.
    """
    if sampler in SAMPLERS["rectified_flow"]:
        return flow(velocity, noise, known, levels, heun=sampler == "heun")
    return dpm_solver(velocity, noise, known, levels, key=key if "sde" in sampler else None)


def flow(
    velocity: Velocity,
    noise: mx.array,
    known: mx.array | None,
    times: list[float],
    *,
    heun: bool,
) -> mx.array:
    """Rectified flow: dx/dt = v from t = 1 to 0; x_t = (1 - t) x_0 + t noise where x_0 is known."""

    def impose(x: mx.array, t: float) -> mx.array:
        return _impose(x, known, noise, 1 - t, t)

    x = impose(noise, 1.0)
    for i, (t, after) in enumerate(zip(times[:-1], times[1:], strict=True)):
        v = velocity(x, i)
        if heun and after > 0:  # the last step is Euler's: nothing is left to correct with at 0
            ahead = impose(x + (after - t) * v, after)
            v = (v + velocity(ahead, i + 1)) / 2
        x = impose(x + (after - t) * v, after)
    return x


def dpm_solver(
    velocity: Velocity,
    noise: mx.array,
    known: mx.array | None,
    sigmas: list[float],
    *,
    key: mx.array | None,
) -> mx.array:
    """DPM-Solver++(2M), with key its stochastic form; x = x_0 + sigma noise where x_0 is known.

    First order at the first and the last step, midpoint in between, as diffusers does it.
    """

    def impose(x: mx.array, sigma: float) -> mx.array:
        return _impose(x, known, noise, 1.0, sigma)

    keys = None if key is None else mx.random.split(key, len(sigmas))
    x = impose(noise * math.sqrt(_SIGMA_MAX**2 + 1), sigmas[0])
    denoised = None
    for i, (sigma, after) in enumerate(zip(sigmas[:-1], sigmas[1:], strict=True)):
        size = math.sqrt(sigma**2 + 1)
        v = velocity(x / size, i)
        previous, denoised = denoised, x / size**2 - (sigma / size) * v
        target = denoised
        if previous is not None and after > 0:
            log_step = math.log(sigma / after)
            log_step_before = math.log(sigmas[i - 1] / sigma)
            target = denoised + (0.5 * log_step / log_step_before) * (denoised - previous)
        shrink = after / sigma  # exp(-h) in the paper's terms
        if keys is None:
            x = shrink * x + (1 - shrink) * target
        else:
            fresh = mx.random.normal(x.shape, key=keys[i])
            x = shrink**2 * x + (1 - shrink**2) * target
            x = x + after * math.sqrt(1 - shrink**2) * fresh
        x = impose(x, after)
    return x


def _impose(
    x: mx.array, known: mx.array | None, noise: mx.array, keep: float, level: float
) -> mx.array:
    if known is None:
        return x
    frames = known.shape[1]
    return mx.concatenate([keep * known + level * noise[:, :frames], x[:, frames:]], axis=1)
