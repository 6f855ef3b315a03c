"""Zero, interpolation and the conditional Gaussian, against naive loops and dense solutions."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from brainlm_lightning.tasks.reconstruction.baselines import (
    ConditionalGaussian,
    LinearInterpolation,
    ZeroReconstruction,
    patterns,
)
from brainlm_lightning.tasks.reconstruction.methods import MaskedWindows

METHODS = ["zero", "interpolation", "gaussian", "lagged"]


def windows(num_windows=3, num_parcels=6, num_frames=40, patch=5, ratio=0.5, seed=0):
    """Signals with mixed parcels and slow time, hidden by patches, one parcel of the first window unobserved."""
    g = torch.Generator().manual_seed(seed)
    signal = torch.randn(num_windows, num_parcels, num_frames + 9, generator=g, dtype=torch.float64)
    mixing = torch.eye(num_parcels).double() + 0.5 * torch.randn(num_parcels, num_parcels, generator=g).double()
    signal = (mixing @ signal.unfold(2, 10, 1).mean(3)) * 3 + 0.3
    tokens = torch.rand(num_windows, num_parcels, num_frames // patch, generator=g) < ratio
    observed = torch.ones(num_windows, num_parcels, dtype=torch.bool)
    observed[0, 2] = False
    return signal, tokens.repeat_interleave(patch, dim=2), observed


def predict(method, signal, hidden, observed):
    first = torch.zeros(len(signal), dtype=torch.long)
    names = [f"r{i}" for i in range(len(signal))]
    return method.reconstruct(MaskedWindows.of(signal, hidden, observed, names, first))


def learnt(method, recordings):
    """The method, fitted on scaled recordings with their observed parcels."""
    method.fit(SimpleNamespace(recordings=lambda split, name: iter(recordings)))
    return method


def whole(series):
    """Recordings of six parcels with data in all of them."""
    return [(values, np.ones(6, bool)) for values in series]


def fitted(lags=(0,), ridge=1e-3, seed=1):
    signal, _, observed = windows(num_windows=20, num_frames=60, seed=seed)
    return learnt(ConditionalGaussian(lags, ridge), list(zip(signal.numpy(), observed.numpy(), strict=True)))


@pytest.fixture(params=METHODS)
def method(request):
    makers = {"zero": ZeroReconstruction, "interpolation": LinearInterpolation, "gaussian": fitted}
    return makers.get(request.param, lambda: fitted(lags=(-3, 0, 2)))()


@pytest.mark.parametrize("poison", [float("nan"), 1e9])
def test_what_is_hidden_or_unobserved_is_never_looked_at(method, poison):
    signal, hidden, observed = windows()
    blind = hidden | ~observed[:, :, None]
    expected = predict(method, signal.where(~blind, 0.0), hidden, observed)
    torch.testing.assert_close(
        predict(method, signal.where(~blind, poison), hidden, observed), expected, rtol=0, atol=0
    )
    assert expected.isfinite().all()


def test_visible_values_come_back_and_the_dtype_stays(method):
    signal, hidden, observed = windows()
    filled = predict(method, signal.float(), hidden, observed)
    visible = ~hidden & observed[:, :, None]
    assert filled.dtype == torch.float32
    assert torch.equal(filled[visible], signal.float()[visible])


def test_zero_is_zero_where_hidden():
    signal, hidden, observed = windows()
    assert (predict(ZeroReconstruction(), signal, hidden, observed)[hidden] == 0).all()


def test_interpolation_is_numpys_in_every_parcel():
    signal, hidden, observed = windows(ratio=0.7)
    filled = predict(LinearInterpolation(), signal, hidden, observed)
    frames = np.arange(signal.shape[2])
    for b, p in np.ndindex(signal.shape[:2]):
        seen = (~hidden[b, p] & observed[b, p]).numpy()
        expected = np.interp(frames, frames[seen], signal[b, p].numpy()[seen]) if seen.any() else np.zeros(len(frames))
        np.testing.assert_allclose(filled[b, p], expected, atol=1e-12)


def dense_conditional_mean(mean, covariance, values, seen):
    """E[all | seen] of one frame, by the inverse."""
    gain = covariance[:, seen] @ np.linalg.inv(covariance[np.ix_(seen, seen)])
    return mean + gain @ (values[seen] - mean[seen])


def test_gaussian_equals_the_dense_conditional_mean_frame_by_frame():
    signal, hidden, observed = windows()
    train, _, _ = windows(num_windows=8, seed=5)
    filled = predict(learnt(ConditionalGaussian(ridge=0.01), whole(train.numpy())), signal, hidden, observed)
    frames = train.transpose(1, 2).flatten(0, 1).numpy()
    covariance = np.cov(frames.T, bias=True)
    covariance += 0.01 * np.trace(covariance) / 6 * np.eye(6)
    for b, t in np.ndindex(len(signal), signal.shape[2]):
        seen = (~hidden[b, :, t] & observed[b]).numpy()
        expected = dense_conditional_mean(frames.mean(0), covariance, signal[b, :, t].numpy(), seen)
        np.testing.assert_allclose(filled[b, ~seen, t], expected[~seen], atol=1e-10)


def test_lagged_gaussian_equals_the_dense_one_over_neighbouring_frames():
    signal, hidden, observed = windows(num_windows=2)
    train, _, _ = windows(num_windows=8, seed=5)
    lags = (-3, 0, 2)
    filled = predict(learnt(ConditionalGaussian(lags, 0.01), whole(train.numpy())), signal, hidden, observed)
    stacked = torch.cat(
        [torch.cat([x[:, 3 + lag : x.shape[1] - 2 + lag] for lag in lags]) for x in train], dim=1
    ).numpy()
    covariance = np.cov(stacked, bias=True)
    covariance += 0.01 * np.trace(covariance) / 18 * np.eye(18)
    for b, t in np.ndindex(2, signal.shape[2]):
        near = [(p, t + lag) for lag in lags for p in range(6)]
        seen = np.array([0 <= u < 40 and bool(observed[b, p] and not hidden[b, p, u]) for p, u in near])
        values = np.array([signal[b, p, u].item() if ok else np.nan for (p, u), ok in zip(near, seen, strict=True)])
        expected = dense_conditional_mean(stacked.mean(1), covariance, values, seen)[6:12]
        np.testing.assert_allclose(filled[b, ~seen[6:12], t], expected[~seen[6:12]], atol=1e-9)


def test_gaussian_reaches_the_variance_that_its_own_covariance_promises():
    """Of data drawn from a Gaussian, the mean squared error is the conditional variance."""
    random = np.random.default_rng(0)
    root = random.standard_normal((6, 6))
    draw = lambda n: torch.from_numpy(root @ random.standard_normal((n, 6, 200)))  # noqa: E731
    method = learnt(ConditionalGaussian(ridge=0.0), whole(draw(200).numpy()))
    signal, hidden = draw(100), torch.zeros(100, 6, 200, dtype=torch.bool)
    hidden[:, :2] = True
    error = (predict(method, signal, hidden, torch.ones(100, 6, dtype=torch.bool)) - signal)[:, :2]
    s = root @ root.T
    promised = np.diag(s[:2, :2] - s[:2, 2:] @ np.linalg.solve(s[2:, 2:], s[2:, :2]))
    np.testing.assert_allclose((error**2).mean((0, 2)), promised, rtol=0.04)


def test_averages_over_different_recordings_still_make_a_prediction():
    """0 and 1, and 1 and 2, always agree, 0 and 2 were never seen together: as counted, no covariance."""
    one = np.random.default_rng(0).standard_normal((2, 1, 50)).repeat(3, axis=1)
    observed = np.array([[True, True, False], [False, True, True]])
    method = learnt(ConditionalGaussian(), list(zip(one, observed, strict=True)))
    hidden = torch.zeros(1, 3, 50, dtype=torch.bool)
    hidden[:, 1] = True
    filled = predict(method, torch.from_numpy(one[:1]), hidden, torch.ones(1, 3, dtype=torch.bool))
    assert filled[hidden].abs().max() < 2 * np.abs(one[0]).max()


def test_permuting_parcels_permutes_the_prediction():
    order = torch.randperm(6, generator=torch.Generator().manual_seed(0))
    (signal, hidden, observed), train = windows(), windows(num_windows=8, seed=5)[0].numpy()
    straight, permuted = (learnt(ConditionalGaussian((-2, 0)), whole(series)) for series in (train, train[:, order]))
    expected = predict(straight, signal, hidden, observed)[:, order]
    torch.testing.assert_close(predict(permuted, signal[:, order], hidden[:, order], observed[:, order]), expected)


def test_patterns_are_an_exact_partition_of_the_frames():
    seen = torch.rand(200, 5, generator=torch.Generator().manual_seed(0)) < 0.5
    rows, features = zip(*patterns(seen), strict=True)
    assert torch.equal(torch.cat(rows).sort().values, torch.arange(200))
    assert len(rows) == len(seen.unique(dim=0))
    for rows_G, seen_F in zip(rows, features, strict=True):
        assert all(torch.equal(seen[row].nonzero().ravel(), seen_F) for row in rows_G)


@pytest.mark.parametrize("lags", [(0,), (-3, 0, 2)])
def test_a_window_alone_is_predicted_as_among_others(lags):
    """A batch of one window is another layout in memory."""
    method, (signal, hidden, observed) = fitted(lags), windows()
    together = predict(method, signal, hidden, observed)
    for b in range(len(signal)):
        alone = predict(method, signal[b : b + 1], hidden[b : b + 1], observed[b : b + 1])
        torch.testing.assert_close(alone[0], together[b])


@pytest.mark.parametrize("lags", [(), (-1, 1), (0, 0)])
def test_lags_without_the_frame_itself_are_refused(lags):
    with pytest.raises(ValueError, match="contain 0"):
        ConditionalGaussian(lags)


def test_nothing_to_learn_from_is_an_error():
    with pytest.raises(ValueError, match="longer recordings"):
        learnt(ConditionalGaussian((-5, 0, 5)), [(np.zeros((3, 10)), np.ones(3, bool))])
