"""Seconds that the PyTorch reference takes for each stage of a song: what `musicot bench --against
torch` runs beside MLX.

    python -m musicot_mlx.reference.speed FOLDER --duration 5 --songs 3

The reference recomputes every sequence at every token, which is right for parity and wrong for a
race: here the same LLaMA runs with transformers' key-value cache, both rows of guidance in one
batch, and only the reachable rows of the head. The rest is the reference as it is.
"""

import argparse
import json
import time
from typing import Any

import torch
from transformers import DynamicCache

from musicot_mlx.reference.musicot import MusicotReference
from musicot_mlx.weights.vocabulary import AUD_BOS, COT_BOS


@torch.no_grad()
def decode_cached(
    lm: Any, rows: list[torch.Tensor], *, legal: tuple[int, int], tokens: int, guidance: float
) -> torch.Tensor:
    """Draw `tokens` ids after embedded rows (time, hidden) of unequal length, guided, as MLX does.

    The first row is the conditional one; shorter rows are padded on the left and masked.
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
    began = time.perf_counter()
    thoughts = lm.plan_thoughts(
        clap, segments=1, guidance_scale=sampling.get("thought_guidance", 2.3)
    )
    planned = time.perf_counter()
    chain = lm.row((), (), thoughts, clap=True)
    rows = [
        lm.embed(torch.tensor([ids]), clap[None] if conditional else None)[0]
        for ids, conditional in (([*chain, AUD_BOS], True), ([COT_BOS, AUD_BOS][1:], False))
    ]
    frames = round(duration * config["semantic_lm"].get("audio_frame_rate", 25.0))
    codes = decode_cached(
        lm,
        rows,
        legal=vocabulary.audio_range,
        tokens=frames,
        guidance=sampling.get("audio_guidance", 1.3),
    )
    tokens = time.perf_counter()
    rate = config["diffusion"]["latent_rate"]
    vectors = model.thought_vectors(torch.from_numpy(thoughts).long())[[0, 0]]
    latents = model.diffusion.sample(
        codes[None],
        torch.cat([clap[None], vectors])[None],
        torch.zeros(1),
        torch.full((1,), duration),
        frames=-int(-duration * rate // 1),
        steps=sampling.get("steps", 50),
        sampler=sampling.get("sampler"),
        guidance_scale=sampling.get("diffusion_guidance", 3.0),
    )
    diffused = time.perf_counter()
    model.vae.decode(latents.transpose(1, 2))
    ended = time.perf_counter()
    return {
        "thoughts": planned - began,
        "audio tokens": tokens - planned,
        "diffusion": diffused - tokens,
        "decode": ended - diffused,
        "total": ended - began,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--duration", type=float, default=5.0)
    parser.add_argument("--songs", type=int, default=3)
    args = parser.parse_args()
    model = MusicotReference.from_pretrained(args.folder)
    song(model, duration=args.duration)  # warm-up
    songs = [song(model, duration=args.duration) for _ in range(args.songs)]
    print(json.dumps({"songs": songs, "torch": torch.__version__, "threads": _threads()}))


def _threads() -> int:
    return torch.get_num_threads()


if __name__ == "__main__":
    main()
