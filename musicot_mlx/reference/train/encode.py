"""Songs as embeddings, codes and latents: what the stages after them learn from, a file a song."""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from musicot_mlx.reference import clap as clap_parts
from musicot_mlx.reference.data import SongEntry, read_window
from musicot_mlx.reference.train.audio_stages import VAE_AUDIO
from musicot_mlx.reference.train.workspace import Workspace

ABANDONED = 600.0  # seconds after which a song that was being encoded is taken up again
AT_ONCE = 8  # songs of one length in a batch, where a GPU encodes them
HOP = 2.5  # seconds between two windows of CLAP
MELS_A_SECOND = 100


@dataclass(frozen=True)
class Claim:
    """A song that this process encodes: its place in the metadata, and the file to write to, which
    gets its name when it is whole.
    """

    index: int
    song: SongEntry
    file: Path

    def done(self) -> None:
        self.file.replace(self.file.with_name(self.file.name.removeprefix(".")))

    def give_up(self) -> None:
        self.file.unlink(missing_ok=True)


@torch.no_grad()
def encode(workspace: Workspace) -> None:
    """Write `encoded/<song>.npz` for every song: all that the language model learns from.

    `clap` (windows, dim) audio embeddings every 2.5 s; `text` (captions, dim) embeddings of the
    song's captions; `window_text` (windows, wordings, dim) of its windows' captions; `codes`
    (frames,) semantic codes. In bfloat16 where it is quicker, as in training.
    """
    device = workspace.device
    clap, semantic = workspace.clap().to(device), workspace.semantic_tokenizer().to(device)
    tokenizer = workspace.tokenizer()
    max_tokens = workspace.config["clap"]["text_config"]["max_position_embeddings"] - 2
    rate = workspace.config["semantic_tokenizer"]["sample_rate"]
    front_end = clap_parts.ClapFrontEnd(workspace.config["clap"]["audio_config"]["num_mel_bins"])
    front_end = front_end.to(device)

    def embed(texts: list[str]) -> np.ndarray:
        distinct = list(dict.fromkeys(texts))
        ids, mask = clap_parts.tokenize(tokenizer, distinct, max_tokens)
        vectors = clap_parts.embed_text(clap, ids.to(device), mask.to(device)).cpu().numpy()
        places = {text: place for place, text in enumerate(distinct)}
        return vectors[[places[text] for text in texts]]

    def read(claim: Claim) -> tuple[np.ndarray, np.ndarray]:
        seconds = max(claim.song.duration, clap_parts.WINDOW_SECONDS)
        for_clap = read_window(claim.song.path, 0, seconds, sample_rate=clap_parts.SAMPLE_RATE)
        audio = read_window(claim.song.path, 0, claim.song.duration, sample_rate=rate)
        return for_clap[:, 0], audio[:, 0]

    for claims, audio in batches(workspace, ".npz", read):
        clap_audio, waveform = (
            torch.from_numpy(np.stack(kind)).to(device) for kind in zip(*audio, strict=True)
        )
        seconds = claims[0].song.duration
        starts = np.arange(0, max(seconds - clap_parts.WINDOW_SECONDS, 0) + 0.01, HOP)
        windows = _windows(front_end(clap_audio)[:, 0].half().float(), starts)
        with torch.autocast(device.type, torch.bfloat16):
            flat = clap_parts.embed_audio(clap, windows.flatten(0, 1)[:, None]).float()
        embeddings = flat.view(len(claims), len(starts), -1).cpu().numpy()
        codes = semantic.encode(waveform).cpu().numpy().astype(np.int32)
        for row, claim in enumerate(claims):
            rng, song = np.random.default_rng(claim.index), claim.song
            wordings = [
                song.caption(rng, t, clap_parts.WINDOW_SECONDS)
                for t in HOP * np.arange(len(starts))
                for _ in "ab"
            ]
            vectors = embed([*song.prompts, *wordings])
            arrays = {
                "clap": embeddings[row],
                "text": vectors[: len(song.prompts)],
                "window_text": vectors[len(song.prompts) :].reshape(len(starts), 2, -1),
                "codes": codes[row],
            }
            with claim.file.open("wb") as file:
                np.savez(file, **arrays)


def _windows(mels: Tensor, starts: Sequence[float]) -> Tensor:
    """Windows of 10 s of log-mels (songs, frames, mels): (songs, windows, 1001, mels)."""
    last = mels.shape[1] - 1001
    firsts = [min(round(MELS_A_SECOND * start), last) for start in starts]
    return torch.stack([mels[:, first : first + 1001] for first in firsts], dim=1)


@torch.no_grad()
def encode_latents(workspace: Workspace) -> None:
    """Write `encoded/<song>.npy` for every song: posterior means, float16 (time, latent_dim)."""
    device, vae = workspace.device, workspace.vae().to(workspace.device)
    options = {k: workspace.config["vae"][v] for k, v in VAE_AUDIO.items()}

    def read(claim: Claim) -> np.ndarray:
        return read_window(claim.song.path, 0, claim.song.duration, **options)

    for claims, audio in batches(workspace, ".npy", read):
        with torch.autocast(device.type, torch.bfloat16):
            latents = vae.encode(torch.from_numpy(np.stack(audio)).to(device)).mean
        for claim, row in zip(
            claims, latents.float().cpu().numpy().astype(np.float16), strict=True
        ):
            with claim.file.open("wb") as file:
                np.save(file, row)


def batches(
    workspace: Workspace, suffix: str, read: Any
) -> Iterator[tuple[list[Claim], list[Any]]]:
    """Songs that lack their encoded file with what `read(claim)` gives of each, several of one
    length at once where a GPU encodes; threads read ahead. Files get their names when the next
    batch is asked for.
    """
    size = _size(workspace.device)
    with ThreadPoolExecutor(max(2, size)) as pool:
        waiting: list[tuple[list[Claim], list[Any]]] = []
        began, count = time.monotonic(), 0
        try:
            for claims in _of_one_length(missing(workspace, suffix), size):
                waiting.append((claims, [pool.submit(read, claim) for claim in claims]))
                if len(waiting) < 2:
                    continue
                yield from _finished(waiting)
                count += len(claims)
                if count % 50 < len(claims):
                    speed = count / (time.monotonic() - began)
                    print(f"encoded {count} songs, {speed:.2f} a second", flush=True)
            while waiting:
                yield from _finished(waiting)
        finally:
            for claims, _ in waiting:
                for claim in claims:
                    claim.give_up()


def _size(device: torch.device) -> int:
    """How many songs are encoded at once: a CPU is as quick with one."""
    return 1 if device.type == "cpu" else AT_ONCE


def _finished(
    waiting: list[tuple[list[Claim], list[Any]]],
) -> Iterator[tuple[list[Claim], list[Any]]]:
    """The first batch that waits; its files are named after it was worked on, or else go."""
    claims, audio = waiting[0]
    yield claims, [each.result() for each in audio]
    for claim in claims:
        claim.done()
    waiting.pop(0)


def _of_one_length(claims: Iterator[Claim], size: int) -> Iterator[list[Claim]]:
    group: list[Claim] = []
    for claim in claims:
        if group and (len(group) == size or claim.song.duration != group[0].song.duration):
            yield group
            group = []
        group.append(claim)
    if group:
        yield group


def missing(workspace: Workspace, suffix: str) -> Iterator[Claim]:
    """Songs that lack their encoded file, claimed by this process; with `workspace.follow` it waits
    for songs that are still being rendered, until none has come for so many seconds.
    """
    folder = workspace.out / "encoded"
    folder.mkdir(parents=True, exist_ok=True)
    last, seen = time.monotonic(), set()
    while True:
        for index, song in enumerate(workspace.data.entries):
            claim = folder / f".{song.path.stem}{suffix}"
            if song.path in seen or claim.with_name(claim.name[1:]).is_file():
                continue
            seen.add(song.path)
            last = time.monotonic()
            try:
                claim.touch(exist_ok=False)
            except FileExistsError:  # another process is at it, or was when it was killed
                if time.time() - claim.stat().st_mtime < ABANDONED:
                    continue
                claim.touch()
            yield Claim(index, song, claim)
        if time.monotonic() - last >= workspace.follow:
            return
        if not workspace.data.refresh():
            time.sleep(1.0)
