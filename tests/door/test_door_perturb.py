import re

import numpy as np
import pandas as pd
import pytest
from tiny import SIZES_OF, arguments, door, events, finish, newest, of_task, process, run_main

from brainlm_lightning.run_folder import read_arrays, read_metrics
from brainlm_lightning.tasks.contrasts import perturb as task

TASK = "model.init_args"
SIZES_OF["PerturbTask"] = {
    "data.cohorts": "tasked",
    "data.scaling": "robust",
    f"{TASK}.perturbation.steps": 2,
    f"{TASK}.draw.pairs": 5,
    f"{TASK}.draw.pairs_at_once": 2,
    f"{TASK}.analysis.subjects": "all",
    f"{TASK}.analysis.permutations": 99,
}
BASE = "experiments/perturb.yaml"
REST, BLOCKS = (f"[{{column: task, equals: {name}}}]" for name in ("rest", "blocks"))


def contrasts(sources=REST, targets=BLOCKS, networks="[network1]", name="rest_to_task"):
    return {
        f"{TASK}.contrasts": f"{{{name}: {{sources: {sources}, targets: {targets}, expected_networks: {networks}}}}}"
    }


@pytest.fixture(scope="module", autouse=True)
def tasked(stores, make_tiny_store):
    """A third cohort beside the two: everyone also has a recording at the task."""
    if not (stores / "tasked").exists():
        make_tiny_store(stores, "--split.test=0.4", name="tasked", seed=3, subjects=16, frames=100, task_recordings=16)


@pytest.fixture
def settings(pretrained):
    return {f"{TASK}.pretrained": pretrained, **contrasts()}


@pytest.mark.parametrize("path", of_task("PerturbTask"), ids=lambda path: path.stem)
def test_a_perturbation_runs_through_the_door(path, runs, settings, capsys):
    tested = door("test", runs, settings, path)
    metrics, arrays = read_metrics(tested), read_arrays(tested)
    place = "test/tasked/rest_to_task"
    assert metrics[f"{place}/mae/num_pairs"] == 5
    assert metrics[f"{place}/mae/distance_after"] < metrics[f"{place}/mae/distance_before"]
    for name in ("mae_theta_size", "mae_untrained_theta_shift", "signal_level"):
        difference = arrays[f"{place}/{name}/mean_a_P"] - arrays[f"{place}/{name}/mean_b_P"]
        np.testing.assert_allclose(arrays[f"{place}/{name}/difference_P"], difference, rtol=1e-4, atol=1e-6)
        assert 0 <= metrics[f"{place}/{name}/auc"] <= 1
    for name in ("mae", "mae_untrained"):  # the model reads CLS far less than the other tokens
        swap, rest = (metrics[f"{place}/{name}/{part}_swap_mse"] for part in ("cls", "token"))
        assert 0 <= metrics[f"{place}/{name}/cls_swap_mse_low"] <= swap <= metrics[f"{place}/{name}/cls_swap_mse_high"]
        assert swap < 0.01 * rest
    assert "Perturbation, tasked: rest_to_task" in " ".join(capsys.readouterr().out.split())
    run_main(["report", str(tested), "--markdown"])
    shown = capsys.readouterr().out
    assert "| mae_theta_size |" in shown
    assert f"hidden patches by {metrics[f'{place}/mae/cls_swap_mse']:.2g} of the signal's variance" in shown


@pytest.mark.draws
def test_tables_figures_and_pages_are_in_the_run_folder(runs, settings):
    tested = door("test", runs, settings, BASE)
    figures = {path.name for path in (tested / "figures").iterdir()}
    what = {"mean_a", "mean_b", "difference", "networks"}
    expected = {f"rest_to_task_mae_theta_{measure}_{name}.png" for measure in ("size", "shift") for name in what}
    assert figures == expected | {f"rest_to_task_mae{name}_loss.png" for name in ("", "_untrained")}
    assert set(events(tested).Tags()["images"]) == {
        re.sub("rest_to_task_", "rest_to_task/", name.removesuffix(".png")) for name in figures
    }
    table = pd.read_csv(tested / "tables" / "rest_to_task_mae_theta_size.csv")
    assert len(table) == 16
    assert (table["z"].abs().diff().dropna() <= 0).all()
    page = (tested / "pages" / "rest_to_task_mae_theta_size.html").read_text()
    assert not re.findall(r"<(?:script|link|img)[^>]*(?:src|href)=\"?https?:", page)


def test_finished_pairs_are_kept_and_a_second_start_goes_on(runs, settings, monkeypatch):
    first = read_metrics(door("test", runs, settings, BASE))
    (folder,) = (runs / "perturb" / "pairs").iterdir()
    assert len(list(folder.iterdir())) == 3
    (folder / "batch-00001.npz").unlink()
    done, real = [], task.perturb
    monkeypatch.setattr(task, "perturb", lambda *given: done.append(len(given[2])) or real(*given))
    assert read_metrics(door("test", runs, settings, BASE)) == first
    assert done == [4, 4]  # two pairs with their null pairs, for the model and for its control
    door("test", runs, settings | {f"{TASK}.perturbation.steps": 3}, BASE)
    assert len(done) == 8  # another plan starts anew


@pytest.mark.slow
def test_two_ranks_find_what_one_finds(runs, settings):
    one = read_metrics(door("test", runs / "one", settings, BASE))
    ranks = {"trainer.devices": 2, "trainer.strategy": "ddp"}
    status, output = finish(process("test", runs / "two", settings | ranks, BASE), 200)
    assert status == 0, output
    assert read_metrics(newest(runs / "two")) == pytest.approx(one, rel=1e-3, nan_ok=True)


WRONG = {
    "column": (
        contrasts(sources="[{column: sixe, equals: 1}]"),
        "no column 'sixe' to filter on; the cohort's table has",
    ),
    "value": (
        contrasts(targets="[{column: task, equals: heat}]"),
        r"targets of rest_to_task: .*task has 'rest' \(16\)",
    ),
    "network": (
        contrasts(networks="[Vis]"),
        "has no network 'Vis', which expected_networks names; it has network1, net",
    ),
    "name": (contrasts(name="a/b"), "expected at least one, named by a word"),
    "window": ({"data.window_frames": 50}, "frames of a window: the checkpoint has 40"),
    "scaling": ({"data.scaling": "recording_zscore"}, "scaling recipe: the checkpoint has 'robust'"),
    "no checkpoint": ({f"{TASK}.pretrained": "runs/absent"}, "no run with checkpoints.* in runs/absent"),
    "function": ({f"{TASK}.perturbation.function": "twist"}, "additive_parcel_frame"),
    "pairs": ({f"{TASK}.draw.pairs": 0}, "pairs 0 and pairs_at_once 2 must be at least 1"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_setting_is_one_clear_error_before_any_work(case, runs, settings, capsys):
    changed, message = WRONG[case]
    with pytest.raises(SystemExit) as ended:
        run_main(arguments("test", runs, settings | changed, BASE))
    printed = capsys.readouterr().err
    text = ended.value.code if isinstance(ended.value.code, str) else printed
    assert re.search(message, text), text
    assert "Traceback" not in printed
    assert not [*runs.rglob("metrics.json"), *runs.rglob("batch-*")]


def test_another_atlas_is_refused(runs, settings, stores, make_tiny_store, capsys):
    if not (stores / "moved").exists():
        make_tiny_store(stores, name="moved", subjects=12, frames=100, task_recordings=12, atlas_seed=1)
    with pytest.raises(SystemExit, match=r"parcel table and order \(sha256\)"):
        run_main(arguments("test", runs, settings | {"data.cohorts": "moved"}, BASE))
