"""A study: steps in order, failures named, and nothing done twice unless something that it depends on has changed."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
import yaml

from brainlm_lightning import reproduce
from brainlm_lightning.reproduce import Plan, Step, Study, changed_manifest, read_plan
from brainlm_lightning.run_folder import read_json
from brainlm_lightning.sweep import Command

STEPS = [
    Step("pretraining", "fit", "demo"),
    Step("table 1", "test", "demo", ["--seed_everything=1"], ["pretraining"]),
    Step("table 4", "test", "network", [], ["pretraining"]),
    Step("map", "test", "attention", [], ["table 4"]),
]


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A study of four steps whose commands are only noted; `fails` names the experiment that fails."""
    monkeypatch.setenv("BRAINLM_DATA", str(tmp_path / "stores"))
    given, state = [], SimpleNamespace(fails="", unchanged=set(), changed="")

    def run(command, stdout, **_):
        given.append(command[3:])
        fails = bool(state.fails) and any(state.fails in part for part in command)
        stdout.write("loading\nValueError: no parcel has a network\nlower folds\n" if fails else "fine\n")
        return subprocess.CompletedProcess(command, int(fails))

    monkeypatch.setattr(reproduce.subprocess, "run", run)
    monkeypatch.setattr(
        reproduce,
        "unchanged_run",
        lambda command: "runs/x" if any(name in command[1] for name in state.unchanged) else None,
    )
    monkeypatch.setattr(reproduce, "changed_manifest", lambda command: state.changed)
    plan = Plan(tmp_path / "experiments", {"sim": {"simulate": ["--seed=3"]}, "real": {}}, STEPS, "sim")
    return SimpleNamespace(study=Study(plan, tmp_path / "runs", 2), given=given, state=state, root=tmp_path)


def status(study):
    steps = read_json(study.root / "runs" / "reproduce", "study.json")["steps"]
    return {name: of["status"] for name, of in steps.items()}


def test_everything_runs_in_order(study):
    assert study.study.run()
    assert [command[0] for command in study.given] == ["simulate", "prepare", "prepare", "fit", "test", "test", "test"]
    assert study.given[0] == ["simulate", str(study.root / "stores/sim_source"), "--seed=3"]
    assert study.given[4][-2:] == [f"--runs={study.root / 'runs'}", "--seed_everything=1"]
    assert set(status(study).values()) == {"ran"}


def test_the_status_of_a_step_that_was_killed_is_told_with_the_end_of_its_log(tmp_path):
    log = tmp_path / "step.log"
    log.write_text("1\n2\nfitting 50%\nfitting 60%\n")
    assert reproduce._error_of(log, -9) == "exit status -9\n2\nfitting 50%\nfitting 60%"


def test_a_failed_step_is_named_and_what_does_not_need_it_goes_on(study, capsys):
    study.state.fails = "network"
    assert not study.study.run()
    assert status(study) == dict.fromkeys(
        ("simulate sim", "prepare sim", "prepare real", "pretraining", "table 1"), "ran"
    ) | {
        "table 4": "failed",
        "map": "skipped",
    }
    told = capsys.readouterr().out
    assert "FAILED after" in told
    assert "ValueError: no parcel has a network" in told
    assert "map: NOT RUN: needs table 4" in told
    assert read_json(study.root / "runs/reproduce", "study.json")["steps"]["table 4"]["why"] == (
        "ValueError: no parcel has a network\nlower folds"
    )


def test_a_cohort_that_cannot_be_prepared_stops_its_steps_only_after_it_was_said(study):
    study.state.fails = "real.yaml"
    assert not study.study.run()
    assert {name for name, of in status(study).items() if of == "skipped"} == {step.name for step in STEPS}


def test_what_is_unchanged_is_not_run_again(study, capsys):
    study.state.unchanged = {"demo"}
    (study.root / "stores" / "real").mkdir(parents=True)
    assert study.study.run()
    assert [command[0] for command in study.given] == ["simulate", "prepare", "test", "test"]
    assert capsys.readouterr().out.count("unchanged, not run again") == 3


def test_a_store_of_another_manifest_is_said_and_not_used(study):
    study.state.changed = "was prepared from another manifest"
    (study.root / "stores" / "real").mkdir(parents=True)
    assert not study.study.run()
    assert status(study)["prepare real"] == "failed"
    assert status(study)["pretraining"] == "skipped"


def test_the_manifest_that_made_a_store_is_known_by_its_content(tiny_store, tmp_path):
    made_by = read_json(tiny_store, "store.json")["made_by"]["manifest"]
    manifest = tmp_path / "tiny.yaml"
    manifest.write_text(yaml.safe_dump(made_by))
    command = ["prepare", f"--config={manifest}", f"--output={tiny_store}"]
    assert changed_manifest(command) == ""
    manifest.write_text(yaml.safe_dump(made_by | {"min_frames": 21}))
    assert "was prepared from another manifest than" in changed_manifest(command)
    assert changed_manifest(["simulate", "x"]) == ""


def test_names_are_filled_in(tmp_path):
    plan = tmp_path / "experiments" / "reproduce" / "mine.yaml"
    plan.parent.mkdir(parents=True)
    plan.write_text(
        "steps: [{name: a, verb: fit, config: demo, options: ['--x=${cohort}', '--y=[${ood}]', '--z=${runs}/d']}]"
    )
    found = read_plan(plan, "mine", "", tmp_path / "r")
    assert found.steps[0].options == ["--x=mine", "--y=[]", f"--z={tmp_path}/r/d"]
    assert (found.cohorts, found.experiments) == ({"mine": {}}, tmp_path / "experiments")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("steps: [{name: a, verb: run, config: demo}]", "verb 'run': expected a new name, and fit or test"),
        ("steps: [{name: a, verb: fit, config: x, after: [b]}]", r"comes after \['b'\], which are no earlier steps"),
        ("steps: [{name: a, verb: fit}]", "expected `cohorts` and `steps`"),
        ("steps: []\nextra: 1", r"unknown keys \['extra'\]"),
        ("steps: [{name: a, verb: fit, config: '${nothing}'}]", "nothing"),
    ],
)
def test_a_wrong_plan_is_refused_before_anything_runs(tmp_path, text, said):
    plan = tmp_path / "plan.yaml"
    plan.write_text(text)
    with pytest.raises(ValueError, match=said):
        read_plan(plan, "mine", "", tmp_path)


@pytest.mark.parametrize("name", ["simulated", "default", "restpain_mist122"])
def test_the_plans_here_name_experiments_and_options_that_are_there(name, request):
    root = request.config.rootpath
    cohorts = ("simulated", "simulated_other") if name != "restpain_mist122" else (name, "")
    plan = read_plan(root / "experiments" / "reproduce" / f"{name}.yaml", *cohorts, root / "runs")
    assert all((plan.experiments / f"{step.config}.yaml").is_file() for step in plan.steps)
    assert all((plan.experiments.parent / "data_manifests" / f"{cohort}.yaml").is_file() for cohort in plan.cohorts)
    tables = {step.name for step in plan.steps if step.verb == "test"}
    assert {f"table {number}" for number in (1, 2, 3, 4)} <= {name[:7] for name in tables}
    for step in plan.steps:  # read as of `fit`: `test` has the same options, and looks for a checkpoint
        config = f"--config={plan.experiments / step.config}.yaml"
        settings = Command.of(["fit", config, f"--runs={root / 'runs'}", *step.options]).settings()
        assert settings["data"]["cohorts"] in (plan.cohort, "simulated_task")


def test_each_step_is_a_process_of_its_own(study):
    study.study.run()
    assert sys.executable  # the command that runs the tests runs the steps
    assert (study.root / "runs/reproduce/table_1.log").read_text() == "fine\n"
