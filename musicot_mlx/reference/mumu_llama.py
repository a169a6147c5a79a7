"""MuMu-LLaMA in PyTorch, under upstream's names of weights: what the MLX networks are held against.

Written from the formulas (LLaMA, arXiv 2302.13971; LLaMA-Adapter, 2303.16199; LoRA, 2106.09685;
MuMu-LLaMA, 2412.06660) and the published checkpoints' names and shapes. Everything is done at every
token, as upstream does it: the adapter is a key and a value that each head attends to by itself,
LoRA stands beside its weights, no state is kept from token to token.

Encoders and MusicGen are not here: transformers has them. `features` takes what encoders give.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn as nn
import torch.nn.functional as F

MODALITIES = ("audio", "image", "video")
PREFIXES = {"audio": "mu_mert", "image": "iu_vit", "video": "iu_vivit"}


@dataclass(frozen=True)
class MumuConfig:
    """Sizes; the published ones are the defaults. query_rows 20 goes with routing "sum", 18 with
    "split"; rnn: time is pooled by an RNN and attention. music_tokens count within vocab_size.
    """

    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    vocab_size: int = 32008
    music_tokens: int = 8
    norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    lora_rank: int = 16
    routing: Literal["split", "sum"] = "split"
    query_rows: int = 18
    rnn: bool = False
    audio_states: int = 25
    audio_size: int = 1024
    image_tokens: int = 197
    image_size: int = 768
    video_tokens: int = 3137
    video_size: int = 768


class RMSNorm(nn.Module):
    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.eps, self.weight = eps, nn.Parameter(torch.ones(size))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = x.float()
        return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)).type_as(
            x
        ) * self.weight


def _lora(owner: nn.Module, name: str, inputs: int, outputs: int, rank: int) -> None:
    """Two matrices beside a linear layer; the second begins at zero, so that nothing changes."""
    down, up = nn.Linear(inputs, rank, bias=False), nn.Linear(rank, outputs, bias=False)
    nn.init.zeros_(up.weight)
    owner.add_module(f"lora_{name}_l1", down)
    owner.add_module(f"lora_{name}_l2", up)


def _apply(owner: nn.Module, name: str, x: torch.Tensor) -> torch.Tensor:
    """A linear layer with its LoRA."""
    down, up = (getattr(owner, f"lora_{name}_l{n}") for n in (1, 2))
    return getattr(owner, name)(x) + up(down(x))


def rotate(x: torch.Tensor, theta: float) -> torch.Tensor:
    """Rotary positions on neighbouring pairs of (batch, heads, time, head_dim)."""
    time, dim = x.shape[-2:]
    rates = theta ** (-torch.arange(0, dim, 2, dtype=torch.float32, device=x.device) / dim)
    angle = torch.arange(time, dtype=torch.float32, device=x.device)[:, None] * rates
    cos, sin = angle.cos(), angle.sin()
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)


class Attention(nn.Module):
    """Causal attention, and beside it attention to one adapter, weighted by tanh(gate) a head."""

    def __init__(self, config: MumuConfig) -> None:
        super().__init__()
        size, self.heads, self.theta = (
            config.hidden_size,
            config.num_attention_heads,
            config.rope_theta,
        )
        self.wq = nn.Linear(size, size)
        self.wk = nn.Linear(size, size, bias=False)
        self.wv = nn.Linear(size, size, bias=False)
        self.wo = nn.Linear(size, size)
        for name in ("wq", "wk", "wv", "wo"):
            _lora(self, name, size, size, config.lora_rank)
        self.gate = nn.Parameter(torch.zeros(1, self.heads, 1, 1))

    def forward(self, x: torch.Tensor, adapter: torch.Tensor | None) -> torch.Tensor:
        query, key, value = (self._split(_apply(self, name, x)) for name in ("wq", "wk", "wv"))
        query, key = rotate(query, self.theta), rotate(key, self.theta)
        found = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        if adapter is not None:  # (batch, 1, size): a key and a value without LoRA or position
            own_key, own_value = self._split(self.wk(adapter)), self._split(self.wv(adapter))
            scores = query @ own_key.transpose(-1, -2) * query.shape[-1] ** -0.5
            found = found + torch.tanh(self.gate) * (scores.softmax(-1) @ own_value)
        return _apply(self, "wo", found.transpose(1, 2).flatten(2))

    def _split(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (batch, heads, time, head_dim)


class FeedForward(nn.Module):
    def __init__(self, config: MumuConfig) -> None:
        super().__init__()
        size, inner, rank = config.hidden_size, config.intermediate_size, config.lora_rank
        self.w1, self.w3 = nn.Linear(size, inner), nn.Linear(size, inner)
        self.w2 = nn.Linear(inner, size)
        for name, (inputs, outputs) in {
            "w1": (size, inner),
            "w2": (inner, size),
            "w3": (size, inner),
        }.items():
            _lora(self, name, inputs, outputs, rank)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _apply(self, "w2", F.silu(_apply(self, "w1", x)) * _apply(self, "w3", x))


class Layer(nn.Module):
    def __init__(self, config: MumuConfig) -> None:
        super().__init__()
        self.attention, self.feed_forward = Attention(config), FeedForward(config)
        self.attention_norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.ffn_norm = RMSNorm(config.hidden_size, config.norm_eps)

    def forward(self, x: torch.Tensor, adapter: torch.Tensor | None) -> torch.Tensor:
        x = x + self.attention(self.attention_norm(x), adapter)
        return x + self.feed_forward(self.ffn_norm(x))


class Llama(nn.Module):
    def __init__(self, config: MumuConfig) -> None:
        super().__init__()
        self.tok_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.output = nn.Linear(config.hidden_size, config.vocab_size, bias=False)


class MumuLlama(nn.Module):
    """Ids and features to logits. Every weight has the name that a checkpoint gives it."""

    def __init__(self, config: MumuConfig) -> None:
        super().__init__()
        self.config = config
        size = config.hidden_size
        self.llama = Llama(config)
        self.prefix_query = nn.Embedding(config.query_rows, size)
        for modality, prefix in PREFIXES.items():
            parts = config.audio_states if modality == "audio" else None
            parts = parts or getattr(config, f"{modality}_tokens")
            inputs = getattr(config, f"{modality}_size")
            self.add_module(f"{prefix}_agg", nn.Conv1d(parts, 1, kernel_size=1))
            self.add_module(f"{prefix}_proj", nn.Linear(inputs, size))
            for number in (1, 2, 3):
                self.add_module(f"{prefix}_norm_{number}", RMSNorm(size, 1e-6))
                for matrix in (1, 2, 3):
                    linear = nn.Linear(size, size, bias=False)
                    self.add_module(f"{prefix}_f{matrix}_{number}", linear)
            if config.rnn and modality != "image":
                width = config.audio_size  # upstream's, for films too, whose features are narrower
                self.add_module(f"{prefix}_rnn", nn.RNN(width, width, batch_first=True))
                self.add_module(f"{prefix}_attention", nn.Linear(width, 1))

    def feature(self, modality: str, parts: torch.Tensor | Sequence[torch.Tensor]) -> torch.Tensor:
        """What LLaMA hears, (batch, 1, hidden), of encoder states (batch, audio_states, time, size)
        or of tokens (batch, tokens, size).
        """
        prefix, rnn = PREFIXES[modality], self.config.rnn and modality == "audio"
        if modality == "audio" and not rnn:
            parts = parts.mean(dim=2)  # over time
        if rnn:
            frames = getattr(self, f"{prefix}_agg")(
                parts.transpose(1, 2).flatten(0, 1)
            )  # (batch * time, 1, size)
            frames = _normalised(frames.reshape(len(parts), -1, parts.shape[-1]))
            states, _ = getattr(self, f"{prefix}_rnn")(frames)
            weights = getattr(self, f"{prefix}_attention")(states).softmax(dim=1)
            x = (weights * states).sum(dim=1, keepdim=True)
        else:
            x = _normalised(getattr(self, f"{prefix}_agg")(parts))  # (batch, 1, size)
        x = getattr(self, f"{prefix}_proj")(x)
        for number in (1, 2, 3):
            normed = getattr(self, f"{prefix}_norm_{number}")(x)
            f1, f2, f3 = (getattr(self, f"{prefix}_f{matrix}_{number}") for matrix in (1, 2, 3))
            x = x + f2(F.silu(f1(normed)) * f3(normed))
        return x

    def hidden(
        self, ids: torch.Tensor, features: Mapping[str, torch.Tensor] | None = None
    ) -> torch.Tensor:
        """Last hidden states (batch, time, hidden) before the final norm."""
        x = self.llama.tok_embeddings(ids)
        found = adapters(self.config, self.prefix_query.weight, features or {}, len(ids))
        for layer, adapter in zip(self.llama.layers, found, strict=True):
            x = layer(x, adapter)
        return x

    def forward(
        self, ids: torch.Tensor, features: Mapping[str, torch.Tensor] | None = None
    ) -> torch.Tensor:
        """Logits (batch, time, vocabulary)."""
        return self.llama.output(self.llama.norm(self.hidden(ids, features)))

    def loss(
        self,
        ids: torch.Tensor,
        labels: torch.Tensor,
        features: Mapping[str, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Cross-entropy of the next id over labels (batch, time); label 0 is not asked for."""
        logits = self(ids, features)[:, :-1]
        return F.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=0)

    @torch.no_grad()
    def greedy(
        self, ids: Sequence[int], count: int, features: Mapping[str, torch.Tensor] | None = None
    ) -> list[int]:
        """The likeliest `count` ids that go on from `ids`, all computed anew at each."""
        found = list(ids)
        for _ in range(count):
            logits = self(torch.tensor([found]), features)[0, -1]
            found.append(int(logits.argmax()))
        return found[len(ids) :]


def adapters(
    config: MumuConfig, queries: torch.Tensor, features: Mapping[str, torch.Tensor], batch: int
) -> list[torch.Tensor | None]:
    """The adapter of each layer, (batch, 1, hidden) or None: its query and the features it is given
    of those there are, (batch, 1, hidden) each.
    """
    rows = config.query_rows
    found: list[torch.Tensor | None] = [None] * (config.num_hidden_layers - rows)
    for row in range(rows):
        own = (MODALITIES[row * 3 // rows],) if config.routing == "split" else MODALITIES
        adapter = queries[row].expand(batch, 1, -1)
        found.append(adapter + sum(features[name] for name in own if name in features))
    return found


def _normalised(x: torch.Tensor) -> torch.Tensor:
    return F.normalize(x, dim=-1) / (1 + 1e-6)


def draw_weights(model: MumuLlama, seed: int = 0) -> MumuLlama:
    """Fill every weight with something that can be seen to be wrong: nothing is zero or one."""
    generator = torch.Generator().manual_seed(seed)

    def noise(value: torch.Tensor, std: float, mean: float = 0.0) -> None:
        value.copy_(torch.randn(value.shape, generator=generator) * std + mean)

    with torch.no_grad():
        for name, value in model.named_parameters():
            if "norm" in name:
                noise(value, 0.1, 1.0)
            elif "gate" in name:
                noise(value, 0.5)
            elif value.ndim == 1:
                noise(value, 0.1)
            elif "tok_embeddings" in name or "prefix_query" in name:
                noise(value, 1.0)
            else:
                noise(value, value.shape[1] ** -0.5)
    return model
