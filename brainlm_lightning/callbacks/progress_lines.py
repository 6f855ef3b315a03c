"""Progress as lines, for logs: a bar that moves is of no use where there is no terminal."""

import sys
import time
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ProgressBar

FIRST_S, EVERY_S = 20.0, 60.0  # when the first line comes, and the next ones
SHOWN = ("train/loss", "train/r2", "val/loss", "val/r2")


class ProgressLines(ProgressBar):
    """Prints a line every minute: how much is done, how it goes, and how much time is left at this speed."""

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True

    def disable(self) -> None:
        """Prints nothing; Lightning calls it on all ranks but the first."""
        self._enabled = False

    def enable(self) -> None:
        """Prints again."""
        self._enabled = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts the clock; a resumed fit counts from the step that it goes on at."""
        self._start(trainer.global_step)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Prints when it is time."""
        if self._is_due():
            values = {**trainer.callback_metrics, **trainer.logged_metrics}
            told = [f"{name} {float(values[name]):.4g}" for name in SHOWN if name in values]
            self._say(f"step {trainer.global_step}", trainer.global_step, trainer.estimated_stepping_batches, told)

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Says that the methods to compare come first, and starts the clock."""
        super().on_test_start(trainer, pl_module)
        self._start(0)
        self._tested = 0
        self._print("test: first everything that the model is compared with, then the test windows")

    def on_test_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts the clock again, after the methods were fitted."""
        self._start(0)

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Prints when it is time."""
        self._tested += 1
        if self._is_due():
            self._say(f"test batch {self._tested}", self._tested, sum(trainer.num_test_batches), [])

    def _start(self, done: int) -> None:
        self._begin = time.monotonic()
        self._next, self._done_before = self._begin + FIRST_S, done

    def _is_due(self) -> bool:
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + EVERY_S
        return True

    def _say(self, what: str, done: int, total: float, told: list[str]) -> None:
        spent_s = time.monotonic() - self._begin
        fresh = done - self._done_before
        known = fresh > 0 and 0 < total < float("inf")
        of = f" of {total:.0f} ({100 * done / total:.0f} %)" if known else ""
        left = f", {_duration(spent_s / fresh * (total - done))} left" if known else ""
        self._print(f"{what}{of}: {', '.join([*told, f'{_duration(spent_s)} so far'])}{left}")

    def _print(self, line: str) -> None:
        if self._enabled:
            print(line, file=sys.stderr, flush=True)


def _duration(seconds: float) -> str:
    """`40 s`, `12 min` or `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
