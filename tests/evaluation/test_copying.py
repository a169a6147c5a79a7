"""The copy check: a true copy is flagged, an unrelated song is not, and a drone tells nothing."""

import json
from pathlib import Path
from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from musicot_mlx.audio.files import write_audio
from musicot_mlx.cli import main
from musicot_mlx.errors import MusicotError
from musicot_mlx.evaluation.measures.copying import WINDOW, copy_check, longest_run, nearest
from musicot_mlx.models.semantic_tokenizer import SemanticTokenizerConfig

RATE = 8000


class _Ear:
    """Audio to tokens by the loudest of 32 bands: a tokenizer that needs no training."""

    config = SemanticTokenizerConfig(sample_rate=RATE, n_fft=256, hop_length=80)

    def encode(self, waveform: mx.array) -> mx.array:
        mono = np.array(waveform)[0]
        size = self.config.samples_per_code
        frames = mono[: len(mono) // size * size].reshape(-1, size)
        power = np.square(np.abs(np.fft.rfft(frames * np.hanning(size), axis=1)))
        bands = np.add.reduceat(power, np.linspace(1, power.shape[1] - 6, 32).astype(int), axis=1)
        return mx.array(bands.argmax(axis=1).astype(np.int32))[None]


@pytest.fixture(scope="module")
def model() -> SimpleNamespace:
    return SimpleNamespace(semantic_tokenizer=_Ear())


def _song(seed: int, seconds: float = 12.0) -> np.ndarray:
    """A melody of random notes over random beats, float32 (samples,)."""
    rng = np.random.default_rng(seed)
    out = np.zeros(round(seconds * RATE))
    for start in np.arange(0, len(out) - RATE // 10, RATE // 10):
        time = np.arange(RATE // 10) / RATE
        note = np.sin(2 * np.pi * rng.uniform(100, 3500) * time) * np.exp(-time * rng.uniform(3, 9))
        out[start : start + len(time)] += note * rng.uniform(0.1, 0.5)
    return (out + 0.01 * rng.normal(size=out.shape)).astype(np.float32)


def test_a_copy_is_flagged_and_its_place_found(model: SimpleNamespace) -> None:
    reference = _song(0)
    song = np.concatenate([_song(1, 4.0), 0.5 * reference[RATE * 5 : RATE * 10]])
    found = copy_check(song, reference, model=model, sample_rate=RATE)
    assert found.verdict.startswith("COPIED") and 0.2 < found.copied < 0.8
    best = (found.shared * found.copied_windows).argmax()
    assert found.place[best] - found.at[best] == pytest.approx(1.0, abs=0.05)
    assert found.shared.max() > 0.85 and found.run > 2 * found.chance_run


def test_an_unrelated_song_is_cleared(model: SimpleNamespace) -> None:
    for seed in (1, 2):
        found = copy_check(
            _song(seed), _song(0), model=model, sample_rate=RATE, unrelated=[_song(3)]
        )
        assert found.verdict.startswith("no copy:") and found.copied == 0
    json.dumps(found.to_dict(), allow_nan=False)


def test_the_tokens_that_were_written_are_asked_where_they_are_known(
    model: SimpleNamespace,
) -> None:
    reference = _song(0)
    written = np.array(model.semantic_tokenizer.encode(mx.array(reference)[None])[0])
    found = copy_check(_song(1), reference, model=model, sample_rate=RATE, codes=written)
    assert found.copied == 1
    turned = np.random.default_rng(0).permutation(written)
    found = copy_check(reference, reference, model=model, sample_rate=RATE, codes=turned)
    assert found.copied == 0


def test_what_stands_still_tells_nothing(model: SimpleNamespace) -> None:
    still = np.full(200, 7)
    found = copy_check(_song(0), _song(0), model=model, sample_rate=RATE, codes=still)
    assert "stands still" in found.verdict and found.copied == 0
    with pytest.raises(MusicotError, match="too short"):
        copy_check(_song(0, 1.2), _song(0), model=model, sample_rate=RATE)


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1), st.integers(WINDOW, 90), st.integers(WINDOW, 120))
def test_nearest_and_longest_run_are_what_a_plain_search_finds(seed: int, n: int, m: int) -> None:
    rng = np.random.default_rng(seed)
    codes, target = rng.integers(0, 4, n), rng.integers(0, 4, m)
    shared, place, _ = nearest(codes, target)
    for window, (share, at) in enumerate(zip(shared, place, strict=True)):
        piece = codes[window * 5 : window * 5 + WINDOW]
        alike = [(piece == target[i : i + WINDOW]).mean() for i in range(m - WINDOW + 1)]
        assert share == pytest.approx(max(alike)) and alike[at] == pytest.approx(max(alike))
    runs = [0]
    for i in range(n):
        for j in range(m):
            k = 0
            while i + k < n and j + k < m and codes[i + k] == target[j + k]:
                k += 1
            if k:
                runs.append(1 + int((np.diff(codes[i : i + k]) != 0).sum()))
    assert longest_run(codes, target) == max(runs)


def test_the_command_on_the_embedded_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, seed in (("a", 0), ("b", 1), ("c", 2)):
        write_audio(f"{name}.wav", _song(seed, 8.0), RATE)
    write_audio("copy.wav", 0.7 * _song(0, 8.0)[RATE * 3 :], RATE)
    for song, words in (("copy.wav", "a.wav: COPIED"), ("b.wav", "a.wav: no copy: 2 s of it")):
        assert main(["analyze", song, "--copy-of", "a.wav", "--unrelated", "c.wav"]) == 0
        assert words in capsys.readouterr().out
    assert main(["analyze", "b.wav", "--unrelated", "c.wav"]) == 2
    assert "goes with --copy-of" in capsys.readouterr().err
