"""Figures of training in TensorBoard: reconstructions, R² on the brain, and embeddings of windows with phenotypes."""

from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.loggers import TensorBoardLogger

from brainlm_lightning.callbacks.run_logger import RunLogger
from brainlm_lightning.report.figures import parcel_map, reconstruction_figure

RECONSTRUCTION = {"prediction_BPT", "hidden_BPT"}  # what a validation step returns of a reconstruction
PROJECTED_WINDOWS = 1000  # more make the projector slow


class TensorBoardFigures(pl.Callback):
    """Adds figures after each validation, and CLS embeddings for the projector at the end of the fit."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Says which curves share a chart."""
        if isinstance(trainer.logger, RunLogger):
            trainer.logger.log_layout()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Drops what the previous validation collected."""
        self._shown: dict[str, np.ndarray] | None = None
        self._cls: list[torch.Tensor] = []
        self._rows: list[int] = []

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keeps the first window, and the CLS tokens of the first thousand, if the task reconstructs."""
        if not trainer.is_global_zero or not isinstance(outputs, dict):
            return
        if self._shown is None and outputs.keys() >= RECONSTRUCTION:
            parts = {"signal_BPT": batch["signal_BPT"], **outputs}  # a task may rescale the signal
            self._shown = {name: value[0].float().cpu().numpy() for name, value in parts.items()}
        if "cls_BD" in outputs and len(self._rows) < PROJECTED_WINDOWS:
            self._cls.append(outputs["cls_BD"].float().cpu())
            self._rows += batch["recording_index_B"].tolist()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Adds the figures of this validation."""
        writer = _writer(trainer)
        if writer is None or self._shown is None or trainer.sanity_checking:
            return
        data = trainer.datamodule  # type: ignore[attr-defined]
        labels = [str(label) for label in data.atlas.parcels["label"]]
        shown, hidden_PT = self._shown, self._shown["hidden_BPT"].astype(bool)
        figure = reconstruction_figure(
            shown["signal_BPT"], shown["prediction_BPT"], hidden_PT, labels, data.stores[0].tr_s
        )
        writer.add_figure("reconstruction", figure, trainer.global_step)
        r2_P = getattr(pl_module, "val_r2_P", None)
        if r2_P is not None and not np.isnan(r2_P).all():
            brain = parcel_map(r2_P, data.atlas.xyz_mm, "R² of hidden patches, validation", "R²")
            writer.add_figure("parcel_r2", brain, trainer.global_step)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes the CLS tokens of the last validation for the projector."""
        writer = _writer(trainer)
        if writer is None or not getattr(self, "_rows", None):
            return
        table = trainer.datamodule.recordings.table.iloc[self._rows]  # type: ignore[attr-defined]
        hidden = ("shard", "shard_row", "first_frame", "sha256", "store", "row", "problems")
        columns = [name for name in table.columns if name not in hidden]
        metadata = table[columns].astype(str).replace(r"[\t\n]", " ", regex=True).to_numpy().tolist()
        writer.add_embedding(torch.cat(self._cls), metadata, metadata_header=columns, tag="cls")


def _writer(trainer: pl.Trainer) -> Any:
    """TensorBoard's writer on the first rank, otherwise None."""
    logger = trainer.logger
    return logger.experiment if isinstance(logger, TensorBoardLogger) and trainer.is_global_zero else None
