"""Semantic LM: reference/semantic_lm.py (LlamaForCausalLM inside) to models/semantic_lm.py.

Both sides are LLaMA with the same names; only the wrapper `llama.` goes.
"""

from musicot_mlx.convert.rules import Rule

LAYER = r"llama\.model\.layers\.(\d+)\."

RULES = [
    Rule(r"llama\.model\.embed_tokens\.weight", r"model.embed_tokens.weight"),
    Rule(LAYER + r"self_attn\.([qkvo]_proj)\.weight", r"model.layers.\1.self_attn.\2.weight"),
    Rule(LAYER + r"self_attn\.rotary_emb\.inv_freq", None),  # recomputed; older files carry it
    Rule(LAYER + r"mlp\.(gate_proj|up_proj|down_proj)\.weight", r"model.layers.\1.mlp.\2.weight"),
    Rule(
        LAYER + r"(input_layernorm|post_attention_layernorm)\.weight", r"model.layers.\1.\2.weight"
    ),
    Rule(r"llama\.model\.norm\.weight", r"model.norm.weight"),
    Rule(r"llama\.lm_head\.weight", r"lm_head.weight"),
    Rule(r"clap_proj\.(weight|bias)", r"clap_proj.\1"),
    Rule(r"(beat_proj|harmony_proj)\.weight", r"\1.weight"),
    Rule(r"tempo_head\.(weight|bias)", r"tempo_head.\1"),
    Rule(r"thought_bias\.(embed\.weight|head\.weight|head\.bias)", r"thought_bias.\1"),
]
