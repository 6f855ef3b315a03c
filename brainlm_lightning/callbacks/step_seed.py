"""Dropout that a resumed training draws as an uninterrupted one would."""

from typing import Any

import lightning.pytorch as pl
import torch

from brainlm_lightning.model.masking import counter_noise


class StepSeed(pl.Callback):
    """Seeds torch's own generators before each micro-batch: a function of seed, optimiser step, micro-batch and rank.

    A checkpoint then needs to keep no generator's state, of which every rank and every device would have another, and
    what loaders or validation drew from it makes no difference.
    """

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seeds."""
        seed: int = trainer.datamodule.seed  # type: ignore[attr-defined]
        part = batch_idx % trainer.accumulate_grad_batches * trainer.world_size + trainer.global_rank
        key = torch.tensor([seed * 1_000_003 + trainer.global_step])
        torch.manual_seed(counter_noise(key, 2 + part)[0, -1].item())  # the first number is that of the masking ratio
