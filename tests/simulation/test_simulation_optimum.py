"""The optimum is the exact conditional mean, and no method does better on simulated recordings."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from brainlm_lightning.simulation.optimum import Optimum
from brainlm_lightning.simulation.simulate import Simulation, load_truth, simulate
from brainlm_lightning.simulation.state_space import LinearGaussian, stationary_cov
from brainlm_lightning.tasks.reconstruction.baselines import (
    ConditionalGaussian,
    LinearInterpolation,
    ZeroReconstruction,
)
from brainlm_lightning.tasks.reconstruction.methods import MaskedWindows, OptimalReconstruction

FRAMES, PARCELS = 12, 3


def tiny_model(seed, num_states=4, drive=False):
    """A random stable model; the process noise has rank 1, as that of a resonator."""
    random = np.random.default_rng(seed)
    transition = random.standard_normal((num_states, num_states))
    transition *= 0.9 / np.abs(np.linalg.eigvals(transition)).max()
    push = random.standard_normal((num_states, 1))
    initial_cov = stationary_cov(transition[None], (push @ push.T)[None])[0]
    return LinearGaussian(
        transition,
        push @ push.T,
        random.standard_normal((PARCELS, num_states)),
        random.uniform(0.2, 1, PARCELS),
        initial_cov,
        random.standard_normal((FRAMES + 5, num_states)) if drive else None,
    )


def dense_conditional_mean(model, signal_PT, seen_PT, first_frame=0):
    """E[y | seen y] from the joint covariance of all values of the window, written out lag by lag."""
    num_frames, power = signal_PT.shape[1], np.linalg.matrix_power
    cov = np.empty((num_frames, PARCELS, num_frames, PARCELS))
    for s, t in np.ndindex(num_frames, num_frames):
        lag = (
            model.initial_cov @ power(model.transition, t - s).T
            if t >= s
            else power(model.transition, s - t) @ model.initial_cov
        )
        cov[s, :, t] = model.loading @ lag @ model.loading.T + (s == t) * np.diag(model.noise_var)
    cov = cov.reshape(num_frames * PARCELS, -1)
    mean, state = [], np.zeros(len(model.transition))
    for t in range(first_frame + num_frames):
        state = model.transition @ state + (0 if model.drive is None else model.drive[t])
        mean.append(model.loading @ state)
    mean, seen, y = np.ravel(mean[first_frame:]), seen_PT.T.ravel(), signal_PT.T.ravel()
    filled = mean + cov[:, seen] @ np.linalg.solve(cov[np.ix_(seen, seen)], y[seen] - mean[seen])
    return np.where(seen, y, filled).reshape(num_frames, PARCELS).T


def tiny_windows(num_windows=3, seed=0):
    random = np.random.default_rng(seed)
    signal = random.standard_normal((num_windows, PARCELS, FRAMES)) * 2
    hidden = random.random((num_windows, PARCELS, FRAMES)) < 0.6
    hidden[0, :, -4:] = True  # nothing at all at the end of one window
    observed = np.ones((num_windows, PARCELS), bool)
    observed[1, 2] = False
    return torch.from_numpy(signal), torch.from_numpy(hidden), torch.from_numpy(observed)


def visible(hidden, observed):
    return ~hidden & observed[:, :, None]


def unscaled(models):
    return {k: np.zeros(PARCELS) for k in models}, {k: np.ones(PARCELS) for k in models}


@pytest.mark.parametrize("drive", [False, True])
def test_smoother_is_the_dense_conditional_mean_of_every_window(drive):
    models = {name: tiny_model(seed, drive=drive) for seed, name in enumerate("abc")}
    signal, hidden, observed = tiny_windows()
    first = torch.tensor([0, 3, 5])
    filled = Optimum(models, *unscaled(models)).predict(signal, visible(hidden, observed), ["c", "a", "b"], first)
    for b, name in enumerate("cab"):
        seen = (~hidden[b] & observed[b][:, None]).numpy()
        expected = dense_conditional_mean(models[name], signal[b].numpy(), seen, int(first[b]))
        np.testing.assert_allclose(filled[b], expected, atol=1e-8)


def test_scaling_is_folded_into_the_model():
    models = {"a": tiny_model(0, drive=True)}
    signal, hidden, observed = (x[1:2] for x in tiny_windows())
    centre, scale = np.array([0.5, -1.0, 2.0]), np.array([2.0, 0.3, 5.0])
    raw = Optimum(models, *unscaled(models)).predict(signal, visible(hidden, observed), ["a"], torch.zeros(1))
    affine = lambda y: (y - torch.from_numpy(centre)[:, None]) / torch.from_numpy(scale)[:, None]  # noqa: E731
    filled = Optimum(models, {"a": centre}, {"a": scale}).predict(
        affine(signal), visible(hidden, observed), ["a"], torch.zeros(1)
    )
    torch.testing.assert_close(filled, affine(raw), rtol=0, atol=1e-10)


@pytest.mark.parametrize("poison", [float("nan"), 1e9])
def test_what_is_hidden_or_unobserved_is_never_looked_at(poison):
    models = {name: tiny_model(seed) for seed, name in enumerate("abc")}
    signal, hidden, observed = tiny_windows()
    optimum, blind = Optimum(models, *unscaled(models)), hidden | ~observed[:, :, None]
    clean, poisoned = (
        optimum.predict(signal.where(~blind, value), ~blind, list("abc"), torch.zeros(3)) for value in (0.0, poison)
    )
    assert torch.equal(clean, poisoned)
    assert clean.isfinite().all()


def test_parcels_without_a_scale_are_predicted_as_zero_and_say_nothing():
    models = {"a": tiny_model(0)}
    signal, hidden, observed = (x[1:2] for x in tiny_windows())
    scale = {"a": np.array([1.0, 1.0, np.nan])}
    optimum = Optimum(models, {"a": np.array([0.0, 0.0, np.nan])}, scale)
    filled = optimum.predict(signal, visible(hidden, observed), ["a"], torch.zeros(1))
    expected = Optimum(models, *unscaled(models)).predict(signal, visible(hidden, observed), ["a"], torch.zeros(1))
    torch.testing.assert_close(filled[:, :2], expected[:, :2])
    assert (filled[0, 2] == 0).all()


def test_unknown_recording_and_window_beyond_the_input_are_refused():
    models = {"a": tiny_model(0, drive=True)}
    signal, hidden, observed = (x[:1] for x in tiny_windows())
    optimum = Optimum(models, *unscaled(models))
    with pytest.raises(KeyError, match="real-1"):
        optimum.predict(signal, visible(hidden, observed), ["real-1"], torch.zeros(1))
    with pytest.raises(ValueError, match=r"6 to 18, but .* 17 frames"):
        optimum.predict(signal, visible(hidden, observed), ["a"], torch.full((1,), 6))


def test_silent_sensors_are_refused():
    with pytest.raises(ValueError, match="above 0"):
        Optimum({"a": replace(tiny_model(0), noise_var=np.zeros(PARCELS))}, *unscaled({"a": None}))


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """80 subjects, 40 also at the task: scaled recordings, their truth, centre and scale of the first 40."""
    simulation = Simulation(subjects=80, frames=220, task_recordings=40)
    folder = simulate(simulation, tmp_path_factory.mktemp("simulated") / "cohort")
    with np.load(folder / "timeseries.npz") as file:
        series = {name: file[name].astype(float) for name in file.files}
    low, centre, high = np.quantile(np.concatenate(list(series.values())[:40]), [0.25, 0.5, 0.75], axis=0)
    scaled = {name: ((values - centre) / (high - low)).T for name, values in series.items()}
    return scaled, load_truth(folder / "truth.npz"), centre, high - low


def r2_at(method, signal, names, ratio, seed=0):
    """R² pooled over hidden values at a share of hidden (parcel, 20 frames) patches."""
    patches = torch.rand(*signal.shape[:2], 10, generator=torch.Generator().manual_seed(seed)) < ratio
    hidden, observed = patches.repeat_interleave(20, dim=2), torch.ones(signal.shape[:2], dtype=torch.bool)
    first = torch.full((len(names),), 10)
    filled = method.reconstruct(MaskedWindows.of(signal, hidden, observed, names, first))
    truth = signal[hidden]
    return 1 - ((filled[hidden] - truth) ** 2).sum().item() / ((truth - truth.mean()) ** 2).sum().item()


def optimum_of(truth, names, centre, scale):
    optimum = Optimum({n: truth[n] for n in names}, dict.fromkeys(names, centre), dict.fromkeys(names, scale))
    return OptimalReconstruction(optimum)


def gaussian(recordings, lags=(0,)):
    method = ConditionalGaussian(lags)
    method.fit(SimpleNamespace(recordings=lambda split, name: iter(recordings)))
    return method


@pytest.mark.parametrize("ratio", [0.2, 0.75])
def test_no_method_exceeds_the_optimum_and_the_cohort_is_as_hard_as_it_should_be(simulated, ratio):
    scaled, truth, centre, scale = simulated
    names = list(truth)[40:80]
    signal = torch.stack([torch.from_numpy(scaled[name][:, 10:210]) for name in names])
    train = [(scaled[name], np.ones(64, bool)) for name in list(truth)[:40]]
    methods = {
        "zero": ZeroReconstruction(),
        "interpolation": LinearInterpolation(),
        "gaussian": gaussian(train),
        "lagged": gaussian(train, (-2, 0, 2)),
        "optimum": optimum_of(truth, names, centre, scale),
    }
    r2 = {name: r2_at(method, signal, names, ratio) for name, method in methods.items()}
    assert r2["interpolation"] < r2["zero"] < r2["gaussian"] < r2["lagged"] < r2["optimum"]
    assert r2["optimum"] == pytest.approx({0.2: 0.53, 0.75: 0.50}[ratio], abs=0.03)
    assert 0.7 < r2["gaussian"] / r2["optimum"] < 0.92


def test_other_parameters_do_worse_than_the_true_ones(simulated):
    """The optimum is one in each parameter: another subject's model, or less noise than there was, costs R²."""
    scaled, truth, centre, scale = simulated
    names = list(truth)[40:80]
    signal = torch.stack([torch.from_numpy(scaled[name][:, 10:210]) for name in names])
    best = r2_at(optimum_of(truth, names, centre, scale), signal, names, 0.75)
    neighbour = dict(zip(names, [truth[name] for name in names[1:] + names[:1]], strict=True))
    quieter = {name: replace(truth[name], noise_var=truth[name].noise_var / 3) for name in names}
    for wrong in (neighbour, quieter):
        assert r2_at(optimum_of(wrong, names, centre, scale), signal, names, 0.75) < best - 0.005


def test_errors_are_as_large_as_the_noise_and_the_states_allow(simulated):
    """With all but one parcel visible, errors have at least the sensor noise's variance, and little more."""
    scaled, truth, centre, scale = simulated
    names = list(truth)[:40]
    signal = torch.stack([torch.from_numpy(scaled[name][:, 10:210]) for name in names])
    hidden = torch.zeros(signal.shape, dtype=torch.bool)
    hidden[:, 5] = True
    observed = torch.ones(signal.shape[:2], dtype=torch.bool)
    windows = MaskedWindows.of(signal, hidden, observed, names, torch.full((40,), 10))
    filled = optimum_of(truth, names, centre, scale).reconstruct(windows)
    ratio = ((filled - signal)[:, 5] ** 2).mean().item() / (truth[names[0]].noise_var[5] / scale[5] ** 2)
    assert 1.0 < ratio < 1.2


def test_known_task_input_is_accounted_for(simulated):
    scaled, truth, centre, scale = simulated
    names = [name for name, model in truth.items() if model.drive is not None]
    signal = torch.stack([torch.from_numpy(scaled[name][:, 10:210]) for name in names])
    undriven = {name: replace(truth[name], drive=None) for name in names}
    with_input, without = (r2_at(optimum_of(t, names, centre, scale), signal, names, 0.9) for t in (truth, undriven))
    assert with_input > without + 0.005
