from itertools import product

import numpy as np
import pytest
from numpy.random import default_rng
from scipy.stats import kstest, permutation_test

from brainlm_lightning.tasks.contrasts.score import compare_groups

NAMES = np.array([f"s{i:02}" for i in range(16)])


def test_unpaired_p_is_scipys():
    a, b = default_rng(0).normal(0.8, 1, 7), default_rng(1).normal(size=9)
    found = compare_groups(np.r_[a, b][:, None], np.arange(16) < 7, NAMES, 20_000)
    expected = permutation_test(
        (a, b), lambda x, y, axis: x.mean(axis) - y.mean(axis), vectorized=True, n_resamples=20_000, rng=0
    )
    assert found.difference[0] == pytest.approx(a.mean() - b.mean())
    assert found.p[0] == pytest.approx(expected.pvalue, abs=0.01)
    pooled = np.sqrt((6 * a.var(ddof=1) + 8 * b.var(ddof=1)) / 14)
    assert found.effect_size[0] == pytest.approx((a.mean() - b.mean()) / pooled)


def test_paired_p_is_that_of_all_flips():
    a, b = default_rng(2).normal(0.5, 1, 8), default_rng(3).normal(size=8)
    signs = np.array(list(product([1, -1], repeat=8)))
    exact = np.mean(np.abs(signs @ (a - b)) >= np.abs((a - b).sum()) - 1e-12)
    found = compare_groups(np.r_[a, b][:, None], np.arange(16) < 8, np.tile(NAMES[:8], 2), 20_000)
    assert found.p[0] == pytest.approx(exact, abs=0.01)
    assert found.num_subjects == (8, 8, 8)


def test_pairing_finds_what_lies_under_differences_between_subjects():
    between = 10 * default_rng(4).normal(size=8)
    values = np.r_[between + 0.5 + 0.1 * default_rng(5).normal(size=8), between][:, None]
    paired = compare_groups(values, np.arange(16) < 8, np.tile(NAMES[:8], 2), 999)
    alone = compare_groups(values, np.arange(16) < 8, NAMES, 999)
    assert paired.p[0] < 0.02 < 0.5 < alone.p[0]


def test_recordings_of_a_subject_count_as_one():
    values = default_rng(6).normal(size=(16, 3))
    in_a = np.arange(16) < 6
    once = compare_groups(values, in_a, NAMES, 199)
    rows = np.r_[np.arange(16), np.full(50, 0)]
    again = compare_groups(values[rows], in_a[rows], NAMES[rows], 199)
    np.testing.assert_allclose(again.difference, once.difference)
    np.testing.assert_allclose(again.p, once.p)


@pytest.mark.parametrize("both", [0, 6, 12])
def test_under_the_null_p_is_uniform_and_errors_stay_at_their_rate(both):
    subjects = np.r_[NAMES[:12], NAMES[:both], [f"t{i}" for i in range(12 - both)]]
    found = []
    for seed in range(200):
        person = {name: default_rng([seed, 1, i]).normal(size=5) for i, name in enumerate(np.unique(subjects))}
        values = np.stack([person[name] for name in subjects]) + default_rng([seed, 2]).normal(size=(24, 5))
        found.append(compare_groups(values, np.arange(24) < 12, subjects, 199, seed))
    assert kstest([test.p[0] for test in found], "uniform").pvalue > 0.01
    # 200 data sets at 5 %: 10 ± 3.1, below 20 in all but one of a thousand
    assert sum((test.p_max < 0.05).any() for test in found) < 20
    assert sum((test.p_fdr < 0.05).any() for test in found) < 20


def test_a_difference_is_found_after_every_correction_and_its_interval_holds_it():
    values = default_rng(7).normal(size=(60, 40))
    values[:30, :4] += 2
    found = compare_groups(values, np.arange(60) < 30, np.arange(60), 999)
    assert (found.p_fdr[:4] < 0.05).all()
    assert (found.p_max[:4] < 0.05).all()
    assert ((found.low < found.difference) & (found.difference < found.high)).all()
    assert (found.p <= found.p_fdr + 1e-12).all()
    assert (found.p <= found.p_max + 1e-12).all()


def test_missing_values_are_left_out_and_groups_without_any_have_no_p():
    values = default_rng(8).normal(size=(16, 3))
    values[:8, 1] = values[:, 2] = np.nan
    values[0, 0] = np.nan
    found = compare_groups(values, np.arange(16) < 8, NAMES, 199)
    assert found.difference[0] == pytest.approx(values[1:8, 0].mean() - values[8:, 0].mean())
    for parcel in (1, 2):
        nothing = [found.difference, found.p, found.p_fdr, found.p_max, found.low, found.z, found.effect_size]
        assert np.isnan([statistic[parcel] for statistic in nothing]).all()


def test_no_difference_at_all_is_no_finding():
    found = compare_groups(np.ones((16, 2)), np.arange(16) < 8, NAMES, 199)
    np.testing.assert_array_equal(found.p, 1)
    np.testing.assert_array_equal(found.p_max, 1)


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match="0 recordings in group a and 16 in group b"):
        compare_groups(np.ones((16, 2)), np.zeros(16, bool), NAMES)
    with pytest.raises(ValueError, match=r"values \(16, 2\), groups \(15,\)"):
        compare_groups(np.ones((16, 2)), np.zeros(15, bool), NAMES)
