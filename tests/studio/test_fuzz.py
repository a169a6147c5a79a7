"""Some hundred requests made from the OpenAPI document; benchmarks/studio.py sends ten thousand."""

import contextlib

import pytest

from tests.support.studio import Server

pytest.importorskip("schemathesis")

from tests.support.fuzz import fuzz


def test_what_the_document_does_not_allow_is_refused(server: Server) -> None:
    try:
        found = fuzz(server, 200, bodies=True)
    finally:
        for song in server.get("/songs").json()["queue"]:
            with contextlib.suppress(Exception):
                server.post(f"/songs/{song}/cancel")
    assert sum(found.values()) >= 150 and found[422] > 50
