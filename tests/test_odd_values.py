"""Whatever a caller gives to the doors beside a song's options: a result, or a line of refusal."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import musicot_mlx as mc
from musicot_mlx.convert.convert import convert
from musicot_mlx.errors import MusicotError
from musicot_mlx.training import rvq
from musicot_mlx.training.fuse import fuse

ODD = [None, True, -1, 0, 1.5, float("nan"), float("inf"), "4", "", b"x", [], [1], {}, object()]
ODD += [10**30, np.float32(3), np.int64(4), np.array([2]), 1j]
RATE = 8000


def _doors(model: Path, folder: Path, odd: Any) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Calls with one odd value each, by its name; none of them gets as far as real work."""
    loaded, nowhere = mc.load(model), str(folder / "nowhere")
    sound = np.random.default_rng(0).normal(0, 0.1, (2 * RATE, 1)).astype(np.float32)
    for name in ("codebooks", "codebook_size", "kmeans_steps", "passes", "decay", "dead_below",
                 "batch_size", "held_out", "seed"):  # fmt: skip
        yield name, lambda name=name: rvq.FitOptions(**{name: odd})
    yield "embeddings", lambda: rvq.fit(odd, rvq.FitOptions())
    yield "options", lambda: rvq.fit(np.ones((9, 4), np.float32), odd)
    yield "audio", lambda: mc.analyze(odd, RATE, model=loaded)
    yield "rate", lambda: mc.analyze(sound, odd, model=loaded)
    yield "plan", lambda: mc.analyze(sound, RATE, model=loaded, plan=odd)
    yield "model", lambda: mc.analyze(sound, RATE, model=odd)
    fused = {"model": nowhere, "adapter_path": nowhere, "save_path": nowhere}
    for name in (*fused, "dequantize", "dtype"):
        yield f"fuse {name}", lambda name=name: fuse(load=mc.load, **{**fused, name: odd})
    made = {"source": nowhere, "target": nowhere}
    for name in (*made, "quantize", "bits", "group_size", "mode", "q_parts", "dtype",
                 "text_encoder", "tokenizer"):  # fmt: skip
        yield f"convert {name}", lambda name=name: convert(**{**made, name: odd})


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: repr(odd)[:20])
def test_an_odd_value_is_a_result_or_a_line(
    tiny_model: Path, tmp_path: Path, odd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, call in _doors(tiny_model, tmp_path, odd):
        try:
            call()
        except MusicotError as error:
            assert "\n" not in str(error), name
    assert not list(tmp_path.iterdir())


def test_what_is_a_number_is_taken() -> None:
    options = rvq.FitOptions(codebooks=np.int64(4), decay=np.float32(0.5), seed=np.array([3]))
    assert (options.codebooks, options.decay, options.seed) == (4, 0.5, 3)
    assert all(type(value) in (int, float) for value in vars(options).values())
    with pytest.raises(MusicotError, match="codebooks is 0; ask for 1 to 64"):
        rvq.FitOptions(codebooks=0)
