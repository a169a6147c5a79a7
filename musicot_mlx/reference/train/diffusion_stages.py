"""The stages of the diffusion: trained on windows of encoded songs, then guided by itself.

Encoded songs lie on the device that trains, and a batch of windows is gathered there in one go: on
a GPU a step takes less time than building its batch row by row.
"""

import math
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from musicot_mlx.atomic import write_text
from musicot_mlx.reference import clap as clap_parts
from musicot_mlx.reference.diffusion import HARMONY_DROPOUT, SemanticDiffusion
from musicot_mlx.reference.train.encoded import Encoded, Song, encoded
from musicot_mlx.reference.train.workspace import Workspace, device_of
from musicot_mlx.reference.trainer import Batch, Metrics, to_device
from musicot_mlx.tokens.harmony import harmony_features

HOP = 2.5  # seconds between two windows of CLAP
NEAR = 8  # windows about a stretch that its prompt may be of


class DiffusionTraining(nn.Module):
    def __init__(self, diffusion: nn.Module) -> None:
        super().__init__()
        self.diffusion = diffusion
        torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)  # which a CPU heeds as well

    def forward(self, batch: Batch) -> tuple[Tensor, Metrics]:
        # a CPU's fused attention is slower than matrix products at a window's few hundred frames
        plain = batch["latents"].device.type == "cpu"
        with sdpa_kernel(SDPBackend.MATH) if plain else nullcontext():
            return self.diffusion.loss(**batch), {}


def diffusion_config(workspace: Workspace) -> dict[str, Any]:
    """The diffusion section with the scale that gives training latents unit variance."""
    file = workspace.out / "diffusion" / "latent_scale.txt"
    if (
        not file.is_file() and workspace.start is not None
    ):  # weights know latents at their own scale
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, f"{workspace.start.config['diffusion']['latent_scale']:.6f}")
    elif not file.is_file():
        songs = encoded(workspace, workspace.data.training[:200], latents=1)
        latents = np.concatenate([song["latents"] for _, song in songs]).astype(np.float32)
        spread = float(latents.std())
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, f"{1 / spread:.6f}")
    return {**workspace.config["diffusion"], "latent_scale": float(file.read_text())}


class WindowPool:
    """Encoded songs on a device, joined end to end, and windows of them.

    `draw` gathers a batch; `add` takes in more songs. A song is told apart by its row of `places`:
    where its latents, codes, CLAP windows and captions begin, and how many there are.
    """

    def __init__(
        self, config: dict[str, Any], rvq: nn.Module, *, text_share: float, bare: float, device: Any
    ) -> None:
        self.config, self.rvq, self.device = config, rvq, torch.device(device)
        self.text_share, self.bare = text_share, bare
        self.seconds = config["window_seconds"]
        self.time = round(self.seconds * config["latent_rate"])  # latents of a window
        self.per_code = config["latent_rate"] / config["audio_frame_rate"]  # latents
        # codes that a window meets, one at either end cut
        self.frames = math.ceil(self.time / self.per_code) + 1
        self.parts: dict[str, Tensor] = {}
        self.places = torch.zeros(0, 4, 2, dtype=torch.long)  # (songs, kinds, first and count)

    def __len__(self) -> int:
        return len(self.places)

    def add(self, songs: list[Song]) -> None:
        """Put songs on the device."""
        if not songs:
            return
        added: dict[str, list[Tensor]] = {}
        kinds = ("latents", "codes", "clap", "text")
        begun = [len(self.parts[kind]) if self.parts else 0 for kind in kinds]
        places = []
        for entry, song in songs:
            rate = self.config["latent_rate"]
            thoughts = self.rvq.get_output_from_indices(torch.from_numpy(song["thoughts"].T)[None])
            arrays = {
                "latents": torch.from_numpy(np.asarray(song["latents"])),
                "codes": torch.from_numpy(np.asarray(song["codes"], np.int32)),
                "clap": torch.from_numpy(song["clap"]).float(),
                "text": torch.from_numpy(song["text"]).float(),
                "window_text": torch.from_numpy(song["window_text"]).float(),
                "thoughts": nn.functional.normalize(thoughts[0], dim=-1),
            }
            if self.config.get("harmony"):
                harmony = harmony_features(entry.chords, len(song["latents"]), frame_rate=rate)
                arrays["harmony"] = torch.from_numpy(harmony).to(torch.uint8)
            for name, value in arrays.items():
                added.setdefault(name, []).append(value)
            counts = [len(arrays[kind]) for kind in kinds]
            places.append(list(zip(begun, counts, strict=True)))
            begun = [first + count for first, count in zip(begun, counts, strict=True)]
        for name, values in added.items():
            new = torch.cat(values).to(self.device)
            old = self.parts.get(name)
            self.parts[name] = new if old is None else torch.cat([old, new])
        more = torch.tensor(places, dtype=torch.long)
        self.places = torch.cat([self.places.cpu(), more]).to(self.device)

    def draw(self, size: int, generator: torch.Generator) -> Batch:
        """A batch of windows that start on a step of 2.5 s, each with its codes, thoughts, chords
        and a prompt.
        """
        parts, rate, device = self.parts, self.config["latent_rate"], self.device

        def uniform() -> Tensor:
            return torch.rand(size, generator=generator, device=device, dtype=torch.float64)

        def below(count: Tensor) -> Tensor:
            """Whole numbers from 0 to count - 1, (size,)."""
            return (uniform() * count).long().minimum(count - 1)

        song = below(torch.full((size,), len(self.places), device=device))
        at = self.places[song]  # (size, kinds, 2)
        begin, count = at[..., 0].unbind(1), at[..., 1].unbind(1)
        latents, codes, windows, texts = count
        duration = latents / rate
        first = below(((duration - self.seconds) / HOP).long() + 1)
        start = (first * HOP * rate).round().long().minimum(latents - self.time)
        code = (start / self.per_code).long()
        span = torch.arange(self.time, device=device)
        inside = begin[0][:, None] + start[:, None] + span  # (size, time)
        code_places = code[:, None] + torch.arange(self.frames, device=device)
        code_places = begin[1][:, None] + code_places.minimum(
            codes[:, None] - 1
        )  # the last one goes on

        # thoughts lie on the song's 10 s grid, which a window meets at any offset: two of them, or
        # one twice where the window lies inside it
        grid = below(torch.full_like(first, 4))
        meets = torch.where(HOP * grid + self.seconds > clap_parts.WINDOW_SECONDS, 4, 0)
        near = torch.stack([first - grid, first - grid + meets], dim=1)
        near = near.clamp(min=0).minimum(windows[:, None] - 1) + begin[2][:, None]
        # the song this window is of: anything from the window alone to the whole recording
        before = torch.where(uniform() < 0.7, uniform(), 1.0) * first * HOP
        rest = duration - self.seconds - first * HOP
        after = torch.where(uniform() < 0.7, uniform(), 1.0) * rest
        prompt = self._prompts(first, windows, texts, begin, below, uniform)
        thoughts = parts["thoughts"][near]  # (size, 2, dim)
        if self.bare:  # without thoughts the prompt stands in their place
            without = (uniform() < self.bare)[:, None, None]
            thoughts = torch.where(without, prompt[:, None], thoughts)
        batch = {
            "latents": parts["latents"][inside].float().transpose(1, 2),
            "codes": parts["codes"][code_places].long(),
            "frame_offset": (start - code * self.per_code).float(),
            "clap": torch.cat([prompt[:, None], thoughts], dim=1),
            "start_seconds": before.float(),
            "total_seconds": (before + self.seconds + after).float(),
        }
        if "harmony" in parts:
            batch["harmony"] = parts["harmony"][inside].float()
        return batch

    def _prompts(
        self, first: Tensor, windows: Tensor, texts: Tensor, begin: Any, below: Any, uniform: Any
    ) -> Tensor:
        """As Encoded.prompt: CLAP of a window near by, or of one of the captions, (size, dim)."""
        middle = first.minimum(windows - 1)
        low, high = (middle - NEAR).clamp(min=0), (middle + NEAR).minimum(windows - 1)
        window = begin[2] + low + below(high - low + 1)
        captions = self.parts["text"][begin[3] + below(texts)]
        wordings = self.parts["window_text"]
        wording = wordings[window, below(torch.full_like(first, wordings.shape[1]))]
        words = torch.where((uniform() < 0.5)[:, None], captions, wording)
        by_text = (uniform() < self.text_share)[:, None]
        return torch.where(by_text, words, self.parts["clap"][window])


class Windows:
    """Batches of windows for a stage, and what it is validated on."""

    def __init__(self, workspace: Workspace, config: dict[str, Any], stage: str) -> None:
        options = workspace.options(stage)
        self.size, device = options["batch_size"], workspace.device
        rate = {"text_share": options["text_condition_share"]}
        bare = float(options.get("thought_dropout", 0.0))
        time = round(config["window_seconds"] * config["latent_rate"])
        data = workspace.data
        self.songs = Encoded(workspace, data.training, latents=time, growing=True, **rate)
        rvq = self.songs.rvq
        self.pool = WindowPool(config, rvq, bare=bare, device=device, **rate)
        self.pool.add(self.songs.songs)
        held_out = WindowPool(config, rvq, bare=bare, device=device, **rate)
        held_out.add(Encoded(workspace, data.validation, latents=time, **rate).songs)
        generator = torch.Generator(device).manual_seed(0)
        self.checks = [held_out.draw(16, generator) for _ in range(3)]

    def batch(self, step: int, rng: np.random.Generator) -> Batch:
        self.pool.add(self.songs.look())
        generator = torch.Generator(self.pool.device).manual_seed(int(rng.integers(2**63)))
        return self.pool.draw(self.size, generator)

    def validate(self, model: nn.Module) -> Metrics:
        torch.manual_seed(0)
        losses = [model(to_device(b, device_of(model)))[0].item() for b in self.checks]
        return {"loss": float(np.mean(losses))}


def train_diffusion(workspace: Workspace) -> None:
    config = diffusion_config(workspace)
    windows = Windows(workspace, config, "diffusion")
    model = DiffusionTraining(SemanticDiffusion(**config))
    workspace.run("diffusion", model, windows.batch, windows.validate)


class GuidedTraining(nn.Module):
    """A student whose one row gives the velocity that guidance takes two rows of its teacher for
    (guided distillation, arXiv 2210.03142, for one scale).

    Half of the times are drawn logit-normal as in training, half uniform: a sampler's first and
    last steps lie where the former are rare.
    """

    def __init__(
        self, student: SemanticDiffusion, teacher: SemanticDiffusion, scale: float
    ) -> None:
        super().__init__()
        self.diffusion, self.scale = student, scale
        self.teacher = [teacher.eval().requires_grad_(False)]  # in a list: no part of the weights

    def forward(self, batch: Batch) -> tuple[Tensor, Metrics]:
        teacher, latents = self.teacher[0].to(batch["latents"].device), batch["latents"]
        x0 = latents.float() * self.diffusion.latent_scale
        noise, size = torch.randn_like(x0), len(x0)
        normal = torch.randn(size, device=x0.device).sigmoid()
        uniform = torch.rand(size, device=x0.device)
        t = torch.where(torch.rand(size, device=x0.device) < 0.5, normal, uniform)
        alpha, sigma = self.diffusion.signal_and_noise(t)
        x_t = alpha * x0 + sigma * noise
        conditions = {k: v for k, v in batch.items() if k != "latents"}
        if "harmony" in conditions:
            with_harmony = torch.rand(size, device=x0.device) >= HARMONY_DROPOUT
            conditions["harmony"] = conditions["harmony"] * with_harmony[:, None, None]
        plain = x0.device.type == "cpu"
        with sdpa_kernel(SDPBackend.MATH) if plain else nullcontext():
            with torch.no_grad():
                base = teacher(x_t, t, **conditions | teacher.without(conditions)).float()
                target = base + self.scale * (teacher(x_t, t, **conditions).float() - base)
            velocity = self.diffusion(x_t, t, **conditions).float()
        return (velocity - target).square().mean(), {}


def train_diffusion_guided(workspace: Workspace) -> None:
    """Make of the diffusion a student that needs no second row (`sampling.diffusion_guidance`)."""
    config = diffusion_config(workspace)
    windows = Windows(workspace, config, "diffusion_guided")
    state = workspace.weights("diffusion", "diffusion.")
    student, teacher = SemanticDiffusion(**config), SemanticDiffusion(**config)
    student.load_state_dict(state)
    teacher.load_state_dict(state)
    scale = float(workspace.config["sampling"]["diffusion_guidance"])
    model = GuidedTraining(student, teacher, scale)
    workspace.run("diffusion_guided", model, windows.batch, windows.validate)
