"""Linear forecasts against scikit-learn and naive loops, and beside the best there can be."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from brainlm_lightning.simulation.optimum import Optimum
from brainlm_lightning.simulation.simulate import Simulation, load_truth, simulate
from brainlm_lightning.tasks.forecast.methods import AR, VAR, ForecastLearning, Past, Persistence, Zero
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
    ar = AR(orders=[3], ridges=[0.0], stride=1)
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


@pytest.mark.parametrize("kind", [AR, VAR])
def test_order_and_ridge_have_the_lowest_error_on_validation_windows(kind):
    train, validation, orders, ridges = windows(0), windows(1), [1, 2, 6], [0.01, 1.0]
    method = kind(orders=orders, ridges=ridges, stride=1)
    chosen = method.fit(learning(train, validation=validation))
    errors = {}
    for order in orders:
        for ridge in ridges:
            # All share the origins of the highest order, so that orders are compared on the same samples.
            alone = kind(orders=[order, max(orders)], ridges=[ridge], stride=1)
            alone.choice = next(choice for choice in alone._candidates([train]) if choice.order == order)
            errors[order, ridge] = squared_error(alone, validation)
    assert tuple(chosen.values()) == min(errors, key=errors.get)


def test_orders_that_are_too_large_to_solve_are_left_out():
    var = VAR(orders=[1, 2, 5], ridges=[0.1], max_features=2 * PARCELS)
    var.fit(learning(windows(0), validation=windows(1)))
    assert var.orders == [1, 2]


def test_pairs_of_parcels_are_averaged_over_windows_with_both():
    """Of 12 windows 6 lack parcel 1: naive covariances of one lag, pair by pair, give the same forecast."""
    lacking, whole, new = windows(0), windows(3), windows(2)
    lacking.context_BPC[:, 1], lacking.future_BPH[:, 1], lacking.observed_BP[:, 1] = 0, 0, False
    var = VAR(orders=[1], ridges=[0.0], stride=1)
    var.fit(learning(lacking, whole, validation=windows(1)))
    sums = {name: np.zeros((PARCELS, PARCELS)) for name in ("now", "next", "count")}
    for window in (lacking, whole):
        signal = torch.cat([window.context_BPC, window.future_BPH], dim=2).double().numpy()
        for one, observed in zip(signal, window.observed_BP.numpy(), strict=True):
            for t in range(1, FRAMES - HORIZON + 1):
                sums["now"] += np.outer(one[:, t - 1], one[:, t - 1])
                sums["next"] += np.outer(one[:, t - 1], one[:, t])
                sums["count"] += np.outer(observed, observed)
    coefficients = np.linalg.solve(sums["now"] / sums["count"], sums["next"] / sums["count"])
    first_frame = forecast(var, new)[:, :, 0]
    np.testing.assert_allclose(first_frame, new.context_BPC[:, :, -1].numpy() @ coefficients, atol=1e-5)


def test_zero_and_persistence():
    window = windows(0)
    assert (forecast(Zero(), window, 3) == 0).all()
    held = forecast(Persistence(), window, 3)
    assert torch.equal(held, window.context_BPC[:, :, -1:].expand(-1, -1, 3))


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
    methods = {"zero": Zero(), "persistence": Persistence(), "ar": AR(), "var": VAR()}
    for name, method in methods.items():
        method.fit(learning(part[0], validation=part[1]))
        errors[name] = squared_error(method, part[2])
    assert min(errors, key=errors.get) == "optimum"
    assert errors["var"] < errors["ar"] < errors["zero"] < errors["persistence"]
    assert errors["zero"] - errors["var"] > 0.7 * (errors["zero"] - errors["optimum"])
