"""CLAP training in PyTorch: `transformers.ClapModel` at a size of our choice, its front end in
batches, its tokenizer.

CLAP (arXiv 2211.06687) pulls the embedding of a 10 s window and of its caption together. The front
end here gives what `transformers.ClapFeatureExtractor(frequency_min=50, truncation="rand_trunc")`
gives, a batch at a time.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from torch import Tensor, nn
from transformers import ClapConfig, ClapModel
from transformers.audio_utils import mel_filter_bank

SAMPLE_RATE = 48000
WINDOW_SECONDS = 10.0
SPECIAL_TOKENS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]  # RoBERTa's ids 0..4


def build_clap(config: Mapping[str, Any]) -> ClapModel:
    """A ClapModel from the `clap` section of config.json, with upstream defaults for the rest."""
    text, audio = dict(config["text_config"]), dict(config["audio_config"])
    return ClapModel(
        ClapConfig(text_config=text, audio_config=audio, projection_dim=config["projection_dim"])
    )


class ClapFrontEnd(nn.Module):
    """Waveform (batch, 480000) at 48 kHz to log-mel (batch, 1, 1001, mels) in dB, as laion's models
    read it.
    """

    def __init__(self, mels: int = 64) -> None:
        super().__init__()
        filters = mel_filter_bank(
            513, mels, 50, 14000, SAMPLE_RATE, norm="slaney", mel_scale="slaney"
        )
        self.register_buffer("filters", torch.from_numpy(filters).float(), persistent=False)
        self.register_buffer("window", torch.hann_window(1024), persistent=False)

    @torch.no_grad()
    def forward(self, waveform: Tensor) -> Tensor:
        spectrum = torch.stft(
            waveform.float(), 1024, 480, window=self.window, pad_mode="reflect", return_complex=True
        )  # (batch, bins, frames)
        power = torch.view_as_real(spectrum).square().sum(-1).transpose(1, 2)
        return 10 * (power @ self.filters).clamp(min=1e-10).log10()[:, None]


def train_tokenizer(captions: Iterable[str], vocab_size: int) -> Tokenizer:
    """Byte-level BPE on lower-cased captions with RoBERTa's special tokens."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(captions, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return tokenizer


def tokenize(tokenizer: Tokenizer, texts: list[str], max_tokens: int) -> tuple[Tensor, Tensor]:
    """Padded token ids and attention mask of texts, int64 (texts, tokens) each."""
    tokenizer.enable_truncation(max_tokens)
    encodings = tokenizer.encode_batch(texts)
    width = max(len(e.ids) for e in encodings)
    ids = torch.full((len(texts), width), SPECIAL_TOKENS.index("<pad>"))
    for row, encoding in zip(ids, encodings, strict=True):
        row[: len(encoding.ids)] = torch.tensor(encoding.ids)
    return ids, (ids != SPECIAL_TOKENS.index("<pad>")).long()


def embed_text(clap: ClapModel, ids: Tensor, mask: Tensor) -> Tensor:
    """L2-normalised text embeddings, (texts, projection_dim)."""
    output = clap.get_text_features(input_ids=ids, attention_mask=mask)
    return F.normalize(output.pooler_output.float(), dim=-1)


def embed_audio(clap: ClapModel, log_mel: Tensor) -> Tensor:
    """L2-normalised audio embeddings of log-mels (windows, 1, 1001, mels), (windows,
    projection_dim).
    """
    output = clap.get_audio_features(input_features=log_mel)
    return F.normalize(output.pooler_output.float(), dim=-1)


class ClapTraining(nn.Module):
    """Symmetric contrastive loss over a batch; pairs that share a caption are not counted as
    negatives.
    """

    def __init__(self, clap: ClapModel) -> None:
        super().__init__()
        self.clap = clap

    def forward(self, batch: dict[str, Any]) -> tuple[Tensor, dict[str, float]]:
        audio = embed_audio(self.clap, batch["log_mel"])
        text = embed_text(self.clap, batch["ids"], batch["mask"])
        similarity = audio @ text.T  # (windows, texts)
        same = (batch["ids"][:, None] == batch["ids"][None]).all(-1)
        same &= ~torch.eye(len(same), dtype=torch.bool, device=same.device)
        labels = torch.arange(len(similarity), device=similarity.device)
        scale_a = self.clap.logit_scale_a.exp().clamp(max=50)
        scale_t = self.clap.logit_scale_t.exp().clamp(max=50)
        by_audio = (scale_a * similarity).masked_fill(same, -1e4)
        by_text = (scale_t * similarity.T).masked_fill(same, -1e4)
        loss = 0.5 * (F.cross_entropy(by_audio, labels) + F.cross_entropy(by_text, labels))
        recall = (by_audio.argmax(-1) == labels).float().mean().item()
        return loss, {"recall": recall, "matched": similarity.diagonal().mean().item()}
