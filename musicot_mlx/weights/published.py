"""Checkpoints on the Hub that load by name: what they are, whose terms hold, how large they are.

Parameters are counted from the published sizes: layers, widths, codebooks, T5-base and EnCodec. A
conversion to float16, made once and kept, takes two bytes for each.
"""

from dataclasses import dataclass

_MUSICGEN, _CLAP = "CC-BY-NC-4.0", "Apache-2.0"


@dataclass(frozen=True)
class Published:
    """One checkpoint: its name on the Hub, licence, millions of parameters, rate in Hz, and use.

    files: what is fetched, where that is not the weights beside config.json, large files by name
    and others by pattern; gigabytes: how much that is; revision: the only one known to convert.
    A repository that holds several sizes has one of these for each; its default, which is called by
    the repository's name alone, tells its size here.
    """

    name: str
    licence: str
    parameters: float
    sample_rate: int
    what: str
    files: tuple[str, ...] = ()
    gigabytes: float = 0.0
    revision: str = "main"
    default: str = ""

    @property
    def size(self) -> int:
        """Bytes of its conversion to float16."""
        return int(self.parameters * 2e6)


_RT2 = "010aa0dcb0dfd27b24f0ad07b4dad63e8f9521cc"
_RT2_FILES = ("resources/musiccoca/*", "resources/spectrostream/encoder.safetensors")

PUBLISHED = (
    Published(
        "google/magenta-realtime-2",
        "CC-BY-4.0",
        521.0,  # language model 230, codec 48, MusicCoCa 243
        48000,
        "songs of plans, stereo",
        files=("checkpoints/mrt2_small.safetensors", *_RT2_FILES),
        gigabytes=2.2,
        revision=_RT2,
        default="small",
    ),
    Published(
        "google/magenta-realtime-2:base",
        "CC-BY-4.0",
        2698.0,  # language model 2,407
        48000,
        "songs of plans, stereo",
        files=("checkpoints/mrt2_base.safetensors", *_RT2_FILES),
        gigabytes=10.9,
        revision=_RT2,
    ),
    Published("facebook/musicgen-small", _MUSICGEN, 586.9, 32000, "songs, mono"),
    Published("facebook/musicgen-medium", _MUSICGEN, 2005.3, 32000, "songs, mono"),
    Published("facebook/musicgen-large", _MUSICGEN, 3423.5, 32000, "songs, mono"),
    Published("facebook/musicgen-melody", _MUSICGEN, 1552.1, 32000, "songs after a melody, mono"),
    Published(
        "facebook/musicgen-melody-large", _MUSICGEN, 2618.0, 32000, "songs after a melody, mono"
    ),
    Published("facebook/musicgen-stereo-small", _MUSICGEN, 603.7, 32000, "songs, stereo"),
    Published("facebook/musicgen-stereo-medium", _MUSICGEN, 2030.4, 32000, "songs, stereo"),
    Published("facebook/musicgen-stereo-large", _MUSICGEN, 3457.0, 32000, "songs, stereo"),
    Published(
        "facebook/musicgen-stereo-melody", _MUSICGEN, 1577.3, 32000, "songs after a melody, stereo"
    ),
    Published(
        "facebook/musicgen-stereo-melody-large",
        _MUSICGEN,
        2651.6,
        32000,
        "songs after a melody, stereo",
    ),
    Published("laion/larger_clap_music", _CLAP, 193.9, 48000, "CLAP of music"),
    Published("laion/larger_clap_general", _CLAP, 193.9, 48000, "CLAP of any sound"),
    Published("laion/clap-htsat-unfused", _CLAP, 153.5, 48000, "CLAP of any sound, small"),
)


def published(name: str) -> Published | None:
    """What is known of a checkpoint on the Hub, owner/name or owner/name:size."""
    called = (each for each in PUBLISHED if name in (each.name, f"{each.name}:{each.default}"))
    return next(called, None)


def sizes(repository: str) -> list[str]:
    """The sizes that a repository on the Hub is known to hold; none where there is one alone."""
    own = [each for each in PUBLISHED if each.name.partition(":")[0] == repository]
    return [size for each in own if (size := each.default or each.name.partition(":")[2])]
