"""Songs as embeddings, codes and latents: what the stages after them learn from, a file a song."""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from musicot_mlx.errors import MusicotError
from musicot_mlx.reference import clap as clap_parts
from musicot_mlx.reference.data import SongEntry, read_window
from musicot_mlx.reference.train.audio import VAE_AUDIO, ClapMels
from musicot_mlx.reference.train.studio import Studio

ABANDONED = 600.0  # seconds after which a song that was being encoded is taken up again


@torch.no_grad()
def song_embeddings(clap: nn.Module, mels: ClapMels, song: SongEntry) -> Tensor:
    """CLAP embeddings of a song's 10 s windows, one every 2.5 s, (windows, dim)."""
    starts = np.arange(0, max(song.duration - clap_parts.WINDOW_SECONDS, 0) + 0.01, 2.5)
    return clap_parts.embed_audio(clap, torch.stack([mels.window(song, s) for s in starts]))


@torch.no_grad()
def encode(studio: Studio) -> None:
    """Write `encoded/<song>.npz` for every song: all that the language model learns from.

    `clap` (windows, dim) audio embeddings every 2.5 s; `text` (captions, dim) embeddings of the
    song's captions; `window_text` (windows, wordings, dim) of its windows' captions; `codes`
    (frames,) semantic codes. In bfloat16 where it is quicker, as in training.
    """
    clap, semantic = studio.clap(), studio.semantic_tokenizer()
    tokenizer = studio.tokenizer()
    max_tokens = studio.config["clap"]["text_config"]["max_position_embeddings"] - 2
    rate = studio.config["semantic_tokenizer"]["sample_rate"]
    mels = ClapMels(studio.config["clap"]["audio_config"]["num_mel_bins"])

    def embed(texts: list[str]) -> np.ndarray:
        distinct = list(dict.fromkeys(texts))
        ids, mask = clap_parts.tokenize(tokenizer, distinct, max_tokens)
        vectors = clap_parts.embed_text(clap, ids, mask).numpy()
        return vectors[[distinct.index(text) for text in texts]]

    for index, song, target in missing(studio, ".npz"):
        with torch.autocast("cpu", torch.bfloat16):
            embeddings = song_embeddings(clap, mels, song)
        mels.songs.clear()
        starts = 2.5 * np.arange(len(embeddings))
        rng = np.random.default_rng(index)
        wordings = [song.caption(rng, t, clap_parts.WINDOW_SECONDS) for t in starts for _ in "ab"]
        audio = read_window(song.path, 0, song.duration, sample_rate=rate)
        arrays = {
            "clap": embeddings.numpy(),
            "text": embed(list(song.prompts)),
            "window_text": embed(wordings).reshape(len(starts), 2, -1),
            "codes": semantic.encode(torch.from_numpy(audio.T))[0].numpy().astype(np.int32),
        }
        with target.open("wb") as file:
            np.savez(file, **arrays)


@torch.no_grad()
def encode_latents(studio: Studio) -> None:
    """Write `encoded/<song>.npy` for every song: posterior means, float16 (time, latent_dim)."""
    vae = studio.vae()
    options = {k: studio.config["vae"][v] for k, v in VAE_AUDIO.items()}
    for _, song, target in missing(studio, ".npy"):
        audio = read_window(song.path, 0, song.duration, **options)
        with torch.autocast("cpu", torch.bfloat16):
            latents = vae.encode(torch.from_numpy(audio)[None]).mean[0].float()
        with target.open("wb") as file:
            np.save(file, latents.numpy().astype(np.float16))


def missing(studio: Studio, suffix: str) -> Iterator[tuple[int, SongEntry, Path]]:
    """Songs that lack their encoded file, each with a path to write to, renamed afterwards."""
    folder = studio.out / "encoded"
    folder.mkdir(parents=True, exist_ok=True)
    for index, song in enumerate(studio.data.entries):
        target = folder / f"{song.path.stem}{suffix}"
        claim = folder / f".{song.path.stem}{suffix}"
        if target.is_file():
            continue
        try:
            claim.touch(exist_ok=False)
        except FileExistsError:  # another process is at it, or was when it was killed
            if time.time() - claim.stat().st_mtime < ABANDONED:
                continue
            claim.touch()
        try:
            yield index, song, claim
            claim.replace(target)
        finally:
            claim.unlink(missing_ok=True)
        if index % 50 == 0:
            print(f"encoded {index + 1} of {len(studio.data.entries)}", flush=True)


def encoded(
    studio: Studio, entries: list[SongEntry], *, latents: int = 0
) -> list[tuple[SongEntry, dict[str, np.ndarray]]]:
    """The songs of `entries` that are encoded, with at least so many latents where they are needed.

    Raises MusicotError where there is none.
    """
    found = []
    for entry in entries:
        file = studio.out / "encoded" / f"{entry.path.stem}.npz"
        if not file.is_file() or (latents and not file.with_suffix(".npy").is_file()):
            continue
        with np.load(file) as arrays:
            song = {name: arrays[name] for name in arrays.files}
        if latents:
            song["latents"] = np.load(file.with_suffix(".npy"))
            if len(song["latents"]) < latents:
                continue
        found.append((entry, song))
    if not found:
        stages = "encode encode_latents" if latents else "encode"
        raise MusicotError(
            f"none of {len(entries)} songs is encoded in {studio.out} and long enough; run "
            f"--stage {stages} first"
        )
    return found
