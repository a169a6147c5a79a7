"""The words around a question and an answer: the prompt MuMu-LLaMA was trained on, where an answer
ends, and the caption in it that music is made of.

Upstream goes on past </s>, cuts an answer at its first line break, and hands all of it to MusicGen,
"[AUD0]" and the ids behind </s> too. Here an answer keeps its lines, and a caption is its first.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer

from musicot_mlx.errors import MusicotError

BEGIN, END = 1, 2  # ids of LLaMA-2's <s> and </s>
# Alpaca's, which every stage of training used; word for word, as another one is another model.
OPENING = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n"
)
TURN = "### Instruction:\n{question}\n\n### Response:"
STOP = "\n###"  # a next turn that the model begins by itself
LEAST_ANSWER = 64  # tokens that a question leaves room for
_UNFINISHED = "\ufffd"  # what a character decodes to that more tokens complete

Turns = Sequence[tuple[str, str]]  # earlier questions and answers


@dataclass(frozen=True)
class Piece:
    """Text that has come since the last piece, and whether the model asks for music."""

    text: str
    music: bool = False


def prompt_ids(
    tokenizer: Tokenizer, question: str, history: Turns = (), *, longest: int
) -> list[int]:
    """Ids of a question after earlier turns, the oldest of which are left out where the model's
    `longest` positions would leave no room for an answer.

    Raises MusicotError for a question that is too long by itself.
    """
    turns = list(history)
    while True:
        told = "".join(f"{TURN.format(question=q)}{a}\n\n" for q, a in turns)
        text = OPENING + told + TURN.format(question=question)
        ids = [BEGIN, *tokenizer.encode(text, add_special_tokens=False).ids]
        if len(ids) + min(LEAST_ANSWER, longest // 4) <= longest:
            return ids
        if not turns:
            raise MusicotError(
                f"the question has {len(ids):,} tokens with the words around it and the model "
                f"takes {longest:,}, its answer included; ask a shorter one"
            )
        del turns[0]


def pieces(tokenizer: Tokenizer, tokens: Iterable[int], first_music_token: int) -> Iterator[Piece]:
    """An answer's text as its tokens come, up to its end, to a turn that the model begins itself,
    or to the first token of music, which comes as a piece of its own.
    """
    ids: list[int] = []
    told = ""
    for token in tokens:
        if token == END or token >= first_music_token:
            break
        ids.append(token)
        text = tokenizer.decode(ids, skip_special_tokens=False).lstrip()
        if STOP in text:
            yield Piece(text.partition(STOP)[0].removeprefix(told))
            return
        ready = _ready(text)
        if len(ready) > len(told):
            yield Piece(ready.removeprefix(told))
            told = ready
    else:
        token = END
    text = tokenizer.decode(ids, skip_special_tokens=False).strip() if ids else ""
    if len(text) > len(told):
        yield Piece(text.removeprefix(told))
    if token >= first_music_token:
        yield Piece("", music=True)


def _ready(text: str) -> str:
    """As much of a text as no later token can change: no half character, no beginning of STOP."""
    text = text.rstrip(_UNFINISHED)
    for length in range(len(STOP), 0, -1):
        if text.endswith(STOP[:length]):
            return text[:-length].rstrip()
    return text.rstrip()


def caption_of(answer: str) -> str:
    """What MusicGen is told: the answer's first line, without tokens of music."""
    text = answer.partition("[AUD")[0].strip()
    return " ".join(text.partition("\n")[0].split())
