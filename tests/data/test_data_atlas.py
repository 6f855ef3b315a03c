import pandas as pd
import pytest

from brainlm_lightning.data.atlas import Atlas

TABLE = pd.DataFrame(
    {
        "id": [1, 2, 5],
        "name": ["R_V1", "007", "L_MST"],
        "net": ["Vis", None, "Vis"],
        "x": [14.104, -3.0, 0.0],
        "y": [-78.46, 2.5, 1.0],
        "z": [2.48, 0.0, -60.0],
    }
)
COLUMNS = {"index": "id", "label": "name", "network": "net", "xyz_mm": ["x", "y", "z"]}


def read(tmp_path, table=TABLE, **columns):
    path = tmp_path / "parcels.tsv"
    table.to_csv(path, sep="\t", index=False, na_rep="n/a")
    return Atlas.from_table("toy", path, **COLUMNS | columns)


def test_rows_keep_their_order_and_names(tmp_path):
    atlas = read(tmp_path)
    assert atlas.parcels["label"].tolist() == ["R_V1", "007", "L_MST"]
    assert atlas.networks.tolist() == ["Vis", "none", "Vis"]
    assert atlas.xyz_mm[0].tolist() == pytest.approx([14.104, -78.46, 2.48])
    assert atlas.num_parcels == 3


def test_saved_atlas_is_the_same_atlas(tmp_path):
    atlas = read(tmp_path)
    atlas.save(tmp_path / "saved.csv")
    loaded = Atlas.load("toy", tmp_path / "saved.csv")
    pd.testing.assert_frame_equal(loaded.parcels, atlas.parcels)
    assert loaded.sha256 == atlas.sha256


def test_hash_sees_order_place_and_label_but_neither_networks_nor_less_than_a_hundredth_of_a_mm(tmp_path):
    reference = read(tmp_path).sha256
    assert read(tmp_path, TABLE.iloc[::-1]).sha256 != reference
    assert read(tmp_path, TABLE.assign(x=TABLE["x"] + 0.02)).sha256 != reference
    assert read(tmp_path, TABLE.assign(name=["R_V1", "8", "L_MST"])).sha256 != reference
    assert read(tmp_path, TABLE.assign(x=TABLE["x"] - 0.001)).sha256 == reference
    assert read(tmp_path, network=None).sha256 == reference


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (TABLE.assign(id=[1, 2, 2]), r"index \[2\] stands more than once"),
        (TABLE.assign(z=[1.0, None, 2.0]), "z_mm of parcel 2 is nan"),
        (TABLE.assign(y=[1.0, 2.0, 5000.0]), "y_mm of parcel 5 is 5000"),
        (TABLE.drop(columns="name"), r"no column \['name'\]"),
        (TABLE.iloc[:0], "got 0 rows"),
        (TABLE.assign(id=["a", "b", "c"]), "index holds whole numbers"),
    ],
)
def test_a_table_that_is_no_parcel_table_is_refused(tmp_path, table, message):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, table)


@pytest.mark.parametrize(
    ("folder", "columns", "parcels"),
    [
        ("abide_cc400", {"index": "atlas_id", "label": "harvard_oxford"}, 392),
        ("restpain_mist122", {"index": "atlas_id", "label": "label"}, 122),
    ],
)
def test_real_parcel_tables_are_read(real_data, folder, columns, parcels):
    path = real_data / folder / "parcels.tsv"
    atlas = Atlas.from_table(folder, path, network="yeo7", xyz_mm=["x", "y", "z"], **columns)
    assert atlas.num_parcels == parcels
    assert {"Vis", "Default"} < set(atlas.networks.tolist())
