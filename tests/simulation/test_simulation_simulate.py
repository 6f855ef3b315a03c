"""The simulated cohort: files, reproducibility, and that its statistics are those of the models it names."""

import numpy as np
import pandas as pd
import pytest
from scipy.linalg import solve_discrete_lyapunov
from scipy.stats import pearsonr

from brainlm_lightning.simulation.simulate import OTHER_COHORT, Simulation, load_truth, place_parcels, simulate
from brainlm_lightning.simulation.state_space import resonators

SMALL = Simulation(subjects=6, parcels=24, frames=60, task_recordings=2)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return simulate(SMALL, tmp_path_factory.mktemp("cohort") / "simulated")


def read(folder):
    with np.load(folder / "timeseries.npz", allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def test_files_agree_on_recordings_parcels_and_frames(cohort):
    recordings, parcels = (pd.read_csv(cohort / f"{name}.tsv", sep="\t") for name in ("recordings", "parcels"))
    series, truth = read(cohort), load_truth(cohort / "truth.npz")
    assert list(series) == list(truth) == list(recordings["recording"])
    assert {(x.shape, x.dtype.name) for x in series.values()} == {((60, len(parcels)), "float32")}
    assert list(recordings["task"]) == ["rest"] * 6 + ["blocks"] * 2
    assert set(recordings) >= {"recording", "subject", "tr", "age", "symptoms", "sex", "noise_score"}
    assert [name for name, model in truth.items() if model.drive is not None] == list(recordings["recording"][6:])


def test_same_simulation_gives_same_bytes(cohort, tmp_path):
    again = simulate(SMALL, tmp_path / "again")
    for file in cohort.iterdir():
        assert (again / file.name).read_bytes() == file.read_bytes()


def test_further_subjects_leave_earlier_ones_as_they_were(cohort, tmp_path):
    longer = simulate(Simulation(subjects=8, parcels=24, frames=60, task_recordings=3), tmp_path / "longer")
    before, after = read(cohort), read(longer)
    for name, series in before.items():
        np.testing.assert_allclose(after[name], series, rtol=1e-5, atol=1e-5)


def test_a_folder_with_files_is_refused(cohort):
    with pytest.raises(FileExistsError, match="not empty"):
        simulate(SMALL, cohort)


@pytest.mark.parametrize(
    "wrong", [{"parcels": 63}, {"networks": 1}, {"frequency_hz": (0.1, 0.6)}, {"task_recordings": 201}, {"noise": 0.0}]
)
def test_what_cannot_be_simulated_is_refused_by_name(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Simulation(**wrong)


def test_initial_covariance_solves_the_lyapunov_equation(cohort):
    for model in load_truth(cohort / "truth.npz").values():
        expected = solve_discrete_lyapunov(model.transition, model.process_cov)
        np.testing.assert_allclose(model.initial_cov, expected, atol=1e-9 * np.abs(expected).max())
        np.testing.assert_allclose(np.diagonal(model.initial_cov)[-7:], 1)  # what parcels see of a network


def test_networks_resonate_where_they_are_told():
    frequency_hz = np.array([[0.02, 0.05, 0.08]])
    model = resonators(frequency_hz, tr_s=1.0, bandwidth_hz=0.002, haemodynamic_s=0.5, correlation=0.0)
    poles = np.linalg.eigvals(model["transition"][0])
    angles_hz = np.unique(np.angle(poles[poles.imag > 1e-6]).round(6)) / (2 * np.pi)
    np.testing.assert_allclose(angles_hz, frequency_hz[0], atol=1e-6)
    assert np.abs(poles).max() < 1


def test_drawn_series_have_the_covariance_of_their_model(tmp_path):
    simulation = Simulation(subjects=1, parcels=16, frames=60_000)
    folder = simulate(simulation, tmp_path / "long")
    (series,), (model,) = read(folder).values(), load_truth(folder / "truth.npz").values()
    now, later = series[:-3].astype(float), series[3:].astype(float)
    seen_cov = model.loading @ model.initial_cov @ model.loading.T
    lagged = model.loading @ np.linalg.matrix_power(model.transition, 3) @ model.initial_cov @ model.loading.T
    np.testing.assert_allclose(np.cov(now.T), seen_cov + np.diag(model.noise_var), atol=0.12)
    np.testing.assert_allclose(later.T @ now / len(now), lagged, atol=0.12)


def test_series_begin_as_they_go_on(tmp_path):
    """The first frame has the stationary variance: no run-up from zero."""
    folder = simulate(Simulation(subjects=2000, parcels=16, frames=2), tmp_path / "short")
    series, truth = np.stack(list(read(folder).values())), load_truth(folder / "truth.npz").values()
    expected = np.mean([np.diag(m.loading @ m.initial_cov @ m.loading.T) + m.noise_var for m in truth])
    np.testing.assert_allclose((series**2).mean((0, 2)), expected, rtol=0.04)


def test_task_recordings_differ_by_the_response_to_the_blocks(tmp_path):
    calm, driven = (Simulation(subjects=60, parcels=16, task_recordings=60, drive=drive) for drive in (0.0, 1.5))
    without, with_blocks = (read(simulate(s, tmp_path / str(s.drive))) for s in (calm, driven))
    model = load_truth(tmp_path / "1.5" / "truth.npz")["simulated-00003_blocks"]
    response = with_blocks["simulated-00003_blocks"] - without["simulated-00003_blocks"]
    state, expected = np.zeros(len(model.transition)), []
    for push in model.drive:
        state = model.transition @ state + push
        expected.append(model.loading @ state)
    np.testing.assert_allclose(response, expected, atol=1e-5)
    assert 1.5 >= np.abs(response[:, 0] / model.loading[0, -7]).max() > 1.49  # a long block settles at `drive`
    np.testing.assert_array_equal(with_blocks["simulated-00003_rest"], without["simulated-00003_rest"])


def test_parcels_are_mirrored_inside_the_brain_and_networks_compact():
    parcels = place_parcels(Simulation(parcels=64))
    xyz = parcels[["x", "y", "z"]].to_numpy()
    np.testing.assert_array_equal(xyz[:32] * [-1, 1, 1], xyz[32:])
    assert (np.linalg.norm(xyz / [65, 85, 60], axis=1) <= 1.001).all()
    assert parcels["network"].nunique() == 7
    network = parcels["network"].to_numpy()[:32]
    apart = np.linalg.norm(xyz[:32, None] - xyz[:32], axis=2)
    same = network[:, None] == network
    assert apart[same & (apart > 0)].mean() < 0.6 * apart[~same].mean()


def test_other_cohort_shares_the_atlas_and_no_subject():
    pd.testing.assert_frame_equal(place_parcels(Simulation()), place_parcels(OTHER_COHORT))
    assert OTHER_COHORT.name != Simulation().name


def test_phenotypes_depend_on_the_strengths_that_they_should_depend_on(tmp_path):
    folder = simulate(Simulation(subjects=600, parcels=16, frames=2, loading_sd=0.0), tmp_path / "many")
    people = pd.read_csv(folder / "recordings.tsv", sep="\t")
    loadings = np.stack([m.loading[:, -7:] for m in load_truth(folder / "truth.npz").values()])
    strengths = np.log(np.linalg.norm(loadings, axis=1))  # up to a constant of each network
    contrasts = strengths[:, [0, 2, 4]] - strengths[:, [1, 3, 5]]
    scores = [people["age"], np.log(people["symptoms"] + 0.01), (people["sex"] == "F").astype(float)]
    r = np.array([[pearsonr(score, contrast).statistic for contrast in contrasts.T] for score in scores])
    np.testing.assert_allclose(np.diag(r)[:2], 0.7, atol=0.06)
    assert r[2, 2] > 0.45  # a dichotomy keeps 0.8 of a correlation
    nothing = [pearsonr(people["noise_score"], other).statistic for other in [*strengths.T, *scores]]
    assert max(np.abs([*r[~np.eye(3, dtype=bool)], *nothing])) < 0.13  # 3.2 standard errors
    assert people["symptoms"].skew() > 1
