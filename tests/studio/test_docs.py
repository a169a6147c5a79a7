"""docs/studio.md is executed: its commands, on a server of the tiny model."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import soundfile

from musicot_mlx.studio.settings import PORT
from tests.support.studio import ROOT, Server

PAGE = ROOT / "docs" / "studio.md"


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")
def test_the_commands_of_the_page(server: Server, tmp_path: Path) -> None:
    place = server.address.removeprefix("http://").rstrip("/")
    for snippet in re.findall(r"```sh\n(.*?)```", PAGE.read_text(), flags=re.DOTALL):
        script = snippet.replace(f"localhost:{PORT}", place)
        assert str(PORT) not in script
        subprocess.run(["bash", "-ec", script], cwd=tmp_path, check=True, timeout=120)
    assert json.loads((tmp_path / "edited.json").read_text())["changed"] == [1]
    assert soundfile.info(tmp_path / "song.wav").duration == 20
    assert json.loads((tmp_path / "song.json").read_text())["prompt"] == "bossa nova"
    assert "event: heard" in (tmp_path / "events.txt").read_text()
    assert json.loads((tmp_path / "generated.json").read_text())["data"][0]["b64_json"]


def test_every_route_of_the_page_is_there(server: Server) -> None:
    paths = server.client.get("/openapi.json").json()["paths"]
    told = re.findall(r"^\| `(/v1/[\w/]+)`", PAGE.read_text(), flags=re.MULTILINE)
    assert told and all(any(path.startswith(each) for path in paths) for each in told)
    named = {path.split("/")[2] for path in paths if path.startswith("/v1/")}
    assert named == {each.split("/")[2] for each in told}


def test_the_documents_load_nothing_from_elsewhere(server: Server) -> None:
    page = server.client.get("/docs").text
    sources = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert sources and all(source.startswith("/") for source in sources)
    for source in sources:
        assert server.client.get(source).status_code == 200
    assert "<style" not in page and "style=" not in page and "onclick" not in page
