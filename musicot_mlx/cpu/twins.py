"""Which class of this folder runs in which one's place."""

import mlx.nn as nn

from musicot_mlx.cpu import (
    activations,
    depthwise,
    dit,
    encodec,
    encoder,
    musiccoca,
    musicgen,
    semantic_lm,
    semantic_tokenizer,
    spectrostream,
    vae,
)

_CLASSES = (
    activations.ELU,
    activations.GELU,
    activations.Sigmoid,
    activations.SiLU,
    depthwise.DepthwiseConv1d,
    dit.CrossAttention,
    dit.DiTBlock,
    dit.FeedForward,
    dit.SelfAttention,
    encodec.Conv,
    encodec.Encodec,
    encodec.LSTM,
    encoder.EncoderLayer,
    musiccoca.Attention,
    musiccoca.FeedForward,
    musicgen.CrossAttention,
    musicgen.DecoderLayer,
    musicgen.Musicgen,
    musicgen.SelfAttention,
    semantic_lm.SemanticLM,
    semantic_tokenizer.Attention,
    semantic_tokenizer.FeedForward,
    spectrostream.Conv,
    spectrostream.UpConv,
    vae.ConvNeXtBlock,
    vae.VAE,
)
TWINS: dict[type[nn.Module], type[nn.Module]] = {twin.__bases__[0]: twin for twin in _CLASSES}
