"""Semantic tokenizer: a conformer pretrained with BEST-RQ, then a codebook on top, 25 codes a
second (PyTorch).

BEST-RQ (arXiv 2202.01855) masks spans of log-mel frames and predicts the code that a frozen random
projection and random codebook give the hidden frames. The paper (arXiv 2503.19611, section 4.1)
then fine-tunes with CTC on lyrics, so that tokens carry words. Music without words has a score
instead: here the codebook is trained to give back the log-mel frames and, where the data names
them, the sounding notes and drum onsets of each frame.

Where it differs from the published conformers: rotary positions instead of relative ones, layer
norm instead of batch norm inside the convolution module, and four stacked 10 ms frames instead of a
convolutional subsampler. `musicot_mlx/models/semantic_tokenizer.py` is the encoder and codebook in
MLX.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.audio_utils import mel_filter_bank
from vector_quantize_pytorch import VectorQuantize


class LogMel(nn.Module):
    """Waveform (batch, samples) to standardised natural-log mel frames stacked to the code rate,
    (batch, time, features).

    Frame i is centred on sample (i + 0.5) * hop_length; samples_per_code = stack * hop_length.
    """

    def __init__(
        self, *, sample_rate: int, n_fft: int, hop_length: int, mels: int, stack: int
    ) -> None:
        super().__init__()
        self.n_fft, self.hop_length, self.mels, self.stack = n_fft, hop_length, mels, stack
        filters = mel_filter_bank(
            n_fft // 2 + 1, mels, 30.0, sample_rate / 2, sample_rate, norm="slaney", mel_scale="htk"
        )  # (bins, mels)
        self.register_buffer("filters", torch.from_numpy(filters).float(), persistent=False)
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        self.register_buffer("mean", torch.zeros(mels))
        self.register_buffer("std", torch.ones(mels))

    def frames(self, waveform: Tensor) -> Tensor:
        """Log-mel before standardisation, (batch, frames, mels); whole codes only, zeros at both
        ends.
        """
        step = self.stack * self.hop_length
        samples = -(-waveform.shape[1] // step) * step
        overlap = self.n_fft - self.hop_length
        edge = overlap // 2
        x = F.pad(waveform.float(), (edge, overlap - edge + samples - waveform.shape[1]))
        spectrum = torch.stft(
            x, self.n_fft, self.hop_length, window=self.window, center=False, return_complex=True
        )  # (batch, bins, frames)
        power = torch.view_as_real(spectrum).square().sum(-1).transpose(1, 2)
        return (power @ self.filters).clamp(min=1e-8).log()

    def forward(self, waveform: Tensor) -> Tensor:
        x = (self.frames(waveform) - self.mean) / self.std
        return x.reshape(x.shape[0], -1, self.stack * self.mels)  # (batch, time, features)


class FeedForward(nn.Module):
    def __init__(self, dim: int, expansion: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.expand = nn.Linear(dim, expansion * dim)
        self.project = nn.Linear(expansion * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(F.silu(self.expand(self.norm(x))))


class Attention(nn.Module):
    """Self-attention over (batch, time, channels) with rotary positions in the split-half layout of
    LLaMA.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.project = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        batch, time, dim = x.shape
        qkv = self.qkv(self.norm(x)).reshape(batch, time, 3, self.heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (batch, heads, time, head_dim) each
        q, k = rotate(q), rotate(k)
        y = F.scaled_dot_product_attention(q, k, v)
        return self.project(y.transpose(1, 2).reshape(batch, time, dim))


def rotate(x: Tensor, base: float = 10000.0) -> Tensor:
    """Rotary position embedding of (batch, heads, time, head_dim)."""
    time, dim = x.shape[-2:]
    inverse = base ** (-torch.arange(0, dim, 2, device=x.device).float() / dim)
    angle = torch.arange(time, device=x.device).float()[:, None] * inverse  # (time, head_dim / 2)
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


class ConvolutionModule(nn.Module):
    """Gated pointwise, depthwise over time, pointwise: the convolution module of the conformer
    (arXiv 2005.08100).
    """

    def __init__(self, dim: int, kernel_size: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.gate = nn.Linear(dim, 2 * dim)
        self.depthwise = nn.Conv1d(dim, dim, kernel_size, padding=kernel_size // 2, groups=dim)
        self.depthwise_norm = nn.LayerNorm(dim)
        self.project = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        y = F.glu(self.gate(self.norm(x)), dim=-1)
        y = self.depthwise(y.transpose(1, 2)).transpose(1, 2)
        return self.project(F.silu(self.depthwise_norm(y)))


class ConformerBlock(nn.Module):
    def __init__(self, dim: int, *, heads: int, expansion: int, kernel_size: int) -> None:
        super().__init__()
        self.feed_forward_in = FeedForward(dim, expansion)
        self.attention = Attention(dim, heads)
        self.convolution = ConvolutionModule(dim, kernel_size)
        self.feed_forward_out = FeedForward(dim, expansion)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + 0.5 * self.feed_forward_in(x)
        x = x + self.attention(x)
        x = x + self.convolution(x)
        x = x + 0.5 * self.feed_forward_out(x)
        return self.norm(x)


class SemanticTokenizer(nn.Module):
    """Waveform (batch, samples) to int64 codes (batch, time) at sample_rate / (stack * hop_length)
    a second.
    """

    def __init__(
        self,
        *,
        sample_rate: int = 44100,
        n_fft: int = 2048,
        hop_length: int = 441,
        mels: int = 80,
        stack: int = 4,
        dim: int = 192,
        layers: int = 4,
        heads: int = 4,
        expansion: int = 4,
        kernel_size: int = 15,
        codebook_size: int = 1024,
        codebook_dim: int = 32,
        window_codes: int = 250,
        margin_codes: int = 25,
    ) -> None:
        super().__init__()
        self.window_codes, self.margin_codes = window_codes, margin_codes
        self.samples_per_code = stack * hop_length
        self.log_mel = LogMel(
            sample_rate=sample_rate, n_fft=n_fft, hop_length=hop_length, mels=mels, stack=stack
        )
        self.embed = nn.Linear(stack * mels, dim)
        block = {"heads": heads, "expansion": expansion, "kernel_size": kernel_size}
        self.layers = nn.ModuleList(ConformerBlock(dim, **block) for _ in range(layers))
        self.quantizer = VectorQuantize(
            dim,
            codebook_size=codebook_size,
            codebook_dim=codebook_dim,
            use_cosine_sim=True,
            kmeans_init=True,
            threshold_ema_dead_code=1,
            commitment_weight=0.25,
            decay=0.98,
        )

    def features(self, log_mel: Tensor) -> Tensor:
        """Conformer output for standardised stacked frames, (batch, time, dim)."""
        x = self.embed(log_mel)
        for layer in self.layers:
            x = layer(x)
        return x

    def codes(self, features: Tensor) -> Tensor:
        """Nearest code of each frame by cosine, (batch, time)."""
        x = F.normalize(self.quantizer.project_in(features).float(), dim=-1)
        return (x @ self.quantizer._codebook.embed[0].T).argmax(-1)

    @torch.no_grad()
    def encode(self, waveform: Tensor) -> Tensor:
        """Codes of audio of any length: windows of `window_codes`, each keeping what lies inside
        its margins.
        """
        log_mel = self.log_mel(waveform)
        time, hop = log_mel.shape[1], self.window_codes - 2 * self.margin_codes
        kept = []
        for start in range(0, time, hop):
            low = max(0, start - self.margin_codes)
            window = log_mel[:, low : start + hop + self.margin_codes]
            codes = self.codes(self.features(window))
            kept.append(codes[:, start - low : start - low + hop])
        return torch.cat(kept, dim=1)


class BestRQ(nn.Module):
    """Masked prediction of random-projection codes; `forward(batch)` is the pretraining loss of the
    tokenizer's conformer.
    """

    def __init__(
        self, tokenizer: SemanticTokenizer, *, codes: int = 2048, dim: int = 16, seed: int = 0
    ) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        features, width = tokenizer.embed.in_features, tokenizer.embed.out_features
        generator = torch.Generator().manual_seed(seed)
        projection = torch.empty(features, dim)
        nn.init.xavier_uniform_(projection, generator=generator)
        codebook = F.normalize(torch.randn(codes, dim, generator=generator), dim=-1)
        self.register_buffer("projection", projection)
        self.register_buffer("codebook", codebook)
        self.head = nn.Linear(width, codes)

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        x = self.tokenizer.log_mel(batch["waveform"])
        target = (F.normalize(x @ self.projection, dim=-1) @ self.codebook.T).argmax(-1)
        mask = span_mask(x.shape[0], x.shape[1], share=0.4, span=8, device=x.device)
        x = torch.where(mask[..., None], torch.randn_like(x) * 0.1, x)
        logits = self.head(self.tokenizer.features(x)).float()
        loss = F.cross_entropy(logits[mask], target[mask])
        accuracy = (logits[mask].argmax(-1) == target[mask]).float().mean().item()
        return loss, {"accuracy": accuracy}


def span_mask(batch: int, time: int, *, share: float, span: int, device: torch.device) -> Tensor:
    """Boolean (batch, time): spans of `span` frames that cover about `share` of the time."""
    starts = torch.rand(batch, time, device=device) < share / span
    mask = F.max_pool1d(F.pad(starts.float()[:, None], (span - 1, 0)), span, stride=1)[:, 0] > 0
    mask[:, 0] |= ~mask.any(dim=1)
    return mask


class CodebookTraining(nn.Module):
    """Trains codebook and conformer to give back log-mel frames and the score through one code a
    frame.
    """

    def __init__(self, tokenizer: SemanticTokenizer, *, notes: int = 131, layers: int = 2) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        features, dim = tokenizer.embed.in_features, tokenizer.embed.out_features
        self.decoder = nn.ModuleList(
            ConformerBlock(dim, heads=4, expansion=2, kernel_size=7) for _ in range(layers)
        )
        self.mel_head = nn.Linear(dim, features)
        self.note_head = nn.Linear(dim, notes)

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        log_mel = self.tokenizer.log_mel(batch["waveform"])
        quantized, codes, commitment = self.tokenizer.quantizer(self.tokenizer.features(log_mel))
        x = quantized
        for layer in self.decoder:
            x = layer(x)
        mel_loss = (self.mel_head(x).float() - log_mel).abs().mean()
        loss = mel_loss + commitment.float().sum()
        used = codes.unique().numel() / self.tokenizer.quantizer.codebook_size
        metrics = {"mel": mel_loss.item(), "used": used}
        if "notes" in batch:
            notes = batch["notes"].float()
            time = min(notes.shape[1], x.shape[1])
            logits, notes = self.note_head(x[:, :time]).float(), notes[:, :time]
            weight = torch.where(notes > 0, 8.0, 1.0)  # few notes sound at a time
            note_loss = F.binary_cross_entropy_with_logits(logits, notes, weight=weight)
            hits = ((logits > 0) & (notes > 0)).sum() * 2
            f1 = hits / ((logits > 0).sum() + (notes > 0).sum()).clamp(min=1)
            loss = loss + 4 * note_loss
            metrics |= {"notes": note_loss.item(), "f1": f1.item()}
        return loss, metrics
