"""HDF5 files, MATLAB's of version 7.3 among them. What a file keeps elsewhere on the disk is refused."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from brainlm_lightning.data.read.selector import CheckShape, array_row, check_claim, plain, select

MOST_LINKS = 10


def read_hdf5(path: Path, selector: str, check_shape: CheckShape) -> np.ndarray:
    """Reads a dataset, or `dataset[row]` of a stack.

    Raises:
        ValueError: It is not there, or its values lie in another file.
    """
    with h5py.File(path, "r") as file:
        return select(_Group(file, str(path), matlab=False), selector, str(path), check_shape)


def read_matlab_73(path: Path, selector: str, check_shape: CheckShape) -> np.ndarray:
    """Reads a variable, field or cell as MATLAB shows it: HDF5 sees its axes reversed."""
    with h5py.File(path, "r") as file:
        return select(_Group(file, str(path), matlab=True), selector, str(path), check_shape)


class _Group:
    """A group: a folder of HDF5, or a struct of MATLAB."""

    shape = None
    dtype = None

    def __init__(self, group: h5py.Group, where: str, matlab: bool) -> None:
        self.group = group
        self.where = where
        self.matlab = matlab

    def names(self) -> list[str]:
        return plain(list(self.group)) if self.matlab else list(self.group)

    def member(self, name: str) -> Any:
        return _node(_own(self.group, name, self.where), f"{self.where}::{name}", self.matlab)

    def item(self, number: int) -> Any:
        raise IndexError(number)

    def read(self) -> np.ndarray:
        raise ValueError(f"{self.where}: a group, no array")


class _Dataset:
    """An array, or a row of it; as MATLAB shows it where MATLAB wrote it."""

    def __init__(self, dataset: h5py.Dataset, where: str, matlab: bool, row: int | None = None) -> None:
        self.dataset = dataset
        self.where = where
        self.matlab = matlab
        self.row = row

    @property
    def shape(self) -> tuple[int, ...]:
        whole = self.dataset.shape[::-1] if self.matlab else self.dataset.shape
        return tuple(whole if self.row is None else whole[1:])

    @property
    def dtype(self) -> np.dtype:
        return np.dtype("U1") if self.dataset.attrs.get("MATLAB_class") == b"char" else self.dataset.dtype

    def names(self) -> list[str]:
        return []

    def member(self, name: str) -> Any:
        raise KeyError(name)

    def item(self, number: int) -> "_Dataset":
        array_row(self.shape, number)
        if self.row is not None:
            raise IndexError(number)
        return _Dataset(self.dataset, self.where, self.matlab, number)

    def read(self) -> np.ndarray:
        claimed = int(np.prod(self.shape, dtype=object)) * self.dataset.dtype.itemsize
        check_claim(claimed, self.dataset.id.get_storage_size(), self.where)
        if self.row is None:
            values = self.dataset[()]
        else:
            values = self.dataset[..., self.row] if self.matlab else self.dataset[self.row]
        return np.asarray(values.T if self.matlab else values)


class _Cells:
    """MATLAB's cells, or the elements of a struct array: references to what they hold."""

    dtype = None

    def __init__(self, dataset: h5py.Dataset, where: str) -> None:
        self.dataset = dataset
        self.where = where

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.dataset.shape[::-1])

    def names(self) -> list[str]:
        return []

    def member(self, name: str) -> Any:
        raise KeyError(name)

    def item(self, number: int) -> Any:
        if number >= self.dataset.size or self.dataset.size > 1 << 20:
            raise IndexError(number)
        reference = self.dataset[()].reshape(-1)[number]  # as stored: MATLAB's order, column by column
        return _node(self.dataset.file[reference], f"{self.where}{{{number + 1}}}", matlab=True)

    def read(self) -> np.ndarray:
        raise ValueError(f"{self.where}: cells, no array")


def _node(found: Any, where: str, matlab: bool) -> Any:
    if isinstance(found, h5py.Group):
        return _Group(found, where, matlab)
    if not isinstance(found, h5py.Dataset):
        raise ValueError(f"{where}: a {type(found).__name__}, no array")
    if found.is_virtual or found.external:
        raise ValueError(f"{where}: its values lie in another file, which is not followed; copy them into this one")
    if h5py.check_ref_dtype(found.dtype) is h5py.Reference:
        return _Cells(found, where)
    return _Dataset(found, where, matlab)


def _own(group: h5py.Group, name: str, where: str) -> Any:
    """Returns a member that lies in this very file; links are followed step by step."""
    for _ in range(MOST_LINKS):
        link = group.get(name, getlink=True)
        if isinstance(link, h5py.ExternalLink):
            raise ValueError(f"{where}::{name}: a link to another file, which is not followed; copy its data here")
        if not isinstance(link, h5py.SoftLink):
            return group[name]
        above, _, name = link.path.rpartition("/")
        group = group.file if link.path.startswith("/") else group
        for part in filter(None, above.split("/")):
            group = _own(group, part, where)
    raise ValueError(f"{where}::{name}: links that lead to links")
