"""Fills the run folder ``runs/<experiment>/version_<k>/``: what was run, with which code, and the results."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerFn

from brainlm_lightning.callbacks.checkpoints import BestCheckpoint
from brainlm_lightning.callbacks.divergence import DivergedError
from brainlm_lightning.callbacks.fit_loop import ResumableFitLoop
from brainlm_lightning.callbacks.run_logger import RunLogger
from brainlm_lightning.data.datamodule import CohortDataModule
from brainlm_lightning.data.facts import cohort_facts
from brainlm_lightning.data.left_out import SUFFIX
from brainlm_lightning.data.quality import PAGE
from brainlm_lightning.data.store import Store
from brainlm_lightning.evaluation.names import data_name
from brainlm_lightning.provenance import provenance, sha256_of
from brainlm_lightning.run_folder import (
    COHORTS,
    file_name,
    find_checkpoint,
    read_json,
    write_arrays,
    write_json,
    write_table,
    write_text,
)
from brainlm_lightning.settings import flatten


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
        for store in stores:
            write_cohort(folder_of(trainer), store)

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
        ended = {"ended_utc": datetime.now(UTC).isoformat(timespec="seconds")}
        write_json(folder / "provenance.json", read_json(folder, "provenance.json") | ended)
        write_json(folder / "metrics.json", dict(metrics))
        if isinstance(trainer.logger, RunLogger):
            trainer.logger.log_settings(shown_settings(self.config.as_dict()), metrics)


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


def write_cohort(folder: Path, store: Store) -> None:
    """Writes what a report says of a cohort, and the page on its quality if `prepare` has made one."""
    name = file_name(store.name)
    write_json(folder / COHORTS / f"{name}.json", cohort_facts(store))
    page = store.folder / PAGE
    if page.is_file():
        write_text(folder / COHORTS / f"{name}.html", page.read_text(encoding="utf-8"))


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
