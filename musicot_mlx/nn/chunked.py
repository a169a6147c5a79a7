"""Running a convolutional network over a long signal piece by piece, exactly and in flat memory."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

import mlx.core as mx

Lanes = Callable[[], AbstractContextManager[Sequence[mx.Stream] | None]]


def one_lane() -> AbstractContextManager[None]:
    """No streams but the default one."""
    return nullcontext()


def in_windows(
    chunks: Iterable[mx.array],
    network: Callable[[mx.array, int], mx.array],
    *,
    reach: int,
    up: int = 1,
    down: int = 1,
    longest: int,
    shortest: int | None = None,
    lanes: Lanes = one_lane,
) -> Iterator[mx.array]:
    """network(x, first) of a signal that comes as chunks (batch, time, channels), as it comes.

    first is the number of x's first step in the signal. network makes `up` steps of every `down`
    input steps (a last, incomplete one counts), and an output step depends on no input step more
    than `reach` away from its own; reach and longest are multiples of `down`. Yields evaluated
    pieces that join to the network of all chunks at once: each is computed from `reach` more steps
    on both sides, and what depends on steps still to come is held back. A list is a whole signal,
    and is joined first. longest: input steps a piece, at most. shortest: pieces are cut at the same
    places however the signal comes, so that a stream is what one chunk gives to the last bit (a
    product rounds by its shape): two of each length, one a lane, that doubles from shortest to
    longest. Without it they are as long as chunks allow.
    lanes: streams to run pieces on side by side; on one lane the next piece is queued before one is
    handed out.
    """
    if reach % down or longest % down or (shortest or 0) % down:
        raise ValueError(f"reach {reach} and longest {longest} must be multiples of {down}")
    held = None  # input steps from `reach` before the first one that is still to come out
    done = 0  # how many of `held` have come out
    before = 0  # input steps before `held`

    def size() -> int:
        if shortest is None:
            return longest
        doublings = ((before + done) // (2 * shortest) + 1).bit_length() - 1
        return min(longest, shortest << doublings)

    def next_piece(stop: int) -> mx.array:
        nonlocal done
        begin, done = done, min(stop, done + size())
        low, high = max(0, begin - reach), done + reach
        y = network(held[:, low:high], before + low)
        return y[:, (begin - low) * up // down : -(-(done - low) * up // down)]

    def side_by_side(streams: Sequence[mx.Stream], stop: int, least: int) -> list[mx.array]:
        pieces = []
        for stream in streams:
            if stop - done >= (least or size()):
                with mx.stream(stream):
                    pieces.append(next_piece(stop))
        mx.eval(pieces)
        return pieces

    def run_until(stop: int, least: int) -> Iterator[mx.array]:
        """Pieces of at least so many steps up to `stop`; 0: of their whole size."""
        nonlocal held, done, before
        queued = None
        while stop - done >= (least or size()):
            pieces = []
            with lanes() as streams:
                if streams is not None:
                    pieces = side_by_side(streams, stop, least)
                else:
                    queued, ready = next_piece(stop), queued
                    mx.async_eval(queued)
                    pieces = [] if ready is None else [ready]
            mx.eval(pieces)
            yield from pieces
            gone = max(0, done - reach)
            held, done, stop, before = held[:, gone:], done - gone, stop - gone, before + gone
        if queued is not None:
            mx.eval(queued)
            yield queued

    if isinstance(chunks, list):
        held, chunks = mx.concatenate(chunks, axis=1) if chunks else None, ()
    for chunk in chunks:
        held = chunk if held is None else mx.concatenate([held, chunk], axis=1)
        known = held.shape[1] - reach
        yield from run_until(known - known % down, 1 if shortest is None else 0)
    if held is not None:
        yield from run_until(held.shape[1], 1)
