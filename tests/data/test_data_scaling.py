import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.preprocessing import RobustScaler

from brainlm_lightning.data import scaling
from brainlm_lightning.data.scaling import (
    RECIPES,
    CentreScale,
    ScalingStatistics,
    centre_and_scale,
    quantile_statistics,
)


def recordings(seed=0, parcels=7):
    rng = np.random.default_rng(seed)
    spread = 10.0 ** rng.uniform(-6, 6, parcels)
    level = spread * rng.choice([0, 100, -3.0], parcels)
    return [(rng.standard_t(2, (frames, parcels)) * spread + level).astype(np.float32) for frames in (231, 97, 400)]


def statistics(parcels=3):
    rng = np.random.default_rng(1)
    robust, centred = (CentreScale(rng.normal(size=parcels), rng.uniform(1, 2, parcels)) for _ in range(2))
    return ScalingStatistics(robust, centred, num_recordings=5, num_subjects=4)


@pytest.mark.parametrize("chunk_values", [1, 2000, 1 << 21])
def test_equals_the_robust_scaler_of_all_frames_at_once(monkeypatch, chunk_values):
    monkeypatch.setattr(scaling, "CHUNK_VALUES", chunk_values)
    found = quantile_statistics(lambda: iter(recordings()), 7)
    expected = RobustScaler().fit(np.concatenate(recordings()).astype(np.float64))
    np.testing.assert_array_equal(found.centre, expected.center_)
    np.testing.assert_array_equal(found.scale, expected.scale_)


@settings(deadline=None, max_examples=60)
@given(arrays(np.float32, st.tuples(st.integers(1, 12), st.just(2)), elements=st.floats(-(2.0**99), 2.0**99, width=32)))
def test_equals_numpy_quantile_whatever_the_values(values):
    found = quantile_statistics(lambda: [values], 2)
    q25, median, q75 = np.quantile(values.astype(np.float64), [0.25, 0.5, 0.75], axis=0)
    np.testing.assert_array_equal(found.centre, median)
    np.testing.assert_array_equal(found.scale, np.where(q75 > q25, q75 - q25, np.nan))


def test_unobserved_values_are_left_out():
    first, second, third = recordings()
    second[:, 2] = np.nan
    second[5:9, 3] = -np.float32(np.nan)
    found = quantile_statistics(lambda: [first, second, third], 7)
    together = np.concatenate([first, second, third]).astype(np.float64)
    np.testing.assert_array_equal(found.centre, np.nanmedian(together, axis=0))
    q25, q75 = np.nanquantile(together, [0.25, 0.75], axis=0)
    np.testing.assert_array_equal(found.scale, q75 - q25)


def test_a_constant_or_absent_parcel_has_no_scale():
    values = np.tile(np.float32([3, np.nan, 0]), (10, 1))
    values[:, 2] = np.arange(10)
    found = quantile_statistics(lambda: [values], 3)
    np.testing.assert_array_equal(found.centre, [3, np.nan, 4.5])
    np.testing.assert_array_equal(found.scale, [np.nan, np.nan, 4.5])


def test_no_recording_at_all_gives_no_statistics():
    found = quantile_statistics(lambda: [], 2)
    assert np.isnan(found.centre).all()
    assert np.isnan(found.scale).all()


def test_statistics_survive_json_to_the_last_bit():
    before = statistics()
    before.robust.scale[1] = np.nan
    after = ScalingStatistics.from_json(json.loads(json.dumps(before.to_json(), allow_nan=False)))
    for name in ("robust", "robust_centred"):
        np.testing.assert_array_equal(getattr(after, name).centre, getattr(before, name).centre)
        np.testing.assert_array_equal(getattr(after, name).scale, getattr(before, name).scale)
    assert (after.num_recordings, after.num_subjects) == (5, 4)


def test_recipes_scale_raw_values_as_they_say():
    raw = np.random.default_rng(2).normal(1e3, 5, (50, 3))
    mean, std, of = raw.mean(axis=0), raw.std(axis=0), statistics()
    expected = {
        "robust": (raw - of.robust.centre) / of.robust.scale,
        "robust_centred": (raw - mean - of.robust_centred.centre) / of.robust_centred.scale,
        "recording_zscore": (raw - mean) / std,
        "none": raw,
    }
    assert set(expected) == set(RECIPES)
    for recipe, scaled in expected.items():
        centre, scale = centre_and_scale(recipe, of, mean, std)
        np.testing.assert_allclose(((raw - mean) - centre) / scale, scaled, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_batch_is_scaled_as_its_recordings_are(recipe):
    mean, std = np.random.default_rng(3).uniform(1, 2, (2, 4, 3)).astype(np.float32)
    together = centre_and_scale(recipe, statistics(), mean, std)
    for row in range(4):
        alone = centre_and_scale(recipe, statistics(), mean[row], std[row])
        np.testing.assert_array_equal(alone, [part[row] for part in together])


@pytest.mark.parametrize("recipe", ["robust", "robust_centred", "recording_zscore"])
def test_a_parcel_without_statistics_is_left_alone(recipe):
    of = statistics()
    for table in (of.robust, of.robust_centred):
        table.scale[1] = np.nan
    centre, scale = centre_and_scale(recipe, of, np.ones(3), np.array([1.0, 0.0, 1.0]))
    assert (centre[1], scale[1]) == (0, 1)
    assert np.isfinite([centre, scale]).all()


def test_an_unknown_recipe_is_refused():
    with pytest.raises(ValueError, match="'zscore'; expected one of robust, robust_centred"):
        centre_and_scale("zscore", statistics(), np.zeros(3), np.ones(3))
