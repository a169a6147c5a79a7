"""From log-probabilities to ids: temperature, top-k, top-p, then one draw by explicit key.

The filters are mlx-lm's: top-k keeps exactly k (ties included), top-p keeps the fewest ids whose
mass reaches p, row by row. The order is that of transformers' generate (mlx-lm tempers last).
"""

import mlx.core as mx

from musicot_mlx.nn.mlx_lm_light import apply_top_k, apply_top_p


def check_sampling(temperature: float, top_k: int, top_p: float) -> None:
    """Raise ValueError for a setting that means nothing."""
    if not 0.0 <= temperature < float("inf"):
        raise ValueError(f"temperature is {temperature}, expected 0 (greedy) or more")
    if top_k < 0:
        raise ValueError(f"top_k is {top_k}, expected 0 (off) or more")
    if not 0.0 < top_p <= 1.0:
        raise ValueError(f"top_p is {top_p}, expected more than 0 and at most 1 (off)")


def log_probabilities(logits: mx.array) -> mx.array:
    """Logits (rows, ids) to float32 log-probabilities, each row normalised by itself."""
    logits = logits.astype(mx.float32)
    return logits - mx.logsumexp(logits, axis=-1, keepdims=True)


def sampling_logits(
    logp: mx.array, *, temperature: float, top_k: int = 0, top_p: float = 1.0
) -> mx.array:
    """Temper and filter log-probabilities (rows, ids); what is filtered out becomes -inf."""
    logits = logp * (1.0 / temperature)
    if 0 < top_k < logits.shape[-1]:
        logits = apply_top_k(logits, top_k)
    if top_p < 1.0:
        logits = apply_top_p(log_probabilities(logits), top_p)
    return logits


def draw(
    logp: mx.array, key: mx.array, *, temperature: float, top_k: int = 0, top_p: float = 1.0
) -> mx.array:
    """Draw one id a row from log-probabilities (rows, ids) -> int32 (rows,).

    Temperature 0 is greedy. The same key gives the same ids whatever was drawn before: no global
    state is read.
    """
    if temperature == 0.0:
        return mx.argmax(logp, axis=-1).astype(mx.int32)
    logits = sampling_logits(logp, temperature=temperature, top_k=top_k, top_p=top_p)
    # categorical takes logits, normalised or not; probabilities would draw near-uniform noise
    return mx.random.categorical(logits, axis=-1, key=key).astype(mx.int32)
