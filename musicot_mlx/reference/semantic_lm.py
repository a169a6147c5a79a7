"""The semantic language model in PyTorch: `transformers.LlamaForCausalLM` fed with `inputs_embeds`.

MusiCoT (arXiv 2503.19611), Fig 3 and eq 7-8: conditions, then a chain of musical thoughts (CLAP-RVQ
codes, level-major), then audio tokens, in one sequence. This is the network that is trained, and
the measure the MLX port is held against: `plan_thoughts` and `audio_tokens` recompute the whole
sequence for every token, so that there is no cache to be wrong.

    [CLAP vector] [tags] [lyrics] <cot_bos> thoughts <cot_eos> <aud_bos> audio <aud_eos>
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from musicot_mlx.tokens.beats import beat_features
from musicot_mlx.tokens.harmony import CHORD_FEATURES, harmony_features
from musicot_mlx.tokens.tempo import TEMPO_TAGS
from musicot_mlx.tokens.vocabulary import (
    AUD_BOS,
    AUD_EOS,
    CLAP_SLOT,
    COT_BOS,
    PAD,
    Vocabulary,
)

IGNORED = -100  # a target that cross-entropy skips
SPAN = 12  # audio tokens (half a second) that are hidden together


@dataclass(frozen=True)
class TrainingInputs:
    """A padded batch: embeddings (batch, time, hidden), targets (batch, time) with -100 to skip."""

    embeddings: torch.Tensor
    targets: torch.Tensor


class ThoughtBias(nn.Module):
    """Which audio tokens go with a thought, whatever was played before: p(token | thought).

    Not in the paper. In a language model of a few million weights the tokens so far drown out the
    thoughts; `forward` gives what to add to its logits. `musicot_mlx/models/semantic_lm.py` has the
    same.
    """

    def __init__(self, levels: int, codes: int, audio_codes: int, rank: int) -> None:
        super().__init__()
        self.levels, self.codes = levels, codes
        self.embed = nn.Embedding(levels * codes, rank)
        self.head = nn.Linear(rank, audio_codes)  # its bias: log p(token)

    def logits(self, thoughts: torch.Tensor) -> torch.Tensor:
        """Codes (..., levels) to logits of p(token | thought), (..., audio_codes)."""
        offsets = self.codes * torch.arange(self.levels, device=thoughts.device)
        return self.head(self.embed(thoughts + offsets).sum(-2))

    def forward(self, thoughts: torch.Tensor) -> torch.Tensor:
        """Codes (..., levels) to log p(token | thought) - log p(token), (..., audio_codes)."""
        own, any_thought = self.logits(thoughts).float(), self.head.bias.float()
        return torch.log_softmax(own, -1) - torch.log_softmax(any_thought, -1)


class SemanticLM(nn.Module):
    """LLaMA trunk with an untied head; a projection makes a CLAP vector one token of the prefix.

    `config` is the `semantic_lm` section of config.json. Conditions are given as vocabulary ids
    (Vocabulary.tag_id, Vocabulary.lyrics_ids), thoughts and audio as codes counted from 0.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.config = dict(config)
        self.vocabulary = Vocabulary.from_config(config)
        self.llama = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=self.vocabulary.vocab_size,
                hidden_size=config["hidden_size"],
                intermediate_size=config["intermediate_size"],
                num_hidden_layers=config["num_hidden_layers"],
                num_attention_heads=config["num_attention_heads"],
                num_key_value_heads=config["num_key_value_heads"],
                rms_norm_eps=config["rms_norm_eps"],
                max_position_embeddings=config["max_position_embeddings"],
                # transformers 5 knows no rope_theta argument of its own: it lives in here
                rope_parameters={"rope_type": "default", "rope_theta": config["rope_theta"]},
                tie_word_embeddings=False,
                pad_token_id=PAD,
                bos_token_id=COT_BOS,
                eos_token_id=AUD_EOS,
            )
        )
        self.clap_proj = nn.Linear(config["clap_dim"], config["hidden_size"])
        if config.get("beat_harmonics"):
            self.beat_proj = nn.Linear(2 * config["beat_harmonics"], config["hidden_size"], False)
            nn.init.zeros_(self.beat_proj.weight)  # weights that know no beats go on as they are
        if config.get("harmony"):
            self.harmony_proj = nn.Linear(CHORD_FEATURES, config["hidden_size"], False)
            nn.init.zeros_(self.harmony_proj.weight)
        if config.get("tempo_head"):
            self.tempo_head = nn.Linear(config["clap_dim"], len(TEMPO_TAGS))
        if config.get("thought_bias_rank"):
            self.thought_bias = ThoughtBias(
                config["thought_codebooks"],
                config["thought_codebook_size"],
                config["audio_codebook_size"],
                config["thought_bias_rank"],
            )

    def row(
        self,
        tags: Sequence[int] = (),
        lyrics: Sequence[int] = (),
        thoughts: Any = None,
        audio: Any = None,
        *,
        clap: bool = True,
        conditions: bool = True,
    ) -> list[int]:
        """Vocabulary.row for codes that may be tensors."""
        return self.vocabulary.row(
            tags, lyrics, _to_numpy(thoughts), _to_numpy(audio), clap=clap, conditions=conditions
        )

    def embed(
        self,
        ids: torch.Tensor,
        clap: torch.Tensor | None,
        beats: Sequence[np.ndarray | None] | None = None,
        harmony: Sequence[np.ndarray | None] | None = None,
    ) -> torch.Tensor:
        """Embed ids (batch, time), with the projected clap (batch, clap_dim) in each CLAP_SLOT.

        beats: tokens/beats.py's features (frames, 2 * harmonics) of each row or None; harmony:
        tokens/harmony.py's (frames, 24). They go to the positions that predict those frames,
        <aud_bos> the first.
        """
        embeddings = self.llama.model.embed_tokens(ids.clamp(min=PAD))  # (batch, time, hidden)
        if clap is not None:
            projected = self.clap_proj(clap)[:, None]  # (batch, 1, hidden)
            embeddings = torch.where((ids == CLAP_SLOT)[..., None], projected, embeddings)
        for name, features in (("beat_proj", beats), ("harmony_proj", harmony)):
            projection = getattr(self, name, None)
            if features is not None and projection is not None:
                placed = self._at_frames(ids, features, projection.in_features)
                embeddings = embeddings + projection(placed.to(projection.weight))
        return embeddings

    @staticmethod
    def _at_frames(
        ids: torch.Tensor, features: Sequence[np.ndarray | None], width: int
    ) -> torch.Tensor:
        """Features (frames, width) of each row or None at the positions that predict those frames,
        zeros elsewhere: (batch, time, width).
        """
        placed = torch.zeros(*ids.shape, width)
        for i, row in enumerate(features):
            if row is not None:
                first = ids[i].tolist().index(AUD_BOS)
                stop = min(first + len(row), ids.shape[1])
                placed[i, first:stop] = torch.from_numpy(row[: stop - first])
        return placed.to(ids.device)

    def inputs(
        self,
        batch: Mapping[str, Any],
        *,
        drop_conditions: Sequence[bool] | None = None,
        drop_thoughts: Sequence[bool] | None = None,
        hide_history: Sequence[torch.Tensor | None] | None = None,
    ) -> TrainingInputs:
        """Build the embedded training sequences of a batch, padded on the right.

        batch: `clap` float (batch, clap_dim); `tags` and `lyrics`, one list of vocabulary ids an
        item; `thoughts`, one (levels, segments) of codes an item; `audio`, one (frames,) of codes
        an item; `beats` and `harmony`, if given, features (frames, 2 * harmonics) and (frames, 24)
        or None an item. What is dropped is left out of the sequence, as generation leaves it out;
        beats (`unconditional_beats`) and harmony stay where the conditions go. Targets are the
        tokens after <cot_bos> up to <aud_eos> (after <aud_bos> without thoughts).
        hide_history: bool (frames,) or None an item; audio tokens that go in as <pad>, though they
        are targets all the same.
        """
        device = self.clap_proj.weight.device
        size = len(batch["audio"])
        no_conditions = drop_conditions or [False] * size
        no_thoughts = drop_thoughts or [False] * size
        rows = [
            self.row(
                batch["tags"][i],
                batch["lyrics"][i],
                None if no_thoughts[i] else batch["thoughts"][i],
                batch["audio"][i],
                conditions=not no_conditions[i],
            )
            for i in range(size)
        ]
        time = max(len(row) for row in rows) - 1  # <aud_eos> is a target only
        ids = torch.full((size, time), PAD)
        targets = torch.full((size, time), IGNORED)
        for i, row in enumerate(rows):
            ids[i, : len(row) - 1] = torch.tensor(row[:-1])
            start = row.index(AUD_BOS if no_thoughts[i] else COT_BOS)
            targets[i, start : len(row) - 1] = torch.tensor(row[start + 1 :])
            if hide_history is not None and hide_history[i] is not None:
                first = row.index(AUD_BOS) + 1
                ids[i, first : first + len(hide_history[i])][hide_history[i]] = PAD
        clap = batch["clap"].to(device=device, dtype=self.clap_proj.weight.dtype)
        frames = (batch.get("beats"), batch.get("harmony"))
        embeddings = self.embed(ids.to(device), clap, *frames)
        return TrainingInputs(embeddings, targets.to(device))

    def token_losses(self, inputs: TrainingInputs) -> tuple[torch.Tensor, torch.Tensor]:
        """Cross-entropy in nats of each target (targets,), and the target ids (targets,).

        Right padding needs no attention mask: a causal row never looks to its right.
        """
        hidden = self.llama.model(inputs_embeds=inputs.embeddings, use_cache=False)[0]
        learned = inputs.targets != IGNORED
        targets = inputs.targets[learned]
        logits = self.llama.lm_head(hidden[learned])  # (targets, vocabulary)
        return functional.cross_entropy(logits.float(), targets, reduction="none"), targets

    def loss(
        self,
        batch: Mapping[str, Any],
        *,
        dropout: float = 0.1,
        thought_weight: float = 1.0,
        thought_dropout: float = 0.0,
        history_dropout: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """Mean cross-entropy of a batch (see `inputs`), with the dropping that guidance needs.

        thought_dropout is the share of items that lose their thoughts whatever else they keep: 1
        trains the base system that the paper compares with, also in eval mode.

        thought_weight is what a thought counts beside an audio token, of which there are some 40
        times as many: 1 as in the paper, more where training is short.

        history_dropout is the share of items whose earlier audio tokens are hidden in part: what
        has sounded says nearly all of what will, and a short training then never learns to listen
        to the thoughts, which must turn the music where they change.

        A share `dropout` of the items loses its whole prefix (eq 7); half of those lose the
        thoughts as well (eq 8). Eval mode drops nothing. `generator` is a CPU generator.
        """
        size = len(batch["audio"])
        rate = dropout if self.training else 0.0
        draws = torch.rand(size, generator=generator).tolist()
        bare = [False] * size
        if thought_dropout:  # not drawn where it is off, so that older trainings stay as they were
            bare = (torch.rand(size, generator=generator) < thought_dropout).tolist()
        hidden = None
        if history_dropout and self.training:
            frames = [len(codes) for codes in batch["audio"]]
            hidden = [hidden_spans(n, history_dropout, generator) for n in frames]
        inputs = self.inputs(
            batch,
            drop_conditions=[draw < rate for draw in draws],
            drop_thoughts=[
                draw < rate / 2 or alone for draw, alone in zip(draws, bare, strict=True)
            ],
            hide_history=hidden,
        )
        values, targets = self.token_losses(inputs)
        thought = (targets >= self.vocabulary.thought_offset) & (
            targets < self.vocabulary.audio_offset
        )
        weight = torch.where(thought, thought_weight, 1.0)
        return (values * weight).sum() / weight.sum()

    @torch.no_grad()
    def losses(self, batch: Mapping[str, Any], *, thoughts: bool = True) -> dict[str, float]:
        """Validation: mean nats a token of each thought level and of the audio, nothing dropped;
        without thoughts, of the audio alone.
        """
        bare = [not thoughts] * len(batch["audio"])
        values, targets = self.token_losses(self.inputs(batch, drop_thoughts=bare))
        ranges = {
            f"thoughts_{level}": self.vocabulary.thought_range(level)
            for level in range(self.vocabulary.thought_codebooks if thoughts else 0)
        }
        ranges["audio"] = self.vocabulary.audio_range
        return {
            name: values[(targets >= start) & (targets < stop)].mean().item()
            for name, (start, stop) in ranges.items()
        }

    @torch.no_grad()
    def plan_thoughts(
        self,
        clap: torch.Tensor | None,
        tags: Sequence[int] = (),
        lyrics: Sequence[int] = (),
        *,
        segments: int,
        temperature: float = 0.65,
        guidance_scale: float = 2.3,  # lambda_1
        generator: torch.Generator | None = None,
    ) -> np.ndarray:
        """Draw the thoughts of a song, int32 (levels, segments), by eq 7."""
        prefix = self.row(tags, lyrics, clap=clap is not None)
        rows = [[*prefix, COT_BOS], [COT_BOS]]
        ids: list[int] = []
        for level in range(self.vocabulary.thought_codebooks):
            for _ in range(segments):
                legal = self.vocabulary.thought_range(level)
                ids.append(
                    self._draw(rows, ids, clap, legal, temperature, guidance_scale, generator)
                )
        return self.vocabulary.unflatten_thoughts(np.array(ids))

    @torch.no_grad()
    def audio_tokens(
        self,
        clap: torch.Tensor | None,
        tags: Sequence[int] = (),
        lyrics: Sequence[int] = (),
        *,
        thoughts: Any,
        frames: int,
        temperature: float = 0.75,
        guidance_scale: float = 1.3,  # lambda_2
        unconditional: str = "without_thoughts",
        thought_bias: float = 0.0,
        bpm: float = 0.0,
        chords: Sequence[tuple[float, str]] = (),
        generator: torch.Generator | None = None,
    ) -> np.ndarray:
        """Draw the audio codes after given thoughts, int32 (frames,), by eq 8 in either reading,
        with `thought_bias` times ThoughtBias on top, bars of `bpm` from the first frame on and
        chords (second, chord), which both rows of the guidance take.
        """
        kept = thoughts if unconditional == "with_thoughts" else None
        rows = [
            [*self.row(tags, lyrics, thoughts, clap=clap is not None), AUD_BOS],
            [*self.row((), (), kept, conditions=False), AUD_BOS],
        ]
        ids: list[int] = []
        legal = self.vocabulary.audio_range
        bias: torch.Tensor | None = None
        if thought_bias and thoughts is not None and hasattr(self, "thought_bias"):
            by_segment = thought_bias * self.thought_bias(torch.as_tensor(thoughts).T.long())
            per_segment = self.config["thought_seconds"] * self.config["audio_frame_rate"]
            at = ((torch.arange(frames) + 0.5) / per_segment).long()
            bias = by_segment[at.clamp(max=len(by_segment) - 1)]  # (frames, audio codes)
        beats = beat_features(
            np.full(frames, bpm),
            frame_rate=self.config["audio_frame_rate"],
            harmonics=self.config.get("beat_harmonics", 0),
        )
        harmony = harmony_features(chords, frames, frame_rate=self.config["audio_frame_rate"])
        for i in range(frames):
            settings = (legal, temperature, guidance_scale, generator)
            lean = None if bias is None else bias[i]
            features = {"beats": beats, "harmony": harmony}
            ids.append(self._draw(rows, ids, clap, *settings, bias=lean, **features))
        return (np.array(ids) - self.vocabulary.audio_offset).astype(np.int32)

    def _draw(
        self,
        rows: Sequence[list[int]],
        drawn: list[int],
        clap: torch.Tensor | None,
        legal: tuple[int, int],
        temperature: float,
        guidance_scale: float,
        generator: torch.Generator | None,
        bias: torch.Tensor | None = None,
        beats: np.ndarray | None = None,
        harmony: np.ndarray | None = None,
    ) -> int:
        """One more id: both rows from their first token, mixed over the legal ids, `bias` added."""
        logp = self._log_probabilities([*rows[0], *drawn], clap, legal, beats, harmony)
        if guidance_scale != 1.0:
            if beats is not None:
                beats = np.float32(self.config.get("unconditional_beats", 0.0)) * beats
            without = self._log_probabilities([*rows[1], *drawn], clap, legal, beats, harmony)
            logp = guidance_scale * logp + (1.0 - guidance_scale) * without
        if bias is not None:
            logp = logp + bias.to(logp)
        if temperature == 0.0:
            return legal[0] + int(logp.argmax())
        probabilities = torch.softmax(logp / temperature, dim=-1).cpu()
        return legal[0] + int(torch.multinomial(probabilities, 1, generator=generator))

    def _log_probabilities(
        self,
        row: list[int],
        clap: torch.Tensor | None,
        legal: tuple[int, int],
        beats: np.ndarray | None = None,
        harmony: np.ndarray | None = None,
    ) -> torch.Tensor:
        device = self.clap_proj.weight.device
        vector = None if clap is None else clap.reshape(1, -1).to(self.clap_proj.weight)
        embeddings = self.embed(torch.tensor([row], device=device), vector, [beats], [harmony])
        logits = self.llama(inputs_embeds=embeddings, use_cache=False).logits[0, -1]
        return torch.log_softmax(logits[legal[0] : legal[1]].float(), dim=-1)


def hidden_spans(
    frames: int, rate: float, generator: torch.Generator | None = None
) -> torch.Tensor | None:
    """Which audio tokens of an item are hidden, bool (frames,): None for a share 1 - rate of items;
    else spans of SPAN tokens, a share of them that is drawn for the item.
    """
    chance, share = torch.rand(2, generator=generator).tolist()
    if chance >= rate:
        return None
    spans = torch.rand(-(-frames // SPAN), generator=generator) < 0.3 + 0.7 * share
    return spans.repeat_interleave(SPAN)[:frames]


def _to_numpy(codes: Any) -> np.ndarray | None:
    return codes.cpu().numpy() if isinstance(codes, torch.Tensor) else codes
