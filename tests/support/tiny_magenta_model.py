"""All of Magenta RealTime 2 at tiny sizes with random weights, as `load` would give it."""

from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from musicot_mlx.models.depthformer import Depthformer, DepthformerConfig
from musicot_mlx.models.musiccoca import MusicCoCa
from musicot_mlx.models.rvq import ResidualVQ
from musicot_mlx.models.spectrostream import SpectroStream, SpectroStreamConfig
from musicot_mlx.pipelines.magenta_rt2.embedder import MusicCoCaEmbedder
from musicot_mlx.pipelines.magenta_rt2.pipeline import PARTS, MagentaPipeline
from musicot_mlx.pipelines.magenta_rt2.planning import MagentaSampling
from musicot_mlx.weights.checkpoint import quantize_arrays, save_checkpoint
from musicot_mlx.weights.config import config_to_dict
from tests.support import tiny_musiccoca


def pipeline(seed: int = 0, **lm_sizes: int) -> MagentaPipeline:
    """A model of all networks; another seed gives another."""
    mx.random.seed(seed)
    coca, rvq = MusicCoCa(tiny_musiccoca.CONFIG), ResidualVQ(tiny_musiccoca.RVQ)
    sizes = {
        "condition_dim": 16, "style_dim": 12, "temporal_layers": 2, "temporal_dim": 24,
        "temporal_ffn_dim": 32, "temporal_heads": 2, "past": 3, "depth_layers": 1, "depth_dim": 16,
        "depth_ffn_dim": 20, "depth_heads": 2, "head_dim": 8, "codebook_size": 32,
    }  # fmt: skip
    lm = Depthformer(DepthformerConfig(**sizes | lm_sizes))
    codec = SpectroStream(
        SpectroStreamConfig(
            dim=8, codebook_size=32, decoder_widths=(8, 8, 4, 4, 4, 4, 4, 4),
            encoder_widths=(2, 2, 2, 4, 4, 4, 4, 4),
        )
    )  # fmt: skip
    for network in (coca, rvq, lm, codec):
        noise = {
            name: value + 0.3 * mx.random.normal(value.shape)
            for name, value in tree_flatten(network.parameters())
        }
        network.load_weights(list(noise.items()))
        network.eval()
    coca.mel.filters, coca.mel.window = abs(coca.mel.filters), abs(coca.mel.window)
    last, codes = codec.decoder.last, mx.random.randint(0, 32, (1, 12, 26))
    louder = 0.1 / mx.sqrt(codec.decode(codes).square().mean())  # neither silent nor clipped
    last.weight, last.bias = last.weight * louder, last.bias * louder
    # lazy arrays belong to the thread that made them
    mx.eval([network.parameters() for network in (coca, rvq, lm, codec)])
    words = {word: i for i, word in enumerate(["[unk]", "[start]", "piano", "drums", "calm"])}
    tokenizer = Tokenizer(WordLevel(words, unk_token="[unk]"))
    tokenizer.pre_tokenizer = Whitespace()
    return MagentaPipeline(
        embedder=MusicCoCaEmbedder(coca, tokenizer), rvq=rvq, lm=lm, codec=codec,
        sampling=MagentaSampling(), name="tiny", thought_seconds=1.0,
    )  # fmt: skip


def write(folder: Path, *, bits: int | None = None, seed: int = 0, **lm_sizes: int) -> Path:
    """The model as an MLX folder; with bits its language model quantised in groups of 32."""
    model = pipeline(seed, **lm_sizes)
    networks = {
        "musiccoca": model.clap.coca,
        "rvq": model.rvq,
        "lm": model.lm,
        "codec": model.codec,
    }
    config: dict[str, Any] = {"model_type": model.family.model_type, "thought_seconds": 1.0}
    arrays: dict[str, mx.array] = {}
    for name in PARTS:
        config[name] = config_to_dict(networks[name].config)
        own = dict(tree_flatten(networks[name].parameters()))
        if name == "lm" and bits:
            own = quantize_arrays(model.lm, own, group_size=32, bits=bits, embeddings=False)
            config["quantization"] = {"group_size": 32, "bits": bits}
        arrays |= {f"{name}.{key}": value for key, value in own.items()}
    return save_checkpoint(
        folder, config, arrays, {"tokenizer.json": model.clap.tokenizer.to_str()}
    )
