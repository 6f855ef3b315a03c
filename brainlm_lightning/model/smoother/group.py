"""What training recordings say of a Gaussian over parcels and frames, and the Gaussian that settings make of it.

Shapes: P parcels, T frames.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from brainlm_lightning.evaluation.covariance import ScaledRecording, lagged_moments
from brainlm_lightning.evaluation.tuning import Axis, Setting
from brainlm_lightning.model.smoother.kronecker import KroneckerGaussian, Spectrum

# White noise, as a share of the mean variance: band-passed signals want next to none, others a third. Below the least,
# which is what a band-pass leaves of the stopband, R² rises by 0.001 to 0.007 more, at two to four times the cost.
NUGGETS = (1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.03, 0.1, 0.3)
RIDGES = (0.001, 0.01, 0.03, 0.1)  # shares of the mean variance, added to the diagonal of the parcels' covariance


def linear_axes(
    nuggets: Sequence[float] = NUGGETS, ridges: Sequence[float] = RIDGES, times: Sequence[float] = (0.0, 1.0)
) -> list[Axis]:
    """The settings of a `GroupGaussian` to choose from; values of ``stationary`` are named by ``times``."""
    least = min(NUGGETS[0], *nuggets)
    return [Axis("nugget", tuple(nuggets), least), Axis("ridge", tuple(ridges)), Axis("stationary", tuple(times), 0, 1)]


@dataclass(frozen=True)
class GroupMoments:
    """Moments of training recordings, float64.

    Attributes:
        mean_P: mean of each parcel.
        covariance_PP: of parcels at one frame.
        window_TT: second moment of windows in time, which knows of the edges that filters leave; mean diagonal 1.
        stationary_TT: the same as a function of the lag alone.
    """

    mean_P: Tensor
    covariance_PP: Tensor
    window_TT: Tensor
    stationary_TT: Tensor

    @classmethod
    def of(cls, recordings: Callable[[], Iterable[ScaledRecording]], num_frames: int) -> "GroupMoments":
        """Reads the recordings twice.

        Args:
            recordings: scaled ones, begun anew at each call.
            num_frames: T.

        Raises:
            ValueError: no recording has a window's frames.
        """
        mean_P, covariance_PP = lagged_moments(recordings())
        window_TT = time_moment(recordings(), mean_P, covariance_PP.diagonal().sqrt(), num_frames)
        return cls(mean_P, covariance_PP, window_TT, stationary(window_TT))


class GroupGaussian:
    """Gaussians with the covariance parcels ⊗ time of training recordings; each setting makes another.

    Args:
        moments: of training recordings.
    """

    def __init__(self, moments: GroupMoments) -> None:
        self.mean_P = moments.mean_P
        self._parcels = Spectrum.of(moments.covariance_PP)
        self._times = Spectrum.of(moments.window_TT), Spectrum.of(moments.stationary_TT)

    def model(self, setting: Setting, device: torch.device) -> KroneckerGaussian:
        """The Gaussian of a setting.

        Args:
            setting: ``ridge`` and ``nugget``, shares of the mean variance added to the diagonal of the parcels'
                covariance and as white noise; ``stationary``, 1 where the covariance in time is one of the lag alone.
            device: where it is.
        """
        scale = float(self._parcels.values.mean())
        parcels = Spectrum(self._parcels.values + setting["ridge"] * scale, self._parcels.vectors).to(device)
        time = self._times[int(setting["stationary"])].to(device)
        return KroneckerGaussian.of(parcels, time, setting["nugget"] * scale)


def time_moment(recordings: Iterable[ScaledRecording], mean_P: Tensor, spread_P: Tensor, num_frames: int) -> Tensor:
    """Second moment over time of windows of training recordings, parcels counting alike; its mean diagonal is 1.

    Args:
        recordings: scaled.
        mean_P: of each parcel, subtracted.
        spread_P: standard deviation, divided by; parcels with 0 are left out.
        num_frames: T.

    Returns:
        (T, T) float64.

    Raises:
        ValueError: no recording has a window's frames.
    """
    total_TT = torch.zeros(num_frames, num_frames, dtype=torch.float64)
    for values_PT, observed_P in recordings:
        used_P = torch.as_tensor(observed_P) & (spread_P > 0)
        known_PT = (torch.as_tensor(values_PT).double()[used_P] - mean_P[used_P, None]) / spread_P[used_P, None]
        for start in window_starts(known_PT.shape[1], num_frames):
            window_PT = known_PT[:, start : start + num_frames]
            total_TT += window_PT.mT @ window_PT
    if not total_TT.diagonal().mean() > 0:
        raise ValueError(f"no training recording has a window of {num_frames} frames: give longer recordings")
    return total_TT / total_TT.diagonal().mean()


def window_starts(num_frames: int, window_frames: int) -> list[int]:
    """First frames of as few windows as hold all frames of a recording, evenly spread; none where it is too short."""
    room = num_frames - window_frames
    return [] if room < 0 else np.linspace(0, room, 1 + -(-room // window_frames)).round().astype(int).tolist()


def stationary(moment_TT: Tensor) -> Tensor:
    """The mean along each diagonal: what the moment says of each lag, wherever in the window it is."""
    num_frames = len(moment_TT)
    by_lag = torch.stack([moment_TT.diagonal(lag).mean() for lag in range(num_frames)])
    frame = torch.arange(num_frames)
    return by_lag[(frame[:, None] - frame).abs()]
