"""Arrays that take long to compute and follow from their inputs: computed once, kept beside the runs."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from brainlm_lightning.provenance import code_digest
from brainlm_lightning.run_folder import read_arrays, write_arrays

FOLDER = ".cache"  # hidden: it is no experiment, and may be deleted


def cached(runs: Path, key: dict[str, Any], compute: Callable[[], dict[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    """Reads arrays that were computed before from the same inputs by the same code, else computes and keeps them.

    Args:
        runs: folder of all runs, which all experiments share.
        key: all that the arrays depend on beside this package's code, as plain values.
        compute: computes them.
    """
    name = f"{digest_of([key, code_digest()])}.npz"
    folder = runs / FOLDER
    if (folder / name).is_file():
        return read_arrays(folder, name)
    arrays = compute()
    write_arrays(folder / name, arrays)
    return arrays


def digest_of(values: Any) -> str:
    """A short digest of plain values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:24]
