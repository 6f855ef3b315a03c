import numpy as np
import pytest
from numpy.random import default_rng

from brainlm_lightning.evaluation.metrics import r2, scores
from brainlm_lightning.evaluation.resampling import percentile_interval, subject_bootstrap, sum_by_subject


def mean_of(totals):
    return totals[..., 0] / totals[..., 1]


def recording_sums(subjects, seed=0, parcels=3, frames=20):
    """Sums (R, P, K) of white signals, noisier predictions for later subjects."""
    rng = default_rng(seed)
    noise = np.array([0.2 + 0.3 * int(subject) for subject in subjects])[:, None, None]
    y = rng.normal(size=(len(subjects), parcels, frames))
    y_hat = y + noise * rng.normal(size=y.shape)
    return np.stack([np.ones_like(y), y, y * y, y_hat, y_hat * y_hat, y * y_hat], axis=-1).sum(2)


def test_sum_by_subject_adds_each_subjects_recordings_in_sorted_order():
    total = sum_by_subject([[1.0, 2.0], [10.0, 20.0], [100.0, 200.0]], ["b", "a", "b"])
    np.testing.assert_array_equal(total, [[10.0, 20.0], [101.0, 202.0]])
    with pytest.raises(ValueError, match="expected one subject each"):
        sum_by_subject(np.ones((3, 2)), ["a", "b"])


def test_resampled_statistics_equal_a_loop_that_copies_recordings():
    subjects = np.array(list("0012234"))
    sums = recording_sums(subjects)
    weights = np.concatenate([default_rng(5).multinomial(5, [0.2] * 5, size=100)])
    copied = [
        r2(np.concatenate([sums[subjects == str(s)] for s in range(5) for _ in range(row[s])]).sum((0, 1)))
        for row in weights
    ]
    draws = subject_bootstrap(lambda x: r2(x.sum(1)), sum_by_subject(sums, subjects), num_resamples=100, seed=5)
    np.testing.assert_allclose(draws, copied, rtol=1e-12)


def test_draws_in_several_chunks_are_a_function_of_the_seed_and_all_different():
    sums = np.column_stack([default_rng(0).normal(size=9), np.ones(9)])
    draws = subject_bootstrap(mean_of, sums, num_resamples=250, seed=1)
    np.testing.assert_array_equal(draws, subject_bootstrap(mean_of, sums, num_resamples=250, seed=1))
    assert draws.shape == (250,)
    assert not np.array_equal(draws[:100], draws[100:200])
    assert not np.array_equal(draws, subject_bootstrap(mean_of, sums, num_resamples=250, seed=2))


def test_recordings_of_one_subject_move_together():
    subjects = list("01234567")
    sums = recording_sums(subjects)
    once = scores(sums, subjects, num_resamples=100)
    thrice = scores(np.concatenate([sums] * 3), subjects * 3, num_resamples=100)
    for name in ("r2_pooled", "r2_recording", "r2_parcel"):  # copies of a recording are no new evidence
        assert thrice[f"{name}_low"] == pytest.approx(once[f"{name}_low"], rel=1e-12)
        assert thrice[f"{name}_high"] == pytest.approx(once[f"{name}_high"], rel=1e-12)


def test_the_order_of_recordings_changes_nothing():
    subjects = np.array(list("0012234"))
    sums, order = recording_sums(subjects), default_rng(1).permutation(7)
    shuffled = scores(sums[order], subjects[order], num_resamples=50)
    assert shuffled == pytest.approx(scores(sums, subjects, num_resamples=50), rel=1e-12)


def coverage(subjects, repeats):
    """How often the interval of 40 subjects' mean holds the true 0; a subject's 3 recordings are nearly alike."""
    rng, covered = default_rng(0), 0
    for seed in range(repeats):
        values = np.repeat(rng.normal(size=40), 3) + 0.1 * rng.normal(size=120)
        sums = sum_by_subject(np.column_stack([values, np.ones(120)]), subjects)
        low, high = percentile_interval(subject_bootstrap(mean_of, sums, 200, seed), len(sums))
        covered += low <= 0 <= high
    return covered / repeats


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    # 0.930 over 12,000 data sets, where Student's interval has 0.951: no correction for 40 subjects costs 0.01 and
    # 200 draws in place of many another 0.01. Over 1500 data sets the share has a standard deviation of 0.0066.
    share = coverage(np.repeat(np.arange(40), 3), repeats=1500)
    assert share == pytest.approx(0.930, abs=3 * 0.0066)


def test_taking_recordings_for_independent_would_be_too_sure():
    assert coverage(np.arange(120), repeats=300) < 0.85


def test_undefined_draws_are_left_out_of_the_interval_and_all_undefined_gives_none():
    draws = np.column_stack([np.arange(101.0), np.full(101, np.nan), np.r_[np.arange(100.0), np.nan]])
    low, high = percentile_interval(draws, num_subjects=5)
    np.testing.assert_allclose([low[0], high[0]], [2.5, 97.5])
    np.testing.assert_allclose([low[2], high[2]], np.percentile(np.arange(100), [2.5, 97.5]))
    assert np.isnan([low[1], high[1]]).all()
    assert np.isnan(percentile_interval(np.ones(10), num_subjects=1)).all()
    assert np.isnan(percentile_interval(np.full(10, np.nan), num_subjects=9)).all()
