"""MuMu-LLaMA's language model: a LLaMA-2 that hears and sees through one vector a layer.

MuMu-LLaMA (arXiv 2412.06660), section 3, after LLaMA-Adapter (arXiv 2303.16199) and M2UGen
(arXiv 2311.11255). Upper layers attend to one adapter, a learned query plus the features of a
song, a picture or a film. Beside the causal attention each head attends to that one position
alone, weighted by tanh of a gate:

    out = Wo (softmax(q k) v  +  tanh(gate) * Wv(query + features)) + bo

Attention to a single position has weight 1 whatever the key, so the second term is the same at
every token: Wo of it is computed once a request (`offsets`) and added to the attention branch.
Keys and values are those of a plain LLaMA, and so is their cache. Upstream recomputes it, and the
whole prefix, at every token; the two agree to rounding.

The blocks are mlx-lm's llama, with biases where upstream tunes them (query, output, feed-forward)
and RoPE over neighbouring pairs, as Meta's files have it. Upstream's LoRA has neither scale nor
dropout; it is merged into the weights, or kept as layers of its own. The adapter's values leave it
out: of merged weights it is taken off again, which its low rank makes cheap.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from musicot_mlx.nn.mlx_lm import KVCache, LlamaArgs, LlamaBlock, LoRALinear, attention_mask

MODALITIES = ("audio", "image", "video")  # in the order of their layers, the first lowest
Features = Mapping[str, mx.array]  # of MODALITIES, each (batch, hidden)


@dataclass(frozen=True)
class MumuLlamaConfig:
    """Sizes of the trunk. Raises ValueError where heads or layers do not divide.

    routing: "split" gives each modality a third of the adapted layers; "sum" adds them all up and
    gives every adapted layer the sum. query_rows: adapted layers, the uppermost ones.
    """

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    max_position_embeddings: int = 1024
    routing: Literal["split", "sum"] = "split"
    query_rows: int = 18
    lora_rank: int = 0  # of LoRA that stands beside the weights; 0: there is none
    value_rank: int = 0  # of LoRA that was merged into value weights and does not hear adapters

    def __post_init__(self) -> None:
        heads = self.num_attention_heads
        if heads < 1 or self.hidden_size % (2 * heads):
            raise ValueError(
                f"hidden_size {self.hidden_size} does not divide into {heads} heads of even size"
            )
        if not 0 < self.query_rows <= self.num_hidden_layers:
            raise ValueError(
                f"query_rows {self.query_rows} is not within 1 to {self.num_hidden_layers} layers"
            )
        if self.routing == "split" and self.query_rows % len(MODALITIES):
            raise ValueError(f"query_rows {self.query_rows} does not divide among 3 modalities")
        if self.lora_rank and self.value_rank:
            raise ValueError("LoRA is merged (value_rank) or kept (lora_rank), not both")

    def hears(self, row: int) -> tuple[str, ...]:
        """The modalities that an adapted layer takes features of, by its row of the queries."""
        if self.routing == "sum":
            return MODALITIES
        return (MODALITIES[row // (self.query_rows // len(MODALITIES))],)


LLAMA_2_7B = MumuLlamaConfig(
    hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32
)


class ValueLoRA(nn.Module):
    """What LoRA added to a layer's value weights before they were merged: b(a x)."""

    def __init__(self, dims: int, rank: int) -> None:
        super().__init__()
        self.a, self.b = mx.zeros((rank, dims)), mx.zeros((dims, rank))

    def __call__(self, x: mx.array) -> mx.array:
        return (x @ self.a.T.astype(x.dtype)) @ self.b.T.astype(x.dtype)


class MumuLlama(nn.Module):
    """The trunk: embeddings (batch, time, hidden) to hidden states before the last norm.

    Embedding, last norm and head are `Words`, a network of its own, so that they can be stored with
    more bits. The name `layers` is mlx-lm's, so that its LoRA finds its way.
    """

    def __init__(self, config: MumuLlamaConfig) -> None:
        super().__init__()
        self.config = config
        args = LlamaArgs(
            model_type="llama",
            hidden_size=config.hidden_size,
            num_hidden_layers=config.num_hidden_layers,
            intermediate_size=config.intermediate_size,
            num_attention_heads=config.num_attention_heads,
            rms_norm_eps=config.rms_norm_eps,
            vocab_size=1,
            max_position_embeddings=config.max_position_embeddings,
            attention_bias=True,
            mlp_bias=True,
            rope_theta=config.rope_theta,
            rope_traditional=True,
        )
        self.layers = [LlamaBlock(args) for _ in range(config.num_hidden_layers)]
        for layer in self.layers:
            for name in ("k_proj", "v_proj"):  # upstream tunes no bias of these
                size = config.hidden_size
                layer.self_attn[name] = nn.Linear(size, size, bias=False)
            if config.lora_rank:
                _keep_lora(layer, config.lora_rank)
        self.gates = mx.zeros((config.query_rows, config.num_attention_heads))
        self.queries = mx.zeros((config.query_rows, config.hidden_size))
        if config.value_rank:
            self.value_lora = [
                ValueLoRA(config.hidden_size, config.value_rank) for _ in range(config.query_rows)
            ]

    def __call__(
        self,
        embeddings: mx.array,
        cache: Sequence[KVCache] | None = None,
        offsets: Sequence[mx.array | None] | None = None,
    ) -> mx.array:
        """Hidden states (batch, time, hidden); offsets: of `offsets`, None to hear nothing at all.

        Norms are float32, and embeddings of words in fewer bits may be of another type: all of it
        becomes `dtype` again.
        """
        caches = [None] * len(self.layers) if cache is None else cache
        added = [None] * len(self.layers) if offsets is None else offsets
        x, mask = embeddings.astype(self.dtype), attention_mask(embeddings, caches[0])
        for layer, own, offset in zip(self.layers, caches, added, strict=True):
            x = _through(layer, x, mask, own, offset)
        return x

    def through(self, number: int, x: mx.array, offset: mx.array | None) -> mx.array:
        """One layer alone, over all of (batch, time, hidden)."""
        return _through(self.layers[number], x, attention_mask(x), None, offset)

    @property
    def dtype(self) -> mx.Dtype:
        """Of hidden states: that of a bias, which is never quantised."""
        floats = tree_flatten(self.layers[0].mlp.parameters())
        return next(value.dtype for path, value in floats if path.endswith("bias"))

    def offsets(self, features: Features) -> list[mx.array | None]:
        """What each layer's attention adds at every token: (batch, 1, hidden), None below the
        adapted layers.

        features: of the modalities that are there. A layer that has none to hear adds its query
        alone, as upstream does.
        """
        unknown = sorted(set(features) - set(MODALITIES))
        if unknown:
            raise ValueError(f"features of {unknown[0]!r}; there are {', '.join(MODALITIES)}")
        config = self.config
        first = config.num_hidden_layers - config.query_rows
        found: list[mx.array | None] = [None] * first
        for row, layer in enumerate(self.layers[first:]):
            adapter = self.queries[row][None].astype(mx.float32)  # (1, hidden)
            for modality in config.hears(row):
                if modality in features:
                    adapter = adapter + features[modality].astype(mx.float32)
            values = self._values(row, layer.self_attn.v_proj, adapter.astype(self.dtype))
            heads = values.reshape(len(values), config.num_attention_heads, -1)
            gated = mx.tanh(self.gates[row].astype(mx.float32))[:, None] * heads
            gated = gated.reshape(len(values), 1, -1).astype(self.dtype)
            output = layer.self_attn.o_proj  # its bias is in the attention branch already
            found.append(output(gated) - output(mx.zeros_like(gated)))
        return found

    def _values(self, row: int, projection: nn.Module, adapter: mx.array) -> mx.array:
        """Values (batch, hidden) of adapters, without the checkpoint's LoRA."""
        if self.config.lora_rank:
            return projection.linear(adapter)
        if self.config.value_rank:
            return projection(adapter) - self.value_lora[row](adapter)
        return projection(adapter)

    def make_cache(self) -> list[KVCache]:
        """An empty cache for rows of equal length; it grows in blocks of 256 positions."""
        return [KVCache() for _ in self.layers]


@dataclass(frozen=True)
class WordsConfig:
    """vocab_size counts the tokens of music too, which are its last."""

    vocab_size: int
    hidden_size: int
    rms_norm_eps: float = 1e-5
    music_tokens: int = 8  # [AUD0] to [AUD7]: the model would make music

    @property
    def first_music_token(self) -> int:
        return self.vocab_size - self.music_tokens


class Words(nn.Module):
    """Both ends of the language model: ids to embeddings, hidden states to logits. Not tied."""

    def __init__(self, config: WordsConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def embed(self, ids: mx.array) -> mx.array:
        """(batch, time) -> (batch, time, hidden)."""
        return self.embed_tokens(ids)

    def logits(self, hidden: mx.array) -> mx.array:
        """(batch, time, hidden) -> (batch, time, vocabulary), float32."""
        return self.lm_head(self.norm(hidden).astype(hidden.dtype)).astype(mx.float32)


def _through(
    layer: nn.Module,
    x: mx.array,
    mask: mx.array | str | None,
    cache: KVCache | None,
    offset: mx.array | None,
) -> mx.array:
    """mlx-lm's block, with what the adapter adds to its attention."""
    dtype = x.dtype
    attended = layer.self_attn(layer.input_layernorm(x).astype(dtype), mask, cache)
    x = x + (attended if offset is None else attended + offset.astype(dtype))
    return x + layer.mlp(layer.post_attention_layernorm(x).astype(dtype))


def _keep_lora(layer: nn.Module, rank: int) -> None:
    """Every linear layer of a block with upstream's LoRA beside it: y = W x + b + B(A x)."""
    for part in (layer.self_attn, layer.mlp):
        for name, linear in part.children().items():
            if isinstance(linear, nn.Linear):
                part[name] = LoRALinear.from_base(linear, r=rank, dropout=0.0, scale=1.0)
