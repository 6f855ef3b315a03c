import json
import shutil
from hashlib import sha256

import pytest
from tiny import CONFIG, arguments, door, run_main

from brainlm_lightning.checkpoint.pretrained import load_model
from brainlm_lightning.run_folder import BEST, find_checkpoint, point_name, read_json, read_metrics, write_json
from brainlm_lightning.sweep import Sweep

RATE = "model.init_args.optimisation.learning_rate"


def grid(values, choose=None):
    """A sweep over the learning rate, as the command line takes it."""
    return {"sweep": f"{{over: {{{RATE}: {values}}}, choose: {choose or 'null'}}}"}


def fit(runs, settings):
    run_main(arguments("fit", runs, {"experiment": "search", **settings}))
    return sorted(path.relative_to(runs / "search").as_posix() for path in (runs / "search").glob("*/version_*"))


def test_points_are_all_combinations():
    points = list(Sweep({"a.fold": [0, 1], "b.method": ["x", "y"]}).points())
    assert [point_name(point) for point in points] == [f"fold={f},method={m}" for f in (0, 1) for m in "xy"]


@pytest.mark.parametrize("over", [{}, {"a": []}, {"a": 3}, {"a.rate": [1], "b.rate": [2]}])
def test_what_is_no_grid_is_refused(over):
    with pytest.raises(ValueError, match=r"sweep\.over"):
        Sweep(over)


def test_a_sweep_makes_what_is_missing_and_no_more(runs):
    often = {"trainer.val_check_interval": 1}
    assert fit(runs, grid([0.001]) | often) == ["learning_rate=0.001/version_0"]
    both = ["learning_rate=0.001/version_0", "learning_rate=0.003/version_0"]
    assert fit(runs, grid([0.001, 0.003]) | often) == both
    (runs / "search" / both[1] / "metrics.json").unlink()  # as a run that was killed
    assert fit(runs, grid([0.001, 0.003]) | often) == [*both, "learning_rate=0.003/version_1"]
    resumed = read_json(runs / "search" / "learning_rate=0.003" / "version_1", "provenance.json")
    assert resumed["checkpoint"].endswith("learning_rate=0.003/version_0/checkpoints/last.ckpt")
    best = runs / "search" / "learning_rate=0.003" / "version_1"  # killed after its last step, it has nothing to train
    assert (best / "checkpoints" / "best.ckpt").is_file()
    assert "val/r2_best" in read_metrics(best)


OTHER = {  # what changes between two commands of one experiment -> how the error names it
    "optimiser": ({"model.init_args.optimisation.weight_decay": 0.1}, "weight_decay: was 0.05, is 0.1"),
    "model": ({f"{CONFIG}.depth": 2}, "config.depth: was 1, is 2"),
    "steps": ({"trainer.max_steps": 3}, "trainer.max_steps: was 2, is 3"),
    "seed": ({"seed_everything": 1}, "seed_everything: was 0, is 1"),
    "data": ({"data.global_batch_size": 8}, "data.global_batch_size: was 4, is 8"),
}
ALIKE = {  # where and how fast it runs, what a test asks
    "data.num_workers": 1,
    "data.micro_batch_size": 2,
    "data.test_cohorts": "[other]",
    "model.init_args.test_ratios": "[0.5]",
    "trainer.log_every_n_steps": 2,
    "trainer.devices": "auto",
}


def test_a_cohort_that_is_only_tested_and_an_option_that_is_newer_than_a_run_make_no_other_fit(runs):
    tested = {"data.test_cohorts": "[other]", "data.several_atlases": "false"}
    (name,) = fit(runs, grid([0.001]) | tested)
    config = runs / "search" / name / "config.yaml"
    lines = config.read_text().splitlines(keepends=True)
    older = [line for line in lines if line.strip() not in ("several_atlases: false", "decoded_share: null")]
    assert len(older) == len(lines) - 2
    config.write_text("".join(older))
    assert fit(runs, grid([0.001]) | tested) == [name]
    with pytest.raises(SystemExit, match=r"several_atlases: was False, is True"):
        fit(runs, grid([0.001]) | {"data.several_atlases": "true"})


def test_a_point_of_other_settings_is_fitted_again_as_a_further_version_where_that_is_asked_for(runs):
    first, second = (f"learning_rate=0.001/version_{number}" for number in (0, 1))
    again = {"trainer.max_steps": 3, "trainer.val_check_interval": 1}

    def refit():
        run_main([*arguments("fit", runs, {"experiment": "search", **grid([0.001], "val/r2"), **again}), "--refit"])
        return sorted(path.relative_to(runs / "search").as_posix() for path in (runs / "search").glob("*/version_*"))

    fit(runs, grid([0.001]))
    assert refit() == [first, second]
    assert refit() == [first, second]  # the newer one is what it asks for
    assert read_json(runs / "search", "chosen.json")["run"] == second
    (runs / "search" / second / "metrics.json").unlink()  # as a run that was killed
    third = "learning_rate=0.001/version_2"
    assert refit() == [first, second, third]
    resumed = read_json(runs / "search" / third, "provenance.json")
    assert resumed["checkpoint"].endswith("learning_rate=0.001/version_1/checkpoints/last.ckpt")
    with pytest.raises(SystemExit, match="--refit is for the points of a sweep"):
        run_main([*arguments("fit", runs), "--refit"])


@pytest.mark.parametrize("state", ["ended", "killed"])
def test_a_point_of_other_settings_is_neither_skipped_nor_resumed(state, runs):
    (name,) = fit(runs, grid([0.001]))
    if state == "killed":
        (runs / "search" / name / "metrics.json").unlink()
    for settings, message in OTHER.values():
        with pytest.raises(SystemExit) as error:
            fit(runs, grid([0.001]) | settings)
        assert f"{name} was not fitted as this command would fit it:" in str(error.value)
        assert message in str(error.value)
        assert str(error.value).count(": was ") == 1
        assert "--experiment NAME" in str(error.value)
    if state == "ended":
        assert fit(runs, grid([0.001]) | ALIKE) == [name]


def test_a_point_of_another_pretrained_model_or_cohort_is_refused(runs, stores, tmp_path, monkeypatch):
    started = {"model.init_args.pretrained": runs / "demo", **grid([0.001]), "experiment": "search"}
    command = arguments("fit", runs, started, "experiments/forecast.yaml")
    door("fit", runs)
    for _ in range(2):
        run_main(command)
    assert len(list((runs / "search").glob("*/version_*"))) == 1
    again = door("fit", runs, {"trainer.max_steps": 3})
    hashes = [
        sha256((runs / "demo" / version / BEST).read_bytes()).hexdigest() for version in ("version_0", again.name)
    ]
    with pytest.raises(SystemExit, match=f"pretrained.*: was {hashes[0]}, is {hashes[1]}\n"):
        run_main(command)
    shutil.rmtree(again)
    run_main(command)
    copied = tmp_path / "stores"
    shutil.copytree(stores, copied)
    monkeypatch.setenv("BRAINLM_DATA", str(copied))
    run_main(command)
    metadata = json.loads((copied / "tiny" / "store.json").read_text())
    metadata["tables"]["recordings.csv"] = "other"
    (copied / "tiny" / "store.json").write_text(json.dumps(metadata))
    with pytest.raises(SystemExit, match=r"recordings of tiny .*: was [0-9a-f]{64}, is other\n"):
        run_main(command)


def test_a_search_tests_the_point_that_validated_best(runs):
    settings = grid([1e-9, 0.01], "val/loss")
    with pytest.raises(SystemExit, match=r"has no val/loss_best.*the metric that the best checkpoint is chosen by"):
        fit(runs, settings)
    folder = runs / "search"
    scores = {}
    for rate in ("1e-09", "0.01"):
        run = folder / f"learning_rate={rate}" / "version_0"
        scores[rate] = read_metrics(run)["val/r2_best"]
        write_json(run / "metrics.json", read_metrics(run) | {"val/loss_best": -scores[rate]})
    fit(runs, settings)
    best = max(scores, key=scores.get)
    assert find_checkpoint(folder) == folder / f"learning_rate={best}" / "version_0" / "checkpoints" / "best.ckpt"
    run_main(arguments("test", runs, {"experiment": "search", **settings}))
    tested = read_json(folder / "version_0", "provenance.json")
    assert tested["checkpoint"] == str(find_checkpoint(folder))


def test_a_checkpoint_is_found_by_its_run_or_its_experiment(runs):
    older, newer = (door("fit", runs) for _ in range(2))
    assert find_checkpoint(runs / "demo") == newer / "checkpoints" / "best.ckpt"
    assert find_checkpoint(older) == find_checkpoint(older / "checkpoints" / "best.ckpt")
    assert load_model(find_checkpoint(older))[1]["initialisation"] == {"start": "kernel", "seed": 0}
    with pytest.raises(FileNotFoundError, match="cli fit --config"):
        find_checkpoint(runs / "nothing")
