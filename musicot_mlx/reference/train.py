"""Pretraining of MusiCoT, a stage at a time, on the songs of a metadata JSON.

    python -m musicot_mlx.reference.train --data FOLDER --out FOLDER [--stage NAME ...]

The order is that of the dependencies. vae, clap and best_rq then semantic_tokenizer read audio;
encode turns songs into embeddings and codes, from which rvq and semantic_lm learn, encode_latents
into latents for diffusion; assemble writes the checkpoint folder that `musicot convert` reads.
Every stage resumes where it stopped. Several GPUs: `accelerate launch -m
musicot_mlx.reference.train ...`; each process then draws its own batches and encodes its own songs,
and the first writes the weights.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import fields
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from accelerate import PartialState
from torch import Tensor, nn
from vector_quantize_pytorch import ResidualVQ

from musicot_mlx.atomic import atomic_path, write_text
from musicot_mlx.errors import MusicotError
from musicot_mlx.reference import clap as clap_parts
from musicot_mlx.reference.data import SongData, SongEntry, read_roll, read_window
from musicot_mlx.reference.diffusion import SemanticDiffusion
from musicot_mlx.reference.musicot import PARTS, MusicotReference, build_rvq
from musicot_mlx.reference.semantic_lm import SemanticLM
from musicot_mlx.reference.semantic_tokenizer import BestRQ, CodebookTraining, SemanticTokenizer
from musicot_mlx.reference.spectral import log_mel_error, reconstruction_loss, signal_to_noise
from musicot_mlx.reference.trainer import (
    Batch,
    Metrics,
    Trainer,
    TrainingConfig,
    load_weights,
    save_atomic,
    to_device,
)
from musicot_mlx.reference.vae import VAE

MINI = Path(__file__).parent / "configs" / "mini.yaml"
VAE_AUDIO = {"sample_rate": "sample_rate", "channels": "audio_channels"}  # of read_window: of VAE
STAGE_OPTIONS = {
    "seconds",
    "kl_weight",
    "condition_dropout",
    "thought_weight",
    "text_condition_share",
}
ABANDONED = 600.0  # seconds after which a song that was being encoded is taken up again
SAME = (  # what two parts must agree on
    (("clap", "projection_dim"), ("rvq", "dim")),
    (("clap", "projection_dim"), ("semantic_lm", "clap_dim")),
    (("clap", "projection_dim"), ("diffusion", "clap_dim")),
    (("clap", "text_config", "vocab_size"), ("semantic_lm", "text_vocab_size")),
    (("rvq", "codebooks"), ("semantic_lm", "thought_codebooks")),
    (("rvq", "codebook_size"), ("semantic_lm", "thought_codebook_size")),
    (("semantic_tokenizer", "codebook_size"), ("semantic_lm", "audio_codebook_size")),
    (("semantic_tokenizer", "codebook_size"), ("diffusion", "audio_codebook_size")),
    (("vae", "latent_dim"), ("diffusion", "latent_dim")),
)


def read_config(file: Path) -> dict[str, Any]:
    """The YAML config, checked: MusicotError for what is absent, unknown or at odds."""
    try:
        config = yaml.safe_load(file.read_text())
    except OSError as error:
        raise MusicotError(f"can't read {file}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise MusicotError(f"{file} is not YAML: {' '.join(str(error).split())}") from error
    sections = (*PARTS, "sampling", "data", "training")
    absent = [name for name in sections if not isinstance(config, dict) or name not in config]
    if absent:
        raise MusicotError(f"{file} lacks the sections {', '.join(absent)}; start from {MINI}")
    for part, network in (
        ("vae", VAE),
        ("semantic_tokenizer", SemanticTokenizer),
        ("diffusion", SemanticDiffusion),
    ):
        unknown = set(config[part]) - set(signature(network).parameters)
        if unknown:
            raise MusicotError(f"{file}: {part} knows no {', '.join(sorted(unknown))}")

    def value(path: tuple[str, ...]) -> Any:
        found = config
        for name in path:
            found = found.get(name) if isinstance(found, dict) else None
        if found is None:
            raise MusicotError(f"{file} lacks {'.'.join(path)}")
        return found

    for one, other in SAME:
        if value(one) != value(other):
            raise MusicotError(
                f"{file}: {'.'.join(one)} is {value(one)}, {'.'.join(other)} is {value(other)}; "
                "they must agree"
            )
    return config


class Studio:
    """What every stage needs: the YAML config, the songs, and the folder where stages leave their
    weights.
    """

    def __init__(self, config: dict[str, Any], data: SongData, out: Path) -> None:
        self.config, self.data, self.out = config, data, out
        self.process = PartialState(cpu=not torch.cuda.is_available())

    def options(self, stage: str) -> dict[str, Any]:
        if stage not in self.config["training"]:
            raise MusicotError(f"the config lacks training.{stage}; see {MINI}")
        return self.config["training"][stage]

    def training(self, stage: str) -> TrainingConfig:
        known = {f.name: type(f.default) for f in fields(TrainingConfig)}
        chosen = {}
        for name, value in self.options(stage).items():
            if name not in known.keys() | STAGE_OPTIONS:
                raise MusicotError(f"training.{stage} knows no {name}")
            if name in known:
                try:
                    chosen[name] = known[name](value)  # YAML reads 1e-3 as a string
                except ValueError as error:
                    raise MusicotError(f"training.{stage}.{name} is {value!r}") from error
        return TrainingConfig(**chosen)

    def run(
        self,
        stage: str,
        model: nn.Module,
        batch: Callable[[int, np.random.Generator], Batch],
        validate: Callable[[nn.Module], Metrics],
    ) -> nn.Module:
        size = sum(p.numel() for p in model.parameters()) / 1e6
        if self.process.is_main_process:
            print(f"stage {stage}: {size:.1f} M parameters", flush=True)
        return Trainer(model, batch, validate, self.training(stage), self.out / stage).run()

    def weights(self, stage: str, prefix: str = "") -> dict[str, Tensor]:
        """The weights a stage left, those under `prefix` with it taken off."""
        state = load_weights(self.out / stage)
        return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}

    def song(self, rng: np.random.Generator) -> SongEntry:
        return self.data.training[rng.integers(len(self.data.training))]

    # Trained parts, rebuilt from the folder.

    def vae(self) -> VAE:
        model = VAE(**self.config["vae"])
        model.load_state_dict(self.weights("vae", "vae."))
        return model.eval()

    def clap(self) -> nn.Module:
        model = clap_parts.build_clap(self.config["clap"])
        model.load_state_dict(self.weights("clap", "clap."))
        return model.eval()

    def tokenizer(self) -> Any:
        file = self.out / "tokenizer.json"
        if not file.is_file():
            raise MusicotError(f"{file} is not there; run --stage clap first")
        return clap_parts.Tokenizer.from_file(str(file))

    def semantic_tokenizer(self) -> SemanticTokenizer:
        model = SemanticTokenizer(**self.config["semantic_tokenizer"])
        model.load_state_dict(self.weights("semantic_tokenizer", "tokenizer."))
        return model.eval()

    def rvq(self) -> ResidualVQ:
        model = build_rvq(self.config["rvq"])
        model.load_state_dict(load_weights(self.out / "rvq"))
        return model.eval()


# --- VAE ------------------------------------------------------------------------------------------


class VaeTraining(nn.Module):
    """Reconstruction and KL of audio windows (batch, samples, channels); channels count as rows of
    the loss.
    """

    def __init__(self, vae: VAE, kl_weight: float) -> None:
        super().__init__()
        self.vae, self.kl_weight = vae, kl_weight

    def forward(self, batch: Batch) -> tuple[Tensor, Metrics]:
        waveform = batch["waveform"]
        latents = self.vae.encode(waveform)
        mean, log_variance = latents.mean.float(), latents.log_variance.float()
        latents = type(latents)(mean, log_variance)
        output = self.vae.decode(latents.sample())[:, : waveform.shape[1]]
        with torch.autocast(waveform.device.type, enabled=False):
            loss, parts = reconstruction_loss(rows(waveform), rows(output), self.vae.sample_rate)
        kl = latents.kl()
        return loss + self.kl_weight * kl, {**parts, "kl": kl.item()}


def device_of(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def held_out_start(song: SongEntry, seconds: float) -> float:
    """Where a held-out window of a song starts: at 15 s, or as late as a shorter song allows."""
    return min(15.0, max(0.0, song.duration - seconds))


def rows(waveform: Tensor) -> Tensor:
    """(batch, samples, channels) to (batch * channels, samples) in float32."""
    return waveform.float().transpose(1, 2).flatten(0, 1)


def train_vae(studio: Studio) -> None:
    config, options = studio.config["vae"], studio.options("vae")
    audio = {k: config[v] for k, v in VAE_AUDIO.items()}

    def batch(step: int, rng: np.random.Generator) -> Batch:
        windows = []
        for _ in range(options["batch_size"]):
            song = studio.song(rng)
            start = rng.uniform(0, max(0.0, song.duration - options["seconds"]))
            window = read_window(song.path, start, options["seconds"], **audio)
            windows.append(window * 10 ** (rng.uniform(-6, 2) / 20))  # levels vary by 8 dB
        return {"waveform": torch.from_numpy(np.stack(windows).astype(np.float32))}

    windows = [
        read_window(s.path, held_out_start(s, 6.0), 6.0, **audio)
        for s in studio.data.validation[:8]
    ]
    windows = torch.from_numpy(np.stack(windows))

    def validate(model: nn.Module) -> Metrics:
        held_out = windows.to(device_of(model))
        output = model.vae.decode(model.vae.encode(held_out).mean)[:, : held_out.shape[1]]
        loss, parts = reconstruction_loss(rows(held_out), rows(output), config["sample_rate"])
        snr = signal_to_noise(rows(held_out), rows(output)).median()
        mel = log_mel_error(rows(held_out), rows(output), config["sample_rate"])
        return {"loss": loss.item(), "snr_db": snr.item(), "log_mel_error": mel.item()}

    studio.run("vae", VaeTraining(VAE(**config), options["kl_weight"]), batch, validate)


# --- CLAP and its quantiser -----------------------------------------------------------------------


class ClapMels:
    """Log-mels of whole songs, computed once and kept as float16: windows are slices of 1001
    frames, 100 a second.
    """

    def __init__(self, mels: int) -> None:
        self.front_end = clap_parts.ClapFrontEnd(mels)
        self.songs: dict[Path, Tensor] = {}

    def song(self, entry: SongEntry) -> Tensor:
        if entry.path not in self.songs:
            seconds = max(entry.duration, clap_parts.WINDOW_SECONDS)
            audio = read_window(entry.path, 0, seconds, sample_rate=clap_parts.SAMPLE_RATE)
            self.songs[entry.path] = self.front_end(torch.from_numpy(audio.T))[0, 0].half()
        return self.songs[entry.path]

    def window(self, entry: SongEntry, start: float) -> Tensor:
        """Log-mel (1, 1001, mels) of the 10 s from `start` seconds."""
        song = self.song(entry)
        first = min(round(100 * start), len(song) - 1001)
        return song[None, first : first + 1001].float()


def train_clap(studio: Studio) -> None:
    config, options = studio.config["clap"], studio.options("clap")
    file, vocab_size = studio.out / "tokenizer.json", config["text_config"]["vocab_size"]
    if studio.process.is_main_process and not file.is_file():
        studio.out.mkdir(parents=True, exist_ok=True)
        with atomic_path(file) as temporary:
            clap_parts.train_tokenizer(studio.data.captions(), vocab_size).save(str(temporary))
    studio.process.wait_for_everyone()
    if (size := studio.tokenizer().get_vocab_size()) != vocab_size:
        raise MusicotError(
            f"{file} holds {size} tokens, the config asks for {vocab_size} in "
            "clap.text_config.vocab_size and semantic_lm.text_vocab_size; make them agree"
        )
    tokenizer = studio.tokenizer()
    max_tokens = config["text_config"]["max_position_embeddings"] - 2
    mels = ClapMels(config["audio_config"]["num_mel_bins"])

    def pairs(songs: list[SongEntry], rng: np.random.Generator) -> Batch:
        windows, captions = [], []
        for song in songs:
            steps = int((song.duration - clap_parts.WINDOW_SECONDS) / 2.5)
            start = 2.5 * rng.integers(0, max(0, steps) + 1)
            windows.append(mels.window(song, start))
            captions.append(song.caption(rng, start, clap_parts.WINDOW_SECONDS))
        ids, mask = clap_parts.tokenize(tokenizer, captions, max_tokens)
        return {"log_mel": torch.stack(windows), "ids": ids, "mask": mask}

    def batch(step: int, rng: np.random.Generator) -> Batch:
        return pairs([studio.song(rng) for _ in range(options["batch_size"])], rng)

    rng = np.random.default_rng(0)
    songs = studio.data.validation[:64]
    songs = songs * -(-16 // len(songs))  # few songs come several times, with other windows
    held_out = [pairs(songs, rng) for _ in range(3)]

    def validate(model: nn.Module) -> Metrics:
        results = [model(to_device(b, device_of(model))) for b in held_out]
        means = {k: float(np.mean([m[k] for _, m in results])) for k in results[0][1]}
        return {"loss": float(np.mean([loss.item() for loss, _ in results])), **means}

    model = clap_parts.ClapTraining(clap_parts.build_clap(config))
    studio.run("clap", model, batch, validate)


@torch.no_grad()
def song_embeddings(clap: nn.Module, mels: ClapMels, song: SongEntry) -> Tensor:
    """CLAP embeddings of a song's 10 s windows, one every 2.5 s, (windows, dim)."""
    starts = np.arange(0, max(song.duration - clap_parts.WINDOW_SECONDS, 0) + 0.01, 2.5)
    return clap_parts.embed_audio(clap, torch.stack([mels.window(song, s) for s in starts]))


# --- semantic tokenizer ---------------------------------------------------------------------------


def audio_batches(
    studio: Studio, batch_size: int, seconds: float
) -> tuple[Callable[[int, np.random.Generator], Batch], Batch]:
    """Batches of waveform windows with their score, and one held-out batch."""
    rate = studio.config["semantic_tokenizer"]["sample_rate"]
    frames = round(seconds * studio.config["data"]["score_frame_rate"])

    def windows(songs: list[SongEntry], starts: list[float]) -> Batch:
        pairs = list(zip(songs, starts, strict=True))
        audio = [read_window(s.path, t, seconds, sample_rate=rate)[:, 0] for s, t in pairs]
        scores = [read_roll(s.path, t, frames) for s, t in pairs]
        batch: Batch = {"waveform": torch.from_numpy(np.stack(audio))}
        if all(score is not None for score in scores):
            batch["notes"] = torch.from_numpy(np.stack(scores))
        return batch

    def batch(step: int, rng: np.random.Generator) -> Batch:
        songs = [studio.song(rng) for _ in range(batch_size)]
        latest = [max(0.0, song.duration - seconds) for song in songs]
        return windows(songs, [float(np.floor(25 * rng.uniform(0, t)) / 25) for t in latest])

    held_out = studio.data.validation[:16]
    return batch, windows(held_out, [held_out_start(song, seconds) for song in held_out])


def validation(held_out: Batch) -> Callable[[nn.Module], Metrics]:
    def validate(model: nn.Module) -> Metrics:
        torch.manual_seed(0)
        loss, metrics = model(to_device(held_out, device_of(model)))
        return {"loss": loss.item(), **metrics}

    return validate


def train_best_rq(studio: Studio) -> None:
    batch, held_out = audio_batches(studio, studio.options("best_rq")["batch_size"], 10.0)
    tokenizer = SemanticTokenizer(**studio.config["semantic_tokenizer"])
    sample = torch.cat([batch(0, np.random.default_rng(i))["waveform"] for i in range(4)])
    frames = tokenizer.log_mel.frames(sample).flatten(0, 1)
    tokenizer.log_mel.mean.copy_(frames.mean(0))
    tokenizer.log_mel.std.copy_(frames.std(0).clamp(min=0.1))
    studio.run("best_rq", BestRQ(tokenizer), batch, validation(held_out))


def train_semantic_tokenizer(studio: Studio) -> None:
    size = studio.options("semantic_tokenizer")["batch_size"]
    batch, held_out = audio_batches(studio, size, 10.0)
    tokenizer = SemanticTokenizer(**studio.config["semantic_tokenizer"])
    tokenizer.load_state_dict(studio.weights("best_rq", "tokenizer."))
    studio.run("semantic_tokenizer", CodebookTraining(tokenizer), batch, validation(held_out))


# --- songs as codes, latents and embeddings -------------------------------------------------------


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


def train_rvq(studio: Studio) -> None:
    """Fit the codebooks on the CLAP embeddings of encoded songs: k-means start, EMA, dead codes
    replaced.
    """
    options = studio.options("rvq")
    if not studio.process.is_main_process:
        return
    torch.manual_seed(0)
    embeddings, held_out = (
        torch.from_numpy(np.concatenate([song["clap"] for _, song in encoded(studio, entries)]))
        for entries in (studio.data.training, studio.data.validation)
    )
    rvq = build_rvq(
        studio.config["rvq"],
        kmeans_init=True,
        kmeans_iters=20,
        threshold_ema_dead_code=2,
        decay=0.95,
        sync_codebook=False,
    )
    rvq.train()
    rvq(embeddings[torch.randperm(len(embeddings))[:16384]][None])  # k-means start
    for _ in range(min(options["steps"], 40 * len(embeddings) // options["batch_size"] + 1)):
        rvq(embeddings[torch.randint(len(embeddings), (options["batch_size"],))][None])
    rvq.eval()
    levels = rvq(held_out[None], return_all_codes=True)[3]  # (levels, 1, windows, dim)
    for level, rough in enumerate(levels.cumsum(0)[:, 0], start=1):
        cosine = nn.functional.cosine_similarity(rough, held_out).mean().item()
        print(f"rvq level {level}: held-out cosine {cosine:.4f}", flush=True)
    (studio.out / "rvq").mkdir(parents=True, exist_ok=True)
    keys = build_rvq(studio.config["rvq"]).state_dict().keys()
    state = {k: v for k, v in rvq.state_dict().items() if k in keys}
    save_atomic({"ema": state}, studio.out / "rvq" / "last.pt")


class Encoded:
    """Encoded songs in memory, and the stretches of them that the language model and the diffusion
    learn from.
    """

    def __init__(
        self,
        studio: Studio,
        entries: list[SongEntry],
        *,
        text_share: float,
        latents: int = 0,
    ) -> None:
        """`latents`: how many latents a song must have, or 0 where they are not needed."""
        self.text_share = text_share
        self.songs = encoded(studio, entries, latents=latents)
        rvq = studio.rvq()
        for _, song in self.songs:  # int32 codes (levels, windows) of the thoughts
            codes = rvq(torch.from_numpy(song["clap"])[None])[1][0]
            song["thoughts"] = codes.T.numpy().astype(np.int32)

    def draw(self, rng: np.random.Generator) -> tuple[SongEntry, dict[str, np.ndarray]]:
        return self.songs[rng.integers(len(self.songs))]

    def prompt(
        self, song: dict[str, np.ndarray], first: int, last: int, rng: np.random.Generator
    ) -> np.ndarray:
        """The condition of eq 4: CLAP of a random 10 s of the stretch [first, last] in windows,
        (dim,).

        The paper trains on audio embeddings alone and prompts with text. Here a share of the items
        takes a caption's embedding, since a small CLAP leaves a gap between the two.
        """
        window = rng.integers(first, last + 1)
        if rng.random() >= self.text_share:
            return song["clap"][window]
        texts = song["text"] if rng.random() < 0.5 else song["window_text"][window]
        return texts[rng.integers(len(texts))]


# --- semantic language model ----------------------------------------------------------------------


class SemanticLMTraining(nn.Module):
    def __init__(self, lm: nn.Module, dropout: float, thought_weight: float) -> None:
        super().__init__()
        self.lm, self.dropout, self.thought_weight = lm, dropout, thought_weight

    def forward(self, batch: Batch) -> tuple[Tensor, Metrics]:
        weight = self.thought_weight
        return self.lm.loss(batch, dropout=self.dropout, thought_weight=weight), {}


def semantic_lm_config(studio: Studio) -> dict[str, Any]:
    return {**studio.config["semantic_lm"], "tags": studio.data.tags()}


def train_semantic_lm(studio: Studio) -> None:
    options, config = studio.options("semantic_lm"), semantic_lm_config(studio)
    lm = SemanticLM(config)
    tokenizer = studio.tokenizer()
    rate = 2.5 * config["audio_frame_rate"]  # codes between two windows
    tag_ids = {tag: lm.vocabulary.tag_id(i) for i, tag in enumerate(config["tags"])}

    def lyrics_ids(text: str) -> list[int]:
        return lm.vocabulary.lyrics_ids(
            text, lambda t: tokenizer.encode(t, add_special_tokens=False).ids
        )

    def stretch(data: Encoded, rng: np.random.Generator) -> dict[str, Any]:
        """One item: a stretch of a song of 5 s up to the context, from a multiple of 2.5 s."""
        entry, song = data.draw(rng)
        windows = song["clap"].shape[0]  # every 2.5 s, each 10 s long
        steps = 4 + windows - 1  # the song's length in 2.5 s
        longest = min(steps, int(config["context_seconds"] / 2.5))
        length = longest if rng.random() < 0.4 else int(rng.integers(2, longest + 1))
        first = int(rng.integers(0, steps - length + 1))
        starts = np.minimum(np.arange(first, first + length, 4), windows - 1)
        near = min(first, windows - 1)  # a short stretch at the end lies in the last window
        last = max(near, min(first + length - 4, windows - 1))
        tags = [tag_ids[t] for t in entry.tags if rng.random() < 0.6] if rng.random() < 0.7 else []
        frames = slice(round(first * rate), round((first + length) * rate))
        return {
            "clap": data.prompt(song, near, last, rng),
            "tags": tags,
            "lyrics": lyrics_ids(entry.lyrics) if entry.lyrics else [],
            "thoughts": song["thoughts"][:, starts],
            "audio": song["codes"][frames],
        }

    def collate(items: list[dict[str, Any]]) -> Batch:
        batch: Batch = {k: [item[k] for item in items] for k in items[0]}
        batch["clap"] = torch.from_numpy(np.stack(batch["clap"]))
        return batch

    share = options["text_condition_share"]
    training = Encoded(studio, studio.data.training, text_share=share)
    held_out = Encoded(studio, studio.data.validation, text_share=share)
    rng = np.random.default_rng(0)
    checks = [collate([stretch(held_out, rng) for _ in range(8)]) for _ in range(3)]

    def batch(step: int, rng: np.random.Generator) -> Batch:
        return collate([stretch(training, rng) for _ in range(options["batch_size"])])

    def validate(model: nn.Module) -> Metrics:
        results = [model.lm.losses(b) for b in checks]
        means = {k: float(np.mean([r[k] for r in results])) for k in results[0]}
        return {"loss": means["audio"], **means}

    weight = float(options.get("thought_weight", 1.0))
    model = SemanticLMTraining(lm, options["condition_dropout"], weight)
    studio.run("semantic_lm", model, batch, validate)


# --- diffusion ------------------------------------------------------------------------------------


class DiffusionTraining(nn.Module):
    def __init__(self, diffusion: nn.Module) -> None:
        super().__init__()
        self.diffusion = diffusion

    def forward(self, batch: Batch) -> tuple[Tensor, Metrics]:
        return self.diffusion.loss(**batch), {}


def diffusion_config(studio: Studio) -> dict[str, Any]:
    """The diffusion section with the scale that gives training latents unit variance."""
    file = studio.out / "diffusion" / "latent_scale.txt"
    if not file.is_file():
        songs = encoded(studio, studio.data.training[:200], latents=1)
        latents = np.concatenate([song["latents"] for _, song in songs]).astype(np.float32)
        spread = float(latents.std())
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, f"{1 / spread:.6f}")
    return {**studio.config["diffusion"], "latent_scale": float(file.read_text())}


def train_diffusion(studio: Studio) -> None:
    options, config = studio.options("diffusion"), diffusion_config(studio)
    rvq = studio.rvq()
    seconds = config["window_seconds"]
    time = round(seconds * config["latent_rate"])
    per_code = config["latent_rate"] / config["audio_frame_rate"]  # latents
    frames = int(np.ceil(time / per_code)) + 1  # codes that a window meets, one at either end cut

    def window(data: Encoded, rng: np.random.Generator) -> dict[str, Any]:
        """One item: a window of latents that starts on a 2.5 s step, with its codes, its thoughts
        and a prompt.
        """
        _, song = data.draw(rng)
        windows = song["clap"].shape[0]
        duration = len(song["latents"]) / config["latent_rate"]
        first = int(rng.integers(0, int((duration - seconds) / 2.5) + 1))
        latent = min(round(first * 2.5 * config["latent_rate"]), len(song["latents"]) - time)
        code = int(latent / per_code)
        codes = song["codes"][code : code + frames]
        # thoughts lie on the song's 10 s grid, which a window meets at any offset: two of them, or
        # one twice where the window lies inside it
        grid = int(rng.integers(0, 4))
        meets = 4 if 2.5 * grid + seconds > clap_parts.WINDOW_SECONDS else 0
        near = np.clip([first - grid, first - grid + meets], 0, windows - 1)
        # the song this window is of: anything from the window alone to the whole recording
        before = rng.uniform(0, first * 2.5) if rng.random() < 0.7 else first * 2.5
        after = duration - seconds - first * 2.5
        after = rng.uniform(0, after) if rng.random() < 0.7 else after
        inside = min(first, windows - 1)
        prompt = data.prompt(song, max(0, inside - 8), min(windows - 1, inside + 8), rng)
        thoughts = rvq.get_output_from_indices(torch.from_numpy(song["thoughts"][:, near].T)[None])
        thoughts = nn.functional.normalize(thoughts[0], dim=-1)
        return {
            "latents": torch.from_numpy(
                song["latents"][latent : latent + time].astype(np.float32)
            ).T,
            "codes": torch.from_numpy(np.pad(codes, (0, frames - len(codes)), mode="edge")),
            "frame_offset": torch.tensor(latent - code * per_code, dtype=torch.float32),
            "clap": torch.cat([torch.from_numpy(prompt)[None], thoughts]),
            "start_seconds": torch.tensor(before, dtype=torch.float32),
            "total_seconds": torch.tensor(before + seconds + after, dtype=torch.float32),
        }

    def collate(items: list[dict[str, Tensor]]) -> Batch:
        return {k: torch.stack([item[k] for item in items]) for k in items[0]}

    share = options["text_condition_share"]
    training = Encoded(studio, studio.data.training, text_share=share, latents=time)
    held_out = Encoded(studio, studio.data.validation, text_share=share, latents=time)
    rng = np.random.default_rng(0)
    checks = [collate([window(held_out, rng) for _ in range(16)]) for _ in range(3)]

    @torch.no_grad()
    def batch(step: int, rng: np.random.Generator) -> Batch:
        return collate([window(training, rng) for _ in range(options["batch_size"])])

    def validate(model: nn.Module) -> Metrics:
        torch.manual_seed(0)
        return {
            "loss": float(
                np.mean([model(to_device(b, device_of(model)))[0].item() for b in checks])
            )
        }

    studio.run("diffusion", DiffusionTraining(SemanticDiffusion(**config)), batch, validate)


# --- all together ---------------------------------------------------------------------------------


def assemble(studio: Studio) -> None:
    """Write `checkpoint/`: the folder that `musicot convert` reads."""
    if not studio.process.is_main_process:
        return
    parts = ("clap", "rvq", "semantic_tokenizer", "vae", "sampling")
    config = {part: studio.config[part] for part in parts}
    config["semantic_lm"] = semantic_lm_config(studio)
    config["diffusion"] = diffusion_config(studio)
    model = MusicotReference(config)
    model.clap = studio.clap()
    model.rvq = studio.rvq()
    model.vae = studio.vae()
    model.semantic_tokenizer = studio.semantic_tokenizer()
    model.semantic_lm.load_state_dict(studio.weights("semantic_lm", "lm."))
    model.diffusion.load_state_dict(studio.weights("diffusion", "diffusion."))
    model.save_pretrained(studio.out / "checkpoint", studio.tokenizer())
    print(f"wrote {studio.out / 'checkpoint'}", flush=True)


STAGES: dict[str, Callable[[Studio], None]] = {
    "vae": train_vae,
    "clap": train_clap,
    "best_rq": train_best_rq,
    "semantic_tokenizer": train_semantic_tokenizer,
    "encode": encode,
    "rvq": train_rvq,
    "semantic_lm": train_semantic_lm,
    "encode_latents": encode_latents,
    "diffusion": train_diffusion,
    "assemble": assemble,
}


def main(argv: list[str] | None = None) -> int:
    """Run the stages asked for; bad input is one line on stderr and exit code 2."""
    parser = argparse.ArgumentParser(
        prog="python -m musicot_mlx.reference.train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, default=MINI, help="YAML config (default: the mini)")
    parser.add_argument("--data", type=Path, required=True, help="metadata JSON or its folder")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints and logs")
    parser.add_argument(
        "--stage",
        nargs="+",
        choices=list(STAGES),
        default=list(STAGES),
        metavar="NAME",
        help=f"stages to run (default: all, in this order): {', '.join(STAGES)}",
    )
    parser.add_argument("--threads", type=int, help="CPU threads (default: all)")
    args = parser.parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    try:
        studio = Studio(read_config(args.config), SongData(args.data), args.out)
        for stage in args.stage:
            STAGES[stage](studio)
            studio.process.wait_for_everyone()
    except MusicotError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
