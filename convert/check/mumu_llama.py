"""MuMu-LLaMA: the PyTorch twin, filled from checkpoint.pth itself, beside ours.

The whole twin would take 27 GB in float32, so it gets one layer at a time: of the language model
the first, the lowest that listens, the middle one of those and the last, each with its adapter.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import torch

from musicot_mlx.convert.families.mumu_llama import checkpoint_file, checkpoint_tensors
from musicot_mlx.errors import MusicotError
from musicot_mlx.models.mumu_llama import MODALITIES
from musicot_mlx.pipelines.mumu_llama.pipeline import load
from musicot_mlx.reference import mumu_llama as reference

Pairs = Iterator[tuple[str, mx.array, torch.Tensor]]
TIME = 24  # tokens, and frames of a song
_LAYER = "llama.layers."


def comparisons(source: Path, target: Path) -> list[tuple[str, Callable[[Any], Pairs]]]:
    """Layers of the language model, its words, and the bridges."""
    file = checkpoint_file(source)
    tensors = None if file is None else checkpoint_tensors(file)
    if tensors is None:
        raise MusicotError(f"{source} is no checkpoint.pth of MuMu-LLaMA")
    ours = load(target, name=str(target))
    config = _config(ours.config, tensors)
    theirs = reference.MumuLlama(replace(config, num_hidden_layers=1)).eval()
    rest = {key: value.float() for key, value in tensors.items() if not key.startswith(_LAYER)}
    known = theirs.state_dict()
    theirs.load_state_dict({k: v for k, v in rest.items() if k in known}, strict=False)

    def layer(number: int) -> reference.Layer:
        """The twin's only layer, with the weights of this one."""
        at = f"{_LAYER}{number}."
        own = {k.removeprefix(at): v.float() for k, v in tensors.items() if k.startswith(at)}
        theirs.llama.layers[0].load_state_dict(own)
        return theirs.llama.layers[0]

    def llama(rng: np.random.Generator) -> Pairs:
        (network,) = ours.shelf("llama")
        first = config.num_hidden_layers - config.query_rows
        last = config.num_hidden_layers - 1
        for number in sorted({0, first, (first + last) // 2, last}):
            x = _noise(rng, 1, TIME, config.hidden_size)
            heard = {name: _noise(rng, 1, config.hidden_size) for name in MODALITIES}
            offset = network.offsets({k: mx.array(v) for k, v in heard.items()})[number]
            adapter = None
            if number >= first:
                given = {name: torch.from_numpy(v)[:, None] for name, v in heard.items()}
                adapter = reference.adapters(config, theirs.prefix_query.weight, given, 1)[number]
            found = network.through(number, mx.array(x).astype(network.dtype), offset)
            yield f"layer {number}", found, layer(number)(torch.from_numpy(x), adapter)

    def words(rng: np.random.Generator) -> Pairs:
        (network,) = ours.shelf("words")
        ids = rng.integers(0, config.vocab_size, (1, TIME))
        embedded = network.embed(mx.array(ids))
        yield "embeddings", embedded, theirs.llama.tok_embeddings(torch.from_numpy(ids))
        x = _noise(rng, 1, TIME, config.hidden_size)
        expected = theirs.llama.output(theirs.llama.norm(torch.from_numpy(x)))
        yield "logits", network.logits(mx.array(x).astype(embedded.dtype)), expected

    def bridges(rng: np.random.Generator) -> Pairs:
        (network,) = ours.shelf("bridges")
        states = _noise(rng, 1, config.audio_states, TIME, config.audio_size)
        pooled = network.pool_audio([mx.array(states[:, n]) for n in range(states.shape[1])])
        expected = theirs.feature("audio", torch.from_numpy(states))[:, 0]
        yield "audio", network.feature("audio", pooled), expected
        for name, shape in {
            "image": (config.image_tokens, config.image_size),
            "video": (config.video_tokens, config.video_size),
        }.items():
            tokens = _noise(rng, 1, *shape)
            found = network.feature(name, network.pool(name, mx.array(tokens)))
            yield name, found, theirs.feature(name, torch.from_numpy(tokens))[:, 0]

    return [("llama", llama), ("words", words), ("bridges", bridges)]


def _config(config: dict[str, Any], tensors: dict[str, Any]) -> reference.MumuConfig:
    """The twin's sizes, from config.json of the MLX folder."""
    llama, words, bridges = (config[name] for name in ("llama", "words", "bridges"))
    names = "audio_states audio_size image_tokens image_size video_tokens video_size".split()
    return reference.MumuConfig(
        **{name: bridges[name] for name in names},
        hidden_size=llama["hidden_size"],
        intermediate_size=llama["intermediate_size"],
        num_hidden_layers=llama["num_hidden_layers"],
        num_attention_heads=llama["num_attention_heads"],
        vocab_size=words["vocab_size"],
        norm_eps=llama["rms_norm_eps"],
        lora_rank=tensors[f"{_LAYER}0.attention.lora_wq_l1.weight"].shape[0],
        routing=llama["routing"],
        query_rows=llama["query_rows"],
        rnn=bridges["pooling"] == "rnn",
    )


def _noise(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape, dtype=np.float32)
