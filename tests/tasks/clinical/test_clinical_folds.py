import numpy as np
import pytest

from brainlm_lightning.tasks.clinical.folds import FoldPlan, Units, deal, make_folds, strata_of

NAMES = [f"sub-{number:03d}" for number in range(103)]
STRATA = np.random.default_rng(0).integers(0, 3, 103)


def units(testable=None, blocks=None, order=slice(None)):
    names = np.array(NAMES)[order]
    testable = np.ones(103, dtype=bool) if testable is None else testable
    return Units(names.tolist(), STRATA[order], testable[order], None if blocks is None else blocks[order])


@pytest.mark.parametrize("number", [2, 5, 7])
def test_hands_are_even_in_all_and_in_every_stratum(number):
    hands = deal(NAMES, STRATA, number, "salt")
    counts = np.array([np.bincount(hands[which], minlength=number) for which in np.eye(3, dtype=bool)[:, STRATA]])
    assert np.ptp(counts, axis=1).max() <= 1
    assert np.ptp(counts.sum(0)) <= 1


def test_everybody_tests_once_in_each_repeat_and_never_trains_there():
    folds = make_folds(units(), FoldPlan(number=5, repeats=2))
    assert [fold.repeat for fold in folds] == [0] * 5 + [1] * 5
    for repeat in (folds[:5], folds[5:]):
        assert sorted(np.concatenate([fold.test for fold in repeat]).tolist()) == list(range(103))
    for fold in folds:
        together = np.concatenate([fold.train, fold.val, fold.test])
        assert sorted(together.tolist()) == list(range(103))
        assert len(fold.val) / (len(fold.train) + len(fold.val)) == pytest.approx(0.15, abs=0.03)
    assert any(not np.array_equal(a.test, b.test) for a, b in zip(folds[:5], folds[5:], strict=True))


def test_who_may_not_test_trains_or_validates_in_every_fold():
    seen = np.arange(103) % 2 == 0
    folds = make_folds(units(testable=~seen), FoldPlan(number=4))
    assert sorted(np.concatenate([fold.test for fold in folds]).tolist()) == np.flatnonzero(~seen).tolist()
    assert all(np.isin(np.flatnonzero(seen), np.concatenate([fold.train, fold.val])).all() for fold in folds)


def test_folds_follow_from_names_and_not_from_their_order():
    order = np.random.default_rng(1).permutation(103)
    for here, there in zip(make_folds(units(), FoldPlan()), make_folds(units(order=order), FoldPlan()), strict=True):
        for part in ("train", "val", "test"):
            assert sorted(order[getattr(there, part)]) == sorted(getattr(here, part))


def test_a_site_that_is_left_out_is_a_fold():
    site = np.array(["b", "a", "c"])[STRATA]
    folds = make_folds(units(blocks=site), FoldPlan(leave_out="site"))
    assert [fold.name for fold in folds] == ["a", "b", "c"]
    assert all(set(site[fold.test]) == {fold.name} for fold in folds)
    assert all(fold.name not in site[np.concatenate([fold.train, fold.val])] for fold in folds)


def test_strata_of_a_number_are_its_quantiles():
    values = np.random.default_rng(2).standard_normal(100)
    strata = strata_of(values, 5)
    assert np.bincount(strata).tolist() == [10] * 10
    assert all(values[strata == low].max() <= values[strata == low + 1].min() for low in range(9))
    assert len(set(strata_of(values[:12], 5).tolist())) == 2


@pytest.mark.parametrize(
    ("plan", "testable", "message"),
    [
        (FoldPlan(number=5), 4, "4 subjects may test, fewer than 5 folds"),
        (FoldPlan(number=2), 0, "0 subjects may test"),
        (FoldPlan(leave_out="site"), 1, "'site' has 1 values among 1 subjects"),
    ],
)
def test_too_few_subjects_are_one_error(plan, testable, message):
    blocks = np.array(["a"] * 103) if plan.leave_out else None
    with pytest.raises(ValueError, match=message):
        make_folds(units(testable=np.arange(103) < testable, blocks=blocks), plan)


@pytest.mark.parametrize(
    "plan",
    [
        {"number": 1},
        {"repeats": 0},
        {"validation": 0},
        {"leave_out": "site", "repeats": 2},
        {"leave_out": "site", "protocol": "brainmarks"},
    ],
)
def test_a_plan_that_makes_no_folds_is_refused(plan):
    with pytest.raises(ValueError, match=r"folds|brainmarks"):
        FoldPlan(**plan)


def test_brainmarks_splits_anew_in_every_repeat_with_the_same_share_of_each_label():
    folds = make_folds(units(), FoldPlan(protocol="brainmarks", number=5, repeats=20))
    assert [fold.repeat for fold in folds] == list(range(20))
    for fold in folds:
        assert set(fold.test) & {*fold.train, *fold.val} == set()
        assert len(fold.test) + len(fold.train) + len(fold.val) == 103
        shares = np.bincount(STRATA[fold.test]) / np.bincount(STRATA)
        assert shares == pytest.approx([0.2] * 3, abs=0.03)
    assert len({tuple(fold.test) for fold in folds}) == 20
    tested = np.bincount(np.concatenate([fold.test for fold in folds]), minlength=103)
    assert tested.mean() == pytest.approx(4, abs=0.2)  # of 20
    assert tested.max() < 13
