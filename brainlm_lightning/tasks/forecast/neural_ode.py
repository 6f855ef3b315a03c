"""Neural ODE (Chen et al. 2018; paper, section 4.3): parcels flow on from the last frames along a learnt field.

The state has a dimension for each parcel and some more (Dupont et al. 2019), for one frame says nothing of where it
moves. It starts as a linear map of the last frames and not as the last frame itself, whose noise a continuous flow
could only shed over time.

Shapes: B batch, P parcels, C context frames, H horizon frames.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from brainlm_lightning.tasks.forecast.net import Forecaster, ForecastSetting
from brainlm_lightning.tasks.forecast.ode import SolverConfig, VectorField, full_precision, integrate


@dataclass(frozen=True)
class NeuralODEConfig(SolverConfig):
    """Sizes; the other attributes are those of `SolverConfig`.

    Attributes:
        hidden: width of the field's hidden layer.
        extra: dimensions of the state beside the parcels.
        seen_frames: last frames of the context that the state is a linear map of.
    """

    hidden: int = 128
    extra: int = 32
    seen_frames: int = 10


class NeuralODE(Forecaster):
    """Follows a state that starts from the last frames; its parcels are the forecast, 0 before training."""

    name = "neural_ode"
    config_type = NeuralODEConfig

    def __init__(self, setting: ForecastSetting, config: NeuralODEConfig | None = None) -> None:
        super().__init__()
        self.setting, self.config = setting, config or NeuralODEConfig()
        self.num_parcels = setting.geometry.num_parcels
        self.seen_frames = min(self.config.seen_frames, setting.context_frames)
        self.start = nn.Linear(self.num_parcels * self.seen_frames, self.num_parcels + self.config.extra, bias=False)
        nn.init.zeros_(self.start.weight[: self.num_parcels].detach())
        self.field = VectorField(self.num_parcels + self.config.extra, self.config.hidden)

    def forward(self, context_BPC: Tensor, observed_BP: Tensor) -> Tensor:
        """See `Forecaster.forward`."""
        start_BD = full_precision(self.start(context_BPC[:, :, -self.seen_frames :].flatten(1)))
        states_HBD = integrate(self.field, start_BD, self.setting.horizon_frames, self.config)
        return states_HBD[:, :, : self.num_parcels].permute(1, 2, 0)
