"""One server and one browser for all tests of the page; a tab of its own for each."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support import studio_page
from tests.support.studio_page import StudioPage

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(scope="package")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the studio listens."""
    for needed in ("fastapi", "uvicorn"):
        pytest.importorskip(needed, reason="the studio needs the extra [studio]")
    with studio_page.server(tmp_path_factory.mktemp("studio")) as address:
        yield address


@pytest.fixture(scope="package")
def browser() -> Iterator["Browser"]:
    """A headless Chromium. It ends with the package: its loop would be in the way of others."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser")
    with playwright.sync_playwright() as driver:
        try:
            chromium = driver.chromium.launch(
                executable_path=studio_page.chromium(), args=studio_page.FLAGS
            )
        except playwright.Error as error:
            if studio_page.chromium():
                raise  # it is there and doesn't start
            pytest.skip(f"no Chromium (apt-get install chromium): {str(error).splitlines()[0]}")
        yield chromium
        chromium.close()


@pytest.fixture
def studio(browser: "Browser", address: str) -> Iterator[StudioPage]:
    """An empty page, ready; afterwards its console must have complained of nothing."""
    tab = StudioPage.opened(browser, address)
    yield tab
    tab.close()
    assert tab.faults == []


@pytest.fixture(scope="package")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten seconds of noise in bursts, as drums are, in a WAV."""
    import numpy as np
    import soundfile

    rate = 22050
    time = np.arange(10 * rate) / rate
    bursts = np.exp(-((time * 4) % 1) * 9)
    noise = np.random.default_rng(0).standard_normal(len(time))
    path = tmp_path_factory.mktemp("recordings") / "beat.wav"
    soundfile.write(path, 0.4 * bursts * np.clip(noise, -2, 2) / 2, rate)
    return path
