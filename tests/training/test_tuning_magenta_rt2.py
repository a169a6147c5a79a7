"""Magenta RealTime 2's language model tuned: what it learns is what generation steps through."""

import json
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_map

import musicot_mlx as mc
from musicot_mlx.cli import main
from musicot_mlx.generation.magenta_rt2 import FrameRun
from musicot_mlx.models.depthformer import Depthformer
from musicot_mlx.nn.adapters import add_layers
from musicot_mlx.pipelines.magenta_rt2.pipeline import MagentaPipeline
from musicot_mlx.tokens.magenta_rt2 import frame_ids
from musicot_mlx.training.magenta_rt2 import DepthformerTask, Frames, frame_loss
from musicot_mlx.training.musicot import LearningOptions
from musicot_mlx.training.options import LORA, LoraOptions
from musicot_mlx.training.trainer import Trainer, checkpointed
from musicot_mlx.training.tune import songs_of, task_of
from tests.support import tiny_magenta_model
from tests.training.test_tuning import options_for, run, write_song

WIDE = {
    "condition_dim": 32, "style_dim": 32, "temporal_dim": 32, "temporal_ffn_dim": 64,
    "depth_dim": 32, "depth_ffn_dim": 32, "head_dim": 16,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_magenta_model.write(tmp_path_factory.mktemp("magenta") / "tiny")


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Songs of 5 to 7 s, of which a thought is one: two pieces each at most."""
    place = tmp_path_factory.mktemp("songs")
    for seed in range(4):
        write_song(place / f"{seed}.wav", seed, 5.0 + 0.7 * seed)
    return place


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def lm() -> Depthformer:
    return tiny_magenta_model.pipeline().lm


def excerpts(lm: Depthformer, *frames: int, begun: bool = False) -> list[Frames]:
    """Random codes, the style of which changes in the middle."""
    rng = np.random.default_rng(0)
    found = []
    for number, count in enumerate(frames):
        styles = [frame_ids(rng.integers(0, 9, 4)), frame_ids([], drums="none")]
        codes = rng.integers(0, lm.config.codebook_size, (lm.config.codebooks, count + 1))
        codes = codes.astype(np.int32)
        requests = np.stack(styles)[(np.arange(count) >= count // 2).astype(int)]
        before = codes[:, 0] if begun else None
        found.append(Frames(f"song {number}", codes[:, 1:], before, requests))
    return found


@pytest.mark.parametrize("begun", [False, True], ids=["from silence", "from a frame"])
def test_the_loss_is_of_what_generation_steps_through(lm: Depthformer, begun: bool) -> None:
    """Teacher-forced logits of every code are those of a run that is fed the same frames."""
    (item,) = excerpts(lm, 13, begun=begun)
    config, frames = lm.config, item.codes.shape[1]
    lead = 7 if begun else 0  # frames of the song before the excerpt
    requests = np.concatenate([np.tile(item.requests[:1], (lead, 1)), item.requests])
    stepping = FrameRun(lm, requests[None], temperature=0.0)
    stepping.begin(lead, None if item.before is None else mx.array(item.before)[None])
    expected = np.zeros((frames, config.codebooks, config.codebook_size), np.float32)
    for frame in range(frames):
        x, _ = lm.step(*stepping._inputs())
        before = [None] * config.depth_layers
        for level in range(config.codebooks):
            logits, before = lm.level(level, x, before)
            expected[frame, level] = logits[0]
            x = lm.level_input(level, mx.array(item.codes[level, frame])[None])
        stepping.feed(mx.array(item.codes[:, frame])[None])
    before = None if item.before is None else lm.ids(mx.array(item.before))[None]
    logits = lm(mx.array(item.codes.T)[None], lm.condition(mx.array(item.requests))[None], before)
    np.testing.assert_allclose(logits[0], expected, atol=1e-4)
    chosen = np.take_along_axis(expected, item.codes.T[..., None], -1)[..., 0].astype(np.float64)
    likelihood = chosen - np.log(np.exp(expected.astype(np.float64)).sum(-1))
    assert frame_loss(lm, [item]).item() == pytest.approx(-likelihood.sum(), rel=1e-5)


def test_rows_do_not_hear_each_other(lm: Depthformer) -> None:
    items = excerpts(lm, 7, 13, 4) + excerpts(lm, 9, begun=True)
    alone = sum(frame_loss(lm, [item]).item() for item in items)
    assert frame_loss(lm, items).item() == pytest.approx(alone, rel=1e-5)


def test_gradients_are_the_slope_of_the_loss(lm: Depthformer) -> None:
    """By finite differences along the gradient of each network, of all of its parameters."""
    items = excerpts(lm, 9, 12)
    weight = sum(each.codes.size for each in items)

    def loss() -> mx.array:
        return frame_loss(lm, items) / weight

    _, found = nn.value_and_grad(lm, loss)()
    start = tree_map(mx.array, lm.trainable_parameters())
    for part in ("layers", "depth", "conditioner", "tokens"):
        size = mx.sqrt(sum(mx.square(g).sum() for _, g in tree_flatten(found[part]))).item()
        assert size > 1e-3, "gradients should be lively"
        sides = []
        for step in (0.004, -0.004):
            moved = tree_map(lambda p, g, s=step / size: p + s * g, start[part], found[part])
            lm.update({part: moved})
            sides.append(loss().item())
        lm.update({part: start[part]})
        assert (sides[0] - sides[1]) / 0.008 == pytest.approx(size, rel=0.01), part


def test_checkpointed_blocks_have_all_gradients(lm: Depthformer) -> None:
    items = excerpts(lm, 9)
    names = add_layers(lm, kind="lora", num_layers=-1, **LORA)
    assert any(name.startswith("depth.layers.0.ffn.up") for name in names)
    assert any(name.startswith("layers.1.cross_attn.key") for name in names)
    lm.update(tree_map(lambda value: value + 0.02, lm.trainable_parameters()))
    step = nn.value_and_grad(lm, lambda: frame_loss(lm, items))
    _, plain = step()
    mx.eval(plain)
    with checkpointed(lm.blocks):
        _, saving = step()
        mx.eval(saving)
    others = dict(tree_flatten(saving))
    for name, value in tree_flatten(plain):
        assert mx.abs(value).max().item() > 0, name
        np.testing.assert_allclose(others[name], value, rtol=1e-3, atol=1e-5, err_msg=name)


def test_a_batch_is_what_the_songs_hold(folder: Path, songs: Path, cache: Path) -> None:
    options = options_for(folder, songs, cache, Path("unused"))
    model = mc.load(folder)
    task = task_of(model, options)
    found, used, skipped = songs_of(task, options, say=lambda line: None, progress=None)
    assert (used, skipped) == (4, 0)
    song = {song.name: song for song in found["train"]}
    rng = np.random.default_rng(0)
    items = [task.draw(found["train"], rng) for _ in range(200)]
    heard = worded = 0
    for item in items:
        name, _, seconds = item.name.rpartition(" + ")
        whole, step = song[name], round(float(seconds.split()[0]) / 0.25)
        start = round(step * 0.25 * 25)
        np.testing.assert_array_equal(item.codes, whole.codes[:, start : start + 50])
        assert (item.before is None) == (start == 0)
        if start:
            np.testing.assert_array_equal(item.before, whole.codes[:, start - 1])
        assert (item.requests[:25] == item.requests[0]).all()
        assert (item.requests[25:] == item.requests[25]).all()
        styles = item.requests[[0, 25], :4] - 7
        windows = np.minimum([step, step + 4], whole.thoughts.shape[1] - 1)
        if (styles == -1).all():
            continue
        by_ear = (styles == whole.thoughts[:, windows].T).all()
        heard += by_ear
        worded += all(
            (style == whole.words[window].T).all(axis=1).any()
            for style, window in zip(styles, windows, strict=True)
        )
        assert (item.requests[0] == frame_ids(styles[0], strengths=(3.0, 1.0, 1.0))).all()
    assert heard > 60 and worded > 60 and 8 <= 200 - heard - worded <= 35
    held = task.held_out(found["valid"], -1)
    assert {item.name for item in held} == {item.name for item in task.held_out(found["valid"], -1)}
    short = DepthformerTask(model, LearningOptions(max_seq_length=30))
    assert short.draw(found["train"], rng).codes.shape == (12, 30)


@pytest.mark.parametrize("kind", ["lora", "dora", "full"])
def test_tuning(folder: Path, songs: Path, cache: Path, tmp_path: Path, kind: str) -> None:
    """The loss falls, a broken run goes on as the unbroken one, and the adapter is what is loaded;
    full tuning is fused as well.
    """

    def options(name: str) -> LoraOptions:
        changes = {"fine_tune_type": kind, "lora_parameters": {"dropout": 0.1}}
        return options_for(folder, songs, cache, tmp_path / name, **changes)

    whole = run(options("whole"))
    run(options("broken"), stop=6)
    second = run(options("broken"), resume=True)
    assert second.log.train == whole.log.train and second.log.valid == whole.log.valid
    for name, value in whole.arrays().items():
        assert (value == second.arrays()[name]).all(), name
    assert whole.log.after < whole.log.before
    assert any(name.startswith("lm.depth.layers.0") for name in whole.arrays())
    loaded = mc.load(folder, adapter_path=tmp_path / "whole")
    assert loaded.adapter_keys == len(whole.arrays())
    items = whole.checks[:2]
    whole.restore_best()
    tuned = loss_of(whole, items)
    whole.task.model = loaded
    assert loss_of(whole, items) == pytest.approx(tuned, rel=1e-4)
    fused = tmp_path / "fused"
    code = main(
        f"fuse --model {folder} --adapter-path {tmp_path}/whole --save-path {fused}".split()
    )
    assert code == 0
    whole.task.model = mc.load(fused)
    assert loss_of(whole, items) == pytest.approx(tuned, rel=1e-4)


def loss_of(made: Trainer, items: list[Frames]) -> float:
    made.task.module.eval()
    return made.task.loss(items).item()


def test_a_quantised_model(songs: Path, cache: Path, tmp_path: Path) -> None:
    packed = tiny_magenta_model.write(tmp_path / "packed", bits=8, **WIDE)
    made = run(options_for(packed, songs, cache, tmp_path / "a"))
    assert made.log.after < made.log.before
    loaded = mc.load(packed, adapter_path=tmp_path / "a")
    assert loaded.adapter_keys == len(made.arrays())
    plain, tuned = (sound(model) for model in (mc.load(packed), loaded))
    assert (plain.codes != tuned.codes).any()


def sound(model: MagentaPipeline) -> mc.Song:
    return model.generate("piano", duration=1, loudness=False)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_sixteen_bits(folder: Path, songs: Path, cache: Path, tmp_path: Path, dtype) -> None:
    """The layers stay as they are stored, what is learned is float32."""
    model = mc.load(folder)
    model.lm.set_dtype(dtype)
    options = options_for(folder, songs, cache, tmp_path / "a", iters=8)
    task = task_of(model, options)
    found, _, _ = songs_of(task, options, say=lambda line: None, progress=None)
    mx.random.seed(0)
    add_layers(task.module, kind="lora", num_layers=-1, **options.lora_parameters)
    made = Trainer(task, found["train"], found["valid"], options, config={}, say=lambda line: None)
    made.run()
    assert made.log.after < made.log.before
    assert model.lm.depth.layers[0].ffn.up.linear.weight.dtype == dtype


def test_the_whole_command(
    folder: Path,
    songs: Path,
    cache: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Learn, prove by MusicCoCa's own ear, test, and hear the adapter in a song."""
    monkeypatch.setattr("musicot_mlx.pipelines.song.check_render", lambda *_: None)
    for split, numbers in (("train", (1, 2)), ("valid", (0,)), ("test", (3,))):
        rows = [{"audio": str(songs / f"{i}.wav"), "caption": "calm piano"} for i in numbers]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    out = tmp_path / "out"
    base = f"lora --model {folder} --data {tmp_path} --adapter-path {out} --cache-dir {cache} "
    flags = (
        "--train --test --iters 6 --batch-size 2 --learning-rate 1e-2 --steps-per-eval 3 "
        "--render-seconds 1 --render-songs 1 --trigger drums --val-batches 1"
    )
    assert main((base + flags).split()) == 0, capsys.readouterr().err
    proof = json.loads((out / "proof.json").read_text())
    assert proof["part"] == "lm" and proof["loss_after"] < proof["loss_before"]
    assert proof["keys_applied"] == len(mx.load(str(out / "adapters.safetensors")))
    assert -1 <= proof["similarity_before"] <= 1 and -1 <= proof["similarity_after"] <= 1
    renders = {path.name: path.read_bytes() for path in (out / "renders").iterdir()}
    assert renders["before-0.wav"] != renders["after-0.wav"]
    capsys.readouterr()
    assert main((base + "--test").split()) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"Test loss {proof['test_loss']:.4f}"
    song = f"generate --model {folder} -p piano --duration 1 -o {tmp_path}/"
    assert main(f"{song}plain.wav".split()) == 0
    assert main(f"{song}tuned.wav --adapter-path {out}".split()) == 0
    assert (tmp_path / "plain.wav").read_bytes() != (tmp_path / "tuned.wav").read_bytes()
