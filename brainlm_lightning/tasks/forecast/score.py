"""Forecast scores by parcel and by frame of the horizon, each from sums that are exact over batches and ranks.

Shapes: B batch, R recordings, U subjects, P parcels, H frames of the horizon, K sums.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from brainlm_lightning.evaluation.metrics import SCORES, HiddenSums
from brainlm_lightning.evaluation.resampling import percentile_interval, subject_bootstrap, sum_by_subject

Floats = NDArray[np.float64]


class HorizonSums:
    """Sums over the horizon of every recording, once for each parcel and once for each frame.

    Args:
        num_recordings: rows of the results.
        num_parcels: P.
        horizon_frames: H.
        device: where the forecasts are.
    """

    def __init__(self, num_recordings: int, num_parcels: int, horizon_frames: int, device: torch.device) -> None:
        self.by_parcel = HiddenSums(num_recordings, num_parcels).to(device)
        self.by_frame = HiddenSums(num_recordings, horizon_frames).to(device)

    def update(self, forecast_BPH: Tensor, future_BPH: Tensor, observed_BP: Tensor, index_B: Tensor) -> None:
        """Adds a batch; unobserved parcels are not scored, and ``index_B`` counts in the recordings."""
        scored_BPH = observed_BP[:, :, None].expand_as(future_BPH)
        self.by_parcel.update(forecast_BPH, future_BPH, scored_BPH, index_B)
        self.by_frame.update(forecast_BPH.mT, future_BPH.mT, scored_BPH.mT, index_B)

    def compute(self) -> tuple[Floats, Floats]:
        """The sums of all ranks, (R, P, K) and (R, H, K)."""
        return self.by_parcel.compute().cpu().numpy(), self.by_frame.compute().cpu().numpy()


def frame_scores(
    sums_RHK: ArrayLike,
    subject_of_recording: Sequence[str] | NDArray[np.str_],
    num_resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Floats]:
    """R², Pearson's r and MSE at each frame of a horizon, pooled over recordings and parcels.

    Args:
        sums_RHK: six sums of each recording at each frame.
        subject_of_recording: (R,) subject ids.
        num_resamples: draws of the subjects.
        seed: of the draws.

    Returns:
        By score (3, H): the estimate, and the ends of its 95 % interval from resampling subjects.
    """
    per_subject = sum_by_subject(sums_RHK, subject_of_recording)
    found = {}
    for name, score in SCORES.items():
        draws = subject_bootstrap(score, per_subject, num_resamples, seed)
        found[name] = np.stack([score(per_subject.sum(0)), *percentile_interval(draws, len(per_subject))])
    return found
