"""A PyTorch checkpoint of given sizes with random weights: python -m ... CONFIG TOKENIZER FOLDER.

For speed and memory, which do not ask what the weights are.
"""

import json
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer

from musicot_mlx.reference.musicot import PARTS, MusicotReference


def write(config_path: str, tokenizer: str, folder: str, *, seed: int = 0) -> None:
    """Write the folder that config.json describes, the parts' sections and `sampling` taken."""
    config = json.loads(Path(config_path).read_text())
    torch.manual_seed(seed)
    model = MusicotReference({key: config[key] for key in (*PARTS, "sampling")}).eval()
    for name, buffer in model.named_buffers():
        if name.endswith("_codebook.embed"):
            buffer.copy_(torch.randn_like(buffer) * 0.3)
    model.save_pretrained(folder, Tokenizer.from_file(tokenizer))


if __name__ == "__main__":
    write(*sys.argv[1:4])
