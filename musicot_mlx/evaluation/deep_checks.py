"""What MLX computes on this machine's device, held against its CPU in float32: `doctor --deep`.

One line a check, with the number that decided it. On a Mac or an NVIDIA GPU the embedded model runs
as it is stored, 16 and 8 bits, so the bounds of whole networks are what that rounding costs, some
times over; bounds of single operations are float32's. On a machine whose device is the CPU every
check compares it with itself, at smaller sizes, which tells that the checks run.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from musicot_mlx.audio.chroma import chroma
from musicot_mlx.audio.mel import LogMel, stft
from musicot_mlx.evaluation import deep_networks
from musicot_mlx.evaluation.speed.hardware import peak_resident
from musicot_mlx.generation import device, musicgen
from musicot_mlx.generation.sampling import draw, draw_codebooks
from musicot_mlx.models.encodec import LSTM, Conv, ConvTranspose, Encodec, EncodecConfig
from musicot_mlx.models.musicgen import Musicgen, MusicgenConfig
from musicot_mlx.models.semantic_lm import merge_caches
from musicot_mlx.nn.adapters import add_layers, dense_weight
from musicot_mlx.nn.depthwise import DepthwiseConv1d
from musicot_mlx.pipelines.families import load
from musicot_mlx.pipelines.options import AS_MADE

PROMPT = "solo piano, slow and calm"
_EXACT = 1e-5  # of a single product or transform in float32
_SUMS = 1e-4  # of sums whose order differs
_HALF = 5e-3  # of one operation on 16-bit numbers
_NETWORK = 3e-2  # of a whole network in 16 or 8 bits


@dataclass(frozen=True)
class Outcome:
    """One line: the check's name, whether it held, and the figure that says so."""

    name: str
    ok: bool
    text: str

    def __str__(self) -> str:
        return f"{'ok' if self.ok else 'LOOK':<7} {self.name}: {self.text}"


def _float32_products() -> Iterator[Outcome]:
    a = np.random.default_rng(0).standard_normal((512, 512)).astype(np.float32)
    error = _error(mx.array(a) @ mx.array(a), a.astype(np.float64) @ a)
    yield _within("product of 512 rows", error, _EXACT, "; TF32 would make it 3e-4")


def _fourier() -> Iterator[Outcome]:
    rng = np.random.default_rng(0)
    for size in (1024, 2048, 16384):
        x = rng.standard_normal((3, size)).astype(np.float32)
        yield _within(f"rfft {size}", _error(mx.fft.rfft(mx.array(x)), np.fft.rfft(x)), _EXACT)
    parts = rng.standard_normal((2, 1025, 7, 2)).astype(np.float32)
    strided = mx.contiguous(mx.array(parts).transpose(0, 2, 1, 3))  # (batch, frames, bins, 2)
    inverse = mx.fft.irfft(strided.view(mx.complex64)[..., 0], n=2048)
    spectrum = (parts[..., 0] + 1j * parts[..., 1]).transpose(0, 2, 1)
    yield _within("irfft 2048", _error(inverse, np.fft.irfft(spectrum, n=2048)), _EXACT)


def _spectrograms() -> Iterator[Outcome]:
    x = mx.array(np.random.default_rng(0).standard_normal((2, 24000)).astype(np.float32))
    transforms: dict[str, Callable[[], mx.array]] = {
        "stft": lambda: stft(x, n_fft=1024, hop_length=480),
        "log-mel": lambda: LogMel(48000, 1024, 480, 64, 50, 14000)(x),
        "chroma": lambda: chroma(x),
    }
    for name, make in transforms.items():
        yield _within(name, _error(make(), _on_cpu(make)), _SUMS)


def _codec_layers() -> Iterator[Outcome]:
    config = EncodecConfig()
    for inputs, outputs, taps, stride, dilation in (
        (1, 64, 7, 1, 1),
        (64, 128, 8, 4, 1),
        (256, 128, 3, 1, 2),
    ):
        layer = Conv(config, inputs, outputs, taps, stride=stride, dilation=dilation)
        x = _normal(2, 400, inputs)
        name = f"convolution {inputs} to {outputs}, stride {stride}, dilation {dilation}"
        yield _within(name, _same(layer, x), _SUMS)
    for inputs, stride in ((512, 8), (128, 4)):
        layer, x = ConvTranspose(config, inputs, inputs // 2, stride=stride), _normal(1, 40, inputs)
        yield _within(f"transposed convolution, stride {stride}", _same(layer, x), _SUMS)
    layer, x = LSTM(256), _normal(1, 60, 256)
    yield _within("LSTM of 60 steps", _same(lambda v: layer(v)[0], x, layer), _SUMS)
    layer, x = DepthwiseConv1d(384, 7), _normal(1, 300, 384)
    yield _within("depthwise convolution", _same(layer, x), _SUMS)


def _attention() -> Iterator[Outcome]:
    """One query over many keys, rows padded on the left, as a batch of songs has them."""
    for keys in (300, 1100):
        q = _normal(2, 4, 1, 64).astype(mx.float16)
        k, v = (_normal(2, 2, keys, 64, seed=seed).astype(mx.float16) for seed in (2, 3))
        mask = (mx.arange(keys) >= mx.array([0, 57])[:, None])[:, None, None]
        attended = mx.fast.scaled_dot_product_attention(q, k, v, scale=0.125, mask=mask)
        q, k, v = (_host(value) for value in (q, k, v))
        k, v = np.repeat(k, 2, axis=1), np.repeat(v, 2, axis=1)
        scores = np.where(np.array(mask), q @ k.swapaxes(-1, -2) * 0.125, -np.inf)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        wanted = (weights / weights.sum(axis=-1, keepdims=True)) @ v
        yield _within(f"attention over {keys} keys", _error(attended, wanted), _HALF)
    x = _normal(2, 8, 215, 64)
    turned = _same(
        lambda v: mx.fast.rope(v, 32, traditional=False, base=10000.0, scale=1.0, offset=0), x
    )
    yield _within("rotary positions of half a head", turned, _SUMS)


def _packed_layers() -> Iterator[Outcome]:
    worst: dict[str, tuple[float, str]] = {}
    for part, network in _networks(_model()).items():
        for path, layer in network.named_modules():
            if not isinstance(layer, nn.QuantizedLinear):
                continue
            dense = _host(dense_weight(layer))
            bias = _host(layer.bias) if "bias" in layer else 0.0
            for rows in (1, 2, 3, 16, 65, 432):
                x = _normal(rows, dense.shape[1], seed=rows).astype(mx.float16)
                error = _error(layer(x), _host(x) @ dense.T + bias)
                worst[part] = max(worst.get(part, (0.0, "")), (error, f"; {path}, {rows} rows"))
    for part, (error, where) in worst.items():
        yield _within(f"quantised layers of {part}", error, _HALF, where)
    if not worst:
        yield Outcome("quantised layers", True, "none: on a CPU they are expanded")


def _networks_of_the_model() -> Iterator[Outcome]:
    rng = np.random.default_rng(0)
    small = device.on_cpu()
    tone = np.arange(44100 * (1 if small else 10)) / 44100
    tone = (0.3 * np.sin(2 * np.pi * 220 * tone)).astype(np.float32)
    frames = 24 if small else 215
    noise, codes = rng.standard_normal((2, frames, 1)), rng.integers(0, 1024, (2, 130))
    drawn = 0.7 * rng.standard_normal((1, 16 if small else 96, 1))

    def outputs_of(model: Any) -> dict[str, np.ndarray]:
        diffusion, vae, lm = model.diffusion, model.vae, model.semantic_lm
        texts = model.clap.embed_text([PROMPT, "fast techno beat"])
        clap = mx.array(np.tile(texts[:1][None], (2, 3, 1)))
        x = mx.array((noise * np.ones(diffusion.config.latent_dim)).astype(np.float32))
        conditions = diffusion.conditions(
            mx.array(codes.astype(np.int32)), clap, mx.zeros(2), 20 * mx.ones(2), frames=frames
        )
        times = diffusion.time_embeddings(mx.array([1.0, 0.5]))
        latents = mx.array((drawn * np.ones(vae.config.latent_dim)).astype(np.float32))
        audio = mx.broadcast_to(mx.array(tone)[None, :, None], (1, len(tone), 2))
        ids = [lm.config.cot_bos, *(lm.config.audio_offset + codes[0, :60]).tolist()]
        hidden = lm.hidden(lm.prefix(texts[0], ids), lm.make_cache())
        rate = model.semantic_tokenizer.config.sample_rate
        outputs = {
            "CLAP of text": texts,
            "CLAP of audio": model.clap.embed_audio(tone, 44100),
            "language model": lm.head(*lm.config.vocabulary.audio_range)(hidden),
            "diffusion at the start": diffusion.step(x, times[0], conditions),
            "diffusion half way": diffusion.step(0.5 * x, times[1], conditions),
            "VAE to audio": vae.decode(latents),
            "VAE from audio": vae.encode(audio[..., : vae.config.audio_channels]).mean,
            "codes": model.semantic_tokenizer.encode(mx.array(tone[None, : 10 * rate])),
        }
        return {name: _host(value) for name, value in outputs.items()}

    ours, wanted = outputs_of(_model()), _on_cpu(lambda: outputs_of(_model(exact=True)))
    for name, value in ours.items():
        if name == "codes":
            same = float((value == wanted[name]).mean())
            yield Outcome("codes of audio", same > 0.97, f"{100 * same:.1f} % the same")
        else:
            yield _within(name, _error(value, wanted[name]), _NETWORK)


def _networks_of_families() -> Iterator[Outcome]:
    """One line a network that the embedded model has not, with what is furthest off."""
    embedded = {network for network, _ in _model().family.get("parts").values()}
    for model_type, part, network in deep_networks.networks():
        found = list(deep_networks.compared(model_type, part, network, small=device.on_cpu()))
        for each in found:
            what, worst = max(each.errors(_on_cpu), key=lambda pair: pair[1])
            yield _within(f"{model_type}, {each.example.name}", worst, _NETWORK, f"; {what}")
        if not found and network not in embedded:
            yield Outcome(
                f"{model_type}, {part}", True, "not compared: nothing is known to feed it"
            )


def _rows_of_a_batch() -> Iterator[Outcome]:
    """A song of a batch, padded on the left, against it alone."""
    lm, lengths, steps = _model().semantic_lm, (310, 12), 4
    config = lm.config

    def tokens(count: int) -> mx.array:
        return config.audio_offset + mx.arange(count)[None] % config.audio_codebook_size

    def run(rows: Sequence[int]) -> mx.array:
        caches = [lm.make_cache() for _ in rows]
        for length, own in zip(rows, caches, strict=True):
            lm.hidden(lm.embed(tokens(length)), own)
        merged = merge_caches(caches)
        ids = mx.broadcast_to(tokens(steps), (len(rows), steps))
        states = [lm.hidden(lm.embed(ids[:, i : i + 1]), merged) for i in range(steps)]
        return mx.concatenate(states, axis=1)

    both = run(lengths)
    for row, length in enumerate(lengths):
        error = _error(both[row], run([length])[0])
        yield _within(f"row of {length} tokens in a batch", error, _NETWORK)


def _draws() -> Iterator[Outcome]:
    logits, count = 3 * _normal(1, 1024), 50
    keys = list(mx.random.split(mx.random.key(1), count))
    order = np.argsort(-_host(logits)[0])
    for settings in ({"temperature": 0.9}, {"temperature": 1.0, "top_k": 20}):

        def drawn(settings: dict[str, float] = settings) -> np.ndarray:
            return np.array(mx.concatenate([draw(logits, key, **settings) for key in keys]))

        codes = drawn()
        same = float((codes == _on_cpu(drawn)).mean())
        rank = max(int(np.flatnonzero(order == code)[0]) for code in codes)
        words = ", ".join(f"{name} {value:g}" for name, value in settings.items())
        yield Outcome(
            f"draws at {words}",
            same > 0.97 and rank < settings.get("top_k", 1024),
            f"{100 * same:.0f} % as on the CPU, the least likely of rank {rank}",
        )
    rows, pair = _normal(2, 4, 2048), mx.random.split(mx.random.key(3), 2)
    both = np.array(draw_codebooks(rows, pair, temperature=1.0, top_k=250))
    one = np.array(draw_codebooks(rows[:1], pair[:1], temperature=1.0, top_k=250))
    same = bool((both[0] == one[0]).all())
    yield Outcome("codes drawn alone and in a batch", same, "the same" if same else "differ")


def _musicgen() -> Iterator[Outcome]:
    """Random weights: the decoder's logits and the codec's audio against the CPU's."""
    small = device.on_cpu()
    tiny = dict(hidden_size=64, ffn_dim=128, num_attention_heads=1, num_hidden_layers=2)
    lm = Musicgen(MusicgenConfig(**tiny) if small else MusicgenConfig())
    narrow = dict(num_filters=4, hidden_size=16, codebook_dim=16)
    codec = Encodec(EncodecConfig(**narrow) if small else EncodecConfig())
    for network in (lm, codec):
        network.eval()
        mx.eval(network.parameters())
    condition = musicgen.MusicgenCondition(text=_normal(12, lm.config.text_hidden_size))

    def codes() -> np.ndarray:
        keys = [mx.random.key(0)]
        blocks = musicgen.generate_codes(lm, [condition], frames=10, keys=keys)
        return np.concatenate(list(blocks), axis=-1)

    ours, wanted = codes(), _on_cpu(codes)
    same = float((ours == wanted).mean())
    yield Outcome("MusicGen's codes", same > 0.9, f"{100 * same:.0f} % as on the CPU")

    def audio() -> np.ndarray:
        return np.array(codec.decode(mx.array(wanted)))

    yield _within("EnCodec to audio", _error(audio(), _on_cpu(audio)), 10 * _SUMS)


def _song() -> Iterator[Outcome]:
    model, seconds = _model(), 2 if device.on_cpu() else 20

    def waveform() -> np.ndarray:
        return model.generate(PROMPT, duration=seconds, seed=1, **AS_MADE).waveform

    waveform()
    began = time.perf_counter()
    song = waveform()
    spent = (time.perf_counter() - began) / seconds
    twice = bool(np.isfinite(song).all() and (waveform() == song).all())
    yield Outcome("a song twice", twice, f"{'the same' if twice else 'differ'}, RTF {spent:.3f}")
    chunks = model.stream(PROMPT, duration=seconds, seed=1, **AS_MADE)
    joined = np.concatenate(list(chunks))
    yield _within("a song streamed", _error(joined[: len(song)], song), 1e-2)
    with ThreadPoolExecutor(1) as pool:
        error = _error(pool.submit(waveform).result(), song)
    yield _within("a song from another thread", error, _EXACT)
    kept, peak = mx.get_cache_memory() / 1e9, mx.get_peak_memory() / 1e9
    text = f"{kept:.2f} GB of freed buffers kept, {peak:.2f} at most in use"
    text += f", {peak_resident() / 1e9:.2f} of the process"
    yield Outcome("memory of a song", kept < 1.1, text)


def _gradients() -> Iterator[Outcome]:
    """Backward through packed and 16-bit layers to LoRA's numbers, as tuning goes."""

    def gradient() -> np.ndarray:
        lm = load("musicot-mini").semantic_lm
        mx.random.seed(0)
        add_layers(lm, kind="lora", num_layers=1, rank=4, scale=10.0, dropout=0.0)
        weights = sorted(tree_flatten(lm.trainable_parameters()))
        rng = np.random.default_rng(1)
        drawn = [(k, 0.02 * rng.standard_normal(v.shape).astype(np.float32)) for k, v in weights]
        lm.load_weights([(name, mx.array(value)) for name, value in drawn], strict=False)
        row = lm.embed(lm.config.audio_offset + mx.arange(12)[None] % 8)
        step = nn.value_and_grad(lm, lambda: lm.hidden(row).astype(mx.float32).square().sum())
        gradients = sorted(tree_flatten(step()[1]))
        return np.concatenate([_host(value).ravel() for _, value in gradients])

    yield _within("gradients of LoRA", _error(gradient(), _on_cpu(gradient)), 2 * _NETWORK)


CHECKS: dict[str, Callable[[], Iterator[Outcome]]] = {
    "float32": _float32_products,
    "fourier": _fourier,
    "spectrograms": _spectrograms,
    "codec": _codec_layers,
    "attention": _attention,
    "quantised": _packed_layers,
    "networks": _networks_of_the_model,
    "families": _networks_of_families,
    "batch": _rows_of_a_batch,
    "draws": _draws,
    "musicgen": _musicgen,
    "song": _song,
    "gradients": _gradients,
}


def run(names: Sequence[str] = tuple(CHECKS)) -> Iterator[Outcome]:
    """The outcomes of checks as they come; one that fails to run is an outcome too."""
    for name in names:
        try:
            yield from CHECKS[name]()
        except Exception as error:  # it must not hide the others
            yield Outcome(name, False, f"{type(error).__name__}: {error}")


# --- helpers ----------------------------------------------------------------------------------


@cache
def _model(*, exact: bool = False) -> Any:
    """The embedded model: as stored, on this device; exact: in float32, loaded on the CPU."""
    return load("musicot-mini")


def _networks(model: Any) -> dict[str, nn.Module]:
    names = ("semantic_lm", "semantic_tokenizer", "diffusion", "vae")
    return {"CLAP": model.clap.clap} | {name: getattr(model, name) for name in names}


@contextmanager
def _cpu() -> Iterator[None]:
    before = mx.default_device()
    mx.set_default_device(mx.cpu)
    try:
        yield
    finally:
        mx.set_default_device(before)


def _on_cpu(make: Callable[[], Any]) -> Any:
    """What `make` gives on the CPU, evaluated there."""
    with _cpu():
        value = make()
        if isinstance(value, mx.array):
            mx.eval(value)
        return value


def _same(layer: Callable[[mx.array], mx.array], x: mx.array, owner: Any = None) -> float:
    """The error of a layer on the device against itself on the CPU, in float32."""
    mx.eval((owner or layer).parameters() if isinstance(owner or layer, nn.Module) else [], x)
    return _error(layer(x), _on_cpu(lambda: layer(x)))


def _normal(*shape: int, seed: int = 0) -> mx.array:
    return mx.array(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def _host(x: Any) -> np.ndarray:
    if isinstance(x, mx.array) and x.dtype in (mx.float16, mx.bfloat16):
        x = x.astype(mx.float32)
    return np.array(x)


def _error(got: Any, wanted: Any) -> float:
    """The length of the difference over that of what was wanted."""
    got, wanted = _host(got), _host(wanted)
    return float(np.linalg.norm(got - wanted) / max(np.linalg.norm(wanted), 1e-30))


def _within(name: str, error: float, bound: float, more: str = "") -> Outcome:
    return Outcome(name, error <= bound, f"error {error:.1e} of at most {bound:g}{more}")
