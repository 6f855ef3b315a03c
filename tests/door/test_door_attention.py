import re

import numpy as np
import pytest
import torch
from tiny import SIZES_OF, arguments, door, events, of_task, run_main
from torch import nn

from brainlm_lightning.checkpoint.pretrained import load_pretrained
from brainlm_lightning.data.datamodule import CohortDataModule
from brainlm_lightning.model.attention_maps import cls_attention
from brainlm_lightning.run_folder import read_arrays, read_metrics

TASK = "model.init_args"
SIZES_OF["AttentionTask"] = {
    "data.cohorts": "tasked",
    "data.scaling": "robust",
    f"{TASK}.analysis.subjects": "all",
    f"{TASK}.analysis.permutations": 99,
}
BASE = "experiments/attention.yaml"
PLACE = "test/tasked/blocks_minus_rest"


def contrasts(group="{column: task, equals: blocks}", networks="[network1]"):
    against = "[{column: task, equals: rest}]"
    named = f"group: [{group}], against: {against}, expected_networks: {networks}"
    return {f"{TASK}.contrasts": f"{{blocks_minus_rest: {{{named}}}}}"}


@pytest.fixture(scope="module", autouse=True)
def tasked(stores, make_tiny_store):
    """A third cohort beside the two: everyone also has a recording at the task."""
    if not (stores / "tasked").exists():
        make_tiny_store(stores, "--split.test=0.4", name="tasked", seed=3, subjects=16, frames=100, task_recordings=16)


@pytest.fixture
def settings(pretrained):
    return {f"{TASK}.pretrained": pretrained, **contrasts()}


@pytest.mark.parametrize("path", of_task("AttentionTask"), ids=lambda path: path.stem)
def test_attention_is_read_through_the_door(path, runs, settings, capsys):
    metrics = read_metrics(door("test", runs, settings, path))
    assert metrics[f"{PLACE}/mae_cls_attention/num_subjects_both"] == 16
    assert 0 <= metrics[f"{PLACE}/mae_untrained_cls_attention/auc"] <= 1
    assert metrics[f"{PLACE}/mae_cls_attention/network/network2/p_corrected"] <= 1
    assert "Attention, tasked: blocks_minus_rest" in " ".join(capsys.readouterr().out.split())


def test_maps_are_means_over_windows_then_recordings(runs, settings, pretrained):
    """Beside a loop over recordings with the maps of CLS alone, made another way."""
    arrays = read_arrays(door("test", runs, settings, BASE))
    data = CohortDataModule("tasked", window_frames=40, scaling="robust")
    data.setup()
    found = load_pretrained(pretrained, data)
    data.adopt_statistics(found.statistics)
    model = found.model
    expected = {"blocks": [], "rest": []}
    for row, task in enumerate(data.recordings.table["task"]):
        series, observed = data.dataset.scaled_recording(row)
        windows_BPT = torch.tensor(np.stack([series[:, :40], series[:, 40:80]]))
        maps = cls_attention(model, windows_BPT, torch.tensor(observed).expand(2, -1)).patches_BlhPN
        expected[task].append(maps.mean((1, 2)).sum(2).mean(0))
    for group, task in (("a", "blocks"), ("b", "rest")):
        found = arrays[f"{PLACE}/mae_cls_attention/mean_{group}_P"]
        np.testing.assert_allclose(found, torch.stack(expected[task]).mean(0), rtol=1e-4)


@pytest.mark.parametrize("reading", [{}, {"layers": "[0]", "heads": "[1]"}, {"rollout": "true"}])
def test_rows_of_attention_sum_to_1_with_cls_and_batches_change_nothing(reading, runs, settings):
    settings = settings | {f"{TASK}.reading.{name}": value for name, value in reading.items()}
    arrays, other = (
        read_arrays(door("test", runs, settings | {"data.eval_batch_size": size}, BASE)) for size in (8, 3)
    )
    sums = arrays[f"{PLACE}/mae_parcel_attention/matrix_a_PP"].sum(1)
    assert ((sums > 0.5) & (sums < 1)).all()  # the rest goes to CLS
    assert arrays[f"{PLACE}/mae_cls_attention/mean_a_P"].sum() < 1
    for name in ("mae_cls_attention/mean_a_P", "mae_parcel_attention/matrix_b_PP"):
        np.testing.assert_allclose(other[f"{PLACE}/{name}"], arrays[f"{PLACE}/{name}"], rtol=1e-4)


def test_received_attention_is_the_mean_over_the_matrix_rows(runs, settings):
    arrays = read_arrays(door("test", runs, settings, BASE))
    received = arrays[f"{PLACE}/mae_parcel_attention/mean_a_P"]
    np.testing.assert_allclose(received, arrays[f"{PLACE}/mae_parcel_attention/matrix_a_PP"].mean(0), rtol=1e-4)


@pytest.mark.draws
def test_figures_and_offline_pages_are_in_the_run_folder(runs, settings):
    tested = door("test", runs, settings, BASE)
    figures = {path.stem for path in (tested / "figures").iterdir()}
    what = {"mean_a", "mean_b", "difference", "networks"}
    expected = {f"blocks_minus_rest_mae_{of}_attention_{name}" for of in ("cls", "parcel") for name in what}
    assert figures == expected | {"blocks_minus_rest_mae_parcel_attention_matrix"}
    assert len(events(tested).Tags()["images"]) == len(figures)
    pages = [path.read_text() for path in (tested / "pages").iterdir()]
    assert len(pages) == 3
    for page in pages:
        assert not re.findall(r"<(?:script|link|img)[^>]*(?:src|href)=\"?https?:", page)


WRONG = {
    "layer": ({f"{TASK}.reading.layers": "[3]"}, "the encoder has no layer 3: it has 1"),
    "rollout": ({f"{TASK}.reading.layers": "[0]", f"{TASK}.reading.rollout": "true"}, "rollout goes through all"),
    "both": (contrasts("{column: age, above: 0}"), "16 recordings are in both groups, 'tasked-00000_rest' first"),
    "value": (contrasts("{column: task, equals: heat}"), "group of blocks_minus_rest: no recording with `task equals"),
    "network": (contrasts(networks="[Vis]"), "has no network 'Vis', which expected_networks names"),
    "permutations": ({f"{TASK}.analysis.permutations": 5}, "with fewer than 20 no p-value can be below 0.05"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_setting_is_one_clear_error_before_any_work(case, runs, settings, capsys):
    changed, message = WRONG[case]
    with pytest.raises(SystemExit) as ended:
        run_main(arguments("test", runs, settings | changed, BASE))
    text = ended.value.code if isinstance(ended.value.code, str) else capsys.readouterr().err
    assert re.search(message, text), text
    assert not list(runs.rglob("metrics.json"))


def test_a_model_without_attention_is_refused(runs, settings, monkeypatch):
    monkeypatch.setattr("brainlm_lightning.tasks.contrasts.attention.MaskedAutoencoder", nn.LSTM)
    with pytest.raises(SystemExit, match="holds a MaskedAutoencoder, which has no attention to read"):
        run_main(arguments("test", runs, settings, BASE))
