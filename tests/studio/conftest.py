"""One server of the tiny model for all tests of the API."""

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi")

from tests.support.studio import Server, serving


@pytest.fixture(scope="session")
def server(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("studio") / "data"
    options = ["--model", str(tiny_model), "--queue", "4", "--max-upload", "3"]
    with serving(folder, *options) as running:
        yield running
