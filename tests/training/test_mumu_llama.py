"""MuMu-LLaMA's training: sets are read, files are heard once, answers are learned from sound."""

import json
from pathlib import Path
from types import SimpleNamespace

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import pytest
import soundfile
from mlx.utils import tree_flatten

from musicot_mlx.audio.files import mono_windows
from musicot_mlx.errors import MusicotError
from musicot_mlx.generation.mumu_llama import draw_tokens
from musicot_mlx.models.hubert import Hubert, song_means
from musicot_mlx.models.mumu_bridges import Bridges, BridgesConfig
from musicot_mlx.models.mumu_llama import MumuLlama, MumuLlamaConfig, Words, WordsConfig
from musicot_mlx.training.mumu_llama import Exchange, Hearing, Listener, answer_loss, read_sets
from tests.models.test_hubert import tiny_hubert

RATE, LOW = 2000, 400
END, CALM, WILD = 2, 5, 6
PROMPT = [1, 3, 4]


def tiny_listener() -> Listener:
    mx.random.seed(0)
    llama = MumuLlamaConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        routing="sum",
        query_rows=2,
    )
    bridges = BridgesConfig(
        hidden_size=32, audio_states=3, audio_size=16, image_tokens=5, image_size=12,
        video_tokens=9, video_size=12,
    )  # fmt: skip
    words = WordsConfig(vocab_size=20, hidden_size=32)
    return Listener(MumuLlama(llama), Words(words), Bridges(bridges))


def song(wild: bool, seed: int) -> np.ndarray:
    """Three minutes at LOW Hz, of which the last thirty seconds are calm or wild."""
    rng = np.random.default_rng(seed)
    time = np.arange(180 * LOW) / LOW
    music = 0.3 * np.sin(2 * np.pi * 40 * time) + 0.001 * rng.normal(size=len(time))
    last = slice(150 * LOW, None)
    if wild:
        music[last] = 0.3 * rng.normal(size=30 * LOW) * (1 + np.sin(4 * time[last]))
    return music.astype(np.float32)


def _tell_apart(bridges: Bridges, learned: list[Exchange]) -> None:
    """A trained bridge begins with what songs have in common taken off, and the rest enlarged."""
    pooled = bridges.audio.pooled(mx.array(np.stack([each.parts["audio"] for each in learned])))
    pooled = pooled / mx.linalg.norm(pooled, axis=-1, keepdims=True)
    proj = bridges.audio.proj
    proj.weight = proj.weight / mx.std(pooled, axis=0).max()
    proj.bias = -(proj.weight @ mx.mean(pooled, axis=0))


def heard(hubert: Hubert, waveform: np.ndarray) -> np.ndarray:
    return np.array(song_means(hubert, mono_windows((waveform, LOW), sample_rate=LOW)))


def test_the_last_thirty_seconds_of_three_minutes_change_a_trained_answer() -> None:
    hubert, listener = tiny_hubert(), tiny_listener()
    assert not mx.abs(listener.llama.gates).max().item(), "gates begin closed"
    learned = [
        Exchange(
            f"song {seed}",
            np.array([*PROMPT, WILD if wild else CALM, END], np.int32),
            len(PROMPT),
            {"audio": heard(hubert, song(wild, seed))},
        )
        for seed in range(4)
        for wild in (False, True)
    ]
    _tell_apart(listener.bridges, learned)
    optimizer = optim.Adam(2e-3)
    step = nn.value_and_grad(listener, lambda: answer_loss(listener, learned) / 16)
    for _ in range(40):
        loss, gradients = step()
        optimizer.update(listener, gradients)
        mx.eval(loss, listener.parameters())

    def answer(waveform: np.ndarray) -> list[int]:
        each = Exchange("", np.array(PROMPT), len(PROMPT), {"audio": heard(hubert, waveform)})
        offsets = listener.llama.offsets(listener.features([each]))
        drawn = draw_tokens(
            listener.llama, listener.words, PROMPT, offsets=offsets, limit=2, temperature=0.0,
            key=mx.random.key(0),
        )  # fmt: skip
        return list(drawn)

    unheard, changed = song(False, 7), song(True, 7)
    assert np.array_equal(unheard[: 150 * LOW], changed[: 150 * LOW])
    assert answer(unheard) == [CALM, END] and answer(changed) == [WILD, END]
    assert mx.abs(listener.llama.gates).min().item() > 1e-3, "gates stayed closed"


# --- sets -----------------------------------------------------------------------------------------


def entry(question: str, answer: str, file: str = "", **changes) -> dict:
    kinds = {"input_modality": "audio" if file else "text"}
    turns = [
        {"from": "human", "value": question, **kinds, "caption": ""},
        {"from": "gpt", "value": answer, "output_modality": "text", "caption": ""},
    ]
    return {"input_file": file, "output_file": "", "conversations": turns, **changes}


@pytest.fixture
def sets(tmp_path: Path) -> Path:
    for number in range(3):
        time = np.arange(3000) / RATE
        soundfile.write(tmp_path / f"{number}.wav", 0.1 * np.sin(700 * time * (number + 1)), RATE)
    entries = [entry("Fast?", "Yes.", f"{n}.wav") for n in range(3)]
    (tmp_path / "questions.json").write_text(json.dumps(entries))
    return tmp_path


def test_sets_are_read_and_a_song_is_held_out_with_all_its_rows(sets: Path) -> None:
    skipped = []
    found = read_sets(sets, ("questions", "edits"), skipped)
    assert [each.path.name for each in found["train"]] == ["1.wav", "2.wav"]
    assert [each.path.name for each in found["valid"]] == ["0.wav"] and not skipped
    assert found["train"][0].modality == "audio" and not found["train"][0].music


def test_folders_of_splits_and_lines_of_json(sets: Path) -> None:
    for split in ("valid", "test"):
        (sets / split).mkdir()
        lines = json.dumps(entry("Slow?", "No.", "1.wav")) + "\n\n"
        (sets / split / "questions.jsonl").write_text(lines)
    found = read_sets(sets, ("questions",), [])
    assert [len(found[split]) for split in ("train", "valid", "test")] == [3, 1, 1]


def test_entries_of_upstream_are_read(sets: Path) -> None:
    upstream = [
        {"audio_name": "0.wav", "conversation": [{"value": "Q?"}, {"value": "A."}]},
        {"input_file": "1.wav", "conversations": [
            {"from": "human", "value": "Make it fast", "input_modality": "audio"},
            {"from": "gpt", "value": "Here", "output_modality": "audio", "caption": "fast"}]},
        {"conversation": [{"value": "Two and two?"}, {"value": "Four."}]},
    ]  # fmt: skip
    (sets / "film.mp4").write_bytes(b"any")
    upstream.append({"input_file": "film.mp4", "conversation": [{"value": "Q"}, {"value": "A"}]})
    (sets / "questions.json").write_text(json.dumps(upstream))
    (sets / "valid").mkdir()
    (sets / "valid" / "questions.json").write_text(json.dumps(upstream[:1]))
    found = read_sets(sets, ("questions",), [])["train"]
    assert [each.modality for each in found] == ["audio", "audio", None, "video"]
    assert [each.music for each in found] == [False, True, False, False]


def test_entries_that_say_nothing_are_skipped_by_name(sets: Path) -> None:
    odd = [
        entry("Q?", "A.", "gone.wav"),
        entry("", "A.", "0.wav"),
        entry("Q?", "A.", "0.wav", conversations=[{"value": "alone"}]),
        entry("Q?", "A.", "0.wav", conversations=["Q?", "A."]),
        "no entry",
        entry("Q?", "half a \udc80", "0.wav"),
        entry("Q?", "A.", "9" * 999),
        entry("Q?", None, "0.wav"),
        entry("Q?", 7, "0.wav"),
        entry("Q?", "A.", "0\0.wav"),
        entry("Q?", "A.", "1.wav"),
    ]
    (sets / "questions.json").write_text(json.dumps(odd))
    skipped = []
    read_sets(sets, ("questions",), skipped)
    assert [each.name for each in skipped] == [f"questions.json, entry {n}" for n in range(1, 11)]
    assert "there is no file 999" in skipped[6].why and "which is text" in skipped[7].why
    assert "its answer holds '\\udc80', which is half a character" in skipped[5].why
    assert "no file gone.wav" in skipped[0].why and "empty" in skipped[1].why
    assert "two turns" in skipped[2].why and "object with a value" in skipped[3].why


def test_lines_that_are_no_json_are_skipped_by_their_number(sets: Path) -> None:
    good = json.dumps(entry("Q\u2028?", "A.", "1.wav"), ensure_ascii=False)
    lines = [good, "", "{]", "[" * 100_000, "7", good[:-9], good]
    (sets / "captions.jsonl").write_text("\n".join(lines), encoding="utf-8")
    skipped = []
    found = read_sets(sets, ("captions",), skipped)
    assert len(found["train"]) + len(found["valid"]) == 2
    assert [each.name.partition(":")[2] for each in skipped] == ["3", "4", "6", "5"]
    assert str(skipped[0]).startswith("skipped captions.jsonl:3: not JSON (Expecting")


def test_folders_that_hold_no_sets_are_told(tmp_path: Path) -> None:
    with pytest.raises(MusicotError, match=r"holds no captions.json; musicot dataset makes"):
        read_sets(tmp_path, ("captions",), [])
    (tmp_path / "captions.json").write_text("{]")
    with pytest.raises(MusicotError, match="is not JSON"):
        read_sets(tmp_path, ("captions",), [])
    (tmp_path / "captions.json").write_text('{"a": 1}')
    with pytest.raises(MusicotError, match="must hold a list"):
        read_sets(tmp_path, ("captions",), [])


def test_a_file_is_heard_once(sets: Path, tmp_path: Path) -> None:
    calls, hubert = [], tiny_hubert()

    def shelf(*parts: str) -> list[Hubert]:
        calls.append(parts)
        return [hubert]

    first = Hearing(SimpleNamespace(shelf=shelf), tmp_path / "cache")
    made = np.array(first.parts("audio", sets / "0.wav"))
    assert made.shape == (3, 16) and made.dtype == np.float32
    expected = song_means(hubert, mono_windows(sets / "0.wav", sample_rate=RATE))
    assert np.array_equal(made, np.array(expected))
    before = len(calls)
    again = np.array(first.parts("audio", sets / "0.wav"))
    assert np.array_equal(again, made) and len(calls) == before
    other = {name: value + 0.01 for name, value in tree_flatten(hubert.parameters())}
    hubert.load_weights(list(other.items()))
    second = Hearing(SimpleNamespace(shelf=shelf), tmp_path / "cache")
    assert not np.array_equal(second.parts("audio", sets / "0.wav"), made), "another encoder"
