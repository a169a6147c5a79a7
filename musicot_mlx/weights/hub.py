"""A model name to a folder: embedded, local, or on the Hub. The only download code."""

import os
import re
from pathlib import Path

from musicot_mlx.errors import MusicotError, RunError

EMBEDDED = ("musicot-mini",)
_FOLDER = Path(__file__).resolve().parent
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def resolve(name_or_path: str | Path) -> Path:
    """The folder that holds a model: embedded name, local folder, or Hub id (downloaded once).

    Raises MusicotError when there is no such folder or model, RunError when the Hub is far.
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
    if not _HUB_ID.fullmatch(name) or name.startswith((".", "~")):
        raise MusicotError(
            f"no model folder at {name}; pass a folder, a Hub id such as owner/name, "
            f"or the embedded {EMBEDDED[0]}"
        )
    return _download(name)


def _download(name: str) -> Path:
    # Imported here: with the embedded model or a local folder nothing of the Hub client is loaded.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    try:
        folder = snapshot_download(
            name, allow_patterns=["*.json", "*.safetensors", "*.md", "*.txt", "*.model"]
        )
    except GatedRepoError as error:
        raise MusicotError(
            f"{name} is gated; accept its terms on the Hub and log in with `hf auth login`"
        ) from error
    except RepositoryNotFoundError as error:
        raise MusicotError(f"no model {name} on the Hub and no folder of that name here") from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, HfHubHTTPError, OSError) as error:
        why = (
            "HF_HUB_OFFLINE is set"
            if os.environ.get("HF_HUB_OFFLINE", "0").lower() in ("1", "true", "yes", "on")
            else "the Hub can't be reached"
        )
        raise RunError(
            f"{name} is not a folder here, not in the download cache, and {why}; "
            f"pass a local folder or the embedded {EMBEDDED[0]}"
        ) from error
    return Path(folder)
