"""A tiny MusicCoCa with random weights, as upstream's .tflite files hold it."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from musicot_mlx.models.musiccoca import MusicCoCaConfig
from musicot_mlx.models.rvq import RVQConfig
from tests.support.tflite import Named, Operation, write_tflite

# No two sizes are equal, so that a wrong axis cannot fit.
SIZES = {
    "dim": 20, "layers": 2, "heads": 3, "head_dim": 4, "ffn": 28, "pool_heads": 2, "pool_dim": 6,
    "vocab": 40, "text_length": 11, "patch": 4, "sample_rate": 1000, "clip_seconds": 1.0, "cap": 4,
    "mel": {"frame": 50, "hop": 30, "fft": 64, "bins": 8, "frames": 24},
    "mapper": {
        "tokens": 3, "width": 10, "layers": 2, "heads": 2, "head_dim": 8, "ffn": 14, "context": 5,
        "cap": 3,
    },
}  # fmt: skip
CONFIG = MusicCoCaConfig.from_dict(SIZES)
RVQ = RVQConfig(dim=20, codebooks=4, codebook_size=9)
BODY = "jax2tf_arg_"


def arrays(shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> dict[str, np.ndarray]:
    """Noise for every array, large enough to show in the output; logits reach their caps."""
    rng = np.random.default_rng(seed)
    out = {}
    for name, shape in shapes.items():
        noise = rng.standard_normal(shape).astype(np.float32)
        if "Maximum" in name or "hann" in name:
            noise = np.abs(noise)
        elif name.endswith(("broadcast_in_dim1", "arg_4", "arg_15")):
            noise = 1 + 0.2 * noise
        out[name] = noise * np.float32(0.5)
    return out


def tensor_name(name: str) -> str:
    """A tensor's name as the exporter writes it, of the name of an array (reference/musiccoca)."""
    name = name.partition("/")[2].partition(":")[0]
    if name.startswith(BODY):
        return name + "/ReadVariableOp"
    if name == "arith.constant1":
        return name
    path = f"jit(main)/contrastive/{name}"
    # one constant with two users: of keys the tail names the values, as upstream's files do
    return f"{path};{path.replace('/key/', '/value/')}1" if "/key/" in path else path


def files(given: Mapping[str, np.ndarray]) -> dict[str, list[list[Named]]]:
    """The subgraphs of each .tflite file: main, the loop's condition, the loop's body."""
    out: dict[str, list[list[Named]]] = {}
    for name, array in given.items():
        graphs = out.setdefault(name.partition("/")[0], [[], [], []])
        graphs[2 if BODY in name else 0].append((tensor_name(name), array))
    for graphs in out.values():
        graphs[0].append(("serving_default_args_0", None))
        graphs[0].append(("arith.constant", np.arange(3, dtype=np.int32)))
    return out


def write_files(
    folder: Path,
    given: Mapping[str, np.ndarray],
    *,
    external: bool = False,
    dtype: str = "float32",
) -> Path:
    """Every .tflite file of `given` in the folder."""
    for name, graphs in files(given).items():
        cast = [
            [(n, a if a is None or a.dtype == np.int32 else a.astype(dtype)) for n, a in graph]
            for graph in graphs
        ]
        write_tflite(folder / f"{name}.tflite", cast, external=external)
    return folder


def codebooks(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    shape = (RVQ.codebooks, RVQ.codebook_size, RVQ.dim)
    return rng.standard_normal(shape).astype(np.float32)


def write_quantizer(folder: Path, books: np.ndarray, looked_up: np.ndarray | None = None) -> Path:
    """pretrained_vector_quantizer.tflite; looked_up: other codebooks to look up, for a test."""
    tensors: list[Named] = [("residual", None)]
    operations: list[Operation] = []
    tables = books if looked_up is None else looked_up
    for level, book in enumerate(books):
        last = level == len(books) - 1
        place = len(tensors)
        tensors += [
            (f"level{level}/weight", -2 * book),
            (f"level{level}/norm", (book**2).sum(-1)),
        ]
        operations.append((9, (0, place, place + 1), (0,)))
        if not last:
            tensors.append((f"level{level}/codebook", tables[level]))
            operations.append((36, (place + 2, 0), (0,)))
    operations.append((150, (0,), (0,)))  # a code beyond what old files could say
    return write_tflite(folder / "pretrained_vector_quantizer.tflite", [tensors], operations)
