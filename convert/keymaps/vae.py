"""VAE: reference/vae.py -> models/vae.py. Names are the same; depthwise weights turn their axes."""

from musicot_mlx.convert.rules import Rule

RULES: list[Rule] = [
    Rule(r"((?:en|de)coder\.(?:fine|coarse)\.\d+\.depthwise\.weight)", r"\1", "conv1d"),
    Rule(r"((?:en|de)coder\.(?:fine|coarse)\.\d+\.depthwise\.bias)", r"\1"),
    Rule(
        r"((?:en|de)coder\.(?:fine|coarse)\.\d+\.(?:norm|expand|project)\.(?:weight|bias))", r"\1"
    ),
    Rule(r"((?:en|de)coder\.(?:fine|coarse)\.\d+\.scale)", r"\1"),
    Rule(r"((?:en|de)coder\.(?:embed|head)\.(?:weight|bias))", r"\1"),
    Rule(r"(encoder\.downsample\.(?:weight|bias)|decoder\.upsample\.(?:weight|bias))", r"\1"),
    Rule(r"(bin_scale|core_scale)", r"\1"),
]
