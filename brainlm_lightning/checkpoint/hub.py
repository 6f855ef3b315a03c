"""Models on the Hugging Face hub: downloads by ``hf://OWNER/NAME`` or ``hf://OWNER/NAME/FOLDER``, and uploads.

`huggingface_hub` is an optional extra; everything about local folders works without it.
"""

import importlib
import re
from pathlib import Path
from typing import Any

SCHEME = "hf://"
REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


def fetched(source: Path | str) -> Path:
    """A local path: the source itself, or the folder to which a model of the hub was downloaded.

    Raises:
        FileNotFoundError: there is nothing at the path.
        ImportError: the source is on the hub, and `huggingface_hub` is not installed.
        ValueError: the name on the hub is not complete.
    """
    if not str(source).startswith(SCHEME):
        path = Path(source)
        if not path.exists():
            raise FileNotFoundError(f"no {path}; name a folder, a file, or {SCHEME}OWNER/NAME")
        return path
    owner, name, *folder = [part for part in str(source).removeprefix(SCHEME).split("/") if part] + [""] * 2
    if not name:
        raise ValueError(f"{source}: expected {SCHEME}OWNER/NAME or {SCHEME}OWNER/NAME/FOLDER")
    below = "/".join(part for part in folder if part)
    return download(f"{owner}/{name}", below) / below


def download(repository: str, below: str = "", **options: Any) -> Path:
    """Downloads weights and configurations of a model; returns the local folder of the whole repository.

    Args:
        repository: OWNER/NAME.
        below: a folder of it; empty = all.
        options: of `huggingface_hub.snapshot_download`: ``revision``, ``token``, ``cache_dir``, ``local_files_only``.

    Raises:
        ImportError: `huggingface_hub` is not installed.
    """
    hub = _hub(f"{SCHEME}{repository}", "or download the folder and name it instead")
    wanted = [f"{below}/{ending}".lstrip("/") for ending in ("*.safetensors", "*.bin", "*.json")]
    return Path(hub.snapshot_download(repository, allow_patterns=wanted, **options))


def upload(folder: Path, repository: str, private: bool) -> str:
    """Uploads a folder as a model, with the token of ``hf auth login``; returns the address of the commit.

    Args:
        folder: all its files are uploaded.
        repository: OWNER/NAME; made where it does not exist.
        private: whether a new repository can be seen by its owner alone.

    Raises:
        ImportError: `huggingface_hub` is not installed.
        ValueError: the name is not complete.
    """
    if not REPOSITORY.fullmatch(repository):
        raise ValueError(f"{repository!r} is no repository; expected OWNER/NAME")
    hub = _hub("push", f"or upload the files of {folder} by hand: they are all that a model needs")
    api = hub.HfApi()
    api.create_repo(repository, private=private, exist_ok=True)
    return str(api.upload_folder(repo_id=repository, folder_path=folder, commit_message="A model of BrainLM-Lightning"))


def _hub(what: str, instead: str) -> Any:
    """The package `huggingface_hub`."""
    try:
        return importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise ImportError(f"{what} needs huggingface_hub: pip install 'brainlm-lightning[hub]'; {instead}") from error
