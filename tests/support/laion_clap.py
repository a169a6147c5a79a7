"""A small CLAP as laion_clap builds it."""

from tests.support import tiny

SMALL = {
    "projection_dim": 24,
    "text_config": {
        "vocab_size": tiny.TEXT_TOKENS,
        "hidden_size": 128,  # two heads of 64: what laion_clap's files do not tell
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 90,
    },
    "audio_config": {
        "num_mel_bins": 64,
        "patch_size": 4,
        "patch_stride": [4, 4],
        "patch_embeds_hidden_size": 16,
        "depths": [2, 2, 2, 1],
        "num_attention_heads": [1, 2, 4, 8],
        "window_size": 8,
        "hidden_size": 128,
    },
}
