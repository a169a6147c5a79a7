"""The rules of the house, held by reading the source: floors, packages, what may import what."""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from musicot_mlx.pipelines.families import known
from tests.support import tiny

ROOT = Path(__file__).resolve().parent.parent
FLOORS = {
    "cli": 10,
    "studio": 9,
    "training": 8,
    "library": 8,
    "evaluation": 8,
    "pipelines": 7,
    "generation": 6,
    "cpu": 5,
    "models": 4,
    "nn": 3,
    "audio": 2,
    "pictures": 2,
    "weights": 2,
    "tokens": 1,
}
ANYWHERE = {"errors", "atomic", "texts", ""}  # "" is the package itself
TORCH = {"torch", "transformers", "diffusers", "vector_quantize_pytorch", "accelerate"}
SOURCES = sorted([*(ROOT / "musicot_mlx").rglob("*.py"), *(ROOT / "convert").rglob("*.py")])


def _module(path: Path) -> str:
    """Dotted name that the file is imported by."""
    relative = path.relative_to(ROOT).with_suffix("")
    parts = (
        relative.parts if relative.parts[0] == "musicot_mlx" else ("musicot_mlx", *relative.parts)
    )
    return ".".join(parts).removesuffix(".__init__")


MODULES = {_module(path): path for path in SOURCES}


def _imports(path: Path, *, top_only: bool = False) -> Iterator[str]:
    """Every imported module, `from a import b` as a.b where that is a module of ours."""

    def walk(node: ast.AST) -> Iterator[ast.AST]:
        for child in ast.iter_child_nodes(node):
            guarded = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test)
            lazy = isinstance(child, (ast.FunctionDef, ast.Lambda, ast.AsyncFunctionDef))
            if guarded or (top_only and lazy):
                continue
            yield child
            yield from walk(child)

    for node in walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; write the whole name"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in MODULES else node.module


def _place(module: str) -> str:
    """The floor's name of one of our modules."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down(path: Path) -> None:
    here = _place(_module(path))
    for name in _imports(path):
        if name.split(".")[0] != "musicot_mlx":
            continue
        there = _place(name)
        if there in ANYWHERE or there == here or here in ("", "__main__"):
            continue
        if here == "convert":
            continue  # off the floors: it names what it converts to
        if here == "reference":
            assert there in ("audio", "tokens", "weights"), f"reference imports {name}"
            continue
        if there in ("convert", "reference"):
            assert here in ("cli", "pipelines"), f"{here} imports {name}"
            assert name not in set(_imports(path, top_only=True)), f"{name} must be lazy"
            continue
        assert FLOORS[there] < FLOORS[here], f"{here} ({FLOORS[here]}) imports {name}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_torch_stays_in_reference(path: Path) -> None:
    here = _place(_module(path))
    if here == "reference" or _module(path).startswith("musicot_mlx.convert.check"):
        return
    lazy = here == "convert"
    found = {name.split(".")[0] for name in _imports(path, top_only=lazy)} & TORCH
    assert not found, f"{path.name} imports {found}"


def test_reference_needs_no_mlx() -> None:
    reached, todo = set(), [name for name in MODULES if _place(name) == "reference"]
    while todo:
        name = todo.pop()
        if name in reached or name not in MODULES:
            continue
        reached.add(name)
        for other in _imports(MODULES[name]):
            assert other.split(".")[0] not in ("mlx", "mlx_lm"), f"{name} imports {other}"
            todo.append(other)


def test_only_the_loader_and_one_seam_reach_the_cpu_wing() -> None:
    """Deleting cpu/ leaves everything running: nothing else names it, and these do so lazily."""
    named = {
        str(path.relative_to(ROOT))
        for name, path in MODULES.items()
        if _place(name) != "cpu" and "musicot_mlx.cpu" in path.read_text(encoding="utf-8")
    }
    assert named == {
        "musicot_mlx/__init__.py",  # OpenBLAS must come before MLX
        "musicot_mlx/generation/device.py",
    }
    for name, path in MODULES.items():
        if _place(name) != "cpu":
            assert not [found for found in _imports(path) if _place(found) == "cpu"], path


def test_one_file_asks_for_the_device() -> None:
    """Networks, samplers and pipelines have no branch for one; a report may name it."""
    words = ("default_device", "mx.Device(", "metal.is_available", "is_available(mx.gpu")
    asking = {
        str(path.relative_to(ROOT))
        for name, path in MODULES.items()
        if any(word in path.read_text(encoding="utf-8") for word in words)
        and _place(name) not in ("cpu", "reference")
    }
    reports = {"musicot_mlx/evaluation/speed/hardware.py", "musicot_mlx/cli/doctor.py"}
    reports.add("musicot_mlx/evaluation/deep_checks.py")  # compares the device with the CPU
    assert asking - reports == {"musicot_mlx/generation/device.py"}
    # and the loader alone asks that file which device it is; others ask for what follows
    asked = {
        str(path.relative_to(ROOT))
        for name, path in MODULES.items()
        if "on_cpu()" in path.read_text(encoding="utf-8") and _place(name) != "cpu"
    }
    assert asked - reports == {
        "musicot_mlx/generation/device.py",
        "musicot_mlx/pipelines/parts.py",
    }


def test_package_list_is_the_folders() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = set(project["tool"]["setuptools"]["packages"])
    assert listed == {_module(path) for path in SOURCES if path.name == "__init__.py"}


def test_weights_folders_are_packaged() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["musicot_mlx.weights"]
    weights = ROOT / "musicot_mlx" / "weights"
    packaged = {file for pattern in patterns for file in weights.glob(pattern)}
    for folder in (path for path in weights.iterdir() if (path / "config.json").is_file()):
        assert packaged >= set(folder.iterdir())
        assert sum(file.stat().st_size for file in folder.iterdir()) <= 40e6


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_each_file_opens_with_its_docstring(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


def test_a_file_holds_an_idea() -> None:
    """No file, of Python or of the page, is over 600 lines."""
    folders = ("musicot_mlx", "convert", "benchmarks", "tests")
    kinds = ("py", "js", "css", "html")
    written = [each for f in folders for kind in kinds for each in (ROOT / f).rglob(f"*.{kind}")]
    assert {path.suffix for path in written} == {f".{kind}" for kind in kinds}
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in written}
    assert {path: count for path, count in lines.items() if count > 600} == {}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_linear_algebra_names_its_stream(path: Path) -> None:
    # All of mx.linalg but norm and cross runs on the CPU alone, so on Metal it raises without
    # stream=; a CPU-only machine can't notice by running.
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("mx.linalg."):
            name = ast.unparse(node.func).rpartition(".")[2]
            keywords = {keyword.arg for keyword in node.keywords}
            assert name in ("norm", "cross") or "stream" in keywords, ast.unparse(node)


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from musicot_mlx.cli import COMMANDS, main\n"
        "assert main(['--help']) == 0\n"
        "assert all(main([name, '--help']) == 0 for name in COMMANDS)\n"
        "heavy = {'mlx', 'numpy', 'torch', 'soundfile', 'transformers', 'lancedb'}\n"
        "heavy &= set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL, cwd=ROOT)


def test_songs_need_no_torch(tiny_model: Path, tmp_path: Path) -> None:
    # mlx-lm pulls transformers, which takes torch wherever it finds it: here importing it raises.
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['torch'] = None\n")
    env = tiny.environment(PYTHONPATH=f"{tmp_path}:{ROOT}")
    command = [sys.executable, "-m", "musicot_mlx"]
    subprocess.run(
        [*command, "generate", "--model", tiny_model, "-p", "piano", "--duration", "2"]
        + ["-o", tmp_path / "a.wav"],
        check=True,
        env=env,
        cwd=tmp_path,
    )
    subprocess.run(
        [*command, "plan", "--model", tiny_model, "-p", "piano", "--png", tmp_path / "a.png"],
        check=True,
        env=env,
        cwd=tmp_path,
    )
    assert (tmp_path / "a.wav").stat().st_size and (tmp_path / "a.png").stat().st_size


def test_package_import_is_lazy_and_openblas_can_be_off() -> None:
    code = (
        "import sys, musicot_mlx\n"
        "assert 'mlx' not in sys.modules and 'numpy' not in sys.modules\n"
        "print('openblas' in open('/proc/self/maps').read())\n"
    )
    if sys.platform != "linux":
        code = code.rpartition("print")[0]
    off = subprocess.run(
        [sys.executable, "-c", code],
        env=tiny.environment(MUSICOT_NO_OPENBLAS="1"),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert off.stdout.strip() in ("False", "")


def _compared(path: Path) -> Iterator[str]:
    """Texts that the file compares something with, by == or within a list written out."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        sides = [node.left, *node.comparators] if isinstance(node, ast.Compare) else []
        for side in sides:
            listed = side.elts if isinstance(side, (ast.Tuple, ast.List, ast.Set)) else [side]
            membership = isinstance(node.ops[0], (ast.In, ast.NotIn)) and side is node.left
            for each in [] if membership else listed:
                if isinstance(each, ast.Constant) and isinstance(each.value, str):
                    yield each.value


def test_no_family_is_asked_its_name() -> None:
    # what a family is, its record says; its own reader may look for it in a checkpoint
    names = {name for each in known() for name in (each.model_type, each.title)}
    for path in SOURCES:
        if path.is_relative_to(ROOT / "convert" / "families"):
            continue
        if path.is_relative_to(ROOT / "convert" / "keymaps"):
            continue
        assert not names & set(_compared(path)), path


def test_what_families_share_names_none_of_them() -> None:
    folders = {each.parts.rpartition(".")[0] for each in known()} - {"musicot_mlx.pipelines"}
    assert len(folders) > 2
    for path in (ROOT / "musicot_mlx" / "pipelines" / "plans").glob("*.py"):
        for name in _imports(path):
            assert not name.startswith(tuple(folders)), f"{path.name} imports {name}"
