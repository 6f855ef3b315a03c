"""Figures of a clinical test, in the run folder and in TensorBoard."""

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.loggers import TensorBoardLogger

from brainlm_lightning.callbacks.run_folder import folder_of
from brainlm_lightning.report.clinical import clinical_results
from brainlm_lightning.report.clinical_figures import clinical_figures


class ClinicalFigures(pl.Callback):
    """Draws what a test's metrics and arrays hold; nothing for tests of other questions."""

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draws."""
        arrays: Any = getattr(pl_module, "arrays", {})
        places = [result.place for result in clinical_results(getattr(pl_module, "results", {}))]
        if not trainer.is_global_zero or not places:
            return
        folder = folder_of(trainer) / "figures"
        folder.mkdir(exist_ok=True)
        for name, figure in clinical_figures(arrays, places).items():
            figure.savefig(folder / f"{name}.png", dpi=130)
            if isinstance(trainer.logger, TensorBoardLogger):
                trainer.logger.experiment.add_figure(name, figure)
