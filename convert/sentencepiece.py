"""SentencePiece's .model files to tokenizers.Tokenizer, without the sentencepiece library.

A .model file is one protobuf message (github.com/google/sentencepiece, sentencepiece_model.proto):
the pieces with their scores, how the model was trained, and how text is normalised. The fields are
read by hand, a dozen of them. The tokenizer normalises as SentencePiece does, then runs Unigram or
BPE over the whole text, so ids are the same. They differ only for accents that NFKC puts in order
(typed out of order, or on a ligature), and for a text that spells the name of a byte, <0x41>.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, normalizers

from musicot_mlx.errors import MusicotError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # types of pieces
UNIGRAM, BPE = 1, 2  # model types
SPACE = "\u2581"  # what stands for a space in pieces
_MANY = 1 << 20  # spaces
KEPT, _HIDDEN = "\uff5e", "\U0010fffd"  # the full-width tilde, and a place of no character


class _Broken(Exception):
    """The bytes are no protobuf message of this kind."""


@dataclass(frozen=True)
class _Piece:
    text: str
    score: float
    kind: int


def read_sentencepiece(path: str | Path) -> Tokenizer:
    """The tokenizer of a .model file; no special tokens are added to what it encodes.

    Raises MusicotError for a file that is missing, broken or no SentencePiece model, and for kinds
    of models that have no counterpart.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise MusicotError(f"cannot read {path}: {error.strerror}") from error
    try:
        return _tokenizer(data)
    except _Broken as error:
        raise MusicotError(f"{path}: {error}; get the file again") from error
    except Exception as error:  # the Rust side raises plain Exception
        raise MusicotError(f"{path}: cannot build its tokenizer ({error})") from error


def _tokenizer(data: bytes) -> Tokenizer:
    fields = list(_fields(data))
    pieces = [_piece(value) for number, value in fields if number == 1]
    trainer, normalizer = (
        dict(_fields(b"".join(_bytes(value) for number, value in fields if number == which)))
        for which in (2, 3)
    )
    if not pieces:
        raise _Broken("holds no pieces, so it is no SentencePiece model")
    if trainer.get(24, 0) or not normalizer.get(5, 1):
        raise _Broken("marks spaces behind words, or not at all, which is not supported")
    unknown = [index for index, piece in enumerate(pieces) if piece.kind == UNKNOWN]
    if len(unknown) != 1:
        raise _Broken(f"has {len(unknown)} unknown pieces, expected one")
    # What is no text is no piece of text: `<s>` typed by a user is three characters. A space never
    # comes so far, as it has become SPACE.
    names = [
        f" {piece.text}" if piece.kind in (UNKNOWN, CONTROL, UNUSED) else piece.text
        for piece in pieces
    ]
    if len(set(names)) < len(names):
        raise _Broken("holds a piece twice")
    bytes_too = any(piece.kind == BYTE for piece in pieces)
    kind = trainer.get(3, UNIGRAM)
    if kind == UNIGRAM:
        scores = [piece.score for piece in pieces]
        scored = list(zip(names, scores, strict=True))
        model = models.Unigram(scored, unk_id=unknown[0], byte_fallback=bytes_too)
    elif kind == BPE:
        if any(piece.kind == USER_DEFINED for piece in pieces):
            raise _Broken("is a BPE model with pieces of its user's own, which is not supported")
        vocab = {name: index for index, name in enumerate(names)}
        model = models.BPE(
            vocab, _merges(pieces), unk_token=names[unknown[0]], fuse_unk=True,
            byte_fallback=bytes_too,
        )  # fmt: skip
    else:
        raise _Broken(f"is of model type {kind}, expected unigram (1) or bpe (2)")
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = _normalizer(normalizer)
    tokenizer.decoder = _decoder(normalizer, bytes_too=bytes_too)
    return tokenizer


def _decoder(spec: dict[int, int | bytes], *, bytes_too: bool) -> decoders.Decoder:
    """Pieces to text: a space for each SPACE but the one that is put before every text, or all that
    stand there, where spaces that are too many are none; bytes of a character that no piece has are
    that character.
    """
    spaces = _MANY if spec.get(4, 1) else 1 if spec.get(3, 1) else 0
    steps = [decoders.Replace(SPACE, " "), *([decoders.ByteFallback()] if bytes_too else [])]
    strip = [decoders.Strip(" ", spaces, 0)] if spaces else []
    return decoders.Sequence([*steps, decoders.Fuse(), *strip])


def _normalizer(spec: dict[int, int | bytes]) -> normalizers.Normalizer:
    """SentencePiece's: the map of characters, spaces that are too many, SPACE for each."""
    steps: list[normalizers.Normalizer] = []
    charsmap = spec.get(2, b"")
    if charsmap:
        # The map is applied to whole graphemes by its shortest rule, where SentencePiece takes the
        # longest: of text that is in NFKC already, only controls and spaces are left to it.
        name = _bytes(spec.get(1, b""))
        if name.startswith(b"nmt_nfkc"):  # NFKC but for one character
            hide, show = (KEPT, _HIDDEN), (_HIDDEN, KEPT)
            steps += [normalizers.Replace(*hide), normalizers.NFKC(), normalizers.Replace(*show)]
        elif name.startswith(b"nfkc"):
            steps.append(normalizers.NFKC())
        steps.append(normalizers.Replace("\r\n", "\n\n"))  # one grapheme, two spaces
        steps.append(normalizers.Precompiled(_checked_map(_bytes(charsmap))))
    if spec.get(4, 1):
        steps.append(normalizers.Replace(Regex(r"\A +"), ""))
        steps.append(normalizers.Replace(Regex(r" {2,}"), " "))
    if spec.get(3, 1):
        steps.append(normalizers.Prepend(SPACE))
    steps.append(normalizers.Replace(" ", SPACE))
    if spec.get(4, 1):
        steps.append(normalizers.Replace(Regex(rf"{SPACE}+\z"), ""))
    return normalizers.Sequence(steps)


def _checked_map(charsmap: bytes) -> bytes:
    """The map of characters, if nothing in it points outside: tokenizers would crash on a text.

    It is a double-array trie (darts-clone), 32 bits a node, and the texts that its leaves name.
    """
    size = int.from_bytes(charsmap[:4], "little")
    if size % 4 or not 0 < size <= len(charsmap) - 4:
        raise _Broken("has a damaged map of characters")
    nodes, texts = np.frombuffer(charsmap[4 : 4 + size], "<u4"), charsmap[4 + size :]
    leaf, inner = nodes[nodes >> 31 == 1] & 0x7FFFFFFF, nodes >> 31 == 0
    offset = nodes >> 10 << ((nodes & 512) >> 6)
    below = np.arange(len(nodes), dtype=np.uint32) ^ offset  # a node's block of 256 children
    # each text begins where another one ended
    begins = np.concatenate([[True], np.frombuffer(texts, np.uint8) == 0])
    if (
        (below[inner] | 255 >= len(nodes)).any()
        or inner[below[inner & (nodes & 256 != 0)]].any()  # where a text should be named
        or (leaf >= len(texts)).any()
        or not begins[leaf].all()
    ):
        raise _Broken("has a damaged map of characters")
    return charsmap


def _merges(pieces: list[_Piece]) -> list[tuple[str, str]]:
    """The pairs that make a longer piece, in the order of its score: SentencePiece keeps none."""
    scores = {piece.text: piece.score for piece in pieces if piece.kind == NORMAL}
    pairs = [
        (-scores[text], cut, (text[:cut], text[cut:]))
        for text in scores
        for cut in range(1, len(text))
        if text[:cut] in scores and text[cut:] in scores
    ]
    return [pair for _, _, pair in sorted(pairs)]


def _piece(data: int | bytes) -> _Piece:
    fields = dict(_fields(_bytes(data)))
    try:
        text = _bytes(fields.get(1, b"")).decode("utf-8")
    except UnicodeDecodeError as error:
        raise _Broken("holds a piece that is no text") from error
    score = struct.unpack("<f", _bytes(fields.get(2, bytes(4))))[0]
    kind = fields.get(3, NORMAL)
    if not text or kind not in range(NORMAL, BYTE + 1) or score != score:
        raise _Broken(f"holds an odd piece ({text!r}, type {kind}, score {score})")
    return _Piece(text, score, kind)


def _bytes(value: int | bytes) -> bytes:
    if not isinstance(value, bytes):
        raise _Broken("is no SentencePiece model")
    return value


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and value of each field of a message; what is not varint comes as bytes."""
    place = 0

    def varint() -> int:
        nonlocal place
        value = shift = 0
        while True:
            if place >= len(data) or shift > 63:
                raise _Broken(f"is truncated or no SentencePiece model ({len(data):,} bytes)")
            byte = data[place]
            value, shift, place = value | (byte & 127) << shift, shift + 7, place + 1
            if byte < 128:
                return value

    while place < len(data):
        tag = varint()
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            yield number, varint()
            continue
        size = {1: 8, 5: 4}.get(wire) or (varint() if wire == 2 else -1)
        if size < 0 or place + size > len(data):
            raise _Broken(f"is truncated or no SentencePiece model ({len(data):,} bytes)")
        yield number, data[place : place + size]
        place += size
