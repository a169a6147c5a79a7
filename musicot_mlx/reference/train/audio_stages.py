"""The stages that listen: VAE, CLAP, and the semantic tokenizer with its BEST-RQ pretraining."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from musicot_mlx.atomic import atomic_path
from musicot_mlx.errors import MusicotError
from musicot_mlx.reference import clap as clap_parts
from musicot_mlx.reference.data import SongEntry, read_roll, read_window
from musicot_mlx.reference.semantic_tokenizer import BestRQ, CodebookTraining, SemanticTokenizer
from musicot_mlx.reference.spectral import log_mel_error, reconstruction_loss, signal_to_noise
from musicot_mlx.reference.train.workspace import Workspace, device_of, held_out_start
from musicot_mlx.reference.trainer import Batch, Metrics, to_device
from musicot_mlx.reference.vae import VAE

VAE_AUDIO = {"sample_rate": "sample_rate", "channels": "audio_channels"}  # of read_window: of VAE


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
        learned = mean.shape[-1] - self.vae.core_dim  # the rest is given
        kl = type(latents)(mean[..., :learned], log_variance[..., :learned]).kl()
        return loss + self.kl_weight * kl, {**parts, "kl": kl.item()}


def rows(waveform: Tensor) -> Tensor:
    """(batch, samples, channels) to (batch * channels, samples) in float32."""
    return waveform.float().transpose(1, 2).flatten(0, 1)


def train_vae(workspace: Workspace) -> None:
    config, options = workspace.config["vae"], workspace.options("vae")
    audio = {k: config[v] for k, v in VAE_AUDIO.items()}

    def batch(step: int, rng: np.random.Generator) -> Batch:
        windows = []
        for _ in range(options["batch_size"]):
            song = workspace.song(rng)
            start = rng.uniform(0, max(0.0, song.duration - options["seconds"]))
            window = read_window(song.path, start, options["seconds"], **audio)
            windows.append(window * 10 ** (rng.uniform(-6, 2) / 20))  # levels vary by 8 dB
        return {"waveform": torch.from_numpy(np.stack(windows).astype(np.float32))}

    windows = [
        read_window(s.path, held_out_start(s, 6.0), 6.0, **audio)
        for s in workspace.data.validation[:8]
    ]
    windows = torch.from_numpy(np.stack(windows))

    def validate(model: nn.Module) -> Metrics:
        held_out = windows.to(device_of(model))
        output = model.vae.decode(model.vae.encode(held_out).mean)[:, : held_out.shape[1]]
        loss, parts = reconstruction_loss(rows(held_out), rows(output), config["sample_rate"])
        snr = signal_to_noise(rows(held_out), rows(output)).median()
        mel = log_mel_error(rows(held_out), rows(output), config["sample_rate"])
        return {"loss": loss.item(), "snr_db": snr.item(), "log_mel_error": mel.item()}

    vae = VAE(**config)
    if vae.core_dim:
        sample = [batch(0, np.random.default_rng(i))["waveform"] for i in range(16)]
        vae.fit_core(torch.cat(sample))
    workspace.run("vae", VaeTraining(vae, options["kl_weight"]), batch, validate)


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


def train_clap(workspace: Workspace) -> None:
    config, options = workspace.config["clap"], workspace.options("clap")
    file, vocab_size = workspace.out / "tokenizer.json", config["text_config"]["vocab_size"]
    if workspace.process.is_main_process and not file.is_file():
        workspace.out.mkdir(parents=True, exist_ok=True)
        started = workspace.start is not None  # its words keep their ids
        tokenizer = (
            workspace.tokenizer()
            if started
            else clap_parts.train_tokenizer(workspace.data.captions(), vocab_size)
        )
        with atomic_path(file) as temporary:
            tokenizer.save(str(temporary))
    workspace.process.wait_for_everyone()
    if (size := workspace.tokenizer().get_vocab_size()) != vocab_size:
        raise MusicotError(
            f"{file} holds {size} tokens, the config asks for {vocab_size} in "
            "clap.text_config.vocab_size and semantic_lm.text_vocab_size; make them agree"
        )
    tokenizer = workspace.tokenizer()
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
        return pairs([workspace.song(rng) for _ in range(options["batch_size"])], rng)

    rng = np.random.default_rng(0)
    songs = workspace.data.validation[:64]
    songs = songs * -(-16 // len(songs))  # few songs come several times, with other windows
    held_out = [pairs(songs, rng) for _ in range(3)]

    def validate(model: nn.Module) -> Metrics:
        results = [model(to_device(b, device_of(model))) for b in held_out]
        means = {k: float(np.mean([m[k] for _, m in results])) for k in results[0][1]}
        return {"loss": float(np.mean([loss.item() for loss, _ in results])), **means}

    model = clap_parts.ClapTraining(clap_parts.build_clap(config))
    workspace.run("clap", model, batch, validate)


# --- semantic tokenizer ---------------------------------------------------------------------------


def audio_batches(
    workspace: Workspace, batch_size: int, seconds: float
) -> tuple[Callable[[int, np.random.Generator], Batch], Batch]:
    """Batches of waveform windows with their score, and one held-out batch."""
    rate = workspace.config["semantic_tokenizer"]["sample_rate"]
    frames = round(seconds * workspace.config["data"]["score_frame_rate"])

    def windows(songs: list[SongEntry], starts: list[float]) -> Batch:
        pairs = list(zip(songs, starts, strict=True))
        audio = [read_window(s.path, t, seconds, sample_rate=rate)[:, 0] for s, t in pairs]
        scores = [read_roll(s.path, t, frames) for s, t in pairs]
        batch: Batch = {"waveform": torch.from_numpy(np.stack(audio))}
        if all(score is not None for score in scores):
            batch["notes"] = torch.from_numpy(np.stack(scores))
        return batch

    def batch(step: int, rng: np.random.Generator) -> Batch:
        songs = [workspace.song(rng) for _ in range(batch_size)]
        latest = [max(0.0, song.duration - seconds) for song in songs]
        return windows(songs, [float(np.floor(25 * rng.uniform(0, t)) / 25) for t in latest])

    held_out = workspace.data.validation[:16]
    return batch, windows(held_out, [held_out_start(song, seconds) for song in held_out])


def validation(held_out: Batch) -> Callable[[nn.Module], Metrics]:
    def validate(model: nn.Module) -> Metrics:
        torch.manual_seed(0)
        loss, metrics = model(to_device(held_out, device_of(model)))
        return {"loss": loss.item(), **metrics}

    return validate


def train_best_rq(workspace: Workspace) -> None:
    batch, held_out = audio_batches(workspace, workspace.options("best_rq")["batch_size"], 10.0)
    tokenizer = SemanticTokenizer(**workspace.config["semantic_tokenizer"])
    sample = torch.cat([batch(0, np.random.default_rng(i))["waveform"] for i in range(4)])
    frames = tokenizer.log_mel.frames(sample).flatten(0, 1)
    tokenizer.log_mel.mean.copy_(frames.mean(0))
    tokenizer.log_mel.std.copy_(frames.std(0).clamp(min=0.1))
    workspace.run("best_rq", BestRQ(tokenizer), batch, validation(held_out))


def train_semantic_tokenizer(workspace: Workspace) -> None:
    size = workspace.options("semantic_tokenizer")["batch_size"]
    batch, held_out = audio_batches(workspace, size, 10.0)
    tokenizer = SemanticTokenizer(**workspace.config["semantic_tokenizer"])
    tokenizer.load_state_dict(workspace.weights("best_rq", "tokenizer."))
    workspace.run("semantic_tokenizer", CodebookTraining(tokenizer), batch, validation(held_out))
