"""What a song keeps of an earlier one: its audio and audio tokens up to the first thought that
changed.

The LM goes on from the tokens, the diffusion from the latents of the earlier sound, so that only
what follows is made, and what the listener liked stays the very same.
"""

import base64
import binascii
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from musicot_mlx.audio.files import read_audio, resample
from musicot_mlx.errors import MusicotError
from musicot_mlx.pipelines.musicot.plan import Plan
from musicot_mlx.pipelines.musicot.thoughts import Composer
from musicot_mlx.pipelines.song import Song, soft_limit

SEAM_SECONDS = 0.02  # over which kept and new sound are cross-faded


@dataclass(frozen=True)
class Kept:
    """codes: int32 (frames,), the audio tokens kept; waveform: the whole earlier song, float32
    (samples, channels) at the model's rate, of which `seconds` are kept.
    """

    codes: np.ndarray
    waveform: np.ndarray
    seconds: float


def kept_of(
    earlier: Song | str | Path,
    plan: Plan,
    model: Composer,
    *,
    sample_rate: int,
    frame_rate: float,
) -> Kept:
    """What `plan` has in common with an earlier song, a Song or a file with its .json beside it.

    Raises MusicotError when that is nothing, and for a song that does not belong to the model.
    """
    if isinstance(earlier, Song):
        where, old, codes = "the song to keep", earlier.plan, earlier.codes[0]
        waveform, rate = earlier.waveform, earlier.sample_rate
        if old is None:
            raise MusicotError("the song to keep has no plan; only songs made from thoughts can be")
    else:
        where = str(earlier)
        waveform, rate = read_audio(earlier)
        old, codes = _from_sidecar(Path(earlier), model)
    if abs(len(waveform) / rate - old.duration) > 0.2:
        raise MusicotError(
            f"{where} lasts {len(waveform) / rate:.4g} s and its plan {old.duration:.4g} s, so it "
            "was cut after it was made"
        )
    seconds = min(old.changed(plan) * plan.thought_seconds, old.duration, plan.duration)
    if not seconds > 0:
        raise MusicotError(
            f"nothing of {where} can be kept: the plan differs from its first segment on"
        )
    frames = min(len(codes), math.floor(seconds * frame_rate + 1e-6))
    return Kept(codes[:frames].astype(np.int32), resample(waveform, rate, sample_rate), seconds)


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
        chunk = soft_limit(chunk)
        if shared := min(len(tail), len(chunk)):
            mixed = tail[:shared] + fade[:shared] * (chunk[:shared] - tail[:shared])
            chunk = np.concatenate([mixed, chunk[shared:]])
            tail, fade = tail[shared:], fade[shared:]
        yield chunk


def _from_sidecar(path: Path, model: Composer) -> tuple[Plan, np.ndarray]:
    """The plan and the audio tokens (frames,) of a saved song."""
    sidecar = path.with_suffix(".json")
    try:
        settings = json.loads(sidecar.read_text(encoding="utf-8"))
        text = settings["made"]["codes"]
        codes = np.frombuffer(base64.b64decode(text, validate=True), "<u2").astype(np.int32)
    except OSError as error:
        raise MusicotError(
            f"can't read {sidecar} ({error.strerror}), which tells how {path} was made"
        ) from error
    except (KeyError, TypeError, ValueError, RecursionError, binascii.Error):
        raise MusicotError(
            f"{sidecar} doesn't tell the audio tokens of {path}; make it again with "
            f"musicot generate --config-from {sidecar}"
        ) from None
    return Plan.load(sidecar, model), codes
