"""`musicot eval` on a 16-channel model: figures, pages, and runs that go on where they stopped."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from musicot_mlx.cli import main
from musicot_mlx.errors import MusicotError
from musicot_mlx.evaluation.harness import prompts, reference_songs, renders, report, scores
from musicot_mlx.models.tagger import TaggerConfig
from musicot_mlx.pipelines.tagger import load_tagger
from musicot_mlx.weights.checkpoint import load_arrays, read_config, save_checkpoint
from tests.support import tiny_magenta_model

RATE = 8000
LABELS = ("drums", "bass", "piano", "guitar", "strings", "synth")


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """44 songs of 11 s as the band lists them: a tone and clicks at 120 BPM, two styles."""
    folder = tmp_path_factory.mktemp("songs")
    entries = []
    for index in range(44):
        rng = np.random.default_rng(index)
        t = np.arange(11 * RATE) / RATE
        tone = 0.1 * np.sin(2 * np.pi * rng.uniform(100, 1000) * t) * (1 - (2 * t) % 1)
        clicks = 0.3 * rng.standard_normal(len(t)) * ((2 * t) % 1 < 0.02)
        soundfile.write(folder / f"{index:02d}.wav", (tone + clicks).astype(np.float32), RATE)
        style = ("techno", "solo piano")[index % 2]
        entries.append(
            {
                "audio_file": f"{index:02d}.wav",
                "text_prompt": style,
                "genre_tags": [style, "music"],
                "duration": 11.0,
                "bpm": 120.0,
                "windows": [{"start": 0.0, "captions": ["piano", f"{style} at 120 BPM"]}],
            }
        )
    (folder / "metadata.json").write_text(json.dumps(entries))
    return folder


@pytest.fixture(scope="module")
def ran(songs: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a whole small evaluation ran, page and all."""
    folder = tmp_path_factory.mktemp("ran")
    asked = [
        {"text": "techno, 120 BPM", "asked": ["drums"], "bpm": 120, "style": "techno"},
        {"text": "a piano", "asked": ["piano"], "open": ["bass"], "style": "solo piano"},
    ]
    (folder / "prompts.json").write_text(json.dumps(asked))
    assert main(arguments(folder, songs, tiny_model)) == 0
    return folder


def arguments(folder: Path, songs: Path, model: Path, *more: str) -> list[str]:
    return [
        "eval", "--model", str(model), "--prompts", str(folder / "prompts.json"),
        "--reference-dir", str(songs), "--reference-songs", "8", "--duration", "2",
        "--seeds", "2", "--captions", "1", "--ablation-prompts", "1",
        "--without-thoughts", str(model), "--output", str(folder / "renders"),
        "--report", str(folder / "results.md"), *more,
    ]  # fmt: skip


def test_figures_are_complete(ran: Path) -> None:
    found = json.loads((ran / "renders" / "figures.json").read_text())
    assert set(found["groups"]) == {"wordings", "captions"}
    main_group = found["groups"]["wordings"]
    assert main_group["songs"] == main_group["windows"] == 2
    assert main_group["fad"]["value"] > 0 and -1 <= main_group["clap_score"]["value"] <= 1
    assert main_group["tempo_within"]["n"] == 1
    assert set(main_group["auc_by_label"]) == set(load_tagger().config.labels)
    assert main_group["auc_by_label"]["organ"] is None  # asked of no prompt
    assert found["real"]["tempo_within"]["value"] == 1.0 and found["real"]["songs"] == 2
    assert found["real"]["tempo_by_chance"] in (0.0, 0.5, 1.0)  # two songs, each by the other's
    for group in (main_group, found["real"], found["codec"]):
        assert 0 <= group["share_in_key"]["value"] <= 1
    assert 0 <= main_group["chords_heard"]["value"] <= 1 and main_group["chords_heard"]["n"] == 2
    assert found["codec"]["windows"] == 2 and found["codec"]["snr"]["n"] == 2
    assert found["diversity"]["prompts"] == 2
    assert set(found["ablations"]) == {
        "wordings", "single temperature", "single guidance", "neither", renders.BARE, renders.BASE,
    }  # fmt: skip
    assert set(found["structure"]) == set(scores.ANCHORS)
    assert found["ablations"][renders.BARE]["structure"] == {}  # nothing was planned
    assert len(found["caption_divergence"]) == 4


def test_page_says_what_is_in_the_figures(ran: Path) -> None:
    page = (ran / "results.md").read_text()
    found = json.loads((ran / "results" / "figures.json").read_text())
    assert f"{found['codec']['snr']['value']:.2f}" in page or "SNR" in page
    assert "**no**" in page and "| instruments, mean AUC |" in page
    pictures = [line.split("(results/")[1][:-1] for line in page.splitlines() if "![" in line]
    assert len(pictures) == 4  # two renders, two round trips
    for name in pictures:
        size = (ran / "results" / name).stat().st_size
        assert 500 < size < 80_000
    assert str(ran) not in page  # no path of this machine


def test_structure_with_another_clap() -> None:
    """Plans are read in the space they live in, renders in that of the CLAP that listens."""
    rng = np.random.default_rng(0)
    render = renders.EvalRender(renders.WORDINGS, 0, prompts.Prompt("a"), 1, 20.0)
    texts = {dim: np.eye(6, dim, dtype=np.float32) for dim in (7, 9)}
    pairs = []
    for _ in range(12):
        levels = rng.uniform(0, 1, (2, 6)).astype(np.float32)
        noisy = levels + rng.normal(0, 0.05, levels.shape).astype(np.float32)
        features = renders.SongFeatures(noisy @ texts[9], 1 - levels[:, :3], 0.0, levels @ texts[7])
        pairs.append((render, features))
    found = scores.structure(pairs, lambda t: texts[9], LABELS[:3], lambda t: texts[7])
    assert all(row["clap"]["value"] > 0.9 for row in found.values())
    assert (
        found["bass"]["tagger"]["value"] == pytest.approx(-1) and found["synth"]["tagger"] is None
    )


def test_a_clap_is_known_by_its_weights(
    ran: Path, songs: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The model's own CLAP in a folder of its own: nothing is rendered or heard anew."""
    config, arrays = read_config(tiny_model), load_arrays(tiny_model)
    own = {key: value for key, value in arrays.items() if key.startswith("clap.")}
    words = {"tokenizer.json": tiny_model / "tokenizer.json"}
    clap = {"model_type": "clap", "clap": config["clap"]}
    save_checkpoint(tmp_path / "clap", clap, own, words)
    before = json.loads((ran / "renders" / "figures.json").read_text())
    assert main(arguments(ran, songs, tiny_model, "--clap", str(tmp_path / "clap"))) == 0
    after = json.loads((ran / "renders" / "figures.json").read_text())
    assert after["settings"]["clap"] == before["settings"]["clap"]
    assert after["groups"] == before["groups"]
    capsys.readouterr()
    only = {key: value for key, value in arrays.items() if key.startswith("rvq.")}
    bare = {"model_type": "rvq", "rvq": config["rvq"]}
    save_checkpoint(tmp_path / "quantiser", bare, only)
    assert main(["eval", "--model", str(tiny_model), "--clap", str(tmp_path / "quantiser")]) == 2
    assert "holds no CLAP" in capsys.readouterr().err


def test_versions_stand_side_by_side(
    ran: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = json.loads((ran / "renders" / "figures.json").read_text())
    worse = json.loads(json.dumps(found))
    worse["groups"]["wordings"]["fad"]["value"] += 1
    worse["codec"]["snr"]["value"] += 1
    worse["settings"]["clap"] = "another"
    page = report.page({**found, "earlier": worse}, {})
    rows = {line.split(" |")[0][2:]: line for line in page.splitlines() if line.endswith("| yes |")}
    assert "FAD" in rows and "codec: SNR, dB" not in rows
    assert "not measured alike: clap another and" in page
    assert "Against an earlier version" not in (ran / "results.md").read_text()
    (tmp_path / "a.json").write_text("{}")
    assert main(["eval", "--against", str(tmp_path / "a.json")]) == 2
    assert "holds no figures" in capsys.readouterr().err


def test_without_a_base_the_page_says_what_was_not_tested(ran: Path) -> None:
    found = json.loads((ran / "renders" / "figures.json").read_text())
    del found["ablations"][renders.BASE]
    assert "**not tested here**" in report.page(found, {})
    assert "**not tested here**" not in (ran / "results.md").read_text()


def test_a_second_run_renders_nothing_anew(
    ran: Path, songs: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {p: p.stat().st_mtime_ns for p in (ran / "renders").rglob("*.flac")}
    assert len(files) == 2 + 2 + 1 + 5
    lost = next(iter(files)).with_suffix(".heard.npz")
    lost.unlink()
    before = json.loads((ran / "renders" / "figures.json").read_text())
    assert main(arguments(ran, songs, tiny_model, "--json")) == 0
    again = json.loads(capsys.readouterr().out)
    assert {p: p.stat().st_mtime_ns for p in (ran / "renders").rglob("*.flac")} == files
    for key in ("groups", "codec", "structure", "diversity", "ablations"):
        assert again[key] == before[key]
    assert lost.is_file()
    refused = arguments(ran, songs, tiny_model)
    refused[refused.index("--duration") + 1] = "3"
    assert main(refused) == 2
    assert "renders of another model or other settings" in capsys.readouterr().err


def test_processes_render_the_same(ran: Path, tiny_model: Path, tmp_path: Path) -> None:
    first = "eval --model {} --prompts {} --duration 2 --seeds 1 --ablation-prompts 0 --workers 2"
    words = first.format(tiny_model, ran / "prompts.json").split()
    assert main([*words, "--output", str(tmp_path / "renders")]) == 0
    for index in range(2):
        name = f"wordings/{index:03d}-1.flac"
        first, again = (soundfile.read(f / "renders" / name)[0] for f in (ran, tmp_path))
        np.testing.assert_allclose(first, again, atol=1e-3)  # other threads round otherwise
    found = json.loads((tmp_path / "renders" / "figures.json").read_text())
    assert found["groups"]["wordings"]["fad"] is None  # without real songs
    assert "needs `--reference-dir`" in report.page({**found, "command": "", "figures": ""}, {})


def test_prompts_are_sound() -> None:
    labels = set(load_tagger().config.labels)
    asked = [family for prompt in prompts.PROMPTS for family in prompt.asked]
    assert set(asked) == labels and min(asked.count(name) for name in labels) >= 3
    for prompt in prompts.PROMPTS:
        assert prompt.asked and set(prompt.asked) | set(prompt.open) <= labels
        assert not set(prompt.asked) & set(prompt.open)
        assert (f"{prompt.bpm:g} BPM" in prompt.text) == (prompt.bpm > 0)
    assert sum(prompt.bpm > 0 for prompt in prompts.PROMPTS) >= 12


def test_prompts_are_no_wordings_of_the_band() -> None:
    pytest.importorskip("torch")
    from musicot_mlx.reference.band import caption, compose

    rng = np.random.default_rng(0)
    heard = {caption(compose(s, duration=10), rng).lower() for s in range(18) for _ in "abcd"}
    assert not heard & {prompt.text.lower() for prompt in prompts.PROMPTS}


def test_prompt_files(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("piano\n\n  drums  \n")
    assert [p.text for p in prompts.read_prompts(tmp_path / "a.txt")] == ["piano", "drums"]
    for text, words in (
        ("[", "not JSON"), ("{}", "list of prompts"), ("[]", "holds no prompt"),
        ('[{"text": "a", "tempo": 3}]', "no field tempo"), ("[{}]", "expected a text"),
        ('[{"text": "a", "bpm": "x"}]', "entry 0"),
    ):  # fmt: skip
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(MusicotError, match=words):
            prompts.read_prompts(tmp_path / "a.json")
    with pytest.raises(MusicotError, match="can't read the prompts"):
        prompts.read_prompts(tmp_path / "nowhere.txt")


def test_reference_folders(songs: Path, tmp_path: Path) -> None:
    found = reference_songs.real_songs(songs, most=6, held_out=2)
    assert [s.path.name for s in found.held_out] == ["00.wav", "20.wav"]
    assert len(found.training) == 6 and not set(found.training) & set(found.held_out)
    assert {s.style for s in found.training} == {"techno", "solo piano"}
    assert found.held_out[0].starts == (0.0,)
    told = reference_songs.caption_prompts(found.held_out, 5)
    assert [(p.text, p.bpm) for p in told] == [("techno at 120 BPM", 120.0)] * 2
    with pytest.raises(MusicotError, match="no reference folder"):
        reference_songs.real_songs(tmp_path / "nowhere", most=6)
    with pytest.raises(MusicotError, match="at least 8 are needed"):
        reference_songs.real_songs(tmp_path, most=6)
    (tmp_path / "metadata.json").write_text("[3]")
    with pytest.raises(MusicotError, match="lists no songs"):
        reference_songs.real_songs(tmp_path, most=6)


def test_tagger_hears_windows() -> None:
    tagger = load_tagger()
    assert set(LABELS) < set(tagger.config.labels)
    rng = np.random.default_rng(0)
    waveform = rng.normal(0, 0.1, (10 * 44100 + 4000, 2)).astype(np.float32)
    tags = tagger.tag(waveform, 44100)
    assert tags.shape == (1, len(tagger.config.labels)) and (0 <= tags).all() and (tags <= 1).all()
    louder = tagger.tag(waveform * 4, 44100)
    np.testing.assert_allclose(tags, louder, atol=1e-4)  # loudness says nothing
    assert tagger.tag(waveform[: 5 * 44100], 44100).shape == tags.shape
    with pytest.raises(ValueError, match="expected 1 s"):
        tagger.tag(waveform[:100], 44100)
    with pytest.raises(ValueError, match="a multiple of 16"):
        TaggerConfig(labels=LABELS, num_mel_bins=60)


def test_tagger_knows_real_songs_apart() -> None:
    """What it was measured at when it was trained stands in its config."""
    held_out = load_tagger().config.held_out
    assert held_out["auc"] > 0.85


def test_tagger_is_its_reference(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from musicot_mlx.reference import tagger as reference

    torch.manual_seed(0)
    twin = reference.Tagger(reference.CONFIG)
    for norm in twin.norms:
        torch.nn.init.normal_(norm.running_mean, 0, 0.1)
        torch.nn.init.uniform_(norm.running_var, 0.5, 2)
        torch.nn.init.uniform_(norm.weight, 0.5, 2)
    reference.write_folder(twin.eval(), tmp_path / "tagger", {"auc": 0.5})
    waveform = np.random.default_rng(0).normal(0, 0.1, 4 * 44100).astype(np.float32)
    with torch.no_grad():
        log_mel = reference.LogMel(reference.CONFIG)(torch.from_numpy(waveform)[None])
        expected = torch.sigmoid(twin(log_mel)).numpy()
    got = load_tagger(tmp_path / "tagger").tag(waveform, 44100)
    np.testing.assert_allclose(got, expected, atol=2e-3)  # weights are kept in 16 bits
    assert np.ptp(expected) > 0.02


def test_a_model_whose_thoughts_no_language_model_draws(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its prompts are rendered and heard by its own ear; there is no sampling to leave out."""
    folder = tiny_magenta_model.write(tmp_path / "tiny")
    config = json.loads((folder / "config.json").read_text()) | {"thought_seconds": 10.0}
    (folder / "config.json").write_text(json.dumps(config))
    options = "--duration 1 --limit 1 --captions 0 --seeds 1 --json -o".split()
    assert main(["eval", "--model", str(folder), *options, str(tmp_path / "out")]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert -1 <= figures["groups"]["wordings"]["clap_score"]["value"] <= 1
    made = tmp_path / "plan.json"
    plan = ["plan", "--model", str(folder), "-p", "piano", "--duration", "1", "-o", str(made)]
    assert main(plan) == 0
    song = ["generate", "--model", str(folder), "--plan", str(made), "--variation", "0.5"]
    assert main(song) == 2
    assert "--variation belongs to planning" in capsys.readouterr().err
    assert main(["generate", "x", "--model", f"{folder}:base"]) == 2
    assert "holds one model, converted before; leave out :base" in capsys.readouterr().err
