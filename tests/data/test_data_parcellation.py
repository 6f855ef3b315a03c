import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from derivative_trees import AFFINE, IDS, label_image

from brainlm_lightning.data.atlas import Atlas
from brainlm_lightning.data.parcellation import centroids, networks_by_overlap


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
