"""Linear forecasts against scikit-learn and naive loops, and beside the best there can be."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from brainlm_lightning.simulation.optimum import Optimum
from brainlm_lightning.simulation.simulate import Simulation, load_truth, simulate
from brainlm_lightning.tasks.forecast.baselines import AR, VAR, Persistence, ZeroForecast
from brainlm_lightning.tasks.forecast.methods import ForecastLearning, Past
from brainlm_lightning.tasks.forecast.net import cut

PARCELS, FRAMES, HORIZON = 4, 40, 5


def windows(seed, batch=6, parcels=PARCELS, frames=FRAMES):
    g = torch.Generator().manual_seed(seed)
    noise = torch.randn(batch, parcels, frames + 20, generator=g)
    signal = noise.clone()
    for t in range(2, frames + 20):  # every parcel follows the one before it, and itself
        signal[:, :, t] += 0.5 * signal[:, :, t - 1] - 0.3 * signal[:, :, t - 2] + 0.3 * signal[:, :, t - 1].roll(1, 1)
    observed = torch.ones(batch, parcels, dtype=torch.bool)
    return cut(signal[:, :, 20:], torch.ones(batch, parcels), observed, HORIZON, "training")


def learning(*training, validation):
    return ForecastLearning(lambda name: iter(training), [validation])


def forecast(method, window, horizon=HORIZON):
    context_BPC = window.context_BPC
    ids, first = ["r"] * len(context_BPC), torch.zeros(len(context_BPC), dtype=torch.long)
    past = Past(context_BPC, window.observed_BP, horizon, context_BPC, ids, first, lambda scaled: scaled)
    return method.forecast(past)


def squared_error(method, window):
    """Over the observed parcels."""
    error = (forecast(method, window, window.future_BPH.shape[2]) - window.future_BPH).double().square()
    return float(error.where(window.observed_BP[:, :, None], 0).sum())


def samples(window, order, parcels):
    """Naive loop over windows and origins: features, latest frame first, and the frames that follow."""
    signal = torch.cat([window.context_BPC, window.future_BPH], dim=2).double().numpy()
    features, targets = [], []
    for one in signal:
        for origin in range(order, signal.shape[2] - HORIZON + 1):
            features.append(np.concatenate([one[parcels, origin - lag] for lag in range(1, order + 1)]))
            targets.append(one[parcels, origin : origin + HORIZON].ravel())
    return np.array(features), np.array(targets)


def test_ar_is_least_squares_of_each_parcel():
    train = windows(0)
    ar = AR(orders=[3], ridges=[0.0])
    ar.fit(learning(train, validation=windows(1)))
    for parcel in range(PARCELS):
        features, targets = samples(train, 3, [parcel])
        expected = np.linalg.lstsq(features, targets, rcond=None)[0]
        np.testing.assert_allclose(ar.choice.coefficients[parcel], expected, atol=1e-5)


def test_var_is_scikit_learns_ridge_over_parcels_and_lags():
    train, new = windows(0), windows(2)
    var = VAR(orders=[2], ridges=[0.1], stride=1)
    var.fit(learning(train, validation=windows(1)))
    features, targets = samples(train, 2, list(range(PARCELS)))
    penalty = 0.1 * np.trace(features.T @ features) / features.shape[1]
    ridge = Ridge(alpha=penalty, fit_intercept=False).fit(features, targets)
    seen = new.context_BPC.double().numpy()
    expected = ridge.predict(np.concatenate([seen[:, :, -1], seen[:, :, -2]], axis=1)).reshape(-1, PARCELS, HORIZON)
    np.testing.assert_allclose(forecast(var, new), expected, atol=1e-5)


def fitted(kind, **settings):
    method = kind(**settings)
    return method, method.fit(learning(windows(0), validation=windows(1)))


@pytest.mark.parametrize("kind", [AR, VAR])
def test_order_and_ridge_have_the_lowest_error_on_validation_windows(kind):
    """The grid is inside its limits: what it chose is no worse than what any one setting gives."""
    method, chosen = fitted(kind, orders=[1, 2, 6], ridges=[0.01, 1.0])
    best = squared_error(method, windows(1))
    for order in (1, 2, 6):
        for ridge in (0.01, 1.0):
            method.choice = method._solve({"order": order, "ridge": ridge})
            assert squared_error(method, windows(1)) >= best
    assert chosen["at_edge"] == 0


@pytest.mark.parametrize("kind", [AR, VAR])
def test_a_grid_that_is_named_too_low_grows(kind):
    """Ridges from 10 on are far too strong: it goes down from them."""
    method, chosen = fitted(kind, orders=[1, 2], ridges=[10.0, 100.0])
    assert chosen["ridge"] <= 1
    assert method.choice.ridge == chosen["ridge"]


def test_an_order_that_cannot_be_afforded_is_told():
    _, chosen = fitted(VAR, orders=[1], ridges=[0.1])
    assert chosen == {"order": 1, "ridge": 0.1, "at_edge": 1}


def test_one_filter_for_all_parcels_is_least_squares_over_all_of_them():
    method, _ = fitted(AR, orders=[3], ridges=[0.0], shared=True)
    parts = [samples(windows(0), 3, [parcel]) for parcel in range(PARCELS)]
    features, targets = (np.concatenate(part) for part in zip(*parts, strict=True))
    expected = np.linalg.lstsq(features, targets, rcond=None)[0]
    np.testing.assert_allclose(method.choice.coefficients[0], expected, atol=1e-9)
    assert method.choice.coefficients.shape == (1, 3, HORIZON)


def test_all_components_are_all_parcels():
    """A rotation of the features leaves ridge regression as it is."""
    settings = {"orders": [2], "ridges": [0.1], "stride": 1}
    whole, rotated = fitted(VAR, **settings)[0], fitted(VAR, components=PARCELS, **settings)[0]
    torch.testing.assert_close(forecast(rotated, windows(2)), forecast(whole, windows(2)), atol=1e-6, rtol=0)


def test_few_components_are_scikit_learns_principal_components():
    method, _ = fitted(VAR, orders=[2], ridges=[0.1], stride=1, components=2)
    train, new = windows(0), windows(2)
    frames = torch.cat([train.context_BPC, train.future_BPH], dim=2).double().mT.flatten(0, 1).numpy()
    basis = np.linalg.svd(frames, full_matrices=False)[2][:2].T
    features, targets = samples(train, 2, list(range(PARCELS)))
    features = np.concatenate([features[:, :PARCELS] @ basis, features[:, PARCELS:] @ basis], axis=1)
    penalty = 0.1 * np.trace(features.T @ features) / features.shape[1]
    ridge = Ridge(alpha=penalty, fit_intercept=False).fit(features, targets)
    past = [new.context_BPC.double().numpy()[:, :, -lag] @ basis for lag in (1, 2)]
    expected = ridge.predict(np.concatenate(past, axis=1)).reshape(-1, PARCELS, HORIZON)
    np.testing.assert_allclose(forecast(method, new), expected, atol=1e-6)


def test_more_components_than_parcels_are_refused():
    with pytest.raises(ValueError, match="5 principal components of 4 parcels"):
        fitted(VAR, components=5)


def test_a_band_passed_signal_needs_long_filters_and_next_to_no_ridge():
    """Sums of sines of 0.01 to 0.1 Hz: what the default grid finds errs a third as much as order 20 and ridge 1e-2."""
    random = np.random.default_rng(0)
    frames, hz = np.arange(120), random.uniform(0.01, 0.1, (24, PARCELS, 12, 1))
    signal = torch.from_numpy(np.sin(2 * np.pi * (hz * frames + random.uniform(0, 1, hz.shape))).sum(2)).float()
    observed = torch.ones(12, PARCELS, dtype=torch.bool)
    train, validation = (cut(each, torch.ones(12, PARCELS), observed, 10, "context") for each in signal.split(12))
    short, long = AR((20,), (1e-2,), shared=True), AR(shared=True)
    for method in (short, long):
        method.fit(learning(train, validation=validation))
    assert long.choice.order >= 40
    assert long.choice.ridge <= 1e-5
    assert squared_error(long, validation) < squared_error(short, validation) / 3


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """140 recordings of one window of 200 frames each, and their truth."""
    sizes = Simulation(subjects=140, parcels=16, frames=200, networks=4, noise=0.7)
    folder = simulate(sizes, tmp_path_factory.mktemp("cohort") / "files")
    with np.load(folder / "timeseries.npz") as file:
        series = {name: torch.from_numpy(file[name].T) for name in file.files}
    return series, load_truth(folder / "truth.npz")


def test_var_comes_near_the_optimum_and_nobody_exceeds_it(cohort):
    series, truth = cohort
    names = list(series)
    signal = torch.stack([series[name] for name in names])
    observed = torch.ones(signal.shape[:2], dtype=torch.bool)
    all_windows = cut(signal, torch.ones(signal.shape[:2]), observed, 10, "training")
    part = [
        type(all_windows)(*(each[rows] for each in vars(all_windows).values()))
        for rows in (slice(0, 80), slice(80, 100), slice(100, 140))
    ]
    future = torch.zeros_like(signal[100:], dtype=torch.bool)
    future[:, :, -10:] = True
    ones, zeros = (dict.fromkeys(names[100:], np.full(16, value)) for value in (1.0, 0.0))
    optimum = Optimum({name: truth[name] for name in names[100:]}, zeros, ones)
    best = optimum.predict(signal[100:], ~future, names[100:], torch.zeros(40, dtype=torch.int64))
    errors = {"optimum": float((best - signal[100:])[:, :, -10:].double().square().sum())}
    methods = {"zero": ZeroForecast(), "persistence": Persistence(), "ar": AR(), "var": VAR()}
    for name, method in methods.items():
        method.fit(learning(part[0], validation=part[1]))
        errors[name] = squared_error(method, part[2])
    assert min(errors, key=errors.get) == "optimum"
    assert errors["var"] < errors["ar"] < errors["zero"] < errors["persistence"]
    assert errors["zero"] - errors["var"] > 0.7 * (errors["zero"] - errors["optimum"])
