"""musicot generate: text prompt to a song file, with the settings beside it that make it again."""

import json
import sys
import time
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from musicot_mlx.cli import flags, player, request
from musicot_mlx.cli.progress import Progress, candidates, peak_memory, summary
from musicot_mlx.errors import MusicotError
from musicot_mlx.pipelines import families, multi_host

if TYPE_CHECKING:
    import numpy as np

_output = partial(flags.flag, panel="Output")
Target = Path | BinaryIO
_OF_FILES = ("format", "bit_depth", "bitrate", "title", "sample_rate")
Job = tuple[tuple[str | None, int], Target]  # prompt, seed, file


@dataclass(kw_only=True)
class Arguments(flags.Writing, flags.Asked):
    """The flags of musicot generate, beside those that are options of a family."""

    prompt_file: str | None = flags.song("FILE", "one prompt a line, one song each")
    seed: list[int] | None = flags.song(
        "N...",
        "same seed, same file; several seeds make several songs, random draws one (default: 0 or "
        "the plan's)",
        check=flags.seed_or_random,
    )
    output: str | None = _output(
        "FILE",
        "file to write; - is standard output (default: named by prompt and seed, "
        "relaxing-piano-seed3.wav)",
        "--output",
        "-o",
    )
    format: Literal["wav", "flac", "mp3", "ogg", "m4a"] | None = _output(
        "", "audio format (default: by the file name); m4a by afconvert or ffmpeg"
    )
    bit_depth: Literal["16", "24", "float"] | None = _output(
        "", "of a WAV, without float of a FLAC (default: 16)"
    )
    bitrate: int | None = _output(
        "KBPS",
        "of an MP3 or M4A (default: the encoder's)",
        check=flags.number(32, 320, whole=True, unit="kbit/s"),
    )
    title: str | None = _output(
        "TEXT", "title in the tags of all but WAV files (default: the prompt)"
    )
    sample_rate: int | None = _output(
        "HZ",
        "resample the file to this rate (default: the model's)",
        check=flags.number(8000, 192000, whole=True, unit="Hz"),
    )
    caption_only: bool = _output(
        "",
        "write the caption that the model would make music of, and no song (MuMu-LLaMA)",
        default=False,
    )
    no_loudness: bool = flags.flag(
        "", "leave the level as the model made it", panel="Level and ends", default=False
    )
    stream: bool = _output("", "write the audio while later parts are being made", default=False)
    play: bool = _output("", "play the song through the system's player", default=False)
    max_memory_gb: float | None = _output(
        "GB",
        "keep the whole process within this, or say before loading that it can't be done",
        check=flags.number(0.05, unit="GB"),
    )
    config_from: str | None = _output(
        "FILE", "an earlier song, or its .json, to make it again; flags override"
    )
    json: bool = _output("", "one line of JSON per song on standard output", default=False)


def run(args: Arguments) -> int:
    if args.caption_only:
        _require_no_song(args)
    asked = request.read(args)
    if args.play:
        player.require_player(Path(f"song.{asked.written['format']}"))
    if multi_host.launched():
        _require_for_hosts(args)
    if args.output != request.STANDARD_OUTPUT:
        return _make(args, asked)
    output = sys.stdout.buffer
    with redirect_stdout(sys.stderr):  # nothing else stands among the audio
        return _make(args, asked, output)


def _require_no_song(args: Arguments) -> None:
    """Raise MusicotError for what belongs to a song, where a caption alone is asked for."""
    for name in ("output", "caption", "play", "stream", *_OF_FILES):
        if getattr(args, name) not in (None, False):
            flag = flags.spelled(type(args), name)
            raise MusicotError(
                "--caption-only writes a caption to standard output and makes no song; leave out "
                f"{flag}"
            )


def _require_for_hosts(args: Arguments) -> None:
    """Raise MusicotError for what several hosts can't do together."""
    if args.play or args.stream:
        raise MusicotError(
            "songs made on several hosts are not heard while they are made; leave "
            "out --play and --stream"
        )
    if args.output == request.STANDARD_OUTPUT:
        raise MusicotError("songs made on several hosts don't go to standard output; name a file")


def _make(args: Arguments, asked: request.Request, output: BinaryIO | None = None) -> int:
    """Make the songs and write them, to `output` if it is given; the exit code."""
    import musicot_mlx as mc

    started = time.perf_counter()
    budget = asked.budget(args)
    model = mc.load(asked.model, adapter_path=asked.adapter_path)
    options, songs = asked.for_model(args, model)
    if args.caption_only:
        return _captions(args, model, options, songs)
    paths = [output] if output else asked.files(args, songs, options.get("plan"))
    loaded = time.perf_counter() - started
    if multi_host.launched():
        tell = partial(_tell, args)
        return multi_host.make_songs(
            model, songs, paths, asked.written, options, args.overwrite, tell
        )
    if budget is not None:
        budget.apply(model)
    stream = args.stream or (budget is not None and budget.stream)
    written = {**asked.written, "overwrite": args.overwrite}
    together = 1 if stream or budget else getattr(model, "batch", 1)
    jobs: list[Job] = list(zip(songs, paths, strict=True))
    for first in range(0, len(jobs), together):
        batch = jobs[first : first + together]
        label = f"{first + 1}-{first + len(batch)}" if len(batch) > 1 else f"{first + 1}"
        started = time.perf_counter()
        with Progress(prefix=f"{label}/{len(jobs)} " if len(jobs) > 1 else "") as progress:
            if stream:
                reports = [_stream(model, *batch[0], written, options, progress, args.play)]
            else:
                reports = _generate(model, batch, written, options, progress)
        elapsed = (time.perf_counter() - started) / len(batch)
        for ((prompt, seed), path), report in zip(batch, reports, strict=True):
            report = {"seed": seed, **report, "prompt": prompt, "model": asked.model}
            report |= {"elapsed_seconds": round(elapsed, 3), "load_seconds": round(loaded, 3)}
            report |= {"rtf": round(elapsed / report["duration"], 4), **peak_memory()}
            _tell(args, path, report)
            if args.play and not report.get("played"):
                player.play_file(path)
    return 0


def _captions(
    args: Arguments, model: Any, options: dict[str, Any], songs: list[tuple[str | None, int]]
) -> int:
    """Tell the captions that songs would be made of; the exit code."""
    words = f"--caption-only: {args.model} writes no captions; pass a {families.titles('answers')}"
    families.require(model, "answers", words)
    for prompt, seed in songs:
        with Progress() as progress:
            answer = model.caption(prompt, seed=seed, progress=progress, **options)
        report = {"caption": answer.caption, "asks_for_music": answer.music, **answer.settings}
        print(json.dumps(report, sort_keys=True) if args.json else answer.caption, flush=True)
    return 0


def _generate(
    model: Any,
    batch: list[Job],
    written: dict[str, Any],
    options: dict[str, Any],
    progress: Progress,
) -> list[dict[str, Any]]:
    """Make and save the songs of a batch; a report each."""
    if len(batch) == 1:
        (prompt, seed), _ = batch[0]
        songs = [model.generate(prompt, seed=seed, progress=progress, **options)]
    else:
        prompts, seeds = zip(*(song for song, _ in batch), strict=True)
        songs = model.generate_batch(prompts, seeds=seeds, progress=progress, **options)
    return [
        {
            "files": [str(file) for file in song.save(path, **written)],
            "duration": song.duration,
            "sample_rate": written["sample_rate"] or song.sample_rate,
            "channels": song.waveform.shape[1],
            "far": _far(model, song.plan, (song.waveform, song.sample_rate)),
            "timings": {stage: round(value, 3) for stage, value in song.timings.items()},
            "seed": song.settings["seed"],
            **_of_song(song.settings),
        }
        for song, (_, path) in zip(songs, batch, strict=True)
    ]


def _stream(
    model: Any,
    song: tuple[str | None, int],
    path: Target,
    written: dict[str, Any],
    options: dict[str, Any],
    progress: Progress,
    playing: bool,
) -> dict[str, Any]:
    """Write a song while it is being made; its report."""
    prompt, seed = song
    stream = model.stream(prompt, seed=seed, progress=progress, **options)
    listen = partial(player.live_player, wanted=playing)
    saved = stream.save(path, **written, listen=listen)
    return {
        "files": list(map(str, saved.files)),
        "duration": saved.duration,
        "sample_rate": written["sample_rate"] or model.sample_rate,
        "channels": saved.channels,
        "played": saved.heard,
        "seed": stream.settings["seed"],
        **_of_song(stream.settings),
        "far": _far(model, stream.plan, path) if isinstance(path, Path) else [],
    }


def _of_song(settings: dict[str, Any]) -> dict[str, Any]:
    """What was decided on the way to a song, as its report tells it."""
    return {key: settings[key] for key in ("chosen", "caption") if key in settings}


def _far(
    model: Any, plan: Any, audio: Path | tuple["np.ndarray", int]
) -> list[dict[str, float | str]]:
    """Segments of a song that are far from their thoughts: seconds, what was asked, the cosine."""
    if not hasattr(plan, "embeddings") or not plan.origins:  # a model or a plan without thoughts
        return []
    from musicot_mlx.evaluation.measures.agreement import far_segments

    step = plan.thought_seconds
    return [
        {
            "start": segment * step,
            "end": min((segment + 1) * step, plan.duration),
            "asked": str(plan.origins[segment]),
            "cosine": round(cosine, 3),
        }
        for segment, cosine in far_segments(audio, plan, model=model)
    ]


def _tell(args: Arguments, path: Target, report: dict[str, Any]) -> None:
    """The lines of a song that is written; with --json its report on standard output."""
    said = (report[name] for name in ("duration", "sample_rate", "elapsed_seconds", "channels"))
    where = path if isinstance(path, Path) else "standard output"
    line = summary(where, report["seed"], *said)
    if chosen := report.get("chosen"):
        line = f"{candidates(chosen)}\n{line}"
    if caption := report.get("caption"):
        line = f"caption: {caption}\n{line}"
    if "host" in report:
        line = f"{line}, host {report['host']}"
    for part in report.get("far", ()):
        line += (
            f"\n{part['start']:g}-{part['end']:g} s is far from its thought, "
            f"{part['asked']!r} (cosine {part['cosine']:.2f}); try another --seed"
        )
    print(line, file=sys.stderr if args.json else sys.stdout, flush=True)
    if args.json:
        print(json.dumps(report, sort_keys=True), flush=True)
