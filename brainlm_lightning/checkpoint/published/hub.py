"""Files of models from the Hugging Face hub, by ``hf://OWNER/NAME`` or ``hf://OWNER/NAME/FOLDER``."""

from pathlib import Path

SCHEME = "hf://"


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
    return Path(_download(f"{owner}/{name}", f"{below}/*" if below else "*")) / below


def _download(repository: str, pattern: str) -> str:
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise ImportError(
            f"{SCHEME}{repository} needs huggingface_hub: pip install 'brainlm-lightning[hub]'; or download the folder "
            "and name it instead"
        ) from error
    wanted = [pattern.replace("*", ending) for ending in ("*.safetensors", "*.bin", "*.json")]
    return str(snapshot_download(repository, allow_patterns=wanted))
