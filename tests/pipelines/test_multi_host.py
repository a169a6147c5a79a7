"""Several processes on this machine, started by mlx.launch over its ring, against one process."""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from musicot_mlx.nn import distributed
from musicot_mlx.pipelines.multi_host import Result
from tests.support import tiny
from tests.training.test_tuning import write_song

ROOT = Path(__file__).resolve().parents[2]
LAUNCH = Path(sys.executable).with_name("mlx.launch")
SONGS = ["piano", "guitar", "drums"]


def free_port() -> int:
    """A port with a few free ones after it, most likely."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return min(sock.getsockname()[1], 60000)


def launch(script: Path) -> str:
    """What two processes say that run a script under mlx.launch."""
    # it reads its standard input all the time: a closed one would keep a core busy
    run = subprocess.Popen(
        [LAUNCH, "-n", "2", "--backend", "ring", "--starting-port", str(free_port())]
        + ["--cwd", ROOT, "--", sys.executable, script],
        env=tiny.environment(PYTHONPATH=str(ROOT)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = threading.Timer(150, run.kill)  # a hang is a failed test, not a suite that stands
    deadline.start()
    try:
        return run.stdout.read()
    finally:
        deadline.cancel()
        run.kill()


@pytest.mark.skipif(not LAUNCH.is_file() or not shutil.which("ps"), reason="needs mlx.launch, ps")
def test_two_processes_are_one(tiny_model: Path, tmp_path: Path) -> None:
    for seed in range(2):
        write_song(tmp_path / "songs" / f"{seed}.wav", seed, 8.0)
    (tmp_path / "prompts.txt").write_text("\n".join(SONGS))
    cache = tmp_path / "cache"

    def commands(folder: str) -> list[list[str]]:
        (tmp_path / folder).mkdir()
        tune = (
            f"lora --train --model {tiny_model} --data {tmp_path}/songs --cache-dir {cache} "
            f"--adapter-path {tmp_path}/{folder}/a --iters 6 --batch-size 4 --render-seconds 0 "
            "--grad-accumulation-steps 2 --save-every 2 --steps-per-eval 3 --dropout 0"
        )
        render = f"generate --model {tiny_model} --duration 2 -o {tmp_path}/{folder}/"
        return [
            tune.split(),
            [*f"{render}s.wav --prompt-file {tmp_path}/prompts.txt".split()],
            [*f"{render}best.wav -p piano --candidates 2".split()],
        ]

    for folder in ("one", "two"):
        script = (
            "import sys\nfrom musicot_mlx.cli import main\n"
            f"sys.exit(max([main(command) for command in {commands(folder)!r}]))\n"
        )
        (tmp_path / f"{folder}.py").write_text(script)
    # a process of its own too: sums are rounded as its count of threads has it
    alone = [sys.executable, str(tmp_path / "one.py")]
    subprocess.run(alone, check=True, env=tiny.environment(PYTHONPATH=str(ROOT)))
    said = launch(tmp_path / "two.py")

    one, two = (
        json.loads((tmp_path / n / "a" / "losses.json").read_text()) for n in ("one", "two")
    )
    assert len(one["train"]) == 6
    np.testing.assert_allclose(two["train"], one["train"], atol=1e-4)
    np.testing.assert_allclose(np.array(two["valid"]), np.array(one["valid"]), atol=1e-4)
    assert "s-2.wav" in said and "host 1" in said
    for name in ("s-1.wav", "s-2.wav", "s-3.wav", "s-2.json", "best.wav"):
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    chosen = [
        json.loads((tmp_path / n / "best.json").read_text())["chosen"] for n in ("one", "two")
    ]
    assert [s["seed"] for s in chosen[1]["scores"]] == [s["seed"] for s in chosen[0]["scores"]]
    assert len(list((tmp_path / "two").glob("*.wav"))) == 4, "losers leave nothing"


@pytest.mark.skipif(not LAUNCH.is_file() or not shutil.which("ps"), reason="needs mlx.launch, ps")
def test_a_lost_host_is_told(tiny_model: Path, tmp_path: Path) -> None:
    """Process 1 dies over its second song: the songs made before are whole, the rest is named."""
    (tmp_path / "prompts.txt").write_text("\n".join([*SONGS, "flute", "violin"]))
    script = tmp_path / "host.py"
    script.write_text(
        "import os, sys\n"
        "from musicot_mlx.cli import main\n"
        "from musicot_mlx.pipelines.musicot.pipeline import MusicotPipeline\n"
        "generate, made = MusicotPipeline.generate, []\n"
        "def dying(self, prompt, **options):\n"
        "    made.append(prompt)\n"
        "    if os.environ['MLX_RANK'] == '1' and len(made) == 2:\n"
        "        os._exit(9)\n"
        "    return generate(self, prompt, **options)\n"
        "MusicotPipeline.generate = dying\n"
        f"sys.exit(main('generate --model {tiny_model} --duration 2 --prompt-file "
        f"{tmp_path}/prompts.txt -o {tmp_path}/s.wav'.split()))\n"
    )
    said = launch(script)
    (line,) = [line for line in said.splitlines() if line.startswith("musicot: ")]
    assert line.startswith("musicot: a host was lost or stopped; not made: ")
    assert f"of host 1 {tmp_path}/s-4.wav" in line
    names = {path.name for path in tmp_path.glob("s-*")}
    first = {"s-1.wav", "s-1.json", "s-2.wav", "s-2.json"}
    # host 0 may have handed in its second song before it hears of the loss
    assert names in (first, first | {"s-3.wav", "s-3.json"})


def test_results_travel_whole() -> None:
    result = Result(3, 1, {"seed": 7}, {".wav": bytes(range(256)), ".json": b"{}"}, "")
    assert Result.unpack(result.pack()) == result
    assert Result.unpack(Result(0, 0, error="silent").pack()).error == "silent"


def test_alone_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLX_RANK", raising=False)
    world = distributed.World()
    assert (world.rank, world.size, world.first) == (0, 1, True)
    assert world.gather(b"x") == [b"x"] and world.text_from_first("y") == "y"
    assert os.environ.get("MLX_RANK") is None
