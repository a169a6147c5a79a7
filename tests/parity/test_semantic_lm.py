"""Semantic LM: MLX against transformers' LlamaForCausalLM, in logits and in greedy tokens.

The PyTorch side recomputes the whole sequence for every token; the MLX side has caches, merged
rows of different lengths, a sliced head and steps queued ahead. Weights are random, large enough
that the logits are lively, and the RoPE base is far from any default, so a silent fallback shows.
"""

import mlx.core as mx
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from musicot_mlx.convert.keymaps.semantic_lm import RULES  # noqa: E402
from musicot_mlx.convert.rules import apply_rules  # noqa: E402
from musicot_mlx.generation.semantic import SemanticCondition, audio_tokens, plan_thoughts  # noqa: E402
from musicot_mlx.models.semantic_lm import SemanticLM, SemanticLMConfig  # noqa: E402
from musicot_mlx.reference.semantic_lm import SemanticLM as TorchSemanticLM  # noqa: E402
from musicot_mlx.reference.semantic_lm import hidden_spans  # noqa: E402
from musicot_mlx.tokens.beats import beat_features  # noqa: E402
from musicot_mlx.tokens.tempo import TEMPO_TAGS, tempo_tag  # noqa: E402
from musicot_mlx.tokens.vocabulary import AUD_BOS  # noqa: E402

CONFIG = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "rope_theta": 321.0,
    "max_position_embeddings": 1024,
    "clap_dim": 12,
    "text_vocab_size": 20,
    "tags": ["jazz", "rock"],
    "thought_codebooks": 4,
    "thought_codebook_size": 16,
    "audio_codebook_size": 64,
    "audio_frame_rate": 25.0,
    "thought_seconds": 10.0,
    "context_seconds": 30.0,
}
TAGS, LYRICS = [31], [6, 12, 14, 7, 20]
CHORDS = ((0.0, "Am"), (1.3, "F"), (2.0, "N"), (3.0, "G7/B"))
KEY = mx.random.key(0)


@pytest.fixture(scope="module")
def twins():
    return make_twins(CONFIG)


def make_twins(config):
    """The network in MLX and in PyTorch with the same lively weights."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    reference = TorchSemanticLM(config).eval()
    with torch.no_grad():
        for name, weight in reference.named_parameters():
            if "norm" in name:
                weight.add_(0.2 * torch.randn_like(weight))
            else:
                weight.copy_(torch.randn_like(weight) * weight.shape[-1] ** -0.5)
        reference.llama.lm_head.weight.mul_(1.5)
    arrays = {name: mx.array(value.numpy()) for name, value in reference.state_dict().items()}
    lm = SemanticLM(SemanticLMConfig.from_dict(config))
    lm.load_weights(list(apply_rules(RULES, arrays).items()), strict=True)
    return lm, reference


@pytest.fixture(scope="module")
def clap():
    return np.random.default_rng(1).normal(size=12).astype(np.float32)


def test_logits(twins, clap):
    lm, reference = twins
    generator = np.random.default_rng(2)
    thoughts = generator.integers(0, 16, (4, 3))
    audio = generator.integers(0, 64, 200)
    row = reference.row(TAGS, LYRICS, thoughts, audio)
    with torch.no_grad():
        embedded = reference.embed(torch.tensor([row]), torch.tensor(clap)[None])
        expected = reference.llama(inputs_embeds=embedded).logits.numpy()
    got = np.array(lm(None, None, lm.prefix(clap, row[1:])))
    assert np.abs(expected).max() > 3, "the logits should be lively"
    assert np.abs(got - expected).max() < 1e-5 * np.abs(expected).max()


def test_the_rope_base_is_read(twins, clap):
    lm, _ = twins
    other = SemanticLM(SemanticLMConfig.from_dict({**CONFIG, "rope_theta": 10000.0}))
    other.update(lm.parameters())
    prefix = lm.prefix(clap, list(range(10, 60)))
    assert mx.abs(lm(None, None, prefix) - other(None, None, prefix)).max().item() > 0.1
    _, reference = twins
    assert reference.llama.config.rope_parameters["rope_theta"] == 321.0


@pytest.mark.parametrize("scale", [1.0, 2.3])
def test_greedy_thoughts(twins, clap, scale):
    lm, reference = twins
    expected = reference.plan_thoughts(
        torch.tensor(clap), TAGS, LYRICS, segments=3, temperature=0.0, guidance_scale=scale
    )
    got = plan_thoughts(
        lm,
        SemanticCondition(clap, TAGS, LYRICS),
        segments=3,
        temperature=0.0,
        guidance_scale=scale,
        key=KEY,
    )
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(
    ("scale", "unconditional"),
    [
        (1.0, "without_thoughts"),
        (1.3, "without_thoughts"),
        (1.3, "with_thoughts"),
        (3.0, "with_thoughts"),
    ],
)
def test_greedy_audio_over_256_steps(twins, clap, scale, unconditional):
    lm, reference = twins
    thoughts = np.random.default_rng(3).integers(0, 16, (4, 2)).astype(np.int32)
    settings = {
        "frames": 256,
        "temperature": 0.0,
        "guidance_scale": scale,
        "unconditional": unconditional,
    }
    expected = reference.audio_tokens(
        torch.tensor(clap), TAGS, LYRICS, thoughts=thoughts, **settings
    )
    got = audio_tokens(lm, SemanticCondition(clap, TAGS, LYRICS), thoughts, key=KEY, **settings)
    got = np.concatenate(list(got))
    assert len(np.unique(expected)) > 8, "the song should not be stuck on one code"
    np.testing.assert_array_equal(got, expected)


def test_audio_without_thoughts(twins, clap):
    lm, reference = twins
    settings = {"frames": 64, "temperature": 0.0, "guidance_scale": 1.3}
    expected = reference.audio_tokens(torch.tensor(clap), TAGS, LYRICS, thoughts=None, **settings)
    nothing = np.zeros((4, 0), np.int32)
    got = audio_tokens(lm, SemanticCondition(clap, TAGS, LYRICS), nothing, key=KEY, **settings)
    np.testing.assert_array_equal(np.concatenate(list(got)), expected)


def test_guidance_changes_the_song(twins, clap):
    """All readings would pass the test above if the second row had no say."""
    lm, _ = twins
    thoughts = np.random.default_rng(3).integers(0, 16, (4, 2)).astype(np.int32)
    songs = {
        (scale, unconditional): np.concatenate(
            list(
                audio_tokens(
                    lm,
                    SemanticCondition(clap, TAGS, LYRICS),
                    thoughts,
                    frames=64,
                    temperature=0.0,
                    guidance_scale=scale,
                    unconditional=unconditional,
                    key=KEY,
                )
            )
        ).tobytes()
        for scale, unconditional in [
            (1.0, "without_thoughts"),
            (1.3, "without_thoughts"),
            (1.3, "with_thoughts"),
        ]
    }
    assert len(set(songs.values())) == 3


def test_training_rows_are_what_generation_feeds(twins, clap):
    """The loss of the reference, from MLX log-probabilities of the same sequence."""
    lm, reference = twins
    generator = np.random.default_rng(4)
    thoughts, audio = generator.integers(0, 16, (4, 2)), generator.integers(0, 64, 40)
    batch = {
        "clap": torch.tensor(clap)[None].repeat(2, 1),
        "tags": [TAGS, []],
        "lyrics": [LYRICS, []],
        "thoughts": [thoughts, thoughts[:, :1]],
        "audio": [audio, audio[:20]],
    }
    total, count = 0.0, 0
    for i in range(2):
        ids = reference.row(
            batch["tags"][i], batch["lyrics"][i], batch["thoughts"][i], batch["audio"][i]
        )
        logits = np.array(lm(None, None, lm.prefix(clap, ids[1:])))[0].astype(np.float64)
        logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        first = ids.index(1) + 1
        total -= sum(logp[t - 1, ids[t]] for t in range(first, len(ids)))
        count += len(ids) - first
    assert abs(reference.loss(batch).item() - total / count) < 1e-4


def test_training_drops_conditions_and_thoughts_at_the_stated_rates(twins, monkeypatch):
    _, reference = twins
    seen = []
    inputs = TorchSemanticLM.inputs

    def spy(self, batch, *, drop_conditions=None, drop_thoughts=None, hide_history=None):
        seen.append((drop_conditions, drop_thoughts))
        return inputs(self, batch, drop_conditions=drop_conditions, drop_thoughts=drop_thoughts)

    monkeypatch.setattr(TorchSemanticLM, "inputs", spy)
    size = 400
    batch = {
        "clap": torch.zeros(size, 12),
        "tags": [[]] * size,
        "lyrics": [[]] * size,
        "thoughts": [np.zeros((4, 1), int)] * size,
        "audio": [np.zeros(1, int)] * size,
    }
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        reference.train()
        reference.loss(batch, generator=generator)
        reference.eval()
        reference.loss(batch, generator=generator)
    conditions, thoughts = (np.array(flags) for flags in seen[0])
    assert 0.06 < conditions.mean() < 0.14 and 0.02 < thoughts.mean() < 0.08
    assert conditions[thoughts].all(), "thoughts are dropped only where the conditions are"
    assert not np.any(seen[1])


def test_dropped_rows_have_the_shapes_of_the_guidance_rows(twins):
    _, reference = twins
    thoughts, audio = np.zeros((4, 1), int), np.zeros(2, int)
    full = reference.row(TAGS, [], thoughts, audio)
    assert full[:3] == [-1, 31, 1] and full[-1] == 4
    assert reference.row(TAGS, [], thoughts, audio, conditions=False) == full[2:]
    audio_start = reference.vocabulary.audio_offset
    alone = reference.row(TAGS, [], None, audio, conditions=False)
    assert alone == [3, audio_start, audio_start, 4]


def test_thought_bias(clap):
    """The same numbers to 1e-5, and the same greedy tokens where they lean on them."""
    lm, reference = make_twins({**CONFIG, "thought_bias_rank": 8})
    thoughts = np.random.default_rng(5).integers(0, 16, (4, 2)).astype(np.int32)
    with torch.no_grad():
        expected = reference.thought_bias(torch.tensor(thoughts.T).long()).numpy()
    got = np.array(lm.thought_bias(thoughts[None])[0])
    assert got.shape == (2, 64)
    assert np.abs(got - expected).max() < 1e-5 * np.abs(expected).max()
    settings = {"frames": 300, "temperature": 0.0, "guidance_scale": 1.3, "thought_bias": 0.7}
    wanted = reference.audio_tokens(torch.tensor(clap), TAGS, LYRICS, thoughts=thoughts, **settings)
    codes = audio_tokens(lm, SemanticCondition(clap, TAGS, LYRICS), thoughts, key=KEY, **settings)
    np.testing.assert_array_equal(np.concatenate(list(codes)), wanted)


def test_tempo_head(clap):
    """The same logits to 1e-5, of which the model's own tags take the best."""
    tags = [tempo_tag(73), tempo_tag(104)]
    lm, reference = make_twins({**CONFIG, "tags": tags, "tempo_head": True})
    with torch.no_grad():
        expected = reference.tempo_head(torch.tensor(clap)).numpy()
    got = np.array(lm.tempo_head(mx.array(clap)))
    assert got.shape == (29,) and np.abs(got - expected).max() < 1e-5 * np.abs(expected).max()
    best = max(tags, key=lambda tag: expected[TEMPO_TAGS.index(tag)])
    assert lm.usual_tempo(clap) == best
    assert make_twins(CONFIG)[0].usual_tempo(clap) is None


@pytest.mark.parametrize(("scale", "unconditional"), [(1.0, 0.0), (1.3, 0.0), (3.0, 0.5)])
def test_beats(clap, scale, unconditional):
    """The same greedy tokens at a tempo, which are others than at none."""
    beats = {"beat_harmonics": 6, "unconditional_beats": unconditional}
    lm, reference = make_twins({**CONFIG, **beats})
    thoughts = np.random.default_rng(5).integers(0, 16, (4, 1)).astype(np.int32)
    settings = {"frames": 128, "temperature": 0.0, "guidance_scale": scale}
    wanted = [
        reference.audio_tokens(torch.tensor(clap), TAGS, thoughts=thoughts, bpm=bpm, **settings)
        for bpm in (0.0, 96.0)
    ]
    got = [
        np.concatenate(
            list(
                audio_tokens(
                    lm, SemanticCondition(clap, TAGS, bpm=bpm), thoughts, key=KEY, **settings
                )
            )
        )
        for bpm in (0.0, 96.0)
    ]
    np.testing.assert_array_equal(got, wanted)
    assert (wanted[0] != wanted[1]).any()


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_chords(clap, scale):
    """The same greedy tokens with chords, beats beside them or not, which are others than without;
    a song of two windows reads them from its own start."""
    lm, reference = make_twins({**CONFIG, "harmony": True, "beat_harmonics": 6})
    thoughts = np.random.default_rng(5).integers(0, 16, (4, 1)).astype(np.int32)
    settings = {"frames": 100, "temperature": 0.0, "guidance_scale": scale}
    found = []
    for bpm, chords in ((0.0, ()), (0.0, CHORDS), (96.0, CHORDS)):
        wanted = reference.audio_tokens(
            torch.tensor(clap), TAGS, thoughts=thoughts, bpm=bpm, chords=chords, **settings
        )
        condition = SemanticCondition(clap, TAGS, bpm=bpm, chords=chords)
        got = np.concatenate(list(audio_tokens(lm, condition, thoughts, key=KEY, **settings)))
        np.testing.assert_array_equal(got, wanted)
        found.append(got)
    assert all((a != b).any() for a, b in zip(found[:-1], found[1:], strict=True))


def test_beats_go_to_the_inputs_that_predict_their_frames():
    _, reference = make_twins({**CONFIG, "beat_harmonics": 6})
    generator = np.random.default_rng(6)
    batch = {
        "clap": torch.zeros(3, 12),
        "tags": [TAGS] * 3,
        "lyrics": [LYRICS, [], []],
        "thoughts": [generator.integers(0, 16, (4, 1)) for _ in range(3)],
        "audio": [generator.integers(0, 64, 40) for _ in range(3)],
    }
    features = beat_features(np.full(40, 100.0), frame_rate=25.0, harmonics=6)
    plain = reference.inputs(batch).embeddings
    told = reference.inputs({**batch, "beats": [features, features, None]}).embeddings
    added = reference.beat_proj(torch.from_numpy(features))
    for i in range(2):
        first = reference.row(TAGS, batch["lyrics"][i], batch["thoughts"][i], []).index(AUD_BOS)
        torch.testing.assert_close(
            told[i, first : first + 40], plain[i, first : first + 40] + added
        )
        assert torch.equal(told[i, :first], plain[i, :first])
        assert torch.equal(told[i, first + 40 :], plain[i, first + 40 :])
    assert torch.equal(told[2], plain[2])
    dropped = [True, False, True]  # conditions, not beats
    plain = reference.inputs(batch, drop_conditions=dropped).embeddings
    batch["beats"] = [features, features, None]
    told = reference.inputs(batch, drop_conditions=dropped).embeddings
    assert not torch.equal(told[0], plain[0]) and torch.equal(told[2], plain[2])


def test_hidden_history_is_a_target_all_the_same(twins):
    _, reference = twins
    generator = np.random.default_rng(6)
    batch = {
        "clap": torch.zeros(1, 12),
        "tags": [TAGS],
        "lyrics": [LYRICS],
        "thoughts": [generator.integers(0, 16, (4, 1))],
        "audio": [generator.integers(0, 64, 40)],
    }
    hidden = torch.zeros(40, dtype=torch.bool)
    hidden[10:20] = True
    seen, whole = reference.inputs(batch, hide_history=[hidden]), reference.inputs(batch)
    assert torch.equal(seen.targets, whole.targets)
    differs = (seen.embeddings != whole.embeddings).any(-1)[0]
    first = len(reference.row(TAGS, LYRICS, batch["thoughts"][0], batch["audio"][0])) - 41
    assert differs.nonzero()[:, 0].tolist() == list(range(first + 10, first + 20))
    spans = [hidden_spans(100, 0.5, torch.Generator().manual_seed(i)) for i in range(200)]
    shares = [0.0 if span is None else span.float().mean().item() for span in spans]
    assert 60 < sum(share == 0 for share in shares) < 140 and max(shares) == 1.0
