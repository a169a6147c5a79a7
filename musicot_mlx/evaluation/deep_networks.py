"""The networks of all families, as a device stores and runs them, held against float32 on its CPU.

The embedded model is compared as it is (deep_checks.py). Of the others nothing is downloaded: each
is built with random weights at its published width, a layer or two deep, rounded as `convert`
rounds it, and given something to hear, read or see. What differs then is the device's arithmetic
in those dtypes. Where the device is the CPU they are smaller, which tells that the checks run.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten

from musicot_mlx.models.depthformer import MRT2_SMALL, Depthformer
from musicot_mlx.models.encodec import ENCODEC_32KHZ, Encodec
from musicot_mlx.models.hubert import MERT_330M, Hubert
from musicot_mlx.models.mumu_bridges import Bridges, BridgesConfig
from musicot_mlx.models.mumu_llama import LLAMA_2_7B, MumuLlama, Words, WordsConfig
from musicot_mlx.models.musiccoca import MUSICCOCA, MusicCoCa
from musicot_mlx.models.musicgen import MUSICGEN_SMALL, Musicgen
from musicot_mlx.models.rvq import RVQ_12X1024, ResidualVQ
from musicot_mlx.models.spectrostream import SpectroStream, SpectroStreamConfig, stft
from musicot_mlx.models.t5 import T5_BASE, T5Encoder
from musicot_mlx.models.vit import VIT_BASE, VIVIT_BASE, ViT
from musicot_mlx.pipelines.families import known
from musicot_mlx.tokens.magenta_rt2 import frame_ids

Outputs = dict[str, mx.array]


@dataclass(frozen=True)
class Example:
    """How one network is compared: its name, its config as published, what is smaller where the
    device is the CPU, and what it makes of something.
    """

    name: str
    config: Any
    small: dict[str, Any]
    run: Callable[[Any], Outputs]


@dataclass(frozen=True)
class Compared:
    """A network as the device at hand stores it, beside the same numbers in float32."""

    example: Example
    network: nn.Module
    exact: nn.Module

    def errors(self, on_cpu: Callable[[Callable[[], Any]], Any]) -> Iterator[tuple[str, float]]:
        """What was made, and its error: of its length, or the share of codes that differ."""
        ours = self.example.run(self.network)
        mx.eval(ours)
        wanted = on_cpu(lambda: self.example.run(self.exact))
        mx.eval(wanted)
        for name, value in ours.items():
            got, other = (np.array(v.astype(mx.float32)) for v in (value, wanted[name]))
            if mx.issubdtype(value.dtype, mx.integer):
                yield name, float((got != other).mean())
            else:
                length = max(float(np.linalg.norm(other)), 1e-30)
                yield name, float(np.linalg.norm(got - other)) / length


def _noise(*shape: int, seed: int = 0) -> mx.array:
    return mx.array(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def _ids(*shape: int, below: int, seed: int = 0) -> mx.array:
    return mx.array(np.random.default_rng(seed).integers(0, below, shape).astype(np.int32))


def _quantiser(rvq: ResidualVQ) -> Outputs:
    codes = rvq.encode(_noise(2, 20, rvq.config.dim))
    return {"codes": codes, "vectors": rvq.decode(codes)}


def _t5(network: T5Encoder) -> Outputs:
    return {"states": network(_ids(2, 24, below=network.config.vocab_size))}


def _decoder(lm: Musicgen) -> Outputs:
    text = _noise(2, 12, lm.config.text_hidden_size)
    tokens = _ids(2, lm.config.num_codebooks, 24, below=lm.config.vocab_size)
    return {"logits": lm(tokens, cross=lm.cross(text))}


def _encodec(codec: Encodec) -> Outputs:
    config = codec.config
    codes = _ids(1, config.num_quantizers, 12, below=config.codebook_size)
    sound = 0.3 * _noise(1, 12 * config.hop_length, 1)
    heard = codec.encoder.downsample(sound.astype(codec.dtype))
    return {"sound": codec.decode(codes), "features": heard}


def _musiccoca(coca: MusicCoCa) -> Outputs:
    config = coca.config
    ids, lengths = _ids(2, 9, below=config.vocab), mx.array([9, 4])
    texts = coca.embed_text(ids, lengths)
    return {
        "texts": texts,
        "clips": coca.embed_audio(0.3 * _noise(1, config.clip_samples)),
        "mapped": coca.map_text(texts, _noise(2, config.dim)),
    }


def _depthformer(lm: Depthformer) -> Outputs:
    """Logits of all frames at once, and the state after one frame as songs are drawn."""
    config = lm.config
    asked = lm.condition(mx.array(np.tile(frame_ids(np.arange(4)), (2, 1, 1))))
    codes = _ids(2, 6, config.codebooks, below=config.codebook_size)
    before = mx.zeros((2, config.codebooks), dtype=mx.int32)
    rings, first = lm.rings(2), mx.array(0)
    frame, _ = lm.step(before, lm.cross(asked), rings, first, first)
    logits, _ = lm.level(0, frame, [None] * config.depth_layers)
    return {"logits": lm(codes, mx.repeat(asked, 6, axis=1)), "a step": logits}


def _spectrostream(codec: SpectroStream) -> Outputs:
    config = codec.config
    codes = _ids(1, config.codebooks, 4, below=config.codebook_size)
    spectra = stft(0.3 * _noise(2, 4 * config.hop_length))
    return {"sound": codec.decode(codes), "features": codec.encoder(spectra)}


def _llama(llama: MumuLlama) -> Outputs:
    hidden = llama.config.hidden_size
    features = {name: _noise(1, hidden, seed=i) for i, name in enumerate(("audio", "image"))}
    return {"states": llama(0.1 * _noise(1, 16, hidden), None, llama.offsets(features))}


def _words(words: Words) -> Outputs:
    embedded = words.embed(_ids(1, 8, below=words.config.vocab_size))
    return {"embeddings": embedded, "logits": words.logits(embedded)}


def _bridges(bridges: Bridges) -> Outputs:
    config = bridges.config
    sound = [_noise(1, 5, config.audio_size, seed=i) for i in range(config.audio_states)]
    picture = _noise(1, config.image_tokens, config.image_size)
    film = _noise(1, config.video_tokens, config.video_size)
    return {
        "song": bridges.feature("audio", bridges.pool_audio(sound)),
        "picture": bridges.feature("image", bridges.pool("image", picture)),
        "film": bridges.feature("video", bridges.pool("video", film)),
    }


def _hubert(hubert: Hubert) -> Outputs:
    return {"means": hubert.means(0.3 * _noise(1, hubert.config.sampling_rate // 2))}


def _vit(vit: ViT) -> Outputs:
    config = vit.config
    side = config.image_size
    return {"states": vit(_noise(1, config.num_frames, side, side, config.num_channels))}


_NARROW = {"hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 96}
EXAMPLES: dict[type[nn.Module], list[Example]] = {
    ResidualVQ: [Example("quantiser", RVQ_12X1024, {"dim": 16, "codebooks": 3}, _quantiser)],
    T5Encoder: [
        Example(
            "T5",
            replace(T5_BASE, num_layers=2, vocab_size=1024),
            {"d_model": 64, "num_heads": 2, "d_ff": 96},
            _t5,
        )
    ],
    Musicgen: [
        Example(
            "MusicGen",
            replace(MUSICGEN_SMALL, num_hidden_layers=2),
            {"hidden_size": 64, "ffn_dim": 96, "num_attention_heads": 2, "text_hidden_size": 48},
            _decoder,
        )
    ],
    Encodec: [
        Example(
            "EnCodec",
            ENCODEC_32KHZ,
            {"num_filters": 4, "hidden_size": 16, "codebook_dim": 16, "codebook_size": 64},
            _encodec,
        )
    ],
    MusicCoCa: [
        Example(
            "MusicCoCa",
            replace(MUSICCOCA, layers=2, vocab=1024, mapper=replace(MUSICCOCA.mapper, layers=2)),
            {
                "dim": 48, "heads": 2, "ffn": 64, "pool_heads": 2, "pool_dim": 24,
                "sample_rate": 1000, "clip_seconds": 1.0,
                "mel": replace(MUSICCOCA.mel, frame=50, hop=30, fft=64, bins=16, frames=16),
                "mapper": replace(MUSICCOCA.mapper, width=32, layers=1, heads=2, ffn=48),
            },
            _musiccoca,
        )
    ],
    Depthformer: [
        Example(
            "Depthformer",
            replace(MRT2_SMALL, temporal_layers=2, past=4),
            {
                "condition_dim": 64, "style_dim": 32, "temporal_dim": 64, "temporal_ffn_dim": 96,
                "temporal_heads": 2, "depth_layers": 1, "depth_dim": 48, "depth_ffn_dim": 64,
                "depth_heads": 2, "head_dim": 32, "codebook_size": 64,
            },
            _depthformer,
        )
    ],
    SpectroStream: [
        Example(
            "SpectroStream",
            SpectroStreamConfig(),
            {
                "dim": 16, "codebook_size": 64, "decoder_widths": (16, 16, 8, 8, 8, 8, 8, 8),
                "encoder_widths": (4, 4, 4, 8, 8, 8, 8, 8),
            },
            _spectrostream,
        )
    ],
    MumuLlama: [
        Example(
            "LLaMA",
            replace(LLAMA_2_7B, num_hidden_layers=2, query_rows=1, routing="sum", value_rank=8),
            _NARROW,
            _llama,
        )
    ],
    Words: [
        Example("words", WordsConfig(4096, 4096), {"vocab_size": 96, "hidden_size": 64}, _words)
    ],
    Bridges: [
        Example(
            "bridges",
            BridgesConfig(4096, video_tokens=785),
            {"hidden_size": 64, "audio_size": 32, "image_size": 32, "video_size": 32},
            _bridges,
        ),
        Example(
            "bridges with an RNN",
            BridgesConfig(4096, video_tokens=785, pooling="rnn"),
            {"hidden_size": 64, "audio_size": 32, "image_size": 32, "video_size": 32},
            _bridges,
        ),
    ],
    Hubert: [
        Example(
            "MERT",
            replace(MERT_330M, num_hidden_layers=2),
            {**_NARROW, "conv_dim": (16,) * 7, "num_conv_pos_embedding_groups": 4},
            _hubert,
        )
    ],
    ViT: [
        Example("ViT", replace(VIT_BASE, num_hidden_layers=2), {**_NARROW, "image_size": 32}, _vit),
        Example(
            "ViViT",
            replace(VIVIT_BASE, num_hidden_layers=2, num_frames=8),
            {**_NARROW, "image_size": 32, "num_frames": 4},
            _vit,
        ),
    ],
}  # fmt: skip


def networks() -> Iterator[tuple[str, str, type[nn.Module]]]:
    """model_type, part and network of every family, each network once."""
    seen = set()
    for family in known():
        for part, (network, _) in family.get("parts").items():
            if network not in seen:
                seen.add(network)
                yield family.model_type, part, network


def compared(
    model_type: str, part: str, network: type[nn.Module], *, small: bool
) -> Iterator[Compared]:
    """The examples of a network as its family stores it in 16 bits."""
    family = next(each for each in known() if each.model_type == model_type)
    for example in EXAMPLES.get(network, ()):
        config = replace(example.config, **example.small) if small else example.config
        mx.random.seed(0)
        drawn = {
            name: _drawn(value).astype(getattr(mx, family.stored(part, name, "float16")))
            for name, value in tree_flatten(network(config).parameters())
        }
        stored, exact = network(config), network(config)
        stored.update(tree_unflatten(list(drawn.items())))
        exact.update(tree_unflatten([(k, v.astype(mx.float32)) for k, v in drawn.items()]))
        mx.eval(stored.parameters(), exact.parameters())
        yield Compared(example, stored.eval(), exact.eval())


def _drawn(value: mx.array) -> mx.array:
    """Weights as a network begins with; those that begin all the same get some noise."""
    if value.size > 1 and mx.all(value == value.reshape(-1)[0]).item():
        return value + 0.1 * mx.abs(mx.random.normal(value.shape))
    return value
