"""laion_clap's files: converted by the command, then held against laion_clap's own CLAP class."""

import contextlib
import io
import json
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

import musicot_mlx as mc
from musicot_mlx.cli import main
from musicot_mlx.errors import MusicotError
from musicot_mlx.pipelines.clap import to_int16
from musicot_mlx.weights.checkpoint import load_arrays
from tests.support import tiny
from tests.support.laion_clap import SMALL

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
if not (find_spec("laion_clap") and find_spec("torchlibrosa")):  # importing it needs all it names
    pytest.skip("make test installs laion_clap", allow_module_level=True)

from musicot_mlx.convert.check import sound  # noqa: E402
from musicot_mlx.convert.pickles import unpickle  # noqa: E402
from musicot_mlx.reference import laion_clap  # noqa: E402

TEXTS = ["solo piano, slow", "full drum kit and a fast walking bass", "a"]


@pytest.fixture(scope="module")
def reference() -> "torch.nn.Module":
    """laion_clap's class with weights at which every layer matters."""
    torch.manual_seed(0)
    clap = laion_clap.build_laion_clap(SMALL)
    with torch.no_grad():
        for name, value in clap.named_parameters():
            if "_extractor" in name or "logit_scale" in name or "word_embeddings" in name:
                continue
            if name.endswith("bias_table"):
                value.normal_(0, 1.0)
            elif value.ndim >= 2:
                value.normal_(0, 1.2 * value[0].numel() ** -0.5)
            elif name.endswith("weight"):
                value.uniform_(0.5, 1.5)
            else:
                value.normal_(0, 0.2)
        clap.audio_branch.bn0.running_mean.normal_(-40, 5)
        clap.audio_branch.bn0.running_var.uniform_(50, 400)
    return clap


@pytest.fixture(scope="module")
def file(reference, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The .pt file as upstream saves it, in a folder with the tokenizer."""
    folder = tmp_path_factory.mktemp("laion")
    laion_clap.save_as_upstream(reference, folder / "music_audioset.pt")
    (folder / "tokenizer.json").write_text(tiny.tokenizer().to_str())
    return folder / "music_audioset.pt"


def command(*arguments: object, env: dict[str, str] | None = None) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "musicot_mlx", *map(str, arguments)],
        env=env or tiny.environment(),
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def folder(file: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The MLX folder that the command makes of it, and what the command printed."""
    target = tmp_path_factory.mktemp("mlx") / "clap"
    paths = ["--hf-path", file, "--mlx-path", target]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main(["convert", *map(str, paths), "--dtype", "float32", "--check"]) == 0
    return target, printed.getvalue()


def test_command_converts_and_checks(folder) -> None:
    target, printed = folder
    rows = re.findall(r"^(.{19}) (.{16}) (\S+) of (\S+)$", printed, flags=re.MULTILINE)
    errors = {(part.strip(), what.strip()): float(error) for part, what, error, _ in rows}
    assert set(errors) == {
        ("front end", "log-mel, dB"),
        ("text", "embeddings"),
        ("audio", "embeddings"),
    }
    assert errors.pop(("front end", "log-mel, dB")) < 1e-3
    assert max(errors.values()) < 1e-5
    names = {path.name for path in target.iterdir()}
    assert names == {
        "README.md",
        "config.json",
        "model.safetensors",
        "model.safetensors.index.json",
        "tokenizer.json",
    }
    config = json.loads((target / "config.json").read_text())
    assert config["model_type"] == "clap"
    assert config["clap"]["text_config"] == SMALL["text_config"] | {
        "layer_norm_eps": 1e-5,
        "context_length": 77,
    }
    assert config["clap"]["audio_config"] == SMALL["audio_config"] | {
        "mlp_ratio": 4.0,
        "qkv_bias": True,
    }
    assert all(key.startswith("clap.") for key in load_arrays(target))


def hiss(samples: int) -> np.ndarray:
    """A noise floor as recordings have: below -90 dB a spectrum is its float32 rounding errors."""
    return 0.01 * np.random.default_rng(1).standard_normal(samples)


def test_embeddings_of_words_and_sound(reference, folder) -> None:
    ours = mc.load(folder[0])
    encoded = tiny.tokenizer().encode_batch(TEXTS)  # with its own <s> and </s>
    longest = max(len(item.ids) for item in encoded)
    ids = torch.ones(3, longest, dtype=torch.long)
    for row, item in zip(ids, encoded, strict=True):
        row[: len(item.ids)] = torch.tensor(item.ids)
    expected = laion_clap.embed_text(reference, ids, (ids != 1).long()).numpy()
    assert (expected @ expected.T).min() < 0.99, "the texts are too alike to test anything"
    assert np.abs(ours.embed_text(TEXTS) - expected).max() < 1e-5

    rng = np.random.default_rng(0)
    waveform = np.concatenate([sound(48000, seconds, rng) for seconds in (10, 10, 5)])
    windows = np.zeros((3, 480000), dtype=np.float32)
    windows[:2] = waveform[:960000].reshape(2, -1)
    windows[2] = np.tile(waveform[960000:], 2)  # 5 s, repeated
    # laion_clap's own quantisation, in its words of hook.py
    clipped = np.clip(windows, a_min=-1.0, a_max=1.0)
    windows = ((clipped * 32767.0).astype(np.int16) / 32767.0).astype(np.float32)
    expected = laion_clap.embed_audio(reference, torch.from_numpy(windows)).numpy()
    assert (expected @ expected.T).min() < 0.999, "the windows are too alike to test anything"
    found = ours.embed_audio(waveform, 48000)
    assert np.abs(found - expected).max() < 1e-5
    assert np.array_equal(found, ours.embed_audio(waveform, 48000)), "nothing is cropped by chance"
    mel = np.array(ours.config.log_mel()(mx.array(windows)))
    assert (
        np.abs(mel - laion_clap.log_mel(reference, torch.from_numpy(windows)).numpy()).max() < 1e-3
    )


@pytest.mark.parametrize("seconds", [0.4, 3.3, 7.0])
def test_short_audio_is_filled_as_upstream(reference, folder, seconds: float) -> None:
    """data_filling="repeatpad" of laion_clap/training/data.py: whole repeats, then zeros."""
    samples = round(seconds * 48000)
    waveform = (np.sin(np.arange(samples) ** 1.3 * 0.01) + hiss(samples)).astype(np.float32)
    audio = torch.from_numpy(to_int16(waveform))
    audio = audio.repeat(int(480000 / len(audio)))
    audio = torch.nn.functional.pad(audio, (0, 480000 - len(audio)))[None]
    expected = laion_clap.embed_audio(reference, audio).numpy()
    assert np.abs(mc.load(folder[0]).embed_audio(waveform, 48000) - expected).max() < 1e-5


def test_int16_is_laions() -> None:
    x = np.array([-1.5, -1.0, -0.99999, -1e-5, 0, 3.06e-5, 0.5, 0.9999999, 2.0], dtype=np.float32)
    expected = ((np.clip(x, -1.0, 1.0) * 32767.0).astype(np.int16) / 32767.0).astype(np.float32)
    assert np.array_equal(to_int16(x), expected) and expected[3] == 0 and expected[5] > 0


def test_long_texts_end_at_77_tokens(reference, folder) -> None:
    ours = mc.load(folder[0])
    ids, mask = ours.text_ids(["piano " * 60])
    assert ids.shape == (1, 77) and ids[0, -1] == 2
    expected = laion_clap.embed_text(
        reference, torch.from_numpy(ids).long(), torch.from_numpy(mask)
    )
    assert np.abs(ours.embed_text(["piano " * 60]) - expected.numpy()).max() < 1e-5


def resaved(file: Path, path: Path, change) -> Path:
    checkpoint = torch.load(file, weights_only=True)
    torch.save(change(checkpoint), path)
    return path


@pytest.mark.parametrize("kind", ["bare", "trained", "half"])
def test_other_wrappings_give_the_same_weights(
    file: Path, folder, tmp_path: Path, kind: str
) -> None:
    def change(checkpoint: dict) -> dict:
        if kind == "bare":
            return {k.removeprefix("module."): v for k, v in checkpoint["state_dict"].items()}
        if kind == "half":
            state = checkpoint["state_dict"]
            return {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
        moments = {k: {"exp_avg": torch.zeros(3)} for k in range(3)}
        return checkpoint | {
            "optimizer": {"state": moments, "param_groups": [{"lr": 1e-4}]},
            "epoch": np.int64(15),
            "best": np.float64(0.9),
            "scaler": {"scale": 65536.0},
        }

    source = resaved(file, tmp_path / "a.pt", change)
    (tmp_path / "tokenizer.json").write_text(tiny.tokenizer().to_str())
    # a folder with one .pt may be named instead of the file
    paths = ["--hf-path", str(source if kind == "bare" else tmp_path)]
    paths += ["--mlx-path", str(tmp_path / "m"), "--dtype", "float32"]
    assert main(["convert", *paths]) == 0
    expected, found = load_arrays(folder[0]), load_arrays(tmp_path / "m")
    assert set(found) == set(expected)
    for key, value in expected.items():
        error = mx.abs(found[key] - value).max().item()
        assert error <= (1e-3 * mx.abs(value).max().item() if kind == "half" else 0), key


def test_quantised_folder_loads(file: Path, tmp_path: Path) -> None:
    paths = ["--hf-path", str(file), "--mlx-path", str(tmp_path / "m")]
    assert main(["convert", *paths, "-q", "--q-group-size", "32"]) == 0
    found = mc.load(tmp_path / "m").embed_text(TEXTS)
    assert found.shape == (3, 24) and np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-4)


def test_numbers_of_older_numpy(tmp_path: Path) -> None:
    """numpy 1 calls its core numpy.core; laion_clap's files are of its time."""
    torch.save({"best": np.float64(0.9014), "a": torch.arange(3.0)}, tmp_path / "new.pt")
    with (
        zipfile.ZipFile(tmp_path / "new.pt") as old,
        zipfile.ZipFile(tmp_path / "a.pt", "w") as new,
    ):
        for name in old.namelist():
            data = old.read(name)
            if name.endswith("data.pkl"):
                assert b"numpy._core.multiarray" in data
                data = data.replace(b"numpy._core", b"numpy.core")
            new.writestr(name, data)
    found = unpickle(tmp_path / "a.pt")
    assert found["best"] == 0.9014 and found["a"].tolist() == [0, 1, 2]


class _Hostile:
    def __reduce__(self):
        return (Path.touch, (Path("ran"),))


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("fusion", "trained with feature fusion; use a checkpoint without fusion"),
        ("bert", "text tower is BERT"),
        (
            "pann",
            "lacks audio_branch.patch_embed.proj.weight: its towers are not HTSAT and RoBERTa",
        ),
        ("filters", "other mel filters"),
        ("extra", "1 keys that the key map doesn't know: audio_branch.surprise"),
        ("missing", "1 missing (text_projection.linear1.bias ("),
        ("shape", "the config says"),
        ("tokenizer", "holds no tokenizer, which a text needs: put tokenizer.json of roberta-base"),
        ("vocabulary", "has 262 tokens but clap.text_config.vocab_size is 261"),
        ("empty", "has 5 tokens but clap.text_config.vocab_size is 261"),
        ("no file", "--tokenizer nowhere doesn't exist"),
        ("several", "holds 2 checkpoints (a.pt, b.pt); name one of them"),
        ("hostile", "could run code, so it is not read"),
        ("truncated", "is truncated or not a PyTorch file"),
        ("text", "holds more than weights, or is no PyTorch file"),
        ("list", "holds no state dict"),
        ("other", "its weights are of no known kind"),
    ],
)
def test_refusals(
    file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    source, options = Path("a.pt"), []
    Path("tokenizer.json").write_text(tiny.tokenizer().to_str())
    checkpoint = torch.load(file, weights_only=True)
    state = checkpoint["state_dict"]
    if kind == "fusion":
        state = laion_clap.build_laion_clap(SMALL, fusion=True).state_dict()
        assert any("fusion_model" in key for key in state)
        checkpoint = {"state_dict": state}
    elif kind == "bert":
        state["module.text_branch.embeddings.token_type_embeddings.weight"] = torch.zeros(2, 128)
    elif kind == "pann":
        for key in [key for key in state if "patch_embed" in key]:
            del state[key]
    elif kind == "filters":
        state["module.audio_branch.logmel_extractor.melW"] *= 1.01
    elif kind == "extra":
        state["module.audio_branch.surprise"] = torch.zeros(1)
    elif kind == "missing":
        del state["module.text_projection.0.bias"]
    elif kind == "shape":
        state["module.text_projection.0.bias"] = torch.zeros(5)
    elif kind == "tokenizer":
        Path("tokenizer.json").unlink()
    elif kind in ("vocabulary", "empty"):
        from tokenizers import Tokenizer, models

        made = tiny.tokenizer()
        made.add_tokens(["extra"])
        if kind == "empty":  # what RobertaTokenizer.from_pretrained gives without a network
            words5 = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
            made = Tokenizer(models.BPE({w: i for i, w in enumerate(words5)}, []))
        Path("tokenizer.json").write_text(made.to_str())
    elif kind == "no file":
        options = ["--tokenizer", "nowhere"]
    elif kind == "hostile":
        checkpoint = {"state_dict": state, "x": _Hostile()}
    elif kind == "list":
        checkpoint = [1, 2]
    elif kind == "other":
        checkpoint = {"a": torch.zeros(3)}
    torch.save(checkpoint, source)
    if kind == "several":
        torch.save({}, "b.pt")
        source = Path(".").resolve()
    elif kind == "truncated":
        source.write_bytes(source.read_bytes()[:100_000])
    elif kind == "text":
        source.write_text("not weights")
    assert main(["convert", "--hf-path", str(source), "--mlx-path", "out", *options]) == 2
    line = capsys.readouterr().err
    assert words in line and line.count("\n") == 1
    assert not Path("out").exists() and not Path("ran").exists()
    assert not list(Path(".").glob(".musicot*"))


def test_tokenizer_from_the_hub_or_from_anywhere(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "tokenizer.json").write_text(tiny.tokenizer().to_str())
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / "a.pt").symlink_to(file)
    asked = []

    def download(name: str, filename: str) -> str:
        asked.append((name, filename))
        return str(tmp_path / "elsewhere" / filename)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    paths = ["--hf-path", str(tmp_path / "alone" / "a.pt"), "--mlx-path"]
    assert main(["convert", *paths, str(tmp_path / "a")]) == 0
    assert asked == [("FacebookAI/roberta-base", "tokenizer.json")]
    given = ["--tokenizer", str(tmp_path / "elsewhere")]
    assert main(["convert", *paths, str(tmp_path / "b"), *given]) == 0 and len(asked) == 1
    expected = mc.load(tmp_path / "a").embed_text(TEXTS)
    assert np.array_equal(mc.load(tmp_path / "b").embed_text(TEXTS), expected)


def test_without_torch_a_line_says_what_to_install(file: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['torch'] = None\n")
    root = Path(__file__).resolve().parents[2]
    found = command(
        "convert", "--hf-path", file, "--mlx-path", tmp_path / "m",
        env=tiny.environment(PYTHONPATH=f"{tmp_path}:{root}"),
    )  # fmt: skip
    assert found.returncode == 2 and "pip install 'musicot-mlx[torch]'" in found.stderr
    assert found.stderr.count("\n") == 1


def test_laion_clap_missing_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(laion_clap, "PACKAGES", ("laion_clap", "no_such_package"))
    with pytest.raises(
        MusicotError, match="no_such_package is not installed: pip install --no-deps"
    ):
        laion_clap.build_laion_clap(SMALL)


@pytest.mark.parametrize("prefix", ["", "_orig_mod.", "module._orig_mod."])
def test_a_file_in_bfloat16_and_behind_other_names(file: Path, tmp_path: Path, prefix: str) -> None:
    """As a training in bfloat16, or of a compiled model, saves it."""
    checkpoint = torch.load(file, weights_only=False)
    state = checkpoint["state_dict"]
    checkpoint["state_dict"] = {
        prefix + key.removeprefix("module."): v.bfloat16() if v.is_floating_point() else v
        for key, v in state.items()
    }
    torch.save(checkpoint, tmp_path / "half.pt")
    shutil.copy(file.parent / "tokenizer.json", tmp_path)
    paths = ["--hf-path", str(tmp_path / "half.pt"), "--mlx-path", str(tmp_path / "mlx")]
    assert main(["convert", *paths, "--dtype", "float32", "--check"]) == 0
