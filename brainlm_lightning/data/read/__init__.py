"""Files to arrays: what laboratories keep recordings in, read by what the files themselves say.

Nothing here unpickles, follows a link out of a file, or shifts, pads or reorders a column without saying so.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import partial
from importlib.metadata import entry_points
from itertools import islice
from pathlib import Path

import numpy as np

from brainlm_lightning.data.read.arrays import read_npy, read_npz
from brainlm_lightning.data.read.expected import Expected, Orientation, order_by_names
from brainlm_lightning.data.read.hdf5 import read_hdf5
from brainlm_lightning.data.read.lines import Cells, read_cells
from brainlm_lightning.data.read.matlab import read_mat
from brainlm_lightning.data.read.selector import CheckShape
from brainlm_lightning.data.read.sidecar import sidecar_tr_s
from brainlm_lightning.data.read.table import read_table

__all__ = ["Expected", "Orientation", "Reading", "agreed_tr_s", "check_there", "read_series", "read_table"]

Reader = Callable[[Path, str], np.ndarray]  # a file, and the selector behind "::", which may be empty

ENTRY_POINTS = "brainlm_lightning.readers"  # by the ending of the file, without its dot
ARRAYS: dict[str, Callable[[Path, str, CheckShape], np.ndarray]] = {
    ".npz": read_npz,
    ".npy": read_npy,
    ".h5": read_hdf5,
    ".hdf5": read_hdf5,
    ".mat": read_mat,
}
TEXT = (".csv", ".tsv", ".1d", ".dat", ".txt", ".asc", ".ssv")
IMAGES = (".ptseries.nii", ".dtseries.nii", ".nii.gz", ".nii")
MOST_COMPARED = 1000  # names of files beside one that is not there
TR_TOLERANCE = 0.01  # of tr_s: what a header's rounding may differ from a sidecar


@dataclass(frozen=True, eq=False)
class Reading:
    """One recording as its file holds it.

    Attributes:
        series: (frames, parcels) float32, contiguous, as recorded: no scaling; missing values are NaN.
        remarks: What was recognised on the way.
        tr_s: Seconds from frame to frame, where the file or its sidecar says it.
        named: The file says which parcel each column is, or the columns were made with the atlas's image.
    """

    series: np.ndarray
    remarks: tuple[str, ...] = ()
    tr_s: float | None = None
    named: bool = False


def read_series(location: str | Path, expected: Expected) -> Reading:
    """Reads one recording's series.

    Args:
        location: A file (.npy .npz .h5 .hdf5 .mat, or text, also .gz), or `file::selector` for one array inside it:
            see `selector`. The selector may be left out where the file holds a single array. Other endings are read by
            readers that other packages register for them.
        expected: What the atlas and the manifest say of it.

    Raises:
        ValueError: Not numbers, the shape does not fit the orientation and the atlas (both shapes are printed), or the
            names in the file are not the atlas's.
        FileNotFoundError: There is no such file.
    """
    file, _, selector = str(location).partition("::")
    path = Path(file)
    ending = _ending(path)
    registered = None if ending in (*ARRAYS, *TEXT, *IMAGES) else _registered(path)
    check_there(path)
    try:
        if ending in ARRAYS:
            fits = partial(_check_shape, expected=expected, where=str(location))
            return Reading(_oriented(ARRAYS[ending](path, selector, fits), expected, str(location)))
        if registered is not None:
            return Reading(_oriented(np.asarray(registered(path, selector)), expected, str(location)))
        return _read(path, ending, selector, expected)
    except (ValueError, OSError):
        raise
    except Exception as error:  # what the libraries raise on a damaged file is of every kind
        reason = " ".join(str(error).split())
        raise ValueError(f"{location}: damaged ({type(error).__name__}: {reason}); copy or export it again") from error


def _read(path: Path, ending: str, selector: str, expected: Expected) -> Reading:
    if selector:
        raise ValueError(f"{path}::{selector}: a {ending} file holds one array; leave out ::{selector}")
    if ending in IMAGES:
        return _from_image(path, ending, expected)
    reading = _from_cells(read_cells(path, expected), expected, str(path))
    return replace(reading, tr_s=sidecar_tr_s(path))


def _registered(path: Path) -> Reader:
    """The reader that another package has registered for the file's ending."""
    found = {f".{entry.name.lower()}": entry for entry in entry_points(group=ENTRY_POINTS)}
    fitting = [ending for ending in found if path.name.lower().endswith(ending)]
    if not fitting:
        raise ValueError(f"{path}: cannot read {path.suffix or 'a file without ending'}; can read "
                         f"{[*ARRAYS, *TEXT, *IMAGES, *found]}, text also as .gz")  # fmt: skip
    reader: Reader = found[max(fitting, key=len)].load()
    return reader


def agreed_tr_s(given: dict[str, float | None], where: str) -> float:
    """Returns the seconds from frame to frame that all who say it agree on.

    Args:
        given: By who says it.
        where: The file.

    Raises:
        ValueError: They disagree, or nobody says it.
    """
    known = {name: value for name, value in given.items() if value is not None and np.isfinite(value)}
    if not known:
        raise ValueError(f"{where}: nothing says its tr_s; set `recordings.tr_s`, or add a sidecar with RepetitionTime")
    first = next(iter(known.values()))
    if any(abs(value - first) > TR_TOLERANCE * first for value in known.values()):
        said = ", ".join(f"{name} {value:g} s" for name, value in known.items())
        raise ValueError(f"{where}: tr_s disagrees: {said}; correct the one that is wrong")
    return first


def _from_image(path: Path, ending: str, expected: Expected) -> Reading:
    """Reads a volume or a CIFTI file."""
    from brainlm_lightning.data.read.surfaces import read_dtseries, read_ptseries  # nibabel: slow to import
    from brainlm_lightning.data.read.volumes import read_volume

    if ending == ".ptseries.nii":
        values, names, header = read_ptseries(path)
        cells = Cells(values, tuple(names), None, ())
        reading = _from_cells(cells, replace(expected, orientation="frames_parcels"), str(path))
        series, remarks, named = reading.series, list(reading.remarks), reading.named
    else:
        named = True
        series, header, remarks = (read_dtseries if ending == ".dtseries.nii" else read_volume)(path, expected)
    sidecar = sidecar_tr_s(path)
    said = {"the header says": header, "the sidecar says": sidecar}
    tr_s = None if header is None and sidecar is None else agreed_tr_s(said, str(path))
    return Reading(np.ascontiguousarray(series, np.float32), tuple(remarks), tr_s, named)


def check_there(path: Path) -> None:
    """Raises FileNotFoundError where there is no such file; a nearly like-named neighbour is named."""
    if not path.is_file():
        near = _near_name(path)
        raise FileNotFoundError(f"{path}: no such file{near}; compare `root` and `recordings.file` with the disk")


def _near_name(path: Path) -> str:
    """Names a file beside the one that is not there, where one is nearly called so."""
    beside = [other.name for other in islice(path.parent.glob("*"), MOST_COMPARED)] if path.parent.is_dir() else []
    near = get_close_matches(path.name, beside, 1, 0.8)
    return f" (there is {near[0]!r})" if near else ""


def _ending(path: Path) -> str:
    """The ending that tells the format; text may be compressed."""
    ending = path.suffix.lower()
    image = next((kind for kind in IMAGES if path.name.lower().endswith(kind)), None)
    if ending != ".gz" or image:
        return image or ending
    inner = Path(path.stem).suffix.lower()
    return inner if inner in TEXT else "".join(path.suffixes[-2:]).lower()


def _from_cells(cells: Cells, expected: Expected, where: str) -> Reading:
    """Puts the columns of a text file in the atlas's order, by their names."""
    values, remarks = cells.values, list(cells.remarks)
    names = cells.index if expected.turned else cells.header
    values, named = values.T if expected.turned else values, False
    if names is not None and expected.names == "use":
        kept = [column for column, name in enumerate(names) if name.strip() not in expected.ignore_columns]
        if len(kept) < len(names):
            remarks.append(f"columns left out as told: {sorted(set(names) & set(expected.ignore_columns))}")
        names, values = tuple(names[column] for column in kept), values[:, kept]
        order, remark = order_by_names(names, expected, where)
        remarks += [remark] * bool(remark)
        values, named = values if order is None else values[:, order], order is not None or not remark
    settled = names is not None and len(names) == expected.num_parcels
    series = _oriented(values.T if expected.turned else values, expected, where, settled)
    return Reading(series, tuple(remarks), named=named)


def _oriented(array: np.ndarray, expected: Expected, where: str, settled: bool = False) -> np.ndarray:
    """Returns (frames, parcels) float32, or says how the shape differs from what was announced."""
    _check_shape(array.shape, expected, where)
    axis, parcels = 0 if expected.turned else 1, expected.num_parcels
    if array.shape[0] == array.shape[1] and not (settled or expected.square):
        raise ValueError(
            f"{where}: {parcels} frames of {parcels} parcels may stand either way round, and the file names neither; "
            f"set `recordings.square: true` if `orientation: {expected.orientation}` is right"
        )
    if array.dtype.kind == "c":
        raise ValueError(f"{where}: expected real numbers, got {array.dtype}")
    with np.errstate(over="ignore"):  # beyond float32 becomes infinite, and is reported as non-finite
        return np.ascontiguousarray(array if axis else array.T, dtype=np.float32)


def _check_shape(shape: tuple[int, ...], expected: Expected, where: str) -> None:
    """Raises ValueError unless it is the shape of a recording."""
    if len(shape) != 2 or shape[0 if expected.turned else 1] != expected.num_parcels or 0 in shape:
        raise ValueError(_misfit(shape, expected, where))


def _misfit(shape: tuple[int, ...], expected: Expected, where: str) -> str:
    wanted = f"({expected.num_parcels}, frames)" if expected.turned else f"(frames, {expected.num_parcels})"
    advice = "the file does not match the atlas"
    if len(shape) == 2 and shape[1 if expected.turned else 0] == expected.num_parcels:
        advice = f"set `orientation: {'frames_parcels' if expected.turned else 'parcels_frames'}`"
    elif len(shape) == 3:
        advice = f"a stack of {shape[0]}; name one recording of it: FILE::NAME[0], or [0] in an .npy file"
    return f"{where}: got shape {shape}, expected {wanted} for {expected.orientation}; {advice}"
