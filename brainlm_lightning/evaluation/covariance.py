"""Covariance and autocovariance of scaled recordings, accumulated one recording at a time.

Shapes: P parcels, T frames, F = lags x P features of a frame.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# A whole recording, scaled (P, T), and which of its parcels are observed (P,); unobserved values may be anything.
ScaledRecording = tuple[NDArray[np.floating], NDArray[np.bool_]]


def lagged_moments(recordings: Iterable[ScaledRecording], lags: Sequence[int] = (0,)) -> tuple[Tensor, Tensor]:
    """Mean and covariance of the signal at several lags, over the pairs of parcels that are observed together.

    Args:
        recordings: scaled recordings.
        lags: offsets in frames; each gives a block of P features, in this order.

    Returns:
        (F,) and (F, F), float64; 0 for pairs that were never observed together.

    Raises:
        ValueError: no recording covers all lags.
    """
    total_F = gram_FF = count_FF = torch.zeros(())
    for values_PT, observed_P in recordings:
        known = torch.as_tensor(observed_P)
        signal_PT = torch.as_tensor(values_PT).double().where(known[:, None], 0.0)
        inside = slice(max(0, -min(lags)), signal_PT.shape[1] - max(0, *lags))
        features_FT = shifted(signal_PT, lags)[:, inside]
        known_F = known.repeat(len(lags)).double()
        total_F = total_F + features_FT.sum(1)
        gram_FF = gram_FF + features_FT @ features_FT.T
        count_FF = count_FF + features_FT.shape[1] * torch.outer(known_F, known_F)
    if not count_FF.any():
        raise ValueError(f"no training recording with frames at all lags {tuple(lags)}: give longer recordings")
    mean_F = total_F / count_FF.diagonal().clamp(min=1)
    moment_FF = gram_FF / count_FF.clamp(min=1)
    covariance_FF = torch.where(count_FF > 0, moment_FF - torch.outer(mean_F, mean_F), 0.0)
    if (count_FF != count_FF[0, 0]).any():  # over different sets of recordings the matrix can have negative eigenvalues
        values, vectors = torch.linalg.eigh(covariance_FF)
        covariance_FF = (vectors * values.clamp(min=0)) @ vectors.T
    return mean_F, covariance_FF


def shifted(x: Tensor, lags: Sequence[int]) -> Tensor:
    """Stacks copies of (..., P, T) shifted by each lag, (..., lags x P, T); 0 or False beyond the ends."""
    reach, num_frames = max(abs(lag) for lag in lags), x.shape[-1]
    padded = torch.nn.functional.pad(x, (reach, reach))
    return torch.cat([padded[..., reach + lag : reach + lag + num_frames] for lag in lags], dim=-2)


def autocovariance(recordings: Iterable[ScaledRecording], lags: int) -> Tensor:
    """Autocovariance at lags 0 to ``lags`` − 1 frames, averaged over observed parcels, (lags,) float64."""
    total, count = np.zeros(lags), np.zeros(lags)
    for series_PT, observed_P in recordings:
        series_PT = series_PT[observed_P].astype(np.float64)
        series_PT -= series_PT.mean(axis=1, keepdims=True)
        frames = series_PT.shape[1]
        for lag in range(min(lags, frames)):
            total[lag] += (series_PT[:, lag:] * series_PT[:, : frames - lag]).sum()
            count[lag] += len(series_PT) * (frames - lag)
    return torch.from_numpy(total / np.maximum(count, 1))


def correlation(covariance_PP: Tensor) -> Tensor:
    """Converts a covariance to a correlation matrix, float32; 0 for parcels without variance."""
    spread_P = covariance_PP.diagonal().clamp(min=0).sqrt()
    scaled_PP = covariance_PP / torch.outer(spread_P, spread_P)
    return scaled_PP.nan_to_num(0, 0, 0).float()
