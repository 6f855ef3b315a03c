"""How fast training goes, and how much of the time it waits for data."""

import time
from collections import deque
from typing import Any

import lightning.pytorch as pl

REMEMBERED = 50  # batches that a figure is taken over


class Throughput(pl.Callback):
    """Logs ``speed/windows_per_second`` over all ranks and ``speed/data_wait_share``, over the last fifty batches.

    Waiting is the time from the end of a batch to the start of the next. The device is not synchronised for it: over
    fifty batches it keeps pace with the host.
    """

    def __init__(self) -> None:
        self._spent: deque[tuple[float, float, int]] = deque(maxlen=REMEMBERED)  # seconds, of them waiting, windows

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts the clock; a training that goes on in mid-epoch starts no epoch."""
        self._batch_end = time.perf_counter()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leaves what was between the epochs out of the time."""
        self._batch_end = time.perf_counter()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """The wait for this batch is over."""
        self._batch_start = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Counts its windows and logs."""
        now = time.perf_counter()
        windows = len(batch["signal_BPT"]) * trainer.world_size
        self._spent.append((now - self._batch_end, self._batch_start - self._batch_end, windows))
        self._batch_end = now
        seconds, waiting, windows = (sum(column) for column in zip(*self._spent, strict=True))
        pl_module.log("speed/windows_per_second", windows / seconds, rank_zero_only=True)
        pl_module.log("speed/data_wait_share", waiting / seconds, rank_zero_only=True)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leaves validation out of the training's time."""
        self._batch_end = time.perf_counter()
