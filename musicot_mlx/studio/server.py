"""The application: its routes, how it refuses, what it starts and ends with.

`create_app` builds it for any ASGI server; `serve` runs it with uvicorn on one address.
"""

import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote

from musicot_mlx import __version__
from musicot_mlx.errors import DiskFull, MusicotError
from musicot_mlx.studio.errors import NO_ROOM, Refused, body, status_of
from musicot_mlx.studio.settings import Settings

STATIC = Path(__file__).with_name("static")
NEEDED = ("fastapi", "starlette", "uvicorn")


def require_extra() -> None:
    """Raise MusicotError where what the studio is made of is not installed."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise MusicotError(
            f"the studio needs {', '.join(missing)}: pip install 'musicot-mlx[studio]', or "
            "'.[studio]' in a checkout"
        )


def create_app(settings: Settings) -> Any:
    """The studio as an ASGI application, which opens its data folder and starts its queue.

    Raises MusicotError where the folder can't be used or another server uses it.
    """
    from fastapi import FastAPI
    from fastapi.exceptions import RequestValidationError
    from starlette.exceptions import HTTPException

    from musicot_mlx.studio import routes
    from musicot_mlx.studio.answers import Answer
    from musicot_mlx.studio.security import Guard
    from musicot_mlx.studio.studio import Studio

    studio = Studio(settings)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with studio.engine.listening():
            try:
                studio.start()
            except MusicotError as error:
                app.state.failed = error
                raise
            try:
                yield
            finally:
                studio.close()

    app = FastAPI(
        title="musicot studio",
        summary="Text to music through musical thoughts: plans, songs, and a library of them.",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        redirect_slashes=False,
        default_response_class=Answer,
    )
    app.state.studio, app.state.failed = studio, None
    app.include_router(routes.router)
    routes.add_pages(app, STATIC, page=settings.page)

    @app.exception_handler(MusicotError)
    async def refused(request: Any, error: MusicotError) -> Any:
        told = NO_ROOM if isinstance(error, DiskFull) else studio.files.names().told(str(error))
        return _answer(error, told)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Any, error: RequestValidationError) -> Any:
        return _answer(_first(error))

    @app.exception_handler(HTTPException)
    async def of_http(request: Any, error: HTTPException) -> Any:
        refused = _answer(Refused(error.status_code, _WORDS.get(error.status_code, error.detail)))
        refused.headers.update(error.headers or {})
        if error.status_code == 405:
            refused.headers["allow"] = ", ".join(_allowed(request))
        return refused

    app.add_middleware(Guard, settings=settings, refused=_answer)
    return app


def serve(settings: Settings, *, listening: Callable[[str], None]) -> None:
    """Run the studio until it is interrupted. listening(address) is called once it listens.

    Raises MusicotError where the address can't be had, a token is missing, or the data folder
    can't be used.
    """
    import uvicorn

    from musicot_mlx.studio.connection import Patient

    logging.getLogger("asyncio").setLevel(logging.ERROR)  # that a client has gone is no fault
    if not settings.is_local and settings.token is None:
        raise MusicotError(
            f"{settings.host} can be reached by others, so a token is needed: pass --token WORD"
        )
    listener = _bound(settings)
    port = listener.getsockname()[1]
    app = create_app(settings)
    events = app.state.studio.events

    class Server(uvicorn.Server):
        """Ends what streams events before it waits for all answers to end."""

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                listening(_address(settings, port))

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            events.close()
            await super().shutdown(sockets)

    config = uvicorn.Config(
        app,
        http=Patient,
        ws="none",  # an upgrade is not taken
        log_level="critical",  # what goes wrong is told in one line by security.Guard
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=256,
        timeout_graceful_shutdown=5,
        h11_max_incomplete_event_size=64 << 10,
    )
    try:
        Server(config).run(sockets=[listener])
    except SystemExit:  # by which later releases of uvicorn tell of a start that failed
        if app.state.failed is None:
            raise
    if app.state.failed is not None:
        raise app.state.failed


def _bound(settings: Settings) -> socket.socket:
    """A socket on the address; MusicotError where that can't be had."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except (OSError, OverflowError) as error:
        listener.close()
        why = getattr(error, "strerror", None) or str(error)
        raise MusicotError(
            f"can't listen on {settings.host}, port {settings.port} ({why}); pass another --port, "
            "0 takes any"
        ) from None
    return listener


def _address(settings: Settings, port: int) -> str:
    """Where the page is, for whoever started the server."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    query = f"?token={quote(settings.token)}" if settings.token else ""
    return f"http://{host}:{port}/{query}"


def _answer(error: MusicotError, told: str | None = None) -> Any:
    """The answer to a request that is not done; told: its sentence, if not the error's own."""
    from musicot_mlx.studio.answers import Answer

    status, param = status_of(error), getattr(error, "param", None) or error.option
    wait, headers = getattr(error, "wait", None), {**getattr(error, "headers", {})}
    if wait is not None:
        headers["retry-after"] = str(max(1, round(wait)))
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    if status in (408, 413):  # what is still coming is not read
        headers["connection"] = "close"
    return Answer(body(status, told or str(error), param), status_code=status, headers=headers)


def _allowed(request: Any) -> list[str]:
    """The methods that an address takes, whose routes are one a method."""
    from starlette.routing import Match

    found = set()
    for method in ("DELETE", "GET", "PATCH", "POST"):
        asked = {**request.scope, "method": method}
        if any(each.matches(asked)[0] is Match.FULL for each in request.app.routes):
            found |= {method, "HEAD"} if method == "GET" else {method}
    return sorted(found)


def _first(error: Any) -> Refused:
    """The first thing that is wrong with the values of a request."""
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return Refused(400, f"the body is no JSON: {first['ctx']['error']}")
    where, *place = [str(part) for part in first["loc"]]
    if len(place) > 1 and isinstance(error.body, dict) and place[0] not in error.body:
        place = place[1:]  # which of several kinds of bodies it is, as "replace" of edits
    field, message = ".".join(place)[:100], str(first["msg"]).removeprefix("Value error, ")
    message = message[:1].lower() + message[1:200]
    if first["type"] in ("missing", "model_attributes_type", "dict_type") and not field:
        return Refused(422, f"the {where} is missing or of a wrong kind; send a JSON object")
    if first["type"] == "extra_forbidden":
        message = "there is no such field here"
    return Refused(422, f"{field or where}: {message}", param=field or None)


_WORDS = {
    404: "there is nothing at this address",
    405: "this address does not take that method",
    400: "the body of the request can't be read",
    408: "the body of the request took too long to come",
}
