"""Stops training on SIGTERM, between two steps and with a checkpoint."""

import signal
import sys
from types import FrameType
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_info

from brainlm_lightning.callbacks.checkpoints import save_last

TERMINATED = 143  # what a shell reports for SIGTERM: a scheduler can tell it from success


class GracefulStop(pl.Callback):
    """On SIGTERM, finishes the current optimiser step, saves ``last.ckpt`` and exits with status 143.

    The handler only sets a flag, and the ranks agree on it between steps. Lightning's own handler communicates with the
    other ranks from inside the signal handler, which can hang.
    """

    def __init__(self) -> None:
        self.asked = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Installs the signal handler."""
        self.asked = False
        signal.signal(signal.SIGTERM, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stops after a complete optimiser step, on all ranks or none."""
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        if not trainer.strategy.reduce_boolean_decision(self.asked, all=False):
            return
        path = save_last(trainer)
        trainer.strategy.barrier("graceful stop")
        rank_zero_info(f"SIGTERM received: saved {path}; go on with --ckpt_path {path}")
        sys.exit(TERMINATED)
