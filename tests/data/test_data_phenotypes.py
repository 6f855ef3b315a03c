import numpy as np
import pandas as pd
import pytest

from brainlm_lightning.data.listing import list_recordings
from brainlm_lightning.data.manifest import Manifest
from brainlm_lightning.data.sources import AtlasSource, PhenotypeSource, RecordingColumns, RecordingsSource

SUBJECTS = [f"sub-{number:02d}" for number in range(1, 13)]
VISITS = [(f"s{subject}", f"ses-{visit}") for subject in (1, 2, 3) for visit in (1, 2)]


@pytest.fixture
def listed(tmp_path):
    """Lists recordings of the subjects (or visits), with phenotypes of another table."""

    def run(rows, columns, visits=False, source=None, **manifest):
        if visits:
            people = pd.DataFrame(VISITS, columns=["sub", "ses"]).assign(rec=range(6))
        else:
            people = pd.DataFrame({"sub": SUBJECTS, "rec": SUBJECTS})
        people.to_csv(tmp_path / "r.tsv", sep="\t", index=False)
        pd.DataFrame(rows).to_csv(tmp_path / "p.csv", index=False)
        named = RecordingColumns("rec", "sub", session="ses" if visits else None)
        return list_recordings(
            Manifest(
                cohort="toy",
                root=str(tmp_path),
                atlas=AtlasSource("a", "atlas.csv", "index", "label", ["x", "y", "z"]),
                recordings=RecordingsSource("r.tsv", "{rec}.txt", named, tr_s=2.0),
                phenotypes=PhenotypeSource("p.csv", "id", columns, **(source or {})),
                **manifest,
            )
        )

    return run


def ages(**odd):
    """Ages 21, 22 … of the subjects, but for some."""
    return {"id": SUBJECTS, "age": [odd.get(f"at{place}", 21 + place) for place in range(12)]}


def test_no_match_at_all_is_an_error_that_lists_both_sides(listed):
    with pytest.raises(ValueError, match=r"not one subject .* 12 without a row: 'sub-01', .*2 rows without .*'A', 'B'"):
        listed({"id": ["A", "B"], "age": [1, 2]}, ["age"])


@pytest.mark.parametrize("form", ["{}", "{}.0", "{:05d}", "SUB_{}"])
def test_near_names_are_offered_and_accepted_where_told(listed, form):
    rows = {"id": [form.format(number) for number in range(1, 13)], "age": range(21, 33)}
    with pytest.raises(ValueError, match=r"'sub-01' \(there: .*Set `phenotypes.match: loose`"):
        listed(rows, ["age"])
    listing = listed(rows, ["age"], source={"match": "loose"})
    assert listing.table["age"].tolist() == list(range(21, 33))
    assert any("12 subjects matched loosely" in remark for remark in listing.remarks)


def test_sessions_may_be_written_otherwise_where_told(listed):
    rows = {"id": ["s1", "s1", "s2", "s2", "s3", "s3"], "visit": ["1", "02"] * 3, "x": range(6)}
    with pytest.raises(ValueError, match=r"'s1 ses-1' \(there: 's1 1'\)"):
        listed(rows, ["x"], visits=True, source={"session": "visit"})
    found = listed(rows, ["x"], visits=True, source={"session": "visit", "match": "loose"})
    assert found.table["x"].tolist() == list(range(6))


def test_one_row_a_person_holds_for_every_visit(listed):
    rows = {"id": ["s1", "s2", "s3"], "x": [10, 20, 30]}
    assert listed(rows, ["x"], visits=True).table["x"].tolist() == [10, 10, 20, 20, 30, 30]


def test_a_row_a_visit_without_its_key_is_an_error(listed):
    rows = {"id": ["s1", "s1", "s2"], "visit": [1, 2, 1], "x": [1, 2, 3]}
    with pytest.raises(ValueError, match=r"id 's1' stands more than once; .*name the column in `phenotypes.session`"):
        listed(rows, ["x"], visits=True)


@pytest.mark.parametrize("code", [-9999, -999, "n/a", "NULL", ".", "-", "#N/A", " "])
def test_usual_codes_are_missing(listed, code):
    table = listed(ages(at3=code), ["age"]).table
    expected = np.arange(21.0, 33.0)
    expected[3] = np.nan
    np.testing.assert_array_equal(table["age"].to_numpy(float), expected)


@pytest.mark.parametrize("code", [999, -99, -1, 9999])
def test_suspicious_values_are_said_and_missing_where_told(listed, code):
    listing = listed(ages(at3=code), ["age"])
    assert listing.table["age"][3] == code
    assert any(f"1 × {code} is suspicious" in remark for remark in listing.remarks)
    told = listed(ages(at3=code), ["age"], missing_values=[str(code)])
    assert told.table["age"].isna().tolist() == [place == 3 for place in range(12)]
    assert not any("suspicious" in remark for remark in told.remarks)


def test_values_of_a_scale_through_zero_are_no_codes(listed):
    listing = listed({"id": SUBJECTS, "z": range(-6, 6)}, ["z"])
    assert listing.table["z"].tolist() == list(range(-6, 6))
    assert not any("suspicious" in remark for remark in listing.remarks)


def test_a_word_among_numbers_is_said(listed):
    listing = listed(ages(at3="refused"), ["age"])
    assert any("also ['refused']" in remark for remark in listing.remarks)


def test_classes_are_counted_and_recoded(listed):
    rows = {"id": SUBJECTS, "sex": ["m", "M", "F"] * 4}
    with pytest.raises(ValueError, match=r"sex: F 4, M 4, m 4; .*differ in case alone.*recode: \{sex: \{"):
        listed(rows, ["sex"])
    listing = listed(rows, ["sex"], recode={"sex": {"m": "M"}})
    assert "sex: F 4, M 8" in listing.remarks


def test_a_column_that_is_not_there_is_answered_with_a_near_one(listed):
    with pytest.raises(ValueError, match=r"no column \['Age'\]; .*did you mean \['age'\]"):
        listed(ages(), ["Age"])
