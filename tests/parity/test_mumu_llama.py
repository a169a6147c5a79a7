"""MuMu-LLaMA against its PyTorch twin: gates, routings, LoRA, biases, bridges, greedy answers."""

import mlx.core as mx
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from musicot_mlx.generation.mumu_llama import draw_tokens  # noqa: E402
from musicot_mlx.models.mumu_llama import MODALITIES  # noqa: E402
from musicot_mlx.nn.mlx_lm import LoRALinear  # noqa: E402
from musicot_mlx.reference import mumu_llama as reference  # noqa: E402
from tests.support import tiny_mumu as tiny  # noqa: E402

IDS = [1, 7, 30, 12, 5, 44, 3, 9, 21]
HEARD = [(), ("audio",), ("image", "video"), MODALITIES]


def _relative(ours: mx.array, theirs: torch.Tensor) -> float:
    expected = theirs.detach().numpy()
    assert ours.shape == expected.shape
    return np.abs(np.array(ours) - expected).max() / np.abs(expected).max()


def _both(model, bridges, names):
    """The named features as the twin has them, and as MLX makes them."""
    parts = tiny.features(model)
    theirs = {name: model.feature(name, parts[name]) for name in names}
    ours = {}
    for name in names:
        given = tiny.as_mlx(parts[name])
        if name == "audio":
            pooled = bridges.pool_audio([given[:, n] for n in range(given.shape[1])])
        else:
            pooled = bridges.pool(name, given)
        ours[name] = bridges.feature(name, pooled)
    return theirs, ours


@pytest.mark.parametrize("merge", [True, False], ids=["merged", "kept"])
@pytest.mark.parametrize("generation", tiny.GENERATIONS)
def test_logits_of_what_is_heard_and_seen(generation: str, merge: bool) -> None:
    model = tiny.twin(generation)
    llama, words, bridges = tiny.networks(model, merge=merge)
    ids, seen = torch.tensor([IDS]), []
    for names in HEARD:
        theirs, ours = _both(model, bridges, names)
        for name in names:
            assert _relative(ours[name], theirs[name][:, 0]) < 1e-4
        expected = model(ids, theirs)
        hidden = llama(words.embed(mx.array([IDS])), offsets=llama.offsets(ours))
        assert _relative(words.logits(hidden), expected) < 1e-4
        seen.append(expected.detach().numpy())
    # each of them changes what is said, or the comparison would prove nothing
    assert all(np.abs(seen[0] - other).max() > 0.1 for other in seen[1:])


def test_adapters_do_not_hear_lora() -> None:
    """With values that took LoRA along the answer would be another."""
    model = tiny.twin()
    llama, words, _ = tiny.networks(model)
    expected = model(torch.tensor([IDS]))
    for lora in llama.value_lora:
        lora.b = mx.zeros_like(lora.b)
    hidden = llama(words.embed(mx.array([IDS])), offsets=llama.offsets({}))
    assert _relative(words.logits(hidden), expected) > 1e-3


def test_lora_of_ones_own_is_heard_alike_merged_kept_and_fused() -> None:
    """On values, where upstream's is left out of what adapters hear: one's own is not."""
    model = tiny.twin()
    lora_a, lora_b = (mx.random.normal(s, key=mx.random.key(3)) for s in ((64, 2), (2, 64)))
    said = {}
    for way in ("merged", "kept", "fused"):
        llama, words, _ = tiny.networks(model, merge=way != "kept")
        values = llama.layers[-1].self_attn.v_proj
        if way == "fused":
            values.weight = values.weight + (lora_a @ lora_b).T
        else:
            worn = LoRALinear.from_base(values.linear if way == "kept" else values, r=2, scale=1.0)
            worn.lora_a, worn.lora_b = lora_a, lora_b
            if way == "kept":
                values.linear = worn
            else:
                llama.layers[-1].self_attn.v_proj = worn
        offsets = llama.offsets({})
        if way == "merged":
            plain = tiny.networks(model)[0].offsets({})[-1]
            assert mx.abs(offsets[-1] - plain).max().item() > 0.1, "it is not heard"
        said[way] = np.array(words.logits(llama(words.embed(mx.array([IDS])), offsets=offsets)))
    largest = np.abs(said["merged"]).max()
    for way in ("kept", "fused"):
        assert np.abs(said[way] - said["merged"]).max() / largest < 1e-4


@pytest.mark.parametrize("generation", ["sum", "split"])
def test_greedy_answers_are_the_same_over_64_tokens(generation: str) -> None:
    model = tiny.twin(generation, seed=2)
    llama, words, bridges = tiny.networks(model)
    theirs, ours = _both(model, bridges, ("audio", "image"))
    offsets = llama.offsets(ours)
    expected = model.greedy(IDS, 64, theirs)
    assert len(set(expected)) > 10, "a model that repeats itself proves nothing"
    cached = draw_tokens(
        llama, words, IDS, offsets=offsets, limit=64, temperature=0, key=mx.random.key(0)
    )
    assert list(cached) == expected
    plain = list(IDS)
    for _ in range(64):
        hidden = llama(words.embed(mx.array([plain])), offsets=offsets)
        plain.append(words.logits(hidden)[0, -1].argmax().item())
    assert plain[len(IDS) :] == expected


def test_rows_of_a_batch_hear_their_own() -> None:
    model = tiny.twin()
    llama, words, bridges = tiny.networks(model)
    parts = tiny.features(model, batch=2)
    theirs = {name: model.feature(name, value) for name, value in parts.items()}
    ours = {name: tiny.as_mlx(value[:, 0]) for name, value in theirs.items()}
    ids = [IDS, IDS[::-1]]
    hidden = llama(words.embed(mx.array(ids)), offsets=llama.offsets(ours))
    assert _relative(words.logits(hidden), model(torch.tensor(ids), theirs)) < 1e-4


def test_loss_and_its_gradients() -> None:
    """What training differs by: gates, queries and bridges are on the way of the gradient."""
    model = tiny.twin()
    llama, words, bridges = tiny.networks(model)
    parts, labels = tiny.features(model), [0, 0, 0, *IDS[3:]]
    features = {name: model.feature(name, value) for name, value in parts.items()}
    loss = model.loss(torch.tensor([IDS]), torch.tensor([labels]), features)
    loss.backward()

    def ours(gates: mx.array, queries: mx.array) -> mx.array:
        llama.gates, llama.queries = gates, queries
        heard = {name: tiny.as_mlx(value[:, 0]) for name, value in features.items()}
        hidden = llama(words.embed(mx.array([IDS])), offsets=llama.offsets(heard))
        logits = words.logits(hidden)[:, :-1]
        picked = mx.take_along_axis(logits, mx.array([labels])[:, 1:, None], axis=-1)[..., 0]
        asked = mx.array([labels])[:, 1:] != 0
        return ((mx.logsumexp(logits, axis=-1) - picked) * asked).sum() / asked.sum()

    value, (gates, queries) = mx.value_and_grad(ours, (0, 1))(llama.gates, llama.queries)
    assert abs(value.item() / loss.item() - 1) < 1e-4
    theirs = [layer.attention.gate.grad.flatten() for layer in model.llama.layers[1:]]
    assert _relative(gates, torch.stack(theirs)) < 1e-3
    assert _relative(queries, model.prefix_query.weight.grad) < 1e-3


def test_trunk_is_transformers_llama() -> None:
    """Without adapters, gates closed: the twin itself is held against another's LLaMA."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = tiny.TINY
    model = tiny.twin()
    with torch.no_grad():
        for layer in model.llama.layers:
            layer.attention.gate.zero_()
    theirs = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=config.num_attention_heads,
            rms_norm_eps=config.norm_eps,
            attention_bias=True,
            mlp_bias=True,
            tie_word_embeddings=False,
        )
    ).eval()
    theirs.load_state_dict(_as_transformers(model))
    ids = torch.tensor([IDS])
    with torch.no_grad():
        torch.testing.assert_close(model(ids), theirs(ids).logits, rtol=1e-4, atol=1e-4)


def _as_transformers(model: reference.MumuLlama) -> dict[str, torch.Tensor]:
    """Its weights under transformers' names: LoRA merged, halves of a head instead of pairs."""
    config, out = model.config, {}
    dim = config.hidden_size // config.num_attention_heads

    def halves(x: torch.Tensor) -> torch.Tensor:
        pairs = x.reshape(config.num_attention_heads, dim // 2, 2, *x.shape[1:])
        return pairs.transpose(1, 2).reshape(x.shape)

    for number, layer in enumerate(model.llama.layers):
        at = f"model.layers.{number}."
        for block, theirs, names in (
            (layer.attention, "self_attn", {"wq": "q", "wk": "k", "wv": "v", "wo": "o"}),
            (layer.feed_forward, "mlp", {"w1": "gate", "w2": "down", "w3": "up"}),
        ):
            for ours, name in names.items():
                linear = getattr(block, ours)
                down, up = (getattr(block, f"lora_{ours}_l{n}").weight for n in (1, 2))
                bias = linear.bias if linear.bias is not None else torch.zeros(len(linear.weight))
                turn = halves if name in ("q", "k") else lambda x: x
                out[f"{at}{theirs}.{name}_proj.weight"] = turn(linear.weight + up @ down)
                out[f"{at}{theirs}.{name}_proj.bias"] = turn(bias)
        out[f"{at}input_layernorm.weight"] = layer.attention_norm.weight
        out[f"{at}post_attention_layernorm.weight"] = layer.ffn_norm.weight
    out["model.embed_tokens.weight"] = model.llama.tok_embeddings.weight
    out["model.norm.weight"] = model.llama.norm.weight
    out["lm_head.weight"] = model.llama.output.weight
    return {key: value.detach() for key, value in out.items()}


def test_published_sizes() -> None:
    """The formula's parameters are those that the published files hold."""
    with torch.device("meta"):
        model = reference.MumuLlama(reference.MumuConfig())
    counts = {"llama": 0, "prefix_query": 0, "bridges": 0}
    for name, value in model.named_parameters():
        kind = name.split(".")[0]
        counts[kind if kind in counts else "bridges"] += value.numel()
    assert round(counts["llama"] / 1e9, 3) == 6.780
    assert counts["prefix_query"] == 18 * 4096
    assert round(counts["bridges"] / 1e6, 1) == 463.5
