"""Fixtures of pretraining; only tests that have torch ask for them."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def studio(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Arguments of a finished tiny pretraining: every stage, two steps each, one at a time."""
    import torch
    import yaml

    from musicot_mlx.reference.train import command
    from tests.support.pretraining import run, tiny_config, write_songs

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("training")
    paths = {
        "config": folder / "tiny.yaml",
        "data": write_songs(folder / "songs"),
        "out": folder / "out",
    }
    paths["config"].write_text(yaml.safe_dump(tiny_config()))
    for stage in command.STAGES:
        if stage != "diffusion_guided":  # a test of its own
            assert run(paths, "--stage", stage) == 0, stage
    return paths


@pytest.fixture(scope="session")
def stirred(studio: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The trained checkpoint with noise on every matrix, so that nothing in it is near zero, as a
    PyTorch and as a float32 MLX folder.
    """
    import torch

    from musicot_mlx.convert.convert import convert
    from musicot_mlx.reference.clap import Tokenizer
    from musicot_mlx.reference.musicot import MusicotReference

    folder = tmp_path_factory.mktemp("stirred")
    model = MusicotReference.from_pretrained(studio["out"] / "checkpoint")
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.add_(torch.randn_like(weight) * 0.7 * weight[0].numel() ** -0.5)
    tokenizer = Tokenizer.from_file(str(studio["out"] / "tokenizer.json"))
    model.save_pretrained(folder / "torch", tokenizer)
    convert(folder / "torch", folder / "mlx", dtype="float32")
    return {"torch": folder / "torch", "mlx": folder / "mlx"}
