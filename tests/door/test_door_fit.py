import json
import re

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from sklearn.metrics import r2_score
from tiny import arguments, differing, door, events, newest, run_main, scalars, versions

from brainlm_lightning.callbacks.run_logger import LAYOUT
from brainlm_lightning.checkpoint.pretrained import load_model
from brainlm_lightning.data.places import Places
from brainlm_lightning.data.schedule import evaluation_windows
from brainlm_lightning.data.store import Store
from brainlm_lightning.data.windows import Recordings
from brainlm_lightning.evaluation.pooling import pooled_runs
from brainlm_lightning.model.masking import Grid, draw_mask
from brainlm_lightning.run_folder import read_arrays, read_metrics

RATIOS = "[0.2,0.75]"


@pytest.fixture(scope="module")
def finished(stores, tmp_path_factory):
    """A run folder of ``fit`` (4 steps, 2 validations) and one of ``test`` on two cohorts."""
    runs = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BRAINLM_DATA", str(stores))
        fitted = door("fit", runs, {"trainer.max_steps": 4})
        testing = {"data.test_cohorts": "[other]", "model.init_args.test_ratios": RATIOS}
        return fitted, door("test", runs, testing)


def test_a_run_folder_holds_what_the_run_was_and_gave(finished):
    fitted, tested = finished
    assert {path.name for path in (fitted / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert {"config.yaml", "provenance.json", "metrics.json"} <= {path.name for path in fitted.iterdir()}
    expected = {"config.yaml", "provenance.json", "metrics.json", "arrays.npz"}
    assert expected <= {path.name for path in tested.iterdir()}
    assert not list(fitted.rglob("*.part")) + list(tested.rglob("*.part"))
    assert (fitted.name, tested.name) == ("version_0", "version_1")


def test_provenance_names_the_checkpoint_and_the_cohorts(finished, stores):
    fitted, tested = (json.loads((folder / "provenance.json").read_text()) for folder in finished)
    store = json.loads((stores / "tiny" / "store.json").read_text())
    assert fitted["cohorts"]["tiny"]["atlas"] == store["atlas"]["sha256"]
    assert fitted["checkpoint_sha256"] is None
    assert len(tested["checkpoint_sha256"]) == 64
    assert set(tested["cohorts"]) == {"tiny", "other"}
    assert (tested["device"], tested["world_size"], tested["seed"]) == ("cpu", 1, 0)


def test_tensorboard_shows_training(finished):
    fitted, _ = finished
    seen = events(fitted).Tags()
    curves = {"train/loss", "train/r2", "train/gradient_norm", "val/r2", "val/loss"}
    rates = {"train/learning_rate_group1", "train/learning_rate_group2"}
    charts = {"work/windows_per_second", "work/data_wait_share"}
    assert curves | rates | charts == set(seen["scalars"])  # no epochs, and no chart of one point
    assert {"reconstruction", "parcel_r2"} <= set(seen["images"])
    assert {"cls"} <= {path.name for path in fitted.rglob("cls")}
    assert list(scalars(fitted, "train/loss")) == [0, 1, 2, 3]
    assert len(scalars(fitted, "val/r2")) == 2
    drawn = {curve for group in LAYOUT.values() for _, curves in group.values() for curve in curves}
    assert all(any(re.fullmatch(curve, name) for name in seen["scalars"]) for curve in drawn)
    plugins = events(fitted)
    assert "custom_scalars__config__" in seen["tensors"]
    (line,) = plugins.PluginTagToContent("hparams").keys() - {"_hparams_/experiment", "_hparams_/session_end_info"}
    assert line == "_hparams_/session_start_info"


def test_tensorboard_shows_a_test_as_a_table(finished):
    _, tested = finished
    seen = events(tested)
    assert seen.Tags()["scalars"] == []
    tables = [name for name in seen.Tags()["tensors"] if name.startswith("results/")]
    assert any("Reconstruction, tiny" in name for name in tables)
    text = seen.Tensors(tables[0])[0].tensor_proto.string_val[0].decode()
    assert "| mae | " in text
    assert f"{read_metrics(tested)['test/tiny/hidden0.75/mae/r2_pooled']:.3f}" in text


def test_a_run_folder_keeps_what_a_report_says_of_it(finished):
    for run, cohorts in zip(finished, ({"tiny"}, {"tiny", "other"}), strict=True):
        assert {path.stem for path in (run / "cohorts").glob("*.json")} == cohorts
        assert {path.stem for path in (run / "cohorts").glob("*.html")} == cohorts
        known = json.loads((run / "provenance.json").read_text())
        assert known["time_utc"] <= known["ended_utc"]
    kept = read_arrays(finished[1])
    assert (len(kept["parcels/label"]), float(kept["windows/tr_s"])) == (16, 1.0)


def test_the_projector_names_each_window(finished, stores):
    fitted, _ = finished
    shown = pd.read_csv(next(fitted.rglob("metadata.tsv")), sep="\t")
    vectors = np.loadtxt(next(fitted.rglob("tensors.tsv")), delimiter="\t")
    people = Store(stores / "tiny").recordings.set_index("recording_id")
    assert vectors.shape == (len(shown), 40)
    assert set(shown["recording_id"]) == set(people.index[people["split"] == "val"])
    for name in ("subject_id", "age", "symptoms", "sex"):
        assert shown[name].tolist() == people.loc[shown["recording_id"], name].tolist()


def test_metrics_have_their_names_and_intervals(finished):
    metrics = read_metrics(finished[1])
    shape = re.compile(r"(test/(tiny|other)/hidden(0\.2|0\.75)|fitted|data)/[a-z_]+/[\w+-]+")
    assert all(shape.fullmatch(name) for name in metrics)
    for name in (name for name in metrics if name.endswith(("r2_pooled", "r2_recording", "r2_centred", "mse_pooled"))):
        assert metrics[f"{name}_low"] <= metrics[name] <= metrics[f"{name}_high"]
    methods = {name.split("/")[3] for name in metrics if name.endswith("/r2_pooled")}
    assert {"mae", "mae_untrained", "zero", "linear_interpolation", "conditional_gaussian", "optimum"} <= methods


def test_sums_of_each_subject_are_kept_so_that_splits_can_be_pooled(finished, capsys):
    """A test pooled with itself: each subject counts once, so every number is the test's own."""
    metrics, arrays = read_metrics(finished[1]), read_arrays(finished[1])
    for cohort in ("tiny", "other"):
        where = f"test/{cohort}/hidden0.75"
        sums_UK = arrays[f"{where}/mae/sums_UK"]
        assert len(sums_UK) == len(arrays[f"{where}/subject_U"]) == metrics[f"{where}/mae/num_subjects"]
        n, y, yy, _, pp, yp = sums_UK.sum(0)
        assert 1 - (yy - 2 * yp + pp) / (yy - y * y / n) == pytest.approx(metrics[f"{where}/mae/r2_pooled"], abs=1e-9)
    together = pooled_runs([finished[1], finished[1]])
    assert set(together) <= set(metrics)
    assert {name for name in together if name.endswith("/p")} == {name for name in metrics if name.endswith("/p")}
    for name in together:
        if "num_" not in name and "mse" not in name:
            assert together[name] == pytest.approx(metrics[name], abs=1e-9, nan_ok=True), name
    other = pooled_runs([finished[1], finished[1]], "linear_smoother")
    name = "test/tiny/hidden0.75/{}_minus_{}/r2_subject"
    assert other[name.format("linear_smoother", "mae")] == pytest.approx(
        -metrics[name.format("mae", "linear_smoother")]
    )
    assert name.format("linear_smoother", "zero") in other
    with pytest.raises(SystemExit):
        run_main(["report", str(finished[1]), "--compare", "zero"])
    assert "--compare says what --pool compares" in capsys.readouterr().err
    run_main(["report", str(finished[1]), str(finished[1]), "--pool", "--markdown"])
    shown = capsys.readouterr().out
    assert "Reconstruction, tiny" in shown
    assert f"{metrics['test/tiny/hidden0.75/mae/r2_pooled']:.3f}" in shown


def scaled_windows(store, row, centre, scale):
    """(start, (P, 40)) of each window of a recording, straight from raw values."""
    scaled = ((store.raw(row).astype(np.float64) - centre) / scale).T
    return [(start, scaled[:, start : start + 40]) for start in (0, 40)]


@pytest.fixture(scope="module")
def by_hand(finished, stores):
    """Truth, the model's and an interpolation's prediction at hidden values: (recording, parcel, y, mae, linear)."""
    store = Store(stores / "tiny")
    train = np.flatnonzero(store.recordings["split"] == "train")
    values = np.concatenate([store.raw(row) for row in train]).astype(np.float64)
    low, centre, high = np.percentile(values, [25, 50, 75], axis=0)
    model, _ = load_model(finished[0] / "checkpoints" / "best.ckpt")
    recordings = Recordings.of([store])
    hashes, places = recordings.hashes, Places.of(recordings.table, 40)
    found = []
    for row in np.flatnonzero(store.recordings["split"] == "test"):
        keys = evaluation_windows(hashes, places, np.array([row]), 0).keys.view(np.int64)
        for key, (_, y) in zip(keys, scaled_windows(store, row, centre, high - low), strict=True):
            observed = torch.ones(1, 16, dtype=torch.bool)
            hidden = draw_mask("random", torch.tensor([key]), 0.75, Grid(observed, 4))
            with torch.no_grad():
                mae = model(torch.tensor(y).float()[None], hidden, observed).prediction_BPT[0].numpy()
            hidden = hidden[0].repeat_interleave(10, dim=1).numpy()
            for parcel in range(16):
                where, seen = hidden[parcel], np.flatnonzero(~hidden[parcel])
                line = np.interp(np.arange(40), seen, y[parcel, seen]) if len(seen) else np.zeros(40)
                count = where.sum()
                found.append([[row] * count, [parcel] * count, y[parcel, where], mae[parcel, where], line[where]])
    return np.concatenate([np.array(part, dtype=np.float64) for part in found], axis=1)


@pytest.mark.parametrize(("method", "column"), [("mae", 3), ("linear_interpolation", 4)])
def test_r2_is_that_of_a_naive_loop(finished, by_hand, method, column):
    metrics = read_metrics(finished[1])
    row, parcel, y, y_hat = by_hand[[0, 1, 2, column]]
    place = f"test/tiny/hidden0.75/{method}"
    assert metrics[f"{place}/r2_pooled"] == pytest.approx(r2_score(y, y_hat), abs=1e-5)
    by_recording = [r2_score(y[row == one], y_hat[row == one]) for one in np.unique(row)]
    assert metrics[f"{place}/r2_recording"] == pytest.approx(np.mean(by_recording), abs=1e-5)
    by_parcel = [r2_score(y[parcel == one], y_hat[parcel == one]) for one in range(16)]
    assert metrics[f"{place}/r2_parcel"] == pytest.approx(np.mean(by_parcel), abs=1e-5)
    if method == "mae":
        assert read_arrays(finished[1])[f"{place}/r2_P"] == pytest.approx(by_parcel, abs=1e-5)


def test_r2_of_zero_is_below_0_by_the_mean_alone(finished, by_hand):
    y = by_hand[2]
    expected = 1 - (y**2).sum() / ((y - y.mean()) ** 2).sum()
    assert read_metrics(finished[1])["test/tiny/hidden0.75/zero/r2_pooled"] == pytest.approx(expected, abs=1e-6)


def test_arrays_show_the_windows(finished):
    arrays = read_arrays(finished[1])
    place = "test/tiny/hidden0.75/mae"
    assert arrays[f"{place}/truth_BPT"].shape == arrays[f"{place}/prediction_BPT"].shape == (4, 16, 40)
    assert arrays[f"{place}/hidden_BPT"].dtype == bool
    assert arrays[f"{place}/hidden_BPT"].mean() == 0.75


def test_a_run_is_repeated_from_its_own_config(finished, runs):
    fitted, _ = finished
    run_main(["fit", "--config", str(fitted / "config.yaml"), "--runs", str(runs)])
    assert differing(fitted / "checkpoints/last.ckpt", newest(runs) / "checkpoints/last.ckpt") == []


def test_the_config_of_a_fit_serves_its_test(finished, runs):
    fitted, tested = finished
    checkpoint = fitted / "checkpoints" / "best.ckpt"
    settings = ["--runs", str(runs), "--ckpt_path", str(checkpoint), "--model.init_args.test_ratios=[0.75]"]
    run_main(["test", "--config", str(fitted / "config.yaml"), *settings])
    name = "test/tiny/hidden0.75/mae/r2_pooled"
    assert read_metrics(newest(runs))[name] == read_metrics(tested)[name]


def test_an_interpolation_follows_the_command_line(runs, tmp_path):
    link = "${data.global_batch_size}"
    linked = tmp_path / "linked.yaml"
    linked.write_text(f"experiment: batch_{link}\ndata:\n  eval_batch_size: {link}\n")
    verb, config, *settings = arguments("fit", runs, {"data.global_batch_size": 8})
    settings = [given for given in settings if "eval_batch_size" not in given]
    run_main([verb, config, f"--config={linked}", *settings])
    assert newest(runs).parent.name == "batch_8"
    assert yaml.safe_load((newest(runs) / "config.yaml").read_text())["data"]["eval_batch_size"] == 8


def test_one_seed_is_that_of_everything(runs):
    first, again, other = (door("fit", runs, {"seed_everything": seed}) for seed in (1, 1, 2))
    losses = [list(scalars(run, "train/loss").values()) for run in (first, again, other)]
    assert losses[0] == losses[1]
    assert abs(losses[0][0] - losses[2][0]) > 1e-4
    assert json.loads((other / "provenance.json").read_text())["seed"] == 2


def test_runs_never_share_a_folder(runs):
    first = door("fit", runs)
    before = {path: path.read_bytes() for path in first.rglob("*") if path.is_file()}
    second = door("fit", runs)
    assert versions(runs) == [first, second]
    assert {path: path.read_bytes() for path in before} == before


def test_a_further_checkpoint_callback_writes_into_the_run_folder(runs):
    every = {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": {"every_n_train_steps": 1}}
    run = door("fit", runs, {"trainer.callbacks": f"[{json.dumps(every)}]"})
    assert {path.name for path in (run / "checkpoints").iterdir()} >= {"best.ckpt", "last.ckpt", "epoch=0-step=2.ckpt"}
    assert "val/r2_best" in read_metrics(run)
    assert versions(runs) == [run]


def test_a_model_is_stacked_with_a_smoother_where_that_is_asked_for(finished, stores, tmp_path, monkeypatch):
    monkeypatch.setenv("BRAINLM_DATA", str(stores))
    asked = {"model.init_args.stack_with": "linear_smoother", "ckpt_path": finished[0] / "checkpoints" / "best.ckpt"}
    metrics = read_metrics(door("test", tmp_path / "runs", asked | {"model.init_args.test_ratios": "[0.75]"}))
    assert 0 <= metrics["fitted/mae_and_linear_smoother/weight"] <= 1
    where = "test/tiny/hidden0.75"
    both, own = (metrics[f"{where}/{name}/r2_pooled"] for name in ("mae_and_linear_smoother", "mae"))
    assert both > own
    assert f"{where}/mae_minus_mae_and_linear_smoother/p" in metrics
