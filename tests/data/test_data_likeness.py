import json

import numpy as np
import pytest
from scipy.signal import butter, sosfiltfilt

from brainlm_lightning.data.likeness import Reference, correlations, group_directions, statistics

PARCELS, FRAMES, WINDOW = 12, 230, 100
MIXING = np.random.default_rng(9).normal(0, 1, (PARCELS, 4))
ALL = np.ones(PARCELS, bool)
BAND = butter(2, (0.01, 0.1), "bandpass", fs=1.0, output="sos")


def recording(seed, mixing=MIXING):
    """A band-passed recording at 1 Hz with four networks."""
    rng = np.random.default_rng(seed)
    noise = mixing @ rng.normal(0, 1, (4, FRAMES)) + rng.normal(0, 1, (len(mixing), FRAMES))
    series = sosfiltfilt(BAND, noise, axis=1)
    return series / series.std(axis=1, keepdims=True)


@pytest.fixture(scope="module")
def reference():
    return Reference.of([(recording(seed), ALL) for seed in range(20)], 1.0, WINDOW)


def test_statistics_are_what_they_say():
    seconds = np.arange(200)
    waves = np.stack([np.sin(2 * np.pi * 0.05 * seconds), np.sin(2 * np.pi * 0.2 * seconds)])
    series = np.concatenate([3 + 2 * waves, 3 + 2 * waves[:1]])
    found = statistics((series, np.ones(3, bool)), 1.0, WINDOW, None)
    assert found["mean_abs"] == pytest.approx(3)
    assert found["sd"] == pytest.approx(2 / np.sqrt(2))
    assert (found["power_slow"], found["power_fast"]) == pytest.approx((0, 1 / 3), abs=1e-9)
    assert found["connectivity_mean"] == pytest.approx(1 / 3)  # of three pairs one is the same, the others orthogonal
    assert found["dimensions"] == 2  # one wave at each of two frequencies


def test_connectivity_is_compared_with_the_mean_of_the_group():
    series = [recording(seed) for seed in range(5)]
    group = np.mean([np.corrcoef(each) for each in series], axis=0)
    directions = group_directions([(each, ALL) for each in series])
    assert directions @ directions.T == pytest.approx(group, abs=1e-6)  # of 12 parcels all directions are kept
    above = np.triu_indices(PARCELS, 1)
    expected = np.corrcoef(np.corrcoef(series[0])[above], group[above])[0, 1]
    own = series[0][:, :200]
    assert correlations(own) == pytest.approx(np.corrcoef(own))
    found = statistics((series[0], ALL), 1.0, 115, directions)["connectivity_likeness"]
    assert found == pytest.approx(expected, abs=1e-6)


def test_another_recording_of_the_kind_looks_like_them(reference):
    again = Reference.from_json(json.loads(json.dumps(reference.to_json())), 1.0, WINDOW)
    for seed in range(100, 110):
        assert again.unlike((recording(seed)[:, :200], ALL)) == []


UNLIKE = {
    "louder": (lambda x: 3 * x, ["standard deviation"]),
    "with a level": (lambda x: x + 2, ["size of the mean"]),
    "not filtered": (
        lambda x: MIXING @ np.random.default_rng(0).normal(0, 0.4, (4, 200)),
        ["share of power above 0.1 Hz", "effective dimensions"],
    ),
    "in another order": (lambda x: x[::-1], ["correlation with the training group's"]),
    "with a global signal": (lambda x: x + 2 * x[:1], ["mean correlation of two parcels"]),
}


@pytest.mark.parametrize("case", UNLIKE)
def test_what_is_unlike_is_said_with_its_numbers(case, reference):
    change, expected = UNLIKE[case]
    found = reference.unlike((change(recording(100)[:, :200]), ALL))
    for words in expected:
        (line,) = [line for line in found if words in line]
        assert "training" in line


def test_unobserved_parcels_play_no_part(reference):
    series, observed = recording(100)[:, :200], ALL.copy()
    observed[3] = False
    series[3] = np.nan
    assert reference.unlike((series, observed)) == []


def test_a_reference_needs_recordings():
    with pytest.raises(ValueError, match="no training recording to say"):
        Reference.of([], 1.0, WINDOW)
