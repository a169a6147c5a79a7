r"""MuMu-LLaMA's training shown at 5 M parameters: what a twin answers of songs it never heard.

    python -m musicot_mlx.reference.band songs --songs 400 --duration 30
    python -m musicot_mlx.reference.band held --songs 160 --seed 100000 --duration 30
    python benchmarks/mumu_llama.py songs held --work runs/mumu \
        --json benchmarks/results/mumu-llama.json

Everything begins at random but the first layer of the twin's MERT, which is filters at semitones
and stays as it is; MERT then learns, from the songs alone, to foretell masked frames' spectra, and
the rhythm and the notes around each frame. `musicot dataset` asks the questions, of edits of the
songs too, and the twin is tuned on the answers with training/mumu_llama.py and the trainer of
`musicot lora`. It answers about held-out songs greedily; beside it stands the answer that is most
frequent among the songs it learned from. Each step is kept in --work and not done again.
"""

import argparse
import json
import math
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import musicot_mlx as _first  # noqa: F401  (OpenBLAS before MLX)

import mlx.core as mx  # isort: skip
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from mlx.utils import tree_flatten
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, trainers
from tokenizers import decoders as token_decoders

from musicot_mlx.audio.files import mono_windows
from musicot_mlx.evaluation.measures.bootstrap import interval
from musicot_mlx.generation.mumu_llama import draw_tokens
from musicot_mlx.models.hubert import Hubert, HubertConfig, song_means
from musicot_mlx.models.mumu_bridges import Bridges, BridgesConfig
from musicot_mlx.models.mumu_llama import MumuLlama, MumuLlamaConfig, Words, WordsConfig
from musicot_mlx.pipelines.mumu_llama.wording import END, OPENING, pieces, prompt_ids
from musicot_mlx.pipelines.parts import for_device
from musicot_mlx.training.known_songs import known_songs
from musicot_mlx.training.mumu_llama import Exchange, Listener, answer_loss
from musicot_mlx.training.options import LoraOptions
from musicot_mlx.training.question_sets import SetOptions, make_sets
from musicot_mlx.training.trainer import Trainer

KINDS = ("instruments", "tempo", "key", "style")
EDITS = 4  # of a song that is learned from; it is asked about too
SPEEDS, CENTS = (0.7, 1.3), (-400, -300, -200, -100, 100, 200, 300, 400)  # that edits are drawn of
CLEAREST = 0.6  # the share that the bridge gives MERT's first state to begin with; it has the notes
FLOOR = 3e-3  # of the mean variance: of directions in which songs hardly differ
GATE = 0.5  # where gates begin: upstream's 0 opens to .08 in 900 steps, and hears no keys by then
# Twin sizes. A frame of MERT is 640 samples, 37.5 a second; its first layer is given, not learned.
SEMITONES, BANDS, PHASES, TAPS, HOP, RATE = 72, 16, 4, 4096, 640, 24000
LOWEST = 65.41  # Hz, C2
MERT = HubertConfig(
    hidden_size=128,
    num_hidden_layers=4,
    num_attention_heads=4,
    intermediate_size=320,
    conv_dim=((SEMITONES + BANDS) * PHASES, 128),
    conv_kernel=(TAPS, 1),
    conv_stride=(HOP, 1),
    num_conv_pos_embeddings=16,
    num_conv_pos_embedding_groups=8,
    sampling_rate=RATE,
)
HIDDEN, LAYERS = 160, 6
CROP, CONTEXT = 300, 300  # frames of a crop of MERT's training; frames that rhythm and notes cover
LAGS = range(8, 57)  # frames, 40 to 280 BPM
MASKED, SPAN = 0.4, 8  # share of a crop's frames that MERT does not see, frames in a row


def filters() -> np.ndarray:
    """MERT's first layer: windowed sines at semitones and in wide bands above them, in four phases;
    float32 (filters, taps, 1).
    """
    semitones = LOWEST * 2 ** (np.arange(SEMITONES) / 12)
    bands = np.geomspace(4000, 11500, BANDS)
    time_axis = (np.arange(TAPS) - TAPS / 2) / RATE
    made = []
    for hertz, wide in [(f, False) for f in semitones] + [(f, True) for f in bands]:
        length = 1024 if wide else int(np.clip(24 * RATE / hertz, 1024, TAPS))
        window = np.zeros(TAPS)
        begin = (TAPS - length) // 2
        window[begin : begin + length] = np.hanning(length) / length
        phases = np.arange(PHASES) * 2 * np.pi / PHASES
        made += [window * np.cos(2 * np.pi * hertz * time_axis + phase) for phase in phases]
    return np.stack(made).astype(np.float32)[..., None]


def new_mert() -> Hubert:
    mx.random.seed(0)
    hubert = Hubert(MERT)
    hubert.features.convs[0].weight = mx.array(filters())
    hubert.features.convs[0].freeze()
    hubert.features.norm.freeze()
    return for_device(hubert)


# --- MERT, from the songs alone -------------------------------------------------------------------


def heard(hubert: Hubert, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Outputs of the first layer, float16 (frames, filters), and what is foretold of each frame,
    float16 (frames, targets): log spectrum, then rhythm and notes of the seconds around it.
    """
    (waveform,) = mono_windows(path, sample_rate=RATE, seconds=600)
    first = hubert.features.convs[0](mx.array(waveform)[None, :, None])[0]
    first = np.array(first) / 0.02
    amplitude = np.sqrt(first[:, 0::PHASES] ** 2 + first[:, 1::PHASES] ** 2)
    spectrum = np.log(amplitude + 1e-2)
    rise = np.maximum(np.diff(spectrum, axis=0, prepend=spectrum[:1]), 0).sum(axis=1)
    chroma = amplitude[:, :SEMITONES].reshape(len(amplitude), -1, 12).sum(axis=1)
    around = []
    for middle in range(0, len(first), 8):
        low = max(0, min(middle - CONTEXT // 2, len(first) - CONTEXT))
        part = rise[low : low + CONTEXT]
        part = part - part.mean()
        spectrum_of = np.fft.rfft(part, 1024)
        like = np.fft.irfft(np.abs(spectrum_of) ** 2)[: LAGS.stop]
        notes = chroma[low : low + CONTEXT].mean(axis=0)
        around.append(
            np.concatenate([like[list(LAGS)] / (like[0] + 1e-6), notes / (notes.sum() + 1e-6)])
        )
    around = np.repeat(np.stack(around), 8, axis=0)[: len(first)]
    targets = np.concatenate([spectrum, 4 * around[:, : len(LAGS)], 12 * around[:, len(LAGS) :]], 1)
    return first.astype(np.float16), targets.astype(np.float16)


class Pretraining(nn.Module):
    """MERT with what it learns by: a vector in place of masked frames, and a linear layer."""

    def __init__(self, hubert: Hubert, targets: int) -> None:
        super().__init__()
        self.hubert = hubert
        self.mask = mx.zeros((MERT.hidden_size,))
        self.head = nn.Linear(MERT.hidden_size, targets)

    def loss(self, first: mx.array, targets: mx.array, masked: mx.array) -> mx.array:
        """Mean squared error: of the spectrum where it is masked, of what is around everywhere."""
        hubert, norm = self.hubert, self.hubert.features.norm
        mean, spread = mx.mean(first, axis=1, keepdims=True), mx.var(first, axis=1, keepdims=True)
        scale = norm.weight * mx.rsqrt(spread + hubert.features.eps * 2500)  # of x / 0.02
        x = hubert.activation((first - mean) * scale + norm.bias)
        x = hubert.activation(hubert.features.convs[1](x))
        x = hubert.projection(hubert.feature_norm(x))
        x = mx.where(masked[..., None], self.mask, x)
        x = x + hubert.activation(hubert._positions(x))
        for layer in hubert.layers:
            x = layer(x)
        error = (self.head(hubert.norm(x)) - targets) ** 2
        bands = SEMITONES + BANDS
        spectrum = (error[..., :bands].mean(axis=-1) * masked).sum() / masked.sum()
        return spectrum + error[..., bands:].mean()


def pretrain(songs: Sequence[Path], work: Path, steps: int, batch: int) -> tuple[Hubert, list]:
    """A MERT that has heard the songs; its losses every 20 steps."""
    hubert, done = new_mert(), work / "mert.safetensors"
    log_file = work / "mert.json"
    if done.is_file():
        hubert.load_weights(str(done))
        return hubert, json.loads(log_file.read_text())
    pairs = [heard(hubert, path) for path in songs]
    sample = np.concatenate([targets[::16] for _, targets in pairs]).astype(np.float32)
    mean, spread = sample.mean(axis=0), sample.std(axis=0) + 1e-3
    module = Pretraining(hubert, len(mean))
    rate = optim.join_schedules(
        [optim.linear_schedule(1e-5, 2e-3, 20), optim.cosine_decay(2e-3, steps - 20, 1e-5)], [20]
    )
    optimizer = optim.AdamW(rate, weight_decay=0.01)
    step_of = nn.value_and_grad(module, module.loss)
    log, losses, began = [], [], time.perf_counter()
    for step in range(steps):
        rng = np.random.default_rng([7, step])
        chosen = [pairs[i] for i in rng.integers(len(pairs), size=batch)]
        starts = [int(rng.integers(0, max(1, len(first) - CROP + 1))) for first, _ in chosen]
        cut = [
            np.stack([pair[part][s : s + CROP] for pair, s in zip(chosen, starts, strict=True)])
            for part in (0, 1)
        ]
        masked = np.zeros((batch, CROP), bool)
        for row in masked:
            for start in rng.integers(0, CROP - SPAN, size=round(MASKED * CROP / SPAN)):
                row[start : start + SPAN] = True
        first, targets = cut[0].astype(np.float32), (cut[1] - mean) / spread
        loss, gradients = step_of(mx.array(first), mx.array(targets), mx.array(masked))
        gradients, _ = optim.clip_grad_norm(gradients, 1.0)
        optimizer.update(module, gradients)
        mx.eval(loss, module.parameters(), optimizer.state)
        losses.append(loss.item())
        if step % 20 == 19:
            log.append([step + 1, round(float(np.mean(losses[-20:])), 4)])
            print(f"MERT {step + 1}/{steps}: {log[-1][1]:.4f}, {time.perf_counter() - began:.0f} s",
                  flush=True)  # fmt: skip
    hubert.save_weights(str(done))
    log_file.write_text(json.dumps(log))
    return hubert, log


# --- questions, features, words -------------------------------------------------------------------


def ask_about(folder: Path, out: Path, edits: int) -> list[dict[str, Any]]:
    """The questions of `musicot dataset` about a folder of the band's songs, made once."""
    if not (out / "questions.json").is_file():
        songs = known_songs(folder, licence="MIT", skipped=[])
        names = ("questions", "edits") if edits else ("questions",)
        made = SetOptions(sets=names, edits=edits, speeds=SPEEDS, cents=CENTS)
        make_sets(songs, out, made)
    found = []
    for held_out in (False, True):
        entries = json.loads((out / ("valid" if held_out else "") / "questions.json").read_text())
        found += [
            {
                "path": str((out / entry["input_file"]).resolve()),
                "question": entry["conversations"][0]["value"],
                "answer": entry["conversations"][1]["value"],
                "kind": entry["kind"],
                "valid": held_out,
                "edit": entry["input_file"].startswith("audio/"),
            }
            for entry in entries
            if entry["kind"] in KINDS
        ]
    return found


def features_of(hubert: Hubert, paths: Sequence[str], work: Path) -> dict[str, np.ndarray]:
    """Path -> time means of all states, (states, channels); kept on disk every hundred songs."""
    file = work / "features.npz"
    found = dict(np.load(file)) if file.is_file() else {}
    missing = [path for path in paths if path not in found]
    for number, path in enumerate(missing):
        windows = mono_windows(path, sample_rate=RATE)
        found[path] = np.array(song_means(hubert, windows))
        if number % 100 == 99 or number + 1 == len(missing):
            temporary = work / "features.part.npz"
            np.savez(temporary, **found)
            temporary.replace(file)
            print(f"features {number + 1}/{len(missing)}", flush=True)
    return found


def tokenizer_of(rows: Sequence[dict[str, Any]]) -> Tokenizer:
    """Words of the questions and answers, LLaMA's marks, and the eight tokens of music behind."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    tokenizer.decoder = token_decoders.Replace("▁", " ")
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False
    )
    texts = [row[part] for row in rows for part in ("question", "answer")]
    tokenizer.train_from_iterator([*texts, OPENING, "### Instruction:\n\n### Response:"], trainer)
    names = [f"[AUD{number}]" for number in range(8)]
    tokenizer.add_special_tokens(
        [AddedToken(name, special=True, normalized=False) for name in names]
    )
    return tokenizer


# --- training and answers -------------------------------------------------------------------------


class Answers:
    """The task of the trainer: answers to questions about songs."""

    part = "answers"

    def __init__(self, listener: Listener) -> None:
        self.module = listener

    def draw(self, songs: Sequence[Exchange], rng: np.random.Generator) -> Exchange:
        return songs[rng.integers(len(songs))]

    def held_out(self, songs: Sequence[Exchange], limit: int) -> list[Exchange]:
        return list(songs) if limit < 0 else list(songs)[:limit]

    def weight(self, item: Exchange) -> float:
        return item.weight

    def loss(self, items: Sequence[Exchange]) -> mx.array:
        return answer_loss(self.module, items)


def new_listener(vocabulary: int, means: np.ndarray) -> Listener:
    """A twin at random, but that its audio bridge begins with what tells songs apart.

    means: (songs, states, channels) of songs that are learned from.
    """
    mx.random.seed(1)
    llama = MumuLlama(
        MumuLlamaConfig(
            hidden_size=HIDDEN,
            intermediate_size=432,
            num_hidden_layers=LAYERS,
            num_attention_heads=5,
            routing="sum",
            query_rows=5,
        )
    )
    bridges = Bridges(
        BridgesConfig(
            hidden_size=HIDDEN,
            audio_states=MERT.num_hidden_layers + 1,
            audio_size=MERT.hidden_size,
            image_tokens=5,
            image_size=32,
            video_tokens=9,
            video_size=32,
        )
    )
    words = Words(WordsConfig(vocab_size=vocabulary, hidden_size=HIDDEN))
    states = np.full(means.shape[1], (1 - CLEAREST) / (means.shape[1] - 1))
    states[0] = CLEAREST
    pooled = np.einsum("s,nsc->nc", states, means)
    pooled = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
    # keys lie in directions in which songs differ little: all are given one size, down to a floor
    variances, axes = np.linalg.eigh(np.cov(pooled.T))
    even = (axes * (variances + FLOOR * variances.mean()) ** -0.5) @ axes.T
    audio = bridges.audio
    audio.pool.weight = mx.array(states, dtype=mx.float32).reshape(audio.pool.weight.shape)
    audio.pool.bias = mx.zeros((1,))
    audio.proj.weight = audio.proj.weight @ mx.array(even.astype(np.float32))
    audio.proj.bias = -(audio.proj.weight @ mx.array(pooled.mean(axis=0).astype(np.float32)))
    llama.gates = llama.gates + GATE
    return Listener(llama, words, bridges)


def exchange(row: dict[str, Any], tokenizer: Tokenizer, features: dict) -> Exchange:
    prompt = prompt_ids(tokenizer, row["question"], longest=1024)
    answer = tokenizer.encode(" " + row["answer"], add_special_tokens=False).ids
    ids = np.array([*prompt, *answer, END], dtype=np.int32)
    return Exchange(Path(row["path"]).name, ids, len(prompt), {"audio": features[row["path"]]})


def answer(listener: Listener, tokenizer: Tokenizer, item: Exchange) -> str:
    offsets = listener.llama.offsets(listener.features([item]))
    tokens = draw_tokens(
        listener.llama, listener.words, item.ids[: item.start].tolist(), offsets=offsets, limit=24,
        temperature=0.0, key=mx.random.key(0),
    )  # fmt: skip
    first = listener.words.config.first_music_token
    return "".join(piece.text for piece in pieces(tokenizer, tokens, first))


def scored(rows: Sequence[dict[str, Any]], majority: dict[str, str]) -> dict[str, Any]:
    """Per kind: share of answers that are right, of the twin and of the majority answer, and their
    difference; 95 % intervals by drawing songs again. Of instruments also F1 of the names.
    """
    found = {}
    for kind in KINDS:
        own = [row for row in rows if row["kind"] == kind]
        pairs = [(row["said"] == row["answer"], majority[kind] == row["answer"]) for row in own]
        measures = {
            "twin": lambda drawn: float(np.mean([a for a, _ in drawn])),
            "majority": lambda drawn: float(np.mean([b for _, b in drawn])),
            "difference": lambda drawn: float(np.mean([a - b for a, b in np.array(drawn, int)])),
        }
        found[kind] = {name: interval(pairs, of).to_dict() for name, of in measures.items()}
        found[kind]["majority_answer"] = majority[kind]
        if kind == "instruments":
            both = [
                (f1(row["said"], row["answer"]), f1(majority[kind], row["answer"])) for row in own
            ]
            for name, at in (("twin_f1", 0), ("majority_f1", 1)):
                found[kind][name] = interval(
                    both, lambda drawn, at=at: float(np.mean([pair[at] for pair in drawn]))
                ).to_dict()
    return found


def f1(said: str, answer: str) -> float:
    """Of the instruments that two answers name."""
    one, other = (
        set(text.removeprefix("You hear ").rstrip(".").replace(" and ", ", ").split(", "))
        for text in (said, answer)
    )
    return 2 * len(one & other) / (len(one) + len(other))


class Laps:
    """Seconds and processor seconds of each step, over runs that went on where one stopped."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.spent = json.loads(file.read_text()) if file.is_file() else {}
        self.last = time.perf_counter(), time.process_time()

    def __call__(self, name: str) -> None:
        now = time.perf_counter(), time.process_time()
        took = [after - before for after, before in zip(now, self.last, strict=True)]
        before = self.spent.get(name, [0.0, 0.0])
        if took[1] > 0.1 * before[1]:  # else it was all there already
            self.spent[name] = [round(a + b, 1) for a, b in zip(before, took, strict=True)]
        self.last = now
        self.file.write_text(json.dumps(self.spent))
        print(f"{name}: {took[0]:.0f} s, {took[1]:.0f} s of processor", flush=True)

    def minutes(self) -> dict[str, Any]:
        """Of the clock and of a processor, in all and by step."""
        parts = {name: [round(x / 60, 1) for x in pair] for name, pair in self.spent.items()}
        total = np.sum(list(self.spent.values()), axis=0) / 60
        return {"clock": round(total[0], 1), "processor": round(total[1], 1), "steps": parts}


def parameters(*networks: nn.Module) -> int:
    return sum(value.size for each in networks for _, value in tree_flatten(each.parameters()))


def table(result: dict[str, Any]) -> str:
    lines = ["| question | twin | majority answer | twin better by |", "|---|---|---|---|"]
    for kind, row in result["answers"].items():
        cells = [
            f"{100 * row[name]['value']:.0f} % ({100 * row[name]['low']:.0f} to "
            f"{100 * row[name]['high']:.0f})"
            for name in ("twin", "majority", "difference")
        ]
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("songs", type=Path, help="folder of the band's songs to learn from")
    parser.add_argument("held", type=Path, help="folder of songs that nothing is learned from")
    parser.add_argument("--work", type=Path, required=True, help="folder that keeps each step")
    parser.add_argument("--json", type=Path, help="file to write")
    parser.add_argument("--mert-steps", type=int, default=300)
    parser.add_argument("--mert-batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=2500)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    laps = Laps(args.work / "laps.json")
    hubert, mert_log = pretrain(sorted(args.songs.glob("*.wav")), args.work, args.mert_steps,
                                args.mert_batch)  # fmt: skip
    laps("mert")
    rows = ask_about(args.songs, args.work / "sets", EDITS)
    tests = ask_about(args.held, args.work / "held", 0)
    laps("questions")
    paths = sorted({row["path"] for row in [*rows, *tests]})
    features = features_of(hubert, paths, args.work)
    laps("features")
    tokenizer = tokenizer_of(rows)
    tokenizer.save(str(args.work / "tokenizer.json"))
    train = [exchange(row, tokenizer, features) for row in rows if not row["valid"]]
    valid = [exchange(row, tokenizer, features) for row in rows if row["valid"]]
    heard_from = sorted({row["path"] for row in rows if not row["valid"]})
    listener = new_listener(
        tokenizer.get_vocab_size(), np.stack([features[path] for path in heard_from])
    )
    options = LoraOptions(
        model="twin",
        data=str(args.songs),
        fine_tune_type="full",
        optimizer="adamw",
        optimizer_config={"adamw": {"weight_decay": 0.05}},
        iters=args.steps,
        batch_size=32,
        learning_rate=1.5e-3,
        val_batches=20,
        steps_per_eval=150,
        save_every=150,
        steps_per_report=50,
        render_seconds=0,
        adapter_path=str(args.work / "answers"),
    )
    said = {"config": options.to_dict(), "say": lambda line: print(line, flush=True)}
    trainer = Trainer(Answers(listener), train, valid, options, **said)
    log = trainer.run(resume=(args.work / "answers" / "training_state.safetensors").is_file())
    listener.eval()
    laps("answers")
    for row in tests:
        row["said"] = answer(listener, tokenizer, exchange(row, tokenizer, features))
    first = [row for row in rows if not row["edit"]]
    majority = {
        kind: Counter(row["answer"] for row in first if row["kind"] == kind).most_common(1)[0][0]
        for kind in KINDS
    }
    laps("test")
    gates = np.tanh(np.array(listener.llama.gates))
    result = {
        "songs": len({row["path"] for row in first}),
        "edits": len({row["path"] for row in rows if row["edit"]}),
        "held_out_songs": len({row["path"] for row in tests}),
        "questions": {"train": len(train), "valid": len(valid), "test": len(tests)},
        "parameters": {
            "mert": parameters(hubert),
            "llama_words_bridges": parameters(listener),
            "all": parameters(hubert, listener),
        },
        "minutes": laps.minutes(),
        "steps": {"mert": args.mert_steps, "answers": args.steps},
        "mert_loss": mert_log,
        "loss": {"before": log.before, "after": log.after, "best": log.best, "valid": log.valid},
        "gates": {
            "max": round(float(np.abs(gates).max()), 4),
            "mean": round(float(np.abs(gates).mean()), 4),
        },
        "answers": scored(tests, majority),
    }
    (args.work / "said.json").write_text(json.dumps(tests, indent=1))
    print(table(result))
    print(f"gates: {result['gates']}, {result['parameters']['all'] / 1e6:.2f} M parameters")
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")
    won = all(row["difference"]["low"] > 0 for row in result["answers"].values())
    return 0 if won and math.isfinite(log.after) else 1


if __name__ == "__main__":
    sys.exit(main())
