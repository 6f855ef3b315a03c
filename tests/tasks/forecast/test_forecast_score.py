"""Scores by frame against scikit-learn and scipy."""

import numpy as np
import pytest
import torch
from scipy.stats import wilcoxon
from sklearn.metrics import mean_squared_error, r2_score

from brainlm_lightning.evaluation.comparison import compare_frames, subject_mse
from brainlm_lightning.tasks.forecast.score import HorizonSums, frame_scores

SUBJECTS = np.array(["a", "b", "b", "c", "d", "e", "f", "g"])


def forecasts(seed, error=1.0):
    """(R, P, H) truth, forecast of it, and observed parcels."""
    g = torch.Generator().manual_seed(seed)
    truth = torch.randn(8, 3, 5, generator=torch.Generator().manual_seed(99)).double()
    forecast = truth + error * torch.randn(8, 3, 5, generator=g).double()
    observed = torch.ones(8, 3, dtype=torch.bool)
    observed[2, 1] = False
    return truth, forecast, observed


def sums(seed, error=1.0):
    truth, forecast, observed = forecasts(seed, error)
    gathered = HorizonSums(8, 3, 5, torch.device("cpu"))
    for rows in (slice(0, 3), slice(3, 8)):  # in batches
        gathered.update(forecast[rows], truth[rows], observed[rows], torch.arange(8)[rows])
    return gathered.compute()


def test_scores_of_a_frame_are_those_of_its_values_alone():
    truth, forecast, observed = forecasts(0)
    found = frame_scores(sums(0)[1], SUBJECTS)
    for frame in range(5):
        y, y_hat = truth[:, :, frame][observed], forecast[:, :, frame][observed]
        assert found["r2"][0, frame] == pytest.approx(r2_score(y, y_hat))
        assert found["mse"][0, frame] == pytest.approx(mean_squared_error(y, y_hat))
        assert found["pearson_r"][0, frame] == pytest.approx(np.corrcoef(y, y_hat)[0, 1])
    assert (found["mse"][1] <= found["mse"][0]).all()
    assert (found["mse"][0] <= found["mse"][2]).all()


def test_sums_by_parcel_and_by_frame_are_of_the_same_values():
    by_parcel, by_frame = sums(0)
    assert by_parcel.sum(1) == pytest.approx(by_frame.sum(1))


def test_methods_are_compared_by_each_subjects_error_at_each_frame():
    truth, forecast, observed = forecasts(0)
    mine, other = sums(0)[1], sums(1, error=3.0)[1]
    error = subject_mse(mine, SUBJECTS)
    assert error[1, 2] == pytest.approx(
        ((forecast - truth)[1:3, :, 2][observed[1:3]] ** 2).mean()
    )  # of the two recordings of subject b
    found = compare_frames(mine, other, SUBJECTS)
    differences = error - subject_mse(other, SUBJECTS)
    assert found.difference == pytest.approx(differences.mean(0))
    assert found.p == pytest.approx([wilcoxon(column).pvalue for column in differences.T])
    assert (found.difference < 0).all()


def test_a_method_that_failed_is_not_compared():
    mine, failed = sums(0)[1], sums(1)[1]
    failed[3, 2, 5] = np.nan
    assert np.isnan(compare_frames(mine, failed, SUBJECTS).p).all()


def test_methods_scored_on_other_values_are_not_compared():
    fewer = sums(1)[1]
    fewer[0, :, 0] -= 1
    with pytest.raises(ValueError, match="the same masks and recordings"):
        compare_frames(sums(0)[1], fewer, SUBJECTS)
