"""Fills the run folder ``runs/<experiment>/version_<k>/``: what was run, with which code, and the results."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_only

from brainlm_lightning.callbacks.checkpoints import BestCheckpoint
from brainlm_lightning.callbacks.divergence import DivergedError
from brainlm_lightning.callbacks.fit_loop import ResumableFitLoop
from brainlm_lightning.data.datamodule import CohortDataModule
from brainlm_lightning.data.left_out import SUFFIX
from brainlm_lightning.evaluation.names import data_name
from brainlm_lightning.provenance import provenance, sha256_of
from brainlm_lightning.run_folder import (
    find_checkpoint,
    next_version_folder,
    read_json,
    remove_if_empty,
    write_arrays,
    write_json,
    write_table,
)
from brainlm_lightning.settings import flatten

SHOWN = ("r2_pooled", "val/r2", "val/loss")  # metrics shown beside the settings in TensorBoard's table


class RunLogger(TensorBoardLogger):
    """A TensorBoard logger that removes its folder if the run fails before anything was written to it.

    Lightning asks loggers for their folder, and opens them, before it sets up data and model.
    """

    @property
    def version(self) -> str:
        """``version_<k>``. The folder is created on first access, so that two runs never share one.

        Only the first rank creates it; Lightning broadcasts paths built from it to the other ranks.
        """
        if self._version is None:
            is_first = rank_zero_only.rank == 0  # type: ignore[attr-defined]
            self._version = next_version_folder(self.root_dir).name if is_first else "version_of_the_first_rank"
        return str(self._version)

    @property
    def experiment(self) -> Any:
        """TensorBoard's writer; its file is opened when the first value is written."""
        return _LazyWriter(self) if self._experiment is None else super().experiment

    def open(self) -> Any:
        """Opens the event file and returns the writer."""
        return super().experiment

    def save(self) -> None:
        """Flushes what was written."""
        if self._experiment is not None:
            super().save()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Closes the writer; removes the folder of a run that failed before writing a file."""
        super().finalize(status)
        if status != "success":
            remove_if_empty(Path(self.log_dir), Path(self.save_dir))


class _LazyWriter:
    """The writer of a logger that has written nothing yet: opens the event file when it is used."""

    def __init__(self, logger: RunLogger) -> None:
        self._logger = logger

    def __getattr__(self, name: str) -> Any:
        return getattr(self._logger.open(), name)


class RunFolder(SaveConfigCallback):
    """Writes ``config.yaml`` and ``provenance.json`` at the start, ``metrics.json`` and ``arrays.npz`` at the end.

    Every command has its own folder, so nothing is ever overwritten. Nothing is written until data, model and
    checkpoint have been accepted.
    """

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Writes nothing yet: the task is set up after the callbacks, and the checkpoint is read even later."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts the folder of a fit, after everything that could refuse it."""
        super().setup(trainer, pl_module, "fit")

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts the folder of a validation that is not part of a fit."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            super().setup(trainer, pl_module, "validate")

    def on_test_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts the folder of a test, after the task's `on_test_start` has loaded what it compares."""
        super().setup(trainer, pl_module, "test")

    def save_config(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Writes ``provenance.json``."""
        stores = trainer.datamodule.stores  # type: ignore[attr-defined]
        cohorts = {
            store.name: {
                "atlas": store.atlas.sha256,
                "made_by": store.metadata["made_by"]["manifest_sha256"],
                "recordings": store.metadata["tables"]["recordings.csv"],
            }
            for store in stores
        }
        checkpoint = self.config.get("ckpt_path")  # the Trainer learns of it later
        run = {
            "seed": self.config.get("seed_everything"),
            "device": trainer.strategy.root_device.type,
            "world_size": trainer.world_size,
            "precision": trainer.precision,
            "checkpoint": str(checkpoint) if checkpoint else None,
            "checkpoint_sha256": sha256_of(Path(checkpoint)) if checkpoint else None,
            "cohorts": cohorts,
            "pretrained": self._pretrained(pl_module, stage),
        }
        write_json(folder_of(trainer) / "provenance.json", provenance(**run))

    def _pretrained(self, pl_module: pl.LightningModule, stage: str) -> dict[str, dict[str, str]]:
        """Path and hash of each model that a fit starts from, or that the task has loaded to compare, by name."""
        given = self.config.model.init_args if stage == "fit" else {}
        named = {"pretrained": given.get("pretrained"), "start_from": (given.get("start_from") or {}).get("checkpoint")}
        used = {name: find_checkpoint(location) for name, location in named.items() if location}
        used |= getattr(pl_module, "checkpoints", {})
        return {name: {"path": str(path), "sha256": sha256_of(path)} for name, path in used.items()}

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes the last training and validation metrics, and the best value of the monitored metric."""
        loop = trainer.fit_loop
        earlier = loop.metrics_so_far if isinstance(loop, ResumableFitLoop) else {}
        metrics = earlier | {name: float(value) for name, value in trainer.callback_metrics.items()}
        for best in (callback for callback in trainer.checkpoint_callbacks if isinstance(callback, BestCheckpoint)):
            if best.best_model_score is not None:
                metrics[f"{best.monitor}_best"] = float(best.best_model_score)
        self._finish(trainer, metrics, {})

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Writes that a fit diverged: it has ended, and its best value is none."""
        if isinstance(exception, DivergedError) and self.already_saved and trainer.is_global_zero:
            monitors = [each.monitor for each in trainer.checkpoint_callbacks if isinstance(each, BestCheckpoint)]
            metrics = {"diverged": 1.0} | {f"{monitor}_best": float("nan") for monitor in monitors}
            write_json(folder_of(trainer) / "metrics.json", metrics)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes the metrics of a validation that is not part of a fit."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._finish(trainer, {name: float(value) for name, value in trainer.callback_metrics.items()}, {})

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes the task's results and tables."""
        if trainer.is_global_zero:
            for name, table in getattr(pl_module, "tables", {}).items():
                write_table(folder_of(trainer) / f"{name}.csv", table)
        numbers = _data_numbers(trainer.datamodule)  # type: ignore[attr-defined]
        self._finish(trainer, pl_module.results | numbers, pl_module.arrays)  # type: ignore[arg-type, operator]
        if trainer.is_global_zero:
            known = read_json(folder_of(trainer), "provenance.json") | {
                "pretrained": self._pretrained(pl_module, "test")
            }
            write_json(folder_of(trainer) / "provenance.json", known)

    def _finish(self, trainer: pl.Trainer, metrics: Mapping[str, float], arrays: Mapping[str, np.ndarray]) -> None:
        if not trainer.is_global_zero:
            return
        folder = folder_of(trainer)
        if arrays:
            write_arrays(folder / "arrays.npz", arrays)
        write_json(folder / "metrics.json", dict(metrics))
        if isinstance(trainer.logger, TensorBoardLogger):
            shown = {f"hparams/{name}": value for name, value in metrics.items() if name.endswith(SHOWN)}
            trainer.logger.log_hyperparams(shown_settings(self.config.as_dict()), shown)


def _data_numbers(data: CohortDataModule) -> dict[str, float]:
    """How many frames of a window are free in each test cohort, as `prepare` measured them; {} in older stores."""
    numbers = {}
    stores = {store.name: store.metadata.get("effective_dimensions") or {} for store in data.stores}
    for cohort in (test_set.name for test_set in data.test_sets):
        free = stores.get(cohort) or stores.get(cohort.removesuffix(SUFFIX), {})
        if free.get("dimensions") is not None:
            numbers[data_name(cohort, "effective_dimensions")] = float(free["dimensions"])
            numbers[data_name(cohort, "dimensions_of_frames")] = float(free["window_frames"])
    return numbers


def folder_of(trainer: pl.Trainer) -> Path:
    """The run folder, on the first rank; `Trainer.log_dir` instead must be called by all ranks together."""
    logger = trainer.logger
    return Path(logger.log_dir if isinstance(logger, TensorBoardLogger) else trainer.default_root_dir)


def shown_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings shown in TensorBoard's table, as plain values; those of the Trainer are left out."""
    flat = flatten({name: value for name, value in config.items() if name not in ("trainer", "config", "ckpt_path")})
    return {
        name.replace("init_args.", ""): value if isinstance(value, bool | int | float | str) else str(value)
        for name, value in flat.items()
        if not name.endswith("class_path")
    }
