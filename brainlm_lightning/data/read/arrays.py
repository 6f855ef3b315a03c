"""numpy's own files. Headers are read first: shape and size are known before any value is, and nothing is unpickled."""

import zipfile
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from brainlm_lightning.data.read.selector import CheckShape, Members, array_row, check_claim, select

LONGEST_HEADER = 1 << 16


def read_npy(path: Path, selector: str, check_shape: CheckShape) -> np.ndarray:
    """Reads an .npy file, or `[row]` of a stack."""
    with path.open("rb") as file:
        shape, dtype = _header(file, str(path))
    if dtype.kind == "O":
        return select(_Unread(shape, dtype), selector, str(path), check_shape)
    mapped = np.load(path, mmap_mode="r", allow_pickle=False)  # refuses a file that is shorter than it claims
    return select(_Unread(shape, dtype, lambda: mapped), selector, str(path), check_shape)


def read_npz(path: Path, selector: str, check_shape: CheckShape) -> np.ndarray:
    """Reads one member of an .npz archive, or `member[row]` of a stack."""
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist() if not entry.is_dir()}
        children: dict[str, Any] = {name: partial(_entry, path, archive, entry) for name, entry in entries.items()}
        return select(Members(children), selector, str(path), check_shape)


class _Unread:
    """An array of which only shape and type are known."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype, load: Any = None, row: int | None = None) -> None:
        self.shape = shape
        self.dtype = dtype
        self.load = load
        self.row = row

    def names(self) -> list[str]:
        return []

    def member(self, name: str) -> Any:
        raise KeyError(name)

    def item(self, number: int) -> "_Unread":
        shape = array_row(self.shape, number)
        if self.row is not None:
            raise IndexError(number)
        return _Unread(shape, self.dtype, self.load, number)

    def read(self) -> np.ndarray:
        return np.asarray(self.load() if self.row is None else self.load()[self.row])


def _entry(path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> _Unread:
    where = f"{path}::{entry.filename.removesuffix('.npy')}"
    if not entry.filename.endswith(".npy"):
        raise ValueError(f"{where}: no array")
    with archive.open(entry) as file:
        shape, dtype = _header(file, where)

    def load() -> np.ndarray:
        check_claim(int(np.prod(shape, dtype=object)) * dtype.itemsize, entry.compress_size, where)
        with archive.open(entry) as member:
            return npy.read_array(member, allow_pickle=False)

    return _Unread(shape, dtype, load)


def _header(file: IO[bytes], where: str) -> tuple[tuple[int, ...], np.dtype]:
    version = npy.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"{where}: an .npy file of version {version}; expected plain numbers")
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = read(file, max_header_size=LONGEST_HEADER)
    return shape, dtype
