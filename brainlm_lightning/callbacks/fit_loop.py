"""A fit loop that remembers what was still due when its checkpoint was written."""

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.loops.fit_loop import _FitLoop
from torch import Tensor


class ResumableFitLoop(_FitLoop):
    """Lightning's fit loop, which resumes with the validation that a checkpoint was written before.

    ``last.ckpt`` is written after a step and before the validation of that step. Lightning counts the validation as
    done: a run that is killed in between would never choose its best checkpoint by it, nor stop early. The metrics so
    far are kept, too, for a run that is killed after its last step.

    Args:
        trainer: whose loop this replaces; limits of steps and epochs are taken over.
    """

    def __init__(self, trainer: pl.Trainer) -> None:
        replaced = trainer.fit_loop
        super().__init__(trainer, replaced.min_epochs, replaced.max_epochs)
        self.epoch_loop = replaced.epoch_loop
        self.metrics_so_far: dict[str, float] = {}
        self._validation_is_due = False

    @property
    def skip(self) -> bool:
        """True if there is nothing to do; a resumed fit that is past its last step still validates and ends."""
        if self.trainer.limit_train_batches == 0:
            return True
        return not self.is_resuming and super().skip

    def validation_is_due(self) -> bool:
        """True between the end of a step and the beginning of its validation."""
        done: Any = self.epoch_loop.batch_progress.total
        if not self.trainer.training or done.completed == done.processed or self._data_fetcher is None:
            return False
        return self.epoch_loop._should_check_val_fx(self._data_fetcher)

    def on_run_start(self) -> None:
        """Validates after the hooks of the start, where callbacks take over the best checkpoint so far."""
        super().on_run_start()
        if self._validation_is_due:
            self._validation_is_due = False
            self._validate()

    def _validate(self) -> None:
        """What the epoch's loop does after a step."""
        trainer, loop = self.trainer, self.epoch_loop.val_loop
        loop.restarting = False
        trainer.validating = True
        loop.run()
        trainer.training = True

    def on_save_checkpoint(self) -> dict[str, Any]:
        """Adds what is due, and the metrics so far."""
        now = {name: float(value) for name, value in self.trainer.callback_metrics.items() if _is_number(value)}
        state = {"validation_is_due": self.validation_is_due(), "metrics": self.metrics_so_far | now}
        return super().on_save_checkpoint() | state

    def on_load_checkpoint(self, state_dict: dict[str, Any]) -> None:
        """Takes both over; checkpoints of earlier versions have neither."""
        super().on_load_checkpoint(state_dict)
        self._validation_is_due = state_dict.get("validation_is_due", False)
        self.metrics_so_far = state_dict.get("metrics", {})


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) or (isinstance(value, Tensor) and value.numel() == 1)
