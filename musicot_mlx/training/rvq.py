"""Codebooks of musical thoughts for any CLAP: a residual quantiser fitted to its embeddings.

SoundStream (arXiv 2107.03312), section 3.3: k-means start, moving averages of what each code is
chosen for (van den Oord et al., arXiv 1711.00937, appendix A.1), and codes that are hardly chosen
are put where there is data (Dhariwal et al., arXiv 2005.00341). vector_quantize_pytorch.ResidualVQ
is the reference. It moves all levels at once; here each level is fitted to what the finished levels
before it leave, so that no level aims at residuals that are still moving.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from musicot_mlx.audio.files import audio_files, read_audio
from musicot_mlx.audio.headers import tell
from musicot_mlx.errors import MusicotError
from musicot_mlx.models.rvq import ResidualVQ, RVQConfig
from musicot_mlx.pipelines.clap import ClapEmbedder
from musicot_mlx.pipelines.given import LARGEST_SEED, needed, shown
from musicot_mlx.training.records import Skipped
from musicot_mlx.weights.checkpoint import save_checkpoint
from musicot_mlx.weights.config import config_to_dict

_ROWS = 4096  # vectors handled at a time, so that distances need no memory to speak of


@dataclass(frozen=True)
class FitOptions:
    """How codebooks are fitted; `codebooks` and `codebook_size` are L and K of the paper."""

    codebooks: int = 8
    codebook_size: int = 1024
    kmeans_steps: int = 10
    passes: int = 20  # over the data, after the k-means start
    decay: float = 0.95  # of the moving averages
    dead_below: float = 0.1  # a code chosen less often than this share of the average is moved
    batch_size: int = 4096
    held_out: float = 0.1  # share of the files, or of the vectors, that only measures
    seed: int = 0

    def __post_init__(self) -> None:
        """Make every number plain; MusicotError for what is none, or out of bounds."""
        for each in fields(self):
            low, high = _BOUNDS[each.name]
            whole = isinstance(each.default, int)
            value = needed(each.name, getattr(self, each.name), low=low, high=high, whole=whole)
            object.__setattr__(self, each.name, value)


_BELOW_1 = math.nextafter(1, 0)
_BOUNDS = {
    "codebooks": (1, 64),
    "codebook_size": (1, 65536),
    "kmeans_steps": (1, 10000),
    "passes": (0, 10000),
    "decay": (0, _BELOW_1),
    "dead_below": (0, _BELOW_1),
    "batch_size": (1, 1 << 24),
    "held_out": (0, _BELOW_1),
    "seed": (0, LARGEST_SEED),
}


@dataclass(frozen=True)
class Fit:
    """Codebooks and how well they do, by level: level k sums the codes of levels 1 to k.

    train and held_out: mean cosine of a vector with its reconstruction (held_out None where nothing
    was held out). used: share of the codes of each level that the training vectors choose.
    """

    rvq: ResidualVQ
    train: list[float]
    held_out: list[float] | None
    used: list[float]
    vectors: int


def fit(
    embeddings: np.ndarray,
    options: FitOptions,
    *,
    groups: Sequence[int] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Fit:
    """Fit codebooks to embeddings (n, dim), float32.

    groups: a number for each vector, the same for those of one song, which are held out together.
    progress is called as progress(levels done, levels). Raises MusicotError for vectors that are
    not finite or fewer than there are codes.
    """
    if not isinstance(options, FitOptions):
        raise MusicotError(f"options is {shown(options)}; pass FitOptions(...)")
    data = checked_embeddings(embeddings)
    train, held_out = _split(data, options, groups)
    if len(train) < options.codebook_size:
        raise MusicotError(
            f"{len(train)} vectors to fit can't fill a codebook of {options.codebook_size}; give "
            "more audio, or a smaller --codebook-size"
        )
    config = RVQConfig(data.shape[1], options.codebooks, options.codebook_size)
    rvq = ResidualVQ(config)
    keys = mx.random.split(mx.random.key(options.seed), options.codebooks)
    residual, used = mx.array(train), []
    for level, codebook in enumerate(rvq.codebooks):
        if progress:
            progress(level, options.codebooks)
        codebook.weight = fit_codebook(residual, options, key=keys[level])
        codes = _nearest(residual, codebook.weight)
        residual = residual - codebook.weight[codes]
        mx.eval(residual)
        used.append(len(np.unique(np.array(codes))) / options.codebook_size)
    if progress:
        progress(options.codebooks, options.codebooks)
    return Fit(
        rvq,
        cosines(rvq, train),
        cosines(rvq, held_out) if len(held_out) else None,
        used,
        len(data),
    )


def fit_codebook(x: mx.array, options: FitOptions, *, key: mx.array) -> mx.array:
    """One codebook (codebook_size, dim) for vectors x (n, dim)."""
    count, size = len(x), options.codebook_size
    key, start = mx.random.split(key)
    codes = _spread(x, size, key=start)
    for _ in range(options.kmeans_steps):
        nearest = _nearest(x, codes)
        sums, counts = _sums(x, nearest, size)
        empty = np.flatnonzero(np.array(counts) == 0)
        codes = mx.where(counts[:, None] > 0, sums / mx.maximum(counts, 1)[:, None], codes)
        if len(empty):  # to the vectors that are worst off
            codes[mx.array(empty)] = x[mx.argsort(-_distance(x, codes))[: len(empty)]]
        mx.eval(codes)
    batch = min(options.batch_size, count)
    nearest = _nearest(x, codes)
    sums, counts = _sums(x, nearest, size)
    share = batch / count  # averages count per batch
    sums, counts = sums * share, counts * share
    for _ in range(options.passes):
        key, order, spare = mx.random.split(key, 3)
        shuffled = mx.random.permutation(count, key=order)
        for begin in range(0, count - batch + 1, batch):
            rows = x[shuffled[begin : begin + batch]]
            new_sums, new_counts = _sums(rows, _nearest(rows, codes), size)
            sums = options.decay * sums + (1 - options.decay) * new_sums
            counts = options.decay * counts + (1 - options.decay) * new_counts
            codes = sums / mx.maximum(counts, 1e-6)[:, None]
            mx.eval(codes, sums, counts)
        # once a pass, so that a code has had the time to be chosen
        dead = np.flatnonzero(np.array(counts) < options.dead_below * batch / size)
        if len(dead):
            at, value = mx.array(dead), x[mx.random.randint(0, count, (len(dead),), key=spare)]
            counts[at] = mx.full((len(dead),), batch / size)  # as if chosen like the average
            codes[at], sums[at] = value, value * (batch / size)
            mx.eval(codes, sums, counts)
    return codes


def _spread(x: mx.array, size: int, *, key: mx.array) -> mx.array:
    """Vectors of x to start k-means with, each round far from the ones before.

    k-means++ (Arthur and Vassilvitskii, 2007) draws one at a time, with the squared distance as its
    probability; here each round draws as many as there are, so that log2(size) rounds do.
    """
    starts = x[mx.random.randint(0, len(x), (1,), key=key)]
    distance = mx.full((len(x),), mx.inf)
    latest = starts
    while len(starts) < size:
        distance = mx.minimum(distance, _distance(x, latest))
        key, draw = mx.random.split(key)
        # the largest of log p + Gumbel noise are a draw without replacement
        score = mx.log(distance + 1e-12) + mx.random.gumbel((len(x),), key=draw)
        count = min(len(starts), size - len(starts))
        latest = x[mx.argsort(-score)[:count]]
        starts = mx.concatenate([starts, latest])
        mx.eval(starts, distance)
    return starts


def cosines(rvq: ResidualVQ, x: np.ndarray) -> list[float]:
    """Mean cosine of vectors (n, dim) with their reconstruction from the first 1, 2, ... levels."""
    total = np.zeros(len(rvq.codebooks))
    for begin in range(0, len(x), _ROWS):
        rows = mx.array(x[begin : begin + _ROWS])
        codes = rvq.encode(rows[None])[0]  # (codebooks, rows)
        decoded = mx.cumsum(mx.stack([b(c) for b, c in zip(rvq.codebooks, codes, strict=True)]), 0)
        dot = mx.sum(decoded * rows, axis=-1)
        size = mx.linalg.norm(decoded, axis=-1) * mx.linalg.norm(rows, axis=-1)
        total += np.array(mx.sum(dot / mx.maximum(size, 1e-9), axis=-1))
    return [float(value) for value in total / len(x)]


def save(folder: str | Path, fitted: Fit, options: FitOptions, *, source: str) -> Path:
    """Write an MLX folder with model_type "rvq"; source says what the vectors are."""
    config = {
        "model_type": "rvq",
        "rvq": config_to_dict(fitted.rvq.config),
        "fit": {**asdict(options), "source": source, "vectors": fitted.vectors}
        | {"train_cosine": fitted.train, "held_out_cosine": fitted.held_out},
    }
    arrays = {f"rvq.{key}": value for key, value in tree_flatten(fitted.rvq.parameters())}
    name = Path(folder).name
    card = f"""---
library_name: musicot-mlx
---

# {name}

{fitted.rvq.config.codebooks} codebooks of {fitted.rvq.config.codebook_size} codes for vectors of
{fitted.rvq.config.dim} channels, fitted to {fitted.vectors} of {source}.

{table(fitted)}

```
python -c "import musicot_mlx as mc; print(mc.load('{name}').config)"
```
"""
    return save_checkpoint(folder, config, arrays, {"README.md": card})


def table(fitted: Fit) -> str:
    """Cosine and use by level, as Markdown."""
    rows = ["| levels | cosine, fitted | cosine, held out | codes used |", "|---|---|---|---|"]
    for level, (train, used) in enumerate(zip(fitted.train, fitted.used, strict=True)):
        held = f"{fitted.held_out[level]:.4f}" if fitted.held_out else "-"
        rows.append(f"| {level + 1} | {train:.4f} | {held} | {100 * used:.0f} % |")
    return "\n".join(rows)


def embeddings_of_folder(
    folder: Path, clap: ClapEmbedder, *, progress: Callable[[int, int], None] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """CLAP embeddings (windows, dim) of every audio file below a folder, and each one's file.

    A file that can't be read is left out with a MusicotWarning. Raises MusicotError where none is
    left.
    """
    files = audio_files(folder)
    if not files:
        raise MusicotError(f"{folder} holds no audio; put WAV, FLAC or MP3 files there")
    found, groups, reasons = [], [], []
    for number, path in enumerate(files):
        if progress:
            progress(number, len(files))
        try:
            windows = clap.embed_audio(*read_audio(path))
        except MusicotError as error:
            reasons.append(str(Skipped(str(path.relative_to(folder)), str(error))))
            tell(reasons[-1])
            continue
        found.append(windows)
        groups += [number] * len(windows)
    if progress:
        progress(len(files), len(files))
    if not found:
        raise MusicotError(f"{folder} holds no audio that can be read ({reasons[0]})")
    return np.concatenate(found), np.array(groups)


def read_embeddings(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Vectors (n, dim) of an .npy file or of an .npz with `embeddings` (and `groups`, if any).

    Raises MusicotError for another kind of file or shape.
    """
    try:
        loaded: Any = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise MusicotError(f"can't read {path} as .npy or .npz ({error})") from error
    if isinstance(loaded, np.ndarray):
        return checked_embeddings(loaded, where=str(path)), None
    with loaded:
        names = list(loaded.files)
        name = "embeddings" if "embeddings" in names else names[0] if len(names) == 1 else None
        if name is None:
            raise MusicotError(f"{path} holds {', '.join(names)}; name the vectors `embeddings`")
        vectors = checked_embeddings(loaded[name], where=str(path))
        groups = loaded["groups"] if "groups" in names else None
    if groups is not None and groups.shape != (len(vectors),):
        raise MusicotError(f"{path}: groups must hold a number for each of {len(vectors)} vectors")
    return vectors, groups


def checked_embeddings(embeddings: np.ndarray, *, where: str = "the embeddings") -> np.ndarray:
    """The vectors as float32 (n, dim), if that is what they are; MusicotError otherwise."""
    embeddings = np.asarray(embeddings)
    if embeddings.ndim != 2 or not embeddings.size or embeddings.dtype.kind not in "fiu":
        raise MusicotError(
            f"{where}: expected numbers of shape (vectors, dim), got {embeddings.dtype} "
            f"{embeddings.shape}"
        )
    embeddings = embeddings.astype(np.float32)
    if not np.isfinite(embeddings).all():
        raise MusicotError(f"{where}: NaN or infinite numbers")
    return embeddings


def _split(
    data: np.ndarray, options: FitOptions, groups: Sequence[int] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Vectors to fit, and vectors that only measure, whole groups of them."""
    members = np.arange(len(data)) if groups is None else np.asarray(groups)
    names = np.unique(members)
    held = round(options.held_out * len(names))
    chosen = np.random.default_rng(options.seed).permutation(names)[:held]
    out = np.isin(members, chosen)
    return data[~out], data[out]


def _nearest(x: mx.array, codes: mx.array) -> mx.array:
    """int32 code (n,) of each vector (n, dim), a block of rows at a time."""
    squares = mx.sum(codes * codes, axis=-1)
    nearest = []
    for begin in range(0, len(x), _ROWS):
        rows = x[begin : begin + _ROWS]
        nearest.append(mx.argmin(squares - 2 * (rows @ codes.T), axis=-1).astype(mx.int32))
        mx.eval(nearest[-1])
    return mx.concatenate(nearest)


def _distance(x: mx.array, codes: mx.array) -> mx.array:
    """Squared distance (n,) of each vector (n, dim) to the nearest code."""
    return mx.sum(mx.square(x - codes[_nearest(x, codes)]), axis=1)


def _sums(x: mx.array, nearest: mx.array, size: int) -> tuple[mx.array, mx.array]:
    """Sum (size, dim) of the vectors that chose each code, and their number (size,).

    As matrix products of choices and vectors, because a GPU scatters in any order: sums would
    differ in their last bits from run to run, and k-means makes much of them.
    """
    sums, counts = mx.zeros((size, x.shape[1])), mx.zeros((size,))
    for begin in range(0, len(x), _ROWS):
        block = slice(begin, begin + _ROWS)
        chosen = (nearest[block, None] == mx.arange(size)).astype(mx.float32)  # (rows, size)
        sums, counts = sums + chosen.T @ x[block], counts + chosen.sum(axis=0)
        mx.eval(sums, counts)
    return sums, counts
