"""Functional networks through the real command line."""

import hashlib
import json
import re

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from tiny import door, events, of_task, run_main, versions

from brainlm_lightning.callbacks.tensorboard_figures import TensorBoardFigures
from brainlm_lightning.checkpoint.description import KEY, subject_digest
from brainlm_lightning.run_folder import read_arrays, read_metrics

NETWORK = "experiments/network.yaml"
GIVEN = "model.init_args"
each_experiment = pytest.mark.parametrize("path", of_task("NetworkTask"), ids=lambda path: path.stem)


@pytest.fixture(scope="module")
def stores(make_tiny_store, tmp_path_factory):
    """The cohort ``tiny`` with networks large enough to divide: 20 parcels of 3."""
    root = tmp_path_factory.mktemp("stores")
    make_tiny_store(root, "--split.test=0.3", parcels=20, networks=3, atlas_seed=1, frames=100)
    return root


@pytest.fixture(scope="module")
def pretrained(stores, tmp_path_factory):
    """``best.ckpt`` of a masked autoencoder after two steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BRAINLM_DATA", str(stores))
        for hook in ("on_validation_end", "on_fit_end"):
            patch.setattr(TensorBoardFigures, hook, lambda *given: None)
        return door("fit", tmp_path_factory.mktemp("pretrained")) / "checkpoints" / "best.ckpt"


@each_experiment
def test_a_test_of_networks_runs_through_the_door(path, pretrained, runs):
    methods = yaml.safe_load(path.read_text())["model"]["init_args"]["readings"]
    metrics = read_metrics(door("test", runs, {f"{GIVEN}.pretrained": pretrained}, path))
    found = {match[1] for name in metrics if (match := re.fullmatch(r"test/tiny/networks/(\w+)/accuracy", name))}
    assert {*methods, "attention_untrained", "attention_random_start", "embedding", "connectivity"} <= found
    assert all(0 <= value <= 1 for name, value in metrics.items() if name.endswith("curacy") and "minus" not in name)
    assert 0 <= metrics["test/tiny/networks/attention_minus_connectivity/p_corrected"] <= 1


@pytest.mark.draws
def test_other_models_are_compared_and_everything_is_written_and_the_same_again(pretrained, runs, capsys):
    for name in ("vae", "gcn"):
        door("fit", runs, config=f"experiments/pretrain_{name}.yaml")
    embeddings = f"{{vae: {runs}/pretrain_vae, gcn: {runs}/pretrain_gcn}}"
    settings = {f"{GIVEN}.pretrained": pretrained, f"{GIVEN}.embeddings": embeddings}
    capsys.readouterr()
    for _ in range(2):
        door("test", runs, settings, NETWORK)
    first, second = (runs / "network" / f"version_{number}" for number in range(2))
    assert "Functional networks, tiny" in capsys.readouterr().out
    assert read_metrics(first) == read_metrics(second)
    assert {"test/tiny/networks/vae/accuracy", "test/tiny/networks/gcn/accuracy"} <= set(read_metrics(first))
    assert len(list((first / "figures").glob("networks_tiny_*.png"))) == 4
    assert len([tag for tag in events(first).Tags()["images"] if tag.startswith("networks_tiny")]) == 4
    arrays = read_arrays(first)
    number_P, votes_PC = arrays["networks/number_P"], arrays["test/tiny/networks/vae/votes_PC"]
    assert votes_PC.shape == (20, 3)
    accuracy = votes_PC[np.arange(20), number_P].sum() / votes_PC.sum()
    assert read_metrics(first)["test/tiny/networks/vae/accuracy"] == pytest.approx(accuracy)  # equal recordings
    table = pd.read_csv(first / "networks_tiny.csv")
    votes_PC = arrays["test/tiny/networks/attention/votes_PC"]
    wrong_P = [100 * (1 - votes_PC[p, number_P[p]] / max(1, votes_PC[p].sum())) for p in range(20)]
    assert table["missed_percent"].dropna().tolist() == [
        pytest.approx(wrong, abs=0.06) for wrong, tested in zip(wrong_P, votes_PC.sum(1), strict=True) if tested
    ]
    made_with = json.loads((first / "provenance.json").read_text())["pretrained"]
    assert set(made_with) == {"pretrained", "vae", "gcn"}
    assert made_with["pretrained"]["sha256"] == hashlib.sha256(pretrained.read_bytes()).hexdigest()
    run_main(["report", str(first), "--markdown"])
    assert "| VAE's embedding |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("neighbours.folds", 8, r"too small to divide: \{'network\d': .*expected at least 9"),
        ("readings", "{attention: {layers: [7]}}", "no layer 7: it has 1"),
        ("readings", "{embedding: {}}", "two methods have one name"),
        ("readings", "{attention: {layers: [0], rollout: true}}", "rollout goes through all layers"),
    ],
)
def test_what_cannot_be_done_is_one_message_before_any_work(setting, value, message, pretrained, runs):
    with pytest.raises(SystemExit) as error:
        door("test", runs, {f"{GIVEN}.pretrained": pretrained, f"{GIVEN}.{setting}": value}, NETWORK)
    assert re.search(message, str(error.value))
    assert not [run for run in versions(runs) if (run / "metrics.json").exists()]


def test_a_model_that_has_seen_a_test_subject_is_refused(pretrained, runs, stores):
    table = pd.read_csv(stores / "tiny" / "recordings.csv")
    subject = table["subject_id"][table["split"] == "test"].iloc[0]
    content = torch.load(pretrained, weights_only=True)
    content[KEY]["subjects"]["train"].append(subject_digest(subject))
    torch.save(content, runs.parent / "seen.ckpt")
    with pytest.raises(SystemExit, match=f"1 of .* to be tested on, .* were seen .*'{subject}' first"):
        door("test", runs, {f"{GIVEN}.pretrained": runs.parent / "seen.ckpt"}, NETWORK)


def test_models_of_differently_scaled_data_are_not_compared(pretrained, runs):
    content = torch.load(pretrained, weights_only=True)
    content[KEY]["scaling"]["statistics"]["robust"]["scale"][0] *= 2
    torch.save(content, runs.parent / "other.ckpt")
    settings = {f"{GIVEN}.pretrained": pretrained, f"{GIVEN}.embeddings": f"{{two: {runs.parent}/other.ckpt}}"}
    with pytest.raises(SystemExit, match="trained on data scaled by other statistics"):
        door("test", runs, settings, NETWORK)


def test_a_model_without_attention_is_refused(runs):
    place = door("fit", runs, config="experiments/pretrain_gcn.yaml")
    with pytest.raises(SystemExit, match="holds a gcn, which has no attention"):
        door("test", runs, {f"{GIVEN}.pretrained": place}, NETWORK)


def test_the_recordings_can_be_limited(pretrained, runs):
    run = door("test", runs, {f"{GIVEN}.pretrained": pretrained, f"{GIVEN}.max_recordings": 3}, NETWORK)
    assert read_metrics(run)["test/tiny/networks/attention/num_recordings"] == 3
