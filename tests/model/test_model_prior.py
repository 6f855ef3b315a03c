"""The autoencoder of a smoother's remainder: its prior against a dense Gaussian, and what the rest can add to it."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from brainlm_lightning.checkpoint.other_atlas import moved
from brainlm_lightning.model.embedding import Geometry
from brainlm_lightning.model.mae import MAEConfig, lengthened
from brainlm_lightning.model.prior import PriorAutoencoder
from brainlm_lightning.model.smoother.gradients import Accuracy

PARCELS, PATCHES, PATCH = 6, 5, 4
FRAMES = PATCHES * PATCH
GEOMETRY = Geometry(torch.arange(PARCELS * 3.0).reshape(PARCELS, 3), FRAMES)


class Cohort:
    """Recordings of mixed, slow parcels; the last third of the subjects chooses settings."""

    def __init__(self, count=12, frames=60):
        random = np.random.default_rng(0)
        mixing = np.random.default_rng(7).standard_normal((PARCELS, PARCELS)) + 2 * np.eye(PARCELS)
        white = random.standard_normal((count, PARCELS, frames + 5))
        slow = np.stack([white[:, :, lag : lag + frames] for lag in range(6)]).mean(0)
        self.series = np.einsum("pq,rqt->rpt", mixing, slow) + 0.1 * random.standard_normal((count, PARCELS, frames))
        self.asked = []

    def recordings(self, subjects="all"):
        self.asked.append(subjects)
        count = len(self.series)
        kept = {"all": range(count), "learn": range(count * 2 // 3), "choose": range(count * 2 // 3, count)}[subjects]
        return iter([(self.series[row], np.ones(PARCELS, bool)) for row in kept])


def build(cohort=None):
    torch.manual_seed(0)
    model = PriorAutoencoder(GEOMETRY, MAEConfig(PATCH, 16, 1, 2, 16, 1, 2)).eval()
    model.start("smoother", cohort or Cohort(), 0)
    return model


def windows():
    """Three windows; the second has no data of parcel 2, nothing of parcel 4 is visible in the third."""
    signal = torch.stack([torch.from_numpy(values[:, :FRAMES]) for values, _ in Cohort(3).recordings()]).float()
    observed = torch.ones(3, PARCELS, dtype=torch.bool)
    observed[1, 2] = False
    hidden = torch.rand(3, PARCELS, PATCHES, generator=torch.Generator().manual_seed(1)) < 0.5
    hidden[2, 4] = True
    return signal, hidden & observed[:, :, None], observed


def visible(hidden, observed):
    return (observed[:, :, None] & ~hidden).repeat_interleave(PATCH, dim=2)


def test_before_training_the_model_is_the_gaussian_of_the_group():
    """Without mixing: E[window | visible] of the dense (P T, P T) covariance."""
    model, (signal, hidden, observed) = build(), windows()
    model.prior.mixing.fill_(0)
    model.prior.accuracy = Accuracy(tolerance=1e-10)
    prediction = model(signal, hidden, observed).prediction_BPT
    prior, seen = model.prior, visible(hidden, observed).flatten(1)
    dense = torch.kron(prior.parcels_PP, prior.time_TT)
    mean = prior.mean_P.repeat_interleave(FRAMES)
    for window in range(3):
        known = seen[window]
        noisy = dense[known][:, known] + prior.noise * torch.eye(int(known.sum()), dtype=torch.float64)
        centred = signal[window].flatten().double()[known] - mean[known]
        expected = mean + dense[:, known] @ torch.linalg.solve(noisy, centred)
        torch.testing.assert_close(prediction[window].flatten().double(), expected, atol=1e-5, rtol=0)


def test_settings_are_chosen_on_other_subjects_than_moments_are_taken_from():
    cohort = Cohort()
    model = build(cohort)
    assert cohort.asked[0] == "choose"
    assert set(cohort.asked[1:3]) == {"learn"}
    assert set(cohort.asked[3:]) == {"all"}
    series = cohort.series
    np.testing.assert_allclose(model.prior.mean_P, series.mean((0, 2)), atol=1e-12)
    covariance = np.cov(series.transpose(1, 0, 2).reshape(PARCELS, -1), bias=True)
    ridge = model.prior.parcels_PP.numpy() - covariance
    np.testing.assert_allclose(ridge, ridge[0, 0] * np.eye(PARCELS), atol=1e-9)
    assert ridge[0, 0] > 0
    assert 0 <= float(model.prior.mixing) <= 1


def test_the_remainder_is_learnt_on_top_of_the_prior_and_the_prior_is_not_trained():
    model, batch = build().train(), windows()
    before = {name: value.clone() for name, value in model.prior.state_dict().items()}
    start = model(*batch).prediction_BPT
    optimiser = torch.optim.SGD(model.parameters(), 0.1)
    target = start.detach() + 1
    for _ in range(20):
        optimiser.zero_grad()
        (model(*batch).prediction_BPT - target).square().mean().backward()
        optimiser.step()
    after = model(*batch).prediction_BPT
    assert (after - target).square().mean() < 0.5 * (start - target).square().mean()
    assert not list(model.prior.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.prior.state_dict().items())


@pytest.mark.parametrize("poison", [1e9, float("nan")])
def test_poisoned_hidden_values_change_nothing(poison):
    model, (signal, hidden, observed) = build(), windows()
    torch.nn.init.normal_(model.head.weight)
    clean = model(signal, hidden, observed)
    poisoned = model(signal.masked_fill(~visible(hidden, observed), poison), hidden, observed)
    assert torch.equal(poisoned.prediction_BPT, clean.prediction_BPT)
    assert torch.equal(poisoned.cls_BD, clean.cls_BD)


def test_wanted_patches_alone_are_predicted_as_with_all_of_them():
    model, (signal, hidden, observed) = build(), windows()
    torch.nn.init.normal_(model.head.weight)
    wanted = hidden & (torch.arange(PATCHES) % 2 == 0)
    some = model.reconstruct(signal, hidden, observed, wanted).prediction_BPT
    everything = model(signal, hidden, observed).prediction_BPT
    of_wanted = wanted.repeat_interleave(PATCH, dim=2)
    torch.testing.assert_close(some[of_wanted], everything[of_wanted], atol=1e-5, rtol=0)
    assert not some[~of_wanted].any()


def test_another_start_is_refused():
    with pytest.raises(ValueError, match="no start 'kernel'; set initialisation to smoother"):
        PriorAutoencoder(GEOMETRY, MAEConfig(PATCH, 16, 1, 2, 16, 1, 2)).start("kernel", SimpleNamespace(), 0)


def test_a_model_whose_prior_is_of_its_window_cannot_be_made_longer():
    with pytest.raises(ValueError, match="PriorAutoencoder of 20 frames cannot be made one of 24"):
        lengthened(build(), 24)


def test_a_prior_belongs_to_its_parcels_and_cannot_move_to_another_atlas():
    with pytest.raises(ValueError, match=r"mae_prior cannot move to another atlas: prior\.mean_P"):
        moved(build(), torch.zeros(4, 3), torch.full((4, PARCELS), 1 / PARCELS, dtype=torch.float64))
