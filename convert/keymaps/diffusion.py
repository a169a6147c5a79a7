"""Latent diffusion: diffusers' Stable Audio transformer and projection -> models/dit.py."""

from musicot_mlx.convert.rules import Rule

_BLOCK = r"dit\.transformer_blocks\.(\d+)"
_NUMBER = r"projection\.(start|end)_number_conditioner\.time_positional_embedding"

RULES: list[Rule] = [
    # each block's query, key and value become one matrix, as do key and value of cross-attention
    Rule(
        rf"{_BLOCK}\.attn1\.to_(?P<part>[qkv])\.weight",
        r"dit.transformer_blocks.\1.attn1.to_qkv.weight",
        "join3",
        order=("q", "k", "v"),
    ),
    Rule(
        rf"{_BLOCK}\.attn2\.to_(?P<part>[kv])\.weight",
        r"dit.transformer_blocks.\1.attn2.to_kv.weight",
        "join2",
        order=("k", "v"),
    ),
    Rule(rf"{_BLOCK}\.attn2\.to_q\.weight", r"dit.transformer_blocks.\1.attn2.to_q.weight"),
    Rule(
        rf"{_BLOCK}\.(attn[12])\.to_out\.0\.weight",
        r"dit.transformer_blocks.\1.\2.to_out.weight",
    ),
    Rule(rf"{_BLOCK}\.(norm[123])\.(weight|bias)", r"dit.transformer_blocks.\1.\2.\3"),
    Rule(
        rf"{_BLOCK}\.ff\.net\.0\.proj\.(weight|bias)",
        r"dit.transformer_blocks.\1.ff.gate_up.\2",
    ),
    Rule(rf"{_BLOCK}\.ff\.net\.2\.(weight|bias)", r"dit.transformer_blocks.\1.ff.down.\2"),
    # convolutions of one tap become linear layers
    Rule(r"dit\.(preprocess|postprocess)_conv\.weight", r"dit.\1_conv.weight", "squeeze"),
    Rule(r"dit\.(proj_in|proj_out)\.weight", r"dit.\1.weight"),
    # torch counts the SiLU between the two layers
    Rule(
        r"dit\.(timestep_proj|global_proj|cross_attention_proj)\.0\.(weight|bias)",
        r"dit.\1.linear_1.\2",
    ),
    Rule(
        r"dit\.(timestep_proj|global_proj|cross_attention_proj)\.2\.(weight|bias)",
        r"dit.\1.linear_2.\2",
    ),
    # phases are 2 pi times these: 16 bits would turn them
    Rule(r"dit\.time_proj\.weight", "dit.time_proj.weight", "float32"),
    Rule(rf"{_NUMBER}\.0\.weights", r"projection.\1_number_conditioner.frequencies", "float32"),
    Rule(rf"{_NUMBER}\.1\.(weight|bias)", r"projection.\1_number_conditioner.linear.\2"),
    Rule(r"projection\.text_projection\.(weight|bias)", r"projection.text_projection.\1"),
    Rule(r"(semantic_embedding|harmony_proj)\.weight", r"\1.weight"),
    Rule(r"(skip\.(?:weight|bias)|gate\.weight)", r"\1"),
]
