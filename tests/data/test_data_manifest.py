import re
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import yaml

from brainlm_lightning.data.listing import list_recordings
from brainlm_lightning.data.manifest import load_manifest

MANIFESTS = Path(__file__).resolve().parents[2] / "data_manifests"
CONTENT = {
    "cohort": "toy",
    "root": "${oc.env:TOY_ROOT}/files",
    "atlas": {"name": "two", "table": "parcels.tsv", "index": "id", "label": "name", "xyz_mm": ["x", "y", "z"]},
    "recordings": {
        "table": "recordings.tsv",
        "file": "{site}/{run}.npz::{run}",
        "columns": {"recording_id": "run", "subject_id": "person", "site": "site", "tr_s": "tr"},
        "phenotypes": ["age"],
    },
}
TABLE = "run\tperson\tsite\ttr\tage\n007\t01\tA\t2.0\t30\n8\t01\tA\t0.735\tn/a\n"


@pytest.fixture
def load(tmp_path, monkeypatch):
    monkeypatch.setenv("TOY_ROOT", str(tmp_path))
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "recordings.tsv").write_text(TABLE)
    (tmp_path / "files" / "people.csv").write_text("eid,score,008\n02,3,1\n01,5,2\n")

    def load(overrides=(), **changes):
        (tmp_path / "toy.yaml").write_text(yaml.safe_dump(CONTENT | changes))
        return load_manifest(tmp_path / "toy.yaml", list(overrides))

    return load


def test_interpolations_and_defaults_are_filled_in(load, tmp_path):
    manifest = load()
    assert manifest.root == f"{tmp_path}/files"
    assert (manifest.tr_s, manifest.dtype, manifest.policy, manifest.min_frames) == (1.0, "float16", "mark", 200)
    assert asdict(manifest.split) == {"key": "brainlm", "val": 0.1, "test": 0.1, "method": "hash"}


def test_a_key_without_a_value_is_named(load):
    with pytest.raises(ValueError, match=r"recordings.phenotypes has no value \(null\)"):
        load(recordings=CONTENT["recordings"] | {"phenotypes": None})
    with pytest.raises(ValueError, match="missing_values has no value"):
        load(missing_values=None)
    assert load(phenotypes=None).phenotypes is None  # it may be


def test_the_command_line_overrides_the_file(load):
    manifest = load(["--split.test=0.3", "--dtype=float32", "--atlas.network=net"])
    assert (manifest.split.test, manifest.split.val, manifest.dtype, manifest.atlas.network) == (
        0.3,
        0.1,
        "float32",
        "net",
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trs": 1.0}, "'trs' is not accepted.*did you mean tr_s"),
        ({"atlas": CONTENT["atlas"] | {"tabel": "x"}}, "tabel.*did you mean atlas.table"),
        ({"tr_s": "fast"}, '"tr_s"'),
        ({"dtype": "float64"}, '"dtype"'),
        ({"atlas": {"name": "x"}}, "atlas"),
        ({"recordings": CONTENT["recordings"] | {"orientation": "sideways"}}, "orientation"),
        ({"split": {"test": 0.8, "val": 0.4}}, "together at most 1"),
        ({"cohort": "a/b"}, "name of one folder"),
        ({"min_frames": 0}, "above 0"),
        ({"recordings": CONTENT["recordings"] | {"tr_s": 2.0}}, "name one of them"),
    ],
)
def test_a_wrong_manifest_names_the_key(load, changes, message):
    with pytest.raises(ValueError, match=message):
        load(**changes)


def test_an_environment_variable_that_is_not_set_is_named(load, monkeypatch):
    monkeypatch.delenv("TOY_ROOT")
    with pytest.raises(ValueError, match="`root`: the environment variable TOY_ROOT is not set; export TOY_ROOT="):
        load()


def test_recordings_are_listed_with_their_files_in_the_order_of_the_table(load):
    manifest = load()
    listed = list_recordings(manifest).table
    assert listed["recording_id"].tolist() == ["007", "8"]
    assert listed["subject_id"].tolist() == ["01", "01"]
    assert listed["source_tr_s"].tolist() == [2.0, 0.735]
    assert listed["location"].tolist() == [f"{manifest.root}/A/007.npz::007", f"{manifest.root}/A/8.npz::8"]
    assert listed["split"].nunique() == 1
    np.testing.assert_array_equal(listed["age"], [30, np.nan])
    assert listed["session"].tolist() == ["", ""]


def test_identifiers_that_are_all_numbers_stay_text(load, tmp_path):
    (tmp_path / "files" / "recordings.tsv").write_text(TABLE.replace("007", "7").replace("01", "1"))
    listed = list_recordings(load()).table
    assert listed["recording_id"].tolist() == ["7", "8"]
    assert listed["subject_id"].tolist() == ["1", "1"]


def test_phenotypes_of_a_further_table_are_joined_by_subject(load):
    manifest = load(phenotypes={"table": "people.csv", "subject_id": "eid", "columns": ["score"]})
    assert list_recordings(manifest).table["score"].tolist() == [5, 5]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (TABLE.replace("\n8\t", "\n007\t"), r"1 recording_id stand more than once: \['007'\]"),
        (TABLE.replace("8\t01", "8\t"), "row 2 has no subject_id"),
        (TABLE.replace("0.735", "735"), r"tr_s of \['8'\] is not between 0 and 60 s"),
        (TABLE.replace("\tage", "\tAge"), r"no column \['age'\]"),
        (TABLE.replace("8\t01\tA", "8\t01\t"), "its cell is empty for '8'"),
        (TABLE.replace("8\t01\tA", "8\t01\t../.."), "outside of the cohort's root"),
        (TABLE.replace("8\t01\tA", "8\t01\t/etc"), "outside of the cohort's root"),
        (TABLE.split("\n")[0] + "\n", "no recordings in the table"),
    ],
)
def test_a_wrong_table_says_what_is_wrong(load, tmp_path, table, message):
    (tmp_path / "files" / "recordings.tsv").write_text(table)
    with pytest.raises(ValueError, match=message):
        list_recordings(load())


def test_a_phenotype_cannot_take_the_name_of_a_column_of_the_store(load):
    with pytest.raises(ValueError, match=r"\['site'\] stand twice, or are the store's own"):
        list_recordings(load(recordings=CONTENT["recordings"] | {"phenotypes": ["site"]}))


def test_identity_follows_the_preparation_and_not_the_place(load, tmp_path, monkeypatch):
    manifest = load()
    monkeypatch.setenv("TOY_ROOT", str(tmp_path / "elsewhere"))
    assert load().sha256 == manifest.sha256
    assert load(tr_s=2.0).sha256 != manifest.sha256


@pytest.mark.parametrize("path", sorted(MANIFESTS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_manifest_of_the_repository_loads(path, monkeypatch):
    for name in re.findall(r"oc\.env:(\w+)", path.read_text()):
        monkeypatch.setenv(name, "/data")
    assert load_manifest(path).cohort == path.stem
    first_comment = path.read_text().split("\ncohort:")[0]
    assert "Origin:" in first_comment
    assert "Terms:" in first_comment


@pytest.mark.parametrize(("cohort", "recordings"), [("abide_cc400", 566), ("restpain_mist122", 82)])
def test_real_cohorts_are_listed_whole(real_data, monkeypatch, cohort, recordings):
    monkeypatch.setenv("BRAINLM_REAL_DATA", str(real_data))
    manifest = load_manifest(MANIFESTS / f"{cohort}.yaml")
    listed = list_recordings(manifest).table
    assert len(listed) == recordings
    assert listed["subject_id"].str.len().min() >= 6  # '0050649' kept its zeros
    assert set(listed["split"]) == {"train", "val", "test"}
    assert manifest.read_atlas().xyz_mm.shape[1] == 3


@pytest.mark.parametrize(
    ("file", "location"),
    [
        ("all.mat::tc{3}", "all.mat::tc{3}"),
        ("all.mat::tc{{run}}", "all.mat::tc{007}"),
        ("stack.npz::ts[{run}]", "stack.npz::ts[007]"),
        ("{site}/{run}.h5::rest/{person}.ts", "A/007.h5::rest/01.ts"),
    ],
)
def test_columns_fill_selectors_and_cells_stay(load, file, location):
    manifest = load(recordings=CONTENT["recordings"] | {"file": file})
    assert list_recordings(manifest).table["location"][0] == f"{manifest.root}/{location}"


def test_a_selector_cannot_lead_a_file_out_of_the_root(load, tmp_path):
    (tmp_path / "files" / "recordings.tsv").write_text(TABLE.replace("\tA\t2.0", "\tx::/../../..\t2.0"))
    listed = list_recordings(load(recordings=CONTENT["recordings"] | {"file": "{site}"})).table
    assert listed["location"][0] == f"{tmp_path}/files/x::/../../.."  # the file is x; what follows is looked for in it
