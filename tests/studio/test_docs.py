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


def _figures() -> str:
    """What was measured, from what benchmarks/studio.py wrote."""
    found = json.loads((ROOT / "benchmarks" / "results" / "studio.json").read_text())
    heard, crowd, fire = found["heard"], found["crowd"], found["fire"]
    first, stopped, kept = heard["first_audio_seconds"], heard["cancelled_seconds"], heard["kept"]
    memory, huge, chip = crowd["memory_mb"], fire["upload_of_two_gigabytes"], found["machine"]
    odd = dict(fire["memory_mb"])
    memory_of_odd = [odd.pop("before"), *(odd[name] for name in sorted(odd, key=_requests))]
    answered = " and ".join(f"{count} by {status}" for status, count in crowd["statuses"].items())
    rows = [
        ("from the command to the first answer", f"{heard['ready_seconds']:.1f} s"),
        ("first audio after the request, a 30 s song", f"{first['least']:.1f} s at least, "
         f"{first['median']:.1f} s in the middle"),
        ("a song of 30 s with another last third", f"{kept['render_seconds']:.1f} s; "
         f"{kept['saved_seconds']:.1f} s saved"),
        ("from a cancel to the next song's turn", f"{stopped['median']:.2f} s"),
        (f"{crowd['clients']} clients at once, {crowd['requests_answered']} requests, `kill -9` "
         "among them", f"answered {answered}; {crowd['songs_done']} of {crowd['songs_promised']} "
         f"songs done, {crowd['lost']} lost, {crowd['doubled']} doubled"),
        ("memory after 10 songs, before the kill, at the end",
         f"{memory['after_10_songs']:.0f}, {memory['before_the_kill']:.0f}, "
         f"{memory['at_the_end']:.0f} MB"),
        (f"{fire['requests']:,} requests made from the OpenAPI document",
         f"{fire['answers_of_500']} answered by 500, {fire['tracebacks']} tracebacks"),
        ("memory before them and after each quarter",
         f"{', '.join(f'{value:.0f}' for value in memory_of_odd)} MB"),
        ("an upload of two gigabytes, its length untold",
         f"refused after {huge['sent_mb']} MB, {huge['seconds']:.1f} s"),
    ]  # fmt: skip
    load = heard["load"]
    head = (
        f"On an {chip['chip']} with {chip['cores']} cores and no GPU, other work beside it (load "
    )
    lines = [
        f"{head}{load:.0f}), by `benchmarks/studio.py`:",
        "",
        "| what | measured |",
        "|---|---|",
    ]
    return "\n".join([*lines, *(f"| {what} | {measured} |" for what, measured in rows)])


def _requests(name: str) -> int:
    """How many requests a figure "after_2600" was taken after."""
    return int(name.rpartition("_")[2])


def _with_figures(text: str) -> str:
    head, mark, rest = text.partition("<!-- figures -->\n")
    rest = re.sub(r"\A(?:On an .*\n\n)?(?:\|.*\n)*", "", rest)
    return f"{head}{mark}{_figures()}\n{rest}"


def test_the_figures_are_those_measured() -> None:
    assert PAGE.read_text() == _with_figures(PAGE.read_text()), (
        "run: python -m tests.studio.test_docs"
    )


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


if __name__ == "__main__":
    PAGE.write_text(_with_figures(PAGE.read_text()))
