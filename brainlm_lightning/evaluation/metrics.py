"""Reconstruction and forecast scores from six sums over hidden values: exact over batches, ranks and subjects.

Sums are float64, in which the product of two float32 numbers is exact: for data with mean 1e4 and standard deviation 1
(Σy² = 1e8 n) the variance keeps about 8 digits, where float32 sums would keep none.

Shapes: B batch, R recordings, U subjects, P parcels, T frames, A resampling draws, K = 6 sums
[n, Σy, Σy², Σŷ, Σŷ², Σyŷ].
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torchmetrics import Metric

from brainlm_lightning.evaluation.names import ENDS
from brainlm_lightning.evaluation.resampling import percentile_interval, subject_bootstrap, sum_by_subject

Floats = NDArray[np.float64]
Score = Callable[[Floats], Floats]

NUM_SUMS = 6
# Below this share of Σy², the sum of squares about the mean is rounding error: the data are constant and have no R².
ROUNDING = 1e-13


class HiddenSums(Metric):
    """Six sums over the hidden values of every recording and parcel, from which R², Pearson's r and MSE follow.

    `compute()` returns them, (R, P, K) float64. Ranks and parts of a run merge by addition (`merge_state`). A NaN among
    the hidden values makes the scores NaN; among the visible ones it has no effect.

    Args:
        num_recordings: R; `recording_index_B` indexes this axis.
        num_parcels: P.
    """

    full_state_update = False
    sums: Tensor

    def __init__(self, num_recordings: int, num_parcels: int) -> None:
        super().__init__()
        zeros_RPK = torch.zeros(num_recordings, num_parcels, NUM_SUMS, dtype=torch.float64)
        self.add_state("sums", default=zeros_RPK, dist_reduce_fx="sum")

    def _apply(self, fn: Callable[..., Any], exclude_state: Sequence[str] = ()) -> "HiddenSums":
        """Moves with its module to a device, but keeps float64: bfloat16 sums would stop growing at 256."""
        sums = self.sums
        super()._apply(fn, exclude_state)
        self.sums = sums.to(self.device)
        self._defaults["sums"] = torch.zeros_like(self.sums)
        return self

    def update(self, prediction_BPT: Tensor, signal_BPT: Tensor, hidden_BPT: Tensor, recording_index_B: Tensor) -> None:
        """Adds a batch.

        Args:
            prediction_BPT: any floating dtype; read only where hidden.
            signal_BPT: the true signal, scaled alike.
            hidden_BPT: bool, True = hidden; must be False for unobserved parcels.
            recording_index_B: int, index of each window's recording.
        """
        parts = {"signal": signal_BPT, "hidden": hidden_BPT}
        for name, part in parts.items():
            if part.shape != prediction_BPT.shape:
                raise ValueError(f"{name} is {tuple(part.shape)} and the prediction {tuple(prediction_BPT.shape)}")
        if hidden_BPT.dtype != torch.bool:
            raise TypeError(f"hidden_BPT is {hidden_BPT.dtype}; expected torch.bool, True = hidden")
        y = torch.where(hidden_BPT, signal_BPT.detach().double(), 0.0)
        y_hat = torch.where(hidden_BPT, prediction_BPT.detach().double(), 0.0)
        terms = [hidden_BPT.double(), y, y * y, y_hat, y_hat * y_hat, y * y_hat]
        sums_BPK = torch.stack([term.sum(-1) for term in terms], dim=-1)
        self.sums.index_add_(0, recording_index_B.to(self.sums.device), sums_BPK)

    def compute(self) -> Tensor:
        """The accumulated sums, (R, P, K) float64."""
        return self.sums


def _divide(numerator: Floats, denominator: Floats) -> Floats:
    """NaN where the denominator is 0."""
    defined = denominator != 0
    return np.where(defined, numerator, np.nan) / np.where(defined, denominator, 1.0)


def _about_mean(n: Floats, total: Floats, squares: Floats) -> Floats:
    """Sum of squares about the mean; 0 where it is only rounding error."""
    spread = squares - total * _divide(total, n)
    return np.where(np.abs(spread) <= ROUNDING * squares, 0.0, spread)


def r2(sums: ArrayLike) -> Floats:
    """R² = 1 − Σ(y − ŷ)² / Σ(y − ȳ)², from (..., K) sums; −inf to 1, never clipped, NaN where y is constant or absent.

    To pool, add up sums first: `r2(sums_RPK.sum((0, 1)))` is the paper's score, `r2(sums_RPK.sum(1))` that of each
    recording, `r2(sums_RPK.sum(0))` that of each parcel. ȳ is the mean of the pooled values.
    """
    n, y, yy, _, pp, yp = np.moveaxis(np.asarray(sums, dtype=np.float64), -1, 0)
    return 1 - _divide(yy - 2 * yp + pp, _about_mean(n, y, yy))


def pearson_r(sums: ArrayLike) -> Floats:
    """Pearson's correlation of y and ŷ, from (..., K) sums; −1 to 1, NaN where either is constant or absent."""
    n, y, yy, p, pp, yp = np.moveaxis(np.asarray(sums, dtype=np.float64), -1, 0)
    variances = _about_mean(n, y, yy) * _about_mean(n, p, pp)
    return _divide(yp - y * _divide(p, n), np.sqrt(variances))


def mse(sums: ArrayLike) -> Floats:
    """Mean squared error, from (..., K) sums; in squared units of the scaled signal, NaN where nothing was hidden."""
    n, _, yy, _, pp, yp = np.moveaxis(np.asarray(sums, dtype=np.float64), -1, 0)
    return _divide(yy - 2 * yp + pp, n)


SCORES: dict[str, Score] = {"r2": r2, "pearson_r": pearson_r, "mse": mse}


def mean_defined(values: Floats) -> Floats:
    """Mean over the last axis without NaN; NaN where all are NaN (unlike `np.nanmean`, without a warning)."""
    defined = ~np.isnan(values)
    return _divide(np.where(defined, values, 0.0).sum(-1), defined.sum(-1).astype(np.float64))


def _pooled_and_parcel(sums_APK: Floats) -> Floats:
    """(A, P, K) sums -> (A, 2 × scores): each score pooled over all values, then averaged over parcels."""
    pooled = [score(sums_APK.sum(1)) for score in SCORES.values()]
    parcel = [mean_defined(score(sums_APK)) for score in SCORES.values()]
    return np.stack(pooled + parcel, axis=-1)


def _recording_totals(sums_RPK: Floats, subjects: NDArray[Any]) -> Floats:
    """Sum and number of the defined scores of each subject's recordings, (U, scores, 2)."""
    by_recording = np.stack([score(sums_RPK.sum(1)) for score in SCORES.values()], axis=-1)
    defined = ~np.isnan(by_recording)
    return sum_by_subject(np.stack([np.where(defined, by_recording, 0), defined], axis=-1), subjects)


def _recording_means(totals: Floats) -> Floats:
    """(A, scores, [sum, number]) -> (A, scores)."""
    return _divide(totals[..., 0], totals[..., 1])


def scores(
    sums_RPK: ArrayLike, subject_of_recording: Sequence[str] | NDArray[Any], num_resamples: int = 1000, seed: int = 0
) -> dict[str, float]:
    """R², Pearson's r and MSE three ways, each with a 95 % interval from resampling subjects.

    `_pooled`: over all hidden values (Table 1 of the paper). `_recording`: each recording's score, pooled over its
    parcels, averaged over recordings. `_parcel`: each parcel's score, pooled over recordings, averaged over parcels.
    Recordings without hidden values and undefined scores (constant signal) are left out and counted. If any prediction
    is not finite, all scores of the method are NaN.

    Args:
        sums_RPK: from `HiddenSums.compute()`, as numpy. The cost is num_resamples × U × P × K.
        subject_of_recording: (R,) subject ids.
        num_resamples: draws of the subjects.
        seed: of the draws.

    Returns:
        `r2_pooled`, `r2_pooled_low`, `r2_pooled_high`, ..., `num_subjects`, `num_recordings` (with hidden values), and
        the numbers without R²: `num_recordings_left_out`, `num_parcels_left_out`.
    """
    sums, subjects = np.asarray(sums_RPK, dtype=np.float64), np.asarray(subject_of_recording)
    if subjects.shape != sums.shape[:1]:
        raise ValueError(f"got sums {sums.shape} and {len(subjects)} subjects; expected one subject per recording")
    used = sums[..., 0].sum(1) > 0
    sums, subjects = sums[used], subjects[used]
    per_subject, totals = sum_by_subject(sums, subjects), _recording_totals(sums, subjects)
    draws = np.concatenate(
        [
            subject_bootstrap(_pooled_and_parcel, per_subject, num_resamples, seed),
            subject_bootstrap(_recording_means, totals, num_resamples, seed),
        ],
        axis=1,
    )
    estimates = np.concatenate([_pooled_and_parcel(sums.sum(0)[None]), _recording_means(totals.sum(0)[None])], axis=1)
    numbers = np.concatenate([estimates, percentile_interval(draws, len(per_subject))])
    if not np.isfinite(sums).all():
        numbers[:] = np.nan
    names = [f"{score}_{way}" for way in ("pooled", "parcel", "recording") for score in SCORES]
    found = {name + end: float(numbers[i, j]) for j, name in enumerate(names) for i, end in enumerate(ENDS)}
    return found | {
        "num_subjects": float(len(per_subject)),
        "num_recordings": float(len(sums)),
        "num_recordings_left_out": float(len(used) - totals[:, 0, 1].sum()),
        "num_parcels_left_out": float(np.isnan(r2(sums.sum(0))).sum()),
    }
