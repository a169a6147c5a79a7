"""MusicGen, from a prompt to a song: text states, codes, waveform (arXiv 2306.05284).

    prompt -> T5 -> decoder writes EnCodec codes, all codebooks a step -> EnCodec

The same generate, stream and Song as MusiCoT's pipeline. Everything that belongs to one run lives
in the run; several prompts, and several candidates of a prompt, are one batch.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Unpack

import mlx.core as mx
import numpy as np
from tokenizers import Tokenizer

from musicot_mlx import __version__
from musicot_mlx.audio.chroma import chroma
from musicot_mlx.audio.files import read_audio, resample
from musicot_mlx.errors import MusicotError, MusicotWarning
from musicot_mlx.generation.device import turn
from musicot_mlx.generation.musicgen import OVERLAP, WINDOW, MusicgenCondition, generate_codes
from musicot_mlx.models.encodec import Encodec, EncodecConfig
from musicot_mlx.models.musicgen import Musicgen, MusicgenConfig
from musicot_mlx.models.t5 import T5Config, T5Encoder
from musicot_mlx.pipelines.candidates import Score, best_of, candidate_seeds, score
from musicot_mlx.pipelines.clap import load_embedded
from musicot_mlx.pipelines.documented import documented
from musicot_mlx.pipelines.given import items, path_of, seed_of
from musicot_mlx.pipelines.given import text as plain_text
from musicot_mlx.pipelines.mastering import Mastered, Mastering
from musicot_mlx.pipelines.musicgen import FAMILY
from musicot_mlx.pipelines.musicgen.options import MusicgenAsked, MusicgenOptions
from musicot_mlx.pipelines.options import Embedder, files_of
from musicot_mlx.pipelines.parts import AdapterPath, load_parts
from musicot_mlx.pipelines.song import Clock, Song, Stream, Take, faded_end, heard, passed
from musicot_mlx.weights.tokenizer import read_tokenizer

PARTS: dict[str, tuple[type, type]] = {
    "text_encoder": (T5Encoder, T5Config),
    "decoder": (Musicgen, MusicgenConfig),
    "codec": (Encodec, EncodecConfig),
}
BATCH = 8  # songs drawn together; more would gain little and hold more caches
MOST_TOKENS = 2048  # of a prompt: T5's scores grow with the square, a book would take all memory


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
    loaded = load_parts(
        folder, PARTS, model_type=FAMILY.model_type, name=name, adapter_path=adapter_path
    )
    words = loaded.file("tokenizer.json")
    tokenizer, text = read_tokenizer(words), loaded.networks["text_encoder"].config
    if tokenizer.get_vocab_size() > text.vocab_size:  # ids beyond the embedding read past its end
        raise MusicotError(
            f"{words} has {tokenizer.get_vocab_size()} tokens but text_encoder.vocab_size is "
            f"{text.vocab_size}; use the tokenizer.json that came with the checkpoint"
        )
    return MusicgenPipeline(
        tokenizer=tokenizer,
        sampling=loaded.section("sampling", MusicgenSampling),
        name=name,
        adapters=loaded.adapters,
        adapter_keys=loaded.adapter_keys,
        **loaded.networks,
    )


@dataclass(frozen=True)
class MusicgenSampling:
    """How a model is best sampled: the `sampling` section of config.json; each call may say
    otherwise. The defaults are audiocraft's.
    """

    audio_temperature: float = 1.0
    audio_guidance: float = 3.0
    top_k: int = 250
    top_p: float = 1.0


class MusicgenPipeline:
    """Text encoder, decoder and codec. Options are keyword-only; None takes the model's default."""

    family = FAMILY
    options = frozenset(MusicgenOptions.about())
    batch = BATCH

    def __init__(
        self,
        *,
        text_encoder: T5Encoder,
        decoder: Musicgen,
        codec: Encodec,
        tokenizer: Tokenizer,
        sampling: MusicgenSampling,
        name: str,
        adapters: Sequence[str] = (),
        adapter_keys: int = 0,
    ) -> None:
        self.text_encoder, self.decoder, self.codec = text_encoder, decoder, codec
        self.tokenizer, self.sampling, self.name = tokenizer, sampling, name
        self.adapters, self.adapter_keys = tuple(adapters), adapter_keys  # keys applied

    @property
    def dtype(self) -> mx.Dtype:
        """What hidden states run in."""
        return self.decoder.layer_norm.weight.dtype

    @property
    def sample_rate(self) -> int:
        """Hz of the waveforms made."""
        return self.codec.config.sampling_rate

    @property
    def channels(self) -> int:
        """Channels of the waveforms made: 1, or 2 with codebooks of their own."""
        return self.decoder.config.audio_channels

    @documented(MusicgenOptions)
    def generate(self, prompt: str | None = None, **options: Unpack[MusicgenAsked]) -> Song:
        """Prompt to song: waveform, codes and the settings that make it again.

        options are those of MusicgenOptions. With `candidates` several songs are drawn in one
        batch, and the one nearest to the prompt and the reference is kept. Raises MusicotError for
        input that does not fit, TypeError for an unknown option.
        """
        return self.generate_batch([prompt], **options)[0]

    @documented(MusicgenOptions)
    def generate_batch(
        self,
        prompts: str | Sequence[str | None],
        *,
        seeds: int | Sequence[int] | None = None,
        **options: Unpack[MusicgenAsked],
    ) -> list[Song]:
        """A song a prompt, one or several, drawn eight at a time; each is the song that `generate`
        makes alone.

        seeds: one a prompt, instead of the one `seed` of all. The other options hold for all.
        """
        wish = self._wish(options)  # 1. what is asked for
        prompts = [prompts] if isinstance(prompts, str) else items(prompts)
        if prompts is None:
            raise MusicotError("generate_batch takes a list of prompts; write [prompt]")
        seeds = [None] * len(prompts) if seeds is None else items(seeds) or [seeds]
        if not prompts or len(seeds) != len(prompts):
            raise MusicotError(f"there are {len(prompts)} prompts and {len(seeds)} seeds")
        wishes = []
        for prompt, own in zip(prompts, map(seed_of, seeds), strict=True):
            prompt = None if prompt is None else plain_text("prompt", prompt)
            wishes.append(replace(wish, prompt=prompt, seed=wish.seed if own is None else own))
        together = max(1, BATCH // wish.candidates)
        songs = []
        with turn():
            given = self._given(wish)
            for first in range(0, len(wishes), together):
                songs += self._songs(wishes[first : first + together], given)
        return songs

    @documented(MusicgenOptions)
    def stream(self, prompt: str | None = None, **options: Unpack[MusicgenAsked]) -> Stream:
        """Chunks of waveform, float32 (frames, channels), while later audio is still being made.

        Joined they are the song that `generate` makes with the stream's own `gain`. Raises as
        `generate` does, at the call.
        """
        wish = self._wish(options, prompt)
        wish.require_one_candidate()
        return Stream(self._take, wish, self.sample_rate, self._settings)

    def take(self, prompt: str | None = None, **options: Any) -> Take:
        """A song begun, as `stream` hands it on: for models that MusicGen is a part of."""
        return self._take(self._wish(options, prompt))

    def _take(self, wish: MusicgenOptions) -> Take:
        """The song of a wish, begun."""
        given, codes = self._given(wish), []
        blocks = self.codes([wish], [self._condition(wish.words, given)], [wish.seed], given)
        kept = passed((block[0] for block in blocks), codes)
        return Take(None, codes, self.decode(kept, wish), self._mastering(wish))

    def settings(self, prompt: str | None = None, **options: Any) -> dict[str, Any]:
        """All that makes a song again, as JSON: what the sidecar of a song holds."""
        return self._settings(MusicgenOptions.of(self.sampling, prompt, **options))

    def _settings(self, wish: MusicgenOptions) -> dict[str, Any]:
        adapters = {"adapter_path": list(self.adapters)} if self.adapters else {}
        return {**wish.saved(), **adapters, "model": self.name, "version": __version__}

    # --- one run ----------------------------------------------------------------------------------

    def _wish(self, options: dict[str, Any], prompt: str | None = None) -> MusicgenOptions:
        """The options of a call; what MusicGen can't do of them is refused or warned of."""
        wish = MusicgenOptions.of(self.sampling, prompt, **options)
        if wish.lyrics:
            words = f"{self.name} is a MusicGen, which does not sing: the lyrics are left out"
            warnings.warn(words, MusicotWarning, stacklevel=4)
        if wish.negative_prompt is not None and wish.audio_guidance == 1.0:
            raise MusicotError("a negative prompt needs guidance; ask for a scale other than 1")
        if wish.reference is not None and wish.candidates == 1:
            raise MusicotError(
                "MusicGen has no thoughts to borrow from a reference: ask for candidates, and the "
                "one nearest to it is chosen; or give it as a melody or a continuation"
            )
        return wish

    def _given(self, wish: MusicgenOptions) -> "Given":
        """What the songs of a wish share: files read and texts encoded once."""
        negative = wish.negative_prompt
        return Given(
            start=self._start(wish),
            chroma=self._chroma(wish.melody),
            negative=None if negative is None else self.embed_text(_checked_text(negative)),
        )

    def _songs(self, wishes: Sequence[MusicgenOptions], given: "Given") -> list[Song]:
        """Songs of wishes, drawn in one batch; one that is silent is drawn again alone."""
        together = zip(wishes, self._drawn(wishes, given), strict=True)
        drawn = {id(wish): own for wish, own in together}

        def make(wish: MusicgenOptions) -> Song:
            return self._best(wish, drawn.get(id(wish)) or self._drawn([wish], given)[0])

        return [heard(make, wish) for wish in wishes]

    def _drawn(
        self, wishes: Sequence[MusicgenOptions], given: "Given"
    ) -> list[tuple[np.ndarray, dict[str, float]]]:
        """Codes (candidates, codebooks, frames) of each wish, and its share of the seconds."""
        count, clock = wishes[0].candidates, Clock()
        with clock("text"):  # 2. text states
            conditions = [self._condition(wish.words, given) for wish in wishes]
            rows = [condition for condition in conditions for _ in range(count)]
        with clock("tokens"):  # 3. codes (rows, codebooks, frames)
            seeds = [seed for wish in wishes for seed in candidate_seeds(wish.seed, count)]
            codes = np.concatenate(list(self.codes(wishes, rows, seeds, given)), axis=-1)
        shared = {stage: seconds / len(wishes) for stage, seconds in clock.seconds.items()}
        return [
            (codes[number * count : (number + 1) * count], shared) for number in range(len(wishes))
        ]

    def _best(self, wish: MusicgenOptions, drawn: tuple[np.ndarray, dict[str, float]]) -> Song:
        """The song of codes (1, codebooks, frames), or of (candidates, codebooks, frames) the one
        that CLAP chooses.
        """
        (codes, timings), clock = drawn, Clock()
        seeds = candidate_seeds(wish.seed, len(codes))

        def render(number: int) -> Mastered:  # 4. the waveform
            with clock("decode"):
                return self._mastering(wish).whole(
                    self.decode([codes[number]], wish), self.channels
                )

        settings = self._settings(wish)
        if len(seeds) == 1:
            number, made = 0, render(0)
        else:
            best = best_of(seeds, render, self._judge(wish, seeds))
            number, made = best.number, best.song
            settings["chosen"] = best.to_dict(wish.seed)
        return Song(
            made.waveform,
            self.sample_rate,
            codes[number],
            None,
            settings,
            timings | clock.seconds,
            made.gain,
            made.fault,
        )

    def _mastering(self, wish: MusicgenOptions) -> Mastering:
        return Mastering(wish, self.sample_rate, round(wish.duration * self.sample_rate))

    def codes(
        self,
        wishes: Sequence[MusicgenOptions],
        conditions: Sequence[MusicgenCondition],
        seeds: Sequence[int],
        given: "Given",
    ) -> Iterator[np.ndarray]:
        """Blocks of codes (songs, codebooks, frames), those of a continued file first."""
        wish, start = wishes[0], given.start
        if start is not None:
            start = np.repeat(start[None], len(conditions), axis=0)
        frame_rate = self.codec.config.frame_rate
        frames = self._frames(wish.duration)
        blocks = generate_codes(
            self.decoder,
            conditions,
            frames=frames,
            keys=[mx.random.key(seed) for seed in seeds],
            start=start,
            window_frames=round(WINDOW * frame_rate / 50),
            overlap_frames=round(OVERLAP * frame_rate / 50),
            guidance_scale=wish.audio_guidance,
            temperature=wish.audio_temperature,
            top_k=wish.top_k,
            top_p=wish.top_p,
        )

        def counted() -> Iterator[np.ndarray]:
            done = 0 if start is None else start.shape[-1]
            if start is not None:
                yield start
            for block in blocks:
                done += block.shape[-1]
                if wish.progress:
                    wish.progress("audio tokens", done, frames)
                yield block

        return counted()

    def decode(
        self, blocks: Iterator[np.ndarray] | Sequence[np.ndarray], wish: MusicgenOptions
    ) -> Iterator[np.ndarray]:
        """Waveform chunks (samples, channels) of codes (codebooks, frames) as they come, at the
        level that the model makes them.
        """
        samples, done = round(wish.duration * self.sample_rate), 0
        for piece in self.codec.decode_stream(mx.array(block)[None] for block in blocks):
            chunk = np.array(piece[0])[: samples - done]
            done += len(chunk)
            if wish.progress:
                wish.progress("waveform", done, samples)
            if len(chunk):
                yield chunk

    def _condition(self, prompt: str | None, given: "Given") -> MusicgenCondition:
        if prompt is None and given.chroma is None and given.start is None:
            raise MusicotError("nothing to make; give a prompt, a melody or a continuation")
        text = None if prompt is None else self.embed_text(_checked_text(prompt))
        return MusicgenCondition(text=text, chroma=given.chroma, negative=given.negative)

    def _judge(
        self, wish: MusicgenOptions, seeds: Sequence[int]
    ) -> Callable[[int, Mastered], Score]:
        """How CLAP scores a candidate against the prompt and the reference."""
        if wish.prompt is None and wish.reference is None:
            raise MusicotError("candidates need a prompt or a reference to be chosen by")
        clap = wish.clap or self.listener
        towards = {}
        if wish.prompt is not None:
            towards["prompt"] = clap.embed_text([wish.words])[0]
        if wish.reference is not None:
            files = [clap.embed_audio(*read_audio(file)) for file in files_of(wish.reference)]
            reference = np.mean([windows.mean(axis=0) for windows in files], axis=0)
            towards["reference"] = reference / np.linalg.norm(reference).clip(min=1e-9)
        return lambda number, render: score(
            clap,
            render.waveform,
            self.sample_rate,
            seed=seeds[number],
            fault=render.fault,
            **towards,
        )

    @cached_property
    def listener(self) -> Embedder:
        """The embedded model's CLAP, which chooses among candidates unless told otherwise."""
        return load_embedded()

    def _frames(self, duration: float) -> int:
        """Codes of `duration` seconds."""
        return max(1, round(duration * self.codec.config.frame_rate))

    # --- text and audio in ------------------------------------------------------------------------

    def embed_text(self, text: str) -> mx.array:
        """T5 hidden states (tokens, text_hidden_size) of a text, in the decoder's dtype.

        Raises MusicotError for a text of more than MOST_TOKENS.
        """
        found = self.tokenizer.encode(plain_text("the text", text)).ids
        if len(found) > MOST_TOKENS:
            raise MusicotError(
                f"the prompt has {len(found):,} tokens and MusicGen takes {MOST_TOKENS:,}; "
                "it was trained on a sentence or two"
            )
        ids = mx.array([found], dtype=mx.int32)
        # one operand of another type would make the whole decoder run in float32
        return self.text_encoder(ids)[0].astype(self.decoder.layer_norm.weight.dtype)

    def encode(self, path: str | Path) -> np.ndarray:
        """Codes int32 (codebooks, frames) of an audio file of any rate and channel count.

        Raises MusicotError for a file that can't be read or is shorter than a frame.
        """
        waveform, hop = self._read(path, self.channels), self.codec.config.hop_length
        whole = len(waveform) // hop * hop
        return np.array(self.codec.encode(mx.array(waveform[None, :whole])))[0]

    def _read(self, path: str | Path, channels: int) -> np.ndarray:
        """Waveform (samples, channels) at the codec's rate; channels are averaged or repeated.

        Raises MusicotError for a file that can't be read or is shorter than a frame.
        """
        waveform, sample_rate = read_audio(path_of("the audio", path))
        if waveform.shape[1] != channels:
            waveform = np.repeat(waveform.mean(axis=1, keepdims=True), channels, axis=1)
        waveform = resample(waveform, sample_rate, self.sample_rate)
        if len(waveform) < self.codec.config.hop_length:
            raise MusicotError(f"{path} is shorter than {1000 / self.codec.config.frame_rate:g} ms")
        return waveform

    def _start(self, wish: MusicgenOptions) -> np.ndarray | None:
        """Codes (codebooks, frames) of the audio that the song begins with."""
        path = wish.continuation
        if path is None:
            return None
        codes = self.encode(path)
        faded = self._frames(faded_end(path)) if faded_end(path) else 0
        codes = codes[:, : max(1, codes.shape[1] - faded)]  # a song goes on from its full level
        if codes.shape[1] >= self._frames(wish.duration):
            length = codes.shape[1] / self.codec.config.frame_rate
            raise MusicotError(
                f"{path} lasts {length:.1f} s and the song {wish.duration:g} s, the file included; "
                "ask for a longer duration"
            )
        return codes

    def _chroma(self, path: str | Path | None) -> mx.array | None:
        """The melody of an audio file, for models that follow one."""
        if path is None:
            return None
        if not self.decoder.config.melody:
            raise MusicotError(
                f"{self.name} follows no melody; the melody models do: facebook/musicgen-melody, "
                "musicgen-melody-large and musicgen-stereo-melody"
            )
        waveform = self._read(path, 1)[:, 0]
        melody = chroma(mx.array(waveform)[None], sample_rate=self.sample_rate)[0]
        return melody.astype(self.decoder.layer_norm.weight.dtype)


@dataclass(frozen=True)
class Given:
    """What all songs of one call share: codes to begin with, a melody, what guidance leads from."""

    start: np.ndarray | None
    chroma: mx.array | None
    negative: mx.array | None


def _checked_text(text: str) -> str:
    if not text.strip():
        raise MusicotError("the prompt is empty; describe the music, e.g. 'solo piano, calm'")
    return text
