"""Several machines make a list of songs: `mlx.launch -n 2 ... musicot generate --prompt-file`.

Every host makes its share, a song or a candidate at a time, and hands the finished files to the
first over mlx.distributed; the first host writes them under the names that it alone would have
used. A song that fails is told and the others go on. When a host is lost, what it owed is told, and
what is made stays.
"""

import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from musicot_mlx.atomic import atomic_path, followed, json_text
from musicot_mlx.errors import MusicotError, RunError
from musicot_mlx.pipelines.sidecar import (
    WHOLE_NAME,
    expected_sidecar,
    has_whole_name,
    sidecar_to_write,
)

Report = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """One render: of which song it is a candidate (counted from 0), its prompt, seed and file."""

    song: int
    prompt: str | None
    seed: int
    path: Path


@dataclass
class Result:
    """What came of a job: its report and files by suffix, or the error."""

    job: int
    host: int
    report: Report = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    error: str = ""

    def pack(self) -> bytes:
        sizes = {suffix: len(content) for suffix, content in self.files.items()}
        head = {"job": self.job, "host": self.host, "report": self.report, "error": self.error}
        text = json.dumps({**head, "sizes": sizes}).encode()
        return len(text).to_bytes(4, "little") + text + b"".join(self.files.values())

    @classmethod
    def unpack(cls, data: bytes) -> "Result":
        end = 4 + int.from_bytes(data[:4], "little")
        head = json.loads(data[4:end])
        files = {}
        for suffix, size in head.pop("sizes").items():
            files[suffix], end = data[end : end + size], end + size
        return cls(**head, files=files)


def launched() -> bool:
    """Whether mlx.launch started this process as one of several."""
    return "MLX_RANK" in os.environ


def make(
    jobs: Sequence[Job],
    render: Callable[[Job, Path], Report],
    finish: Callable[[list[tuple[Job, Result]]], None],
) -> int:
    """Make all jobs on all hosts and return the exit code: 1 where songs are missing.

    render(job, path) writes a song and its settings to `path`; finish(candidates) is called on the
    first host for each song when all that were made of it are there.
    """
    from musicot_mlx.nn.distributed import World

    world = World()
    owed = {number: number % world.size for number in range(len(jobs))}
    waiting: dict[int, list[tuple[Job, Result]]] = {}
    writing = threading.Lock()  # held while files are written, which ends whole or not at all
    failed = False

    def lost() -> str:
        return _lost(jobs, owed, world.size) if world.first else ""

    def take(results: list[Result]) -> None:
        nonlocal failed
        for result in results:
            job = jobs[result.job]
            waiting.setdefault(job.song, []).append((job, result))
            if result.error and world.first:
                failed = True
                line = f"musicot: {job.path} (host {result.host}): {result.error}"
                print(line, file=sys.stderr)
        for song in list(waiting):
            numbers = [number for number, job in enumerate(jobs) if job.song == song]
            if len(waiting[song]) < len(numbers):
                continue
            whole = [pair for pair in waiting.pop(song) if not pair[1].error]
            if whole and world.first:
                finish(sorted(whole, key=lambda pair: pair[1].job))
            for number in numbers:
                del owed[number]

    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            _told_when_ended(lost, folder, writing),
        ):
            for results in _rounds(jobs, render, world, Path(folder)):
                with writing:
                    take(results)
    except RuntimeError as stop:  # a peer's socket closed
        if isinstance(stop, MusicotError) or not world.first:
            raise
        raise RunError(lost()) from stop
    return int(failed)


def make_songs(
    model: Any,
    songs: Sequence[tuple[str | None, int]],
    paths: Sequence[Path],
    written: dict[str, Any],
    options: dict[str, Any],
    overwrite: bool,
    tell: Callable[[Path, Report], None],
) -> int:
    """Make songs, each (prompt, seed), or each song's candidates, and return the exit code.

    tell(path, report) is called on the first host for each song that is written.
    """
    from musicot_mlx.pipelines import candidates, families

    options = dict(options)
    count = options.pop("candidates", None) or 1
    if count > 1 and not families.can(model, "plan"):
        raise MusicotError(
            f"{model.family.title}'s candidates are one batch on one host; leave out --candidates"
        )
    jobs = [
        Job(number, prompt, own, path)
        for number, ((prompt, seed), path) in enumerate(zip(songs, paths, strict=True))
        for own in candidates.candidate_seeds(seed, count)
    ]

    def render(job: Job, path: Path) -> Report:
        started = time.perf_counter()
        song = model.generate(job.prompt, **options, seed=job.seed)
        song.save(path, **written)
        report = {"seed": job.seed, "duration": song.duration, "prompt": job.prompt}
        report |= {"sample_rate": written["sample_rate"] or song.sample_rate}
        report |= {"channels": song.waveform.shape[1]}
        if count > 1:
            vectors = {"prompt": song.plan.vector, "thoughts": song.plan.embeddings}
            vectors["fault"] = song.fault
            score = candidates.score(
                model.clap, song.waveform, song.sample_rate, seed=job.seed, **vectors
            )
            report["score"] = score.to_dict()
        return {**report, "elapsed_seconds": round(time.perf_counter() - started, 3)}

    def finish(results: list[tuple[Job, Result]]) -> None:
        job, best = results[0]
        if count > 1:
            job, best = max(results, key=lambda pair: pair[1].report["score"]["score"])
            scores = [result.report.pop("score") for _, result in results]
            number = [each["seed"] for each in scores].index(job.seed)
            choice = candidates.choice(songs[job.song][1], scores, number)
            settings = json.loads(best.files[".json"]) | {"chosen": choice}
            best.files[".json"] = (json.dumps(settings, indent=2, sort_keys=True) + "\n").encode()
        files = [str(file) for file in write(job.path, best.files, overwrite=overwrite)]
        tell(job.path, {**best.report, "files": files, "host": best.host})

    return make(jobs, render, finish)


@contextmanager
def _told_when_ended(
    lost: Callable[[], str], folder: str, writing: threading.Lock
) -> Iterator[None]:
    """Within it SIGTERM prints what is lost and ends the process.

    mlx.launch sends it to the others when a host ends. They may then be waiting for that host
    inside MLX, where Python runs no handler, for ever: so a thread listens, woken by a pipe.
    """
    read, wrote = os.pipe()
    os.set_blocking(wrote, False)

    def watch() -> None:
        while (number := os.read(read, 1)[0]) != 0:
            if number == signal.SIGTERM:
                with writing:
                    if line := lost():
                        print(f"musicot: {line}", file=sys.stderr, flush=True)
                    shutil.rmtree(folder, ignore_errors=True)
                    os._exit(1)

    handler = signal.signal(signal.SIGTERM, lambda *_: None)
    wakeup = signal.set_wakeup_fd(wrote)
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        signal.signal(signal.SIGTERM, handler)
        os.write(wrote, b"\0")
        thread.join()
        os.close(read)
        os.close(wrote)


def _lost(jobs: Sequence[Job], owed: dict[int, int], size: int) -> str:
    by_host = {
        host: list(dict.fromkeys(str(jobs[n].path) for n, h in sorted(owed.items()) if h == host))
        for host in range(size)
    }
    missing = "; ".join(f"of host {h} {', '.join(p)}" for h, p in by_host.items() if p)
    return (
        f"a host was lost or stopped; not made: {missing or 'nothing'}; the other songs are whole"
    )


def _rounds(
    jobs: Sequence[Job], render: Callable[[Job, Path], Report], world: Any, folder: Path
) -> Iterator[list[Result]]:
    """Results of all hosts, as many at a time as there are hosts."""
    for first in range(0, len(jobs), world.size):
        number = first + world.rank
        mine = b""
        if number < len(jobs):
            job = jobs[number]
            result = Result(number, world.rank)
            path = folder / f"{number}{job.path.suffix}"
            try:
                result.report = render(job, path)
                sidecar = expected_sidecar(path)
                result.files = {p.suffix: p.read_bytes() for p in (path, sidecar)}
            except MusicotError as error:
                result.error = str(error)
            mine = result.pack()
        yield [Result.unpack(data) for data in world.gather(mine) if data]


def write(path: Path, files: dict[str, bytes], *, overwrite: bool = True) -> list[Path]:
    """Write a song and its settings, by their endings, each whole or not at all; the files."""
    path = followed(path)
    settings = json.loads(files[".json"])
    sidecar = sidecar_to_write(path, settings["format"], overwrite=overwrite)
    settings |= {WHOLE_NAME: has_whole_name(sidecar, path)}
    if not settings[WHOLE_NAME]:
        del settings[WHOLE_NAME]
    with (
        atomic_path(sidecar, replace=os.path.lexists(sidecar)) as beside,
        atomic_path(path, replace=overwrite) as temporary,
    ):
        beside.write_text(json_text(settings, sort_keys=True), encoding="utf-8")
        temporary.write_bytes(files[path.suffix])
    return [path, sidecar]
