"""What the description in a checkpoint must hold, checked before anything is built from it."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

PACKAGE = "brainlm_lightning."
LONGEST_WINDOW = 100_000  # frames
UNSIZED = ("max_", "seed", "shuffles")  # in names of whole numbers that no tensor is as large as
# Entry -> its type, or types.
ENTRIES: dict[tuple[str, ...], type | tuple[type, ...]] = {
    ("model",): dict,
    ("model", "class_path"): str,
    ("model", "config"): dict,
    ("parcels",): dict,
    ("parcels", "sha256"): str,
    ("parcels", "index"): list,
    ("parcels", "label"): list,
    ("parcels", "xyz_mm"): list,
    ("tr_s",): (int, float),
    ("window_frames",): int,
    ("scaling",): dict,
    ("scaling", "recipe"): str,
    ("scaling", "statistics"): dict,
    ("subjects",): dict,
}


def check_entries(about: Any, source: str) -> None:
    """Checks that a description has what is read from it.

    Args:
        about: the description.
        source: the file, for messages.

    Raises:
        ValueError: an entry is missing, of another type, or out of range.
    """
    for path, expected in ENTRIES.items():
        found: Any = about
        for name in path:
            found = found.get(name) if isinstance(found, dict) else None
        if not isinstance(found, expected) or isinstance(found, bool):
            raise _damaged(source, f"{'.'.join(path)} is {str(found)[:60]!r}")
    if not 0 < about["tr_s"] < float("inf") or not 0 < about["window_frames"] <= LONGEST_WINDOW:
        raise _damaged(source, f"tr_s is {about['tr_s']}, window_frames {about['window_frames']}")
    parcels = about["parcels"]
    centroids = parcels["xyz_mm"]
    if not len(parcels["index"]) == len(parcels["label"]) == len(centroids):
        raise _damaged(source, "its parcels have indices, labels and centroids of different numbers")
    _check_parts(parcels.get("parts", []), len(centroids), source)
    if not all(isinstance(row, list) and len(row) == 3 and all(map(_is_number, row)) for row in centroids):
        raise _damaged(source, "a centroid is not three numbers")


def _check_parts(parts: Any, num_parcels: int, source: str) -> None:
    """Checks that the atlases of a model lie one after the other, and are all of its parcels."""
    end = 0
    for part in parts if isinstance(parts, list) else [parts]:
        known = isinstance(part, dict) and isinstance(part.get("sha256"), str) and _is_whole(part.get("count"))
        if not known or part["count"] < 1 or part.get("first") != end:
            raise _damaged(source, f"parcels.parts holds {str(part)[:60]!r}")
        end += part["count"]
    if parts and end != num_parcels:
        raise _damaged(source, f"its atlases have {end} parcels, and it has {num_parcels}")


def check_plausible(about: Mapping[str, Any], weights: Mapping[str, Tensor], source: str) -> None:
    """Checks the sizes in a description against the tensors beside it, before a model of those sizes is built.

    Args:
        about: the description.
        weights: all tensors of the file.
        source: the file, for messages.

    Raises:
        ValueError: a size of one of this package's models is larger than any tensor of it could be, or there are more
            blocks than tensors.
    """
    if not about["model"]["class_path"].startswith(PACKAGE):
        return
    largest = max((size for tensor in weights.values() for size in tensor.shape), default=0)
    most = max(largest, len(about["parcels"]["index"]), about["window_frames"])
    sizes = {
        name: value
        for name, value in about["model"]["config"].items()
        if _is_whole(value) and not any(word in name for word in UNSIZED)
    }
    for name, value in sizes.items():
        limit = len(weights) if "depth" in name or "layers" in name else most
        if abs(value) > limit:
            raise _damaged(source, f"{name} is {value:,}, and its {len(weights)} tensors have at most {largest:,} rows")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _damaged(source: str, what: str) -> ValueError:
    return ValueError(f"{source}: its description does not fit a model: {what}; export the model or train it again")
