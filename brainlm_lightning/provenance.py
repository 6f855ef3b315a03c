"""Provenance of results: the code and the package versions that produced them."""

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
    """Output of a git command in a folder; None if git is missing, fails, or the folder is not in a checkout.

    GIT_* variables are removed, because inside a hook they point to another repository. The file-system monitor is
    disabled, because it is a command that the checkout could make git run.
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
    """The package's own checkout if git tracks its files, otherwise that of the working directory."""
    followed = _git(PACKAGE_FOLDER, "ls-files", "--error-unmatch", "__init__.py") is not None
    return ("package", PACKAGE_FOLDER) if followed else ("working directory", Path.cwd())


def _package_versions() -> dict[str, str]:
    """Versions of this package and its dependencies, without extras; {} if it is not installed."""
    try:
        requirements = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    names = [re.split(r"[^\w.-]", text, maxsplit=1)[0] for text in requirements if "extra ==" not in text]
    return {name: importlib.metadata.version(name) for name in [DISTRIBUTION, *sorted(names)]}


def provenance(**facts: Any) -> dict[str, Any]:
    """What a run was made with, for `provenance.json`; without names of people or machines.

    Args:
        **facts: what the run adds: hashes of cohorts, atlas and checkpoint, seed, device.

    Returns:
        `git_commit` and `git_dirty` (changed or untracked files; both None outside a checkout), `git_checkout` (the
        checkout they describe, "package" or "working directory"), `packages`, `python`, `time_utc`, and the facts.
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
    """SHA-256 of a file, in hexadecimal; an unchanged file is read only once per process."""
    state = path.stat()
    return _sha256(path.resolve(), state.st_size, state.st_mtime_ns)


@cache
def _sha256(path: Path, size: int, modified_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache
def git_commit() -> str | None:
    """The commit at the start of the process, with ``+dirty`` if files differ from it; None outside a checkout."""
    found = provenance()
    commit: str | None = found["git_commit"]
    return commit and commit + ("+dirty" if found["git_dirty"] else "")


@cache
def code_digest() -> str:
    """SHA-256 over this package's source files and their relative paths; it changes whenever the code changes."""
    digest = hashlib.sha256()
    for path in sorted(PACKAGE_FOLDER.rglob("*.py")):
        digest.update(str(path.relative_to(PACKAGE_FOLDER)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()
