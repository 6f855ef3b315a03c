"""The store: a cohort prepared once, read window by window.

    <cohort>/shard-00000.h5 ...   series (frames of its recordings, parcels), mean, std, observed (recordings, parcels)
             recordings.csv       one row per recording
             parcels.csv          the atlas
             store.json           contents, origin, offsets of the arrays, statistics of the training subjects

The mean of each recording and parcel is removed from the stored series, because float16 has a step of 8 at a raw level
of 10,000. The arrays are contiguous and uncompressed, so a recording is a slice of a memory map.
"""

import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from brainlm_lightning.data.atlas import Atlas
from brainlm_lightning.data.missing import from_ranges
from brainlm_lightning.data.read import read_table
from brainlm_lightning.data.scaling import ScalingStatistics, quantile_statistics
from brainlm_lightning.data.shard import ARRAYS, shard_shapes
from brainlm_lightning.data.store_schema import check_finished, check_metadata
from brainlm_lightning.run_folder import inside
from brainlm_lightning.spreadsheet import original

FORMAT_VERSION = 1
TEXT_COLUMNS = (
    *("recording_id", "subject_id", "session", "task", "site", "split", "sha256", "problems"),
    *("family", "missing_frames", "remarks"),
)
COLUMNS = (
    *("recording_id", "subject_id", "session", "task", "site", "shard", "shard_row", "first_frame", "num_frames"),
    *("tr_s", "split", "sha256", "num_unobserved", "problems"),
    *("family", "num_missing_frames", "missing_frames", "remarks"),
)
WHOLE = ("shard", "shard_row", "first_frame", "num_frames")  # columns of whole numbers
# Where a table lacks them.
DEFAULTS: dict[str, Any] = {"family": "", "num_missing_frames": 0, "missing_frames": "", "remarks": ""}


def store_root() -> Path:
    """Returns the folder of all stores: `$BRAINLM_DATA`, or `stores` in the working directory by default."""
    return Path(os.environ.get("BRAINLM_DATA") or "stores")


class Store:
    """A cohort's store, open for reading. Files are mapped on first use, so a store can be pickled for workers.

    Attributes:
        folder: Folder of the store.
        metadata: Contents of `store.json`.
        name: Name of the cohort.
        atlas: The parcels, in the order of the columns.
        recordings: Contents of `recordings.csv`; every method takes row numbers of this table.
        tr_s: Seconds from one frame to the next.
        dtype: Type of the stored series.

    Raises:
        FileNotFoundError: There is no store.
        ValueError: The format version is another one, or a shard has the wrong size.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.metadata = read_metadata(self.folder)
        self.name: str = self.metadata["cohort"]
        self.tr_s: float = self.metadata["tr_s"]
        self.dtype = np.dtype(self.metadata["dtype"])
        self.atlas = Atlas.load(self.metadata["atlas"]["name"], self.folder / "parcels.csv")
        self.recordings = read_recordings(self.folder / "recordings.csv")
        # Plain integers: looking up a row of the table costs a hundred times more.
        self._shard: list[int] = self.recordings["shard"].tolist()
        self._row: list[int] = self.recordings["shard_row"].tolist()
        self._first: list[int] = self.recordings["first_frame"].tolist()
        self._end: list[int] = (self.recordings["first_frame"] + self.recordings["num_frames"]).tolist()
        self._missing: list[str] = self.recordings["missing_frames"].tolist()
        self._maps: dict[int, dict[str, np.ndarray]] = {}
        ends = self.recordings["first_frame"] + self.recordings["num_frames"]
        by_shard = self.recordings.assign(end=ends).groupby("shard")
        spans = by_shard.agg(first=("first_frame", "min"), end=("end", "max"))
        for shard in range(len(self.metadata["shards"])):
            self._check_size(shard, spans)
        self._check_rows()

    def __len__(self) -> int:
        return len(self._shard)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_maps": {}}

    @cached_property
    def statistics(self) -> ScalingStatistics:
        """Scaling statistics of the training subjects."""
        return ScalingStatistics.from_json(self.metadata["statistics"])

    def series(self, row: int) -> np.ndarray:
        """Returns the stored (centred) values, (frames, parcels): a read-only view of the file."""
        shard = self._shard[row]
        maps = self._maps.get(shard) or self._open(shard)
        return maps["series"][self._first[row] : self._end[row]]

    def mean(self, row: int) -> np.ndarray:
        """Returns the removed means, (parcels,) float32."""
        return self._table("mean", row)

    def std(self, row: int) -> np.ndarray:
        """Returns the population standard deviations, (parcels,) float32; 0 where unobserved."""
        return self._table("std", row)

    def observed(self, row: int) -> np.ndarray:
        """Returns True for parcels with data, (parcels,) bool."""
        return self._table("observed", row)

    def level(self, row: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns mean, std and observed of a recording at once."""
        shard, index = self._shard[row], self._row[row]
        maps = self._maps.get(shard) or self._open(shard)
        return maps["mean"][index], maps["std"][index], maps["observed"][index]

    def raw(self, row: int) -> np.ndarray:
        """Returns values as recorded, (frames, parcels) float32; NaN where the parcel or the frame is unobserved."""
        return self._with_nan(row, self.mean(row))

    def centred(self, row: int) -> np.ndarray:
        """Returns the stored values, (frames, parcels) float32; NaN where the parcel or frame is unobserved."""
        return self._with_nan(row, np.float32(0))

    def missing_frames(self, row: int) -> np.ndarray:
        """Returns which frames had no data and were interpolated, (frames,) bool; none where they are not marked."""
        return from_ranges(self._missing[row], self._end[row] - self._first[row])

    def by_shard(self, rows: Iterable[int]) -> Iterator[int]:
        """Yields rows, and lets go of a shard's map when the next begins: memory stays that of one shard."""
        last = -1
        for row in rows:
            if self._shard[row] != last:
                self._maps.pop(last, None)
                last = self._shard[row]
            yield row
        self._maps.pop(last, None)

    def _with_nan(self, row: int, offset: np.ndarray | np.float32) -> np.ndarray:
        values = np.where(self.observed(row), self.series(row).astype(np.float32) + offset, np.float32(np.nan))
        if self._missing[row]:
            values[self.missing_frames(row)] = np.nan
        return values

    def _table(self, array: str, row: int) -> np.ndarray:
        shard = self._shard[row]
        maps = self._maps.get(shard) or self._open(shard)
        return np.asarray(maps[array][self._row[row]])

    def _open(self, shard: int) -> dict[str, np.ndarray]:
        """Maps a shard. The offsets come from store.json, so the file is not opened with HDF5."""
        entry = self.metadata["shards"][shard]
        file = np.asarray(np.memmap(inside(self.folder, entry["file"]), np.uint8, mode="r"))
        shapes = shard_shapes(entry["num_frames"], entry["num_recordings"], self.atlas.num_parcels)
        types = {"series": self.dtype, "mean": np.float32, "std": np.float32, "observed": np.bool_}
        self._maps[shard] = {
            name: np.ndarray(shapes[name], types[name], buffer=file, offset=entry["offsets"][name]) for name in types
        }
        return self._maps[shard]

    def _check_places(self, path: Path, shard: int, spans: pd.DataFrame) -> None:
        """Refuses arrays that would lie outside of their file: a damaged or forged store.json."""
        entry = self.metadata["shards"][shard]
        for name, begin, end in _places(entry, self.atlas.num_parcels, self.dtype):
            if not 0 <= begin <= end <= entry["bytes"]:
                raise ValueError(
                    f"{self.folder / 'store.json'}: {name} of {path.name} would lie from byte {begin:,} to {end:,} of "
                    f"{entry['bytes']:,}; the file is damaged. Restore it, or prepare the cohort again"
                )
        if shard in spans.index and (spans["first"][shard] < 0 or spans["end"][shard] > entry["num_frames"]):
            raise ValueError(
                f"{self.folder / 'recordings.csv'}: frames of {path.name} that are not there; restore the file"
            )

    def _check_rows(self) -> None:
        """Refuses recordings that lie in no shard."""
        counts = [entry["num_recordings"] for entry in self.metadata["shards"]]
        for shard, row in zip(self._shard, self._row, strict=True):
            if not 0 <= shard < len(counts) or not 0 <= row < counts[shard]:
                raise ValueError(
                    f"{self.folder / 'recordings.csv'}: no row {row} in a shard {shard}; restore the file, or prepare "
                    "the cohort again"
                )

    def _check_size(self, shard: int, spans: pd.DataFrame) -> None:
        entry = self.metadata["shards"][shard]
        path = self.folder / entry["file"]
        size = path.stat().st_size if path.exists() else 0
        self._check_places(path, shard, spans)
        if size == entry["bytes"]:
            return
        rows = self.recordings.loc[self.recordings["shard"] == shard]
        frame_bytes = self.atlas.num_parcels * self.dtype.itemsize
        ends = entry["offsets"]["series"] + (rows["first_frame"] + rows["num_frames"]) * frame_bytes
        lost = rows["recording_id"][ends > size].tolist() or rows["recording_id"].tolist()
        raise ValueError(
            f"{path}: {size:,} bytes, expected {entry['bytes']:,}: {len(lost)} recordings are damaged, "
            f"from {lost[0]!r} on. Restore the file, or delete {self.folder} and prepare the cohort again"
        )


def open_cohort(name: str) -> Store:
    """Opens the store of a cohort, `$BRAINLM_DATA/<name>`.

    Raises:
        FileNotFoundError: There is no store.
        ValueError: `name` is a path, the folder holds the store of another cohort, or a table was changed.
    """
    if Path(name).name != name:
        raise ValueError(f"{name!r} is a path; name a cohort, and set BRAINLM_DATA to the folder that holds its store")
    store = Store(store_root() / name)
    if store.name != name:
        raise ValueError(
            f"{store.folder} holds the store of the cohort {store.name!r}, and the experiment asks for {name!r}: a "
            f"store's folder must have the name of its cohort. Rename the folder to {store.name!r} and ask for that, "
            f"or prepare the cohort again with --cohort {name}"
        )
    check_finished(store.metadata, store.folder)
    return store


def _places(entry: dict[str, Any], parcels: int, dtype: np.dtype) -> Iterator[tuple[str, int, int]]:
    """Yields of each array of a shard its name, where it begins and where it ends."""
    shapes = shard_shapes(entry["num_frames"], entry["num_recordings"], parcels)
    sizes = {"series": dtype.itemsize, "mean": 4, "std": 4, "observed": 1}
    for name in ARRAYS:
        begin = int(entry["offsets"][name])
        yield name, begin, begin + int(np.prod(shapes[name], dtype=object)) * sizes[name]


def read_recordings(path: Path) -> pd.DataFrame:
    """Reads `recordings.csv`: identifiers stay text, absent session, task, site and problems are ''."""
    table = original(read_table(path, text=TEXT_COLUMNS, missing=("",)))
    table = table.assign(**{name: value for name, value in DEFAULTS.items() if name not in table})
    absent = [name for name in COLUMNS if name not in table]
    if absent:
        raise ValueError(f"{path}: no column {absent}; it has {list(table)}. Restore it, or prepare the cohort again")
    wrong = [name for name in WHOLE if not pd.api.types.is_integer_dtype(table[name])]
    if wrong:
        raise ValueError(f"{path}: {wrong} must hold whole numbers alone. Restore it, or prepare the cohort again")
    filled = ["session", "task", "site", "problems", *DEFAULTS]
    table[filled] = table[filled].fillna(dict.fromkeys(filled, "") | DEFAULTS)
    return table


def training_statistics(store: Store, subject_ids: Collection[str] | None = None) -> ScalingStatistics:
    """Computes the scaling statistics from the recordings of the training subjects only.

    Duplicates are left out, because the recording that they repeat may belong to a test subject.

    Args:
        store: of the cohort.
        subject_ids: of the training subjects to use; None = all.
    """
    training = (store.recordings["split"] == "train") & ~store.recordings["problems"].str.contains("duplicate_of")
    if subject_ids is not None:
        training &= store.recordings["subject_id"].isin(list(subject_ids))
    rows = np.flatnonzero(training).tolist()

    def values(read: Callable[[int], np.ndarray]) -> Iterator[np.ndarray]:
        return (read(row) for row in store.by_shard(rows))

    parcels = store.atlas.num_parcels
    robust = quantile_statistics(partial(values, store.raw), parcels)
    centred = quantile_statistics(partial(values, store.centred), parcels)
    return ScalingStatistics(robust, centred, len(rows), store.recordings.loc[training, "subject_id"].nunique())


def read_metadata(folder: Path) -> dict[str, Any]:
    """Reads `store.json`.

    Raises:
        FileNotFoundError: There is no store.
        ValueError: The file is damaged, or of another format version.
    """
    path = folder / "store.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"no store in {folder} (store root: {store_root()}, set by BRAINLM_DATA). Prepare it: "
            f"python -m brainlm_lightning.cli prepare --config data_manifests/{folder.name}.yaml"
        )
    try:
        metadata: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); restore it, or prepare the cohort again") from error
    if metadata.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{folder}: store of format version {metadata.get('format_version')}, this package reads {FORMAT_VERSION}; "
            f"prepare the cohort again"
        )
    check_metadata(metadata, path)
    return metadata
