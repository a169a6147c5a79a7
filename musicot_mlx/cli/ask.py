"""musicot ask: questions about songs, pictures and films, and their answers."""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from musicot_mlx.cli import flags
from musicot_mlx.cli.progress import Progress, peak_memory
from musicot_mlx.errors import MusicotError
from musicot_mlx.pipelines import families
from musicot_mlx.texts import decoded, lines_of, one_line

PICTURES = frozenset(".png .jpg .jpeg .webp .bmp .gif .tif .tiff .heic .avif .svg".split())
FILMS = frozenset(".mp4 .m4v .mov .mkv .webm .avi .mpg .mpeg .wmv .3gp".split())
_EXAMPLE = 'musicot ask song.wav "What instruments play?" --model FOLDER'


@dataclass(kw_only=True)
class Arguments:
    """The flags of musicot ask."""

    words: list[str] | None = flags.flag(
        "FILE QUESTION...",
        "a song, a folder of songs, a picture or a film, then what is asked of it; several "
        "questions are turns of one talk, and without any they are read from standard input, a "
        "line each",
        positional=True,
    )
    model: str = flags.flag("NAME", "model that answers: folder or Hub id", required=True)
    audio: str | None = flags.flag("FILE", "a song beside the file that is named first")
    image: str | None = flags.flag("FILE", "a picture beside it")
    video: str | None = flags.flag("FILE", "a film beside it")
    adapter_path: list[str] | None = flags.flag(
        "FOLDER...", "adapters from musicot lora; FOLDER:0.5 counts half (default: none)"
    )
    answer_temperature: float | None = flags.flag(
        "T",
        "temperature, 0 is greedy (default: the model's)",
        "--temperature",
        "--answer-temp",
        check=flags.number(0, 10),
    )
    answer_top_p: float | None = flags.flag(
        "P",
        "draw from the likeliest words that make up P, 1 is all (default: the model's)",
        "--top-p",
        "--answer-top-p",
        check=flags.number(0.01, 1),
    )
    answer_tokens: int = flags.flag(
        "N",
        "longest answer in tokens (default: 512)",
        "--answer-tokens",
        "--max-tokens",
        check=flags.number(1, 4096, whole=True),
        default=512,
    )
    seed: int = flags.flag("N", "same seed, same answer (default: 0)", check=flags.seed, default=0)
    json: bool = flags.flag("", "one line of JSON per answer on standard output", default=False)


def run(args: Arguments) -> int:
    files, questions = _read(args)

    import musicot_mlx as mc

    model = mc.load(args.model, adapter_path=args.adapter_path)
    families.require(
        model, "answers", f"{args.model} answers no questions; pass a {families.titles('answers')}"
    )
    names = ("answer_temperature", "answer_top_p", "answer_tokens", "seed")
    options = {name: getattr(args, name) for name in names}
    given = list(questions) if len(files) > 1 else None  # each song is asked the same
    unheard = 0
    for file in files:
        media = _media(args, file)
        label = f"{file}: " if len(files) > 1 else ""
        history: list[tuple[str, str]] = []
        try:
            for question in questions if given is None else given:
                with Progress(prefix=label) as progress:
                    answer = model.ask(
                        question, **media, history=history, progress=progress, **options
                    )
                history.append((question, answer.text))
                _tell(args, label, file, question, answer)
        except MusicotError as error:
            if len(files) == 1 or str(file) not in str(error):
                raise  # what is wrong is not this song
            print(f"musicot: skipped: {error}", file=sys.stderr, flush=True)
            unheard += 1
    if unheard:
        raise MusicotError(f"{unheard} of {len(files)} songs could not be heard")
    return 0


def _tell(args: Arguments, label: str, file: Path | None, question: str, answer: Any) -> None:
    """An answer as text, or its report."""
    if not args.json:
        print(f"{label}{answer.text}", flush=True)
        return
    report = {
        **answer.settings,
        "file": None if file is None else str(file),
        "question": question,
        "answer": answer.text,
        "asks_for_music": answer.music,
        "timings": {stage: round(seconds, 3) for stage, seconds in answer.timings.items()},
        **peak_memory(),
    }
    print(json.dumps(report, sort_keys=True, ensure_ascii=False), flush=True)


def _read(args: Arguments) -> tuple[list[Path | None], Iterator[str]]:
    """The files to ask about, None for none, and the questions."""
    from musicot_mlx.audio.files import AUDIO_SUFFIXES, audio_files

    words = list(args.words or [])
    if words and _names_a_file(words[0], AUDIO_SUFFIXES | PICTURES | FILMS):
        path = Path(words.pop(0))
        if not path.exists():
            raise MusicotError(f"{path} does not exist")
        files: list[Path | None] = list(audio_files(path, below=False)) if path.is_dir() else [path]
        if not files:
            raise MusicotError(f"{path} holds no songs")
    else:
        files = [None]
    if words == ["-"]:
        words = []  # as most commands call standard input
    for word in words:
        if _is_file(word):
            raise MusicotError(
                f"{word} is a file and stands where a question should; name a folder of songs, or "
                "pass files that belong together with --audio, --image, --video"
            )
    questions = [one_line(word) for word in words]
    if not all(questions):
        raise MusicotError(f"a question is empty; ask something: {_EXAMPLE}")
    for name in ("audio", "image", "video"):
        beside = getattr(args, name)
        if beside is not None and not Path(beside).is_file():
            raise MusicotError(f"--{name} {beside} does not exist")
    if not questions and len(files) > 1:
        raise MusicotError(f"a folder of songs needs a question: {_EXAMPLE}")
    return files, iter(questions) if questions else _lines()


def _is_file(word: str) -> bool:
    try:
        return Path(word).is_file()
    except (OSError, ValueError):  # a question may be longer than any name
        return False


def _names_a_file(word: str, suffixes: frozenset[str]) -> bool:
    """Whether a word is meant as a file, be it there or not."""
    path = Path(word)
    try:
        return path.exists() or path.suffix.lower() in suffixes
    except OSError:  # a question may be longer than any name
        return False


def _lines() -> Iterator[str]:
    """Questions from standard input: asked for at a terminal, else all at once, a line each."""
    if sys.stdin is None or not sys.stdin.isatty():
        raw = getattr(sys.stdin, "buffer", None)
        given = sys.stdin.read() if sys.stdin and raw is None else ""
        text = given if raw is None else decoded(raw.read(), "standard input")
        questions = [found for line in lines_of(text) if (found := one_line(line))]
        if not questions:
            raise MusicotError(f"there is no question; ask one: {_EXAMPLE}")
        yield from questions
        return
    while True:
        try:
            line = one_line(input("? "))
        except EOFError:
            return
        if not line:
            return
        yield line


def _media(args: Arguments, file: Path | None) -> dict[str, Any]:
    """What is heard and seen: the files of flags, and the one that was named first."""
    media = {name: getattr(args, name) for name in ("audio", "image", "video")}
    if file is None:
        return media
    suffix = file.suffix.lower()
    kind = "image" if suffix in PICTURES else "video" if suffix in FILMS else "audio"
    if media[kind] is not None:
        raise MusicotError(f"there are two of a kind, {file} and --{kind} {media[kind]}; pass one")
    return {**media, kind: file}
