"""EnCodec: transformers.EncodecModel and audiocraft's compression model -> models/encodec.py.

Both number the layers alike, so one table serves them under other names. Convolutions carry weight
normalisation, which is folded: `weight_g` and `weight_v` in audiocraft and in files of transformers
4, `parametrizations.weight.original0` and `original1` in files of transformers 5.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from musicot_mlx.convert.rules import Rule
from musicot_mlx.errors import MusicotError


@dataclass(frozen=True)
class Names:
    """What a source calls its layers; regular expressions."""

    layers: str
    convolution: str
    transposed: str
    codebooks: str


TRANSFORMERS = Names(
    layers="layers",
    convolution=r"\.conv",
    transposed=r"\.conv",
    codebooks=r"quantizer\.layers\.(?P<n>\d+)\.codebook\.",
)
AUDIOCRAFT = Names(
    layers="model",
    convolution=r"\.conv\.conv",
    transposed=r"\.convtr\.convtr",
    codebooks=r"quantizer\.vq\.layers\.(?P<n>\d+)\._codebook\.",
)


def rules(config: Mapping[str, Any], names: Names = TRANSFORMERS) -> list[Rule]:
    """The key map of an EnCodec of these sizes; config: the `codec` section of an MLX config.json.

    Layers are numbered through, activations too: the stem, then for each ratio its residual blocks
    and the layer that changes the rate, then the LSTM and the last convolution.
    """
    blocks = len(config.get("upsampling_ratios", (8, 5, 4, 4)))
    residuals = config.get("num_residual_layers", 1)
    stride = residuals + 2  # residual blocks, an activation, the layer that changes the rate
    table = [
        Rule(names.codebooks + "embed", r"quantizer.codebooks.\g<n>.weight"),
        # what the moving averages of training need
        Rule(names.codebooks + r"(?:inited|cluster_size|embed_avg)", None),
    ]
    for half, lstm in (("encoder", 1 + blocks * stride), ("decoder", 1)):

        def layer(number: int, half: str = half) -> str:
            return rf"{half}\.{names.layers}\.{number}"

        convolution = names.convolution
        table += _convolution(layer(0) + convolution, f"{half}.first")
        table += _convolution(layer(3 + blocks * stride) + convolution, f"{half}.last")
        table += _lstm(layer(lstm), f"{half}.lstm")
        for block in range(blocks):
            target = f"{half}.blocks.{block}"
            if half == "encoder":
                first = 1 + block * stride
                table += _convolution(
                    layer(first + residuals + 1) + convolution, f"{target}.downsample"
                )
            else:
                first = 2 + block * stride + 2
                table += _convolution(
                    layer(first - 1) + names.transposed, f"{target}.upsample", "_transpose1d"
                )
            for index in range(residuals):
                for source, name in (
                    (r"\.block\.1", "narrow"),
                    (r"\.block\.3", "widen"),
                    (r"\.shortcut", "shortcut"),
                ):
                    table += _convolution(
                        layer(first + index) + source + convolution,
                        f"{target}.residual.{index}.{name}",
                    )
    return table


def _convolution(source: str, target: str, kind: str = "1d") -> list[Rule]:
    """One convolution: folded already, or with weight normalisation in either naming."""
    normed = f"weight_norm_conv{kind}"
    return [
        Rule(source + r"\.bias", target + ".bias"),
        Rule(source + r"\.weight", target + ".weight", f"conv{kind}"),
        Rule(
            source + r"\.(?P<part>weight_g|weight_v)",
            target + ".weight",
            normed,
            ("weight_g", "weight_v"),
        ),
        Rule(
            source + r"\.parametrizations\.weight\.(?P<part>original[01])",
            target + ".weight",
            normed,
            ("original0", "original1"),
        ),
    ]


def _lstm(source: str, target: str) -> list[Rule]:
    """The LSTM's layers; PyTorch has two biases that are only ever added."""
    source += r"\.lstm\."
    return [
        Rule(source + r"weight_ih_l(\d+)", rf"{target}.\1.wx"),
        Rule(source + r"weight_hh_l(\d+)", rf"{target}.\1.wh"),
        Rule(
            source + r"(?P<part>bias_ih|bias_hh)_l(?P<n>\d+)",
            rf"{target}.\g<n>.bias",
            "add",
            ("bias_ih", "bias_hh"),
        ),
    ]


_FIELDS = (
    "sampling_rate audio_channels hidden_size num_filters num_residual_layers upsampling_ratios "
    "kernel_size last_kernel_size residual_kernel_size dilation_growth_rate use_causal_conv "
    "pad_mode compress num_lstm_layers trim_right_ratio codebook_size use_conv_shortcut"
).split()
# transformers leaves out of config.json what has its default: that of the 24 kHz model, not ours.
_DEFAULTS: dict[str, Any] = {
    "sampling_rate": 24000,
    "num_filters": 32,
    "upsampling_ratios": [8, 5, 4, 2],
    "use_causal_conv": True,
    "codebook_size": 1024,
    "use_conv_shortcut": True,
    "target_bandwidths": [1.5, 3.0, 6.0, 12.0, 24.0],
}
_FIXED = {"norm_type": "weight_norm", "normalize": False, "chunk_length_s": None}


def config(source: Mapping[str, Any]) -> dict[str, Any]:
    """The `codec` section of an MLX config.json, from transformers' EncodecConfig.

    Raises MusicotError for an option that the network does not have.
    """
    for name, expected in _FIXED.items():
        if source.get(name, expected) != expected:
            raise MusicotError(
                f"this EnCodec has {name}={source[name]!r}, which musicot does not support; "
                "MusicGen's codec is facebook/encodec_32khz"
            )
    source = {**_DEFAULTS, **source}
    out = {name: source[name] for name in _FIELDS if source.get(name) is not None}
    out["codebook_dim"] = source.get("codebook_dim") or source.get("hidden_size", 128)
    frame_rate = math.ceil(out["sampling_rate"] / math.prod(out["upsampling_ratios"]))
    bits = math.ceil(math.log2(out["codebook_size"]))
    out["num_quantizers"] = int(1000 * source["target_bandwidths"][-1] // (frame_rate * bits))
    return out


def audiocraft_config(source: Mapping[str, Any]) -> dict[str, Any]:
    """The `codec` section, from the settings (`xp.cfg`) of an audiocraft compression model.

    Raises MusicotError for an option that the network does not have.
    """
    try:
        seanet, rvq = source["seanet"], source["rvq"]
        out = {
            "sampling_rate": source["sample_rate"],
            "audio_channels": source["channels"],
            "hidden_size": seanet["dimension"],
            "num_filters": seanet["n_filters"],
            "num_residual_layers": seanet["n_residual_layers"],
            "upsampling_ratios": list(seanet["ratios"]),
            "kernel_size": seanet["kernel_size"],
            "last_kernel_size": seanet["last_kernel_size"],
            "residual_kernel_size": seanet["residual_kernel_size"],
            "dilation_growth_rate": seanet["dilation_base"],
            "use_causal_conv": seanet["causal"],
            "pad_mode": seanet["pad_mode"],
            "compress": seanet["compress"],
            "num_lstm_layers": seanet["lstm"],
            "trim_right_ratio": seanet.get("decoder", {}).get("trim_right_ratio", 1.0),
            "codebook_size": rvq["bins"],
            "codebook_dim": seanet["dimension"],
            "num_quantizers": rvq["n_q"],
            "use_conv_shortcut": not seanet["true_skip"],
        }
    except (KeyError, TypeError) as error:
        raise MusicotError(f"the settings of this compression model lack {error}") from error
    fixed = {
        "norm": (seanet.get("norm"), "weight_norm"),
        "activation": (seanet.get("activation"), "ELU"),
        "final_activation": (seanet.get("decoder", {}).get("final_activation"), None),
        "disable_norm_outer_blocks": (seanet.get("disable_norm_outer_blocks", 0), 0),
        "renormalize": (source.get("encodec", {}).get("renormalize", False), False),
    }
    for name, (value, expected) in fixed.items():
        if value != expected:
            raise MusicotError(
                f"this compression model has {name}={value!r}, which musicot does not support; "
                "MusicGen's codec is facebook/encodec_32khz"
            )
    return out
