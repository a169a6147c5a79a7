"""Magenta RealTime 2, read for conversion: a folder as google/magenta-realtime-2 has it.

    checkpoints/mrt2_small.safetensors (or mrt2_base)   language model, codec's decoder, codebooks
    resources/spectrostream/encoder.safetensors         codec's encoder
    resources/musiccoca/*.tflite, spm.model             the space of styles

Upstream's installer makes the same folder in ~/Documents/Magenta/magenta-rt-v2. Nothing but names
and shapes tells what the arrays are, so what they make of four texts is held against the tokens
that upstream's own tests have: a revision that gives others is refused.
"""

import os
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from tokenizers import Tokenizer

from musicot_mlx.convert.families import Checkpoint
from musicot_mlx.convert.keymaps import depthformer, musiccoca, spectrostream
from musicot_mlx.convert.rules import apply_rules
from musicot_mlx.convert.sentencepiece import read_sentencepiece
from musicot_mlx.errors import MusicotError, MusicotWarning
from musicot_mlx.models.musiccoca import MUSICCOCA, MusicCoCa, MusicCoCaConfig
from musicot_mlx.models.rvq import ResidualVQ, RVQConfig
from musicot_mlx.pipelines.magenta_rt2.embedder import MusicCoCaEmbedder
from musicot_mlx.pipelines.magenta_rt2.pipeline import PARTS
from musicot_mlx.tokens.magenta_rt2 import STYLE_SPECIAL
from musicot_mlx.weights.checkpoint import load_strict
from musicot_mlx.weights.config import config_to_dict

SIZES = ("small", "base")
COCA, RVQ = MUSICCOCA, RVQConfig(dim=768, codebooks=12, codebook_size=1024)
NOTICE = (
    'The weights are those of "Magenta RealTime 2" by Google LLC (google/magenta-realtime-2), '
    "licensed under CC BY 4.0 (https://creativecommons.org/licenses/by/4.0/); changed in layout "
    "and number format alone."
)

# Texts and what upstream's text tower and quantiser make of them (its tests/test_musiccoca.py).
GOLDEN: dict[str, tuple[int, ...]] = {
    "a jazz piano trio": (555, 402, 72, 993, 482, 932, 402, 153, 33, 374, 519, 147),
    "heavy metal guitar riff": (322, 825, 598, 131, 826, 656, 592, 759, 89, 410, 778, 642),
    "ambient electronic": (796, 540, 12, 691, 843, 202, 225, 516, 324, 836, 41, 574),
    "disco funk": (660, 597, 668, 315, 857, 217, 930, 175, 655, 343, 534, 137),
}


def read(
    source: Path, config: Mapping[str, Any], scratch: Path, *, size: str | None = None, **_: Any
) -> Checkpoint | None:
    """The checkpoint of a folder with checkpoints/mrt2_*.safetensors.

    size: "small" or "base" where both are there; small if None. Raises MusicotError for a file
    that is missing or odd, and for weights that don't give upstream's tokens.
    """
    there = _listed(source / "checkpoints")
    found = [name for name in SIZES if _weights(source, name).name in there]
    if not found:
        return None
    size = size or found[0]
    if size not in found:
        raise MusicotError(
            f"{source} holds no checkpoints/mrt2_{size}.safetensors; there is {' and '.join(found)}"
        )
    arrays = _load(_weights(source, size))
    encoder = _load(source / "resources" / "spectrostream" / "encoder.safetensors")
    shapes = {key: tuple(value.shape) for key, value in [*arrays.items(), *encoder.items()]}
    lm, sizes = depthformer.config(shapes), spectrostream.config(shapes)
    codec = apply_rules(
        spectrostream.DECODER_RULES, _taken(arrays, spectrostream.DECODER), where="codec"
    )
    codec |= apply_rules(
        spectrostream.ENCODER_RULES, _taken(encoder, spectrostream.ENCODER), where="codec"
    )
    made = apply_rules(depthformer.RULES, _taken(arrays, depthformer.PREFIX), where="lm")
    if rest := sorted([*arrays, *(key for key in encoder if "/quantizer/" not in key)]):
        raise MusicotError(f"{source}: {len(rest)} arrays that belong nowhere: {rest[0]}, ...")
    folder = source / "resources" / "musiccoca"
    coca, towers = musiccoca.read_musiccoca(folder, scratch, COCA)
    codebooks = musiccoca.read_quantizer(folder, RVQ)
    tokenizer = read_sentencepiece(folder / "spm.model")
    coca = replace(coca, tower_norm=_tower_norm(coca, towers, codebooks, tokenizer, source))
    _compare_styles(made["conditioner.style.weight"], codebooks, source)
    return Checkpoint(
        config={
            "model_type": "magenta_rt2",
            "musiccoca": config_to_dict(coca),
            "rvq": config_to_dict(RVQ),
            "lm": lm,
            "codec": sizes,
            "sampling": {},
        },
        arrays={"musiccoca": towers, "rvq": codebooks, "lm": made, "codec": codec},
        parts=PARTS,
        files={"tokenizer.json": tokenizer.to_str()},
        quantised=("lm",),
        embeddings=False,
        example='musicot generate --model {name} -p "a jazz piano trio" -o jazz.wav',
        notice=NOTICE,
    )


def _weights(source: Path, size: str) -> Path:
    return source / "checkpoints" / f"mrt2_{size}.safetensors"


def _listed(folder: Path) -> list[str]:
    """The names in a folder, those of links that lead nowhere too; none where it is no folder."""
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise MusicotError(f"cannot read {folder}: {error.strerror}") from error


def _load(path: Path) -> dict[str, mx.array]:
    """The arrays of a file, unread."""
    try:
        path.open("rb").close()
    except FileNotFoundError:
        raise MusicotError(f"{path} is missing; get the model again") from None
    except OSError as error:
        raise MusicotError(f"cannot read {path}: {error.strerror}") from error
    try:
        return mx.load(str(path), format="safetensors")
    except RuntimeError as error:
        raise MusicotError(
            f"{path} is truncated or not safetensors ({path.stat().st_size:,} bytes); get it again"
        ) from error


def _taken(arrays: dict[str, mx.array], prefix: str) -> dict[str, mx.array]:
    """The arrays whose names begin so, without it, taken out of `arrays`."""
    keys = [key for key in arrays if key.startswith(prefix)]
    return {key.removeprefix(prefix): arrays.pop(key) for key in keys}


def _tower_norm(
    config: MusicCoCaConfig,
    towers: Mapping[str, mx.array],
    codebooks: Mapping[str, mx.array],
    tokenizer: Tokenizer,
    source: Path,
) -> float:
    """The length that the towers' vectors have where they are quantised; 1 where it may be any.

    Plans hold vectors of unit length. What the quantiser makes of the four texts says whether that
    is right; where only the length that the towers give is, the mean of it is kept. MusicotError
    where neither gives upstream's tokens.
    """
    coca, rvq = MusicCoCa(config), ResidualVQ(RVQ)
    load_strict(coca, towers, where="musiccoca")
    load_strict(rvq, codebooks, where="rvq")
    embedder = MusicCoCaEmbedder(coca, tokenizer)
    raw = embedder.raw_text(list(GOLDEN))
    norms = np.linalg.norm(raw, axis=1)
    golden = np.array(list(GOLDEN.values()))

    def right(vectors: np.ndarray) -> bool:
        codes = np.array(rvq.encode(mx.array(vectors.astype(np.float32))[None])[0]).T
        return bool((codes == golden).all())

    unit = raw / norms[:, None]
    if right(unit):
        return 1.0
    if right(raw) or right(unit * norms.mean()):
        return float(norms.mean())
    first = np.array(rvq.encode(mx.array(raw)[None])[0])[:, 0].tolist()
    raise MusicotError(
        f"{source}: {next(iter(GOLDEN))!r} has the tokens {first}, upstream's are "
        f"{golden[0].tolist()}; this is another revision than the one that is known, or damaged"
    )


def _compare_styles(table: mx.array, codebooks: Mapping[str, mx.array], source: Path) -> None:
    """Tell where the language model's styles are not the quantiser's vectors, as upstream says."""
    vectors = mx.stack([codebooks[f"codebooks.{n}.weight"] for n in range(RVQ.codebooks)])
    size = RVQ.codebook_size + STYLE_SPECIAL
    same = table.shape == (RVQ.codebooks * size, RVQ.dim)
    if same:
        rows = table.reshape(RVQ.codebooks, size, RVQ.dim)[:, STYLE_SPECIAL:]
        same = mx.allclose(rows, vectors, rtol=1e-2, atol=1e-3).item()
    if not same:
        warnings.warn(
            f"{source}: the language model's styles are not the vectors of MusicCoCa's quantiser; "
            "upstream trains it from them, so it may be of another revision",
            MusicotWarning,
            stacklevel=2,
        )
