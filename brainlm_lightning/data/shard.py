"""One file of the store: the recordings of a shard, one after the other, in contiguous HDF5 arrays."""

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from brainlm_lightning.atomic import check_room

ALIGNMENT = 4096  # bytes: arrays start at a page of memory
ROOM_BYTES = 1 << 17  # HDF5's own
ARRAYS = ("series", "mean", "std", "observed")


@dataclass(frozen=True, eq=False)
class StoredRecording:
    """One recording as it is stored.

    Attributes:
        series: (frames, parcels) float16 or float32, mean 0; 0 where a parcel is unobserved.
        mean: (parcels,) float32, what was removed; 0 where unobserved.
        std: (parcels,) float32, population standard deviation of the stored values.
        observed: (parcels,) bool.
    """

    series: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    observed: np.ndarray

    @classmethod
    def centred(cls, series: np.ndarray, observed: np.ndarray, dtype: str) -> "StoredRecording":
        """Removes the means of raw values (frames, parcels); unobserved parcels become 0."""
        values = np.where(observed, series, 0).astype(np.float64)
        mean = values.mean(axis=0).astype(np.float32)
        with np.errstate(over="ignore"):  # beyond float16 becomes infinite: `prepare` refuses what float16 cannot hold
            stored = np.ascontiguousarray((values - mean).astype(dtype))
        return cls(stored, mean, population_std(stored), np.asarray(observed, bool))

    @property
    def sha256(self) -> str:
        """Of the stored bytes: series, mean, std and observed."""
        digest = hashlib.sha256()
        for array in (self.series, self.mean, self.std, self.observed.view(np.uint8)):
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


def write_shard(
    path: Path, recordings: Iterable[StoredRecording], *, num_frames: int, num_recordings: int, frame_bytes: int
) -> dict[str, Any]:
    """Writes recordings one after the other into one HDF5 file, which appears under its name only when it is whole.

    Args:
        path: The shard's file.
        recordings: In order; one is held at a time.
        num_frames: Of all of them together.
        num_recordings: How many.
        frame_bytes: Of one frame.

    Returns:
        The shard's entry in store.json: file, bytes, number of recordings and frames, and where each array lies.

    Raises:
        OSError: The disk has no room for the file.
    """
    part = path.with_name(path.name + ".part")
    rows = num_frames + 5 * num_recordings  # mean, std and observed of a recording are less than five frames
    check_room(part, rows * frame_bytes + ROOM_BYTES)  # HDF5 ends the process where it cannot finish a file
    with h5py.File(part, "w", libver="v110", alignment_threshold=1, alignment_interval=ALIGNMENT) as file:
        first = 0
        for row, recording in enumerate(recordings):
            frames, parcels = recording.series.shape
            if row == 0:
                _create_arrays(file, shard_shapes(num_frames, num_recordings, parcels), recording.series.dtype)
            file["series"][first : first + frames] = recording.series
            for name in ("mean", "std", "observed"):
                file[name][row] = getattr(recording, name)
            first += frames
        offsets = {name: file[name].id.get_offset() for name in ARRAYS}
    with part.open("rb+") as written:
        os.fsync(written.fileno())
    os.replace(part, path)
    size = path.stat().st_size
    return {
        "file": path.name,
        "bytes": size,
        "num_recordings": num_recordings,
        "num_frames": num_frames,
        "offsets": offsets,
    }


def shard_shapes(num_frames: int, num_recordings: int, num_parcels: int) -> dict[str, tuple[int, int]]:
    """Returns the shape of each of a shard's arrays."""
    table = (num_recordings, num_parcels)
    return {"series": (num_frames, num_parcels), "mean": table, "std": table, "observed": table}


def _create_arrays(file: h5py.File, shapes: dict[str, tuple[int, int]], dtype: np.dtype) -> None:
    """Tables first: a file that lost its end lost frames of its last recordings."""
    for name, kind in (("mean", np.float32), ("std", np.float32), ("observed", np.uint8), ("series", dtype)):
        file.create_dataset(name, shapes[name], kind)[0] = 0  # writing allocates its place


def population_std(series: np.ndarray) -> np.ndarray:
    """Returns the standard deviation of each parcel, float32, from sums in float64."""
    with np.errstate(over="ignore", invalid="ignore"):  # damaged or overflown values: the result says so
        return np.asarray(series.astype(np.float64).std(axis=0).astype(np.float32))
