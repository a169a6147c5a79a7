"""All of Magenta RealTime 2 at tiny sizes with random weights, as `load` would give it."""

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
from musicot_mlx.pipelines.magenta_rt2.pipeline import MagentaPipeline
from musicot_mlx.pipelines.magenta_rt2.planning import MagentaSampling
from tests.support import tiny_musiccoca


def pipeline(seed: int = 0) -> MagentaPipeline:
    """A model of all networks; another seed gives another."""
    mx.random.seed(seed)
    coca, rvq = MusicCoCa(tiny_musiccoca.CONFIG), ResidualVQ(tiny_musiccoca.RVQ)
    lm = Depthformer(
        DepthformerConfig(
            condition_dim=16, style_dim=12, temporal_layers=2, temporal_dim=24, temporal_ffn_dim=32,
            temporal_heads=2, past=3, depth_layers=1, depth_dim=16, depth_ffn_dim=20,
            depth_heads=2, head_dim=8, codebook_size=32,
        )
    )  # fmt: skip
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
    words = {word: i for i, word in enumerate(["[unk]", "[start]", "piano", "drums", "calm"])}
    tokenizer = Tokenizer(WordLevel(words, unk_token="[unk]"))
    tokenizer.pre_tokenizer = Whitespace()
    return MagentaPipeline(
        embedder=MusicCoCaEmbedder(coca, tokenizer), rvq=rvq, lm=lm, codec=codec,
        sampling=MagentaSampling(), name="tiny", thought_seconds=1.0,
    )  # fmt: skip
