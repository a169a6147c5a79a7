"""Other families behind the same routes: one that plans otherwise, one that plans nothing."""

from pathlib import Path

from tests.support import tiny_magenta_model
from tests.support.studio import serving


def test_a_family_with_controls_and_without_chords(tmp_path: Path) -> None:
    model = tiny_magenta_model.write(tmp_path / "magenta", seed=1)
    with serving(tmp_path / "data", "--model", str(model)) as server:
        (about,) = [m for m in server.get("/models").json()["models"] if m["name"] == "magenta"]
        assert "set" in about["edits"] and "chords" not in about["edits"]
        assert [each["name"] for each in about["options"] if each["by_segment"]] == [
            "drums", "style_strength",
        ]  # fmt: skip
        plan = server.plan("jazz", duration=5)
        assert plan["model"] == "magenta" and plan["chords"] == [] and plan["bars"] == []
        (first,) = server.ask(plan=plan["id"])
        done = server.finished(first["id"])
        assert done["status"] == "done", done
        edited = server.edit(plan["id"], "set", segments=[1], controls={"drums": "none"}).json()
        assert edited["segments"][1]["controls"] == {"drums": "none"} and edited["changed"] == [1]
        for controls in ({"drums": "loud"}, {"key": "A minor"}, {"where": 1}, {}):
            found = server.edit(plan["id"], "set", segments=[1], controls=controls)
            server.error(found, 422)
        (second,) = server.ask(plan=plan["id"])
        done = server.finished(second["id"])
        assert done["status"] == "done" and done["kept"]["seconds"] == plan["segment_seconds"]
        server.error(server.edit(plan["id"], "chords", chords="Am F"), 422)


def test_a_family_without_plans(tiny_musicgen_upstream: Path, tmp_path: Path) -> None:
    with serving(tmp_path / "data", "--model", str(tiny_musicgen_upstream)) as server:
        about = server.get("/models").json()
        name = about["default"]
        described = about["models"][0]
        assert described["name"] == name and described["edits"] == []
        assert "plan" not in described["capabilities"]
        server.error(server.post("/plans", {"prompt": "x"}), 422)
        (song,) = server.ask(prompt="techno", options={"duration": 2}, seed=2)
        done = server.finished(song["id"])
        assert done["plan"] is None and done["heard"] is None and done["made_seconds"] > 1
        server.error(server.get(f"/songs/{song['id']}/plan"), 404)
        server.error(server.get(f"/models/{name}/vocabulary"), 404)
        opened = server.post("/sidecars", server.get(f"/songs/{song['id']}/sidecar").json()).json()
        assert opened["plan"] is None and opened["model"] == name and opened["seed"] == done["seed"]
        assert opened["options"]["duration"] == 2 and opened["left_out"] == []
