"""Magenta RealTime 2: MusicCoCa and its quantiser as the .tflite files hold them beside ours.

The language model and the codec have no twin in PyTorch: they are held against upstream's own code
(tests/parity/magenta_rt2), and what all of them read is told apart by the tokens of four texts.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import torch

from musicot_mlx.convert.check import long, sound
from musicot_mlx.convert.keymaps import musiccoca
from musicot_mlx.models.musiccoca import MusicCoCaConfig
from musicot_mlx.pipelines.magenta_rt2 import FAMILY
from musicot_mlx.pipelines.magenta_rt2.embedder import MusicCoCaEmbedder
from musicot_mlx.pipelines.magenta_rt2.pipeline import PARTS
from musicot_mlx.pipelines.parts import load_parts
from musicot_mlx.reference.musiccoca import MusicCoCaReference, shapes
from musicot_mlx.weights.config import config_to_dict

Pairs = Iterator[tuple[str, mx.array | np.ndarray, torch.Tensor]]
TEXTS = ["a jazz piano trio", "heavy metal guitar riff with a fast double bass drum", "a"]


def comparisons(source: Path, target: Path) -> list[tuple[str, Callable[[Any], Pairs]]]:
    """Text vectors, log-mel and audio vectors, the mapper's vectors, and codes of vectors."""
    loaded = load_parts(
        target, PARTS, model_type=FAMILY.model_type, name=str(target), only=("musiccoca", "rvq")
    )
    coca, rvq = loaded.networks["musiccoca"], loaded.networks["rvq"]
    ours = MusicCoCaEmbedder(coca, loaded.file("tokenizer.json"))
    folder = source / "resources" / "musiccoca"
    theirs = MusicCoCaReference(_arrays(folder, coca.config), config_to_dict(coca.config))

    def text_vectors() -> torch.Tensor:
        ids, lengths = ours.text_ids(TEXTS)
        whole = np.zeros((len(ids), coca.config.text_length), np.int32)
        whole[:, : ids.shape[1]] = ids
        fill = np.arange(coca.config.text_length) >= lengths[:, None]
        return theirs.text(long(whole), torch.from_numpy(fill.astype(np.float32)))

    def text(rng: np.random.Generator) -> Pairs:
        yield "text vectors", ours.raw_text(TEXTS), text_vectors()

    def audio(rng: np.random.Generator) -> Pairs:
        rate = coca.config.sample_rate
        clips = ours.windows(sound(rate, 2 * coca.config.clip_seconds, rng), rate)
        given = torch.from_numpy(clips)
        yield "log-mel", coca.mel(mx.array(clips)), theirs.log_mel(given)
        yield "audio vectors", coca.embed_audio(mx.array(clips)), theirs.audio(given)

    def mapper(rng: np.random.Generator) -> Pairs:
        vectors = text_vectors()
        noise = rng.standard_normal(vectors.shape).astype(np.float32)
        made = coca.map_text(mx.array(vectors.numpy()), mx.array(noise))
        yield "mapped vectors", made, theirs.map(vectors, torch.from_numpy(noise))

    def codes(rng: np.random.Generator) -> Pairs:
        vectors = rng.standard_normal((64, rvq.config.dim)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        tables, products = musiccoca.quantizer_tables(folder / musiccoca.QUANTIZER, rvq.config)
        rest, expected = torch.from_numpy(vectors), []
        for table, (weight, bias) in zip(tables, products, strict=True):
            code = (rest @ torch.from_numpy(weight).T + torch.from_numpy(bias)).argmin(dim=-1)
            rest = rest - torch.from_numpy(table)[code]
            expected.append(code)
        yield "codes", rvq.encode(mx.array(vectors)[None])[0], torch.stack(expected)

    mapped = [("musiccoca", mapper)] if coca.config.mapper else []
    return [("musiccoca", text), ("musiccoca", audio), *mapped, ("rvq", codes)]


def _arrays(folder: Path, config: MusicCoCaConfig) -> dict[str, torch.Tensor]:
    """The files' constants under the names that the reference has for them."""
    out, found = {}, {}
    for name, shape in shapes(config_to_dict(config)).items():
        file, _, path = name.partition("/")
        path = path.partition(":")[0]
        if file not in found:
            found[file] = list(musiccoca.constants(folder / f"{file}.tflite", config))
        (values,) = (
            values
            for line, values in found[file]
            if line.shape == shape
            and (re.search(line.pattern, path) or re.search(line.pattern, path + "/"))
        )
        out[name] = torch.from_numpy(values)
    return out
