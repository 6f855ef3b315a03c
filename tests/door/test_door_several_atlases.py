"""One pretraining on cohorts of two atlases, through the real command line, and what becomes of its model."""

import numpy as np
import pytest
import torch
from tiny import door, run_main

import brainlm_lightning
from brainlm_lightning.checkpoint.pretrained import load_model, load_pretrained
from brainlm_lightning.data.datamodule import CohortDataModule
from brainlm_lightning.data.store import Store
from brainlm_lightning.run_folder import read_metrics

START = "model.init_args.start_from"


@pytest.fixture(scope="module")
def stores(make_tiny_store, tmp_path_factory):
    """A folder of stores with cohorts of 16 and of 12 parcels, and fewer people of the second one alone."""
    root = tmp_path_factory.mktemp("several")
    make_tiny_store(root, frames=100)
    for name, subjects in (("small", 32), ("fewer", 20)):
        make_tiny_store(root, "--split.test=0.3", name=name, seed=5, subjects=subjects, parcels=12, frames=100)
    return root


@pytest.fixture(scope="module")
def fitted(stores, tmp_path_factory):
    """The folder of the runs of a pretraining on both, that of its fit and that of its test."""
    settings = {
        "data.cohorts": "{tiny: 1.0, small: 1.0}",
        "data.several_atlases": "true",
        "data.windows_per_recording": 2,
        "model.init_args.masking.decoded_share": 1.0,
        "trainer.max_steps": 4,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BRAINLM_DATA", str(stores))
        runs = tmp_path_factory.mktemp("runs")
        return runs, door("fit", runs, settings), door("test", runs, settings)


def test_a_test_has_a_table_of_each_cohort_beside_opponents_of_its_own_parcels(fitted):
    metrics = read_metrics(fitted[2])
    for cohort in ("tiny", "small"):
        found = {name.split("/")[3]: value for name, value in metrics.items() if name.startswith(f"test/{cohort}/")}
        assert {"mae", "mae_untrained", "conditional_gaussian", "linear_smoother"} <= set(found)
        assert all(np.isfinite(value) for value in found.values())


def test_the_model_becomes_one_of_either_atlas_with_its_statistics(fitted, stores, tmp_path, monkeypatch):
    monkeypatch.setenv("BRAINLM_DATA", str(stores))
    checkpoint = fitted[1] / "checkpoints" / "best.ckpt"
    model, _ = load_model(checkpoint)
    for name, columns in (("tiny", slice(0, 16)), ("small", slice(16, 28))):
        store = Store(stores / name)
        path = tmp_path / f"{name}.safetensors"
        run_main(["move", str(fitted[1]), str(path), "--cohort", str(stores / name)])
        part, described = load_model(path)
        assert torch.equal(part.position.spatial_PD, model.position.spatial_PD[columns])
        assert torch.equal(part.head.weight, model.head.weight)
        assert described["parcels"]["sha256"] == store.atlas.sha256
        assert described["scaling"]["statistics"]["robust"] == store.statistics.to_json()["robust"]
        assert described["started_from"]["mapping"] == "none: one of the model's atlases"
        recording = np.random.default_rng(0).normal(size=(100, store.atlas.num_parcels))
        loaded = (brainlm_lightning.load(path), brainlm_lightning.load(checkpoint).on(store.atlas))
        embeddings = [of.embed(recording, tr_s=1.0, atlas=store.atlas) for of in loaded]
        assert embeddings[0].keys() == embeddings[1].keys()
        for key in embeddings[0]:
            np.testing.assert_array_equal(embeddings[0][key], embeddings[1][key])


def test_training_goes_on_in_one_of_the_atlases_scaled_as_in_the_pretraining(fitted, stores, tmp_path, monkeypatch):
    monkeypatch.setenv("BRAINLM_DATA", str(stores))
    once = {"trainer.max_steps": 1, "trainer.val_check_interval": 1, "model.init_args.optimisation.learning_rate": 0}
    going_on = door("fit", tmp_path, {**once, f"{START}.checkpoint": fitted[1], "data.cohorts": "fewer"})
    model, about = load_model(going_on / "checkpoints" / "best.ckpt")
    source, _ = load_model(fitted[1] / "checkpoints" / "best.ckpt")
    assert torch.equal(model.decoder_position.spatial_PD, source.decoder_position.spatial_PD[16:])
    found = about["scaling"]["statistics"]["robust"]
    assert found == Store(stores / "small").statistics.to_json()["robust"]
    assert found != Store(stores / "fewer").statistics.to_json()["robust"]


def test_training_goes_on_from_one_atlas_to_both(fitted, stores, tmp_path, monkeypatch):
    monkeypatch.setenv("BRAINLM_DATA", str(stores))
    small = tmp_path / "small.safetensors"
    run_main(["move", str(fitted[1]), str(small), "--cohort", str(stores / "small")])
    settings = {
        "data.cohorts": "{tiny: 1.0, small: 1.0}",
        "data.several_atlases": "true",
        "data.windows_per_recording": 2,
        "model.init_args.optimisation.learning_rate": 0,
        f"{START}.checkpoint": small,
    }
    model, about = load_model(door("fit", tmp_path / "runs", settings) / "checkpoints" / "best.ckpt")
    source, _ = load_model(small)
    assert torch.equal(model.position.spatial_PD[16:], source.position.spatial_PD)
    assert about["started_from"]["mapping"] == "position"


def test_a_run_of_several_atlases_is_no_pretraining_of_one(fitted, stores, monkeypatch):
    monkeypatch.setenv("BRAINLM_DATA", str(stores))
    data = CohortDataModule("tiny", window_frames=40, global_batch_size=4, num_workers=0)
    data.setup()
    with pytest.raises(ValueError, match="number of parcels: the checkpoint has 28, this experiment 16"):
        load_pretrained(fitted[1], data)
