"""Checkpoints on the Hub that load by name: what they are, whose terms hold, how large they are.

Parameters are counted from the published sizes: layers, widths, codebooks, T5-base and EnCodec. A
conversion to float16, made once and kept, takes two bytes for each.
"""

from dataclasses import dataclass

_MUSICGEN, _CLAP = "CC-BY-NC-4.0", "Apache-2.0"


@dataclass(frozen=True)
class Published:
    """One checkpoint: its name on the Hub, licence, millions of parameters, rate in Hz, and use.

    files: patterns of what is fetched, where that is not the weights beside config.json; gigabytes:
    how much that is; revision: the only one that is known to convert.
    """

    name: str
    licence: str
    parameters: float
    sample_rate: int
    what: str
    files: tuple[str, ...] = ()
    gigabytes: float = 0.0
    revision: str = "main"

    @property
    def size(self) -> int:
        """Bytes of its conversion to float16."""
        return int(self.parameters * 2e6)


PUBLISHED = (
    Published(
        "google/magenta-realtime-2",
        "CC-BY-4.0",
        521.0,  # of small: language model 230, codec 48, MusicCoCa 243
        48000,
        "songs of plans, stereo",
        files=(
            "checkpoints/mrt2_small.safetensors",
            "resources/musiccoca/*",
            "resources/spectrostream/encoder.safetensors",
        ),
        gigabytes=2.2,
        revision="010aa0dcb0dfd27b24f0ad07b4dad63e8f9521cc",
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
    """What is known of a checkpoint on the Hub."""
    return next((each for each in PUBLISHED if each.name == name), None)
