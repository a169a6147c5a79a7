"""Plans over HTTP: drawn, edited, undone; what can't be done is one sentence."""

import json
from typing import Any

import pytest

from musicot_mlx.studio.bodies import PlanDocument
from tests.support.studio import Server


def _codes(server: Server, plan: str) -> list[list[int]]:
    return server.get(f"/plans/{plan}/file").json()["codes"]


def test_a_plan_shows_all_that_the_page_draws(server: Server) -> None:
    plan = server.plan("piano at 120 BPM", duration=25, key="A minor")
    PlanDocument.model_validate(plan)
    assert plan["model"] == "tiny" and plan["version"] == 1 and not plan["can_undo"]
    assert [each["end"] for each in plan["segments"]] == [10, 20, 25]
    assert len(plan["segments"][0]["activity"]) == len(plan["anchors"])
    assert plan["key"] == "A minor" and plan["bpm"] == 120
    assert plan["bars"][:3] == [0, 2, 4] and plan["beats"][:3] == [0, 0.5, 1]
    assert plan["chords"][-1]["end"] == 25 and plan["sections"][0]["start"] == 0
    again = server.get(f"/plans/{plan['id']}").json()
    assert again == plan
    own = server.get(f"/plans/{plan['id']}", params={"anchors": "soft choir, bells"}).json()
    assert own["anchors"] == ["soft choir", "bells"] and len(own["segments"][0]["activity"]) == 2
    assert plan["id"] in [each["id"] for each in server.get("/plans").json()["plans"]]


def test_edits_undo_and_redo(server: Server) -> None:
    plan = server.plan(duration=30)["id"]
    first = _codes(server, plan)
    after = server.edit(plan, "replace", segments=[1], source={"words": "drums"}).json()
    assert after["changed"] == [1] and after["segments"][1]["words"] == "drums"
    assert after["edit"] == {"edit": "replace", "segments": [1], "source": {"words": "drums"}}
    assert after["version"] == 2 and after["can_undo"] and not after["can_redo"]
    edited = _codes(server, plan)
    undone = server.post(f"/plans/{plan}/undo").json()
    assert undone["version"] == 1 and undone["can_redo"] and _codes(server, plan) == first
    assert server.post(f"/plans/{plan}/redo").json()["version"] == 2
    assert _codes(server, plan) == edited
    server.post(f"/plans/{plan}/undo")
    other = server.edit(plan, "delete", segments=[0]).json()
    assert other["version"] == 3 and len(other["segments"]) == 2 and not other["can_redo"]
    assert server.get(f"/plans/{plan}", params={"version": 2}).json()["segments"][1]["words"]
    server.post(f"/plans/{plan}/undo")
    server.error(server.post(f"/plans/{plan}/undo"), 409)


@pytest.mark.parametrize(
    ("edit", "segments"),
    [
        ({"edit": "morph", "segments": [0], "source": {"words": "drums"}, "amount": 0.5}, 3),
        ({"edit": "redraw"}, 3),
        ({"edit": "chords", "chords": "Am F C G"}, 3),
        ({"edit": "transpose", "semitones": 2}, 3),
        ({"edit": "arrange", "order": [2, 0, 0]}, 3),
        ({"edit": "duplicate", "segments": [1], "times": 2}, 5),
        ({"edit": "insert", "before": 1, "source": {"words": "drums"}}, 4),
        ({"edit": "extend", "seconds": 10}, 4),
    ],
    ids=lambda value: value["edit"] if isinstance(value, dict) else "",
)
def test_every_edit(server: Server, edit: dict[str, Any], segments: int) -> None:
    plan = server.plan(duration=30, key="A minor")["id"]
    before = server.get(f"/plans/{plan}/file").json()
    shown = server.post(f"/plans/{plan}/edits", {**edit, "preview": True}).json()
    assert shown["preview"] and shown["version"] == 1
    assert server.get(f"/plans/{plan}/file").json() == before
    made = server.post(f"/plans/{plan}/edits", edit).json()
    assert made["version"] == 2 and len(made["segments"]) == segments
    assert [each["activity"] for each in made["segments"]] == [
        each["activity"] for each in shown["segments"]
    ]
    assert server.get(f"/plans/{plan}/file").json() != before


def test_key_moves_the_chords(server: Server) -> None:
    plan = server.plan(duration=20, key="A minor", chords="Am F")["id"]
    moved = server.edit(plan, "key", key="B minor").json()
    assert moved["key"] == "B minor" and moved["chords"][0]["chord"] == "Bm"


def test_locked_segments_stay(server: Server) -> None:
    plan = server.plan(duration=30)["id"]
    locked = server.edit(plan, "lock", segments=[1]).json()
    assert [each["locked"] for each in locked["segments"]] == [False, True, False]
    first = _codes(server, plan)
    assert server.edit(plan, "redraw", seed=5).status_code == 200
    redrawn = _codes(server, plan)
    assert [row[1] for row in redrawn] == [row[1] for row in first] and redrawn != first
    for edit, given in [
        ("replace", {"segments": [1], "source": {"words": "drums"}}),
        ("delete", {"segments": [1]}),
        ("redraw", {"segments": [1]}),
        ("arrange", {"order": [0, 2]}),
    ]:
        assert "locked" in server.error(server.edit(plan, edit, **given), 422)
    moved = server.edit(plan, "arrange", order=[1, 0, 2, 2]).json()
    assert [each["locked"] for each in moved["segments"]] == [True, False, False, False]
    assert not any(
        each["locked"] for each in server.edit(plan, "unlock", segments=[0]).json()["segments"]
    )


def test_a_segment_dropped_on_another_and_between_plans(server: Server) -> None:
    plan, other = server.plan(duration=30)["id"], server.plan("guitar", duration=20)["id"]
    source = {"plan": plan, "segments": [2]}
    server.edit(plan, "replace", segments=[0], source=source)
    assert [row[0] for row in _codes(server, plan)] == [row[2] for row in _codes(server, plan)]
    source = {"plan": other, "segments": [1]}
    server.edit(plan, "morph", segments=[1], source=source, amount=1)
    assert [row[1] for row in _codes(server, plan)] == [row[1] for row in _codes(server, other)]
    whole = server.edit(plan, "morph", source={"plan": other}, amount=0.9)
    assert whole.json()["prompt"] == "guitar"


def test_an_edit_of_an_older_version_is_refused(server: Server) -> None:
    plan = server.plan(duration=20)["id"]
    server.edit(plan, "redraw", version=1)
    assert "version 2" in server.error(server.edit(plan, "redraw", version=1), 409)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        ({"edit": "replace", "segments": [9], "source": {"words": "x"}}, "no segment 9"),
        ({"edit": "replace", "segments": [0], "source": {"words": "@/etc/passwd"}}, "name no file"),
        ({"edit": "replace", "segments": [0], "source": {"words": "x", "plan": "p"}}, "one of"),
        ({"edit": "replace", "segments": [0], "source": {"words": " "}}, "describe the music"),
        ({"edit": "morph", "segments": [0], "source": {"words": "x"}, "amount": 2}, "amount"),
        ({"edit": "chords", "chords": "H9x"}, "chord"),
        ({"edit": "delete", "segments": [0, 1]}, "at least one"),
        ({"edit": "extend", "seconds": 500}, "at most 300 s"),
        ({"edit": "dance"}, "dance"),
        ({"edit": "redraw", "colour": "red"}, "no such field"),
    ],
)
def test_edits_that_cannot_be(server: Server, edit: dict[str, Any], words: str) -> None:
    plan = server.plan(duration=20)["id"]
    assert words in server.error(server.post(f"/plans/{plan}/edits", edit), 422)
    assert server.get(f"/plans/{plan}").json()["version"] == 1


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "nothing to plan"),
        ({"prompt": "  "}, "empty"),
        ({"prompt": "x", "options": {"duraton": 3}}, "did you mean duration?"),
        ({"prompt": "x", "options": {"duration": "3"}}, "duration is '3'"),
        ({"prompt": "x", "options": {"duration": 1e9}}, "1 to 300 s"),
        ({"prompt": "x", "options": {"steps": 3}}, "not of the plan"),
        ({"prompt": "x", "options": {"reference": "/etc/passwd"}}, "takes audio"),
        ({"prompt": "x", "options": {"reference": {"upload": "../../etc"}}}, "no such upload"),
        ({"prompt": "x", "model": "/etc"}, "no model"),
        ({"prompt": "x", "adapters": [{"name": "/etc"}]}, "no adapter"),
        ({"prompt": "x", "options": {"key": "H flat"}}, "key"),
        ({"prompt": "x", "options": {"chords": "Q"}}, "no chord"),
        ({"prompt": "x", "options": {"tags": "no such"}}, "unknown"),
        ({"prompt": "x", "options": {"reference_weights": [1.0]}}, "no reference"),
        ({"prompt": "x, 90 BPM", "options": {"bpm": 120}}, "leave one out"),
    ],
)
def test_plans_that_cannot_be(server: Server, body: dict[str, Any], words: str) -> None:
    found = server.post("/plans", body)
    assert words in server.error(found, 404 if "upload" in words else 422)
    option = next((f"options.{name}" for name in body.get("options", ())), None)
    if found.status_code == 422:  # the field that it is about, found early or while it is planned
        asked = option or next((name for name in ("model", "adapters") if name in body), "prompt")
        assert found.json()["error"]["param"] == asked


def test_a_plan_file_and_a_sidecar_open_again(server: Server) -> None:
    plan = server.plan("piano and drums", duration=20)["id"]
    file = server.get(f"/plans/{plan}/file")
    assert "attachment" in file.headers["content-disposition"]
    opened = server.post("/sidecars", file.json()).json()
    assert opened["plan"]["prompt"] == "piano and drums" and opened["left_out"] == []
    assert _codes(server, opened["plan"]["id"]) == file.json()["codes"]
    for broken in ({}, {"format": "musicot-plan"}, {"format": "x", "duration": 3}):
        server.error(server.post("/sidecars", broken), 422)
    text = json.dumps({**file.json(), "codes": [[10**30]]})
    headers = {"content-type": "application/json"}
    server.error(server.client.post("/v1/sidecars", content=text, headers=headers), 422)


def test_deleted_plans_are_gone(server: Server) -> None:
    plan = server.plan(duration=10)["id"]
    assert server.client.delete(f"/v1/plans/{plan}").status_code == 204
    server.error(server.get(f"/plans/{plan}"), 404)
    server.error(server.client.delete(f"/v1/plans/{plan}"), 404)
    gone = server.get(f"/plans/{plan}", params={"version": 1})
    assert server.error(gone, 404) == "there is no such plan (any more)."
