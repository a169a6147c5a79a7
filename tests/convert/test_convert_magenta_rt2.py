"""A folder as google/magenta-realtime-2 has it, at tiny sizes, to an MLX folder that plays."""

import re
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
from musicot_mlx.convert.check import check  # noqa: E402
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
def test_pytorch_beside_it(source: Path, tmp_path: Path, capsys) -> None:
    """--check compares what was written with the files, and sees one array gone wrong."""
    target = tmp_path / "mlx"
    assert convert(source, target, "--dtype", "float32", "--check") == 0
    rows = capsys.readouterr().out.splitlines()[-5:]
    names = ["text vectors", "log-mel", "audio vectors", "mapped vectors", "codes"]
    assert [row[20:36].strip() for row in rows] == names
    assert rows[4].startswith("rvq") and rows[4].endswith("0.00 % differ")
    for row in rows[:4]:
        error, scale = re.search(r"([\d.e+-]+) of ([\d.]+)$", row).groups()
        assert row.startswith("musiccoca") and float(error) < 1e-4 * max(1, float(scale)), row
    assert convert(source, tmp_path / "half", "-q", "--q-group-size", "32", "--check") == 0
    stored = mx.load(str(target / "model.safetensors"))
    for key, said in (
        ("musiccoca.text.layers.1.ffn.up.weight", "text vectors"),
        ("musiccoca.audio.layers.0.attn.key.weight", "audio vectors"),
        ("musiccoca.mapper.layers.1.down.weight", "mapped vectors"),
        ("rvq.codebooks.2.weight", "codes"),
    ):
        wrong = tmp_path / key
        shutil.copytree(target, wrong)
        mx.save_safetensors(str(wrong / "model.safetensors"), stored | {key: stored[key][::-1]})
        found = check(source, wrong, progress=lambda *_: None)
        assert [each.what for each in found if not each.passed] == [said]


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


ENCODER = Path("resources/spectrostream/encoder.safetensors")
STYLES = Path("resources/musiccoca")
FILES = [
    WEIGHTS,
    ENCODER,
    *(STYLES / name for name in (*musiccoca.FILES, musiccoca.QUANTIZER, "spm.model")),
]


def refused(source: Path, target: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What a conversion says that fails: one line, and nothing is left behind."""
    before = sorted(target.parent.rglob("*"))
    assert convert(source, target) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "Traceback" not in error, error
    assert sorted(target.parent.rglob("*")) == before
    return error


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.name)
@pytest.mark.parametrize("what", ["missing", "empty", "half", "all but a little", "other"])
def test_a_file_that_is_missing_or_odd(
    source: Path, tmp_path: Path, file: Path, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if what == "missing" and file.name == "mapper.tflite":
        return  # bundles of the first weeks have none
    broken = tmp_path / "broken"
    shutil.copytree(source, broken)
    whole = (broken / file).read_bytes()
    (broken / file).unlink()
    if what != "missing":
        parts = {"empty": b"", "half": whole[: len(whole) // 2], "other": b"\xffTFL3" * 100}
        (broken / file).write_bytes(parts.get(what, whole[:-30]))
    error = refused(broken, tmp_path / "mlx", capsys)
    only = what == "missing" and file == WEIGHTS  # then it is no folder of this kind
    assert ("holds no config.json" if only else file.name) in error


def test_a_config_that_is_none(source: Path, tmp_path: Path, capsys) -> None:
    shutil.copytree(source, tmp_path / "broken")
    (tmp_path / "broken" / "config.json").write_text("{nonsense")
    assert "config.json is not valid JSON" in refused(tmp_path / "broken", tmp_path / "m", capsys)


LAYER = "params/depthformer/decoder/temporal_body/transformer/x_layers_1/ffn/ffn_layer1/kernel"
MULAN = (
    "params/depthformer/encoder/body/layers_1/branched_mulan_embedder/mulan_embedder/"
    "mulan_dequantizer/embedding"
)
ARRAYS = [
    (WEIGHTS, LAYER, "layers.1.ffn.up.weight"),
    (WEIGHTS, MULAN, "conditioner.style.weight"),
    (WEIGHTS, "params/soundstream/quantizer/embedding", "quantizer/embedding|codec: the weights"),
    (WEIGHTS, "params/soundstream/decoder/decoder_3/conv2d_3x3/conv/kernel", "decoder"),
    (ENCODER, "params/encoder/encoder_3/conv2d_3x3/conv/kernel", "encoder"),
]


@pytest.mark.parametrize("what", ["missing", "extra", "misshapen"])
@pytest.mark.parametrize(("file", "key", "target"), ARRAYS, ids=lambda value: str(value)[-20:])
def test_an_array_that_is_missing_or_odd(
    source: Path, tmp_path: Path, file: Path, key: str, target: str, what: str, capsys
) -> None:
    arrays = {name: np.array(value) for name, value in mx.load(str(source / file)).items()}
    if what == "missing":
        del arrays[key]
    elif what == "extra":
        arrays[key + "_2"] = arrays[key]
    else:
        arrays[key] = arrays[key][..., :-1]
    broken = tmp_path / "broken"
    shutil.copytree(source, broken)
    save(broken / file, arrays)
    before = sorted(tmp_path.rglob("*"))
    assert convert(broken, tmp_path / "mlx") == 2
    error = capsys.readouterr().err
    named = "/".join(key.split("/")[-2:]) + "_2" if what == "extra" else target
    assert re.search(named, error.splitlines()[-1]) and "Traceback" not in error, error
    assert sorted(tmp_path.rglob("*")) == before


def test_codebooks_of_another_order(source: Path, tmp_path: Path, capsys) -> None:
    """Products that are not of the codebooks looked up, and codebooks that give other tokens."""
    broken = tmp_path / "broken"
    shutil.copytree(source, broken)
    books = tiny_musiccoca.codebooks()
    tiny_musiccoca.write_quantizer(broken / STYLES, books, looked_up=books[::-1])
    assert "are not of its codebook" in refused(broken, tmp_path / "mlx", capsys)
    tiny_musiccoca.write_quantizer(broken / STYLES, books[::-1])
    assert "this is another revision than the one" in refused(broken, tmp_path / "mlx", capsys)


@pytest.mark.filterwarnings("ignore:.*styles are not the vectors")
def test_sizes(source: Path, tmp_path: Path, tiny_model: Path, capsys) -> None:
    """A folder may hold both; what is asked for is taken."""
    says = "holds no checkpoints/mrt2_base.safetensors; there is small"
    assert says in refused(Path(f"{source}:base"), tmp_path / "mlx", capsys)
    both = tmp_path / "both"
    shutil.copytree(source, both)
    shutil.copy(both / WEIGHTS, both / "checkpoints" / "mrt2_base.safetensors")
    (both / WEIGHTS).write_bytes(b"broken")
    assert convert(Path(f"{both}:base"), tmp_path / "mlx") == 0
    capsys.readouterr()
    assert "mrt2_small.safetensors is truncated" in refused(both, tmp_path / "other", capsys)
