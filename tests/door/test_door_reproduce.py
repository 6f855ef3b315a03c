"""Which runs a study takes as they are: those that the same command would make again."""

import shutil

import pytest
import yaml
from tiny import arguments, door, newest

from brainlm_lightning.reproduce import unchanged_run
from brainlm_lightning.run_folder import read_json, write_json


@pytest.fixture(scope="module")
def finished(tiny_stores, tmp_path_factory):
    """A fit and its test."""
    runs = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BRAINLM_DATA", str(tiny_stores))
        door("fit", runs)
        door("test", runs)
    return runs


@pytest.fixture
def runs(finished, tmp_path, tiny_store):
    """A copy of both."""
    return shutil.copytree(finished, tmp_path / "runs")


def found(runs, verb, settings=None):
    run = unchanged_run(arguments(verb, runs, settings))
    return run and run.name


def test_the_same_commands_find_their_runs(runs):
    assert (found(runs, "fit"), found(runs, "test")) == ("version_0", "version_1")


@pytest.mark.parametrize("verb", ["fit", "test"])
def test_nothing_is_found_where_nothing_is(tmp_path, tiny_store, verb):
    assert found(tmp_path, verb) is None


def test_other_settings_are_another_run(runs):
    assert found(runs, "fit", {"model.init_args.optimisation.learning_rate": 0.1}) is None
    assert found(runs, "test", {"model.init_args.test_ratios": "[0.5]"}) is None
    assert found(runs, "test", {"data.num_workers": 1}) == "version_1"  # of no consequence


def test_another_checkpoint_makes_another_test(runs):
    checkpoint = runs / "demo/version_0/checkpoints/best.ckpt"
    checkpoint.write_bytes(checkpoint.read_bytes() + b" ")
    assert (found(runs, "fit"), found(runs, "test")) == ("version_0", None)


def test_other_recordings_make_another_run(runs):
    for run in ("version_0", "version_1"):
        known = read_json(runs / "demo" / run, "provenance.json")
        known["cohorts"]["tiny"]["recordings"] = "0" * 64
        write_json(runs / "demo" / run / "provenance.json", known)
    assert (found(runs, "fit"), found(runs, "test")) == (None, None)


@pytest.mark.parametrize("lost", ["metrics.json", "provenance.json"])
def test_a_run_that_is_not_complete_is_run_again(runs, lost):
    (newest(runs) / lost).unlink()
    assert found(runs, "test") is None
    (runs / "demo/version_0" / lost).unlink()
    assert found(runs, "fit") is None


def test_a_command_that_cannot_be_read_has_to_run_and_say_so(runs):
    (runs / "demo/version_1/config.yaml").write_text("[")
    assert found(runs, "test") is None
    assert found(runs, "test", {"model.init_args.nothing": 1}) is None


def test_a_sweep_looks_at_its_points_itself(runs):
    sweep = {"over": {"model.init_args.optimisation.learning_rate": [0.1]}, "choose": "val/loss"}
    assert found(runs, "fit", {"sweep": yaml.safe_dump(sweep, default_flow_style=True).strip()}) is None
