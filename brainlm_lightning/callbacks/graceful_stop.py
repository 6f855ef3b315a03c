"""A training that is told to stop stops between two steps, with a checkpoint."""

import signal
import sys
from types import FrameType
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_info

from brainlm_lightning.callbacks.checkpoints import save_last

TERMINATED = 143  # what a shell reports for SIGTERM: a scheduler can tell it from success


class GracefulStop(pl.Callback):
    """On SIGTERM finishes the optimiser step at hand, saves ``last.ckpt`` and exits with status 143.

    The handler only sets a flag; the ranks agree on it between steps. Lightning's own handler talks to the other ranks
    from within the signal, which can hang.
    """

    def __init__(self) -> None:
        self.asked = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Takes the signal over."""
        self.asked = False
        signal.signal(signal.SIGTERM, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stops, on all ranks or none, where no gradient is half accumulated."""
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        if not trainer.strategy.reduce_boolean_decision(self.asked, all=False):
            return
        path = save_last(trainer)
        trainer.strategy.barrier("graceful stop")
        rank_zero_info(f"told to stop: saved {path}; go on with --ckpt_path {path}")
        sys.exit(TERMINATED)
