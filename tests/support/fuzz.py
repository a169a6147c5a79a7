"""Requests that the OpenAPI document allows, and above all those that it does not, on a server."""

from collections import Counter
from contextlib import suppress
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode

from tests.support.studio import Server

# Endless by nature, or as long as a song takes where the request is a good one.
_LASTING = {"/v1/events", "/v1/audio/generations"}
SHUT = 501  # the library, where it is left out
STATUSES = {200, 201, 202, 204, 206, 400, 404, 405, 409, 413, 415, 422, 429, SHUT}


def fuzz(server: Server, requests: int, *, bodies: bool = False, number: int = 0) -> Counter[int]:
    """Send about so many requests, half of them against the document; how many had each status.
    bodies: those alone that have one; another number sends others.

    Asserts that each answer is one that the document knows, that no refusal is more than a
    sentence, and that none tells of a fault of the server's own.
    """
    schema = schemathesis.openapi.from_url(f"{server.address}openapi.json")
    operations = [result.ok() for result in schema.get_all_operations()]
    ids = {"plan": server.plan(duration=20)["id"]}
    jobs = []
    for operation in operations:
        has_body, is_upload = bool(operation.body), operation.path == "/v1/uploads"
        if bodies and (not has_body or is_upload):
            continue
        weight = 12 if has_body and not is_upload else 1  # a process for each file takes its time
        if operation.path not in _LASTING:
            jobs.append((operation, GenerationMode.POSITIVE, weight))
        if has_body or operation.query:  # else there is nothing that could be wrong
            jobs.append((operation, GenerationMode.NEGATIVE, weight))
    share = requests / sum(weight for *_, weight in jobs)
    found: Counter[int] = Counter()
    for operation, mode, weight in jobs:
        _job(server, operation, mode, max(1, round(share * weight)), number, ids, found)
    return found


def _job(
    server: Server,
    operation: Any,
    mode: Any,
    count: int,
    number: int,
    ids: dict[str, str],
    found: Counter[int],
) -> None:
    """Requests of one operation, half of them of a plan that is there."""
    quiet = settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=(Phase.explicit, Phase.generate),
        suppress_health_check=list(HealthCheck),
    )

    @seed(number)
    @quiet
    @given(case=operation.as_strategy(generation_mode=mode))
    def one(case: Any) -> None:
        known = {name: ids[name] for name in case.path_parameters or {} if name in ids}
        if known and case.method.upper() != "DELETE" and sum(found.values()) % 2:
            case.path_parameters.update(known)
        request = case.as_transport_kwargs(base_url=server.address)
        found[_sent(server, request)] += 1

    with suppress(Unsatisfiable):  # nothing can be wrong with a request that takes nothing
        one()


def _sent(server: Server, request: dict[str, Any]) -> int:
    """The status of the answer to one request."""
    import requests

    prepared = requests.Request(**{k: v for k, v in request.items() if k in _OF_REQUESTS}).prepare()
    with requests.Session() as session:
        answer = session.send(prepared, timeout=60, stream=True, allow_redirects=False)
        assert answer.status_code in STATUSES, (answer.status_code, request, answer.text)
        if answer.status_code >= 400:
            told = answer.json()["error"]
            assert set(told) == {"message", "type", "param", "code"}, told
            assert "\n" not in told["message"] and len(told["message"]) < 500, told
            assert str(server.folder) not in answer.text and "Traceback" not in answer.text
        answer.close()
    return answer.status_code


_OF_REQUESTS = ("method", "url", "headers", "params", "json", "data", "cookies", "files")
