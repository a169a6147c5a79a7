"""Two rows of a batch on two CPU cores: each on an MLX stream of its own, BLAS on one thread.

MLX's CPU backend runs everything but matrix products on one core. The two rows of guidance know
nothing of each other until their outputs are mixed, so on a machine of two or three cores they are
quicker side by side than in one batch; with more cores BLAS makes better use of them. OpenBLAS
must be told to keep to the thread that calls it, or the two streams would wait for its one pool.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import mlx.core as mx

from musicot_mlx.cpu.openblas import multiplies_in_place, openblas

_CORES = (2, 3)  # where lanes win; below there is nothing to share, above BLAS shares better
_SMALL = 1 << 21  # multiplications: one core does as many in 15 to 30 microseconds


def cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def worth_it() -> bool:
    """Whether two lanes are quicker than one batch here."""
    return cores() in _CORES and openblas() is not None


def second_lane() -> mx.Stream | None:
    """A stream for half of a product whose other half stays where it is, or None without use.

    Only for products that BLAS does in place: those need no word to OpenBLAS about threads.
    """
    return _streams()[1] if worth_it() and multiplies_in_place() else None


_of_thread = threading.local()  # MLX's streams belong to the thread that made them


def _streams() -> tuple[mx.Stream, mx.Stream]:
    if not hasattr(_of_thread, "streams"):
        # the first row stays where everything else is, so that a thread costs one more stream
        _of_thread.streams = mx.default_stream(mx.cpu), mx.new_stream(mx.cpu)
    return _of_thread.streams


class _Shared:
    """What several songs at once change of the process, each in a thread of its own: the first one
    in changes it, the last one out puts back what was there.
    """

    def __init__(self) -> None:
        self.lock, self.holders, self.blas_threads = threading.Lock(), 0, 0
        self.decoding, self.cpus = 0, set[int]()

    def one_thread(self) -> None:
        """BLAS keeps to the thread that calls it; to be called with the lock held."""
        if not self.holders:
            self.blas_threads = openblas().openblas_get_num_threads()
            openblas().openblas_set_num_threads(1)
        self.holders += 1

    def all_threads(self) -> None:
        """The other end of one_thread."""
        self.holders -= 1
        if not self.holders:
            openblas().openblas_set_num_threads(self.blas_threads)


_shared = _Shared()
_turn, _has_turn = threading.Lock(), threading.local()


@contextmanager
def turn(*, lent: bool = False) -> Iterator[None]:
    """One song at a time: how many threads BLAS multiplies with is the process's, and with the
    kernels of some CPUs a product rounds by that number. Songs that took no turns differed in the
    last bit of 200 of 132,300 samples (OPENBLAS_CORETYPE=Haswell, one streamed beside the other).

    A thread that has the turn keeps it. lent: one that waits for this thread has it.
    """
    if has_turn():
        yield
        return
    with nullcontext() if lent else _turn:
        _has_turn.yes = True
        try:
            yield
        finally:
            _has_turn.yes = False


def has_turn() -> bool:
    """Whether it is this thread's turn."""
    return getattr(_has_turn, "yes", False)


class SingleCore:
    """All on one core while steps are so small that a second one only gets in the way: products of
    at most _SMALL multiplications, on few cores. Elsewhere this changes nothing.

    Python queues such operations about as fast as MLX's thread computes them, so on two cores each
    sleeps and is woken every few of them, which takes longer than they do. BLAS keeps to the thread
    that calls it.
    """

    def __init__(self, *, products: int) -> None:
        self._wanted = products <= _SMALL and worth_it()
        self._held = False

    def __enter__(self) -> "SingleCore":
        if self._wanted:
            with _shared.lock:
                _shared.one_thread()
                _shared.decoding += 1
                if _shared.decoding == 1:
                    _shared.cpus = os.sched_getaffinity(0)
                    _keep_to({_current_core()} & _shared.cpus or _shared.cpus)
                else:  # two songs are quicker on two cores
                    _keep_to(_shared.cpus)
            self._held = True
        return self

    def __exit__(self, *error: object) -> None:
        if self._held:
            with _shared.lock:
                _shared.all_threads()
                _shared.decoding -= 1
                if not _shared.decoding:
                    _keep_to(_shared.cpus)
            self._held = False

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Around the yield of a generator: whoever reads it has all cores."""
        self.__exit__()
        try:
            yield
        finally:
            self.__enter__()


def _current_core() -> int:
    """Where this thread runs: of several processes each is put on its own by the system."""
    fields = Path("/proc/thread-self/stat").read_text().rpartition(")")[2].split()
    return int(fields[36])  # "processor", the 39th; two stand before the parenthesis


def _keep_to(cpus: set[int]) -> None:
    """All threads of this process to these cores: MLX does not say which of them is its own."""
    for thread in os.listdir("/proc/self/task"):
        with suppress(OSError):  # one that has just ended
            os.sched_setaffinity(int(thread), cpus)


@contextmanager
def guidance_streams() -> Iterator[tuple[mx.Stream, mx.Stream] | None]:
    """Two streams to put one row each on, or None where one batch is better.

    What was queued on them must be evaluated before the context ends.
    """
    if not worth_it():
        yield None
        return
    with _shared.lock:
        _shared.one_thread()
    try:
        yield _streams()
    finally:
        with _shared.lock:
            _shared.all_threads()
