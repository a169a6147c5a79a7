"""Dual-scale classifier-free guidance of MusiCoT (arXiv 2503.19611), eq 7 and eq 8.

    log p = lambda * log p(. | conditions) + (1 - lambda) * log p(.)

lambda_1 = 2.3 for thoughts, lambda_2 = 1.3 for audio. Both terms are log-probabilities over the ids
that can stand at the step, in float32; mixing raw logits would be the same only up to a constant a
row, mixing over the whole vocabulary would not.
"""

import mlx.core as mx

from musicot_mlx.generation.sampling import log_probabilities


def guided(logits: mx.array, scale: float) -> mx.array:
    """Mix the rows of one batch: logits (2 * songs, ids), conditional rows first -> (songs, ids).

    Returns float32 log-probabilities, unnormalised unless scale is 0 or 1.
    """
    conditional, unconditional = mx.split(log_probabilities(logits), 2, axis=0)
    return scale * conditional + (1.0 - scale) * unconditional
