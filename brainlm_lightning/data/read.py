"""Files to arrays: parcellated series in the formats that laboratories keep them in, and their tables.

Nothing here unpickles: an array file that would need it is refused.
"""

import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import pandas as pd
import scipy.io

Orientation = Literal["frames_parcels", "parcels_frames"]
MISSING = ("", "n/a", "N/A", "NA", "NaN", "nan")
TEXT_DELIMITERS = {".csv": ",", ".tsv": "\t"}


def read_series(location: str | Path, *, orientation: Orientation, num_parcels: int) -> np.ndarray:
    """Reads one recording's series.

    Args:
        location: A file (.npy .npz .h5 .hdf5 .mat .csv .tsv .txt .dat .1D), or `file::name` for one array of an .npz,
            .h5 or .mat file; only that array is read. The name may be left out where the file holds a single array.
        orientation: How the file stores it.
        num_parcels: Number of parcels that the atlas has.

    Returns:
        (frames, parcels) float32, contiguous, as recorded: no scaling; missing values are NaN.

    Raises:
        ValueError: Not numbers, or the shape does not fit the orientation and the atlas (both shapes are printed).
        FileNotFoundError: There is no such file.
    """
    file, _, name = str(location).partition("::")
    path = Path(file)
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise ValueError(f"{location}: cannot read {path.suffix or 'a file without ending'}; can read {list(READERS)}")
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file; compare `root` and `recordings.file` of the manifest with the disk"
        )
    array = np.asarray(reader(path, name))
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{location}: expected real numbers, got {array.dtype}")
    return _oriented(array, orientation, num_parcels, str(location))


def read_table(path: str | Path, text: Collection[str] = ()) -> pd.DataFrame:
    """Reads a csv (comma) or another table (tab).

    A column becomes numeric only where every cell is a number and none has a leading zero: `0050649` is a name, and
    stays one. Empty cells and `n/a` are NaN.

    Args:
        path: The table, with a header line.
        text: Columns that stay text whatever they hold, for instance identifiers.
    """
    delimiter = TEXT_DELIMITERS.get(Path(path).suffix.lower(), "\t")
    frame = pd.read_csv(
        path, sep=delimiter, dtype=str, keep_default_na=False, na_values=list(MISSING), encoding="utf-8-sig"
    )
    for column in frame.columns.difference(list(text)):
        cells = frame[column].dropna()
        if len(cells) and not cells.str.match(r"^[+-]?0\d").any():
            numbers = pd.to_numeric(cells, errors="coerce")
            if numbers.notna().all():
                frame[column] = numbers.reindex(frame.index)
    return frame


def _oriented(array: np.ndarray, orientation: Orientation, num_parcels: int, location: str) -> np.ndarray:
    """Returns (frames, parcels) float32, or says how the shape differs from what was announced."""
    axis = 1 if orientation == "frames_parcels" else 0
    if array.ndim != 2 or array.shape[axis] != num_parcels or array.size == 0:
        expected = f"(frames, {num_parcels})" if axis else f"({num_parcels}, frames)"
        turned = array.ndim == 2 and array.shape[1 - axis] == num_parcels
        other = "parcels_frames" if axis else "frames_parcels"
        advice = f"set `orientation: {other}`" if turned else "the file does not match the atlas"
        raise ValueError(f"{location}: got shape {array.shape}, expected {expected} for {orientation}; {advice}")
    with np.errstate(over="ignore"):  # beyond float32 becomes infinite, and is reported as non-finite
        return np.ascontiguousarray(array if axis else array.T, dtype=np.float32)


def _read_npy(path: Path, name: str) -> np.ndarray:
    _no_name(path, name)
    return np.load(path, allow_pickle=False)


def _read_npz(path: Path, name: str) -> np.ndarray:
    # Opened here, because numpy leaves a damaged archive open.
    with (
        path.open("rb") as file,
        np.load(file, allow_pickle=False) as archive,
    ):  # lazy: opens the directory, then one member
        return archive[_chosen(name, archive.files, path)]


def _read_hdf5(path: Path, name: str) -> np.ndarray:
    with h5py.File(path, "r") as file:
        names = [key for key, value in file.items() if isinstance(value, h5py.Dataset)]
        return file[name if name in file else _chosen(name, names, path)][()]


def _read_mat(path: Path, name: str) -> np.ndarray:
    if h5py.is_hdf5(path):
        return _read_hdf5(path, name).T  # MATLAB 7.3 stores column by column: HDF5 sees its axes reversed
    chosen = _chosen(name, [entry[0] for entry in scipy.io.whosmat(path)], path)
    return scipy.io.loadmat(path, variable_names=[chosen])[chosen]


def _read_text(path: Path, name: str) -> np.ndarray:
    """Reads columns by tab, comma or blanks, below comment lines (as C-PAC writes) and one line of names."""
    _no_name(path, name)
    skipped, first = _first_numbers(path)
    delimiter = "\t" if "\t" in first else "," if "," in first else r"\s+"
    numbers = pd.read_csv(
        path, sep=delimiter, header=None, skiprows=skipped, dtype=np.float64, na_values=list(MISSING), index_col=False
    )
    return numbers.to_numpy()


def _first_numbers(path: Path) -> tuple[int, str]:
    """Returns how many lines stand above the first line of numbers, and that line."""
    names_seen = False
    with path.open(encoding="utf-8-sig") as file:
        for above, line in enumerate(file):
            if not line.strip() or line.startswith("#"):
                continue
            if _all_numbers(line):
                return above, line.strip()
            if names_seen:
                raise ValueError(
                    f"{path}: line {above + 1} holds no numbers: {line.strip()[:60]!r}; expected a table of numbers"
                )
            names_seen = True
    raise ValueError(f"{path}: no line of numbers")


def _all_numbers(line: str) -> bool:
    try:
        return bool([float(cell) for cell in re.split(r"[\s,]+", line.strip()) if cell not in MISSING])
    except ValueError:
        return False


def _chosen(name: str, names: Sequence[str], path: Path) -> str:
    """Returns the array to read: the one that is named, or the only one."""
    if name in names or (not name and len(names) == 1):
        return name or names[0]
    wanted = f"no array {name!r}" if name else "several arrays and none is named"
    raise ValueError(f"{path}: {wanted}; it holds {len(names)}: {list(names)[:5]}. Write {path.name}::NAME")


def _no_name(path: Path, name: str) -> None:
    if name:
        raise ValueError(f"{path}::{name}: a {path.suffix} file holds one array; leave out ::{name}")


READERS: dict[str, Callable[[Path, str], Any]] = {
    ".npz": _read_npz,
    ".npy": _read_npy,
    ".h5": _read_hdf5,
    ".hdf5": _read_hdf5,
    ".mat": _read_mat,
    ".csv": _read_text,
    ".tsv": _read_text,
    ".1d": _read_text,
    ".dat": _read_text,
    ".txt": _read_text,
}
