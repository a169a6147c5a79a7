"""tokenizer.json of a model folder, as every network here reads it: one text, its ids, no more."""

import os

from tokenizers import Tokenizer

from musicot_mlx.errors import MusicotError
from musicot_mlx.texts import read_text


def read_tokenizer(path: str | os.PathLike[str]) -> Tokenizer:
    """The tokenizer of a file, without the padding and cutting that a file may have in it:
    transformers saves what its last call asked for, and pad ids would be read as words.

    Raises MusicotError for a file that can't be read.
    """
    try:
        tokenizer = Tokenizer.from_str(read_text(path))
    except Exception as error:  # the Rust side raises plain Exception
        raise MusicotError(f"cannot read the tokenizer {os.fspath(path)}: {error}") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer
