"""Candidates: the best of several songs is kept, and it is the song that its seed makes alone."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import musicot_mlx as mc
from musicot_mlx.cli import main
from musicot_mlx.errors import MusicotError
from musicot_mlx.pipelines.candidates import candidate_seeds, score
from musicot_mlx.pipelines.musicot.pipeline import MusicotPipeline


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> MusicotPipeline:
    return mc.load(tiny_model)


def test_seeds_of_near_seeds_are_apart() -> None:
    seeds = [seed for first in range(20) for seed in candidate_seeds(first, 16)]
    assert len(set(seeds)) == len(seeds) and all(0 <= seed < 2**63 for seed in seeds)
    assert candidate_seeds(7, 3) == candidate_seeds(7, 8)[:3] and candidate_seeds(7, 1) == [7]


@pytest.mark.parametrize("planned", [False, True])
def test_the_best_is_kept_and_comes_again_alone(model: MusicotPipeline, planned: bool) -> None:
    plan = model.plan("piano", duration=3, seed=4) if planned else None
    prompt = None if planned else "piano"
    options = {"plan": plan} if planned else {"duration": 3}
    song = model.generate(prompt, seed=3, candidates=3, **options)
    chosen = song.settings["chosen"]
    scores = {each["seed"]: each["score"] for each in chosen["scores"]}
    assert chosen["of_seed"] == 3 and chosen["kept"] == song.settings["seed"]
    assert list(scores) == candidate_seeds(3, 3)
    assert scores[song.settings["seed"]] == max(scores.values())
    assert len(set(scores.values())) == 3
    alone = model.generate(prompt, seed=song.settings["seed"], **options)
    np.testing.assert_array_equal(alone.waveform, song.waveform)
    np.testing.assert_array_equal(alone.codes, song.codes)
    np.testing.assert_array_equal(alone.plan.codes, song.plan.codes)
    if planned:
        assert mc.Plan.load(song.settings["plan"], model).codes.tolist() == plan.codes.tolist()
    found = score(
        model.clap,
        song.waveform,
        song.sample_rate,
        seed=0,
        prompt=song.plan.vector,
        thoughts=song.plan.embeddings,
    )
    assert found.score == pytest.approx(max(scores.values()), abs=1e-4)
    follows = mc.analyze(song.waveform, song.sample_rate, model=model, plan=song.plan)
    assert found.cosines["plan"] == pytest.approx(follows.mean_cosine, abs=1e-5)


def test_where_a_batch_rounds_otherwise_the_seed_keeps_its_word(
    model: MusicotPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = model.render

    def rounds_otherwise(plans: list, seeds: list, *rest: object) -> Iterator[np.ndarray]:
        for block in draw(plans, seeds, *rest):
            yield (block + 1) % 32 if len(plans) > 1 else block

    monkeypatch.setattr(model, "render", rounds_otherwise)
    song = model.generate("piano", duration=3, seed=3, candidates=2)
    alone = model.generate("piano", duration=3, seed=song.settings["seed"])
    np.testing.assert_array_equal(alone.waveform, song.waveform)


def test_a_broken_render_is_never_the_best(model: MusicotPipeline) -> None:
    wanted = model.clap.embed_text(["piano"])
    options = {"seed": 0, "prompt": wanted[0], "thoughts": wanted}
    silent = score(model.clap, np.zeros((16000, 2), np.float32), 8000, **options)
    assert silent.broken and silent.score == -1.0


def test_what_candidates_refuse(model: MusicotPipeline) -> None:
    with pytest.raises(MusicotError, match="before it can be chosen"):
        model.stream("piano", duration=3, candidates=2)
    for count in (0, 17, 1.5):
        with pytest.raises(MusicotError, match="ask for 1 to 16"):
            model.generate("piano", duration=3, candidates=count)


def test_the_command_keeps_the_scores(
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    generate = ["generate", "--model", str(tiny_model), "-p", "piano", "--duration", "2"]
    assert main([*generate, "--candidates", "3", "--json", "-o", "a.wav"]) == 0
    told = capsys.readouterr()
    report, settings = json.loads(told.out), json.loads(Path("a.json").read_text())
    assert len(settings["chosen"]["scores"]) == 3 and settings["candidates"] == 1
    assert report["chosen"] == settings["chosen"] and report["seed"] == settings["seed"]
    assert told.err.count("candidate ") == 3 and told.err.count(", kept") == 1
    assert main(["generate", "--config-from", "a.json", "-o", "b.wav"]) == 0
    assert Path("a.wav").read_bytes() == Path("b.wav").read_bytes()
    for flags, words in ((["--stream", "--candidates", "2"], "stream"),
                         (["--candidates", "17"], "from 1 to 16")):  # fmt: skip
        assert main([*generate, *flags]) == 2
        assert words in capsys.readouterr().err
