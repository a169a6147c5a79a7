"""The whole of MuMu-LLaMA against PyTorch: media files to words, from the published kind of file.

transformers' encoders and the twin see what a file holds their own way, at every token anew; the
answer that comes out of convert and the pipeline is the same text.
"""

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sentencepiece")

import soundfile  # noqa: E402
from PIL import Image  # noqa: E402
from transformers import ViTImageProcessor, VivitImageProcessor  # noqa: E402

import musicot_mlx as mc  # noqa: E402
from musicot_mlx.convert.convert import convert  # noqa: E402
from musicot_mlx.pictures.films import read_film  # noqa: E402
from musicot_mlx.pipelines.mumu_llama import wording  # noqa: E402
from musicot_mlx.pipelines.mumu_llama.options import MumuOptions  # noqa: E402
from tests.support import tiny_mumu_checkpoint as tiny  # noqa: E402

QUESTION = "What instruments play?"
RATE, SECONDS = 24000, 62  # one whole window, and two seconds of a second
TOKENS = 24


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder, rng = tmp_path_factory.mktemp("media"), np.random.default_rng(0)
    song = rng.normal(0, 0.1, RATE * SECONDS) * np.linspace(0.2, 1, RATE * SECONDS)
    soundfile.write(folder / "song.wav", song, RATE, subtype="FLOAT")
    Image.fromarray(rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(folder / "picture.png")
    return {"audio": folder / "song.wav", "image": folder / "picture.png"}


def _film(path: Path) -> Path:
    av = pytest.importorskip("av")
    rng = np.random.default_rng(1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height = 64, 48
        for number in range(40):
            picture = np.full((48, 64, 3), 6 * number, dtype=np.uint8)
            picture[:24, : number + 8] = rng.integers(0, 255, 3)
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def _heard(model, mert, song: Path) -> torch.Tensor:
    """What the twin hears: means of each window's states, weighted by its frames."""
    samples = torch.from_numpy(soundfile.read(song, dtype="float32")[0])
    total, frames = 0, 0
    for window in samples.split(60 * RATE):
        out = mert(window[None], output_hidden_states=True)
        # transformers 5 gives the last state before the norm, that of upstream's time after it
        states = torch.stack([*out.hidden_states[:-1], out.last_hidden_state], dim=1)
        total, frames = total + states.sum(dim=2, keepdim=True), frames + states.shape[2]
    return model.feature("audio", total / frames)


def _looked(model, vit, picture: Path) -> torch.Tensor:
    processor = ViTImageProcessor(size={"height": 32, "width": 32})
    pixels = processor(Image.open(picture), return_tensors="pt").pixel_values
    return model.feature("image", vit(pixels).last_hidden_state)


def _watched(model, vivit, film: Path) -> torch.Tensor:
    processor = VivitImageProcessor(
        size={"shortest_edge": 256}, crop_size={"height": 32, "width": 32}, do_normalize=False
    )
    frames = list(read_film(film, count=32).frames)
    pixels = processor(frames, return_tensors="pt").pixel_values
    return model.feature("video", vivit(pixels).last_hidden_state)


def test_answers_are_the_twin_s(files: dict[str, Path], tmp_path: Path) -> None:
    generation, seed = "split", 2
    tensors = tiny.state(generation, None, seed)
    source = tiny.write(tmp_path / "source", tensors=tensors, mixed=False)
    convert(source, tmp_path / "out", dtype="float32")
    ours = mc.load(tmp_path / "out")
    model, encoders = tiny.twin(generation, seed), tiny.encoders(seed)
    media = {**files, "video": _film(tmp_path / "film.mp4")}
    ways = {
        "audio": (_heard, "mert_model"),
        "image": (_looked, "vit_model"),
        "video": (_watched, "vivit_model"),
    }
    with torch.no_grad():
        features = {
            name: way(model, encoders[encoder], media[name])
            for name, (way, encoder) in ways.items()
        }
    ids = wording.prompt_ids(ours.tokenizer, QUESTION, longest=1024)
    seen = ours._features(media, MumuOptions.of(ours.sampling))
    for name, expected in features.items():
        error = np.abs(np.array(seen[name]) - expected[:, 0].numpy()).max()
        assert error / expected.abs().max() < 1e-4
    texts = {}
    for names in ((), ("audio",), ("audio", "image", "video")):
        theirs = model.greedy(ids, TOKENS, {name: features[name] for name in names})
        first = ours.config["words"]["vocab_size"] - 8
        expected = "".join(p.text for p in wording.pieces(ours.tokenizer, theirs, first))
        given = {name: media[name] for name in names}
        answer = ours.ask(QUESTION, **given, answer_temperature=0.0, answer_tokens=TOKENS)
        assert answer.text == expected.strip()
        texts[names] = answer.text
    assert len(set(texts.values())) == 3 and min(map(len, texts.values())) > 10
