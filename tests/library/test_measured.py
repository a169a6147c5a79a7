"""The figures of docs/library.md are those that benchmarks/library.py wrote."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]


def _benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_library", ROOT / "benchmarks/library.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_tells_what_was_measured() -> None:
    found = json.loads((ROOT / "benchmarks/results/library.json").read_text())
    page = (ROOT / "docs/library.md").read_text()
    assert _benchmark().table(found) in page
    assert found["right"]["names"]["value"] >= 0.8
