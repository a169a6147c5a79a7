"""musicot bench, what it counts, and memory foreseen. Counts guard the speed: times would be noise.

A count that grew is a regression to explain, one that fell is a number to lower here.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import mlx.core as mx
import pytest

import musicot_mlx as mc
from musicot_mlx.cli import main
from musicot_mlx.errors import MusicotError
from musicot_mlx.evaluation.speed import bench as speed
from musicot_mlx.evaluation.speed import cost, hardware, torch_comparison
from musicot_mlx.generation import semantic
from musicot_mlx.pipelines import memory, parts
from musicot_mlx.pipelines.musicot import FAMILY as MUSICOT
from musicot_mlx.pipelines.requantize import store_with_bits
from tests.models.test_semantic_lm import tiny_lm
from tests.support import tiny

ON_CPU = mx.default_device() == mx.Device(mx.cpu)


@pytest.fixture(scope="module")
def model(tiny_model: Path):
    return mc.load(tiny_model)


# --- counts per step --------------------------------------------------------------------------


def test_tokens_wait_once_a_second() -> None:
    counts = cost.token_evals(tiny_lm(), tokens=100)
    assert counts["eval"] <= 2, "reading a token back stops the device at every step"
    assert counts["async_eval"] == 100, "one step ahead, each step queued once"


def test_passes_of_a_song(model, monkeypatch: pytest.MonkeyPatch) -> None:
    passes, tokens = [], []
    step, forward = type(model.diffusion).step, semantic.DecodingRun._forward
    monkeypatch.setattr(
        type(model.diffusion),
        "step",
        lambda self, x, *a: passes.append(len(x)) or step(self, x, *a),
    )
    monkeypatch.setattr(
        semantic.DecodingRun,
        "_forward",
        lambda self, x, cache: tokens.append(x.shape) or forward(self, x, cache),
    )
    song = model.generate("piano", duration=6, seed=1)
    config = model.diffusion.config
    latents = 6 * 8000 / 256
    windows = 1 + -(
        -(latents - config.window_frames) // (config.window_frames - config.overlap_frames)
    )
    assert sum(passes) == 2 * tiny.CONFIG["sampling"]["steps"] * windows, "rows through the network"
    drawn = song.plan.codes.size + song.codes.size
    prefixes = 4  # two rows before the thoughts, two before the audio
    assert len(tokens) == prefixes + drawn - 2, "each token is one pass of both rows"
    assert {shape[0] for shape in tokens} == {1, 2}


def test_bytes_and_dtype_of_a_token(model) -> None:
    lm = model.semantic_lm
    size, values = cost.linear_weights(lm.model)
    config = tiny.CONFIG["semantic_lm"]
    hidden, wide = config["hidden_size"], config["intermediate_size"]
    assert values == config["num_hidden_layers"] * (4 * hidden**2 + 3 * hidden * wide)
    assert size == values * lm.dtype.size, "weights are read in the dtype that they run in"
    song = cost.audio_tokens(lm, frames=100)
    share = config["audio_codebook_size"] * hidden * lm.dtype.size
    cache = 2 * 2 * config["num_hidden_layers"] * hidden * lm.dtype.size * 50  # mean length
    assert song.bytes_per_step == pytest.approx(size + share + cache)
    run, ids = cost._prefilled(lm)
    run.feed(ids)
    assert run.log_probabilities(lm.head(0, 8), 2.0).dtype == mx.float32
    assert {layer.keys.dtype for layer in run.cache} == {lm.dtype}


# --- memory -----------------------------------------------------------------------------------


def test_weights_are_foreseen_to_the_byte(tiny_model: Path, tmp_path: Path) -> None:
    from mlx.utils import tree_flatten

    for bits in (None, 8):
        folder = tiny_model if bits is None else tmp_path / "small"
        if bits:
            store_with_bits(tiny_model, folder, bits=bits, group_size=32)
        made = mc.load(folder)
        parts = [made.rvq, made.semantic_lm, made.semantic_tokenizer, made.diffusion, made.vae]
        loaded = sum(
            v.nbytes for p in (*parts, made.clap.clap) for _, v in tree_flatten(p.parameters())
        )
        assert memory.predict(folder, duration=5).weights == pytest.approx(loaded, rel=0.01)


def test_a_short_budget_is_kept_or_refused(tiny_model: Path) -> None:
    roomy = memory.plan(tiny_model, duration=60, max_memory_gb=1.0)
    assert not roomy.stream and roomy.piece == 512
    tight = memory.plan(tiny_model, duration=300, max_memory_gb=0.1)
    assert tight.resident <= tight.budget and tight.stream
    with pytest.raises(MusicotError, match="at least 0.09 GB"):
        memory.plan(tiny_model, duration=60, max_memory_gb=0.05)


def test_generate_within_a_budget(tiny_model: Path, tmp_path: Path, capsys) -> None:
    command = ["generate", "--model", str(tiny_model), "-p", "piano", "--duration", "3"]
    plain, bounded = tmp_path / "a.wav", tmp_path / "b.wav"
    assert main([*command, "-o", str(plain)]) == 0
    limit = mx.set_cache_limit(1 << 40)
    try:
        assert main([*command, "-o", str(bounded), "--max-memory-gb", "0.5"]) == 0
        assert "memory plan:" in capsys.readouterr().err
        assert main([*command, "-o", str(plain) + "2.wav", "--max-memory-gb", "0.06"]) == 2
        assert "takes at least" in capsys.readouterr().err
    finally:
        mx.set_cache_limit(limit)
    assert plain.read_bytes() == bounded.read_bytes()


# --- the command ------------------------------------------------------------------------------


def test_bench_writes_rows_and_prints_the_table_of_them(
    tiny_model: Path, tmp_path: Path, capsys
) -> None:
    path = tmp_path / "rows.json"
    command = ["bench", "--model", str(tiny_model), "--duration", "1.5", "-n", "1"]
    assert main([*command, "--json", str(path)]) == 0
    results = json.loads(path.read_text())
    (row,) = results["rows"]
    assert capsys.readouterr().out.strip() == results["table"]
    assert speed.table(results) in results["table"]
    assert list(row["stages"]) == [*MUSICOT.stages.values(), "file"]
    assert row["rtf"]["median"] == pytest.approx(row["total"]["median"] / 1.5)
    assert 0 < row["first_audio_seconds"]["median"] < row["cold_seconds"]["high"] + 10
    assert row["memory"]["process_gb"] > row["memory"]["peak_active_gb"] > 0
    assert set(row["bounds"]) == set(hardware.PUBLISHED_BANDWIDTH)
    for name in ("chip", "cores", "memory_gb", "system", "packages", "power", "blas", "device"):
        assert row["machine"][name]


def test_against_torch_on_the_same_weights(tiny_model: Path, tmp_path: Path, capsys) -> None:
    pytest.importorskip("torch")
    path = tmp_path / "against.json"
    command = ["bench", "--model", str(tiny_model), "--against", "torch", "--shapes", "model"]
    assert main([*command, "-n", "1", "--json", str(path)]) == 0
    results = json.loads(path.read_text())
    assert capsys.readouterr().out.strip() == results["table"]
    stages = [row["what"].rpartition(": ")[2] for row in results["rows"]]
    assert stages == ["audio tokens", "diffusion", "decode", "total"]
    assert all(row["MLX"] > 0 and row["PyTorch"] > 0 for row in results["rows"])
    assert results["machine"]["torch_threads"] >= 1


def test_a_song_of_one_window_has_whole_codes() -> None:
    config = {"diffusion": {"window_seconds": 5.0, "latent_rate": 44100 / 1024}}
    assert torch_comparison.one_window(config) == 4.96


@pytest.mark.skipif(sys.platform != "linux", reason="OpenBLAS is loaded on Linux alone")
def test_pytorch_keeps_its_own_blas() -> None:
    code = "print('openblas' in open('/proc/self/maps').read())"
    command = [sys.executable, "-c", f"import musicot_mlx  # musicot_mlx.reference.train\n{code}"]
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "False"


def test_a_run_that_fails_says_why(tmp_path: Path, capsys) -> None:
    assert main(["bench", "--model", str(tmp_path / "none"), "-n", "1"]) in (1, 2)
    assert "none" in capsys.readouterr().err


def test_ceilings_take_long_enough_to_be_measured() -> None:
    """On a GPU one product of 1024 rows is less than starting and waiting for it; so that many are
    queued at once there is for `bench` on such a machine to show: no share above 100 %.
    """
    runs: list[int] = []

    def quick(count: int) -> None:
        runs.append(count)
        time.sleep(0.001 + 0.0005 * count)

    seconds, count = hardware._per_step(quick)
    assert count >= 16 and runs[-1] == count
    assert seconds < 0.0015, "starting no longer counts"
    flops, said = hardware.multiplied("float32")
    assert flops > 1e8 and said.endswith("rows in float32")


def test_memory_of_a_mac_is_its_footprint(monkeypatch: pytest.MonkeyPatch) -> None:
    """There IOAccelerator memory is in phys_footprint, not in RSS. Whether libproc answers so is
    for a Mac to show; here it is asked as its header says.
    """

    class Libproc:
        def proc_pid_rusage(self, pid: int, version: int, words) -> int:
            assert pid == os.getpid() and version == 4
            words[2 + 6], words[2 + 7], words[2 + 28] = 100, 200, 300  # resident, now, at most
            return 0

    monkeypatch.setattr(hardware.sys, "platform", "darwin")
    monkeypatch.setattr(hardware.ctypes, "CDLL", lambda path: Libproc())
    assert hardware.peak_resident() == 300


def test_a_gpu_keeps_a_bounded_store_of_freed_buffers(tiny_model: Path) -> None:
    """Metal's own limit is the machine's memory. A CPU keeps none, so only the limit is seen here;
    `doctor --deep` on a GPU tells what a long song leaves.
    """
    before = mx.set_cache_limit(1 << 40)
    try:
        parts.bound_cache.cache_clear()
        mc.load(tiny_model)
        assert mx.set_cache_limit(1 << 28) == parts.CACHE_BYTES
        parts.bound_cache.cache_clear()
        mc.load(tiny_model)
        assert mx.set_cache_limit(before) == 1 << 28, "a lower limit is someone's wish"
    finally:
        mx.set_cache_limit(before)


def test_shares_of_the_ceilings() -> None:
    costs = {"decode": cost.Cost(steps=10, bytes_per_step=1e9, flops_per_step=5e9)}
    ceilings = {"copy_bytes_per_second": 20e9, "matmul_flops": 100e9}
    row = cost.roofline(costs, {"decode": 2.0}, ceilings, duration=4.0)["decode"]
    assert row["share_of_copy"] == pytest.approx(0.25)
    assert row["share_of_matmul"] == pytest.approx(0.25)
    assert row["flops_per_second_of_audio"] == pytest.approx(12.5e9)
    assert row["steps_per_second"] == 5


# --- a family without plans -------------------------------------------------------------------


def test_bench_of_musicgen(tiny_musicgen_upstream: Path, tmp_path: Path, capsys) -> None:
    path = tmp_path / "rows.json"
    command = ["bench", "--model", str(tiny_musicgen_upstream), "--duration", "1", "-n", "1"]
    command += ["--bits", "8", "--max-memory-gb", "1", "--json", str(path)]
    assert main(command) == 0
    (row,) = json.loads(path.read_text())["rows"]
    assert list(row["stages"]) == ["text encoding", "audio tokens", "decode", "file"]
    assert row["roofline"]["audio tokens"]["steps_per_second"] > 0
    assert row["memory"]["predicted_peak_active_gb"] > 0
    assert "audio tokens" in capsys.readouterr().out
    assert main(["bench", "--model", str(tiny_musicgen_upstream), "--against", "torch"]) == 2
    assert "no PyTorch side" in capsys.readouterr().err


def test_memory_of_candidates_and_of_a_checkpoint(
    tiny_model: Path, tiny_musicgen_upstream: Path
) -> None:
    alone = memory.plan(tiny_model, duration=30, max_memory_gb=4).footprint
    many = memory.plan(tiny_model, duration=30, max_memory_gb=4, songs=16).footprint
    assert many == memory.predict(tiny_model, duration=30, songs=16)
    assert many.stages["audio tokens"] == 16 * alone.stages["audio tokens"]
    # a checkpoint for PyTorch is converted, as loading would do
    found = memory.plan(tiny_musicgen_upstream, duration=5, max_memory_gb=4)
    assert found.piece is None and "latents" not in found.line()


def test_memory_of_what_makes_no_song(tmp_path: Path) -> None:
    from musicot_mlx.models.rvq import ResidualVQ, RVQConfig
    from musicot_mlx.weights.checkpoint import save_checkpoint

    sizes = {"dim": 4, "codebooks": 1, "codebook_size": 2}
    arrays = {"rvq.codebooks.0.weight": ResidualVQ(RVQConfig(**sizes)).codebooks[0].weight}
    folder = save_checkpoint(tmp_path / "rvq", {"model_type": "rvq", "rvq": sizes}, arrays)
    with pytest.raises(
        MusicotError, match="makes no songs; pass a MusiCoT, MusicGen, Magenta RealTime 2 or MuMu"
    ):
        memory.predict(folder, duration=5)
