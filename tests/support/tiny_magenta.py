"""A tiny Magenta RealTime 2 under the names of the released checkpoint, from a seed.

numpy's RandomState gives the same numbers for ever, so upstream's answers to these weights can be
kept (tests/parity/magenta_rt2/) without the weights, and upstream itself need not be installed.
"""

import gzip
import zlib
from pathlib import Path

import numpy as np

KEYS = Path(__file__).parents[1] / "parity" / "magenta_rt2"
PREFIX = "params/"
LAYERS, DEPTH_LAYERS, PAST = 2, 1, 3
TEMPORAL = {1024: 48, 4096: 64, 8: 2, 128: 16, 256: 32}
DEPTH = {768: 32, 3072: 40, 6: 2, 128: 16, 1024: 48}
CONDITIONS = {256: 32}  # the embedding of MusicCoCa keeps its 768 channels
NARROWER = 16  # times, the codec


def keys(name: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a released file: "small", "base" or "encoder"."""
    lines = gzip.open(KEYS / f"keys_{name}.tsv.gz", "rt").read().splitlines()
    rows = [line.split("\t") for line in lines]
    return {row[0]: tuple(int(n) for n in row[1].strip("()").split(",") if n) for row in rows}


def shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tiny checkpoint."""
    found = {}
    for key, shape in keys("small").items():
        layer = int(key.split("x_layers_")[1].split("/")[0]) if "x_layers_" in key else 0
        if layer >= (DEPTH_LAYERS if "depth_body" in key else LAYERS):
            continue
        if "soundstream" in key:
            found[key] = narrower(key, shape)
        elif "depth_body" in key:
            found[key] = tuple(DEPTH.get(n, n) for n in shape)
        elif "temporal_body" in key:
            found[key] = tuple(TEMPORAL.get(n, n) for n in shape)
        elif "decoder_embedding" in key:
            found[key] = (shape[0], TEMPORAL[shape[1]])
        else:
            found[key] = tuple(CONDITIONS.get(n, n) for n in shape)
    return found


def encoder_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tiny encoder's file."""
    return {key: narrower(key, shape) for key, shape in keys("encoder").items()}


def narrower(key: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """A convolution with a sixteenth of the channels; an embedding keeps its 256."""
    if "quantizer" in key:
        return shape
    sizes = list(shape)
    embedded = -2 if "decoder/input_layer/" in key and "b2" not in key else None
    embedded = -1 if "output_convs" in key and "b1" not in key else embedded
    for axis in (-2, -1)[-len(shape) :]:
        if axis != embedded and sizes[axis] >= NARROWER:
            sizes[axis] //= NARROWER
    return tuple(sizes)


def weights(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, np.ndarray]:
    """Random arrays, none of them zero, of a size that keeps signals alive."""
    return {key: _random(key, shape, seed) for key, shape in shapes.items()}


def _random(key: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    noise = np.random.RandomState(zlib.crc32(key.encode()) ^ seed).standard_normal(shape)
    if key.endswith("scale") and "per_dim" not in key:
        value = 1 + 0.1 * noise
    elif key.endswith("bias"):
        value = 0.1 * noise
    elif "per_dim_scale" in key or "sink" in key:
        value = 0.3 * noise
    elif "quantizer" in key:
        value = 0.3 * noise
    elif key.endswith("embedding"):
        value = 0.2 * noise
    elif "output_projection" in key:
        value = noise / np.sqrt(shape[1] * shape[2])
    elif "_projection/kernel" in key:
        value = noise / np.sqrt(shape[0])
    elif "base_conv_last/conv/kernel" in key:  # so that the sound stays below full scale
        value = 0.05 * noise / np.sqrt(np.prod(shape[:-1]))
    elif key.endswith("/conv/kernel"):
        value = 1.3 * noise / np.sqrt(np.prod(shape[:-1]))
    else:
        value = noise / np.sqrt(np.prod(shape[:-1]))
    return value.astype(np.float32)


def requests() -> np.ndarray:
    """What the frames of the kept song are asked to be, raw values (60, 144): a style, another one
    with drums and notes from frame 30 on, and a masked one from 45.
    """
    styles = np.array(
        [
            [660, 597, 668, 315, 857, 217, 930, 175, 655, 343, 534, 137],
            [796, 540, 12, 691, 843, 202, 225, 516, 324, 836, 41, 574],
            [-1] * 12,
        ]
    )
    rest = np.tile(np.array([*[-1] * 128, -1, 20, 10, 2]), (3, 1))
    rest[1, [60, 64, 67]], rest[1, 128], rest[1, 129:] = (1, 2, 3), 1, (25, 5, 4)
    rest[2, 128] = 0
    rows = np.concatenate([styles, rest], axis=1)
    return rows[[0] * 30 + [1] * 15 + [2] * 15].astype(np.int32)


def odd_requests(seed: int, frames: int = 60) -> np.ndarray:
    """Raw values (frames, 144) of every kind, others every five frames: styles of some levels, all
    states of notes and drums, strengths of all steps but the highest, which upstream misreads.
    """
    random, rows = np.random.RandomState(seed), []
    for _ in range(-(-frames // 5)):
        style = np.where(np.arange(12) < random.randint(0, 13), random.randint(0, 1024, 12), -1)
        notes, drums = random.randint(-1, 4, 128), random.randint(-1, 2, 1)
        strengths = random.randint(0, 40, 2), random.randint(0, 8, 1)
        rows += [np.concatenate([style, notes, drums, *strengths])] * 5
    return np.stack(rows[:frames]).astype(np.int32)


def noise(frame: int, level: int) -> np.ndarray:
    """Gumbel noise float32 (12294,) of one draw, over upstream's whole vocabulary."""
    return np.random.RandomState(1000 * frame + level).gumbel(size=12294).astype(np.float32)


DRAWS = ((1.3, 40), (0.5, 3), (1.0, 1), (2.5, 1024), (0.0, 40))  # temperature, top-k
DRAWN_FRAMES = 8
# style, notes and drums, how strictly each is followed; `None` leaves it to upstream's default
ASKED: tuple[tuple[dict, dict], ...] = (
    ({}, {}),
    ({"style": [1, 2, 3]}, {"style": 6.8, "notes": -1.0, "drums": 0.0}),
    ({"style": [*range(12)], "drums": 0}, {"style": 0.1, "notes": 0.3, "drums": 0.5}),
    ({"drums": 1}, {"style": -1.0, "notes": 6.7, "drums": 6.0}),
    ({"notes": 3, "drums": -1}, {"style": 2.35, "notes": 2.45, "drums": 2.5}),
)
