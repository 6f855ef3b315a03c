"""Puts prepared recordings together to a store folder."""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from brainlm_lightning.data.atlas import Atlas
from brainlm_lightning.data.dimensions import effective_dimensions
from brainlm_lightning.data.shard import StoredRecording, write_shard
from brainlm_lightning.data.store import COLUMNS, DEFAULTS, FORMAT_VERSION, Store, training_statistics
from brainlm_lightning.spreadsheet import harmless

WINDOW_FRAMES = 200  # the paper's
MOST_MEASURED = 200  # recordings: more change nothing
SHARD_COLUMNS = ("shard", "shard_row", "first_frame")


@dataclass(frozen=True, eq=False)
class Cohort:
    """What is said once of all recordings of a store.

    Attributes:
        name: The cohort.
        atlas: Its parcels.
        tr_s: Seconds from frame to frame.
        dtype: `float16` or `float32`, of the stored series.
        made_by: Package version, sha256 of the manifest and the manifest itself.
    """

    name: str
    atlas: Atlas
    tr_s: float
    dtype: str
    made_by: dict[str, Any]


def write_store(
    folder: Path,
    cohort: Cohort,
    table: pd.DataFrame,
    load: Callable[[int], StoredRecording],
    *,
    shard_recordings: int = 64,
) -> Store:
    """Writes shards, tables and statistics into a folder; `store.json` comes last.

    The same arguments give the same bytes in every file.

    Args:
        folder: Exists; becomes the store.
        cohort: What holds for all recordings.
        table: One row per recording: the columns of `recordings.csv` but for shard, shard_row and first_frame, then
            phenotypes.
        load: Returns the recording of a row of the table; one is held at a time.
        shard_recordings: Recordings in a shard.

    Returns:
        The open store.
    """
    table = table.assign(**{name: value for name, value in DEFAULTS.items() if name not in table})
    groups = [
        range(first, min(first + shard_recordings, len(table))) for first in range(0, len(table), shard_recordings)
    ]
    placed = pd.concat(
        [table.iloc[list(rows)].assign(**_places(table, rows, shard)) for shard, rows in enumerate(groups)]
    )
    placed = placed[[*COLUMNS, *(column for column in placed.columns if column not in COLUMNS)]]
    shards, size = [], cohort.atlas.num_parcels * np.dtype(cohort.dtype).itemsize
    for shard, rows in enumerate(groups):
        frames = int(table["num_frames"].iloc[list(rows)].sum())
        recordings = (load(row) for row in rows)
        path = folder / f"shard-{shard:05d}.h5"
        shards.append(write_shard(path, recordings, num_frames=frames, num_recordings=len(rows), frame_bytes=size))
    _write(folder / "recordings.csv", partial(harmless(placed).to_csv, index=False, lineterminator="\n"))
    _write(folder / "parcels.csv", cohort.atlas.save)
    return _write_metadata(folder, cohort, shards)


def _places(table: pd.DataFrame, rows: range, shard: int) -> dict[str, Any]:
    frames = table["num_frames"].to_numpy(int)[list(rows)]
    return {"shard": shard, "shard_row": np.arange(len(rows)), "first_frame": np.cumsum(frames) - frames}


def _write_metadata(folder: Path, cohort: Cohort, shards: list[dict[str, Any]]) -> Store:
    tables = ("recordings.csv", "parcels.csv")
    metadata = {
        "format_version": FORMAT_VERSION,
        "cohort": cohort.name,
        "tr_s": cohort.tr_s,
        "dtype": cohort.dtype,
        "atlas": {"name": cohort.atlas.name, "sha256": cohort.atlas.sha256, "num_parcels": cohort.atlas.num_parcels},
        "made_by": cohort.made_by,
        "shards": shards,
        "tables": {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in tables},
    }
    path = folder / "store.json"
    _write_json(path, metadata)
    store = Store(folder)
    metadata["effective_dimensions"] = _effective_dimensions(store)
    _write_json(path, metadata | {"statistics": training_statistics(store).to_json()})
    return Store(folder)


def _effective_dimensions(store: Store) -> dict[str, Any]:
    """Measures how many frames of a window are free, on recordings spread over the cohort."""
    frames = int(min(WINDOW_FRAMES, store.recordings["num_frames"].median()))
    rows = np.unique(np.linspace(0, len(store) - 1, MOST_MEASURED).astype(int)).tolist()
    found = effective_dimensions((store.centred(row) for row in store.by_shard(rows)), frames)
    return {"dimensions": found, "window_frames": frames, "definition": "eigenvalues of the mean temporal covariance "
            "above a tenth of their mean"}  # fmt: skip


def _write_json(path: Path, values: dict[str, Any]) -> None:
    text = json.dumps(values, indent=1, allow_nan=False, sort_keys=True)
    _write(path, lambda part: part.write_text(text + "\n", encoding="utf-8"))


def _write(path: Path, write: Callable[[Path], Any]) -> None:
    """Writes through a neighbouring file that takes the name when it is whole."""
    part = path.with_name(path.name + ".part")
    write(part)
    with part.open("rb+") as written:
        os.fsync(written.fileno())
    os.replace(part, path)
