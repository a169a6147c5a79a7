"""The thread that all streams of songs are made in.

MLX's streams belong to the thread that made them, and so does everything that waits on one: caches,
random keys, a step that is already queued. What one thread has begun another can't go on with. So
songs that are heard while they are made are made here, a chunk at a time, and whoever asks waits
for the chunk: a web server's pool, a callback, the main thread. One thread and not one a song,
because MLX never takes back what a thread has of it, and because songs that take turns round as
each does alone (BLAS rounds by its number of threads, which is the process's); with songs of
`generate` in other threads they take turns too.

The thread never ends: MLX's compiled functions of a thread that ends as the interpreter does ask
for an interpreter that is gone, and the process aborts.
"""

import atexit
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

from musicot_mlx.generation.device import has_turn, turn
from musicot_mlx.pipelines.options import Progress

Made = TypeVar("Made")
_jobs: SimpleQueue[tuple[Future, Callable[[], Any]]] = SimpleQueue()
_starting = threading.Lock()
_thread: threading.Thread | None = None


class Stopped(Exception):
    """Nobody waits for the song any more."""


def in_worker(job: Callable[..., Made], *given: Any) -> Made:
    """What job(*given) gives, done in the thread of all streams; what it raises is raised here."""
    if threading.current_thread() is _thread:  # a progress callback that asks for another song
        return job(*given)
    lent = has_turn()

    def in_turn() -> Made:
        with turn(lent=lent):
            return job(*given)

    return _submit(in_turn).result()


def unless_stopped(job: Callable[[], Made]) -> Made | None:
    """What in_worker gives; None where the song was stopped."""
    try:
        return in_worker(job)
    except Stopped:
        return None


def until(stopped: threading.Event, progress: Progress | None) -> Progress:
    """progress, which ends the work that reports to it once `stopped` is set."""

    def told(stage: str, done: int, total: int) -> None:
        if stopped.is_set():
            raise Stopped
        if progress:
            progress(stage, done, total)

    return told


def end(job: Callable[[], None], stopped: threading.Event) -> None:
    """Stop a song, and do the job where it was begun, without waiting for it."""
    stopped.set()
    _submit(job)


def _submit(job: Callable[[], Made]) -> "Future[Made]":
    global _thread
    future: Future[Made] = Future()
    with _starting:
        if _thread is None:
            _thread = threading.Thread(target=_work, name="musicot-streams", daemon=True)
            _thread.start()
            atexit.register(_rest)
    _jobs.put((future, job))
    return future


def _work() -> None:
    while True:
        future, job = _jobs.get()
        try:
            future.set_result(job())
        except BaseException as error:
            future.set_exception(error)
        del future, job  # or the last chunk would be held until the next one


def _rest() -> None:
    """At the interpreter's end: wait until the thread has done what it was at, and leave it there
    asleep.
    """
    asleep = threading.Event()

    def sleep() -> None:
        asleep.set()
        threading.Event().wait()

    _submit(sleep)
    asleep.wait()
    time.sleep(0.02)  # the thread needs the interpreter's lock once more
