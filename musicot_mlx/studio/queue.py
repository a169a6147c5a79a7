"""The queue: songs are made one at a time, in their order, by one thread, whoever is looking.

A song that is cancelled stops at the next step that reports how far it is. One that was being made
when the server ended is made when it starts again; after three such ends it has failed.
"""

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from musicot_mlx.atomic import explain
from musicot_mlx.errors import MusicotError, RunError
from musicot_mlx.studio.bodies import Source
from musicot_mlx.studio.engine import Engine, Model
from musicot_mlx.studio.errors import Refused, report
from musicot_mlx.studio.events import Events
from musicot_mlx.studio.files import Files, Names
from musicot_mlx.studio.live import Live, peaks_of
from musicot_mlx.studio.store import WAITING, SongRow, Store, now
from musicot_mlx.studio.wishes import resolved

Made = TypeVar("Made")
TRIES = 3  # starts of the server that one song may take
RETRY = 2.0  # seconds between two tries to write where the disk is full
PAUSE = 0.1  # seconds between two reports of progress
USUAL_SECONDS = 10.0  # that a song takes, before one was made
AUTO = "auto"  # keep of the last song of the plan what it has in common with this one


class Cancelled(Exception):
    """Nobody wants the song any more."""


@dataclass
class Job:
    """A song in the making: its row, its model, and what is found out on the way."""

    row: SongRow
    about: Model
    live: Live
    names: Names
    told: list[str] = field(default_factory=list)
    plan: Any = None
    kept: dict[str, Any] | None = None

    @property
    def body(self) -> dict[str, Any]:
        return self.row.body


class Queue:
    """All songs of a server, and the thread that makes them."""

    def __init__(self, store: Store, files: Files, engine: Engine, events: Events) -> None:
        self.store, self.files, self.engine, self.events = store, files, engine, events
        self.on_done: Callable[[str], None] = lambda song: None  # what a finished song goes on to
        self._wake, self._stop = threading.Event(), threading.Event()
        self._live: Live | None = None
        self._took = USUAL_SECONDS  # seconds that songs took lately
        self._thread = threading.Thread(target=self._work, name="musicot-songs", daemon=True)

    def start(self) -> None:
        """Take up what an earlier server left, and make songs from now on."""
        self.files.clean()
        for song in self.store.queue():
            row = self.store.song(song)
            if row.body.get("tries", 0) >= TRIES:
                self._failed(song, f"the server ended {TRIES} times while it made this song")
            elif row.status == "running":
                self.store.update_song(song, status="queued", started=None)
        self._thread.start()

    def stop(self) -> None:
        """Stop at the next step; the song that is being made is made by the next server."""
        self._stop.set()
        self._wake.set()
        if live := self._live:
            live.cancelled.set()
        self._thread.join(timeout=10)

    # --- what requests ask ------------------------------------------------------------------------

    def add(
        self,
        bodies: list[dict[str, Any]],
        *,
        plan_file: dict[str, Any] | None = None,
        asked: str | None = None,
    ) -> tuple[list[dict[str, Any]], bool]:
        """Queue songs of one plan, or of none yet, all or none; their documents, and whether they
        are new. Refused (429) with the seconds until there is room.
        """
        room = self.engine.settings.queue
        try:
            rows, new = self.store.add_songs(bodies, plan_file, asked=asked, room=room)
        except Refused as refused:
            refused.wait = max(1.0, min(600.0, self._took * len(bodies)))
            raise
        documents = [self.document(row) for row in rows]
        if new:
            for each in documents:
                self.events.publish("song", each, each["id"])
            self._wake.set()
        return documents, new

    def cancel(self, song: str) -> dict[str, Any]:
        """Make a song no more; Refused (409) where it is finished."""
        row = self.store.song(song)
        if row.status not in WAITING:
            raise Refused(409, f"the song is {row.status} already")
        row = self.store.update_song(song, status="cancelled", only=WAITING, finished=now())
        if (live := self._live) and live.song == song:
            live.cancelled.set()
        self._moved(song)
        return self.document(row)

    def again(self, song: str) -> dict[str, Any]:
        """Queue a song once more that failed or was cancelled."""
        row = self.store.song(song)
        if row.status not in ("failed", "cancelled"):
            raise Refused(409, f"the song is {row.status}")
        fresh = new_body(**{name: row.body[name] for name in ASKED})
        return self.add([fresh], plan_file=self.store.plan_file(song))[0][0]

    def delete(self, song: str) -> None:
        """Forget a song and remove its files."""
        try:
            self.store.delete_song(song)
        except RunError:  # on a full disk its files make the room that forgetting it takes
            if self.live(song):
                raise
            self.store.song(song)
            self.files.remove_song(song)
            self.store.delete_song(song)
        if (live := self._live) and live.song == song:
            live.cancelled.set()  # its thread removes what it has written
        else:
            self.files.remove_song(song)
        self.events.publish("deleted", {"song": song}, song)
        self._moved()

    def live(self, song: str) -> Live | None:
        """The song while it is made."""
        live = self._live
        return live if live and live.song == song else None

    def document(self, row: SongRow, places: list[str] | None = None) -> dict[str, Any]:
        """What the API tells of a song."""
        places = self.store.queue() if places is None else places
        live = self.live(row.id) if row.status == "running" else None
        position = places.index(row.id) if row.id in places else None
        making = self._live
        if row.status == "queued" and not (making and making.song in places):
            position = position if position is None else position + 1  # 0 is being made
        body = {name: value for name, value in row.body.items() if name not in _INSIDE}
        return {
            "id": row.id,
            "number": row.number,
            "status": row.status,
            "position": position,
            "created": row.created,
            "group": row.group,
            **body,
            "progress": live and _progress(live, body["duration"]),
            "made_seconds": round(live.seconds if live else body["made_seconds"], 3),
        }

    def _tell(self, song: str) -> None:
        """Tell how a song is now, unless it was deleted."""
        with suppress(Refused):
            self.events.publish("song", self.document(self.store.song(song)), song)

    def _moved(self, *songs: str) -> None:
        """Tell of these songs, and of those that wait, whose places are others now."""
        for song in dict.fromkeys([*songs, *self.store.queue()]):
            self._tell(song)

    # --- the thread -------------------------------------------------------------------------------

    def _work(self) -> None:
        from musicot_mlx.generation.device import give_back
        from musicot_mlx.pipelines.worker import in_worker

        made = False
        while not self._stop.is_set():
            self._wake.clear()
            row = self._written(self.store.next)
            if row is None:
                if made:
                    in_worker(give_back)
                made = False
                self._wake.wait()
                continue
            made = True
            told: list[str] = []
            try:
                why = self._make(row, told)
            except Exception as error:  # a fault of ours must not end the queue
                report(error)
                why = f"{type(error).__name__}: {error} (this is a bug)"
            if why is not None:
                self._written(partial(self._failed, row.id, why, warnings=told))
            self._moved(row.id)

    def _written(self, write: Callable[[], Made]) -> Made | None:
        """What a change of the store gives. Where nothing can be written, as on a full disk, it is
        tried again until it can be; None where the server ends before.
        """
        while True:
            try:
                return write()
            except RunError:
                if self._stop.wait(RETRY):
                    return None

    def _make(self, row: SongRow, told: list[str]) -> str | None:
        """Make one song; why that failed, if it did. What it warned of is added to `told`."""
        live, names = Live(row.id, self.files.live(row.id), self._added(row.id)), self.files.names()
        self._live, done = live, False
        if self._stop.is_set():
            live.cancelled.set()
        self._moved(row.id)
        try:
            about = self.engine.model(row.body["model"])
            job = Job(row, about, live, names, told)
            with self.engine.song(told):
                self._render(job)
                done = self._finish(job)
                live.end(failed=not done)
                live.path.unlink(missing_ok=True)  # who reads it goes on
                if done:
                    self._hear(job)
                    self.on_done(row.id)
        except Cancelled:
            if self._stop.is_set():
                tries = row.body.get("tries", 1) - 1  # it was not the song's fault
                changes = {"tries": tries, "started": None}
                self.store.update_song(row.id, status="queued", only=("running",), **changes)
        except MusicotError as error:
            return names.told(str(error))
        except OSError as error:
            return str(explain(error, Path("the song")))
        except MemoryError:
            return "out of memory; try a shorter duration or close other programs"
        finally:
            live.end(failed=not done)
            self._live = None
            live.path.unlink(missing_ok=True)
            if not done or row.id not in self.store.song_ids():  # or was deleted meanwhile
                self.files.remove_song(row.id)
        return None

    def _render(self, job: Job) -> None:
        """The audio and the settings of a song, both whole or neither."""
        from musicot_mlx.pipelines.worker import in_worker

        song, live, path = job.row.id, job.live, self.files.song(job.row.id)
        model = in_worker(self.engine.loaded, job.about.name, job.body["adapters"])
        job.names.labels[str(job.about.source)] = job.about.name
        options = resolved(job.about, job.body["options"], job.names)
        options["seed"] = job.body["seed"]
        if "progress" in model.options:
            options["progress"] = self._reporting(job)
        if job.about.plans:
            options = self._planned(job, model, options)
            self._keep(job, model, options)
        prompt = job.body["prompt"] if job.plan is None else None
        rate = getattr(model, "sample_rate", None)
        self.store.update_song(song, only=("running",), sample_rate=rate, kept=job.kept)
        self._tell(song)
        live.stage = "making"
        if options.get("candidates", 1) > 1 or options.get("loop"):  # heard when it is chosen
            made = in_worker(lambda: model.generate(prompt, **options))
            made.save(path)
            live.sample_rate, live.channels = made.sample_rate, made.waveform.shape[1]
            live.made = len(made) * live.channels * 2
            return
        stream = model.stream(prompt, **options)
        stream.save(path, listen=live.listen)

    def _planned(self, job: Job, model: Any, options: dict[str, Any]) -> dict[str, Any]:
        """The options that are left once the song has its plan: the one it was asked for by, or one
        that is drawn and stored now.
        """
        from musicot_mlx import Plan
        from musicot_mlx.pipelines.worker import in_worker

        value = self.store.plan_file(job.row.id)
        planning, others = job.about.split(options)
        if value is not None:
            job.plan = in_worker(Plan.load, value, model)
            return {**others, "plan": job.plan}
        job.live.stage = "planning"
        given = {**planning, "seed": options["seed"]}
        job.plan = in_worker(lambda: model.plan(job.body["prompt"], **given))
        self._unless_cancelled(job)
        value, asked = (
            job.names.outside(job.plan.to_dict()),
            job.about.split(job.body["options"])[0],
        )
        stored = self.store.add_plan(job.about.name, job.body["adapters"], asked, value)
        self.store.update_song(
            job.row.id,
            only=("running",),
            plan={"id": stored.plan, "version": stored.number},
            plan_file=value,
            duration=job.plan.duration,
        )
        job.plan = in_worker(Plan.load, value, model)  # as it is stored, with its labels
        return {**others, "plan": job.plan}

    def _keep(self, job: Job, model: Any, options: dict[str, Any]) -> None:
        """Keep of an earlier song what the plans have in common, if that is asked for and there is
        one; what is kept goes into the options and into the song.
        """
        from musicot_mlx import Plan
        from musicot_mlx.pipelines.worker import in_worker

        wanted = job.body["keep"] if "keep" in model.options else None
        if wanted == AUTO:
            earlier = None if options.get("loop") else self._earlier(job)
        else:
            earlier = wanted and self.store.song(wanted)
        if not earlier:
            return
        value = self.store.plan_file(earlier.id)
        if value is None or earlier.status != "done":
            raise Refused(422, "the song to keep is not finished, or has no plan")
        old = in_worker(Plan.load, value, model)
        glide = options.get("glide") or getattr(model.sampling, "glide", 0.0)
        seconds = old.shared_seconds(job.plan, glide=glide)
        if seconds > 0:
            options["keep"] = job.names.file(Source(song=earlier.id))
            job.kept = {"song": earlier.id, "seconds": seconds, "saved_seconds": None}
        elif wanted != AUTO:
            raise Refused(422, "nothing of that song can be kept: the plans differ from the start")

    def _earlier(self, job: Job) -> SongRow | None:
        """The last finished song of the plan that was asked for alike."""
        if job.body["plan"] is None:
            return None

        def asked(body: Mapping[str, Any]) -> tuple:
            others = job.about.split(body["options"])[1]
            return body["seed"], body["model"], body["adapters"], others

        for row in self.store.songs(limit=20, status="done", plan=job.body["plan"]["id"]):
            if row.body["model"] == job.about.name and asked(row.body) == asked(job.body):
                return row
        return None

    def _finish(self, job: Job) -> bool:
        """Enter a song that is written as done; False where it was cancelled at the last moment."""
        from musicot_mlx.atomic import write_json
        from musicot_mlx.texts import read_json

        live, path = job.live, self.files.song(job.row.id)
        self._unless_cancelled(job)
        settings = job.names.outside(read_json(path.with_suffix(".json")))
        write_json(path.with_suffix(".json"), settings, sort_keys=True)
        if live.peaks is not None and (rest := live.peaks.finish()):
            self._added(job.row.id)(live.seconds, 0.0, rest)
        levels = bytes(live.peaks.levels) if live.peaks else peaks_of(path)
        took = live.elapsed
        if job.kept:
            job.kept["saved_seconds"] = self._saved(job)
        else:
            self._took = took
        row = self.store.update_song(
            job.row.id,
            status="done",
            only=("running",),
            finished=now(),
            peaks=levels,
            seed=settings["seed"],
            duration=round(live.seconds, 3),
            made_seconds=round(live.seconds, 3),
            sample_rate=live.sample_rate,
            channels=live.channels,
            first_audio_seconds=live.first_audio and round(live.first_audio, 3),
            render_seconds=round(took, 3),
            kept=job.kept,
            chosen=settings.get("chosen"),
            warnings=job.told,
        )
        self._tell(job.row.id)
        return row.status == "done"

    def _saved(self, job: Job) -> float | None:
        """Seconds that were not needed, by what the earlier song took."""
        earlier = self.store.song(job.kept["song"]).body
        took = earlier["render_seconds"]
        if earlier["kept"]:  # it was quicker itself
            took += earlier["kept"]["saved_seconds"] or 0.0
        return round(took * job.kept["seconds"] / earlier["duration"], 3)

    def _hear(self, job: Job) -> None:
        """What a finished song holds, beside what was asked."""
        from musicot_mlx.pipelines.worker import in_worker
        from musicot_mlx.studio.hearing import heard

        if job.plan is None:
            return
        try:
            model = in_worker(self.engine.loaded, job.about.name, job.body["adapters"])
            found = in_worker(heard, self.files.song(job.row.id), job.plan, model)
        except MusicotError as error:
            self.store.update_song(job.row.id, warnings=[*job.told, str(error)])
            return
        self.store.update_song(job.row.id, heard=found)
        self.events.publish("heard", {"song": job.row.id, "heard": found}, job.row.id)

    def _reporting(self, job: Job) -> Callable[[str, int, int], None]:
        """progress(stage, done, total) of a song: ends it where it was cancelled."""
        last = 0.0

        def report(stage: str, done: int, total: int) -> None:
            nonlocal last
            self._unless_cancelled(job)
            live = job.live
            live.stage, live.fraction = stage, done / max(total, 1)
            if time.monotonic() - last >= PAUSE:
                last = time.monotonic()
                told = _progress(live, self.store.song(job.row.id).body["duration"])
                made = round(live.seconds, 3)
                data = {"song": job.row.id, **told, "made_seconds": made}
                self.events.publish("progress", data, job.row.id)

        return report

    def _unless_cancelled(self, job: Job) -> None:
        if job.live.cancelled.is_set():
            raise Cancelled

    def _added(self, song: str) -> Callable[[float, float, list[int]], None]:
        """What tells of audio that was added to a song."""

        def tell(start: float, seconds: float, peaks: list[int]) -> None:
            data = {"song": song, "from": round(start, 3), "seconds": round(seconds, 3)}
            self.events.publish("audio", {**data, "per_second": 20, "peaks": peaks}, song)

        return tell

    def _failed(self, song: str, why: str, **changes: Any) -> None:
        sentence = " ".join(why.split())
        try:
            self.store.update_song(
                song, status="failed", only=WAITING, finished=now(), error=sentence, **changes
            )
        except Refused:  # it was deleted
            return


def new_body(**asked: Any) -> dict[str, Any]:
    """What is kept of a song when it is asked for; `asked` are those of ASKED."""
    nothing = dict.fromkeys(
        "started finished sample_rate channels first_audio_seconds render_seconds kept heard chosen"
        " error".split()
    )
    return {**nothing, "made_seconds": 0.0, "warnings": [], "stems": [], **asked}


# What a song is asked for by, and what is not told of it.
ASKED = ("title", "model", "adapters", "prompt", "seed", "options", "plan", "duration", "keep")
_INSIDE = ("tries", "keep")


def _progress(live: Live, duration: float | None) -> dict[str, Any]:
    """How far a song is: by its audio where that comes as it is made, else by its stage."""
    fraction = live.fraction
    if live.seconds and duration:
        fraction = min(1.0, live.seconds / duration)
    left = live.elapsed * (1 - fraction) / fraction if live.seconds and fraction > 0.02 else None
    return {
        "stage": live.stage,
        "fraction": round(fraction, 4),
        "seconds_left": None if left is None else round(left, 1),
    }
