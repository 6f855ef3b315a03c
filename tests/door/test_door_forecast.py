"""Forecasting through the real command line, on the tiny cohort."""

import re

import numpy as np
import pytest
import torch
import yaml
from sklearn.metrics import r2_score
from tiny import EXPERIMENTS, door, events, newest, of_task

from brainlm_lightning.checkpoint.files import read_checkpoint
from brainlm_lightning.checkpoint.registry import build
from brainlm_lightning.data.store import Store
from brainlm_lightning.run_folder import read_arrays, read_metrics
from brainlm_lightning.tasks.forecast.net import Forecaster

LSTM = "experiments/forecast_lstm.yaml"
ODE = "experiments/forecast_neural_ode.yaml"
MAE = "experiments/forecast.yaml"
TASK = "model.init_args"
each_forecast = pytest.mark.parametrize("path", of_task("ForecastTask"), ids=lambda path: path.stem)


def tiny_horizon(path):
    """Half of the experiment's, and a window as much longer than the pretraining's (200, here 40) as its own is."""
    settings = yaml.safe_load(path.read_text())
    horizon, window = settings["model"]["init_args"]["horizon_frames"], settings["data"]["window_frames"]
    return {f"{TASK}.horizon_frames": horizon // 2, "data.window_frames": 40 + (window - 200) // 2}


@each_forecast
def test_a_forecast_runs_through_the_door(path, runs, pretrained, caplog):
    given = {f"{TASK}.pretrained": pretrained, **tiny_horizon(path)}
    condition = f"horizon{given[f'{TASK}.horizon_frames']}"
    fitted = door("fit", runs, given, path)
    assert re.search(r"loaded (\d+) of \1 tensors from " + re.escape(str(pretrained)), caplog.text)
    tested = door("test", runs, {**given, "data.test_cohorts": "[other]"}, path)
    assert fitted.parent == tested.parent == runs / path.stem
    metrics = read_metrics(tested)
    name = "mae" if "MAE" in path.read_text() else re.sub("forecast_((abide|ukb|40)_)*", "", path.stem)
    for cohort in ("tiny", "other"):
        methods = {key.split("/")[3] for key in metrics if key.startswith(f"test/{cohort}/{condition}/")}
        assert {name, "zero", "persistence", "ar", "var", "optimum"} <= methods
        scores = {method: metrics.get(f"test/{cohort}/{condition}/{method}/r2_pooled", -np.inf) for method in methods}
        assert max(scores, key=scores.get) == "optimum"


@pytest.mark.parametrize("main", ["forecast_abide", "forecast_ukb", "forecast_ukb_40"])
def test_forecasters_that_are_compared_differ_in_what_they_are_alone(main):
    """Each is what the comparison names, with the cohort, the windows and the budget of all."""
    read = {path.stem: yaml.safe_load(path.read_text()) for path in EXPERIMENTS}
    compared = [path.removeprefix("${runs}/") for path in read[main]["model"]["init_args"]["compare_with"].values()]
    others = [stem for stem in compared if stem.startswith("forecast")]
    assert set(compared) - set(others) <= {read[main]["model"]["init_args"]["pretrained"].removeprefix("${runs}/")}
    assert len(others) == len({stem for stem in read if re.fullmatch(f"{main}_[a-z_]+", stem)}) >= 4
    for stem in others:
        assert read[stem]["experiment"] == stem
        assert read[stem]["data"] == read[main]["data"]
        assert read[stem]["trainer"] == read[main]["trainer"]
        for name in ("horizon_frames", "standardise"):
            assert read[stem]["model"]["init_args"][name] == read[main]["model"]["init_args"][name]


def test_the_horizon_of_table_3_follows_from_180_frames():
    read = {path.stem: yaml.safe_load(path.read_text()) for path in EXPERIMENTS if "forecast_ukb" in path.stem}
    for stem, settings in read.items():
        horizon = settings["model"]["init_args"]["horizon_frames"]
        assert (settings["data"]["window_frames"] - horizon, horizon) == (180, 40 if "_40" in stem else 20)


@pytest.fixture(scope="module")
def compared(stores, pretrained, tmp_path_factory):
    """A run folder of an LSTM's ``fit``, and one of ``test`` of an MAE beside it and beside itself untuned."""
    runs = tmp_path_factory.mktemp("compared")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BRAINLM_DATA", str(stores))
        lstm = door("fit", runs, {}, LSTM)
        given = {f"{TASK}.pretrained": pretrained}
        door("fit", runs, given, MAE)
        others = f"{{lstm: {lstm.parent}, mae_untuned: {pretrained}}}"
        return lstm, door("test", runs, {**given, f"{TASK}.compare_with": others}, MAE)


def test_scores_are_those_of_a_naive_loop(compared, stores):
    lstm, tested = compared
    about, weights = read_checkpoint(lstm / "checkpoints" / "best.ckpt")
    net = build(about, Forecaster, "here").eval()
    net.load_state_dict(weights)
    store = Store(stores / "tiny")
    values = np.concatenate([store.raw(row) for row in np.flatnonzero(store.recordings["split"] == "train")])
    low, centre, high = np.percentile(values.astype(np.float64), [25, 50, 75], axis=0)
    truth, forecast = [], []
    for row in np.flatnonzero(store.recordings["split"] == "test"):
        scaled = torch.tensor(((store.raw(row) - centre) / (high - low)).T).float()
        for start in (0, 40):
            seen, future = scaled[None, :, start : start + 30], scaled[:, start + 30 : start + 40]
            with torch.no_grad():
                forecast.append(net(seen, torch.ones(1, 16, dtype=torch.bool))[0].numpy())
            truth.append(future.numpy())
    y, y_hat = np.stack(truth), np.stack(forecast)
    place, metrics, arrays = "test/tiny/horizon10", read_metrics(tested), read_arrays(tested)
    assert metrics[f"{place}/lstm/r2_pooled"] == pytest.approx(r2_score(y.ravel(), y_hat.ravel()), abs=1e-5)
    assert metrics[f"{place}/num_windows"] == len(y)
    by_frame = ((y - y_hat) ** 2).mean((0, 1))
    assert arrays[f"{place}/lstm/mse_3H"][0] == pytest.approx(by_frame, abs=1e-5)
    assert arrays[f"{place}/lstm/r2_P"][3] == pytest.approx(r2_score(y[:, 3].ravel(), y_hat[:, 3].ravel()), abs=1e-5)
    assert arrays[f"{place}/future_BPH"] == pytest.approx(y[:4], abs=1e-5)


def test_the_pretrained_model_is_tested_without_tuning_and_every_pair_is_compared(compared):
    metrics, arrays = read_metrics(compared[1]), read_arrays(compared[1])
    place = "test/tiny/horizon10"
    others = {"lstm", "mae_untuned", "zero", "persistence", "ar", "ar_shared", "var", "optimum"}
    assert {re.search("mae_minus_(.*?)/", name)[1] for name in metrics if "mae_minus_" in name} == others
    for other in others:
        p_H = arrays[f"{place}/mae_minus_{other}/p_corrected_H"]
        better = (p_H < 0.05) & (arrays[f"{place}/mae_minus_{other}/mse_3H"][0] < 0)
        assert metrics[f"{place}/mae_minus_{other}/num_frames_better"] == better.sum()
    assert not [name for name in metrics if "/frame" in name]
    assert metrics[f"{place}/horizon_s"] == 10
    assert arrays[f"{place}/lstm/mse_SH"].shape == (metrics[f"{place}/mae/num_subjects"], 10)


def test_figures_are_drawn(compared):
    names = {"forecast_by_frame", "forecast_curves_tiny", "forecast_r2_tiny"}
    assert names <= {path.stem for path in (compared[1] / "figures").glob("*.png")}
    assert names <= set(events(compared[1]).Tags()["images"])
    fitted = events(compared[0]).Tags()
    assert {"reconstruction", "parcel_r2"} <= set(fitted["images"])
    assert {"val/loss", "val/mse_first_frame", "val/mse_last_frame"} <= set(fitted["scalars"])


def test_changing_the_future_changes_no_forecast(stores, make_tiny_store, runs, monkeypatch, tmp_path):
    zscored = {"data.scaling": "recording_zscore", f"{TASK}.standardise": "context", "data.cohorts": "poisoned"}

    def poison(series, table):
        for name in table["recording"]:
            series[name][30:40] = 50 * series[name][30:40] + 7

    forecasts = []
    for alter in (None, poison):
        root = tmp_path / str(alter is None)
        make_tiny_store(root, "--split.test=0.3", name="poisoned", frames=40, alter=alter)
        monkeypatch.setenv("BRAINLM_DATA", str(root))
        if alter is None:
            door("fit", runs, zscored, LSTM)
        checkpoint = runs / "forecast_lstm" / "version_0" / "checkpoints" / "best.ckpt"
        forecasts.append(read_arrays(door("test", runs, {**zscored, "ckpt_path": checkpoint}, LSTM)))
    clean, poisoned = (found["test/poisoned/horizon10/lstm/forecast_BPH"] for found in forecasts)
    assert poisoned == pytest.approx(clean, abs=1e-4)


def test_statistics_that_saw_the_future_are_refused(runs):
    with pytest.raises(SystemExit, match="the future included: choose standardise: context"):
        door("fit", runs, {"data.scaling": "recording_zscore"}, LSTM)


def test_a_solver_that_fails_names_the_batch(runs):
    solver = f"{TASK}.forecaster.init_args.config"
    wild = {f"{solver}.max_steps": 1, f"{solver}.rtol": 1e-9, f"{solver}.atol": 1e-9, "trainer.max_steps": 6}
    message = (
        r"neural_ode failed at step \d+: dopri5 stopped: max_num_steps exceeded.*; in the batch of "
        r"tiny-\d+_rest \(frames \d+ to \d+\), "
    )
    with pytest.raises(SystemExit, match=message):
        door("fit", runs, wild, ODE)


def test_a_forecaster_of_another_horizon_is_refused(runs):
    fitted = door("fit", runs, {}, LSTM)
    with pytest.raises(SystemExit, match=r"(?s)does not fit.*frames to forecast: the checkpoint has 10.*experiment 20"):
        door("test", runs, {f"{TASK}.horizon_frames": 20}, LSTM)
    others = {f"{TASK}.compare_with": f"{{other: {fitted}}}", f"{TASK}.horizon_frames": 20}
    door("fit", runs, {**others, "experiment": "longer"}, LSTM)
    with pytest.raises(SystemExit, match="frames to forecast: the checkpoint has 10"):
        door("test", runs, {**others, "experiment": "longer"}, LSTM)


LONGER = {f"{TASK}.horizon_frames": 20, "data.window_frames": 50}


def test_a_window_longer_than_the_pretrainings_is_forecast_from_its_weights(runs, pretrained, caplog):
    """From 30 frames, as many as before, 20: of the new patch's embedding alone the decoder must learn the place."""
    still = {f"{TASK}.optimisation.learning_rate": 0}
    fitted = door("fit", runs, {f"{TASK}.pretrained": pretrained, **LONGER, **still}, MAE)
    assert "windows of 50 frames: those of the pretraining had 40" in caplog.text
    about, weights = read_checkpoint(fitted / "checkpoints" / "last.ckpt")
    before = read_checkpoint(pretrained)[1]
    assert about["window_frames"] == 50
    for name, value in before.items():
        mine = weights[f"autoencoder.{name}"]
        assert torch.equal(mine[:4] if "temporal" in name else mine, value), name
        assert "temporal" not in name or torch.equal(mine[4], value[3])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data.window_frames": 30}, "had windows of 40 frames, this experiment has 30; set data.window_frames to 40"),
        ({"data.window_frames": 60}, r"the context has 50 frames, more than the 40 .* temporal embeddings end"),
    ],
)
def test_windows_that_the_embeddings_do_not_allow_are_refused(settings, message, runs, pretrained):
    with pytest.raises(SystemExit, match=message):
        door("fit", runs, {f"{TASK}.pretrained": pretrained, **settings}, MAE)


def test_a_model_that_is_not_tuned_forecasts_windows_of_its_own_length_alone(runs, pretrained):
    given = {f"{TASK}.pretrained": pretrained, **LONGER}
    door("fit", runs, given, MAE)
    with pytest.raises(SystemExit, match="frames of a window: the checkpoint has 40, this experiment 50"):
        door("test", runs, {**given, f"{TASK}.compare_with": f"{{mae_untuned: {pretrained}}}"}, MAE)


def test_whom_the_pretraining_has_seen_is_no_test_subject(runs, pretrained):
    given = {f"{TASK}.pretrained": pretrained, "data.cohorts": "other", "data.test_cohorts": "[tiny]"}
    with pytest.raises(SystemExit, match=r"subjects of the test sets, .* were seen in the pretraining"):
        door("fit", runs, given, MAE)


def test_a_fit_goes_on_and_knows_whom_the_pretraining_saw(runs, pretrained):
    given = {f"{TASK}.pretrained": pretrained}
    first = door("fit", runs, given, MAE)
    last = {"ckpt_path": first / "checkpoints" / "last.ckpt", "trainer.max_steps": 4}
    door("fit", runs, {**given, **last}, MAE)
    about, _ = read_checkpoint(newest(runs) / "checkpoints" / "last.ckpt")
    assert about["subjects"]["pretraining"] == sorted({*about["subjects"]["train"], *about["subjects"]["val"]})
