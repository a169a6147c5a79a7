"""MusicGen's decoder tuned: loss and gradients against transformers, and a whole run."""

import json
import shutil
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import musicot_mlx as mc  # noqa: E402
from musicot_mlx.cli import main  # noqa: E402
from musicot_mlx.convert.convert import convert  # noqa: E402
from musicot_mlx.convert.keymaps.musicgen import rules  # noqa: E402
from musicot_mlx.errors import MusicotError  # noqa: E402
from musicot_mlx.generation.delay import delayed  # noqa: E402
from musicot_mlx.nn.adapters import add_layers  # noqa: E402
from musicot_mlx.training.musicgen import Excerpt, decoder_loss  # noqa: E402
from musicot_mlx.training.options import LORA, LoraOptions  # noqa: E402
from musicot_mlx.training.trainer import checkpointed  # noqa: E402
from musicot_mlx.training.tune import task_of  # noqa: E402
from musicot_mlx.weights import hub  # noqa: E402
from tests.parity.test_tuning import gradients_agree, torch_gradients  # noqa: E402
from tests.training.test_tuning import write_song  # noqa: E402

CAPTIONS = ["a calm piano", "drums"]


@pytest.fixture(scope="module")
def exact(tiny_musicgen_upstream: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint converted without rounding."""
    target = tmp_path_factory.mktemp("musicgen") / "float32"
    convert(tiny_musicgen_upstream, target, dtype="float32")
    return target


def excerpts(model, captions: list[str | None], frames: tuple[int, ...] = (9, 9)) -> list[Excerpt]:
    rng = np.random.default_rng(0)
    config = model.decoder.config
    shape = (config.num_codebooks,)
    return [
        Excerpt(
            f"song {i}",
            rng.integers(0, config.vocab_size, (*shape, count)).astype(np.int32),
            None if caption is None else model.embed_text(caption),
        )
        for i, (caption, count) in enumerate(zip(captions, frames, strict=True))
    ]


def test_loss_and_gradients(tiny_musicgen_upstream: Path, exact: Path) -> None:
    model = mc.load(exact)
    reference = transformers.MusicgenForConditionalGeneration.from_pretrained(
        tiny_musicgen_upstream
    ).eval()
    lm, items = model.decoder, excerpts(model, CAPTIONS)
    encoded = [model.tokenizer.encode(caption).ids for caption in CAPTIONS]
    longest = max(map(len, encoded))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in encoded])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in encoded])
    tokens = np.stack([delayed(item.codes, lm.config.pad_id) for item in items])
    inputs = torch.from_numpy(tokens[..., :-1].reshape(-1, tokens.shape[-1] - 1)).long()
    logits = reference(input_ids=ids, attention_mask=mask, decoder_input_ids=inputs).logits
    targets = torch.from_numpy(tokens[..., 1:].reshape(len(inputs), -1)).long()
    expected = torch.nn.functional.cross_entropy(
        logits.transpose(1, 2), targets, ignore_index=lm.config.pad_id
    )
    expected.backward()
    total = sum(item.codes.size for item in items)
    step = nn.value_and_grad(lm, lambda rows: decoder_loss(lm, rows) / total)
    loss, found = step(items)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    ours = torch.nn.Module()
    ours.decoder = reference.decoder
    if hasattr(reference, "enc_to_dec_proj"):
        ours.enc_to_dec_proj = reference.enc_to_dec_proj
    table = rules({"num_codebooks": lm.config.num_codebooks})
    gradients_agree(found, torch_gradients(ours, table))


def test_rows_do_not_hear_each_other(exact: Path) -> None:
    """A batch is its items alone, whatever their lengths, and with some texts dropped."""
    model = mc.load(exact)
    items = excerpts(model, [None, "drums", "a calm piano"], (7, 4, 9))
    whole = decoder_loss(model.decoder, items).item()
    alone = sum(decoder_loss(model.decoder, [item]).item() for item in items)
    assert whole == pytest.approx(alone, rel=1e-5)


def test_checkpointed_layers_have_all_gradients(exact: Path) -> None:
    """The text's keys and values go into a layer from outside; their adapters must learn too."""
    model = mc.load(exact)
    lm, items = model.decoder, excerpts(model, CAPTIONS)
    add_layers(lm, kind="lora", num_layers=-1, **LORA)
    lm.load_weights(
        [
            (f"layers.{i}.encoder_attn.kv.lora_b", mx.ones((8, 2 * lm.config.hidden_size)) * 0.01)
            for i in range(len(lm.layers))
        ],
        strict=False,
    )
    step = nn.value_and_grad(lm, lambda: decoder_loss(lm, items))
    _, plain = step()
    mx.eval(plain)
    with checkpointed(lm.layers):
        _, saving = step()
        mx.eval(saving)
    for a, b in zip(plain["layers"], saving["layers"], strict=True):
        for name in ("lora_a", "lora_b"):
            one, two = (np.array(x["encoder_attn"]["kv"][name]) for x in (a, b))
            assert np.abs(one).max() > 0
            np.testing.assert_allclose(two, one, rtol=1e-4, atol=1e-6)


def test_the_whole_command(
    tiny_musicgen_upstream: Path,
    tiny_musicgen_melody: Path,
    tiny_model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(tiny_model, tmp_path / "weights" / "musicot-mini")  # whose CLAP listens
    monkeypatch.setattr(hub, "_FOLDER", tmp_path / "weights")
    for seed in range(2):
        write_song(tmp_path / "songs" / f"{seed}.wav", seed, 3.0)
    out = tmp_path / "out"
    code = main(
        f"lora --train --model {tiny_musicgen_upstream} --data {tmp_path}/songs --adapter-path "
        f"{out} --cache-dir {tmp_path}/cache --iters 4 --batch-size 2 --learning-rate 1e-3 "
        "--render-seconds 1 --render-songs 1 --max-seq-length 64".split()
    )
    assert code == 0, capsys.readouterr().err
    proof = json.loads((out / "proof.json").read_text())
    assert proof["part"] == "decoder" and proof["loss_after"] < proof["loss_before"]
    assert proof["keys_applied"] == len(mx.load(str(out / "adapters.safetensors")))
    assert -1 <= proof["similarity_after"] <= 1
    render = f"generate --model {tiny_musicgen_upstream} -p piano --duration 1 -o {tmp_path}/a.wav"
    assert main([*render.split(), "--adapter-path", str(out)]) in (0, 1)
    with pytest.raises(MusicotError, match="melody models are not tuned"):
        task_of(mc.load(tiny_musicgen_melody), LoraOptions())
