"""The door: who may ask, from where, and how much; before a route sees anything.

A page elsewhere must not reach a server on this machine through the browser of who runs it. So the
Host must be one that the server goes by (a rebound name is not), an Origin must be the server's
own, and a request that another site caused is refused whatever it is. Bodies are counted as they
come. Every answer says that it may not be framed, sniffed, or load anything from elsewhere.
"""

import asyncio
import hmac
import ipaddress
from collections.abc import Callable, Iterable
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qsl, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from musicot_mlx.studio.errors import Refused, report
from musicot_mlx.studio.settings import LOOPBACK, Settings

COOKIE = "musicot"
LARGEST_BODY = 8 << 20  # bytes of JSON; a sidecar of 300 s has some 100 kB
SLOWEST_BODY = 60.0  # seconds that it may take to come
UPLOADS = "/v1/uploads"  # whose bodies are counted, and timed, as they are written
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "media-src 'self' blob:; connect-src 'self'; font-src 'self'; manifest-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}


class Guard:
    """Everything that is asked of a request before a route sees it, as ASGI middleware.

    refused(error) makes the answer to a request that is not let in.
    """

    def __init__(
        self, app: ASGIApp, settings: Settings, refused: Callable[[Refused], Response]
    ) -> None:
        self._app, self._settings, self._refused = app, settings, refused
        self._names = frozenset(map(str.lower, (*LOOPBACK, *settings.names)))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["method"] == "HEAD":
            scope, send = _as_get(scope, send)
        begun = False

        async def answer(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                if scope["path"].startswith("/v1"):
                    headers.setdefault("cache-control", "no-store")
            await send(message)

        request = Request(scope)
        try:
            entered = self._let_in(request)
            if entered is None:
                await self._app(scope, _counted(receive, scope["path"], lambda: begun), answer)
            else:
                await entered(scope, receive, answer)
        except Refused as error:
            await self._refused(error)(scope, receive, answer)
        except ClientDisconnect:  # nobody is there to be answered
            pass
        except Exception as error:
            if not isinstance(error, Broken):
                report(error)
            if begun:  # all that is left is to break off
                raise Broken from None
            words = "something went wrong in the studio itself; its terminal says what"
            await self._refused(Refused(500, words))(scope, receive, answer)

    def _let_in(self, request: Request) -> Response | None:
        """Raise Refused for a request that is not let in; an answer where it asks for entrance."""
        headers = request.headers
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._is_own(hosts[0]):
            raise Refused(
                403, "this address is not one that the studio goes by; pass --allow-host to add it"
            )
        if not self._is_same(headers, hosts[0], request.url.scheme):
            raise Refused(403, "another site asks; the studio answers its own page alone")
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise Refused(415, "compressed bodies are not taken")
        self._require_length(request)
        token = self._settings.token
        if token is None:
            return None
        given = dict(parse_qsl(request.url.query)).get("token", "")
        if request.url.path == "/" and request.method == "GET" and _same(given, token):
            entered = RedirectResponse("/", status_code=303)
            entered.set_cookie(COOKIE, token, httponly=True, samesite="strict", path="/")
            return entered
        if not any(_same(each, token) for each in _tokens(headers)):
            raise Refused(
                401,
                "the token is missing or wrong; open the address that the studio told at its start,"
                " or send Authorization: Bearer TOKEN",
            )
        return None

    def _is_own(self, host: str) -> bool:
        """Whether a Host names this server: a name that was given, or an address, which no one can
        rebind.
        """
        try:
            name = urlsplit(f"//{host}").hostname or ""
            urlsplit(f"//{host}").port  # noqa: B018  (raises where it is none)
        except ValueError:
            return False
        if any(letter in host for letter in "/@?#\\ "):
            return False
        if name in self._names:
            return True
        return not self._settings.is_local and _is_address(name)

    def _is_same(self, headers: Headers, host: str, scheme: str) -> bool:
        """Whether a request comes from the server's own page, or from no page at all."""
        origins = headers.getlist("origin")
        if origins and origins != [f"{scheme}://{host}"]:
            # a proxy in front may speak https
            if origins != [f"https://{host}"]:
                return False
        site = headers.get("sec-fetch-site", "none")
        if site in ("none", "same-origin"):
            return True
        # a link from elsewhere may lead to the page, and to nothing else
        return headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") in (
            "document",
            None,
        )

    def _require_length(self, request: Request) -> None:
        length = request.headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()) or len(length) > 15:
            raise Refused(400, "the Content-Length is no number")
        if request.url.path == UPLOADS:
            return
        if int(length) > LARGEST_BODY:
            raise too_large()


class Broken(Exception):
    """An answer that can't go on. The connection is broken off, so that nobody takes it for
    whole.
    """


def _as_get(scope: Scope, send: Send) -> tuple[Scope, Send]:
    """A HEAD as the GET that it asks about, of whose answer only the head is sent. With that the
    answer is whole, which ends whatever would stream.
    """

    async def head(message: Message) -> None:
        if message["type"] == "http.response.start":
            await send(message)
            await send({"type": "http.response.body", "body": b""})

    return {**scope, "method": "GET"}, head


def too_large() -> Refused:
    """A body that is too long."""
    return Refused(413, f"the body is larger than {LARGEST_BODY >> 20} MB")


def _counted(receive: Receive, path: str, begun: Callable[[], bool]) -> Receive:
    """receive, which ends a body that grows too large or comes too slowly. begun: whether the
    answer has begun, which then breaks off.
    """
    if path == UPLOADS:
        return receive
    size, whole, until = 0, False, asyncio.get_running_loop().time() + SLOWEST_BODY

    async def counted() -> Message:
        nonlocal size, whole
        if whole:  # what is waited for now is that the client leaves
            return await receive()
        try:
            async with asyncio.timeout_at(until):
                message = await receive()
            size += len(message.get("body", b""))
            if size > LARGEST_BODY:
                raise HTTPException(413, str(too_large()))
        except (TimeoutError, HTTPException) as error:
            if begun():
                return {"type": "http.disconnect"}
            raise error if isinstance(error, HTTPException) else HTTPException(408) from None
        whole = not message.get("more_body", False)
        return message

    return counted


def _tokens(headers: Headers) -> Iterable[str]:
    """The tokens that a request shows."""
    scheme, _, given = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        yield given.strip()
    try:
        cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return
    if cookie is not None:
        yield cookie.value


def _same(given: str, token: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), token.encode())


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
