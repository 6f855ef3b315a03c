"""The subjects of several splits as one sample: the same numbers as if one test had seen them all."""

from pathlib import Path

import numpy as np
import pytest

from brainlm_lightning.evaluation.comparison import compare
from brainlm_lightning.evaluation.metrics import scores
from brainlm_lightning.evaluation.pooling import pooled, pooled_runs
from brainlm_lightning.evaluation.resampling import sum_by_subject

WHERE = "test/cohort/hidden0.5"
PARCELS = 3


def sums_of(prediction, truth):
    """Six sums over values, (recordings, parcels, 6)."""
    y, p = truth, prediction
    parts = (np.ones_like(y), y, y * y, p, p * p, y * p)
    return np.stack([part.sum(-1) for part in parts], axis=-1)


@pytest.fixture
def cohort():
    """Twelve recordings of eight subjects, two methods."""
    random = np.random.default_rng(0)
    subjects = np.array([f"sub-{number % 8}" for number in range(12)])
    truth = random.standard_normal((12, PARCELS, 40))
    noise = random.standard_normal((2, *truth.shape)) * np.array([0.5, 0.8])[:, None, None, None]
    return subjects, {name: sums_of(truth + own, truth) for name, own in zip(("mae", "zero"), noise, strict=True)}


def arrays_of(subjects, sums, kept):
    """What a test of these recordings keeps."""
    chosen = np.isin(subjects, kept)
    arrays = {f"{WHERE}/subject_U": np.unique(subjects[chosen])}
    for name, values in sums.items():
        arrays[f"{WHERE}/{name}/sums_UK"] = sum_by_subject(values[chosen], subjects[chosen]).sum(1)
    return arrays


def test_two_splits_give_the_numbers_of_one_test_of_all_their_subjects(cohort):
    subjects, sums = cohort
    names = np.unique(subjects)
    found = pooled([arrays_of(subjects, sums, names[:3]), arrays_of(subjects, sums, names[3:])], ["mae", "mae"])
    whole = scores(sums["mae"].sum(1)[:, None], subjects)
    for score in ("r2_pooled", "r2_pooled_low", "r2_pooled_high", "pearson_r_pooled", "mse_pooled"):
        assert found[f"{WHERE}/mae/{score}"] == pytest.approx(whole[score], abs=1e-12)
    assert found[f"{WHERE}/mae/num_subjects"] == 8
    for name, value in compare(sums, subjects, "mae").items():
        assert found[f"{WHERE}/{name}"] == pytest.approx(value, abs=1e-12)
    assert found[f"{WHERE}/mae_minus_zero/p_corrected"] == found[f"{WHERE}/mae_minus_zero/p"] < 0.05


def test_a_subject_that_tests_twice_counts_once(cohort):
    subjects, sums = cohort
    names = np.unique(subjects)
    runs = [arrays_of(subjects, sums, names[:5]), arrays_of(subjects, sums, names[4:])]
    found = pooled(runs, ["mae", "mae"])
    assert found[f"{WHERE}/mae_minus_zero/num_subjects"] == 8
    twice = np.concatenate([subjects[np.isin(subjects, part)] for part in (names[:5], names[4:])])
    again = {key: np.concatenate([value[np.isin(subjects, part)] for part in (names[:5], names[4:])])
             for key, value in sums.items()}  # fmt: skip
    expected = compare(again, twice, "mae")["mae_minus_zero/r2_subject"]
    assert found[f"{WHERE}/mae_minus_zero/r2_subject"] == pytest.approx(expected, abs=1e-12)


def test_what_one_run_lacks_is_left_out(cohort):
    subjects, sums = cohort
    names = np.unique(subjects)
    runs = [arrays_of(subjects, sums, names[:4]), arrays_of(subjects, {"mae": sums["mae"]}, names[4:])]
    found = pooled(runs, ["mae", "mae"])
    assert f"{WHERE}/mae/r2_pooled" in found
    assert not any("zero" in name for name in found)


def test_a_single_run_is_compared_anew(cohort):
    subjects, sums = cohort
    found = pooled([arrays_of(subjects, sums, np.unique(subjects))], ["zero"])
    for name, value in compare(sums, subjects, "zero").items():
        assert found[f"{WHERE}/{name}"] == pytest.approx(value, abs=1e-12)


def test_runs_that_do_not_belong_together_are_refused(cohort):
    subjects, sums = cohort
    run = arrays_of(subjects, sums, np.unique(subjects))
    with pytest.raises(ValueError, match=r"got 1 run; expected .* two or more splits, or --compare METHOD"):
        pooled_runs([Path("run")])
    with pytest.raises(ValueError, match="about mae, vae; expected"):
        pooled([run, run], ["mae", "vae"])
    with pytest.raises(ValueError, match="no condition in common"):
        pooled([run, {key.replace("hidden0.5", "hidden0.2"): value for key, value in run.items()}], ["mae", "mae"])
