"""A model name to a folder: embedded, local, or on the Hub. The only download code."""

import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from musicot_mlx.errors import MusicotError, RunError
from musicot_mlx.weights.published import Published, published, sizes

EMBEDDED = ("musicot-mini",)
_FOLDER = Path(__file__).resolve().parent
_HUB_ID = re.compile(r"([A-Za-z0-9][\w.-]*/[\w.-]+(?::[a-z]\w*)?)(?:@([\w./-]+))?")
_SIZED = re.compile(r"(.+?):([a-z]\w*)(@[\w./-]+)?")

# What to fetch: the words around the weights, then the first kind of weights that the model has.
# Safetensors need no PyTorch, so they come first; the last are audiocraft's own
# format and MuMu-LLaMA's.
_WORDS = ["*.json", "README.md", "*.txt"]
_USUAL = ("*.json", "*.safetensors")
_WEIGHTS = (["*.safetensors"], ["pytorch_model*.bin"], ["*state_dict.bin"], ["checkpoint.pth"])


def resolve(name_or_path: str | Path) -> Path:
    """The folder that holds a model: embedded name, local folder, or Hub id (downloaded once).

    A Hub id may name a size and a revision: owner/name:size@revision; a folder that holds several
    sizes, one: folder:size. Raises MusicotError when there is no such folder or model, RunError
    when the Hub is far.
    """
    name = str(name_or_path)
    if name in EMBEDDED:
        folder = _FOLDER / name
        if not (folder / "config.json").is_file():
            raise MusicotError(
                f"this installation lacks the embedded model {name}; reinstall musicot-mlx"
            )
        return folder
    path = Path(split_size(name)[0]).expanduser()
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


def split_size(name_or_path: str | Path) -> tuple[str, str | None]:
    """The name of a model and the size that stands behind it: "mrt2:base" is ("mrt2", "base").

    None where there is none, as in what is a file or folder of such a name.
    """
    name = str(name_or_path)
    match = _SIZED.fullmatch(name)
    if not match or Path(name).expanduser().exists():
        return name, None
    return match[1] + (match[3] or ""), match[2]


def hub_id(name_or_path: str | Path) -> tuple[str, str] | None:
    """(owner/name or owner/name:size, revision) where the name can only be one of the Hub's, else
    None. The size that a repository's own name stands for is left out.
    """
    name = str(name_or_path)
    match = _HUB_ID.fullmatch(name)
    local = (name, split_size(name)[0])
    if (
        not match
        or name.startswith((".", "~"))
        or any(Path(e).expanduser().exists() for e in local)
    ):
        return None
    known = published(match[1])
    return known.name if known else match[1], match[2] or "main"


def _download(asked: str, revision: str) -> Path:
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

    known, (name, size) = published(asked), split_size(asked)
    if size and known is None:
        there = ", ".join(sizes(name)) or "one alone, so leave out the colon and what follows"
        raise MusicotError(f"{name} has no size {size!r} that is known; there is {there}")
    own = known is not None and known.files
    if own:
        revision = known.revision if revision == "main" else revision
        _fetch_large(asked, known, revision)
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
            f"{asked} is not a folder here, not (wholly) in the download cache, and {why}; fetch "
            f"it where there is a network with: hf download {name}{at} --include {wanted}"
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
    """Bytes of a Hub model that lie in the Hub client's cache, as it was published; of one of
    several sizes 0 until its weights are there.
    """
    known, folder = published(name), _cached(name)
    if known is None or not known.files:
        blobs = folder / "blobs"
        found = blobs.iterdir() if blobs.is_dir() else ()
    else:
        snapshot = folder / "snapshots" / known.revision
        if not all((snapshot / file).is_file() for file in _large(known)):
            return 0
        found = (file for pattern in known.files for file in snapshot.glob(pattern))
    return sum(file.stat().st_size for file in found if file.is_file())


def _cached(name: str) -> Path:
    """Where the Hub client keeps a model."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE) / f"models--{split_size(name)[0].replace('/', '--')}"


def _large(known: Published) -> list[str]:
    """The files of a published model that are called by name."""
    return [file for file in known.files if "*" not in file]


def _fetch_large(asked: str, known: Published, revision: str) -> None:
    """Fetch the large files of a model into the Hub client's cache, which then finds them there.

    The client itself begins a file anew in each run; this goes on from where the last one stopped.
    What the Hub does not answer is left to the client to tell. Raises RunError where a download
    breaks off.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    name = split_size(asked)[0]
    missing = [
        file
        for file in _large(known)
        if not isinstance(try_to_load_from_cache(name, file, revision=revision), str)
    ]
    if not missing or constants.HF_HUB_OFFLINE:
        return
    print(f"fetching {asked}, {known.gigabytes:g} GB", file=sys.stderr, flush=True)
    blobs = _cached(name) / "blobs"
    for file in missing:
        url = hf_hub_url(name, file, revision=revision)
        try:
            about = get_hf_file_metadata(url)
        except Exception:  # also those of the library that the client has its network from
            return
        if not about.etag or not about.size or (blobs / about.etag).exists():
            continue
        blobs.mkdir(parents=True, exist_ok=True)
        with _alone(blobs / f"{about.etag}.part") as part:
            if (blobs / about.etag).exists():  # another process has fetched it meanwhile
                continue
            if have := part.tell():
                at = f"{have / 1e9:.2g} of {about.size / 1e9:.2g} GB are there"
                print(f"going on with {file}: {at}", file=sys.stderr, flush=True)
            try:
                http_get(
                    url,
                    part,
                    resume_size=have,
                    headers=build_hf_headers(),
                    expected_size=about.size,
                    tqdm_class=_one_bar(asked),
                )
            except Exception as error:
                raise RunError(
                    f"the download of {asked} broke off ({error}); run it again, and it goes on"
                ) from error
            part.flush()
            os.replace(part.name, blobs / about.etag)


@contextmanager
def _alone(path: Path) -> Iterator[BinaryIO]:
    """A file that no other process writes meanwhile, open at its end."""
    import fcntl  # not on Windows, where MLX does not run either

    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0, os.SEEK_END)
        yield file


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
