"""What a song keeps of an earlier one: its audio and audio tokens up to the first thought that
changed.

The LM goes on from the tokens, the diffusion from the latents of the earlier sound, so that only
what follows is made, and what the listener liked stays the very same.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import mlx.core as mx
import numpy as np

from musicot_mlx.audio.files import read_audio, resample
from musicot_mlx.errors import MusicotError
from musicot_mlx.models.semantic_diffusion import SemanticDiffusion
from musicot_mlx.models.semantic_lm import SemanticLM
from musicot_mlx.models.vae import VAE
from musicot_mlx.pipelines.mastering import fade_out_seconds
from musicot_mlx.pipelines.plans.earlier import earlier_song
from musicot_mlx.pipelines.plans.plan import Plan
from musicot_mlx.pipelines.plans.thoughts import PlanModel
from musicot_mlx.pipelines.song import Song

SEAM_SECONDS = 0.02  # over which kept and new sound are cross-faded


@dataclass(frozen=True)
class Kept:
    """What is kept of an earlier song, and what new sound follows from.

    codes: int32 (frames,), the audio tokens kept; waveform: float32 (samples, channels) at the
    model's rate and level, the earlier song up to where new latents begin; first: the latent frame
    that is; latents: (1, frames, channels), those that lead up to it; gain: dB that the earlier
    song was amplified by, and the new one is to be.
    """

    codes: np.ndarray
    waveform: np.ndarray
    first: int
    latents: mx.array
    gain: float


class Continuing(PlanModel, Protocol):
    """What a song goes on with: MusicotPipeline has it."""

    semantic_lm: SemanticLM
    diffusion: SemanticDiffusion
    vae: VAE


def kept_of(earlier: Song | str | Path, plan: Plan | None, model: Continuing) -> Kept:
    """What `plan` has in common with an earlier song, a Song or a file with its .json beside it.

    Raises MusicotError when that is nothing, and for a song that does not belong to the model.
    """
    if plan is None:
        raise MusicotError("an earlier song is kept where an edited plan says; pass the plan")
    known = earlier_song(earlier, model)
    where, old, codes, gain = known.where, known.plan, known.codes[0], known.gain
    if isinstance(earlier, Song):
        waveform, rate = earlier.waveform, earlier.sample_rate
    else:
        waveform, rate = read_audio(earlier)
    if abs(len(waveform) / rate - old.duration) > 0.2:
        raise MusicotError(
            f"{where} lasts {len(waveform) / rate:.4g} s and its plan {old.duration:.4g} s, so it "
            "was cut after it was made"
        )
    lasts = len(waveform) / rate
    if "fade_out" in known.settings and not known.settings.get("loop"):  # that is made anew
        lasts -= fade_out_seconds(known.settings["fade_out"], lasts)
    seconds = old.shared_seconds(plan)
    if not seconds > 0:
        raise MusicotError(
            f"nothing of {where} can be kept: the plan differs from its first segment on"
        )
    frames = min(len(codes), math.floor(seconds * model.semantic_lm.config.audio_frame_rate + 1e-6))
    waveform = resample(waveform, rate, model.vae.config.sample_rate)
    waveform = waveform * np.float32(10 ** (-gain / 20))
    first, latents = _latents_before(waveform, min(seconds, lasts), model)
    earlier_sound = waveform[: first * model.vae.config.samples_per_latent]
    return Kept(codes[:frames], earlier_sound, first, latents, gain)


def _latents_before(
    waveform: np.ndarray, seconds: float, model: Continuing
) -> tuple[int, mx.array]:
    """The latent frame that new sound begins with, and the latents that lead up to it.

    These are of the earlier sound itself, so it may come from a file: as many as the first new
    window and the decoder look back on. Beyond the cut the encoder sees how it went on then.
    """
    config = model.vae.config
    per_latent, reach = config.samples_per_latent, config.decoder_reach
    first = int(seconds * config.sample_rate / per_latent + 1e-6)
    low = max(0, first - model.diffusion.config.window_frames - 2 * reach)
    piece = waveform[low * per_latent : (first + 2 * reach) * per_latent]
    if piece.shape[1] != config.audio_channels:
        raise MusicotError(
            f"the song to keep has {piece.shape[1]} channels, this model makes "
            f"{config.audio_channels}"
        )
    latents = model.vae.encode(mx.array(piece)[None]).mean.astype(mx.float32)
    return first, latents[:, : first - low]


def join(
    kept: np.ndarray, chunks: Iterable[np.ndarray], *, before: int, seam: int
) -> Iterator[np.ndarray]:
    """The kept waveform (samples, channels), then what `chunks` have from there on.

    chunks begin `before` samples before the end of what is kept; over the last `seam` of these the
    one fades into the other.
    """
    yield kept[: len(kept) - seam]
    skip = before - seam
    fade = np.linspace(0, 1, seam, endpoint=False, dtype=np.float32)[:, None]
    tail = kept[len(kept) - seam :]
    for chunk in chunks:
        chunk, skip = chunk[skip:], max(0, skip - len(chunk))
        if not len(chunk):
            continue
        if shared := min(len(tail), len(chunk)):
            mixed = tail[:shared] + fade[:shared] * (chunk[:shared] - tail[:shared])
            chunk = np.concatenate([mixed, chunk[shared:]])
            tail, fade = tail[shared:], fade[shared:]
        yield chunk
