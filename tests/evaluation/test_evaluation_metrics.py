import numpy as np
import pytest
import torch
from scipy.stats import pearsonr
from sklearn.metrics import mean_squared_error, r2_score

from brainlm_lightning.evaluation.metrics import HiddenSums, mse, pearson_r, r2, scores

R, P, T = 5, 7, 40  # recordings, parcels, frames


def windows(mean=0.0, seed=0, num_windows=12):
    generator = torch.Generator().manual_seed(seed)
    signal = mean + torch.randn(num_windows, P, T, generator=generator)
    prediction = signal + 0.5 * torch.randn(num_windows, P, T, generator=generator)
    hidden = torch.rand(num_windows, P, T, generator=generator) < 0.6
    return prediction, signal, hidden, torch.arange(num_windows) % R


def sums_of(batch, parts=1):
    metric = HiddenSums(R, P)
    for part in zip(*(tensor.tensor_split(parts) for tensor in batch), strict=True):
        metric.update(*part)
    return metric.compute().numpy()


@pytest.mark.parametrize(("ours", "theirs"), [(r2, r2_score), (mse, mean_squared_error)])
def test_pooled_scores_equal_scikit_learn_over_the_hidden_values(ours, theirs):
    prediction, signal, hidden, index = windows()
    expected = theirs(signal[hidden].double(), prediction[hidden].double())
    assert ours(sums_of((prediction, signal, hidden, index)).sum((0, 1))) == pytest.approx(expected, rel=1e-12)


def test_parcel_and_recording_scores_equal_their_own_hidden_values_scores():
    prediction, signal, hidden, index = windows()
    sums = sums_of((prediction, signal, hidden, index))
    for parcel in range(P):
        y, y_hat = signal[:, parcel][hidden[:, parcel]], prediction[:, parcel][hidden[:, parcel]]
        assert r2(sums.sum(0))[parcel] == pytest.approx(r2_score(y.double(), y_hat.double()), rel=1e-12)
        assert pearson_r(sums.sum(0))[parcel] == pytest.approx(pearsonr(y.double(), y_hat.double())[0], rel=1e-12)
    own = hidden[index == 3]
    expected = r2_score(signal[index == 3][own].double(), prediction[index == 3][own].double())
    assert r2(sums.sum(1))[3] == pytest.approx(expected, rel=1e-12)


def test_sums_do_not_depend_on_batches_or_on_ranks():
    batch = windows()
    whole = sums_of(batch)
    np.testing.assert_allclose(sums_of(batch, parts=5), whole, rtol=1e-13)
    first, second = HiddenSums(R, P), HiddenSums(R, P)
    first.update(*(tensor[::2] for tensor in batch))
    second.update(*(tensor[1::2] for tensor in batch))
    first.merge_state(second)
    np.testing.assert_allclose(first.compute().numpy(), whole, rtol=1e-13)


def test_float32_data_of_mean_10000_and_sd_1_do_not_cancel():
    prediction, signal, hidden, index = windows(mean=1e4, num_windows=200)
    pooled = sums_of((prediction, signal, hidden, index), parts=20).sum((0, 1))
    y, y_hat = signal[hidden].double() - 1e4, prediction[hidden].double() - 1e4
    assert r2(pooled) == pytest.approx(r2_score(y, y_hat), abs=1e-6)
    assert mse(pooled) == pytest.approx(mean_squared_error(y, y_hat), abs=1e-6)
    assert pearson_r(pooled) == pytest.approx(pearsonr(y, y_hat)[0], abs=1e-6)


def test_sums_stay_float64_in_a_bfloat16_module_and_after_a_reset():
    module = torch.nn.Module()
    module.metric = HiddenSums(R, P)
    module.to(torch.bfloat16)
    assert module.metric.sums.dtype == torch.float64
    module.metric.update(*windows())
    module.metric.reset()
    assert module.metric.sums.dtype == torch.float64
    assert module.metric.sums.abs().sum() == 0


def test_visible_values_have_no_effect_even_where_they_are_nan():
    prediction, signal, hidden, index = windows()
    expected = sums_of((prediction, signal, hidden, index))
    prediction[~hidden], signal[~hidden] = float("inf"), float("nan")
    np.testing.assert_array_equal(sums_of((prediction, signal, hidden, index)), expected)


def test_r2_is_not_clipped():
    _, signal, hidden, index = windows()
    assert r2(sums_of((-2 * signal, signal, hidden, index)).sum((0, 1))) == pytest.approx(-8, rel=0.01)


@pytest.mark.parametrize("level", [0.0, 0.1, 1234.5])
def test_a_constant_truth_has_no_r2_and_no_correlation_but_an_error(level):
    prediction, signal, hidden, index = windows()
    sums = sums_of((prediction, torch.full_like(signal, level), hidden, index)).sum((0, 1))
    assert np.isnan(r2(sums))
    assert np.isnan(pearson_r(sums))
    assert mse(sums) == pytest.approx(float((prediction[hidden].double() - level).square().mean()), rel=1e-6)


def test_scores_come_pooled_over_recordings_and_per_parcel_with_intervals_around_them():
    sums = sums_of(windows())
    found = scores(sums, ["a", "a", "b", "c", "c"], num_resamples=200)
    assert found["r2_pooled"] == pytest.approx(r2(sums.sum((0, 1))))
    assert found["pearson_r_recording"] == pytest.approx(pearson_r(sums.sum(1)).mean())
    assert found["mse_parcel"] == pytest.approx(mse(sums.sum(0)).mean())
    for name in ("r2_pooled", "r2_recording", "r2_parcel", "mse_pooled", "pearson_r_parcel"):
        assert found[f"{name}_low"] < found[name] < found[f"{name}_high"]
    assert (found["num_subjects"], found["num_recordings"], found["num_recordings_left_out"]) == (3, 5, 0)


def test_recordings_without_hidden_values_and_constant_parcels_are_left_out_and_counted():
    prediction, signal, hidden, index = windows()
    hidden[index == 4], signal[:, 2] = False, 0.0
    sums = sums_of((prediction, signal, hidden, index))
    found = scores(sums, ["a", "a", "b", "c", "d"], num_resamples=50)
    assert found["r2_parcel"] == pytest.approx(r2(np.delete(sums, 2, axis=1).sum(0)).mean())
    assert found["r2_recording"] == pytest.approx(r2(sums[:4].sum(1)).mean())
    assert (found["num_subjects"], found["num_recordings"]) == (3, 4)
    assert (found["num_recordings_left_out"], found["num_parcels_left_out"]) == (1, 1)


def test_a_method_that_diverged_on_one_recording_has_no_scores_at_all():
    prediction, signal, hidden, index = windows()
    prediction[3] = float("nan")
    found = scores(sums_of((prediction, signal, hidden, index)), list("abcde"), num_resamples=20)
    assert all(np.isnan(found[f"{name}_{way}"]) for name in ("r2", "mse") for way in ("pooled", "recording", "parcel"))


def test_one_subject_has_scores_but_no_interval():
    found = scores(sums_of(windows()), ["a"] * R, num_resamples=20)
    assert np.isfinite(found["r2_parcel"])
    assert np.isnan(found["r2_parcel_low"])


def test_wrong_shapes_and_masks_are_refused_with_what_was_got():
    prediction, signal, hidden, index = windows()
    with pytest.raises(ValueError, match=r"hidden is \(12, 7, 39\) and the prediction \(12, 7, 40\)"):
        HiddenSums(R, P).update(prediction, signal, hidden[..., 1:], index)
    with pytest.raises(TypeError, match=r"torch.float32; expected torch.bool"):
        HiddenSums(R, P).update(prediction, signal, hidden.float(), index)
    with pytest.raises(ValueError, match="4 subjects; expected one subject per recording"):
        scores(sums_of(windows()), list("abcd"))
    with pytest.raises(ValueError, match="no subjects to resample"):
        scores(np.zeros((R, P, 6)), list("abcde"))
