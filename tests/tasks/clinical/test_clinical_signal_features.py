import numpy as np
import pytest

from brainlm_lightning.tasks.clinical.signal_features import BANDS, signal_features

NETWORKS = ["Vis", "Vis", "none", "SM", "SM"]
GENERATOR = np.random.default_rng(0)
NUM_BANDS = len(BANDS) - 1


def autoregressive(slope, frames=40000):
    series = np.zeros(frames)
    shocks = GENERATOR.standard_normal(frames)
    for frame in range(1, frames):
        series[frame] = slope * series[frame - 1] + shocks[frame]
    return series


def parts(series, observed=None, networks=NETWORKS):
    """Autocorrelation, log amplitude and bands of each network; correlations between networks."""
    observed = np.ones(len(series), dtype=bool) if observed is None else observed
    found = signal_features(series, observed, networks, "none")
    number = len(set(networks) - {"none"}) or 1
    means = found[: number * (NUM_BANDS + 2)].reshape(number, -1)
    return means[:, 0], means[:, 1], means[:, 2:], found[means.size :]


def test_autocorrelation_of_networks_is_the_slope_of_an_autoregression():
    series = np.stack([autoregressive(slope) for slope in (0.9, 0.9, 0.0, 0.3, 0.3)])
    assert np.tanh(parts(series)[0]) == pytest.approx([0.9, 0.3], abs=0.02)


def test_amplitude_is_in_the_files_own_unit_and_the_rest_knows_no_unit():
    series = GENERATOR.standard_normal((5, 4000))
    louder = series * np.array([10, 10, 1, 1, 1])[:, None] + 500
    before, after = parts(series), parts(louder)
    assert after[1] - before[1] == pytest.approx([np.log(10), 0], abs=1e-5)
    assert all(np.allclose(a, b, atol=1e-4) for a, b in zip(before[::2], after[::2], strict=True))
    assert np.allclose(before[3], after[3], atol=1e-4)


@pytest.mark.parametrize("band", range(NUM_BANDS))
def test_a_sine_is_in_its_band(band):
    """The lowest two are as wide as the spectrum is fine: their upper edge is one of its frequencies."""
    frequency = BANDS[band + 1] if band < 2 else np.sqrt(BANDS[band] * BANDS[band + 1])
    sine = np.sin(2 * np.pi * frequency * np.arange(2048))
    shares = np.exp(parts(np.stack([sine] * 5))[2])
    assert shares.argmax(1).tolist() == [band, band]


def test_connectivity_of_networks_is_the_mean_over_pairs_of_parcels():
    series = GENERATOR.standard_normal((5, 5)) @ GENERATOR.standard_normal((5, 3000))
    z = np.arctanh(np.clip(np.corrcoef(series), 1e-6 - 1, 1 - 1e-6))
    expected = [z[0, 1], np.mean([z[i, j] for i in (0, 1) for j in (3, 4)]), z[3, 4]]
    assert parts(series)[3] == pytest.approx(expected, rel=1e-4)


def test_parcels_without_data_say_nothing():
    series = GENERATOR.standard_normal((5, 500))
    series[1] = 0
    series[4] = 7.0
    observed = np.array([True, False, True, True, True])
    correlation, amplitude, _, between = parts(series, observed)
    alone = parts(series[[0, 0, 2, 3, 3]])
    assert correlation == pytest.approx(alone[0], abs=1e-6)
    assert amplitude == pytest.approx(alone[1], abs=1e-6)
    assert between == pytest.approx([0, np.arctanh(np.corrcoef(series[[0, 3]])[0, 1]), 0], abs=1e-5)
    assert np.isfinite(signal_features(np.zeros((5, 60)), np.zeros(5, dtype=bool), NETWORKS, "none")).all()


def test_without_named_networks_the_brain_is_one():
    series = GENERATOR.standard_normal((5, 500))
    whole = signal_features(series, np.ones(5, dtype=bool), ["none"] * 5, "none")
    assert whole.shape == (NUM_BANDS + 3,)
    assert whole[1] == pytest.approx(np.log(series.std(1)).mean(), abs=1e-5)
