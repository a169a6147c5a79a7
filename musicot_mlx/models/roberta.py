"""RoBERTa, CLAP's text tower: token ids to the pooled first token.

arXiv 1907.11692; reference implementation transformers' ClapTextModel, whose parameter names are
kept.
"""

from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from musicot_mlx.nn.activations import ACTIVATIONS, check_activation
from musicot_mlx.nn.dense import Dense


@dataclass(frozen=True)
class ClapTextConfig:
    """RoBERTa text tower; field names are transformers' ClapTextConfig.

    laion_clap checkpoints were trained with layer_norm_eps=1e-5, transformers' default is 1e-12.
    """

    vocab_size: int = 50265
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    # two more than the longest text: ids count from pad_token_id + 1
    max_position_embeddings: int = 514
    type_vocab_size: int = 1
    layer_norm_eps: float = 1e-12
    pad_token_id: int = 1
    bos_token_id: int = 0
    eos_token_id: int = 2
    # tokens that the model was trained to read, where that is fewer than there are positions
    context_length: int | None = None

    def __post_init__(self) -> None:
        check_activation(self.hidden_act)
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"text hidden_size {self.hidden_size} does not divide into "
                f"{self.num_attention_heads} heads"
            )
        if self.max_tokens < 2:
            raise ValueError(
                f"max_position_embeddings {self.max_position_embeddings} and context_length "
                f"{self.context_length} leave no room for a text"
            )

    @property
    def max_tokens(self) -> int:
        """Longest text in tokens, <s> and </s> included."""
        positions = self.max_position_embeddings - self.pad_token_id - 1
        return min(positions, self.context_length or positions)


class TextEmbeddings(nn.Module):
    """Words, positions (real tokens counted from pad_token_id + 1) and token types."""

    def __init__(self, config: ClapTextConfig) -> None:
        super().__init__()
        self.pad_token_id = config.pad_token_id
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def __call__(self, ids: mx.array) -> mx.array:
        real = (ids != self.pad_token_id).astype(mx.int32)
        positions = mx.cumsum(real, axis=1) * real + self.pad_token_id
        x = self.word_embeddings(ids) + self.token_type_embeddings(mx.zeros_like(positions))
        x = x + self.position_embeddings(positions)
        return self.LayerNorm(x.astype(self.LayerNorm.weight.dtype))  # mxfp8 rows are bfloat16


class TextSelfAttention(nn.Module):
    def __init__(self, config: ClapTextConfig) -> None:
        super().__init__()
        dim = config.hidden_size
        self.heads, self.scale = (
            config.num_attention_heads,
            (dim // config.num_attention_heads) ** -0.5,
        )
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)

    def __call__(self, x: mx.array, mask: mx.array | None) -> mx.array:
        batch, time, channels = x.shape
        q, k, v = (
            layer(x).reshape(batch, time, self.heads, -1).transpose(0, 2, 1, 3)
            for layer in (self.query, self.key, self.value)
        )  # (batch, heads, time, head_dim)
        y = mx.fast.scaled_dot_product_attention(q, k, v, scale=self.scale, mask=mask)
        return y.transpose(0, 2, 1, 3).reshape(batch, time, channels)


class DenseAddNorm(nn.Module):
    """Linear layer, residual, layer norm: the post-norm half of a RoBERTa sub-block."""

    def __init__(self, inputs: int, config: ClapTextConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(inputs, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def __call__(self, x: mx.array, residual: mx.array) -> mx.array:
        return self.LayerNorm(self.dense(x) + residual)


class TextAttention(nn.Module):
    def __init__(self, config: ClapTextConfig) -> None:
        super().__init__()
        self.self = TextSelfAttention(config)
        self.output = DenseAddNorm(config.hidden_size, config)

    def __call__(self, x: mx.array, mask: mx.array | None) -> mx.array:
        return self.output(self.self(x, mask), x)


class TextLayer(nn.Module):
    """Post-norm transformer layer on (batch, time, channels)."""

    def __init__(self, config: ClapTextConfig) -> None:
        super().__init__()
        self.attention = TextAttention(config)
        self.intermediate = Dense(config.hidden_size, config.intermediate_size)
        self.output = DenseAddNorm(config.intermediate_size, config)
        self.activation = ACTIVATIONS[config.hidden_act]

    def __call__(self, x: mx.array, mask: mx.array | None) -> mx.array:
        x = self.attention(x, mask)
        return self.output(self.activation(self.intermediate(x)), x)


class TextEncoder(nn.Module):
    def __init__(self, config: ClapTextConfig) -> None:
        super().__init__()
        self.layer = [TextLayer(config) for _ in range(config.num_hidden_layers)]

    def __call__(self, x: mx.array, mask: mx.array | None) -> mx.array:
        for layer in self.layer:
            x = layer(x, mask)
        return x


class TextModel(nn.Module):
    """RoBERTa: ids (batch, time) to the pooled first token (batch, hidden_size)."""

    def __init__(self, config: ClapTextConfig) -> None:
        super().__init__()
        self.embeddings = TextEmbeddings(config)
        self.encoder = TextEncoder(config)
        self.pooler = Dense(config.hidden_size, config.hidden_size)

    def __call__(self, ids: mx.array, mask: mx.array | None = None) -> mx.array:
        if mask is not None:
            mask = mask.astype(mx.bool_)[:, None, None]  # (batch, 1, 1, time)
        x = self.encoder(self.embeddings(ids), mask)
        return mx.tanh(self.pooler(x[:, 0]))
