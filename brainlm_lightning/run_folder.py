"""Reads and writes the files of a run folder, `runs/<experiment>/version_<k>/`: atomically, and without torch."""

import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from brainlm_lightning.atomic import replacing
from brainlm_lightning.spreadsheet import harmless

VERSION = re.compile(r"version_(\d+)")
BEST, LAST = "checkpoints/best.ckpt", "checkpoints/last.ckpt"
EXPORTED = "model.safetensors"  # in a folder that `export` wrote
COHORTS = "cohorts"  # what a report says of each cohort
LONGEST_NAME = 200  # bytes; file systems allow 255, including a number, the suffix and the ending of the temporary file
CHOSEN = "chosen.json"  # which run of a search was best


def file_name(name: str) -> str:
    """Turns a label into a legal file name (without suffix): letters, digits and `_.+-` are kept."""
    return re.sub(r"[^\w.+-]", "_", name).encode()[:LONGEST_NAME].decode(errors="ignore")


def inside(folder: Path | str, name: str) -> Path:
    """`folder / name` with links resolved.

    Raises:
        ValueError: The path is not inside the folder.
    """
    root = Path(folder).resolve()
    path = (root / name).resolve()
    if path == root or not path.is_relative_to(root):
        raise ValueError(f"{name!r} is not inside {root}; give the name of a file in that folder")
    return path


def _write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """A reader sees either the old file or the new one."""
    with replacing(path) as stream:
        write(stream)


def _plain(value: Any) -> Any:
    """Converts to what JSON holds: numpy values to Python's, paths to text, NaN and infinities to null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value) if isinstance(value, Path) else value


def write_json(path: Path | str, mapping: Mapping[str, Any]) -> None:
    """Writes `metrics.json` or `provenance.json` atomically; NaN and infinities become null."""
    text = json.dumps(_plain(mapping), indent=2, allow_nan=False) + "\n"
    _write_atomically(Path(path), lambda stream: stream.write(text.encode()))


def write_arrays(path: Path | str, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Writes `arrays.npz` atomically.

    Raises:
        ValueError: An array holds Python objects, which could only be read back by unpickling.
    """
    for name, array in arrays.items():
        if np.asarray(array).dtype.hasobject:
            raise ValueError(f"array {name!r} holds Python objects; expected numbers or fixed-width strings")
    contents: dict[str, Any] = dict(arrays)
    _write_atomically(Path(path), lambda stream: np.savez(stream, **contents))


def write_text(path: Path | str, text: str) -> None:
    """Writes a text file atomically."""
    _write_atomically(Path(path), lambda stream: stream.write(text.encode()))


def write_table(path: Path | str, table: pd.DataFrame) -> None:
    """Writes a table as CSV atomically, without its index; no spreadsheet runs its texts."""
    _write_atomically(Path(path), lambda stream: stream.write(harmless(table).to_csv(index=False).encode()))


def _existing(folder: Path | str, name: str) -> Path:
    path = inside(folder, name)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist: {folder} is not a run folder, or its run did not finish; "
            f"run `python -m brainlm_lightning.cli {_verb(name)} --config experiments/<experiment>.yaml`"
        )
    return path


def read_json(folder: Path | str, name: str) -> dict[str, Any]:
    """Reads a JSON file of a run folder that holds a mapping."""
    path = _existing(folder, name)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}); it is damaged or was edited by hand") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds a {type(found).__name__}; expected a mapping")
    return found


def read_metrics(folder: Path | str) -> dict[str, float]:
    """Reads `metrics.json` of a run folder, flat name -> number; null becomes NaN.

    Raises:
        FileNotFoundError: The run has none.
        ValueError: A value is not a number.
    """
    metrics = {}
    for name, value in read_json(folder, "metrics.json").items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise ValueError(f"metric {name!r} in {folder} is {value!r}; expected a number or null")
        metrics[name] = float("nan") if value is None else float(value)
    return metrics


def read_arrays(folder: Path | str, name: str = "arrays.npz") -> dict[str, NDArray[Any]]:
    """Reads the arrays of a run folder; nothing is unpickled.

    Raises:
        FileNotFoundError: The run has none.
        ValueError: The file is damaged.
    """
    path = _existing(folder, name)
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:  # numpy leaves a damaged one open
            return dict(archive)
    except Exception as error:  # what numpy, zipfile and zlib raise on a damaged file is of every kind
        raise ValueError(f"{path} is damaged ({type(error).__name__}: {error}); test the run again") from error


def _versions(experiment_folder: Path) -> dict[int, Path]:
    """Number -> path of every `version_<k>`, newest first."""
    found = {int(match[1]): path for path in experiment_folder.glob("*") if (match := VERSION.fullmatch(path.name))}
    return dict(sorted(found.items(), reverse=True))


def versions(experiment_folder: Path | str) -> list[Path]:
    """Every `version_<k>` of an experiment, newest first."""
    return list(_versions(Path(experiment_folder)).values())


def next_version_folder(experiment_folder: Path | str) -> Path:
    """Creates and returns `version_<k>`, numbered after the newest; runs that start together get different folders.

    Call it once per run; with several processes, on the first rank only.
    """
    folder = Path(experiment_folder)
    version = max(_versions(folder), default=-1) + 1
    while True:
        path = folder / f"version_{version}"
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            version += 1
        else:
            return path


def remove_if_empty(folder: Path, top: Path) -> None:
    """Removes a folder and its parents, up to and including `top`, as long as they are empty."""
    for path in (folder, *folder.parents):
        if not path.is_relative_to(top):
            return
        try:
            path.rmdir()
        except OSError:  # not empty
            return


def _verb(name: str) -> str:
    """The command that writes a file of a run folder."""
    return "fit" if "checkpoints" in name.split("/") else "test"


def _holds(path: Path) -> bool:
    return path.is_file() or (path.is_dir() and any(path.iterdir()))


def newest_run(experiment_folder: Path | str, containing: str = "checkpoints") -> Path:
    """The newest `version_<k>` that contains a file, or a folder that is not empty.

    Args:
        experiment_folder: `runs/<experiment>`.
        containing: "checkpoints" or a file in it for a run to resume, "metrics.json" for one to report.

    Raises:
        FileNotFoundError: There is none; says what to run.
    """
    folder = Path(experiment_folder)
    versions = _versions(folder)
    for path in versions.values():
        if path.is_dir() and _holds(inside(path, containing)):
            return path
    seen = f"none of its {len(versions)} runs has {containing}" if versions else "it has no runs"
    raise FileNotFoundError(
        f"no run with {containing} in {folder}: {seen}; "
        f"run `python -m brainlm_lightning.cli {_verb(containing)} --config experiments/{folder.name}.yaml` first"
    )


def point_name(settings: Mapping[str, Any]) -> str:
    """Folder name of a point of a sweep, `fold=3,method=tuned`: the last word of each setting and its value."""
    parts = (f"{name.rsplit('.', 1)[-1]}={value}" for name, value in settings.items())
    return re.sub(r"[^\w.,=+-]", "_", ",".join(parts))


def find_checkpoint(location: Path | str) -> Path:
    """Finds the checkpoint that a path refers to.

    Args:
        location: a `.ckpt` or `.safetensors` file; an exported folder; a run folder; or `runs/<experiment>`, which
            means the run that its search chose, otherwise its newest run with checkpoints.

    Returns:
        The file; for a run, its `checkpoints/best.ckpt`.

    Raises:
        FileNotFoundError: There is none; says what to run, or that the run never validated.
    """
    path = Path(location)
    if path.is_file():
        return path
    if (path / EXPORTED).is_file():
        return path / EXPORTED
    if VERSION.fullmatch(path.name):
        return _best_of(path)
    if (path / CHOSEN).is_file():
        return _best_of(inside(path, read_json(path, CHOSEN)["run"]))
    return _best_of(newest_run(path))


def run_of(checkpoint: Path) -> Path | None:
    """The run folder of a checkpoint; None if it is not in one."""
    folder = checkpoint.parent
    return folder.parent if folder.name == "checkpoints" and (folder.parent / "config.yaml").is_file() else None


def _best_of(run: Path) -> Path:
    """A run's `checkpoints/best.ckpt`; an error that says why where there is none."""
    last = inside(run, LAST)
    if last.is_file() and not inside(run, BEST).is_file():
        raise FileNotFoundError(
            f"{run} has no best.ckpt: no validation has finished in it. Validate earlier (trainer.val_check_interval) "
            f"or name its last checkpoint, {run / LAST} (to test it: --ckpt_path {run / LAST})"
        )
    _existing(run, BEST)
    return run / BEST
