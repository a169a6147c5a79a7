"""MusicGen checkpoints of every kind become one MLX folder, and what is dangerous is not read."""

import json
import os
import pickle
import shutil
import sys
from dataclasses import asdict, replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

import musicot_mlx as mc
from musicot_mlx.cli import main
from musicot_mlx.convert.convert import convert
from musicot_mlx.convert.keymaps import musicgen as keymap
from musicot_mlx.convert.rules import Rule
from musicot_mlx.errors import MusicotError, MusicotWarning
from musicot_mlx.pipelines.musicgen.pipeline import PARTS, MusicgenSampling
from musicot_mlx.weights.checkpoint import load_arrays
from musicot_mlx.weights.config import config_from_dict
from tests.support import tiny_musicgen

torch = pytest.importorskip("torch")
from safetensors.torch import load_file, save_file  # noqa: E402

from musicot_mlx.convert.check import Difference  # noqa: E402


@pytest.fixture(scope="module")
def converted(tiny_musicgen_upstream: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The float32 MLX folder of the tiny mono checkpoint."""
    folder = tmp_path_factory.mktemp("converted") / "mono"
    convert(tiny_musicgen_upstream, folder, dtype="float32")
    return folder


def _same(a: Path, b: Path) -> None:
    ours, theirs = load_arrays(a), load_arrays(b)
    assert set(ours) == set(theirs)
    for name in ours:
        # weight normalisation folded from another naming is the same arithmetic
        assert mx.array_equal(ours[name], theirs[name]), name


@pytest.mark.parametrize("shards", [1, 3])
def test_pickles_of_transformers_4(
    tiny_musicgen_upstream: Path, converted: Path, tmp_path: Path, shards: int
) -> None:
    folder = tiny_musicgen.write_pickle(tmp_path / "bin", tiny_musicgen_upstream, shards=shards)
    convert(folder, tmp_path / "mlx", dtype="float32")
    _same(converted, tmp_path / "mlx")
    assert sorted(os.listdir(tmp_path)) == ["bin", "mlx"]  # nothing unpacked is left
    config = json.loads((tmp_path / "mlx" / "config.json").read_text())
    assert config == json.loads((converted / "config.json").read_text())


@pytest.mark.parametrize("kind", ["mono", "stereo", "melody"])
def test_audiocraft_files(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    fixture = "tiny_musicgen_upstream" if kind == "mono" else f"tiny_musicgen_{kind}"
    source = request.getfixturevalue(fixture)
    sizes = tiny_musicgen.Sizes(16, 2, 2, stereo=kind == "stereo", melody=kind == "melody")
    folder = tiny_musicgen.write_audiocraft(tmp_path / "audiocraft", source, sizes=sizes)
    convert(folder, tmp_path / "mlx", dtype="float32", text_encoder=str(folder / "t5"))
    convert(source, tmp_path / "upstream", dtype="float32")
    _same(tmp_path / "upstream", tmp_path / "mlx")
    ours, theirs = (
        json.loads((tmp_path / name / "config.json").read_text()) for name in ("mlx", "upstream")
    )
    if kind == "melody":  # audiocraft counts what 30 s at this rate give, the file says 235
        assert ours["decoder"].pop("chroma_length") == 30 * 8000 // 4096 + 1
        assert theirs["decoder"].pop("chroma_length") == 235
    for part, (_, config_class) in PARTS.items():  # what is left out has its default
        assert config_from_dict(config_class, ours[part]) == config_from_dict(
            config_class, theirs[part]
        )


def test_audiocraft_names_a_codec_and_a_text_encoder(
    tiny_musicgen_upstream: Path, tmp_path: Path
) -> None:
    folder = tiny_musicgen.write_audiocraft(tmp_path / "a", tiny_musicgen_upstream)
    torch.save({"pretrained": "facebook/encodec_32khz"}, folder / "compression_state_dict.bin")
    with pytest.raises(MusicotError, match="hf download google-t5/t5-base"):
        convert(folder, tmp_path / "mlx")
    with pytest.raises(MusicotError, match="hf download facebook/encodec_32khz"):
        convert(folder, tmp_path / "mlx", text_encoder=str(folder / "t5"))
    (folder / "compression_state_dict.bin").unlink()
    with pytest.raises(MusicotError, match="lacks compression_state_dict.bin"):
        convert(folder, tmp_path / "mlx", text_encoder=str(folder / "t5"))


class _Code:
    """What reading must not run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


def test_code_in_a_pickle_is_not_run(
    tiny_musicgen_upstream: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tiny_musicgen.write_pickle(tmp_path / "bin", tiny_musicgen_upstream)
    state = torch.load(folder / "pytorch_model.bin", weights_only=True)
    torch.save({**state, "surprise": _Code(tmp_path / "run")}, folder / "pytorch_model.bin")
    arguments = ["convert", "--hf-path", str(folder), "--mlx-path", str(tmp_path / "mlx")]
    assert main(arguments) == 2
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(_Code(tmp_path / "run")))
    assert main(arguments) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2 and all("holds more than weights" in line for line in errors)
    assert sorted(os.listdir(tmp_path)) == ["bin"]


def test_audiocraft_settings_that_are_objects_are_not_read(
    tiny_musicgen_upstream: Path, tmp_path: Path
) -> None:
    folder = tiny_musicgen.write_audiocraft(tmp_path / "a", tiny_musicgen_upstream)
    state = torch.load(folder / "state_dict.bin", weights_only=True)
    for settings, words in (
        (_Code(tmp_path / "run"), "holds more than weights"),
        ({"a": 1}, "not a file that audiocraft exported"),
        ("!!python/object/apply:os.mkdir ['run']", "not a file that audiocraft exported"),
    ):
        torch.save({**state, "xp.cfg": settings}, folder / "state_dict.bin")
        with pytest.raises(MusicotError, match=words):
            convert(folder, tmp_path / "mlx", text_encoder=str(folder / "t5"))
    assert sorted(os.listdir(tmp_path)) == ["a"]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("truncated", "is truncated or not safetensors"),
        ("truncated pickle", "is truncated or not a PyTorch file"),
        ("missing shard", "00002-of-00003.bin is missing"),
        ("missing key", "fc1.weight"),
        ("surprise", "1 keys that the key map doesn't know: surprise"),
        ("no tokenizer", "holds no tokenizer.json"),
        ("option", "scale_embedding=True, which musicot does not support"),
        ("codec", "norm_type='time_group_norm', which musicot does not support"),
        ("text", "the text encoder is 'umt5'"),
        ("style", "MusicGen-Style"),
    ],
)
def test_refusals(tiny_musicgen_upstream: Path, tmp_path: Path, kind: str, words: str) -> None:
    source = tmp_path / "source"
    if kind == "style":
        tiny_musicgen.write_audiocraft(source, tiny_musicgen_upstream)
        import yaml

        package = torch.load(source / "state_dict.bin", weights_only=True)
        settings = yaml.safe_load(package["xp.cfg"])
        settings["conditioners"]["self_wav"] = {"model": "style", "style": {}}
        torch.save({**package, "xp.cfg": yaml.safe_dump(settings)}, source / "state_dict.bin")
    elif kind in ("truncated pickle", "missing shard"):
        tiny_musicgen.write_pickle(source, tiny_musicgen_upstream, shards=3)
        victim = source / "pytorch_model-00002-of-00003.bin"
        data = victim.read_bytes()
        victim.unlink()
        if kind == "truncated pickle":
            victim.write_bytes(data[: len(data) // 2])
    else:
        shutil.copytree(tiny_musicgen_upstream, source)
        config = json.loads((source / "config.json").read_text())
        weights = source / "model.safetensors"
        if kind == "truncated":
            weights.write_bytes(weights.read_bytes()[:-1000])
        elif kind == "missing key":
            arrays = mx.load(str(weights))
            del arrays["decoder.model.decoder.layers.1.fc1.weight"]
            mx.save_safetensors(str(weights), arrays)
        elif kind == "surprise":
            mx.save_safetensors(str(weights), {**mx.load(str(weights)), "surprise": mx.zeros(1)})
        elif kind == "no tokenizer":
            (source / "tokenizer.json").unlink()
        elif kind == "option":
            config["decoder"]["scale_embedding"] = True
        elif kind == "codec":
            config["audio_encoder"]["norm_type"] = "time_group_norm"
        elif kind == "text":
            config["text_encoder"]["model_type"] = "umt5"
        (source / "config.json").write_text(json.dumps(config))
    options = {"text_encoder": str(source / "t5")} if kind == "style" else {}
    with pytest.raises(MusicotError) as error:
        convert(source, tmp_path / "target", **options)
    assert words in str(error.value)
    assert sorted(os.listdir(tmp_path)) == ["source"]


def test_quantised_by_part(
    tiny_musicgen_upstream: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = ["convert", "--hf-path", str(tiny_musicgen_upstream), "--q-group-size", "32"]
    target = tmp_path / "mlx"
    assert main([*paths, "--mlx-path", str(target), "-q", "--q-bits", "4"]) == 0
    assert "decoder 4-bit affine" in capsys.readouterr().out
    quantised = {key for key in load_arrays(target) if key.endswith(".scales")}
    assert quantised and {key.split(".")[0] for key in quantised} == {"decoder"}
    # of 16 channels only the layers of 64 divide; embeddings and the codec stay as they are
    assert all(key.endswith("fc2.scales") for key in quantised)
    dtypes = {key: value.dtype for key, value in load_arrays(target).items()}
    assert dtypes["codec.quantizer.codebooks.0.weight"] == mx.float32
    assert dtypes["codec.encoder.first.weight"] == mx.float16
    assert dtypes["text_encoder.norm.weight"] == mx.bfloat16
    config = json.loads((target / "config.json").read_text())
    assert config["quantization"]["codec"] is False
    parts = "decoder=8,text_encoder"
    assert main([*paths, "--mlx-path", str(tmp_path / "b"), "--q-parts", parts]) == 2
    assert "text_encoder has nothing to quantise" in capsys.readouterr().err
    assert main([*paths, "--mlx-path", str(tmp_path / "b"), "--q-parts", "decoder=8"]) == 0
    config = json.loads((tmp_path / "b" / "config.json").read_text())
    assert (
        config["quantization"]
        == {
            "bits": 8,
            "codec": False,
            "group_size": 32,
            "mode": "affine",
            "text_encoder": False,
        }
        or config["quantization"]["decoder"]["bits"] == 8
    )
    for words, wrong in (
        ("no part 'drummer'", "drummer"),
        ("expected 2, 3, 4, 5, 6 or 8 bits", "decoder=7"),
    ):
        assert main([*paths, "--mlx-path", str(tmp_path / "c"), "--q-parts", wrong]) == 2
        assert words in capsys.readouterr().err


def test_a_pickle_asks_for_torch(
    tiny_musicgen_upstream: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_musicgen.write_pickle(tmp_path / "bin", tiny_musicgen_upstream)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(
        MusicotError, match=r"only PyTorch reads: pip install 'musicot-mlx\[torch\]"
    ):
        convert(folder, tmp_path / "mlx")
    convert(tiny_musicgen_upstream, tmp_path / "mlx")  # safetensors need none


@pytest.mark.parametrize("kind", ["stereo", "melody"])
def test_check_runs_transformers_beside(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    source = request.getfixturevalue(f"tiny_musicgen_{kind}")
    paths = ["--hf-path", str(source), "--mlx-path", str(tmp_path / "mlx")]
    assert main(["convert", *paths, "--dtype", "float32", "--check"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert [row[0] for row in rows] == ["text_encoder", "decoder", "codec", "codec"]
    for row in rows:
        if "codes" in row:
            assert row[2] == "0.00"  # percent differ
        else:
            assert float(row[-3]) < 1e-4 * max(1.0, float(row[-1])), row
    assert main(["convert", *paths[:2], "--mlx-path", str(tmp_path / "half"), "--check"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert 1e-5 < float(rows[1][-3]) < 0.1  # what 16 bits cost


def test_check_fails_where_the_error_is_over_its_tolerance(
    tiny_musicgen_upstream: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A weight that is misread somewhere, for which a table of rules with a slip stands here."""
    rules = keymap.rules

    def slipped(config: dict) -> list[Rule]:
        return [replace(rule, order=rule.order[::-1]) for rule in rules(config)]

    monkeypatch.setattr(keymap, "rules", slipped)
    paths = ["--hf-path", str(tiny_musicgen_upstream), "--mlx-path", str(tmp_path / "mlx")]
    for options in ([], ["--dtype", "float32"], ["--dtype", "bfloat16"]):
        assert main(["convert", *paths, *options, "--check", "--overwrite"]) == 1
        out, err = capsys.readouterr()
        assert [line.split()[0] for line in out.splitlines() if "LOOK" in line] == ["decoder"]
        assert "mlx is not what PyTorch computes: see the lines that say LOOK" in err
    assert not Difference("net", "logits", float("nan"), 1.0, 0.1).passed


@pytest.mark.parametrize("kind", ["float64", "float8_e4m3fn", "int8", "bool", "complex64"])
@pytest.mark.parametrize("pickled", [False, True])
def test_a_tensor_of_another_kind_is_named(
    tiny_musicgen_upstream: Path, tmp_path: Path, kind: str, pickled: bool
) -> None:
    source = shutil.copytree(tiny_musicgen_upstream, tmp_path / "source")
    state, name = (
        load_file(source / "model.safetensors"),
        "decoder.model.decoder.layers.0.fc1.weight",
    )
    state[name] = (state[name] * 10).to(getattr(torch, kind))
    if pickled:
        (source / "model.safetensors").unlink()
        torch.save(state, source / "pytorch_model.bin")
    else:
        save_file(state, source / "model.safetensors", metadata={"format": "pt"})
    if pickled and kind == "float64":  # read for what it is
        convert(source, tmp_path / "mlx", dtype="float32")
        found = mx.load(str(tmp_path / "mlx" / "model.safetensors"))["decoder.layers.0.fc1.weight"]
        assert (np.array(found) == state[name].float().numpy()).all()
        return
    with pytest.raises(
        MusicotError, match=rf"{name} is (?!.*truncated).*; save the model again in"
    ):
        convert(source, tmp_path / "mlx")
    assert not (tmp_path / "mlx").exists()


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "module._orig_mod."])
@pytest.mark.parametrize("kind", ["safetensors", "bin", "audiocraft"])
def test_names_behind_what_stood_around_the_model(
    tiny_musicgen_upstream: Path, converted: Path, tmp_path: Path, wrapper: str, kind: str
) -> None:
    source = shutil.copytree(tiny_musicgen_upstream, tmp_path / "source")
    options = {}
    if kind == "audiocraft":
        source = tiny_musicgen.write_audiocraft(tmp_path / "audiocraft", tiny_musicgen_upstream)
        options = {"text_encoder": str(source / "t5")}
        for name in ("state_dict.bin", "compression_state_dict.bin"):
            package = torch.load(source / name, weights_only=True)
            package["best_state"] = {wrapper + k: v for k, v in package["best_state"].items()}
            torch.save(package, source / name)
    else:
        state = {wrapper + k: v for k, v in load_file(source / "model.safetensors").items()}
        if kind == "bin":
            (source / "model.safetensors").unlink()
            torch.save(state, source / "pytorch_model.bin")
        else:
            save_file(state, source / "model.safetensors", metadata={"format": "pt"})
    convert(source, tmp_path / "mlx", dtype="float32", **options)
    _same(converted, tmp_path / "mlx")


def test_check_refuses_audiocraft(
    tiny_musicgen_upstream: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tiny_musicgen.write_audiocraft(tmp_path / "a", tiny_musicgen_upstream)
    arguments = ["--hf-path", str(folder), "--mlx-path", str(tmp_path / "mlx"), "--check"]
    assert main(["convert", *arguments, "--text-encoder", str(folder / "t5")]) == 2
    assert "does not read audiocraft's files" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"do_sample": False, "temperature": 0.7}, {"audio_temperature": 0.0}),
        ({"do_sample": True, "temperature": 0.7}, {"audio_temperature": 0.7}),
        ({"guidance_scale": None}, {"audio_guidance": 1.0}),
        ({"guidance_scale": 1}, {"audio_guidance": 1.0}),
        ({"top_p": 0.0}, {"audio_temperature": 0.0, "top_p": 1.0}),  # the likeliest alone
        ({"top_p": 0.9, "top_k": 7}, {"top_p": 0.9, "top_k": 7}),
        ({"num_beams": 1, "repetition_penalty": 1.0, "bad_words_ids": None}, {}),
    ],
)
def test_generation_config_is_honoured(
    tiny_musicgen_upstream: Path, tmp_path: Path, said: dict, expected: dict
) -> None:
    source = shutil.copytree(tiny_musicgen_upstream, tmp_path / "source")
    file = source / "generation_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **said}))
    convert(source, tmp_path / "mlx")
    model = mc.load(tmp_path / "mlx")
    assert asdict(model.sampling) == {**asdict(MusicgenSampling()), **expected}
    if expected.get("audio_temperature") == 0:
        one, two = (model.generate("piano", duration=1, seed=seed).codes for seed in (1, 2))
        assert (one == two).all()


def test_generation_config_of_words_for_numbers(
    tiny_musicgen_upstream: Path, tmp_path: Path
) -> None:
    source = shutil.copytree(tiny_musicgen_upstream, tmp_path / "source")
    (source / "generation_config.json").write_text('{"do_sample": "false"}')
    with pytest.raises(MusicotError, match="write true or false"):
        convert(source, tmp_path / "mlx")


def test_a_pickle_of_no_tensors(tiny_musicgen_upstream: Path, tmp_path: Path) -> None:
    folder = tiny_musicgen.write_pickle(tmp_path / "bin", tiny_musicgen_upstream)
    torch.save([1, 2], folder / "pytorch_model.bin")
    with pytest.raises(MusicotError, match="holds no state dict"):
        convert(folder, tmp_path / "mlx")
    assert not (tmp_path / "mlx").exists()


def test_generation_config_that_is_not_ours_is_told(
    tiny_musicgen_upstream: Path, tmp_path: Path
) -> None:
    source = shutil.copytree(tiny_musicgen_upstream, tmp_path / "source")
    file = source / "generation_config.json"
    file.write_text(json.dumps({"num_beams": 4, "min_p": 0.1, "guidance_scale": 3.0}))
    with pytest.warns(MusicotWarning, match="asks for num_beams 4, min_p 0.1, which musicot does"):
        convert(source, tmp_path / "mlx")
    file.write_text(json.dumps({"guidance_scale": "3"}))
    with pytest.raises(MusicotError, match="audio_guidance: expected float, got '3'"):
        convert(source, tmp_path / "wrong")
    assert not (tmp_path / "wrong").exists()
