"""Pretraining: the loop, resumed and accumulated; a whole tiny model, from songs to a song in MLX.

The last tests hold the MLX pipeline against the PyTorch reference on that model, from one plan and
one noise to the waveform.
"""

import json
import math
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")
soundfile = pytest.importorskip("soundfile")
yaml = pytest.importorskip("yaml")

from torch import nn  # noqa: E402

import musicot_mlx as mc  # noqa: E402
from musicot_mlx.reference import clap as clap_parts  # noqa: E402
from musicot_mlx.reference.clap import embed_text, tokenize  # noqa: E402
from musicot_mlx.reference.data import SongData  # noqa: E402
from musicot_mlx.reference.diffusion import SemanticDiffusion  # noqa: E402
from musicot_mlx.reference.musicot import PARTS, MusicotReference  # noqa: E402
from musicot_mlx.reference.train import (  # noqa: E402
    clap_robustness,
    command,
    diffusion_stages,
    encode,
    encoded,
    token_stages,
)
from musicot_mlx.reference.train.warm_start import ON_THEIR_OWN  # noqa: E402
from musicot_mlx.reference.train.workspace import Workspace, read_config  # noqa: E402
from musicot_mlx.reference.trainer import load_weights  # noqa: E402
from musicot_mlx.tokens.harmony import harmony_features  # noqa: E402
from musicot_mlx.tokens.tempo import TEMPO_TAGS, tempo_tag  # noqa: E402
from tests.support.pretraining import run  # noqa: E402

# --- a whole model --------------------------------------------------------------------------------


def test_every_stage_leaves_its_weights(studio: dict[str, Path]) -> None:
    out = studio["out"]
    elsewhere = {"encode", "encode_latents", "rvq", "diffusion_guided", "assemble", *ON_THEIR_OWN}
    stages = set(command.STAGES) - elsewhere
    for stage in stages:
        log = json.loads((out / stage / "log.json").read_text())
        assert [row["step"] for row in log["valid"]] == [2], stage
        assert all(math.isfinite(row["loss"]) for row in log["valid"]), stage
    assert sorted(p.name for p in (out / "encoded").iterdir()) == [
        f"{song}.{kind}" for song in "abcd" for kind in ("npy", "npz")
    ]
    with np.load(out / "encoded" / "b.npz") as song:
        assert song["clap"].shape == (3, 16)
        assert song["codes"].shape == (400,) and song["window_text"].shape == (3, 2, 16)
        np.testing.assert_allclose(np.linalg.norm(song["clap"], axis=1), 1, rtol=1e-5)
    assert np.load(out / "encoded" / "b.npy").shape == (500, 8)
    config = json.loads((out / "checkpoint" / "config.json").read_text())
    assert set(PARTS) < set(config) and config["model_type"] == "musicot-pytorch"
    assert config["semantic_lm"]["tags"] == ["122 bpm", "drums", "etude", "guitar", "piano"]
    latents = np.concatenate([np.load(out / "encoded" / f"{song}.npy") for song in "bcd"])
    scale = config["diffusion"]["latent_scale"]
    assert scale * latents.astype(np.float32).std() == pytest.approx(1, rel=1e-3)


def test_tempo_head_learns_the_tempo_of_the_songs(studio: dict[str, Path], tmp_path: Path, capsys):
    """By 20 steps the one tempo there is; without any it keeps still, and so does training."""
    work = Workspace(read_config(studio["config"]), SongData(studio["data"]), studio["out"])
    head = work.weights("tempo_head")
    with np.load(studio["out"] / "encoded" / "a.npz") as song:
        logits = song["text"] @ head["weight"].numpy().T + head["bias"].numpy()
    assert {TEMPO_TAGS[i] for i in logits.argmax(1)} == {tempo_tag(120)}
    records = json.loads((studio["data"] / "metadata.json").read_text())
    for record in records:
        del record["bpm"]
        record["audio_file"] = str(studio["data"] / record["audio_file"])
    (tmp_path / "metadata.json").write_text(json.dumps(records))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "encoded").symlink_to(studio["out"] / "encoded")
    token_stages.train_tempo_head(Workspace(work.config, SongData(tmp_path), tmp_path / "out"))
    assert "no held-out song has a bpm" in capsys.readouterr().out
    assert (tmp_path / "out" / "tempo_head" / "last.pt").is_file()


def test_noise_teaches_the_audio_tower_alone(studio: dict[str, Path]) -> None:
    before, after = (load_weights(studio["out"] / stage) for stage in ("clap", "clap_noise"))
    changed = {key for key, value in after.items() if not torch.equal(value, before[key])}
    assert changed and all(key.startswith("clap.audio_") for key in changed)
    assert not any("running" in key for key in changed)


def test_degraded_windows_are_the_music_and_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    window = torch.full((1, 1001, 64), -20.0)
    window[:, :, ::7] = -90.0  # bands in which there is only noise
    degrade = clap_robustness.Degradation(64, seconds=11.0)
    heard = degrade(window, np.random.default_rng(0))
    assert heard.shape == window.shape and torch.isfinite(heard).all()
    assert not torch.equal(heard, degrade(window, np.random.default_rng(1)))
    assert torch.equal(heard, degrade(window, np.random.default_rng(0)))
    assert torch.isfinite(
        degrade(torch.full((1, 1001, 64), -100.0), np.random.default_rng(0))
    ).all()

    monkeypatch.setattr(clap_robustness, "GAIN", 0.0)
    monkeypatch.setattr(clap_robustness, "EQUALISER", 0.0)
    monkeypatch.setattr(clap_robustness, "LEVELS", (-200.0, -200.0))
    assert torch.allclose(degrade(window, np.random.default_rng(2)), window, atol=0.01)
    monkeypatch.setattr(clap_robustness, "LEVELS", (-20.0, -20.0))
    monkeypatch.setattr(clap_robustness, "COLOURS", (0.0, 0.0))
    heard = degrade(window, np.random.default_rng(2))
    assert heard[..., 1::7].mean().item() == pytest.approx(-20, abs=0.5)
    assert -45 < heard[..., ::7].mean().item() < -35


def test_finished_stages_have_nothing_to_do(studio: dict[str, Path]) -> None:
    weights = {p: p.read_bytes() for p in studio["out"].rglob("best-*.pt")}
    times = {p: p.stat().st_mtime_ns for p in (studio["out"] / "encoded").iterdir()}
    assert run(studio, "--stage", "best_rq", "encode", "semantic_lm", "encode_latents") == 0
    assert {p: p.read_bytes() for p in studio["out"].rglob("best-*.pt")} == weights
    assert {p: p.stat().st_mtime_ns for p in (studio["out"] / "encoded").iterdir()} == times


def test_encoding_takes_up_what_was_abandoned(studio: dict[str, Path], monkeypatch) -> None:
    folder = studio["out"] / "encoded"
    before = (folder / "d.npy").read_bytes()
    (folder / "d.npy").rename(folder / ".d.npy")
    assert run(studio, "--stage", "encode_latents") == 0
    assert not (folder / "d.npy").exists()  # another process may be at it
    monkeypatch.setattr(encode, "ABANDONED", -1.0)
    assert run(studio, "--stage", "encode_latents") == 0
    assert (folder / "d.npy").read_bytes() == before and not (folder / ".d.npy").exists()


def test_stretches_stay_inside_the_song(studio: dict[str, Path]) -> None:
    """Thousands of draws: a stretch at the end of a song once looked past its last window."""
    made = {}
    work = Workspace(read_config(studio["config"]), SongData(studio["data"]), studio["out"])
    work.run = lambda stage, model, batch, validate: made.update({stage: batch})
    token_stages.train_semantic_lm(work)
    diffusion_stages.train_diffusion(work)
    rng = np.random.default_rng(0)
    for _ in range(400):
        batch = made["semantic_lm"](0, rng)
        for thoughts, audio in zip(batch["thoughts"], batch["audio"], strict=True):
            assert 0 < len(audio) <= 375 and thoughts.shape[1] == -(-len(audio) // 250)
    for _ in range(100):
        batch = made["diffusion"](0, rng)
        assert batch["latents"].shape == (2, 8, 125) and batch["codes"].shape == (2, 101)
        assert batch["clap"].shape == (2, 3, 16) and (batch["start_seconds"] >= 0).all()
        assert (batch["total_seconds"] - batch["start_seconds"] >= 4 - 1e-3).all()  # one window


def test_windows_of_diffusion_hear_their_own_codes(studio: dict[str, Path]) -> None:
    """Codes count up in a song whose latents count up too: each latent must read its own code, and
    its own chord; songs that come later are drawn from as well.
    """
    work = Workspace(read_config(studio["config"]), SongData(studio["data"]), studio["out"])
    config = {**diffusion_stages.diffusion_config(work), "harmony": True}
    found = encoded.Encoded(work, work.data.training, text_share=0.5, latents=125).songs
    for _, song in found:
        song["codes"] = np.arange(len(song["codes"]), dtype=np.int32)
        song["latents"] = np.repeat(np.arange(500.0)[:, None], 8, axis=1)
    pool = diffusion_stages.WindowPool(config, work.rvq(), text_share=0.5, bare=0.0, device="cpu")
    chorded = [(replace(entry, chords=((0.0, "Am"), (7.0, "F"))), song) for entry, song in found]
    pool.add(chorded[:1])
    pool.add(chorded[1:])
    assert len(pool) == len(found)
    model = SemanticDiffusion(**config)
    for seed in range(20):
        batch = pool.draw(8, torch.Generator().manual_seed(seed))
        read = model.resample_codes(batch["codes"], 125, batch["frame_offset"])
        frame = batch["latents"][:, 0].double()
        assert torch.equal(read, ((frame + 0.5) * 25 / 31.25).floor().long())
        late = (frame + 0.5) / 31.25 >= 7.0
        roots = torch.where(late, 12 + 5, 12 + 9)  # F, A
        assert batch["harmony"].gather(2, roots[..., None]).all()
    again = pool.draw(8, torch.Generator().manual_seed(19))
    assert all(torch.equal(again[name], batch[name]) for name in batch)


def test_songs_join_while_a_stage_trains(studio: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "songs"
    folder.mkdir()
    for file in studio["data"].iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    records = json.loads((folder / "metadata.json").read_text())
    (folder / "metadata.json").write_text(json.dumps(records[:-1]))
    work = Workspace(read_config(studio["config"]), SongData(folder), studio["out"])
    songs = encoded.Encoded(work, work.data.training, text_share=0.5, growing=True)
    count = len(songs.songs)
    (folder / "metadata.json").write_text(json.dumps(records))
    assert songs.look() == []  # it looks every few seconds
    songs.looked -= encoded.LOOK
    assert len(songs.look()) == 1 and len(songs.songs) == count + 1
    songs.looked -= encoded.LOOK
    assert songs.look() == []


def test_several_songs_are_encoded_as_one_by_one(
    studio: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a GPU does it: in batches of one length, here on the CPU, against files made alone."""
    monkeypatch.setattr(encode, "_size", lambda device: 3)
    out = tmp_path / "out"
    out.mkdir()
    for part in studio["out"].iterdir():
        if part.name != "encoded":
            (out / part.name).symlink_to(part)
    work = Workspace(read_config(studio["config"]), SongData(studio["data"]), out)
    encode.encode(work)
    encode.encode_latents(work)
    for file in sorted((studio["out"] / "encoded").glob("*.npz")):
        with np.load(file) as alone, np.load(out / "encoded" / file.name) as together:
            np.testing.assert_array_equal(together["codes"], alone["codes"])
            for name in ("clap", "text", "window_text"):
                np.testing.assert_allclose(together[name], alone[name], atol=0.02)  # bfloat16
        one, other = (np.load(f / "encoded" / f"{file.stem}.npy") for f in (studio["out"], out))
        np.testing.assert_allclose(one.astype(float), other.astype(float), atol=0.1)


def test_a_guided_student_needs_one_row(studio: dict[str, Path], tmp_path: Path) -> None:
    """Its loss begins at what guidance adds and falls; assemble then turns guidance off."""
    out = tmp_path / "out"
    out.mkdir()
    for part in studio["out"].iterdir():
        if part.name != "checkpoint":
            (out / part.name).symlink_to(part)
    config = yaml.safe_load(studio["config"].read_text())
    guided = {**config["training"]["diffusion"], "steps": 30, "learning_rate": 3e-3}
    config["training"]["diffusion_guided"] = guided
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    flags = ["--config", str(file), "--data", str(studio["data"]), "--out", str(out)]
    assert command.main([*flags, "--stage", "diffusion_guided", "assemble"]) == 0
    log = json.loads((out / "diffusion_guided" / "log.json").read_text())
    assert math.isfinite(log["valid"][-1]["loss"])
    made = json.loads((out / "checkpoint" / "config.json").read_text())
    assert made["sampling"]["diffusion_guidance"] == 1.0
    assert "progressions" in made["usual_harmony"]
    assert "melody" in made["wording"]["known"].split() and "without" in made["wording"]


def test_round_trip_of_the_reference(stirred: dict[str, Path], tmp_path: Path) -> None:
    model = MusicotReference.from_pretrained(stirred["torch"])
    tokenizer = clap_parts.Tokenizer.from_file(str(stirred["torch"] / "tokenizer.json"))
    model.save_pretrained(tmp_path, tokenizer)
    again = MusicotReference.from_pretrained(tmp_path)
    assert again.config == model.config and not again.training
    state, expected = again.state_dict(), model.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[key], expected[key]) for key in expected)
    for name in ("config.json", "tokenizer.json"):
        assert (tmp_path / name).read_text() == (stirred["torch"] / name).read_text()


def test_trained_model_plays_in_mlx(studio: dict[str, Path], tmp_path: Path) -> None:
    from musicot_mlx.cli import main

    paths = ["--hf-path", str(studio["out"] / "checkpoint"), "--mlx-path", str(tmp_path / "mlx")]
    assert main(["convert", *paths]) == 0
    model = mc.load(tmp_path / "mlx")
    song = model.generate("melody number 1", duration=2, seed=3, tags=["piano"])
    assert song.waveform.shape == (16000, 2) and np.isfinite(song.waveform).all()
    assert song.codes.shape == (1, 50) and song.plan.codes.shape == (3, 1)
    again = model.generate("melody number 1", duration=2, seed=3, tags=["piano"])
    np.testing.assert_array_equal(song.waveform, again.waveform)


def test_reference_plays_by_itself(stirred: dict[str, Path]) -> None:
    model = MusicotReference.from_pretrained(stirred["torch"])
    draws = [torch.Generator().manual_seed(0) for _ in range(2)]
    clap = nn.functional.normalize(torch.randn(16, generator=draws[0]), dim=0)
    torch.randn(16, generator=draws[1])
    one, two = (model.generate(clap, duration=1.0, generator=draw) for draw in draws)
    assert one.shape == (8000, 2) and one.isfinite().all() and torch.equal(one, two)


@torch.no_grad()
def test_chain_is_that_of_the_reference(stirred: dict[str, Path]) -> None:
    """Prompt, plan, codes, latents, waveform: MLX beside PyTorch, greedy, from one noise."""
    from musicot_mlx.generation import diffusion

    model, reference = mc.load(stirred["mlx"]), MusicotReference.from_pretrained(stirred["torch"])
    tokenizer = clap_parts.Tokenizer.from_file(str(stirred["torch"] / "tokenizer.json"))
    prompt, seconds, options = "a melody", 3.0, {"tags": ["etude", "piano"], "lyrics": "la la"}
    vector = embed_text(reference.clap, *tokenize(tokenizer, [prompt], 64))[0]
    options["chords"] = ["Am F", "C"]
    plan = model.plan(prompt, duration=seconds, thought_temperature=0.0, **options)
    chords = plan.chord_changes()
    assert [chord for _, chord in chords[:2]] == ["Am", "F"]
    np.testing.assert_allclose(plan.vector, vector.numpy(), rtol=1e-4, atol=1e-5)

    vocabulary = reference.semantic_lm.vocabulary
    known = reference.config["semantic_lm"]["tags"]
    tags = [vocabulary.tag_id(known.index(tag)) for tag in options["tags"]]
    lyrics = vocabulary.lyrics_ids(
        options["lyrics"], lambda text: tokenizer.encode(text, add_special_tokens=False).ids
    )
    given = torch.from_numpy(plan.vector)
    thoughts = reference.semantic_lm.plan_thoughts(given, tags, lyrics, segments=1, temperature=0.0)
    np.testing.assert_array_equal(plan.codes, thoughts)
    vectors = reference.thought_vectors(torch.from_numpy(thoughts).long())
    np.testing.assert_allclose(plan.embeddings, vectors.numpy(), rtol=1e-5, atol=1e-6)

    frames = round(seconds * 25)
    song = model.generate(plan=plan, audio_temperature=0.0)
    codes = reference.semantic_lm.audio_tokens(
        given, tags, lyrics, thoughts=thoughts, frames=frames, temperature=0.0, chords=chords
    )
    np.testing.assert_array_equal(song.codes[0], codes)
    assert len(set(codes.tolist())) > 3  # a chain worth comparing

    latent_frames = math.ceil(seconds * 31.25)
    noise = np.random.default_rng(0).standard_normal((1, latent_frames, 8)).astype(np.float32)
    clap = torch.cat([given[None], vectors])[None]
    sampling = {"steps": 4, "guidance_scale": 2.0}
    told = harmony_features(chords, latent_frames, frame_rate=31.25)[None]
    expected = reference.diffusion.sample(
        torch.from_numpy(codes).long()[None],
        clap,
        torch.zeros(1),
        torch.full((1,), seconds),
        frames=latent_frames,
        noise=torch.from_numpy(noise).transpose(1, 2).contiguous(),
        harmony=torch.from_numpy(told),
        **sampling,
    ).transpose(1, 2)  # (batch, time, latent_dim)
    found = diffusion.sample(
        model.diffusion,
        mx.array(song.codes),
        mx.array(clap.numpy()),
        mx.zeros(1),
        mx.full((1,), seconds),
        noise=mx.array(noise),
        harmony=mx.array(told),
        **sampling,
    )
    assert difference(found, expected) < 1e-4
    waveform = model.vae.decode(found)
    assert difference(waveform, reference.vae.decode(expected)) < 1e-4
    assert np.abs(np.array(waveform)).max() > 1e-3


def difference(found: mx.array, expected: "torch.Tensor") -> float:
    """Largest difference, relative to the largest value expected."""
    expected = expected.numpy()
    assert found.shape == expected.shape
    return float(np.abs(np.array(found) - expected).max() / np.abs(expected).max())
