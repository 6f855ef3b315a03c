"""The kernel start: closed forms, permutations, and that an untrained model predicts what the standard one does not."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from brainlm_lightning.evaluation.covariance import autocovariance
from brainlm_lightning.model.embedding import Geometry
from brainlm_lightning.model.kernel_start import (
    RIDGE,
    kernel_start,
    neighbour_prediction,
    parcel_directions,
    split_width,
)
from brainlm_lightning.model.mae import MAEConfig, MaskedAutoencoder

PARCELS, FRAMES, PATCH = 12, 80, 10
SIZES = {"embed_dim": 64, "depth": 2, "num_heads": 4, "decoder_embed_dim": 64, "decoder_num_heads": 4}
XYZ_MM = np.random.default_rng(0).uniform(-60, 60, (PARCELS, 3))
SPATIAL_PP = np.exp(-np.linalg.norm(XYZ_MM[:, None] - XYZ_MM, axis=2) / 60)


def temporal(frames, phi=0.95):
    """Covariance over frames of an AR(1) process of variance 1."""
    return phi ** np.abs(np.subtract.outer(np.arange(frames), np.arange(frames)))


@dataclass
class Moments:
    """What a cohort is known by."""

    covariance_PP: torch.Tensor
    phi: float = 0.95

    def autocovariance(self, lags):
        return torch.from_numpy(temporal(lags, self.phi)[0])


def moments(covariance_PP=SPATIAL_PP):
    return Moments(torch.from_numpy(covariance_PP))


def started(model, moments, seed=0):
    kernel_start(model, moments, seed)
    return model


def build(**changes):
    torch.manual_seed(0)
    config = MAEConfig(**({"patch_frames": PATCH} | SIZES | changes))
    return MaskedAutoencoder(Geometry(torch.from_numpy(XYZ_MM).float(), FRAMES), config).eval()


def gaussian_windows(windows=48):
    """Windows whose parcels are correlated by distance and whose frames are smooth, with half of the tokens hidden."""
    rng = np.random.default_rng(1)
    white = rng.normal(size=(windows, PARCELS, FRAMES))
    roots = np.linalg.cholesky(SPATIAL_PP), np.linalg.cholesky(temporal(FRAMES))
    signal_BPT = torch.from_numpy(np.einsum("pq,bqt,st->bps", roots[0], white, roots[1])).float()
    hidden_BPN = torch.from_numpy(rng.random((windows, PARCELS, FRAMES // PATCH)) < 0.5)
    return signal_BPT, hidden_BPN, torch.ones(windows, PARCELS, dtype=torch.bool)


@torch.no_grad()
def hidden_correlation(model, hidden_BPN, signal_BPT, observed_BP, which=None):
    prediction_BPT = model(signal_BPT, hidden_BPN, observed_BP).prediction_BPT
    hidden_BPT = (hidden_BPN if which is None else which).repeat_interleave(PATCH, dim=2)
    return np.corrcoef(prediction_BPT[hidden_BPT], signal_BPT[hidden_BPT])[0, 1]


def random_covariance(parcels=PARCELS):
    factor = np.random.default_rng(2).normal(size=(parcels, parcels + 3))
    return factor @ factor.T


@pytest.mark.parametrize("count", [PARCELS, PARCELS + 5])
def test_inner_products_of_directions_are_correlations(count):
    covariance_PP = random_covariance()
    direction_PZ = parcel_directions(torch.from_numpy(covariance_PP), count)
    assert direction_PZ.shape == (PARCELS, PARCELS)
    sd_P = np.sqrt(np.diagonal(covariance_PP))
    np.testing.assert_allclose(direction_PZ @ direction_PZ.T, covariance_PP / np.outer(sd_P, sd_P), atol=1e-6)


def test_fewer_directions_are_the_leading_ones():
    covariance_PP = random_covariance()
    values, vectors = np.linalg.eigh(covariance_PP)
    best_PP = (vectors[:, -4:] * values[-4:]) @ vectors[:, -4:].T
    root_P = np.sqrt(np.diagonal(best_PP))
    direction_PZ = parcel_directions(torch.from_numpy(covariance_PP), 4)
    np.testing.assert_allclose(direction_PZ @ direction_PZ.T, best_PP / np.outer(root_P, root_P), atol=1e-6)


def test_permuting_parcels_permutes_their_directions():
    covariance_PP, order = torch.from_numpy(random_covariance()), torch.randperm(PARCELS)
    straight, other = parcel_directions(covariance_PP, 5), parcel_directions(covariance_PP[order][:, order], 5)
    torch.testing.assert_close(other, straight[order])


def test_permuting_parcels_with_their_covariance_permutes_the_untrained_prediction():
    order = np.random.default_rng(3).permutation(PARCELS)
    covariance_PP = random_covariance()
    straight = started(build(), moments(covariance_PP))
    other = started(build(), moments(covariance_PP[order][:, order]))
    signal_BPT, hidden_BPN, observed_BP = gaussian_windows(4)
    with torch.no_grad():
        expected = straight(signal_BPT, hidden_BPN, observed_BP).prediction_BPT[:, order]
        prediction_BPT = other(signal_BPT[:, order], hidden_BPN[:, order], observed_BP).prediction_BPT
    torch.testing.assert_close(prediction_BPT, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "changes", [{}, {"num_heads": 2, "decoder_num_heads": 8}, {"depth": 1, "embed_dim": 96}, {"decoder": "cross"}]
)
def test_untrained_it_predicts_what_the_standard_start_does_not(changes):
    signal_BPT, hidden_BPN, observed_BP = gaussian_windows()
    model = build(**changes)
    assert abs(hidden_correlation(model, hidden_BPN, signal_BPT, observed_BP)) < 0.1
    kernel_start(model, moments())
    assert hidden_correlation(model, hidden_BPN, signal_BPT, observed_BP) > 0.45


def test_untrained_it_looks_at_the_same_parcel_before_and_after():
    """Parcels that share nothing, slow in time: only the patches beside a hidden one tell of it."""
    rng = np.random.default_rng(4)
    slow = rng.normal(size=(32, PARCELS, FRAMES)) @ np.linalg.cholesky(temporal(FRAMES, 0.99)).T
    signal_BPT, observed_BP = torch.from_numpy(slow).float(), torch.ones(32, PARCELS, dtype=torch.bool)
    hidden_BPN = torch.zeros(32, PARCELS, FRAMES // PATCH, dtype=torch.bool)
    hidden_BPN[:, :, 3] = True
    model = started(build(num_heads=4), Moments(torch.eye(PARCELS).double(), 0.99))
    assert hidden_correlation(model, hidden_BPN, signal_BPT, observed_BP) > 0.35


def test_the_same_seed_gives_the_same_weights():
    first, again, other = (started(build(), moments(), seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["patch_projection.weight"], other["patch_projection.weight"])


@pytest.mark.parametrize("shift", ["before", "after"])
def test_neighbour_prediction_is_the_ridge_regression_of_the_exact_covariance(shift):
    joint = 3 * temporal(2 * PATCH, phi=0.8)
    first, second = slice(0, PATCH), slice(PATCH, 2 * PATCH)
    source, target = (first, second) if shift == "before" else (second, first)
    ridge_SS = RIDGE * 3 * np.eye(PATCH)
    expected = joint[target, source] @ np.linalg.inv(joint[source, source] + ridge_SS)
    np.testing.assert_allclose(neighbour_prediction(torch.from_numpy(joint[0]), shift), expected, atol=1e-6)


def test_neighbour_prediction_without_ridge_continues_an_autoregression(monkeypatch):
    """AR(1): the best guess j frames after the last one known is its value times phi^j."""
    monkeypatch.setattr("brainlm_lightning.model.kernel_start.RIDGE", 0.0)
    expected = np.zeros((PATCH, PATCH))
    expected[:, -1] = 0.8 ** np.arange(1, PATCH + 1)
    got = neighbour_prediction(torch.from_numpy(temporal(2 * PATCH, 0.8)[0]), "before")
    np.testing.assert_allclose(got, expected, atol=1e-6)
    got = neighbour_prediction(torch.from_numpy(temporal(2 * PATCH, 0.8)[0]), "after")
    np.testing.assert_allclose(got, expected[::-1, ::-1], atol=1e-6)


def test_autocovariance_is_a_mean_over_observed_parcels_and_pairs_of_frames():
    rng = np.random.default_rng(5)
    recordings = [
        (rng.normal(5, 2, (3, frames)).astype(np.float32), np.array([True, False, True])) for frames in (9, 4)
    ]
    products = [[] for _ in range(6)]
    for series_PT, observed_P in recordings:
        for parcel in np.flatnonzero(observed_P):
            centred = series_PT[parcel].astype(float) - series_PT[parcel].astype(float).mean()
            for lag in range(6):
                products[lag] += [centred[t] * centred[t + lag] for t in range(len(centred) - lag)]
    expected = [np.mean(of) for of in products]
    np.testing.assert_allclose(autocovariance(recordings, 6), expected, rtol=1e-6)


def test_unobserved_values_do_not_enter_the_autocovariance():
    series_PT = np.random.default_rng(6).normal(size=(3, 30))
    observed_P = np.array([True, True, False])
    poisoned = np.where(observed_P[:, None], series_PT, np.nan)
    assert torch.equal(autocovariance([(poisoned, observed_P)], 4), autocovariance([(series_PT, observed_P)], 4))


def test_subspaces_are_orthonormal_and_fill_the_width():
    parts = split_width(30, 10, 8, torch.Generator().manual_seed(0))
    assert [part.shape[1] for part in (parts.signal, parts.time, parts.space, parts.visible)] == [10, 8, 11, 1]
    basis = torch.cat([parts.signal, parts.time, parts.space, parts.visible], dim=1)
    torch.testing.assert_close(basis.T @ basis, torch.eye(30), rtol=0, atol=1e-5)


def test_a_parcel_without_variance_leaves_weights_and_predictions_finite():
    covariance_PP = 1e8 * SPATIAL_PP  # unscaled, where even rounding is large
    covariance_PP[4] = covariance_PP[:, 4] = 0
    assert parcel_directions(torch.from_numpy(covariance_PP), 5)[4].tolist() == [0] * 5
    model = started(build(), moments(covariance_PP))
    assert all(weight.isfinite().all() for weight in model.state_dict().values())
    signal_BPT, hidden_BPN, observed_BP = gaussian_windows(4)
    observed_BP[:, 4] = False
    assert model(signal_BPT, hidden_BPN, observed_BP).prediction_BPT.isfinite().all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm": "post"}, "needs norm: pre and learnable"),
        ({"spatial_embedding": "xyz"}, "needs norm: pre and learnable"),
        ({"temporal_embedding": "sinusoidal"}, "needs norm: pre and learnable"),
        ({"embed_dim": 16}, "a width of 16 is too narrow .* needs 10 dimensions .* 8 for the patches"),
        ({"decoder_embed_dim": 16}, "a width of 16 is too narrow"),
        ({"num_heads": 32}, "heads are 2 wide; the kernel start needs at least 3"),
    ],
)
def test_what_the_kernel_start_cannot_serve_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        kernel_start(build(**changes), moments())
