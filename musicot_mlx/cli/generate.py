"""musicot generate: text prompt to a song file, with the settings beside it that make it again."""

import itertools
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from musicot_mlx.atomic import write_json
from musicot_mlx.cli import flags, player
from musicot_mlx.cli.progress import Progress, peak_memory, summary
from musicot_mlx.errors import MusicotError
from musicot_mlx.pipelines import families, multi_host

# Keyword arguments of generate() that a sidecar holds and a flag overrides: keyword -> field.
OPTIONS = {
    "duration": "duration",
    "reference": "reference",
    "reference_weights": "reference_weights",
    "keep": "keep_from",
    "lyrics": "lyrics_file",
    "tags": "tags",
    "key": "key",
    "chords": "chords",
    "thought_temperature": "thought_temp",
    "audio_temperature": "audio_temp",
    "thought_guidance": "thought_guidance",
    "audio_guidance": "audio_guidance",
    "unconditional": "unconditional",
    "thought_bias": "thought_bias",
    "steps": "steps",
    "diffusion_guidance": "diffusion_guidance",
    "sampler": "sampler",
    "top_k": "top_k",
    "top_p": "top_p",
    "candidates": "candidates",
    "melody": "melody",
    "continuation": "continuation",
    "negative_prompt": "negative_prompt",
}


_tokens = partial(flags.flag, panel="Audio tokens")
_diffusion = partial(flags.flag, panel="Diffusion")
_output = partial(flags.flag, panel="Output")


@dataclass(kw_only=True)
class Arguments(flags.Planning):
    """The flags of musicot generate."""

    prompt_file: str | None = flags.song("FILE", "one prompt a line, one song each")
    seed: list[int] | None = flags.song(
        "N...",
        "same seed, same file; several seeds make several songs (default: 0 or the plan's)",
        check=flags.seed,
    )
    output: str | None = _output("FILE", "file to write (default: song.wav)", "--output", "-o")
    format: Literal["wav", "flac", "mp3"] | None = _output(
        "", "audio format (default: by the file name)"
    )
    sample_rate: int | None = _output(
        "HZ",
        "resample the file to this rate (default: the model's)",
        check=flags.number(8000, 192000, whole=True, unit="Hz"),
    )
    candidates: int | None = flags.song(
        "N",
        "draw N songs and keep the one nearest to prompt and plan (default: 1)",
        check=flags.number(1, 16, whole=True),
    )
    plan: str | None = flags.song(
        "FILE", "render this plan (from musicot plan) instead of a new one"
    )
    keep_from: str | None = flags.song(
        "FILE",
        "song made from an earlier form of the plan: kept up to the first thought that changed, "
        "so that only the rest is made",
    )
    continuation: str | None = flags.song(
        "FILE", "MusicGen: audio that the song begins with and goes on", "--continue"
    )
    melody: str | None = flags.song(
        "FILE", "MusicGen melody models: audio whose melody is followed"
    )
    negative_prompt: str | None = flags.song("TEXT", "MusicGen: what the music should not be")
    audio_temp: float | None = _tokens(
        "T",
        "temperature of the audio tokens (default: the model's; 0.75 in the paper)",
        "--audio-temp",
        "--temperature",
        check=flags.number(0, 10),
    )
    audio_guidance: float | None = _tokens(
        "L",
        "guidance scale of the audio tokens, 1 is off (default: the model's; 1.3)",
        "--audio-guidance",
        "--guidance",
        check=flags.number(0, 50),
    )
    unconditional: Literal["without_thoughts", "with_thoughts"] | None = _tokens(
        "",
        "guidance row of the audio tokens: as equation 8 is printed, or with the thoughts kept "
        "(default: the model's)",
    )
    thought_bias: float | None = _tokens(
        "W",
        "how much audio tokens lean to those that go with their thought, 0 is the paper's "
        "equation 8 (default: the model's)",
        check=flags.number(0, 10),
    )
    steps: int | None = _diffusion(
        "N", "diffusion steps (default: the model's)", check=flags.number(1, 1000, whole=True)
    )
    diffusion_guidance: float | None = _diffusion(
        "S", "guidance scale of the diffusion (default: the model's)", check=flags.number(0, 50)
    )
    sampler: Literal["euler", "heun"] | None = _diffusion(
        "", "diffusion sampler (default: the model's)"
    )
    stream: bool = _output("", "write the audio while later parts are being made", default=False)
    play: bool = _output("", "play the song through the system's player", default=False)
    max_memory_gb: float | None = _output(
        "GB",
        "keep the whole process within this, or say before loading that it can't be done",
        check=flags.number(0.05, unit="GB"),
    )
    config_from: str | None = _output(
        "FILE", "settings of an earlier song (its .json) to make it again; flags override"
    )
    json: bool = _output("", "one line of JSON per song on standard output", default=False)


def run(args: Arguments) -> int:
    settings = _read_settings(args.config_from)
    _refuse_what_a_plan_fixes(args, settings)
    if args.stream and (args.candidates or 1) > 1:
        raise MusicotError("a stream is heard before it can be chosen; leave out --candidates")
    prompts = _prompts(args, settings)
    options = _options(args, settings)
    format = args.format or (None if args.output else settings.get("format"))
    rate = args.sample_rate or settings.get("sample_rate")
    paths = _paths(args.output, format, rate, len(prompts) * len(args.seed or [0]))
    _require_apart(paths, args)
    if args.play:
        player.require_player(paths[0])
    if (args.play or args.stream) and multi_host.launched():
        raise MusicotError(
            "songs made on several hosts are not heard while they are made; leave "
            "out --play and --stream"
        )

    import musicot_mlx as mc

    started = time.perf_counter()
    name = args.model or settings.get("model", "musicot-mini")
    budget = _budget(args, settings, name)
    model = mc.load(name, adapter_path=args.adapter_path or settings.get("adapter_path"))
    options = _of_this_model(args, options, model, name)
    usual = settings.get("seed", 0)
    if "plan" in model.options and (source := args.plan or settings.get("plan")):
        options["plan"] = plan = mc.Plan.load(source, model)
        usual = settings.get("seed", plan.seed)  # so that a plan gives the song of its prompt
    songs = [(prompt, seed) for prompt in prompts for seed in args.seed or [usual]]
    loaded = time.perf_counter() - started

    stream = args.stream or (budget is not None and budget.stream)
    if multi_host.launched():
        return _on_hosts(model, songs, paths, rate, options, args)
    jobs = list(zip(songs, paths, strict=True))
    together = 1 if stream or budget else getattr(model, "batch", 1)
    if budget is not None:
        budget.apply(model)
    for first in range(0, len(jobs), together):
        batch = jobs[first : first + together]
        label = f"{first + 1}-{first + len(batch)}" if len(batch) > 1 else f"{first + 1}"
        started = time.perf_counter()
        with Progress(prefix=f"{label}/{len(jobs)} " if len(jobs) > 1 else "") as progress:
            if stream:
                reports = [_stream(model, *batch[0], rate, options, progress, args.play)]
            else:
                reports = _generate(model, batch, rate, options, progress)
        elapsed = (time.perf_counter() - started) / len(batch)
        for ((prompt, seed), path), report in zip(batch, reports, strict=True):
            line = summary(path, report["duration"], report["sample_rate"], elapsed)
            if chosen := report.get("chosen"):
                line = f"{_chosen(chosen)}\n{line}"
            print(line, file=sys.stderr if args.json else sys.stdout)
            if args.json:
                report = {"seed": seed, **report, "prompt": prompt, "model": str(name)}
                report |= {"elapsed_seconds": round(elapsed, 3), "load_seconds": round(loaded, 3)}
                report |= {"rtf": round(elapsed / report["duration"], 4), **peak_memory()}
                print(json.dumps(report, sort_keys=True), flush=True)
            if args.play and not report.get("played"):
                player.play_file(path)
    return 0


Job = tuple[tuple[str | None, int], Path]  # prompt, seed, file


def _budget(args: Arguments, settings: dict[str, Any], name: str) -> Any:
    """The plan that keeps to --max-memory-gb, told and applied before anything loads, or None."""
    if args.max_memory_gb is None:
        return None
    from musicot_mlx.pipelines import memory

    duration = args.duration or settings.get("duration", 30.0)
    if args.plan and Path(args.plan).is_file():
        duration = _read_settings(args.plan).get("duration", duration)
    found = memory.plan(
        name, duration=duration, max_memory_gb=args.max_memory_gb, songs=args.candidates or 1
    )
    print(found.line(), file=sys.stderr)
    found.apply()
    return found


def _on_hosts(
    model: Any,
    songs: list[tuple[str | None, int]],
    paths: list[Path],
    rate: int | None,
    options: dict[str, Any],
    args: Arguments,
) -> int:
    """The songs, or each song's candidates, shared out among the hosts of mlx.launch."""
    from musicot_mlx.pipelines import candidates

    options = dict(options)
    count = options.pop("candidates", None) or 1
    if count > 1 and not families.can(model, "plan"):
        raise MusicotError(
            f"{model.family.title}'s candidates are one batch on one host; leave out --candidates"
        )
    jobs = [
        multi_host.Job(number, prompt, own, path)
        for number, ((prompt, seed), path) in enumerate(zip(songs, paths, strict=True))
        for own in candidates.candidate_seeds(seed, count)
    ]

    def render(job: multi_host.Job, path: Path) -> dict[str, Any]:
        started = time.perf_counter()
        song = model.generate(job.prompt, **options, seed=job.seed)
        song.save(path, sample_rate=rate)
        report = {"seed": job.seed, "duration": song.duration, "prompt": job.prompt}
        report |= {"sample_rate": rate or song.sample_rate}
        if count > 1:
            vectors = {"prompt": song.plan.vector, "thoughts": song.plan.embeddings}
            found = candidates.score(
                model.clap, song.waveform, song.sample_rate, seed=job.seed, **vectors
            )
            report["score"] = found.to_dict()
        return {**report, "elapsed_seconds": round(time.perf_counter() - started, 3)}

    def finish(made: list[tuple[multi_host.Job, multi_host.Result]]) -> None:
        job, kept = made[0]
        if count > 1:
            job, kept = max(made, key=lambda pair: pair[1].report["score"]["score"])
            scores = [result.report.pop("score") for _, result in made]
            number = [each["seed"] for each in scores].index(job.seed)
            chosen = candidates.chosen(songs[job.song][1], scores, number)
            settings = json.loads(kept.files[".json"]) | {"chosen": chosen}
            kept.files[".json"] = (json.dumps(settings, indent=2, sort_keys=True) + "\n").encode()
        multi_host.write(job.path, kept.files)
        report = kept.report
        elapsed = report["elapsed_seconds"]
        line = summary(job.path, report["duration"], report["sample_rate"], elapsed)
        line = f"{line}, host {kept.host}"
        print(line, file=sys.stderr if args.json else sys.stdout, flush=True)
        if args.json:
            files = [str(job.path), str(job.path.with_suffix(".json"))]
            print(json.dumps({**report, "files": files, "host": kept.host}, sort_keys=True))

    return multi_host.make(jobs, render, finish)


def _generate(
    model: Any, batch: list[Job], rate: int | None, options: dict, progress: Any
) -> list[dict[str, Any]]:
    """Make and save the songs of a batch; a report each."""
    if len(batch) == 1:
        (prompt, seed), _ = batch[0]
        made = [model.generate(prompt, seed=seed, progress=progress, **options)]
    else:
        prompts, seeds = zip(*(song for song, _ in batch), strict=True)
        made = model.generate_batch(prompts, seeds=seeds, progress=progress, **options)
    return [
        {
            "files": [str(file) for file in song.save(path, sample_rate=rate)],
            "duration": song.duration,
            "sample_rate": rate or song.sample_rate,
            "timings": {stage: round(value, 3) for stage, value in song.timings.items()},
            **{key: song.settings[key] for key in ("seed", "chosen") if "chosen" in song.settings},
        }
        for song, (_, path) in zip(made, batch, strict=True)
    ]


def _chosen(chosen: dict[str, Any]) -> str:
    """How the candidates came out, the kept one marked."""
    rows, kept = [], chosen["kept"]
    for number, each in enumerate(chosen["scores"], start=1):
        cosines = [
            f"{key} {each[key]:.3f}" for key in ("prompt", "plan", "reference") if key in each
        ]
        found = (
            "a broken render" if each["broken"] else f"{each['score']:.3f} ({', '.join(cosines)})"
        )
        mark = ", kept" if each["seed"] == kept else ""
        rows.append(f"candidate {number}: {found}, seed {each['seed']}{mark}")
    return "\n".join(rows)


def _stream(
    model: Any,
    song: tuple[str | None, int],
    path: Path,
    rate: int | None,
    options: dict,
    progress: Any,
    playing: bool,
) -> dict[str, Any]:
    """Write a song while it is being made; its report."""
    from musicot_mlx.audio import files
    from musicot_mlx.pipelines.song import made_of

    prompt, seed = song
    chunks = model.stream(prompt, seed=seed, progress=progress, **options)
    target, frames = rate or model.sample_rate, 0
    first = next(chunks)
    with files.audio_writer(path, target, first.shape[1]) as write:
        with player.live_player(target, first.shape[1], wanted=playing) as feed:
            pieces = files.resample_stream(
                itertools.chain([first], chunks), model.sample_rate, target
            )
            for piece in _checked(pieces, target):
                write(piece)
                frames += len(piece)
                if feed:
                    feed(files.to_pcm16(piece).tobytes())
    settings = model.settings(prompt, seed=seed, **options)
    settings |= {"format": files.format_of(path), "sample_rate": target}
    if getattr(chunks, "plan", None) is not None:
        settings |= made_of(chunks.plan, chunks.codes, settings)
    sidecar = path.with_suffix(".json")
    write_json(sidecar, settings, sort_keys=True)
    return {
        "files": [str(path), str(sidecar)],
        "duration": frames / target,
        "sample_rate": target,
        "played": feed is not None,
    }


def _checked(pieces: Iterator[Any], rate: int) -> Iterator[Any]:
    """Pass pieces on; raise when the last has gone and the whole was broken."""
    from musicot_mlx.audio.files import RenderCheck

    check = RenderCheck(rate)
    for piece in pieces:
        check.add(piece)
        yield piece
    check.finish()


def _read_settings(path: str | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        settings = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise MusicotError(f"can't read the settings {path} ({error.strerror})") from error
    except ValueError as error:
        raise MusicotError(f"{path} is not a settings file: {error}") from error
    if not isinstance(settings, dict) or "duration" not in settings:
        raise MusicotError(f"{path} is not a settings file; pass the .json written beside a song")
    _check_settings(path, settings)
    return settings


def _check_settings(path: str, settings: dict[str, Any]) -> None:
    """Hold the values of a settings file to what the flags would take."""
    same = ("seed", "model", "prompt", "format", "sample_rate")
    for key, field in {**OPTIONS, **dict(zip(same, same, strict=True))}.items():
        # lyrics are words in a settings file and a file in a flag
        if key != "lyrics" and settings.get(key) is not None:
            flags.require(Arguments, field, settings[key], f"{path}: {key}")


def _prompts(args: Arguments, settings: dict[str, Any]) -> list[str | None]:
    if args.prompt is not None and args.prompt_file is not None:
        raise MusicotError("pass --prompt or --prompt-file, not both")
    if args.prompt_file is not None:
        lines = [
            line.strip() for line in flags.read_text(args.prompt_file, "prompt file").splitlines()
        ]
        prompts = [line for line in lines if line]
        if not prompts:
            raise MusicotError(f"the prompt file {args.prompt_file} holds no prompt")
        return prompts
    if args.prompt is not None:
        text = sys.stdin.read() if args.prompt == "-" else args.prompt
        if not text.strip():
            raise MusicotError("the prompt is empty; describe the music, e.g. 'solo piano, calm'")
        return [" ".join(text.split())]
    if settings:
        return [settings.get("prompt")]
    if any((args.plan, args.reference, args.melody, args.continuation)):
        return [None]  # each carries what the song is conditioned on
    raise MusicotError("nothing to make; pass --prompt, --prompt-file, --plan or --config-from")


def _options(args: Arguments, settings: dict[str, Any]) -> dict[str, Any]:
    lyrics = flags.read_text(args.lyrics_file, "lyrics file") if args.lyrics_file else None
    flags.check_references(args)
    for name in ("plan", "keep_from", "melody", "continuation"):
        path = getattr(args, name)
        if path is not None and not Path(path).is_file():
            label = flags.spelled(Arguments, name).strip("-")
            raise MusicotError(f"{label} file {path} doesn't exist")
    if args.keep_from is not None and not (args.plan or settings.get("plan")):
        raise MusicotError("--keep-from goes with --plan, the edited plan of that song")
    options = {key: settings[key] for key in OPTIONS if settings.get(key) is not None}
    given = {key: getattr(args, field) for key, field in OPTIONS.items() if key != "lyrics"}
    given["lyrics"] = lyrics
    options |= {key: value for key, value in given.items() if value is not None}
    if args.plan or settings.get("plan"):
        options.pop("duration", None)
    return options


def _of_this_model(
    args: Arguments, options: dict[str, Any], model: Any, name: str
) -> dict[str, Any]:
    """The options without what an earlier song of another family had; a flag of one is an error."""
    message = f"{name} makes no songs; pass a {families.titles('songs')} model"
    family = families.require(model, "songs", message)
    for key, field in {**OPTIONS, "plan": "plan"}.items():
        if key not in model.options and getattr(args, field) is not None:
            flag = flags.spelled(Arguments, field)
            raise MusicotError(
                f"{flag} means nothing to {name}, a {family.title} model; leave it out"
            )
    return {key: value for key, value in options.items() if key in model.options}


def _refuse_what_a_plan_fixes(args: Arguments, settings: dict[str, Any]) -> None:
    if not (args.plan or settings.get("plan")):
        return
    fixed = "prompt prompt_file duration reference reference_weights lyrics_file tags"
    fixed += " thought_temp thought_guidance"
    given = [name for name in fixed.split() if getattr(args, name) is not None]
    if given:
        flag = flags.spelled(Arguments, given[0])
        raise MusicotError(f"{flag} belongs to planning, and the plan is made; leave out {flag}")


def _require_apart(paths: list[Path], args: Arguments) -> None:
    """A song and its settings must not be written over what they are made from."""
    made = {file.resolve() for path in paths for file in (path, path.with_suffix(".json"))}
    names = ("plan", "keep_from", "lyrics_file", "prompt_file", "melody", "continuation")
    for source in (*(getattr(args, name) for name in names), *(args.reference or ())):
        if source is not None and Path(source).resolve() in made:
            raise MusicotError(
                f"the song would be written over {source}, which it is made from; "
                "pass another --output"
            )


def _paths(output: str | None, format: str | None, rate: int | None, count: int) -> list[Path]:
    """Where the songs go: numbered names where there are several."""
    from musicot_mlx.audio.files import format_of

    path = Path(output or f"song.{format or 'wav'}")
    if path.is_dir():
        raise MusicotError(f"{path} is a folder; name a file in it")
    if not path.suffix:
        path = path.with_name(f"{path.name}.{format or 'wav'}")
    format_of(path, format, rate)
    if not path.parent.is_dir():
        raise MusicotError(f"can't write {path}: the folder {path.parent} doesn't exist")
    if not os.access(path.parent, os.W_OK):
        raise MusicotError(f"can't write {path}: permission denied; choose another place")
    if count == 1:
        return [path]
    width = len(str(count))
    return [path.with_stem(f"{path.stem}-{i:0{width}d}") for i in range(1, count + 1)]
