"""Semantic tokenizer: reference/semantic_tokenizer.py -> models/semantic_tokenizer.py."""

from musicot_mlx.convert.rules import Rule

_LAYER = r"layers\.\d+"

RULES: list[Rule] = [
    Rule(r"(log_mel\.(?:mean|std))", r"\1"),
    Rule(r"(embed\.(?:weight|bias))", r"\1"),
    Rule(
        rf"({_LAYER}\.feed_forward_(?:in|out)\.(?:norm|expand|project)\.(?:weight|bias))",
        r"\1",
    ),
    Rule(rf"({_LAYER}\.attention\.(?:norm|qkv|project)\.(?:weight|bias))", r"\1"),
    Rule(rf"({_LAYER}\.convolution\.depthwise\.weight)", r"\1", "conv1d"),
    Rule(
        rf"({_LAYER}\.convolution\.(?:norm|gate|depthwise_norm|project)\.(?:weight|bias)"
        rf"|{_LAYER}\.convolution\.depthwise\.bias)",
        r"\1",
    ),
    Rule(rf"({_LAYER}\.norm\.(?:weight|bias))", r"\1"),
    # VectorQuantize: the way back out of the codebook's space and the moving averages only train
    Rule(r"(quantizer\.project_in\.(?:weight|bias))", r"\1"),
    Rule(r"quantizer\.project_out\.(?:weight|bias)", None),
    Rule(r"quantizer\._codebook\.embed", "quantizer.codebook.weight", "squeeze0"),
    Rule(r"quantizer\._codebook\.(?:initted|cluster_size|embed_avg)", None),
]
