import pandas as pd
import pytest

from brainlm_lightning.data.split import assign_split, assign_splits, split_remarks, units_of

PLAN = {"key": "brainlm", "val": 0.1, "test": 0.2}


def test_assignment_is_the_same_in_every_release():
    subjects = ["0050649", "0050653", "sub-01", "sub-03", "1000011", "é"]
    golden = ["val", "train", "test", "train", "train", "val"]
    assert [assign_split(subject, **PLAN) for subject in subjects] == golden


def test_shares_hold_in_expectation():
    splits = [assign_split(f"sub-{number}", **PLAN) for number in range(20_000)]
    # Four standard deviations of a binomial share: 4 * sqrt(0.2 * 0.8 / 20000) = 0.011.
    assert splits.count("test") / 20_000 == pytest.approx(0.2, abs=0.011)
    assert splits.count("val") / 20_000 == pytest.approx(0.1, abs=0.0085)


def test_another_key_is_an_independent_split():
    subjects = [f"sub-{number}" for number in range(20_000)]
    first = {s for s in subjects if assign_split(s, **PLAN) == "test"}
    second = {s for s in subjects if assign_split(s, **PLAN | {"key": "other"}) == "test"}
    assert len(first & second) / 20_000 == pytest.approx(0.04, abs=0.006)


def test_growing_the_test_share_keeps_its_subjects():
    subjects = [f"sub-{number}" for number in range(500)]
    small = {s for s in subjects if assign_split(s, key="k", val=0.1, test=0.1) == "test"}
    large = {s for s in subjects if assign_split(s, key="k", val=0.1, test=0.3) == "test"}
    assert small < large


@pytest.mark.parametrize(
    ("change", "message"),
    [({"val": 0.9}, "together at most 1"), ({"test": -0.1}, "in \\[0, 1\\]"), ({"key": ""}, "0 bytes")],
)
def test_an_impossible_plan_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        assign_split("sub-01", **PLAN | change)


def test_a_recording_without_subject_is_refused():
    with pytest.raises(ValueError, match="empty subject_id"):
        assign_split("", **PLAN)


@pytest.mark.parametrize(("subjects", "shares"), [(30, (21, 3, 6)), (10, (7, 1, 2)), (4, (2, 1, 1)), (3, (1, 1, 1))])
def test_exact_shares_hold_in_every_small_cohort(subjects, shares):
    names = [f"sub-{number}" for number in range(subjects)]
    for key in ("a", "b", "c"):
        assigned = assign_splits(names * 2, key=key, val=0.1, test=0.2, method="exact")
        assert tuple((assigned == name).sum() for name in ("train", "val", "test")) == shares
        assert assigned.equals(assign_splits(names, key=key, val=0.1, test=0.2, method="exact"))


def test_a_family_is_one_unit_and_a_subject_without_one_is_its_own():
    table = pd.DataFrame({"subject_id": ["1", "2", "3"], "family": ["F", "F", ""]})
    assert units_of(table).tolist() == ["family F", "family F", "3"]


def test_small_cohorts_are_warned_before():
    names = [f"sub-{number}" for number in range(12)]
    plan = {"key": "k", "val": 0.1, "test": 0.2, "method": "hash"}
    warned = split_remarks(assign_splits(names, **plan), **plan)
    assert any("leaves it empty for 28% of keys" in remark or "is in 'val'" in remark for remark in warned)
    exact = plan | {"method": "exact"}
    assert split_remarks(assign_splits(names, **exact), **exact) == []
