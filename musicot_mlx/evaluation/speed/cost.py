"""What a song costs, counted from the loaded networks: bytes read, FLOP, passes, operations.

Nothing is timed and nothing guessed: weights are walked as they lie in memory, so dtype and
quantisation count; attention is counted from shapes; operations are the nodes of the graph that one
step builds. Left out are norms, gates and softmax, which are few beside the products.
"""

import collections
import contextlib
import io
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from musicot_mlx.generation.diffusion import forward_passes
from musicot_mlx.generation.semantic import DecodingRun as Run
from musicot_mlx.generation.semantic import SemanticCondition
from musicot_mlx.generation.semantic import audio_tokens as draw_audio
from musicot_mlx.generation.semantic import windows as lm_windows
from musicot_mlx.tokens.vocabulary import COT_BOS

_TOKENS = 50  # that evals are counted over
_THOUGHT_SECONDS = 10.0  # of audio that a CLAP vector stands for


@dataclass(frozen=True)
class Cost:
    """One stage of a song: how many steps it takes, and what one step reads and computes."""

    steps: int
    bytes_per_step: float  # weights, and keys and values at their mean length
    flops_per_step: float

    @property
    def bytes(self) -> float:
        return self.steps * self.bytes_per_step

    @property
    def flops(self) -> float:
        return self.steps * self.flops_per_step

    def times(self, songs: int) -> "Cost":
        """The same for several songs, one after another."""
        return Cost(self.steps * songs, self.bytes_per_step, self.flops_per_step)


@dataclass(frozen=True)
class Counts:
    """What is counted of a family's songs: costs by stage, operations in the graph of a step, and
    how often the host waits or queues in so many tokens.
    """

    stages: dict[str, Cost]
    operations: dict[str, int]
    evals_per_token: dict[str, float]


def of_musicot(model: Any, *, duration: float, batch: int) -> Counts:
    """A song of MusiCoT; a batch draws its tokens together and renders song by song."""
    lm, sampling = model.semantic_lm, model.sampling
    latents = -(-round(duration * model.sample_rate) // model.vae.config.samples_per_latent)
    stages = {
        "audio tokens": audio_tokens(
            lm,
            frames=round(duration * lm.config.audio_frame_rate),
            songs=batch,
            guided=sampling.audio_guidance != 1,
        ),
        "diffusion": diffusion(
            model.diffusion,
            frames=latents,
            steps=sampling.steps,
            sampler=sampling.sampler,
            guided=sampling.diffusion_guidance != 1,
        ).times(batch),
        "decode": decode(model.vae, frames=latents).times(batch),
    }
    graphs = {
        "audio token": sum(token_operations(lm).values()),
        "diffusion pass": sum(pass_operations(model.diffusion).values()),
    }
    evals = token_evals(lm, tokens=_TOKENS)
    return Counts(stages, graphs, {name: n / _TOKENS for name, n in evals.items()})


def of_musicgen(model: Any, *, duration: float, batch: int) -> Counts:
    """A song of MusicGen: its decoder's steps, each of which writes a code of every codebook."""
    config, guided = model.decoder.config, model.sampling.audio_guidance != 1
    rows = (2 if guided else 1) * batch
    size, values = linear_weights(model.decoder)
    # attention's keys and values, at the mean length of what the window holds
    frames = round(duration * config.frame_rate) + config.num_codebooks - 1
    length = min(frames, round(30 * config.frame_rate)) / 2
    width = config.num_hidden_layers * config.hidden_size
    cache = 2 * rows * width * model.dtype.size * length
    step = Cost(frames, size + cache, 2 * rows * values + 4 * rows * width * length)
    return Counts({"audio tokens": step}, {}, {})


def of_magenta_rt2(model: Any, *, duration: float, batch: int) -> Counts:
    """A song of Magenta RealTime 2: frames of the language model, then the codec, song by song."""
    lm, config = model.lm, model.lm.config
    size, values = magenta_weights(lm)
    width = config.temporal_layers * config.temporal_heads * config.head_dim
    rings = 4 * batch * (1 + config.window) * width * model.dtype.size
    attention = 8 * batch * (1 + config.window) * width
    frame = Cost(model.frames(duration) + 1, size + rings, 2 * batch * values + attention)
    return Counts({"audio tokens": frame}, {}, {})


def magenta_weights(lm: Any) -> tuple[int, int]:
    """Bytes and values of the matrices that a frame of Magenta RealTime 2 multiplies with: those
    of the depth transformer once a codebook; those of a condition's keys and values once a request.
    """
    size, values = linear_weights(nn.Sequential(*lm.layers))
    for layer in lm.layers:
        less, fewer = linear_weights(nn.Sequential(layer.cross_attn.key, layer.cross_attn.value))
        size, values = size - less, values - fewer
    again, often = linear_weights(nn.Sequential(lm.depth.project, *lm.depth.layers))
    heads, each = linear_weights(nn.Sequential(*lm.depth.heads))
    codebooks = lm.config.codebooks
    return size + codebooks * again + heads, values + codebooks * often + each


def linear_weights(module: nn.Module) -> tuple[int, int]:
    """Bytes in memory and values of all matrices of `module` that a step multiplies with."""
    size, values = 0, 0
    for _, layer in module.named_modules():
        if isinstance(layer, nn.QuantizedLinear):
            size += sum(layer[k].nbytes for k in ("weight", "scales", "biases") if k in layer)
            values += layer.weight.size * 32 // layer.bits
        elif isinstance(layer, nn.Linear):
            size, values = size + layer.weight.nbytes, values + layer.weight.size
    return size, values


def audio_tokens(
    lm: Any, *, frames: int, prefix: int = 0, songs: int = 1, guided: bool = True
) -> Cost:
    """The audio tokens of songs of `frames` in one batch, `prefix` positions before them."""
    config = lm.config
    rows = (2 if guided else 1) * songs
    trunk_bytes, trunk = linear_weights(lm.model)
    head_bytes, head = linear_weights(nn.Sequential(lm.lm_head))
    share = config.audio_codebook_size / config.vocab_size  # only these rows are multiplied
    kept = [
        min(frames, config.first_frame(w.stop)) - config.first_frame(w.start)
        for w in lm_windows(config.segments(frames), config.context_segments)
    ]
    length = prefix + sum(k * k / 2 for k in kept) / sum(kept)
    head_dim = config.hidden_size // config.num_attention_heads
    item = lm.dtype.size
    cache = 2 * rows * config.num_hidden_layers * config.num_key_value_heads * head_dim * item
    attention = 4 * rows * config.num_hidden_layers * config.hidden_size * length
    return Cost(
        steps=frames,
        bytes_per_step=trunk_bytes + share * head_bytes + cache * length,
        flops_per_step=2 * rows * (trunk + share * head) + attention,
    )


def diffusion(
    model: Any, *, frames: int, steps: int, sampler: str | None, guided: bool = True
) -> Cost:
    """The diffusion of a song of `frames` latents; a step is one pass over one window."""
    config = model.config
    time = min(frames, config.window_frames)
    rows = 2 if guided else 1
    size, values = 0, 0
    # the prompt's vector, the thoughts that a window can touch, start and total seconds
    vectors = math.ceil(config.window_seconds / _THOUGHT_SECONDS) + 4
    context = mx.zeros((1, vectors, config.cross_attention_input_dim))
    # keys and values that queries and outputs are folded into have three axes, not four
    folded = model.dit.keys_values(context)[0][0].ndim == 3
    if folded:
        values += 2 * config.num_layers * config.num_attention_heads * vectors * config.inner_dim
        size += values * 4
    for name, layer in model.dit.named_modules():
        gone = folded and re.search(r"attn2\.to_(q|out)$", name)
        if isinstance(layer, (nn.Linear, nn.QuantizedLinear)) and not (gone or _once(name)):
            layer_bytes, layer_values = linear_weights(nn.Sequential(layer))
            size, values = size + layer_bytes, values + layer_values
    attention = 4 * rows * config.num_layers * time * time * config.inner_dim
    return Cost(
        steps=forward_passes(config, frames, steps=steps, sampler=sampler),
        bytes_per_step=size,
        flops_per_step=2 * rows * time * values + attention,
    )


def _once(name: str) -> bool:
    """Projections that run once a window and not at every step."""
    return "to_kv" in name or name.split(".")[0] in (
        "timestep_proj",
        "global_proj",
        "cross_attention_proj",
    )


def decode(vae: Any, *, frames: int) -> Cost:
    """Latents to audio; a step is a second of audio. Fourier transforms as 5 n log2 n."""
    config = vae.config
    rate = config.latent_rate
    coarse = [vae.decoder.embed, *vae.decoder.coarse, vae.decoder.upsample]
    fine = [*vae.decoder.fine, vae.decoder.head]
    coarse_bytes, coarse_values = linear_weights(nn.Sequential(*coarse))
    fine_bytes, fine_values = linear_weights(nn.Sequential(*fine))
    # the core's basis, by which coefficients are read and written
    basis = 2 * config.samples_per_latent * (config.core_band[1] - config.core_band[0])
    fourier = 5 * config.n_fft * math.log2(config.n_fft) * config.audio_channels / 2
    return Cost(
        steps=math.ceil(frames / rate),
        # weights are read once a piece
        bytes_per_step=(coarse_bytes + fine_bytes + 8 * basis) * rate / 512,
        flops_per_step=2 * rate * (coarse_values + 2 * fine_values + fourier)
        + 4 * rate * basis * config.audio_channels,
    )


def operations(outputs: Any) -> collections.Counter[str]:
    """How often each MLX primitive stands in the graph of outputs that are not evaluated yet."""
    text = io.StringIO()
    mx.export_to_dot(text, outputs)
    names = re.findall(r'label ?= ?"([^"]+)", shape ?= ?rectangle', text.getvalue())
    return collections.Counter(names)


# Nodes of a graph for which a GPU runs nothing: another look at the same memory.
_VIEWS = frozenset(
    "AsStrided Broadcast BroadcastAxes Contiguous Depends ExpandDims Flatten NumberOfElements "
    "Reshape Slice Split Squeeze StopGradient Transpose Unflatten View".split()
)
_FUSED = ("rms_norm", "layer_norm", "rope", "scaled_dot_product_attention")


def gpu_counts(build: Callable[[], Any]) -> dict[str, int]:
    """`kernels` that a GPU would run for the arrays `build` returns, and `nodes` of their graph.

    Counted on any device: MLX's fused functions, which a CPU takes apart, are one kernel each, and
    views none. The networks must be plain ones (generation/device.py's `on_cpu` false when they
    were loaded).
    """
    fused, reached = 0, []

    def one_kernel(function: Callable[..., mx.array]) -> Callable[..., mx.array]:
        def call(x: mx.array, *args: Any, **kwargs: Any) -> mx.array:
            nonlocal fused
            fused += 1
            reached.extend(a for a in (x, *args) if isinstance(a, mx.array))
            y = mx.zeros_like(x)  # of the shape that all of these give
            mx.eval(y)
            return y

        return call

    before = {name: getattr(mx.fast, name) for name in _FUSED}
    try:
        for name, function in before.items():
            setattr(mx.fast, name, one_kernel(function))
        with _replaced(async_eval=lambda *arrays: None):  # what is queued leaves the graph
            outputs = build()
    finally:
        for name, function in before.items():
            setattr(mx.fast, name, function)
    counts = operations([*(outputs if isinstance(outputs, list) else [outputs]), *reached])
    nodes = sum(counts.values()) + fused
    return {"kernels": nodes - sum(counts[name] for name in _VIEWS), "nodes": nodes}


def token_operations(lm: Any) -> collections.Counter[str]:
    """Primitives of one audio token: both rows through the LM, guidance and the draw."""
    run, ids = _prefilled(lm)
    run.feed(ids)
    with _replaced(async_eval=lambda *arrays: None):  # what is queued leaves the graph
        head, keys = lm.head(*lm.config.vocabulary.audio_range), [mx.random.key(0)]
        return operations(run.draw(head, keys, guidance_scale=2.0, temperature=1.0))


def token_evals(lm: Any, *, tokens: int) -> dict[str, int]:
    """Waits and queued evaluations of `tokens` audio tokens, prefill left out of the count."""
    condition = SemanticCondition(clap=np.zeros(lm.config.clap_dim, dtype=np.float32))
    thoughts = np.zeros((lm.config.thought_codebooks, lm.config.segments(tokens)), dtype=np.int32)
    blocks = draw_audio(lm, condition, thoughts, frames=tokens, key=mx.random.key(0))
    return count_evals(lambda: list(blocks))


def _prefilled(lm: Any) -> tuple[Any, mx.array]:
    """A run of two rows of unequal length, as guidance has them, evaluated, and an id to feed."""
    rows = [lm.prefix(None, [COT_BOS] * length) for length in (12, 4)]
    run, head = Run(lm, rows, 1), lm.head(*lm.config.vocabulary.audio_range)
    ids = mx.array([lm.config.audio_offset])
    for _ in range(2):  # a prefix, then one position, so that the next finds its caches grown
        mx.eval(run.log_probabilities(head, 2.0))
        run.feed(ids)
    mx.eval(run.log_probabilities(head, 2.0))
    return run, ids


def pass_operations(model: Any) -> collections.Counter[str]:
    """Primitives of one pass of the diffusion over one window, both rows in one batch."""
    config = model.config
    frames = config.window_frames
    conditions = model.conditions(
        mx.zeros((2, 8), dtype=mx.int32),
        mx.zeros((2, 3, config.clap_dim)),
        mx.zeros(2),
        mx.ones(2),
        frames=frames,
    )
    times = model.time_embeddings(mx.array([0.5]))
    x = mx.zeros((2, frames, config.latent_dim))
    mx.eval(times, x, conditions.semantic, conditions.global_token, conditions.keys_values)
    return operations(model.step(x, times[0], conditions))


def count_evals(run: Callable[[], Any]) -> dict[str, int]:
    """How often `run` waits for the device (eval) and how often it only queues (async_eval)."""
    counts = {"eval": 0, "async_eval": 0}

    def counted(name: str) -> Callable[..., None]:
        function = getattr(mx, name)

        def call(*args: Any) -> None:
            counts[name] += 1
            function(*args)

        return call

    with _replaced(**{name: counted(name) for name in counts}):
        run()
    return counts


@contextlib.contextmanager
def _replaced(**functions: Callable[..., None]) -> Iterator[None]:
    """MLX with other functions under these names."""
    before = {name: getattr(mx, name) for name in functions}
    try:
        for name, function in functions.items():
            setattr(mx, name, function)
        yield
    finally:
        for name, function in before.items():
            setattr(mx, name, function)


def roofline(
    costs: dict[str, Cost], seconds: dict[str, float], ceilings: dict[str, float], duration: float
) -> dict[str, dict[str, float]]:
    """Each stage against the measured ceilings: shares of the copy and of the matmul reached."""
    rows = {}
    for stage, cost in costs.items():
        spent = seconds.get(stage)
        row = asdict(cost) | {"flops_per_second_of_audio": cost.flops / duration}
        if spent:
            row["steps_per_second"] = cost.steps / spent
            row["share_of_copy"] = cost.bytes / spent / ceilings["copy_bytes_per_second"]
            row["share_of_matmul"] = cost.flops / spent / ceilings["matmul_flops"]
        rows[stage] = row
    return rows
