"""Small odd inputs, each of a kind that laboratories have: what is read is right, and nothing wrong is silent."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.io

from brainlm_lightning.cli import main
from brainlm_lightning.data.listing import list_recordings
from brainlm_lightning.data.manifest import load_manifest
from brainlm_lightning.data.prepare import prepare
from brainlm_lightning.data.store import Store
from brainlm_lightning.data.verify import verify


@pytest.fixture
def cases(monkeypatch):
    default = Path(__file__).resolve().parents[3] / "shared" / "cases"
    folder = Path(os.environ.get("BRAINLM_CASES") or default)
    if not (folder / "01_numeric_header").is_dir():
        pytest.skip(f"no odd inputs in {folder}; set BRAINLM_CASES")
    monkeypatch.setenv("BRAINLM_CASES", str(folder))
    return folder


@pytest.fixture
def prepared(cases, tmp_path):
    """Prepares a case; returns its sound store."""

    def run(name, *overrides):
        manifest = load_manifest(cases / name / "manifest.yaml", overrides)
        store = Store(prepare(manifest, output=tmp_path / f"{name}{len(list(tmp_path.iterdir()))}"))
        assert verify(store.folder) == []
        return store

    return run


def row_of(store, name):
    return store.recordings["recording_id"].tolist().index(name)


def left_out(store):
    return pd.read_csv(store.folder / "dropped.csv").set_index("recording_id")["problems"].to_dict()


@pytest.mark.parametrize("name", ["01_numeric_header", "01b_roi_number_header", "02_row_index_column"])
def test_numbers_of_columns_and_rows_are_no_data(prepared, cases, name):
    store = prepared(name)
    assert store.recordings["num_frames"].tolist() == [120] * 4
    file = next((cases / name).glob("sub-01.?sv"))
    cells = [line.replace("\t", ",").split(",") for line in file.read_text().splitlines()[1:]]
    truth = np.float32([row[-20:] for row in cells])
    np.testing.assert_allclose(store.raw(0), truth, atol=1e-5)
    assert "header of numbers" in store.recordings["remarks"][0]


def test_columns_are_put_in_the_atlas_s_order_by_their_names(prepared, cases):
    store = prepared("03_header_other_order")
    for row, name in enumerate(store.recordings["recording_id"]):
        table = pd.read_csv(cases / "03_header_other_order" / f"{name}.tsv", sep="\t")
        np.testing.assert_allclose(store.raw(row), table[store.atlas.parcels["label"]].to_numpy(np.float32), atol=1e-5)
    assert ["18 of 20 moved" in remark for remark in store.recordings["remarks"]] == [False, False, True, True]


def test_a_square_series_is_refused_unless_told(prepared):
    with pytest.raises(ValueError, match=r"20 frames of 20 parcels may stand either way.*recordings.square: true"):
        prepared("04_square_orientation")
    assert len(prepared("04_square_orientation", "--recordings.square=true")) == 4


def test_ids_without_zeros_are_listed_and_accepted_where_told(prepared, capsys):
    store = prepared("05_ids_without_zeros")
    assert "6 without a row: '0010042' (there: '10042')" in capsys.readouterr().out
    assert store.recordings["age"].isna().sum() == 6
    loose = prepared("05_ids_without_zeros", "--phenotypes.match=loose").recordings.set_index("subject_id")["age"]
    assert loose[["0010042", "0027018", "9750701", "0010128"]].tolist() == [13, 8, 10, 11]


def test_one_person_in_many_spellings_is_an_error(cases):
    manifest = load_manifest(cases / "06_one_person_many_spellings" / "manifest.yaml")
    with pytest.raises(ValueError, match=r"nearly the same.*\['sub-03', 'Sub-03', 'sub-3', '03'\]"):
        list_recordings(manifest)


def test_codes_of_missing_values_and_classes(prepared, cases, capsys):
    with pytest.raises(ValueError, match=r"F 13, M 12, f 1, m 1.*recode: \{sex: \{f: F, m: M\}\}"):
        prepared("07_missing_codes")
    store = prepared("07_missing_codes", '--recode={"sex": {"f": "F", "m": "M"}}')
    source = (cases / "07_missing_codes" / "participants.tsv").read_text().splitlines()[1:]
    cells = {line.split("\t")[0]: [cell.strip() for cell in line.split("\t")] for line in source}
    for _, row in store.recordings.iterrows():
        fiq = cells[row["subject_id"]][2]
        assert (np.isnan(row["fiq"]) and not fiq.isdigit()) or row["fiq"] == float(fiq)
    assert sorted(store.recordings["sex"].dropna().unique()) == ["F", "M"]
    assert "-9999 taken as missing" in capsys.readouterr().out


READABLE = {
    **{name: f"{name}{end}" for name, end in {"semicolon": ".csv", "crlf": ".tsv", "trailing_tab": ".tsv"}.items()},
    **{"tab_decimalcomma": "tab_decimalcomma.tsv", "semicolon_decimalcomma": "semicolon_decimalcomma.csv"},
    **{"blank_decimalcomma": "blank_decimalcomma.txt", "fortran_D": "fortran_D.dat", "thousands": "thousands.csv"},
}


def test_series_in_other_dialects_are_read_or_refused_with_the_reason(prepared, cases):
    store = prepared("08_series_formats")
    for name, file in READABLE.items():
        text = (cases / "08_series_formats" / file).read_text()
        if "decimalcomma" in name:
            text = text.replace(",", ".")
        text = text.replace('","', " ").replace('"', "").replace(",", "").replace(";", " ").replace("D", "E")
        truth = np.array([line.split() for line in text.splitlines()], float)
        np.testing.assert_allclose(store.raw(row_of(store, name)), truth, rtol=1e-5, atol=1e-4, err_msg=name)
    reasons = left_out(store)
    expected = {
        "latin1_header": "5 only in the file",
        "truncated_last_line": "line 120: 11 cells where the other rows have 20",
        "complex": "expected real numbers, got complex128",
        "object": "never unpickled",
        "dict": "never unpickled",
        "stacked_3d": "[0] in an .npy file",
        "struct": "data.ts (120, 20)",
        "cell": "tc{1} (60, 20)",
        "two_vars": "ROISignals (120, 20)",
        "empty": "the file is empty",
    }
    assert reasons.keys() == expected.keys()
    assert all(text in reasons[name] for name, text in expected.items())


def test_frames_without_data_at_the_start_are_missing_frames(prepared):
    store = prepared("08_series_formats")
    row = row_of(store, "na_first2_header")
    assert store.observed(row).all()
    assert np.flatnonzero(store.missing_frames(row)).tolist() == [0, 1]


def test_a_copy_that_was_cut_short_is_an_error_with_the_row(prepared):
    reasons = left_out(prepared("09_truncated_copy"))
    assert "line 70: 6 cells where the other rows have 20" in reasons["cut_at_field"]
    assert "line 70: the file ends within the number '1.0'" in reasons["cut_in_number"]
    assert "line 51: 19 cells" in reasons["one_short_row"]
    assert len(reasons) == 3


def test_what_is_inside_is_reached_or_listed(prepared, cases):
    store = prepared("10_nested_members")
    truth = scipy.io.loadmat(cases / "10_nested_members" / "struct.mat")["data"]["ts"][0, 0]
    for name in ("b", "c"):
        np.testing.assert_allclose(store.raw(row_of(store, name)), truth, rtol=1e-5, atol=1e-5)
    with np.load(cases / "10_nested_members" / "stack.npz") as archive:
        np.testing.assert_allclose(store.raw(row_of(store, "h")), archive["ts"][0], rtol=1e-5, atol=1e-5)
    reasons = left_out(store)
    assert "tc{1} (60, 20) float64, tc{2} (60, 20) float64" in reasons["d"]
    assert "a recording of a stack is [0]" in reasons["g"]


def test_a_phenotype_of_each_visit_is_joined_on_subject_and_session(prepared):
    scores = prepared("11_two_sessions_phenotype").recordings.set_index("recording_id")["score"]
    assert scores.to_dict() == {"sub-01_ses-1": 31, "sub-01_ses-2": 33, "sub-02_ses-1": 40, "sub-02_ses-2": 42}


def test_censored_frames_are_no_dead_parcels(prepared, cases):
    store = prepared("12_censored_frames")
    for row, name in enumerate(store.recordings["recording_id"]):
        lines = (cases / "12_censored_frames" / f"{name}.tsv").read_text().splitlines()
        lines = lines[1:] if "N" in lines[0] else lines
        censored = ["n/a" in line for line in lines]
        assert store.observed(row).all()
        assert store.missing_frames(row).tolist() == censored
        assert np.isnan(store.raw(row)).all(axis=1).tolist() == censored
    assert (store.recordings["problems"] == "").all()
    assert np.isfinite(store.statistics.robust.scale).all()


def test_censored_frames_may_count_as_interpolated(prepared):
    store = prepared("12_censored_frames", "--missing_frames=interpolate")
    marked = prepared("12_censored_frames")
    assert (store.recordings["num_missing_frames"] > 0).sum() == 12
    assert not any(store.missing_frames(row).any() for row in range(len(store)))
    for row in range(len(store)):
        np.testing.assert_array_equal(store.series(row), marked.series(row))
        assert np.isfinite(store.raw(row)).all()


@pytest.mark.parametrize(
    ("name", "column", "first"),
    [("13_trailing_delimiter_table", "iq", 100), ("13b_trailing_delimiter_key_last", "age", 20)],
)
def test_a_trailing_delimiter_shifts_no_column(prepared, name, column, first):
    assert prepared(name).recordings[column].tolist() == list(range(first, first + 8))


def test_families_are_split_whole(prepared, capsys):
    prepared("14_families", "--cohort=torn")
    assert "set `columns.family: family_id`" in " ".join(capsys.readouterr().out.split())
    for key in range(5):
        manifest_key = [f"--split.key=k{key}", "--recordings.columns.family=family_id", "--recordings.phenotypes=[]"]
        table = list_recordings(load_case("14_families", *manifest_key)).table
        assert (table.groupby("family")["split"].nunique() == 1).all()


def load_case(name, *overrides):
    return load_manifest(Path(os.environ["BRAINLM_CASES"]) / name / "manifest.yaml", overrides)


def test_a_table_that_is_not_utf8_is_read(prepared):
    store = prepared("t1_latin1", '--recordings.phenotypes=["age", "sex", "city"]')
    assert store.recordings["city"].tolist()[:2] == ["Köln", "Graz"]


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("external_link.h5", "a link to another file, which is not followed"),
        ("huge_declared.h5", r"got shape \(1000000000000, 16\), expected \(frames, 20\)"),
        ("damaged_one_byte.mat", "damaged MATLAB file"),
        ("group_named.h5::g/x", r"got shape \(60, 16\), expected \(frames, 20\)"),
    ],
)
def test_hostile_containers_are_one_recording_s_problem(cases, tmp_path, file, message):
    (tmp_path / "files").mkdir()
    for path in (cases / "09_truncated_copy").glob("*"):
        (tmp_path / "files" / path.name).write_bytes(path.read_bytes())
    name, _, _ = file.partition("::")
    (tmp_path / "files" / name).write_bytes((cases / "hostile" / name).read_bytes())
    (tmp_path / "files" / "recordings.tsv").write_text(f"rec\tloc\nwhole\twhole.tsv\nodd\t{file}\n")
    overrides = [f"--root={tmp_path / 'files'}", "--recordings.file={loc}"]
    manifest = load_manifest(cases / "09_truncated_copy" / "manifest.yaml", overrides)
    store = Store(prepare(manifest, output=tmp_path / "store"))
    assert store.recordings["recording_id"].tolist() == ["whole"]
    assert pd.Series(left_out(store)).str.contains(message).all()
    assert name in left_out(store)["odd"]


def test_recordings_left_out_are_listed_and_set_the_exit_status(cases, tmp_path, capsys):
    command = ["prepare", "--config", str(cases / "09_truncated_copy" / "manifest.yaml"), "--jobs", "1"]
    with pytest.raises(SystemExit) as ended:
        main([*command, "--output", str(tmp_path / "a" / "c09")])
    assert ended.value.code == 3
    shown = capsys.readouterr().out
    assert "cut_in_number: unreadable" in shown
    assert "dropped.csv" in shown
    main([*command, "--output", str(tmp_path / "b" / "c09"), "--max_left_out", "0.8"])
