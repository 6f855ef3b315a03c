"""Where numbers come from: the code and the package versions that made them."""

import hashlib
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

DISTRIBUTION = "brainlm-lightning"
PACKAGE_FOLDER = Path(__file__).resolve().parent


def _git(folder: Path, *arguments: str) -> str | None:
    """What git prints about the checkout of a folder; None where there is no git, no checkout, or it fails.

    A hook's GIT_* variables would point at another repository, and a file-system monitor is a command that the
    checkout names and git would run.
    """
    git = shutil.which("git")
    if git is None:
        return None
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = [git, "-C", str(folder), "-c", "core.fsmonitor=false", "--no-optional-locks", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, env=environment, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _checkout() -> tuple[str, Path]:
    """The package's own checkout if git follows its files, else that of the working directory."""
    followed = _git(PACKAGE_FOLDER, "ls-files", "--error-unmatch", "__init__.py") is not None
    return ("package", PACKAGE_FOLDER) if followed else ("working directory", Path.cwd())


def _package_versions() -> dict[str, str]:
    """This package and those it names as dependencies, without the extras; {} where it is not installed."""
    try:
        requirements = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    names = [re.split(r"[^\w.-]", text, maxsplit=1)[0] for text in requirements if "extra ==" not in text]
    return {name: importlib.metadata.version(name) for name in [DISTRIBUTION, *sorted(names)]}


def provenance(**facts: Any) -> dict[str, Any]:
    """What a run was made with, for `provenance.json`. Names no person and no machine.

    Args:
        **facts: what the run knows: cohort and atlas hashes, the checkpoint's hash, seed, device.

    Returns:
        `git_commit` and `git_dirty` (tracked changes or unknown files; both None outside a checkout), `git_checkout`
        (whose they are: "package" or "working directory"), `packages`, `python`, `time_utc`, and the facts.
    """
    owner, folder = _checkout()
    commit = _git(folder, "rev-parse", "HEAD")
    status = _git(folder, "status", "--porcelain") if commit else None
    return {
        "git_commit": commit,
        "git_dirty": None if status is None else bool(status),
        "git_checkout": owner if commit else None,
        "packages": _package_versions(),
        "python": platform.python_version(),
        "time_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        **facts,
    }


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal; a large file that is asked for again is read once."""
    state = path.stat()
    return _sha256(path.resolve(), state.st_size, state.st_mtime_ns)


@cache
def _sha256(path: Path, size: int, modified_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache
def git_commit() -> str | None:
    """The commit that a process started from, with ``+dirty`` where files differ from it; None outside a checkout."""
    found = provenance()
    return found["git_commit"] and found["git_commit"] + ("+dirty" if found["git_dirty"] else "")
