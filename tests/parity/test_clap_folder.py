"""CLAP folders of transformers: converted by the command, then held against ClapModel.

Words go in as words and sound as a waveform, so tokenizer and front end are compared too.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import musicot_mlx as mc
from musicot_mlx.cli import main
from tests.support import tiny

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from transformers import ClapConfig, ClapFeatureExtractor, ClapModel  # noqa: E402

from musicot_mlx.convert.check import sound  # noqa: E402
from musicot_mlx.reference.clap import embed_audio, embed_text  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
TEXTS = ["solo piano, slow", "full drum kit and a fast walking bass", "a"]
# preprocessor_config.json of laion/clap-htsat-unfused and laion/larger_clap_*
PREPROCESSOR = {
    "chunk_length_s": 10,
    "feature_extractor_type": "ClapFeatureExtractor",
    "feature_size": 64,
    "fft_window_size": 1024,
    "frequency_max": 14000,
    "frequency_min": 50,
    "hop_length": 480,
    "max_length_s": 10,
    "n_fft": 1024,
    "nb_frequency_bins": 513,
    "nb_max_frames": 1000,
    "nb_max_samples": 480000,
    "padding": "repeatpad",
    "padding_side": "right",
    "padding_value": 0.0,
    "processor_class": "ClapProcessor",
    "return_attention_mask": False,
    "sampling_rate": 48000,
    "top_db": None,
    "truncation": "rand_trunc",
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small ClapModel as transformers saves it, with RoBERTa's kind of tokenizer files."""
    folder = tmp_path_factory.mktemp("transformers") / "larger_clap_tiny"
    torch.manual_seed(0)
    text = {
        "vocab_size": tiny.TEXT_TOKENS,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "max_position_embeddings": 66,
    }
    audio = {
        "patch_embeds_hidden_size": 8,
        "depths": [2, 2, 1],
        "num_attention_heads": [2, 2, 4],
        "hidden_size": 32,
    }
    model = ClapModel(ClapConfig(text_config=text, audio_config=audio, projection_dim=16)).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.ndim >= 2 and "_embeddings" not in name:
                value.normal_(0, 1.2 * value[0].numel() ** -0.5)
        norm = model.audio_model.audio_encoder.batch_norm
        norm.running_mean.normal_(-40, 5)
        norm.running_var.uniform_(50, 400)
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    tokenizer = json.loads(tiny.tokenizer().to_str())["model"]
    (folder / "vocab.json").write_text(json.dumps(tokenizer["vocab"]))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 512}))
    return folder


def copied(source: Path, target: Path, change=lambda config: None) -> Path:
    """A copy of the folder with links to its files and a changed config.json."""
    target.mkdir()
    for path in source.iterdir():
        (target / path.name).symlink_to(path)
    config = json.loads((source / "config.json").read_text())
    change(config)
    (target / "config.json").unlink()
    (target / "config.json").write_text(json.dumps(config))
    return target


def test_command_without_torch_gives_the_same_embeddings(source: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['torch'] = None\n")
    command = [sys.executable, "-m", "musicot_mlx", "convert", "--dtype", "float32"]
    found = subprocess.run(
        [*command, "--hf-path", source, "--mlx-path", tmp_path / "mlx"],
        env=tiny.environment(PYTHONPATH=f"{tmp_path}:{ROOT}"),
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0 and "parameters" in found.stdout, found.stderr
    ours, theirs = mc.load(tmp_path / "mlx"), ClapModel.from_pretrained(source).eval()
    assert ours.config.text_config.layer_norm_eps == 1e-12  # transformers' own, not laion's
    assert not ours.config.feature_config.int16

    encoded = tiny.tokenizer()
    encoded.pre_tokenizer.add_prefix_space = False  # as RoBERTa's
    encoded.enable_padding(pad_id=1, pad_token="<pad>")
    rows = encoded.encode_batch(TEXTS)
    ids = torch.tensor([row.ids for row in rows])
    mask = torch.tensor([row.attention_mask for row in rows])
    with torch.no_grad():
        expected = embed_text(theirs, ids, mask).numpy()
    assert (expected @ expected.T).min() < 0.99, "the texts are too alike to test anything"
    assert np.abs(ours.embed_text(TEXTS) - expected).max() < 1e-5

    rng = np.random.default_rng(0)
    waveform = np.concatenate([sound(48000, seconds, rng) for seconds in (10, 4)])
    extractor = ClapFeatureExtractor(**PREPROCESSOR)
    pieces = [waveform[:480000], waveform[480000:]]  # the second is repeated and padded there
    mel = extractor(pieces, sampling_rate=48000, return_tensors="pt")["input_features"]
    with torch.no_grad():
        expected = embed_audio(theirs, mel.float()).numpy()
    found = ours.embed_audio(waveform, 48000)
    assert (expected @ expected.T).min() < 0.999, "the windows are too alike to test anything"
    assert np.abs(found - expected).max() < 1e-5


def test_pickled_weights_and_check(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copied(source, tmp_path / "bin")
    (folder / "model.safetensors").unlink()
    state = ClapModel.from_pretrained(source).state_dict()
    torch.save(state, folder / "pytorch_model.bin")
    for name, path in (("a", source), ("b", folder)):
        paths = ["--hf-path", str(path), "--mlx-path", str(tmp_path / name)]
        assert main(["convert", *paths, "--dtype", "float32", "--check"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == 4 and lines[1].startswith("front end           log-mel, dB ")
        assert float(lines[1].split()[4]) < 1e-3
        for line in lines[2:]:
            assert float(line.split()[2]) < 1e-5, line
    files = ("model.safetensors", "tokenizer.json", "config.json")
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("fused", "enable_fusion=True, which musicot does not support; use a checkpoint without"),
        ("front end", "front end has truncation='fusion', musicot has only 'rand_trunc'"),
        ("merges", "vocab.json but no merges.txt"),
        ("vocabulary", "has 260 tokens but clap.text_config.vocab_size is 261"),
        ("no tokenizer", "holds no tokenizer, which a text needs"),
        ("json", "preprocessor_config.json is not valid JSON"),
        ("sizes", "the weights don't fit the config"),
        ("heads", "does not divide into 5 heads"),
    ],
)
def test_refusals(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, words: str
) -> None:
    def change(config: dict) -> None:
        if kind == "fused":
            config["audio_config"]["enable_fusion"] = True
        elif kind == "sizes":
            config["projection_dim"] = 12
        elif kind == "heads":
            config["text_config"]["num_attention_heads"] = 5

    folder = copied(source, tmp_path / "source", change)

    def replace(name: str, text: str) -> None:
        (folder / name).unlink()
        (folder / name).write_text(text)

    if kind == "front end":
        replace("preprocessor_config.json", json.dumps(PREPROCESSOR | {"truncation": "fusion"}))
    elif kind == "merges":
        (folder / "merges.txt").unlink()
    elif kind == "vocabulary":
        vocabulary = json.loads((folder / "vocab.json").read_text())
        vocabulary.popitem()
        replace("vocab.json", json.dumps(vocabulary))
    elif kind == "no tokenizer":
        (folder / "vocab.json").unlink()
    elif kind == "json":
        replace("preprocessor_config.json", "{")
    assert main(["convert", "--hf-path", str(folder), "--mlx-path", str(tmp_path / "out")]) == 2
    line = capsys.readouterr().err
    assert words in line and line.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_load_converts_a_folder_once(source: Path) -> None:
    """The public door takes the PyTorch folder itself."""
    first, second = mc.load(source), mc.load(source)
    assert np.array_equal(first.embed_text(TEXTS), second.embed_text(TEXTS))
