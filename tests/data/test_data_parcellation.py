import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from derivative_trees import AFFINE, IDS, label_image

from brainlm_lightning.data.atlas import Atlas
from brainlm_lightning.data.parcellation import centroids, networks_by_overlap, overlap_weights


@pytest.fixture
def image(tmp_path):
    nib.save(label_image(), tmp_path / "atlas.nii.gz")
    return tmp_path / "atlas.nii.gz"


def test_centroids_are_the_mean_place_of_the_voxels(image):
    labels = np.asarray(label_image().dataobj)
    found = centroids(image, pd.Series(IDS))
    for place, label in enumerate(IDS):
        naive = np.mean([(AFFINE @ [*voxel, 1])[:3] for voxel in np.argwhere(labels == label)], axis=0)
        np.testing.assert_allclose(found.iloc[place], naive, atol=0.01)


def test_a_table_without_centroids_takes_them_from_the_image(image, tmp_path):
    pd.DataFrame({"id": IDS, "name": "x"}).to_csv(tmp_path / "t.csv", index=False)
    atlas = Atlas.from_table("six", tmp_path / "t.csv", index="id", label="name", xyz_mm=None, image=image)
    np.testing.assert_allclose(atlas.xyz_mm, centroids(image, pd.Series(IDS)), atol=1e-4)
    with pytest.raises(ValueError, match="or its label image in `image`"):
        Atlas.from_table("six", tmp_path / "t.csv", index="id", label="name", xyz_mm=None)


def test_a_parcel_without_voxels_is_named(image):
    with pytest.raises(ValueError, match=r"no voxel of the parcels \[77\]"):
        centroids(image, pd.Series([3, 77]))


def test_networks_are_those_of_most_voxels(image, tmp_path):
    labels = np.asarray(label_image().dataobj)
    other = np.where(np.isin(labels, IDS[:2]), 1, np.where(labels == IDS[2], 2, 0)).astype(np.int16)
    first = np.argwhere(labels == IDS[3])
    other[tuple(first[: len(first) // 10].T)] = 1  # a tenth: too little
    nib.save(nib.Nifti1Image(other, AFFINE), tmp_path / "networks.nii.gz")
    found = networks_by_overlap(image, pd.Series(IDS), tmp_path / "networks.nii.gz", {1: "Vis", 2: "Default"})
    assert found.tolist() == ["Vis", "Vis", "Default", "none", "none", "none"]


def test_networks_of_a_real_atlas_are_those_that_were_published(real_data):
    parcels = pd.read_csv(real_data / "abide_cc400" / "parcels.tsv", sep="\t")
    atlases = real_data / "atlases"
    schaefer = pd.read_csv(atlases / "Schaefer400_7N_parcels.tsv", sep="\t")
    names = dict(zip(schaefer["atlas_id"], schaefer["yeo7"], strict=True))
    other = atlases / "Schaefer2018_400Parcels_7Networks_order_FSLMNI152_2mm.nii.gz"
    found = networks_by_overlap(atlases / "cc400_roi_atlas.nii.gz", parcels["atlas_id"], other, names)
    assert (found == parcels["yeo7"]).mean() > 0.95


def test_weights_of_overlap_are_shares_of_voxels(image, tmp_path):
    labels = np.asarray(label_image().dataobj)
    other = np.where(labels == IDS[0], 7, 0).astype(np.int16)
    first, second = np.argwhere(labels == IDS[1]), np.argwhere(labels == IDS[2])
    other[tuple(first[:1].T)] = 7
    other[tuple(first[1:4].T)] = 9
    other[tuple(second[:2].T)] = 9
    nib.save(nib.Nifti1Image(other, AFFINE), tmp_path / "other.nii.gz")
    found = overlap_weights(image, IDS[:4], tmp_path / "other.nii.gz", [9, 7, 8])
    assert found.tolist() == [[0, 1, 0], [0.75, 0.25, 0], [1, 0, 0], [0, 0, 0]]


def test_weights_of_overlap_are_those_that_were_published_for_real_atlases(real_data):
    """Shares of A424's voxels in CC400, between grids of another size; the published ones were rounded."""
    table = pd.read_csv(real_data / "atlases" / "cc400_to_a424_weights.csv")
    expected = np.zeros((424, 392))
    expected[table["a424_index"] - 1, table["cc400_column"]] = table["weight"]
    ids = pd.read_csv(real_data / "abide_cc400" / "parcels.tsv", sep="\t")["atlas_id"]
    images = (real_data / "atlases" / name for name in ("A424+2mm.nii.gz", "cc400_roi_atlas.nii.gz"))
    image, other = images
    found = overlap_weights(image, range(1, 425), other, ids)
    assert np.abs(found - expected).max() < 0.02
    assert np.flatnonzero(found.sum(1) == 0).tolist() == np.flatnonzero(expected.sum(1) == 0).tolist()
