"""The README and the pages it leads to are executed: snippets run, tables are generated.

`python -m tests.test_readme` writes the tables anew.
"""

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import soundfile

from musicot_mlx.cli import COMMANDS, flags, main
from musicot_mlx.cli.app import arguments
from musicot_mlx.pipelines import families
from musicot_mlx.pipelines.documented import meaning, other_names
from musicot_mlx.weights import hub

README = Path(__file__).resolve().parent.parent / "README.md"
DOCS = ("commands.md", "training.md", "prompts.md", "plans.md", "musicgen.md", "python.md",
        "library.md")  # fmt: skip
MAKEFILE, MEDIA = README.parent / "Makefile", README.parent / "docs" / "media"
PAGES = (README, *(README.parent / "docs" / name for name in DOCS))


def _flag_table(command: str) -> str:
    """The options of a command as a table, from its dataclass of flags."""
    rows = ["| option | what |", "|---|---|"]
    for _, flag in flags.listed(arguments(command)):
        names = ", ".join(f"`{name}`" for name in flag.names)
        names, value = (f"`{flag.metavar}`", "") if flag.positional else (names, flag.metavar)
        shown = f" {value}".replace("|", r"\|") if value else ""
        help = flag.help.replace("|", r"\|")
        rows.append(f"| {names}{shown} | {help} |")
    return "\n".join(rows)


def _measured() -> str:
    """What was measured, as a table, from the files that the measuring wrote."""
    root = README.parent

    def read(name: str) -> Any:
        return json.loads((root / name).read_text())

    figures = read("docs/results/figures.json")
    asked, results = figures["groups"]["wordings"], "[results](docs/results.md)"
    auc, tempo = asked["instrument_auc"], asked["tempo_within"]
    follows = [each["clap"]["value"] for each in figures["structure"].values()]
    edits = [each["in_time"] for each in read("benchmarks/results/edits.json")["edits"]]
    denied = [each["denied"] for each in read("benchmarks/results/denials.json")["rows"]]
    worst = max(denied, key=lambda each: each["found"] / each["songs"])
    heard = [each["planned_right"] for each in read("benchmarks/results/tempo.json")["audio"]]
    levels = read("benchmarks/results/loudness.json")
    near = [abs(each["after"]["loudness"] - levels["target"]) <= 2 for each in levels["songs"]]
    chords = read("benchmarks/results/harmony.json")["bars_nearer_to_their_own_chord"]
    speed = {row["duration"]: row for row in read("benchmarks/results/bench.json")["rows"]}
    machine, short, long = speed[20]["machine"], speed[20], speed[300]
    rows = [
        ("instruments that a prompt asks for, by an independent tagger",
         f"AUC {auc['value']:.2f} on average", results),
        ("a tempo that the prompt names, within 8 %, its double or its half",
         f"{round(tempo['value'] * tempo['n'])} of {tempo['n']} songs", results),
        ("a song follows its plan: r of planned and achieved activity, by instrument",
         f"{min(follows):.2f} to {max(follows):.2f}", results),
        ("an edited segment is heard within a second of its start",
         f"{sum(edits)} of {len(edits)} edits", "`edits.json`"),
        (f"\"no X\", {len(denied)} prompts: the tagger still hears X",
         f"at most in {worst['found']} of {worst['songs']} songs", "`denials.json`"),
        ("bars that are nearer to the chord asked for than to another", f"{chords * 100:.0f} %",
         "`harmony.json`"),
        ("`plan --from-audio` finds the recording's tempo, within 4 %",
         f"{sum(heard)} of {len(heard)}", "`tempo.json`"),
        (f"loudness within 2 LU of {levels['target']:.0f} LUFS",
         f"{sum(near)} of {len(near)} songs", "`loudness.json`"),
        (f"speed on an {machine['chip']} with {machine['cores']} cores, no GPU, another program on "
         "one of them: a 20 s song, when the model is loaded",
         f"{short['total']['median']:.1f} s", "`bench.json`"),
        ("first audio of a 30 s song as a stream, on the same",
         f"{speed[30]['first_audio_seconds']['median']:.1f} s", "`bench.json`"),
        ("memory of the whole process, songs of 20 and of 300 s",
         f"{short['memory']['process_gb']:.2f} and {long['memory']['process_gb']:.2f} GB",
         "`bench.json`"),
    ]  # fmt: skip
    lines = ["| what | measured | by |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def _option_table(model_type: str) -> str:
    """What a family's songs may be asked for in Python."""
    options = next(f for f in families.known() if f.model_type == model_type).get("options")
    rows = ["| option | what |", "|---|---|"]
    for name, each in options.about().items():
        called = ", ".join(f"`{each}`" for each in (name, *other_names(options, name)))
        told = meaning(each).replace("|", r"\|")
        rows.append(f"| {called} | {told} |")
    return "\n".join(rows)


def _with_tables(text: str) -> str:
    """README text with every generated table in place."""

    def flags(match: re.Match[str]) -> str:
        return f"<!-- flags: {match[1]} -->\n{_flag_table(match[1])}\n"

    def options(match: re.Match[str]) -> str:
        return f"<!-- options: {match[1]} -->\n{_option_table(match[1])}\n"

    text = re.sub(r"<!-- options: (\w+) -->\n(?:\|.*\n)*", options, text)
    text = re.sub(r"<!-- flags: (\w+) -->\n(?:\|.*\n)*", flags, text)
    text = re.sub(
        r"<!-- measured -->\n(?:\|.*\n)*", lambda _: f"<!-- measured -->\n{_measured()}\n", text
    )
    rows = "\n".join(f"| `musicot {name}` | {what} |" for name, what in COMMANDS.items())
    head = "| command | what it does |\n|---|---|\n"
    return re.sub(
        re.escape(head) + r"(?:<!-- commands -->\n)?(?:\|.*\n)*", lambda _: f"{head}{rows}\n", text
    )


def _snippets(language: str) -> Iterator[str]:
    for page in PAGES:
        yield from re.findall(rf"```{language}\n(.*?)```", page.read_text(), flags=re.DOTALL)


@pytest.fixture
def here(
    tiny_model: Path,
    tiny_musicgen_upstream: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A current folder where the embedded model is the tiny one, and so is MusicGen: a folder of
    the name that the Hub has.
    """
    weights, folder = tmp_path / "weights", tmp_path / "here"
    shutil.copytree(tiny_model, weights / "musicot-mini")
    shutil.copytree(tiny_musicgen_upstream, folder / "facebook" / "musicgen-small")
    monkeypatch.setattr(hub, "_FOLDER", weights)
    monkeypatch.setenv("MUSICOT_LIBRARY", str(tmp_path / "library"))
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tables_are_the_help_texts(page: Path) -> None:
    text = page.read_text()
    assert text == _with_tables(text), "run: python -m tests.test_readme"


def test_every_family_of_songs_has_its_options_told() -> None:
    told = re.findall(r"<!-- options: (\w+) -->", (README.parent / "docs/python.md").read_text())
    assert told == [family.model_type for family in families.known() if family.can("songs")]


def test_every_command_has_its_options_told() -> None:
    told = re.findall(r"<!-- flags: (\w+) -->", PAGES[1].read_text())
    assert told == list(COMMANDS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!http)([^)#\s]+)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_first_screen() -> None:
    screen = "\n".join(README.read_text().splitlines()[:24])
    assert "make demo" in screen and "make test" in screen and "docs/prompts.md" in screen
    assert screen.index("git clone") < screen.index("make demo") < screen.index("docs/media/")


def test_demo_ends_with_the_next_command() -> None:
    """Which is that of the README, and runs as it stands: a venv's programs are not on the path."""
    lines = MAKEFILE.read_text()
    recipe = lines[lines.index("\ndemo:") : lines.index("\ntest:")].strip().splitlines()[-1]
    prompt = re.search(r"^NEXT := (.*)$", lines, re.MULTILINE)[1]
    assert recipe.strip() == '@echo "== next: $(BIN)/musicot generate \\"$(NEXT)\\""'
    assert f'\n.venv/bin/musicot generate "{prompt}"' in README.read_text()


def _readme_songs() -> Iterator[tuple[list[str], str]]:
    """Songs and plans of the README's shell snippets: the command, and its prompt."""
    for snippet in re.findall(r"```sh\n(.*?)```", README.read_text(), flags=re.DOTALL):
        for line in snippet.splitlines():
            words = shlex.split(line, comments=True)
            if words[1:2] in (["generate"], ["plan"]) and not words[2].startswith("-"):
                yield words, words[2]


def test_examples_are_those_of_the_prompt_guide() -> None:
    guide = (README.parent / "docs" / "prompts.md").read_text()
    for words, prompt in _readme_songs():
        assert re.search(rf"[|,] {re.escape(prompt)}[ ,|]", guide), words


def test_samples_are_of_the_commands_beside_them() -> None:
    made = {words[words.index("-o") + 1].split(".")[0]: words for words, _ in _readme_songs()
            if "-o" in words}  # fmt: skip
    samples = sorted(MEDIA.glob("*.ogg"))
    assert len(samples) == 2
    for path in samples:
        words = made[path.stem]
        seed = words[words.index("--seed") + 1] if "--seed" in words else "0"
        seconds = words[words.index("--duration") + 1]
        assert path.stat().st_size < 400_000
        with soundfile.SoundFile(path) as file:
            assert file.frames == float(seconds) * file.samplerate
            tags = file.copy_metadata()
        assert tags["title"] == words[2]
        assert tags["comment"] == f"{words[2]} (musicot, musicot-mini, seed {seed})"


@pytest.mark.parametrize("code", _snippets("python"), ids=lambda code: code.split("\n")[3][:40])
def test_python(code: str, here: Path) -> None:
    exec(compile(code, "README.md", "exec"), {})


def test_shell(here: Path, tiny_reference: Path) -> None:
    shutil.copytree(tiny_reference, here / "runs" / "mini" / "checkpoint")
    for snippet in _snippets("sh"):
        for line in snippet.splitlines():
            words = shlex.split(line, comments=True)
            if Path(words[0]).name == "musicot":
                assert main(words[1:]) in (0, 1 if words[1] == "doctor" else 0), line
            elif words[0] == "make":
                assert f"\n{words[1]}:" in MAKEFILE.read_text()
            else:
                assert line.startswith(("git clone ", "cd musicot-mlx", ". .venv/bin/activate"))
    assert {"piano.wav", "techno.flac", "cello.mp3", "again.wav"} <= {
        path.name for path in here.iterdir()
    }
    assert (here / "again.wav").read_bytes() == (here / "piano.wav").read_bytes()


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(_with_tables(page.read_text()))
