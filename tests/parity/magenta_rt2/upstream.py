"""What upstream makes of the tiny checkpoint: writes expected.npz and keys_encoder.tsv.gz.

    pip install magenta-rt==2.0.3 flax jaxtyping einops typeguard==2.13.3
    python -m tests.parity.magenta_rt2.upstream

Run by hand in an environment of its own: magenta-rt brings JAX, and the tests need only what it
answered. It imports much that is not needed here; stubs stand for that.
"""

import dataclasses
import gzip
import importlib.machinery
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

import numpy as np

from tests.support import tiny_magenta as tiny

HERE = Path(__file__).parent
FRAMES, SOUND_FRAMES, SAMPLES = 60, 6, 9600


class _Anything:
    """Whatever is asked of what is not there."""

    def __getattr__(self, name: str) -> Any:
        return _Anything()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return _Anything()

    def __or__(self, other: Any) -> Any:
        return object

    __ror__ = __or__


def stub(name: str, **values: Any) -> None:
    module = types.ModuleType(name)
    module.__dict__.update(values)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None)
    module.__path__ = []
    sys.modules[name] = module


def stub_all() -> None:
    names = "recurrentgemma recurrentgemma.jax librosa resampy soundfile ai_edge_litert google"
    for name in (*names.split(), "google.cloud", "simple_term_menu"):
        stub(name)
    stub("ai_edge_litert.interpreter", Interpreter=object)
    gemma = sys.modules["recurrentgemma"]
    for part in ("common", "complex_lib"):
        kinds = types.SimpleNamespace(ScanType=object, RealOrComplex=object, Complex=object)
        setattr(gemma, part, kinds)
    gemma.jax = sys.modules["recurrentgemma.jax"]


def narrow(config: Any) -> Any:
    """SpectroStream's config with a sixteenth of the channels, but for the embedding's."""
    return dataclasses.replace(config, encoder_base_conv_depth=2, decoder_base_conv_depth=4)


def made(seed: int) -> tuple[Any, Any]:
    """Upstream's experiment at the tiny sizes, and its sampler with the weights of a seed."""
    import mlx.core as mx
    from magenta_rt.mlx import load_weights, model, spectrostream, system
    from safetensors.numpy import save_file

    small = model.get_model_class("mrt2_small")
    sizes = {"dim_per_head": 16, "num_heads": 2}

    class Tiny(small):
        encoder_size = dataclasses.replace(small.encoder_size, model_dims=32)
        decoder_temporal_size = dataclasses.replace(
            small.decoder_temporal_size, num_layers=2, model_dims=48, hidden_dims=64, **sizes
        )
        decoder_depth_size = dataclasses.replace(
            small.decoder_depth_size, num_layers=1, model_dims=32, hidden_dims=40, **sizes
        )
        encoder_max_past_horizon = tiny.PAST
        decoder_temporal_self_attention_max_past_horizon = tiny.PAST
        decoder_temporal_cross_attention_max_past_horizon = tiny.PAST
        compute_dtype = mx.float32

    experiment = Tiny()
    codec = narrow(
        spectrostream.stft_spectrostream_40ms_generic_48khz_stereo_config(
            rvq_truncation_level=12, use_unique_codes=False
        )
    )
    sampler = system.MagentaRT2Sampler.Config(
        depthformer=experiment.depthformer_config(), spectrostream=codec, int16_outputs=False
    ).make()
    load_weights.convert_to_bf16 = lambda module: None
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tiny.safetensors"
        save_file(tiny.weights(tiny.shapes(), seed), file)
        load_weights.load_weights(
            sampler, str(file), num_input_channels=experiment.input_num_channels
        )
    return experiment, sampler


def song() -> dict[str, np.ndarray]:
    """Greedy tokens, their logits, and the sound of the first ones, by upstream's MLX code."""
    import mlx.core as mx
    import sequence_layers.mlx as sl
    from magenta_rt.mlx import depthformer

    _, sampler = made(0)
    logits: list[np.ndarray] = []
    plain = depthformer._sample_categorical_with_temperature

    def recorded(values: Any, *args: Any, **kwargs: Any) -> Any:
        found = kwargs.get("logits", values)
        logits.append(np.array(found.values)[0, 0])
        return plain(values, *args, **kwargs)

    depthformer._sample_categorical_with_temperature = recorded
    constants = {"temperature": mx.array([0.0]), "top_k": mx.array([40])}
    spec = sl.ChannelSpec(shape=(144,), dtype=mx.int32)
    rows = tiny.requests() + 7

    def block(frame: int) -> Any:
        return sl.Sequence(mx.array(rows[None, frame : frame + 1]), mx.array([[True]]))

    lm = sampler.layers[0]
    state, tokens = lm.get_initial_state(1, spec, constants=constants), []
    for frame in range(FRAMES):
        out, state = lm.step(x=block(frame), state=state, constants=constants)
        tokens.append(np.array(out.values)[0, 0])
    told = np.stack(logits[: 12 * FRAMES]).reshape(FRAMES, 12, -1)
    levels = np.stack([told[:, q, 6 + 1024 * q :][:, :1024] for q in range(12)], axis=1)
    state, sound = sampler.get_initial_state(1, spec, constants=constants), []
    for frame in range(SOUND_FRAMES):
        out, state, _ = sampler.step_with_emits(
            x=block(frame), state=state, constants=constants, training=False
        )
        sound.append(np.array(out.values)[0])
    return {
        "codes": ((np.stack(tokens) - 6) % 1024).T.astype(np.int16),
        "logits": levels[-4:].astype(np.float32),  # of the last frames, which hear all before
        "sound": np.concatenate(sound)[1920:],  # without upstream's first, silent frame
    }


def songs() -> dict[str, np.ndarray]:
    """Tokens of other weights and requests, and tokens drawn with known noise."""
    import mlx.core as mx
    import sequence_layers.mlx as sl

    def tokens(sampler: Any, rows: np.ndarray, temperature: float, top_k: int) -> np.ndarray:
        constants = {"temperature": mx.array([temperature]), "top_k": mx.array([top_k])}
        spec, lm, found = sl.ChannelSpec(shape=(144,), dtype=mx.int32), sampler.layers[0], []
        state = lm.get_initial_state(1, spec, constants=constants)
        for row in rows + 7:
            block = sl.Sequence(mx.array(row[None, None]), mx.array([[True]]))
            out, state = lm.step(x=block, state=state, constants=constants)
            found.append(np.array(out.values)[0, 0])
        return ((np.stack(found) - 6) % 1024).T.astype(np.int16)

    found = {}
    for seed in (1, 2):
        found[f"codes_{seed}"] = tokens(made(seed)[1], tiny.odd_requests(seed), 0.0, 40)
    (_, sampler), plain = made(0), mx.random.gumbel
    for number, (temperature, top_k) in enumerate(tiny.DRAWS):
        drawn = iter([tiny.noise(frame, level) for frame in range(60) for level in range(12)])
        mx.random.gumbel = lambda shape, key, drawn=drawn: mx.array(next(drawn)).reshape(shape)
        rows = tiny.odd_requests(3, tiny.DRAWN_FRAMES)
        found[f"drawn_{number}"] = tokens(sampler, rows, temperature, top_k)
    mx.random.gumbel = plain
    return found


def asked() -> dict[str, np.ndarray]:
    """What upstream makes of conditions and strengths for one frame, int16 (cases, 144)."""
    from magenta_rt import config
    from magenta_rt.mlx import system

    experiment, _ = made(0)
    keys = {"style": config.MUSICCOCA, "notes": config.PIANOROLL_WITH_ONSETS,
            "drums": config.DRUM_PIANOROLL}  # fmt: skip
    defaults = {"musiccoca": 3.0, "notes": 1.0, "drums": 1.0}
    host = types.SimpleNamespace(_model=experiment, cfg_scales=defaults, temperature=1, top_k=1)
    rows = []
    for wanted, strengths in tiny.ASKED:
        given = {}
        for name, value in wanted.items():
            own = value if name == "style" else [value] * {"notes": 128, "drums": 1}[name]
            given[keys[name].key] = own + [-1] * (12 - len(own)) if name == "style" else own
        scales = {{"style": "musiccoca"}.get(name, name): v for name, v in strengths.items()}
        block, _ = system.MagentaRT2System._build_conditioning(host, given, scales)
        rows.append(np.array(block.values)[0, 0])
    return {"asked": np.stack(rows).astype(np.int16)}


def encoded() -> dict[str, np.ndarray]:
    """Codes of noise, by upstream's JAX code; writes the names of the encoder's file."""
    import flax.traverse_util as flat
    import jax
    import sequence_layers.jax as sl
    from flax.core import meta
    from magenta_rt.jax import spectrostream

    full = spectrostream.stft_spectrostream_40ms_generic_48khz_stereo_config(
        rvq_truncation_level=12, encoded_truncation_level=12, use_unique_codes=False
    )
    wave = np.random.RandomState(1).standard_normal((1, SAMPLES, 2)).astype(np.float32) * 0.1

    def codes(module: Any, x: Any) -> Any:
        values = sl.Sequence.from_values(x)
        return module.waveform_to_codes_layer.layer(values, training=False).values

    def embeddings(module: Any, x: Any) -> Any:
        values = sl.Sequence.from_values(x)
        return module.waveform_to_embeddings_layer.layer(values, training=False).values

    def names(config: Any) -> dict[str, tuple[int, ...]]:
        made = config.make()
        key = {"params": jax.random.PRNGKey(0)}
        tree = meta.unbox(jax.eval_shape(lambda: made.init(key, wave, method=codes)))
        return {"/".join(path): value.shape for path, value in flat.flatten_dict(tree).items()}

    with gzip.GzipFile(HERE / "keys_encoder.tsv.gz", "wb", mtime=0) as file:
        for key, shape in sorted(names(full).items()):
            if key.startswith("params/encoder"):
                file.write(f"{key}\t{shape}\tfloat32\n".encode())
    arrays = tiny.weights(names(narrow(full)))
    shared = tiny.weights(tiny.shapes())["params/soundstream/quantizer/embedding"]
    arrays["params/quantizer/embedding"] = shared
    tree = flat.unflatten_dict({tuple(key.split("/")): value for key, value in arrays.items()})
    made = narrow(full).make()
    return {
        "heard": np.array(made.apply(tree, wave, method=codes))[0].T.astype(np.int16),
        "embeddings": np.array(made.apply(tree, wave, method=embeddings))[0],
    }


if __name__ == "__main__":
    stub_all()
    import magenta_rt  # noqa: F401  (brings sequence_layers)

    found = {**song(), **songs(), **asked(), **encoded()}
    np.savez_compressed(HERE / "expected.npz", **found)
    print({name: (value.shape, float(np.abs(value).max())) for name, value in found.items()})
