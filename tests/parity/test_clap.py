"""CLAP against transformers: front end, both towers, key maps. Weights are random and seeded."""

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from musicot_mlx.audio.mel import LogMel, mel_filter_bank
from musicot_mlx.convert.keymaps.clap import LAION_RULES, RULES
from musicot_mlx.convert.keymaps.clap import config as convert_config
from musicot_mlx.convert.rules import apply_rules
from musicot_mlx.errors import MusicotError
from musicot_mlx.models.clap import Clap, ClapConfig
from musicot_mlx.models.htsat import bicubic_matrix
from musicot_mlx.pipelines.clap import ClapEmbedder

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from transformers import ClapConfig as TorchConfig  # noqa: E402
from transformers import ClapFeatureExtractor, ClapModel  # noqa: E402
from transformers.audio_utils import mel_filter_bank as reference_filters  # noqa: E402

FEATURES = {
    "feature_size": 16,
    "sampling_rate": 8000,
    "fft_window_size": 256,
    "hop_length": 80,
    "max_length_s": 2,
    "frequency_min": 50,
    "frequency_max": 4000,
    "truncation": "rand_trunc",
}


def torch_config(eps: float = 1e-5, **audio) -> TorchConfig:
    text = {
        "vocab_size": 40,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "max_position_embeddings": 20,
        "layer_norm_eps": eps,
    }
    audio = {
        "spec_size": 64,
        "num_mel_bins": 16,
        "patch_embeds_hidden_size": 16,
        "depths": [2, 2, 1],
        "num_attention_heads": [2, 4, 8],
        "window_size": 4,
        "hidden_size": 64,
        **audio,
    }
    return TorchConfig(text_config=text, audio_config=audio, projection_dim=12)


def pair(eps: float = 1e-5, **audio) -> tuple[ClapModel, Clap]:
    """The same seeded weights in both, scaled so that every layer matters."""
    reference = ClapModel(torch_config(eps, **audio)).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in reference.named_parameters():
            if "_embeddings" in name:  # small, so that layer_norm_eps shows
                value.normal_(0, 0.02, generator=generator)
            elif "table" in name:
                value.normal_(0, 1.0, generator=generator)
            elif value.ndim >= 2:
                value.normal_(0, 1.5 * value[0].numel() ** -0.5, generator=generator)
            elif name.endswith("weight"):
                value.uniform_(0.5, 1.5, generator=generator)
            elif name.endswith("bias"):
                value.normal_(0, 0.3, generator=generator)
        norm = reference.audio_model.audio_encoder.batch_norm
        norm.running_mean.normal_(-40, 10, generator=generator)
        norm.running_var.uniform_(50, 400, generator=generator)
    ours = Clap(ClapConfig.from_dict(convert_config(reference.config.to_dict(), FEATURES)))
    arrays = {key: mx.array(value.numpy()) for key, value in reference.state_dict().items()}
    ours.load_weights(list(apply_rules(RULES, arrays).items()), strict=True)
    return reference, ours


def mel_input(rows: int, frames: int) -> np.ndarray:
    """Uneven spectrograms, so that rows differ after pooling."""
    rng = np.random.default_rng(1)
    tilt = rng.normal(0, 25, (rows, 1, 16)) + rng.normal(0, 25, (rows, frames, 1))
    return (tilt + rng.normal(-40, 15, (rows, frames, 16))).astype(np.float32)


@pytest.mark.parametrize("frames", [201, 256])
@pytest.mark.parametrize(
    "audio",
    [{}, {"qkv_bias": False}, {"mlp_ratio": 2.5, "hidden_act": "relu"}, {"layer_norm_eps": 1e-3}],
)
def test_audio_tower(frames, audio):
    reference, ours = pair(**audio)
    mel = mel_input(3, frames)
    with torch.no_grad():
        expected = reference.get_audio_features(input_features=torch.from_numpy(mel[:, None]))
    expected = expected.pooler_output.numpy()
    found = np.array(ours.embed_mel(mx.array(mel)))
    assert (expected @ expected.T).min() < 0.99, "the inputs are too alike to test anything"
    assert np.abs(found - expected).max() < 1e-5


@pytest.mark.parametrize("eps", [1e-5, 1e-12])
def test_text_tower(eps):
    reference, ours = pair(eps)
    rng = np.random.default_rng(2)
    ids, mask = rng.integers(3, 40, (3, 18)), np.ones((3, 18), dtype=np.int64)
    ids[:, 0], ids[1, 9:], mask[1, 9:], ids[2, 2:], mask[2, 2:] = 0, 1, 0, 1, 0
    with torch.no_grad():
        expected = reference.get_text_features(torch.from_numpy(ids), torch.from_numpy(mask))
    expected = expected.pooler_output.numpy()
    found = np.array(ours.embed_text_ids(mx.array(ids), mx.array(mask)))
    assert (expected @ expected.T).min() < 0.99, "the inputs are too alike to test anything"
    assert np.abs(found - expected).max() < 1e-5


def test_text_layer_norm_eps_is_read():
    _, laion = pair(1e-5)
    _, small = pair(1e-12)
    ids = mx.array([[0, 5, 6, 7, 2]])
    assert mx.abs(laion.embed_text_ids(ids) - small.embed_text_ids(ids)).max().item() > 1e-4


@pytest.mark.parametrize("seconds", [0.07, 0.7, 1.3, 2.0])
def test_waveform_to_embedding(seconds):
    """Short audio is padded as the feature extractor does; the rest of the path agrees too."""
    reference, ours = pair()
    waveform = np.random.default_rng(3).standard_normal(round(8000 * seconds)) * 0.2
    features = ClapFeatureExtractor(**FEATURES)(waveform, sampling_rate=8000, return_tensors="pt")[
        "input_features"
    ]
    with torch.no_grad():
        expected = reference.get_audio_features(input_features=features.float())
    found = ClapEmbedder(ours).embed_audio(waveform, 8000)
    assert np.abs(found - expected.pooler_output.numpy()).max() < 1e-5


def test_training_twin_agrees_with_the_embedder():
    """Audio, captions and tokenizer as reference/clap.py trains on them, at the released rate."""
    from musicot_mlx.reference import clap as twin

    config = {
        "text_config": {
            "vocab_size": 300, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
            "intermediate_size": 24, "max_position_embeddings": 12, "layer_norm_eps": 1e-5,
            "hidden_dropout_prob": 0.0,
        },
        "audio_config": {
            "patch_size": 8, "patch_stride": [8, 8], "patch_embeds_hidden_size": 8,
            "depths": [2, 2, 1], "num_attention_heads": [2, 2, 2], "hidden_size": 32,
        },
        "projection_dim": 8,
    }  # fmt: skip
    captions = ["Slow solo piano", "fast jazz with a walking bass and drums, then more drums"]
    tokenizer = twin.train_tokenizer(captions * 9, 300)
    torch.manual_seed(0)
    reference = twin.build_clap(config).eval()
    ours = Clap(ClapConfig.from_dict(convert_config(config)))
    arrays = {key: mx.array(value.numpy()) for key, value in reference.state_dict().items()}
    ours.load_weights(list(apply_rules(RULES, arrays).items()), strict=True)
    ids, mask = twin.tokenize(tokenizer, captions, 10)
    embedder = ClapEmbedder(ours, tokenizer)
    assert np.array_equal(embedder.text_ids(captions)[0], ids.numpy())
    assert np.array_equal(embedder.text_ids(captions)[1], mask.numpy())
    waveform = np.random.default_rng(6).standard_normal(2 * 480000).astype(np.float32) * 0.1
    with torch.no_grad():
        text = twin.embed_text(reference, ids, mask).numpy()
        mel = twin.ClapFrontEnd()(torch.from_numpy(waveform.reshape(2, -1)))
        audio = twin.embed_audio(reference, mel).numpy()
    assert np.abs(embedder.embed_text(captions) - text).max() < 1e-5
    assert np.abs(embedder.embed_audio(waveform, 48000) - audio).max() < 1e-5


def test_released_log_mel():
    """48 kHz, 10 s: (1001, 64) within 1e-3 dB of the feature extractor."""
    rng = np.random.default_rng(4)
    time = np.arange(480000) / 48000
    waveform = 0.2 * np.sin(2 * np.pi * 330 * time**1.2) + 0.02 * rng.standard_normal(480000)
    extractor = ClapFeatureExtractor(frequency_min=50, truncation="rand_trunc")
    expected = extractor(waveform, sampling_rate=48000)["input_features"][0][0]
    found = np.array(ClapConfig().log_mel()(mx.array(waveform[None].astype(np.float32))))[0]
    assert found.shape == expected.shape == (1001, 64)
    assert np.abs(found - expected).max() < 1e-3


@pytest.mark.parametrize("scale", ["slaney", "htk"])
@pytest.mark.parametrize("norm", ["slaney", None])
@pytest.mark.parametrize(("rate", "n_fft", "mels"), [(48000, 1024, 64), (22050, 512, 40)])
def test_filter_banks(scale, norm, rate, n_fft, mels):
    ours = mel_filter_bank(
        n_fft, mels, sample_rate=rate, min_frequency=30, max_frequency=11000, scale=scale, norm=norm
    )
    theirs = reference_filters(n_fft // 2 + 1, mels, 30, 11000, rate, norm=norm, mel_scale=scale)
    assert np.abs(ours - theirs).max() < 1e-12


def test_uncentered_natural_log_mel_equals_torch():
    """The front end of the semantic tokenizer: no centring, natural log, a floor of 1e-8."""
    waveform = np.random.default_rng(5).standard_normal((2, 5000)).astype(np.float32)
    ours = LogMel(
        24000, 512, 240, 40, 30.0, 12000.0, "htk", centered=False, decibels=False, floor=1e-8
    )
    spectrum = torch.stft(
        torch.from_numpy(waveform), 512, 240, window=torch.hann_window(512), center=False,
        return_complex=True,
    )  # fmt: skip
    filters = reference_filters(257, 40, 30.0, 12000.0, 24000, norm="slaney", mel_scale="htk")
    power = torch.view_as_real(spectrum).square().sum(-1).transpose(1, 2)
    expected = (power @ torch.from_numpy(filters).float()).clamp(min=1e-8).log()
    assert np.abs(np.array(ours(mx.array(waveform))) - expected.numpy()).max() < 1e-4


@pytest.mark.parametrize(("length", "target"), [(201, 256), (1001, 1024), (2, 9), (1, 4)])
def test_bicubic(length, target):
    x = torch.randn(
        1, 1, length, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    theirs = torch.nn.functional.interpolate(x, (target, 3), mode="bicubic", align_corners=True)
    ours = bicubic_matrix(length, target) @ x[0, 0].numpy()
    assert np.abs(ours - theirs[0, 0].numpy()).max() < 1e-12


# --- key maps ---


def to_laion(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same weights under laion_clap's names, with the keys that only its files hold."""
    out, joined = {}, {}
    for key, value in state.items():
        name = key.replace("audio_model.audio_encoder.", "audio_branch.")
        name = name.replace("text_model.", "text_branch.").replace(".batch_norm.", ".bn0.")
        name = name.replace("_projection.linear1", "_projection.0")
        name = name.replace("_projection.linear2", "_projection.2")
        if name.startswith("audio_branch.layers"):
            for theirs, ours in (
                ("norm1", "layernorm_before"),
                ("norm2", "layernorm_after"),
                ("attn.proj", "attention.output.dense"),
                ("attn", "attention.self"),
                ("mlp.fc1", "intermediate.dense"),
                ("mlp.fc2", "output.dense"),
            ):
                name = name.replace(f".{ours}.", f".{theirs}.")
            for index, part in enumerate(("query", "key", "value")):
                if f".{part}." in name:
                    joined.setdefault(name.replace(part, "qkv"), [None] * 3)[index] = value
                    break
            else:
                out[name] = value
        else:
            out[name] = value
    out.update({name: np.concatenate(parts) for name, parts in joined.items()})
    for name in (
        "audio_branch.spectrogram_extractor.stft.conv_real.weight",
        "audio_branch.spectrogram_extractor.stft.conv_imag.weight",
        "audio_branch.logmel_extractor.melW",
        "audio_branch.layers.0.blocks.1.attn_mask",
        "audio_branch.tscam_conv.weight",
        "audio_branch.head.bias",
        "audio_transform.sequential.0.weight",
        "text_transform.sequential.3.bias",
    ):
        out[name] = np.zeros(3, dtype=np.float32)
    return out


def test_laion_names_give_the_same_weights():
    reference, ours = pair()
    state = {key: value.numpy() for key, value in reference.state_dict().items()}
    arrays = {key: mx.array(value) for key, value in to_laion(state).items()}
    found = apply_rules(LAION_RULES, arrays)
    expected = dict(tree_flatten(ours.parameters()))
    assert set(found) == set(expected)
    assert all(mx.array_equal(found[key], expected[key]) for key in expected)


def test_unknown_key_is_an_error():
    for rules in (RULES, LAION_RULES):
        with pytest.raises(MusicotError, match="audio_model.audio_encoder.extra"):
            apply_rules(rules, {"audio_model.audio_encoder.extra": mx.zeros(1)})


@pytest.mark.parametrize(
    "audio",
    [
        {},
        {
            "patch_embeds_hidden_size": 128,
            "depths": [2, 2, 12, 2],
            "num_attention_heads": [4, 8, 16, 32],
            "hidden_size": 1024,
        },
    ],
    ids=["htsat-tiny", "htsat-base"],
)
def test_released_keys_and_shapes(audio):
    """laion/clap-htsat-unfused and laion/larger_clap_music by name and shape, no weights."""
    source = TorchConfig(audio_config=audio)
    with torch.device("meta"):
        state = ClapModel(source).state_dict()
    arrays = {key: mx.zeros(tuple(value.shape)) for key, value in state.items()}  # lazy
    found = {key: value.shape for key, value in apply_rules(RULES, arrays).items()}
    ours = Clap(ClapConfig.from_dict(convert_config(source.to_dict())))
    expected = {key: value.shape for key, value in tree_flatten(ours.parameters())}
    assert found == expected
    dropped = [rule for rule in RULES if rule.target is None]
    assert len(apply_rules(dropped, {k: v for k, v in arrays.items() if k not in expected})) == 0


def test_config_keeps_the_front_end():
    source = torch_config().to_dict()
    assert convert_config(source, FEATURES)["feature_config"]["hop_length"] == 80
    section = {**source, "feature_config": {"hop_length": 160}}
    assert convert_config(section)["feature_config"] == {"hop_length": 160}
    assert "feature_config" not in convert_config(source)


def test_fusion_checkpoints_are_refused():
    source = torch_config().to_dict()
    source["audio_config"]["enable_fusion"] = True
    with pytest.raises(MusicotError, match="without fusion"):
        convert_config(source)
