"""Semantic tokenizer: MLX against reference/semantic_tokenizer.py, codes identical."""

import mlx.core as mx
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("vector_quantize_pytorch")

from musicot_mlx.convert.keymaps.semantic_tokenizer import RULES  # noqa: E402
from musicot_mlx.convert.rules import apply_rules  # noqa: E402
from musicot_mlx.models.semantic_tokenizer import (  # noqa: E402
    SemanticTokenizer,
    SemanticTokenizerConfig,
)
from musicot_mlx.reference.semantic_tokenizer import (  # noqa: E402
    SemanticTokenizer as TorchSemanticTokenizer,
)
from musicot_mlx.weights.checkpoint import load_strict  # noqa: E402
from tests.models.test_semantic_tokenizer import TINY  # noqa: E402


@pytest.fixture(scope="module", params=[8, 16])
def twins(request):
    config = {**TINY, "codebook_dim": request.param}
    torch.manual_seed(0)
    torch.set_num_threads(1)
    reference = TorchSemanticTokenizer(**config).eval()
    with torch.no_grad():
        for name, weight in reference.named_parameters():
            if name.endswith("norm.weight"):
                weight.add_(0.2 * torch.randn_like(weight))
            elif weight.ndim > 1:
                weight.copy_(torch.randn_like(weight) * 1.5 * weight[0].numel() ** -0.5)
            else:
                weight.copy_(0.3 * torch.randn_like(weight))
        frames = reference.log_mel.frames(torch.from_numpy(waveform(16000))).flatten(0, 1)
        reference.log_mel.mean.copy_(frames.mean(0))
        reference.log_mel.std.copy_(frames.std(0) / 2)  # livelier than it would be in training
        embed = reference.quantizer._codebook.embed
        embed.copy_(torch.nn.functional.normalize(torch.randn_like(embed), dim=-1))
        reference.quantizer._codebook.initted.fill_(True)
    arrays = {name: mx.array(value.numpy()) for name, value in reference.state_dict().items()}
    tokenizer = SemanticTokenizer(SemanticTokenizerConfig.from_dict(config))
    load_strict(tokenizer, apply_rules(RULES, arrays), where="semantic_tokenizer")
    return tokenizer, reference


def waveform(samples: int) -> np.ndarray:
    noise = np.random.default_rng(0).standard_normal((2, samples)).astype(np.float32)
    return 0.3 * noise * np.linspace(0, 1, samples, dtype=np.float32)


def test_log_mel_and_features(twins):
    tokenizer, reference = twins
    audio = waveform(320 * 19 + 7)
    expected = reference.log_mel(torch.from_numpy(audio))
    log_mel = tokenizer.log_mel(mx.array(audio))
    assert np.abs(np.array(log_mel) - expected.numpy()).max() < 1e-4
    features = reference.features(expected).detach().numpy()
    out = np.array(tokenizer.features(log_mel))
    assert np.abs(out - features).max() < 1e-4 * np.abs(features).max()


@pytest.mark.parametrize("samples", [100, 320 * 15, 320 * 50 + 1])
def test_codes_are_identical(twins, samples):
    tokenizer, reference = twins
    audio = waveform(samples)
    expected = reference.encode(torch.from_numpy(audio)).numpy()
    codes = np.array(tokenizer.encode(mx.array(audio)))
    assert np.array_equal(codes, expected)
    if samples > 320 * 40:
        assert len(np.unique(codes)) > 8


def test_the_quantizer_of_training_agrees(twins):
    """VectorQuantize itself, not only the twin's reading of its codebook."""
    tokenizer, reference = twins
    log_mel = reference.log_mel(torch.from_numpy(waveform(320 * 15)))
    with torch.no_grad():
        features = reference.features(log_mel)
        _, expected, _ = reference.quantizer(features)
    codes = tokenizer.quantizer(mx.array(features.numpy()))
    assert np.array_equal(np.array(codes), expected.numpy())
