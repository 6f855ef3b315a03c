"""What forecasts look like: error by frame (the paper's figure 4), forecasts of a few parcels, R² on the brain."""

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.figure import Figure

from brainlm_lightning.callbacks.run_folder import folder_of
from brainlm_lightning.report.figures import parcel_map
from brainlm_lightning.report.forecast import conditions, forecast_curves, forecast_figure

CURVES = ("ar", "var", "optimum")  # drawn beside the forecaster where they are there


class ForecastFigures(pl.Callback):
    """Writes the figures of a forecasting test as PNG into its run folder, and to TensorBoard."""

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draws."""
        metrics: Any = getattr(pl_module, "results", {})
        arrays: Any = getattr(pl_module, "arrays", {})
        places = conditions(metrics)
        if not trainer.is_global_zero or not places:
            return
        self._write(trainer, "forecast_by_frame", forecast_figure(metrics, arrays))
        xyz_mm = trainer.datamodule.stores[0].atlas.xyz_mm  # type: ignore[attr-defined]
        for place, (name, *others) in places.items():
            cohort, shown = place.split("/")[1], [name, *(other for other in others if other in CURVES)]
            self._write(trainer, f"forecast_curves_{cohort}", forecast_curves(arrays, place, shown))
            brain = parcel_map(arrays[f"{place}/{name}/r2_P"], xyz_mm, f"R² of the forecast by {name}, {cohort}", "R²")
            self._write(trainer, f"forecast_r2_{cohort}", brain)

    def _write(self, trainer: pl.Trainer, name: str, figure: Figure) -> None:
        folder = folder_of(trainer) / "figures"
        folder.mkdir(exist_ok=True)
        figure.savefig(folder / f"{name}.png", dpi=110)
        if isinstance(trainer.logger, TensorBoardLogger):
            trainer.logger.experiment.add_figure(name, figure, trainer.global_step)
