"""Quantisers of vector_quantize_pytorch and open-musiclm: converted, compared, and fitted against.

open-musiclm (zhvng/open-musiclm): `open_musiclm/clap_quantized.py` makes ResidualVQ(dim=512,
num_quantizers=12, codebook_size=1024, decay=0.95, kmeans_init=True, threshold_ema_dead_code=...);
its trainer saves `rq.state_dict()` as `clap.rvq.<steps>.pt`, create_clap_quantized reads it back.
"""

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

import musicot_mlx as mc
from musicot_mlx.cli import main
from musicot_mlx.training import rvq
from tests.training.test_fit_rvq import vectors

torch = pytest.importorskip("torch")
vector_quantize_pytorch = pytest.importorskip("vector_quantize_pytorch")

# Keys of one level of open-musiclm's file, and their shapes at codebook_size=1024, dim=512. Older
# releases have `initted` as (1,), and the first ones no leading axis in `embed` and `embed_avg`.
LEVEL = {
    "layers.{n}._codebook.initted": (),
    "layers.{n}._codebook.cluster_size": (1, 1024),
    "layers.{n}._codebook.embed_avg": (1, 1024, 512),
    "layers.{n}._codebook.embed": (1, 1024, 512),
}


def quantiser(dim: int, levels: int, size: int, **options) -> "torch.nn.Module":
    return vector_quantize_pytorch.ResidualVQ(
        dim=dim,
        num_quantizers=levels,
        codebook_size=size,
        kmeans_init=True,
        commitment_weight=0,
        **options,
    )


def fitted(dim: int = 12, levels: int = 3, size: int = 16) -> "torch.nn.Module":
    torch.manual_seed(0)
    made = quantiser(dim, levels, size, decay=0.95, threshold_ema_dead_code=0.5).train()
    for seed in range(4):
        made(torch.from_numpy(vectors(600, dim, seed))[:, None])  # "n c -> n 1 c", as open-musiclm
    return made.eval()


def test_layout_is_the_librarys() -> None:
    with torch.device("meta"):
        state = vector_quantize_pytorch.ResidualVQ(
            dim=512, num_quantizers=12, codebook_size=1024
        ).state_dict()
    expected = {key.format(n=n): shape for n in range(12) for key, shape in LEVEL.items()}
    assert {key: tuple(value.shape) for key, value in state.items()} == expected


@pytest.mark.parametrize("kind", ["clap.rvq.350.pt", "old.pt", "whole.pt", "a.safetensors"])
def test_files_become_folders(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    reference = fitted()
    state = reference.state_dict()
    path = tmp_path / kind
    if kind == "old.pt":
        state = {k: v[0] if k.endswith(("embed", "embed_avg")) else v for k, v in state.items()}
        state = {k: v[None] if k.endswith("initted") else v for k, v in state.items()}
    elif kind == "whole.pt":  # ClapQuantized: the quantiser and its CLAP
        state = {f"rq.{key}": value for key, value in state.items()}
        state |= {"clap.model.logit_scale_a": torch.zeros(())}
    if kind == "a.safetensors":
        from safetensors.torch import save_file

        save_file({key: value.contiguous() for key, value in state.items()}, path)
    else:
        torch.save(state, path)
    assert (
        main(["convert", "--hf-path", str(path), "--mlx-path", str(tmp_path / "m"), "--check"]) == 0
    )
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith(", float32")
    assert lines[1].split() == ["rvq", "codes", "0.00", "%", "differ"]
    assert lines[2].startswith("rvq") and float(lines[2].split()[2]) < 1e-6
    ours = mc.load(tmp_path / "m")
    assert (ours.config.dim, ours.config.codebooks, ours.config.codebook_size) == (12, 3, 16)
    x = vectors(100, seed=9)
    with torch.no_grad():
        quantised, codes, _ = reference(torch.from_numpy(x)[None])
    found = ours.encode(mx.array(x)[None])
    assert np.array_equal(np.array(found), codes.transpose(1, 2).numpy())
    assert np.abs(np.array(ours.decode(found)) - quantised.numpy()).max() < 1e-6


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("fresh", "is false, so these codebooks were never fitted"),
        ("projection", "projects to another dimension (codebook_dim)"),
        ("levels", "has levels [0, 2] of sizes"),
        ("sizes", "has levels [0, 1, 2] of sizes [(8, 12), (16, 12)]"),
        ("extra", "1 keys that the key map doesn't know: layers.0.surprise"),
    ],
)
def test_refusals(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, words: str
) -> None:
    state = fitted().state_dict()
    if kind == "fresh":
        state = quantiser(12, 3, 16).state_dict()
    elif kind == "projection":
        state = quantiser(12, 3, 16, codebook_dim=4).state_dict()
    elif kind == "levels":
        state = {key: value for key, value in state.items() if not key.startswith("layers.1.")}
    elif kind == "sizes":
        state["layers.1._codebook.embed"] = state["layers.1._codebook.embed"][:, :8]
    elif kind == "extra":
        state["layers.0.surprise"] = torch.zeros(1)
    torch.save(state, tmp_path / "a.pt")
    paths = ["--hf-path", str(tmp_path / "a.pt"), "--mlx-path", str(tmp_path / "m")]
    assert main(["convert", *paths]) == 2
    line = capsys.readouterr().err
    assert words in line and line.count("\n") == 1 and not (tmp_path / "m").exists()


def test_fitting_is_as_good_as_the_librarys() -> None:
    """Same vectors and passes: held-out cosine of each level, at most 0.005 below."""
    x, new = vectors(1500, 24), vectors(300, 24, seed=5)
    passes = 20
    options = rvq.FitOptions(codebooks=4, codebook_size=32, passes=passes, held_out=0)
    ours = rvq.cosines(rvq.fit(x, options).rvq, new)
    torch.manual_seed(0)
    reference = quantiser(24, 4, 32, decay=0.95, threshold_ema_dead_code=2).train()
    for _ in range(passes):
        reference(torch.from_numpy(x)[None])
    reference.eval()
    with torch.no_grad():
        codes = reference(torch.from_numpy(new)[None])[1]
        made = reference.get_codes_from_indices(codes)[:, 0].cumsum(0)  # (levels, vectors, dim)
    theirs = torch.cosine_similarity(made, torch.from_numpy(new)[None], dim=-1).mean(1).tolist()
    assert theirs[-1] > 0.9
    assert all(a > b - 0.005 for a, b in zip(ours, theirs, strict=True)), (ours, theirs)
