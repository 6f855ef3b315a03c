"""What a test takes over from the run that it tests."""

import re

import pytest
import yaml
from tiny import BASE, CONFIG, REPOSITORY, SIZES, TINY_MAE, newest, run_main, versions

from brainlm_lightning.run_folder import find_checkpoint, read_metrics

WINDOW = {"data.window_frames": 40, f"{CONFIG}.patch_frames": 10}
FITTED = {**WINDOW, "data.scaling": "recording_zscore", "seed_everything": 3}


def nested(settings):
    """Dotted names as a mapping of mappings."""
    found = {}
    for name, value in settings.items():
        *parents, last = name.split(".")
        place = found
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = yaml.safe_load(value) if isinstance(value, str) else value
    return found


@pytest.fixture
def command(runs, tmp_path):
    """Runs a verb on the demo and a file of tiny sizes, with windows of 80 frames, and further options."""
    settings = {**SIZES, **TINY_MAE, "data.window_frames": 80, f"{CONFIG}.patch_frames": 20, "runs": str(runs)}
    settings["model.init_args.test_ratios"] = "[0.75]"
    settings["model.init_args.test_strategies"] = "{}"
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(nested(settings)))

    def run(verb, options=()):
        given = [f"--{name}={value}" for name, value in dict(options).items()]
        run_main([verb, f"--config={REPOSITORY / BASE}", f"--config={file}", *given])
        return newest(runs)

    return run


def config_of(run):
    return yaml.safe_load((run / "config.yaml").read_text())


@pytest.mark.parametrize("verb", ["test", "validate"])
def test_a_test_takes_over_what_the_model_was_fitted_with(verb, command, caplog):
    fitted = command("fit", FITTED)
    tested = command(verb)
    taken, own = config_of(tested), config_of(fitted)
    assert taken["model"] == own["model"]
    assert taken["data"] == own["data"]
    assert taken["seed_everything"] == 3
    for name, (value, replaced) in {"data.window_frames": (40, 80), "seed_everything": (3, 0)}.items():
        assert f"{name}: {value} from {fitted}, not {replaced}" in caplog.text
    assert len(re.findall(f" from {fitted}, not ", caplog.text)) == len(FITTED)


def test_a_test_of_a_named_checkpoint_takes_over_the_settings_of_its_run(command):
    fitted = command("fit", FITTED)
    command("fit")
    tested = command("test", {"ckpt_path": fitted / "checkpoints" / "last.ckpt"})
    assert config_of(tested)["data"]["window_frames"] == 40


def test_what_the_file_says_of_the_test_counts(command):
    command("fit", {**FITTED, "model.init_args.test_ratios": "[0.2,0.5]", "data.test_cohorts": "[other]"})
    tested = command("test")
    names = {tuple(name.split("/")[1:3]) for name in read_metrics(tested) if name.startswith("test/")}
    assert names == {("tiny", "hidden0.75")}


def test_an_option_outranks_the_run_wherever_it_stands_and_one_that_contradicts_it_is_refused(command, runs):
    command("fit", FITTED)
    tested = command("test", {"data.windows_per_recording": 2})
    assert config_of(tested)["data"]["windows_per_recording"] == 2
    with pytest.raises(SystemExit, match="frames of a window: the checkpoint has 40, this experiment 80"):
        command("test", {"data.window_frames": 80})
    with pytest.raises(SystemExit, match="frames of a window: the checkpoint has 40, this experiment 80"):
        run_main(["test", "--data.window_frames=80", "--config", str(newest(runs) / "config.yaml")])


def test_nothing_is_taken_over_from_the_run_of_another_task(command, caplog):
    fitted = command("fit", FITTED)
    checkpoint = fitted / "checkpoints" / "best.ckpt"
    lstm = {"model.class_path": "brainlm_lightning.tasks.forecast.task.ForecastTask", "ckpt_path": checkpoint}
    with pytest.raises(SystemExit):
        command("test", lstm)
    assert f"{fitted} was fitted by brainlm_lightning.tasks.reconstruction.task.PretrainTask: none" in caplog.text
    assert versions(fitted.parents[1]) == [fitted]


def test_a_run_that_never_validated_says_so(command):
    command("fit", WINDOW)
    fitted = command("fit", {**WINDOW, "trainer.val_check_interval": 5})
    last = fitted / "checkpoints" / "last.ckpt"
    message = rf"version_1 has no best.ckpt: no validation.*trainer.val_check_interval.*--ckpt_path {last}\)"
    with pytest.raises(SystemExit, match=message):
        command("test")
    for place in (fitted, fitted.parent):
        with pytest.raises(FileNotFoundError, match=message):
            find_checkpoint(place)
    assert command("test", {"ckpt_path": last}).name == "version_2"
