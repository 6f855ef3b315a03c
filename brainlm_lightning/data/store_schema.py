"""What `store.json` must hold, checked when a store is opened: a damaged or edited one is refused before it is used."""

import hashlib
import math
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

Check = Callable[[Any], bool]
TABLES = ("recordings.csv", "parcels.csv")
SPLIT = ("key", "val", "test", "method")
ARRAYS = ("series", "mean", "std", "observed")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_file_name(value: Any) -> bool:
    return _is_text(value) and Path(value).name == value and value not in (".", "..")


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0


def _is_mapping(value: Any) -> bool:
    return isinstance(value, dict)


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


WHOLE: dict[str, tuple[Check, str]] = {
    "cohort": (_is_file_name, "a name"),
    "tr_s": (_is_positive, "a number of seconds above 0"),
    "dtype": (lambda value: value in ("float16", "float32"), "float16 or float32"),
    "atlas": (_is_mapping, "a mapping"),
    "shards": (_is_list, "a list"),
}
ATLAS: dict[str, tuple[Check, str]] = {"name": (_is_text, "a name"), "sha256": (_is_text, "a hash")}
DIMENSIONS: dict[str, tuple[Check, str]] = {
    "dimensions": (lambda value: value is None or _is_positive(value), "a number above 0, or null"),
    "window_frames": (_is_positive, "a number of frames"),
}
FINISHED: dict[str, tuple[Check, str]] = dict.fromkeys(("statistics", "tables", "made_by"), (_is_mapping, "a mapping"))
SHARD: dict[str, tuple[Check, str]] = {
    "file": (_is_file_name, "the name of a file in the store"),
    "bytes": (_is_count, "a number of bytes"),
    "num_frames": (_is_count, "a number of frames"),
    "num_recordings": (_is_count, "a number of recordings"),
    "offsets": (_is_mapping, "a mapping"),
}


def check_metadata(metadata: dict[str, Any], path: Path) -> None:
    """Checks types and ranges of what is needed to read the series of a store.

    Args:
        metadata: contents of `store.json`.
        path: of the file, for the message.

    Raises:
        ValueError: something is missing, of another type or out of range.
    """
    _refuse(chain(_problems(metadata, WHOLE, ""), _nested_problems(metadata), _shard_problems(metadata)), path)


def check_finished(metadata: dict[str, Any], folder: Path) -> None:
    """Checks what is written last: scaling statistics, and tables as they were when the store was made.

    Raises:
        ValueError: something is missing, of another type or out of range; or a table was changed since, so that its
            split, order or names may not be those that the statistics are of.
    """
    check_entries(metadata, folder)
    for name in TABLES:
        found, expected = hashlib.sha256((folder / name).read_bytes()).hexdigest(), metadata["tables"].get(name)
        if found != expected:
            raise ValueError(
                f"{folder / name} was changed since the store was prepared (sha256 {found[:12]}…, expected "
                f"{str(expected)[:12]}…), so split and scaling may no longer belong together. Change the manifest or "
                "its tables instead, and prepare the cohort again"
            )


def check_entries(metadata: dict[str, Any], folder: Path) -> None:
    """Checks the entries that are written last, but not the tables.

    Raises:
        ValueError: something is missing, of another type or out of range.
    """
    problems = chain(_problems(metadata, FINISHED, ""), _scale_problems(metadata), _table_problems(metadata))
    _refuse(problems, folder / "store.json")


def _table_problems(metadata: dict[str, Any]) -> Iterator[str]:
    """The hashes of both tables, and the manifest's plan of the split."""
    for name in TABLES:
        if not _is_text(metadata["tables"].get(name)):
            yield f"tables.{name} is {str(metadata['tables'].get(name))[:80]!r}, expected a hash"
    made_by = metadata["made_by"]
    if not _is_text(made_by.get("manifest_sha256")):
        yield f"made_by.manifest_sha256 is {str(made_by.get('manifest_sha256'))[:80]!r}, expected a hash"
    if not _is_mapping(made_by.get("processing", {})):
        yield f"made_by.processing is {str(made_by['processing'])[:80]!r}, expected a mapping"
    manifest = made_by.get("manifest")
    plan: Any = manifest.get("split") if _is_mapping(manifest) else None
    if not _is_mapping(plan) or plan.keys() - SPLIT or not {"key", "val", "test"} <= plan.keys():
        yield f"made_by.manifest.split is {str(plan)[:80]!r}, expected {', '.join(SPLIT)}"
        return
    shares = [plan[name] for name in ("val", "test")]
    if not all(_is_positive(share) or share == 0 for share in shares) or not 0 <= sum(shares) < 1:
        yield f"made_by.manifest.split has the shares {shares}, expected numbers from 0 to 1"
    if not _is_text(plan["key"]) or plan.get("method", "hash") not in ("hash", "exact"):
        yield f"made_by.manifest.split is {plan}, expected a key and the method hash or exact"


def _refuse(problems: Iterator[str], path: Path) -> None:
    """Raises for the first problem."""
    for problem in problems:
        raise ValueError(
            f"{path}: {problem}; the file is damaged or was edited. Restore it, or prepare the cohort again"
        )


def _problems(found: dict[str, Any], expected: dict[str, tuple[Check, str]], prefix: str) -> Iterator[str]:
    for name, (check, meaning) in expected.items():
        if name not in found:
            yield f"{prefix}{name} is missing, expected {meaning}"
        elif not check(found[name]):
            yield f"{prefix}{name} is {str(found[name])[:80]!r}, expected {meaning}"


def _shard_problems(metadata: dict[str, Any]) -> Iterator[str]:
    for number, shard in enumerate(metadata["shards"]):
        if not _is_mapping(shard):
            yield f"shards[{number}] is no mapping"
            continue
        yield from _problems(shard, SHARD, f"shards[{number}].")
        offsets = shard["offsets"]
        yield from _problems(offsets, dict.fromkeys(ARRAYS, (_is_count, "an offset")), f"shards[{number}].offsets.")


def _nested_problems(metadata: dict[str, Any]) -> Iterator[str]:
    """What is known of the atlas, and of the effective dimensions, which are measured last."""
    yield from _problems(metadata["atlas"], ATLAS, "atlas.")
    dimensions = metadata.get("effective_dimensions")
    if dimensions is None:
        return
    if not _is_mapping(dimensions):
        yield f"effective_dimensions is {str(dimensions)[:80]!r}, expected a mapping"
        return
    yield from _problems(dimensions, DIMENSIONS, "effective_dimensions.")


def _scale_problems(metadata: dict[str, Any]) -> Iterator[str]:
    """Scales are above 0 where they are known; a parcel without variation has none."""
    for recipe in ("robust", "robust_centred"):
        given = metadata["statistics"].get(recipe)
        if not _is_mapping(given) or not all(_is_list(given.get(name)) for name in ("centre", "scale")):
            yield f"statistics.{recipe} lacks centre or scale"
            continue
        wrong = [value for value in given["scale"] if value is not None and not _is_positive(value)]
        if wrong:
            yield f"statistics.{recipe}.scale has {wrong[0]!r}, expected numbers above 0"
