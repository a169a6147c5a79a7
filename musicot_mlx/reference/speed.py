"""Seconds that PyTorch takes for each stage of a song, or for a token of a large shape: what
`musicot bench --against torch` runs beside MLX.

    python -m musicot_mlx.reference.speed song FOLDER --duration 5 --songs 3
    python -m musicot_mlx.reference.speed lm-1b CONFIG --tokens 20
    python -m musicot_mlx.reference.speed musicgen-small --tokens 20

The reference recomputes every sequence at every token, which is right for parity and wrong for a
race: here the same LLaMA runs with transformers' key-value cache, both rows of guidance in one
batch, and only the reachable rows of the head. The rest is the reference as it is, its diffusion
with the rows of guidance one after another. It runs on CUDA where PyTorch finds it.
"""

import argparse
import json
import re
import time
from typing import Any

import torch
from transformers import DynamicCache

from musicot_mlx.reference.musicot import MusicotReference
from musicot_mlx.reference.semantic_lm import SemanticLM
from musicot_mlx.tokens.vocabulary import AUD_BOS

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def clock() -> float:
    """Seconds, once all that was asked of the device is done."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


@torch.no_grad()
def decode_cached(
    lm: Any,
    rows: list[torch.Tensor],
    *,
    legal: tuple[int, int],
    tokens: int,
    guidance: float,
    marks: list[float] | None = None,
) -> torch.Tensor:
    """Draw `tokens` ids after embedded rows (time, hidden) of unequal length, guided, as MLX does.

    The first row is the conditional one; shorter rows are padded on the left and masked. marks
    takes the time at which each token was there.
    """
    longest = max(len(row) for row in rows)
    hidden = rows[0].shape[-1]
    padding = [longest - len(row) for row in rows]
    x = torch.stack(
        [torch.cat([row.new_zeros(p, hidden), row]) for p, row in zip(padding, rows, strict=True)]
    )
    mask = torch.ones(len(rows), longest + tokens, dtype=torch.long)
    for i, p in enumerate(padding):
        mask[i, :p] = 0
    position = (mask.cumsum(1) - 1).clamp(min=0)
    head = lm.llama.lm_head.weight[legal[0] : legal[1]]
    cache, drawn, seen = DynamicCache(), [], 0
    for _ in range(tokens):
        stop = seen + x.shape[1]
        out = lm.llama.model(
            inputs_embeds=x,
            attention_mask=mask[:, :stop],
            position_ids=position[:, seen:stop],
            past_key_values=cache,
            use_cache=True,
        )
        seen = stop
        logp = torch.log_softmax((out.last_hidden_state[:, -1] @ head.T).float(), dim=-1)
        mixed = guidance * logp[0] + (1 - guidance) * logp[1]
        code = legal[0] + torch.multinomial(torch.softmax(mixed, dim=-1), 1)
        drawn.append(code)
        if marks is not None:
            marks.append(clock())
        x = lm.llama.model.embed_tokens(code).expand(len(rows), 1, hidden)
    return torch.cat(drawn) - legal[0]


@torch.no_grad()
def song(model: MusicotReference, *, duration: float) -> dict[str, float]:
    """One song of at most one diffusion window: seconds by stage."""
    lm, config = model.semantic_lm, model.config
    sampling = config["sampling"]
    vocabulary = lm.vocabulary
    clap = torch.zeros(config["semantic_lm"]["clap_dim"])
    clap[0] = 1.0
    began = clock()
    thoughts = lm.plan_thoughts(
        clap, segments=1, guidance_scale=sampling.get("thought_guidance", 2.3)
    )
    planned = clock()
    chain = lm.row((), (), thoughts, clap=True)
    rows = [
        lm.embed(torch.tensor([ids]), clap[None] if conditional else None)[0]
        for ids, conditional in (([*chain, AUD_BOS], True), ([AUD_BOS], False))
    ]
    frames = round(duration * config["semantic_lm"]["audio_frame_rate"])
    codes = decode_cached(
        lm,
        rows,
        legal=vocabulary.audio_range,
        tokens=frames,
        guidance=sampling.get("audio_guidance", 1.3),
    )
    tokens = clock()
    rate = config["diffusion"]["latent_rate"]
    vectors = model.thought_vectors(torch.from_numpy(thoughts).long().to(DEVICE))[[0, 0]]
    latents = model.diffusion.sample(
        codes[None],
        torch.cat([clap[None], vectors])[None],
        torch.zeros(1),
        torch.full((1,), duration),
        frames=-int(-duration * rate // 1),
        steps=sampling["steps"],
        sampler=sampling.get("sampler"),
        guidance_scale=sampling["diffusion_guidance"],
    )
    diffused = clock()
    model.vae.decode(latents.transpose(1, 2))
    ended = clock()
    return {
        "thoughts": planned - began,
        "audio tokens": tokens - planned,
        "diffusion": diffused - tokens,
        "decode": ended - diffused,
        "total": ended - began,
    }


@torch.no_grad()
def language_model(config: dict[str, Any], *, prefix: int, tokens: int) -> list[float]:
    """Seconds of each of the first tokens of a semantic LM with random weights."""
    lm = SemanticLM(config).eval()
    rows = [lm.embed(torch.full((1, n), 5), None)[0] for n in (prefix, 4)]
    marks = [clock()]
    legal = lm.vocabulary.audio_range
    decode_cached(lm, rows, tokens=tokens, legal=legal, guidance=1.3, marks=marks)
    return [after - before for before, after in zip(marks[:-1], marks[1:], strict=True)]


def musicgen_small(*, prefix: int, tokens: int) -> list[float]:
    """Seconds of each of the first steps of transformers' MusicGen small, random weights.

    Its text encoder and codec are tiny: they are not timed.
    """
    import transformers as hf

    text = {"d_model": 768, "d_kv": 64, "d_ff": 64, "num_layers": 1, "num_heads": 12}
    codec = {"num_filters": 2, "num_lstm_layers": 1, "hidden_size": 8, "codebook_dim": 8}
    codec |= {"upsampling_ratios": [8, 5, 4, 4], "codebook_size": 2048}
    model = hf.MusicgenForConditionalGeneration(
        hf.MusicgenConfig(
            text_encoder=hf.T5Config(vocab_size=64, **text),
            audio_encoder=hf.EncodecConfig(target_bandwidths=[2.2], sampling_rate=32000, **codec),
            decoder=hf.MusicgenDecoderConfig(),
        )
    ).eval()
    settings = model.generation_config
    settings.pad_token_id = settings.bos_token_id = settings.decoder_start_token_id = 2048
    ids = torch.randint(1, 64, (1, prefix))
    marks = [clock()]

    class Clock(hf.LogitsProcessor):
        """Notes when a step's logits are there."""

        def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            marks.append(clock())
            return scores

    model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        guidance_scale=3.0,
        do_sample=True,
        top_k=250,
        max_new_tokens=tokens,
        logits_processor=hf.LogitsProcessorList([Clock()]),
    )
    return [after - before for before, after in zip(marks[:-1], marks[1:], strict=True)]


def facts() -> dict[str, Any]:
    """What PyTorch ran on: threads, device, and the BLAS it was built with."""
    blas = re.search(r"BLAS_INFO=(\w+)", torch.__config__.show())
    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if DEVICE == "cuda" else "cpu",
        "blas": blas.group(1) if blas else "unknown BLAS",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("song", "lm-1b", "musicgen-small"))
    parser.add_argument("folder", nargs="?", help="checkpoint; of lm-1b its config as JSON")
    parser.add_argument("--duration", type=float, default=5.0)
    parser.add_argument("--songs", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=20)
    parser.add_argument("--prefix", type=int, default=12, help="positions before the tokens")
    parser.add_argument("--skipped", type=int, default=4, help="tokens that are not counted")
    args = parser.parse_args()
    torch.set_default_device(DEVICE)
    if args.what == "song":
        model = MusicotReference.from_pretrained(args.folder).to(DEVICE)
        song(model, duration=args.duration)  # warm-up
        songs = [song(model, duration=args.duration) for _ in range(args.songs)]
        timed: dict[str, Any] = {"songs": songs}
    else:
        length = {"prefix": args.prefix, "tokens": args.tokens}
        if args.what == "lm-1b":
            seconds = language_model(json.loads(args.folder), **length)
        else:
            seconds = musicgen_small(**length)
        timed = {"seconds": seconds[args.skipped :]}
    print(json.dumps(timed | facts()))


if __name__ == "__main__":
    main()
