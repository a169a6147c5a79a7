"""A folder as google/magenta-realtime-2 has it, at tiny sizes, to an MLX folder that plays."""

import os
import shutil
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

import musicot_mlx as mc
from musicot_mlx.cli import main
from musicot_mlx.convert.families import magenta_rt2
from musicot_mlx.convert.keymaps import depthformer, musiccoca
from musicot_mlx.convert.sentencepiece import read_sentencepiece
from musicot_mlx.models.musiccoca import MusicCoCa
from musicot_mlx.models.rvq import ResidualVQ
from musicot_mlx.pipelines.magenta_rt2.embedder import MusicCoCaEmbedder
from musicot_mlx.weights.checkpoint import load_strict
from musicot_mlx.weights.config import config_to_dict

sentencepiece = pytest.importorskip("sentencepiece")
pytest.importorskip("flatbuffers")
pytest.importorskip("torch")  # the names of the arrays stand in the reference
from musicot_mlx.reference.musiccoca import shapes  # noqa: E402
from tests.support import tiny_magenta, tiny_musiccoca  # noqa: E402

WEIGHTS = Path("checkpoints") / "mrt2_small.safetensors"


def save(path: Path, arrays: dict[str, np.ndarray]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    mx.save_safetensors(str(path), {key: mx.array(value) for key, value in arrays.items()})


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder; its codec's codebooks are shared by decoder and encoder, as upstream's."""
    folder = tmp_path_factory.mktemp("magenta") / "magenta-rt-v2"
    save(folder / WEIGHTS, tiny_magenta.weights(tiny_magenta.shapes()))
    encoder = tiny_magenta.weights(tiny_magenta.encoder_shapes())
    save(folder / "resources" / "spectrostream" / "encoder.safetensors", encoder)
    styles = folder / "resources" / "musiccoca"
    styles.mkdir(parents=True)
    arrays = tiny_musiccoca.arrays(shapes(config_to_dict(tiny_musiccoca.CONFIG)))
    tiny_musiccoca.write_files(styles, arrays)
    tiny_musiccoca.write_quantizer(styles, tiny_musiccoca.codebooks())
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(list(magenta_rt2.GOLDEN) * 20),
        model_prefix=str(styles / "spm"),
        vocab_size=38,
        hard_vocab_limit=False,
        minloglevel=2,
        num_threads=1,
    )
    (styles / "spm.vocab").unlink()
    return folder


@pytest.fixture(autouse=True)
def tiny_sizes(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sizes that the published files have are constants; and so are their tokens."""
    monkeypatch.setattr(magenta_rt2, "COCA", tiny_musiccoca.CONFIG)
    monkeypatch.setattr(magenta_rt2, "RVQ", tiny_musiccoca.RVQ)
    monkeypatch.setitem(depthformer.PAST, 48, tiny_magenta.PAST)
    monkeypatch.setattr(magenta_rt2, "GOLDEN", golden(source, tmp_path, unit=False))


def golden(source: Path, scratch: Path, *, unit: bool) -> dict[str, tuple[int, ...]]:
    """The tokens that the texts have, of vectors as they are or of unit length."""
    styles = source / "resources" / "musiccoca"
    config, arrays = musiccoca.read_musiccoca(styles, scratch, tiny_musiccoca.CONFIG)
    coca, rvq = MusicCoCa(config), ResidualVQ(tiny_musiccoca.RVQ)
    load_strict(coca, arrays, where="musiccoca")
    load_strict(rvq, musiccoca.read_quantizer(styles, tiny_musiccoca.RVQ), where="rvq")
    embedder = MusicCoCaEmbedder(coca, read_sentencepiece(styles / "spm.model"))
    texts = list(magenta_rt2.GOLDEN)
    vectors = embedder.embed_text(texts) if unit else embedder.raw_text(texts)
    codes = np.array(rvq.encode(mx.array(vectors)[None])[0]).T
    return {text: tuple(map(int, row)) for text, row in zip(texts, codes, strict=True)}


def convert(source: Path, target: Path, *flags: str) -> int:
    return main(["convert", "--hf-path", str(source), "--mlx-path", str(target), *flags])


@pytest.mark.filterwarnings("ignore:.*styles are not the vectors")
def test_a_folder_becomes_a_model(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "mlx"
    assert convert(source, target, "-q", "--q-group-size", "32") == 0
    captured = capsys.readouterr()
    assert "lm 8-bit affine in groups of 32, bfloat16 rest" in captured.out
    assert "musiccoca float16" in captured.out
    card = (target / "README.md").read_text()
    assert '"Magenta RealTime 2" by Google LLC' in card and "CC BY 4.0" in card
    model = mc.load(target)
    assert model.family.title == "Magenta RealTime 2" and model.lm.config.past == 3
    plan = model.plan("disco funk", duration=20, seed=0, variation=0.0)
    assert plan.codes.shape == (4, 2)
    song = model.generate("disco funk", duration=1, seed=1, loudness=False)
    assert song.waveform.shape == (48000, 2) and np.isfinite(song.waveform).all()
    stored = mx.load(str(target / "model.safetensors"))
    assert stored["codec.decoder.last.weight"].dtype == mx.float32
    assert stored["lm.conditioner.style.weight"].dtype == mx.float32
    assert stored["rvq.codebooks.0.weight"].dtype == mx.float32
    assert "lm.layers.0.ffn.down.scales" in stored and "codec.decoder.last.scales" not in stored


@pytest.mark.filterwarnings("ignore:.*styles are not the vectors")
def test_the_golden_tokens_say_how_long_vectors_are(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    raw = magenta_rt2.read(source, {}, tmp_path / "a").config["musiccoca"]["tower_norm"]
    assert raw != 1.0
    monkeypatch.setattr(magenta_rt2, "GOLDEN", golden(source, tmp_path, unit=True))
    (tmp_path / "b").mkdir()
    assert magenta_rt2.read(source, {}, tmp_path / "b").config["musiccoca"]["tower_norm"] == 1.0


def test_other_tokens_are_refused(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    wrong = {text: (8, 8, 8, 8) for text in magenta_rt2.GOLDEN}
    monkeypatch.setattr(magenta_rt2, "GOLDEN", wrong)
    assert convert(source, tmp_path / "mlx") == 2
    error = capsys.readouterr().err
    assert "upstream's are [8, 8, 8, 8]; this is another revision" in error
    assert error.count("\n") == 1 and not (tmp_path / "mlx").exists()


NOWHERE, LOOP, FOLDER = "nowhere", "itself", ""  # what a link leads to, and no file at all
BROKEN = [
    (WEIGHTS, None, "holds no config.json"),
    (WEIGHTS, FOLDER, "mrt2_small.safetensors: Is a directory"),
    (WEIGHTS, NOWHERE, "mrt2_small.safetensors is missing"),
    (WEIGHTS, b"\x08\0\0\0\0\0\0\0nonsense", "truncated or not safetensors"),
    (Path("resources/spectrostream/encoder.safetensors"), None, "is missing"),
    (Path("resources/spectrostream/encoder.safetensors"), LOOP, "Too many levels of symbolic"),
    (Path("resources/musiccoca/text_encoder.tflite"), b"TFL3", "text_encoder.tflite"),
    (Path("resources/musiccoca/music_encoder.tflite"), None, "music_encoder.tflite"),
    (Path("resources/musiccoca/mapper.tflite"), NOWHERE, "mapper.tflite: No such file"),
    (Path("resources/musiccoca/mapper.tflite"), LOOP, "mapper.tflite: Too many levels"),
    (Path("resources/musiccoca/pretrained_vector_quantizer.tflite"), b"", "quantizer.tflite"),
    (Path("resources/musiccoca/spm.model"), b"\xff\xff\xff", "spm.model"),
    (Path("resources/musiccoca/spm.model"), None, "spm.model"),
]


@pytest.mark.parametrize(("file", "content", "words"), BROKEN)
def test_a_file_that_is_missing_or_odd(
    source: Path, tmp_path: Path, file: Path, content: bytes | str | None, words: str, capsys
) -> None:
    """One line that names it, and nothing is left behind."""
    broken = tmp_path / "broken"
    shutil.copytree(source, broken, copy_function=os.link)  # none of it is written to
    (broken / file).unlink()
    if isinstance(content, bytes):
        (broken / file).write_bytes(content)
    elif content == FOLDER:
        (broken / file).mkdir()
    elif content is not None:
        (broken / file).symlink_to(file.name if content == LOOP else content)
    assert convert(broken, tmp_path / "mlx") == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1 and "Traceback" not in error
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["broken"]


def test_a_bundle_without_mapper(source: Path, tmp_path: Path, capsys) -> None:
    """It is said once, plans are made and shown all the same; a target that is a file is told."""
    older = tmp_path / "older"
    shutil.copytree(source, older, copy_function=os.link)
    (older / "resources" / "musiccoca" / "mapper.tflite").unlink()
    assert convert(older, tmp_path / "mlx") == 0
    assert "mapper.tflite is missing: all thoughts of the same words" in capsys.readouterr().err
    plan = ["plan", "--model", str(tmp_path / "mlx"), "-p", "disco funk", "--duration", "20"]
    assert main([*plan, "--anchors", "disco,funk"]) == 0
    (tmp_path / "file").write_text("mine")
    assert convert(source, tmp_path / "file") == 2
    assert f"can't write into {tmp_path / 'file'}: it is no folder" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("what", ["missing", "extra", "misshapen"])
def test_an_array_that_is_missing_or_odd(source: Path, tmp_path: Path, what: str, capsys) -> None:
    arrays = tiny_magenta.weights(tiny_magenta.shapes())
    key = "params/depthformer/decoder/temporal_body/transformer/x_layers_1/ffn/ffn_layer1/kernel"
    if what == "missing":
        del arrays[key]
    elif what == "extra":
        arrays[key + "_2"] = arrays[key]
    else:
        arrays[key] = arrays[key][:-1]
    broken = tmp_path / "broken"
    shutil.copytree(source, broken)
    save(broken / WEIGHTS, arrays)
    assert convert(broken, tmp_path / "mlx") == 2
    error = capsys.readouterr().err
    named = {"extra": "ffn_layer1/kernel_2"}.get(what, "layers.1.ffn.up.weight")
    assert named in error.splitlines()[-1] and "Traceback" not in error
    assert not (tmp_path / "mlx").exists()
