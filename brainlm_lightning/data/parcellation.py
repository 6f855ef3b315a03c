"""What a label image says of its parcels: where they lie, and which network of another atlas they overlap most."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

AXES = ("x_mm", "y_mm", "z_mm")
UNKNOWN_NETWORK = "none"
LEAST_OVERLAP = 0.2  # of a parcel's voxels that must lie in any network
MOST_NAMED = 8


def centroids(image: Path, index: pd.Series) -> pd.DataFrame:
    """Returns the mean place of each label's voxels in mm, one row per parcel.

    Args:
        image: 3-D label image.
        index: The parcels' integers.

    Raises:
        ValueError: A parcel has no voxel.
    """
    import nibabel  # only where an image is read: slow to import

    labels, affine = _labels(image)
    places = nibabel.affines.apply_affine(affine, np.argwhere(labels > 0))
    means = pd.DataFrame(places, columns=list(AXES)).groupby(labels[labels > 0]).mean().round(2)
    absent = sorted(set(index) - set(means.index))
    if absent:
        raise ValueError(f"{image} has no voxel of the parcels {absent[:MOST_NAMED]}; give their `xyz_mm` in the table")
    return means.loc[index].set_axis(index.index)


def networks_by_overlap(image: Path, index: pd.Series, other: Path, names: dict[int, str]) -> pd.Series:
    """Returns the network that holds most of a parcel's voxels; 'none' where under a fifth of them is in any.

    Each voxel of the parcel takes the network at its centre, so the images may differ in grid, but not in space.

    Args:
        image: 3-D label image of the parcels.
        index: The parcels' integers.
        other: 3-D label image of the atlas with networks.
        names: The network of each of its labels.
    """
    voxels = _both_labels(image, other)
    table = pd.DataFrame({"parcel": voxels["here"], "network": voxels["there"].map(names)})
    sizes = table.groupby("parcel").size()
    counts = table.dropna().groupby(["parcel", "network"]).size().unstack(fill_value=0)
    share = counts.sum(axis=1) / sizes.loc[counts.index]
    best = counts.idxmax(axis=1).where(share >= LEAST_OVERLAP, UNKNOWN_NETWORK)
    return best.reindex(index).fillna(UNKNOWN_NETWORK).set_axis(index.index)


def overlap_weights(image: Path, index: Sequence[int], other: Path, other_index: Sequence[int]) -> np.ndarray:
    """Shares of each parcel's voxels that lie in the parcels of another atlas, (parcels, other parcels) float64.

    Rows add up to 1 over the voxels that lie in any; the row of a parcel that overlaps none is 0.

    Args:
        image: 3-D label image of the parcels.
        index: The parcels' integers.
        other: 3-D label image of the other atlas, in the same space.
        other_index: The integers of its parcels.
    """
    voxels = _both_labels(image, other)
    counts = voxels.groupby(["here", "there"]).size().unstack(fill_value=0)
    shared = counts.reindex(index=list(index), columns=list(other_index), fill_value=0).to_numpy(float)
    weights: np.ndarray = shared / np.maximum(shared.sum(axis=1, keepdims=True), 1)
    return weights


def _both_labels(image: Path, other: Path) -> pd.DataFrame:
    """The labels `here` and `there` of each labelled voxel of an image; 0 where the other has none."""
    import nibabel

    labels, affine = _labels(image)
    theirs, other_affine = _labels(other)
    voxels = np.argwhere(labels > 0)
    step = np.linalg.inv(other_affine) @ affine
    there = np.round(nibabel.affines.apply_affine(step, voxels)).astype(int)
    inside = ((there >= 0) & (there < theirs.shape)).all(axis=1)
    found = np.zeros(len(voxels), np.int64)
    found[inside] = theirs[tuple(there[inside].T)]
    return pd.DataFrame({"here": labels[labels > 0], "there": found})


def _labels(path: Path) -> tuple[np.ndarray, np.ndarray]:
    import nibabel

    loaded: Any = nibabel.load(path)
    if len(loaded.shape) < 3 or int(np.prod(loaded.shape[3:])) != 1:
        raise ValueError(f"{path}: got an image of shape {loaded.shape}, expected a 3-D label image")
    return np.asarray(loaded.dataobj).round().astype(np.int64).reshape(loaded.shape[:3]), loaded.affine
