"""Which of several songs fits best what was asked for, by CLAP."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np


class Embedder(Protocol):
    """What a CLAP offers: unit vectors, float32 (texts or windows of 10 s, dim)."""

    def embed_text(self, texts: Sequence[str]) -> np.ndarray: ...

    def embed_audio(self, waveform: np.ndarray, sample_rate: int) -> np.ndarray: ...


def clap_scores(
    clap: Embedder,
    waveforms: Sequence[np.ndarray],
    sample_rate: int,
    *,
    prompt: str | None = None,
    reference: np.ndarray | None = None,
) -> np.ndarray:
    """Mean cosine of each song's windows with the prompt and with a reference vector, (songs,).

    waveforms: float32 (frames, channels). Where both are given both count the same. Raises
    ValueError where there is nothing to compare with.
    """
    wanted = [] if prompt is None else [clap.embed_text([prompt])[0]]
    wanted += [] if reference is None else [reference / np.linalg.norm(reference).clip(min=1e-9)]
    if not wanted:
        raise ValueError("nothing to score songs by; give a prompt or a reference")
    towards = np.mean(wanted, axis=0)  # (dim,)
    return np.array(
        [
            float((clap.embed_audio(waveform, sample_rate) @ towards).mean())
            for waveform in waveforms
        ],
        dtype=np.float32,
    )
