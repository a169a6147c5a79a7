"""A model name to a folder: embedded, local, or on the Hub. The only download code."""

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

from musicot_mlx.errors import MusicotError, RunError
from musicot_mlx.weights.published import published

EMBEDDED = ("musicot-mini",)
_FOLDER = Path(__file__).resolve().parent
_HUB_ID = re.compile(r"([A-Za-z0-9][\w.-]*/[\w.-]+)(?:@([\w./-]+))?")

# What to fetch: the words around the weights, then the first kind of weights that the model has.
# Safetensors need no PyTorch, so they come first; the last is audiocraft's own format.
_WORDS = ["*.json", "README.md", "*.txt"]
_USUAL = ("*.json", "*.safetensors")
_WEIGHTS = (["*.safetensors"], ["pytorch_model*.bin"], ["*state_dict.bin"])


def resolve(name_or_path: str | Path) -> Path:
    """The folder that holds a model: embedded name, local folder, or Hub id (downloaded once).

    A Hub id may name a revision: owner/name@revision. Raises MusicotError when there is no such
    folder or model, RunError when the Hub is far.
    """
    name = str(name_or_path)
    if name in EMBEDDED:
        folder = _FOLDER / name
        if not (folder / "config.json").is_file():
            raise MusicotError(
                f"this installation lacks the embedded model {name}; reinstall musicot-mlx"
            )
        return folder
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.is_file():
        raise MusicotError(f"{name} is a file; pass the model folder that holds config.json")
    hub_name = hub_id(name)
    if hub_name is None:
        raise MusicotError(
            f"no model folder at {name}; pass a folder, a Hub id such as owner/name, "
            f"or the embedded {EMBEDDED[0]}"
        )
    return _download(*hub_name)


def hub_id(name_or_path: str | Path) -> tuple[str, str] | None:
    """(owner/name, revision) where the name can only be one of the Hub's, else None."""
    name = str(name_or_path)
    match = _HUB_ID.fullmatch(name)
    if not match or name.startswith((".", "~")) or Path(name).expanduser().exists():
        return None
    return match[1], match[2] or "main"


def _download(name: str, revision: str) -> Path:
    # Imported here: with the embedded model or a local folder nothing of the Hub client is loaded.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    known = published(name)
    own = known is not None and known.files
    if own:
        revision = known.revision if revision == "main" else revision
        if not downloaded(name):
            print(f"fetching {name}, {known.gigabytes:g} GB", file=sys.stderr, flush=True)
    try:
        for weights in [list(known.files)] if own else _WEIGHTS:
            folder = Path(
                snapshot_download(
                    name,
                    revision=revision,
                    allow_patterns=[*_WORDS, *weights],
                    tqdm_class=_one_bar(name),
                )
            )
            if any(file for pattern in weights for file in folder.glob(pattern)):
                break
    except GatedRepoError as error:
        raise MusicotError(
            f"{name} is gated; accept its terms on the Hub and log in with `hf auth login`"
        ) from error
    except RevisionNotFoundError as error:
        raise MusicotError(f"{name} on the Hub has no revision {revision!r}") from error
    except RepositoryNotFoundError as error:
        raise MusicotError(f"no model {name} on the Hub and no folder of that name here") from error
    except (
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        HfHubHTTPError,
        OSError,
        json.JSONDecodeError,
    ) as error:
        if told := _answer(error, name):
            raise told from error
        why = (
            "HF_HUB_OFFLINE is set"
            if os.environ.get("HF_HUB_OFFLINE", "0").lower() in ("1", "true", "yes", "on")
            else "the Hub can't be reached"
        )
        at = "" if revision == "main" else f" --revision {revision}"
        wanted = " ".join(f"'{each}'" for each in (known.files if own else _USUAL))
        raise RunError(
            f"{name} is not a folder here, not (wholly) in the download cache, and {why}; fetch it "
            f"where there is a network with: hf download {name}{at} --include {wanted}"
        ) from error
    return folder


def _answer(error: BaseException, name: str) -> MusicotError | None:
    """What the Hub answered instead of the model, and what to do; None where it did not answer.

    The client wraps the answer in an error of its cache, so the chain of causes is looked through.
    """
    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__
    codes = (getattr(getattr(each, "response", None), "status_code", 0) for each in chain)
    code = next((found for found in codes if found), 0)
    if code == 401:
        return MusicotError(
            f"the Hub wants to know who asks for {name} (401): log in with `hf auth login`; a "
            "token that is set (HF_TOKEN) may have run out"
        )
    if code == 403:
        return MusicotError(
            f"the Hub does not let you have {name} (403): ask its owner for access, or take a "
            "token that may read it (`hf auth login`)"
        )
    if code == 429:
        return RunError(
            f"the Hub had too many requests from here (429) to give {name}: wait some minutes, or "
            "log in with `hf auth login`, which is allowed more"
        )
    if code >= 500:
        return RunError(f"the Hub itself fails ({code}) for {name}: try again later")
    if any(
        isinstance(e, json.JSONDecodeError) or type(e).__name__ == "FileMetadataError"
        for e in chain
    ):
        return RunError(
            f"what answers for the Hub is not the Hub but perhaps a login page or a proxy, for "
            f"{name}: log in to this network, or look at HF_ENDPOINT"
        )
    if code >= 400:
        return RunError(
            f"the Hub answers {code} to who asks for {name}: look at the name, and at HF_ENDPOINT"
        )
    return None


def fetch_file(name: str, filename: str) -> Path:
    """One file of a model on the Hub, downloaded once. Raises RunError when it can't be had."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        return Path(hf_hub_download(name, filename))
    except (
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        HfHubHTTPError,
        OSError,
        json.JSONDecodeError,
    ) as error:
        if told := _answer(error, name):
            raise RunError(str(told)) from error
        raise RunError(f"{filename} of {name} can't be fetched from the Hub ({error})") from error


def downloaded(name: str) -> int:
    """Bytes of a Hub model that lie in the Hub client's cache, as it was published."""
    from huggingface_hub.constants import HF_HUB_CACHE

    blobs = Path(HF_HUB_CACHE) / f"models--{name.replace('/', '--')}" / "blobs"
    if not blobs.is_dir():
        return 0
    return sum(file.stat().st_size for file in blobs.iterdir() if file.is_file())


def _one_bar(name: str) -> Any:
    """The Hub client's own class of bars, drawing the bytes and nothing else."""
    from huggingface_hub.utils import tqdm

    class Bar(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs.pop("name", None)
            bytes_on_disk = kwargs.get("unit") == "B" and kwargs.get("desc") != "Downloading bytes"
            kwargs |= {"disable": None if bytes_on_disk else True, "leave": False, "delay": 1.0}
            kwargs |= {"desc": f"downloading {name}", "file": sys.stderr}
            kwargs["bar_format"] = "{desc}: {n_fmt}/{total_fmt}B |{bar}| {rate_fmt}"
            super().__init__(*args, **kwargs)

        def set_description(self, *args: Any, **kwargs: Any) -> None:
            """Keep ours; the client would write its own words."""

        set_description_str = set_description

    return Bar
