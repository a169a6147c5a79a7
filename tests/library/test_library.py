"""Songs are added once, found by words, by audio and by each other, and forgotten."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

import musicot_mlx as mc
from musicot_mlx.errors import MusicotError
from musicot_mlx.library import Added, Find, Library
from musicot_mlx.pipelines.clap import load as load_clap
from tests.library.support import RATE, BandEar, song
from tests.support import tiny_magenta_model

pytest.importorskip("lancedb")


@pytest.fixture
def music(tmp_path: Path) -> Path:
    """Four songs: three of one band, one that goes from low to high."""
    folder = tmp_path / "music"
    for name in ("deep", "middle", "high"):
        song(folder / f"{name}.wav", name, name, name)
    song(folder / "album" / "rising.wav", "low", "low", "high")
    return folder


@pytest.fixture
def library(tmp_path: Path, music: Path) -> Library:
    made = Library(tmp_path / "library", BandEar())
    assert len(made) == 0
    assert made.add_folder(music) == Added(new=4)
    assert len(made) == 4
    return made


def _names(finds: list) -> list[str]:
    return [Path(find.path).stem for find in finds]


def test_words_find_the_song_and_the_second(library: Library) -> None:
    assert _names(library.search("a high sound", limit=2)) == ["high", "rising"]
    find = library.search("a high sound", path="album/")[0]
    assert (find.title, find.start, find.seconds, find.duration) == ("rising", 2.0, 1.0, 3.0)
    assert 0 < find.score < library.search("high", limit=1)[0].score <= 1.001


def test_a_song_counts_by_the_better_half_of_its_windows(library: Library, tmp_path: Path) -> None:
    once = library.add(song(tmp_path / "once.wav", "deep", "deep", "deep", "middle"))
    twice = library.add(song(tmp_path / "twice.wav", "deep", "deep", "middle", "middle"))
    scores = {find.id: find.score for find in library.search("middle")}
    assert scores[twice] > 0.95 and scores[once] < 0.6


def test_audio_finds_what_is_like_it(library: Library, tmp_path: Path) -> None:
    like = song(tmp_path / "like.wav", "middle", seed=40)
    assert _names(library.search(like=like, limit=1)) == ["middle"]
    waveform, rate = soundfile.read(like, dtype="float32", always_2d=True)
    found = library.search(like=(waveform, rate), limit=1)
    assert found == library.search(like=like, limit=1) and found[0].score > 0.99
    for name, part, why in (("s", 0 * waveform, "s.wav is silent"), ("t", waveform[:80], "0.01 s")):
        soundfile.write(tmp_path / f"{name}.wav", part, rate)
        with pytest.raises(MusicotError, match=why):
            library.search(like=tmp_path / f"{name}.wav")


def test_similar_leaves_the_song_itself_out(library: Library, music: Path) -> None:
    own = library.search("high", limit=1)[0].id
    found = library.similar(own)
    assert _names(found)[0] == "rising" and own not in {find.id for find in found}
    assert library.similar(music / "high.wav") == found
    with pytest.raises(MusicotError, match="is not in the library"):
        library.similar("nothing")


def test_what_has_not_changed_is_not_heard_again(library: Library, music: Path) -> None:
    ear = library.ear.embedder
    heard = ear.heard
    assert library.add_folder(music) == Added(unchanged=4)
    os.utime(music / "high.wav", ns=(1, 1))  # another time, the same content
    assert library.add_folder(music) == Added(moved=1, unchanged=3)
    assert ear.heard == heard
    song(music / "high.wav", "high", "low", seed=5)
    assert library.add_folder(music) == Added(renewed=1, unchanged=3)
    assert ear.heard == heard + 1
    assert library.stats()["songs"] == 4 and library.stats()["windows"] == 11


def test_a_moved_file_is_known_by_its_content(library: Library, music: Path) -> None:
    before, heard = library.search("high", limit=1)[0], library.ear.embedder.heard
    (music / "high.wav").rename(music / "it's moved.wav")
    assert library.add_folder(music) == Added(moved=1, unchanged=3)
    after = library.search("high", limit=1)[0]
    assert (after.id, Path(after.path).name) == (before.id, "it's moved.wav")
    assert library.ear.embedder.heard == heard


def test_other_settings_are_told(library: Library, music: Path) -> None:
    """A .json that comes, changes or goes, the song the same; what was said and heard stays."""

    def settings(**said: object) -> None:
        text = json.dumps({"duration": 3, "model": "musicot-mini", **said})
        (music / "high.json").write_text(text)

    def add() -> Find:
        assert library.add_folder(music) == Added(moved=1, unchanged=3)
        assert library.add_folder(music) == Added(unchanged=4)
        return next(find for find in library.search("high") if find.path.endswith("high.wav"))

    heard, windows = library.ear.embedder.heard, library.stats()["windows"]
    first = library.search("high", limit=1)[0]
    assert first.prompt is None and first.licence is None
    settings(prompt="a high whistle", tags=["Whistle"], made={"codes": "AAAA"})
    find = add()
    assert (find.id, find.prompt, find.licence) == (first.id, "a high whistle", "MIT")
    assert find.tags == ("whistle", *first.tags) and library.search("high", tags="whistle")
    assert "AAAA" not in library.sidecar(find.id) and "whistle" in library.sidecar(find.id)
    settings(prompt="a higher one", tags=["flute"])
    find = add()
    assert find.prompt == "a higher one" and find.tags == ("flute", *first.tags)
    assert not library.search("high", tags="whistle")
    library.add(music / "high.wav", title="Mine", licence="CC0")
    settings(prompt="another", title="Not mine")
    find = add()
    assert (find.title, find.licence, find.prompt) == ("Mine", "CC0", "another")
    (music / "high.json").unlink()
    find = add()
    assert (find.prompt, find.title, find.tags) == (None, "Mine", first.tags)
    assert library.sidecar(find.id) is None and library.stats()["windows"] == windows
    assert library.ear.embedder.heard == heard + 1  # the one that was added alone


def test_copies_are_one_song(library: Library, music: Path) -> None:
    shutil.copy(music / "high.wav", music / "copy.wav")
    assert library.add_folder(music) == Added(unchanged=5)
    assert library.stats()["songs"] == 4
    shutil.copy(music / "high.wav", music / "deep.wav")  # whose own content is gone
    assert library.add_folder(music) == Added(unchanged=5)
    assert library.stats()["songs"] == 3 and "deep" not in _names(library.search("deep"))
    (music / "high.wav").unlink()
    assert library.add_folder(music).moved == 1
    assert library.stats() | {"missing": 0} == library.stats()


def test_what_cant_be_read_is_a_line_and_the_rest_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "music"
    song(folder / "z.wav", "low", "low")
    (folder / "a.wav").write_bytes(b"no audio")
    soundfile.write(folder / "b.wav", np.zeros((2 * RATE, 1)), RATE)
    soundfile.write(folder / "c.wav", np.ones((RATE // 4, 1)) * 0.1, RATE)
    calls: list[tuple[int, int]] = []
    added = Library(tmp_path / "library", BandEar()).add_folder(
        folder, progress=lambda *at: calls.append(at)
    )
    assert added.new == added.total == 1 and calls[-1] == (4, 4)
    why = {Path(file).name: why for file, why in added.skipped}
    assert "Format not recognised" in why["a.wav"] and why["b.wav"] == "it is silent"
    assert "0.25 s" in why["c.wav"] and all("\n" not in line for line in why.values())


def test_ctrl_c_keeps_what_was_heard(tmp_path: Path, music: Path) -> None:
    class Interrupted(BandEar):
        def embed_audio(self, waveform: np.ndarray, sample_rate: int) -> np.ndarray:
            if self.heard == 2:
                raise KeyboardInterrupt
            return super().embed_audio(waveform, sample_rate)

    library = Library(tmp_path / "library", Interrupted())
    with pytest.raises(KeyboardInterrupt):
        library.add_folder(music)
    assert library.stats()["songs"] == 2
    again = Library(tmp_path / "library", BandEar())
    assert again.add_folder(music) == Added(new=2, unchanged=2)


def test_filters(library: Library, tmp_path: Path) -> None:
    beat = tmp_path / "beat.wav"
    time = np.arange(8 * RATE) / RATE
    clicks = np.sin(2 * np.pi * 220 * time) * np.exp(-8 * (time % 0.5))
    soundfile.write(beat, clicks, RATE)
    own = library.add(beat, licence="CC-BY-4.0")
    found = next(find for find in library.search("low") if find.id == own)
    assert found.tempo == pytest.approx(120, rel=0.04) and found.licence == "CC-BY-4.0"
    for filters in (
        {"tempo": 120},
        {"tempo": (110, None)},
        {"licence": "cc-by-4.0"},
        {"key": found.key, "tempo": (None, 130)},
        {"path": "beat"},
    ):
        assert [find.id for find in library.search("low", **filters) if find.tempo] == [own]
    assert library.search("low", tempo=(121, 130)) == []
    assert library.search("low", path="' OR 1=1 --") == []
    assert library.search("low", tags=["no such' tag"]) == []
    assert library.search("low", licence="%") == []


def test_words_that_deny_leave_windows_out(library: Library) -> None:
    rows = library.store.rows("start = 2")
    for row in rows:
        row["heard"] = ["drums"] if "rising" in row["path"] else []
    library.store.write(rows, instead_of=())  # twice there now, but for what is asked
    library.store.table.delete("start = 2 AND NOT array_has(heard, 'drums')")
    assert library.search("high", path="rising")[0].start == 2.0
    assert library.search("high, no drums", path="rising")[0].start != 2.0
    with pytest.raises(MusicotError, match="asks for nothing"):
        library.search("no drums")


def test_another_space_is_refused(library: Library, tmp_path: Path, music: Path) -> None:
    other = Library(tmp_path / "library", BandEar("others-4"))
    for action in (
        lambda: other.search("high"),
        lambda: other.add(music / "high.wav"),
        lambda: other.add_folder(music),
    ):
        with pytest.raises(MusicotError, match="'bands-4' and this model hears in 'others-4'"):
            action()
    assert len(other.similar(music / "high.wav")) == 3  # needs no model
    assert other.remove(music) == 4
    assert other.add_folder(music).new == 4  # an empty one takes any


def test_ids_that_are_given(library: Library, tmp_path: Path) -> None:
    file = song(tmp_path / "made.wav", "low", "low")
    settings = {"model": "musicot-mini", "duration": 2.0, "prompt": "low\nsong", "seed": 3}
    settings |= {"made": {"codes": "AAAA", "plan": {"tags": ["Techno", "120 BPM"]}}}
    (tmp_path / "made.json").write_text(json.dumps(settings))
    assert library.add(file, id="s_1", title="mine") == "s_1"
    find = library.search("low", path="made")[0]
    assert (find.id, find.title, find.prompt, find.licence) == ("s_1", "mine", "low song", "MIT")
    assert find.tags[0] == "techno" and not any("bpm" in tag for tag in find.tags)
    assert library.path("s_1") == file
    kept = json.loads(library.sidecar("s_1"))
    assert kept["seed"] == 3 and "codes" not in kept["made"] and kept["made"]["plan"]
    assert library.add(file, id="s_1", title="again") == "s_1"
    assert library.search("low", path="made")[0].title == "again"
    song(file, "low", "high")
    assert library.add_folder(tmp_path).renewed == 1
    assert library.path("s_1") == file and library.stats()["songs"] == 5


def test_remove(library: Library, music: Path) -> None:
    with pytest.raises(MusicotError, match="no song"):
        library.remove(music / "alb")
    assert library.remove(music / "album") == 1
    (music / "high.wav").unlink()
    assert library.stats()["missing"] == 1
    assert library.remove_missing() == 1 and library.stats()["songs"] == 2
    with pytest.raises(MusicotError, match="no song"):
        library.path("s_1")


def test_bad_wishes_are_one_line(tmp_path: Path, library: Library) -> None:
    empty = Library(tmp_path / "empty", BandEar())
    for action, why in (
        (lambda: empty.search("low"), "is empty; musicot library add"),
        (lambda: empty.similar("x"), "is empty"),
        (lambda: empty.remove("x"), "no song x"),
        (lambda: library.search(), "one of the two"),
        (lambda: library.search("low", like="x.wav"), "one of the two"),
        (lambda: library.search("low", limit=0), "limit"),
        (lambda: library.search("low", key="H"), "is no key"),
        (lambda: library.search("low", tempo=(130, 120)), "the lower first"),
        (lambda: library.search("low", tempo="fast"), "tempo"),
        (lambda: library.add_folder(tmp_path / "none"), "is no folder"),
        (lambda: library.add(tmp_path / "none.wav"), "none.wav"),
    ):
        with pytest.raises(MusicotError, match=why) as error:
            action()
        assert "\n" not in str(error.value)
    assert empty.stats()["songs"] == 0


def test_models_with_ears(tiny_model: Path, tmp_path: Path, music: Path) -> None:
    whole = Library(tmp_path / "a", mc.load(tiny_model))
    whole.add(music / "high.wav")
    alone = Library(tmp_path / "a", load_clap(tiny_model))  # the same CLAP, the same space
    assert alone.ear.space == whole.ear.space
    assert _names(alone.search(like=music / "high.wav")) == ["high"]
    by_name = Library(tmp_path / "a", str(tiny_model))
    assert by_name.search("piano")[0].score == pytest.approx(whole.search("piano")[0].score)
    magenta = Library(tmp_path / "b", tiny_magenta_model.pipeline())
    magenta.add(music / "high.wav")
    assert magenta.search("calm piano")[0].title == "high"
    assert magenta.ear.space == magenta.ear._given.space.id
    with pytest.raises(MusicotError, match="can't hear; pass a model of MusiCoT"):
        Library(tmp_path / "c", object()).add(music / "high.wav")


def test_the_library_knows_its_model(tiny_model: Path, tmp_path: Path, music: Path) -> None:
    Library(tmp_path / "a", str(tiny_model)).add(music / "high.wav")
    assert Library(tmp_path / "a").search("piano")[0].title == "high"
