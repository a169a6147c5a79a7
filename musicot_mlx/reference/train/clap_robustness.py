"""The stage in which CLAP learns to hear through noise.

What a model makes is noisier than the songs that CLAP learned from, and a small CLAP takes a haze
30 dB below a piano for drums. Here its audio tower learns to say of a degraded window what it said
of the clean one. The space of the embeddings stays, and so does all that was trained in it.
"""

import copy

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from musicot_mlx.reference import clap as clap_parts
from musicot_mlx.reference.data import SongEntry
from musicot_mlx.reference.train.audio_stages import ClapMels
from musicot_mlx.reference.train.workspace import Workspace, device_of
from musicot_mlx.reference.trainer import Batch, Metrics, to_device

LEVELS = (-60.0, -10.0)  # dB of the noise below the window
COLOURS = (0.0, 2.0)  # its power falls with this power of the frequency: white to brown
GAIN, EQUALISER = 10.0, 6.0  # dB either way
POINTS = 6  # between which the equaliser's curve runs straight
VERSIONS = 2  # of each window in a batch, so that the clean one is heard once for both


class Degradation:
    """Noise, gain and a gentle equaliser on log-mels in dB, drawn anew for each window.

    The noise is steady, or follows the window's loudness as the haze of a generator does. Powers
    add up in every mel band, which leaves out only the phase between music and noise.
    """

    def __init__(self, mels: int, seconds: float = 60.0) -> None:
        rng = np.random.default_rng(0)
        samples = round(seconds * clap_parts.SAMPLE_RATE)
        white = torch.from_numpy(rng.standard_normal(samples).astype(np.float32))
        self.white = 10 ** (clap_parts.ClapFrontEnd(mels)(white[None])[0, 0] / 10)  # (frames, mels)

    def __call__(self, log_mel: Tensor, rng: np.random.Generator) -> Tensor:
        """A degraded window of the same shape, (1, frames, mels)."""
        power = 10 ** (log_mel[0] / 10)
        frames, mels = power.shape
        first = rng.integers(0, len(self.white) - frames + 1)
        slope = np.linspace(1, 100, mels) ** -rng.uniform(*COLOURS)
        noise = self.white[first : first + frames] * torch.from_numpy(slope.astype(np.float32))
        if rng.random() < 0.5:
            loudness = power.mean(-1, keepdim=True)
            noise = noise * F.avg_pool1d(loudness.T, 21, stride=1, padding=10).T
        level = 10 ** (rng.uniform(*LEVELS) / 10)
        power = power + noise * (level * power.mean() / noise.mean().clamp(min=1e-20))
        curve = np.interp(
            np.linspace(0, POINTS - 1, mels),
            np.arange(POINTS),
            rng.uniform(-EQUALISER, EQUALISER, POINTS),
        ) + rng.uniform(-GAIN, GAIN)
        log_power = 10 * power.clamp(min=1e-10).log10() + torch.from_numpy(curve).float()
        return log_power.clamp(min=-100.0)[None]


class NoiseTraining(nn.Module):
    """Distance of degraded windows' embeddings from those of the clean ones, 1 - cosine.

    Only the audio tower and its projection learn; the statistics of its mel bands stay.
    """

    def __init__(self, clap: nn.Module) -> None:
        super().__init__()
        self.clap = clap
        for tower in (clap.text_model, clap.text_projection):
            tower.requires_grad_(False)

    def train(self, mode: bool = True) -> "NoiseTraining":
        super().train(mode)
        self.clap.audio_model.audio_encoder.batch_norm.eval()
        return self

    def forward(self, batch: Batch) -> tuple[Tensor, Metrics]:
        embeddings = clap_parts.embed_audio(self.clap, batch["log_mel"])
        cosine = (embeddings * batch["target"]).sum(-1).mean()
        return 1 - cosine, {"cosine": cosine.item()}


def train_clap_noise(workspace: Workspace) -> None:
    options, size = workspace.options("clap_noise"), workspace.config["clap"]["audio_config"]
    mels, degrade = ClapMels(size["num_mel_bins"]), Degradation(size["num_mel_bins"])
    teacher = workspace.clap(stage="clap").requires_grad_(False)

    @torch.no_grad()
    def embedded(windows: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return clap_parts.embed_audio(teacher, windows)

    def batch_of(songs: list[SongEntry], rng: np.random.Generator) -> Batch:
        windows = []
        for song in songs:
            steps = int((song.duration - clap_parts.WINDOW_SECONDS) / 2.5)
            windows.append(mels.window(song, 2.5 * rng.integers(0, max(0, steps) + 1)))
        clean = torch.stack(windows)
        degraded = [degrade(window, rng) for _ in range(VERSIONS) for window in windows]
        return {"log_mel": torch.stack(degraded), "target": embedded(clean).repeat(VERSIONS, 1)}

    def batch(step: int, rng: np.random.Generator) -> Batch:
        return batch_of([workspace.song(rng) for _ in range(options["batch_size"])], rng)

    rng = np.random.default_rng(0)
    songs = workspace.data.validation[:36]
    held_out = batch_of(songs, rng)
    clean = torch.stack([mels.window(song, 2.5) for song in songs])
    held_out_clean = {"log_mel": clean, "target": embedded(clean)}

    def validate(model: nn.Module) -> Metrics:
        device = device_of(model)
        loss, degraded = model(to_device(held_out, device))
        _, same = model(to_device(held_out_clean, device))
        return {"loss": loss.item(), "cosine": degraded["cosine"], "clean": same["cosine"]}

    student = copy.deepcopy(teacher).requires_grad_(True)
    workspace.run("clap_noise", NoiseTraining(student), batch, validate)
