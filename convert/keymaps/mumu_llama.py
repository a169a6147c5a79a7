"""MuMu-LLaMA's checkpoint.pth -> models/mumu_llama.py and models/mumu_bridges.py.

LLaMA has Meta's names, with LoRA and biases beside them; a bridge is called by its encoder
(`mu_mert`, `iu_vit`, `iu_vivit`). Keys are those of the file without `llama.` and `module.`.
"""

from collections.abc import Mapping, Sequence

import mlx.core as mx

from musicot_mlx.convert.rules import Rule, apply_rules, numbered

_LAYER = r"layers\.(?P<n>\d+)\."
_OURS = r"layers.\g<n>."
# Meta's names -> mlx-lm's
LINEARS = {
    "attention.wq": "self_attn.q_proj",
    "attention.wk": "self_attn.k_proj",
    "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj",
}
PREFIXES = {"audio": "mu_mert", "image": "iu_vit", "video": "iu_vivit"}

DEPTH, ROWS = 32, (18, 20)  # layers of LLaMA-2 7B, and those of them that have adapters

WORDS: list[Rule] = [
    Rule(r"tok_embeddings\.weight", "embed_tokens.weight"),
    Rule(r"norm\.weight", "norm.weight"),
    Rule(r"output\.weight", "lm_head.weight"),
]
WORDS_KEYS = ("tok_embeddings.weight", "norm.weight", "output.weight")

# Drives upstream's loss in training; music is made of the text alone.
UNUSED = (
    r"output_projector\..*",
    r"(mert_model\.masked_spec_embed|(vit|vivit)_model\.pooler\..*)",
    # of films, in the newest code: it is wider than the features it would take, so it never ran
    r"iu_vivit_(rnn|attention)\..*",
    r".*\.freqs_cis",
)


def trunk(layers: int, rows: int, *, merge: bool) -> list[Rule]:
    """The key map of the layers; rows: those of them, the uppermost, that have adapters.

    merge: LoRA is added to the weights it stands beside, else it is kept.
    """
    adapted = tuple(str(layer) for layer in range(layers - rows, layers))
    table = [
        Rule(_LAYER + r"attention_norm\.weight", _OURS + "input_layernorm.weight"),
        Rule(_LAYER + r"ffn_norm\.weight", _OURS + "post_attention_layernorm.weight"),
        Rule(rf"layers\.(?P<part>{'|'.join(adapted)})\.attention\.gate", "gates", "heads", adapted),
        Rule(_LAYER + r"attention\.gate", None),  # of layers that have no adapter
        Rule(r"prefix_query\.weight", "queries"),
    ]
    for source, target in LINEARS.items():
        block, name = source.split(".")
        plain, block = _OURS + target, rf"{_LAYER}{block}\."
        lora = rf"lora_{name}_l"
        if merge:
            parts = (f"{name}.weight", f"{lora}1.weight", f"{lora}2.weight")
            pattern = "|".join(part.replace(".", r"\.") for part in parts)
            table += [
                Rule(rf"{block}(?P<part>{pattern})", plain + ".weight", "merge_lora", parts),
                Rule(rf"{block}{name}\.bias", plain + ".bias"),
            ]
        else:
            table += [
                Rule(rf"{block}{name}\.(?P<x>weight|bias)", plain + r".linear.\g<x>"),
                Rule(rf"{block}{lora}1\.weight", plain + ".lora_a", "transpose"),
                Rule(rf"{block}{lora}2\.weight", plain + ".lora_b", "transpose"),
            ]
    return table


def value_lora(layers: int, rows: int) -> list[tuple[str, str]]:
    """Source key -> target of the LoRA that adapters do not hear: taken off merged weights again.

    These keys are merged as well, so no rule can give them.
    """
    return [
        (f"layers.{layer}.attention.lora_wv_l{which}.weight", f"value_lora.{row}.{ours}")
        for row, layer in enumerate(range(layers - rows, layers))
        for which, ours in ((1, "a"), (2, "b"))
    ]


def bridges() -> list[Rule]:
    """The key map of the three bridges, and of the RNN that the newest code pools songs with."""
    table = []
    for modality, prefix in PREFIXES.items():
        table += [
            Rule(rf"{prefix}_agg\.weight", f"{modality}.pool.weight", "pointwise"),
            Rule(rf"{prefix}_agg\.bias", f"{modality}.pool.bias"),
            Rule(rf"{prefix}_proj\.(weight|bias)", rf"{modality}.proj.\1"),
        ]
        for number in (1, 2, 3):
            block = f"{modality}.blocks.{number - 1}"
            table += [
                Rule(rf"{prefix}_norm_{number}\.weight", f"{block}.norm.weight"),
                Rule(rf"{prefix}_f([123])_{number}\.weight", rf"{block}.f\1.weight"),
            ]
    return [
        *table,
        Rule(r"mu_mert_rnn\.(weight|bias)_ih_l0", r"audio_time.inputs.\1"),
        Rule(r"mu_mert_rnn\.(weight|bias)_hh_l0", r"audio_time.states.\1"),
        Rule(r"mu_mert_attention\.(weight|bias)", r"audio_time.attention.\1"),
        *(Rule(pattern, None) for pattern in UNUSED),
    ]


def arrays(
    state: Mapping[str, mx.array], config: dict[str, dict], *, merge: bool
) -> dict[str, dict[str, mx.array]]:
    """The parts llama, words and bridges of a file's tensors; `config` is told the rank of LoRA.

    Raises MusicotError for a key that no part takes, one that is missing or one that is no weight.
    """
    section = config["llama"]
    layers, rows = section["num_hidden_layers"], section["query_rows"]
    rank = state["llama.layers.0.attention.lora_wq_l1.weight"].shape[0]
    section["value_rank" if merge else "lora_rank"] = rank
    llama = {key.removeprefix("llama."): v for key, v in state.items() if key.startswith("llama.")}
    ends = {key: llama.pop(key) for key in WORDS_KEYS if key in llama}
    llama["prefix_query.weight"] = state["prefix_query.weight"]
    trunk_arrays = apply_rules(trunk(layers, rows, merge=merge), llama, where="llama")
    if merge:
        trunk_arrays |= {target: llama[source] for source, target in value_lora(layers, rows)}
    rest = {k: v for k, v in state.items() if not k.startswith(("llama.", "prefix_query."))}
    return {
        "llama": trunk_arrays,
        "words": apply_rules(WORDS, ends, where="words"),
        "bridges": apply_rules(bridges(), rest, where="bridges"),
    }


def config(shapes: Mapping[str, Sequence[int]], *, norm_eps: float) -> dict[str, dict]:
    """Sections llama, words and bridges of config.json, from the shapes of the file's tensors.

    20 rows of queries hear the sum of all modalities and 18 are split among them; in a LLaMA of
    another depth than the published ones any number that three divides is split. Raises ValueError
    for other numbers in one of theirs.
    """
    vocabulary, hidden = shapes["llama.tok_embeddings.weight"]
    rows = shapes["prefix_query.weight"][0]
    layers = numbered(shapes, r"llama\.layers\.(\d+)\.")
    if rows > layers:
        raise ValueError(f"prefix_query.weight has {rows} rows for {layers} layers")
    if layers == DEPTH and rows not in ROWS:
        raise ValueError(
            f"prefix_query.weight has {rows} rows, where "
            f"{' or '.join(map(str, ROWS))} of {DEPTH} layers have one"
        )
    first = "llama.layers.0."
    return {
        "llama": {
            "hidden_size": hidden,
            "intermediate_size": shapes[first + "feed_forward.w1.weight"][0],
            "num_hidden_layers": layers,
            "num_attention_heads": shapes[first + "attention.gate"][1],
            "rms_norm_eps": norm_eps,
            "routing": "sum" if rows % 3 else "split",
            "query_rows": rows,
        },
        "words": {"vocab_size": vocabulary, "hidden_size": hidden, "rms_norm_eps": norm_eps},
        "bridges": {
            "hidden_size": hidden,
            "audio_states": shapes["mu_mert_agg.weight"][1],
            "audio_size": shapes["mu_mert_proj.weight"][1],
            "image_tokens": shapes["iu_vit_agg.weight"][1],
            "image_size": shapes["iu_vit_proj.weight"][1],
            "video_tokens": shapes["iu_vivit_agg.weight"][1],
            "video_size": shapes["iu_vivit_proj.weight"][1],
            "pooling": "rnn" if "mu_mert_rnn.weight_hh_l0" in shapes else "mean",
        },
    }
