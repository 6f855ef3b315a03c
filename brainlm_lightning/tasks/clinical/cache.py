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
Arrays = dict[str, NDArray[Any]]


def cached(runs: Path, key: dict[str, Any], compute: Callable[[], Arrays]) -> Arrays:
    """Reads arrays that were computed before from the same inputs by the same code, else computes and keeps them.

    Args:
        runs: folder of all runs, which all experiments share.
        key: all that the arrays depend on beside this package's code, as plain values.
        compute: computes them.
    """
    name = _file_of(key)
    if (runs / FOLDER / name).is_file():
        return read_arrays(runs / FOLDER, name)
    arrays = compute()
    write_arrays(runs / FOLDER / name, arrays)
    return arrays


def cached_with(
    runs: Path, name: str, keys: dict[str, dict[str, Any]], compute: Callable[[list[str]], Arrays]
) -> NDArray[Any]:
    """As `cached`, for one of several arrays that are cheaply computed together and kept apart.

    Args:
        runs: as in `cached`.
        name: of the wanted array.
        keys: the key of each array, the wanted one among them.
        compute: computes the named ones in one go; asked for all that are not kept, once the wanted one is not.
    """

    def compute_missing() -> Arrays:
        arrays = compute([own for own, key in keys.items() if not (runs / FOLDER / _file_of(key)).is_file()])
        for other in arrays.keys() - {name}:
            write_arrays(runs / FOLDER / _file_of(keys[other]), {other: arrays[other]})
        return {name: arrays[name]}

    return cached(runs, keys[name], compute_missing)[name]


def digest_of(values: Any) -> str:
    """A short digest of plain values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:24]


def _file_of(key: dict[str, Any]) -> str:
    return f"{digest_of([key, code_digest()])}.npz"
