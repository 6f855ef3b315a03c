"""What is planted in simulated brains: networks' strengths make age and symptoms, and nothing makes `noise_score`."""

import lightning.pytorch as pl
import pytest
import torch

from brainlm_lightning.checkpoint.description import KEY, describe
from brainlm_lightning.checkpoint.files import PREFIX
from brainlm_lightning.checkpoint.start import start_model
from brainlm_lightning.data.datamodule import CohortDataModule
from brainlm_lightning.model.mae import MAEConfig, MaskedAutoencoder
from brainlm_lightning.tasks.clinical.folds import FoldPlan
from brainlm_lightning.tasks.clinical.labels import Target
from brainlm_lightning.tasks.clinical.methods import SklearnMethod
from brainlm_lightning.tasks.clinical.task import ClinicalTask

SMALL = MAEConfig(patch_frames=10, embed_dim=40, depth=1, num_heads=2, decoder_embed_dim=40, decoder_depth=1)
METHODS = {
    "mean": SklearnMethod("none", "mean"),
    "gram_linear": SklearnMethod("gram", "linear"),
    "covariance_linear": SklearnMethod("covariance", "linear"),
}


def cohort():
    return CohortDataModule("tiny", window_frames=80, global_batch_size=8, num_workers=0)


@pytest.fixture(scope="module")
def pretrained(make_tiny_store, tmp_path_factory):
    """A checkpoint of a model at its kernel start, on a cohort of 150 whose phenotypes are nearly without noise."""
    root = tmp_path_factory.mktemp("stores")
    make_tiny_store(root, "--split.test=0.3", subjects=150, frames=240, phenotype_r=0.95, strength_sd=0.5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BRAINLM_DATA", str(root))
        data = cohort()
        data.setup("test")
        net, _ = start_model(lambda geometry: MaskedAutoencoder(geometry, SMALL), data, "kernel", 0)
        path = tmp_path_factory.mktemp("pretrained") / "model.ckpt"
        weights = {f"{PREFIX}{name}": value for name, value in net.state_dict().items()}
        torch.save({"state_dict": weights, KEY: describe(net, data, "kernel")}, path)
        yield path


@pytest.mark.parametrize(
    ("target", "found"),
    [(Target("age"), True), (Target("symptoms", "log_minmax"), True), (Target("noise_score"), False)],
)
def test_second_order_embeddings_recover_what_is_planted_and_nothing_else(target, found, pretrained, tmp_path):
    plan = FoldPlan(number=3, test_on="all")
    task = ClinicalTask(str(pretrained), target, plan, parts=2, baselines=METHODS, default_baselines=False)
    task.experiment_folder = tmp_path / "clinical"
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(accelerator="cpu", default_root_dir=tmp_path, **quiet)
    trainer.test(task, datamodule=cohort(), verbose=False)
    prefix = f"test/tiny/{target.column}"
    for method in ("gram_linear", "covariance_linear"):
        r = {end: task.results[f"{prefix}/{method}/pearson_r{end}"] for end in ("_low", "_high")}
        if found:
            assert r["_low"] > 0.4
            assert task.results[f"{prefix}/mean_minus_{method}/squared_error_low"] > 0
        else:
            assert r["_low"] < 0 < r["_high"]
