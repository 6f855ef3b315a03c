"""Volumes to parcels: a 4-D NIfTI image and the label image of an atlas, in one space, by nilearn's masker."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nilearn.image import resample_to_img
from nilearn.maskers import NiftiLabelsMasker

from brainlm_lightning.data.read.expected import MOST_NAMED, Expected
from brainlm_lightning.data.read.selector import check_claim

SAME_GRID_MM = 1e-3
LEAST_OVERLAP = 0.5  # of the parcels; with fewer, image and atlas are not in one space
MILLI = {"msec": 1e-3, "usec": 1e-6}


def read_volume(path: Path, expected: Expected) -> tuple[np.ndarray, float | None, list[str]]:
    """Averages the voxels of each parcel.

    Voxels that are 0 in every frame lie outside of the field of view and do not count. A parcel with fewer than
    `expected.min_voxels` others is NaN: it was not measured. Column i is always parcel i of the atlas table, whichever
    labels the image lacks.

    Returns:
        (frames, parcels) float32; seconds from frame to frame by the header, None where it does not say; remarks.

    Raises:
        ValueError: Not 4-D, no label image is named, or image and atlas do not overlap.
    """
    if not expected.image:
        raise ValueError(f"{path}: a volume needs the atlas's label image; name it in `atlas.image`")
    image: Any = nib.load(path)
    if len(image.shape) != 4 or image.shape[3] < 2:
        raise ValueError(f"{path}: got an image of shape {image.shape}, expected 4-D (x, y, z, frames)")
    check_image_claim(image, path)
    labels, remarks = _labels_on_grid(image, expected)
    seen = np.asarray(image.dataobj).any(axis=3)
    ids = np.array(expected.ids)
    inside = np.bincount(labels[seen].ravel(), minlength=ids.max() + 1)[ids]
    if (inside > 0).mean() < LEAST_OVERLAP:
        raise ValueError(
            f"{path}: only {(inside > 0).sum()} of {len(ids)} parcels lie in the image; its space or affine is not the "
            f"atlas's ({Path(expected.image).name})"
        )
    few = inside < expected.min_voxels
    if few.any():
        remarks.append(
            f"{few.sum()} parcels with fewer than {expected.min_voxels} voxels in the field of view are not measured"
        )
    wanted = np.where(seen & np.isin(labels, ids[~few]), labels, 0).astype(np.int32)
    return _means(image, wanted, ids), header_tr_s(image), remarks


def check_image_claim(image: Any, path: Path) -> None:
    """Raises ValueError where a small file claims to hold a large image; only its header was read until here."""
    claimed = int(np.prod(image.shape, dtype=object)) * image.get_data_dtype().itemsize
    check_claim(claimed, path.stat().st_size, str(path))


def _means(image: Any, labels: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Averages by label; what the masker drops or renumbers is put back in its place."""
    masker = NiftiLabelsMasker(
        nib.Nifti1Image(labels, image.affine), standardize=None, resampling_target=None, reports=False, verbose=0
    )
    means = masker.fit_transform(image)
    found = {int(label): column for column, label in masker.region_ids_.items() if column != "background"}
    series = np.full((image.shape[3], len(ids)), np.nan, np.float32)
    for column, label in enumerate(ids.tolist()):
        if label in found:
            series[:, column] = means[:, found[label]]
    return series


def _labels_on_grid(image: Any, expected: Expected) -> tuple[np.ndarray, list[str]]:
    """Returns the label image on the grid of a volume; that it was resampled is said."""
    atlas = _atlas(expected.image)
    remarks = []
    if atlas.shape != image.shape[:3] or not np.allclose(atlas.affine, image.affine, atol=SAME_GRID_MM):
        sizes = [" × ".join(f"{size:.3g}" for size in of.header.get_zooms()[:3]) for of in (atlas, image)]
        remarks.append(f"label image resampled (nearest) from {sizes[0]} to the recordings' grid of {sizes[1]} mm")
        target = nib.Nifti1Image(np.zeros(image.shape[:3], np.int8), image.affine)
        atlas = resample_to_img(atlas, target, interpolation="nearest", force_resample=True, copy_header=True)
    labels = np.asarray(atlas.dataobj).round().astype(np.int64)
    further = np.setdiff1d(labels, [0, *expected.ids])
    if further.size:
        remarks.append(
            f"{further.size} labels of the image are not in the atlas table: {further[:MOST_NAMED].tolist()}"
        )
    return np.maximum(labels, 0), remarks


@lru_cache(maxsize=2)
def _atlas(path: str) -> Any:
    """The label image, held: every recording needs it."""
    image: Any = nib.load(path)
    values = np.asarray(image.dataobj)
    if values.ndim == 4 and values.shape[3] == 1:
        values = values[..., 0]
    if values.ndim != 3 or not np.array_equal(values, np.round(values)):
        raise ValueError(f"{path}: expected a 3-D image of whole numbers, got shape {image.shape}")
    return nib.Nifti1Image(values.round().astype(np.int32), image.affine)


def header_tr_s(image: Any) -> float | None:
    """Returns the header's time step; None where it was not filled in."""
    step = float(image.header.get_zooms()[3])
    unit = image.header.get_xyzt_units()[1]
    step *= MILLI.get(unit, 1.0)
    unset = step <= 0 or (step == 1.0 and unit == "unknown")
    return None if unset else step
