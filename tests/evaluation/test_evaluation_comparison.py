import numpy as np
import pytest
from numpy.random import default_rng
from scipy.stats import wilcoxon

from brainlm_lightning.evaluation.comparison import compare, correct, paired_comparison, subject_r2, with_corrected_p

SUBJECTS = np.repeat([f"s{i:02}" for i in range(12)], 2)


def sums_with_noise(noise, seed=1):
    """Sums (R, P, K) of one fixed truth, predicted with the given noise."""
    y = default_rng(0).normal(size=(len(SUBJECTS), 4, 30))
    y_hat = y + noise * default_rng(seed).normal(size=y.shape)
    return np.stack([np.ones_like(y), y, y * y, y_hat, y_hat * y_hat, y * y_hat], axis=-1).sum(2)


def test_a_paired_comparison_is_the_mean_difference_and_wilcoxons_p():
    a, b = default_rng(0).normal(size=(2, 30))
    found = paired_comparison(a + 0.3, b)
    assert found.difference == pytest.approx(np.mean(a + 0.3 - b))
    assert found.p == wilcoxon(a + 0.3, b).pvalue
    assert found.low < found.difference < found.high
    # the bootstrap's standard error of a mean is sd/√n: the interval's half width is about 1.96 of them
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * np.std(a - b) / np.sqrt(30), rel=0.1)


def test_swapping_the_methods_swaps_the_sign_alone():
    a, b = default_rng(2).normal(size=(2, 20))
    forth, back = paired_comparison(a, b), paired_comparison(b, a)
    assert (back.difference, back.p) == (pytest.approx(-forth.difference), forth.p)
    assert (back.low, back.high) == (pytest.approx(-forth.high), pytest.approx(-forth.low))


def test_pairing_finds_a_small_difference_under_large_differences_between_subjects():
    rng = default_rng(3)
    between = 10 * rng.normal(size=25)
    assert paired_comparison(between + 0.1 + 0.05 * rng.normal(size=25), between).p < 1e-5


def test_equal_methods_missing_subjects_and_no_subjects():
    same = paired_comparison([0.1, 0.2, 0.3], [0.1, 0.2, 0.3])
    assert (same.difference, same.low, same.high, same.p) == (0, 0, 0, 1)
    partial = paired_comparison([1.0, np.nan, 3.0, 4.0], [0.0, 0.0, np.nan, 1.0])
    assert (partial.difference, partial.num_subjects) == (2.0, 2)
    assert np.isnan(paired_comparison([np.nan], [1.0]).p)
    with pytest.raises(ValueError, match="one score per subject in both"):
        paired_comparison([1.0, 2.0], [1.0])


def test_subject_r2_pools_a_subjects_recordings_and_fails_as_a_whole():
    sums = sums_with_noise(0.5)
    y_mean = sums[:2, :, 1].sum() / sums[:2, :, 0].sum()
    residual = (sums[:2, :, 2] - 2 * sums[:2, :, 5] + sums[:2, :, 4]).sum()
    expected = 1 - residual / (sums[:2, :, 2].sum() - y_mean * sums[:2, :, 1].sum())
    assert subject_r2(sums, SUBJECTS)[0] == pytest.approx(expected, rel=1e-12)
    sums[5, 0, 3] = np.nan
    assert np.isnan(subject_r2(sums, SUBJECTS)).all()


def test_compare_names_every_other_method_and_gives_the_difference_of_their_r2():
    sums = {"lstm": sums_with_noise(0.8), "mae": sums_with_noise(0.4), "ar": sums_with_noise(0.4, seed=2)}
    found = compare(sums, SUBJECTS)
    assert {name.split("/")[0] for name in found} == {"mae_minus_lstm", "mae_minus_ar"}
    expected = (subject_r2(sums["mae"], SUBJECTS) - subject_r2(sums["lstm"], SUBJECTS)).mean()
    assert found["mae_minus_lstm/r2_subject"] == pytest.approx(expected)
    assert found["mae_minus_lstm/r2_subject_low"] > 0
    assert found["mae_minus_lstm/p"] < 0.001 < 0.05 < found["mae_minus_ar/p"]
    assert found["mae_minus_ar/num_subjects"] == 12


def test_comparing_over_different_hidden_values_is_refused():
    other = sums_with_noise(0.8)
    other[0, 0, 0] -= 1
    with pytest.raises(ValueError, match=r"2880 hidden values and lstm on 2879.*same masks"):
        compare({"mae": sums_with_noise(0.4), "lstm": other}, SUBJECTS)
    with pytest.raises(ValueError, match=r"no method 'vae' to compare; got \['lstm'\]"):
        compare({"lstm": other}, SUBJECTS, method="vae")


def test_correction_is_benjamini_hochberg_by_hand_and_leaves_untested_ones_out():
    # sorted p × m / rank, then the running minimum from the largest: 0.01·4, min(0.03, 0.04)·4/…, …
    np.testing.assert_allclose(correct([0.04, 0.01, np.nan, 0.03, 0.5]), [0.16 / 3, 0.04, np.nan, 0.16 / 3, 0.5])
    assert correct([]).shape == (0,)
    assert np.isnan(correct([np.nan])).all()


def test_all_comparisons_of_a_test_run_are_corrected_together():
    metrics = {"test/a/x/mae_minus_ar/p": 0.02, "test/b/x/mae_minus_ar/p": 0.04, "test/a/x/mae/r2_pooled": 0.3}
    found = with_corrected_p(metrics)
    assert found["test/a/x/mae_minus_ar/p_corrected"] == pytest.approx(0.04)
    assert found["test/b/x/mae_minus_ar/p_corrected"] == pytest.approx(0.04)
    assert found["test/a/x/mae/r2_pooled"] == 0.3
    assert len(found) == 5
