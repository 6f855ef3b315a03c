"""Which of a subject's recordings is of which class: rest or task, in simulated brains."""

import lightning.pytorch as pl
import numpy as np
import pytest
import torch

from brainlm_lightning.checkpoint.description import KEY, describe
from brainlm_lightning.checkpoint.files import PREFIX
from brainlm_lightning.checkpoint.start import start_model
from brainlm_lightning.data.datamodule import CohortDataModule
from brainlm_lightning.model.mae import MAEConfig, MaskedAutoencoder
from brainlm_lightning.tasks.clinical.features import BaselinePlan, RecordingFeatures
from brainlm_lightning.tasks.clinical.folds import FoldPlan
from brainlm_lightning.tasks.clinical.labels import Target
from brainlm_lightning.tasks.clinical.methods import SklearnMethod
from brainlm_lightning.tasks.clinical.task import ClinicalTask

SMALL = MAEConfig(patch_frames=10, embed_dim=40, depth=1, num_heads=2, decoder_embed_dim=40, decoder_depth=1)
TARGET = Target("task", "classes", ("rest", "blocks"), paired=True)
METHODS = {
    "mean": SklearnMethod("none", "mean"),
    "connectivity_linear": SklearnMethod("connectivity", "linear"),
}


@pytest.fixture(scope="module")
def task(make_tiny_store, tmp_path_factory):
    """A test of who rests: 20 of 24 subjects have both recordings."""
    root = tmp_path_factory.mktemp("stores")
    make_tiny_store(root, "--split.test=0.3", frames=160, task_recordings=20, drive=4.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BRAINLM_DATA", str(root))
        data = CohortDataModule("tiny", window_frames=40, global_batch_size=8, num_workers=0)
        data.setup("test")
        net, _ = start_model(lambda geometry: MaskedAutoencoder(geometry, SMALL), data, "kernel", 0)
        weights = {f"{PREFIX}{name}": value for name, value in net.state_dict().items()}
        torch.save({"state_dict": weights, KEY: describe(net, data, "kernel")}, root / "model.ckpt")
        plan = FoldPlan(number=4, test_on="all")
        task = ClinicalTask(str(root / "model.ckpt"), TARGET, plan, parts=2, baselines=METHODS, default_baselines=False)
        task.experiment_folder = root / "runs" / "clinical"
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        trainer = pl.Trainer(accelerator="cpu", default_root_dir=root / "runs", **quiet)
        trainer.test(task, datamodule=CohortDataModule("tiny", window_frames=40, num_workers=0), verbose=False)
        yield task


def test_a_planted_state_is_found_within_subjects(task):
    of = "test/tiny/task_rest_or_blocks_paired"
    assert task.results[f"{of}/num_tested"] == 20
    assert task.results[f"{of}/connectivity_linear/auc_low"] > 0.6
    assert task.results[f"{of}/mean/auc"] == 0.5
    table = task.tables["predictions"].query("method == 'connectivity_linear'")
    assert table.groupby("subject")["true"].agg(set).tolist() == [{"rest", "blocks"}] * 20


def test_features_stand_about_the_mean_of_a_subjects_recordings(task):
    features = RecordingFeatures(task.question, BaselinePlan(), 2)
    fold = task.question.folds[0]
    subjects = task.question.data.recordings.table["subject_id"].to_numpy()
    both = features.of("signal_features+connectivity", fold.test, fold)
    single = both["connectivity"]
    assert np.abs(single).max() > 0.1
    for name in np.unique(subjects[fold.test]):
        own = single[subjects[fold.test] == name]
        assert own.sum(0) == pytest.approx(np.zeros(own.shape[1]), abs=1e-5)
    (first, second) = np.flatnonzero(subjects == subjects[fold.test][0])
    apart = features._correlations[np.searchsorted(task.question.rows, [first, second])]
    assert single[0] == pytest.approx((apart[0] - apart[1]) / 2, abs=1e-5)


@pytest.mark.parametrize("features", ["tangent", "covariance", "connectivity+untrained_covariance"])
def test_a_tangent_is_refused(features, task):
    with pytest.raises(ValueError, match="about a mean is none, so it has no tangent"):
        RecordingFeatures(task.question, BaselinePlan(), 2, [features])


def test_features_that_the_encoder_cannot_have_are_refused_before_any_work(task):
    RecordingFeatures(task.question, BaselinePlan(), 2, ["connectivity+untrained_attention"])
    with pytest.raises(ValueError, match="a mae has no prior, expected a mae_prior"):
        RecordingFeatures(task.question, BaselinePlan(), 2, ["untrained_residual"])
