"""Tuning: data sets good and bad, the loop and its resume, the proof, on the 16-channel model."""

import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import pytest
import soundfile

import musicot_mlx as mc
from musicot_mlx.cli import main
from musicot_mlx.errors import MusicotError, RunError
from musicot_mlx.nn.adapters import add_layers
from musicot_mlx.nn.mlx_lm import reporting_callbacks
from musicot_mlx.training import trainer as trainer_module
from musicot_mlx.training.data import read_data
from musicot_mlx.training.options import LORA, LoraOptions, read_options, schedule
from musicot_mlx.training.trainer import Trainer
from musicot_mlx.training.tune import songs_of, task_of

RATE = 8000


def write_song(path: Path, seed: int, seconds: float = 12.0, rate: int = RATE) -> Path:
    """A melody of decaying tones; its caption beside it."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    audio = np.zeros(len(time), dtype=np.float32)
    for start in np.arange(0, seconds, 0.5):
        pitch = 110 * 2 ** (rng.integers(0, 24) / 12)
        age = time - start
        audio += np.where(age >= 0, np.sin(2 * np.pi * pitch * age) * np.exp(-4 * age), 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.2 * audio, rate)
    path.with_suffix(".txt").write_text(f"a plucked melody, number {seed}\n")
    return path


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("songs")
    for seed in range(4):
        write_song(folder / f"{seed}.wav", seed, 11.0 + 2 * seed, (8000, 11025)[seed % 2])
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def options_for(tiny_model: Path, songs: Path, cache: Path, folder: Path, **changes) -> LoraOptions:
    given = {
        "model": str(tiny_model),
        "train": True,
        "data": str(songs),
        "adapter_path": str(folder),
        "cache_dir": str(cache),
        "iters": 8,
        "batch_size": 2,
        "steps_per_eval": 4,
        "save_every": 4,
        "steps_per_report": 4,
        "val_batches": 2,
        "learning_rate": 1e-2,
        "render_seconds": 0.0,
        **changes,
    }
    return LoraOptions(**given)


def run(options: LoraOptions, *, resume: bool = False, stop: int | None = None) -> Trainer:
    """Train without proof; as if killed after iteration `stop`."""
    model = mc.load(options.model)
    task = task_of(model, options)
    found, _, _ = songs_of(task, options, say=lambda line: None, progress=None)
    mx.random.seed(options.seed)
    add_layers(task.module, kind=options.fine_tune_type, num_layers=-1, **options.lora_parameters)
    config = {**options.to_dict(), "part": task.part}
    made = Trainer(
        task, found["train"], found["valid"], options, config=config, say=lambda line: None
    )
    if stop is not None:
        iterate = made._iterate

        def killed() -> None:
            if made.step == stop:
                raise KeyboardInterrupt
            iterate()

        made._iterate = killed
        with pytest.raises(KeyboardInterrupt):
            made.run(resume=resume)
    else:
        made.run(resume=resume)
    return made


# --- data -----------------------------------------------------------------------------------------


def test_three_forms_of_data(songs: Path, tmp_path: Path) -> None:
    plain = read_data(songs)
    assert [e.path.name for e in plain.splits["valid"]] == ["0.wav"]
    assert [e.path.name for e in plain.splits["train"]] == ["1.wav", "2.wav", "3.wav"]
    assert plain.splits["train"][0].captions == ("a plucked melody, number 1",)

    rows = [{"audio": str(songs / f"{i}.wav"), "caption": f"song {i}"} for i in range(4)]
    for split, some in (("train", rows[:2]), ("valid", rows[2:3]), ("test", rows[3:])):
        lines = "\n".join(json.dumps(row) for row in some)
        (tmp_path / f"{split}.jsonl").write_text(lines + "\n")
    lined = read_data(tmp_path, trigger="zyx")
    assert {k: len(v) for k, v in lined.splits.items()} == {"train": 2, "valid": 1, "test": 1}
    assert lined.splits["test"][0].captions == ("zyx, song 3",)

    record = {
        "audio_file": str(songs / "1.wav"),
        "text_prompt": "jazz",
        "captions": ["swing"],
        "genre_tags": "jazz, swing",
        "instrument_tags": ["piano"],
        "lyrics": "[VERSE] la",
        "windows": [{"start": 2.5, "captions": ["piano alone"]}],
    }
    held_out = {**record, "audio_file": str(songs / "0.wav")}
    (tmp_path / "meta.json").write_text(json.dumps([held_out, record]))
    entry = read_data(tmp_path / "meta.json").splits["train"][0]
    assert entry.captions == ("jazz", "swing") and entry.tags == ("jazz", "swing", "piano")
    assert entry.lyrics == "[VERSE] la"
    assert entry.captions_near(2.0, 1.3) == ("piano alone",)
    assert entry.captions_near(9.0, 1.3) == ("jazz", "swing")


def bad_songs(folder: Path) -> dict[str, str]:
    """Two good songs among every kind of bad one; name -> what is said of it."""
    for seed in range(2):
        write_song(folder / f"good-{seed}.wav", seed)
    for name in ("no-caption", "empty-caption", "zero-bytes", "nan", "silent", "text", "short"):
        write_song(folder / f"{name}.wav", 3, 2.0)
    (folder / "no-caption.txt").unlink()
    (folder / "empty-caption.txt").write_text(" \n")
    (folder / "zero-bytes.wav").write_bytes(b"")
    (folder / "text.wav").write_text("this is no audio, whatever its name may say")
    nan = np.full(2 * RATE, np.nan, dtype=np.float32)
    soundfile.write(folder / "nan.wav", nan, RATE, subtype="FLOAT")
    soundfile.write(folder / "silent.wav", np.zeros(2 * RATE), RATE)
    soundfile.write(folder / "short.wav", np.ones(100), RATE)
    (folder / "three-hours.txt").write_text("a very long set")
    with (folder / "three-hours.wav").open("wb") as file:  # sparse: the header alone is written
        soundfile.write(file, np.zeros(1, np.int16), RATE, format="WAV", subtype="PCM_U8")
        size = 3 * 3600 * RATE
        file.seek(0)
        file.truncate(44 + size)
    header = bytearray((folder / "three-hours.wav").open("rb").read(44))
    header[4:8] = (36 + size).to_bytes(4, "little")
    header[40:44] = size.to_bytes(4, "little")
    with (folder / "three-hours.wav").open("r+b") as file:
        file.write(header)
    return {
        "no-caption.wav": "the caption is empty",
        "empty-caption.wav": "the caption is empty; describe the music in words",
        "zero-bytes.wav": "the file is empty (0 bytes)",
        "nan.wav": "holds NaN or infinite samples",
        "silent.wav": "it is silent",
        "text.wav": "not readable as audio",
        "short.wav": "at least 1 s is needed",
        "three-hours.wav": "180 minutes long; cut it into songs of at most 30 minutes",
    }


def test_bad_files_are_named_and_skipped(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = bad_songs(tmp_path / "data")
    out = tmp_path / "out"
    code = main(
        f"lora --train --model {tiny_model} --data {tmp_path}/data --adapter-path {out} --iters 2 "
        f"--batch-size 2 --cache-dir {tmp_path}/cache --render-seconds 0 --rank 2".split()
    )
    said = capsys.readouterr().out.splitlines()
    assert code == 0, said
    for name, why in expected.items():
        (line,) = [line for line in said if line.startswith(f"skipped {name}: ")]
        assert why in line
    assert "2 songs used, 8 skipped" in said
    assert sum("yours to know" in line for line in said) == 1, "licences are spoken of once"
    assert (out / "adapters.safetensors").is_file() and (out / "losses.png").stat().st_size
    (tmp_path / "data" / "good-1.wav").unlink()
    code = main(
        f"lora --train --model {tiny_model} --data {tmp_path}/data --adapter-path {out}2 "
        f"--cache-dir {tmp_path}/cache".split()
    )
    assert code == 2 and not (tmp_path / "out2").exists()
    assert "holds 1 usable songs, at least 2 are needed" in capsys.readouterr().err


def test_songs_are_encoded_once(
    tiny_model: Path, songs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = options_for(tiny_model, songs, tmp_path / "cache", tmp_path / "out", part="diffusion")
    model = mc.load(tiny_model)

    def encode() -> dict:
        return songs_of(task_of(model, options), options, say=lambda line: None, progress=None)[0]

    first = encode()
    song = first["train"][0]
    assert len(song.codes) == pytest.approx(song.duration * 25, abs=1)
    assert len(song.latents) == pytest.approx(song.duration * RATE / 256, abs=1)
    assert song.clap.shape[0] == song.thoughts.shape[1] == int((song.duration - 10) / 2.5) + 1
    files = sorted((tmp_path / "cache").iterdir())
    monkeypatch.setattr("musicot_mlx.training.songs.read_audio", lambda path: 1 / 0)
    second = encode()
    assert sorted((tmp_path / "cache").iterdir()) == files
    assert (second["train"][0].latents == song.latents).all()
    files[0].write_bytes(files[0].read_bytes()[:100])  # a damaged file is made again
    with pytest.raises(ZeroDivisionError):
        encode()


def test_a_batch_is_what_the_songs_hold(tiny_model: Path, songs: Path, cache: Path) -> None:
    options = options_for(tiny_model, songs, cache, Path("unused"), max_seq_length=300)
    model = mc.load(tiny_model)
    task = task_of(model, options)
    found, _, _ = songs_of(task, options, say=lambda line: None, progress=None)
    vocabulary = model.semantic_lm.config.vocabulary
    rng = np.random.default_rng(0)
    sequences = [task.draw(found["train"], rng) for _ in range(200)]
    whole = {song.name: song for song in found["train"]}
    for sequence in sequences:
        name, _, seconds = sequence.name.rpartition(" + ")
        first = round(float(seconds.split()[0]) * 25)
        song = whole[name]
        assert (sequence.audio == song.codes[first : first + len(sequence.audio)]).all()
        assert (
            sequence.thoughts[:, 0] == song.thoughts[:, min(first // 62, song.windows - 1)]
        ).all()
        assert len(sequence.row(vocabulary)[0]) <= 300
        assert any(np.allclose(sequence.clap, v) for v in [*song.clap, *song.text])
    dropped = [sequence for sequence in sequences if sequence.drop_conditions]
    assert 8 <= len(dropped) <= 35 and any(sequence.drop_thoughts for sequence in dropped)
    assert len({len(sequence.audio) for sequence in sequences}) > 2


# --- the loop -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "changes"),
    [
        ("semantic_lm", {"lora_parameters": {"dropout": 0.3}}),
        ("diffusion", {"grad_accumulation_steps": 2, "optimizer": "adamw", "learning_rate": 1e-4}),
    ],
)
def test_a_resumed_run_is_the_unbroken_one(
    tiny_model: Path, songs: Path, cache: Path, tmp_path: Path, part: str, changes: dict
) -> None:
    def options(folder: str) -> LoraOptions:
        return options_for(tiny_model, songs, cache, tmp_path / folder, part=part, **changes)

    whole = run(options("whole"))
    run(options("broken"), stop=6)
    second = run(options("broken"), resume=True)
    assert second.log.train == whole.log.train and len(whole.log.train) == 8
    assert second.log.valid == whole.log.valid and second.log.best == whole.log.best
    for name, value in whole.arrays().items():
        assert (value == second.arrays()[name]).all(), name
    assert whole.log.after < whole.log.before
    one, other = (
        mx.load(str(tmp_path / folder / "adapters.safetensors")) for folder in ("whole", "broken")
    )
    assert all((one[name] == other[name]).all() for name in one)


def test_what_can_not_be_resumed(
    tiny_model: Path, songs: Path, cache: Path, tmp_path: Path
) -> None:
    options = options_for(tiny_model, songs, cache, tmp_path / "a")
    with pytest.raises(MusicotError, match="nothing to resume: no .*training_state.safetensors"):
        run(options, resume=True)
    run(options, stop=4)
    for changes, words in (
        ({"learning_rate": 0.5}, "the run to resume had learning_rate 0.01, now it is 0.5"),
        ({"lora_parameters": {"rank": 2}}, "had lora_parameters"),
    ):
        other = options_for(tiny_model, songs, cache, tmp_path / "a", **changes)
        with pytest.raises(MusicotError, match=words):
            run(other, resume=True)


def test_gradient_checkpointing_changes_no_number(
    tiny_model: Path, songs: Path, cache: Path, tmp_path: Path
) -> None:
    for part in ("semantic_lm", "diffusion"):
        plain, saving = (
            run(
                options_for(
                    tiny_model,
                    songs,
                    cache,
                    tmp_path / f"{part}{on}",
                    part=part,
                    iters=3,
                    grad_checkpoint=on,
                )
            )
            for on in (False, True)
        )
        np.testing.assert_allclose(plain.log.train, saving.log.train, rtol=1e-5)
        assert type(saving.task.module.layers[0]) is type(plain.task.module.layers[0])


@pytest.mark.parametrize("kind", ["dora", "full"])
def test_other_kinds_of_tuning(
    tiny_model: Path, songs: Path, cache: Path, tmp_path: Path, kind: str
) -> None:
    made = run(options_for(tiny_model, songs, cache, tmp_path / kind, fine_tune_type=kind, iters=4))
    loaded = mc.load(tiny_model, adapter_path=tmp_path / kind)
    assert loaded.adapter_keys == len(made.arrays())
    items = made.checks[:2]
    tuned = made.task.loss(items).item()
    made.task.model = loaded
    assert made.task.loss(items).item() == pytest.approx(tuned, rel=1e-5)


def test_a_loss_that_is_no_number_stops_the_run(
    tiny_model: Path, songs: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = options_for(tiny_model, songs, cache, tmp_path / "a")
    draw = trainer_module.Trainer.batch

    def spoiled(self: Trainer, step: int) -> list:
        items = draw(self, step)
        if step == 6:
            items[0].clap[:] = math.nan
        return items

    monkeypatch.setattr(trainer_module.Trainer, "batch", spoiled)
    with pytest.raises(
        RunError, match=r"is nan at step 6, batch .*\.wav at .*iteration 4"
    ) as error:
        run(options)
    assert "\n" not in str(error.value)
    kept = mx.load(str(tmp_path / "a" / "adapters.safetensors"))
    assert all(mx.isfinite(value).all() for value in kept.values())


def test_patience(tiny_model: Path, songs: Path, cache: Path, tmp_path: Path) -> None:
    options = options_for(
        tiny_model, songs, cache, tmp_path / "a", iters=40, steps_per_eval=1, patience=2
    )
    made = run(options)
    losses = dict(made.log.valid)
    assert made.step < 40 and made.log.best == made.step - 2
    assert losses[made.log.best] == min(v for s, v in losses.items() if s)
    kept = mx.load(str(tmp_path / "a" / "adapters.safetensors"))
    last = made.arrays()
    assert any((kept[name] != last[name]).any() for name in kept), "the best, not the last"


def test_weights_of_another_run_can_begin_one(
    tiny_model: Path, songs: Path, cache: Path, tmp_path: Path
) -> None:
    first = run(options_for(tiny_model, songs, cache, tmp_path / "a", iters=4))
    file = str(tmp_path / "a" / "adapters.safetensors")
    second = run(
        options_for(tiny_model, songs, cache, tmp_path / "b", iters=1, resume_adapter_file=file)
    )
    assert second.log.valid[0] == (0, pytest.approx(first.log.after))
    other = options_for(
        tiny_model,
        songs,
        cache,
        tmp_path / "c",
        resume_adapter_file=file,
        lora_parameters={"rank": 2},
    )
    with pytest.raises(MusicotError, match="does not hold the layers that are tuned here"):
        run(other)


# --- options --------------------------------------------------------------------------------------


def test_flags_override_the_yaml_file(tmp_path: Path) -> None:
    file = tmp_path / "lora.yaml"
    file.write_text(
        "iters: 50\nlearning_rate: 1e-5\nbatch_size: 2\nlora_parameters: {rank: 4, keys: [a.b]}\n"
        "lr_schedule: {name: cosine_decay, warmup: 5, warmup_init: 1e-7, arguments: [1e-3, 20]}\n"
    )
    flags = {"iters": 7, "batch_size": None, "lora_parameters": {"scale": 2.0}}
    options = read_options(flags, file)
    assert (options.iters, options.batch_size, options.learning_rate) == (7, 2, 1e-5)
    assert options.lora_parameters == {"rank": 4, "scale": 2.0, "dropout": 0.0, "keys": ["a.b"]}
    rates = [schedule(options)(mx.array(step)).item() for step in range(30)]
    assert rates[0] < rates[4] < rates[5] == pytest.approx(1e-3)
    assert rates[5:25] == sorted(rates[5:25], reverse=True) and rates[-1] < 1e-6
    for text, words in (
        ("itres: 3", "unknown field 'itres'; did you mean iters?"),
        ("iters: many", "expected int, got 'many'"),
        ("iters: 0", "iters is 0, expected at least 1"),
        ("lora_parameters: {alpha: 16}", "mlx-lm's name is scale"),
        ("lora_parameters: {rnak: 16}", "did you mean rank?"),
        ("fine_tune_type: qlora", "expected lora, dora, full"),
        ("- 3", "should hold names and values"),
        ("{", "is not YAML"),
    ):
        file.write_text(text)
        with pytest.raises(MusicotError) as error:
            read_options({}, file)
        assert words in str(error.value)


def test_the_rate_warms_up_and_falls() -> None:
    options = LoraOptions(iters=200, learning_rate=1e-3)
    rates = [schedule(options)(mx.array(step)).item() for step in range(200)]
    assert 0 < rates[0] < 1e-4 and max(rates) == rates[20] == pytest.approx(1e-3)
    assert rates[20:] == sorted(rates[20:], reverse=True)
    assert rates[-1] == pytest.approx(1e-4, rel=0.01)
    assert options.lora_parameters == LORA


# --- the proof ------------------------------------------------------------------------------------


def test_the_whole_command(
    tiny_model: Path, songs: Path, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {p: p.read_bytes() for p in tiny_model.iterdir()}
    for split, numbers in (("train", (1, 2)), ("valid", (0,)), ("test", (3,))):
        rows = [{"audio": str(songs / f"{i}.wav"), "caption": "plucks"} for i in numbers]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    out = tmp_path / "out"
    base = f"lora --model {tiny_model} --data {tmp_path} --adapter-path {out} --cache-dir {cache} "
    code = main(
        (
            base
            + "--train --test --iters 6 --batch-size 2 --learning-rate 1e-2 --steps-per-eval 3 "
            "--render-seconds 2 --render-songs 2 --trigger zyx --val-batches 1"
        ).split()
    )
    said = capsys.readouterr().out
    assert code == 0
    proof = json.loads((out / "proof.json").read_text())
    assert proof["loss_after"] < proof["loss_before"]
    keys = mx.load(str(out / "adapters.safetensors"))
    assert proof["keys_applied"] == len(keys) and f"{len(keys)} adapter keys applied" in said
    assert -1 <= proof["similarity_before"] <= 1 and -1 <= proof["similarity_after"] <= 1
    renders = {path.name for path in (out / "renders").iterdir()}
    assert renders == {
        *("before-0.wav", "before-1.wav", "step-0000003.wav", "step-0000006.wav"),
        *("after-0.wav", "after-1.wav"),
    }
    sound = {name: (out / "renders" / name).read_bytes() for name in renders}
    assert sound["before-0.wav"] != sound["after-0.wav"]
    config = json.loads((out / "adapter_config.json").read_text())
    assert config["trigger"] == "zyx" and config["base"]["model"] == str(tiny_model)
    assert {p: p.read_bytes() for p in tiny_model.iterdir()} == before
    assert main((base + "--test").split()) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert line == f"Test loss {proof['test_loss']:.4f}"


def test_losses_are_reported_as_mlx_lm_reports_them(
    tiny_model: Path,
    songs: Path,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = (
        f"lora --train --model {tiny_model} --data {songs} --adapter-path {tmp_path}/a "
        f"--cache-dir {cache} --iters 2 --batch-size 2 --steps-per-report 1 --render-seconds 0 "
        "--report-to wandb --project-name tunes"
    )
    reporting_callbacks("")  # imports mlx-lm's module
    callbacks = sys.modules["mlx_lm.tuner.callbacks"]
    monkeypatch.setattr(callbacks, "wandb", None)
    assert main(command.split()) == 2
    assert "--report-to wandb: wandb is not installed" in capsys.readouterr().err
    logged: list[tuple[int, dict]] = []
    begun: list[dict] = []
    fake = SimpleNamespace(
        init=lambda **given: begun.append(given),
        log=lambda row, step: logged.append((step, row)),
    )
    monkeypatch.setattr(callbacks, "wandb", fake)
    assert main(command.split()) == 0
    assert begun[0]["project"] == "tunes" and begun[0]["config"]["iters"] == 2
    assert [step for step, row in logged if "train_loss" in row] == [1, 2]
    assert [step for step, row in logged if "val_loss" in row] == [0, 2]


def test_what_lora_can_not_do(
    tiny_model: Path, songs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = f"lora --model {tiny_model} --adapter-path {tmp_path}/a --cache-dir {tmp_path}/c"
    for flags, words in (
        ("", "nothing to do; pass --train"),
        ("--train --data nowhere", "no data at nowhere"),
        (f"--train --data {songs} --part vae", "part is 'vae'; of"),
        (f"--train --data {songs} --num-layers 9", "asked to tune 9 layers"),
        (f"--train --data {tmp_path}", "holds no train.jsonl, no metadata.json and no audio"),
        (f"--test --data {songs}", "no adapter folder at"),
    ):
        assert main(f"{base} {flags}".split()) == 2
        assert words in capsys.readouterr().err
    assert not (tmp_path / "a").exists()
