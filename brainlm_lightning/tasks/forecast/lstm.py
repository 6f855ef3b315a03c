"""LSTM over frames (paper, section 4.3): reads the context frame by frame, then goes on from its own forecasts.

Shapes: B batch, P parcels, C context frames, H horizon frames, D width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from brainlm_lightning.tasks.forecast.net import Forecaster, ForecastSetting


@dataclass(frozen=True)
class LSTMConfig:
    """Sizes.

    Attributes:
        hidden: width of each layer's state.
        layers: recurrent layers.
    """

    hidden: int = 128
    layers: int = 1


class LSTM(Forecaster):
    """Frames of P values in, the next frame out; trained on its own forecasts fed back, as it is used."""

    name = "lstm"
    config_type = LSTMConfig

    def __init__(self, setting: ForecastSetting, config: LSTMConfig | None = None) -> None:
        super().__init__()
        self.setting, self.config = setting, config or LSTMConfig()
        num_parcels = setting.geometry.num_parcels
        self.recurrent = nn.LSTM(num_parcels, self.config.hidden, self.config.layers, batch_first=True)
        self.next_frame = nn.Linear(self.config.hidden, num_parcels)

    def forward(self, context_BPC: Tensor, observed_BP: Tensor) -> Tensor:
        """See `Forecaster.forward`."""
        output_BCD, state = self.recurrent(context_BPC.transpose(1, 2))
        frame_BP = self.next_frame(output_BCD[:, -1])
        forecast = [frame_BP]
        for _ in range(self.setting.horizon_frames - 1):
            known_BP = frame_BP.where(observed_BP, 0)  # as in the context
            output_BCD, state = self.recurrent(known_BP[:, None], state)
            frame_BP = self.next_frame(output_BCD[:, -1])
            forecast.append(frame_BP)
        return torch.stack(forecast, dim=2)
