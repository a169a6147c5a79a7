"""A LoRA checkpoint in PEFT's layout to an adapter folder of ours.

`adapter_model.safetensors` holds `base_model.model.<path>.lora_A.weight` (rank, in) and
`.lora_B.weight` (out, rank) of each layer, and `adapter_config.json` alpha: PEFT multiplies by
alpha / rank (by alpha / sqrt(rank) with rslora), which is mlx-lm's `scale`. Where our networks have
query, key and value in one matrix, the three adapters stand side by side in one of the sum of their
ranks, its lora_b zero wherever one does not write. No torch and no peft is needed.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from musicot_mlx.errors import MusicotError, first_few
from musicot_mlx.texts import read_json, read_text
from musicot_mlx.weights.adapters import ADAPTER_CONFIG, save_adapter
from musicot_mlx.weights.files import load_file, plain_names

WEIGHTS = "adapter_model.safetensors"
_PREFIX = re.compile(r"^(base_model\.model\.)?")
_TENSOR = re.compile(
    r"\.(lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector)"
    r"(\.default)?(\.weight)?$"
)
_QKV, _KV = ("q", "k", "v"), ("k", "v")
_CODEBOOKS = ("codebooks",)  # as many as the model has
# Ways to start that leave the base's weights as they are; the others move part of them into the
# adapter, which then means something only beside what is left (PiSSA, OLoRA, CorDA, LoftQ, ...).
_STARTS = (None, True, False, "gaussian", "eva", "orthogonal")
# What changes the forward pass beyond W + scale * B A, and what leaves it as it is.
_VARIANTS = {
    "bias": "none",
    "lora_bias": False,
    "fan_in_fan_out": False,
    "layer_replication": None,
    "use_qalora": False,
    "use_bdlora": None,
    "arrow_config": None,
    "alora_invocation_tokens": None,
    "trainable_token_indices": None,
    "target_parameters": None,
}


@dataclass(frozen=True)
class Place:
    """A layer of PyTorch's network, where it is in ours, and the pieces of a joined matrix."""

    pattern: str
    target: str
    order: tuple[str, ...] = ()


_T5 = r"text_encoder\.encoder\.block\.(\d+)\.layer\."

# The first pattern that matches a whole path counts; `part` is the piece of a joined matrix.
PLACES = [
    # transformers' MusicGen
    Place(
        r"(?:decoder\.)?model\.decoder\.layers\.(\d+)\.self_attn\.(?P<part>[qkv])_proj",
        r"decoder.layers.\1.self_attn.qkv",
        _QKV,
    ),
    Place(
        r"(?:decoder\.)?model\.decoder\.layers\.(\d+)\.encoder_attn\.(?P<part>[kv])_proj",
        r"decoder.layers.\1.encoder_attn.kv",
        _KV,
    ),
    Place(
        r"(?:decoder\.)?model\.decoder\.layers\.(\d+)\."
        r"((?:self|encoder)_attn\.(?:q|out)_proj|fc[12])",
        r"decoder.layers.\1.\2",
    ),
    Place(r"(audio_)?enc_to_dec_proj", r"decoder.\1enc_to_dec_proj"),
    Place(r"(?:decoder\.)?lm_heads\.(?P<part>\d+)", r"decoder.lm_head", _CODEBOOKS),
    Place(
        r"(?:decoder\.)?model\.decoder\.embed_tokens\.(?P<part>\d+)",
        r"decoder.embed_tokens",
        _CODEBOOKS,
    ),
    # and its T5
    Place(rf"{_T5}0\.SelfAttention\.(?P<part>[qkv])", r"text_encoder.layers.\1.qkv", _QKV),
    Place(rf"{_T5}0\.SelfAttention\.o", r"text_encoder.layers.\1.out_proj"),
    Place(rf"{_T5}1\.DenseReluDense\.(?:wi|wi_1)", r"text_encoder.layers.\1.up"),
    Place(rf"{_T5}1\.DenseReluDense\.wi_0", r"text_encoder.layers.\1.gate"),
    Place(rf"{_T5}1\.DenseReluDense\.wo", r"text_encoder.layers.\1.down"),
    Place(r"text_encoder\.(?:shared|encoder\.embed_tokens)", "text_encoder.embed_tokens"),
    # the semantic LM: transformers' LLaMA, alone or inside the reference
    Place(
        r"(?:llama\.)?model\.layers\.(\d+)\.((?:self_attn|mlp)\.\w+_proj)",
        r"semantic_lm.model.layers.\1.\2",
    ),
    Place(r"(?:llama\.)?model\.embed_tokens", "semantic_lm.model.embed_tokens"),
    Place(r"(?:llama\.)?lm_head", "semantic_lm.lm_head"),
    Place(r"clap_proj", "semantic_lm.clap_proj"),
    # the diffusion: diffusers' Stable Audio transformer, alone or inside the reference
    Place(
        r"(?:dit\.)?transformer_blocks\.(\d+)\.attn1\.to_(?P<part>[qkv])",
        r"diffusion.dit.transformer_blocks.\1.attn1.to_qkv",
        _QKV,
    ),
    Place(
        r"(?:dit\.)?transformer_blocks\.(\d+)\.attn2\.to_(?P<part>[kv])",
        r"diffusion.dit.transformer_blocks.\1.attn2.to_kv",
        _KV,
    ),
    Place(
        r"(?:dit\.)?transformer_blocks\.(\d+)\.attn2\.to_q",
        r"diffusion.dit.transformer_blocks.\1.attn2.to_q",
    ),
    Place(
        r"(?:dit\.)?transformer_blocks\.(\d+)\.(attn[12])\.to_out\.0",
        r"diffusion.dit.transformer_blocks.\1.\2.to_out",
    ),
    Place(
        r"(?:dit\.)?transformer_blocks\.(\d+)\.ff\.net\.0\.proj",
        r"diffusion.dit.transformer_blocks.\1.ff.gate_up",
    ),
    Place(
        r"(?:dit\.)?transformer_blocks\.(\d+)\.ff\.net\.2",
        r"diffusion.dit.transformer_blocks.\1.ff.down",
    ),
    Place(r"(?:dit\.)?(proj_in|proj_out)", r"diffusion.dit.\1"),
]


@dataclass(frozen=True)
class Layer:
    """A layer's adapter as PEFT has it: a (rank, in), b (out, rank), DoRA's magnitudes (out,)."""

    path: str
    a: mx.array
    b: mx.array
    magnitude: mx.array | None
    scale: float
    embedding: bool = False

    @property
    def scaled_b(self) -> mx.array:
        return self.scale * self.b.astype(mx.float32)


def is_peft(folder: Path) -> bool:
    """Whether a folder holds a PEFT checkpoint."""
    file = folder / ADAPTER_CONFIG
    try:
        return file.is_file() and "peft_type" in read_text(file)
    except MusicotError:
        return False  # whoever loads it says what is wrong


def convert_peft(source: Path, target: Path) -> str:
    """Write the adapter folder `target`; a line that says what is in it.

    Raises MusicotError for other kinds of PEFT than LoRA and DoRA, and for layers that our networks
    do not have.
    """
    config = _object(source / ADAPTER_CONFIG)
    if config.get("peft_type") != "LORA":
        raise MusicotError(f"{source} is PEFT's {config.get('peft_type')}; only LORA is converted")
    if not (source / WEIGHTS).is_file():
        raise MusicotError(
            f"{source} holds no {WEIGHTS}; save it with save_pretrained(safe_serialization=True)"
        )
    _require_plain(source, config)
    tensors = plain_names(load_file(source / WEIGHTS), source / WEIGHTS)
    layers = list(_layers(tensors, config))
    dora = any(layer.magnitude is not None for layer in layers)
    if dora and any(layer.magnitude is None or layer.embedding for layer in layers):
        raise MusicotError(
            f"{source} has DoRA on some layers alone, or on embeddings, which musicot does not "
            "read; merge it into its model (merge_and_unload) and convert that"
        )
    joined: dict[tuple[str, tuple[str, ...]], dict[str, Layer]] = {}
    unknown = []
    for layer in layers:
        placed = _place(layer.path)
        if placed is None:
            unknown.append(layer.path)
        else:
            joined.setdefault(placed[:2], {})[placed[2]] = layer
    if unknown or not layers:
        raise MusicotError(
            f"{source}: {len(unknown)} of {len(layers)} layers have no place in our networks: "
            f"{first_few(sorted(unknown))}"
        )
    arrays: dict[str, mx.array] = {}
    codebooks = _codebooks(config, joined)
    for (path, order), parts in joined.items():
        if order == _CODEBOOKS:
            order = codebooks
        for name, value in _joined(path, order, parts).items():
            arrays[f"{path}.{name}"] = value
    ranks = {arrays[key].shape[1] for key in arrays if key.endswith("lora_a")}
    out_config = {
        "fine_tune_type": "dora" if dora else "lora",
        "num_layers": -1,
        "lora_parameters": {"rank": max(ranks), "scale": 1.0, "dropout": 0.0},
        "converted_from": {"peft": config.get("base_model_name_or_path"), "r": config.get("r")},
    }
    save_adapter(target, out_config, arrays)
    return f"{target}: {len(layers)} PEFT layers in {len(joined)} of ours, {len(arrays)} keys"


def _layers(arrays: Mapping[str, mx.array], config: Mapping[str, Any]) -> Iterator[Layer]:
    """The layers of the file; MusicotError for keys that are no LoRA."""
    by_path: dict[str, dict[str, mx.array]] = {}
    other = []
    for key, value in arrays.items():
        match = _TENSOR.search(key)
        if match is None:
            other.append(key)
            continue
        path = _PREFIX.sub("", key[: match.start()])
        by_path.setdefault(path, {})[match[1].removeprefix("lora_")] = value
    if other:
        raise MusicotError(
            f"{len(other)} keys are no LoRA weights (modules_to_save or biases): "
            f"{first_few(sorted(other))}"
        )
    for path, tensors in by_path.items():
        embedding = "embedding_A" in tensors
        a = tensors.get("embedding_A" if embedding else "A")
        b = tensors.get("embedding_B" if embedding else "B")
        if a is None or b is None:
            raise MusicotError(f"{path} lacks lora_A or lora_B; the checkpoint is incomplete")
        rank = a.shape[0]
        alpha = _by_pattern(config.get("alpha_pattern") or {}, path, config.get("lora_alpha", 8))
        scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
        yield Layer(path, a, b, tensors.get("magnitude_vector"), scale, embedding)


def _by_pattern(patterns: Mapping[str, float], path: str, default: float) -> float:
    """PEFT's alpha_pattern: the first name or regular expression that the path ends with.

    Raises MusicotError for patterns that are none, and for an alpha that is no number.
    """
    try:
        fitting = (value for p, value in patterns.items() if re.match(rf"(.*\.)?({p})$", path))
        alpha = next(fitting, default)
    except (AttributeError, re.error) as error:
        raise MusicotError(f"alpha_pattern has no names and numbers ({error})") from error
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise MusicotError(f"the lora_alpha of {path} is {alpha!r}, expected a number")
    return float(alpha)


def _place(path: str) -> tuple[str, tuple[str, ...], str] | None:
    """(our layer, the order of its pieces, this one's piece), or None."""
    for place in PLACES:
        if match := re.fullmatch(place.pattern, path):
            target = re.sub(
                r"\\(\d)", lambda m, matched=match: matched[int(m[1])] or "", place.target
            )
            return target, place.order, match.groupdict().get("part") or ""
    return None


def _object(path: Path) -> dict[str, Any]:
    try:
        values = read_json(path)
    except ValueError as error:
        raise MusicotError(f"{path} is not valid JSON ({error})") from error
    if not isinstance(values, dict):
        raise MusicotError(f"{path} should hold a JSON object")
    return values


def _require_plain(source: Path, config: Mapping[str, Any]) -> None:
    """Raise MusicotError for a LoRA that is more than a product added to the base's weights."""
    start = config.get("init_lora_weights", True)
    if start not in _STARTS:
        raise MusicotError(
            f"{source} was started by {start}, which changes the base's weights too: save it with "
            "save_pretrained(..., path_initial_model_for_weight_conversion=...), or merge it into "
            "its model (merge_and_unload), and convert that"
        )
    odd = [name for name, plain in _VARIANTS.items() if config.get(name) not in (plain, None, [])]
    if odd:
        raise MusicotError(
            f"{source} was trained with {odd[0]}={config[odd[0]]!r}, which is more than LoRA; "
            "merge it into its model (merge_and_unload) and convert that"
        )


def _codebooks(config: Mapping[str, Any], joined: Mapping[Any, Mapping[str, Any]]) -> tuple:
    """The codebooks of the MusicGen that an adapter is for, in order: its config tells how many
    where it is at hand, else they are four, or eight in stereo.
    """
    seen = [int(k) for (_, order), parts in joined.items() if order == _CODEBOOKS for k in parts]
    base = Path(str(config.get("base_model_name_or_path"))) / "config.json"
    told = _object(base) if base.is_file() else {}
    decoder = told.get("decoder", told)
    count = decoder.get("num_codebooks") if isinstance(decoder, dict) else None
    fitting = [n for n in (4, 8) if n > max(seen, default=0)]
    count = count if isinstance(count, int) else (fitting or [max(seen, default=0) + 1])[0]
    return tuple(map(str, range(max(count, max(seen, default=0) + 1))))


def _joined(path: str, order: tuple[str, ...], parts: Mapping[str, Layer]) -> dict[str, mx.array]:
    """lora_a (in, ranks), lora_b (ranks, out) and, for DoRA, m of our layer, at scale 1.

    Pieces of a matrix stand below one another: each writes its own of the outputs or, in an
    embedding, is read by its own of the rows.
    """
    if not order:
        (layer,) = parts.values()
        return _named(layer.a.T, layer.scaled_b.T, layer.magnitude)
    present = [name for name in order if name in parts]
    magnitudes = [parts[name].magnitude for name in present]
    dora = magnitudes[0] is not None
    if dora and len(present) < len(order):
        raise MusicotError(
            f"{path}: DoRA of {', '.join(present)} alone can't stand in a matrix that holds "
            f"{', '.join(order)}; train all of them, or LoRA"
        )
    embedding = parts[present[0]].embedding
    sizes = {parts[k].a.shape[1] if embedding else parts[k].b.shape[0] for k in present}
    if len(sizes) > 1:
        raise MusicotError(f"{path}: {', '.join(present)} have different sizes")
    rows = sizes.pop()

    def placed(name: str, piece: mx.array) -> mx.array:  # (rank, rows) -> (rank, rows of all)
        at = order.index(name)
        return mx.pad(piece, ((0, 0), (at * rows, (len(order) - 1 - at) * rows)))

    a = [placed(k, parts[k].a) if embedding else parts[k].a for k in present]
    b = [parts[k].scaled_b.T for k in present]  # (rank, out)
    b = b if embedding else [placed(k, piece) for k, piece in zip(present, b, strict=True)]
    m = mx.concatenate([v.reshape(-1) for v in magnitudes]) if dora else None
    return _named(mx.concatenate(a).T, mx.concatenate(b), m)


def _named(a: mx.array, b: mx.array, m: mx.array | None) -> dict[str, mx.array]:
    tensors = {"lora_a": a.astype(mx.float32), "lora_b": b}
    return tensors if m is None else {**tensors, "m": m.reshape(-1).astype(mx.float32)}
