"""BIDS sidecars: what a JSON file beside a recording says of it."""

import json
import re
from pathlib import Path
from typing import Any

ENTITIES = ("sub", "ses", "task", "acq", "run")
HIGHEST = 4  # folders that a sidecar may stand above its recording


def sidecar_tr_s(path: Path) -> float | None:
    """Returns `RepetitionTime` (or 1 / `SamplingFrequency`) in seconds; None where no sidecar says it.

    The recording's own sidecar counts first, then one of the same subject, session, task and run in its folder, then
    one that it inherits from a folder above.

    Raises:
        ValueError: A sidecar is no JSON.
    """
    own = path.with_name(path.name.partition(".")[0] + ".json")
    for candidate in (own, *_siblings(path), *_inherited(path)):
        if candidate.is_file():
            found = _tr_s(_read(candidate))
            if found is not None:
                return found
    return None


def entities(path: Path) -> dict[str, str]:
    """Returns `sub-01_ses-2_task-rest` as a dictionary."""
    return dict(re.findall(r"(?:^|_)([a-zA-Z]+)-([a-zA-Z0-9+]+)", path.name.partition(".")[0]))


def _siblings(path: Path) -> list[Path]:
    given = entities(path)
    wanted = [f"{key}-{given[key]}" for key in ENTITIES if key in given]
    if not wanted:
        return []
    return [other for other in sorted(path.parent.glob(f"{wanted[0]}*bold.json"))
            if all(part in other.name.partition(".")[0].split("_") for part in wanted)]  # fmt: skip


def _inherited(path: Path) -> list[Path]:
    task = entities(path).get("task")
    return [folder / f"task-{task}_bold.json" for folder in path.parents[:HIGHEST]] if task else []


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8") or "{}")
    except ValueError as error:
        raise ValueError(f"{path}: a sidecar that is no JSON ({error})") from error
    return content if isinstance(content, dict) else {}


def _tr_s(content: dict[str, Any]) -> float | None:
    for key, invert in (("RepetitionTime", False), ("SamplingFrequency", True)):
        value = content.get(key)
        if isinstance(value, int | float) and value > 0:
            return 1 / value if invert else float(value)
    return None
