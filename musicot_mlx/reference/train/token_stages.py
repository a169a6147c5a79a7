"""The stages that learn from codes: thought codebooks, language model, what stands beside it."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from musicot_mlx.reference.data import SongEntry
from musicot_mlx.reference.musicot import build_rvq
from musicot_mlx.reference.semantic_lm import SemanticLM, ThoughtBias
from musicot_mlx.reference.train.encoded import Encoded, encoded
from musicot_mlx.reference.train.warm_start import ON_THEIR_OWN
from musicot_mlx.reference.train.workspace import Workspace
from musicot_mlx.reference.trainer import Batch, Metrics, save_atomic
from musicot_mlx.tokens.beats import beat_features
from musicot_mlx.tokens.harmony import harmony_features
from musicot_mlx.tokens.tempo import TEMPO_TAGS, is_tempo


def train_rvq(workspace: Workspace) -> None:
    """Fit the codebooks on the CLAP embeddings of encoded songs: k-means start, EMA, dead codes
    replaced. A checkpoint's codebooks stay as they are, since its language model knows thoughts by
    them; where CLAP has gone on learning, they follow it from where they were.
    """
    options = workspace.options("rvq")
    if not workspace.process.is_main_process:
        return
    begun = workspace.start is not None and not workspace.has("rvq")
    if begun and not workspace.has("clap") and not workspace.has("clap_noise"):
        (workspace.out / "rvq").mkdir(parents=True, exist_ok=True)
        save_atomic({"ema": workspace.rvq().state_dict()}, workspace.out / "rvq" / "last.pt")
        return
    torch.manual_seed(0)
    embeddings, held_out = (
        torch.from_numpy(np.concatenate([song["clap"] for _, song in encoded(workspace, entries)]))
        for entries in (workspace.data.training, workspace.data.validation)
    )
    rvq = build_rvq(
        workspace.config["rvq"],
        kmeans_init=not begun,
        kmeans_iters=20,
        threshold_ema_dead_code=2,
        decay=0.95,
        sync_codebook=False,
    )
    if begun:
        rvq.load_state_dict(workspace.rvq().state_dict())
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
    (workspace.out / "rvq").mkdir(parents=True, exist_ok=True)
    keys = build_rvq(workspace.config["rvq"]).state_dict().keys()
    state = {k: v for k, v in rvq.state_dict().items() if k in keys}
    save_atomic({"ema": state}, workspace.out / "rvq" / "last.pt")


# --- semantic language model ----------------------------------------------------------------------


class SemanticLMTraining(nn.Module):
    """The language model with what its loss leaves out and how much a thought counts."""

    def __init__(self, lm: nn.Module, **options: float) -> None:
        super().__init__()
        self.lm, self.options = lm, options

    def forward(self, batch: Batch) -> tuple[Tensor, Metrics]:
        return self.lm.loss(batch, **self.options), {}


def semantic_lm_config(workspace: Workspace) -> dict[str, Any]:
    return {**workspace.config["semantic_lm"], "tags": workspace.data.tags()}


def train_semantic_lm(workspace: Workspace) -> None:
    options, config = workspace.options("semantic_lm"), semantic_lm_config(workspace)
    lm = SemanticLM({**config, **dict.fromkeys(ON_THEIR_OWN.values(), 0)})
    tokenizer = workspace.tokenizer()
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
    training = Encoded(workspace, workspace.data.training, text_share=share, growing=True)
    held_out = Encoded(workspace, workspace.data.validation, text_share=share)
    rng = np.random.default_rng(0)
    lengths = (context, context // 2, context // 4)
    checks = [collate([stretch(held_out, rng, length) for _ in range(8)]) for length in lengths]

    def batch(step: int, rng: np.random.Generator) -> Batch:
        """Items of one length, so that none is padded: batch_size of the longest, or as many as
        have as many tokens. All processes draw the same length, or one would wait for the other.
        """
        training.look()
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
    workspace.run("semantic_lm", model, batch, validate)


def train_tempo_head(workspace: Workspace) -> None:
    """Fit the tempo of a song by the CLAP vectors of its captions and its sound, a linear
    classifier over the tempo tags, and print how often it is right on held-out captions.

    A prompt that names no tempo takes it from here: without one there is no beat to play to. Where
    no song has a `bpm` nothing is fitted, and as no tag is a tempo then, nothing is taken.
    """
    options, config = workspace.options("tempo_head"), workspace.config["semantic_lm"]
    if not workspace.process.is_main_process or not config.get("tempo_head"):
        return

    def vectors(entries: list[SongEntry], *kinds: str) -> tuple[Tensor, Tensor]:
        """CLAP vectors (items, dim) of songs whose tempo is known, and its step."""
        blocks, steps = [np.zeros((0, config["clap_dim"]), dtype=np.float32)], []
        for entry, song in encoded(workspace, entries):
            tempo = next((TEMPO_TAGS.index(tag) for tag in entry.tags if is_tempo(tag)), None)
            for kind in kinds if tempo is not None else ():
                rows = song[kind].reshape(-1, config["clap_dim"])
                blocks.append(rows)
                steps += [tempo] * len(rows)
        return torch.from_numpy(np.concatenate(blocks)), torch.tensor(steps, dtype=torch.long)

    torch.manual_seed(0)
    clap, tempi = vectors(workspace.data.training, "text", "window_text", "clap")
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
        clap, tempi = vectors(workspace.data.validation, "text", "window_text")
        near = (head(clap).argmax(-1) - tempi).abs() <= 2  # steps of 4 %
    share = f"{near.float().mean():.2f} of held-out captions within 8 %"
    print(f"tempo head: {share if len(near) else 'no held-out song has a bpm'}", flush=True)
    (workspace.out / "tempo_head").mkdir(parents=True, exist_ok=True)
    save_atomic({"ema": head.state_dict()}, workspace.out / "tempo_head" / "last.pt")


def train_thought_bias(workspace: Workspace) -> None:
    """Fit p(audio token | thought) on the encoded songs, and print what it is worth on held-out
    ones: how much likelier, in nats, the thought of its segment makes a token.
    """
    options, config = workspace.options("thought_bias"), workspace.config["semantic_lm"]
    if not workspace.process.is_main_process or not config.get("thought_bias_rank"):
        return
    per_segment = round(config["thought_seconds"] * config["audio_frame_rate"])

    def segments(entries: list[SongEntry]) -> tuple[Tensor, Tensor]:
        """Thoughts (segments, levels) and the audio tokens (segments, frames) that they last."""
        thoughts, codes = [], []
        for _, song in Encoded(workspace, entries, text_share=0.0).songs:
            for window, thought in enumerate(song["thoughts"].T):
                first = round(2.5 * window * config["audio_frame_rate"])
                stretch = song["codes"][first : first + per_segment]
                if len(stretch) == per_segment:
                    thoughts.append(thought)
                    codes.append(stretch)
        return tuple(torch.from_numpy(np.stack(x)).long() for x in (thoughts, codes))

    torch.manual_seed(0)
    thoughts, codes = segments(workspace.data.training)
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
        thoughts, codes = segments(workspace.data.validation)
        gain = bias(thoughts).gather(1, codes).mean().item()
    print(f"thought bias: {gain:.3f} nats a held-out token", flush=True)
    (workspace.out / "thought_bias").mkdir(parents=True, exist_ok=True)
    save_atomic({"ema": bias.state_dict()}, workspace.out / "thought_bias" / "last.pt")
