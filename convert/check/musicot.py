"""MusiCoT: the reference's parts beside ours."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import torch

from musicot_mlx.convert.check import long, sound
from musicot_mlx.pipelines.musicot.pipeline import MusicotPipeline, load
from musicot_mlx.reference.clap import embed_audio, embed_text
from musicot_mlx.reference.musicot import MusicotReference
from musicot_mlx.tokens.beats import beat_features
from musicot_mlx.tokens.harmony import harmony_features

CHORDS = ((0.0, "Am"), (0.5, "F"), (1.5, "N"))
Pairs = Iterator[tuple[str, mx.array, torch.Tensor]]


def _clap(reference: MusicotReference, pipeline: MusicotPipeline, rng: Any) -> Pairs:
    embedder = pipeline.clap
    ids, mask = embedder.text_ids(["solo piano, slow", "a"])
    theirs = embed_text(reference.clap, long(ids), long(mask))
    yield "text embeddings", embedder.clap.embed_text_ids(mx.array(ids), mx.array(mask)), theirs
    bins = embedder.config.audio_config.num_mel_bins
    mel = rng.normal(-30, 15, (2, embedder.config.feature_config.frames, bins)).astype(np.float32)
    theirs = embed_audio(reference.clap, torch.from_numpy(mel)[:, None])
    yield "audio embeddings", embedder.clap.embed_mel(mx.array(mel)), theirs


def _rvq(reference: MusicotReference, pipeline: MusicotPipeline, rng: Any) -> Pairs:
    x = rng.normal(size=(1, 64, pipeline.rvq.config.dim)).astype(np.float32)
    x /= np.linalg.norm(x, axis=-1, keepdims=True)
    codes = reference.rvq(torch.from_numpy(x))[1]  # (batch, time, codebooks)
    yield "codes", pipeline.rvq.encode(mx.array(x)), codes.transpose(1, 2)
    decoded = reference.rvq.get_output_from_indices(codes)
    yield "vectors", pipeline.rvq.decode(mx.array(codes.transpose(1, 2).numpy())), decoded


def _semantic_lm(reference: MusicotReference, pipeline: MusicotPipeline, rng: Any) -> Pairs:
    lm = pipeline.semantic_lm
    ids = rng.integers(1, lm.config.vocab_size, (1, 48))
    theirs = reference.semantic_lm.llama(input_ids=long(ids)).logits
    yield "logits", lm(mx.array(ids)), theirs
    if lm.config.beat_harmonics:
        bpm = np.full(48, 100.0)
        features = beat_features(
            bpm, frame_rate=lm.config.audio_frame_rate, harmonics=lm.config.beat_harmonics
        )
        yield "beats", lm.beats(bpm), reference.semantic_lm.beat_proj(torch.from_numpy(features))
    if lm.config.harmony:
        features = harmony_features(CHORDS, 48, frame_rate=lm.config.audio_frame_rate)
        theirs = reference.semantic_lm.harmony_proj(torch.from_numpy(features))
        yield "harmony", lm.harmony(CHORDS, 48), theirs
    if lm.config.tempo_head:
        clap = rng.normal(size=(4, lm.config.clap_dim)).astype(np.float32)
        theirs = reference.semantic_lm.tempo_head(torch.from_numpy(clap))
        yield "tempi", lm.tempo_head(mx.array(clap)), theirs


def _semantic_tokenizer(reference: MusicotReference, pipeline: MusicotPipeline, rng: Any) -> Pairs:
    rate = pipeline.semantic_tokenizer.config.sample_rate
    waveform = sound(rate, 2.0, rng)[None]  # (batch, samples)
    theirs = reference.semantic_tokenizer.encode(torch.from_numpy(waveform))
    yield "codes", pipeline.semantic_tokenizer.encode(mx.array(waveform)), theirs


def _diffusion(reference: MusicotReference, pipeline: MusicotPipeline, rng: Any) -> Pairs:
    config = pipeline.diffusion.config
    frames = round(2 * config.latent_rate)
    latents = rng.normal(size=(1, frames, config.latent_dim)).astype(np.float32)
    clap = rng.normal(size=(1, 2, config.clap_dim)).astype(np.float32)
    clap /= np.linalg.norm(clap, axis=-1, keepdims=True)
    codes = rng.integers(0, config.audio_codebook_size, (1, 50)).astype(np.int32)
    numbers = [np.array([value], dtype=np.float32) for value in (0.5, 10.0, 30.0)]
    theirs = reference.diffusion(
        torch.from_numpy(latents).transpose(1, 2),
        torch.from_numpy(numbers[0]),
        long(codes),
        torch.from_numpy(clap),
        *map(torch.from_numpy, numbers[1:]),
    ).transpose(1, 2)
    ours = pipeline.diffusion(
        mx.array(latents),
        mx.array(numbers[0]),
        mx.array(codes),
        mx.array(clap),
        *map(mx.array, numbers[1:]),
    )
    yield "velocity", ours, theirs


def _vae(reference: MusicotReference, pipeline: MusicotPipeline, rng: Any) -> Pairs:
    config = pipeline.vae.config
    channels = [sound(config.sample_rate, 1.0, rng) for _ in range(config.audio_channels)]
    waveform = np.stack(channels, axis=-1)[None]  # (batch, samples, channels)
    latents = reference.vae.encode(torch.from_numpy(waveform)).mean
    yield "latents", pipeline.vae.encode(mx.array(waveform)).mean, latents
    theirs = reference.vae.decode(latents)
    yield "waveform", pipeline.vae.decode(mx.array(latents.numpy())), theirs


COMPARISONS = (_clap, _rvq, _semantic_lm, _semantic_tokenizer, _diffusion, _vae)


def comparisons(source: Path, target: Path) -> list[tuple[str, Callable[[Any], Pairs]]]:
    """Each part of the two models."""
    reference, pipeline = MusicotReference.from_pretrained(source).eval(), load(target)
    return [
        (compare.__name__.lstrip("_"), partial(compare, reference, pipeline))
        for compare in COMPARISONS
    ]
