"""Residual quantiser: vector_quantize_pytorch.ResidualVQ -> models/rvq.py."""

from musicot_mlx.convert.rules import Rule

RULES: list[Rule] = [
    Rule(r"layers\.(\d+)\._codebook\.embed", r"codebooks.\1.weight", "squeeze0"),
    # what the moving averages of training need
    Rule(r"layers\.\d+\._codebook\.(?:initted|cluster_size|embed_avg)", None),
]
