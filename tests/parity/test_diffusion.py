"""Latent diffusion: MLX against diffusers' networks and schedulers, a step and whole samples.

Residual branches are zero at initialisation, so every weight is drawn anew. Tolerances are relative
to the largest value: 1e-5 for one pass, 1e-4 for eight steps of a sampler.
"""

import math

import mlx.core as mx
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from diffusers import EDMDPMSolverMultistepScheduler  # noqa: E402
from diffusers.schedulers import scheduling_edm_dpmsolver_multistep  # noqa: E402

from musicot_mlx.convert.keymaps.diffusion import RULES  # noqa: E402
from musicot_mlx.convert.rules import apply_rules  # noqa: E402
from musicot_mlx.generation import diffusion, samplers  # noqa: E402
from musicot_mlx.models.semantic_diffusion import DiffusionConfig, SemanticDiffusion  # noqa: E402
from musicot_mlx.reference.diffusion import SemanticDiffusion as TorchDiffusion  # noqa: E402
from musicot_mlx.tokens.harmony import harmony_features  # noqa: E402
from musicot_mlx.weights.checkpoint import load_strict  # noqa: E402
from tests.models.test_dit import TINY  # noqa: E402

BATCH, FRAMES, CODES, VECTORS = 2, 31, 40, 3
STABLE_AUDIO_NOISE = {
    "sigma_min": 0.3,
    "sigma_max": 500.0,
    "sigma_data": 1.0,
    "sigma_schedule": "exponential",
    "prediction_type": "v_prediction",
}


def build_twins(**changes):
    config = {**TINY, **changes}
    torch.manual_seed(0)
    torch.set_num_threads(1)
    reference = TorchDiffusion(**config).eval()
    with torch.no_grad():
        for name, weight in reference.named_parameters():
            if "norm" in name:
                weight.add_(0.2 * torch.randn_like(weight))
            elif weight.ndim > 1:
                weight.copy_(torch.randn_like(weight) * weight[0].numel() ** -0.5)
            else:
                weight.copy_(torch.randn_like(weight))
            if name.startswith(("skip.", "gate.")):
                weight.mul_(0.2)  # gains of many steps multiply
    arrays = {name: mx.array(value.numpy()) for name, value in reference.state_dict().items()}
    model = SemanticDiffusion(DiffusionConfig.from_dict(config))
    load_strict(model, apply_rules(RULES, arrays), where="diffusion")
    return model, reference


@pytest.fixture(
    scope="module",
    params=[("rectified_flow", False), ("rectified_flow", True), ("v", False)],
    ids=["rectified_flow", "skip", "v"],
)
def twins(request):
    objective, skip = request.param
    return build_twins(objective=objective, skip=skip, latent_scale=0.5)


def inputs(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, TINY["audio_codebook_size"] + 1, (BATCH, CODES))
    return {
        "codes": codes.astype(np.int32),
        "clap": rng.standard_normal((BATCH, VECTORS, TINY["clap_dim"])).astype(np.float32),
        "start_seconds": np.array([0.0, 12.5], np.float32),
        "total_seconds": np.array([30.0, 1000.0], np.float32),  # the second is clipped
    }


def noise(seed: int = 1) -> np.ndarray:
    shape = (BATCH, FRAMES, TINY["latent_dim"])
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def to_torch(arrays: dict[str, np.ndarray]) -> dict:
    return {name: torch.from_numpy(value) for name, value in arrays.items()}


def to_mlx(arrays: dict[str, np.ndarray]) -> dict:
    return {name: mx.array(value) for name, value in arrays.items()}


def relative_error(out: mx.array, expected) -> float:
    expected = expected.detach().numpy()
    return float(np.abs(np.array(out) - expected).max() / np.abs(expected).max())


def test_one_pass(twins):
    model, reference = twins
    x, t = noise(), np.array([0.3, 0.9], np.float32)
    offset = np.array([0, 21])
    mask = np.array([[True, True, False], [True, True, True]])
    expected = reference(
        torch.from_numpy(x).transpose(1, 2),
        torch.from_numpy(t),
        **to_torch(inputs()),
        clap_mask=torch.from_numpy(mask),
        frame_offset=torch.from_numpy(offset),
    ).transpose(1, 2)
    out = model(
        mx.array(x), mx.array(t), **to_mlx(inputs()), clap_mask=mx.array(mask), frame_offset=offset
    )
    assert expected.std() > 0.5, "a dead network proves nothing"
    assert relative_error(out, expected) < 1e-5


@pytest.mark.parametrize("guidance_scale", [1.0, 2.0])
def test_chords(guidance_scale):
    """Velocities and latents with chords, to 1e-5; what has no code has no chord either."""
    model, reference = build_twins(harmony=True)
    chords = [((0.0, "Am"), (0.4, "F#m7b5")), ((0.2, "C/E"),)]
    rate = model.config.latent_rate
    features = np.stack([harmony_features(c, FRAMES, frame_rate=rate) for c in chords])
    given, x = inputs(), noise()
    settings = {"steps": 3, "sampler": "euler", "guidance_scale": guidance_scale}
    expected, plain = (
        reference.sample(
            **to_torch(given),
            frames=FRAMES,
            noise=torch.from_numpy(x).transpose(1, 2),
            harmony=told,
            **settings,
        ).transpose(1, 2)
        for told in (torch.from_numpy(features), None)
    )
    out = diffusion.sample(
        model, **to_mlx(given), noise=mx.array(x), harmony=mx.array(features), **settings
    )
    assert relative_error(out, expected) < 1e-5
    assert relative_error(out, plain) > 1e-2
    given["codes"][:] = model.config.no_token
    x_t, t = mx.array(x), mx.array([0.3, 0.9])
    silent = [model(x_t, t, **to_mlx(given), harmony=h) for h in (mx.array(features), None)]
    np.testing.assert_array_equal(np.array(silent[0]), np.array(silent[1]))


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_eight_steps(twins, guidance_scale):
    model, reference = twins
    x = noise()
    settings = {"steps": 8, "guidance_scale": guidance_scale}
    samplers = ("euler", "heun") if model.config.objective == "rectified_flow" else ("dpmpp",)
    for sampler in samplers:
        expected = reference.sample(
            **to_torch(inputs()),
            frames=FRAMES,
            noise=torch.from_numpy(x).transpose(1, 2),
            sampler=sampler,
            **settings,
        ).transpose(1, 2)
        out = diffusion.sample(
            model, **to_mlx(inputs()), noise=mx.array(x), sampler=sampler, **settings
        )
        assert relative_error(out, expected) < 1e-4, sampler


def test_a_matching_clap_dim_needs_no_projection():
    model, reference = build_twins(clap_dim=TINY["cross_attention_input_dim"])
    arrays = inputs()
    arrays["clap"] = arrays["clap"][..., : TINY["cross_attention_input_dim"]]
    x, t = noise(), np.array([0.5, 0.5], np.float32)
    expected = reference(
        torch.from_numpy(x).transpose(1, 2), torch.from_numpy(t), **to_torch(arrays)
    )
    out = model(mx.array(x), mx.array(t), **to_mlx(arrays))
    assert relative_error(out, expected.transpose(1, 2)) < 1e-5


class Formula:
    """A velocity that no network is needed for, the same in both libraries."""

    passes = 0

    def __call__(self, x, i):
        return 0.3 * x + 0.1 * (i + 1) - 0.2 * x * x / (1 + x * x)


@pytest.mark.parametrize("steps", [1, 2, 3, 8, 20])
def test_solver_follows_diffusers_step_by_step(steps):
    """Each state of ours against the scheduler object, for first, middle and last steps."""
    scheduler = EDMDPMSolverMultistepScheduler(**STABLE_AUDIO_NOISE)
    scheduler.set_timesteps(steps)
    sigmas = samplers.exponential_sigmas(steps)
    np.testing.assert_allclose(sigmas, scheduler.sigmas.numpy(), rtol=1e-5)
    start, states, seen = noise(), [], []

    def spy(x, i):
        seen.append(np.array(x) * math.sqrt(sigmas[i] ** 2 + 1))
        return Formula()(x, i)

    out = samplers.dpm_solver(spy, mx.array(start), None, sigmas, key=None)
    x = torch.from_numpy(start) * scheduler.init_noise_sigma
    for i, timestep in enumerate(scheduler.timesteps):
        states.append(x.numpy())
        v = Formula()(scheduler.scale_model_input(x, timestep), i)
        x = scheduler.step(v, timestep, x).prev_sample
    for ours, theirs in zip([*seen, np.array(out)], [*states, x.numpy()], strict=True):
        assert np.abs(ours - theirs).max() <= 2e-5 * np.abs(theirs).max()


def test_stochastic_solver_follows_diffusers_given_the_same_noise(monkeypatch):
    steps, key = 8, mx.random.key(3)
    scheduler = EDMDPMSolverMultistepScheduler(
        **STABLE_AUDIO_NOISE, algorithm_type="sde-dpmsolver++"
    )
    scheduler.set_timesteps(steps)
    sigmas = samplers.exponential_sigmas(steps)
    start = noise()
    keys = mx.random.split(key, len(sigmas))
    draws = iter([np.array(mx.random.normal(start.shape, key=k)) for k in keys])
    monkeypatch.setattr(
        scheduling_edm_dpmsolver_multistep,
        "randn_tensor",
        lambda *_, **__: torch.from_numpy(next(draws)),
    )
    x = torch.from_numpy(start) * scheduler.init_noise_sigma
    for i, timestep in enumerate(scheduler.timesteps):
        v = Formula()(scheduler.scale_model_input(x, timestep), i)
        x = scheduler.step(v, timestep, x).prev_sample
    out = samplers.dpm_solver(Formula(), mx.array(start), None, sigmas, key=key)
    assert relative_error(out, x) < 2e-5


def test_loss_runs_backward_and_drops_conditions_together():
    _, reference = build_twins()
    arrays = to_torch(inputs())
    latents = torch.from_numpy(noise()).transpose(1, 2)
    reference.loss(latents, *arrays.values()).backward()
    assert all(
        p.grad is not None and p.grad.isfinite().all()
        for name, p in reference.named_parameters()
        if p.requires_grad
    )
    with torch.no_grad():
        dropped = [
            reference.loss(
                latents,
                arrays["codes"] if keep else torch.full_like(arrays["codes"], reference.no_token),
                arrays["clap"] if keep else torch.zeros_like(arrays["clap"]),
                arrays["start_seconds"],
                arrays["total_seconds"],
                dropout=1.0,
                generator=torch.Generator().manual_seed(0),
            ).item()
            for keep in (True, False)
        ]
    assert dropped[0] == dropped[1]
