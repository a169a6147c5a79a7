"""musicot eval: render prompts and say how good the model is, every figure with its interval."""

import json
import os
import platform
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from musicot_mlx.atomic import require_free
from musicot_mlx.cli import flags
from musicot_mlx.cli.progress import Progress, peak_memory
from musicot_mlx.errors import MusicotError, RunError
from musicot_mlx.texts import read_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from musicot_mlx.evaluation.harness.reference_songs import CodecTrial, RealSongs
    from musicot_mlx.evaluation.harness.renders import EvalRender, SongFeatures

FIGURES = "figures.json"
_WHOLE = flags.number(0, whole=True)


@dataclass(kw_only=True)
class Arguments(flags.Writing):
    """The flags of musicot eval."""

    model: str | None = flags.flag(
        "NAME", "embedded name, folder or Hub id (default: musicot-mini)"
    )
    prompts: str | None = flags.flag(
        "FILE", "prompts, one a line, or JSON with what each asks for (default: 24 of our own)"
    )
    limit: int = flags.flag("N", "only the first N prompts", check=_WHOLE, default=0)
    reference_dir: str | None = flags.flag(
        "FOLDER",
        "real songs, for FAD, codec and variety; metadata.json beside them names the held-out",
    )
    reference_songs: int = flags.flag(
        "N",
        "how many of them at most (default: 150)",
        check=flags.number(4, whole=True),
        default=150,
    )
    output: str = flags.flag(
        "FOLDER",
        "where renders and figures go, and are taken up again (default: eval)",
        "--output",
        "-o",
        default="eval",
    )
    duration: float = flags.flag(
        "S",
        "length of each render in seconds (default: 20)",
        "--duration",
        "--seconds",
        check=flags.seconds,
        default=20.0,
    )
    seeds: int = flags.flag(
        "N",
        "seeds of four of the prompts, to measure variety (default: 4)",
        check=flags.number(1, 64, whole=True),
        default=4,
    )
    captions: int = flags.flag(
        "N",
        "captions of held-out songs as further prompts of 10 s (default: 12)",
        check=_WHOLE,
        default=12,
    )
    ablation_prompts: int = flags.flag(
        "N",
        "prompts that are rendered with parts of the method left out (default: 8)",
        check=_WHOLE,
        default=8,
    )
    without_thoughts: str | None = flags.flag(
        "FOLDER", "a model trained without thoughts, to compare with (configs/no-thoughts.yaml)"
    )
    clap: str | None = flags.flag("NAME", "another CLAP to listen with (default: the model's own)")
    workers: int = flags.flag(
        "N",
        "processes that render, where the CPU does the work (default: 1)",
        check=flags.number(1, 64, whole=True),
        default=1,
    )
    against: str | None = flags.flag(
        "FILE", "figures.json of an earlier version, to stand beside this one in the page"
    )
    report: str | None = flags.flag("FILE", "write a page of results with spectrograms (Markdown)")
    json: bool = flags.flag("", "the figures as one line of JSON on standard output", default=False)


def run(args: Arguments) -> int:
    for path in (Path(args.output) / "renders", args.report):
        if path is not None:
            flags.require_writable(Path(path))
    if args.report and not args.overwrite and not _is_page(Path(args.report)):
        require_free(args.report)

    earlier = _figures(args.against) if args.against else None
    import musicot_mlx as mc
    from musicot_mlx.evaluation.harness import reference_songs, renders, scores
    from musicot_mlx.evaluation.harness.prompts import PROMPTS, read_prompts
    from musicot_mlx.pipelines.tagger import load_tagger
    from musicot_mlx.weights.hub import resolve

    if not args.overwrite and not (Path(args.output) / renders.SETTINGS).is_file():
        flags.require_empty(args.output, "write among them")
    started, name = time.perf_counter(), args.model or "musicot-mini"
    prompts = read_prompts(args.prompts) if args.prompts else PROMPTS
    prompts = prompts[: args.limit or None]
    model = _load(name)
    model.family.require_duration(args.duration)
    clap = flags.load_clap(args.clap) if args.clap else model.clap
    tagger = load_tagger()
    folder, base = Path(args.output), args.without_thoughts
    songs = captions = None
    if args.reference_dir:
        songs = reference_songs.real_songs(
            args.reference_dir,
            most=args.reference_songs,
            held_out=len(prompts),  # as many windows as are generated: FAD falls with their number
            windows=max(1, round(args.duration / 10)),
        )
        captions = reference_songs.caption_prompts(songs.held_out, args.captions)
    ablated = [*renders.variants(model)] if args.ablation_prompts else []
    wanted = renders.all_renders(
        prompts,
        captions or [],
        duration=args.duration,
        seeds=args.seeds,
        ablated=[*ablated, *([renders.BASE] if base and ablated else [])],
        ablation_prompts=args.ablation_prompts,
    )
    listener = renders.network_fingerprint(clap.network)
    settings = {
        "model": renders.fingerprint(resolve(name)),
        "base": renders.fingerprint(resolve(base)) if base else None,
        "clap": listener,
        "tagger": renders.digest(tagger.config.held_out),
        "prompts": renders.digest([str(prompt) for prompt in prompts]),
        "reference": renders.digest([str(s) for s in songs.held_out[:2]] if songs else None),
        "duration": args.duration,
    }
    renders.claim(folder, settings)
    rendered = len(list(renders.waiting(wanted, folder)))
    with Progress() as progress:
        _render(model, name, base, wanted, folder, args.workers, progress)
        pairs = []
        for render in wanted:
            pairs.append((render, renders.render_features(clap, tagger, render, folder)))
            progress("listening", len(pairs), len(wanted))
        real, trial = _real(songs, model, clap, tagger, folder, progress)
        progress("figures", 0, 1)
        figures = scores.scores(
            pairs,
            embed=clap.embed_text,
            embed_plan=model.clap.embed_text,
            labels=tagger.config.labels,
            real=real,
            codec=trial,
        )
        progress("figures", 1, 1)
    elapsed = time.perf_counter() - started
    figures |= {
        "model": Path(name).name,
        "fingerprint": settings["model"],
        "version": mc.__version__,
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores",
        "minutes": elapsed / 60,
        "size_mb": sum(f.stat().st_size for f in resolve(name).iterdir() if f.is_file()) / 1e6,
        "earlier": earlier,
        "tagger_held_out": tagger.config.held_out,
        "settings": {
            "prompts": len(prompts),
            "captions": len(captions or []),
            "takes": len(wanted),
            "rendered": rendered,
            "clap": listener,
            "duration": args.duration,
            "seeds": args.seeds,
        },
    }
    return _finish(args, figures, wanted, folder, songs, model)


def _figures(path: str) -> dict[str, Any]:
    """The figures of another run, less those that it was compared with."""
    try:
        figures = read_json(path)
    except OSError as error:
        raise MusicotError(f"can't read the figures {path} ({error.strerror})") from error
    except ValueError as error:
        raise MusicotError(f"can't read the figures {path} ({error})") from error
    if not isinstance(figures, dict) or not {"groups", "fingerprint", "settings"} <= set(figures):
        raise MusicotError(f"{path} holds no figures of musicot eval; pass its figures.json")
    return {key: value for key, value in figures.items() if key != "earlier"}


def _load(name: str) -> Any:
    """A model that plans; MusicotError for one that does not."""
    import musicot_mlx as mc
    from musicot_mlx.pipelines.families import require

    model = mc.load(name)
    require(model, "plan", f"{name} makes no plan of thoughts; eval takes models of that method")
    return model


def _render(
    model: Any,
    name: str,
    base: str | None,
    renders: "Sequence[EvalRender]",
    folder: Path,
    workers: int,
    progress: Progress,
) -> None:
    """Render what is not rendered yet, in this process or in several."""
    from musicot_mlx.evaluation.harness.renders import BASE, waiting, write_render

    left = list(waiting(renders, folder))
    done = len(renders) - len(left)
    shared = [render for render in left if render.variant != BASE]
    bare = [render for render in left if render.variant == BASE]
    for chosen, group in ((name, shared), (base, bare)):
        if not group:
            continue
        if workers > 1:
            rendered = _in_processes(str(chosen), group, folder, workers)
        else:
            network = model if chosen == name else _load(chosen)
            rendered = (write_render(network, render, folder) for render in group)
        for _ in rendered:
            done += 1
            progress("rendering", done, len(renders))


def _in_processes(name: str, renders: "Sequence[EvalRender]", folder: Path, workers: int) -> Any:
    """Render in `workers` processes, each with its share of the cores and a model of its own."""
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool
    from multiprocessing import active_children, get_context

    threads = str(max(1, (os.cpu_count() or 1) // workers))
    before = {key: os.environ.get(key) for key in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")}
    os.environ.update(dict.fromkeys(before, threads))  # read when a process starts
    pool = ProcessPoolExecutor(
        workers, get_context("spawn"), initializer=_start, initargs=(name, str(folder))
    )
    try:
        waiting = [pool.submit(_one, render) for render in renders]
        for rendered in waiting:
            yield rendered.result()
    except BrokenProcessPool as error:
        raise RunError("a process that renders died; try fewer --workers") from error
    except BaseException:
        for child in active_children():  # or they would finish what they are at
            child.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        for key, value in before.items():
            os.environ.pop(key, None) if value is None else os.environ.update({key: value})


_worker: dict[str, Any] = {}  # of a process that renders: its model and folder


def _start(name: str, folder: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the first answers
    _worker.update(model=_load(name), folder=Path(folder))


def _one(render: "EvalRender") -> None:
    from musicot_mlx.evaluation.harness.renders import write_render

    write_render(_worker["model"], render, _worker["folder"])


def _real(
    songs: "RealSongs | None",
    model: Any,
    clap: Any,
    tagger: Any,
    folder: Path,
    progress: Progress,
) -> "tuple[dict[str, Any] | None, CodecTrial | None]":
    """The features of the real songs, and of the held-out ones after the codec."""
    if songs is None:
        return None, None
    from musicot_mlx.evaluation.harness.reference_songs import songs_features, try_codec
    from musicot_mlx.evaluation.harness.renders import digest

    groups: dict[str, tuple[Any, list[SongFeatures]]] = {}
    for kind in ("training", "held_out"):
        group = getattr(songs, kind)
        groups[kind] = (
            group,
            songs_features(
                group,
                clap,
                tagger,
                folder / f"{kind}-{digest([str(song) for song in group])}.npz",
                lambda done, total, kind=kind: progress(f"real songs, {kind}", done, total),
            ),
        )
    config = model.vae.config
    trial = try_codec(
        _codec(model),
        config.sample_rate,
        config.sample_rate / config.hop_length,
        songs.held_out,
        clap,
        tagger,
        lambda done, total: progress("codec", done, total),
    )
    return groups, trial


def _codec(model: Any) -> Any:
    """The model's VAE as a function of a mono waveform (samples,)."""
    import mlx.core as mx
    import numpy as np

    channels = model.vae.config.audio_channels

    def decode(waveform: "np.ndarray") -> "np.ndarray":
        sound = mx.array(np.repeat(waveform[None, :, None], channels, axis=2))
        decoded = model.vae.decode(model.vae.encode(sound).mean)[0, : len(waveform)]
        return np.array(decoded.astype(mx.float32)).mean(axis=1)

    return decode


def _finish(
    args: Arguments,
    figures: dict[str, Any],
    renders: "Sequence[EvalRender]",
    folder: Path,
    songs: "RealSongs | None",
    model: Any,
) -> int:
    """Write the figures and the page, and say what came out."""
    from musicot_mlx.atomic import write_text

    reference = " --reference-dir FOLDER" if args.reference_dir else ""
    figures["command"] = f"musicot eval{reference} --report FILE"
    figures["figures"] = FIGURES
    files = [folder / FIGURES]
    write_text(files[0], json.dumps(figures, indent=1, sort_keys=True) + "\n")
    if args.report:
        files += _report(Path(args.report), figures, renders, folder, songs, model)
    group = figures["groups"]["wordings"]
    short = [f"CLAP score {_value(group['clap_score'])}"]
    if group["fad"]:
        short.append(f"FAD {_value(group['fad'])} of {group['windows']} windows")
    if group.get("instrument_auc"):
        short.append(f"instruments AUC {_value(group['instrument_auc'])}")
    if group["tempo_within"]:
        short.append(f"tempo {_value(group['tempo_within'])}")
    if group.get("share_in_key"):
        short.append(f"in key {_value(group['share_in_key'])}")
    line = (
        f"{len(renders)} renders in {figures['minutes']:.1f} min: {', '.join(short)}, peak memory "
        f"{peak_memory()['peak_resident_gb']:.2f} GB -> {', '.join(map(str, files))}"
    )
    if args.json:
        print(line, file=sys.stderr)
        print(json.dumps({**figures, **peak_memory()}, sort_keys=True), flush=True)
    else:
        print(line)
    return 0


def _is_page(path: Path) -> bool:
    """Whether a file is an earlier page of results, which the next one takes the place of."""
    return path.is_file() and b"Written by `musicot eval" in path.read_bytes()


def _value(interval: dict[str, float]) -> str:
    return f"{interval['value']:.3f} [{interval['low']:.3f}, {interval['high']:.3f}]"


def _report(
    path: Path,
    figures: dict[str, Any],
    renders: "Sequence[EvalRender]",
    folder: Path,
    songs: "RealSongs | None",
    model: Any,
) -> list[Path]:
    """The page, its pictures and its figures in a folder beside it: results.md, results/."""
    import numpy as np

    from musicot_mlx.atomic import write_text
    from musicot_mlx.audio.files import read_audio, resample
    from musicot_mlx.evaluation.harness import reference_songs
    from musicot_mlx.evaluation.harness.report import page, spectrogram

    beside = path.with_suffix("")
    beside.mkdir(parents=True, exist_ok=True)
    pictures = {}
    shown = [render for render in renders if render.variant == "wordings" and render.seed == 1]
    for render in shown[:: max(1, len(shown) // 6)][:6]:
        target = beside / f"render-{render.index:02d}.png"
        spectrogram(*read_audio(folder / f"{render.stem}.flac"), target)
        pictures[f"Generated: {render.prompt.text}"] = f"{beside.name}/{target.name}"
    if songs is not None:
        rate, decode = model.sample_rate, _codec(model)
        for number, song in enumerate(songs.held_out[:3]):
            original = resample(*reference_songs.window(song, song.starts[0]), rate)
            target = beside / f"codec-{number}.png"
            spectrogram(np.concatenate([original, decode(original)]), rate, target)
            style = song.style or "song"
            what = f"Held-out {style} {number + 1}: 10 s as recorded, then through the codec"
            pictures[what] = f"{beside.name}/{target.name}"
    figures = {**figures, "figures": f"{beside.name}/{FIGURES}"}
    write_text(beside / FIGURES, json.dumps(figures, indent=1, sort_keys=True) + "\n")
    write_text(path, page(figures, pictures))
    return [path]
