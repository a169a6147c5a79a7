"""SpectroStream: `mrt2_*.safetensors` and `encoder.safetensors` -> models/spectrostream.py.

The names are flax's (magenta-rt 2.0.3): `params/soundstream/decoder/...` with the quantiser in the
checkpoint of the language model, `params/encoder/...` in a file of its own. Kernels are (time,
frequency, in, out).
"""

from musicot_mlx.convert.rules import Rule

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
