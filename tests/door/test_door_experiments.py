import re

import pytest
import torch
import yaml
from lightning.pytorch.trainer.connectors import data_connector
from tiny import EXPERIMENTS, REPOSITORY, door, newest, of_task, run_main, versions

from brainlm_lightning.data.manifest import load_manifest
from brainlm_lightning.model.embedding import Geometry
from brainlm_lightning.model.mae import MAEConfig, MaskedAutoencoder
from brainlm_lightning.run_folder import read_metrics

each_experiment = pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)


each_pretraining = pytest.mark.parametrize("path", of_task("PretrainTask"), ids=lambda path: path.stem)


@each_pretraining
def test_a_pretraining_runs_through_the_door(path, runs):
    fitted = door("fit", runs, {"data.micro_batch_size": 2, "trainer.val_check_interval": 4}, path)
    tested = door("test", runs, {"data.test_cohorts": "[other]"}, path)
    assert versions(runs) == [fitted, tested]
    assert {run.parent.name for run in versions(runs)} == {path.stem}
    metrics = read_metrics(tested)
    assert {name.split("/")[1] for name in metrics if name.startswith("test/")} == {"tiny", "other"}
    assert all(-10 < value < 1 for name, value in metrics.items() if name.endswith("/r2_pooled"))


def test_every_task_has_a_test_of_its_door():
    named = {yaml.safe_load(path.read_text())["model"]["class_path"].rsplit(".", 1)[-1] for path in EXPERIMENTS}
    elsewhere = "".join(path.read_text() for path in (REPOSITORY / "tests" / "door").glob("test_door_*.py"))
    assert {name for name in named if f'of_task("{name}")' not in elsewhere} == set()


@each_experiment
def test_an_experiment_says_what_it_asks_expects_and_costs(path):
    comment = re.match(r"(#.*\n)+", path.read_text())[0]
    words = re.findall(r"^# (Question|Expected|Cost): \S", comment, flags=re.MULTILINE)
    assert words == ["Question", "Expected", "Cost"]
    for name in re.findall(r"[\w/]+\.yaml", comment):
        folders = (REPOSITORY, REPOSITORY / "experiments")
        assert any((folder / name).is_file() for folder in folders), f"{name} is named and not there"


@each_pretraining
def test_an_experiment_has_the_size_that_its_name_says(path):
    model = yaml.safe_load(path.read_text())["model"]["init_args"]["model"]
    if not model["class_path"].endswith("MaskedAutoencoder"):
        return
    config = model["init_args"]["config"]
    with torch.device("meta"):
        model = MaskedAutoencoder(Geometry(torch.zeros(424, 3), 200), MAEConfig(**config))
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    named = re.search(r"_(\d+)M", path.stem)
    assert millions == pytest.approx(int(named[1]) if named else millions, rel=0.05)
    assert millions < 700


MANIFESTS = sorted((REPOSITORY / "data_manifests").glob("*.yaml"), key=lambda path: path.name)


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_a_manifest_is_valid_and_names_its_cohort(path, monkeypatch):
    for name in re.findall(r"oc\.env:(\w+)", path.read_text()):
        monkeypatch.setenv(name, "/data")
    assert load_manifest(path).cohort == path.stem


def test_the_cohort_of_an_experiment_has_a_manifest():
    cohorts = {yaml.safe_load(path.read_text())["data"]["cohorts"] for path in EXPERIMENTS}
    assert cohorts <= {path.stem for path in MANIFESTS}


def test_training_is_silent_of_warnings_on_a_large_machine_too(runs, monkeypatch, capsys, caplog):
    monkeypatch.setattr(data_connector, "suggested_max_num_workers", lambda devices: 16)
    door("fit", runs, {"trainer.enable_progress_bar": "true", "trainer.enable_model_summary": "true"})
    shown = capsys.readouterr()
    assert "val/r2" in shown.out
    assert f"run folder: {newest(runs)}" in caplog.text
    assert "litlogger" not in shown.out + shown.err + caplog.text


def test_a_report_is_made_of_a_run_folder(runs, capsys):
    door("fit", runs)
    tested = door("test", runs)
    capsys.readouterr()
    run_main(["report", str(tested), "--markdown"])
    assert "| mae |" in capsys.readouterr().out
    run_main(["report", str(tested)])
    assert "conditional" in capsys.readouterr().out


def test_validate_gives_the_score_of_the_fit(runs):
    fitted, validated = (read_metrics(door(verb, runs)) for verb in ("fit", "validate"))
    assert set(validated) == {"val/r2", "val/loss"}
    assert {name: fitted[name] for name in validated} == validated
