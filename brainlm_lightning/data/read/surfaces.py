"""CIFTI files: series of parcels (`ptseries`), and of grayordinates (`dtseries`) with a label file (`dlabel`)."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.cifti2 import cifti2_axes

from brainlm_lightning.data.read.expected import Expected
from brainlm_lightning.data.read.volumes import check_image_claim

Key = tuple[str, tuple[int, ...]]  # structure, and vertex or voxel


def read_ptseries(path: Path) -> tuple[np.ndarray, list[str], float | None]:
    """Returns (frames, parcels) float32, the parcels' names, and seconds from frame to frame.

    Raises:
        ValueError: Not a series of parcels.
    """
    image: Any = nib.load(path)
    time, parcels = (image.header.get_axis(number) for number in (0, 1))
    if not isinstance(parcels, cifti2_axes.ParcelsAxis) or not isinstance(time, cifti2_axes.SeriesAxis):
        raise ValueError(f"{path}: expected frames × parcels, got {type(time).__name__} × {type(parcels).__name__}")
    check_image_claim(image, path)
    return np.asarray(image.dataobj, np.float32), [str(name) for name in parcels.name], series_tr_s(time)


def read_dtseries(path: Path, expected: Expected) -> tuple[np.ndarray, float | None, list[str]]:
    """Averages the grayordinates of each parcel, by their structure and vertex or voxel.

    Returns:
        (frames, parcels) float32, NaN for a parcel with fewer than `expected.min_voxels` grayordinates; seconds from
        frame to frame; remarks.

    Raises:
        ValueError: No label file is named, or it shares no grayordinates with the series.
    """
    if not expected.image:
        raise ValueError(f"{path}: a dtseries needs the atlas's .dlabel.nii; name it in `atlas.image`")
    image: Any = nib.load(path)
    time, brain = (image.header.get_axis(number) for number in (0, 1))
    if not isinstance(brain, cifti2_axes.BrainModelAxis) or not isinstance(time, cifti2_axes.SeriesAxis):
        raise ValueError(f"{path}: expected frames × grayordinates, got {type(brain).__name__}")
    check_image_claim(image, path)
    labels = np.array([_labels(expected.image).get(key, 0) for key in _keys(brain)])
    values = np.asarray(image.dataobj, np.float64)
    labels = np.where(values.any(axis=0), labels, 0)  # 0 in every frame: outside of the field of view
    ids = np.array(expected.ids)
    count = np.array([(labels == label).sum() for label in ids])
    if not count.any():
        raise ValueError(f"{path}: no grayordinate has a label in {expected.image}; are both in one space (fsLR, 32k)?")
    measured = count >= max(expected.min_voxels, 1)
    series = np.full((len(values), len(ids)), np.nan, np.float32)
    for column in np.flatnonzero(measured):
        series[:, column] = values[:, labels == ids[column]].mean(axis=1)
    few = int((~measured).sum())
    remarks = [f"{few} parcels with fewer than {expected.min_voxels} grayordinates are not measured"] if few else []
    return series, series_tr_s(time), remarks


def _keys(brain: Any) -> list[Key]:
    """Names of grayordinates that two files share."""
    return [
        (structure, (int(vertex),) if surface else tuple(int(index) for index in voxel))
        for structure, vertex, voxel, surface in zip(
            brain.name, brain.vertex, brain.voxel, brain.surface_mask, strict=True
        )
    ]


@lru_cache(maxsize=2)
def _labels(path: str) -> dict[Key, int]:
    image: Any = nib.load(path)
    brain = image.header.get_axis(1)
    if not isinstance(brain, cifti2_axes.BrainModelAxis):
        raise ValueError(f"{path}: expected a .dlabel.nii of grayordinates, got {type(brain).__name__}")
    return dict(zip(_keys(brain), np.asarray(image.dataobj)[0].astype(int).tolist(), strict=True))


def series_tr_s(time: Any) -> float | None:
    """Returns the step of a CIFTI file's time axis in seconds; None where it says none."""
    return float(time.step) if time.unit == "SECOND" and time.step > 0 else None
