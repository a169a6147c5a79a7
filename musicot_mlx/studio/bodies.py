"""What requests and answers hold: the models that the OpenAPI document is made from.

Requests are checked by them; what answers hold is built as it is, and the tests hold it to these.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

LARGEST_SEED = 2**63 - 1

Text = Annotated[str, Field(max_length=4000)]
Name = Annotated[str, Field(min_length=1, max_length=200)]
Id = Annotated[str, Field(min_length=1, max_length=100)]
Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED)]
Seconds = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
Segment = Annotated[int, Field(ge=0, le=1000)]
Segments = Annotated[list[Segment], Field(min_length=1, max_length=1000)]
Version = Annotated[int, Field(ge=1, le=2**31)]
Options = Annotated[dict[str, Any], Field(max_length=100)]


class Body(BaseModel):
    """A request: what is unknown is refused, and a text is no number."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Adapter(Body):
    name: Name
    weight: float = Field(1.0, ge=-10, le=10)


Adapters = Annotated[list[Adapter], Field(max_length=8)]


class Source(Body):
    """Audio or thoughts from somewhere: one of words, upload, song, library and plan."""

    words: Text | None = None
    upload: Id | None = None
    song: Id | None = None
    library: Id | None = None
    plan: Id | None = None
    segments: Segments | None = None
    start: Seconds = 0.0

    @model_validator(mode="after")
    def is_one(self) -> "Source":
        given = [getattr(self, n) for n in ("words", "upload", "song", "library", "plan")]
        if sum(each is not None for each in given) != 1:
            raise ValueError("a source is one of words, upload, song, library and plan")
        if self.segments is not None and self.plan is None:
            raise ValueError("segments are those of a plan")
        return self


class NewPlan(Body):
    """A plan to be drawn from a prompt or references, heard in audio, or taken from a song."""

    model: Name | None = None
    adapters: Adapters = []
    prompt: Text | None = None
    seed: Seed | None = None
    options: Options = {}
    from_audio: Source | None = None
    song: Id | None = None


class Edit(Body):
    """What every edit may say: its seed, the version that it is of, and whether only to show it."""

    seed: Seed | None = None
    version: Version | None = None
    preview: bool = False


class Replace(Edit):
    edit: Literal["replace"]
    segments: Segments
    source: Source


class Morph(Edit):
    edit: Literal["morph"]
    segments: Segments | None = None
    source: Source
    amount: float = Field(ge=0, le=1)


class Redraw(Edit):
    edit: Literal["redraw"]
    segments: Segments | None = None


class Lock(Edit):
    edit: Literal["lock", "unlock"]
    segments: Segments


class Chords(Edit):
    edit: Literal["chords"]
    chords: Text | list[Text] | None
    segments: Segments | None = None
    key: Name | None = None


class Key(Edit):
    edit: Literal["key"]
    key: Name


class Transpose(Edit):
    edit: Literal["transpose"]
    semitones: int = Field(ge=-48, le=48)


class Arrange(Edit):
    edit: Literal["arrange"]
    order: Segments


class Delete(Edit):
    edit: Literal["delete"]
    segments: Segments


class Duplicate(Edit):
    edit: Literal["duplicate"]
    segments: Segments
    times: int = Field(1, ge=1, le=100)


class Insert(Edit):
    edit: Literal["insert"]
    before: Segment
    source: Source
    count: int | None = Field(None, ge=1, le=100)


class Extend(Edit):
    edit: Literal["extend"]
    seconds: float = Field(gt=0, le=600)


class Set(Edit):
    edit: Literal["set"]
    segments: Segments
    controls: Annotated[dict[str, Any], Field(min_length=1, max_length=20)]


AnyEdit = Annotated[
    Replace
    | Morph
    | Redraw
    | Lock
    | Chords
    | Key
    | Transpose
    | Arrange
    | Delete
    | Duplicate
    | Insert
    | Extend
    | Set,
    Field(discriminator="edit"),
]


class NewSongs(Body):
    """Songs to be made: of a plan, or of a model by a prompt and options; one a seed."""

    plan: Id | None = None
    version: Version | None = None
    model: Name | None = None
    adapters: Adapters = []
    prompt: Text | None = None
    seed: Seed | None = None
    seeds: Annotated[list[Seed], Field(min_length=1, max_length=16)] | None = None
    options: Options = {}
    keep: Id | None = "auto"
    title: Name | None = None


class Titled(Body):
    title: Name


class Search(Body):
    """What is looked for: words, or audio that it shall be like; and what must hold of it besides.
    tempo: BPM from and to.
    """

    words: Text | None = None
    like: Source | None = None
    key: Name | None = None
    tempo: Annotated[list[float | None], Field(min_length=2, max_length=2)] | None = None
    tags: Annotated[list[Name], Field(min_length=1, max_length=16)] | None = None
    licence: Name | None = None
    limit: int = Field(20, ge=1, le=100)


class Generation(BaseModel):
    """Shaped as OpenAI's requests are; what is unknown is passed over, as their clients expect."""

    model_config = ConfigDict(strict=True)

    prompt: Annotated[str, Field(min_length=1, max_length=4000)]
    model: Name | None = None
    n: int = Field(1, ge=1, le=4)
    duration: float = Field(30.0, ge=1, allow_inf_nan=False)
    seed: Seed | None = None
    response_format: Literal["b64_json", "url"] = "b64_json"
    output_format: Literal["wav", "flac", "mp3", "ogg"] = "wav"
    stream: bool | None = None


# --- answers --------------------------------------------------------------------------------------


class ErrorBody(BaseModel):
    message: str
    type: str
    param: str | None
    code: int


class Error(BaseModel):
    """What went wrong, in one sentence."""

    error: ErrorBody


class Origin(BaseModel):
    kind: str
    words: str | None
    source: dict[str, str] | None
    name: str | None
    start: float | None
    seed: int | None


class PlanSegment(BaseModel):
    index: int
    start: float
    end: float
    label: str
    words: str | None
    origin: Origin
    locked: bool
    tags: list[str]
    controls: dict[str, Any]
    activity: list[float]


class Chord(BaseModel):
    start: float
    end: float
    chord: str


class Section(BaseModel):
    letter: str
    start: float
    end: float


class PlanDocument(BaseModel):
    """A plan at one version, and what is to be seen of it."""

    id: str
    version: int
    versions: int
    can_undo: bool
    can_redo: bool
    preview: bool
    model: str
    adapters: list[dict[str, Any]]
    prompt: str | None
    lyrics: str
    seed: int
    duration: float
    segment_seconds: float
    key: str | None
    bpm: float | None
    tags: list[str]
    options: dict[str, Any]
    chords: list[Chord]
    bars: list[float]
    beats: list[float]
    sections: list[Section]
    anchors: list[str]
    segments: list[PlanSegment]
    changed: list[int]
    edit: dict[str, Any] | None
    warnings: list[str]
    created: str
    updated: str


class PlanLine(BaseModel):
    id: str
    version: int
    prompt: str | None
    model: str
    duration: float
    created: str
    updated: str


class Plans(BaseModel):
    plans: list[PlanLine]


class PlanRef(BaseModel):
    id: str
    version: int


class Progress(BaseModel):
    stage: str
    fraction: float
    seconds_left: float | None


class Kept(BaseModel):
    song: str
    seconds: float
    saved_seconds: float | None


class HeardSegment(BaseModel):
    index: int
    cosine: float | None
    verdict: str | None
    asked: list[float | None]
    heard: list[float | None]


class Heard(BaseModel):
    anchors: list[str]
    mean_cosine: float | None
    tempo: float | None
    key: str | None
    segments: list[HeardSegment]


class Song(BaseModel):
    """A song, from the moment it is asked for."""

    id: str
    number: int
    status: Literal["queued", "running", "done", "failed", "cancelled"]
    position: int | None
    created: str
    started: str | None
    finished: str | None
    title: str
    group: str
    model: str
    adapters: list[dict[str, Any]]
    prompt: str | None
    seed: int
    options: dict[str, Any]
    plan: PlanRef | None
    duration: float | None
    sample_rate: int | None
    channels: int | None
    progress: Progress | None
    made_seconds: float
    first_audio_seconds: float | None
    render_seconds: float | None
    kept: Kept | None
    heard: Heard | None
    chosen: dict[str, Any] | None
    warnings: list[str]
    stems: list[str]
    error: str | None


class Songs(BaseModel):
    songs: list[Song]
    queue: list[str]


class Queued(BaseModel):
    group: str
    songs: list[Song]


class Peaks(BaseModel):
    per_second: int
    seconds: float
    peaks: list[int]


class Upload(BaseModel):
    id: str
    name: str
    duration: float
    sample_rate: int
    channels: int
    peaks: list[int]
    warnings: list[str]
    created: str


class Uploads(BaseModel):
    uploads: list[Upload]


class Opened(BaseModel):
    """What a sidecar or a plan file says, for the form; its plan is stored."""

    model: str
    adapters: list[dict[str, Any]]
    prompt: str | None
    seed: int
    options: dict[str, Any]
    plan: PlanDocument | None
    left_out: list[str]


class OptionDocument(BaseModel):
    name: str
    label: str
    kind: Literal["text", "number", "integer", "boolean", "file"]
    default: Any
    low: float | None
    high: float | None
    unit: str
    choices: list[str]
    several: bool
    planning: bool
    by_segment: bool
    can_be_off: bool
    help: str


class ModelDocument(BaseModel):
    name: str
    family: str
    title: str
    where: Literal["embedded", "converted", "given"]
    loaded: bool
    licence: str | None
    sample_rate: int | None
    capabilities: list[str]
    adapters: list[dict[str, Any]]
    edits: list[str]
    options: list[OptionDocument]


class ModelLine(BaseModel):
    """A model as OpenAI's clients list them."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class Models(BaseModel):
    """What there is; `object` and `data` tell the models in the shape of OpenAI's answer."""

    object: Literal["list"]
    data: list[ModelLine]
    default: str
    version: str
    queue: int
    max_upload_bytes: int
    longest_upload_seconds: float
    library: bool
    export_formats: list[str]
    models: list[ModelDocument]


class Found(BaseModel):
    found: list[dict[str, Any]]


class Generated(BaseModel):
    created: int
    model: str
    data: list[dict[str, Any]]
