"""MuMu-LLaMA's checkpoint.pth: every generation converts, every key is used, odd files are told."""

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

torch = pytest.importorskip("torch")
pytest.importorskip("sentencepiece")

import musicot_mlx as mc  # noqa: E402
from musicot_mlx.cli import main  # noqa: E402
from musicot_mlx.convert.check import check  # noqa: E402
from musicot_mlx.convert.convert import convert  # noqa: E402
from musicot_mlx.convert.families import mumu_llama as family  # noqa: E402
from musicot_mlx.convert.families import musicgen  # noqa: E402
from musicot_mlx.errors import MusicotError  # noqa: E402
from musicot_mlx.pipelines.mumu_llama.pipeline import MUSIC  # noqa: E402
from musicot_mlx.reference import mumu_llama as reference  # noqa: E402
from musicot_mlx.weights.checkpoint import load_arrays  # noqa: E402
from musicot_mlx.weights.config import config_from_dict  # noqa: E402
from tests.support import tiny_mumu_checkpoint as tiny  # noqa: E402
from tests.support import tiny_musicgen  # noqa: E402


@pytest.fixture(scope="module")
def music(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_music(tmp_path_factory.mktemp("music"))


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_tokenizer(tmp_path_factory.mktemp("words"))


@pytest.mark.parametrize("keep", [False, True], ids=["merged", "kept"])
@pytest.mark.parametrize("generation", ["sum", "split", "rnn"])
def test_every_generation(generation: str, keep: bool, music: Path, tmp_path: Path) -> None:
    said: list[str] = []
    source = tiny.write(tmp_path / "source", generation, music=music)
    told = convert(
        source,
        tmp_path / "out",
        text_encoder=str(music),
        dtype="float32",
        keep_lora=keep,
        say=said.append,
    )
    assert "llama float32" in told or "float32" in told
    which = {"sum": "December 2023", "split": "code of 2024", "rnn": "an RNN"}[generation]
    layers = "2 layers listen, each hears all" if generation == "sum" else "3 layers listen, 1 each"
    assert which in said[0] and layers in said[0] and "with MusicGen" in said[0]
    assert said[1].startswith("gates are open to 0.") and "max |l2|" in said[1]
    assert "of memory" in said[-1]
    # what the file held is what the model computes: the twin of the rounded weights agrees
    model = mc.load(tmp_path / "out")
    llama, lm = model.shelf("llama", "words")
    theirs = tiny.twin(generation)
    stored = {k: v.to(tiny._stored(k)).float() for k, v in theirs.state_dict().items()}
    theirs.load_state_dict(stored)
    ids = [1, 300, 7, 31, 9]
    expected = theirs(torch.tensor([ids])).detach().numpy()
    ours = np.array(lm.logits(llama(lm.embed(mx.array([ids])), offsets=llama.offsets({}))))
    assert np.abs(ours - expected).max() / np.abs(expected).max() < 1e-4
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["llama"]["routing"] == ("sum" if generation == "sum" else "split")
    assert config["bridges"]["pooling"] == ("rnn" if generation == "rnn" else "mean")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Llama 2 Community License" in card and "not the folder" in card


def test_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What someone with the published file can hold against PyTorch, layer by layer."""
    source = tiny.write(tmp_path / "source", "sum")
    command = ["convert", "--hf-path", str(source), "--mlx-path", str(tmp_path / "out")]
    assert main([*command, "--check"]) == 0
    told = capsys.readouterr().out
    for what in ("layer 0", "layer 2", "layer 3", "embeddings", "logits", "audio", "video"):
        assert what in told
    # an MLX folder of other weights does not pass
    other = tiny.twin("sum", seed=7).state_dict()
    wrong = tiny.write(tmp_path / "wrong", tensors=tiny.state("sum", None) | other)
    found = check(wrong, tmp_path / "out", progress=lambda *step: None)
    assert not any(each.passed for each in found if each.part != "words") and len(found) == 8


@pytest.mark.parametrize("keep", [False, True], ids=["merged", "kept"])
def test_four_bits_spare_what_suffers(keep: bool, music: Path, tmp_path: Path) -> None:
    source = tiny.write(tmp_path / "source", music=music)
    options = {"text_encoder": str(music), "quantize": True, "group_size": 32}
    convert(source, tmp_path / "out", bits=4, keep_lora=keep, **options)
    config = json.loads((tmp_path / "out" / "config.json").read_text())["quantization"]
    assert config["bits"] == 4 and config["words"]["bits"] == config["bridges"]["bits"] == 8
    arrays = load_arrays(tmp_path / "out")
    kinds = {key: str(value.dtype).removeprefix("mlx.core.") for key, value in arrays.items()}
    assert kinds["words.embed_tokens.weight"] == kinds["words.lm_head.weight"] == "uint32"
    assert arrays["words.lm_head.weight"].shape[1] == 64 * 8 // 32
    up = f"llama.layers.0.mlp.up_proj.{'linear.' if keep else ''}weight"
    assert arrays[up].shape[1] == 64 * 4 // 32
    for key in ("llama.gates", "llama.queries", "llama.layers.0.input_layernorm.weight"):
        assert kinds[key] == "float32"
    assert kinds["decoder.embed_tokens.weight"] == "float16"  # MusicGen's stay as they are
    assert mc.load(tmp_path / "out").ask("What plays?", answer_tokens=3).timings["answer"] > 0


@pytest.mark.parametrize("size", ["small", "medium"])
def test_sizes_of_published_music(size: str) -> None:
    """MusicGen's sections by the shapes of its tensors: those of transformers' own config."""
    upstream = tiny_musicgen.upstream_config(tiny_musicgen.PUBLISHED[size])
    with torch.device("meta"):
        model = tiny_musicgen.upstream_model(upstream)
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    lazy = {key: mx.zeros(shape) for key, shape in shapes.items()}
    found, arrays = musicgen.networks(family._music_sizes(shapes), dict(lazy))
    expected, _ = musicgen.networks(upstream.to_dict(), dict(lazy))
    for name, (network, kind) in MUSIC.items():
        ours, theirs = (
            config_from_dict(kind, config[name], where=name) for config in (found, expected)
        )
        assert ours == theirs
        wanted = {k: v.shape for k, v in tree_flatten(network(ours).parameters())}
        assert {key: value.shape for key, value in arrays[name].items()} == wanted


def test_a_file_without_music_answers_alone(tmp_path: Path) -> None:
    source = tiny.write(tmp_path / "source", wrapped=False)
    state = {k: torch.nn.Parameter(v) for k, v in tiny.state("split", None).items()}
    torch.save({"state_dict": state}, source / "checkpoint.pth")  # as others save it
    convert(source / "checkpoint.pth", tmp_path / "out")
    model = mc.load(tmp_path / "out")
    assert "decoder" not in model.config
    model.ask("What plays?", answer_tokens=2)
    with pytest.raises(MusicotError, match="holds no MusicGen"):
        model.generate("music", duration=1)


def test_dead_gates_and_untrained_lora_are_told(tmp_path: Path) -> None:
    tensors = tiny.state("split", None)
    for key in tensors:
        if key.endswith((".gate", "_l2.weight")):
            tensors[key] = torch.zeros_like(tensors[key])
    said: list[str] = []
    source = tiny.write(tmp_path / "source", tensors=tensors)
    convert(source, tmp_path / "out", say=said.append)
    text = "\n".join(said)
    assert "gates are open to 0 of 1" in text and "LoRA reaches 0 " in text
    assert "songs, pictures and films can have no effect" in text and "LLaMA-2's own" in text
    model = mc.load(tmp_path / "out")
    sound = (np.random.default_rng(0).normal(0, 0.1, 24000).astype(np.float32), 24000)
    with pytest.warns(UserWarning, match="all gates are closed"):
        heard = model.ask("What plays?", audio=sound, answer_tokens=4)
    assert heard.text == model.ask("What plays?", answer_tokens=4).text


def _without(key: str) -> Callable[[dict], None]:
    return lambda tensors: tensors.pop(key)


def _with(key: str, *shape: int) -> Callable[[dict], None]:
    return lambda tensors: tensors.update({key: torch.zeros(shape)})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_with("llama.layers.1.attention.surprise", 3, 5), "surprise (3, 5)"),
        (_with("mystery.weight", 2), "mystery.weight (2,)"),
        (_without("llama.layers.2.ffn_norm.weight"), "2.post_attention_layernorm.weight (64,)"),
        (_without("llama.layers.2.attention.lora_wq_l2.weight"), "lacks its part lora_wq_l2"),
        (_without("llama.layers.3.attention.gate"), "lacks llama.layers.3.attention.gate"),
        (_with("llama.layers.3.attention.gate", 0, 4, 1, 1), "gate without values"),
        (_without("llama.layers.0.attention.lora_wq_l1.weight"), "without llama.layers.0.attent"),
        (_with("llama.layers.0.attention.lora_wq_l1.weight"), "without llama.layers.0.attention"),
        (_with("llama.layers.2.attention.gate", 1, 5, 1, 1), "(1, 5, 1, 1), which heads can't"),
        (_with("llama.layers.2.attention.wq.weight"), "wq.weight is (), lora_wq_l1"),
        (_with("llama.layers.2.attention.lora_wq_l1.weight", 9, 9), "l1.weight is (9, 9)"),
        (_with("llama.layers.1.attention.lora_wq_l2.weight", 64, 9), "l2.weight is (64, 9)"),
        (_with("mert_model.encoder.layers.1.attention.k_proj.weight"), "k is (), v is (32, 32)"),
        (_with("vit_model.encoder.layer.0.attention.attention.key.bias", 2, 2), "key is (2, 2)"),
        (_with("mert_model.encoder.layer_norm.weight", 1, 1), "does not divide into 0 groups"),
        (_with("llama.layers.0.feed_forward.w3.bias", 7), "mlp.up_proj.bias is (7,)"),
        (_without("mu_mert_agg.weight"), "lacks mu_mert_agg.weight"),
        (_without("mert_model.encoder.layer_norm.weight"), "encoder.layer_norm.weight"),
        (_with("llama.module.norm.weight", 64), "norm.weight stands there twice"),
        (_with("prefix_query.weight", 30, 64), "has 30 rows for 4 layers"),
        (_with("mu_mert_agg.weight", 1, 9, 1), "bridges.audio_states is 9, which mert makes 4"),
        (_with("iu_vit_agg.weight", 1, 9, 1), "bridges.image_tokens is 9, which vit makes 5"),
        (_with("iu_vivit_proj.weight", 64, 9), "bridges.video_size is 9, which vivit makes 32"),
        (
            lambda tensors: [tensors.pop(k) for k in list(tensors) if k.startswith("vit_")],
            "lacks vit_model.embeddings.patch_embeddings.projection.weight",
        ),
        (
            lambda tensors: [tensors.pop(k) for k in list(tensors) if k.startswith("mert_")],
            "lacks mert_model.feature_extractor.conv_layers.0.conv.weight",
        ),
    ],
)  # fmt: skip
def test_odd_files(change: Callable, words: str, tmp_path: Path, words_file: Path) -> None:
    tensors = tiny.state("split", None)
    change(tensors)
    source = tiny.write(tmp_path / "source", tensors=tensors, wrapped=False, tokenizer=False)
    with pytest.raises(MusicotError) as error:
        convert(source, tmp_path / "out", tokenizer=words_file)
    assert words in str(error.value)
    assert not (tmp_path / "out").exists() and len(list(tmp_path.iterdir())) == 1


@pytest.fixture
def words_file(words: Path) -> Path:
    return words


def test_tokenizers_and_folders(tmp_path: Path, words_file: Path, music: Path) -> None:
    source = tiny.write(tmp_path / "source", music=music, tokenizer=False)
    with pytest.raises(MusicotError, match="lacks LLaMA-2's tokenizer.model.*huggingface.co/meta"):
        convert(source, tmp_path / "out")
    with pytest.raises(
        MusicotError, match="T5's tokenizer.json, which is not here.*--text-encoder"
    ):
        convert(source, tmp_path / "out", tokenizer=words_file)
    other = tmp_path / "other"
    other.mkdir()
    (other / "tokenizer.model").write_bytes(b"no model")
    with pytest.raises(MusicotError, match="SentencePiece.*LLaMA-3's is of another kind"):
        convert(source, tmp_path / "out", tokenizer=other)
    with pytest.raises(MusicotError, match="holds no tokenizer.model"):
        convert(source, tmp_path / "out", tokenizer=tmp_path / "nothing")
    with pytest.raises(MusicotError, match="is not a model folder"):
        convert(other, tmp_path / "out")


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        (7, torch.zeros(2), "a weight is called 7, which is no name"),
        ("epoch", 3, "epoch is int, expected a tensor"),
        ("llama.output.weight", torch.zeros(408, 64).to_sparse(), "output.weight is a tensor spar"),
        ("llama.output.weight", torch.empty(408, 64, device="meta"), "is a tensor without values"),
        ("llama.output.weight", torch.zeros(408, 64, dtype=torch.complex64), "is complex64"),
    ],
)
def test_what_is_no_plain_weight(key, value, words, tmp_path: Path, words_file: Path) -> None:
    (tmp_path / "source").mkdir()
    package = {"model": tiny.state("split", None) | {key: value}}
    torch.save(package, tmp_path / "source" / "checkpoint.pth")
    with pytest.raises(MusicotError, match=words):
        convert(tmp_path / "source", tmp_path / "out", tokenizer=words_file)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ('{"norm_eps": "x"}', "no params.json of LLaMA .could not convert"),
        ('{"norm_eps": -1}', "params.json: norm_eps is -1.0"),
        ('{"norm_eps": NaN}', "params.json: norm_eps is nan"),
        ('{"norm_eps": [1]}', "no params.json of LLaMA"),
        ("[1]", "no params.json of LLaMA"),
    ],
)
def test_odd_sizes_beside_the_tokenizer(sizes: str, words: str, tmp_path: Path) -> None:
    source = tiny.write(tmp_path / "source")
    (source / "LLaMA-2" / "7B" / "params.json").write_text(sizes)
    with pytest.raises(MusicotError, match=words):
        convert(source, tmp_path / "out")


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> tuple:
            return (exec, (f"open({str(tmp_path / 'harm')!r}, 'w')",))

    folder = tmp_path / "source"
    folder.mkdir()
    torch.save({"model": {}, "args": argparse.Namespace(x=Harm())}, folder / "checkpoint.pth")
    with pytest.raises(MusicotError, match="could run code"):
        convert(folder, tmp_path / "out")
    assert not (tmp_path / "harm").exists()


def test_memory_is_that_of_the_largest_group(
    tmp_path: Path, words_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The peak of MLX's arrays, of a file ten times as large."""
    from musicot_mlx.convert import pickles

    wide = replace(tiny.config("split"), hidden_size=512, intermediate_size=768)
    tensors = tiny.state("split", None) | reference.MumuLlama(wide).state_dict()
    monkeypatch.setattr(pickles, "PIECE", 1 << 20)
    monkeypatch.setattr(family, "PIECE", 1 << 20)
    source = tiny.write(tmp_path / "source", tensors=tensors, tokenizer=False)
    said = family.memory(tensors)
    held = sum(4 * value.numel() for value in tensors.values())
    assert held > 8 * said, "the whole file must be far larger than what is said"
    mx.synchronize()
    mx.clear_cache()
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    convert(source, tmp_path / "out", tokenizer=words_file)
    assert mx.get_peak_memory() - before < 1.3 * said
