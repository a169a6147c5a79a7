"""The README and the pages it leads to are executed: snippets run, tables are generated.

`python -m tests.test_readme` writes the tables anew.
"""

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from musicot_mlx.cli import COMMANDS, flags, main
from musicot_mlx.cli.app import arguments
from musicot_mlx.weights import hub

README = Path(__file__).resolve().parent.parent / "README.md"
DOCS = ("commands.md", "training.md", "prompts.md")
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


def _with_tables(text: str) -> str:
    """README text with every generated table in place."""

    def flags(match: re.Match[str]) -> str:
        return f"<!-- flags: {match[1]} -->\n{_flag_table(match[1])}\n"

    text = re.sub(r"<!-- flags: (\w+) -->\n(?:\|.*\n)*", flags, text)
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
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tables_are_the_help_texts(page: Path) -> None:
    text = page.read_text()
    assert text == _with_tables(text), "run: python -m tests.test_readme"


def test_every_command_has_its_options_told() -> None:
    told = re.findall(r"<!-- flags: (\w+) -->", PAGES[1].read_text())
    assert told == list(COMMANDS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!http)([^)#\s]+)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_first_screen() -> None:
    screen = "\n".join(README.read_text().splitlines()[:24])
    assert "make demo" in screen and "make test" in screen and "musicot-mini" in screen


@pytest.mark.parametrize("code", _snippets("python"), ids=lambda code: code.split("\n")[3][:40])
def test_python(code: str, here: Path) -> None:
    exec(compile(code, "README.md", "exec"), {})


def test_shell(here: Path, tiny_reference: Path) -> None:
    shutil.copytree(tiny_reference, here / "runs" / "mini" / "checkpoint")
    for snippet in _snippets("sh"):
        for line in snippet.splitlines():
            words = shlex.split(line, comments=True)
            if words[0] == "musicot":
                assert main(words[1:]) in (0, 1 if words[1] == "doctor" else 0), line
            else:
                assert (
                    words[0] == "make"
                    and f"\n{words[1]}:" in (README.parent / "Makefile").read_text()
                )
    assert {"piano.wav", "techno.flac", "cello.mp3", "again.wav"} <= {
        path.name for path in here.iterdir()
    }
    assert (here / "again.wav").read_bytes() == (here / "piano.wav").read_bytes()


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(_with_tables(page.read_text()))
