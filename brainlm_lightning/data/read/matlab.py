"""MATLAB's files of every version: variables, structs, struct arrays and cells."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.io
import scipy.sparse

from brainlm_lightning.data.read.hdf5 import read_matlab_73
from brainlm_lightning.data.read.matlab_structure import sound_variables
from brainlm_lightning.data.read.selector import ArrayNode, CheckShape, Members, plain, select


def read_mat(path: Path, selector: str, check_shape: CheckShape) -> np.ndarray:
    """Reads a variable, `variable.field`, `cells{3}` or `elements(2).field`, as MATLAB shows it.

    Raises:
        ValueError: It is not there; what is there is listed with its shapes.
    """
    if h5py.is_hdf5(path):
        return read_matlab_73(path, selector, check_shape)
    names = sound_variables(path)
    variables = scipy.io.loadmat(path, variable_names=names, struct_as_record=True, chars_as_strings=False)
    return select(
        Members({name: _node(variables[name]) for name in plain(list(variables))}), selector, str(path), check_shape
    )


class _Many:
    """Cells, or the elements of a struct array, in MATLAB's order (column by column)."""

    dtype = None

    def __init__(self, values: np.ndarray) -> None:
        self.values = values
        self.shape = values.shape

    def names(self) -> list[str]:
        return []

    def member(self, name: str) -> Any:
        raise KeyError(name)

    def item(self, number: int) -> Any:
        return _node(self.values.reshape(-1, order="F")[number])

    def read(self) -> np.ndarray:
        raise ValueError("cells, no array")


def _node(value: Any) -> Any:
    if scipy.sparse.issparse(value):
        return ArrayNode(value.toarray())
    if isinstance(value, np.void) and value.dtype.names:
        return Members({name: _node(value[name]) for name in value.dtype.names})
    array = np.asarray(value)
    if array.dtype.names:
        return _node(array.reshape(-1)[0]) if array.size == 1 else _Many(array)
    if array.dtype.kind == "O":
        return _Many(array)
    return ArrayNode(array)
