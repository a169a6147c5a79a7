"""What a MusicGen song can be asked for, option by option."""

from dataclasses import dataclass
from pathlib import Path

from musicot_mlx.pipelines.options import (
    Asked,
    Embedder,
    Options,
    Progress,
    Reference,
    audio_guidance_option,
    audio_temperature_option,
    bpm_option,
    candidates_option,
    duration_option,
    option,
    progress_option,
    seed_option,
    top_k_option,
    top_p_option,
)


class MusicgenAsked(Asked, total=False):
    """What `generate`, `generate_batch` and `stream` take, for editors."""

    duration: float
    seed: int
    bpm: float | None
    audio_temperature: float | None
    audio_guidance: float | None
    top_k: int | None
    top_p: float | None
    negative_prompt: str | None
    melody: str | Path | None
    continuation: str | Path | None
    reference: Reference | None
    candidates: int
    clap: Embedder | None
    lyrics: str | None
    progress: Progress | None


@dataclass(frozen=True, kw_only=True)
class MusicgenOptions(Options):
    """Options of `generate`, `generate_batch` and `stream`.

    Beyond 30 s a window of 30 s slides, 12 s of it kept.
    """

    duration: float = duration_option()
    seed: int = seed_option()
    bpm: float | None = bpm_option()
    audio_temperature: float | None = audio_temperature_option()
    audio_guidance: float | None = audio_guidance_option()
    top_k: int | None = top_k_option()
    top_p: float | None = top_p_option()
    negative_prompt: str | None = option(
        None,
        "what the music should not be",
        flags=("--negative-prompt",),
        metavar="TEXT",
    )
    melody: str | Path | None = option(
        None,
        "audio whose melody a melody model follows",
        kind=Path,
        flags=("--melody",),
        metavar="FILE",
    )
    continuation: str | Path | None = option(
        None,
        "audio that the song begins with and goes on",
        kind=Path,
        flags=("--continue",),
        metavar="FILE",
    )
    reference: Reference | None = option(
        None,
        "what the candidates are compared with",
        kind=Path,
        several=True,
        flags=("--reference",),
        metavar="FILE",
    )
    candidates: int = candidates_option()
    clap: Embedder | None = option(
        None,
        "what chooses; None: the CLAP of the embedded model",
        kind=object,
        saved="never",
        takes="what embeds texts and audio, as load(a CLAP) gives it",
        needs=("embed_text", "embed_audio"),
    )
    lyrics: str | None = option(None, "no MusicGen sings: a warning", saved="never")
    progress: Progress | None = progress_option()
