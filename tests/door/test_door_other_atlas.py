"""A model goes on in another atlas, through the real command line."""

import json

import pytest
import torch
from tiny import door, run_main

from brainlm_lightning.checkpoint.other_atlas import mapped, position_weights
from brainlm_lightning.checkpoint.pretrained import load_model, load_pretrained
from brainlm_lightning.data.datamodule import CohortDataModule
from brainlm_lightning.provenance import sha256_of
from brainlm_lightning.run_folder import read_metrics

START = "model.init_args.start_from"
SAVED = "brainlm_lightning.tasks.reconstruction.saved.SavedModel"


@pytest.fixture(scope="module")
def small(make_tiny_store, tmp_path_factory):
    """A folder of stores with the cohort ``small`` alone: 12 parcels elsewhere, other people."""
    root = tmp_path_factory.mktemp("small")
    make_tiny_store(root, "--split.test=0.3", name="small", seed=5, subjects=32, parcels=12, frames=100)
    return root


@pytest.fixture
def go_on(pretrained, small, tmp_path, monkeypatch):
    """A function that runs a verb on the cohort ``small``, from the model of ``tiny``."""
    monkeypatch.setenv("BRAINLM_DATA", str(small))

    def run(verb, **settings):
        given = {"data.cohorts": "small", f"{START}.checkpoint": pretrained, "trainer.max_steps": 1}
        return door(verb, tmp_path / "runs", {**given, "trainer.val_check_interval": 1, **settings})

    return run


def test_training_goes_on_in_another_atlas_and_the_checkpoint_says_so(go_on, pretrained):
    frozen = {"model.init_args.optimisation.learning_rate": 0}
    fitted = go_on("fit", **frozen)
    (source, before), (model, about) = (load_model(path) for path in (pretrained, fitted / "checkpoints" / "best.ckpt"))
    here, there = (torch.tensor(of["parcels"]["xyz_mm"]) for of in (before, about))
    weights = position_weights(here, there, 6.0)
    expected = mapped(source.position.spatial_PD.detach(), weights)
    assert model.position.spatial_PD.detach().numpy() == pytest.approx(expected.numpy(), abs=1e-6)
    assert torch.equal(model.head.weight, source.head.weight)
    said = about["started_from"]
    assert (said["mapping"], said["width_mm"], said["atlas"]) == ("position", 6.0, before["parcels"]["atlas"])
    assert said["checkpoint_sha256"] == sha256_of(pretrained)
    assert set(about["subjects"]["train"]) > set(before["subjects"]["train"])
    assert about["initialisation"] == before["initialisation"]
    provenance = json.loads((fitted / "provenance.json").read_text())
    assert provenance["pretrained"]["start_from"]["sha256"] == sha256_of(pretrained)


def test_a_test_compares_with_the_model_as_it_came_and_with_other_runs(go_on):
    fitted = go_on("fit")
    opponent = f"{{adaptive_smoother: null, again: {{class_path: {SAVED}, init_args: {{checkpoint: {fitted}}}}}}}"
    metrics = read_metrics(go_on("test", **{"model.init_args.baselines": opponent}))
    scores = {name.split("/")[3]: value for name, value in metrics.items() if name.endswith("/r2_pooled")}
    assert scores["again"] == scores["mae"] != scores["mae_as_started"]
    assert "mae_untrained" not in scores


def test_training_goes_on_in_the_same_atlas_with_the_scaling_of_the_pretraining(runs, pretrained):
    frozen = {"model.init_args.optimisation.learning_rate": 0}
    fitted = door("fit", runs, {f"{START}.checkpoint": pretrained, "data.cohorts": "other", **frozen})
    (source, before), (model, about) = (load_model(path) for path in (pretrained, fitted / "checkpoints" / "best.ckpt"))
    assert all(map(torch.equal, model.state_dict().values(), source.state_dict().values()))
    assert about["scaling"] == before["scaling"]
    assert about["started_from"]["mapping"] == "none: the same atlas"


REFUSED = {
    "another model": ({"model.init_args.model.init_args.config.depth": 2}, r"depth: 2, the checkpoint has 1"),
    "another window": ({"data.window_frames": 80}, r"frames of a window: the checkpoint has 40, this experiment 80"),
    "another scaling": ({"data.scaling": "recording_zscore"}, "scaling recipe: the checkpoint has 'robust'"),
    "an initialisation": ({"model.init_args.initialisation": "kernel"}, "expected one of the two"),
    "no images": ({f"{START}.atlas": "overlap"}, "expected two label images"),
    "no checkpoint": ({f"{START}.checkpoint": "absent"}, "no run with checkpoints in absent"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused(case, go_on):
    settings, message = REFUSED[case]
    with pytest.raises(SystemExit, match=message):
        go_on("fit", **settings)


def test_subjects_of_the_pretraining_are_not_tested_on(runs, pretrained):
    settings = {f"{START}.checkpoint": pretrained, "data.cohorts": "other", "data.test_cohorts": "[tiny]"}
    with pytest.raises(SystemExit, match="were seen in the pretraining of"):
        door("fit", runs, settings)


def test_a_model_is_moved_without_training_for_any_task(pretrained, small, tmp_path, monkeypatch):
    moved_file = tmp_path / "moved.safetensors"
    run_main(["move", str(pretrained), str(moved_file), "--cohort", str(small / "small"), "--width-mm", "9"])
    monkeypatch.setenv("BRAINLM_DATA", str(small))
    data = CohortDataModule("small", window_frames=40, global_batch_size=4, num_workers=0)
    data.setup()
    found = load_pretrained(moved_file, data)
    assert found.statistics.to_json() == data.stores[0].statistics.to_json()
    (source, before), about = load_model(pretrained), found.about
    assert (about["started_from"]["width_mm"], about["started_from"]["scaled_by"]) == (9.0, "small")
    assert about["subjects"] == before["subjects"]
    here, there = (torch.tensor(of["parcels"]["xyz_mm"]) for of in (before, about))
    expected = mapped(source.decoder_position.spatial_PD.detach(), position_weights(here, there, 9.0))
    assert found.model.decoder_position.spatial_PD.detach().numpy() == pytest.approx(expected.numpy(), abs=1e-6)
    again = ["move", str(moved_file), str(tmp_path / "again.safetensors"), "--cohort", str(small / "small")]
    with pytest.raises(SystemExit, match=r"is in the atlas of .* already"):
        run_main(again)
