"""Songs alike: what changes within songs counts little, where a library is large enough to tell."""

from pathlib import Path

import numpy as np
import pytest

from musicot_mlx.library import Library, likeness
from tests.library.support import BandEar

pytest.importorskip("lancedb")

STYLES, EACH, WINDOWS = 5, 12, 4


def _rows(songs: int = STYLES * EACH) -> list[dict]:
    """Windows whose style is a small part of them; the rest changes from window to window."""
    rng, rows = np.random.default_rng(0), []
    styles = rng.standard_normal((STYLES, 8)) * 0.5
    for i in range(songs):
        for number in range(WINDOWS):
            own = [styles[i % STYLES], 2 * rng.standard_normal(8), [3.0] * 4]  # and all in common
            vector = np.concatenate(own)
            rows.append(
                {
                    "song": f"s_{i}", "number": number, "start": 10.0 * number, "seconds": 10.0,
                    "heard": [], "vector": vector / np.linalg.norm(vector), "space": "x",
                    "model": "x", "path": f"/music/{i % STYLES}/{i}.wav", "content": f"{i}",
                    "size": 1, "mtime": 1, "duration": 40.0, "tags": [], "title": f"{i}",
                }
            )  # fmt: skip
    return rows


def _right(library: Library) -> float:
    """The share of the finds of each song that are of its style."""
    shares = []
    for i in range(STYLES * EACH):
        found = library.similar(f"s_{i}", limit=10)
        assert [each.score for each in found] == sorted((f.score for f in found), reverse=True)
        assert len(found) == 10 and f"s_{i}" not in {each.id for each in found}
        shares.append(np.mean([int(each.title) % STYLES == i % STYLES for each in found]))
    return float(np.mean(shares))


def test_songs_of_a_style_are_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library(tmp_path / "l", BandEar("x"))
    library.store.begin(20)
    library.store.write(_rows())
    assert _right(library) > 0.9
    monkeypatch.setattr(likeness, "ENOUGH", 10_000)
    plain = Library(tmp_path / "l", BandEar("x"))
    assert _right(plain) < 0.7 and plain._likeness() is None
    # a library that grew is measured anew
    before = library._measured
    library.similar("s_0")
    assert library._measured is before
    library.store.delete([f"s_{i}" for i in range(1, STYLES * EACH, 3)])
    library.store.delete([f"s_{i}" for i in range(2, STYLES * EACH, 3)])
    assert library.similar("s_0") and library._measured[0] == STYLES * EACH * WINDOWS // 3


def test_few_songs_or_short_ones_tell_nothing_of_it() -> None:
    vectors = np.eye(4, dtype=np.float32)[np.arange(400) % 4]
    assert likeness.of([str(i // 2) for i in range(400)], vectors) is not None
    assert likeness.of([str(i // 2) for i in range(100)], vectors[:100]) is None
    assert likeness.of([str(i) for i in range(400)], vectors) is None
    same = likeness.of(["a"] * 400, np.ones((400, 4), np.float32) / 2)  # nothing differs at all
    assert np.isfinite(same.cosines(vectors[0], vectors[:3])).all()
