"""Tables, figures and pages of a test's contrasts, in the run folder and in TensorBoard."""

import re
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
from lightning.pytorch.loggers import TensorBoardLogger

from brainlm_lightning.callbacks.run_folder import folder_of
from brainlm_lightning.report.attention import matrix_figures, matrix_pages
from brainlm_lightning.report.brain import Z_LABEL, brain_figures, brain_page, map_names, parcel_table, shown_maps


class BrainFigures(pl.Callback):
    """Writes `tables/`, `figures/` and `pages/` at the end of a test that contrasted groups."""

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draws on the first rank, where there is something to draw."""
        arrays: Any = getattr(pl_module, "arrays", {})
        metrics: Any = getattr(pl_module, "results", {})
        if not trainer.is_global_zero or "parcels/label" not in arrays:
            return
        folder, logger = folder_of(trainer), trainer.logger
        for name, figure in (*brain_figures(arrays, metrics), *matrix_figures(arrays)):
            path = _file(folder / "figures", name, "png")
            figure.savefig(path, dpi=130)
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_figure(name, figure)
        for place in map_names(metrics):
            name = "/".join(place.split("/")[2:])
            parcel_table(arrays, place).to_csv(_file(folder / "tables", name, "csv"), index=False)
            if place in shown_maps(metrics) and np.isfinite(arrays[f"{place}/z_P"]).any():
                title = ", ".join(place.split("/")[1:]).replace("_", " ")
                page = brain_page(arrays[f"{place}/z_P"], arrays, title, Z_LABEL.replace("\n", " "))
                _file(folder / "pages", name, "html").write_text(page, encoding="utf-8")

        for name, page in matrix_pages(arrays):
            _file(folder / "pages", name, "html").write_text(page, encoding="utf-8")


def _file(folder: Path, name: str, suffix: str) -> Path:
    """`<contrast>/<map>` as a file's name; contrasts are named by users."""
    folder.mkdir(exist_ok=True)
    return folder / (re.sub(r"[^\w.+-]", "_", name) + f".{suffix}")
