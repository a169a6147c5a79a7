"""MusicCoCa in PyTorch as its TFLite files hold it: what models/musiccoca.py is compared with.

Written from what is known of the files (tensor names and shapes of google/magenta-realtime-2, and
the operations between them), not from our network: the arrays keep upstream's names, axes and
quirks. The text tower's layers stand one by one; those of the audio tower and the mapper are
stacked by layer, with the scale of norms less 1 and queries unscaled in the audio tower.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

FILL = -2.38e38  # logits of padding
Sizes = Mapping[str, Any]  # the `musiccoca` section of config.json


def shapes(sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """Every array: file / name -> shape; after a colon what tells two of one name apart."""
    d, f, layers = sizes["dim"], sizes["ffn"], sizes["layers"]
    h, w = sizes["heads"], sizes["head_dim"]
    pool = (sizes["pool_heads"], sizes["pool_dim"])
    mel, side = sizes["mel"], sizes["patch"]
    patches = (mel["frames"] // side) * (mel["bins"] // side)
    out: dict[str, tuple[int, ...]] = {
        "audio_preprocessor/linear_to_mel_weight_matrix/Maximum": (mel["fft"] // 2, mel["bins"]),
        "audio_preprocessor/hann_window": (mel["frame"],),
        "text_encoder/emb": (sizes["vocab"], d),
        "text_encoder/position_emb": (1, sizes["text_length"], d),
        "music_encoder/patch_projection/linear": (d, side * side),
        "music_encoder/entry_stack/add": (1, patches, d),
    }

    def norm(name: str) -> None:
        out[name + "/broadcast_in_dim"] = out[name + "/broadcast_in_dim1"] = (1, 1, d)

    for file, kind in (("text_encoder", "txt"), ("music_encoder", "music")):
        norm(f"{file}/exit_stack/ln")
        pooler, flat = f"{file}/contrastive_{kind}_pooler/", pool[0] * pool[1]
        out[pooler + "pool_attn/query/qk_einsum"] = (1, pool[0], 1, pool[1])
        for what, shape in (("key", (flat, d)), ("value", (flat, d)), ("post", (d, flat))):
            out[f"{pooler}pool_attn/{what}/einsum"] = shape
            out[f"{pooler}pool_attn/{what}/add"] = shape[:1]
        norm(pooler + "pool_attn_ln")
    for i in range(layers):
        layer = f"text_encoder/x_layers_{i}/"
        out[layer + "self_attention/query/_scale_query/mul:weight"] = (h * w, d)
        out[layer + "self_attention/query/_scale_query/mul:bias"] = (h * w,)
        for what, shape in (("key", (h * w, d)), ("value", (h * w, d)), ("post", (d, h * w))):
            out[f"{layer}self_attention/{what}/einsum"] = shape
            out[f"{layer}self_attention/{what}/add"] = shape[:1]
        norm(layer + "layer_norm")
        norm(layer + "ff_layer/layer_norm")
        for n, shape in ((1, (f, d)), (2, (d, f))):
            out[f"{layer}ff_layer/ffn_layer{n}/linear"] = shape
            out[f"{layer}ff_layer/ffn_layer{n}/bias"] = shape[:1]
    stacked: dict[int, tuple[int, ...]] = {46: (f,), 47: (d, f), 48: (d,), 49: (f, d)}
    stacked |= dict.fromkeys((50, 51, 52, 53, 56), (d,))
    stacked |= dict.fromkeys((54, 58, 60), (h, w)) | dict.fromkeys((55, 57, 59, 61), (d, h, w))
    out |= {f"music_encoder/jax2tf_arg_{n}": (layers, *shape) for n, shape in stacked.items()}
    if mapper := sizes["mapper"]:
        m, t, g = mapper["width"], mapper["tokens"], mapper["ffn"]
        n, w, c = mapper["heads"], mapper["head_dim"], mapper["context"]
        out["mapper/arith.constant1"] = (1, 1, c)
        out["mapper/input_projection:weight"], out["mapper/input_projection:bias"] = (
            (t * m, d),
            (t * m,),
        )
        out["mapper/output_projection:weight"], out["mapper/output_projection:bias"] = (
            (d, t * m),
            (d,),
        )
        stacked = {2: (2, m), 3: (2 * c + d, 2, m), 4: (m,), 5: (m, 3, n, w), 6: (1, n, w)}
        stacked |= {7: (1, n, w), 8: (m, n, w), 9: (2, m), 10: (2 * c + d, 2, m), 11: (g,)}
        stacked |= {12: (m, g), 13: (m,), 14: (g, m), 15: (m,)}
        out |= {f"mapper/jax2tf_arg_{a}": (mapper["layers"], *s) for a, s in stacked.items()}
    return out


class MusicCoCaReference:
    """The four graphs over arrays named as `shapes` names them."""

    def __init__(self, arrays: Mapping[str, Tensor], sizes: Sizes) -> None:
        self._arrays, self._sizes = arrays, sizes

    def text(self, ids: Tensor, paddings: Tensor) -> Tensor:
        """Ids (rows, text_length) with 1.0 in paddings where a row is filled up: (rows, dim)."""
        get = self._getter("text_encoder/")
        x, keep = get("emb")[ids] + get("position_emb"), 1 - paddings[..., None]
        mask = paddings[:, None, None] > 0.5
        for i in range(self._sizes["layers"]):
            of = self._getter(f"text_encoder/x_layers_{i}/")
            y = self._norm(x, f"text_encoder/x_layers_{i}/layer_norm")
            q = F.linear(
                y,
                of("self_attention/query/_scale_query/mul:weight"),
                of("self_attention/query/_scale_query/mul:bias"),
            )
            k, v = (
                F.linear(y, of(f"self_attention/{w}/einsum"), of(f"self_attention/{w}/add"))
                for w in ("key", "value")
            )
            heads = (z.unflatten(-1, (self._sizes["heads"], -1)) for z in (q, k, v))
            y = self._attend(*heads, mask).flatten(2)
            x = x + F.linear(y, of("self_attention/post/einsum"), of("self_attention/post/add"))
            y = self._norm(x, f"text_encoder/x_layers_{i}/ff_layer/layer_norm")
            w1, b1 = of("ff_layer/ffn_layer1/linear"), of("ff_layer/ffn_layer1/bias")
            w2, b2 = of("ff_layer/ffn_layer2/linear"), of("ff_layer/ffn_layer2/bias")
            x = x + F.linear(F.gelu(F.linear(y, w1, b1)) * keep, w2, b2) * keep
        x = self._norm(x, "text_encoder/exit_stack/ln")
        return self._pool(x, "text_encoder/contrastive_txt_pooler/", mask[:, 0])

    def log_mel(self, clips: Tensor) -> Tensor:
        """Clips (rows, samples) to (rows, frames, bins)."""
        mel, get = self._sizes["mel"], self._getter("audio_preprocessor/")
        before = F.pad(clips, (1, 0))[:, :-1]
        frames = (clips - mel["pre_emphasis"] * before).unfold(1, mel["frame"], mel["hop"])
        power = torch.fft.rfft(frames * get("hann_window"), n=mel["fft"]).abs().square()
        matrix = F.pad(get("linear_to_mel_weight_matrix/Maximum"), (0, 0, 1, 0))
        return (power @ matrix + mel["floor"]).log()[:, : mel["frames"]]

    def audio(self, clips: Tensor) -> Tensor:
        """Clips (rows, samples) to (rows, dim)."""
        get, arg = self._getter("music_encoder/"), self._getter("music_encoder/jax2tf_arg_")
        mel, side = self.log_mel(clips), self._sizes["patch"]
        patches = mel.unfold(1, side, side).unfold(2, side, side)  # (rows, time, bins, 16, 16)
        x = F.linear(patches.flatten(3).flatten(1, 2), get("patch_projection/linear"))
        x = x + get("entry_stack/add")
        scale = self._sizes["head_dim"] ** -0.5
        for i in range(self._sizes["layers"]):
            y = F.layer_norm(x, x.shape[-1:], arg("53")[i] + 1, arg("52")[i], 1e-6)
            q, k, v = (
                torch.einsum("btd,dnh->btnh", y, arg(kernel)[i]) + arg(bias)[i]
                for kernel, bias in (("59", "58"), ("55", "54"), ("61", "60"))
            )
            y = self._attend(q * scale, k, v, None)
            x = x + torch.einsum("btnh,dnh->btd", y, arg("57")[i]) + arg("56")[i]
            y = F.layer_norm(x, x.shape[-1:], arg("51")[i] + 1, arg("50")[i], 1e-6)
            x = x + F.gelu(y @ arg("47")[i] + arg("46")[i]) @ arg("49")[i] + arg("48")[i]
        x = self._norm(x, "music_encoder/exit_stack/ln")
        return self._pool(x, "music_encoder/contrastive_music_pooler/", None)

    def map(self, text: Tensor, noise: Tensor) -> Tensor:
        """Vectors of texts and noise (rows, dim) to unit vectors (rows, dim)."""
        get, arg = self._getter("mapper/"), self._getter("mapper/jax2tf_arg_")
        sizes = self._sizes["mapper"]
        learned = get("arith.constant1")[0].expand(len(text), -1)
        context = torch.cat([learned, learned, text], dim=-1)
        x = F.linear(noise, get("input_projection:weight"), get("input_projection:bias"))
        x = x.unflatten(1, (sizes["tokens"], -1))
        for i in range(sizes["layers"]):
            y = self._adapted(x, arg("4")[i], context, arg("3")[i], arg("2")[i])
            q, k, v = torch.einsum("btd,dknh->kbtnh", y, arg("5")[i])
            q, k = _rotated(q), _rotated(k)
            sink = torch.einsum("btnh,snh->bnts", q, arg("6")[i])
            own = torch.einsum("btnh,bsnh->bnts", q, k) / sizes["head_dim"] ** 0.5
            logits = sizes["cap"] * torch.tanh(torch.cat([sink, own], -1) / sizes["cap"])
            v = torch.cat([arg("7")[i].expand(len(v), -1, -1, -1), v], dim=1)
            y = torch.einsum("bnts,bsnh->btnh", logits.softmax(-1), v)
            x = x + torch.einsum("btnh,dnh->btd", y, arg("8")[i])
            y = self._adapted(x, arg("15")[i], context, arg("10")[i], arg("9")[i])
            y = F.gelu(y @ arg("12")[i] + arg("11")[i], approximate="tanh")
            x = x + y @ arg("14")[i] + arg("13")[i]
        y = F.linear(x.flatten(1), get("output_projection:weight"), get("output_projection:bias"))
        return F.normalize(y, dim=-1)

    def _getter(self, prefix: str) -> Any:
        return lambda name: self._arrays[prefix + name]

    def _norm(self, x: Tensor, name: str) -> Tensor:
        scale = self._arrays[name + "/broadcast_in_dim1"].flatten()
        return F.layer_norm(
            x, x.shape[-1:], scale, self._arrays[name + "/broadcast_in_dim"].flatten(), 1e-6
        )

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        cap = self._sizes["cap"]
        logits = cap * torch.tanh(torch.einsum("btnh,bsnh->bnts", q, k) / cap)
        if mask is not None:
            logits = logits.masked_fill(mask, FILL)
        return torch.einsum("bnts,bsnh->btnh", logits.softmax(-1), v)

    def _pool(self, x: Tensor, prefix: str, mask: Tensor | None) -> Tensor:
        of = self._getter(prefix + "pool_attn/")
        k, v = (
            F.linear(x, of(f"{w}/einsum"), of(f"{w}/add")).unflatten(
                -1, (self._sizes["pool_heads"], -1)
            )
            for w in ("key", "value")
        )
        logits = torch.einsum("nh,bsnh->bns", of("query/qk_einsum")[0, :, 0], k)
        if mask is not None:
            logits = logits.masked_fill(mask, FILL)
        y = torch.einsum("bns,bsnh->bnh", logits.softmax(-1), v).flatten(1)
        return self._norm(F.linear(y, of("post/einsum"), of("post/add")), prefix + "pool_attn_ln")

    @staticmethod
    def _adapted(x: Tensor, norm: Tensor, context: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
        scale, shift = (torch.einsum("bc,ckd->kbd", context, kernel) + bias[:, None])[:, :, None]
        return F.rms_norm(x, x.shape[-1:], norm, 1e-6) * (scale + 1) + shift


def _rotated(x: Tensor) -> Tensor:
    """Rotary positions over (rows, time, heads, head_dim), the halves of head_dim as pairs."""
    half = x.shape[-1] // 2
    angle = torch.arange(x.shape[1])[:, None] * 1e4 ** (-torch.arange(half) / half)
    sin, cos = angle.sin()[:, None], angle.cos()[:, None]
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
