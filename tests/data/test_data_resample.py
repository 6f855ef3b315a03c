import numpy as np
import pytest

from brainlm_lightning.data.resample import resample

RATES = [(2.0, 1.0), (3.0, 1.0), (1.5, 1.0), (2.5, 1.0), (1.66, 1.0), (0.735, 1.0), (0.5, 1.0), (1.0, 2.0)]
MIDDLE = slice(30, -30)


def tone(frequency_hz, tr_s, duration_s=600, phase=0.7):
    time_s = np.arange(0, duration_s, tr_s)
    return np.sin(2 * np.pi * frequency_hz * time_s + phase)[:, None].astype(np.float32)


@pytest.mark.parametrize(("tr_s", "target_tr_s"), RATES)
def test_a_slow_tone_keeps_amplitude_and_phase(tr_s, target_tr_s):
    new = resample(tone(0.05, tr_s), tr_s, target_tr_s)
    expected = tone(0.05, target_tr_s)[: len(new)]
    np.testing.assert_allclose(new[MIDDLE], expected[MIDDLE], atol=5e-3)


@pytest.mark.parametrize(
    ("tr_s", "target_tr_s", "frequency_hz"), [(0.5, 1.0, 0.62), (0.735, 1.0, 0.62), (1.0, 3.0, 0.21)]
)
def test_a_tone_above_the_new_nyquist_leaves_no_alias(tr_s, target_tr_s, frequency_hz):
    new = resample(tone(frequency_hz, tr_s), tr_s, target_tr_s)
    assert np.abs(new[MIDDLE]).max() < 0.01
    alias = tone(frequency_hz, target_tr_s)  # taking every k-th frame would give the full amplitude
    assert np.abs(alias[MIDDLE]).max() > 0.9


@pytest.mark.parametrize(("tr_s", "target_tr_s"), RATES)
def test_no_frame_lies_after_the_last_one_recorded(tr_s, target_tr_s):
    for frames in (115, 176, 231):
        new = resample(np.random.default_rng(0).normal(size=(frames, 2)), tr_s, target_tr_s)
        end_s = (frames - 1) * tr_s
        assert (len(new) - 1) * target_tr_s <= end_s + 1e-9 < len(new) * target_tr_s


def test_the_same_rate_changes_no_bit():
    series = np.random.default_rng(0).normal(1e4, 1, (50, 3)).astype(np.float32)
    np.testing.assert_array_equal(resample(series, 2.0, 2.0), series)


@pytest.mark.parametrize(("tr_s", "target_tr_s"), RATES)
def test_a_level_stays_a_level_up_to_the_edges(tr_s, target_tr_s):
    new = resample(np.full((120, 1), 1e4, np.float32), tr_s, target_tr_s)
    np.testing.assert_allclose(new, 1e4, rtol=1e-6)


def test_edges_of_band_limited_signals_are_within_two_percent_of_their_sd():
    rng = np.random.default_rng(0)
    frequencies, phases = rng.uniform(0.01, 0.1, 60), rng.uniform(0, 2 * np.pi, (60, 100))

    def signals(time_s):
        return np.sin(2 * np.pi * np.outer(time_s, frequencies)[..., None] + phases).sum(axis=1) / np.sqrt(30)

    new = resample(signals(np.arange(200) * 2.0), 2.0, 1.0)
    error = new - signals(np.arange(len(new)))
    assert np.sqrt(np.mean(error[:10] ** 2)) < 0.02  # repeating the end values leaves 0.03
    assert np.sqrt(np.mean(error[-10:] ** 2)) < 0.02


@pytest.mark.parametrize(("tr_s", "target_tr_s"), [(0.0, 1.0), (2.0, -1.0), (float("nan"), 1.0)])
def test_a_time_that_is_not_positive_is_refused(tr_s, target_tr_s):
    with pytest.raises(ValueError, match="above 0"):
        resample(np.zeros((20, 1)), tr_s, target_tr_s)
