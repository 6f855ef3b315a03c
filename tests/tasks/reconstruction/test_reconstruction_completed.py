"""What completed windows keep of connectivity and spectrum, against numpy and scipy."""

import numpy as np
import pytest
import torch
from scipy.signal import periodogram

from brainlm_lightning.tasks.reconstruction.completed import CompletedSums, kept

PARCELS, FRAMES = 5, 60


def signal(seed=0):
    random = np.random.default_rng(seed)
    return random.standard_normal((PARCELS, PARCELS)) @ random.standard_normal((PARCELS, FRAMES)).cumsum(1)


def test_each_quantity_is_the_one_that_other_libraries_compute():
    values = signal()
    found = kept(torch.from_numpy(values))
    first, second = np.triu_indices(PARCELS, 1)
    np.testing.assert_allclose(found["connectivity"], np.corrcoef(values)[first, second], atol=1e-12)
    unit = values - values.mean(1, keepdims=True)
    unit /= np.sqrt((unit**2).sum(1, keepdims=True))
    lagged = np.array(
        [[sum(unit[p, t] * unit[q, t + 1] for t in range(FRAMES - 1)) for q in range(5)] for p in range(5)]
    )
    expected = np.concatenate([lagged[first, second], lagged[second, first]])
    np.testing.assert_allclose(found["lagged_connectivity"], expected, atol=1e-12)
    _, power = periodogram(values, scaling="spectrum", detrend="constant")
    ratio = found["spectrum"].numpy() - np.log10(power[:, 1:].mean(0))
    np.testing.assert_allclose(ratio[:-1], ratio[0], atol=1e-9)  # one-sided: all but the last count twice


def test_scores_are_one_where_the_truth_was_put_back_and_fall_where_half_of_it_is_noise():
    truth = torch.from_numpy(np.stack([signal(seed) for seed in range(4)]))
    observed, index = torch.ones(4, PARCELS, dtype=torch.bool), torch.tensor([0, 1, 2, 2])
    exact, worse = (CompletedSums(3, torch.device("cpu")) for _ in range(2))
    exact.update(truth, truth, observed, index)
    noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    worse.update(truth + 3 * truth.std() * noise, truth, observed, index)
    subjects = ["a", "b", "c"]
    for name, value in exact.scores(subjects).items():
        assert value == pytest.approx(1), name
    found = worse.scores(subjects)
    y = np.concatenate([kept(window)["connectivity"] for window in truth])
    noisy = truth + 3 * truth.std() * noise
    y_hat = np.concatenate([kept(window)["connectivity"] for window in noisy])
    assert found["r2_connectivity"] == pytest.approx(1 - ((y - y_hat) ** 2).sum() / ((y - y.mean()) ** 2).sum())
    assert found["r2_connectivity_low"] <= found["r2_connectivity"] <= found["r2_connectivity_high"]
    assert found["r2_spectrum"] < 0.9


def test_a_parcel_completed_by_a_constant_is_connected_to_nothing_and_one_without_data_is_left_out():
    truth = torch.from_numpy(signal())[None]
    completed = truth.clone()
    completed[0, 3] = 0.25
    observed = torch.ones(1, PARCELS, dtype=torch.bool)
    observed[0, 0] = False
    sums = CompletedSums(1, torch.device("cpu"))
    sums.update(completed, truth, observed, torch.tensor([0]))
    correlations = np.corrcoef(truth[0, 1:])
    first, second = np.triu_indices(PARCELS - 1, 1)
    y = correlations[first, second]
    y_hat = np.where((first == 2) | (second == 2), 0, y)
    expected = 1 - ((y - y_hat) ** 2).sum() / ((y - y.mean()) ** 2).sum()
    assert sums.scores(["a"])["r2_connectivity"] == pytest.approx(expected)
