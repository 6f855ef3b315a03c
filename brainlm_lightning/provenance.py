"""Where numbers come from: the code and the package versions that made them."""

import platform
import re
import subprocess
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import requires, version
from pathlib import Path
from typing import Any

PACKAGE = "brainlm-lightning"


def _git(*arguments: str) -> str | None:
    """What git says of the checkout that this package runs from; None where it is an installed copy."""
    here = Path(__file__).parent
    try:
        done = subprocess.run(["git", "-C", here, *arguments], capture_output=True, text=True, timeout=10, check=True)  # noqa: S603, S607
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


@cache
def git_commit() -> str | None:
    """The commit of the code, with ``+dirty`` where files differ from it; None outside a git checkout."""
    tracked = _git("ls-files", "--error-unmatch", Path(__file__).name)
    commit = _git("rev-parse", "HEAD") if tracked else None
    if commit is None:
        return None
    return commit + ("+dirty" if _git("status", "--porcelain", "--untracked-files=no") else "")


def provenance() -> dict[str, Any]:
    """Commit, versions of the package and of all that it depends on directly, Python, and the time (UTC)."""
    needed = [re.split(r"[\s\[<>=!~;]", line)[0] for line in requires(PACKAGE) or [] if "extra ==" not in line]
    return {
        "git_commit": git_commit(),
        "packages": {name: version(name) for name in [PACKAGE, *needed]},
        "python": platform.python_version(),
        "platform": platform.system() + "-" + platform.machine(),
        "time_utc": datetime.now(UTC).isoformat(timespec="seconds"),
    }
