import numpy as np
import pandas as pd
import pytest
import scipy.signal

from brainlm_lightning.data.dimensions import effective_dimensions
from brainlm_lightning.data.resample import resample


def noise(frames=200, parcels=400, recordings=8, band_hz=None):
    """White recordings, or ones that hold only a band at 1 Hz; exactly, by Fourier."""
    for seed in range(recordings):
        values = np.random.default_rng(seed).normal(0, 1, (4 * frames, parcels))
        if band_hz is not None:
            spectrum, hz = np.fft.rfft(values, axis=0), np.fft.rfftfreq(4 * frames)
            spectrum[(hz < band_hz[0]) | (hz > band_hz[1])] = 0
            values = np.fft.irfft(spectrum, axis=0)
        yield values[:frames]


def test_white_noise_has_every_dimension():
    assert effective_dimensions(noise()) == 200


@pytest.mark.parametrize("band_hz", [(0.01, 0.1), (0.0, 0.25)])
def test_a_band_has_two_dimensions_a_hertz_and_second(band_hz):
    expected = 2 * (band_hz[1] - band_hz[0]) * 200 + 1
    assert effective_dimensions(noise(band_hz=band_hz)) == pytest.approx(expected, abs=5)


def test_frames_and_parcels_without_data_do_not_count():
    def with_gaps():
        for values in noise(frames=203):
            values[[5, 80, 81]] = np.nan
            values[:, 7] = np.nan
            yield values

    assert effective_dimensions(with_gaps()) == 200
    assert effective_dimensions(noise(frames=150)) is None


@pytest.mark.parametrize(
    ("cohort", "expected"), [("abide_cc400", (36, 42)), ("restpain_mist122", (30, 35)), ("sleep_aicha391", (198, 200))]
)
def test_real_recordings_show_who_filtered_them(real_data, cohort, expected):
    table = pd.read_csv(real_data / cohort / "recordings.tsv", sep="\t").iloc[::12]
    with np.load(real_data / cohort / "timeseries.npz") as archive:
        series = [resample(archive[name], tr, 1.0) for name, tr in zip(table["recording"], table["tr"], strict=True)]
    found = effective_dimensions(scipy.signal.detrend(values, axis=0, type="constant") for values in series)
    assert expected[0] <= found <= expected[1]
