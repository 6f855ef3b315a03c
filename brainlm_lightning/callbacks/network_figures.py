"""Figures of a test of functional networks, in the run folder and in TensorBoard."""

import lightning.pytorch as pl
from lightning.pytorch.loggers import TensorBoardLogger

from brainlm_lightning.callbacks.run_folder import folder_of
from brainlm_lightning.report.network_figures import network_figures


class NetworkFigures(pl.Callback):
    """Draws what a test's metrics and arrays hold, into ``figures/``; nothing for tests of other questions."""

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draws on the first rank."""
        if not trainer.is_global_zero or "networks/names" not in pl_module.arrays:  # type: ignore[operator]
            return
        folder = folder_of(trainer) / "figures"
        for name, figure in network_figures(pl_module.results, pl_module.arrays).items():  # type: ignore[arg-type]
            folder.mkdir(exist_ok=True)
            figure.savefig(folder / f"{name}.png", dpi=120)
            if isinstance(trainer.logger, TensorBoardLogger):
                trainer.logger.experiment.add_figure(name, figure)
