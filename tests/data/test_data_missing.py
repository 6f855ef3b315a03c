import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brainlm_lightning.data.missing import as_ranges, fill_frames, from_ranges, missing_frames, resample_missing

FLAGS = st.lists(st.booleans(), min_size=2, max_size=40).filter(lambda flags: not all(flags)).map(np.array)


@given(FLAGS)
def test_ranges_say_which_frames(missing):
    assert from_ranges(as_ranges(missing), len(missing)).tolist() == missing.tolist()


def test_ranges_are_short():
    assert as_ranges(np.isin(np.arange(30), [4, 17, 18, 19, 29])) == "4,17-19,29"


@given(FLAGS)
def test_gaps_are_filled_as_numpy_interpolates(missing):
    series = np.random.default_rng(len(missing)).normal(0, 1, (len(missing), 3)).astype(np.float32)
    frames = np.arange(len(missing))
    expected = np.stack([np.interp(frames, frames[~missing], column[~missing]) for column in series.T], axis=1)
    gaps = series.copy()
    gaps[missing] = np.nan
    np.testing.assert_allclose(fill_frames(gaps, missing), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("value", [np.nan, 0.0])
def test_frames_without_data_are_found_whatever_dead_parcels_there_are(value):
    series = np.random.default_rng(0).normal(0, 1, (20, 6))
    series[:, 1], series[:, 4] = np.nan, 0  # never measured
    series[[3, 11]] = value
    series[7, :3] = value  # some parcels: no missing frame
    assert np.flatnonzero(missing_frames(series)).tolist() == [3, 11]


def test_a_recording_without_any_data_has_no_missing_frames():
    assert not missing_frames(np.zeros((10, 4))).any()
    assert not missing_frames(np.full((10, 4), np.nan)).any()


def test_resampled_frames_rest_on_their_neighbours():
    missing = np.isin(np.arange(10), [4])
    assert np.flatnonzero(resample_missing(missing, 2.0, 1.0)).tolist() == [7, 8, 9]  # 6 s, 8 s and 10 s are frames 3-5
    assert np.flatnonzero(resample_missing(missing, 1.0, 1.0)).tolist() == [4]
    assert np.flatnonzero(resample_missing(missing, 1.0, 2.0)).tolist() == [2]
