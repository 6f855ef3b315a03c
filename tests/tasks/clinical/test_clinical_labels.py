import numpy as np
import pandas as pd
import pytest
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.utils.class_weight import compute_class_weight

from brainlm_lightning.tasks.clinical.folds import FoldPlan
from brainlm_lightning.tasks.clinical.labels import Target, TargetScale, class_weights, read_labels
from brainlm_lightning.tasks.clinical.recording_folds import recording_folds

TABLE = pd.DataFrame(
    {
        "subject_id": [f"s{number // 2}" for number in range(20)],  # two recordings each
        "age": np.linspace(20, 60, 20),
        "score": [np.nan, np.inf, *range(18)],
        "sex": ["F", "F", "M", "M", None] + ["M"] * 5 + ["F"] * 10,
        "torn": ["a", "b"] * 10,
        "same": 3,
        "empty": np.nan,
        "words": ["1", "two"] * 10,
        "negative": np.linspace(-2, 2, 20),
        "site": [f"site{number // 10}" for number in range(20)],
        "household": [f"f{number // 4}" for number in range(20)],
    }
)
VALUES = np.random.default_rng(0).lognormal(2, 1, 50)
SCALERS = {
    "zscore": lambda y: StandardScaler().fit(VALUES[:, None]).transform(y[:, None])[:, 0],
    "minmax": lambda y: MinMaxScaler().fit(VALUES[:, None]).transform(y[:, None])[:, 0],
    "log_minmax": lambda y: MinMaxScaler().fit(np.log1p(VALUES)[:, None]).transform(np.log1p(y)[:, None])[:, 0],
}


@pytest.mark.parametrize("name", SCALERS)
def test_a_scale_is_scikit_learns_and_has_an_exact_way_back(name):
    scale, unseen = TargetScale.fit(name, VALUES), np.array([0.0, 3.0, 500.0])
    assert scale.forward(unseen) == pytest.approx(SCALERS[name](unseen), rel=1e-12)
    assert scale.inverse(scale.forward(unseen)) == pytest.approx(unseen, abs=1e-9)


def test_class_weights_are_scikit_learns():
    codes = np.array([0.0] * 3 + [1.0] * 7 + [2.0] * 10)
    assert class_weights(codes, 3) == pytest.approx(compute_class_weight("balanced", classes=np.arange(3), y=codes))
    with pytest.raises(ValueError, match=r"classes have \[3, 7, 10, 0\] training recordings"):
        class_weights(codes, 4)


def test_missing_labels_are_unknown():
    assert read_labels(TABLE, Target("score")).known_R.sum() == 18
    sex = read_labels(TABLE, Target("sex", "classes"))
    assert sex.classes == ("F", "M")
    assert sex.values_R[:4].tolist() == [0, 0, 1, 1]
    assert sex.known_R.sum() == 19


WRONG = {
    "absent": (Target("iq"), "no phenotype 'iq' in the cohort; its table has subject_id, age"),
    "constant": (Target("same"), "'same' is .*3.* everywhere"),
    "empty": (Target("empty"), "'empty' is empty"),
    "words": (Target("words"), "not a number in 10 of 20 recordings, 'two' first"),
    "logarithm": (Target("negative", "log_minmax"), "goes down to -2"),
    "a number as classes": (Target("age", "classes"), "20 classes in 20 recordings"),
    "two classes": (Target("torn", "classes"), "10 subjects are in several classes of 'torn'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_column_that_is_no_target_is_one_error(case):
    target, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        read_labels(TABLE, target)


AGE = Target("age")


def nobody(recordings):
    return np.zeros(len(recordings), dtype=bool)


def folds(plan, seen=nobody, target=AGE, rows=slice(None)):
    rows = np.arange(len(TABLE))[rows]
    return recording_folds(TABLE, read_labels(TABLE, target), rows, plan, seen)


def sides(fold, column):
    return set(TABLE[column].iloc[fold.test]) & set(TABLE[column].iloc[np.concatenate([fold.train, fold.val])])


def test_a_subjects_recordings_and_a_familys_subjects_stay_together():
    assert all(sides(fold, "subject_id") == set() for fold in folds(FoldPlan(number=5)))
    related = folds(FoldPlan(number=2, family="household"))
    assert all(sides(fold, "household") == set() for fold in related)
    assert sorted(np.concatenate([fold.test for fold in related]).tolist()) == list(range(20))


def test_the_families_of_the_cohort_stay_together_without_being_named():
    table = TABLE.assign(family=TABLE["household"].where(TABLE["household"] != "f4", ""))
    plan = FoldPlan(number=2)
    dealt = recording_folds(table, read_labels(table, AGE), np.arange(20), plan, nobody)
    assert all(sides(fold, "household") <= {"f4"} for fold in dealt)  # of f4 each subject is its own unit
    assert sorted(np.concatenate([fold.test for fold in dealt]).tolist()) == list(range(20))


def test_subjects_of_the_pretraining_are_in_no_test_fold_unless_asked_for():
    def seen(recordings):
        return recordings["subject_id"].isin(["s0", "s1", "s2"]).to_numpy()

    unseen = folds(FoldPlan(number=3), seen)
    assert set(np.concatenate([fold.test for fold in unseen]).tolist()) == set(range(6, 20))
    assert all(np.isin(range(6), np.concatenate([fold.train, fold.val])).all() for fold in unseen)
    everyone = folds(FoldPlan(number=3, test_on="all"), seen)
    assert len(np.concatenate([fold.test for fold in everyone])) == 20


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (FoldPlan(leave_out="scanner"), "folds.leave_out names 'scanner'"),
        (FoldPlan(family="empty"), "'empty' is empty for 20 of 20"),
        (FoldPlan(leave_out="torn"), "10 subjects have several values of 'torn'"),
        (FoldPlan(leave_out="torn", family="subject_id"), "several values"),
    ],
)
def test_a_column_that_deals_nobody_is_one_error(plan, message):
    with pytest.raises(ValueError, match=message):
        folds(plan)


def test_classes_with_fewer_subjects_than_folds_are_one_error():
    rows = np.flatnonzero(TABLE["sex"].notna())
    with pytest.raises(ValueError, match=r"by class: F 6, M 4; 5 folds need 5 of each"):
        folds(FoldPlan(number=5), target=Target("sex", "classes"), rows=rows)


def test_named_classes_are_told_apart_in_their_order_and_others_left_out():
    table = TABLE.assign(state=["deep", "light", "awake", "light"] * 5)
    target = Target("state", "classes", ("light", "deep"), paired=True)
    labels = read_labels(table, target)
    assert labels.classes == ("light", "deep")
    whole = {f"s{number}" for number in range(0, 10, 2)}  # the others have `awake` and `light`
    expected = [{"light": 0.0, "deep": 1.0}.get(state, np.nan) for state in table["state"]]
    expected = [value if name in whole else np.nan for name, value in zip(table["subject_id"], expected, strict=True)]
    assert labels.values_R.tolist() == pytest.approx(expected, nan_ok=True)
    usable = np.arange(20) != 0  # of s0 one is left
    assert np.isnan(read_labels(table, target, usable).values_R[:2]).all()
    assert target.name == "state_light_or_deep_paired"


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (("torn", "classes", ("a", "c")), "names 'c'; 'torn' has a, b"),
        (("sex", "classes", ("F", "M"), True), "no subject has usable recordings of all of F, M"),
        (("torn", "zscore", (), True), "named or paired classes take"),
        (("torn", "classes", ("a",)), "expected two or more"),
    ],
)
def test_classes_that_cannot_be_told_apart_are_one_error(target, message):
    with pytest.raises(ValueError, match=message):
        read_labels(TABLE, Target(*target))


def test_paired_subjects_test_once_with_all_of_their_recordings():
    labels = read_labels(TABLE, Target("torn", "classes", ("a", "b"), paired=True))
    folds = recording_folds(
        TABLE, labels, np.arange(20), FoldPlan(number=5), lambda people: np.zeros(len(people), bool)
    )
    for fold in folds:
        assert labels.values_R[fold.test].mean() == 0.5
        assert set(TABLE["subject_id"][fold.test]) & set(TABLE["subject_id"][fold.train]) == set()
    assert sorted(np.concatenate([fold.test for fold in folds])) == list(range(20))
