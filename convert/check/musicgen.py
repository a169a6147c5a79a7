"""MusicGen: transformers' classes beside ours, from the words and the waveform on."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import torch
from transformers import (
    MusicgenForConditionalGeneration,
    MusicgenMelodyForConditionalGeneration,
)

from musicot_mlx.convert.check import long, sound
from musicot_mlx.errors import MusicotError
from musicot_mlx.pipelines.musicgen.pipeline import load

Pairs = Iterator[tuple[str, mx.array, torch.Tensor]]
PROMPT = "solo piano, slow, with a lot of reverb"
FRAMES = 32


def comparisons(source: Path, target: Path) -> list[tuple[str, Callable[[Any], Pairs]]]:
    """Text states, logits of given codes, and the codec both ways.

    Raises MusicotError for audiocraft's files, which transformers does not read.
    """
    if not (source / "config.json").is_file():
        raise MusicotError(
            "--check runs transformers, which does not read audiocraft's files; check the folder "
            "that transformers has of the same model"
        )
    ours = load(target, name=str(target))
    lm, codec = ours.decoder, ours.codec
    melody = lm.config.melody
    kind = MusicgenMelodyForConditionalGeneration if melody else MusicgenForConditionalGeneration
    theirs = kind.from_pretrained(source, dtype=torch.float32).eval()
    ids = torch.tensor([ours.tokenizer.encode(PROMPT).ids])

    def text(rng: np.random.Generator) -> Pairs:
        states = theirs.text_encoder(input_ids=ids).last_hidden_state[0]
        yield "hidden states", ours.embed_text(PROMPT), states

    def decoder(rng: np.random.Generator) -> Pairs:
        config = lm.config
        states = theirs.text_encoder(input_ids=ids).last_hidden_state[0].numpy()
        given_text = mx.array(states).astype(ours.dtype)  # so that only the decoder is compared
        codes = rng.integers(0, config.vocab_size, (config.num_codebooks, FRAMES))
        inputs = {"input_ids": ids, "decoder_input_ids": long(codes)}
        tokens, cross = lm.embed(mx.array(codes)[None]), None
        if melody:
            pitches = rng.integers(0, config.num_chroma, config.chroma_length)
            chroma = np.eye(config.num_chroma, dtype=np.float32)[pitches]
            inputs["input_features"] = torch.from_numpy(chroma)[None]
            before = lm.prefix(given_text, mx.array(chroma))
            tokens = mx.concatenate([before[None], tokens], axis=1)
        else:
            cross = lm.cross(given_text[None])
        x = tokens + lm.positions(tokens.shape[1])
        logits = lm.logits(lm.hidden(x, mask="causal", cross=cross)[0, -FRAMES:])
        expected = theirs(**inputs).logits[:, -FRAMES:]  # (codebooks, time, ids)
        yield "logits", logits.swapaxes(0, 1), expected

    def coding(rng: np.random.Generator) -> Pairs:
        samples = FRAMES * codec.config.hop_length
        waveform = sound(ours.sample_rate, samples / ours.sample_rate, rng)[:samples]
        encoded = theirs.audio_encoder.encode(torch.from_numpy(waveform)[None, None])
        codes = encoded.audio_codes[0]  # (1, codebooks, frames)
        yield "codes", codec.encode(mx.array(waveform)[None, :, None]), codes
        decoded = theirs.audio_encoder.decode(
            encoded.audio_codes, encoded.audio_scales
        ).audio_values
        yield "waveform", codec.decode(mx.array(codes.numpy())), decoded.transpose(1, 2)

    return [("text_encoder", text), ("decoder", decoder), ("codec", coding)]
