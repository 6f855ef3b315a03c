"""Linear smoothers, against dense solutions, scikit-learn's Gaussian process, and the likelihood."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import Kernel

from brainlm_lightning.evaluation.covariance import lagged_moments
from brainlm_lightning.model.smoother.gradients import Accuracy
from brainlm_lightning.model.smoother.group import stationary, time_moment, window_starts
from brainlm_lightning.model.smoother.kronecker import (
    KroneckerGaussian,
    Spectrum,
    posterior,
)
from brainlm_lightning.tasks.reconstruction.lagged import LaggedSmoother
from brainlm_lightning.tasks.reconstruction.methods import MaskedWindows
from brainlm_lightning.tasks.reconstruction.smoother import AdaptiveSmoother, LinearSmoother, TimeOnlySmoother

PARCELS, FRAMES, PATCH = 6, 20, 4
EXACT = Accuracy(tolerance=1e-12)
SETTINGS = {"ridges": (0.05,), "nuggets": (0.1,), "patch_frames": PATCH, "accuracy": EXACT}
MAKERS = {
    "window": lambda: LinearSmoother("window", **SETTINGS),
    "stationary": lambda: LinearSmoother("stationary", **SETTINGS),
    "time_only": lambda: TimeOnlySmoother(time="window", nuggets=(0.1,), patch_frames=PATCH, accuracy=EXACT),
    "adaptive": lambda: AdaptiveSmoother(mixings=(0.5,), time="window", **SETTINGS),
    "lagged": lambda: LaggedSmoother(memories=(3.0,), separables=(0.3,), **SETTINGS),
}


def recordings(count, frames=50, seed=0):
    """Mixed parcels and slow time, parcel 2 unobserved in the first recording, unobserved values NaN."""
    random = np.random.default_rng(seed)
    mixing = np.random.default_rng(7).standard_normal((PARCELS, PARCELS)) + 2 * np.eye(PARCELS)
    white = random.standard_normal((count, PARCELS, frames + 5))
    slow = np.stack([white[:, :, lag : lag + frames] for lag in range(6)]).mean(0)
    series = np.einsum("pq,rqt->rpt", mixing, slow) + 0.2 * random.standard_normal((count, PARCELS, frames)) + 0.3
    observed = np.ones((count, PARCELS), bool)
    observed[0, 2], series[0, 2] = False, np.nan
    return list(zip(series, observed, strict=True))


def learning(train, val, window_frames=FRAMES):
    splits = {"train": train, "val": val}
    data = SimpleNamespace(window_frames=window_frames)
    return SimpleNamespace(recordings=lambda split, name="": iter(splits[split]), data=data)


def fitted(kind, train=None):
    method = MAKERS[kind]()
    method.fit(learning(train or recordings(12), recordings(3, seed=1)))
    return method


def windows(ratio=0.5, seed=2):
    """Three windows, float64, one with an unobserved parcel, one without a visible value at its first frames."""
    signal = torch.stack([torch.from_numpy(values[:, :FRAMES]) for values, _ in recordings(3, seed=seed)])
    observed = torch.ones(3, PARCELS, dtype=torch.bool)
    observed[0, 2] = False
    hidden = torch.rand(3, PARCELS, FRAMES // PATCH, generator=torch.Generator().manual_seed(0)) < ratio
    hidden[1, :, 0] = True
    return signal, hidden & observed[:, :, None], observed


def reconstruct(method, signal, hidden, observed):
    ids, first = [""] * len(signal), torch.zeros(len(signal), dtype=torch.long)
    return method.reconstruct(MaskedWindows.of(signal, hidden, observed, ids, first))


def visible_of(hidden, observed):
    return (~hidden & observed[:, :, None]).repeat_interleave(PATCH, dim=2)


def dense_covariance(kind, train, ridge=0.05, nugget=0.1):
    """Mean (P,), and covariance (P T, P T) without and with the noise, by loops over windows and lags."""
    mean, parcels = (part.numpy() for part in lagged_moments(train))
    if kind == "time_only":
        parcels, ridge = np.diag(np.diag(parcels)), 0.0
    moment = np.zeros((FRAMES, FRAMES))
    for values, observed in train:
        for start in (0, 15, 30):
            part = ((values.T - mean) / np.sqrt(np.diag(parcels))).T[observed, start : start + FRAMES]
            moment += sum(np.outer(x, x) for x in part)
    if kind == "stationary":
        moment = np.array([[np.diag(moment, abs(t - u)).mean() for u in range(FRAMES)] for t in range(FRAMES)])
        values, vectors = np.linalg.eigh(moment)
        moment = vectors @ np.diag(values.clip(0)) @ vectors.T
    moment /= np.trace(moment) / FRAMES
    scale = np.trace(parcels) / PARCELS
    signal = np.kron(parcels + ridge * scale * np.eye(PARCELS), moment)
    return mean, signal, signal + nugget * scale * np.eye(len(signal))


@pytest.mark.parametrize("kind", ["window", "stationary", "time_only"])
@pytest.mark.parametrize("ratio", [0.2, 0.9])
def test_equals_the_dense_conditional_mean(kind, ratio):
    train, (signal, hidden, observed) = recordings(12), windows(ratio)
    filled = reconstruct(fitted(kind, train), signal, hidden, observed)
    mean, prior, noisy = dense_covariance(kind, train)
    level = np.repeat(mean, FRAMES)
    for b, seen in enumerate(visible_of(hidden, observed).flatten(1).numpy()):
        gain = np.linalg.solve(noisy[np.ix_(seen, seen)], (signal[b].flatten().numpy() - level)[seen])
        expected = level + prior[:, seen] @ gain
        np.testing.assert_allclose(filled[b].flatten()[~seen], expected[~seen], atol=1e-6)


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("poison", [float("nan"), 1e9])
def test_what_is_hidden_or_unobserved_is_never_looked_at(kind, poison):
    method, (signal, hidden, observed) = fitted(kind), windows()
    visible = visible_of(hidden, observed)
    expected = reconstruct(method, signal.where(visible, 0.0), hidden, observed)
    poisoned = reconstruct(method, signal.where(visible, poison), hidden, observed)
    torch.testing.assert_close(poisoned, expected, rtol=0, atol=0)
    assert expected.isfinite().all()


@pytest.mark.parametrize("kind", MAKERS)
def test_hidden_values_have_no_gradient(kind):
    method, (signal, hidden, observed) = fitted(kind), windows()
    method.accuracy = Accuracy(1e-6)
    visible = visible_of(hidden, observed)
    signal = signal.nan_to_num().requires_grad_()
    reconstruct(method, signal, hidden, observed)[~visible].square().sum().backward()
    assert (signal.grad[~visible] == 0).all()
    assert (signal.grad[visible] != 0).all() or kind == "time_only"


@pytest.mark.parametrize("kind", MAKERS)
def test_visible_values_come_back_and_the_dtype_stays(kind):
    method, (signal, hidden, observed) = fitted(kind), windows()
    filled, visible = reconstruct(method, signal.float(), hidden, observed), visible_of(hidden, observed)
    assert filled.dtype == torch.float32
    assert torch.equal(filled[visible], signal.float()[visible])


@pytest.mark.parametrize("kind", MAKERS)
def test_permuting_parcels_permutes_the_prediction(kind):
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    train, (signal, hidden, observed) = recordings(12), windows()
    permuted = fitted(kind, [(values[order.numpy()], known[order.numpy()]) for values, known in train])
    expected = reconstruct(fitted(kind, train), signal, hidden, observed)[:, order]
    got = reconstruct(permuted, signal[:, order], hidden[:, order], observed[:, order])
    hidden_BPT = hidden[:, order].repeat_interleave(PATCH, dim=2)
    torch.testing.assert_close(got[hidden_BPT], expected[hidden_BPT], atol=1e-8, rtol=0)


def gaussian(noise, seed=0):
    """A full covariance of parcels and a smooth one in time."""
    random = np.random.default_rng(seed)
    root, frame = random.standard_normal((PARCELS, 2 * PARCELS)), np.arange(FRAMES)
    smooth = np.exp(-(((frame[:, None] - frame) / 3) ** 2)) + 0.01 * np.eye(FRAMES)
    parcels = torch.from_numpy(root @ root.T / PARCELS)
    return KroneckerGaussian.of(Spectrum.of(parcels), Spectrum.of(torch.from_numpy(smooth)), noise), parcels, smooth


def test_without_noise_all_that_is_visible_is_given_back():
    model, _, _ = gaussian(noise=1e-10)
    signal = torch.randn(2, PARCELS, FRAMES, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = posterior(model, signal, torch.ones_like(signal, dtype=torch.bool), EXACT)
    torch.testing.assert_close(found.values_BPT, signal, atol=1e-6, rtol=0)
    assert found.iterations <= 3  # what the preconditioner does not know, of parcels, counts for nothing


def test_where_parcels_are_unrelated_the_preconditioner_is_the_inverse():
    model, parcels, _ = gaussian(noise=1e-6)
    model = model.with_parcels(parcels.diagonal().diag())
    signal = torch.randn(2, PARCELS, FRAMES, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    visible = torch.rand(2, PARCELS, FRAMES, generator=torch.Generator().manual_seed(1)) < 0.5
    assert posterior(model, signal, visible, Accuracy(1e-6)).iterations <= 2


class Given(Kernel):
    """A covariance of frames, as a kernel of scikit-learn."""

    def __init__(self, matrix):
        self.matrix = matrix

    def __call__(self, X, Y=None, eval_gradient=False):
        rows, columns = X[:, 0].astype(int), (X if Y is None else Y)[:, 0].astype(int)
        return self.matrix[np.ix_(rows, columns)]

    def diag(self, X):
        return self.matrix.diagonal()[X[:, 0].astype(int)]

    def is_stationary(self):
        return False


def test_time_alone_is_sklearns_gaussian_process_of_one_parcel():
    train, (signal, hidden, observed) = recordings(12), windows()
    filled = reconstruct(fitted("time_only", train), signal, hidden, observed)
    mean, prior, noisy = dense_covariance("time_only", train)
    parcel, frames = 4, np.arange(FRAMES)[:, None]
    seen = visible_of(hidden, observed)[2, parcel].numpy()
    assert 0 < seen.sum() < FRAMES
    block = prior[parcel * FRAMES : (parcel + 1) * FRAMES, parcel * FRAMES : (parcel + 1) * FRAMES]
    process = GaussianProcessRegressor(Given(block), alpha=noisy[0, 0] - prior[0, 0], optimizer=None)
    process.fit(frames[seen], signal[2, parcel].numpy()[seen] - mean[parcel])
    expected = process.predict(frames[~seen]) + mean[parcel]
    np.testing.assert_allclose(filled[2, parcel].numpy()[~seen], expected, atol=1e-7)


def log_likelihood(parcels, smooth, noise, values, seen):
    """Of the visible values of one window, by the dense covariance."""
    dense = np.kron(parcels, smooth) + noise * np.eye(PARCELS * FRAMES)
    dense, y = dense[np.ix_(seen, seen)], values[seen]
    return -0.5 * (y @ np.linalg.solve(dense, y) + np.linalg.slogdet(dense)[1])


@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.6])
def test_a_step_of_em_does_not_lower_the_likelihood_of_the_visible(ratio):
    noise = 0.3
    _, own, smooth = gaussian(noise, seed=0)
    model, _, _ = gaussian(noise, seed=1)
    draw = np.random.default_rng(2).multivariate_normal(np.zeros(PARCELS * FRAMES), np.kron(own.numpy(), smooth))
    signal = torch.from_numpy(draw + noise**0.5 * np.random.default_rng(3).standard_normal(len(draw)))
    visible = torch.rand(1, PARCELS, FRAMES, generator=torch.Generator().manual_seed(0)) >= ratio
    seen, likelihoods = visible.flatten().numpy(), []
    for _ in range(6):
        covariance = model.parcels.covariance.numpy().reshape(PARCELS, PARCELS)
        likelihoods.append(log_likelihood(covariance, smooth, noise, signal.numpy(), seen))
        found = posterior(model, signal.view(1, PARCELS, FRAMES), visible, EXACT)
        model = model.with_parcels(found.parcels_BPP())
    assert np.diff(likelihoods).min() > 0
    assert likelihoods[-1] - likelihoods[0] > 5


@pytest.mark.parametrize("unseen", [[], [1, 4]])
def test_a_step_of_em_is_the_dense_expectation_where_all_is_visible_or_whole_parcels_are_hidden(unseen):
    noise = 0.3
    model, parcels, smooth = gaussian(noise)
    signal = torch.randn(1, PARCELS, FRAMES, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    visible = torch.ones_like(signal, dtype=torch.bool)
    visible[:, unseen] = False
    prior, seen = np.kron(parcels.numpy(), smooth), visible.flatten().numpy()
    gain = prior[:, seen] @ np.linalg.inv((prior + noise * np.eye(len(prior)))[np.ix_(seen, seen)])
    mean = gain @ signal.flatten().numpy()[seen]
    second = (prior - gain @ prior[seen] + np.outer(mean, mean)).reshape(PARCELS, FRAMES, PARCELS, FRAMES)
    expected = np.einsum("ptqu,tu->pq", second, np.linalg.inv(smooth)) / FRAMES
    got = posterior(model, signal, visible, EXACT).parcels_BPP()[0]
    np.testing.assert_allclose(got, expected, atol=1e-8)


@pytest.mark.parametrize("noise", [1e-2, 1e-8])
def test_the_tolerance_bounds_the_error_of_what_is_expected_however_small_the_noise_is(noise):
    model, _, _ = gaussian(noise)
    random = torch.Generator().manual_seed(0)
    white = torch.randn(2, PARCELS, len(model.time.values), generator=random, dtype=torch.float64)
    signal = model.parcels.root @ white @ model.time.root.mT
    visible = (torch.rand(2, PARCELS, FRAMES // PATCH, generator=random) < 0.4).repeat_interleave(PATCH, dim=2)
    exact = posterior(model, signal, visible, EXACT).values_BPT
    for tolerance in (1e-1, 1e-2, 1e-3):
        found = posterior(model, signal, visible, Accuracy(tolerance))
        assert (found.values_BPT - exact).square().mean().sqrt() < 2 * tolerance * signal.std()


def test_adapting_with_no_weight_is_the_linear_smoother():
    train, (signal, hidden, observed) = recordings(12), windows()
    adaptive = AdaptiveSmoother(mixings=(0.0,), time="window", **SETTINGS)
    adaptive.fit(learning(train, recordings(3, seed=1)))
    expected = reconstruct(fitted("window", train), signal, hidden, observed)
    torch.testing.assert_close(reconstruct(adaptive, signal, hidden, observed), expected, atol=1e-8, rtol=0)


@pytest.mark.parametrize("kind", MAKERS)
def test_a_window_alone_is_predicted_as_among_others(kind):
    method, (signal, hidden, observed) = fitted(kind), windows()
    together = reconstruct(method, signal, hidden, observed).nan_to_num()
    for b in range(len(signal)):
        alone = reconstruct(method, signal[b : b + 1], hidden[b : b + 1], observed[b : b + 1]).nan_to_num()
        torch.testing.assert_close(alone[0], together[b], atol=1e-8, rtol=0)


def test_nothing_visible_is_the_mean_of_the_training_subjects():
    train, (signal, _, observed) = recordings(12), windows()
    filled = reconstruct(fitted("window", train), signal, torch.ones(3, PARCELS, 5, dtype=torch.bool), observed)
    expected = lagged_moments(train)[0][:, None].expand(PARCELS, FRAMES)
    torch.testing.assert_close(filled[1], expected, atol=1e-12, rtol=0)


def test_steps_that_do_not_suffice_are_an_error_that_names_what_was_reached():
    method, (signal, hidden, observed) = fitted("window"), windows()
    method.accuracy = Accuracy(1e-12, max_iterations=3)
    with pytest.raises(ArithmeticError, match=r"reached an error of .* in 3 steps; expected 1e-12.*nugget"):
        reconstruct(method, signal, hidden, observed)


def test_settings_are_those_with_the_least_error_on_validation_subjects():
    """The grid starts far off: it is extended to where a smoother at a fixed setting is no better."""
    train, val = recordings(12), recordings(3, seed=1)
    method = LinearSmoother(ridges=(0.01, 0.1), nuggets=(3.0, 10.0), patch_frames=PATCH)
    chosen = method.fit(learning(train, val))
    assert chosen["nugget"] < 1
    assert chosen["at_edge"] == 0
    for factor in (0.3, 3.0):
        other = LinearSmoother(ridges=(chosen["ridge"],), nuggets=(chosen["nugget"] * factor,), patch_frames=PATCH)
        assert other.fit(learning(train, val))["r2_val"] < chosen["r2_val"]


def test_the_covariance_in_time_is_the_one_with_the_least_error_on_validation_subjects():
    """Of twelve recordings of one slow process, the lag covariance knows more than 20 x 20 products do."""
    train, val = recordings(12), recordings(3, seed=1)
    r2_val = {}
    for time in ("window", "stationary", None):
        chosen = LinearSmoother(time, **SETTINGS).fit(learning(train, val))
        r2_val[time, chosen["stationary"]] = chosen["r2_val"]
    assert list(r2_val) == [("window", 0), ("stationary", 1), (None, 1)]
    assert r2_val[None, 1] == r2_val["stationary", 1] > r2_val["window", 0]


def test_a_setting_that_cannot_be_solved_for_is_not_chosen(caplog):
    """Noise of 0.01 would be best, and takes 26 steps; noise of 30 takes 10."""
    settings = {"ridges": (0.0,), "nuggets": (0.01, 30.0), "patch_frames": PATCH}
    method = LinearSmoother("window", accuracy=Accuracy(1e-6, 15), **settings)
    assert method.fit(learning(recordings(12), recordings(3, seed=1)))["nugget"] == 30
    assert "LinearSmoother is not tried with {'nugget': 0.01" in caplog.text


def test_settings_none_of_which_can_be_solved_for_are_an_error():
    method = LinearSmoother(
        "window", ridges=(0.0,), nuggets=(0.01, 0.1), patch_frames=PATCH, accuracy=Accuracy(1e-6, 1)
    )
    with pytest.raises(ArithmeticError, match="none of its settings can be solved for in 1 steps"):
        method.fit(learning(recordings(12), recordings(3, seed=1)))


@pytest.mark.parametrize("kind", ["random", "parcels"])
def test_steps_do_not_grow_as_the_noise_falls(kind):
    """Without a preconditioner 148 grow to 1,152 where single patches are hidden."""
    taken = []
    for noise in (1e-2, 1e-5, 1e-8):
        model, _, _ = gaussian(noise)
        random = torch.Generator().manual_seed(0)
        white = torch.randn(2, PARCELS, len(model.time.values), generator=random, dtype=torch.float64)
        visible = torch.rand(2, PARCELS, FRAMES if kind == "random" else 1, generator=random) < 0.5
        visible = visible.expand(2, PARCELS, FRAMES)
        found = posterior(model, model.parcels.root @ white @ model.time.root.mT, visible, Accuracy(1e-6))
        taken.append(found.iterations)
    assert max(taken) <= 1.5 * taken[0]
    assert max(taken) < 40


@pytest.mark.parametrize(
    ("val", "patch_frames", "message"),
    [([], PATCH, "0 validation windows"), (recordings(3, seed=1), 3, "patches of 3")],
)
def test_what_settings_cannot_be_chosen_by_is_an_error(val, patch_frames, message):
    with pytest.raises(ValueError, match=message):
        LinearSmoother(patch_frames=patch_frames).fit(learning(recordings(3), val))


def test_recordings_shorter_than_a_window_are_an_error():
    with pytest.raises(ValueError, match="window of 60 frames"):
        time_moment(recordings(3), torch.zeros(PARCELS), torch.ones(PARCELS), 60)


def test_windows_hold_all_frames_of_a_recording():
    assert window_starts(50, 20) == [0, 15, 30]
    assert window_starts(40, 20) == [0, 20]
    assert window_starts(20, 20) == [0]
    assert window_starts(19, 20) == []


def test_stationary_keeps_a_toeplitz_moment():
    lag = (torch.arange(5.0)[:, None] - torch.arange(5.0)).abs()
    assert torch.equal(stationary(0.5**lag), 0.5**lag)
    assert torch.equal(stationary(torch.diag(torch.arange(5.0))), 2 * torch.eye(5))


def test_noise_must_be_there():
    with pytest.raises(ValueError, match="above 0"):
        gaussian(noise=0.0)


def test_directions_in_time_that_carry_nothing_teach_nothing():
    """Half of the directions are left out: what a window says of parcels is half of T, the rest stays as it was."""
    model, parcels, smooth = gaussian(noise=0.3)
    values, vectors = np.linalg.eigh(smooth)
    values[: FRAMES // 2] = 0
    half = KroneckerGaussian.of(model.parcels, Spectrum.of(torch.from_numpy((vectors * values) @ vectors.T)), 0.3)
    nothing = torch.zeros(1, PARCELS, FRAMES, dtype=torch.bool)
    signal = torch.full((1, PARCELS, FRAMES), torch.nan)
    assert half.time.values.shape == (FRAMES // 2,)
    got = posterior(half, signal, nothing, EXACT).parcels_BPP()[0]
    torch.testing.assert_close(got, parcels, atol=1e-9, rtol=0)


def test_adapting_moves_the_covariance_between_the_training_subjects_and_the_windows_own():
    method = fitted("adaptive")
    signal, hidden, observed = (part[1:] for part in windows())  # of these every parcel is seen
    visible = visible_of(hidden, observed)
    filled = reconstruct(method, signal, hidden, observed)
    mean_P1 = method.group.mean_P[:, None]
    group = method.group.model(method.setting, signal.device)
    model = group
    for _ in range(2):
        found = posterior(model, signal - mean_P1, visible, EXACT)
        model = model.with_parcels((group.parcels.covariance + found.parcels_BPP()) / 2)
    expected = mean_P1 + posterior(model, signal - mean_P1, visible, EXACT).values_BPT
    torch.testing.assert_close(filled[~visible], expected[~visible], atol=1e-8, rtol=0)
