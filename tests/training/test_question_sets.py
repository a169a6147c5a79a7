"""Sets made of songs: what is known of them, what is asked, what upstream's loaders read."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from musicot_mlx.audio.files import read_audio
from musicot_mlx.cli import main
from musicot_mlx.errors import MusicotError
from musicot_mlx.tokens.harmony import Key
from musicot_mlx.training import question_sets
from musicot_mlx.training.known_songs import KnownSong, known_songs
from musicot_mlx.training.question_sets import SetOptions, make_sets

RATE = 8000
BAND = {
    "genre_tags": ["jazz swing", "jazz"],
    "instrument_tags": ["piano", "jazz drum kit", "acoustic bass", "drums", "bass"],
    "bpm": 140.0,
    "key": "D dorian",
    "text_prompt": "a quick jazz trio",
    "captions": ["upbeat jazz with piano"],
    "artist": "the procedural band",
    "title": "jazz swing no. 7",
}


def write_song(path: Path, seconds: float = 2.0, frequency: float = 330.0) -> Path:
    time = np.arange(int(seconds * RATE)) / RATE
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * frequency * time), RATE)
    return path


@pytest.fixture
def songs(tmp_path: Path) -> Path:
    """Three songs of the band, a fourth with words beside it, and one of which nothing is known."""
    folder = tmp_path / "songs"
    folder.mkdir()
    entries = [{**BAND, "audio_file": f"{n}.wav", "bpm": 60.0 + 40 * n} for n in range(3)]
    for entry in entries:
        write_song(folder / entry["audio_file"])
    (folder / "metadata.json").write_text(json.dumps(entries))
    return folder


def read(path: Path) -> list[dict]:
    return json.loads(path.read_text())


def known(folder: Path, **options) -> tuple[list[KnownSong], list]:
    skipped = []
    return known_songs(folder, skipped=skipped, **options), skipped


def test_the_band_tells_all(songs: Path) -> None:
    found, skipped = known(songs, licence="CC0")
    song = found[2]
    assert not skipped and len(found) == 3
    assert song.families == ("drums", "bass", "piano") and song.tempo_word == "fast"
    assert song.key == Key(2, "dorian") and song.style == "jazz swing"
    assert song.specific() == ("piano", "jazz drum kit", "acoustic bass")
    assert song.licence == "CC0" and song.origin == "the procedural band, jazz swing no. 7"
    assert [song.tempo_word for song in found] == ["slow", "medium", "fast"]
    assert song.facts() == (
        "fast jazz swing in D dorian at 140 BPM with piano, jazz drum kit and acoustic bass"
    )


def test_edits_change_what_is_known(songs: Path) -> None:
    song = known(songs)[0][1]
    slower, higher = (
        song.edited(Path("a.flac"), speed=0.5),
        song.edited(Path("b.flac"), semitones=2),
    )
    assert slower.bpm == 50 and slower.tempo_word == "slow" and not slower.captions
    assert str(higher.key) == "E dorian" and higher.bpm == song.bpm
    assert song.edited(Path("c.flac"), semitones=0.5).key is None


def test_words_beside_a_song_and_settings_that_musicot_wrote(tmp_path: Path) -> None:
    write_song(tmp_path / "a.wav")
    (tmp_path / "a.txt").write_text("calm guitar and cello at 70 BPM")
    write_song(tmp_path / "b.wav")
    settings = {"model": "musicot-mini", "duration": 2.0, "prompt": "techno with drum machine",
                "bpm": 130, "key": "F minor", "seed": 5, "version": "1.2",
                "format": "wav"}  # fmt: skip
    (tmp_path / "b.json").write_text(json.dumps(settings))
    write_song(tmp_path / "c.wav")
    found, skipped = known(tmp_path)
    assert found[0].families == ("guitar", "strings") and found[0].bpm == 70
    assert found[1].captions == ("techno with drum machine",) and str(found[1].key) == "F minor"
    assert found[1].origin == "made by musicot 1.2 with musicot-mini, seed 5"
    assert found[1].licence == found[0].origin == "unknown"
    assert [each.name for each in skipped] == ["c.wav"] and "nothing is known" in skipped[0].why
    heard, none = known(tmp_path, describe=lambda path: f"a sine,\n in {path.name}")
    assert heard[2].captions == ("a sine, in c.wav",) and not none


def test_every_set_is_what_upstream_reads(songs: Path, tmp_path: Path) -> None:
    counts = make_sets(known(songs)[0], tmp_path / "sets", SetOptions())
    files = [file for file in (tmp_path / "sets/audio").iterdir()]
    assert counts == {
        "questions": 7 * (3 + len(files)),  # the edits are asked about too
        "captions": 3,
        "edits": 6,
        "instructions": 3,
    }
    kinds = set()
    for name in counts:
        for entry in [
            *read(tmp_path / f"sets/{name}.json"),
            *read(tmp_path / f"sets/valid/{name}.json"),
        ]:
            human, model = entry["conversations"]
            assert (human["from"], model["from"]) == ("human", "gpt")
            assert human["value"] and model["value"] and "caption" in model
            assert human["input_modality"] == ("text" if name == "instructions" else "audio")
            assert entry["licence"] and entry["origin"]
            for key in ("input_file", "output_file"):
                assert not entry[key] or (tmp_path / "sets" / entry[key]).is_file()
            assert bool(entry["output_file"]) == (model["output_modality"] == "audio")
            assert (entry.get("audio_name") == entry["input_file"]) == (name == "questions")
            kinds.add(entry["kind"])
    assert kinds >= {"instruments", "tempo", "bpm", "key", "style", "presence", "caption",
                     "instruction"}  # fmt: skip
    train, valid = (  # a song and its edits are on one side: 0.wav, 0-1f2e-speed1.3.flac
        {Path(entry["input_file"]).name[0] for entry in read(tmp_path / file)}
        for file in ("sets/questions.json", "sets/valid/questions.json")
    )
    assert train == {"1", "2"} and valid == {"0"}


def test_answers_are_true(songs: Path, tmp_path: Path) -> None:
    make_sets(known(songs)[0], tmp_path / "sets", SetOptions(sets=("questions",)))
    answers: dict[str, set[str]] = {}
    for entry in read(tmp_path / "sets/questions.json"):
        said, answer = (turn["value"] for turn in entry["conversations"])
        answers.setdefault(entry["kind"], set()).add(answer)
        if entry["kind"] == "presence":
            there = any(word in said for word in ("drums", "bass", "piano"))
            assert answer == ("Yes." if there else "No.")
    assert answers["instruments"] == {"You hear drums, bass and piano."}
    assert answers["tempo"] == {"The tempo is medium.", "The tempo is fast."}
    assert answers["key"] == {"It is in D dorian."} and answers["style"] == {
        "The style is jazz swing."
    }


def test_edits_are_asked_about_too(songs: Path, tmp_path: Path) -> None:
    options = SetOptions(sets=("questions", "edits"), edits=9)
    make_sets(known(songs)[0], tmp_path / "sets", options)
    answers = {
        (Path(entry["input_file"]).name.split("-", 2)[-1], entry["kind"]): entry["conversations"][
            1
        ]["value"]
        for entry in read(tmp_path / "sets/questions.json")
        if Path(entry["input_file"]).name.startswith("1-")
    }
    assert answers["pitch+200.flac", "key"] == "It is in E dorian."
    assert answers["pitch+200.flac", "bpm"] == "It has about 100 beats a minute."
    assert answers["speed0.5.flac", "tempo"] == "The tempo is slow."
    assert answers["speed1.3.flac", "bpm"] == "It has about 130 beats a minute."
    assert answers["speed1.3.flac", "key"] == "It is in D dorian."


def test_edits_are_rendered_and_told(songs: Path, tmp_path: Path) -> None:
    options = SetOptions(sets=("edits",), edits=9)
    make_sets(known(songs)[0], tmp_path / "sets", options)
    entries = read(tmp_path / "sets/edits.json")
    assert len(entries) == 18
    for entry in entries:
        said, answer = (turn["value"] for turn in entry["conversations"])
        waveform, rate = read_audio(tmp_path / "sets" / entry["output_file"])
        seconds = len(waveform) / rate
        if entry["kind"] == "speed":
            factor = float(answer.split(" times as fast")[0].split()[-1])
            assert f"{factor:g} times as fast" in said
            assert seconds == pytest.approx(2 / factor, abs=0.01)
            assert (entry["output_file"] == entry["input_file"]) == (factor == 1)
        else:
            assert seconds == pytest.approx(2, abs=0.01)
            steps = 2 if "two semitones" in said else 1
            steps = -steps if "lower" in said else steps
            assert str(Key(2, "dorian").transposed(steps)) in answer
            middle = waveform[rate // 2 : 3 * rate // 2, 0]
            found = np.argmax(np.abs(np.fft.rfft(middle))) * rate / len(middle)
            assert found == pytest.approx(330 * 2 ** (steps / 12), abs=2)


def test_a_seed_gives_the_same_sets_and_another_song_changes_none(
    songs: Path, tmp_path: Path
) -> None:
    found = known(songs)[0]
    options = SetOptions(sets=("questions", "captions"))
    for name, some in (("a", found), ("b", found), ("c", found[1:])):
        make_sets(some, tmp_path / name, options)
    make_sets(found, tmp_path / "d", SetOptions(sets=("questions", "captions"), seed=1))

    def lines(name: str) -> set[str]:
        files = (tmp_path / name).rglob("questions.json")
        return {line for file in files for line in file.read_text().splitlines()}

    def of(name: str, song: str) -> set[str]:
        return {line.rstrip(",") for line in lines(name) if f"{song}.wav" in line}

    assert lines("a") == lines("b") != lines("d")
    assert of("a", "2") == of("c", "2") and of("a", "2")


def test_an_interrupted_run_goes_on(
    songs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, options, folder = known(songs)[0], SetOptions(edits=3), tmp_path / "sets"
    make_sets(found, tmp_path / "whole", options)
    rendered, render = [], question_sets._render

    def stopping(*args) -> None:
        if len(rendered) == 4:
            raise KeyboardInterrupt
        rendered.append(args)
        render(*args)

    monkeypatch.setattr(question_sets, "_render", stopping)
    with pytest.raises(KeyboardInterrupt):
        make_sets(found, folder, options)
    assert not (folder / "edits.json").exists()
    with pytest.raises(MusicotError, match="begun with other songs or settings"):
        make_sets(found, folder, SetOptions(seed=3))
    again = []
    monkeypatch.setattr(question_sets, "_render", lambda *args: (again.append(args), render(*args)))
    make_sets(found, folder, options)
    assert not {args[1] for args in again} & {args[1] for args in rendered}
    assert (folder / "edits.json").read_text() == (tmp_path / "whole/edits.json").read_text()
    with pytest.raises(MusicotError, match="finished data set"):
        make_sets(found, folder, options)
    make_sets(found[:2], folder, options, overwrite=True)
    names = {Path(entry["output_file"]).name for entry in read(folder / "edits.json")}
    assert {file.name for file in (folder / "audio").iterdir()} >= names - {"1.wav"}
    assert not [file for file in (folder / "audio").iterdir() if file.name.startswith("2-")]


def test_files_of_others_are_left_alone(songs: Path, tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs/notes.txt").write_text("mine")
    with pytest.raises(MusicotError, match="holds files that are no data set"):
        make_sets(known(songs)[0], tmp_path / "theirs", SetOptions())
    assert [file.name for file in (tmp_path / "theirs").iterdir()] == ["notes.txt"]


def test_the_command(songs: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (songs / "broken.wav").write_bytes(b"no audio")
    entries = read(songs / "metadata.json")
    entries += [{**BAND, "audio_file": "broken.wav"}, {**BAND, "audio_file": "gone.wav"}]
    (songs / "metadata.json").write_text(json.dumps(entries))
    command = ["dataset", str(songs), "-o", str(tmp_path / "sets"), "--edits", "1"]
    assert main(command) == 0
    out, err = capsys.readouterr()
    assert "questions, 3 captions, 3 edits, 3 instructions of 3 songs; 3 of unknown" in out
    assert "skipped broken.wav" in err and "skipped gone.wav" in err
    assert main(command) == 2 and "finished data set" in capsys.readouterr().err
    assert main([*command, "--overwrite", "--json", "--licence", "CC0"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["unknown_licences"] == 0 and said["skipped"] == 2 and said["entries"]["edits"] == 3


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["nowhere", "-o", "sets"], "no folder of songs at nowhere"),
        (["empty", "-o", "sets"], "holds no train.jsonl"),
        (["songs", "-o", "sets", "--sets", "answers"], "sets are questions, captions"),
        (["songs", "-o", "sets", "--speeds", "0.1"], "0.25 to 4"),
        (["songs", "-o", "sets", "--cents", "100.5"], "a whole number"),
        (["songs", "-o", "songs/0.wav"], "is no folder"),
        (["songs", "-o", "sets", "--model", "musicot-mini"], "doesn't listen"),
    ],
)
def test_bad_input_is_told_in_a_line(
    songs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], line: str,
    capsys: pytest.CaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    assert main(["dataset", *words]) == 2
    err = capsys.readouterr().err
    assert line in err and err.count("\n") == 1
    assert not (tmp_path / "sets").exists()
