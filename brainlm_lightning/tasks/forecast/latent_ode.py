"""Latent ODE (Chen et al. 2018; Rubanova et al. 2019; paper, section 4.3): a latent state that flows, seen by parcels.

A recurrent network reads the context and gives a distribution of the latent state at its end (there, and not at the
window's start, so that the solver follows the horizon alone); the state flows along a learnt field and parcels see it
linearly. Training draws the state and pays for its distance from the prior; forecasts take its mean.

Shapes: B batch, P parcels, C context frames, H horizon frames, Z latent dimensions.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from brainlm_lightning.tasks.forecast.net import Forecaster, ForecastSetting, ForecastWindow, forecast_loss
from brainlm_lightning.tasks.forecast.ode import SolverConfig, VectorField, full_precision, integrate


@dataclass(frozen=True)
class LatentODEConfig(SolverConfig):
    """Sizes; the other attributes are those of `SolverConfig`.

    Attributes:
        latent: dimensions of the state.
        recurrent: width of the network that reads the context.
        hidden: width of the field's hidden layer.
        kl_weight: of the distance from the prior N(0, 1); 1 is the evidence bound for values of noise variance 1.
    """

    latent: int = 32
    recurrent: int = 64
    hidden: int = 128
    kl_weight: float = 1.0


class LatentODE(Forecaster):
    """Reads the context, follows its latent state, and shows it to the parcels."""

    name = "latent_ode"
    config_type = LatentODEConfig

    def __init__(self, setting: ForecastSetting, config: LatentODEConfig | None = None) -> None:
        super().__init__()
        self.setting, self.config = setting, config or LatentODEConfig()
        num_parcels, latent = setting.geometry.num_parcels, self.config.latent
        self.reader = nn.GRU(num_parcels, self.config.recurrent, batch_first=True)
        self.posterior = nn.Linear(self.config.recurrent, 2 * latent)
        self.field = VectorField(latent, self.config.hidden)
        self.emission = nn.Linear(latent, num_parcels)

    def forward(self, context_BPC: Tensor, observed_BP: Tensor) -> Tensor:
        """See `Forecaster.forward`; a function of the context alone: the state's mean is followed."""
        return self._emit(self._posterior(context_BPC)[0])

    def training_loss(self, window: ForecastWindow) -> Tensor:
        """Squared error of a drawn state's forecast, and the distance from the prior per forecast value."""
        mean_BZ, log_variance_BZ = self._posterior(window.context_BPC)
        drawn_BZ = mean_BZ + torch.randn_like(mean_BZ) * (log_variance_BZ / 2).exp()
        kl_B = (mean_BZ.square() + log_variance_BZ.exp() - log_variance_BZ - 1).sum(dim=1) / 2
        # The bound is Σ(y − ŷ)² / 2 + KL for noise of variance 1: over the mean squared error KL weighs 2 / count.
        count_B = window.observed_BP.sum(dim=1).clamp(min=1) * self.setting.horizon_frames
        divergence: Tensor = self.config.kl_weight * (2 * kl_B / count_B).mean()
        return forecast_loss(self._emit(drawn_BZ), window) + divergence

    def _posterior(self, context_BPC: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the latent state at the context's end, each (B, Z)."""
        states_BCD, _ = self.reader(context_BPC.transpose(1, 2))
        mean_BZ, log_variance_BZ = full_precision(self.posterior(states_BCD[:, -1])).chunk(2, dim=1)
        return mean_BZ, log_variance_BZ.clamp(-10, 10)  # exp stays finite

    def _emit(self, state_BZ: Tensor) -> Tensor:
        states_HBZ = integrate(self.field, state_BZ, self.setting.horizon_frames, self.config)
        emitted_HBP: Tensor = self.emission(states_HBZ)
        return emitted_HBP.permute(1, 2, 0)
