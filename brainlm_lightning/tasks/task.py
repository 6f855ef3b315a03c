"""What the tasks of all questions share."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from brainlm_lightning.checkpoint.description import COMPARED_DATA, Entry
from brainlm_lightning.checkpoint.pretrained import Pretrained, load_pretrained
from brainlm_lightning.data.datamodule import CohortDataModule
from brainlm_lightning.tasks.optimisation import gradient_norm


class Task(pl.LightningModule):
    """A question to a cohort, asked with `fit` and `test`, or with `test` alone.

    Attributes:
        monitor: validation metric by which the best checkpoint is known, and which end of it is good.
        fitted: whether `test` needs a checkpoint of `fit`.
        takes_several_atlases: whether its cohorts may have different atlases.
        test_options: arguments of the class that the fitted model does not depend on; a test takes all others over
            from the run that it tests.
        experiment_folder: `runs/<experiment>`, which the command line names before a test.
        results: metrics of a test, flat name -> number.
        arrays: what reports are drawn from.
        tables: written as CSV, by name.
        checkpoints: files of the pretrained models that it starts from or compares with, for the run's provenance.
        val_r2_P: R² of each parcel in the last validation, for the figures; None where there is none.
    """

    monitor = ("val/loss", "min")
    fitted = True
    takes_several_atlases = False
    test_options: ClassVar[tuple[str, ...]] = ("baselines", "default_baselines")

    def __init__(self) -> None:
        super().__init__()
        self.experiment_folder = Path("runs")
        self.results: dict[str, float] = {}
        self.arrays: dict[str, NDArray[Any]] = {}
        self.tables: dict[str, pd.DataFrame] = {}
        self.checkpoints: dict[str, Path] = {}
        self.val_r2_P: NDArray[np.float64] | None = None
        self._loss_so_far: Tensor | float = 0.0

    @property
    def datamodule(self) -> CohortDataModule:
        """The data that the Trainer runs this task on.

        Raises:
            ValueError: they have several atlases, which this task does not take.
        """
        data: CohortDataModule = self.trainer.datamodule  # type: ignore[attr-defined]
        if data.several_atlases and not self.takes_several_atlases:
            raise ValueError(
                f"data.several_atlases is for pretraining; {type(self).__name__} takes cohorts of one atlas. Leave it "
                "out, and move a model of several atlases to the one of the cohort: `brainlm move`"
            )
        return data

    def load_pretrained(
        self, checkpoint: Path | str, name: str = "pretrained", compared: Mapping[str, Entry] = COMPARED_DATA
    ) -> Pretrained:
        """Loads a pretrained model that fits the data, and notes its file for the run's provenance.

        Args:
            checkpoint: a file, a run folder or `runs/<experiment>`.
            name: of the model in this run.
            compared: what must match.
        """
        pretrained = load_pretrained(checkpoint, self.datamodule, compared)
        self.checkpoints[name] = pretrained.path
        return pretrained

    def log_loss(self, loss: Tensor, batch_idx: int) -> None:
        """Logs the loss of a whole global batch: the mean over its micro-batches and ranks. All ranks must call it."""
        accumulate = self.trainer.accumulate_grad_batches
        self._loss_so_far = loss.detach() + (self._loss_so_far if batch_idx % accumulate else 0)
        if (batch_idx + 1) % accumulate == 0:
            mean = self.trainer.strategy.reduce(self._loss_so_far / accumulate, reduce_op="mean")
            self.log("train/loss", mean, prog_bar=True)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Logs the gradient's norm, before it is clipped."""
        self.log("train/gradient_norm", gradient_norm(self))
