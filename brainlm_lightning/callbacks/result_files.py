"""What a test has found as figures, pages and tables, in the run folder; the figures in TensorBoard, too."""

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.loggers import TensorBoardLogger

from brainlm_lightning.callbacks.run_folder import folder_of
from brainlm_lightning.report.files import write_files


class ResultFiles(pl.Callback):
    """Writes them at the end of a test; `report` can make them again."""

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draws on the first rank."""
        if not trainer.is_global_zero:
            return
        task: Any = pl_module
        for name, figure in write_files(folder_of(trainer), task.results, task.arrays):
            if isinstance(trainer.logger, TensorBoardLogger):
                trainer.logger.experiment.add_figure(name, figure, trainer.global_step)
