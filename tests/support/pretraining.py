"""A tiny pretraining: its songs, its config, its command. Needs torch."""

import copy
import json
from pathlib import Path

import numpy as np
import soundfile

from musicot_mlx.reference.train import command
from tests.support import tiny

SECONDS = 16.0


def write_songs(folder: Path) -> Path:
    """Four songs of tones, each of another rate, format and count of channels, two with a score."""
    folder.mkdir()
    records = []
    files = [("a.wav", 22050, 1), ("b.flac", 44100, 2), ("c.mp3", 44100, 1), ("d.wav", 8000, 2)]
    for index, (name, rate, channels) in enumerate(files):
        t = np.arange(round(SECONDS * rate)) / rate
        notes = 220 * 2 ** (np.floor(2 * t + index) % 12 / 12)
        tone = 0.3 * np.sin(2 * np.pi * np.cumsum(notes) / rate) * (1 - (2 * t) % 1)
        soundfile.write(folder / name, np.repeat(tone[:, None], channels, axis=1), rate)
        np.savez(folder / f"{name[0]}.npz", roll=np.eye(400, 131, dtype=np.uint8))
        windows = [
            {"start": start, "captions": [f"tones {index} from {start}", "a melody"]}
            for start in (0.0, 2.5, 5.0)
        ]
        records.append(
            {
                "audio_file": name,
                "text_prompt": f"melody number {index}",
                "lyrics": "[VERSE] la la la" if index == 2 else "",
                "genre_tags": ["etude"],
                "instrument_tags": "piano, guitar" if index % 2 else ["drums"],
                "duration": SECONDS,
                "bpm": 120,
                "artist": "a test",
                "title": str(index),
                "windows": windows,
            }
        )
    (folder / "metadata.json").write_text(json.dumps(records))
    return folder


def tiny_config() -> dict:
    """The YAML config of the tiny twin: its sections, and two steps a stage."""
    config = {k: copy.deepcopy(v) for k, v in tiny.CONFIG.items() if isinstance(v, dict)}
    config["clap"]["audio_config"]["num_mel_bins"] = 64
    del config["semantic_lm"]["tags"], config["diffusion"]["latent_scale"]
    config["sampling"] |= {
        "thought_temperature": 0.65,
        "audio_temperature": 0.75,
        "thought_guidance": 2.3,
        "audio_guidance": 1.3,
        "unconditional": "without_thoughts",
    }
    config["data"] = {"score_frame_rate": 25.0}
    common = {"steps": 2, "batch_size": 2, "learning_rate": 1e-3, "warmup_steps": 1}
    config["training"] = {
        "vae": {**common, "seconds": 1.0, "kl_weight": 0.02, "accumulate": 2},
        "clap": common,
        "clap_noise": common,
        "rvq": common,
        "best_rq": common,
        "semantic_tokenizer": {**common, "precision": "no"},
        "tempo_head": {"steps": 20, "batch_size": 8, "learning_rate": 1e-1},
        "thought_bias": {"steps": 2, "batch_size": 2, "learning_rate": 1e-2},
        "semantic_lm": {
            **common,
            "condition_dropout": 0.1,
            "history_dropout": 0.5,
            "text_condition_share": 0.5,
        },
        "diffusion": {**common, "text_condition_share": 0.5},
        "diffusion_guided": {**common, "text_condition_share": 0.5},
    }
    return config


def run(paths: dict[str, Path], *arguments: str) -> int:
    return command.main([*(x for k, v in paths.items() for x in (f"--{k}", str(v))), *arguments])
