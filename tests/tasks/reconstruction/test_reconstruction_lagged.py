"""The smoother with lagged covariances, against dense solutions made by loops over lags."""

import numpy as np
import pytest
import torch
from test_reconstruction_smoother import (
    FRAMES,
    PARCELS,
    PATCH,
    SETTINGS,
    learning,
    reconstruct,
    recordings,
    visible_of,
    windows,
)

from brainlm_lightning.evaluation.covariance import lagged_moments
from brainlm_lightning.tasks.reconstruction.lagged import LaggedGaussian, LaggedSmoother, cross_spectra, windowed
from brainlm_lightning.tasks.reconstruction.smoother import LinearSmoother


def lag_covariances(train, mean, longest):
    """Lag -> (P, P): means over half overlapping Hann windows of x(t + lag) x(t)', by loops."""
    taper = np.sin(np.pi * np.arange(1, FRAMES + 1) / (FRAMES + 1)) ** 2
    taper /= np.sqrt((taper**2).sum())
    total = {lag: np.zeros((PARCELS, PARCELS)) for lag in range(-longest, longest + 1)}
    count = np.zeros((PARCELS, PARCELS))
    for values, observed in train:
        centred = np.where(observed[:, None], values - mean[:, None], 0)
        for start in range(0, centred.shape[1] - FRAMES + 1, FRAMES // 2):
            part = centred[:, start : start + FRAMES] * taper
            count += np.outer(observed, observed)
            for lag, sums in total.items():
                for frame in range(max(0, -lag), min(FRAMES, FRAMES - lag)):
                    sums += np.outer(part[:, frame + lag], part[:, frame])
    return {lag: sums / count for lag, sums in total.items()}


def dense_prior(train, memory, separable, ridge):
    """Mean (P,) and covariance (P T, P T) of a window; negative eigenvalues are cut on the circle."""
    mean, covariance = (part.numpy() for part in lagged_moments(train))
    longest = min(FRAMES - 1, 4 * memory)
    circle = FRAMES + longest + (FRAMES + longest) % 2
    lags = {
        lag: value * np.exp(-0.5 * (lag / memory) ** 2) for lag, value in lag_covariances(train, mean, longest).items()
    }
    shape = {lag: (np.diag(value) / np.diag(covariance)).mean() for lag, value in lags.items()}
    scale = np.trace(covariance) / PARCELS

    def on_circle(block):
        found = np.zeros((PARCELS, circle, PARCELS, circle))
        for lag in lags:
            for frame in range(circle):
                found[:, (frame + lag) % circle, :, frame] = block(lag)
        return found.reshape(PARCELS * circle, -1)

    whole = on_circle(lambda lag: (1 - separable) * lags[lag] + separable * shape[lag] * covariance)
    whole += on_circle(lambda lag: ridge * scale * shape[lag] * np.eye(PARCELS))
    values, vectors = np.linalg.eigh(whole)
    whole = (vectors * values.clip(0)) @ vectors.T
    inside = (np.arange(PARCELS)[:, None] * circle + np.arange(FRAMES)).ravel()
    return mean, whole[np.ix_(inside, inside)], scale


@pytest.mark.parametrize("ratio", [0.2, 0.9])
@pytest.mark.parametrize(("memory", "separable"), [(2, 0.0), (2, 0.4), (30, 0.4), (3, 1.0)])
def test_equals_the_dense_conditional_mean(memory, separable, ratio):
    train, (signal, hidden, observed) = recordings(12), windows(ratio)
    method = LaggedSmoother(memories=(memory,), separables=(separable,), **SETTINGS)
    method.fit(learning(train, recordings(3, seed=1)))
    filled = reconstruct(method, signal, hidden, observed)
    mean, prior, scale = dense_prior(train, memory, separable, 0.05)
    noisy, level = prior + 0.1 * scale * np.eye(len(prior)), np.repeat(mean, FRAMES)
    for b, seen in enumerate(visible_of(hidden, observed).flatten(1).numpy()):
        gain = np.linalg.solve(noisy[np.ix_(seen, seen)], (signal[b].flatten().numpy() - level)[seen])
        expected = level + prior[:, seen] @ gain
        np.testing.assert_allclose(filled[b].flatten()[~seen], expected[~seen], atol=1e-6)


def led(count, lead, frames=60, seed=0):
    """Parcel p follows the first, white in time, by p x lead frames."""
    random = np.random.default_rng(seed)
    source = random.standard_normal((count, frames + PARCELS * lead))
    series = [[row[(PARCELS - parcel) * lead :][:frames] for parcel in range(PARCELS)] for row in source]
    series = np.array(series) + 0.1 * random.standard_normal((count, PARCELS, frames))
    return list(zip(series, np.ones((count, PARCELS), bool), strict=True))


@pytest.mark.parametrize(("make", "least", "most"), [(LaggedSmoother, 0.7, 1.0), (LinearSmoother, -0.2, 0.1)])
def test_what_one_parcel_does_later_than_another_is_known(make, least, most):
    method = make(patch_frames=PATCH)
    method.fit(learning(led(40, 3), led(4, 3, seed=1)))
    signal = torch.stack([torch.from_numpy(values[:, :FRAMES]) for values, _ in led(20, 3, seed=2)])
    hidden = torch.zeros(20, PARCELS, FRAMES // PATCH, dtype=torch.bool)
    hidden[:, 2] = True  # parcel 1 shows the same three frames before, parcel 3 three frames after
    filled = reconstruct(method, signal, hidden, torch.ones(20, PARCELS, dtype=torch.bool))[:, 2]
    truth = signal[:, 2]
    r2 = 1 - float((truth - filled).square().sum() / (truth - truth.mean()).square().sum())
    assert least < r2 < most


def test_half_a_spectrum_is_a_real_process():
    """Draws of A W have the covariance of the dense prior, whatever the frequency."""
    method = LaggedSmoother(memories=(2,), separables=(0.4,), **SETTINGS)
    train = recordings(12)
    method.fit(learning(train, recordings(3, seed=1)))
    model = method.model(method.setting, torch.device("cpu"))
    unit = torch.eye(PARCELS * FRAMES, dtype=torch.float64).reshape(-1, PARCELS, FRAMES)
    found = torch.stack([model.windows(model.whitened(one[None]))[0].flatten() for one in unit])
    np.testing.assert_allclose(found, dense_prior(train, 2, 0.4, 0.05)[1], atol=1e-9)
    white = torch.randn(1, *model.values_KP.shape, dtype=torch.complex128, generator=torch.Generator().manual_seed(0))
    white[:, [0, -1]] = model.whitened(unit[:1])[:, [0, -1]]  # the lowest and the highest frequency stand alone
    signal = torch.randn(1, PARCELS, FRAMES, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    adjoint = (signal * model.windows(white)).sum()
    np.testing.assert_allclose(model.inner(model.whitened(signal), white), adjoint[None], atol=1e-9)


def test_lags_that_are_cut_off_are_negligible_and_none_meet():
    lags = torch.ones(2 * FRAMES, 1, 1, dtype=torch.float64)
    kept = windowed(lags, 2.0, FRAMES)[:, 0, 0]
    assert len(kept) == FRAMES + 8
    np.testing.assert_allclose(kept[:9], np.exp(-0.5 * (np.arange(9) / 2) ** 2))
    np.testing.assert_allclose(kept[1:9], kept.flip(0)[:8])
    assert kept[9:-8].abs().max() == 0
    assert len(windowed(lags, 100.0, FRAMES)) == 2 * FRAMES


def test_what_is_refused():
    with pytest.raises(ValueError, match="no training recording has a window of 20 frames"):
        cross_spectra(recordings(1, frames=19), torch.zeros(PARCELS), FRAMES)
    with pytest.raises(ValueError, match="variance of the noise is 0"):
        LaggedGaussian.of(torch.ones(2, 1), torch.ones(2, 1, 1), 2, 2, 0.0)
