"""What embeddings hold of a person, through the real command line."""

import numpy as np
import pytest
from tiny import SIZES_OF, door, of_task, run_main

from brainlm_lightning.data.store import Store
from brainlm_lightning.run_folder import read_metrics

GIVEN = "model.init_args"
SIZES_OF["IdentityTask"] = {"data.scaling": "robust", f"{GIVEN}.parts": 2}


@pytest.mark.parametrize("path", of_task("IdentityTask"), ids=lambda path: path.stem)
def test_embeddings_are_scored_beside_connectivity(path, runs, stores, pretrained, capsys):
    tested = door("test", runs, {f"{GIVEN}.pretrained": pretrained, "data.test_cohorts": "[other]"}, path)
    metrics = read_metrics(tested)
    subjects = set(Store(stores / "tiny").recordings.query("split == 'test'")["subject_id"])
    assert metrics["test/tiny/identity/num_subjects_with_two_halves"] == len(subjects)
    for cohort in ("tiny", "other"):
        for name in ("cls", "mean", "gram", "gram_untrained", "completed_connectivity", "connectivity"):
            prefix = f"test/{cohort}/identity/{name}"
            assert 0 <= metrics[f"{prefix}/reidentification"] <= 1
            assert all(np.isfinite(metrics[f"{prefix}/{score}"]) for score in ("reads_r2", "other_half_r2"))
    assert metrics["test/tiny/identity/connectivity_minus_gram/p_corrected"] <= 1
    capsys.readouterr()
    run_main(["report", str(tested), "--markdown"])
    printed = capsys.readouterr().out
    assert "| embedding | re-identified |" in printed
    assert "| completed_connectivity_untrained |" in printed


def test_an_unknown_embedding_is_one_message(runs, pretrained):
    with pytest.raises(SystemExit, match="no embedding 'grams'; name some of cls, mean"):
        door(
            "test",
            runs,
            {f"{GIVEN}.pretrained": pretrained, f"{GIVEN}.embeddings": "[grams]"},
            "experiments/identity_abide.yaml",
        )
    assert not runs.exists()


def test_what_few_models_have_is_scored_where_it_is_named(runs):
    fitted = door("fit", runs / "fits", {}, "experiments/pretrain_restpain_prior.yaml")
    chosen = {f"{GIVEN}.embeddings": "[covariance, attention, residual]", "data.scaling": "recording_zscore"}
    given = {f"{GIVEN}.pretrained": fitted, **chosen}
    metrics = read_metrics(door("test", runs / "tests", given, "experiments/identity_abide.yaml"))
    named = ("covariance", "attention", "residual")
    for name in (*named, *(f"{own}_untrained" for own in named)):
        assert np.isfinite(metrics[f"test/tiny/identity/{name}/reads_r2"])
    assert "test/tiny/identity/gram/reads_r2" not in metrics


def test_what_a_model_does_not_have_is_one_message(runs, pretrained):
    given = {f"{GIVEN}.pretrained": pretrained, f"{GIVEN}.embeddings": "[residual]"}
    with pytest.raises(SystemExit, match="a mae has no prior, expected a mae_prior or tied_prior; leave the embedding"):
        door("test", runs, given, "experiments/identity_abide.yaml")
