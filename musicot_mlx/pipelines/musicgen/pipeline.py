"""MusicGen, from a prompt to a song: text states, codes, waveform (arXiv 2306.05284).

    prompt -> T5 -> decoder writes EnCodec codes, all codebooks a step -> EnCodec

The same generate, stream and Song as MusiCoT's pipeline. Everything that belongs to one run lives
in the run; several prompts, and several candidates of a prompt, are one batch.
"""

import difflib
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol, TypedDict, Unpack

import mlx.core as mx
import numpy as np
from tokenizers import Tokenizer

from musicot_mlx import __version__
from musicot_mlx.audio.chroma import chroma
from musicot_mlx.audio.files import check_render, read_audio, resample
from musicot_mlx.errors import MusicotError, MusicotWarning, RunError
from musicot_mlx.generation.musicgen import OVERLAP, WINDOW, Condition, generate_codes
from musicot_mlx.models.encodec import Encodec, EncodecConfig
from musicot_mlx.models.musicgen import Musicgen, MusicgenConfig
from musicot_mlx.models.t5 import T5Config, T5Encoder
from musicot_mlx.pipelines.candidates import MOST, candidate_seeds
from musicot_mlx.pipelines.parts import AdapterPath, load_parts
from musicot_mlx.pipelines.song import Song, soft_limit

Progress = Callable[[str, int, int], None]


class Embedder(Protocol):
    """What a CLAP offers: unit vectors, float32 (texts or windows of 10 s, dim)."""

    def embed_text(self, texts: Sequence[str]) -> np.ndarray: ...

    def embed_audio(self, waveform: np.ndarray, sample_rate: int) -> np.ndarray: ...


PARTS: dict[str, tuple[type, type]] = {
    "text_encoder": (T5Encoder, T5Config),
    "decoder": (Musicgen, MusicgenConfig),
    "codec": (Encodec, EncodecConfig),
}
SHORTEST, LONGEST = 1.0, 300.0  # seconds
BATCH = 8  # songs drawn together; more would gain little and hold more caches


def load(
    folder: Path,
    *,
    name: str,
    adapter_path: AdapterPath = None,
) -> "MusicgenPipeline":
    """The model of an MLX folder with model_type "musicgen", ready to generate.

    adapter_path: one or several adapter folders; `folder:0.5` counts half. Raises MusicotError that
    says what is wrong with the folder and what to do.
    """
    loaded = load_parts(folder, PARTS, model_type="musicgen", name=name, adapter_path=adapter_path)
    return MusicgenPipeline(
        tokenizer=Tokenizer.from_file(str(loaded.file("tokenizer.json"))),
        sampling=loaded.section("sampling", Sampling),
        name=name,
        adapters=loaded.adapters,
        adapter_keys=loaded.adapter_keys,
        **loaded.networks,
    )


@dataclass(frozen=True)
class Sampling:
    """How a model is best sampled: the `sampling` section of config.json; each call may say
    otherwise. The defaults are audiocraft's.
    """

    audio_temperature: float = 1.0
    audio_guidance: float = 3.0
    top_k: int = 250
    top_p: float = 1.0


_SAMPLED = tuple(f.name for f in fields(Sampling))
_DEFAULTS: dict[str, Any] = {
    **dict.fromkeys(_SAMPLED),
    "duration": 30.0,
    "seed": 0,
    "negative_prompt": None,
    "melody": None,
    "continuation": None,
    "reference": None,
    "candidates": 1,
}


class RenderOptions(TypedDict, total=False):
    """Options of `generate` and `stream`; what is left out, or None, takes the model's default."""

    duration: float  # seconds, 1 to 300; beyond 30 s a window of 30 s slides, 12 s of it kept
    seed: int
    audio_temperature: float | None  # 0 is greedy
    audio_guidance: float | None  # 1 is off
    top_k: int | None  # 0: all
    top_p: float | None
    negative_prompt: str | None  # what guidance leads away from
    melody: str | Path | None  # audio file whose melody the song follows; melody models only
    continuation: str | Path | None  # audio file that the song goes on from; part of the duration
    reference: str | Path | Sequence[str | Path] | None  # audio that candidates are compared with
    candidates: int  # songs drawn in one batch, of which CLAP chooses one
    clap: Embedder | None  # what chooses; None: the CLAP of the embedded model
    lyrics: str | None  # no MusicGen sings: a warning
    progress: Progress | None  # called as progress(stage, done, total)


class MusicgenPipeline:
    """Text encoder, decoder and codec. Options are keyword-only; None takes the model's default."""

    family = "musicgen"
    options = frozenset(RenderOptions.__annotations__)
    batch = BATCH

    def __init__(
        self,
        *,
        text_encoder: T5Encoder,
        decoder: Musicgen,
        codec: Encodec,
        tokenizer: Tokenizer,
        sampling: Sampling,
        name: str,
        adapters: Sequence[str] = (),
        adapter_keys: int = 0,
    ) -> None:
        self.text_encoder, self.decoder, self.codec = text_encoder, decoder, codec
        self.tokenizer, self.sampling, self.name = tokenizer, sampling, name
        self.adapters, self.adapter_keys = tuple(adapters), adapter_keys  # keys applied

    @property
    def sample_rate(self) -> int:
        """Hz of the waveforms made."""
        return self.codec.config.sampling_rate

    @property
    def channels(self) -> int:
        """Channels of the waveforms made: 1, or 2 with codebooks of their own."""
        return self.decoder.config.audio_channels

    def generate(self, prompt: str | None = None, **options: Unpack[RenderOptions]) -> Song:
        """Prompt to song: waveform, codes and the settings that make it again.

        Raises MusicotError for input that does not fit, TypeError for an unknown option.
        """
        return self.generate_batch([prompt], **options)[0]

    def generate_batch(
        self,
        prompts: Sequence[str | None],
        *,
        seeds: Sequence[int] | None = None,
        **options: Unpack[RenderOptions],
    ) -> list[Song]:
        """A song a prompt, drawn eight at a time; each is the song that `generate` makes alone.

        seeds: one a prompt, instead of the one `seed` of all. The other options hold for all.
        """
        seeds = [options.get("seed", 0)] * len(prompts) if seeds is None else list(seeds)
        if not prompts or len(seeds) != len(prompts):
            raise MusicotError(f"there are {len(prompts)} prompts and {len(seeds)} seeds")
        run = _Run(self, **options)
        pairs = list(zip(prompts, seeds, strict=True))
        together = max(1, BATCH // run.candidates)
        songs = []
        for first in range(0, len(pairs), together):
            songs += run.songs(pairs[first : first + together])
        return songs

    def stream(
        self, prompt: str | None = None, **options: Unpack[RenderOptions]
    ) -> Iterator[np.ndarray]:
        """Chunks of waveform, float32 (frames, channels), while later audio is still being made.

        Joined they are the song that `generate` makes. Raises as `generate` does, at the call.
        """
        run = _Run(self, **options)
        if run.candidates > 1:
            raise MusicotError("a stream is heard before it can be chosen; ask for 1 candidate")
        return run.chunks(prompt, options.get("seed", 0))

    def settings(self, prompt: str | None = None, **options: Any) -> dict[str, Any]:
        """All that makes a song again, as JSON: what the sidecar of a song holds."""
        for name in options:
            if name not in self.options:
                near = difflib.get_close_matches(name, self.options, n=1)
                raise TypeError(
                    f"unknown option {name!r}" + (f"; did you mean {near[0]}?" * bool(near))
                )
        values = {**_DEFAULTS, **{k: v for k, v in options.items() if k in _DEFAULTS}}
        for name in _SAMPLED:
            if values[name] is None:
                values[name] = getattr(self.sampling, name)
        for name in ("melody", "continuation"):
            values[name] = None if values[name] is None else str(values[name])
        if values["reference"] is not None:
            files = [str(file) for file in _files(values["reference"])]
            values["reference"] = files[0] if len(files) == 1 else files
        if self.adapters:
            values["adapter_path"] = list(self.adapters)
        return {**values, "prompt": prompt, "model": self.name, "version": __version__}

    def embed_text(self, text: str) -> mx.array:
        """T5 hidden states (tokens, text_hidden_size) of a text, in the decoder's dtype."""
        ids = mx.array([self.tokenizer.encode(text).ids], dtype=mx.int32)
        # one operand of another type would make the whole decoder run in float32
        return self.text_encoder(ids)[0].astype(self.decoder.layer_norm.weight.dtype)

    def encode(self, path: str | Path) -> np.ndarray:
        """Codes int32 (codebooks, frames) of an audio file of any rate and channel count.

        Raises MusicotError for a file that can't be read or is shorter than a frame.
        """
        waveform = self._read(path, self.channels)
        whole = len(waveform) // self.codec.config.hop_length * self.codec.config.hop_length
        if not whole:
            raise MusicotError(f"{path} is shorter than {1000 / self.codec.config.frame_rate:g} ms")
        return np.array(self.codec.encode(mx.array(waveform[None, :whole])))[0]

    def _read(self, path: str | Path, channels: int) -> np.ndarray:
        """Waveform (samples, channels) at the codec's rate; channels are averaged or repeated."""
        waveform, sample_rate = read_audio(path)
        if waveform.shape[1] != channels:
            waveform = np.repeat(waveform.mean(axis=1, keepdims=True), channels, axis=1)
        return resample(waveform, sample_rate, self.sample_rate)


class _Run:
    """What all songs of one call share: options checked, files read, texts encoded."""

    def __init__(self, model: MusicgenPipeline, **options: Any) -> None:
        options = {name: value for name, value in options.items() if value is not None}
        self.model, self.progress = model, options.pop("progress", None)
        self.clap = options.pop("clap", None)
        if options.pop("lyrics", None):
            words = f"{model.name} is a MusicGen, which does not sing: the lyrics are left out"
            warnings.warn(words, MusicotWarning, stacklevel=4)
        options.pop("seed", None)
        self.options = options
        values = model.settings(None, **options)
        self.duration, self.candidates = values["duration"], values["candidates"]
        if not SHORTEST <= self.duration <= LONGEST:
            raise MusicotError(
                f"duration is {self.duration:g} s; ask for {SHORTEST:g} to {LONGEST:g} s"
            )
        if self.candidates not in range(1, MOST + 1):
            raise MusicotError(f"candidates is {self.candidates}; ask for 1 to {MOST}")
        self.sampling = {
            "guidance_scale": values["audio_guidance"],
            "temperature": values["audio_temperature"],
            "top_k": values["top_k"],
            "top_p": values["top_p"],
        }
        frame_rate = model.codec.config.frame_rate
        self.frames = max(1, round(self.duration * frame_rate))
        self.start = self._start(values["continuation"])
        self.chroma = self._chroma(values["melody"])
        negative = values["negative_prompt"]
        if negative is not None and values["audio_guidance"] == 1.0:
            raise MusicotError("a negative prompt needs guidance; ask for a scale other than 1")
        self.negative = None if negative is None else model.embed_text(_checked_text(negative))
        self.reference = values["reference"]
        if self.reference is not None and self.candidates == 1:
            raise MusicotError(
                "MusicGen has no thoughts to borrow from a reference: ask for candidates, and the "
                "one nearest to it is chosen; or give it as a melody or a continuation"
            )

    def songs(self, pairs: Sequence[tuple[str | None, int]]) -> list[Song]:
        """Songs of prompts and seeds, drawn in one batch."""
        model, began = self.model, time.perf_counter()
        conditions = [self._condition(prompt) for prompt, _ in pairs]
        rows = [condition for condition in conditions for _ in range(self.candidates)]
        drawn = [candidate_seeds(seed, self.candidates) for _, seed in pairs]
        keys = [mx.random.key(seed) for seeds in drawn for seed in seeds]
        timings = {"text": time.perf_counter() - began}
        codes = np.concatenate(list(self._codes(rows, keys)), axis=-1)  # (rows, codebooks, frames)
        timings["tokens"] = time.perf_counter() - began - timings["text"]
        songs = []
        for number, (prompt, seed) in enumerate(pairs):
            began, first = time.perf_counter(), number * self.candidates
            mine = codes[first : first + self.candidates]
            waveforms = [np.concatenate(list(self._decode([each]))) for each in mine]
            spent = {"decode": time.perf_counter() - began}
            settings, best = model.settings(prompt, **{**self.options, "seed": seed}), 0
            if self.candidates > 1:
                scores = self._scores(prompt, drawn[number], waveforms)
                best = max(range(self.candidates), key=lambda k: scores[k]["score"])
                settings["chosen"] = {"kept": scores[best]["seed"], "scores": scores}
            shared = {stage: value / len(pairs) for stage, value in timings.items()}
            songs.append(
                Song(waveforms[best], model.sample_rate, mine[best], None, settings, shared | spent)
            )
        return songs

    def chunks(self, prompt: str | None, seed: int) -> Iterator[np.ndarray]:
        """The waveform of one song as its codes come."""
        codes = self._codes([self._condition(prompt)], [mx.random.key(seed)])
        return self._decode(block[0] for block in codes)

    def _condition(self, prompt: str | None) -> Condition:
        if prompt is None and self.chroma is None and self.start is None:
            raise MusicotError("nothing to make; give a prompt, a melody or a continuation")
        text = None if prompt is None else self.model.embed_text(_checked_text(prompt))
        return Condition(text=text, chroma=self.chroma, negative=self.negative)

    def _codes(
        self, conditions: Sequence[Condition], keys: Sequence[mx.array]
    ) -> Iterator[np.ndarray]:
        """Blocks of codes (songs, codebooks, frames), those of a continued file first."""
        start = None if self.start is None else np.repeat(self.start[None], len(conditions), axis=0)
        frame_rate = self.model.codec.config.frame_rate
        blocks = generate_codes(
            self.model.decoder,
            conditions,
            frames=self.frames,
            keys=keys,
            start=start,
            window_frames=round(WINDOW * frame_rate / 50),
            overlap_frames=round(OVERLAP * frame_rate / 50),
            **self.sampling,
        )

        def counted() -> Iterator[np.ndarray]:
            done = 0 if start is None else start.shape[-1]
            if start is not None:
                yield start
            for block in blocks:
                done += block.shape[-1]
                if self.progress:
                    self.progress("audio tokens", done, self.frames)
                yield block

        return counted()

    def _decode(self, blocks: Iterator[np.ndarray] | Sequence[np.ndarray]) -> Iterator[np.ndarray]:
        """Waveform chunks (frames, channels) of codes (codebooks, frames) as they come."""
        samples = round(self.duration * self.model.sample_rate)
        made = 0
        for piece in self.model.codec.decode_stream(mx.array(block)[None] for block in blocks):
            chunk = soft_limit(np.array(piece[0])[: samples - made])
            made += len(chunk)
            if self.progress:
                self.progress("waveform", made, samples)
            if len(chunk):
                yield chunk

    def _start(self, path: str | Path | None) -> np.ndarray | None:
        if path is None:
            return None
        codes = self.model.encode(path)
        if codes.shape[1] >= self.frames:
            length = codes.shape[1] / self.model.codec.config.frame_rate
            raise MusicotError(
                f"{path} lasts {length:.1f} s and the song {self.duration:g} s, the file included; "
                "ask for a longer duration"
            )
        return codes

    def _chroma(self, path: str | Path | None) -> mx.array | None:
        if path is None:
            return None
        model = self.model
        if not model.decoder.config.melody:
            raise MusicotError(
                f"{model.name} follows no melody; the melody models do: facebook/musicgen-melody, "
                "musicgen-melody-large and musicgen-stereo-melody"
            )
        waveform = model._read(path, 1)[:, 0]
        found = chroma(mx.array(waveform)[None], sample_rate=model.sample_rate)[0]
        return found.astype(model.decoder.layer_norm.weight.dtype)

    def _scores(
        self, prompt: str | None, seeds: Sequence[int], waveforms: Sequence[np.ndarray]
    ) -> list[dict[str, Any]]:
        """How near CLAP hears each candidate to the prompt and to the reference: mean cosines."""
        if self.clap is None:
            from musicot_mlx.pipelines.families import load as load_any

            self.clap = load_any().clap
        towards = {} if prompt is None else {"prompt": self.clap.embed_text([prompt])[0]}
        if self.reference is not None:
            files = [self.clap.embed_audio(*read_audio(file)) for file in _files(self.reference)]
            heard = np.mean([windows.mean(axis=0) for windows in files], axis=0)
            towards["reference"] = heard / np.linalg.norm(heard).clip(min=1e-9)
        if not towards:
            raise MusicotError("candidates need a prompt or a reference to be chosen by")
        scores = []
        for seed, waveform in zip(seeds, waveforms, strict=True):
            found: dict[str, Any] = {
                "seed": seed,
                "score": -1.0,
                "broken": _is_broken(waveform, self.model.sample_rate),
            }
            if not found["broken"]:
                heard = self.clap.embed_audio(waveform, self.model.sample_rate)  # (windows, dim)
                cosines = {name: float((heard @ v).mean()) for name, v in towards.items()}
                found |= {"score": float(np.mean(list(cosines.values()))), **cosines}
            scores.append(found)
        return scores


def _files(reference: str | Path | Sequence[str | Path]) -> list[str | Path]:
    return [reference] if isinstance(reference, (str, Path)) else list(reference)


def _is_broken(waveform: np.ndarray, sample_rate: int) -> bool:
    try:
        check_render(waveform, sample_rate)
    except RunError:
        return True
    return False


def _checked_text(text: str) -> str:
    if not text.strip():
        raise MusicotError("the prompt is empty; describe the music, e.g. 'solo piano, calm'")
    return text
