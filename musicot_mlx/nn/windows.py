"""Running a convolutional network over a long signal piece by piece, exactly and in flat memory."""

from collections.abc import Callable, Iterable, Iterator

import mlx.core as mx

from musicot_mlx.nn.lanes import side_by_side


def in_windows(
    chunks: Iterable[mx.array],
    network: Callable[[mx.array], mx.array],
    *,
    reach: int,
    up: int = 1,
    down: int = 1,
    longest: int,
) -> Iterator[mx.array]:
    """network(x) of a signal that comes as chunks (batch, time, channels), as it comes.

    network makes `up` steps of every `down` input steps (a last, incomplete one counts), and an
    output step depends on no input step more than `reach` away from its own; reach and longest are
    multiples of `down`. Yields evaluated pieces that join to the network of all chunks at once:
    each is computed from `reach` more steps on both sides, and what depends on steps still to come
    is held back. longest: input steps a piece.
    """
    if reach % down or longest % down:
        raise ValueError(f"reach {reach} and longest {longest} must be multiples of {down}")
    held = None  # input steps from `reach` before the first one that is still to come out
    done = 0  # how many of `held` have come out

    def next_piece(stop: int) -> mx.array:
        nonlocal done
        begin, done = done, min(stop, done + longest)
        low, high = max(0, begin - reach), done + reach
        y = network(held[:, low:high])
        return y[:, (begin - low) * up // down : -(-(done - low) * up // down)]

    def run_until(stop: int) -> Iterator[mx.array]:
        nonlocal held, done
        while done < stop:
            pieces = []
            with side_by_side() as lanes:  # two cores, where there are just two, take a piece each
                for lane in lanes or (mx.default_stream(mx.default_device()),):
                    if done < stop:
                        with mx.stream(lane):
                            pieces.append(next_piece(stop))
                mx.eval(pieces)
            yield from pieces
            gone = max(0, done - reach)
            held, done, stop = held[:, gone:], done - gone, stop - gone

    for chunk in chunks:
        held = chunk if held is None else mx.concatenate([held, chunk], axis=1)
        known = held.shape[1] - reach
        yield from run_until(known - known % down)
    if held is not None:
        yield from run_until(held.shape[1])
