"""What TensorBoard shows of tasks that reconstruct, and that others train without it."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger

from brainlm_lightning.callbacks.tensorboard_figures import TensorBoardFigures

P, T = 4, 20
ATLAS = SimpleNamespace(parcels={"label": list("abcd")}, xyz_mm=np.arange(3.0 * P).reshape(P, 3))


@pytest.fixture
def validated(tmp_path, monkeypatch):
    """Runs one validation with what a step returns; returns the names of the figures."""

    def validated(outputs, val_r2_P):
        logger = TensorBoardLogger(tmp_path)
        drawn = []
        monkeypatch.setattr(logger.experiment, "add_figure", lambda name, *_: drawn.append(name))
        data = SimpleNamespace(atlas=ATLAS, stores=[SimpleNamespace(tr_s=1.0)])
        trainer = SimpleNamespace(
            logger=logger, is_global_zero=True, sanity_checking=False, datamodule=data, global_step=3
        )
        figures, task = TensorBoardFigures(), SimpleNamespace(val_r2_P=val_r2_P)
        batch = {"signal_BPT": torch.randn(2, P, T), "recording_index_B": torch.tensor([0, 1])}
        figures.on_validation_start(trainer, task)
        figures.on_validation_batch_end(trainer, task, outputs, batch, 0)
        figures.on_validation_end(trainer, task)
        return drawn

    return validated


RECONSTRUCTION = {"prediction_BPT": torch.zeros(2, P, T), "hidden_BPT": torch.ones(2, P, T)}


def test_a_reconstruction_is_drawn_with_its_parcels(validated):
    assert validated(RECONSTRUCTION, np.full(P, 0.5)) == ["reconstruction", "parcel_r2"]


@pytest.mark.parametrize("outputs", [None, torch.tensor(1.0), {"loss": torch.tensor(1.0)}])
def test_a_task_that_reconstructs_nothing_is_validated_without_figures(validated, outputs):
    assert validated(outputs, None) == []


def test_a_reconstruction_without_parcel_scores_is_drawn_alone(validated):
    assert validated(RECONSTRUCTION, None) == ["reconstruction"]
