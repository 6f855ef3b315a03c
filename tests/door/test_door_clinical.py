import json
import shutil
from types import SimpleNamespace

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import pytest
import torch
from tiny import arguments, differing, door, events, newest, of_task, run_main

from brainlm_lightning.checkpoint.pretrained import export, load_model
from brainlm_lightning.data.datamodule import CohortDataModule
from brainlm_lightning.data.windows import scale_on_device
from brainlm_lightning.run_folder import newest_run, read_metrics
from brainlm_lightning.tasks.clinical.embedding import hidden_parts
from brainlm_lightning.tasks.clinical.methods import default_baselines
from brainlm_lightning.tasks.clinical.saved import load_network

# The tiny cohort's phenotype that stands for each experiment's.
COLUMNS = {"neuroticism": "noise_score", "pcl5": "symptoms", "gad7": "symptoms", "dx": "sex", "condition": "sex"}
FEW = ("mean", "connectivity_linear")
SHORT = {"trainer.max_steps": 2, "trainer.val_check_interval": 1}
each_clinical = pytest.mark.parametrize("path", of_task("ClinicalTask"), ids=lambda path: path.stem)


@pytest.fixture(scope="module")
def pretrained(stores, tmp_path_factory):
    """The run folder of a tiny pretraining."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BRAINLM_DATA", str(stores))
        return door("fit", tmp_path_factory.mktemp("pretrained"))


def run(verb, runs, pretrained, path, methods, **more):
    """A command on a sweep of two folds; the folder of the experiment."""
    sweep = f"{{over: {{model.init_args.method: [{methods}], model.init_args.fold: [0, 1]}}}}"
    dropped = {name: None for name in default_baselines(confounds=True) if name not in FEW}  # each has its own tests
    settings = {"model.init_args.pretrained": pretrained, "sweep": sweep, **SHORT, **more}
    settings["model.init_args.baselines"] = json.dumps(dropped)
    column = path.read_text().split("column: ")[1].split(",")[0]
    settings["model.init_args.target.column"] = COLUMNS.get(column, column)
    if column == "condition":  # of one recording each: nobody is paired
        settings |= {"model.init_args.target.classes": "[F, M]", "model.init_args.target.paired": "false"}
    run_main(arguments(verb, runs, {**settings, **more}, path))
    return runs / path.stem


@each_clinical
def test_a_clinical_experiment_runs_through_the_door(path, runs, pretrained, capsys):
    run("fit", runs, pretrained, path, "frozen")
    folder = run("test", runs, pretrained, path, "frozen")
    found = read_metrics(newest_run(folder, "metrics.json"))
    metrics = {name: value for name, value in found.items() if name.count("/") == 4 and "_minus_" not in name}
    assert {name.split("/")[3] for name in metrics} == {"frozen", *FEW}
    assert all(0 < value < 20 for name, value in metrics.items() if name.endswith("/mse_scaled"))
    assert all(0 <= value <= 1 for name, value in metrics.items() if name.endswith(("/auc", "/balanced_accuracy")))
    assert "Prediction of" in capsys.readouterr().out


AGE = next(path for path in of_task("ClinicalTask") if path.stem == "clinical_age")
NETWORKS = ["frozen", "tuned", "untrained_frozen", "untrained_tuned"]


@pytest.fixture(scope="module")
def swept(stores, pretrained, tmp_path_factory):
    """The runs of a whole sweep."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BRAINLM_DATA", str(stores))
        return run("fit", tmp_path_factory.mktemp("swept"), pretrained, AGE, ", ".join(NETWORKS)).parent


@pytest.fixture
def own(swept, runs):
    """A copy of them, to be changed."""
    shutil.copytree(swept, runs)
    return runs


@pytest.mark.draws
def test_every_network_predicts_every_subject_once_on_identical_folds(own, pretrained):
    tested = newest_run(run("test", own, pretrained, AGE, ", ".join(NETWORKS)), "metrics.json")
    table = pd.read_csv(tested / "predictions.csv")
    folds = table.pivot_table(index="subject", columns="method", values="fold")
    assert set(folds) == {*NETWORKS, *FEW}
    assert len(folds) == 32
    assert (folds.nunique(axis=1) == 1).all()
    assert (tested / "figures" / "age_predicted.png").stat().st_size > 10_000
    assert events(tested).Tags()["images"] == ["age_predicted"]


@torch.no_grad()
def test_a_prediction_is_the_mean_over_all_parts_of_all_windows(own, pretrained):
    tested = newest_run(run("test", own, pretrained, AGE, "tuned"), "metrics.json")
    network = load_network(own / AGE.stem / "method=tuned,fold=0" / "version_0" / "checkpoints" / "best.ckpt")
    data = CohortDataModule("tiny", window_frames=40, num_workers=0, eval_batch_size=1)
    data.trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("cpu")))
    data.setup("test")
    table = pd.read_csv(tested / "predictions.csv").query("method == 'tuned' and fold == 0").set_index("subject")
    subject = table.index[0]
    row = data.recordings.table.index[data.recordings.table["subject_id"] == subject].to_numpy()
    said = []
    for batch in data.evaluation_loader(row):
        batch = scale_on_device(batch)
        parts = hidden_parts(batch, 4, 2)
        said += [network.model(batch["signal_BPT"], hidden, batch["observed_BP"]).item() for hidden in parts]
    assert len(said) == 2 * 2  # windows of 100 frames, parts
    assert table.loc[subject, "predicted_scaled"] == pytest.approx(np.mean(said), abs=1e-5)
    assert table.loc[subject, "predicted"] == pytest.approx(network.scale.inverse(np.mean(said)), abs=1e-4)


def test_a_killed_sweep_makes_what_is_missing_and_a_test_says_what_that_is(own, pretrained):
    before = set(own.rglob("metrics.json"))
    killed = own / AGE.stem / "method=tuned,fold=1" / "version_0" / "metrics.json"
    killed.unlink()
    with pytest.raises(SystemExit, match=r"lacks runs of tuned, folds 1\. Run fit"):
        run("test", own, pretrained, AGE, "tuned")
    run("fit", own, pretrained, AGE, ", ".join(NETWORKS))
    assert set(own.rglob("metrics.json")) ^ before == {killed, killed.parents[1] / "version_1" / "metrics.json"}


class CrashAt(pl.Callback):
    """Cuts the power before a step, counted from 0."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if trainer.global_step == self.step:
            raise CrashError


class CrashError(BaseException):
    """Stands for a power cut."""


@pytest.mark.parametrize("method", ["tuned", "tuned_lora"])
def test_a_killed_fold_ends_bit_for_bit_as_one_that_was_not(method, runs, pretrained):
    """Also where what was kept of the encoder's embeddings is lost: they are not the tuned one's."""
    settings = {"trainer.max_steps": 6, "checkpoint_every": 2, "model.init_args.folds.number": 2}
    settings |= {"model.init_args.pretrained": pretrained, "model.init_args.method": method, "sweep": "null"}
    settings |= {"model.init_args.target.column": "age", "trainer.val_check_interval": 3}
    crash = {"trainer.callbacks+": f"{__name__}.CrashAt", "trainer.callbacks.step": 4}
    run_main(arguments("fit", runs, settings, AGE))
    whole = newest(runs)
    with pytest.raises(CrashError):
        run_main(arguments("fit", runs, {**settings, **crash}, AGE))
    shutil.rmtree(runs / ".cache")
    last = newest(runs) / "checkpoints" / "last.ckpt"
    run_main(arguments("fit", runs, {**settings, "ckpt_path": last}, AGE))
    assert differing(whole / "checkpoints" / "last.ckpt", newest(runs) / "checkpoints" / "last.ckpt") == []


@torch.no_grad()
def test_a_checkpoint_with_adapters_is_a_plain_model_elsewhere(runs, pretrained):
    """Loaded, and exported, its adapters are part of its weights: its tokens are those of the tuned encoder."""
    folder = run("fit", runs, pretrained, AGE, "tuned_lora", **{"model.init_args.low_rank.rank": 3})
    path = folder / "method=tuned_lora,fold=0" / "version_0" / "checkpoints" / "best.ckpt"
    tuned = load_network(path).model.net
    loaded, about = load_model(path)
    exported, _ = load_model(export(path, runs / "model.safetensors"))
    assert about["tuned"]["method"] == "tuned_lora"
    signal = torch.randn(2, 16, 40, generator=torch.Generator().manual_seed(0))
    given = signal, torch.zeros(2, 16, 4, dtype=torch.bool), torch.ones(2, 16, dtype=torch.bool)
    expected = tuned.encode(*given).tokens_BVD
    assert torch.allclose(loaded.encode(*given).tokens_BVD, expected, atol=1e-6)
    assert torch.allclose(exported.encode(*given).tokens_BVD, expected, atol=1e-6)
    before = load_model(pretrained / "checkpoints" / "best.ckpt")[0]
    assert not torch.allclose(before.encode(*given).tokens_BVD, expected, atol=1e-6)


def test_networks_of_other_folds_are_refused(own, pretrained):
    with pytest.raises(SystemExit, match="its test subjects may have trained it"):
        run("test", own, pretrained, AGE, "frozen", **{"model.init_args.folds.seed": 1})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model.init_args.target.column": "iq"}, "there is no phenotype 'iq' in the cohort"),
        ({"model.init_args.target.column": "sex"}, "'sex' is not a number in 32 of 32"),
        ({"model.init_args.folds.number": 50}, "fewer than 50 folds"),
        ({"data.test_cohorts": "[other]"}, "leave data.test_cohorts and data.train_fraction out"),
        ({"data.scaling": "recording_zscore"}, "scaling recipe: the checkpoint has 'robust'"),
        ({"model.init_args.head.dropout": 1.5}, "head.dropout is 1.5"),
    ],
)
def test_what_cannot_be_predicted_is_one_error_before_any_training(settings, message, runs, pretrained):
    with pytest.raises(SystemExit, match=message):
        run("fit", runs, pretrained, AGE, "frozen", **settings)
    assert not list(runs.rglob("metrics.json"))


def test_features_that_do_not_exist_are_one_error(runs, pretrained):
    method = {"class_path": "brainlm_lightning.tasks.clinical.methods.SklearnMethod"}
    given = {"own": {**method, "init_args": {"features": "connectivity+grams", "estimator": "linear"}}}
    settings = {
        "model.init_args.pretrained": pretrained,
        "model.init_args.baselines": json.dumps(given),
        "model.init_args.default_baselines": "false",
    }
    with pytest.raises(
        SystemExit, match=r"expected some of none, confounds, .* or harmonised_ before any .* got grams"
    ):
        run_main(arguments("test", runs, settings, AGE))
    assert not (runs / ".cache").exists()


def test_any_embedding_and_its_twin_is_a_feature(runs, pretrained):
    """All are computed in one go for each encoder, and kept apart."""
    names = ("mean_std", "untrained_mean_std", "network_gram", "confounds+connectivity", "signal_features+parcels")
    own = {
        f"m{number}": {
            "class_path": "brainlm_lightning.tasks.clinical.methods.SklearnMethod",
            "init_args": {"features": name, "estimator": "linear"},
        }
        for number, name in enumerate(names)
    }
    settings = {
        "model.init_args.pretrained": pretrained,
        "model.init_args.baselines": json.dumps(own),
        "model.init_args.default_baselines": "false",
    }
    run_main(arguments("test", runs, settings, AGE))
    found = read_metrics(newest_run(runs / AGE.stem, "metrics.json"))
    assert all(np.isfinite(found[f"test/tiny/age/m{number}/r2"]) for number in range(len(names)))


HARMONISED = {
    "own": {
        "class_path": "brainlm_lightning.tasks.clinical.methods.SklearnMethod",
        "init_args": {"features": "confounds+harmonised_untrained_network_gram", "estimator": "linear"},
    }
}


def test_harmonised_features_join_others_and_need_sites_that_train(runs, pretrained):
    """Simulated people have no sites: sex stands for one, and age, the target, is never kept."""
    settings = {
        "model.init_args.pretrained": pretrained,
        "model.init_args.baselines": json.dumps(HARMONISED),
        "model.init_args.default_baselines": "false",
        "model.init_args.baseline_plan": "{site: sex, kept: [age, symptoms]}",
    }
    with pytest.raises(SystemExit, match=r"site '[FM]' has no training recording .* where folds leave sites out"):
        run_main(arguments("test", runs, settings | {"model.init_args.folds.leave_out": "sex"}, AGE))
    assert not (runs / ".cache").exists()
    run_main(arguments("test", runs, settings, AGE))
    found = read_metrics(newest_run(runs / AGE.stem, "metrics.json"))
    assert np.isfinite(found["test/tiny/age/own/r2"])


def test_training_stops_inside_the_fold_when_its_validation_subjects_say_so(runs, pretrained):
    """The best checkpoint is kept, and the fold counts as done."""
    stop = {"monitor": "val/loss", "patience": 1, "min_delta": 100}  # nothing is ever better by so much
    callback = {"class_path": "lightning.pytorch.callbacks.EarlyStopping", "init_args": stop}
    settings = {"trainer.max_steps": 20, "trainer.callbacks": json.dumps([callback])}
    folder = run("fit", runs, pretrained, AGE, "tuned_qkv", **settings)
    best = sorted(folder.rglob("best.ckpt"))
    assert len(best) == 2
    assert [torch.load(path.with_name("last.ckpt"), weights_only=True)["global_step"] for path in best] == [2, 2]
    run("test", runs, pretrained, AGE, "tuned_qkv", **settings)
    assert "test/tiny/age/tuned_qkv/r2" in read_metrics(newest_run(folder, "metrics.json"))
