"""MusicGen checkpoints, read for conversion: transformers folders and audiocraft's own files.

transformers: config.json with `model_type` musicgen or musicgen_melody, and all three networks in
safetensors or pytorch_model.bin. audiocraft: `state_dict.bin` (the decoder) and
`compression_state_dict.bin` (the codec, or the name of one); T5 comes from a T5 checkpoint.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx

from musicot_mlx.convert.families import Checkpoint
from musicot_mlx.convert.keymaps import encodec, musicgen, musicgen_audiocraft, t5
from musicot_mlx.convert.pickles import lazy_arrays, load_bin, unpickle
from musicot_mlx.convert.rules import apply_rules
from musicot_mlx.errors import MusicotError, MusicotWarning
from musicot_mlx.pipelines.musicgen.pipeline import PARTS, MusicgenSampling
from musicot_mlx.texts import read_json
from musicot_mlx.weights.checkpoint import load_arrays, part, read_config
from musicot_mlx.weights.config import config_from_dict
from musicot_mlx.weights.files import plain_names
from musicot_mlx.weights.hub import resolve

# What -q quantises where the parts are not named: the codec is convolutions, and small.
QUANTISED = ("text_encoder", "decoder")

# generation_config.json: our names; and what we do not have of what changes a draw, and its off.
_NAMES = {
    "guidance_scale": "audio_guidance",
    "temperature": "audio_temperature",
    "top_k": "top_k",
    "top_p": "top_p",
}
_UNKNOWN = {
    "num_beams": 1,
    "penalty_alpha": 0,
    "repetition_penalty": 1,
    "no_repeat_ngram_size": 0,
    "typical_p": 1,
    "min_p": 0,
    "top_h": 0,
    "epsilon_cutoff": 0,
    "eta_cutoff": 0,
    "suppress_tokens": [],
    "bad_words_ids": [],
    "sequence_bias": {},
}

_STATE, _CODEC_STATE = "state_dict.bin", "compression_state_dict.bin"


def read(
    folder: Path,
    config: Mapping[str, Any],
    scratch: Path,
    *,
    text_encoder: str | None = None,
    **_: Any,
) -> Checkpoint | None:
    """The checkpoint of a MusicGen folder, transformers' or audiocraft's.

    text_encoder: folder or Hub id of the T5 that audiocraft's files lack. Raises MusicotError for
    missing or broken files and options that the networks do not have.
    """
    if config.get("model_type") in musicgen.MODEL_TYPES and "audio_encoder" in config:
        return _transformers(folder, config, scratch)
    if (folder / _STATE).is_file():
        return _audiocraft(folder, scratch, text_encoder)
    return None


def _transformers(folder: Path, source: Mapping[str, Any], scratch: Path) -> Checkpoint:
    """The checkpoint of a folder written by transformers; pickles are unpacked into `scratch`."""
    for name in ("text_encoder", "audio_encoder", "decoder"):
        if not isinstance(source.get(name), dict):
            raise MusicotError(f"{folder}/config.json lacks the section {name}")
    config, arrays = networks(source, _arrays(folder, scratch))
    config |= {"sampling": _sampling(folder)}
    return _checkpoint(config, arrays, folder / "tokenizer.json")


def networks(
    source: Mapping[str, Any], arrays: dict[str, mx.array]
) -> tuple[dict[str, Any], dict[str, dict[str, mx.array]]]:
    """Sections of config.json and arrays of the three parts, from transformers' config of a
    MusicGen and all its arrays by the names that transformers gives them.
    """
    codec = encodec.config(source["audio_encoder"])
    config = {
        "text_encoder": t5.config(source["text_encoder"]),
        "decoder": musicgen.config(source, frame_rate=_frame_rate(codec)),
        "codec": codec,
    }
    text, audio = part(arrays, "text_encoder"), part(arrays, "audio_encoder")
    rest = {
        key: value
        for key, value in arrays.items()
        if not key.startswith(("text_encoder.", "audio_encoder."))
    }
    return config, {
        "text_encoder": _text_arrays(text),
        "decoder": apply_rules(musicgen.rules(config["decoder"]), rest, where="decoder"),
        "codec": apply_rules(encodec.rules(codec), audio, where="codec"),
    }


def _audiocraft(folder: Path, scratch: Path, text_encoder: str | None) -> Checkpoint:
    """The checkpoint of audiocraft's two files and a T5 beside them."""
    state, settings = _audiocraft_file(folder / _STATE)
    t5_name = text_encoder or _t5_name(settings)
    t5_folder = resolve(t5_name)
    text = t5.config(read_config(t5_folder, model_types=None))
    codec, codec_arrays = _audiocraft_codec(folder, scratch)
    decoder = musicgen_audiocraft.config(settings, text_hidden_size=text.get("d_model", 512))
    decoder["frame_rate"] = _frame_rate(codec)
    return _checkpoint(
        {"text_encoder": text, "decoder": decoder, "codec": codec},
        {
            "text_encoder": _text_arrays(_arrays(t5_folder, scratch)),
            "decoder": apply_rules(
                musicgen_audiocraft.rules(decoder), lazy_arrays(state, scratch), where="decoder"
            ),
            "codec": codec_arrays,
        },
        t5_folder / "tokenizer.json",
    )


def _checkpoint(
    config: dict[str, Any], arrays: dict[str, dict[str, mx.array]], tokenizer: Path
) -> Checkpoint:
    if not tokenizer.is_file():
        raise MusicotError(
            f"{tokenizer.parent} holds no tokenizer.json, which prompts need; copy T5's there "
            "(google-t5/t5-base has it)"
        )
    return Checkpoint(
        config={"model_type": "musicgen", **config},
        arrays=arrays,
        parts=PARTS,
        files={"tokenizer.json": tokenizer},
        quantised=QUANTISED,
        embeddings=False,
        example='musicot generate --model {name} -p "solo piano, slow and calm" --duration 20',
    )


def _arrays(folder: Path, scratch: Path) -> dict[str, mx.array]:
    """The arrays of a transformers folder, unread: safetensors where there are any."""
    if not any(folder.glob("model*.safetensors")) and any(folder.glob("pytorch_model*.bin*")):
        return load_bin(folder, scratch)
    return load_arrays(folder, lazy=True)


def _text_arrays(arrays: dict[str, mx.array]) -> dict[str, mx.array]:
    """T5's arrays under our names; the embedding has two names, either of which may be left out."""
    arrays.setdefault("shared.weight", arrays.get("encoder.embed_tokens.weight"))
    if arrays["shared.weight"] is None:
        raise MusicotError("text_encoder: the checkpoint holds no shared.weight")
    return apply_rules(t5.RULES, arrays, where="text_encoder")


def _frame_rate(codec: Mapping[str, Any]) -> float:
    hop = 1
    for ratio in codec["upsampling_ratios"]:
        hop *= ratio
    return codec["sampling_rate"] / hop


def _sampling(folder: Path) -> dict[str, Any]:
    """What generation_config.json says; what it doesn't say is audiocraft's default."""
    path = folder / "generation_config.json"
    try:
        values = read_json(path) if path.is_file() else {}
    except ValueError as error:
        raise MusicotError(f"{path} is not valid JSON ({error}); get the model again") from error
    if not isinstance(values, dict):
        raise MusicotError(f"{path} should hold a JSON object")
    if not isinstance(values.get("do_sample"), bool | None):
        raise MusicotError(f"{path}: do_sample is {values['do_sample']!r}; write true or false")
    # None is written where nothing was said, but guidance, which it turns off
    found = {ours: values[name] for name, ours in _NAMES.items() if values.get(name) is not None}
    if "guidance_scale" in values:
        found.setdefault("audio_guidance", 1.0)
    if found.get("top_p") == 0 or values.get("do_sample") is False:  # the likeliest alone: greedy
        found |= {"audio_temperature": 0.0}
        found.pop("top_p", None)
    config_from_dict(MusicgenSampling, found, where=f"of {path}")
    ignored = [
        f"{name} {values[name]!r}"
        for name, off in _UNKNOWN.items()
        if values.get(name) not in (None, off)
    ]
    if ignored:
        words = f"{path} asks for {', '.join(ignored)}, which musicot does not do: left out"
        warnings.warn(words, MusicotWarning, stacklevel=2)
    return found


def _audiocraft_file(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tensors and settings of a file that audiocraft exported."""
    import yaml  # comes with PyTorch's extra, which unpickle has asked for

    package = unpickle(path)
    try:
        state, text = package["best_state"], package["xp.cfg"]
        settings = musicgen_audiocraft.resolved(yaml.safe_load(text))
    except (KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise MusicotError(
            f"{path} is not a file that audiocraft exported (best_state and xp.cfg); "
            "audiocraft.utils.export makes one of a training checkpoint"
        ) from error
    return plain_names(state, path), settings


def _t5_name(settings: Mapping[str, Any]) -> str:
    """The Hub id of the T5 that the settings name."""
    try:
        name = settings["conditioners"]["description"]["t5"]["name"]
    except (KeyError, TypeError):
        name = "t5-base"
    return name if "/" in name else f"google-t5/{name}"


def _audiocraft_codec(folder: Path, scratch: Path) -> tuple[dict[str, Any], dict[str, mx.array]]:
    """Config and arrays of the codec: in the file, or a Hub id that stands there instead."""
    path = folder / _CODEC_STATE
    if not path.is_file():
        raise MusicotError(f"{folder} lacks {_CODEC_STATE}, the codec; copy it there")
    package = unpickle(path)
    if isinstance(package, dict) and isinstance(package.get("pretrained"), str):
        codec_folder = resolve(package["pretrained"])
        config = encodec.config(read_config(codec_folder, model_types=None))
        arrays = _arrays(codec_folder, scratch)
        return config, apply_rules(encodec.rules(config), arrays, where="codec")
    state, settings = _audiocraft_file(path)
    config = encodec.audiocraft_config(settings)
    rules = encodec.rules(config, encodec.AUDIOCRAFT)
    return config, apply_rules(rules, lazy_arrays(state, scratch), where="codec")
