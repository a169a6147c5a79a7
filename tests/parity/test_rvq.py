"""Residual quantiser: codes identical to vector_quantize_pytorch's, vectors within 1e-6.

Codebooks are zeros at initialisation (k-means fills them in training); noise goes in, or every
code would be 0 in both.
"""

import mlx.core as mx
import numpy as np
import pytest

torch = pytest.importorskip("torch")
vector_quantize_pytorch = pytest.importorskip("vector_quantize_pytorch")

from musicot_mlx.convert.keymaps.rvq import RULES  # noqa: E402
from musicot_mlx.convert.rules import apply_rules  # noqa: E402
from musicot_mlx.models.rvq import ResidualVQ, RVQConfig  # noqa: E402
from musicot_mlx.weights.checkpoint import load_strict  # noqa: E402


@pytest.mark.parametrize(("dim", "codebooks", "codebook_size"), [(6, 4, 16), (64, 8, 128)])
def test_codes_are_identical(dim, codebooks, codebook_size):
    torch.manual_seed(0)
    reference = vector_quantize_pytorch.ResidualVQ(
        dim=dim, num_quantizers=codebooks, codebook_size=codebook_size, kmeans_init=True
    ).eval()
    for level, layer in enumerate(reference.layers):
        layer._codebook.embed.copy_(torch.randn(1, codebook_size, dim) * 0.7**level)
        layer._codebook.initted.fill_(True)
    rvq = ResidualVQ(RVQConfig(dim=dim, codebooks=codebooks, codebook_size=codebook_size))
    arrays = {name: mx.array(value.numpy()) for name, value in reference.state_dict().items()}
    load_strict(rvq, apply_rules(RULES, arrays), where="rvq")

    x = torch.randn(3, 50, dim)
    with torch.no_grad():
        quantized, expected, _ = reference(x)  # (batch, time, codebooks)
        coarse = reference.get_codes_from_indices(expected)[:2].sum(0)
    codes = rvq.encode(mx.array(x.numpy()))
    assert np.array_equal(np.array(codes), expected.transpose(1, 2).numpy())
    assert len(np.unique(np.array(codes))) > codebook_size // 2
    for out, theirs in ((rvq.decode(codes), quantized), (rvq.decode(codes[:, :2]), coarse)):
        assert np.abs(np.array(out) - theirs.numpy()).max() < 1e-5
