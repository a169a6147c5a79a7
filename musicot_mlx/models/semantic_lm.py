"""The semantic language model: a LLaMA that thinks in CLAP codes before it writes audio tokens.

MusiCoT (arXiv 2503.19611), Fig 3 and eq 7-8. One sequence holds everything:

    [CLAP vector] [tags] [lyrics] <cot_bos> thoughts <cot_eos> <aud_bos> audio <aud_eos>

The trunk, its masks and its caches are mlx-lm's llama. Ours are the projection that makes a CLAP
vector one token of the prefix, and a head that can be cut to a range of ids: at a thought step only
one level's K rows are reachable, at an audio step only the A audio rows, so only those are
multiplied. The PyTorch reference is `transformers.LlamaForCausalLM` on `inputs_embeds`
(reference/semantic_lm.py). Depth, width and codebook sizes were never published; all are fields.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from musicot_mlx.nn.mlx_lm import BatchKVCache, KVCache, LlamaArgs, LlamaModel, LoRALinear
from musicot_mlx.tokens.beats import beat_features
from musicot_mlx.tokens.harmony import CHORD_FEATURES, harmony_features
from musicot_mlx.tokens.tempo import TEMPO_TAGS, paced_tempi
from musicot_mlx.tokens.vocabulary import (
    AUD_BOS,
    AUD_EOS,
    CLAP_SLOT,
    COT_BOS,
    COT_EOS,
    PAD,
    Vocabulary,
)
from musicot_mlx.weights.config import config_from_dict


@dataclass(frozen=True)
class SemanticLMConfig:
    """Sizes of the semantic LM; the vocabulary's offsets follow from them.

    Raises ValueError where heads do not divide, or a context is shorter than one thought.
    """

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    rms_norm_eps: float
    rope_theta: float
    max_position_embeddings: int
    clap_dim: int
    text_vocab_size: int  # ids of the lyrics tokenizer
    tags: tuple[str, ...]  # one id a tag
    thought_codebooks: int  # L
    thought_codebook_size: int  # K
    audio_codebook_size: int  # A
    audio_frame_rate: float = 25.0  # tokens a second
    thought_seconds: float = 10.0  # one CLAP embedding for this much audio
    context_seconds: float = 30.0  # longest audio the model was trained on
    thought_bias_rank: int = 0  # of ThoughtBias; 0: the model has none
    beat_harmonics: int = 0  # of a bar, in tokens/beats.py's features; 0: the model knows no beats
    unconditional_beats: float = 0.0  # share of them in guidance's row without conditions
    harmony: bool = False  # whether it knows the chord of each frame
    tempo_head: bool = False  # whether it tells the tempo that songs like a CLAP vector have

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "SemanticLMConfig":
        """Read the `semantic_lm` section of config.json; MusicotError names an unknown field."""
        return config_from_dict(cls, values, where="semantic_lm")

    def __post_init__(self) -> None:
        if self.hidden_size % (2 * self.num_attention_heads):
            raise ValueError(
                f"hidden_size {self.hidden_size} does not divide into "
                f"{self.num_attention_heads} heads of even size"
            )
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} is not a multiple of "
                f"num_key_value_heads {self.num_key_value_heads}"
            )
        if self.context_segments < 1:
            raise ValueError(
                f"context_seconds {self.context_seconds} is shorter than one thought of "
                f"{self.thought_seconds} s"
            )
        Vocabulary.from_config(vars(self))  # checks the codebook sizes

    @cached_property
    def vocabulary(self) -> Vocabulary:
        return Vocabulary.from_config(vars(self))

    pad, cot_bos, cot_eos = PAD, COT_BOS, COT_EOS
    aud_bos, aud_eos = AUD_BOS, AUD_EOS

    @property
    def text_offset(self) -> int:
        return self.vocabulary.text_offset

    @property
    def tag_offset(self) -> int:
        return self.vocabulary.tag_offset

    @property
    def thought_offset(self) -> int:
        return self.vocabulary.thought_offset

    @property
    def audio_offset(self) -> int:
        return self.vocabulary.audio_offset

    @property
    def vocab_size(self) -> int:
        return self.vocabulary.vocab_size

    @property
    def context_segments(self) -> int:
        """Whole thoughts in the longest audio the model was trained on."""
        return int(self.context_seconds / self.thought_seconds + 1e-6)

    def segments(self, frames: int) -> int:
        """Thoughts that cover this many audio tokens: M = ceil(duration / 10 s)."""
        return -int(-frames // (self.audio_frame_rate * self.thought_seconds))

    def segment(self, frame: int) -> int:
        """The segment that an audio token lies in."""
        return int((frame + 0.5) / (self.audio_frame_rate * self.thought_seconds))

    def first_frame(self, segment: int) -> int:
        """Audio tokens before a segment."""
        return round(segment * self.thought_seconds * self.audio_frame_rate)


# The paper's size: about 1 B parameters (1.03 B), 12 x 1024 thoughts as in MeLoDy's MuLan prefix,
# 16384 audio codes as in SongCreator's BEST-RQ, RoBERTa's tokenizer for lyrics, songs of 3 minutes.
MUSICOT_1B = SemanticLMConfig(
    hidden_size=2048,
    intermediate_size=5504,
    num_hidden_layers=16,
    num_attention_heads=32,
    num_key_value_heads=8,
    rms_norm_eps=1e-5,
    rope_theta=10000.0,
    max_position_embeddings=8192,
    clap_dim=512,
    text_vocab_size=50265,
    tags=(),
    thought_codebooks=12,
    thought_codebook_size=1024,
    audio_codebook_size=16384,
    context_seconds=180.0,
)


Step = Callable[[mx.array, list[Any]], mx.array]  # embeddings and cache to hidden states


class ThoughtBias(nn.Module):
    """Which audio tokens go with a thought, whatever was played before: p(token | thought).

    Not in the paper. In a language model of a few million weights the tokens so far drown out the
    thoughts, and classifier-free guidance, whose two rows share them, with it. A bias on the logits
    (shallow fusion, arXiv 1503.03535) is the same at every frame of a segment and costs no pass.
    """

    def __init__(self, config: SemanticLMConfig) -> None:
        super().__init__()
        self.codes = config.thought_codebook_size
        rows = config.thought_codebooks * config.thought_codebook_size
        self.embed = nn.Embedding(rows, config.thought_bias_rank)
        self.head = nn.Linear(config.thought_bias_rank, config.audio_codebook_size)

    def __call__(self, thoughts: np.ndarray) -> mx.array:
        """Codes (songs, levels, segments) to log p(token | thought) - log p(token), float32
        (songs, segments, audio codes).
        """
        levels = thoughts.shape[1]
        ids = mx.array(thoughts) + self.codes * mx.arange(levels)[:, None]
        own = self.head(self.embed(ids).sum(axis=1))  # (songs, segments, audio codes)
        # the head's own bias, which quantised layers keep under the same name: log p(token)
        own, any_thought = own.astype(mx.float32), self.head.bias.astype(mx.float32)
        own -= mx.logsumexp(own, axis=-1, keepdims=True)
        return own - (any_thought - mx.logsumexp(any_thought))


class SemanticLM(nn.Module):
    """LLaMA trunk with an untied head, and the projection of CLAP vectors into its prefix.

    `lm(ids)` maps ids (batch, time) to logits (batch, time, vocabulary). Generation works with
    `embed`, `prefix`, `hidden` and `head` (generation/semantic.py). The names `model`, `lm_head`
    and `layers` are mlx-lm's, so that its LoRA and quantisation find their way.
    """

    def __init__(self, config: SemanticLMConfig) -> None:
        super().__init__()
        self.config = config
        self.model = LlamaModel(
            LlamaArgs(
                model_type="llama",
                hidden_size=config.hidden_size,
                num_hidden_layers=config.num_hidden_layers,
                intermediate_size=config.intermediate_size,
                num_attention_heads=config.num_attention_heads,
                num_key_value_heads=config.num_key_value_heads,
                rms_norm_eps=config.rms_norm_eps,
                vocab_size=config.vocab_size,
                max_position_embeddings=config.max_position_embeddings,
                rope_theta=config.rope_theta,
                tie_word_embeddings=False,
            )
        )
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.clap_proj = nn.Linear(config.clap_dim, config.hidden_size)
        if config.thought_bias_rank:
            self.thought_bias = ThoughtBias(config)
        if config.beat_harmonics:
            self.beat_proj = nn.Linear(2 * config.beat_harmonics, config.hidden_size, bias=False)
        if config.harmony:
            self.harmony_proj = nn.Linear(CHORD_FEATURES, config.hidden_size, bias=False)
        if config.tempo_head:
            self.tempo_head = nn.Linear(config.clap_dim, len(TEMPO_TAGS))

    def __call__(
        self,
        inputs: mx.array | None = None,
        cache: list[Any] | None = None,
        input_embeddings: mx.array | None = None,
    ) -> mx.array:
        """Logits (batch, time, vocabulary) of ids (batch, time) or of their embeddings."""
        embeddings = self.embed(inputs) if input_embeddings is None else input_embeddings
        return self.lm_head(self.hidden(embeddings, cache))

    @property
    def layers(self) -> list[nn.Module]:
        return self.model.layers

    @property
    def dtype(self) -> mx.Dtype:
        """Dtype of the hidden state: a norm is never quantised, so it tells."""
        return self.model.norm.weight.dtype

    def embed(self, ids: mx.array, clap: mx.array | None = None) -> mx.array:
        """Embed ids (batch, time) -> (batch, time, hidden).

        The projected clap (batch, clap_dim) stands wherever an id is CLAP_SLOT.
        """
        # another type, a float32 vector's or that of mxfp8's bfloat16 rows, would promote a 16-bit
        # model from the first layer on
        if clap is None:
            return self.model.embed_tokens(ids).astype(self.dtype)
        embeddings = self.model.embed_tokens(mx.maximum(ids, PAD)).astype(self.dtype)
        projected = self.clap_proj(clap.astype(self.dtype))[:, None]  # (batch, 1, hidden)
        return mx.where((ids == CLAP_SLOT)[..., None], projected, embeddings)

    def prefix(self, clap: np.ndarray | None, ids: Sequence[int]) -> mx.array:
        """Embed one row, the CLAP vector (clap_dim,) first where there is one -> (1, time, hidden).

        Raises ValueError for a vector of another size.
        """
        if clap is None:
            return self.embed(mx.array(ids, dtype=mx.int32)[None])
        vector = np.asarray(clap, dtype=np.float32).reshape(-1)
        if vector.size != self.config.clap_dim:
            raise ValueError(
                f"the CLAP vector has {vector.size} values but this model takes "
                f"{self.config.clap_dim}; embed the prompt with the model's own CLAP"
            )
        row = mx.array([CLAP_SLOT, *ids], dtype=mx.int32)
        return self.embed(row[None], mx.array(vector)[None])

    def usual_tempo(self, clap: np.ndarray, words: str | None = None) -> str | None:
        """The likeliest tempo tag of songs near a CLAP vector (clap_dim,), of text or of audio, as
        slow or fast as the words say; None where the model has no head for it, or no such tags.
        """
        tempi = paced_tempi(self.config.tags, words)
        if not self.config.tempo_head or not tempi:
            return None
        logits = self.tempo_head(mx.array(clap)[None].astype(self.dtype))[0]  # (tempi,)
        among = mx.array([TEMPO_TAGS.index(tag) for tag in tempi])
        return tempi[logits[among].argmax().item()]

    def beats(self, bpm: np.ndarray) -> mx.array:
        """What is added to the inputs that predict frames of these tempi, 0 for none: (frames,)
        -> (frames, hidden). The first frame begins a bar.
        """
        features = beat_features(
            bpm, frame_rate=self.config.audio_frame_rate, harmonics=self.config.beat_harmonics
        )
        return self.beat_proj(mx.array(features).astype(self.dtype))

    def harmony(self, chords: Sequence[tuple[float, str]], frames: int) -> mx.array:
        """What is added to the inputs that predict frames with these chords, (second, chord) at
        every change: (frames, hidden).
        """
        features = harmony_features(chords, frames, frame_rate=self.config.audio_frame_rate)
        return self.harmony_proj(mx.array(features).astype(self.dtype))

    def hidden(
        self,
        embeddings: mx.array,
        cache: list[Any] | None = None,
    ) -> mx.array:
        """Last hidden states (batch, time, hidden), normalised, ready for a head."""
        return self.model(None, cache, input_embeddings=embeddings)

    def fast_step(self, rows: int) -> Step:
        """`hidden` for single positions of a run of so many rows over a filled cache, in the
        quickest form there is.
        """
        return self.hidden

    def head(self, start: int, stop: int) -> Callable[[mx.array], mx.array]:
        """The head cut to the ids start..stop-1: a function (..., hidden) -> (..., stop - start).

        Cut it once a phase: the other rows then cost nothing, under LoRA too.
        """
        return _cut(self.lm_head, start, stop)

    def make_cache(self) -> list[KVCache]:
        """An empty cache for rows of equal length; it grows in blocks of 256 positions."""
        return [KVCache() for _ in self.layers]


def _cut(head: nn.Module, start: int, stop: int) -> Callable[[mx.array], mx.array]:
    """A linear layer's outputs start..stop-1 alone; of a DoRA layer all are made, and cut."""
    if isinstance(head, LoRALinear):
        base, a = _cut(head.linear, start, stop), head.lora_a
        b = head.scale * head.lora_b[:, start:stop]  # (rank, ids)
        return lambda x: mx.addmm(base(x), x @ a.astype(x.dtype), b.astype(x.dtype))
    if isinstance(head, nn.QuantizedLinear):
        packed, scales = head.weight[start:stop], head.scales[start:stop]
        biases = head["biases"][start:stop] if "biases" in head else None

        def quantized(x: mx.array) -> mx.array:
            return mx.quantized_matmul(
                x,
                packed,
                scales=scales,
                biases=biases,
                transpose=True,
                group_size=head.group_size,
                bits=head.bits,
                mode=head.mode,
            )

        return quantized
    if type(head) is nn.Linear:
        rows = head.weight[start:stop]  # (ids, hidden)
        return lambda x: x @ rows.T
    return lambda x: head(x)[..., start:stop]


def merge_caches(caches: Sequence[list[KVCache]]) -> list[Any]:
    """Caches of single rows, each of its own length, as the cache of one batch of rows.

    Shorter rows are padded on the left; mlx-lm's BatchKVCache masks the padding and gives every row
    its own RoPE position, so each row reads as if it ran alone.
    """
    if len(caches) == 1:
        return list(caches[0])
    return [BatchKVCache.merge(layer) for layer in zip(*caches, strict=True)]
