"""MuMu-LLaMA, from a question to an answer, and from an answer to a song (arXiv 2412.06660).

    song, picture, film -> encoders, bridges -> LLaMA writes an answer -> MusicGen plays it

Each step has networks of its own; where all of them would fill the memory only those of the step
at hand are in it (pipelines/shelf.py). What a file sounds or looks like is kept, so that a second
question about it costs no second hearing. Music is made of the answer's text alone, as upstream
does since December 2023: the projector of its earlier code takes no part.
"""

import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Unpack

import mlx.core as mx
from tokenizers import Tokenizer

from musicot_mlx import __version__
from musicot_mlx.errors import MusicotError, MusicotWarning, RunError
from musicot_mlx.generation.device import compute_dtype, turn
from musicot_mlx.generation.mumu_llama import draw_tokens
from musicot_mlx.models.encodec import Encodec, EncodecConfig
from musicot_mlx.models.hubert import Hubert, HubertConfig
from musicot_mlx.models.mumu_bridges import Bridges, BridgesConfig
from musicot_mlx.models.mumu_llama import (
    MODALITIES,
    MumuLlama,
    MumuLlamaConfig,
    Words,
    WordsConfig,
)
from musicot_mlx.models.musicgen import Musicgen, MusicgenConfig
from musicot_mlx.models.t5 import T5Config, T5Encoder
from musicot_mlx.models.vit import ViT, ViTConfig
from musicot_mlx.pipelines.documented import documented
from musicot_mlx.pipelines.given import items, path_of
from musicot_mlx.pipelines.given import text as plain_text
from musicot_mlx.pipelines.memory import weight_bytes
from musicot_mlx.pipelines.mumu_llama import FAMILY
from musicot_mlx.pipelines.mumu_llama.listening import Audio, FilmPixels, hear, look, watch
from musicot_mlx.pipelines.mumu_llama.options import ANSWERING, MumuAsked, MumuOptions
from musicot_mlx.pipelines.mumu_llama.wording import Turns, caption_of, pieces, prompt_ids
from musicot_mlx.pipelines.musicgen.pipeline import MusicgenPipeline, MusicgenSampling
from musicot_mlx.pipelines.parts import AdapterPath
from musicot_mlx.pipelines.shelf import Shelf
from musicot_mlx.pipelines.song import Clock, Song, Stream, Take
from musicot_mlx.weights.checkpoint import read_config
from musicot_mlx.weights.config import config_from_dict
from musicot_mlx.weights.tokenizer import read_tokenizer

MUSIC: dict[str, tuple[type, type]] = {
    "text_encoder": (T5Encoder, T5Config),
    "decoder": (Musicgen, MusicgenConfig),
    "codec": (Encodec, EncodecConfig),
}
PARTS: dict[str, tuple[type, type]] = {
    "llama": (MumuLlama, MumuLlamaConfig),
    "words": (Words, WordsConfig),
    "bridges": (Bridges, BridgesConfig),
    "mert": (Hubert, HubertConfig),
    "vit": (ViT, ViTConfig),
    "vivit": (ViT, ViTConfig),
    **MUSIC,
}
TOKENIZER, MUSIC_TOKENIZER = "tokenizer.json", "music-tokenizer.json"  # LLaMA's and T5's
CLOSED = 1e-6  # of tanh(gate), below which a gate lets nothing through that could be seen
REMEMBERED = 8  # files whose sound or look is kept


def load(folder: Path, *, name: str, adapter_path: AdapterPath = None) -> "MumuPipeline":
    """The model of an MLX folder with model_type "mumu_llama". Its networks are read when they are
    needed.

    adapter_path: one or several adapter folders; `folder:0.5` counts half. Raises MusicotError that
    says what is wrong with the folder and what to do.
    """
    config = read_config(folder, model_types=(FAMILY.model_type,))
    parts = {section: kinds for section, kinds in PARTS.items() if section in config}
    lacking = [section for section in PARTS if section not in config and section not in MUSIC]
    if lacking:
        raise MusicotError(f"{folder}/config.json lacks the section {lacking[0]!r}")
    check_sizes(config)
    shelf = Shelf(
        folder,
        parts,
        model_type=FAMILY.model_type,
        name=name,
        sizes={part: runs for part, (_, runs) in weight_bytes(folder, config).items()},
        adapter_path=adapter_path,
    )
    files = {file: folder / file for file in (TOKENIZER, MUSIC_TOKENIZER)}
    wanted = [TOKENIZER, *([MUSIC_TOKENIZER] if "decoder" in parts else [])]
    if missing := [file for file in wanted if not files[file].is_file()]:
        raise MusicotError(f"{folder} lacks {missing[0]}; convert the checkpoint again")
    tokenizer = read_tokenizer(files[TOKENIZER])
    if tokenizer.get_vocab_size() != config["words"]["vocab_size"]:
        raise MusicotError(
            f"{files[TOKENIZER]} has {tokenizer.get_vocab_size()} tokens but words.vocab_size is "
            f"{config['words']['vocab_size']}; use the one that convert wrote"
        )
    return MumuPipeline(
        shelf,
        config,
        tokenizer,
        read_tokenizer(files[MUSIC_TOKENIZER]) if "decoder" in parts else None,
        name,
    )


def check_sizes(config: Mapping[str, Any]) -> None:
    """Raise MusicotError for sections that are of no network, or whose networks don't fit."""
    found: dict[str, Any] = {
        section: config_from_dict(kind, config[section], where=section)
        for section, (_, kind) in PARTS.items()
        if section in config
    }
    llama, words, bridges = (found[name] for name in ("llama", "words", "bridges"))
    mert, vit, vivit = (found[name] for name in ("mert", "vit", "vivit"))
    pairs = {
        "bridges.audio_states": (bridges.audio_states, mert.num_hidden_layers + 1, "mert"),
        "bridges.audio_size": (bridges.audio_size, mert.hidden_size, "mert"),
        "bridges.image_tokens": (bridges.image_tokens, vit.patches + 1, "vit"),
        "bridges.image_size": (bridges.image_size, vit.hidden_size, "vit"),
        "bridges.video_tokens": (bridges.video_tokens, vivit.patches + 1, "vivit"),
        "bridges.video_size": (bridges.video_size, vivit.hidden_size, "vivit"),
        "bridges.hidden_size": (bridges.hidden_size, llama.hidden_size, "llama"),
        "words.hidden_size": (words.hidden_size, llama.hidden_size, "llama"),
    }
    for name, (size, expected, part) in pairs.items():
        if size != expected and min(size, expected) > 0:  # a size of nothing is told by its network
            raise MusicotError(f"config {name} is {size}, which {part} makes {expected}")


@dataclass(frozen=True)
class MumuSampling(MusicgenSampling):
    """How a model is best sampled: the `sampling` section of config.json; each call may say
    otherwise. The defaults are upstream's.
    """

    audio_guidance: float = 3.5
    top_k: int = 50
    answer_temperature: float = 0.6
    answer_top_p: float = 0.8


@dataclass(frozen=True)
class Answer:
    """text: what the model says; music: whether it asks for music to be made of that. settings make
    the same answer again; timings are seconds by stage.
    """

    text: str
    music: bool
    settings: dict[str, Any] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.text

    @property
    def caption(self) -> str:
        """What MusicGen is told: the first line."""
        return caption_of(self.text)


class MumuPipeline:
    """Encoders, bridges, LLaMA and MusicGen. Options are keyword-only; None takes the model's
    default.
    """

    family = FAMILY
    options = frozenset(MumuOptions.about())

    def __init__(
        self,
        shelf: Shelf,
        config: Mapping[str, Any],
        tokenizer: Tokenizer,
        music_tokenizer: Tokenizer | None,
        name: str,
    ) -> None:
        self.shelf, self.config, self.name = shelf, dict(config), name
        self.tokenizer, self.music_tokenizer = tokenizer, music_tokenizer
        self.sampling: MumuSampling = self._section("sampling", MumuSampling)
        self.film: FilmPixels = self._section("film", FilmPixels)
        self.adapters, self.adapter_keys = shelf.adapters, shelf.adapter_keys
        self._known: dict[tuple, mx.array] = {}  # what files sound and look like
        self._warned = False

    def _section(self, name: str, kind: type) -> Any:
        return config_from_dict(kind, self.config.get(name, {}), where=name)

    @property
    def dtype(self) -> mx.Dtype:
        """What hidden states run in."""
        return compute_dtype()

    @property
    def sample_rate(self) -> int:
        """Hz of the waveforms made."""
        self._require_music()
        return config_from_dict(EncodecConfig, self.config["codec"], where="codec").sampling_rate

    @property
    def channels(self) -> int:
        """Channels of the waveforms made."""
        self._require_music()
        section = self.config["decoder"]
        return config_from_dict(MusicgenConfig, section, where="decoder").audio_channels

    def keep_within(self, size: int) -> None:
        """Let all networks stay in memory only where they take no more than `size` bytes."""
        self.shelf.keep_within(size)

    # --- answers ----------------------------------------------------------------------------------

    @documented(MumuOptions, ANSWERING)
    def ask(
        self,
        question: str,
        *,
        audio: Audio | None = None,
        image: str | Path | None = None,
        video: str | Path | None = None,
        history: Turns = (),
        hear: Callable[[str], None] | None = None,
        **options: Any,
    ) -> Answer:
        """What the model says to a question about a song (a file or (waveform, rate)), a picture
        and a film, or about none of them.

        history: earlier questions and answers about the same files; the oldest are forgotten where
        they would leave no room. hear is called with pieces of the answer as they come. Raises
        MusicotError for an empty question and for files that can't be read, TypeError for an
        unknown option.
        """
        MumuOptions.require_known(options, ANSWERING)
        wish = MumuOptions.of(self.sampling, question, **options)
        media = {"audio": audio, "image": image, "video": video}
        turns = [_turn(each) for each in items(history) or ()]
        with turn():
            return self._answer(wish, media, turns, hear)

    def caption(self, prompt: str | None = None, **options: Unpack[MumuAsked]) -> Answer:
        """The answer that `generate` would make music of, with the same options."""
        wish = MumuOptions.of(self.sampling, prompt, **options)
        with turn():
            return self._captioned(wish)

    def _answer(
        self,
        wish: MumuOptions,
        media: Mapping[str, Any],
        history: Turns = (),
        hear: Callable[[str], None] | None = None,
    ) -> Answer:
        """The answer to a wish: 1. what is heard and seen, 2. words."""
        question, clock = _checked_question(wish.prompt), Clock()
        longest = config_from_dict(
            MumuLlamaConfig, self.config["llama"], where="llama"
        ).max_position_embeddings
        ids = prompt_ids(self.tokenizer, question, history, longest=longest)
        with clock("media"):
            features = self._features(media, wish)
        began = time.perf_counter()
        llama, words = self.shelf("llama", "words")
        self._warn_of_closed_gates(llama, features)
        limit = min(wish.answer_tokens, longest - len(ids))
        tokens = draw_tokens(
            llama,
            words,
            ids,
            offsets=llama.offsets(features),
            limit=limit,
            temperature=wish.answer_temperature,
            top_p=wish.answer_top_p,
            key=mx.random.key(wish.seed),
        )
        told, music = "", False
        for piece in pieces(self.tokenizer, tokens, words.config.first_music_token):
            told, music = told + piece.text, piece.music
            if hear and piece.text:
                hear(piece.text)
        tokens.close()
        clock.add("answer", time.perf_counter() - began)
        settings = {"question": question, "model": self.name, "version": __version__}
        settings |= {name: getattr(wish, name) for name in ANSWERING if name != "progress"}
        settings |= {name: str(each) for name, each in media.items() if _is_file(each)}
        return Answer(told.strip(), music, settings, clock.seconds)

    def _features(self, media: Mapping[str, Any], wish: MumuOptions) -> dict[str, mx.array]:
        """What LLaMA hears and sees of the files that are given, (1, hidden) each."""
        ways: dict[str, tuple[str, Callable[..., mx.array]]] = {
            "audio": ("mert", lambda m, b, file: hear(m, b, file, wish.progress)),
            "image": ("vit", look),
            "video": ("vivit", lambda m, b, file: watch(m, b, file, self.film)),
        }
        features = {}
        for modality in MODALITIES:
            file = media.get(modality)
            if file is None:
                continue
            if not isinstance(file, tuple):
                file = path_of(modality, file)
            key = _state_of(modality, file)
            if key is None or key not in self._known:
                part, way = ways[modality]
                feature = way(*self.shelf(part, "bridges"), file)
                mx.eval(feature)
                if key is None:
                    features[modality] = feature
                    continue
                while len(self._known) >= REMEMBERED:
                    del self._known[next(iter(self._known))]
                self._known[key] = feature
            features[modality] = self._known[key]
        return features

    def _warn_of_closed_gates(self, llama: MumuLlama, features: Mapping[str, mx.array]) -> None:
        """Once: what is heard and seen can't change the answer of a model whose gates are 0."""
        if not features or self._warned or mx.tanh(mx.abs(llama.gates)).max().item() > CLOSED:
            return
        self._warned = True
        warnings.warn(
            f"{self.name}: all gates are closed, so that songs, pictures and films have no effect "
            "on what it says (docs/mumu-llama.md tells why)",
            MusicotWarning,
            stacklevel=4,
        )

    # --- songs ------------------------------------------------------------------------------------

    @documented(MumuOptions)
    def generate(self, prompt: str | None = None, **options: Unpack[MumuAsked]) -> Song:
        """Instruction to song: the model hears and sees what is given, writes a caption, and
        MusicGen plays that. `settings["caption"]` tells it, and given as `caption` makes the same
        song without asking again.

        Raises RunError where the model answers without asking for music (music=True makes some of
        the answer all the same), MusicotError for input that does not fit.
        """
        wish = MumuOptions.of(self.sampling, prompt, **options)
        with turn():
            wish, timings = self._with_caption(wish)
            player, told = self._player(), self._settings(wish)
            song = player.generate(wish.caption, **_for_player(wish))
        settings = {**told, "seed": song.settings["seed"]}  # of a song that was drawn again
        return replace(song, settings=settings, timings=timings | song.timings)

    @documented(MumuOptions)
    def stream(self, prompt: str | None = None, **options: Unpack[MumuAsked]) -> Stream:
        """Chunks of waveform, float32 (frames, channels), while later audio is still being made;
        the caption comes first. Raises as `generate` does, at the call.
        """
        wish = MumuOptions.of(self.sampling, prompt, **options)
        self._require_music()
        with turn():
            wish, _ = self._with_caption(wish)
        return Stream(self._take, wish, self.sample_rate, self._settings)

    def _take(self, wish: MumuOptions) -> Take:
        """The song of a wish with its caption, begun."""
        return self._player().take(wish.caption, **_for_player(wish))

    def settings(self, prompt: str | None = None, **options: Any) -> dict[str, Any]:
        """All that makes a song again, as JSON: what the sidecar of a song holds."""
        return self._settings(MumuOptions.of(self.sampling, prompt, **options))

    def _settings(self, wish: MumuOptions) -> dict[str, Any]:
        adapters = {"adapter_path": list(self.adapters)} if self.adapters else {}
        return {**wish.saved(), **adapters, "model": self.name, "version": __version__}

    def _with_caption(self, wish: MumuOptions) -> tuple[MumuOptions, dict[str, float]]:
        """The wish with the caption that music is made of, and what that took."""
        self._require_music()
        if wish.caption is not None:
            if not wish.caption.strip():
                raise MusicotError("the caption is empty; leave it out, and the model writes one")
            return wish, {}
        answer = self._captioned(wish)
        if not (answer.music or wish.music):
            raise RunError(
                f"{self.name} answers without asking for music: {answer.caption!r}; say that music "
                "is to be made, or ask for it in any case (--music)"
            )
        # one that asks for music and says nothing takes the instruction for the caption
        return replace(wish, caption=answer.caption or wish.prompt), answer.timings

    def _captioned(self, wish: MumuOptions) -> Answer:
        return self._answer(wish, {name: getattr(wish, name) for name in MODALITIES})

    def _player(self) -> MusicgenPipeline:
        """MusicGen of this model's own networks, which are loaded now."""
        text_encoder, decoder, codec = self.shelf(*MUSIC)
        return MusicgenPipeline(
            text_encoder=text_encoder,
            decoder=decoder,
            codec=codec,
            tokenizer=self.music_tokenizer,
            sampling=self.sampling,
            name=self.name,
        )

    def _require_music(self) -> None:
        if "decoder" not in self.config:
            raise MusicotError(
                f"{self.name} holds no MusicGen (M2UGen-AudioLDM2 has none): it answers, musicot "
                "ask; make music of what it says with --model facebook/musicgen-small"
            )


def _for_player(wish: MumuOptions) -> dict[str, Any]:
    """The options of MusicGen among those of a wish."""
    names = set(MusicgenPipeline.options) & set(MumuOptions.about())
    return {name: getattr(wish, name) for name in names}


def _checked_question(question: str | None) -> str:
    if question is None or not question.strip():
        raise MusicotError("the question is empty; ask something, e.g. 'What instruments play?'")
    return question.strip()


def _turn(each: Any) -> tuple[str, str]:
    """An earlier question and its answer, which may be an Answer."""
    pair = items(each)
    if pair is None or len(pair) != 2:
        raise MusicotError("history is a list of pairs, a question and its answer each")
    question, answer = pair
    return plain_text("a question", question), plain_text("an answer", str(answer))


def _is_file(each: Any) -> bool:
    return each is not None and not isinstance(each, tuple)


def _state_of(modality: str, file: Any) -> tuple | None:
    """What tells a file from what it was before; None for samples in memory and a missing file."""
    try:
        stat = file.stat()
    except (AttributeError, OSError):
        return None
    return modality, str(file.absolute()), stat.st_size, stat.st_mtime_ns
