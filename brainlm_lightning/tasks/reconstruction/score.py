"""Scores that are reconstruction's own: by distance to what is visible, and without static levels.

Shapes: B windows of a batch, P parcels, T frames, R recordings, U subjects, Q classes of distance, K = 6 sums, A draws.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from brainlm_lightning.evaluation.metrics import NUM_SUMS, ROUNDING, HiddenSums, r2
from brainlm_lightning.evaluation.names import ENDS
from brainlm_lightning.evaluation.resampling import Statistic, percentile_interval, subject_bootstrap, sum_by_subject

Floats = NDArray[np.float64]

FIRST_FRAMES = (1, 2, 4, 7, 11)  # of each class of distance, in frames
CLASSES = ("1", "2-3", "4-6", "7-10", "11+", "none")


def distance_class(visible_BPT: Tensor) -> Tensor:
    """How far the nearest visible frame of the same parcel is, (B, P, T) int64 numbers of `CLASSES`.

    Where a frame is visible itself the number means nothing; ``none``: no frame of the parcel's window is visible.
    """
    num_frames = visible_BPT.shape[2]
    frame_T = torch.arange(num_frames, device=visible_BPT.device)
    before = frame_T.where(visible_BPT, -num_frames).cummax(2).values
    after = frame_T.where(visible_BPT, 2 * num_frames).flip(2).cummin(2).values.flip(2)
    distance = torch.minimum(frame_T - before, after - frame_T)
    first = torch.tensor(FIRST_FRAMES[1:], device=distance.device)
    number = torch.bucketize(distance, first, right=True)
    return number.where(distance < num_frames, len(CLASSES) - 1)


class DistanceSums:
    """Six sums over the hidden values of every recording and class of distance; see `HiddenSums`.

    Args:
        num_recordings: R.
        device: where the windows are.
    """

    def __init__(self, num_recordings: int, device: torch.device) -> None:
        self._sums = HiddenSums(num_recordings * len(CLASSES), 1).to(device)

    def update(self, prediction_BPT: Tensor, signal_BPT: Tensor, class_BPT: Tensor, index_B: Tensor) -> None:
        """Adds a batch.

        Args:
            prediction_BPT: any floating dtype.
            signal_BPT: the truth, the same scaling.
            class_BPT: of each hidden value; −1 where a value is not scored.
            index_B: the recording of each window.
        """
        scored_BPT = class_BPT >= 0
        row = (index_B[:, None, None] * len(CLASSES) + class_BPT)[scored_BPT]
        y, y_hat = (values_BPT[scored_BPT][:, None, None] for values_BPT in (signal_BPT, prediction_BPT))
        self._sums.update(y_hat, y, torch.ones_like(y, dtype=torch.bool), row)

    def compute(self) -> Floats:
        """The sums of all ranks, (R, Q, K)."""
        sums: Floats = self._sums.compute().cpu().numpy().reshape(-1, len(CLASSES), NUM_SUMS)
        return sums


def by_distance(sums_RQK: ArrayLike, subject_R: Sequence[str] | NDArray[np.str_]) -> Floats:
    """R² pooled over all hidden values of each class of distance, with its 95 % interval over subjects, (3, Q)."""
    return with_interval(r2, np.asarray(sums_RQK, dtype=np.float64), subject_R)


def centred_r2(sums_RPK: ArrayLike, subject_R: Sequence[str] | NDArray[np.str_]) -> Floats:
    """R² about the mean of each recording and parcel, with its 95 % interval over subjects, (3,).

    1 − Σ (y' − ŷ')² / Σ y'², where y' and ŷ' are truth and prediction less their own means over the hidden values of
    a recording's parcel. A static level neither pays nor costs; under scalings that keep levels, the pooled R² pays.
    """
    return with_interval(_centred, _about_own_means(np.asarray(sums_RPK, dtype=np.float64)), subject_R)


def _about_own_means(sums_RPK: Floats) -> Floats:
    """Σ (y' − ŷ')² and Σ y'² of each recording, (R, 2)."""
    n, y, yy, p, pp, yp = np.moveaxis(sums_RPK, -1, 0)
    count = np.maximum(n, 1)
    spread = yy - y * y / count
    error = yy - 2 * yp + pp - (y - p) ** 2 / count
    spread, error = (np.where(np.abs(part) <= ROUNDING * yy, 0.0, part) for part in (spread, error))
    return np.stack([error.sum(1), spread.sum(1)], axis=-1)


def _centred(parts: Floats) -> Floats:
    """1 − the ratio of error and spread, (..., 2) -> (...); NaN where nothing varies."""
    error, spread = parts[..., 0], parts[..., 1]
    ratio: Floats = np.divide(error, spread, out=np.full_like(error, np.nan), where=spread > 0)
    return 1 - ratio


def with_interval(statistic: Statistic, parts_R: Floats, subject_R: Sequence[str] | NDArray[np.str_]) -> Floats:
    """A statistic of sums over recordings, with its 95 % interval from resampling subjects."""
    parts_U = sum_by_subject(parts_R, subject_R)
    low, high = percentile_interval(subject_bootstrap(statistic, parts_U), len(parts_U))
    return np.stack([statistic(parts_U.sum(0)), low, high])


def named(score: str, estimate_3: Floats) -> dict[str, float]:
    """An estimate and the ends of its interval: `score`, `score_low`, `score_high`."""
    return {f"{score}{end}": float(value) for end, value in zip(ENDS, estimate_3, strict=True)}
