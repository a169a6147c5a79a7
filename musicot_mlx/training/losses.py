"""What tuning minimises: pretraining's losses in MLX (reference/semantic_lm.py, diffusion.py).

Every loss is a sum over what counts. Its divisor, the weight of a batch, is known before the
network runs, so a batch may be cut among several machines: the parts' losses and gradients add up
to those of the whole, however uneven the parts are. Whatever is random about a batch (dropped
conditions, diffusion times, noise) was drawn before and stands in it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from musicot_mlx.models.semantic_diffusion import DiffusionConfig, SemanticDiffusion
from musicot_mlx.models.semantic_lm import SemanticLM
from musicot_mlx.tokens.vocabulary import AUD_BOS, COT_BOS, PAD, Vocabulary


@dataclass(frozen=True)
class TokenSequence:
    """One training sequence of the semantic LM (Fig 3), as codes.

    clap float32 (clap_dim,); tags and lyrics vocabulary ids; thoughts (levels, segments); audio
    (frames,). What is dropped is left out of the sequence, as generation leaves it out.
    """

    clap: np.ndarray
    tags: Sequence[int]
    lyrics: Sequence[int]
    thoughts: np.ndarray
    audio: np.ndarray
    drop_conditions: bool = False
    drop_thoughts: bool = False
    name: str = ""

    def row(self, vocabulary: Vocabulary) -> tuple[list[int], int]:
        """Ids of the sequence, and where the first learned one stands minus one."""
        thoughts = None if self.drop_thoughts else self.thoughts
        ids = vocabulary.row(
            self.tags, self.lyrics, thoughts, self.audio, conditions=not self.drop_conditions
        )
        return ids, ids.index(AUD_BOS if self.drop_thoughts else COT_BOS)


def sequence_weight(
    sequence: TokenSequence, vocabulary: Vocabulary, thought_weight: float
) -> float:
    """What a sequence weighs: its learned tokens, a thought counting thought_weight."""
    ids, start = sequence.row(vocabulary)
    return float(_token_weights(np.array(ids[start + 1 :]), vocabulary, thought_weight).sum())


def sequence_loss(
    lm: SemanticLM, sequences: Sequence[TokenSequence], thought_weight: float = 1.0
) -> mx.array:
    """Cross-entropy in nats of everything after <cot_bos> up to <aud_eos>, weighed and summed.

    Right padding needs no mask: a causal row never looks to its right. The head sees learned
    positions only.
    """
    vocabulary = lm.config.vocabulary
    rows = [sequence.row(vocabulary) for sequence in sequences]
    time = max(len(ids) for ids, _ in rows) - 1  # <aud_eos> is a target only
    inputs = np.full((len(rows), time), PAD, dtype=np.int32)
    positions, targets = [], []
    for i, (ids, start) in enumerate(rows):
        inputs[i, : len(ids) - 1] = ids[:-1]
        positions.append(i * time + np.arange(start, len(ids) - 1))
        targets.append(ids[start + 1 :])
    target = np.concatenate(targets)
    weights = _token_weights(target, vocabulary, thought_weight)
    clap = mx.array(np.stack([sequence.clap for sequence in sequences]))
    hidden = lm.hidden(lm.embed(mx.array(inputs), clap))  # (batch, time, hidden)
    learned = hidden.reshape(-1, hidden.shape[-1])[mx.array(np.concatenate(positions))]
    logits = lm.lm_head(learned).astype(mx.float32)  # (targets, vocabulary)
    values = nn.losses.cross_entropy(logits, mx.array(target.astype(np.int32)))
    return (values * mx.array(weights)).sum()


def _token_weights(
    targets: np.ndarray, vocabulary: Vocabulary, thought_weight: float
) -> np.ndarray:
    thought = (targets >= vocabulary.thought_offset) & (targets < vocabulary.audio_offset)
    return np.where(thought, np.float32(thought_weight), np.float32(1.0))


@dataclass(frozen=True)
class NoisyWindow:
    """One window of the diffusion, with the noise and the time it is seen at.

    latents and noise float32 (time, latent_dim), unscaled; codes int32 (codes,) of which the window
    starts at latent frame frame_offset; clap float32 (vectors, clap_dim): the prompt's, then the
    thoughts; counted: frames of the window that are music, the rest being padding. dropped: seen
    without codes and CLAP vectors, the row that guidance compares with.
    """

    latents: np.ndarray
    noise: np.ndarray
    t: float
    codes: np.ndarray
    frame_offset: float
    clap: np.ndarray
    start_seconds: float
    total_seconds: float
    counted: int
    dropped: bool = False
    name: str = ""

    @property
    def weight(self) -> float:
        """How many numbers the squared error is a mean of."""
        return float(self.counted * self.latents.shape[1])


def diffusion_loss(model: SemanticDiffusion, windows: Sequence[NoisyWindow]) -> mx.array:
    """Squared error of the velocity, summed over windows, counted frames and channels."""
    config = model.config
    x0 = np.stack([w.latents for w in windows]) * np.float32(config.latent_scale)
    noise = np.stack([w.noise for w in windows])  # (batch, time, latent_dim)
    t = np.array([w.t for w in windows], dtype=np.float32)
    x_t, target = _noised(config, x0, noise, t[:, None, None])
    dropped = np.array([w.dropped for w in windows])
    codes = np.stack([w.codes for w in windows])
    codes = np.where(dropped[:, None], config.no_token, codes).astype(np.int32)
    clap = np.stack([w.clap for w in windows])
    clap = np.where(dropped[:, None, None], np.float32(0.0), clap)
    velocity = model(
        mx.array(x_t),
        mx.array(t),
        mx.array(codes),
        mx.array(clap),
        mx.array(np.array([w.start_seconds for w in windows], dtype=np.float32)),
        mx.array(np.array([w.total_seconds for w in windows], dtype=np.float32)),
        frame_offset=np.array([w.frame_offset for w in windows]),
    )
    counted = np.arange(x0.shape[1]) < np.array([w.counted for w in windows])[:, None]
    error = (velocity.astype(mx.float32) - mx.array(target)).square()
    return (error * mx.array(counted.astype(np.float32))[..., None]).sum()


def _noised(
    config: DiffusionConfig, x0: np.ndarray, noise: np.ndarray, t: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """x_t and the velocity to be found, by the model's objective."""
    if config.objective == "rectified_flow":
        return (1 - t) * x0 + t * noise, noise - x0
    alpha, sigma = np.cos(t * np.float32(math.pi / 2)), np.sin(t * np.float32(math.pi / 2))
    return alpha * x0 + sigma * noise, alpha * noise - sigma * x0
