"""Checkpoints that are whole or not there, and when they are written."""

import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from brainlm_lightning.tasks.checkpoint import load_plain


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target, then renames: a killed process leaves the old checkpoint or the new one, whole.

    Lightning's own stages in the temporary folder, which may be another file system, where a move is no rename.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Saves durably."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        with part.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)

    def load_checkpoint(
        self, path: str | Path, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Loads tensors and plain values, and nothing else: other objects could run code.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is damaged or holds other objects.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"no checkpoint at {path}")
        return load_plain(path, map_location or "cpu")


def checkpoint_callbacks(every_n_train_steps: int) -> list[Callback]:
    """``best.ckpt`` by validation R²; ``last.ckpt`` every so many steps and at the end of each epoch."""
    common: dict[str, Any] = {"auto_insert_metric_name": False, "enable_version_counter": False}
    best = ModelCheckpoint(filename="best", monitor="val/r2", mode="max", **common)
    by_steps = ModelCheckpoint(filename="last", every_n_train_steps=every_n_train_steps, **common)
    by_epoch = ModelCheckpoint(filename="last", every_n_epochs=1, save_on_train_epoch_end=True, **common)
    return [best, by_steps, by_epoch]
