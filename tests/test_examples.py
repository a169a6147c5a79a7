"""The examples of docs/ run: the notebook cell by cell, the server as a listener sees it."""

import ast
import asyncio
import importlib.util
import inspect
import io
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import soundfile

import musicot_mlx as mc
from musicot_mlx.weights import hub

EXAMPLES = Path(__file__).resolve().parent.parent / "docs" / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))


@pytest.fixture
def here(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder where the embedded model is the tiny one."""
    shutil.copytree(tiny_model, tmp_path / "weights" / "musicot-mini")
    monkeypatch.setattr(hub, "_FOLDER", tmp_path / "weights")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def _run(code: str, names: dict[str, Any]) -> Any:
    """Run a cell; the value of its last line, as a notebook shows it."""
    tree = ast.parse(code)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    return (
        None if last is None else eval(compile(ast.Expression(last.value), "cell", "eval"), names)
    )


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook(notebook: Path, here: Path) -> None:
    page, names, shown = json.loads(notebook.read_text(encoding="utf-8")), {}, []
    assert page["nbformat"] == 4 and len({cell["id"] for cell in page["cells"]}) == len(
        page["cells"]
    )
    for cell in page["cells"]:
        if cell["cell_type"] == "code":
            assert not cell["outputs"] and cell["execution_count"] is None  # kept out of the diff
            value = _run("".join(cell["source"]), names)
            shown += [value._repr_html_()] if hasattr(value, "_repr_html_") else []
    assert sum("<audio" in html for html in shown) == 2 and all("<img" in html for html in shown)
    assert {path.name for path in here.iterdir()} == {"trio.flac", "trio.json"}


class _StandIn:
    """As much of FastAPI as the example takes, where it is not installed: routes by their path, a
    query's values as the types of the arguments, an HTTPException as its status.
    """

    class HTTPException(Exception):
        def __init__(self, *, status_code: int, detail: str) -> None:
            super().__init__(detail)
            self.status_code, self.detail = status_code, detail

    class StreamingResponse:
        def __init__(self, content: Iterator[bytes], *, media_type: str) -> None:
            self.body, self.media_type = content, media_type

    class FastAPI:
        def __init__(self) -> None:
            self.routes: dict[str, Callable[..., Any]] = {}

        def get(self, path: str) -> Callable[[Callable], Callable]:
            return lambda function: self.routes.setdefault(path, function)

        async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
            function = self.routes[scope["path"]]
            kinds = inspect.get_annotations(function)
            pairs = (part.split("=") for part in scope["query_string"].decode().split("&"))
            try:
                response = function(**{name: kinds[name](value) for name, value in pairs})
            except _StandIn.HTTPException as error:
                await send({"type": "http.response.start", "status": error.status_code})
                detail = json.dumps({"detail": error.detail}).encode()
                await send({"type": "http.response.body", "body": detail})
                return
            await send({"type": "http.response.start", "status": 200})
            for chunk in response.body:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})


@pytest.fixture
def server(here: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    if importlib.util.find_spec("fastapi") is None:
        for name in ("fastapi", "fastapi.responses"):
            stand_in = ModuleType(name)
            vars(stand_in).update(vars(_StandIn))
            monkeypatch.setitem(sys.modules, name, stand_in)
    spec = importlib.util.spec_from_file_location("stream_server", EXAMPLES / "stream_server.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _get(app: Any, path: str, query: str) -> tuple[int, list[bytes]]:
    """Status and the pieces of the body that an ASGI application answers with."""
    sent: list[dict] = []
    asked = False

    async def receive() -> dict:
        nonlocal asked
        if asked:  # the listener stays until the end
            await asyncio.sleep(60)
        asked = True
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": path, "query_string": query.encode()}
    scope |= {"asgi": {"version": "3.0", "spec_version": "2.4"}, "http_version": "1.1"}
    scope |= {"headers": [], "scheme": "http", "raw_path": path.encode(), "root_path": ""}
    asyncio.run(app(scope, receive, send))
    pieces = [each["body"] for each in sent if each["type"] == "http.response.body"]
    return sent[0]["status"], [piece for piece in pieces if piece]


def test_a_server_streams_the_song(server: ModuleType) -> None:
    status, pieces = _get(server.app, "/song.wav", "prompt=piano&duration=12&seed=3")
    assert status == 200 and len(pieces) > 2  # a header, and more than one chunk
    stream = mc.load("musicot-mini").stream("piano", duration=12, seed=3)
    chunks = np.concatenate(list(stream))
    heard, rate = soundfile.read(
        io.BytesIO(b"".join(pieces)[44:]),
        format="RAW", samplerate=8000, channels=2, subtype="PCM_16", dtype="float32",
    )  # fmt: skip
    np.testing.assert_allclose(heard, chunks, atol=1 / 32768)
    with soundfile.SoundFile(io.BytesIO(b"".join(pieces))) as file:
        assert (file.samplerate, file.channels, file.subtype) == (8000, 2, "PCM_16")
    assert rate == 8000


def test_a_server_says_what_is_wrong(server: ModuleType) -> None:
    status, pieces = _get(server.app, "/song.wav", "prompt=piano&duration=4000")
    assert status == 400 and b"1 to 300 s" in b"".join(pieces)
