"""MuMu-LLaMA's answers, token by token: one pass over the question, then one position a step.

The step loop queues step n+1 before it hands out n, as mlx-lm's does. It knows nothing of words:
when to stop is the caller's, who closes the generator.
"""

from collections.abc import Iterator, Sequence

import mlx.core as mx

from musicot_mlx.generation.sampling import (
    check_sampling,
    draw,
    keys_by_step,
    log_probabilities,
)
from musicot_mlx.models.mumu_llama import MumuLlama, Words

PREFILL = 512  # positions a pass over the question


def draw_tokens(
    llama: MumuLlama,
    words: Words,
    ids: Sequence[int],
    *,
    offsets: Sequence[mx.array | None] | None = None,
    limit: int,
    temperature: float,
    top_p: float = 1.0,
    key: mx.array,
) -> Iterator[int]:
    """At most `limit` ids that go on from `ids`; temperature 0 takes the likeliest.

    offsets: what is heard and seen, of MumuLlama.offsets. top_p keeps the fewest ids whose mass
    reaches it. Raises ValueError for an empty question and settings that mean nothing.
    """
    check_sampling(temperature, 0, top_p)
    if not len(ids):
        raise ValueError("the question has no tokens")
    cache, keys = llama.make_cache(), keys_by_step(key)

    def step(tokens: mx.array) -> mx.array:
        hidden = llama(words.embed(tokens), cache, offsets)[:, -1:]
        logits = log_probabilities(words.logits(hidden)[:, 0])
        return draw(logits, next(keys), temperature=temperature, top_p=top_p)  # (1,)

    prompt = mx.array(ids, dtype=mx.int32)[None]
    for first in range(0, prompt.shape[1] - 1, PREFILL):
        last = min(first + PREFILL, prompt.shape[1] - 1)
        llama(words.embed(prompt[:, first:last]), cache, offsets)
        mx.eval([entry.state for entry in cache])
    token = step(prompt[:, -1:])
    mx.async_eval(token)
    for count in range(limit):
        following = None
        if count + 1 < limit:
            following = step(token[:, None])
            mx.async_eval(following)
        yield token.item()
        token = following
