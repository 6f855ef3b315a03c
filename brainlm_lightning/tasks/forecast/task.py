"""Forecasting: how far does the future of brain activity follow from its past?

Paper, section 4.3, table 3 and figure 4.

Shapes: B batch, P parcels, T frames of a window, C of its context, H of the horizon.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from brainlm_lightning.checkpoint import description as self_describing
from brainlm_lightning.checkpoint.pretrained import load_pretrained, refuse_seen
from brainlm_lightning.data.scaling import ScalingStatistics
from brainlm_lightning.data.windows import Batch
from brainlm_lightning.evaluation.metrics import mse, r2
from brainlm_lightning.tasks.forecast.compare import ForecastTest, default_forecast_baselines
from brainlm_lightning.tasks.forecast.methods import ForecastBaseline
from brainlm_lightning.tasks.forecast.net import Forecaster, ForecastWindow, MAEForecaster, Standardise, cut
from brainlm_lightning.tasks.forecast.saved import (
    ForecasterFactory,
    ForecasterStart,
    autoencoder_of,
    build_forecaster,
    new_forecaster,
    setting_of,
)
from brainlm_lightning.tasks.forecast.score import HorizonSums
from brainlm_lightning.tasks.optimisation import OptimisationPlan, planned
from brainlm_lightning.tasks.task import Task

FUTURE_AWARE = ("recording_zscore", "robust_centred")  # scaling recipes with statistics of the whole recording


class ForecastTask(Task):
    """Trains a forecaster of the last frames of each window, and tests it beside others on the same windows.

    Args:
        forecaster: makes the forecaster for the data's parcels, window and horizon.
        horizon_frames: H, frames to forecast; the context is what is left of ``data.window_frames``.
        standardise: ``context``, each parcel of each window by the mean and standard deviation of its context, or
            ``training``, as the data are scaled by statistics of the training subjects (the paper's ``robust``).
        pretrained: checkpoint of a masked autoencoder, see `find_checkpoint`: the data are scaled as its own were, and
            an `MAEForecaster` takes its sizes and weights.
        start: of an `MAEForecaster` with a checkpoint: ``pretrained`` weights, or the same architecture without them:
            ``as_pretrained``, as before the first step of the pretraining, or at the ``standard`` random start.
        optimisation: optimiser and learning rate.
        compare_with: name of a method -> where its trained forecaster is, or a pretrained model to forecast untuned.
        baselines: what else is tested; None = zero, persistence, AR and VAR.
    """

    def __init__(
        self,
        forecaster: ForecasterFactory = MAEForecaster,
        horizon_frames: int = 20,
        standardise: Standardise = "context",
        pretrained: str | None = None,
        start: ForecasterStart = "pretrained",
        optimisation: OptimisationPlan = OptimisationPlan(),
        compare_with: dict[str, str] | None = None,
        baselines: dict[str, ForecastBaseline] | None = None,
    ) -> None:
        super().__init__()
        self.forecaster_factory = forecaster
        self.horizon_frames = horizon_frames
        self.standardise = standardise
        self.pretrained = pretrained
        self.start = start
        self.optimisation = optimisation
        self.compare_with = dict(compare_with or {})
        self.baselines = default_forecast_baselines() if baselines is None else baselines
        self.net: Forecaster | None = None
        self.pretraining_saw: list[str] = []  # pseudonyms

    # -- model ----------------------------------------------------------------------------------------------------

    def configure_model(self) -> None:
        """Builds the forecaster that is to be trained; one that is tested is built as its checkpoint says."""
        if self.net is not None:
            return
        if self.standardise == "training" and self.datamodule.scaling in FUTURE_AWARE:
            raise ValueError(
                f"data.scaling {self.datamodule.scaling} takes its statistics from the whole recording, the future "
                "included: choose standardise: context, which undoes it, or data.scaling: robust"
            )
        if self.trainer.state.fn == TrainerFn.FITTING:
            self.net = self._new().to(self.device)
            rank_zero_info(
                f"{self.net.name}: {self.horizon_frames} frames ({self.horizon_frames * self.tr_s:g} s) from "
                f"{self.datamodule.window_frames - self.horizon_frames} ({self.standardise} statistics)"
            )

    def _new(self) -> Forecaster:
        data = self.datamodule
        autoencoder = None
        if self.pretrained is not None:
            pretrained = load_pretrained(self.pretrained, data)
            autoencoder = autoencoder_of(pretrained, self.start, data)
            if self.start == "pretrained":
                tested = {str(name) for test in data.test_sets for name in self.subjects(test.rows)}
                refuse_seen(pretrained, tested, "of the test sets")
                self.pretraining_saw = sorted({seen for of in pretrained.about["subjects"].values() for seen in of})
        setting = setting_of(self_describing.describe_data(data), self.horizon_frames)
        return new_forecaster(self.forecaster_factory, replace(setting, autoencoder=autoencoder), data.seed)

    def forward(self, window: ForecastWindow) -> Tensor:
        """Forecasts the horizon of windows, (B, P, H)."""
        assert self.net is not None
        return self.net(window.context_BPC, window.observed_BP)

    def cut(self, batch: Batch) -> ForecastWindow:
        """A scaled batch as context and future."""
        return cut(batch["signal_BPT"], batch["scale_BP"], batch["observed_BP"], self.horizon_frames, self.standardise)

    @contextmanager
    def naming(self, batch: Batch) -> Iterator[None]:
        """Names the windows of a batch on which a forecaster fails.

        Raises:
            ValueError: it failed.
        """
        try:
            yield
        except ArithmeticError as error:
            ids = self.datamodule.recordings.table["recording_id"]
            last = self.datamodule.window_frames - 1
            pairs = zip(batch["recording_index_B"].tolist(), batch["start_B"].tolist(), strict=True)
            windows = ", ".join(f"{ids.iloc[row]} (frames {first} to {first + last})" for row, first in pairs)
            assert self.net is not None
            raise ValueError(
                f"{self.net.name} failed at step {self.global_step}: {error}; in the batch of {windows}. "
                "Lower the learning rate, clip gradients (trainer.gradient_clip_val), or change the solver"
            ) from error

    # -- training -------------------------------------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The forecaster's loss of one micro-batch."""
        assert self.net is not None
        with self.naming(batch):
            loss = self.net.training_loss(self.cut(batch))
            if not bool(loss.isfinite()):
                raise ArithmeticError(f"the loss is {loss.item()}")
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=len(batch["start_B"]))
        return loss

    def configure_optimizers(self) -> Any:
        """The planned optimiser with warm-up and cosine over all optimiser steps."""
        return planned(self, self.optimisation, int(self.trainer.estimated_stepping_batches))

    # -- validation -----------------------------------------------------------------------------------------------

    def on_validation_start(self) -> None:
        """Makes room for the sums of every validation recording, by parcel and by frame."""
        num_parcels = self.datamodule.stores[0].atlas.num_parcels
        self.val_sums = HorizonSums(1, num_parcels, self.horizon_frames, self.device)

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Adds a batch of fixed windows; gives the figures what they show."""
        window = self.cut(batch)
        with self.naming(batch):
            forecast_BPH = self(window).float()
        index_B = torch.zeros_like(batch["recording_index_B"])
        self.val_sums.update(forecast_BPH, window.future_BPH, window.observed_BP, index_B)
        future_T = torch.arange(self.datamodule.window_frames, device=self.device) >= window.context_BPC.shape[2]
        return {
            "signal_BPT": torch.cat([window.context_BPC, window.future_BPH], dim=2),
            "prediction_BPT": torch.cat([window.context_BPC, forecast_BPH], dim=2),
            "hidden_BPT": window.observed_BP[:, :, None] & future_T,
        }

    def on_validation_epoch_end(self) -> None:
        """Error and R² pooled over all validation windows of all ranks; the error of the first and last frame."""
        (sums_PK,), (sums_HK,) = self.val_sums.compute()
        mse_H = mse(sums_HK)
        self.val_r2_P = r2(sums_PK)
        self.log("val/loss", float(mse(sums_PK.sum(0))), prog_bar=True, rank_zero_only=False)
        self.log("val/r2", float(r2(sums_PK.sum(0))), prog_bar=True, rank_zero_only=False)
        self.log("val/mse_first_frame", float(mse_H[0]), rank_zero_only=False)
        self.log("val/mse_last_frame", float(mse_H[-1]), rank_zero_only=False)

    # -- test -----------------------------------------------------------------------------------------------------

    def on_test_start(self) -> None:
        """Loads and fits what the forecaster is compared with, and prepares the sums."""
        self.comparison = ForecastTest(self)

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Every method on the same windows."""
        with self.naming(batch):
            self.comparison.update(batch, dataloader_idx)

    def on_test_epoch_end(self) -> None:
        """Scores with intervals and paired tests, exact over ranks."""
        self.results, self.arrays = self.comparison.compute()

    # -- what others need to know ---------------------------------------------------------------------------------

    @property
    def tr_s(self) -> float:
        """Seconds between frames."""
        return float(self.datamodule.stores[0].tr_s)

    def subjects(self, rows: Any) -> Any:
        """The subjects of rows of the table of recordings."""
        return self.datamodule.recordings.table["subject_id"].iloc[rows].to_numpy(str)

    # -- checkpoints ----------------------------------------------------------------------------------------------

    def description(self, net: Forecaster) -> self_describing.Description:
        """All that is needed to use the forecaster again."""
        about = self_describing.describe(net, self.datamodule, self.start)
        forecast = {"horizon_frames": self.horizon_frames, "standardise": self.standardise}
        return {**about, "forecast": forecast, "subjects": about["subjects"] | {"pretraining": self.pretraining_saw}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Makes the checkpoint describe itself."""
        assert self.net is not None
        checkpoint[self_describing.KEY] = self.description(self.net)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Builds the forecaster that the checkpoint describes, where there is none, and checks that it fits the data.

        Raises:
            ValueError: it was made for other data, another scaling, horizon or standardisation; or is no forecaster.
        """
        about = self_describing.check_format(checkpoint.get(self_describing.KEY), "the checkpoint")
        if self.net is None:
            self.net = build_forecaster(about, "the checkpoint").to(self.device)
            self.datamodule.adopt_statistics(ScalingStatistics.from_json(about["scaling"]["statistics"]))
        self.pretraining_saw = about["subjects"]["pretraining"]
        self_describing.check_matches(about, self.description(self.net))
        count = sum(name.startswith(self_describing.PREFIX) for name in checkpoint["state_dict"])
        rank_zero_info(f"loaded {count} of {len(self.net.state_dict())} tensors from the checkpoint")
