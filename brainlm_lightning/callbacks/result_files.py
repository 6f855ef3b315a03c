"""The results of a test as figures, HTML pages and CSV tables in the run folder; figures and tables in TensorBoard."""

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerFn

from brainlm_lightning.callbacks.run_folder import folder_of
from brainlm_lightning.report.files import write_files
from brainlm_lightning.report.tables import report_tables


class ResultFiles(pl.Callback):
    """Writes the files after a test, once all other results are on disk; `report --files` can make them again."""

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Draws on the first rank.

        Here and not in `on_test_end`: by now every callback has had that one and `metrics.json` is written, so a run
        that is stopped while it draws keeps its numbers.
        """
        if stage != TrainerFn.TESTING or not trainer.is_global_zero:
            return
        task: Any = pl_module
        for name, figure in write_files(folder_of(trainer), task.results, task.arrays):
            if isinstance(trainer.logger, TensorBoardLogger):
                trainer.logger.experiment.add_figure(name, figure, trainer.global_step)
        if isinstance(trainer.logger, TensorBoardLogger) and task.results:
            for table in report_tables(task.results):
                trainer.logger.experiment.add_text(f"results/{table.title}", table.markdown(), trainer.global_step)
