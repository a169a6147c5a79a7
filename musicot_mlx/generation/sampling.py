"""From log-probabilities to ids: temperature, top-k, top-p, then one draw by explicit key.

The filters are mlx-lm's: top-k keeps exactly k (ties included), top-p keeps the fewest ids whose
mass reaches p, row by row. The order is that of transformers' generate (mlx-lm tempers last).
"""

from collections.abc import Iterator

import mlx.core as mx

from musicot_mlx.nn.mlx_lm_light import apply_top_k, apply_top_p

_KEY_BLOCK = 256


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


def draw_codebooks(
    logits: mx.array, keys: mx.array, *, temperature: float, top_k: int = 0, top_p: float = 1.0
) -> mx.array:
    """Draw a code for every codebook of every song in one call -> int32 (songs, codebooks).

    logits: (songs, codebooks, ids), normalised or not; keys: one a song, (songs, 2), so that a song
    is the same alone and in a batch. Temperature 0 is greedy.
    """
    if temperature == 0.0:
        return mx.argmax(logits, axis=-1).astype(mx.int32)
    rows = logits.astype(mx.float32).reshape(-1, logits.shape[-1])
    rows = sampling_logits(rows, temperature=temperature, top_k=top_k, top_p=top_p)
    # as mx.random.categorical draws, but with a key a song
    noise = mx.vmap(lambda key: mx.random.gumbel(logits.shape[1:], key=key))(keys)
    return mx.argmax(rows.reshape(logits.shape) + noise, axis=-1).astype(mx.int32)


def keys_by_step(key: mx.array, *, skip: int = 0) -> Iterator[mx.array]:
    """One key a step, from step `skip` on; step i has the same key however many steps there are."""
    step = 0
    while True:
        key, branch = mx.random.split(key)
        if step + _KEY_BLOCK > skip:
            yield from mx.random.split(branch, _KEY_BLOCK)[max(0, skip - step) :]
        step += _KEY_BLOCK
