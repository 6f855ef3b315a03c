"""What forecasts: networks, and the optimum of a simulated cohort. What they are compared with: `baselines`.

Shapes: B windows of a batch, P parcels, T frames of a window, C of its context, H of the horizon.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from brainlm_lightning.simulation.optimum import Optimum
from brainlm_lightning.tasks.compare import Method, Numbers
from brainlm_lightning.tasks.forecast.net import Forecaster, ForecastWindow


@dataclass(frozen=True)
class Past:
    """What a method may look at.

    Attributes:
        context_BPC: of each window, on the scale of the forecast; 0 where unobserved.
        observed_BP: parcels with data.
        horizon_frames: H, frames to forecast.
        scaled_BPC: the same context before it was standardised, for methods that know a recording's own model.
        recording_ids: B names.
        first_frame_B: where in its recording each window starts, in frames.
        standardised: puts scaled values on the scale of the forecast.
    """

    context_BPC: Tensor
    observed_BP: Tensor
    horizon_frames: int
    scaled_BPC: Tensor
    recording_ids: Sequence[str]
    first_frame_B: Tensor
    standardised: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class ForecastLearning:
    """What a method may learn from, and choose by: windows of training and validation subjects.

    Attributes:
        training: yields training windows, recording by recording, named for the progress bar.
        validation: all validation windows.
    """

    training: Callable[[str], Iterable[ForecastWindow]]
    validation: Sequence[ForecastWindow]


class ForecastMethod(Method):
    """Forecasts the frames after a context."""

    def fit(self, learning: ForecastLearning) -> Numbers:
        """See `Method.fit`."""
        return {}

    def forecast(self, past: Past) -> Tensor:
        """Returns the forecast, (B, P, H)."""
        raise NotImplementedError


class NetworkForecast(ForecastMethod):
    """A trained forecaster, as it is."""

    mixed_precision = True

    def __init__(self, net: Forecaster) -> None:
        self.net = net

    def forecast(self, past: Past) -> Tensor:
        """See `ForecastMethod.forecast`."""
        forecast: Tensor = self.net(past.context_BPC, past.observed_BP)
        return forecast


class OptimalForecast(ForecastMethod):
    """The Kalman predictor: it knows how a simulated recording was made, and sees the context alone."""

    def __init__(self, optimum: Optimum) -> None:
        self.optimum = optimum

    def forecast(self, past: Past) -> Tensor:
        """See `ForecastMethod.forecast`."""
        frames_BTP = torch.nn.functional.pad(past.scaled_BPC.mT, (0, 0, 0, past.horizon_frames))
        signal_BPT = frames_BTP.mT  # the memory order of windows: sums are the same to the last bit
        visible_BPT = torch.zeros_like(signal_BPT, dtype=torch.bool)
        visible_BPT[:, :, : -past.horizon_frames] = past.observed_BP[:, :, None]
        filled_BPT = self.optimum.predict(signal_BPT, visible_BPT, past.recording_ids, past.first_frame_B)
        return past.standardised(filled_BPT[:, :, -past.horizon_frames :])
