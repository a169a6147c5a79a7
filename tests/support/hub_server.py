"""A Hub of one's own: folders served over HTTP the way the Hub's client asks for them."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlparse

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def serve(repositories: dict[str, Path]) -> Iterator[tuple[str, list[str]]]:
    """Yield the address (for HF_ENDPOINT) and the list of files asked for, as they come."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(body=True)

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def _answer(self, *, body: bool) -> None:
            parts = unquote(urlparse(self.path).path).strip("/").split("/")
            if parts[:2] == ["api", "models"]:
                folder = repositories.get("/".join(parts[2:4]))
                return self._json(folder, "/".join(parts[2:4]), tree="tree" in parts)
            folder = repositories.get("/".join(parts[:2]))
            name = "/".join(parts[4:])
            if folder is None or not (folder / name).is_file():
                return self._send(404, b"{}", {"X-Error-Code": "EntryNotFound"}, body)
            if body:
                asked.append(name)
            data = (folder / name).read_bytes()
            etag = hashlib.sha1(data).hexdigest()
            code, about = 200, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT}
            if start := int(self.headers.get("Range", "bytes=0-")[6:].partition("-")[0]):
                asked[-1] += f" from {start}"
                code, about["Content-Range"] = 206, f"bytes {start}-{len(data) - 1}/{len(data)}"
            self._send(code, data[start:], about, body)

        def _json(self, folder: Path | None, name: str, *, tree: bool) -> None:
            if folder is None:
                return self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"}, True)
            files = sorted(path for path in folder.rglob("*") if path.is_file())
            listing = [
                {
                    "type": "file",
                    "path": str(path.relative_to(folder)),
                    "size": path.stat().st_size,
                    "oid": hashlib.sha1(path.read_bytes()).hexdigest(),
                }
                for path in files
            ]
            siblings = [{"rfilename": row["path"]} for row in listing]
            about = {"id": name, "modelId": name, "sha": COMMIT, "siblings": siblings}
            self._send(200, json.dumps(listing if tree else about).encode(), {}, True)

        def _send(self, code: int, data: bytes, headers: dict[str, str], body: bool) -> None:
            self.send_response(code)
            for key, value in {**headers, "Content-Length": str(len(data))}.items():
                self.send_header(key, value)
            self.end_headers()
            if body:
                self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            """Silence."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
