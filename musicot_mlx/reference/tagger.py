"""The instrument tagger in PyTorch, and its training on the band's songs.

    python -m musicot_mlx.reference.tagger --data FOLDER --out FOLDER

It hears 10 s and says for each family of instruments how likely it plays. It judges what a model
generates, so it shares nothing with CLAP: no weights, no captions, no front end; what it learns
from is the score, which knows who plays in each window. The songs held out are those that the other
stages hold out. Resumes where it stopped; the twin that MLX runs is `models/tagger.py`, whose
folder (16-bit weights, batch norms folded in) this writes.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from scipy.stats import rankdata
from torch import Tensor, nn
from transformers.audio_utils import mel_filter_bank

from musicot_mlx.atomic import atomic_path, write_text
from musicot_mlx.errors import MusicotError
from musicot_mlx.reference.band.tables import FAMILIES, INSTRUMENTS
from musicot_mlx.reference.data import SongData, read_window
from musicot_mlx.reference.trainer import Batch, Metrics, Trainer, TrainingConfig, load_weights
from musicot_mlx.texts import read_json

WINDOW = 10.0  # seconds
CONFIG = {
    "model_type": "tagger",
    "labels": list(FAMILIES),
    "sample_rate": 44100,
    "n_fft": 2048,
    "hop_length": 1024,
    "num_mel_bins": 64,
    "min_frequency": 40.0,
    "max_frequency": 11000.0,
    "window_seconds": WINDOW,
    "channels": [16, 32, 48, 64, 64],
    "hidden": 64,
    "quietest": -14.0,
}


class LogMel(nn.Module):
    """Natural log of mel powers: waveforms (batch, samples) to (batch, frames, mels)."""

    def __init__(self, config: dict) -> None:
        super().__init__()
        self.n_fft, self.hop_length = config["n_fft"], config["hop_length"]
        filters = mel_filter_bank(
            self.n_fft // 2 + 1,
            config["num_mel_bins"],
            config["min_frequency"],
            config["max_frequency"],
            config["sample_rate"],
            norm="slaney",
            mel_scale="slaney",
        )
        self.register_buffer("filters", torch.from_numpy(filters).float(), persistent=False)
        self.register_buffer("window", torch.hann_window(self.n_fft), persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        spectrum = torch.stft(
            waveform, self.n_fft, self.hop_length, window=self.window, return_complex=True
        )
        power = torch.view_as_real(spectrum).square().sum(-1).transpose(1, 2)
        return (power @ self.filters).clamp(min=1e-10).log()


class Tagger(nn.Module):
    """Log-mels (batch, frames, mels) to logits (batch, labels).

    Powers count relative to the window's mean, so that loudness says nothing. Five convolutions,
    then mean and maximum over time: an instrument that enters late still counts.
    """

    def __init__(self, config: dict) -> None:
        super().__init__()
        self.quietest = config["quietest"]
        widths = [1, *config["channels"]]
        self.convs = nn.ModuleList()
        self.norms = nn.ModuleList()
        for index, (before, after) in enumerate(zip(widths, widths[1:], strict=False)):
            size, stride = (5, 2) if index == 0 else (3, 1)
            conv = nn.Conv2d(before, after, size, stride, size // 2, bias=False)
            self.convs.append(conv)
            self.norms.append(nn.BatchNorm2d(after))
        # strides of the first convolution and of the pooling after the others but the last
        height = config["num_mel_bins"] // 2 ** (len(widths) - 2)
        self.hidden = nn.Linear(2 * widths[-1] * height, config["hidden"])
        self.head = nn.Linear(config["hidden"], len(config["labels"]))
        self.dropout = nn.Dropout(0.3)

    def forward(self, log_mel: Tensor) -> Tensor:
        level = torch.logsumexp(log_mel, dim=(1, 2), keepdim=True)
        level = level - np.log(log_mel.shape[1] * log_mel.shape[2])
        x = (log_mel - level).clamp(min=self.quietest)[:, None] / 4 + 1
        last = len(self.convs) - 1
        for index, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = F.relu(norm(conv(x)))  # (batch, channels, frames, mels)
            if 0 < index < last:
                x = F.avg_pool2d(x, 2)
        x = x.permute(0, 2, 3, 1).flatten(2)  # (batch, frames, mels * channels)
        x = torch.cat((x.mean(1), x.amax(1)), dim=1)
        return self.head(F.relu(self.hidden(self.dropout(x))))

    @torch.no_grad()
    def folded(self) -> dict[str, Tensor]:
        """Weights for MLX: norms folded into convolutions, channels last, float16."""
        state: dict[str, Tensor] = {}
        for index, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            gain = norm.weight / (norm.running_var + norm.eps).sqrt()
            weight = conv.weight * gain[:, None, None, None]
            state[f"convs.{index}.weight"] = weight.permute(0, 2, 3, 1)
            state[f"convs.{index}.bias"] = norm.bias - norm.running_mean * gain
        for name, layer in (("hidden", self.hidden), ("head", self.head)):
            state |= {f"{name}.weight": layer.weight, f"{name}.bias": layer.bias}
        return {key: value.half().contiguous() for key, value in state.items()}


class TaggerTraining(nn.Module):
    """Binary cross-entropy, on log-mels that are filtered, covered by noise and cut into.

    A tagger for generated music must not lean on what a codec changes: the balance of the bands and
    what lies below the noise.
    """

    def __init__(self, tagger: Tagger) -> None:
        super().__init__()
        self.tagger = tagger

    def forward(self, batch: Batch) -> tuple[Tensor, Metrics]:
        log_mel = self._disturbed(batch["log_mel"]) if self.training else batch["log_mel"]
        logits = self.tagger(log_mel).float()
        loss = F.binary_cross_entropy_with_logits(logits, batch["playing"])
        return loss, {"accuracy": ((logits > 0) == (batch["playing"] > 0.5)).float().mean().item()}

    def _disturbed(self, log_mel: Tensor) -> Tensor:
        batch, frames, mels = log_mel.shape
        curve = torch.randn(batch, 1, 5)
        curve = F.interpolate(curve, mels, mode="linear", align_corners=True)
        x = log_mel + 0.8 * curve
        level = x.amax(dim=(1, 2), keepdim=True) - 6 - 8 * torch.rand(batch, 1, 1)
        noise = level + 0.5 * torch.randn_like(x) + torch.randn(batch, 1, mels)
        x = torch.where(torch.rand(batch, 1, 1) < 0.6, torch.logaddexp(x, noise), x)
        first = torch.rand(batch, 1, 1) * mels
        band = torch.arange(mels)[None, None]
        cut = (band >= first) & (band < first + 6 * torch.rand(batch, 1, 1))
        return torch.where(cut, x.amin(dim=(1, 2), keepdim=True), x)


class Songs:
    """Log-mels of whole songs, kept on disk as float16, and who plays in each of their windows."""

    def __init__(self, data: SongData, folder: Path) -> None:
        records = read_json(data.metadata)
        self.windows = [_playing(record) for record in records]
        self.frames = int(WINDOW * CONFIG["sample_rate"]) // CONFIG["hop_length"] + 1
        file = folder / "log_mels.npz"
        if not file.is_file():
            mels = {entry.path.stem: _log_mel(entry) for entry in data.entries}
            with atomic_path(file) as temporary:
                np.savez(temporary, **mels)
        with np.load(file) as arrays:
            if set(arrays.files) != {entry.path.stem for entry in data.entries}:
                raise MusicotError(f"{file} is of other songs; move it away")
            self.mels = [arrays[entry.path.stem] for entry in data.entries]
        self.held_out = list(range(0, len(records), 20))  # as SongData splits
        self.training = [i for i in range(len(records)) if i % 20]

    def batch(self, windows: list[tuple[int, int]]) -> Batch:
        """Of (song, window) pairs: log_mel (batch, frames, mels), playing (batch, labels)."""
        mels, playing = [], []
        for song, window in windows:
            start, families = self.windows[song][window]
            first = round(start * CONFIG["sample_rate"] / CONFIG["hop_length"])
            first = min(first, len(self.mels[song]) - self.frames)
            mels.append(self.mels[song][first : first + self.frames].astype(np.float32))
            playing.append([float(name in families) for name in CONFIG["labels"]])
        return {
            "log_mel": torch.from_numpy(np.stack(mels)),
            "playing": torch.tensor(playing),
        }


def _playing(record: dict) -> list[tuple[float, set[str]]]:
    """(start, families) of each window of a song of the band."""
    if not record.get("windows"):
        raise MusicotError(f"{record.get('audio_file')} has no windows; the band writes them")
    return [
        (window["start"], {INSTRUMENTS[name].family for name in window["instruments"]})
        for window in record["windows"]
    ]


def _log_mel(entry: object) -> np.ndarray:
    front_end = LogMel(CONFIG)
    audio = read_window(entry.path, 0, entry.duration, sample_rate=CONFIG["sample_rate"])
    return front_end(torch.from_numpy(audio.T))[0].numpy().astype(np.float16)


def area_under_curve(scores: np.ndarray, truth: np.ndarray) -> float:
    """Chance (0-1) that a positive scores above a negative; NaN without both kinds."""
    positive = truth > 0.5
    count, others = int(positive.sum()), int((~positive).sum())
    if not count or not others:
        return float("nan")
    ranks = rankdata(scores)[positive].sum()
    return float((ranks - count * (count + 1) / 2) / (count * others))


def main(argv: list[str] | None = None) -> int:
    """Train, then write `out/tagger/`, an MLX folder; bad input is a line on stderr."""
    parser = argparse.ArgumentParser(prog="python -m musicot_mlx.reference.tagger")
    parser.add_argument("--data", type=Path, required=True, help="songs of the band")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints and logs")
    parser.add_argument("--steps", type=int, default=1200, help="(default: 1200)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        train(SongData(args.data), args.out, args.steps)
    except MusicotError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def train(data: SongData, out: Path, steps: int) -> None:
    """Train for `steps`, report held-out figures, write the MLX folder."""
    songs = Songs(data, out)
    held_out = [(s, w) for s in songs.held_out for w in range(0, len(songs.windows[s]), 4)]
    checks = [songs.batch(held_out[i : i + 64]) for i in range(0, len(held_out), 64)]

    def batch(step: int, rng: np.random.Generator) -> Batch:
        drawn = rng.choice(songs.training, 32)
        return songs.batch([(s, rng.integers(len(songs.windows[s]))) for s in drawn])

    @torch.no_grad()
    def validate(model: nn.Module) -> Metrics:
        scores = torch.cat([model.tagger(b["log_mel"]) for b in checks]).float().numpy()
        truth = torch.cat([b["playing"] for b in checks]).numpy()
        loss = F.binary_cross_entropy_with_logits(torch.tensor(scores), torch.tensor(truth))
        areas = {
            f"auc_{name}": area_under_curve(scores[:, i], truth[:, i])
            for i, name in enumerate(CONFIG["labels"])
        }
        known = [area for area in areas.values() if area == area]
        return {"loss": loss.item(), "auc": float(np.mean(known)), **areas}

    config = TrainingConfig(
        steps=steps,
        batch_size=32,
        learning_rate=2e-3,
        weight_decay=0.02,
        ema_decay=0.995,
        precision="no",
        checkpoint_minutes=1.0,
        validate_minutes=3.0,
    )
    model = TaggerTraining(Tagger(CONFIG))
    Trainer(model, batch, validate, config, out).run()
    model.load_state_dict(load_weights(out))
    write_folder(model.tagger.eval(), out / "tagger", validate(model.eval()))


def write_folder(tagger: Tagger, folder: Path, held_out: Metrics) -> None:
    """Write the tagger as MLX reads it, with its held-out figures in config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    state = tagger.folded()
    save_file(state, folder / "model.safetensors", metadata={"format": "mlx"})
    figures = {name: round(value, 4) for name, value in held_out.items()}
    config = {**CONFIG, "held_out": figures}
    write_text(folder / "config.json", json.dumps(config, indent=2, sort_keys=True) + "\n")
    size = sum(value.nbytes for value in state.values())
    index = {
        "metadata": {"total_size": size},
        "weight_map": dict.fromkeys(sorted(state), "model.safetensors"),
    }
    write_text(folder / "model.safetensors.index.json", json.dumps(index, indent=2) + "\n")
    print(f"wrote {folder}, {size / 1000:.0f} kB", flush=True)


if __name__ == "__main__":
    sys.exit(main())
