"""Fixtures that several tests share; everything runs offline."""

import os
import signal

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MLX_ENABLE_TF32"] = (
    "0"  # read at the first product; parity at 1e-5 needs all of float32
)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # what a shell starts with `&` ignores Ctrl-C, and so would every command the tests start
    signal.signal(signal.SIGINT, signal.default_int_handler)

from pathlib import Path

import pytest
from hypothesis import settings

import musicot_mlx  # noqa: F401  (OpenBLAS before MLX)
from tests.support import tiny, tiny_musicgen

# the same examples in every run; `--hypothesis-profile other` looks for others
settings.register_profile("same", derandomize=True, deadline=None)
settings.register_profile("other", deadline=None)
settings.load_profile("same")


@pytest.fixture(scope="session", autouse=True)
def conversions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache of converted models, not the user's."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["MUSICOT_CACHE"] = str(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a whole model at 16 channels with random weights."""
    return tiny.write_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def tiny_reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the PyTorch checkpoint of the same sizes; skipped where torch is missing."""
    pytest.importorskip("torch")
    return tiny.write_reference(tmp_path_factory.mktemp("models") / "tiny-pytorch")


@pytest.fixture(scope="session")
def tiny_musicgen_upstream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny mono MusicGen as transformers saves it; skipped where torch is missing."""
    pytest.importorskip("torch")
    return tiny_musicgen.write_upstream(tmp_path_factory.mktemp("musicgen") / "mono")


@pytest.fixture(scope="session")
def tiny_musicgen_stereo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in stereo: eight codebooks."""
    pytest.importorskip("torch")
    return tiny_musicgen.write_upstream(tmp_path_factory.mktemp("musicgen") / "stereo", stereo=True)


@pytest.fixture(scope="session")
def tiny_musicgen_melody(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as a melody model."""
    pytest.importorskip("torch")
    return tiny_musicgen.write_upstream(tmp_path_factory.mktemp("musicgen") / "melody", melody=True)
