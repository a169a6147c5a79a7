"""musicot analyze: what audio or a plan holds over time, and whether audio followed its plan."""

import base64
import inspect
import json
import math
import shutil
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from musicot_mlx.cli import flags
from musicot_mlx.cli.progress import peak_memory
from musicot_mlx.errors import MusicotError
from musicot_mlx.pipelines.families import can
from musicot_mlx.pipelines.plans.anchors import ANCHORS, anchors_of
from musicot_mlx.pipelines.sidecar import expected_sidecar
from musicot_mlx.texts import read_json

if TYPE_CHECKING:
    from musicot_mlx.evaluation.measures.agreement import Analysis, StemAgreement
    from musicot_mlx.evaluation.measures.copying import CopyCheck


@dataclass(kw_only=True)
class Arguments(flags.Writing):
    """The flags of musicot analyze."""

    file: str = flags.flag("FILE", "audio, or a plan (.json)", positional=True)
    plan: str | None = flags.flag(
        "FILE", "plan to hold the audio against (default: that of the .json beside it)"
    )
    anchors: list[str] | None = flags.flag(
        "A,B",
        f"texts to hold each segment against (default: {','.join(ANCHORS)} and those in words)",
        check=flags.names,
    )
    stems: str | None = flags.flag(
        "FOLDER", "drums.wav, bass.wav, ... of this song: their loudness against its thoughts"
    )
    copy_of: str | None = flags.flag("FILE", "a song that this one must not copy: compare tokens")
    unrelated: list[str] | None = flags.flag(
        "FILE...", "other songs, to know better what chance gives (with --copy-of)"
    )
    png: str | None = flags.flag("FILE", "draw it", check=flags.place)
    model: str | None = flags.flag(
        "NAME", "model that listens, a CLAP too: name, folder or Hub id (default: the song's)"
    )
    json: bool = flags.flag("", "one line of JSON on standard output", default=False)


def run(args: Arguments) -> int:
    path = Path(args.file)
    if not path.is_file():
        raise MusicotError(f"{path} {'is a folder' if path.is_dir() else 'does not exist'}")
    audio, source, settings = _sources(path, args.plan)
    for flag, value in (("--stems", args.stems), ("--copy-of", args.copy_of)):
        if audio is None and value:
            raise MusicotError(f"{flag} needs audio, and {path} is a plan; pass the song it became")
    if args.unrelated and not args.copy_of:
        raise MusicotError("--unrelated goes with --copy-of; leave it out")

    import musicot_mlx as mc
    from musicot_mlx.evaluation.measures.agreement import (
        analyze,
        audible,
        stem_agreement,
        stem_files,
    )

    stems = stem_files(args.stems) if args.stems else {}
    waveform, rate = audible(audio) if audio else (None, None)
    started = time.perf_counter()
    name = args.model or settings.get("model", "musicot-mini")
    model = mc.load(name, **{k: settings[k] for k in ("adapter_path",) if settings.get(k)})
    must = audio is None or args.plan is not None
    thoughtful = can(model, "plan")
    if not can(model, "ear") or (must or args.copy_of) and not thoughtful:
        raise MusicotError(f"the model {name} knows no thoughts; pass --model musicot-mini")
    if args.copy_of and not can(model, "copies"):
        raise MusicotError(f"--copy-of means nothing to {name}; pass --model musicot-mini")
    plan = _plan(model, source, settings, must=must) if thoughtful else None
    anchors = args.anchors or anchors_of(plan)
    analysis = analyze(waveform, rate, model=model, plan=plan, anchors=anchors)
    apart = stem_agreement(audio, stems, model=model) if stems else None
    copy = _copy_check(args, model, settings) if args.copy_of else None
    if args.png:
        from musicot_mlx.evaluation.harness.plots import plot_analysis

        prompt = getattr(plan, "prompt", None)
        title = f"{path.name}: {prompt}" if prompt else path.name
        plot_analysis(analysis, title, args.png, waveform=waveform)

    lines = list(_lines(path, analysis, apart))
    if copy:
        lines.append(f"held against {args.copy_of}: {copy.verdict}")
    where = f" -> {args.png}" if args.png else ""
    memory = peak_memory()
    lines.append(f"{analysis.duration:.1f} s analyzed in {time.perf_counter() - started:.1f} s, "
                 f"peak memory {memory['peak_resident_gb']:.2f} GB{where}")  # fmt: skip
    print("\n".join(lines), file=sys.stderr if args.json else sys.stdout)
    if args.json:
        report = {"file": str(path), **analysis.to_dict(), **memory}
        if apart:
            report["stems"] = apart.to_dict()
        if copy:
            report["copy_of"] = {"file": args.copy_of, **copy.to_dict()}
        print(json.dumps(report, sort_keys=True), flush=True)
    return 0


def _sources(path: Path, plan: str | None) -> tuple[Path | None, Any, dict[str, Any]]:
    """The audio, if it is audio; where the plan comes from; the settings of the song, if known."""
    if path.suffix.lower() == ".json":
        if plan is not None:
            raise MusicotError(f"{path} is itself a plan; pass audio to hold against --plan")
        settings = _settings(path)
        if settings is not None:
            return None, _made(settings, "plan"), settings
        return None, str(path), {}
    settings = _settings(expected_sidecar(path)) or {}
    if plan is None:
        return path, _made(settings, "plan"), settings
    if Path(plan).suffix.lower() == ".json" and (others := _settings(Path(plan))) is not None:
        return path, _made(others, "plan"), others
    return path, plan, settings


def _settings(path: Path) -> dict[str, Any] | None:
    """What stands beside a song of a model with thoughts; None for any other file, or none."""
    try:
        settings = read_json(path)
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(settings, dict):
        return None
    return settings if _made(settings, "plan") or "thought_temperature" in settings else None


def _made(settings: dict[str, Any], name: str) -> Any:
    """What was made on the way to the song, where its settings hold it: its plan, its codes."""
    outcome = settings.get("made")
    value = outcome.get(name) if isinstance(outcome, dict) else None
    return settings.get(name) if value is None else value


def _plan(model: Any, source: Any, settings: dict[str, Any], *, must: bool) -> Any:
    """The plan from its file or object, or made again as the song's settings say.

    Where the plan was not asked for (`must`), one that can't be had is only told of.
    """
    import musicot_mlx as mc

    try:
        if source is not None:
            return mc.Plan.load(source, model)
        if settings:
            known = set(inspect.signature(model.plan).parameters) & set(settings)
            return model.plan(**{name: settings[name] for name in known})
    except (MusicotError, TypeError) as error:
        if must:
            raise
        print(f"the plan beside the song is left out: {error}", file=sys.stderr)
    return None


def _copy_check(args: Arguments, model: Any, settings: dict[str, Any]) -> "CopyCheck":
    """By the tokens that the song was written in, where its settings hold them."""
    from musicot_mlx.evaluation.measures.copying import copy_check

    codes = None
    if isinstance(written := _made(settings, "codes"), str):
        import numpy as np

        codes = np.frombuffer(base64.b64decode(written), "<u2").astype(np.int32)
    return copy_check(
        args.file, args.copy_of, model=model, codes=codes, unrelated=args.unrelated or ()
    )


def _lines(path: Path, analysis: "Analysis", apart: "StemAgreement | None") -> Iterator[str]:
    """The analysis as text."""
    facts = [f"{path.name}: {analysis.duration:.1f} s"]
    if analysis.achieved is not None:
        facts.append(f"{analysis.tempo:.0f} BPM" if analysis.tempo else "no steady tempo")
    if analysis.boundaries:
        starts = zip(analysis.letters, (0.0, *analysis.boundaries), strict=True)
        facts.append("sections " + ", ".join(f"{kind} {_clock(at)}" for kind, at in starts))
    yield ", ".join(facts)
    yield from _harmony(analysis)
    yield from _wrapped(list(_rows(analysis)), analysis.segment_seconds)
    if analysis.cosine is not None:
        yield _verdict(analysis)
    if apart is not None:
        yield "loudness of stems against thoughts, r: " + _listed(apart.r)


def _harmony(analysis: "Analysis") -> Iterator[str]:
    """Key and chords, planned and heard, and how many of the planned ones are."""
    sides = (
        ("planned", analysis.planned_key, analysis.planned_chords),
        ("heard", analysis.key, analysis.chords),
    )
    for side, key, chords in sides:
        if chords:
            text = " ".join(chord for _, chord in chords)
            yield textwrap.shorten(f"{side} in {key}: {text}", 200, placeholder=" ...")
    if analysis.chords_followed is not None:
        yield f"{analysis.chords_followed:.0%} of the planned chords are heard"


def _rows(analysis: "Analysis") -> Iterator[tuple[str, Sequence[float], int, str]]:
    """Label, a number a segment, their decimals, and what stands at the end of the row."""
    both = analysis.planned is not None and analysis.achieved is not None
    wide, fine = max(map(len, analysis.anchors)), 1 if analysis.calibrated else 2
    for i, anchor in enumerate(analysis.anchors):
        r = analysis.correlation.get(anchor)
        end = f"  r {r:5.2f}" if r is not None else ""
        if both:
            yield f"{anchor:<{wide}} planned", analysis.planned[:, i], fine, ""
            yield f"{'':<{wide}} achieved", analysis.achieved[:, i], fine, end
        else:
            side = analysis.planned if analysis.achieved is None else analysis.achieved
            yield anchor, side[:, i], fine, ""
    if analysis.cosine is not None:
        yield "cosine to the plan", analysis.cosine, 2, ""
    if analysis.loudness is not None:
        yield "loudness, dB", [20 * math.log10(max(v, 1e-9)) for v in analysis.loudness], 0, ""
        yield "onsets a second", [s.onset_rate for s in analysis.signals], 1, ""
        yield "percussive share", [s.percussive_share for s in analysis.signals], 2, ""


def _wrapped(rows: list[tuple[str, Sequence[float], int, str]], seconds: float) -> Iterator[str]:
    """The rows as a table, in as many blocks as the terminal's width asks for."""
    width = max(len("seconds"), *(len(row[0]) for row in rows))
    columns = max(len(row[1]) for row in rows)
    room = max(4, (shutil.get_terminal_size((110, 24)).columns - width - 9) // 6)
    for first in range(0, columns, room):
        block = range(first, min(first + room, columns))
        yield f"{'seconds':<{width}}" + "".join(f"{i * seconds:>6g}" for i in block)
        for label, values, decimals, end in rows:
            cells = "".join(f"{_number(values[i], decimals):>6}" for i in block)
            yield f"{label:<{width}}{cells}{end if block[-1] == columns - 1 else ''}"


def _number(value: float, decimals: int) -> str:
    """A number without a minus zero; a dash for silence."""
    return f"{round(float(value), decimals) + 0.0:.{decimals}f}" if math.isfinite(value) else "-"


def _verdict(analysis: "Analysis") -> str:
    """Did the audio follow? The cosine in words, and the anchors that rise and fall as planned."""
    if analysis.mean_cosine is None:
        return "the song is silent wherever its plan reaches"
    from musicot_mlx.evaluation.measures.agreement import FEWEST, nearness

    r = {name: value for name, value in analysis.correlation.items() if value is not None}
    cosine = analysis.mean_cosine
    line = f"the song {nearness(cosine)} its plan by a cosine of {cosine:.2f}"
    if not r:
        return f"{line}; r takes {FEWEST} segments or more"
    followed = [name for name, value in r.items() if value > 0.5]
    return f"{line}; r is above 0.5 for {', '.join(followed) or 'none'} ({len(followed)}/{len(r)})"


def _listed(r: dict[str, float | None]) -> str:
    values = [f"{name} {value:.2f}" for name, value in r.items() if value is not None]
    left = [name for name, value in r.items() if value is None]
    without = f" (too quiet or too short: {', '.join(left)})" if left else ""
    return (", ".join(values) or "none") + without


def _clock(seconds: float) -> str:
    return f"{int(seconds // 60)}:{int(seconds % 60):02d}"
