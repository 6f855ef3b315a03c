"""What the tasks of all questions share."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pandas as pd
import torch
from torch import nn

from brainlm_lightning.data.datamodule import CohortDataModule


class Task(pl.LightningModule):
    """A question to a cohort, asked with `fit` and `test`, or with `test` alone.

    Attributes:
        monitor: validation metric by which the best checkpoint is known, and which end of it is good.
        fitted: whether `test` needs a checkpoint of `fit`.
        sweep_folder: folder of the experiment, which the command line names before a test.
        results: metrics of a test, flat name -> number.
        arrays: what reports are drawn from.
        tables: written as CSV, by name.
    """

    monitor = ("val/loss", "min")
    fitted = True

    def __init__(self) -> None:
        super().__init__()
        self.sweep_folder = Path("runs")
        self.results: dict[str, float] = {}
        self.arrays: dict[str, Any] = {}
        self.tables: dict[str, pd.DataFrame] = {}

    @property
    def datamodule(self) -> CohortDataModule:
        """The data that the Trainer runs this task on."""
        return self.trainer.datamodule  # type: ignore[attr-defined]

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Logs the gradient's norm, before it is clipped."""
        gradients = [parameter.grad for parameter in self.parameters() if parameter.grad is not None]
        self.log("train/gradient_norm", nn.utils.get_total_norm(gradients))
