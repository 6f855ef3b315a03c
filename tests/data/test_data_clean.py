import numpy as np
import pytest
import scipy.signal

from brainlm_lightning.data.clean import CleaningPlan, clean_series

TR_S, FRAMES = 2.0, 300
NONE = np.zeros(FRAMES, bool)
TIME = np.arange(FRAMES) * TR_S


def cleaned(series, missing=NONE, regressors=None, **plan):
    return clean_series(series.astype(np.float32), CleaningPlan(**plan), TR_S, missing, regressors)


def noise(seed=0, parcels=3):
    return np.random.default_rng(seed).normal(1000, 10, (FRAMES, parcels))


def test_a_trend_is_removed_and_the_level_stays():
    series = noise() + 0.5 * TIME[:, None]
    expected = scipy.signal.detrend(series, axis=0) + series.mean(axis=0)
    np.testing.assert_allclose(cleaned(series, detrend=True), expected, atol=1e-3)


def test_a_band_pass_keeps_what_is_inside_and_removes_what_is_outside():
    waves = {hz: np.sin(2 * np.pi * hz * TIME) for hz in (0.002, 0.05, 0.2)}
    series = np.stack([100 + wave for wave in waves.values()], axis=1)
    power = (cleaned(series, high_pass_hz=0.01, low_pass_hz=0.1) - 100)[30:-30].std(axis=0) / np.sqrt(0.5)
    assert power[0] < 0.1
    assert power[1] == pytest.approx(1, abs=0.05)
    assert power[2] < 0.05


def test_regression_is_least_squares():
    regressors = np.random.default_rng(1).normal(0, 1, (FRAMES, 4))
    series = noise() + regressors @ np.random.default_rng(2).normal(0, 20, (4, 3))
    design = np.column_stack([np.ones(FRAMES), regressors])
    residual = series - design @ np.linalg.lstsq(design, series, rcond=None)[0]
    expected = residual + series.mean(axis=0)
    plan = {"confounds": ["motion"]}
    np.testing.assert_allclose(cleaned(series, regressors=regressors, **plan), expected, atol=1e-2)


def test_what_stands_in_missing_frames_touches_no_other():
    missing = NONE.copy()
    missing[[50, 51, 200]] = True
    series, poisoned = noise(), noise()
    poisoned[missing] = 1e6
    plan = {"detrend": True, "high_pass_hz": 0.01, "low_pass_hz": 0.1}
    one, other = cleaned(series, missing, **plan), cleaned(poisoned, missing, **plan)
    np.testing.assert_array_equal(one[~missing], other[~missing])


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"low_pass_hz": 0.3}, r"low_pass_hz is 0.3, and frames 2.0 s apart carry up to 0.25 Hz"),
        ({"low_pass_hz": 0.1, "high_pass_hz": 0.2}, "0 < high_pass < low_pass"),
        ({"high_pass_hz": 0.01, "confounds": ["high_pass"]}, "filter twice"),
    ],
)
def test_filters_that_cannot_be_are_refused(plan, message):
    with pytest.raises(ValueError, match=message):
        cleaned(noise(), **plan)


def test_more_regressors_than_frames_are_refused():
    with pytest.raises(ValueError, match="300 regressors for 300 frames leave nothing over"):
        cleaned(noise(), regressors=np.ones((FRAMES, FRAMES)), confounds=["motion"])
