"""The files of a run folder, `runs/<experiment>/version_<k>/`: written whole or not at all, read without torch."""

import json
import math
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

VERSION = re.compile(r"version_(\d+)")
BEST, LAST = "checkpoints/best.ckpt", "checkpoints/last.ckpt"
CHOSEN = "chosen.json"  # of a search: which of its runs did best


def inside(folder: Path | str, name: str) -> Path:
    """`folder / name`, links followed.

    Raises:
        ValueError: if that is not below the folder.
    """
    root = Path(folder).resolve()
    path = (root / name).resolve()
    if path == root or not path.is_relative_to(root):
        raise ValueError(f"{name!r} is not below {root}; give the name of a file inside the folder")
    return path


def _write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Beside the file, then renamed over it: a reader sees the old file or the new one, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _plain(value: Any) -> Any:
    """Numpy numbers and arrays as Python's, paths as text, NaN and infinities (which JSON does not know) as null."""
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


def write_arrays(path: Path | str, arrays: Mapping[str, NDArray]) -> None:
    """Writes `arrays.npz` atomically.

    Raises:
        ValueError: for an array of Python objects, which could only be read back by unpickling.
    """
    for name, array in arrays.items():
        if np.asarray(array).dtype.hasobject:
            raise ValueError(f"array {name!r} holds Python objects; expected numbers or fixed-width text")
    contents: dict[str, Any] = dict(arrays)
    _write_atomically(Path(path), lambda stream: np.savez(stream, **contents))


def write_text(path: Path | str, text: str) -> None:
    """Writes a text atomically."""
    _write_atomically(Path(path), lambda stream: stream.write(text.encode()))


def write_table(path: Path | str, table: pd.DataFrame) -> None:
    """Writes a table as CSV atomically, without its index."""
    _write_atomically(Path(path), lambda stream: stream.write(table.to_csv(index=False).encode()))


def _existing(folder: Path | str, name: str) -> Path:
    path = inside(folder, name)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is not there: {folder} is no run folder, or its run did not end; "
            f"run `python -m brainlm_lightning.cli {_verb(name)} --config experiments/<experiment>.yaml`"
        )
    return path


def read_json(folder: Path | str, name: str) -> dict[str, Any]:
    """The mapping in a JSON file of a run folder."""
    path = _existing(folder, name)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); it was damaged or written by hand") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds a {type(found).__name__}; expected a mapping")
    return found


def read_metrics(folder: Path | str) -> dict[str, float]:
    """`metrics.json` of a run folder, flat name -> number; null becomes NaN.

    Raises:
        FileNotFoundError: if the run has none.
        ValueError: for a value that is not a number.
    """
    metrics = {}
    for name, value in read_json(folder, "metrics.json").items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise ValueError(f"metric {name!r} in {folder} is {value!r}; expected a number or null")
        metrics[name] = float("nan") if value is None else float(value)
    return metrics


def read_arrays(folder: Path | str, name: str = "arrays.npz") -> dict[str, NDArray]:
    """The arrays of a run folder; nothing is unpickled."""
    with np.load(_existing(folder, name), allow_pickle=False) as archive:
        return dict(archive)


def _versions(experiment_folder: Path) -> dict[int, Path]:
    """version_<k> -> its path, newest first."""
    found = {int(match[1]): path for path in experiment_folder.glob("*") if (match := VERSION.fullmatch(path.name))}
    return dict(sorted(found.items(), reverse=True))


def next_version_folder(experiment_folder: Path | str) -> Path:
    """Makes and returns `version_<k>`, one after the newest; two who start at once get two folders.

    Call it once a run: with several processes, on the first rank alone.
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
    """Removes a folder and those above it, up to and including `top`, as long as they are empty."""
    for path in (folder, *folder.parents):
        if not path.is_relative_to(top):
            return
        try:
            path.rmdir()
        except OSError:  # not empty
            return


def _verb(name: str) -> str:
    """The command that makes a file of a run folder."""
    return "fit" if "checkpoints" in name.split("/") else "test"


def _holds(path: Path) -> bool:
    return path.is_file() or (path.is_dir() and any(path.iterdir()))


def newest_run(experiment_folder: Path | str, containing: str = "checkpoints") -> Path:
    """The newest `version_<k>` that has the file, or a folder of that name that is not empty.

    Args:
        experiment_folder: `runs/<experiment>`.
        containing: "checkpoints" or a file in there for a run to go on from, "metrics.json" for one to report.

    Raises:
        FileNotFoundError: if there is none; says what to run.
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
    """The folder of one point of a sweep, `fold=3,method=tuned`: the last word of each setting and its value."""
    parts = (f"{name.rsplit('.', 1)[-1]}={value}" for name, value in settings.items())
    return re.sub(r"[^\w.,=+-]", "_", ",".join(parts))


def find_checkpoint(place: Path | str) -> Path:
    """The checkpoint that a file, a run folder or the folder of an experiment stands for.

    Args:
        place: a `.ckpt` or `.safetensors` file; `runs/<experiment>/version_<k>`; or `runs/<experiment>`: what a search
            there chose, else its newest run's.

    Returns:
        The file; of a run `checkpoints/best.ckpt`.

    Raises:
        FileNotFoundError: there is none; says what to run.
    """
    path = Path(place)
    if path.is_file():
        return path
    if VERSION.fullmatch(path.name):
        return _best_of(path)
    if (path / CHOSEN).is_file():
        return _best_of(inside(path, read_json(path, CHOSEN)["run"]))
    return _best_of(newest_run(path))


def run_of(checkpoint: Path) -> Path | None:
    """The run folder that a checkpoint lies in; None for one that lies elsewhere, by itself."""
    folder = checkpoint.parent
    return folder.parent if folder.name == "checkpoints" and (folder.parent / "config.yaml").is_file() else None


def _best_of(run: Path) -> Path:
    """The best checkpoint of a run; where it has none, the error says why."""
    last = inside(run, LAST)
    if last.is_file() and not inside(run, BEST).is_file():
        raise FileNotFoundError(
            f"{run} has no best.ckpt: no validation has ended in it. Validate earlier (trainer.val_check_interval), or "
            f"name its last checkpoint, {run / LAST} (to test that one: --ckpt_path {run / LAST})"
        )
    return _existing(run, BEST) and run / BEST
