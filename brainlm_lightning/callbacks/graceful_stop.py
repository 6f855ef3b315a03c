"""Stops training on SIGTERM or Ctrl-C, with a checkpoint, and a test at once."""

import shlex
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_info

from brainlm_lightning.callbacks.checkpoints import last_checkpoint, save_last

STATUS = {signal.SIGTERM: 143, signal.SIGINT: 130}  # what a shell reports: a scheduler can tell it from success


class GracefulStop(pl.Callback):
    """On SIGTERM or SIGINT, saves ``last.ckpt`` after the current optimiser step and exits with status 143 or 130.

    In a validation of a fit it exits at once: ``last.ckpt`` was written before it, and the resumed run validates
    first. A second signal has its usual effect. The handler only sets a flag, and the ranks agree on it between
    batches. Lightning's own handler communicates with the other ranks from inside the signal handler, which can hang.

    A test has nothing to save: SIGTERM ends it where it is. Lightning's handler would wait for the end of a batch, and
    baselines that are fitted before the first, or solve for minutes, would be killed by a scheduler all the same.
    """

    def __init__(self) -> None:
        self.asked: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}
        self._common_batches = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Installs the signal handlers."""
        self.asked = None
        self._before = {number: signal.signal(number, self._ask) for number in STATUS}

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Lets SIGTERM end the process, from before the baselines are fitted."""
        self._before = {signal.SIGTERM: signal.signal(signal.SIGTERM, signal.SIG_DFL)}

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Puts the signal handler back that was there before."""
        self._put_back()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Puts the signal handlers back that were there before."""
        self._put_back()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Puts the signal handlers back that were there before."""
        self._put_back()

    def _put_back(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = signal.Signals(number)
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stops after a complete optimiser step, on all ranks or none."""
        if (batch_idx + 1) % trainer.accumulate_grad_batches or not self._anyone_asked(trainer):
            return
        path = save_last(trainer)
        trainer.strategy.barrier("graceful stop")
        self._stop(f"saved {path}", path)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Finds how many batches every rank has: they agree on signals in as many."""
        own = torch.tensor(float(sum(trainer.num_val_batches)), device=trainer.strategy.root_device)
        shared = trainer.strategy.reduce(own, reduce_op="min") if trainer.world_size > 1 else own
        self._common_batches = int(shared)

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Stops in a validation between two steps; one in the middle of a step is finished."""
        within_step = (trainer.fit_loop.batch_idx + 1) % trainer.accumulate_grad_batches
        if not self._before or within_step or batch_idx >= self._common_batches or not self._anyone_asked(trainer):
            return
        path = last_checkpoint(trainer)
        self._stop(f"{path} was saved before this validation", path)

    def _anyone_asked(self, trainer: pl.Trainer) -> bool:
        return bool(trainer.strategy.reduce_boolean_decision(self.asked is not None, all=False))

    def _stop(self, saved: str, path: Path) -> None:
        received = self.asked or signal.SIGTERM  # another rank has received it
        rank_zero_info(f"{received.name} received: {saved}; go on with\n{resume_command(path)}")
        sys.exit(STATUS[received])


def resume_command(checkpoint: Path) -> str:
    """This process's command, with the checkpoint to go on from."""
    given, kept = iter(sys.argv[1:]), []
    for argument in given:
        if argument == "--ckpt_path":
            next(given, None)
        elif not argument.startswith("--ckpt_path="):
            kept.append(argument)
    return shlex.join(["python", "-m", "brainlm_lightning.cli", *kept, f"--ckpt_path={checkpoint}"])
