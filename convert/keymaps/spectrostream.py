"""SpectroStream: `mrt2_*.safetensors` and `encoder.safetensors` -> models/spectrostream.py.

The names are flax's (magenta-rt 2.0.3): `params/soundstream/decoder/...` with the quantiser in the
checkpoint of the language model, `params/encoder/...` in a file of its own. Kernels are (time,
frequency, in, out).
"""

from collections.abc import Mapping
from typing import Any

from musicot_mlx.convert.rules import Rule
from musicot_mlx.errors import MusicotError

DECODER, ENCODER = "params/soundstream/", "params/encoder/"
_STRIDES = ("2x1", "2x2", "1x2", "1x2", "1x3", "1x2", "1x2")  # of the decoder's units


def _conv(source: str, target: str, transform: str = "hwio") -> list[Rule]:
    return [
        Rule(source + r"/conv/kernel", target + ".weight", transform),
        Rule(source + r"/conv/bias", target + ".bias"),
    ]


def _bend(source: str, straight: str, target: str) -> list[Rule]:
    return [
        *_conv(source + "/" + straight, target + ".straight"),
        *_conv(source + "/shortcut_layer/conv1x1_b1", target + ".first"),
        *_conv(source + "/shortcut_layer/conv1x1_b2", target + ".second"),
    ]


# The checkpoint has 64 codebooks, of which the model writes the first twelve.
QUANTIZER: list[Rule] = [
    Rule(
        r"quantizer/embedding",
        tuple(f"quantizer.codebooks.{level}.weight" for level in range(12)),
        "first_codebooks",
    )
]

DECODER_RULES: list[Rule] = [
    *QUANTIZER,
    *_bend("decoder/input_layer", "conv1x1_first", "decoder.first"),
    *_conv("decoder/input_layers_residual_unit/conv2d_3x3_a", "decoder.residual.first"),
    *_conv("decoder/input_layers_residual_unit/conv2d_3x3", "decoder.residual.second"),
    *(
        rule
        for unit, stride in enumerate(_STRIDES)
        for rule in _conv(
            rf"decoder/decoder_{unit}/conv2dtranspose_\dx\d",
            f"decoder.units.{unit}.first",
            f"up_{stride}",
        )
    ),
    *_conv(r"decoder/decoder_(?P<n>\d)/conv2d_3x3", r"decoder.units.\g<n>.second"),
    *_conv(r"decoder/decoder_(?P<n>\d)/shortcut_layer/conv1x1", r"decoder.units.\g<n>.shortcut"),
    *_conv("decoder/output_layer/base_conv_last", "decoder.last"),
]

ENCODER_RULES: list[Rule] = [
    *_conv("base_conv_first", "encoder.first"),
    *_conv(r"encoder_(?P<n>\d)/conv2d_3x3", r"encoder.units.\g<n>.first"),
    *_conv(r"encoder_(?P<n>\d)/conv2d_\dx\d_a", r"encoder.units.\g<n>.second"),
    *_conv(r"encoder_(?P<n>\d)/shortcut_layer/conv1x1", r"encoder.units.\g<n>.shortcut"),
    *_conv("bottleneck/conv2d_3x3", "encoder.residual.first"),
    *_conv("bottleneck/conv2d_3x3_a", "encoder.residual.second"),
    *_bend("output_convs", "conv1x1_last", "encoder.last"),
]


def config(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """The `codec` section of an MLX config.json, from the shapes of the arrays of both files.

    Raises MusicotError for arrays of another codec.
    """
    decoder, encoder = DECODER + "decoder/", ENCODER

    def width(key: str) -> int:
        return shapes[key + "/conv/bias"][0]

    def second(unit: int) -> str:
        """The convolution of an encoder's unit that gives its width."""
        at = f"{encoder}encoder_{unit}/"
        (key,) = {k for k in shapes if k.startswith(at) and k.endswith("_a/conv/bias")}
        return key.removesuffix("/conv/bias")

    try:
        _, size, dim = shapes[DECODER + "quantizer/embedding"]
        residual = width(decoder + "input_layers_residual_unit/conv2d_3x3")
        units = range(len(_STRIDES))
        return {
            "dim": dim,
            "codebook_size": size,
            "bins": width(decoder + "input_layer/conv1x1_first") // residual,
            "decoder_widths": [
                residual,
                *(width(f"{decoder}decoder_{i}/conv2d_3x3") for i in units),
            ],
            "encoder_widths": [
                width(encoder + "base_conv_first"),
                *(width(second(i)) for i in units),
            ],
        }
    except (KeyError, ValueError) as error:
        raise MusicotError(f"this is no SpectroStream that we know: {error} is missing") from error
