"""The band tells the truth: captions, tags, rolls and sections agree with the notes it wrote."""

import hashlib
import json
import re
from dataclasses import replace

import numpy as np
import pytest

from musicot_mlx.errors import MusicotError
from musicot_mlx.reference.band import (
    Note,
    Section,
    available,
    caption,
    compose,
    make_dataset,
    render,
    render_stems,
)
from musicot_mlx.reference.band import dataset as dataset_module
from musicot_mlx.reference.band.compose import _tidy
from musicot_mlx.reference.band.dataset import describe
from musicot_mlx.reference.band.tables import (
    BASS,
    DRUM_NOTES,
    DRUMS,
    FAMILIES,
    FIRST_ORDER,
    INSTRUMENTS,
    MELODIES,
    ORDER,
    PROGRESSIONS,
    RHYTHMS,
    SCALES,
    STYLES,
)
from musicot_mlx.reference.data import SongData, read_roll, read_window

DENIED = r"(?:\bno|\bwithout) ((?:drums|bass|guitar|piano|strings)(?: or \w+)?)"
needs_synth = pytest.mark.skipif(not available(), reason="no FluidSynth or sound font here")


@pytest.fixture(scope="module")
def pieces():
    return {style: compose(40 + i, style=style) for i, style in enumerate(STYLES)}


def test_same_seed_same_piece():
    first, again, other = compose(7), compose(7), compose(7 + len(ORDER))
    assert first == again
    assert first.style == other.style and first.notes != other.notes


def test_seeds_walk_through_all_styles():
    assert {compose(seed, duration=10).style for seed in range(len(ORDER))} == set(STYLES)
    assert set(ORDER) == set(STYLES)


def test_bad_requests_say_what_to_do():
    with pytest.raises(MusicotError, match="choose one of"):
        compose(0, style="polka")
    with pytest.raises(MusicotError, match="at least 5 seconds"):
        compose(0, duration=1)
    assert STYLES[compose(0, style="solo", duration=10).style].solo


def test_tables_fit_together():
    banks = {"drums": DRUMS, "bass": BASS, "melody": MELODIES}
    for style in STYLES.values():
        assert set(style.modes) <= set(SCALES) and set(style.progressions) <= set(PROGRESSIONS)
        for part in style.parts:
            assert set(part.patterns) <= set(banks.get(part.play, RHYTHMS))
            assert set(part.instruments) <= set(INSTRUMENTS)
    assert {tool.family for tool in INSTRUMENTS.values()} == set(FAMILIES)
    assert all(len(r) == 16 for bank in (RHYTHMS, BASS) for rs in bank.values() for r in rs)
    assert all(len(r) == 32 for rs in MELODIES.values() for r in rs)
    for pattern in DRUMS.values():
        assert set(pattern) <= set(DRUM_NOTES) and all(len(r) == 16 for r in pattern.values())


@pytest.mark.parametrize("duration", [8.0, 33.3, 60.0])
@pytest.mark.parametrize("style", STYLES)
def test_notes_are_playable(style, duration):
    piece = compose(3, style=style, duration=duration)
    low, high = STYLES[style].bpm
    assert low - 1e-6 <= piece.bpm <= high + 1e-6
    ends = {}
    for note in piece.notes:
        tool = INSTRUMENTS[note.instrument]
        assert 0 <= note.start < note.end <= duration
        assert tool.low <= note.pitch <= tool.high and 1 <= note.velocity <= 127
        key = (note.instrument, note.pitch)
        assert note.start >= ends.get(key, 0.0) - 1e-9  # a pitch is struck again after it ended
        ends[key] = note.end
    assert piece.sections[0].start == 0 and piece.sections[-1].end == duration
    for one, two in zip(piece.sections, piece.sections[1:], strict=False):
        assert one.end == pytest.approx(two.start)


def test_only_the_section_s_instruments_play_in_it(pieces):
    for piece in pieces.values():
        for section in piece.sections:
            inside = {
                n.instrument
                for n in piece.notes
                if section.start + 0.1 < n.start < section.end - 0.1
            }
            assert inside <= section.instruments


def test_neighbouring_sections_of_a_band_differ(pieces):
    for piece in pieces.values():
        if STYLES[piece.style].solo:
            assert len(piece.instruments()) == 1
            continue
        for one, two in zip(piece.sections, piece.sections[1:], strict=False):
            assert one.instruments != two.instruments


def test_captions_name_what_plays(pieces):
    """A word that belongs to one family only may be said only where that family plays."""
    owners: dict[str, set[str]] = {}
    for tool in INSTRUMENTS.values():
        for word in tool.words:
            owners.setdefault(word, set()).add(tool.family)
    genre_words = {w for style in STYLES.values() for w in style.words}
    rng = np.random.default_rng(0)
    denials = 0
    for piece in pieces.values():
        for start in np.arange(0, 50.1, 5.0):
            playing = {INSTRUMENTS[n].family for n in piece.instruments(start, start + 10)}
            for _ in range(8):
                text = caption(piece, rng, start, start + 10).lower()
                sounding = {
                    INSTRUMENTS[name].family
                    for name, share in piece.shares(start, start + 10).items()
                    if share > 0
                }
                for denial in re.findall(DENIED, text):
                    assert not set(denial.split()) & sounding, (text, piece.style, start)
                    denials += 1
                rest = re.sub(DENIED, " ", text)
                for word in sorted(genre_words, key=len, reverse=True):
                    rest = rest.replace(word, " ")
                said = f" {rest.replace(',', ' ').replace(':', ' ')} "
                for word in sorted(
                    owners, key=len, reverse=True
                ):  # "synth strings", then "strings"
                    if f" {word} " in said:
                        assert owners[word] & playing, (text, word, piece.style, start)
                        said = said.replace(f" {word} ", " ; ")
                if "solo" in rest or "just " in rest or " only" in rest:
                    assert piece.only(start, start + 10), (text, piece.style, start)
                if "full band" in text:
                    assert len(piece.instruments(start, start + 10)) >= 4
    assert denials > 40


def test_captions_tell_who_comes_and_goes():
    def note(start, end, name, velocity=100):
        return Note(start, end, 60, velocity, name)

    notes = [note(t, t + 1, "piano", 50) for t in range(10)]
    notes += [note(t, t + 1, "cello", 90) for t in range(6, 10)]
    notes += [note(t, t + 1, "acoustic bass") for t in range(4)]
    piece = replace(
        compose(0, style="orchestral", duration=10),
        notes=tuple(sorted(notes, key=lambda n: n.start)),
        sections=(Section("BREAK", 0, 10, frozenset({"piano", "cello", "acoustic bass"})),),
        bpm=70.0,
        moods=("sad",),
    )
    rng = np.random.default_rng(0)
    said = {caption(piece, rng) for _ in range(2500)}
    assert any(re.search(r"(joined by|later with) (cello|strings)", text) for text in said)
    assert any(re.search(r"going on after (\w+ )?bass", text) for text in said)
    assert any(re.fullmatch(r".*(soft|quietly played) (\w+ )?piano.*", text) for text in said)
    assert not any("soft cello" in text or "joined by piano" in text for text in said)
    assert any(re.search(r"\b(break|quiet part)\b", text) for text in said)
    assert not any(re.search(r"\b(intro|outro|chorus)\b", text) for text in said)
    assert any("beats per minute" in text for text in said)
    assert any("no drums" in text or "without drums" in text for text in said)


def test_songs_of_the_first_styles_are_what_they_were():
    """The notes of the first 18 styles must not change: models have learned from them."""
    found = hashlib.sha256()
    for number, style in enumerate(FIRST_ORDER):
        for note in compose(number, style=style, duration=20).notes:
            found.update(repr((round(note.start, 6), note.pitch, note.velocity)).encode())
    assert found.hexdigest()[:16] == "12a5c689747a6426"


def test_phrases_breathe():
    """A phrase of four bars is louder in its third bar than where it begins."""
    for style in ("blues", "reggae"):
        loud: dict[int, list[float]] = {0: [], 2: []}
        for seed in range(8):
            piece = compose(seed, style=style, duration=60)
            bar = 240 / piece.bpm
            for section in piece.sections:
                for note in piece.notes:
                    place = (note.start - section.start) / bar
                    if section.start <= note.start < section.end and int(place) % 4 in loud:
                        loud[int(place) % 4].append(note.velocity)
        assert np.mean(loud[2]) > 1.05 * np.mean(loud[0])


def test_loudness_beside_the_mix(pieces):
    for piece in pieces.values():
        table = piece.loudness()
        assert table.shape == (len(piece.roll()), len(FAMILIES))
        whole = piece.activity()
        for column, family in enumerate(FAMILIES):
            assert table[:, column].mean() == pytest.approx(whole[family], abs=0.03)


def test_full_drum_kit_and_walking_bass_are_earned():
    rng = np.random.default_rng(1)
    said = {"full drum kit": 0, "walking bass": 0}
    for seed in range(6):
        for style in ("jazz swing", "rock", "ambient"):
            piece = compose(seed, style=style, duration=30)
            for _ in range(40):
                text = caption(piece, rng, 10.0, 20.0)
                heard = [n for n in piece.notes if 10 <= n.start < 20]
                if "full drum kit" in text:
                    said["full drum kit"] += 1
                    voices = {n.pitch for n in heard if INSTRUMENTS[n.instrument].family == "drums"}
                    assert len(voices) >= 3
                if "walking bass" in text:
                    said["walking bass"] += 1
                    bass = [n for n in heard if INSTRUMENTS[n.instrument].family == "bass"]
                    assert style == "jazz swing" and len(bass) >= 4
    assert min(said.values()) > 0


def test_captions_vary(pieces):
    rng = np.random.default_rng(2)
    texts = {caption(pieces["rock"], rng) for _ in range(60)}
    assert len(texts) > 40
    assert any(len(t.split()) <= 2 for t in texts) and any(len(t.split()) >= 8 for t in texts)


def test_activity_and_tags_follow_the_notes(pieces):
    for piece in pieces.values():
        for section in piece.sections:
            activity = piece.activity(section.start + 0.3, section.end - 0.3)
            assert set(activity) == set(FAMILIES)
            assert all(0 <= value <= 1 for value in activity.values())
            for name in section.instruments:
                assert activity[INSTRUMENTS[name].family] > 0.02, (piece.style, section)
        used = {note.instrument for note in piece.notes}
        assert set(piece.instruments()) <= used
        assert set(piece.instruments()) <= set(piece.tags["instruments"])
        assert piece.style in piece.tags["genre"]


def test_roll_matches_the_notes(pieces):
    piece = pieces["funk"]
    roll = piece.roll(25.0)
    assert roll.shape == (1500, 131) and roll.dtype == np.uint8 and roll.max() == 1
    pitched = [n for n in piece.notes if INSTRUMENTS[n.instrument].family != "drums"]
    for note in pitched[::17]:
        assert roll[int(note.start * 25), note.pitch] == 1
    covered = np.zeros(1500, bool)
    for note in pitched:
        covered[int(note.start * 25) : max(int(note.start * 25) + 1, round(note.end * 25))] = True
    assert np.array_equal(roll[:, :128].any(axis=1), covered)
    kicks = [
        n for n in piece.notes if n.pitch == 36 and INSTRUMENTS[n.instrument].family == "drums"
    ]
    assert roll[:, 128].sum() == len({int(n.start * 25) for n in kicks})


def test_styles_differ_as_their_words_say(pieces):
    def rate(piece, family):
        return sum(INSTRUMENTS[n.instrument].family == family for n in piece.notes) / piece.duration

    assert 125 <= pieces["techno"].bpm <= 145 and pieces["solo cello"].bpm <= 80
    assert pieces["metal"].bpm > pieces["lo-fi hip hop"].bpm + 40
    assert rate(pieces["metal"], "drums") > rate(pieces["bossa nova"], "drums") / 2 > 0
    assert "distorted guitar" in pieces["metal"].instruments()
    loud = np.mean([n.velocity for n in pieces["metal"].notes])
    soft = np.mean([n.velocity for n in pieces["solo piano"].notes])
    assert loud > soft + 30
    assert rate(pieces["ambient"], "drums") == 0


def test_metadata_schema():
    entry = describe(compose(11, duration=25.0), "000011.wav")
    strings = ("audio_file", "text_prompt", "artist", "title", "key")
    assert all(isinstance(entry[name], str) and entry[name] for name in strings)
    assert entry["lyrics"] == "" and entry["duration"] == 25.0 and entry["seed"] == 11
    assert entry["genre_tags"] and entry["instrument_tags"] and entry["captions"]
    assert [w["start"] for w in entry["windows"]] == [0.0, 2.5, 5.0, 7.5, 10.0, 12.5, 15.0]
    for window in entry["windows"]:
        assert window["end"] - window["start"] == 10.0
        assert len(window["captions"]) == 6 and isinstance(window["instruments"], list)
    json.dumps(entry)


def test_data_set_resumes_from_its_metadata(tmp_path, monkeypatch):
    soundfile = pytest.importorskip("soundfile")
    monkeypatch.setattr(
        dataset_module, "render", lambda piece, sample_rate: np.zeros((800, 2), np.float32)
    )
    monkeypatch.setattr(dataset_module, "ProcessPoolExecutor", _Here)
    assert list(make_dataset(tmp_path, songs=2, duration=12)) == [1, 2]
    before = (tmp_path / "000000.wav").stat().st_mtime_ns
    assert list(make_dataset(tmp_path, songs=3, duration=12)) == [1, 2, 3]
    assert (tmp_path / "000000.wav").stat().st_mtime_ns == before
    entries = json.loads((tmp_path / "metadata.json").read_text())
    assert [entry["seed"] for entry in entries] == [0, 1, 2]
    assert soundfile.info(tmp_path / "000002.wav").channels == 1
    assert np.load(tmp_path / "000002.npz")["roll"].shape == (300, 131)
    assert not list(tmp_path.glob(".*"))
    (tmp_path / "metadata.json").write_text("{")
    with pytest.raises(MusicotError, match="metadata.json"):
        list(make_dataset(tmp_path, songs=1))


class _Here:
    """A pool of no processes, so that a test's patches hold."""

    def __init__(self, workers):
        self.workers = workers

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None

    def map(self, make, items):
        return map(make, items)


@needs_synth
def test_render_is_loud_enough_and_never_clips():
    for style in ("metal", "solo piano"):
        piece = compose(1, style=style, duration=8)
        sound = render(piece)
        assert sound.shape == (8 * 44100, 2) and sound.dtype == np.float32
        assert np.abs(sound).max() < 0.95 and 0.02 < sound.std() < 0.2


@needs_synth
def test_stems_add_up_to_the_mix():
    piece = compose(2, style="rock", duration=8)
    stems = render_stems(piece, sample_rate=22050)
    assert set(stems) == {INSTRUMENTS[n.instrument].family for n in piece.notes}
    mix = render(piece, sample_rate=22050)
    error = np.sqrt(np.square(sum(stems.values()) - mix).mean()) / mix.std()
    assert error < 0.02


@needs_synth
def test_a_data_set_with_stems(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset_module, "ProcessPoolExecutor", _Here)
    list(make_dataset(tmp_path, songs=1, seed=2, duration=6))
    assert not (tmp_path / "000002-stems").exists()
    list(make_dataset(tmp_path, songs=1, seed=2, duration=6, stems=True))  # adds what is missing
    stems = sorted((tmp_path / "000002-stems").iterdir())
    families = {INSTRUMENTS[n.instrument].family for n in compose(2, duration=6).notes}
    assert {stem.stem for stem in stems} == families and len(families) > 1
    mix = read_window(tmp_path / "000002.wav", 0.0, 6.0, sample_rate=44100)
    total = sum(read_window(stem, 0.0, 6.0, sample_rate=44100) for stem in stems)
    assert np.sqrt(np.square(total - mix).mean()) < 0.03 * mix.std()


@needs_synth
def test_a_render_does_not_depend_on_the_one_before():
    piece = compose(0, style="techno", duration=5)
    first = render(piece)
    render(compose(1, style="metal", duration=5.3))
    assert np.array_equal(render(piece), first)


@needs_synth
@pytest.mark.parametrize("name", ["cello", "synth pad", "organ", "distorted guitar", "piano"])
def test_notes_end_where_they_are_written_to_end(name):
    """Also when two seats struck the same pitch on one instrument; and no constant offset stays."""
    pitch = 60
    twice = [Note(0.0, 1.5, pitch, 100, name), Note(0.7, 1.2, pitch, 90, name)]
    notes = _tidy(twice, 5.0)
    assert len(notes) == 2 and notes[0].end <= notes[1].start
    piece = replace(compose(0, duration=5), notes=notes, duration=5.0)
    sound = render(piece, sample_rate=22050)
    playing, after = sound[: 22050 * 6 // 5], sound[22050 * 4 :]
    assert after.std() < 0.003 * playing.std()
    assert np.abs(sound.mean(axis=0)).max() < 0.02 * sound.std()


@needs_synth
def test_no_long_silence():
    for seed in (1, 4, 13):
        sound = render(compose(seed, duration=12), sample_rate=22050)
        frames = sound[: len(sound) // 1102 * 1102].reshape(-1, 1102 * 2)  # 50 ms each
        loud = np.flatnonzero(np.sqrt(np.square(frames).mean(axis=1)) > 10 ** (-55 / 20))
        gaps = np.diff(np.concatenate([[-1], loud, [len(frames)]])) * 0.05
        assert gaps.max() < 2.5, (seed, gaps.max())


@needs_synth
def test_a_data_set_that_the_trainer_reads(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset_module, "ProcessPoolExecutor", _Here)
    assert list(make_dataset(tmp_path, songs=2, duration=11)) == [1, 2]
    data = SongData(tmp_path)
    piece = compose(1, duration=11)
    assert len(data.entries) == 2 and set(piece.instruments()) <= set(data.tags())
    song = data.entries[1]
    said = {song.caption(np.random.default_rng(i), 0.0, 10.0) for i in range(30)}
    assert said <= {*song.prompts, *song.windows[0]["captions"]} and len(said) > 3
    sound = read_window(song.path, 1.0, 2.0, sample_rate=44100)
    mono = render(piece).mean(axis=1)[44100 : 3 * 44100]
    np.testing.assert_allclose(sound[:, 0], mono, atol=1e-4)
    assert np.array_equal(read_roll(song.path, 1.0, 50), piece.roll()[25:75])


@pytest.mark.filterwarnings("error")
def test_window_past_the_end_is_the_last_frame() -> None:
    piece = compose(3, duration=20.0)
    assert piece.activity(25.0, 35.0) == piece.activity(20.0 - 1e-6)
    assert set(piece.instruments(25.0, 35.0)) <= set(piece.instruments())
