"""The stages that learn from encoded songs: thought codebooks, language model, diffusion."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from musicot_mlx.atomic import write_text
from musicot_mlx.reference import clap as clap_parts
from musicot_mlx.reference.data import SongEntry
from musicot_mlx.reference.diffusion import HARMONY_DROPOUT, SemanticDiffusion
from musicot_mlx.reference.musicot import build_rvq
from musicot_mlx.reference.semantic_lm import SemanticLM, ThoughtBias
from musicot_mlx.reference.train.encode import encoded
from musicot_mlx.reference.train.start import ON_THEIR_OWN
from musicot_mlx.reference.train.studio import Studio, device_of
from musicot_mlx.reference.trainer import Batch, Metrics, save_atomic, to_device
from musicot_mlx.tokens.beats import beat_features
from musicot_mlx.tokens.harmony import harmony_features
from musicot_mlx.tokens.tempo import TEMPO_TAGS, is_tempo


def train_rvq(studio: Studio) -> None:
    """Fit the codebooks on the CLAP embeddings of encoded songs: k-means start, EMA, dead codes
    replaced. A checkpoint's codebooks stay as they are, since its language model knows thoughts by
    them; where CLAP has gone on learning, they follow it from where they were.
    """
    options = studio.options("rvq")
    if not studio.process.is_main_process:
        return
    begun = studio.start is not None and not studio.has("rvq")
    if begun and not studio.has("clap") and not studio.has("clap_noise"):
        (studio.out / "rvq").mkdir(parents=True, exist_ok=True)
        save_atomic({"ema": studio.rvq().state_dict()}, studio.out / "rvq" / "last.pt")
        return
    torch.manual_seed(0)
    embeddings, held_out = (
        torch.from_numpy(np.concatenate([song["clap"] for _, song in encoded(studio, entries)]))
        for entries in (studio.data.training, studio.data.validation)
    )
    rvq = build_rvq(
        studio.config["rvq"],
        kmeans_init=not begun,
        kmeans_iters=20,
        threshold_ema_dead_code=2,
        decay=0.95,
        sync_codebook=False,
    )
    if begun:
        rvq.load_state_dict(studio.rvq().state_dict())
    rvq.train()
    if not begun:
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
    """The language model with what its loss leaves out and how much a thought counts."""

    def __init__(self, lm: nn.Module, **options: float) -> None:
        super().__init__()
        self.lm, self.options = lm, options

    def forward(self, batch: Batch) -> tuple[Tensor, Metrics]:
        return self.lm.loss(batch, **self.options), {}


def semantic_lm_config(studio: Studio) -> dict[str, Any]:
    return {**studio.config["semantic_lm"], "tags": studio.data.tags()}


def train_semantic_lm(studio: Studio) -> None:
    options, config = studio.options("semantic_lm"), semantic_lm_config(studio)
    lm = SemanticLM({**config, **dict.fromkeys(ON_THEIR_OWN.values(), 0)})
    tokenizer = studio.tokenizer()
    rate = 2.5 * config["audio_frame_rate"]  # codes between two windows
    tag_ids = {tag: lm.vocabulary.tag_id(i) for i, tag in enumerate(config["tags"])}

    def lyrics_ids(text: str) -> list[int]:
        return lm.vocabulary.lyrics_ids(
            text, lambda t: tokenizer.encode(t, add_special_tokens=False).ids
        )

    context = int(config["context_seconds"] / 2.5)

    def length_of(rng: np.random.Generator) -> int:
        """How long the stretches of a batch are, in 2.5 s: 5 s up to the context, often all. Short
        ones are as likely as long ones by octaves: at their start thoughts are all there is.
        """
        whole = rng.random() < 0.25
        return context if whole else int(np.exp(rng.uniform(np.log(2), np.log(context + 1))))

    def beats_of(entry: SongEntry, frames: slice, rng: np.random.Generator) -> np.ndarray | None:
        """Where in the bar each frame lies, for most of the items whose bars are known."""
        harmonics = config.get("beat_harmonics", 0)
        if not harmonics or not entry.bpm or rng.random() >= 0.7:
            return None
        return beat_features(
            np.full(frames.stop - frames.start, entry.bpm),
            frame_rate=config["audio_frame_rate"],
            harmonics=harmonics,
            start=frames.start / config["audio_frame_rate"] - entry.first_bar,
        )

    def harmony_of(entry: SongEntry, frames: slice, rng: np.random.Generator) -> np.ndarray | None:
        """The chord of each frame, for most of the items whose chords are known."""
        if not config.get("harmony") or not entry.chords or rng.random() >= 0.8:
            return None
        frame_rate = config["audio_frame_rate"]
        return harmony_features(
            entry.chords,
            frames.stop - frames.start,
            frame_rate=frame_rate,
            start=frames.start / frame_rate,
        )

    def stretch(data: Encoded, rng: np.random.Generator, length: int) -> dict[str, Any]:
        """One item: a stretch of a song of so many 2.5 s, or as long as the song is."""
        entry, song = data.draw(rng)
        windows = song["clap"].shape[0]  # every 2.5 s, each 10 s long
        steps = 4 + windows - 1  # the song's length in 2.5 s
        length = min(length, steps)
        first = int(rng.integers(0, steps - length + 1))
        starts = np.minimum(np.arange(first, first + length, 4), windows - 1)
        near = min(first, windows - 1)  # a short stretch at the end lies in the last window
        last = max(near, min(first + length - 4, windows - 1))
        some = rng.random() < 0.7  # and a tempo nearly always: nothing else tells 96 from 104
        tags = [
            tag_ids[tag]
            for tag in entry.tags
            if rng.random() < (0.9 if is_tempo(tag) else 0.6 if some else 0.0)
        ]
        frames = slice(round(first * rate), round((first + length) * rate))
        return {
            "clap": data.prompt(song, near, last, rng),
            "tags": tags,
            "lyrics": lyrics_ids(entry.lyrics) if entry.lyrics else [],
            "thoughts": song["thoughts"][:, starts],
            "audio": song["codes"][frames],
            "beats": beats_of(entry, frames, rng),
            "harmony": harmony_of(entry, frames, rng),
        }

    def collate(items: list[dict[str, Any]]) -> Batch:
        batch: Batch = {k: [item[k] for item in items] for k in items[0]}
        batch["clap"] = torch.from_numpy(np.stack(batch["clap"]))
        return batch

    bare = float(options.get("thought_dropout", 0.0))
    share = options["text_condition_share"]
    training = Encoded(studio, studio.data.training, text_share=share)
    held_out = Encoded(studio, studio.data.validation, text_share=share)
    rng = np.random.default_rng(0)
    lengths = (context, context // 2, context // 4)
    checks = [collate([stretch(held_out, rng, length) for _ in range(8)]) for length in lengths]

    def batch(step: int, rng: np.random.Generator) -> Batch:
        """Items of one length, so that none is padded: batch_size of the longest, or as many as
        have as many tokens. All processes draw the same length, or one would wait for the other.
        """
        length = length_of(np.random.default_rng(step))
        size = max(1, round(options["batch_size"] * context / length))
        return collate([stretch(training, rng, length) for _ in range(size)])

    def validate(model: nn.Module) -> Metrics:
        results = [model.lm.losses(b, thoughts=bare < 1) for b in checks]
        means = {k: float(np.mean([r[k] for r in results])) for k in results[0]}
        return {"loss": means["audio"], **means}

    model = SemanticLMTraining(
        lm,
        dropout=options["condition_dropout"],
        thought_weight=float(options.get("thought_weight", 1.0)),
        thought_dropout=bare,
        history_dropout=float(options.get("history_dropout", 0.0)),
    )
    studio.run("semantic_lm", model, batch, validate)


def train_tempo_head(studio: Studio) -> None:
    """Fit the tempo of a song by the CLAP vectors of its captions and its sound, a linear
    classifier over the tempo tags, and print how often it is right on held-out captions.

    A prompt that names no tempo takes it from here: without one there is no beat to play to. Where
    no song has a `bpm` nothing is fitted, and as no tag is a tempo then, nothing is taken.
    """
    options, config = studio.options("tempo_head"), studio.config["semantic_lm"]
    if not studio.process.is_main_process or not config.get("tempo_head"):
        return

    def vectors(entries: list[SongEntry], *kinds: str) -> tuple[Tensor, Tensor]:
        """CLAP vectors (items, dim) of songs whose tempo is known, and its step."""
        found, steps = [np.zeros((0, config["clap_dim"]), dtype=np.float32)], []
        for entry, song in encoded(studio, entries):
            tempo = next((TEMPO_TAGS.index(tag) for tag in entry.tags if is_tempo(tag)), None)
            for kind in kinds if tempo is not None else ():
                rows = song[kind].reshape(-1, config["clap_dim"])
                found.append(rows)
                steps += [tempo] * len(rows)
        return torch.from_numpy(np.concatenate(found)), torch.tensor(steps, dtype=torch.long)

    torch.manual_seed(0)
    clap, tempi = vectors(studio.data.training, "text", "window_text", "clap")
    head = nn.Linear(config["clap_dim"], len(TEMPO_TAGS))
    rate = float(options["learning_rate"])
    optimizer = torch.optim.AdamW(head.parameters(), rate)
    steps = options["steps"] if len(clap) else 0
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate * (1 - step / steps)
        picks = torch.randint(len(clap), (options["batch_size"],))
        loss = nn.functional.cross_entropy(head(clap[picks]), tempi[picks])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        clap, tempi = vectors(studio.data.validation, "text", "window_text")
        near = (head(clap).argmax(-1) - tempi).abs() <= 2  # steps of 4 %
    share = f"{near.float().mean():.2f} of held-out captions within 8 %"
    print(f"tempo head: {share if len(near) else 'no held-out song has a bpm'}", flush=True)
    (studio.out / "tempo_head").mkdir(parents=True, exist_ok=True)
    save_atomic({"ema": head.state_dict()}, studio.out / "tempo_head" / "last.pt")


def train_thought_bias(studio: Studio) -> None:
    """Fit p(audio token | thought) on the encoded songs, and print what it is worth on held-out
    ones: how much likelier, in nats, the thought of its segment makes a token.
    """
    options, config = studio.options("thought_bias"), studio.config["semantic_lm"]
    if not studio.process.is_main_process or not config.get("thought_bias_rank"):
        return
    per_segment = round(config["thought_seconds"] * config["audio_frame_rate"])

    def segments(entries: list[SongEntry]) -> tuple[Tensor, Tensor]:
        """Thoughts (segments, levels) and the audio tokens (segments, frames) that they last."""
        thoughts, codes = [], []
        for _, song in Encoded(studio, entries, text_share=0.0).songs:
            for window, thought in enumerate(song["thoughts"].T):
                first = round(2.5 * window * config["audio_frame_rate"])
                stretch = song["codes"][first : first + per_segment]
                if len(stretch) == per_segment:
                    thoughts.append(thought)
                    codes.append(stretch)
        return tuple(torch.from_numpy(np.stack(x)).long() for x in (thoughts, codes))

    torch.manual_seed(0)
    thoughts, codes = segments(studio.data.training)
    bias = ThoughtBias(
        config["thought_codebooks"],
        config["thought_codebook_size"],
        config["audio_codebook_size"],
        config["thought_bias_rank"],
    )
    counts = torch.bincount(codes.flatten(), minlength=config["audio_codebook_size"]) + 0.5
    with torch.no_grad():
        bias.head.bias.copy_((counts / counts.sum()).log())
        bias.embed.weight.mul_(0.1)
    bias.head.bias.requires_grad_(False)
    rate = float(options["learning_rate"])
    optimizer = torch.optim.AdamW([p for p in bias.parameters() if p.requires_grad], rate)
    for step in range(options["steps"]):
        optimizer.param_groups[0]["lr"] = rate * (1 - step / options["steps"])
        picks = torch.randint(len(thoughts), (options["batch_size"],))
        frames = torch.randint(per_segment, (len(picks), 16))  # a few of each segment's
        logp = torch.log_softmax(bias.logits(thoughts[picks]), -1)
        loss = -logp.gather(1, codes[picks[:, None], frames]).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        thoughts, codes = segments(studio.data.validation)
        gain = bias(thoughts).gather(1, codes).mean().item()
    print(f"thought bias: {gain:.3f} nats a held-out token", flush=True)
    (studio.out / "thought_bias").mkdir(parents=True, exist_ok=True)
    save_atomic({"ema": bias.state_dict()}, studio.out / "thought_bias" / "last.pt")


# --- diffusion ------------------------------------------------------------------------------------


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


def diffusion_config(studio: Studio) -> dict[str, Any]:
    """The diffusion section with the scale that gives training latents unit variance."""
    file = studio.out / "diffusion" / "latent_scale.txt"
    if not file.is_file() and studio.start is not None:  # weights know latents at their own scale
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, f"{studio.start.config['diffusion']['latent_scale']:.6f}")
    elif not file.is_file():
        songs = encoded(studio, studio.data.training[:200], latents=1)
        latents = np.concatenate([song["latents"] for _, song in songs]).astype(np.float32)
        spread = float(latents.std())
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, f"{1 / spread:.6f}")
    return {**studio.config["diffusion"], "latent_scale": float(file.read_text())}


@dataclass(frozen=True)
class Windows:
    """Where the diffusion's batches come from, and what it is validated on."""

    batch: Callable[[int, np.random.Generator], Batch]
    validate: Callable[[nn.Module], Metrics]


def diffusion_windows(studio: Studio, config: dict[str, Any], stage: str) -> Windows:
    """Windows of the encoded songs, with the options of `stage`."""
    options = studio.options(stage)
    bare = float(options.get("thought_dropout", 0.0))
    rvq = studio.rvq()
    seconds = config["window_seconds"]
    time = round(seconds * config["latent_rate"])
    per_code = config["latent_rate"] / config["audio_frame_rate"]  # latents
    frames = int(np.ceil(time / per_code)) + 1  # codes that a window meets, one at either end cut

    def window(data: Encoded, rng: np.random.Generator) -> dict[str, Any]:
        """One item: a window of latents that starts on a 2.5 s step, with its codes, its thoughts
        and a prompt.
        """
        entry, song = data.draw(rng)
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
        if bare and rng.random() < bare:  # without thoughts the prompt stands in their place
            thoughts = torch.from_numpy(prompt)[None].expand_as(thoughts)
        item = {
            "latents": torch.from_numpy(
                song["latents"][latent : latent + time].astype(np.float32)
            ).T,
            "codes": torch.from_numpy(np.pad(codes, (0, frames - len(codes)), mode="edge")),
            "frame_offset": torch.tensor(latent - code * per_code, dtype=torch.float32),
            "clap": torch.cat([torch.from_numpy(prompt)[None], thoughts]),
            "start_seconds": torch.tensor(before, dtype=torch.float32),
            "total_seconds": torch.tensor(before + seconds + after, dtype=torch.float32),
        }
        if config.get("harmony"):
            rate = config["latent_rate"]
            chords = harmony_features(entry.chords, time, frame_rate=rate, start=latent / rate)
            item["harmony"] = torch.from_numpy(chords)
        return item

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

    return Windows(batch, validate)


def train_diffusion(studio: Studio) -> None:
    config = diffusion_config(studio)
    windows = diffusion_windows(studio, config, "diffusion")
    model = DiffusionTraining(SemanticDiffusion(**config))
    studio.run("diffusion", model, windows.batch, windows.validate)


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
        given = {k: v for k, v in batch.items() if k != "latents"}
        if "harmony" in given:
            told = torch.rand(size, device=x0.device) >= HARMONY_DROPOUT
            given["harmony"] = given["harmony"] * told[:, None, None]
        plain = x0.device.type == "cpu"
        with sdpa_kernel(SDPBackend.MATH) if plain else nullcontext():
            with torch.no_grad():
                base = teacher(x_t, t, **given | teacher.without(given)).float()
                target = base + self.scale * (teacher(x_t, t, **given).float() - base)
            velocity = self.diffusion(x_t, t, **given).float()
        return (velocity - target).square().mean(), {}


def train_diffusion_guided(studio: Studio) -> None:
    """Make of the diffusion a student that needs no second row (`sampling.diffusion_guidance`)."""
    config = diffusion_config(studio)
    windows = diffusion_windows(studio, config, "diffusion_guided")
    state = studio.weights("diffusion", "diffusion.")
    student, teacher = SemanticDiffusion(**config), SemanticDiffusion(**config)
    student.load_state_dict(state)
    teacher.load_state_dict(state)
    scale = float(studio.config["sampling"]["diffusion_guidance"])
    model = GuidedTraining(student, teacher, scale)
    studio.run("diffusion_guided", model, windows.batch, windows.validate)
