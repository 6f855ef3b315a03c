"""Stops a training that diverges, before anything that is not finite is written."""

from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import Logger
from torch import Tensor
from torch.distributed.tensor import DTensor

from brainlm_lightning.data.windows import Batch
from brainlm_lightning.tasks.optimisation import gradient_norm

SHOWN = 8  # recordings named in a message


class DivergedError(ValueError):
    """A loss, a gradient, a weight or a validation is not finite."""


class StopAtDivergence(pl.Callback):
    """Raises `DivergedError` at the first loss, gradient or validation that is not finite, on all ranks.

    Args:
        monitor: the validation metric by which the best checkpoint is chosen.
    """

    def __init__(self, monitor: str) -> None:
        self.monitor = monitor
        self._batch: Batch | None = None

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Keeps the batch, to name its recordings."""
        self._batch = batch

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        """Checks the loss."""
        self._check(trainer, bool(loss.isfinite().all()), f"the loss is {float(loss.detach()):g}")

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Checks the gradients: with one that is not finite the step would spoil every weight."""
        norm = gradient_norm(pl_module)
        self._check(trainer, bool(norm.isfinite()), f"the gradient's norm is {float(norm):g}")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Checks the metric before a checkpoint is chosen by it."""
        value = trainer.callback_metrics.get(self.monitor)
        if trainer.sanity_checking or value is None or bool(value.isfinite()):
            return
        raise DivergedError(
            f"{self.monitor} is {float(value):g} after step {trainer.global_step}, so no checkpoint can be chosen by "
            f"it. {_kept(trainer)}Lower the learning rate; if it is so from the first validation on, look for "
            "recordings without data (python -m brainlm_lightning.cli verify STORE)"
        )

    def _check(self, trainer: pl.Trainer, finite: bool, what: str) -> None:
        if trainer.strategy.reduce_boolean_decision(finite, all=True):
            return
        raise DivergedError(
            f"{what} at step {trainer.global_step}"
            + ("" if finite else f", in the batch of {self._recordings(trainer)}")
            + f". {_kept(trainer)}Lower the learning rate, clip gradients (trainer.gradient_clip_val), or raise the "
            "warm-up (optimisation.warmup_fraction)"
        )

    def _recordings(self, trainer: pl.Trainer) -> str:
        assert self._batch is not None
        ids = trainer.datamodule.recordings.table["recording_id"]  # type: ignore[attr-defined]
        names = sorted({str(ids.iloc[row]) for row in self._batch["recording_index_B"].tolist()})
        return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def check_weights(trainer: pl.Trainer) -> None:
    """Checks that weights are finite, before a checkpoint replaces one whose are. All ranks must call it.

    Raises:
        DivergedError: they are not.
    """
    state = {name: _own(value) for name, value in trainer.lightning_module.state_dict().items()}
    wrong = [name for name, value in state.items() if value.is_floating_point() and not bool(value.isfinite().all())]
    if not trainer.strategy.reduce_boolean_decision(not wrong, all=True):
        which = f"{wrong[0]} first of {len(wrong)}" if wrong else "those of another device"
        raise DivergedError(
            f"weights are not finite after step {trainer.global_step}: {which}. "
            f"{_kept(trainer)}Lower the learning rate or clip gradients (trainer.gradient_clip_val)"
        )


def _own(value: Tensor) -> Tensor:
    """This device's shard of a tensor, or all of it where it is not sharded."""
    return value.to_local() if isinstance(value, DTensor) else value


def _kept(trainer: pl.Trainer) -> str:
    logger: Logger | None = trainer.logger
    return "" if logger is None else f"Checkpoints written before this are kept in {trainer.log_dir}. "
