"""The one vocabulary of the semantic language model, as plain arithmetic.

MusiCoT (arXiv 2503.19611, Fig 3) puts tags, lyrics, thoughts and audio tokens in one sequence. Ids
stand in this order: marks, section marks, lyrics text, tags, thoughts level by level, audio. Each
thought level has a range of its own, so one embedding row never means two things. This module needs
numpy alone, because both the MLX network and the PyTorch reference count with it.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

PAD, COT_BOS, COT_EOS, AUD_BOS, AUD_EOS = range(5)
SECTION_MARKS = ("[INTRO]", "[VERSE]", "[CHORUS]", "[BREAK]", "[OUTRO]")
FIRST_SECTION = 5
TEXT_OFFSET = FIRST_SECTION + len(SECTION_MARKS)
CLAP_SLOT = -1  # stands for the projected CLAP vector in a row of ids
ROUND_TO = 64  # the vocabulary is padded to a multiple of this: quantisation groups and fast matmul


@dataclass(frozen=True)
class Vocabulary:
    """Offsets and ids of the semantic LM, computed from five sizes of its config."""

    text_vocab_size: int
    tag_count: int
    thought_codebooks: int  # L
    thought_codebook_size: int  # K
    audio_codebook_size: int  # A

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Vocabulary":
        """Read the sizes from the `semantic_lm` section of config.json (`tags` lists names)."""
        return cls(
            text_vocab_size=config["text_vocab_size"],
            tag_count=len(config["tags"]),
            thought_codebooks=config["thought_codebooks"],
            thought_codebook_size=config["thought_codebook_size"],
            audio_codebook_size=config["audio_codebook_size"],
        )

    def __post_init__(self) -> None:
        for name in ("thought_codebooks", "thought_codebook_size", "audio_codebook_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least 1")
        for name in ("text_vocab_size", "tag_count"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least 0")

    @property
    def text_offset(self) -> int:
        return TEXT_OFFSET

    @property
    def tag_offset(self) -> int:
        return self.text_offset + self.text_vocab_size

    @property
    def thought_offset(self) -> int:
        return self.tag_offset + self.tag_count

    @property
    def audio_offset(self) -> int:
        return self.thought_offset + self.thought_codebooks * self.thought_codebook_size

    @property
    def used_size(self) -> int:
        """Ids in use; the rest up to `vocab_size` is padding that no sequence holds."""
        return self.audio_offset + self.audio_codebook_size

    @property
    def vocab_size(self) -> int:
        return -(-self.used_size // ROUND_TO) * ROUND_TO

    def thought_id(self, level: int, code: int) -> int:
        """Id of one code of one level, both counted from 0."""
        start, stop = self.thought_range(level)
        if not 0 <= code < stop - start:
            raise ValueError(f"thought code {code} is outside 0..{self.thought_codebook_size - 1}")
        return start + code

    def thought_range(self, level: int) -> tuple[int, int]:
        """First id and one past the last id of a level: all that can stand at a step of it."""
        if not 0 <= level < self.thought_codebooks:
            raise ValueError(f"level {level} is outside 0..{self.thought_codebooks - 1}")
        start = self.thought_offset + level * self.thought_codebook_size
        return start, start + self.thought_codebook_size

    def audio_id(self, code: int) -> int:
        if not 0 <= code < self.audio_codebook_size:
            raise ValueError(f"audio code {code} is outside 0..{self.audio_codebook_size - 1}")
        return self.audio_offset + code

    @property
    def audio_range(self) -> tuple[int, int]:
        return self.audio_offset, self.audio_offset + self.audio_codebook_size

    def tag_id(self, index: int) -> int:
        """Id of the tag at `index` of the config's list."""
        if not 0 <= index < self.tag_count:
            raise ValueError(f"tag {index} is outside 0..{self.tag_count - 1}")
        return self.tag_offset + index

    def text_id(self, token: int) -> int:
        """Id of a token of the lyrics tokenizer."""
        if not 0 <= token < self.text_vocab_size:
            raise ValueError(f"text token {token} is outside 0..{self.text_vocab_size - 1}")
        return self.text_offset + token

    def section_id(self, mark: str) -> int:
        if mark not in SECTION_MARKS:
            raise ValueError(f"section mark {mark!r} is unknown; use one of {SECTION_MARKS}")
        return FIRST_SECTION + SECTION_MARKS.index(mark)

    def lyrics_ids(self, lyrics: str, encode: Callable[[str], Sequence[int]]) -> list[int]:
        """Ids of lyrics with section marks; `encode` is the tokenizer, adding no specials."""
        ids: list[int] = []
        marks = "|".join(re.escape(mark) for mark in SECTION_MARKS)
        for piece in re.split(f"({marks})", lyrics):
            if piece in SECTION_MARKS:
                ids.append(self.section_id(piece))
            elif piece.strip():
                ids.extend(self.text_id(int(token)) for token in encode(piece.strip()))
        return ids

    def check_conditions(self, tags: Sequence[int], lyrics: Sequence[int]) -> None:
        """Raise ValueError unless `tags` are tag ids and `lyrics` are text ids or section marks."""
        for tag in tags:
            if not self.tag_offset <= tag < self.thought_offset:
                raise ValueError(
                    f"tag id {tag} is outside {self.tag_offset}..{self.thought_offset - 1}; "
                    "make tag ids with Vocabulary.tag_id"
                )
        for token in lyrics:
            if not FIRST_SECTION <= token < self.tag_offset:
                raise ValueError(
                    f"lyrics id {token} is outside {FIRST_SECTION}..{self.tag_offset - 1}; "
                    "make lyrics ids with Vocabulary.lyrics_ids"
                )

    def flatten_thoughts(self, codes: np.ndarray) -> np.ndarray:
        """Codes (levels, segments) to ids (levels * segments,), level-major as eq 8 has them."""
        codes = np.asarray(codes)
        if codes.ndim != 2 or codes.shape[0] != self.thought_codebooks:
            raise ValueError(
                f"thoughts have shape {codes.shape}, expected (levels, segments) with "
                f"{self.thought_codebooks} levels"
            )
        if codes.size and not 0 <= codes.min() <= codes.max() < self.thought_codebook_size:
            raise ValueError(
                f"thoughts hold codes {codes.min()}..{codes.max()}, expected 0.."
                f"{self.thought_codebook_size - 1}"
            )
        return (codes.astype(np.int64) + self._level_starts()).reshape(-1)

    def unflatten_thoughts(self, ids: np.ndarray) -> np.ndarray:
        """Level-major ids (levels * segments,) back to int32 codes (levels, segments)."""
        ids = np.asarray(ids)
        if ids.ndim != 1 or ids.size % self.thought_codebooks:
            raise ValueError(
                f"{ids.shape} thought ids do not divide into {self.thought_codebooks} levels"
            )
        codes = ids.reshape(self.thought_codebooks, -1) - self._level_starts()
        if codes.size and not 0 <= codes.min() <= codes.max() < self.thought_codebook_size:
            raise ValueError(
                "thought ids are not level-major: an id lies outside its level's range"
            )
        return codes.astype(np.int32)

    def audio_ids(self, codes: np.ndarray) -> np.ndarray:
        """Audio codes (frames,) to ids (frames,)."""
        codes = np.asarray(codes).reshape(-1)
        if codes.size and not 0 <= codes.min() <= codes.max() < self.audio_codebook_size:
            raise ValueError(
                f"audio codes run {codes.min()}..{codes.max()}, expected 0.."
                f"{self.audio_codebook_size - 1}"
            )
        return codes.astype(np.int64) + self.audio_offset

    def row(
        self,
        tags: Sequence[int] = (),
        lyrics: Sequence[int] = (),
        thoughts: np.ndarray | None = None,
        audio: np.ndarray | None = None,
        *,
        clap: bool = True,
        conditions: bool = True,
    ) -> list[int]:
        """Ids of one training sequence (Fig 3), CLAP_SLOT where the CLAP vector goes.

        Without conditions there is no prefix (eq 7); without thoughts no chain at all (eq 8).
        """
        ids: list[int] = []
        if conditions:
            self.check_conditions(tags, lyrics)
            ids += [CLAP_SLOT] * clap + [int(i) for i in tags] + [int(i) for i in lyrics]
        if thoughts is not None:
            ids += [COT_BOS, *self.flatten_thoughts(thoughts).tolist(), COT_EOS]
        if audio is not None:
            ids += [AUD_BOS, *self.audio_ids(audio).tolist(), AUD_EOS]
        return ids

    def _level_starts(self) -> np.ndarray:
        levels = np.arange(self.thought_codebooks, dtype=np.int64)[:, None]
        return self.thought_offset + levels * self.thought_codebook_size  # (levels, 1)
