"""Masked pretraining: how much of hidden brain activity follows from the visible?

Paper, sections 3.2, 3.3 and 4.1.

Shapes: B batch, P parcels, T frames, N patches per parcel.
"""

import copy
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from brainlm_lightning.checkpoint.description import KEY, Description, check_format, check_matches, describe
from brainlm_lightning.checkpoint.files import PREFIX
from brainlm_lightning.checkpoint.reference import REFERENCE, training_reference
from brainlm_lightning.checkpoint.start import ModelFactory, build_model, start_model
from brainlm_lightning.checkpoint.start_from import Started, StartFrom, describe_started, started
from brainlm_lightning.data.datamodule import CohortDataModule
from brainlm_lightning.data.windows import Batch
from brainlm_lightning.evaluation.metrics import HiddenSums, r2
from brainlm_lightning.model.mae import MaskedAutoencoder
from brainlm_lightning.model.masked import MaskedModel, reconstruction_loss
from brainlm_lightning.model.masking import Grid, MaskingName, draw_mask
from brainlm_lightning.tasks.compare import (
    Comparison,
    LearningData,
    TestedSet,
    fit_methods,
    parcel_arrays,
    tested_sets,
    with_baselines,
)
from brainlm_lightning.tasks.optimisation import OptimisationPlan, planned
from brainlm_lightning.tasks.reconstruction.baselines import default_baselines
from brainlm_lightning.tasks.reconstruction.compare import ReconstructionScore
from brainlm_lightning.tasks.reconstruction.methods import (
    NetworkReconstruction,
    OptimalReconstruction,
    ReconstructionMethod,
    by_value,
)
from brainlm_lightning.tasks.reconstruction.plan import MaskingPlan, hidings_of, parcel_networks
from brainlm_lightning.tasks.reconstruction.stacked import stacked
from brainlm_lightning.tasks.task import Task


class PretrainTask(Task):
    """Trains a model to reconstruct hidden patches, and tests it beside baselines on the same masks.

    Args:
        model: makes the model for the data's parcels and window.
        masking: what is hidden and scored.
        optimisation: optimiser and learning rate.
        initialisation: name of the model's start, one of its ``starts``; None = its default. A masked autoencoder has
            ``kernel``, from which learning begins at once (`brainlm_lightning.model.kernel_start`), and ``standard``.
        start_from: a pretrained model to start from instead, of this atlas or another; of the same class, or of the one
            that the model grows from. A test then compares the model
            with what it was before its further training, ``mae_as_started``, in place of an untrained one.
        test_ratios: shares hidden at random in `test`.
        test_strategies: further ways of hiding in `test`, with the shares hidden: whole ``parcels`` or ``networks``,
            where nothing can be interpolated in time, or the ``future``.
        baselines: tested beside the model and the default baselines, by name; null leaves a default out.
        default_baselines: False = the given baselines alone.
        stack_with: a smoother among the baselines, ``adaptive_smoother`` for instance. A test then has the weighted
            mean of model and smoother, too, its weight chosen on validation subjects: does either know what the other
            does not?
    """

    monitor = ("val/r2", "max")  # by which the best checkpoint is known
    test_options = (*Task.test_options, "test_ratios", "test_strategies", "stack_with")
    takes_several_atlases = True

    def __init__(
        self,
        model: ModelFactory = MaskedAutoencoder,
        masking: MaskingPlan = MaskingPlan(),
        optimisation: OptimisationPlan = OptimisationPlan(),
        initialisation: str | None = None,
        start_from: StartFrom | None = None,
        test_ratios: tuple[float, ...] = (0.2, 0.5, 0.75, 0.9),
        test_strategies: dict[MaskingName, tuple[float, ...]] | None = None,
        baselines: dict[str, ReconstructionMethod | None] | None = None,
        default_baselines: bool = True,
        stack_with: str | None = None,
    ) -> None:
        super().__init__()
        self.model_factory = model
        self.masking = masking
        self.optimisation = optimisation
        self.initialisation = initialisation
        self.start_from = start_from
        if start_from is not None and initialisation is not None:
            raise ValueError(f"initialisation is {initialisation!r} beside start_from; expected one of the two")
        self.started: tuple[Started, ...] = ()  # in a tuple, so that its model is no part of the checkpoint
        self.hidings = hidings_of(test_ratios, test_strategies or {})
        self.baselines, self.use_defaults, self.stack_with = baselines, default_baselines, stack_with
        self.net: MaskedModel | None = None
        self.network_P: Tensor | None
        self.reference: dict[str, Any] = {}
        self.untrained: tuple[MaskedModel, ...] = ()  # in a tuple, so that it is no part of the checkpoint
        self._running = torch.zeros(4)

    # -- model ----------------------------------------------------------------------------------------------------

    def configure_model(self) -> None:
        """Builds the model for the data at hand; the same seed gives the same weights in `fit` and in `test`."""
        if self.net is not None:
            return
        data = self.datamodule
        self.net = self._initial_model(data).to(self.device)
        network_P = parcel_networks(list(data.atlas.networks))
        self.register_buffer("network_P", network_P, persistent=False)
        whole_1P = torch.ones(1, data.atlas.num_parcels, dtype=torch.bool)
        grid = Grid(whole_1P, self.net.num_patches, network_P)
        self.masking.check_hides(grid)
        for hiding in self.hidings:
            hiding.check_hides(grid)

    def _initial_model(self, data: CohortDataModule) -> MaskedModel:
        if self.start_from is None:
            net, self.initialisation = start_model(self.model_factory, data, self.initialisation, data.seed)
            return net
        found = started(build_model(self.model_factory, data, data.seed), data, self.start_from)
        self.initialisation = found.initialisation["start"]
        self.started = (found,)
        self.checkpoints["start_from"] = found.pretrained.path
        return found.model

    def forward(self, batch: Batch, hidden_BPN: Tensor, wanted_BPN: Tensor | None = None) -> Any:
        """Reconstructs a scaled batch, or the wanted patches of it."""
        assert self.net is not None
        if wanted_BPN is None:
            return self.net(batch["signal_BPT"], hidden_BPN, batch["observed_BP"])
        return self.net.reconstruct(batch["signal_BPT"], hidden_BPN, batch["observed_BP"], wanted_BPN)

    def draw_mask(self, batch: Batch, ratio: float, strategy: MaskingName = "random") -> Tensor:
        """The hidden tokens of a batch, (B, P, N), a function of its keys."""
        assert self.net is not None
        grid = Grid(batch["observed_BP"], self.net.num_patches, self.network_P)
        return draw_mask(strategy, batch["key_B"], ratio, grid)

    def on_fit_start(self) -> None:
        """Describes the training recordings, so that the model can later say what is unlike them."""
        self.reference = training_reference(self.datamodule)

    # -- training -------------------------------------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Mean squared error of one micro-batch, and what the model asks to add to it."""
        strategy, ratio = self.masking.drawn(self.datamodule.seed * 1_000_003 + self.global_step)
        hidden_BPN = self.draw_mask(batch, ratio, strategy)
        wanted_BPN = self.masking.wanted(batch["key_B"], hidden_BPN)
        output = self(batch, hidden_BPN, wanted_BPN)
        observed_BPN = batch["observed_BP"][:, :, None].expand_as(hidden_BPN)
        scored_BPN = hidden_BPN if self.masking.loss_on == "hidden" else observed_BPN
        scored_BPN = scored_BPN if wanted_BPN is None else wanted_BPN
        loss = reconstruction_loss(output.prediction_BPT, batch["signal_BPT"], scored_BPN)
        self._log_training(loss.detach(), batch["signal_BPT"], scored_BPN, batch_idx)
        regularisation: Tensor = output.regularisation
        return loss + regularisation

    def _log_training(self, loss: Tensor, signal_BPT: Tensor, scored_BPN: Tensor, batch_idx: int) -> None:
        """Loss and R² of the whole global batch, over its micro-batches and ranks."""
        scored_BPT = by_value(scored_BPN, signal_BPT.shape[2])
        y_BPT = signal_BPT.where(scored_BPT, 0)
        part = torch.stack([loss, scored_BPT.sum(), y_BPT.sum(), y_BPT.square().sum()])
        accumulate = self.trainer.accumulate_grad_batches
        self._running = part + (self._running if batch_idx % accumulate else 0)
        if (batch_idx + 1) % accumulate == 0:
            loss, n, y, yy = self.trainer.strategy.reduce(self._running, reduce_op="sum")
            loss = loss / (accumulate * self.trainer.world_size)
            self.log("train/loss", loss, prog_bar=True)
            self.log("train/r2", 1 - loss / (yy / n - (y / n) ** 2), prog_bar=True)

    def configure_optimizers(self) -> Any:
        """The planned optimiser with warm-up and cosine over all optimiser steps."""
        return planned(self, self.optimisation, int(self.trainer.estimated_stepping_batches))

    # -- validation -----------------------------------------------------------------------------------------------

    def on_validation_start(self) -> None:
        """Makes room for the sums of every validation recording."""
        rows = torch.from_numpy(self.datamodule.val_rows)
        self.val_rows = rows.to(self.device)
        self.val_sums = HiddenSums(len(rows), self.datamodule.atlas.num_parcels).to(self.device)

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Adds a batch of fixed windows with fixed masks; gives the figures what they show."""
        hidden_BPN = self.draw_mask(batch, self.masking.validation_ratio)
        output = self(batch, hidden_BPN)
        prediction_BPT = output.prediction_BPT
        signal_BPT = batch["signal_BPT"]
        hidden_BPT = by_value(hidden_BPN, signal_BPT.shape[2])
        index_B = torch.searchsorted(self.val_rows, batch["recording_index_B"])
        self.val_sums.update(prediction_BPT, signal_BPT, hidden_BPT, index_B)
        return {"prediction_BPT": prediction_BPT, "hidden_BPT": hidden_BPT, "cls_BD": output.cls_BD}

    def on_validation_epoch_end(self) -> None:
        """R² and error pooled over all hidden values of all ranks; R² of each parcel is kept for the figures."""
        sums_RPK = self.val_sums.compute().cpu().numpy()
        n, _, yy, _, pp, yp = sums_RPK.sum((0, 1))
        self.val_r2_P = r2(sums_RPK.sum(0))
        self.log("val/r2", float(r2(sums_RPK.sum((0, 1)))), prog_bar=True, rank_zero_only=False)
        self.log("val/loss", (yy - 2 * yp + pp) / n, rank_zero_only=False)

    # -- test -----------------------------------------------------------------------------------------------------

    def on_test_start(self) -> None:
        """Fits the baselines on the training subjects and prepares the sums."""
        assert self.net is not None
        name, data = self.net.name, self.datamodule
        before = "as_started" if self.started else "untrained"
        networks = {name: self.net} | {f"{name}_{before}": net.to(self.device).eval() for net in self.untrained}
        methods: dict[str, ReconstructionMethod] = {key: NetworkReconstruction(net) for key, net in networks.items()}
        methods = with_baselines(
            methods, default_baselines(data.window_frames // self.net.num_patches), self.baselines, self.use_defaults
        )
        if self.stack_with is not None:
            methods |= stacked(methods, name, self.stack_with)
        self.chosen = fit_methods(methods, LearningData(data, self.trainer.is_global_zero))
        num_parcels = data.atlas.num_parcels
        score = ReconstructionScore(self.draw_mask, self.hidings, name, num_parcels, self.device)
        sets: list[TestedSet[ReconstructionMethod]] = tested_sets(data, OptimalReconstruction)
        self.comparison = Comparison(methods, sets, score)

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Every method on the same windows and masks."""
        self.comparison.update(batch, dataloader_idx)

    def on_test_epoch_end(self) -> None:
        """Scores with intervals and paired tests, exact over ranks."""
        numbers, arrays = self.comparison.compute()
        data = self.datamodule
        self.arrays = parcel_arrays(data.atlas) | {"windows/tr_s": np.array(data.stores[0].tr_s)} | arrays
        self.results = numbers | self.chosen
        for name in (name for name in self.results if name.endswith("/r2_pooled")):
            self.log(name, self.results[name], rank_zero_only=True)

    # -- checkpoints ----------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Makes the checkpoint describe itself."""
        assert self.net is not None
        checkpoint[KEY] = self._description()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Checks that the checkpoint fits the model and the data; keeps the untrained model as a control."""
        assert self.net is not None
        description = check_format(checkpoint.get(KEY), "the checkpoint")
        check_matches(description, self._description())
        if self.trainer.testing:
            self.untrained = (copy.deepcopy(self.net),)
        count = sum(name.startswith(PREFIX) for name in checkpoint["state_dict"])
        rank_zero_info(f"loaded {count} of {len(self.net.state_dict())} tensors from the checkpoint")

    def _description(self) -> Description:
        assert self.net is not None
        assert self.initialisation is not None
        description = describe(self.net, self.datamodule, self.initialisation)
        if self.reference:
            description[REFERENCE] = self.reference
        return describe_started(description, *self.started) if self.started else description
