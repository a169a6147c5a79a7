"""From log-probabilities to ids: temperature, top-k, top-p, then one draw by explicit key.

The filters are mlx-lm's: top-k keeps exactly k (ties included), top-p keeps the fewest ids whose
mass reaches p, row by row. The order is that of transformers' generate (mlx-lm tempers last).
"""

from collections.abc import Iterator, Sequence

import mlx.core as mx
import numpy as np

from musicot_mlx.nn.mlx_lm import apply_top_k, apply_top_p

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


def draw_fused(
    logits: mx.array,
    keys: Sequence[mx.array],
    *,
    guidance_scale: float = 1.0,
    bias: mx.array | None = None,
    temperature: float,
) -> mx.array:
    """guided, bias and draw in one compiled run, a key a song -> int32 (songs,).

    logits: (rows, ids), the songs' rows and then, with guidance, as many without conditions. What
    normalises a row is a constant of it and falls out of the draw (Gumbel-max). It draws from the
    same distribution as `draw` but not the same ids.
    """
    keys = keys[0][None] if len(keys) == 1 else mx.stack(keys)
    return _fused(logits, bias, keys, guidance_scale, temperature)


@mx.compile
def _fused(
    logits: mx.array, bias: mx.array | None, keys: mx.array, scale: float, temperature: float
) -> mx.array:
    logits = logits.astype(mx.float32)
    songs, ids = len(keys), logits.shape[-1]
    if len(logits) > songs:
        conditional, without = mx.split(logits, 2)
        logits = without + scale * (conditional - without)
    if bias is not None:
        logits = logits + bias
    if songs == 1:
        noise = mx.random.gumbel((1, ids), key=keys[0])
    else:
        noise = mx.vmap(lambda key: mx.random.gumbel((ids,), key=key))(keys)
    return mx.argmax(logits * (1.0 / temperature) + noise, axis=-1).astype(mx.int32)


def on_host(codes: Sequence[mx.array]) -> np.ndarray:
    """Codes of some steps, (...) each, as one array (..., steps).

    Each is waited for by itself: one array made of them on the device would be queued behind the
    step that is running.
    """
    return np.stack([np.array(code) for code in codes], axis=-1)


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
