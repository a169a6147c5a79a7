"""MusicGen from a name to a file: loading without ceremony, songs, and what users get wrong."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import soundfile
from tokenizers import Tokenizer

import musicot_mlx as mc
from musicot_mlx.cli import main
from musicot_mlx.errors import MusicotError, MusicotWarning
from musicot_mlx.generation.delay import delays
from musicot_mlx.pipelines import conversion_cache
from musicot_mlx.pipelines.musicgen import pipeline
from musicot_mlx.pipelines.musicgen.pipeline import MusicgenPipeline
from musicot_mlx.pipelines.options import AS_MADE
from musicot_mlx.weights import cache, checkpoint
from tests.support import hub_server, tiny

ROOT = Path(__file__).resolve().parents[2]
pytest.importorskip("torch")  # the tiny checkpoints are written by it


@pytest.fixture(scope="module")
def mono(tiny_musicgen_upstream: Path) -> MusicgenPipeline:
    return mc.load(tiny_musicgen_upstream)


@pytest.fixture(scope="module")
def stereo(tiny_musicgen_stereo: Path) -> MusicgenPipeline:
    return mc.load(tiny_musicgen_stereo)


@pytest.fixture(scope="module")
def melody(tiny_musicgen_melody: Path) -> MusicgenPipeline:
    return mc.load(tiny_musicgen_melody)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder and an empty cache."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("MUSICOT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "here"


@pytest.fixture
def tune(tmp_path: Path) -> Path:
    """Two seconds of a tune: 44.1 kHz, stereo."""
    time = np.arange(88200) / 44100
    notes = np.repeat([262.0, 330.0, 392.0, 523.0], 22050)
    wave = 0.3 * np.sin(2 * np.pi * notes * time)
    soundfile.write(tmp_path / "tune.wav", np.stack([wave, 0.5 * wave], axis=1), 44100)
    return tmp_path / "tune.wav"


# --- songs ---


def test_a_song(mono: MusicgenPipeline, tmp_path: Path) -> None:
    song = mono.generate("solo piano", duration=2.5, seed=3)
    assert song.waveform.shape == (20000, 1) and song.waveform.dtype == np.float32
    assert song.codes.shape == (4, 125) and song.codes.dtype == np.int32
    assert song.plan is None and set(song.timings) == {"text", "tokens", "decode"}
    assert np.abs(song.waveform).max() > 0.01
    again = mono.generate("solo piano", duration=2.5, seed=3)
    assert (again.codes == song.codes).all() and (again.waveform == song.waveform).all()
    assert (mono.generate("solo piano", duration=2.5, seed=4).codes != song.codes).any()
    assert (mono.generate("drums", duration=2.5, seed=3).codes != song.codes).any()
    files = song.save(tmp_path / "a.wav")
    assert [file.name for file in files] == ["a.wav", "a.json"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_tokenizer_that_an_editor_saved(
    tiny_musicgen_upstream: Path, tmp_path: Path, encoding: str
) -> None:
    folder = shutil.copytree(tiny_musicgen_upstream, tmp_path / "edited")
    words = (folder / "tokenizer.json").read_text(encoding="utf-8")
    (folder / "tokenizer.json").write_bytes(words.encode(encoding))
    assert mc.load(folder).tokenizer.to_str() == Tokenizer.from_str(words).to_str()


@pytest.mark.parametrize("option", ["melody", "continuation"])
@pytest.mark.parametrize("rate", [8000, 44100, 192000])
def test_a_file_of_a_sample_is_too_short(
    melody: MusicgenPipeline, tmp_path: Path, option: str, rate: int
) -> None:
    for samples in (1, 2, rate // 100):
        soundfile.write(tmp_path / "a.wav", np.full((samples, 2), 0.5), rate)
        with pytest.raises(MusicotError, match="a.wav is shorter than 20 ms"):
            melody.generate("piano", duration=1, **{option: tmp_path / "a.wav"})


@pytest.mark.parametrize("duration", [1.0, 5.94, 2.013])
def test_duration_is_in_seconds(mono: MusicgenPipeline, duration: float) -> None:
    # 300 steps are 297 frames: the delay's steps are not audio
    song = mono.generate("a", duration=duration, audio_guidance=1.0)
    assert len(song.waveform) == round(duration * 8000) == round(song.duration * 8000)
    assert song.codes.shape[1] == round(duration * 50)
    assert delays(4, 1)[-1] == 3


def test_a_tokenizer_saved_after_a_padded_call(
    mono: MusicgenPipeline, tiny_musicgen_upstream: Path, tmp_path: Path
) -> None:
    """transformers saves padding and cutting along; pad ids have no mask, so would be words."""
    transformers = pytest.importorskip("transformers")
    folder = shutil.copytree(tiny_musicgen_upstream, tmp_path / "padded")
    words = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), pad_token="<pad>", eos_token="</s>"
    )
    words(["a"], padding="max_length", max_length=12, truncation=True)
    words.save_pretrained(folder)
    saved = json.loads((folder / "tokenizer.json").read_text())
    assert saved["padding"] and saved["truncation"]
    for prompt in ("piano", "a prompt of more than twelve tokens"):
        expected = mono.generate(prompt, duration=2, audio_temperature=0).codes
        found = mc.load(folder).generate(prompt, duration=2, audio_temperature=0).codes
        assert (found == expected).all()


def test_a_tokenizer_that_is_not_the_models(tiny_musicgen_upstream: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_musicgen_upstream, tmp_path / "other")
    words = Tokenizer.from_file(str(folder / "tokenizer.json"))
    words.add_tokens(["zyx"])
    words.save(str(folder / "tokenizer.json"))
    with pytest.raises(MusicotError, match="has 260 tokens but text_encoder.vocab_size is 259"):
        mc.load(folder)
    (folder / "tokenizer.json").write_text("<html>")
    with pytest.raises(MusicotError, match="cannot read the tokenizer"):
        mc.load(folder)


def test_stereo_decodes_its_own_codebooks(stereo: MusicgenPipeline) -> None:
    song = stereo.generate("wide strings", duration=2, seed=1, **AS_MADE)
    assert song.waveform.shape == (16000, 2) and song.codes.shape == (8, 100)
    left, right = song.waveform.T
    assert np.abs(left - right).max() > 0.01
    # a channel is what a mono codec makes of every other codebook
    alone = stereo.codec.decode(mx.array(song.codes[None, ::2]))[0, :, 0]
    np.testing.assert_allclose(np.array(alone)[:16000], left, atol=1e-5)


def test_a_batch_is_the_songs_alone(stereo: MusicgenPipeline) -> None:
    prompts, seeds = ["piano", "a much longer prompt about drums", "piano"], [1, 2, 5]
    batch = stereo.generate_batch(prompts, seeds=seeds, duration=1)
    for prompt, seed, song in zip(prompts, seeds, batch, strict=True):
        alone = stereo.generate(prompt, seed=seed, duration=1)
        assert (alone.codes == song.codes).all()
        np.testing.assert_allclose(alone.waveform, song.waveform, atol=1e-6)
        assert {**song.settings} == alone.settings
    with pytest.raises(MusicotError, match="3 prompts and 1 seeds"):
        stereo.generate_batch(prompts, seeds=[1])


def test_a_stream_is_the_song(stereo: MusicgenPipeline) -> None:
    stream = stereo.stream("piano", duration=5, seed=2)
    chunks = list(stream)
    song = stereo.generate("piano", duration=5, seed=2, gain=stream.gain)
    assert len(chunks) > 2 and song.gain == stream.gain
    np.testing.assert_allclose(np.concatenate(chunks), song.waveform, atol=1e-6)
    raw = list(stereo.stream("piano", duration=2, seed=2, **AS_MADE))
    assert len(raw) > 3
    as_made = stereo.generate("piano", duration=2, seed=2, **AS_MADE).waveform
    assert (np.concatenate(raw) == as_made).all()
    with pytest.raises(MusicotError, match="before it can be chosen"):
        stereo.stream("piano", candidates=2)


def test_longer_than_the_window(mono: MusicgenPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "WINDOW", 50)
    monkeypatch.setattr(pipeline, "OVERLAP", 20)
    short = mono.generate("piano", duration=1, seed=1)
    long = mono.generate("piano", duration=2.5, seed=1)
    assert long.codes.shape == (4, 125) and len(long.waveform) == 20000
    assert (long.codes[:, :50] == short.codes).all()
    chunks = list(mono.stream("piano", duration=2.5, seed=1))
    assert (np.concatenate(chunks) == long.waveform).all()


def test_a_song_of_ours_goes_on_from_before_its_fade_out(
    mono: MusicgenPipeline, tmp_path: Path
) -> None:
    song = mono.generate("piano", duration=6, seed=1)
    audio, _ = song.save(tmp_path / "a.wav")
    longer = mono.generate("piano", duration=8, seed=2, continuation=audio)
    kept = mono.encode(audio)[:, :250]  # of 6 s the last one fades
    assert (longer.codes[:, :250] == kept).all()
    audio.with_suffix(".json").unlink()
    longer = mono.generate("piano", duration=8, seed=2, continuation=audio)
    assert (longer.codes[:, :300] == mono.encode(audio)).all()


def test_continuation_begins_with_the_file(mono: MusicgenPipeline, tune: Path) -> None:
    given = mono.encode(tune)
    assert given.shape == (4, 100)
    song = mono.generate("piano", duration=3, seed=1, continuation=tune)
    assert song.codes.shape == (4, 150) and (song.codes[:, :100] == given).all()
    without = mono.generate(duration=3, seed=1, continuation=tune)
    assert (without.codes[:, :100] == given).all() and (without.codes != song.codes).any()
    assert song.settings["continuation"] == str(tune)
    with pytest.raises(MusicotError, match=r"lasts 2.0 s and the song 1.5 s, the file included"):
        mono.generate("piano", duration=1.5, continuation=tune)


def test_a_song_goes_on_as_it_would_have(
    stereo: MusicgenPipeline, tune: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    song = stereo.generate("piano", duration=3, seed=7)
    monkeypatch.setattr(MusicgenPipeline, "encode", lambda *_: song.codes[:, :60])
    assert (
        stereo.generate("piano", duration=3, seed=7, continuation=tune).codes == song.codes
    ).all()


def test_melody(melody: MusicgenPipeline, mono: MusicgenPipeline, tune: Path) -> None:
    song = melody.generate("piano", duration=2, seed=1, melody=tune)
    assert (song.codes != melody.generate("piano", duration=2, seed=1).codes).any()
    assert melody.generate(duration=1, melody=tune).settings["prompt"] is None
    with pytest.raises(MusicotError, match="follows no melody; .*facebook/musicgen-melody"):
        mono.generate("piano", melody=tune)


def test_a_prompt_as_long_as_a_book_is_refused(mono: MusicgenPipeline) -> None:
    """T5 would hold the square of it in memory, until the system ends the process."""
    for options in ({"prompt": "piano " * 5000}, {"prompt": "x", "negative_prompt": "no " * 5000}):
        with pytest.raises(MusicotError, match=r"tokens and MusicGen takes 2,048"):
            mono.generate(duration=1, **options)


def test_negative_prompt(mono: MusicgenPipeline) -> None:
    plain = mono.generate("piano", duration=2, seed=1)
    away = mono.generate("piano", duration=2, seed=1, negative_prompt="drums")
    assert (plain.codes != away.codes).any()
    with pytest.raises(MusicotError, match="needs guidance"):
        mono.generate("piano", negative_prompt="drums", audio_guidance=1.0)


def test_candidates_are_chosen_by_clap(stereo: MusicgenPipeline, tune: Path) -> None:
    class Clap:
        """Hears only how loud a song is."""

        def embed_text(self, texts: list[str]) -> np.ndarray:
            return np.array([[1.0, 0.0]])

        def embed_audio(self, waveform: np.ndarray, sample_rate: int) -> np.ndarray:
            loud = float(np.sqrt((waveform**2).mean()))
            return np.array([[loud, np.sqrt(1 - loud * loud)]])

    options = {"duration": 1, "seed": 4, "clap": Clap()}
    best = stereo.generate("piano", candidates=4, **options)
    chosen = best.settings["chosen"]
    assert [row["seed"] for row in chosen["scores"]][0] == 4 and len(chosen["scores"]) == 4
    alone = [stereo.generate("piano", duration=1, seed=row["seed"]) for row in chosen["scores"]]
    loudness = [float(np.sqrt((song.waveform**2).mean())) for song in alone]
    loudest = int(np.argmax(loudness))
    assert (best.codes == alone[loudest].codes).all()
    assert chosen["kept"] == chosen["scores"][loudest]["seed"]
    near = stereo.generate(
        candidates=4, reference=tune, continuation=tune, **options | {"duration": 3}
    )
    assert set(near.settings["chosen"]["scores"][0]) == {"seed", "score", "broken", "reference"}
    with pytest.raises(MusicotError, match="no thoughts to borrow from a reference"):
        stereo.generate("piano", reference=tune)


def test_the_listener_is_the_embedded_clap_alone(
    mono: MusicgenPipeline, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from musicot_mlx.pipelines import parts
    from musicot_mlx.weights import hub

    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "musicot-mini").symlink_to(tiny_model)
    monkeypatch.setattr(hub, "_FOLDER", weights)
    read, load = [], parts.load_network
    monkeypatch.setattr(
        parts,
        "load_network",
        lambda *a, where, **k: read.append(where) or load(*a, where=where, **k),
    )
    song = MusicgenPipeline.generate(mono, "piano", duration=1, candidates=2)
    assert read == ["clap"] and len(song.settings["chosen"]["scores"]) == 2
    del mono.listener


def test_lyrics_are_told_apart(mono: MusicgenPipeline) -> None:
    with pytest.warns(MusicotWarning, match="does not sing"):
        mono.generate("piano", duration=1, lyrics="la la")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"prompt": " "}, "the prompt is empty"),
        ({}, "nothing to make"),
        ({"prompt": "a", "duration": 0.5}, "ask for 1 to 300 s"),
        ({"prompt": "a", "duration": 301}, "ask for 1 to 300 s"),
        ({"prompt": "a", "candidates": 0}, "ask for 1 to 16"),
        ({"prompt": "a", "audio_temperature": -1.0}, "temperature is -1"),
        ({"prompt": "a", "continuation": "no.wav"}, "audio file no.wav doesn't exist"),
    ],
)
def test_wrong_options(mono: MusicgenPipeline, options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        mono.generate(**options)
    with pytest.raises(TypeError, match="did you mean continuation"):
        mono.generate("a", continuaton="x")


# --- the command ---


def test_settings_make_the_file_again(tiny_musicgen_melody: Path, here: Path, tune: Path) -> None:
    base = ["generate", "--model", str(tiny_musicgen_melody), "-p", "piano", "--duration", "3"]
    options = ["--melody", str(tune), "--temperature", "0.8", "--guidance", "2", "--top-k", "20"]
    options += ["--top-p", "0.9", "--negative-prompt", "drums", "--continue", str(tune)]
    assert main([*base, *options, "--seed", "5", "--sample-rate", "16000", "-o", "a.flac"]) == 0
    assert main(["generate", "--config-from", "a.json", "-o", "b.flac"]) == 0
    assert Path("a.flac").read_bytes() == Path("b.flac").read_bytes()
    assert json.loads(Path("a.json").read_text()) == json.loads(Path("b.json").read_text())
    assert soundfile.info("a.flac").samplerate == 16000
    assert main(["generate", "--config-from", "a.json", "--stream", "-o", "c.flac"]) == 0
    a, c = (soundfile.read(name)[0] for name in ("a.flac", "c.flac"))
    np.testing.assert_allclose(a, c, atol=2e-3)


def test_candidates_near_a_reference(
    tiny_model: Path,
    tiny_musicgen_upstream: Path,
    here: Path,
    tune: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from musicot_mlx.weights import hub

    (here.parent / "weights").mkdir()
    (here.parent / "weights" / "musicot-mini").symlink_to(tiny_model)
    monkeypatch.setattr(hub, "_FOLDER", here.parent / "weights")  # whose CLAP is the default
    base = ["generate", "--model", str(tiny_musicgen_upstream), "-p", "piano", "--duration", "1"]
    base += ["--reference", str(tune), str(tune)]
    assert main([*base, "-o", "a.wav"]) == 2
    assert "no thoughts to borrow from a reference" in capsys.readouterr().err
    assert main([*base, "--candidates", "2", "--json", "-o", "a.wav"]) == 0
    out, error = capsys.readouterr()
    assert error.count(", kept") == 1 and "reference " in error
    report = json.loads(out)
    assert report["seed"] == 0 and len(report["chosen"]["scores"]) == 2
    assert main(["generate", "--config-from", "a.json", "-o", "b.wav"]) == 0
    assert Path("a.wav").read_bytes() == Path("b.wav").read_bytes()


def test_prompt_file_is_one_batch(
    tiny_musicgen_stereo: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("prompts.txt").write_text("piano\ndrums\n")
    base = ["generate", "--model", str(tiny_musicgen_stereo), "--duration", "1", "--json"]
    assert main([*base, "--prompt-file", "prompts.txt", "--seed", "1", "2", "-o", "x.wav"]) == 0
    reports = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    songs = [(row["prompt"], row["seed"]) for row in reports]
    assert songs == [("piano", 1), ("piano", 2), ("drums", 1), ("drums", 2)]
    assert len({row["elapsed_seconds"] for row in reports}) == 1  # made together
    assert main([*base, "-p", "drums", "--seed", "2", "-o", "alone.wav"]) == 0
    assert Path("alone.wav").read_bytes() == Path("x-4.wav").read_bytes()


def test_flags_of_the_other_family(
    tiny_model: Path, tiny_musicgen_upstream: Path, tune: Path, here: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (tmp_path / "words.txt").write_text("la la")
    for model, flags, code, words in (
        (tiny_musicgen_upstream, ["--steps", "3"], 2, "--steps means nothing to"),
        (tiny_musicgen_upstream, ["--thought-temp", "1"], 2, "--thought-temp means nothing to"),
        (tiny_musicgen_upstream, ["--tags", "piano"], 2, "a MusicGen model; leave it out"),
        (tiny_model, ["--melody", str(tune)], 2, "--melody means nothing to"),
        (tiny_model, ["--continue", str(tune)], 2, "--continue means nothing to"),
        (tiny_model, ["--continue", "no.wav"], 2, "continue file no.wav doesn't exist"),
        (tiny_musicgen_upstream, ["--melody", str(tune)], 2, "follows no melody"),
        (tiny_musicgen_upstream, ["--lyrics-file", str(tmp_path / "words.txt")], 0, "not sing"),
    ):
        capsys.readouterr()
        mc.load(model)  # the line that tells of a conversion comes here
        capsys.readouterr()
        arguments = ["generate", "--model", str(model), "-p", "piano", "--duration", "1", *flags]
        assert main([*arguments, "-o", "a.wav"]) == code
        error = capsys.readouterr().err
        assert words in error and error.startswith("musicot: ") and error.count("\n") == 1


def test_a_drawn_plan_of_another_family_is_dropped(
    tiny_model: Path, tiny_musicgen_upstream: Path, here: Path
) -> None:
    arguments = ["generate", "--model", str(tiny_model), "-p", "piano", "--duration", "2"]
    assert main([*arguments, "--steps", "3", "-o", "a.wav"]) == 0
    again = ["generate", "--config-from", "a.json", "--model", str(tiny_musicgen_upstream)]
    assert main([*again, "-o", "b.wav"]) == 0
    settings = json.loads(Path("b.json").read_text())
    assert settings["prompt"] == "piano" and "steps" not in settings


# --- loading without ceremony ---


def test_a_local_checkpoint_is_converted_once(
    tiny_musicgen_upstream: Path, here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "source"
    shutil.copytree(tiny_musicgen_upstream, source)
    arguments = ["generate", "--model", str(source), "-p", "piano", "--duration", "1"]
    assert main([*arguments, "-o", "a.wav"]) == 0
    assert f"converting {source} to float16 once, into {tmp_path / 'cache'}" in (
        capsys.readouterr().err
    )
    assert main([*arguments, "-o", "b.wav"]) == 0
    assert "converting" not in capsys.readouterr().err
    assert Path("a.wav").read_bytes() == Path("b.wav").read_bytes()
    (name, folder, size), *others = cache.entries()
    assert not others and name.startswith("source@") and size > 10_000
    os.utime(source / "model.safetensors")  # touched: converted anew
    assert main([*arguments, "-o", "c.wav"]) == 0
    assert "converting" in capsys.readouterr().err and len(cache.entries()) == 2
    main(["doctor"])
    assert f"2 in {tmp_path / 'cache'}" in capsys.readouterr().out


def test_other_families_are_converted_too(tiny_reference: Path, here: Path) -> None:
    model = mc.load(tiny_reference)
    assert model.family.title == "MusiCoT" and len(cache.entries()) == 1


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_what_stops_a_conversion_leaves_nothing(
    tiny_musicgen_upstream: Path,
    here: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    failure: BaseException,
) -> None:
    def fail(path: Path, *_: object, **__: object) -> None:
        path.write_bytes(b"half")
        raise failure

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_safetensors", fail)
        arguments = ["generate", "--model", str(tiny_musicgen_upstream), "-p", "piano"]
        assert main(arguments) == (130 if isinstance(failure, KeyboardInterrupt) else 1)
    left = [path for path in (tmp_path / "cache").rglob("*") if not path.name.endswith(".lock")]
    assert all(path.is_dir() and path.parent == tmp_path / "cache" for path in left), left
    assert mc.load(tiny_musicgen_upstream).family.title == "MusicGen"


def test_a_killed_conversion_is_swept_away(here: Path, tmp_path: Path) -> None:
    folder = cache.entry("a/b", "0123", "float16")
    half = folder.parent / f".{folder.name}.x1y2"
    half.mkdir(parents=True)
    (half / "model.safetensors").write_bytes(b"half")
    with cache.writing(folder, lambda: None) as mine:
        assert mine and not half.exists()


def test_two_processes_convert_once(tiny_musicgen_upstream: Path, tmp_path: Path) -> None:
    code = (
        "import sys, time, musicot_mlx\n"
        "from musicot_mlx.weights import checkpoint\n"
        "from musicot_mlx.pipelines.conversion_cache import mlx_folder\n"
        "write = checkpoint.write_safetensors\n"
        "def slow(*a, **k):\n"
        "    time.sleep(1)\n"
        "    write(*a, **k)\n"
        "checkpoint.write_safetensors = slow\n"
        "print(mlx_folder(sys.argv[1]))\n"
    )
    env = tiny.environment(PYTHONPATH=str(ROOT), MUSICOT_CACHE=str(tmp_path))
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", code, tiny_musicgen_upstream],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    found = [run.communicate(timeout=120) for run in runs]
    assert all(run.returncode == 0 for run in runs), found
    assert found[0][0] == found[1][0]
    said = "".join(error for _, error in found)
    assert said.count("converting") - said.count("waiting for another musicot") == 1, said


def test_from_the_hub(tiny_musicgen_stereo: Path, tmp_path: Path) -> None:
    # torch is not to be had: safetensors need none
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['torch'] = None\n")

    def generate(output: str, **env: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-m", "musicot_mlx", "generate", "--model", "facebook/musicgen-tiny"]
            + ["-p", "piano", "--duration", "1", "-o", tmp_path / output],
            env=tiny.environment(
                PYTHONPATH=f"{tmp_path}:{ROOT}",
                MUSICOT_CACHE=str(tmp_path / "cache"),
                HF_HOME=str(tmp_path / "hf"),
                **env,
            ),
            capture_output=True,
            text=True,
        )

    offline = generate("a.wav")
    assert offline.returncode == 1 and offline.stderr.count("\n") == 1
    assert "hf download facebook/musicgen-tiny --include '*.json' '*.safetensors'" in offline.stderr
    with hub_server.serve({"facebook/musicgen-tiny": tiny_musicgen_stereo}) as (address, asked):
        first = generate("a.wav", HF_HUB_OFFLINE="0", HF_ENDPOINT=address)
    assert first.returncode == 0, first.stderr
    assert f"{hub_server.COMMIT[:12]}-float16" in first.stderr
    assert sorted(asked) == sorted(path.name for path in tiny_musicgen_stereo.iterdir())
    second = generate("b.wav")
    assert second.returncode == 0 and not second.stderr
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()


def test_only_safetensors_are_fetched_where_there_are_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from musicot_mlx.weights import hub

    asked = []

    def download(name: str, *, allow_patterns: list[str], **_: object) -> str:
        asked.append(allow_patterns[-1])
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    (tmp_path / "model.safetensors").touch()
    assert hub.resolve("owner/name@v2") == tmp_path and asked == ["*.safetensors"]
    (tmp_path / "model.safetensors").rename(tmp_path / "state_dict.bin")
    hub.resolve("owner/name")
    assert asked[1:] == ["*.safetensors", "pytorch_model*.bin", "*state_dict.bin"]
    assert hub.hub_id("owner/name@v2") == ("owner/name", "v2")
    assert hub.hub_id("./owner/name") is None and hub.hub_id(str(tmp_path)) is None


def test_an_mlx_folder_is_taken_as_it_is(tiny_model: Path, here: Path) -> None:
    assert conversion_cache.mlx_folder(tiny_model) == tiny_model and not cache.entries()
