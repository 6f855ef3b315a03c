"""Makes dropout the same in a resumed training as in an uninterrupted one."""

from typing import Any

import lightning.pytorch as pl
import torch

from brainlm_lightning.model.masking import counter_noise


class StepSeed(pl.Callback):
    """Seeds torch's generators before each micro-batch, from the seed, optimiser step, micro-batch and rank.

    Checkpoints then need no generator state, which differs between ranks and devices, and numbers drawn by loaders or
    in validation have no effect.
    """

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Sets the seed of this micro-batch."""
        seed: int = trainer.datamodule.seed  # type: ignore[attr-defined]
        part = batch_idx % trainer.accumulate_grad_batches * trainer.world_size + trainer.global_rank
        key = torch.tensor([seed * 1_000_003 + trainer.global_step])
        torch.manual_seed(counter_noise(key, 2 + part)[0, -1].item())  # the first number draws the masking ratio
