"""Frames without data: scrubbed, censored or never recorded. They are no dead parcels, and no values."""

import numpy as np

from brainlm_lightning.data.resample import num_resampled, ratio_of

FEWEST_PARCELS = 3  # that are exactly 0 at once by no chance


def missing_frames(series: np.ndarray) -> np.ndarray:
    """Returns which frames have no data, (frames,) bool: every parcel is NaN, or every parcel is exactly 0.

    Programs that censor write one or the other. Parcels that are NaN or 0 in all frames do not count, so that a
    recording without some parcels, or without any, keeps its frames.

    Args:
        series: (frames, P) as recorded.
    """
    nan, zero = np.isnan(series), series == 0
    carrying = ~(nan.all(axis=0) | zero.all(axis=0) | (nan | zero).all(axis=0))
    if not carrying.any():
        return np.zeros(len(series), bool)
    silent = zero[:, carrying].all(axis=1) & (carrying.sum() >= FEWEST_PARCELS)
    return np.asarray(nan[:, carrying].all(axis=1) | silent)


def fill_frames(series: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """Interpolates linearly across missing frames; before the first and after the last one the nearest value stands.

    Args:
        series: (frames, P).
        missing: (frames,) bool.

    Returns:
        (frames, P); the same object where nothing is missing.
    """
    if not missing.any() or missing.all():
        return series
    frames, known = np.arange(len(series)), np.flatnonzero(~missing)
    after = np.clip(np.searchsorted(known, frames), 0, len(known) - 1)
    before = np.clip(np.searchsorted(known, frames, side="right") - 1, 0, len(known) - 1)
    low, high = known[before], known[after]
    weight = np.clip((frames - low) / np.maximum(high - low, 1), 0, 1)[:, None].astype(series.dtype)
    filled = series[low] * (1 - weight) + series[high] * weight
    return np.where(missing[:, None], filled, series)


def resample_missing(missing: np.ndarray, tr_s: float, target_tr_s: float) -> np.ndarray:
    """Returns which frames of another tr_s rest on a missing one: a neighbour in time of the original has no data.

    Args:
        missing: (frames,) bool at `tr_s`.
        tr_s: Seconds from frame to frame.
        target_tr_s: The same, wanted.
    """
    ratio = ratio_of(tr_s, target_tr_s)
    position = np.arange(num_resampled(len(missing), ratio)) / float(ratio)
    before = np.floor(position + 1e-9).astype(int)
    after = np.minimum(np.ceil(position - 1e-9).astype(int), len(missing) - 1)
    return np.asarray(missing[before] | missing[after])


def as_ranges(missing: np.ndarray) -> str:
    """Writes frames as `4,17-19`, counted from 0; `from_ranges` reads it."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], missing, [False]]).astype(int)))
    pairs = zip(edges[::2].tolist(), (edges[1::2] - 1).tolist(), strict=True)
    return ",".join(f"{first}" if first == last else f"{first}-{last}" for first, last in pairs)


def from_ranges(text: str, num_frames: int) -> np.ndarray:
    """Inverse of `as_ranges`; (num_frames,) bool."""
    missing = np.zeros(num_frames, bool)
    for part in filter(None, str(text).split(",")):
        first, _, last = part.partition("-")
        missing[int(first) : int(last or first) + 1] = True
    return missing
