"""MuMu-LLaMA and M2UGen, read for conversion: checkpoint.pth, and LLaMA-2's tokenizer.model.

The file holds everything under `model`: LLaMA-2 with LoRA, bridges, MERT, ViT and ViViT, and
MusicGen where that makes the music. An optimiser beside it stays unread. Four generations of code
wrote such files; what they hold tells them apart:

    20 rows of prefix_query   M2UGen, December 2023 to January 2024: all that is heard is summed up
    18 rows                   M2UGen since, and before: six layers each for songs, pictures, films
    mu_mert_rnn               MuMu-LLaMA: songs are pooled by an RNN; no weights were published
"""

import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
from tokenizers import AddedToken, Tokenizer

from musicot_mlx.convert.families import Checkpoint, musicgen
from musicot_mlx.convert.keymaps import hubert, vit
from musicot_mlx.convert.keymaps import mumu_llama as keymap
from musicot_mlx.convert.pickles import PICKLES, PIECE, lazy_arrays, unpickle
from musicot_mlx.convert.rules import apply_rules, numbered
from musicot_mlx.convert.sentencepiece import read_sentencepiece
from musicot_mlx.errors import MusicotError, RunError, first_few
from musicot_mlx.pipelines.mumu_llama import FAMILY
from musicot_mlx.pipelines.mumu_llama.pipeline import (
    MUSIC_TOKENIZER,
    PARTS,
    TOKENIZER,
    check_sizes,
)
from musicot_mlx.texts import read_json
from musicot_mlx.weights.checkpoint import size_text
from musicot_mlx.weights.hub import fetch_file, resolve

WORDS_FILE, SIZES_FILE = "tokenizer.model", "params.json"
MUSIC_TOKENS = 8  # [AUD0] to [AUD7]
SMALL = 1024  # width of MusicGen small's decoder
T5 = "google-t5/t5-base"
NOTICE = (
    "The weights hold LLaMA-2 (Llama 2 Community License), MERT-v1-330M (CC BY-NC 4.0), MusicGen "
    "(CC BY-NC 4.0), ViT and T5 (Apache 2.0) and ViViT (MIT), whatever the card of their source "
    "says. So they are for use that is not commercial, and this folder was made for the machine it "
    "is on: pass on how it was made, not the folder."
)
# facebook/musicgen-small and -medium, as far as shapes do not tell
_T5_BASE = {
    "vocab_size": 32128,
    "d_model": 768,
    "d_kv": 64,
    "d_ff": 3072,
    "num_layers": 12,
    "num_heads": 12,
    "feed_forward_proj": "relu",
}
_ENCODEC = {
    "target_bandwidths": [2.2],
    "sampling_rate": 32000,
    "audio_channels": 1,
    "num_filters": 64,
    "upsampling_ratios": [8, 5, 4, 4],
    "hidden_size": 128,
    "codebook_size": 2048,
    "codebook_dim": 128,
    "use_causal_conv": False,
    "use_conv_shortcut": False,
}
_MODULE = re.compile(r"(?:(?<=\.)|^)(?:module|_orig_mod)\.")  # anywhere, as Accelerate wraps parts
_OLD_FILMS = re.compile(r"^iu_vit_(?=rnn|attention|softmax)")
_PREFIX = {"mert": "mert_model.", "vit": "vit_model.", "vivit": "vivit_model."}
_MUSIC = "generation_model."
_UNUSED = re.compile("|".join(keymap.UNUSED))
_LEAST = {  # what sizes are told by, with the number of its axes
    "llama.tok_embeddings.weight": 2,
    "llama.layers.0.attention.gate": 4,
    "llama.layers.0.attention.lora_wq_l1.weight": 2,
    "llama.layers.0.attention.lora_wq_l2.weight": 2,
    "prefix_query.weight": 2,
}


def read(
    source: Path,
    config: Mapping[str, Any],
    scratch: Path,
    *,
    tokenizer: str | Path | None = None,
    text_encoder: str | None = None,
    keep_lora: bool = False,
    say: Callable[[str], None] = lambda line: None,
    **_: Any,
) -> Checkpoint | None:
    """The checkpoint of a checkpoint.pth, or of a folder with one.

    tokenizer: LLaMA-2's tokenizer.model, or a folder with it, where it is not beside the file.
    text_encoder: a folder or Hub id with T5's tokenizer.json; where it is a MusicGen's, its config
    says the sizes that shapes do not tell. keep_lora: LoRA is not merged. Raises MusicotError for
    tensors that are missing, odd or of another shape, and where there is no tokenizer.
    """
    file = None if config else checkpoint_file(source)
    if file is None:
        return None
    tensors = checkpoint_tensors(file)
    if tensors is None:
        return None
    lacking = [k for k, axes in _LEAST.items() if k not in tensors or tensors[k].ndim != axes]
    if lacking:
        raise MusicotError(f"{file}: a MuMu-LLaMA without {lacking[0]}; get the file again")
    unused = {key for key in tensors if _UNUSED.fullmatch(key)}
    tensors = {key: value for key, value in tensors.items() if key not in unused}
    if hollow := sorted(key for key, value in tensors.items() if not value.numel()):
        raise MusicotError(f"{file}: {first_few(hollow)} without values; get the file again")
    words = _tokenizer_model(file.parent, tokenizer)
    shapes = {key: tuple(value.shape) for key, value in tensors.items()}
    sections = _sections(file, shapes, _norm_eps(words))
    language = _language(words, sections["words"]["vocab_size"])
    files: dict[str, Path | str] = {TOKENIZER: language.to_str()}
    music = {k.removeprefix(_MUSIC): v for k, v in tensors.items() if k.startswith(_MUSIC)}
    if music:  # all that may lack is looked for before gigabytes are unpacked
        files[MUSIC_TOKENIZER], sizes = _music_files(file.parent, text_encoder, music)
    for line in (_what(file, sections, tensors), *_heard(sections, tensors)):
        say(line)
    _require_room(file, scratch, tensors, say)
    arrays, sections = _read(tensors, sections, scratch, merge=not keep_lora)
    if music:
        found, own = musicgen.networks(sizes, lazy_arrays(music, scratch))
        sections, arrays = sections | found, arrays | own
    # the script that trained with MusicGen small had another processor of films than the others
    small = music and sections["decoder"]["hidden_size"] == SMALL
    film = {"shortest_edge": 224, "twice": True} if small else {}
    return Checkpoint(
        config={"model_type": FAMILY.model_type, **sections, "sampling": {}, "film": film},
        arrays=arrays,
        parts={name: kinds for name, kinds in PARTS.items() if name in sections},
        files=files,
        quantised=tuple(name for name in FAMILY.quantised if name in sections),
        embeddings=FAMILY.embeddings,
        least_bits=FAMILY.least_bits,
        example='musicot ask song.wav "What instruments play?" --model {name}',
        notice=NOTICE,
    )


def checkpoint_file(source: Path) -> Path | None:
    """The file of weights: the source itself, checkpoint.pth of a folder, or its only .pth."""
    if source.is_file():
        return source if source.suffix in PICKLES else None
    if (source / "checkpoint.pth").is_file():
        return source / "checkpoint.pth"
    files = [path for path in source.glob("*.pth") if not path.name.startswith("consolidated.")]
    return files[0] if len(files) == 1 else None


def checkpoint_tensors(file: Path) -> dict[str, Any] | None:
    """Plain name -> tensor of what stands under `model`, or under a name that others save under;
    None for a file of another kind.
    """
    state = unpickle(file)
    for name in ("model", "module", "state_dict", "model_state_dict"):
        if isinstance(state, Mapping) and isinstance(state.get(name), Mapping):
            state = state[name]
    if not isinstance(state, Mapping) or not any(
        str(k).endswith("prefix_query.weight") for k in state
    ):
        return None
    found: dict[str, Any] = {}
    for key, value in state.items():
        if not isinstance(key, str):
            raise MusicotError(f"{file}: a weight is called {key!r}, which is no name")
        if not hasattr(value, "shape"):
            raise MusicotError(f"{file}: {key} is {type(value).__name__}, expected a tensor")
        name = _OLD_FILMS.sub("iu_vivit_", _MODULE.sub("", key))
        if name in found:
            raise MusicotError(f"{file}: {name} stands there twice, once as {key}")
        found[name] = value
    return found


def _sections(
    file: Path, shapes: Mapping[str, tuple[int, ...]], norm_eps: float
) -> dict[str, dict[str, Any]]:
    """The sections of config.json but for MusicGen's."""
    try:
        found = keymap.config(shapes, norm_eps=norm_eps)
        for name, sizes in (("mert", hubert.sizes), ("vit", vit.sizes), ("vivit", vit.sizes)):
            prefix = _PREFIX[name]
            own = {k.removeprefix(prefix): v for k, v in shapes.items() if k.startswith(prefix)}
            try:
                found[name] = sizes(own)
            except KeyError as error:
                raise KeyError(f"{prefix}{error.args[0]}") from error
        check_sizes(found)
        if lacking := [key for key in _gates(found["llama"]) if key not in shapes]:
            raise KeyError(lacking[0])
    except KeyError as error:
        raise MusicotError(f"{file} lacks {error.args[0]}; get the file again") from error
    except (IndexError, ValueError, ArithmeticError) as error:
        if isinstance(error, MusicotError):
            raise
        raise MusicotError(f"{file} is of no known shape ({error})") from error
    found["words"]["music_tokens"] = MUSIC_TOKENS
    return found


def _read(
    tensors: Mapping[str, Any], sections: dict[str, dict], scratch: Path, *, merge: bool
) -> tuple[dict[str, dict[str, mx.array]], dict[str, dict]]:
    """Arrays by part, but for MusicGen's, and the sections with the rank of LoRA."""
    encoders = tuple(_PREFIX.values())
    own = {k: v for k, v in tensors.items() if not k.startswith((*encoders, _MUSIC))}
    arrays = keymap.arrays(lazy_arrays(own, scratch), sections, merge=merge)
    for name, table in (("mert", hubert.RULES), ("vit", vit.RULES), ("vivit", vit.RULES)):
        prefix = _PREFIX[name]
        part = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        arrays[name] = apply_rules(table, lazy_arrays(part, scratch), where=name)
    return arrays, sections


def _what(file: Path, sections: Mapping[str, dict], tensors: Mapping[str, Any]) -> str:
    """Which generation wrote the file."""
    rows, routing = (sections["llama"][name] for name in ("query_rows", "routing"))
    if sections["bridges"]["pooling"] == "rnn":
        which = "MuMu-LLaMA's code of 2024, which pools songs by an RNN"
    elif routing == "sum":
        which = "M2UGen's code of December 2023"
    else:
        which = "M2UGen's code of 2024, or of November 2023"
    heard = "each hears all" if routing == "sum" else f"{rows // 3} each for songs, pictures, films"
    music = "with MusicGen" if any(k.startswith(_MUSIC) for k in tensors) else "without MusicGen"
    return f"{file.name}: {which}; {rows} layers listen, {heard}; {music}"


def _heard(sections: Mapping[str, dict], tensors: Mapping[str, Any]) -> list[str]:
    """What training has done to the file: gates and LoRA both begin at zero."""
    gate = max(_largest(tensors[key].float().tanh()) for key in _gates(sections["llama"]))
    lora = max(_largest(value) for key, value in tensors.items() if key.endswith("_l2.weight"))
    lines = [
        f"gates are open to {gate:.3g} of 1 (max |tanh(gate)|), LoRA reaches {lora:.3g} (max |l2|)"
    ]
    if gate < 1e-6:
        lines.append(
            "all gates are closed, as upstream's training leaves them: songs, pictures and films "
            "can have no effect on what this model says; musicot lora can open them"
        )
    if lora < 1e-9:
        lines.append(
            "LoRA was never trained: the words are LLaMA-2's own, but for biases and norms"
        )
    return lines


def _gates(llama: Mapping[str, Any]) -> list[str]:
    """The keys of the gates of all layers that listen."""
    layers, rows = llama["num_hidden_layers"], llama["query_rows"]
    return [f"llama.layers.{number}.attention.gate" for number in range(layers - rows, layers)]


def _largest(tensor: Any) -> float:
    """The largest absolute value."""
    return float(tensor.detach().float().abs().max())


def _require_room(
    file: Path, scratch: Path, tensors: Mapping[str, Any], say: Callable[[str], None]
) -> None:
    """Tell what converting takes; RunError where the disk is too small for that."""
    sizes = {key: value.numel() for key, value in tensors.items()}
    unpacked = sum(value.numel() * value.element_size() for value in tensors.values())
    room = unpacked + 2 * sum(sizes.values())  # what is unpacked, and the folder in 16 bits
    free = shutil.disk_usage(scratch).free
    say(
        f"converting takes {size_text(room)}B of disk at {scratch.parent} while it runs, "
        f"and {size_text(memory(tensors))}B of memory"
    )
    if free < room:
        raise RunError(
            f"{scratch.parent} has {size_text(free)}B left and converting {file.name} takes "
            f"{size_text(room)}B; name an --mlx-path on a larger disk"
        )


def memory(tensors: Mapping[str, Any]) -> int:
    """Bytes that the largest group of tensors takes on its way: what unpacking holds at once, or a
    matrix as it is stored, in float32 with its LoRA added, and as it is written.
    """
    sizes = [(value.numel(), value.numel() * value.element_size()) for value in tensors.values()]
    unpacking = PIECE + max(stored for _, stored in sizes)
    return max(unpacking, max(stored + 10 * count for count, stored in sizes))


def _tokenizer_model(folder: Path, chosen: str | Path | None) -> Path:
    """LLaMA-2's tokenizer.model: as chosen, beside the checkpoint, or a folder or two below."""
    if chosen is not None:
        path = Path(chosen).expanduser()
        found = [path] if path.is_file() else sorted(path.rglob(WORDS_FILE))
        if not found:
            raise MusicotError(f"--tokenizer {chosen} is and holds no {WORDS_FILE} of LLaMA-2")
        return found[0]
    for pattern in (WORDS_FILE, f"*/{WORDS_FILE}", f"*/*/{WORDS_FILE}"):
        if found := sorted(folder.glob(pattern)):
            return found[0]
    raise MusicotError(
        f"{folder} lacks LLaMA-2's {WORDS_FILE}, by which words are read: accept Meta's licence at "
        f"huggingface.co/meta-llama/Llama-2-7b and put the file there, or pass --tokenizer FILE"
    )


def _language(path: Path, vocabulary: int) -> Tokenizer:
    """LLaMA's tokenizer with the tokens of music behind its own pieces."""
    try:
        tokenizer = read_sentencepiece(path)
    except MusicotError as error:
        raise MusicotError(f"{error} (LLaMA-2's: LLaMA-3's is of another kind)") from error
    pieces = tokenizer.get_vocab_size()
    if pieces + MUSIC_TOKENS != vocabulary:
        raise MusicotError(
            f"{path} has {pieces:,} pieces and the checkpoint {vocabulary:,} tokens, of which "
            f"{MUSIC_TOKENS} are of music; take LLaMA-2's"
        )
    names = [f"[AUD{number}]" for number in range(MUSIC_TOKENS)]
    tokenizer.add_special_tokens(
        [AddedToken(name, special=True, normalized=False) for name in names]
    )
    return tokenizer


def _norm_eps(words: Path) -> float:
    """What LLaMA's params.json says, beside its tokenizer or a folder below; 1e-5 is LLaMA-2's."""
    for path in (words.parent / SIZES_FILE, *sorted(words.parent.glob(f"*/{SIZES_FILE}"))):
        try:
            value = float(read_json(path)["norm_eps"]) if path.is_file() else None
        except (ValueError, KeyError, TypeError) as error:
            raise MusicotError(f"{path} is no params.json of LLaMA ({error})") from error
        if value is not None and not 0 < value < 1:
            raise MusicotError(f"{path}: norm_eps is {value}, expected a small number like 1e-05")
        if value is not None:
            return value
    return 1e-5


def _music_files(
    folder: Path, chosen: str | None, tensors: Mapping[str, Any]
) -> tuple[Path, dict[str, Any]]:
    """T5's tokenizer.json, and MusicGen's sizes as transformers' config has them."""
    sizes = _music_sizes({key: tuple(value.shape) for key, value in tensors.items()})
    if chosen is not None:
        own = resolve(chosen)
        path = own / "config.json"
        config = read_json(path) if path.is_file() else {}
        if {"text_encoder", "audio_encoder", "decoder"} <= set(config):
            sizes = config
        if not (own / "tokenizer.json").is_file():
            raise MusicotError(f"--text-encoder {chosen} holds no tokenizer.json of T5")
        return own / "tokenizer.json", sizes
    if found := sorted(folder.glob("*/tokenizer.json")):
        return found[0], sizes
    try:
        return fetch_file(T5, "tokenizer.json"), sizes
    except RunError as error:
        raise MusicotError(
            f"MusicGen reads its captions by T5's tokenizer.json, which is not here: get it from "
            f"huggingface.co/{T5} and pass the folder it is in as --text-encoder"
        ) from error


def _music_sizes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """transformers' config of a MusicGen as Facebook published them, by the decoder's shapes."""
    at = "decoder.model.decoder."
    try:
        hidden = shapes[at + "embed_tokens.0.weight"][1]
        ffn = shapes[at + "layers.0.fc1.weight"][0]
    except KeyError as error:
        raise MusicotError(f"{_MUSIC}{error.args[0]} is missing; get the file again") from error
    return {
        "model_type": "musicgen",
        "text_encoder": _T5_BASE,
        "audio_encoder": _ENCODEC,
        "decoder": {
            "vocab_size": shapes["decoder.lm_heads.0.weight"][0],
            "hidden_size": hidden,
            "ffn_dim": ffn,
            "num_hidden_layers": numbered(shapes, re.escape(at) + r"layers\.(\d+)\."),
            "num_attention_heads": hidden // 64,
            "num_codebooks": sum(
                re.fullmatch(r"decoder\.lm_heads\.\d+\.weight", k) is not None for k in shapes
            ),
        },
    }
