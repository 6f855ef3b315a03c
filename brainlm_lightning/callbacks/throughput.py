"""Training speed, and the share of time spent waiting for data."""

import time
from collections import deque
from typing import Any

import lightning.pytorch as pl

REMEMBERED = 50  # batches to average over


class Throughput(pl.Callback):
    """Logs ``speed/windows_per_second`` (all ranks) and ``speed/data_wait_share`` over the last fifty batches.

    Waiting is the time from the end of one batch to the start of the next. The device is not synchronised: over fifty
    batches it keeps pace with the host.
    """

    def __init__(self) -> None:
        self._spent: deque[tuple[float, float, int]] = deque(maxlen=REMEMBERED)  # seconds, seconds of waiting, windows

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts the clock; a fit resumed within an epoch never calls `on_train_epoch_start`."""
        self._batch_end = time.perf_counter()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Excludes the time between epochs."""
        self._batch_end = time.perf_counter()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Notes when the batch arrived."""
        self._batch_start = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Counts the windows of the batch and logs."""
        now = time.perf_counter()
        windows = len(batch["signal_BPT"]) * trainer.world_size
        self._spent.append((now - self._batch_end, self._batch_start - self._batch_end, windows))
        self._batch_end = now
        seconds, waiting, windows = (sum(column) for column in zip(*self._spent, strict=True))
        pl_module.log("speed/windows_per_second", windows / seconds, rank_zero_only=True)
        pl_module.log("speed/data_wait_share", waiting / seconds, rank_zero_only=True)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Excludes validation."""
        self._batch_end = time.perf_counter()
