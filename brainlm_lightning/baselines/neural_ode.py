"""Neural ODE (Chen et al. 2018; paper, section 4.3): parcels flow on from the last frame along a learnt field.

Shapes: B batch, P parcels, C context frames, H horizon frames.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from brainlm_lightning.baselines.ode import SolverConfig, VectorField, full_precision, integrate
from brainlm_lightning.model.forecast import Forecaster, ForecastSetting


@dataclass(frozen=True)
class NeuralODEConfig(SolverConfig):
    """Sizes; the other attributes are those of `SolverConfig`.

    Attributes:
        hidden: width of the field's hidden layer.
        extra: further dimensions of the state (Dupont et al. 2019): one frame alone says nothing of where it moves.
        seen_frames: last frames of the context that these are a linear map of.
    """

    hidden: int = 128
    extra: int = 32
    seen_frames: int = 10


class NeuralODE(Forecaster):
    """The state is the last frame's parcels and a summary of the frames before it; its parcels are the forecast."""

    name = "neural_ode"
    config_type = NeuralODEConfig

    def __init__(self, setting: ForecastSetting, config: NeuralODEConfig | None = None) -> None:
        super().__init__()
        self.setting, self.config = setting, config or NeuralODEConfig()
        self.num_parcels = setting.geometry.num_parcels
        self.seen_frames = min(self.config.seen_frames, setting.context_frames)
        self.summary = nn.Linear(self.num_parcels * self.seen_frames, self.config.extra)
        self.field = VectorField(self.num_parcels + self.config.extra, self.config.hidden)

    def forward(self, context_BPC: Tensor, observed_BP: Tensor) -> Tensor:
        """See `Forecaster.forward`."""
        summary_BE = full_precision(self.summary(context_BPC[:, :, -self.seen_frames :].flatten(1)))
        start_BD = torch.cat([context_BPC[:, :, -1], summary_BE], dim=1)
        states_HBD = integrate(self.field, start_BD, self.setting.horizon_frames, self.config)
        return states_HBD[:, :, : self.num_parcels].permute(1, 2, 0)
