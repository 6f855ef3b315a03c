"""Forecasting: how far does the future of brain activity follow from its past?

Paper, section 4.3, table 3 and figure 4.

Shapes: B batch, P parcels, T frames of a window, C of its context, H of the horizon.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from brainlm_lightning.checkpoint.description import (
    COMPARED,
    COMPARED_SERIES,
    KEY,
    Description,
    check_format,
    check_matches,
    describe,
    describe_data,
)
from brainlm_lightning.checkpoint.files import PREFIX
from brainlm_lightning.checkpoint.pretrained import Pretrained, refuse_seen
from brainlm_lightning.checkpoint.registry import build
from brainlm_lightning.data.scaling import ScalingStatistics
from brainlm_lightning.data.windows import Batch
from brainlm_lightning.evaluation.metrics import mse, r2
from brainlm_lightning.tasks.compare import (
    Comparison,
    TestedSet,
    fit_methods,
    parcel_arrays,
    tested_sets,
    with_baselines,
)
from brainlm_lightning.tasks.forecast.baselines import default_baselines
from brainlm_lightning.tasks.forecast.compare import ForecastScore, correct_frames, learning_data
from brainlm_lightning.tasks.forecast.methods import ForecastMethod, NetworkForecast, OptimalForecast
from brainlm_lightning.tasks.forecast.net import (
    Forecaster,
    ForecastPlan,
    ForecastSetting,
    ForecastWindow,
    MAEForecaster,
    Standardise,
)
from brainlm_lightning.tasks.forecast.saved import (
    COMPARED_FORECAST,
    ForecasterFactory,
    ForecasterStart,
    autoencoder_of,
    check_window,
    load_forecaster,
    new_forecaster,
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
            an `MAEForecaster` takes its sizes and weights. Windows may be longer than those of the pretraining, for a
            longer horizon: see `lengthened`.
        start: of an `MAEForecaster` with a checkpoint: ``pretrained`` weights, or the same architecture without them:
            ``as_pretrained``, as before the first step of the pretraining, or at the ``standard`` random start.
        optimisation: optimiser and learning rate.
        compare_with: name of a method -> where its trained forecaster is, or a pretrained model to forecast untuned.
        baselines: tested beside it and the default baselines, by name; null leaves a default out.
        default_baselines: False = the given baselines alone.
    """

    test_options = (*Task.test_options, "compare_with")

    def __init__(
        self,
        forecaster: ForecasterFactory = MAEForecaster,
        horizon_frames: int = 20,
        standardise: Standardise = "context",
        pretrained: str | None = None,
        start: ForecasterStart = "pretrained",
        optimisation: OptimisationPlan = OptimisationPlan(),
        compare_with: dict[str, str] | None = None,
        baselines: dict[str, ForecastMethod | None] | None = None,
        default_baselines: bool = True,
    ) -> None:
        super().__init__()
        self.forecaster_factory = forecaster
        self.plan = ForecastPlan(horizon_frames, standardise)
        self.pretrained = pretrained
        self.start = start
        self.optimisation = optimisation
        self.compare_with = dict(compare_with or {})
        self.baselines, self.use_defaults = baselines, default_baselines
        self.net: Forecaster | None = None
        self.start_from: Pretrained | None = None
        self.pretraining_saw: list[str] = []  # pseudonyms

    # -- model ----------------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Checks the scaling; in a fit, loads the pretrained model, whose statistics the data are scaled by.

        Raises:
            ValueError: the scaling knows the future; the pretrained model does not fit or has seen test subjects.
        """
        data = self.datamodule
        if self.plan.standardise == "training" and data.scaling in FUTURE_AWARE:
            raise ValueError(
                f"data.scaling {data.scaling} takes its statistics from the whole recording, the future "
                "included: choose standardise: context, which undoes it, or data.scaling: robust"
            )
        if self.pretrained is None or self.trainer.state.fn != TrainerFn.FITTING:
            return
        self.start_from = self.load_pretrained(self.pretrained, compared=COMPARED_SERIES)
        data.adopt_statistics(self.start_from.statistics)
        if self.start == "pretrained":
            check_window(self.start_from, data.window_frames, data.window_frames - self.plan.horizon_frames)
            refuse_seen(self.start_from.about, self.start_from.path, self._tested(), "of the test sets")
            seen = self.start_from.about["subjects"].values()
            self.pretraining_saw = sorted({digest for split in seen for digest in split})

    def configure_model(self) -> None:
        """Builds the forecaster that is to be trained; one that is tested is built as its checkpoint says."""
        if self.net is not None or self.trainer.state.fn != TrainerFn.FITTING:
            return
        data, horizon_frames = self.datamodule, self.plan.horizon_frames
        setting = ForecastSetting.of(describe_data(data), horizon_frames)
        if self.start_from is not None:
            setting = replace(setting, autoencoder=autoencoder_of(self.start_from, self.start, data))
        self.net = new_forecaster(self.forecaster_factory, setting, data.seed).to(self.device)
        rank_zero_info(
            f"{self.net.name}: {horizon_frames} frames ({horizon_frames * data.stores[0].tr_s:g} s) from "
            f"{data.window_frames - horizon_frames} ({self.plan.standardise} statistics)"
        )

    def _tested(self) -> pd.DataFrame:
        """The recordings of all test sets."""
        rows = np.concatenate([test_set.rows for test_set in self.datamodule.test_sets])
        return self.datamodule.recordings.table.iloc[rows]

    def forward(self, window: ForecastWindow) -> Tensor:
        """Forecasts the horizon of windows, (B, P, H)."""
        assert self.net is not None
        forecast_BPH: Tensor = self.net(window.context_BPC, window.observed_BP)
        return forecast_BPH

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
            loss = self.net.training_loss(self.plan.cut(batch))
            if not bool(loss.isfinite()):
                raise ArithmeticError(f"the loss is {loss.item()}")
        self.log_loss(loss, batch_idx)
        return loss

    def configure_optimizers(self) -> Any:
        """The planned optimiser with warm-up and cosine over all optimiser steps."""
        return planned(self, self.optimisation, int(self.trainer.estimated_stepping_batches))

    # -- validation -----------------------------------------------------------------------------------------------

    def on_validation_start(self) -> None:
        """Makes room for the sums of every validation recording, by parcel and by frame."""
        num_parcels = self.datamodule.atlas.num_parcels
        self.val_sums = HorizonSums(1, num_parcels, self.plan.horizon_frames, self.device)

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Adds a batch of fixed windows; gives the figures what they show."""
        window = self.plan.cut(batch)
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
        assert self.net is not None
        data, name = self.datamodule, self.net.name
        networks = {name: self.net} | {key: self._load(key, path) for key, path in self.compare_with.items()}
        if len(networks) <= len(self.compare_with):
            raise ValueError(f"compare_with names a model {name!r}, the name of the forecaster itself; choose another")
        methods: dict[str, ForecastMethod] = {key: NetworkForecast(net) for key, net in networks.items()}
        methods = with_baselines(methods, default_baselines(), self.baselines, self.use_defaults)
        self.chosen = fit_methods(methods, learning_data(self.plan, data, self.trainer.is_global_zero))
        score = ForecastScore(self.plan, data, name, self.device)
        sets: list[TestedSet[ForecastMethod]] = tested_sets(data, OptimalForecast)
        self.comparison = Comparison(methods, sets, score, correct_frames)

    def _load(self, name: str, checkpoint: str) -> Forecaster:
        """A forecaster to compare with, which has seen no test subject."""
        assert self.net is not None
        net, about, self.checkpoints[name] = load_forecaster(checkpoint, self.description(self.net))
        refuse_seen(about, self.checkpoints[name], self._tested(), f"on which {name} is to be tested")
        return net.to(self.device)

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Every method on the same windows."""
        with self.naming(batch):
            self.comparison.update(batch, dataloader_idx)

    def on_test_epoch_end(self) -> None:
        """Scores with intervals and paired tests, exact over ranks."""
        numbers, arrays = self.comparison.compute()
        self.results = numbers | self.chosen
        self.arrays = parcel_arrays(self.datamodule.atlas) | arrays

    # -- checkpoints ----------------------------------------------------------------------------------------------

    def description(self, net: Forecaster) -> Description:
        """All that is needed to use the forecaster again."""
        about = describe(net, self.datamodule, self.start)
        forecast = asdict(self.plan)
        return {**about, "forecast": forecast, "subjects": about["subjects"] | {"pretraining": self.pretraining_saw}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Makes the checkpoint describe itself."""
        assert self.net is not None
        checkpoint[KEY] = self.description(self.net)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Builds the forecaster that the checkpoint describes, where there is none, and checks that it fits the data.

        Raises:
            ValueError: it was made for other data, another scaling, horizon or standardisation; or is no forecaster.
        """
        about = check_format(checkpoint.get(KEY), "the checkpoint")
        if self.net is None:
            self.net = build(about, Forecaster, "the checkpoint").to(self.device)
            self.datamodule.adopt_statistics(ScalingStatistics.from_json(about["scaling"]["statistics"]))
        self.pretraining_saw = about["subjects"]["pretraining"]
        check_matches(about, self.description(self.net), COMPARED | COMPARED_FORECAST)
        count = sum(name.startswith(PREFIX) for name in checkpoint["state_dict"])
        rank_zero_info(f"loaded {count} of {len(self.net.state_dict())} tensors from the checkpoint")
