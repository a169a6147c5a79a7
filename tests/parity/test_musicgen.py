"""MusicGen: T5, EnCodec and decoder against transformers, seeded random weights; greedy codes."""

import mlx.core as mx
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from transformers import EncodecConfig, EncodecModel  # noqa: E402
from transformers.audio_utils import chroma_filter_bank as torch_filters  # noqa: E402
from transformers.models.t5.modeling_t5 import T5Attention  # noqa: E402

from musicot_mlx.audio.chroma import chroma, chroma_filter_bank  # noqa: E402
from musicot_mlx.generation.musicgen import MusicgenCondition, generate_codes  # noqa: E402
from musicot_mlx.models.t5 import relative_buckets  # noqa: E402
from tests.parity import musicgen as twins  # noqa: E402

STEREO = {"num_codebooks": 8, "audio_channels": 2}
IDS = torch.tensor([[5, 7, 1, 0, 0], [3, 9, 8, 2, 1]])
MASK = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
FRAMES = 200


@pytest.fixture(scope="module")
def mono():
    model = twins.reference()
    return model, *twins.twin(model)


@pytest.fixture(scope="module")
def melody():
    model = twins.reference(melody=True)
    return model, *twins.twin(model)


def draw(lm, conditions, **settings) -> np.ndarray:
    keys = list(mx.random.split(mx.random.key(0), len(conditions) + 1))[1:]
    settings = {"temperature": 0.0, "frames": FRAMES, **settings}
    return np.concatenate(list(generate_codes(lm, conditions, keys=keys, **settings)), axis=-1)


def texts(encoder, ids=IDS, mask=MASK) -> list[mx.array]:
    """Hidden states of each row, without its padding."""
    hidden = encoder(mx.array(ids.numpy()), mx.array(mask.numpy() == 1))
    return [row[: int(count)] for row, count in zip(hidden, mask.sum(1), strict=True)]


def assert_alike(codes: np.ndarray, expected: np.ndarray) -> None:
    assert codes.shape == expected.shape
    assert len(np.unique(expected)) > 20, "a model that repeats itself proves nothing"
    np.testing.assert_array_equal(codes, expected)


@pytest.mark.parametrize("feed_forward", ["relu", "gated-gelu"])
def test_t5_within_1e_5(feed_forward):
    model = twins.reference(text={"feed_forward_proj": feed_forward})
    encoder, _, _ = twins.twin(model)
    ids = torch.from_numpy(np.random.default_rng(0).integers(0, 50, (2, 150)))
    mask = (torch.arange(150) < torch.tensor([[150], [90]])).long()
    with torch.no_grad():
        states = model.text_encoder(input_ids=ids, attention_mask=mask).last_hidden_state
    assert states.std() > 0.3
    for ours, theirs, count in zip(texts(encoder, ids, mask), states, mask.sum(1), strict=True):
        expected = theirs[:count].numpy()
        error = np.abs(np.array(ours) - expected).max()
        assert error < 1e-5 * max(1.0, np.abs(expected).max())


def test_t5_distances_fall_into_the_same_buckets():
    distance = torch.arange(700)[None, :] - torch.arange(700)[:, None]
    expected = T5Attention._relative_position_bucket(distance, num_buckets=32, max_distance=128)
    ours = relative_buckets(700, buckets=32, max_distance=128)
    np.testing.assert_array_equal(ours, expected.numpy())


@pytest.mark.parametrize("samples", [1, 700, 25617])
def test_encodec_codes_and_waveform(mono, samples):
    model, _, _, codec = mono
    audio = 0.3 * np.random.default_rng(0).standard_normal((2, samples, 1)).astype(np.float32)
    with torch.no_grad():
        expected = model.audio_encoder.encode(torch.from_numpy(audio.swapaxes(1, 2)))
        heard = model.audio_encoder.decode(expected.audio_codes, [None]).audio_values.numpy()
    codes = expected.audio_codes[0].numpy()
    assert len(np.unique(codes)) > min(samples // 200, 20)
    np.testing.assert_array_equal(np.array(codec.encode(mx.array(audio))), codes)
    np.testing.assert_array_equal(np.array(codec.encode(mx.array(audio), longest=7)), codes)
    waveform = np.array(codec.decode(mx.array(codes)))
    assert np.abs(heard).max() > 0.05
    np.testing.assert_allclose(waveform, heard.swapaxes(1, 2), atol=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_residual_layers": 2, "use_conv_shortcut": True, "use_causal_conv": True},
        {"num_residual_layers": 3, "upsampling_ratios": [3, 2], "pad_mode": "constant"},
    ],
)
def test_encodec_of_other_shapes(changes):
    config = {**twins.CODEC, **changes}
    rate = -(-32000 // int(np.prod(config["upsampling_ratios"])))
    bandwidth = [3 * rate * 6 / 1000]
    model = EncodecModel(
        EncodecConfig(**config, normalize=False, target_bandwidths=bandwidth)
    ).eval()
    twins.randomize(model)
    codec = twins.codec_twin(model)
    audio = 0.3 * np.random.default_rng(0).standard_normal((1, 601, 1)).astype(np.float32)
    with torch.no_grad():
        expected = model.encode(torch.from_numpy(audio.swapaxes(1, 2))).audio_codes
        heard = model.decode(expected, [None]).audio_values.numpy().swapaxes(1, 2)
    np.testing.assert_array_equal(np.array(codec.encode(mx.array(audio))), expected[0].numpy())
    waveform = np.array(codec.decode(mx.array(expected[0].numpy())))
    np.testing.assert_allclose(waveform, heard, atol=1e-4)


def test_logits_within_1e_4(mono):
    model, encoder, lm, _ = mono
    tokens = np.random.default_rng(0).integers(0, twins.VOCAB + 1, (2, 4, 30))
    with torch.no_grad():
        expected = model(
            input_ids=IDS, attention_mask=MASK, decoder_input_ids=torch.tensor(tokens).flatten(0, 1)
        ).logits.unflatten(0, (2, 4))
    hidden = encoder(mx.array(IDS.numpy()), mx.array(MASK.numpy() == 1))
    cross = lm.cross(hidden, mx.array(MASK.numpy() == 1))
    logits = np.array(lm(mx.array(tokens), cross=cross))
    assert expected.std() > 0.5
    np.testing.assert_allclose(logits, expected.numpy(), atol=1e-4)


@pytest.mark.parametrize("text", [{}, {"d_model": 16, "d_kv": 8, "num_heads": 2}])
def test_greedy_codes_and_waveform_of_two_prompts(text):
    """200 frames with guidance 3, prompts of unequal length in one batch; with and without
    a projection of the text."""
    model = twins.reference(text=text)
    encoder, lm, codec = twins.twin(model)
    assert ("enc_to_dec_proj" in lm) == (not text)
    expected, heard = twins.generate(
        model, input_ids=IDS, attention_mask=MASK, max_new_tokens=FRAMES + 3
    )
    codes = draw(lm, [MusicgenCondition(row) for row in texts(encoder)])
    assert_alike(codes, expected)
    np.testing.assert_allclose(np.array(codec.decode(mx.array(codes))), heard, atol=1e-4)


def test_greedy_stereo():
    """Trap 6: eight interleaved codebooks, and a mono codec run per channel."""
    model = twins.reference(decoder=STEREO)
    encoder, lm, codec = twins.twin(model)
    expected, heard = twins.generate(
        model, input_ids=IDS[1:], attention_mask=MASK[1:], max_new_tokens=FRAMES + 3
    )
    codes = draw(lm, [MusicgenCondition(texts(encoder)[1])])
    assert_alike(codes, expected)
    waveform = np.array(codec.decode(mx.array(codes)))
    assert waveform.shape == heard.shape == (1, FRAMES * 640, 2)
    np.testing.assert_allclose(waveform, heard, atol=1e-4)
    assert np.abs(waveform[..., 0] - waveform[..., 1]).mean() > 0.01, "left and right are the same"


def test_greedy_without_guidance(mono):
    model, encoder, lm, _ = mono
    expected, _ = twins.generate(
        model, input_ids=IDS, attention_mask=MASK, max_new_tokens=FRAMES + 3, guidance_scale=1.0
    )
    codes = draw(lm, [MusicgenCondition(row) for row in texts(encoder)], guidance_scale=1.0)
    assert_alike(codes, expected)


def test_greedy_continuation(mono):
    model, encoder, lm, _ = mono
    start = np.random.default_rng(1).integers(0, twins.VOCAB, (2, 4, 40))
    expected, _ = twins.generate(
        model,
        input_ids=IDS,
        attention_mask=MASK,
        decoder_input_ids=torch.from_numpy(start).flatten(0, 1),
        max_new_tokens=FRAMES - 40 + 3,
    )
    codes = draw(lm, [MusicgenCondition(row) for row in texts(encoder)], start=start)
    assert_alike(np.concatenate([start, codes], axis=-1), expected)


@pytest.mark.parametrize("frames", [None, 4, 9, 20])
def test_greedy_melody(melody, frames):
    """Chroma shorter than, as long as and longer than the prefix holds, and none."""
    model, encoder, lm, _ = melody
    heard, inputs = None, {}
    if frames:
        heard = np.eye(12, dtype=np.float32)[np.random.default_rng(2).integers(0, 12, (2, frames))]
        inputs["input_features"] = torch.from_numpy(heard)
    mask = torch.ones_like(IDS)  # the reference lets a melody model hear its padding; we do not
    count = 60 if frames else FRAMES
    expected, _ = twins.generate(
        model, input_ids=IDS, attention_mask=mask, max_new_tokens=count + 3, **inputs
    )
    chromas = [None, None] if heard is None else list(map(mx.array, heard))
    rows = zip(texts(encoder, IDS, mask), chromas, strict=True)
    codes = draw(lm, [MusicgenCondition(text, chroma) for text, chroma in rows], frames=count)
    assert_alike(codes, expected)


def test_greedy_stereo_melody():
    model = twins.reference(melody=True, decoder=STEREO)
    encoder, lm, _ = twins.twin(model)
    heard = np.eye(12, dtype=np.float32)[np.random.default_rng(3).integers(0, 12, (1, 9))]
    expected, _ = twins.generate(
        model,
        input_ids=IDS[1:],
        attention_mask=MASK[1:],
        input_features=torch.from_numpy(heard),
        max_new_tokens=63,
    )
    condition = MusicgenCondition(texts(encoder)[1], mx.array(heard[0]))
    assert_alike(draw(lm, [condition], frames=60), expected)


def test_chroma_is_the_feature_extractors():
    """MusicgenMelodyFeatureExtractor needs torchaudio; here are its lines in torch alone."""
    filters = torch_filters(num_frequency_bins=16384, num_chroma=12, sampling_rate=32000)
    np.testing.assert_array_equal(chroma_filter_bank(16384, sample_rate=32000).T, filters)
    rng, time = np.random.default_rng(0), np.arange(60000) / 32000
    tones = [np.sin(2 * np.pi * 220 * 2 ** (note / 12) * time) for note in (0, 4, 7)]
    audio = np.stack([np.concatenate([tones[0][:30000], tones[1][:30000]]), tones[2]])
    audio = (audio + 0.01 * rng.standard_normal(audio.shape)).astype(np.float32)
    spectrum = torch.stft(
        torch.from_numpy(audio), 16384, 4096, window=torch.hann_window(16384), return_complex=True
    )
    raw = torch.einsum("cf,bft->bct", torch.from_numpy(filters).float(), spectrum.abs() ** 2)
    expected = torch.nn.functional.normalize(raw, p=float("inf"), dim=-2).argmax(1)
    ours = np.array(chroma(mx.array(audio)))
    assert ours.shape == (2, 15, 12) and (ours.sum(-1) == 1).all()
    np.testing.assert_array_equal(ours.argmax(-1), expected.numpy())
    assert ours[1, 7].argmax() == 4, "E is the fourth step above C"
