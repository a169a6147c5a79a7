"""RoBERTa's tokenizer as tokenizer.json, from wherever it lies: CLAP's text tower reads its ids."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from musicot_mlx.errors import MusicotError, RunError
from musicot_mlx.models.clap import ClapConfig
from musicot_mlx.pipelines.clap import checked_tokenizer
from musicot_mlx.texts import read_json
from musicot_mlx.weights.hub import fetch_file

HUB = "FacebookAI/roberta-base"


def roberta_tokenizer(
    folder: Path, section: Mapping[str, Any], chosen: str | Path | None = None
) -> str:
    """The text of tokenizer.json for a CLAP with this config section.

    given: a tokenizer.json, or a folder with one or with vocab.json and merges.txt. None looks into
    `folder`, then fetches roberta-base's from the Hub. Raises MusicotError where there is none, and
    for one with another vocabulary: an id too few or too many would be a silently wrong embedding.
    """
    config = ClapConfig.from_dict(dict(section)).text_config
    if chosen is not None:
        path = Path(chosen).expanduser()
        if not path.exists():
            raise MusicotError(f"--tokenizer {chosen} doesn't exist; pass roberta-base's")
        file = _in_folder(path) if path.is_dir() else path
        if file is None:
            raise MusicotError(f"--tokenizer {chosen} holds no tokenizer.json, nor vocab.json")
    else:
        file = _in_folder(folder)
        if file is None:
            try:
                file = fetch_file(HUB, "tokenizer.json")
            except RunError as error:
                raise MusicotError(
                    f"{folder} holds no tokenizer, which a text needs: put tokenizer.json of "
                    f"roberta-base (huggingface.co/{HUB}) beside the weights, or pass "
                    "--tokenizer FILE"
                ) from error
    tokenizer = _byte_level(file) if file.name == "vocab.json" else file
    where = str(file)
    return checked_tokenizer(tokenizer, config, where=where).to_str()


def _in_folder(folder: Path) -> Path | None:
    for name in ("tokenizer.json", "vocab.json"):
        if (folder / name).is_file():
            return folder / name
    return None


def _byte_level(vocab: Path) -> Tokenizer:
    """The tokenizer of vocab.json and the merges.txt beside it."""
    merges = vocab.with_name("merges.txt")
    if not merges.is_file():
        raise MusicotError(f"{vocab.parent} holds vocab.json but no merges.txt; get both")
    try:
        tokenizer = Tokenizer(models.BPE.from_file(str(vocab), str(merges), unk_token="<unk>"))
        added = read_json(vocab)
    except Exception as error:  # the Rust side raises plain Exception
        raise MusicotError(f"cannot read {vocab} and {merges.name}: {error}") from error
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = [token for token in ("<s>", "<pad>", "</s>", "<unk>") if token in added]
    tokenizer.add_special_tokens(special)
    if "<mask>" in added:  # takes the space before it along
        tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True)])
    tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", added.get("</s>", 2)), ("<s>", added.get("<s>", 0)), add_prefix_space=False
    )
    return tokenizer
