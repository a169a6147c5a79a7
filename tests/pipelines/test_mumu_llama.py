"""MuMu-LLaMA from question to answer to song: turns, phases, captions, long songs, bad input."""

import io
import json
import shutil
import warnings
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import soundfile
from PIL import Image

pytest.importorskip("torch")
pytest.importorskip("sentencepiece")

import musicot_mlx as mc  # noqa: E402
from musicot_mlx.cli import main  # noqa: E402
from musicot_mlx.convert.convert import convert  # noqa: E402
from musicot_mlx.errors import MusicotError, RunError  # noqa: E402
from musicot_mlx.evaluation.speed import bench as speed  # noqa: E402
from musicot_mlx.generation.mumu_llama import draw_tokens  # noqa: E402
from musicot_mlx.pipelines import memory  # noqa: E402
from musicot_mlx.pipelines.mumu_llama import wording  # noqa: E402
from musicot_mlx.pipelines.mumu_llama.pipeline import Answer, MumuPipeline  # noqa: E402
from tests.support import tiny_mumu_checkpoint as tiny  # noqa: E402

QUESTION = "What instruments play?"
WISH = "Make music for this picture"
GREEDY = {"answer_temperature": 0.0, "answer_tokens": 24}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A song, a picture, a MusicGen, and two models: one that answers, one that asks for music."""
    place = tmp_path_factory.mktemp("mumu")
    music = tiny.write_music(place / "music")
    source = tiny.write(place / "source", music=music, mixed=False)
    options = {"text_encoder": str(music), "dtype": "float32"}
    convert(source, place / "plain", **options)
    rng = np.random.default_rng(0)
    soundfile.write(place / "song.wav", rng.normal(0, 0.1, (8000 * 3, 2)), 8000)
    picture = rng.integers(0, 255, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(picture).save(place / "picture.png")
    # a token of the answer, the fourth new one, loses to the first token of music
    model = mc.load(place / "plain")
    llama, words = model.shelf("llama", "words")
    ids = wording.prompt_ids(model.tokenizer, WISH, longest=1024)
    drawing = {"limit": 24, "temperature": 0.0, "key": mx.random.key(0)}
    said = draw_tokens(llama, words, ids, offsets=llama.offsets({}), **drawing)
    chosen = list(dict.fromkeys(said))[3]
    tensors = tiny.state("split", music)
    rows = tensors["llama.output.weight"]
    rows[words.config.first_music_token] = 1.001 * rows[chosen]
    source = tiny.write(place / "source-music", tensors=tensors, mixed=False)
    convert(source, place / "musical", **options)
    return place


@pytest.fixture(scope="module")
def model(place: Path) -> MumuPipeline:
    return mc.load(place / "plain")


@pytest.fixture(scope="module")
def musical(place: Path) -> MumuPipeline:
    return mc.load(place / "musical")


# --- answers ---


def test_what_is_heard_and_seen_changes_the_answer(model: MumuPipeline, place: Path) -> None:
    song, picture = place / "song.wav", place / "picture.png"
    asked = [
        model.ask(QUESTION, audio=audio, image=image, **GREEDY).text
        for audio in (None, song)
        for image in (None, picture)
    ]
    assert len(set(asked)) == 4
    waveform, rate = soundfile.read(song, dtype="float32")
    again = model.ask(QUESTION, audio=(waveform, rate), **GREEDY)
    assert again.text == asked[2]
    assert "audio" not in again.settings
    answer = model.ask(QUESTION, audio=str(song), **GREEDY)
    assert answer.settings["audio"] == str(song) and answer.settings["question"] == QUESTION
    assert str(answer) == answer.text and set(answer.timings) == {"media", "answer"}


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_pictures_of_any_kind(model: MumuPipeline, place: Path, tmp_path: Path, mode: str) -> None:
    Image.open(place / "picture.png").convert(mode).save(tmp_path / "picture.png")
    options = {"answer_temperature": 0.0, "answer_tokens": 4}
    assert model.ask(QUESTION, image=tmp_path / "picture.png", **options).timings["media"] > 0


def test_a_film_of_one_frame_without_sound(model: MumuPipeline, tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "film.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height = 64, 48
        frame = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
        for packet in stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")):
            container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    options = {"answer_temperature": 0.0, "answer_tokens": 24}
    seen = model.ask(QUESTION, video=tmp_path / "film.mp4", **options)
    assert seen.text != model.ask(QUESTION, **options).text


def test_turns_and_pieces(model: MumuPipeline) -> None:
    heard: list[str] = []
    first = model.ask(QUESTION, hear=heard.append, **GREEDY)
    assert "".join(heard).strip() == first.text and len(heard) > 3
    later = model.ask("And?", history=[(QUESTION, first)], **GREEDY)
    assert later.text == model.ask("And?", history=[(QUESTION, first.text)], **GREEDY).text
    assert later.text != model.ask("And?", **GREEDY).text


def test_a_seed_is_an_answer(model: MumuPipeline) -> None:
    options = {"answer_temperature": 1.0, "answer_tokens": 12}
    assert (
        model.ask(QUESTION, seed=3, **options).text == model.ask(QUESTION, seed=3, **options).text
    )
    assert (
        model.ask(QUESTION, seed=3, **options).text != model.ask(QUESTION, seed=4, **options).text
    )


@pytest.fixture(scope="module")
def slow(place: Path) -> MumuPipeline:
    """The same with an ear for 400 samples a second: hours of sound are millions of them."""
    shutil.copytree(place / "plain", place / "slow")
    config = _config(place / "slow")
    config["mert"]["sampling_rate"] = 400
    (place / "slow" / "config.json").write_text(json.dumps(config))
    return mc.load(place / "slow")


def test_a_song_is_heard_to_its_end(slow: MumuPipeline) -> None:
    """Three minutes, of which upstream hears the first."""
    rate = 400
    song = np.random.default_rng(1).normal(0, 0.1, 180 * rate).astype(np.float32)
    other = song.copy()
    other[-30 * rate :] = 0.3 * np.sin(np.arange(30 * rate) * 2 * np.pi * 50 / rate)
    asked = [slow.ask(QUESTION, audio=(each, rate), **GREEDY).text for each in (song, other)]
    assert asked[0] != asked[1]


def test_three_hours_are_heard_a_minute_at_a_time(slow: MumuPipeline, tmp_path: Path) -> None:
    samples = np.random.default_rng(0).normal(0, 0.1, 3 * 3600 * 400)
    soundfile.write(tmp_path / "long.wav", samples, 400, subtype="PCM_U8")
    told: list[tuple[str, int, int]] = []
    options = {"answer_tokens": 1, "progress": lambda *step: told.append(step)}
    slow.ask(QUESTION, audio=tmp_path / "long.wav", **options)
    assert told[0] == ("listening", 1, 180) and told[-1] == ("listening", 180, 180)


def test_a_second_question_needs_no_second_hearing(
    model: MumuPipeline, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    song = place / "song.wav"
    first = model.ask(QUESTION, audio=song, **GREEDY)
    monkeypatch.setattr(model.shelf, "_networks", dict(model.shelf._networks))
    monkeypatch.delitem(model.shelf._networks, "mert", raising=False)
    assert model.ask(QUESTION, audio=song, **GREEDY).text == first.text
    assert "mert" not in model.shelf.here


# --- phases ---


def test_parts_take_turns_where_memory_is_short(place: Path, model: MumuPipeline) -> None:
    short = mc.load(place / "plain")
    short.keep_within(0)
    answer = short.ask(QUESTION, audio=place / "song.wav", **GREEDY)
    assert short.shelf.here == ("llama", "words")
    assert answer.text == model.ask(QUESTION, audio=place / "song.wav", **GREEDY).text
    options = {"duration": 1, "music": True, "answer_tokens": 4}
    song = short.generate("music", **options)
    assert short.shelf.here == ("text_encoder", "decoder", "codec")
    np.testing.assert_array_equal(song.waveform, model.generate("music", **options).waveform)


def test_memory_counts_the_largest_phase(place: Path, tmp_path: Path) -> None:
    folder = place / "plain"
    sizes = {part: runs for part, (_, runs) in memory.weight_bytes(folder, _config(folder)).items()}
    whole = memory.predict(folder, duration=2)
    assert whole.weights == sum(sizes.values())
    less = memory.predict(folder, duration=2, within=0)
    assert less.weights == max(
        sizes["llama"] + sizes["words"],
        sizes["text_encoder"] + sizes["decoder"] + sizes["codec"],
        sizes["mert"] + sizes["bridges"],
        sizes["vivit"] + sizes["bridges"],
    )
    assert set(whole.stages) >= {"listening and looking", "answer", "audio tokens", "decode"}
    out = tmp_path / "a.wav"
    command = ["generate", "--model", str(folder), "-p", "music", "--music", "--duration", "1"]
    assert main([*command, "--answer-tokens", "4", "--max-memory-gb", "1.5", "-o", str(out)]) == 0


def _config(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text())


# --- songs ---


def test_the_caption_becomes_the_song(musical: MumuPipeline, place: Path, tmp_path: Path) -> None:
    options = {"duration": 2, "seed": 5, **GREEDY}
    song = musical.generate(WISH, image=place / "picture.png", music=True, **options)
    asked = musical.caption(WISH, image=place / "picture.png", **options)
    assert song.settings["caption"] == asked.caption and asked.caption
    assert song.settings["prompt"] == WISH
    assert set(song.timings) == {"media", "answer", "text", "tokens", "decode"}
    # the codes are those that MusicGen by itself draws of that caption
    convert(place / "music", tmp_path / "musicgen", dtype="float32")
    alone = mc.load(tmp_path / "musicgen").generate(
        asked.caption, duration=2, seed=5, audio_guidance=3.5, top_k=50
    )
    np.testing.assert_array_equal(song.codes, alone.codes)
    np.testing.assert_array_equal(song.waveform, alone.waveform)
    given = musical.generate(WISH, caption=asked.caption, **options)
    np.testing.assert_array_equal(given.waveform, song.waveform)
    assert "answer" not in given.timings
    with musical.stream(WISH, image=place / "picture.png", music=True, **options) as stream:
        streamed = np.concatenate(list(stream))
        assert stream.settings["caption"] == asked.caption
    np.testing.assert_array_equal(stream.codes, song.codes)
    assert len(streamed) == len(song.waveform)


def test_music_is_made_where_the_model_asks_for_it(
    musical: MumuPipeline, model: MumuPipeline
) -> None:
    options = {"duration": 1, **GREEDY}
    answer = musical.caption(WISH, **options)
    assert answer.music and "[AUD" not in answer.text
    assert musical.generate(WISH, **options).settings["caption"] == answer.caption
    with pytest.raises(RunError, match="without asking for music.*--music"):
        model.generate(WISH, **options)
    assert model.generate(WISH, music=True, **options).duration == 1
    with pytest.raises(MusicotError, match="the caption is empty"):
        model.generate(WISH, caption=" ")
    with pytest.raises(TypeError, match="did you mean caption"):
        model.generate(WISH, captoin="x")


def test_a_model_that_asks_for_music_and_says_nothing(
    musical: MumuPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(musical, "_captioned", lambda wish: Answer("", True))
    assert musical.generate("calm piano", duration=1).settings["caption"] == "calm piano"


# --- the command line ---


def test_ask(place: Path, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    command = ["--model", str(place / "plain"), "--temperature", "0", "--max-tokens", "8"]
    song = str(place / "song.wav")
    assert main(["ask", song, QUESTION, "And the mood?", *command]) == 0
    lines = capsys.readouterr().out
    assert main(["ask", song, QUESTION, "And the mood?", "--json", *command]) == 0
    reports = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [each["question"] for each in reports] == [QUESTION, "And the mood?"]
    assert lines == "".join(each["answer"] + "\n" for each in reports)
    assert reports[0]["file"] == reports[0]["audio"] == song and reports[0]["seed"] == 0
    assert (
        main(["ask", str(place / "picture.png"), QUESTION, "--audio", song, "--json", *command])
        == 0
    )
    report = json.loads(capsys.readouterr().out)
    assert report["image"].endswith("picture.png") and report["audio"] == song
    monkeypatch.setattr("sys.stdin", io.StringIO("One?\n\nTwo?\n"))
    assert main(["ask", song, "--json", *command]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    monkeypatch.setattr("sys.stdin", io.StringIO("One?\n"))
    assert main(["ask", song, "-", "--json", *command]) == 0
    assert json.loads(capsys.readouterr().out)["question"] == "One?"
    assert main(["ask", "How are you?", "--json", *command]) == 0
    assert json.loads(capsys.readouterr().out)["file"] is None


def test_a_folder_of_songs(place: Path, tmp_path: Path, capsys) -> None:
    for name in ("b", "a"):
        shutil.copy(place / "song.wav", tmp_path / f"{name}.wav")
    command = ["ask", str(tmp_path), QUESTION, "--model", str(place / "plain"), "--max-tokens", "4"]
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[0] for line in lines if ": " in line] == [
        str(tmp_path / "a.wav"), str(tmp_path / "b.wav")
    ]  # fmt: skip
    assert main([*command, "--json"]) == 0
    answers = [json.loads(line)["answer"] for line in capsys.readouterr().out.splitlines()]
    assert len(answers) == 2 and answers[0] == answers[1]  # no turn of the other song is told
    # songs that can't be heard are told, the others answered, and the run was not all well
    soundfile.write(tmp_path / "a-short.wav", np.zeros(9), 8000)
    soundfile.write(tmp_path / "a-silent.wav", np.zeros(0), 8000)
    (tmp_path / "aa.mp3").write_bytes(b"no sound")
    assert main([*command, "--json"]) == 2
    told = capsys.readouterr()
    assert [json.loads(line)["answer"] for line in told.out.splitlines()] == answers
    lines = told.err.splitlines()
    for line, why in zip(
        lines, ["too short to be heard", "holds no samples", "aa.mp3", "3 of 5 songs"], strict=True
    ):
        assert why in line
    assert main([*command[:2], "why " * 2000, *command[3:]]) == 2  # not the songs' fault
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["song.wav", ""], "a question is empty"),
        (["nothing.wav", QUESTION], "nothing.wav does not exist"),
        (["empty", QUESTION], "empty holds no songs"),
        (["song.wav", QUESTION, "--audio", "song.wav"], "there are two of a kind"),
        (["song.wav", QUESTION, "--image", "no.png"], "--image no.png does not exist"),
        (["broken.png", QUESTION], "can't read picture broken.png"),
        (["song.wav", "word " * 2000], "the model takes 1,024"),
        (["broken.png", "song.wav", QUESTION], "song.wav is a file and stands where a question"),
        (["film.3gp", QUESTION], "film.3gp does not exist"),
        ([QUESTION, "--model", "musicot-mini"], "musicot-mini answers no questions; pass a MuMu"),
        ([QUESTION, "--model", "empty"], "is not a model folder"),
    ],
)
def test_ask_refuses(words, said, place, tmp_path, tiny_model, monkeypatch, capsys) -> None:
    from musicot_mlx.weights import hub

    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.png").write_bytes(b"no picture")
    shutil.copy(place / "song.wav", tmp_path)
    shutil.copytree(tiny_model, tmp_path / "weights" / "musicot-mini")
    monkeypatch.setattr(hub, "_FOLDER", tmp_path / "weights")
    model = [] if "--model" in words else ["--model", str(place / "plain")]
    assert main(["ask", *words, *model]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        ("bridges", "audio_size", 0),
        ("bridges", "image_tokens", -1),
        ("bridges", "video_tokens", 64),
        ("words", "hidden_size", 32),
        ("llama", "hidden_size", 0),
        ("llama", "num_attention_heads", 0),
        ("llama", "rms_norm_eps", 0.0),
        ("mert", "num_conv_pos_embedding_groups", 0),
        ("vit", "patch_size", 0),
        ("decoder", "num_attention_heads", 0),
        ("codec", "compress", 0),
        ("text_encoder", "d_model", -1),
    ],
)
def test_sizes_of_no_network_are_told(place, tmp_path, section, name, value) -> None:
    folder = shutil.copytree(place / "plain", tmp_path / "odd")
    config = json.loads((folder / "config.json").read_text())
    config[section][name] = value
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(MusicotError, match=f"config {section}"):
        mc.load(folder).shelf(section)


def test_generate(place: Path, tmp_path: Path, capsys) -> None:
    out, model = tmp_path / "a.wav", str(place / "musical")
    command = ["generate", "--model", model, "-p", WISH, "--image", str(place / "picture.png")]
    command += ["--music", "--duration", "1", "--answer-temp", "0", "--answer-tokens", "12"]
    assert main([*command, "--caption-only"]) == 0
    caption = capsys.readouterr().out.strip()
    assert main([*command, "-o", str(out)]) == 0
    assert f"caption: {caption}" in capsys.readouterr().out
    settings = json.loads(out.with_suffix(".json").read_text())
    assert settings["caption"] == caption and settings["image"].endswith("picture.png")
    again = tmp_path / "b.wav"
    assert main(["generate", "--config-from", str(out), "-o", str(again)]) == 0
    assert again.read_bytes() == out.read_bytes()
    # the caption alone says what to play
    third = tmp_path / "c.wav"
    given = ["generate", "--model", model, "--caption", caption, "--duration", "1"]
    assert main([*given, "-o", str(third)]) == 0
    assert third.read_bytes() == out.read_bytes()
    assert json.loads(third.with_suffix(".json").read_text())["caption"] == caption
    assert main(["generate", "--config-from", str(third), "-o", str(again), "--overwrite"]) == 0
    assert again.read_bytes() == out.read_bytes()
    assert main([*command, "--stream", "-o", str(again), "--overwrite"]) == 0
    assert f"caption: {caption}" in capsys.readouterr().out
    assert main(["generate", "--model", model, "--caption", "", "-o", str(again)]) == 2
    for flag in (["-o", str(tmp_path / "d.wav")], ["-o", "-"], ["--play"], ["--caption", "x"]):
        assert main([*command, "--caption-only", *flag]) == 2
        assert "makes no song; leave out --" in capsys.readouterr().err
    assert not (tmp_path / "d.wav").exists()
    assert main(["generate", "--model", model, "-p", "x", "--image", "no.png"]) == 2
    assert "image file no.png doesn't exist" in capsys.readouterr().err
    assert main(["generate", "-p", "piano", "--caption-only", "--duration", "1"]) == 2
    assert "writes no captions" in capsys.readouterr().err


def test_bench_counts_its_stages(place: Path) -> None:
    order = {"model": str(place / "plain"), "duration": 1, "seed": 1, "songs": 1, "batch": 1}
    report = speed.one_run({**order, "counts": False, "save": False})
    assert {"listening and looking", "answer", "audio tokens", "decode"} <= set(report["cold"])
    assert report["cold"]["answer"] > 0 and report["first_audio_seconds"] > 0


# --- words ---


def test_the_prompt_is_the_one_of_training(model: MumuPipeline) -> None:
    ids = wording.prompt_ids(model.tokenizer, QUESTION, longest=1024)
    assert ids[0] == wording.BEGIN
    assert model.tokenizer.decode(ids[1:]) == (
        "Below is an instruction that describes a task. Write a response that appropriately "
        f"completes the request.\n\n### Instruction:\n{QUESTION}\n\n### Response:"
    )
    turns = [(f"{n}?", "yes " * 20) for n in range(30)]
    cut = wording.prompt_ids(model.tokenizer, QUESTION, turns, longest=400)
    assert len(cut) <= 400 - wording.LEAST_ANSWER
    assert "29?" in model.tokenizer.decode(cut) and "0?" not in model.tokenizer.decode(cut)[:300]


@pytest.mark.parametrize(
    ("text", "end", "told", "music"),
    [
        ("solo piano", [], "solo piano", False),
        ("solo piano", [wording.END, 9], "solo piano", False),
        ("solo piano", [400, 401], "solo piano", True),
        ("calm\n\n### Instruction:", [], "calm", False),
        ("one\ntwo #3", [], "one\ntwo #3", False),
        ("cafés \U0001f3b9 音", [], "cafés \U0001f3b9 音", False),
        ("", [400], "", True),
        ("", [], "", False),
    ],
)
def test_where_an_answer_ends(model, text, end, told, music) -> None:
    ids = model.tokenizer.encode(text, add_special_tokens=False).ids if text else []
    found = list(wording.pieces(model.tokenizer, [*ids, *end], 400))
    assert "".join(each.text for each in found).strip() == told
    assert [each.music for each in found if each.music] == [True] * music
    assert all("\ufffd" not in each.text for each in found)


def test_captions_are_one_clean_line() -> None:
    assert wording.caption_of(" A calm\tpiece [AUD0][AUD1] more") == "A calm piece"
    assert wording.caption_of("\nFirst.  Yes\n\nSecond") == "First. Yes"


def test_the_warning_comes_once(place: Path, model: MumuPipeline) -> None:
    closed = mc.load(place / "plain")
    llama, _ = closed.shelf("llama", "words")
    llama.gates = mx.zeros_like(llama.gates)
    with pytest.warns(UserWarning, match="all gates are closed"):
        closed.ask(QUESTION, image=place / "picture.png", answer_tokens=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        closed.ask(QUESTION, image=place / "picture.png", answer_tokens=1)
        model.ask(QUESTION, image=place / "picture.png", answer_tokens=1)
