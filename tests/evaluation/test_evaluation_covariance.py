"""Covariances against naive loops, with parcels that some recordings lack."""

import numpy as np
import pytest
import torch

from brainlm_lightning.evaluation.covariance import correlation, lagged_moments


def recordings(number=30, parcels=6, frames=40, seed=3):
    random = np.random.default_rng(seed)
    mixing = random.standard_normal((parcels, parcels))
    return np.einsum("pq,rqt->rpt", mixing, random.standard_normal((number, parcels, frames))) + 0.3


def test_pairs_are_counted_where_both_parcels_were_observed():
    signal = recordings()
    observed = np.random.default_rng(0).random((30, 6)) < 0.8
    poisoned = np.where(observed[:, :, None], signal, np.nan)
    mean_F, covariance_FF = lagged_moments(zip(poisoned, observed, strict=True))
    means = [np.mean(signal[observed[:, p], p]) for p in range(6)]
    np.testing.assert_allclose(mean_F, means)
    both = observed[:, 1] & observed[:, 4]
    expected = np.mean(signal[both, 1] * signal[both, 4]) - means[1] * means[4]
    np.testing.assert_allclose(covariance_FF[1, 4], expected, rtol=1e-2, atol=1e-2)
    assert np.linalg.eigvalsh(covariance_FF).min() > -1e-9


def test_averages_over_different_recordings_still_make_a_covariance():
    """0 and 1, and 1 and 2, always agree, 0 and 2 were never seen together: as counted, no covariance."""
    one = np.random.default_rng(0).standard_normal((2, 1, 50)).repeat(3, axis=1)
    observed = np.array([[True, True, False], [False, True, True]])
    _, covariance_PP = lagged_moments(zip(one, observed, strict=True))
    assert torch.linalg.eigvalsh(covariance_PP).min() > -1e-9


def test_lagged_moments_are_numpys_over_stacked_frames():
    signal, lags = recordings(4), (-3, 0, 2)
    mean_F, covariance_FF = lagged_moments([(x, np.ones(6, bool)) for x in signal], lags)
    stacked = np.concatenate([np.concatenate([x[:, 3 + lag : 40 - 2 + lag] for lag in lags]) for x in signal], axis=1)
    np.testing.assert_allclose(mean_F, stacked.mean(1), atol=1e-12)
    np.testing.assert_allclose(covariance_FF, np.cov(stacked, bias=True), atol=1e-10)


def test_recordings_shorter_than_the_lags_are_refused():
    with pytest.raises(ValueError, match="longer recordings"):
        lagged_moments([(np.zeros((3, 10)), np.ones(3, bool))], (-5, 0, 5))


def test_correlation_is_numpys_and_0_with_a_constant_parcel():
    covariance = np.cov(recordings(1)[0])
    covariance[2] = covariance[:, 2] = 0
    found = correlation(torch.from_numpy(covariance))
    assert not found[2].any()
    kept = [0, 1, 3, 4, 5]
    expected = np.corrcoef(recordings(1)[0][kept])
    np.testing.assert_allclose(found[kept][:, kept], expected, atol=1e-6)
