"""Every published atlas at hand: its table and its label image, by a manifest alone."""

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import yaml

from brainlm_lightning.data.atlas import Atlas
from brainlm_lightning.data.manifest import load_manifest
from brainlm_lightning.data.read import read_series

FSL = "Schaefer2018_{}Parcels_7Networks_order_FSLMNI152_2mm.nii.gz"
SCHAEFER = {"index": "1", "label": "2"}  # published without a header line
A424 = {"table": "A424_parcels.tsv", "index": "index", "label": "label", "network": "yeo7", "xyz_mm": ["x", "y", "z"]}
ATLASES = {  # what a manifest's `atlas` says, the number of parcels, one row of the table
    "A424": (A424 | {"image": "A424.nii.gz"}, 424, (0, 1, "R_V1")),
    "A424_2mm": (A424 | {"image": "A424+2mm.nii.gz"}, 424, (423, 424, "Right_X")),
    "A424_4mm": (A424 | {"image": "A424+4mm.nii.gz"}, 424, (1, 2, "R_MST")),
    "A424_merged": (A424 | {"image": "A424merged.nii.gz"}, 424, (1, 2, "R_MST")),
    "A424_labels": (
        {"table": "A424_Labels_AA-AAc_main_maps.csv", "index": "A424", "label": "Nodes", "network": "Name",
         "image": "A424+2mm.nii.gz"}, 424, (423, 424, "Right_X"),
    ),
    "A424_coordinates": (
        {"table": "A424_Coordinates.dat", "index": "1", "label": "1", "xyz_mm": ["2", "3", "4"],
         "image": "A424.nii.gz"}, 424, (0, 1, "1"),
    ),
    "Schaefer100": (
        SCHAEFER | {"table": "Schaefer2018_100Parcels_7Networks_order.txt", "image": FSL.format(100)},
        100, (0, 1, "7Networks_LH_Vis_1"),
    ),
    "Schaefer400": (
        SCHAEFER | {"table": "Schaefer2018_400Parcels_7Networks_order.txt", "image": FSL.format(400)},
        400, (399, 400, "7Networks_RH_Default_pCunPCC_9"),
    ),
    "Schaefer400_networks": (
        {"table": "Schaefer400_7N_parcels.tsv", "index": "atlas_id", "label": "label", "network": "yeo7",
         "image": FSL.format(400)}, 400, (0, 1, "7Networks_LH_Vis_1"),
    ),
    "MIST122": (
        {"table": "MIST122_relabeled.tsv", "index": "", "label": "labels", "network": "modules",
         "image": "MIST122_relabeled.nii.gz"}, 122, (121, 122, "VVISnet_m"),
    ),
    "CC200": (
        {"table": "cc200_labels.csv", "index": "index", "label": "name", "image": "cc200_atlas.nii.gz"},
        190, (1, 3, "ROI_1"),
    ),
    "CC400": (
        {"table": "CC400_ROI_labels.csv", "index": "ROI_number", "label": "Harvard-Oxford",
         "image": "cc400_roi_atlas.nii.gz"}, 392, (391, 400, None),
    ),
    "AAL": (
        {"table": "aal_116_labels.csv", "index": "index", "label": "name", "image": "aal_116_atlas.nii.gz"},
        116, (115, 116, "Vermis_10"),
    ),
}  # fmt: skip
NO_ATLAS = {  # a mask, networks on another atlas's grid, and tables from one atlas to another
    "MIST122_brain_mask.nii.gz",
    "yeo7_on_cc400_grid.nii.gz",
    "A424-to-Schaefer400.csv",
    "cc400_to_a424_weights.csv",
}
LACKS = {"A424": [120], "A424_coordinates": [120]}  # labels of the table that the image lacks
each_atlas = pytest.mark.parametrize("name", ATLASES)


@pytest.fixture
def folder(real_data):
    found = real_data / "atlases"
    if not found.is_dir():
        pytest.skip(f"no atlases in {real_data}")
    return found


def manifest_of(name, folder, tmp_path):
    content = {
        "cohort": "x",
        "root": str(folder),
        "atlas": {"name": name} | ATLASES[name][0],
        "recordings": {"derivatives": {"suffix": "bold", "extension": ".nii.gz"}},
    }
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(content))
    return load_manifest(tmp_path / "x.yaml")


def test_no_file_is_left_out(folder):
    used = {source[key] for source, *_ in ATLASES.values() for key in ("table", "image") if key in source}
    assert {path.name for path in folder.iterdir()} - used - NO_ATLAS == set()


@each_atlas
def test_the_table_is_read_whole(name, folder, tmp_path):
    source, count, (row, index, label) = ATLASES[name]
    atlas = manifest_of(name, folder, tmp_path).read_atlas()
    assert atlas.num_parcels == count
    assert atlas.parcels["index"][row] == index
    assert label is None or atlas.parcels["label"][row] == label
    assert (np.unique(atlas.networks).size > 5) == ("network" in source)


@each_atlas
def test_every_parcel_of_an_image_comes_back_in_its_column(name, folder, tmp_path):
    """Each voxel holds its own label, times the frame: the mean of parcel i is then label i."""
    manifest = manifest_of(name, folder, tmp_path)
    atlas = manifest.read_atlas()
    image = nib.load(folder / ATLASES[name][0]["image"])
    labels = np.asarray(image.dataobj).astype(np.float32)
    nib.save(nib.Nifti1Image(np.stack([labels, 2 * labels], axis=3), image.affine), tmp_path / "bold.nii")
    reading = read_series(str(tmp_path / "bold.nii"), manifest.expected(atlas))
    ids = atlas.parcels["index"].to_numpy(float)
    expected = np.stack([ids, 2 * ids])
    expected[:, np.isin(ids, LACKS.get(name, []))] = np.nan
    np.testing.assert_allclose(reading.series, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "table", "columns", "index", "within_mm"),
    [  # centroids from the image beside those that were published
        ("Schaefer400", "Schaefer400_7N_parcels.tsv", ["x", "y", "z"], "atlas_id", 1.0),
        ("A424_labels", "A424_parcels.tsv", ["centroid_x", "centroid_y", "centroid_z"], "index", 0.02),
        ("CC400", "../abide_cc400/parcels.tsv", ["com_x", "com_y", "com_z"], "atlas_id", 1.0),
    ],
)
def test_centroids_from_an_image_are_those_that_were_published(
    name, table, columns, index, within_mm, folder, tmp_path
):
    atlas = manifest_of(name, folder, tmp_path).read_atlas()
    published = pd.read_csv(folder / table, sep="\t").set_index(index).loc[atlas.parcels["index"], columns]
    assert np.linalg.norm(atlas.xyz_mm - published.to_numpy(), axis=1).max() < within_mm


def test_a_table_without_a_header_line_keeps_its_first_parcel(tmp_path):
    (tmp_path / "order.txt").write_text("1\tLeft_Vis_1\t120\t18\t131\t0\n2\tLeft_Vis_2\t120\t18\t131\t0\n")
    given = {"index": "1", "label": "2", "xyz_mm": ["3", "4", "5"]}
    assert Atlas.from_table("two", tmp_path / "order.txt", **given).parcels["label"].tolist() == [
        "Left_Vis_1", "Left_Vis_2"
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"no column \['label'\].*no header line, so its columns are numbered"):
        Atlas.from_table("two", tmp_path / "order.txt", **given | {"label": "label"})
