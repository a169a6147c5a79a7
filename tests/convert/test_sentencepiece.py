"""SentencePiece models read by hand: ids equal to the library's, on models trained here."""

import random
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tokenizers import Tokenizer

from musicot_mlx.convert.sentencepiece import read_sentencepiece
from musicot_mlx.errors import MusicotError
from musicot_mlx.models.musiccoca import MUSICCOCA
from musicot_mlx.pipelines.magenta_rt2.embedder import MusicCoCaEmbedder

sentencepiece = pytest.importorskip("sentencepiece")

WORDS = (
    "a slow jazz trio with piano double bass and brushed drums in f# minor 120 bpm lo-fi hip hop "
    "beat warm vinyl crackle mellow heavy metal guitar riff fast aggressive ambient electronic pad "
    "evolving texture no drums disco funk slap bass four on the floor string quartet dramatic "
    "cinematic epic orchestral choir traditional folk fiddle accordion reggae dub bossa nova café "
    "música über naïve 音楽 ピアノ 음악 музыка 🎹 don't rock'n'roll r&b drum'n'bass 808s 1980s"
).split()
# kind -> options of the trainer; `default` has unk 0, `padded` pad 0, end 1, unk 2 as T5's
KINDS = {
    "unigram": {"model_type": "unigram"},
    "unigram-padded": {
        "model_type": "unigram",
        "pad_id": 0,
        "eos_id": 1,
        "unk_id": 2,
        "bos_id": -1,
    },
    "unigram-cf": {"model_type": "unigram", "normalization_rule_name": "nmt_nfkc_cf"},
    "unigram-bytes": {"model_type": "unigram", "byte_fallback": True, "vocab_size": 500},
    "unigram-spaces": {"model_type": "unigram", "remove_extra_whitespaces": False},
    "unigram-own": {"model_type": "unigram", "user_defined_symbols": ["<sep>", "jazzy"]},
    "bpe": {"model_type": "bpe"},
    "bpe-identity": {"model_type": "bpe", "normalization_rule_name": "identity"},
    "bpe-bytes": {"model_type": "bpe", "byte_fallback": True, "vocab_size": 500},
    "bpe-bare": {"model_type": "bpe", "add_dummy_prefix": False},
    "bpe-llama": {  # LLaMA-2's kind: spaces as they are, a byte for what no piece has
        "model_type": "bpe",
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "vocab_size": 500,
    },
    "bpe-across": {"model_type": "bpe", "split_by_whitespace": False, "vocab_size": 300},
}
ODD = [
    "", " ", "   ", "\t", "\n", "a", " a", "a ", "  a   b  ", "a\tb", "a\nb", "a\u00a0b",
    "a\u3000b", "\u2581", "a\u2581b", "\u2581a\u2581", "a \u2581", "piano", "Piano", "PIANO",
    "<s>", "</s>", "<unk>", "<pad>", "a <s> b", "<sep>", "a<sep>b", "a <sep> b", "jazzy",
    "xjazzyy",
    "🎹", "🎹🎹", "🎹🎸🥁", "a🎹b", "🎹 🎸", "👩\u200d🎤", "🇯🇵", "👍🏽", "音楽", "東京の夜",
    "음악", "ㅇㅡㅁ",
    "ﬁne", "①②③", "½ time", "x²", "ｊａｚｚ", "ＪＡＺＺ　ピアノ", "ﾋﾟｱﾉ",
    "カ\u3099",
    "㌔", "№ 5", "™", "…",
    "cafe\u0301", "café", "e\u0302\u0301", "ế", "A\u030a\u0303", "\u0301",
    "ẛ", "नमस्ते", "ภาษาไทย", "שָׁלוֹם", "مرحبا", "ﷺ", "\u200b", "a\u200bb", "\ufeffa", "a\u00adb",
    "\u0000", "a\u0007b", "\ufffd", "~", "～", "“quoted”", "don’t", "a–b", "a—b", "--", "...", "!?",
    "0123456789", "1" * 50, "piano " * 200, "x" * 500, "音" * 100, "🎹" * 60, "f# minor", "a/b\\c",
    "a\r\nb", "\r\n", "a\u2028b", "\u1680a", "ǅ", "ß", "İ", "ı", "ﬀ", "ΐ", "Ω", "Å",
    "é" * 30, "ệ", "e\u0323\u0302", "\U0001f3b5\ufe0f", "❤️", "1️⃣", "a\u0300\u0301\u0302",
]  # fmt: skip


def train(folder: Path, kind: str) -> Path:
    rng = random.Random(0)
    lines = [" ".join(rng.choices(WORDS, k=rng.randint(3, 12))) for _ in range(300)]
    options = {"vocab_size": 200, **KINDS[kind]}
    prefix = folder / kind
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_prefix=str(prefix), minloglevel=2,
        hard_vocab_limit=False, num_threads=1, character_coverage=0.995, **options,
    )  # fmt: skip
    return prefix.with_suffix(".model")


@pytest.fixture(scope="module", params=KINDS)
def trained(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Path, "sentencepiece.SentencePieceProcessor"]]:
    path = train(tmp_path_factory.mktemp("models"), request.param)
    yield request.param, path, sentencepiece.SentencePieceProcessor(model_file=str(path))


def strings() -> list[str]:
    """Odd strings, and mixes of words and of odd characters."""
    rng = random.Random(1)
    alphabet = "".join(ODD[:60]) + "".join(WORDS)
    mixes = [" ".join(rng.choices(WORDS + ODD[:80], k=rng.randint(1, 9))) for _ in range(60)]
    return ODD + mixes + ["".join(rng.choices(alphabet, k=rng.randint(1, 25))) for _ in range(60)]


def test_ids_are_the_library_s(trained, tmp_path):
    kind, path, theirs = trained
    read_sentencepiece(path).save(str(tmp_path / "tokenizer.json"))
    ours = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert ours.get_vocab_size() == theirs.vocab_size()
    texts = strings()
    assert len(texts) >= 200
    wrong = [
        (
            text,
            ours.encode(text, add_special_tokens=False).tokens,
            theirs.encode(text, out_type=str),
        )
        for text in texts
        if ours.encode(text, add_special_tokens=False).ids != theirs.encode(text)
    ]
    assert not wrong, (kind, len(wrong), wrong[:30])


def test_prompts_are_read_as_upstream_reads_them(tmp_path):
    """magenta_rt.musiccoca: in lower case, a start, at most 127 pieces, and the rest is padding."""
    path = train(tmp_path, "unigram")
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(path))
    network = SimpleNamespace(config=MUSICCOCA)
    embedder = MusicCoCaEmbedder(network, read_sentencepiece(path))
    texts = [*strings(), "Slow JAZZ, (piano & drums!) -- 120 BPM; é/É", "ΟΔΟΣ İSTANBUL ǅ ẞ " * 60]
    ids, lengths = embedder.text_ids(texts)
    assert ids.shape == (len(texts), 128) and ids.dtype == np.int32
    for text, row, length in zip(texts, ids.tolist(), lengths, strict=True):
        expected = [1, *theirs.encode(text.lower())[:127]]
        assert (row, length) == (expected + [0] * (128 - len(expected)), len(expected)), text


def test_texts_of_ids_are_the_library_s(trained):
    """Of pieces in any order too: bytes make characters, or what stands for half of one."""
    kind, path, theirs = trained
    ours, rng = read_sentencepiece(path), random.Random(2)
    plain = [n for n in range(theirs.vocab_size()) if not theirs.is_control(n)
             and not theirs.is_unknown(n)]  # fmt: skip
    rows = [theirs.encode(text) for text in strings()]
    rows = [row for row in rows if all(n in plain for n in row)]
    rows += [rng.choices([n for n in plain if not theirs.is_byte(n)], k=9) for _ in range(100)]
    assert len(rows) > 150
    wrong = [(row, ours.decode(row), theirs.decode(row)) for row in rows
             if ours.decode(row) != theirs.decode(row)]  # fmt: skip
    assert not wrong, (kind, len(wrong), wrong[:9])


def test_ids_of_what_is_no_text(tmp_path):
    """`<s>` has its id and is never read from a text; unknown text has the id that the model says,
    0 here, which is also what fills up rows.
    """
    path = train(tmp_path, "unigram")
    ours = read_sentencepiece(path)
    assert [ours.id_to_token(i) for i in range(3)] == [" <unk>", " <s>", " </s>"]
    ids = ours.encode("a 🎸 <s>", add_special_tokens=False).ids
    assert ids.count(0) >= 1 and 1 not in ids
    padded = read_sentencepiece(train(tmp_path, "unigram-padded"))
    ids = padded.encode("a 🎸 <pad> </s>", add_special_tokens=False).ids
    assert 2 in ids and not {0, 1} & set(ids)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return train(tmp_path_factory.mktemp("broken"), "unigram").read_bytes()


def test_broken_files_are_one_line(model, tmp_path):
    rng, path, refused = random.Random(2), tmp_path / "spm.model", 0
    for trial in range(300):
        data = bytearray(model)
        if trial % 3 == 0:
            del data[rng.randrange(len(data)) :]
        else:
            start = 0 if trial % 3 == 1 else max(0, model.find(b"nmt_nfkc") - 20)
            for _ in range(rng.randint(1, 3)):
                data[start + rng.randrange(4000) % (len(data) - start)] = rng.randrange(256)
        path.write_bytes(data)
        try:
            read_sentencepiece(path).encode("ＪＡＺＺ ①②③ é \t 🎹 ế piano")
        except MusicotError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            refused += 1
    assert refused > 80


def test_what_is_no_model(model, tmp_path):
    path = tmp_path / "spm.model"
    with pytest.raises(MusicotError, match="cannot read"):
        read_sentencepiece(path)
    for content, words in (
        (b"", "holds no pieces"),
        (b"\x1f\x8b" + bytes(100), "no SentencePiece model"),
        (b'{"model": {}}', "no SentencePiece model"),
        (model[: len(model) // 2], "truncated"),
        (model + model[:16], "2 unknown pieces"),
        (model + b"\x0a\x02\x18\x09", "odd piece"),
        (model + b"\x12\x02\x18\x03", "model type 3"),
        (model + b"\x1a\x02\x28\x00", "spaces behind words, or not at all"),
        (model + b"\x12\x02\x18\x02\x0a\x05\x0a\x01@\x18\x04", "user's own"),
    ):
        path.write_bytes(content)
        with pytest.raises(MusicotError, match=words):
            read_sentencepiece(path)
