"""VAE: MLX against reference/vae.py, encoder and decoder, relative to the largest value."""

import mlx.core as mx
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from musicot_mlx.convert.keymaps.vae import RULES  # noqa: E402
from musicot_mlx.convert.rules import apply_rules  # noqa: E402
from musicot_mlx.models.vae import VAE, VAEConfig  # noqa: E402
from musicot_mlx.reference.vae import CORE_RMS  # noqa: E402
from musicot_mlx.reference.vae import VAE as TorchVAE  # noqa: E402
from musicot_mlx.weights.checkpoint import load_strict  # noqa: E402
from tests.models.test_vae import TINY  # noqa: E402

CONFIGS = {
    "mono": {"audio_channels": 1},
    "stereo, noise": {"audio_channels": 2, "noise_above": 900.0},
    "mono, core": {"audio_channels": 1, "latent_dim": 9, "core_band": [3, 8], "noise_above": 900.0},
    "stereo, core": {"audio_channels": 2, "latent_dim": 10, "core_band": [0, 3]},
}


@pytest.fixture(scope="module", params=CONFIGS.values(), ids=CONFIGS.keys())
def twins(request):
    config = {**TINY, **request.param}
    torch.manual_seed(0)
    torch.set_num_threads(1)
    reference = TorchVAE(**config).eval()
    with torch.no_grad():
        for name, weight in reference.named_parameters():
            if name.endswith(("norm.weight", "scale")):
                weight.add_(0.2 * torch.randn_like(weight))
            elif weight.ndim > 1:
                weight.copy_(torch.randn_like(weight) * weight[0].numel() ** -0.5)
            else:
                weight.copy_(0.3 * torch.randn_like(weight))
        if reference.core_dim:
            reference.fit_core(torch.randn(1, 4000, reference.audio_channels))
        for part in (reference.encoder, reference.decoder):
            for block in (*part.fine, *part.coarse):
                block.scale.fill_(1.0)  # 0.1 at initialisation would hide the blocks
    arrays = {name: mx.array(value.numpy()) for name, value in reference.state_dict().items()}
    vae = VAE(VAEConfig.from_dict(config))
    load_strict(vae, apply_rules(RULES, arrays), where="vae")
    return vae, reference


def relative_error(out: mx.array, expected) -> float:
    expected = expected.detach().numpy()
    return float(np.abs(np.array(out) - expected).max() / np.abs(expected).max())


def test_encode_and_decode(twins):
    vae, reference = twins
    shape = (2, 1000, vae.config.audio_channels)
    audio = 0.3 * np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    expected = reference.encode(torch.from_numpy(audio))
    out = vae.encode(mx.array(audio))
    assert expected.mean.std() > 0.2, "a dead network proves nothing"
    assert relative_error(out.mean, expected.mean) < 1e-5
    assert relative_error(out.log_variance, expected.log_variance) < 1e-5


def test_waveform_within_1e_4(twins):
    vae, reference = twins
    shape = (2, 40, vae.config.latent_dim)
    latents = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    expected = reference.decode(torch.from_numpy(latents))
    assert expected.std() > 1e-3
    assert relative_error(vae.decode(mx.array(latents)), expected) < 1e-5
    assert relative_error(vae.decode_windows(mx.array(latents), longest=9), expected) < 1e-5


def test_the_core_is_fitted_to_one_level():
    vae = TorchVAE(**{**TINY, **CONFIGS["stereo, core"]})
    audio = torch.randn(3, 4000, 2) * torch.tensor([1.0, 0.01])
    vae.fit_core(audio)
    core = vae.encode(audio).mean[..., 4:].detach()
    np.testing.assert_allclose(core.square().mean((0, 1)).sqrt(), CORE_RMS, rtol=1e-4)


def test_inverse_stft_where_the_hop_does_not_divide_the_window():
    reference = TorchVAE(**{**TINY, "hop_length": 24})
    vae = VAE(VAEConfig.from_dict({**TINY, "hop_length": 24}))
    vae.bin_scale = mx.array(reference.bin_scale.detach().numpy())
    shape = (1, 12, vae.config.features)
    features = np.random.default_rng(2).standard_normal(shape).astype(np.float32)
    expected = reference.waveform(torch.from_numpy(features))
    assert relative_error(vae.waveform(mx.array(features)), expected) < 1e-5
