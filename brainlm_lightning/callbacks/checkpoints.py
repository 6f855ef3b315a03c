"""When checkpoints are written, and how: atomically."""

import shutil
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_info

from brainlm_lightning.atomic import remove_stale_parts, replacing
from brainlm_lightning.callbacks.divergence import StopAtDivergence, check_weights
from brainlm_lightning.callbacks.fit_loop import ResumableFitLoop
from brainlm_lightning.checkpoint.files import load_plain
from brainlm_lightning.run_folder import LAST


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target, then renames: a killed process leaves either the old checkpoint or the new one.

    Lightning's own plugin stages files in the temporary folder. On another file system, moving them is not atomic.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Saves atomically, and waits until the file is on disk."""
        with replacing(Path(path)) as file:
            torch.save(checkpoint, file)

    def load_checkpoint(
        self, path: str | Path, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Loads tensors and plain values only; unpickling other objects could run code.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is damaged, or holds other objects.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"no checkpoint at {path}")
        return load_plain(path, map_location or "cpu")


class BestCheckpoint(ModelCheckpoint):
    """Writes ``best.ckpt``. A resumed run has a folder of its own, and starts with the best checkpoint so far.

    Args:
        monitor: the validation metric.
        mode: ``max`` or ``min``: whether high or low values are better.
    """

    def __init__(self, monitor: str, mode: str) -> None:
        super().__init__(
            filename="best", monitor=monitor, mode=mode, auto_insert_metric_name=False, enable_version_counter=False
        )
        self._earlier: dict[str, Any] | None = None

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keeps the state of the resumed run until `on_train_start`, where the path of that run is known."""
        self._earlier = state_dict

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Copies the best checkpoint so far, which lies beside the resumed one."""
        super().on_train_start(trainer, pl_module)
        if self._earlier is None or self._earlier["best_model_score"] is None:
            return
        source, target = Path(str(trainer.ckpt_path)).with_name("best.ckpt"), Path(str(self.dirpath), "best.ckpt")
        if not trainer.strategy.broadcast(source.is_file()):
            rank_zero_info(f"{source} does not exist: the best checkpoint is chosen from here on")
            return
        if trainer.is_global_zero:
            _copy(source, target)
        places = {"best_model_path": str(target), "kth_best_model_path": str(target), "dirpath": self.dirpath}
        best = {"best_k_models": {str(target): self._earlier["best_model_score"]}}
        super().load_state_dict({**self._earlier, **places, **best})


class LastCheckpoint(Callback):
    """Writes ``last.ckpt`` every few optimiser steps, before a validation, and at the last step of epoch and training.

    Always within an epoch, never after its end: resumed from a checkpoint written at the very end of an epoch,
    Lightning 2.6 runs one batch, counts it as an epoch and skips the rest.

    Args:
        every_n_steps: optimiser steps between two checkpoints within an epoch.
    """

    def __init__(self, every_n_steps: int) -> None:
        self.every_n_steps = every_n_steps

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Copies the checkpoint that is resumed, so that the folder is complete even if no step follows.

        Half-written checkpoints of earlier runs of the experiment are removed.
        """
        target = last_checkpoint(trainer)
        if not trainer.is_global_zero:
            return
        if trainer.ckpt_path:
            _copy(Path(str(trainer.ckpt_path)), target)
        for folder in target.parent.parent.parent.glob("version_*/checkpoints"):
            remove_stale_parts(folder)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Writes the checkpoint when it is due."""
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        is_last = trainer.is_last_batch or trainer.global_step == trainer.max_steps
        if is_last or trainer.global_step % self.every_n_steps == 0 or _validation_is_due(trainer):
            save_last(trainer)


def _validation_is_due(trainer: pl.Trainer) -> bool:
    """True before a validation: a run that is killed in it then begins with it when it is resumed."""
    loop = trainer.fit_loop
    return isinstance(loop, ResumableFitLoop) and loop.validation_is_due()


def _copy(source: Path, target: Path) -> None:
    """Copies a file atomically; nothing where both are the same."""
    if source.resolve() == target.resolve():
        return
    with source.open("rb") as original, replacing(target) as file:
        shutil.copyfileobj(original, file)


def last_checkpoint(trainer: pl.Trainer) -> Path:
    """The path of ``last.ckpt`` in the run folder. All ranks must call it."""
    return Path(trainer.log_dir or ".") / LAST


def save_last(trainer: pl.Trainer) -> Path:
    """Writes ``last.ckpt`` in the run folder and returns its path. All ranks must call it.

    Raises:
        DivergedError: a weight is not finite; the checkpoint before stays.
    """
    check_weights(trainer)
    path = last_checkpoint(trainer)
    trainer.save_checkpoint(path)
    return path


def checkpoint_callbacks(every_n_steps: int, monitor: str, mode: str) -> list[Callback]:
    """Callbacks for ``best.ckpt``, by the task's metric, and ``last.ckpt``, to resume from; both of finite weights."""
    return [StopAtDivergence(monitor), BestCheckpoint(monitor, mode), LastCheckpoint(every_n_steps)]
