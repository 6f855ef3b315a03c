import re
import sys
from pydoc import locate

import pytest
import torch
import yaml
from lightning.pytorch.trainer.connectors import data_connector
from tiny import EXPERIMENTS, REPOSITORY, door, leaves_out, newest, of_task, run_main, versions

from brainlm_lightning.data.manifest import load_manifest
from brainlm_lightning.model.embedding import Geometry
from brainlm_lightning.model.mae import MAEConfig, MaskedAutoencoder
from brainlm_lightning.run_folder import read_metrics
from brainlm_lightning.tasks.contrasts.groups import Filter

each_experiment = pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)


each_pretraining = pytest.mark.parametrize("path", of_task("PretrainTask"), ids=lambda path: path.stem)


@each_pretraining
def test_a_pretraining_runs_through_the_door(path, runs):
    fitted = door("fit", runs, {"data.micro_batch_size": 2, "trainer.val_check_interval": 4}, path)
    tested = door("test", runs, {"data.test_cohorts": "[other]"}, path)
    assert versions(runs) == [fitted, tested]
    assert {run.parent.name for run in versions(runs)} == {path.stem}
    metrics = read_metrics(tested)
    expected = {"tiny", "other"} | ({"tiny_left_out"} if leaves_out(path) else set())
    assert {name.split("/")[1] for name in metrics if name.startswith("test/")} == expected
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


def trained_on(data):
    """Names of the training cohorts of an experiment."""
    return [data["cohorts"]] if isinstance(data["cohorts"], str) else list(data["cohorts"])


def test_the_cohorts_of_an_experiment_have_manifests():
    data = [yaml.safe_load(path.read_text())["data"] for path in EXPERIMENTS]
    cohorts = {name for given in data for name in (*trained_on(given), *given.get("test_cohorts", []))}
    assert cohorts <= {path.stem for path in MANIFESTS}


@each_experiment
def test_an_experiment_is_what_its_classes_take_without_any_data(path, tmp_path, monkeypatch):
    """Built by the real command line, with the values of the file as they are: what is not there is the store."""
    monkeypatch.setenv("BRAINLM_DATA", str(tmp_path / "none"))
    settings = yaml.safe_load(path.read_text())
    verb = "fit" if locate(settings["model"]["class_path"]).fitted else "test"
    machine = ["--trainer.accelerator=cpu", "--trainer.devices=1", f"--runs={tmp_path / 'runs'}", "--sweep=null"]
    with pytest.raises(SystemExit, match=f"no store in {tmp_path}/none/{trained_on(settings['data'])[0]} "):
        run_main([verb, f"--config={path}", *machine])
    assert settings["experiment"] == path.stem


def filters_of(contrast):
    """The filters of both groups of a contrast of attention or perturbation."""
    return [each for name in ("group", "against", "sources", "targets") for each in contrast.get(name, [])]


@pytest.mark.parametrize("path", [*of_task("PerturbTask"), *of_task("AttentionTask")], ids=lambda path: path.stem)
def test_the_columns_that_groups_are_filtered_by_are_in_the_manifest(path):
    settings = yaml.safe_load(path.read_text())
    manifest = yaml.safe_load((REPOSITORY / "data_manifests" / f"{settings['data']['cohorts']}.yaml").read_text())
    there = {*manifest["recordings"]["columns"], *manifest["recordings"].get("phenotypes", [])}
    there |= set(manifest.get("phenotypes", {}).get("columns", []))
    contrasts = settings["model"]["init_args"]["contrasts"].values()
    assert {filtered["column"] for contrast in contrasts for filtered in filters_of(contrast)} <= there
    assert all(Filter(**filtered) for contrast in contrasts for filtered in filters_of(contrast))


def test_table_1_is_four_files_that_differ_in_what_its_columns_say():
    """Its four columns: the share hidden and the share of the training subjects, at equal steps."""
    columns = {}
    for path in sorted((REPOSITORY / "experiments").glob("table1_*.yaml")):
        settings = yaml.safe_load(path.read_text())
        ratio = settings["model"]["init_args"]["masking"].pop("ratio")
        share, windows = (settings["data"].pop(name) for name in ("train_fraction", "windows_per_recording"))
        assert share * windows == 1
        columns[(ratio, share)] = settings | {"experiment": ""}
    assert columns.keys() == {(0.75, 0.01), (0.75, 1.0), (0.9, 0.01), (0.9, 1.0)}
    assert all(settings == columns[0.75, 1.0] for settings in columns.values())
    assert columns[0.75, 1.0]["data"]["test_cohorts"] == ["hcp"]


def test_the_papers_recipe_is_word_for_word():
    """Sections 3.1 and 3.3: each number of this test stands there."""
    settings = yaml.safe_load((REPOSITORY / "experiments" / "pretrain_paper.yaml").read_text())
    model, data = settings["model"]["init_args"], settings["data"]
    sizes = model["model"]["init_args"]["config"]
    assert (sizes["patch_frames"], sizes["embed_dim"], sizes["depth"], sizes["num_heads"]) == (20, 512, 4, 4)
    assert (sizes["decoder_depth"], data["window_frames"], data["global_batch_size"]) == (2, 200, 512)
    plan = model["optimisation"]
    assert (plan["name"], plan["warmup_fraction"], plan["final_rate"]) == ("adam", 0, 1)
    assert (settings["trainer"]["max_epochs"], "gradient_clip_val" in settings["trainer"]) == (100, False)
    assert (model["initialisation"], model["masking"]["ratio"], data["scaling"]) == ("standard", 0.75, "robust")
    assert (data["cohorts"], data["test_cohorts"]) == ("ukb", ["hcp"])
    split = yaml.safe_load((REPOSITORY / "data_manifests" / "ukb.yaml").read_text())["split"]
    assert 1 - split["val"] - split["test"] == pytest.approx(0.8)


def test_training_is_silent_of_warnings_on_a_large_machine_too(runs, monkeypatch, capsys, caplog):
    monkeypatch.setattr(data_connector, "suggested_max_num_workers", lambda devices: 16)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)  # a log has lines in place of the bar
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
