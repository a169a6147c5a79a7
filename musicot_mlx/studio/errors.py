"""What a request is refused by: a status and one sentence, in one shape for every route."""

import os
import sys
import traceback
from collections.abc import Mapping
from typing import Any

from musicot_mlx.errors import DiskFull, MusicotError, RunError

TYPES = {
    400: "invalid_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "invalid_request",
    408: "too_slow",
    409: "conflict",
    413: "too_large",
    415: "invalid_request",
    416: "invalid_request",
    422: "invalid_request",
    429: "busy",
    501: "unavailable",
    503: "unavailable",
    507: "disk_full",
}
NO_ROOM = "there is no room left on the disk of the studio; free some and try again"


class Refused(MusicotError):
    """A request that is not done. status: of HTTP; param: the field that it is about; wait: seconds
    after which it may be tried again; headers: what the answer tells besides.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        wait: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.wait = status, param, wait
        self.headers = dict(headers or {})


def not_found(what: str) -> Refused:
    """There is no such thing (any more)."""
    return Refused(404, f"there is no such {what} (any more)")


def body(status: int, message: str, param: str | None = None) -> dict[str, Any]:
    """The JSON of an error."""
    sentence = " ".join(message.split())
    if sentence and sentence[-1] not in ".!?":
        sentence += "."
    type = TYPES.get(status, "failed" if status >= 500 else "invalid_request")
    return {"error": {"message": sentence, "type": type, "param": param, "code": status}}


def status_of(error: MusicotError) -> int:
    """The status that tells of an error of the pipelines."""
    if isinstance(error, Refused):
        return error.status
    if isinstance(error, DiskFull):
        return 507
    return 500 if isinstance(error, RunError) else 422


def report(error: BaseException) -> None:
    """A fault of ours as one line on standard error; MUSICOT_DEBUG=1 shows where it came from."""
    if os.environ.get("MUSICOT_DEBUG", "0") not in ("", "0"):
        traceback.print_exception(error)
    text = " ".join(f"{type(error).__name__}: {error}".split())
    print(f"musicot: {text} (this is a bug; MUSICOT_DEBUG=1 shows where)", file=sys.stderr)
