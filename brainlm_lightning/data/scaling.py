"""Scaling statistics of the training subjects, exactly, and how a recipe uses them.

The paper (methods, "Dataset and preprocessing") scales each parcel by the median and the interquartile range over
training subjects. A cohort of 77,000 recordings has 16 billion values, so the order statistics are found by radix
selection: passes over the data, each counting the next digit of the values' sort keys, without ever sorting them.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

RECIPES = ("robust", "robust_centred", "recording_zscore", "none")
WITHOUT_STATISTICS = ("recording_zscore", "none")  # recipes that need no training subjects
QUANTILES = (0.25, 0.5, 0.75)
DIGITS = ((21, 11), (10, 11), (0, 10))  # (lowest bit, bits) of each pass over the 32-bit key
CHUNK_VALUES = 1 << 21  # counted at once: tables of counts are large, so a recording at a time would be slow
NAN_KEY = np.uint32(0xFFFFFFFF)
SIGN = np.uint32(0x80000000)


@dataclass(frozen=True, eq=False)
class CentreScale:
    """Per parcel what is subtracted, and what is divided by; (P,) float64, NaN where a parcel has none."""

    centre: np.ndarray
    scale: np.ndarray


@dataclass(frozen=True, eq=False)
class ScalingStatistics:
    """Statistics of a cohort's training subjects.

    Attributes:
        robust: Median and interquartile range of the raw values, over all frames of all training recordings where the
            parcel is observed.
        robust_centred: The same of the values with each recording's mean removed.
        num_recordings: Recordings that they come from.
        num_subjects: Subjects that they come from.
    """

    robust: CentreScale
    robust_centred: CentreScale
    num_recordings: int
    num_subjects: int

    def to_json(self) -> dict[str, Any]:
        """Plain numbers (None for NaN) that `from_json` turns back into the same bits."""
        recipes = {"robust": self.robust, "robust_centred": self.robust_centred}
        tables = {name: {"centre": _to_list(of.centre), "scale": _to_list(of.scale)} for name, of in recipes.items()}
        return tables | {"num_recordings": self.num_recordings, "num_subjects": self.num_subjects}

    @classmethod
    def unknown(cls, num_parcels: int) -> "ScalingStatistics":
        """Statistics of nobody, for recipes `WITHOUT_STATISTICS`."""
        none = CentreScale(np.full(num_parcels, np.nan), np.full(num_parcels, np.nan))
        return cls(none, none, 0, 0)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "ScalingStatistics":
        """Inverse of `to_json`."""
        robust, centred = (
            CentreScale(_from_list(values[name]["centre"]), _from_list(values[name]["scale"]))
            for name in ("robust", "robust_centred")
        )
        return cls(robust, centred, values["num_recordings"], values["num_subjects"])


def quantile_statistics(series: Callable[[], Iterable[np.ndarray]], num_parcels: int) -> CentreScale:
    """Returns median and interquartile range of every parcel, exactly as `np.quantile` of all values at once.

    Three passes over the data; memory is bounded by six tables of 2,048 counts a parcel (42 MB for 424 parcels).

    Args:
        series: Starts one pass over the data each time it is called: arrays (frames, P) of float32, NaN where a value
            is not observed (left out).
        num_parcels: P.

    Returns:
        The median and q75 - q25 in float64, linearly interpolated. The scale is NaN where all values are equal (such a
        parcel carries nothing and must not be divided by); both are NaN where there are no values.
    """
    first = _count_digits(series(), np.zeros((1, num_parcels), np.uint32), *DIGITS[0])[0]
    counts = first[:, :-1].sum(axis=1)  # the last digit holds NaN alone: +inf is in digit 0x7FC of 0x7FF
    position = np.multiply.outer(QUANTILES, np.maximum(counts - 1, 0))
    below = np.floor(position).astype(np.int64)
    above = np.minimum(below + 1, np.maximum(counts - 1, 0))
    ranks = np.stack([below, above], axis=1).reshape(-1, num_parcels)

    keys, ranks = _descend(np.zeros_like(ranks, np.uint32), ranks, np.broadcast_to(first, (len(ranks), *first.shape)))
    for shift, bits in DIGITS[1:]:
        keys, ranks = _descend(keys, ranks, _count_digits(series(), keys, shift, bits))
    low, high = np.moveaxis(_values(keys).astype(np.float64).reshape(len(QUANTILES), 2, num_parcels), 1, 0)
    q25, median, q75 = np.where(counts > 0, _interpolate(low, high, position - below), np.nan)
    spread = q75 - q25
    return CentreScale(centre=median, scale=np.where(spread > 0, spread, np.nan))


def centre_and_scale(
    recipe: str, statistics: ScalingStatistics, mean_P: np.ndarray, std_P: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns what to subtract from the *stored* (centred) values of a recording, and what to divide them by.

    Args:
        recipe: `robust`: (raw - median) / interquartile range over the training subjects, the paper's; it keeps
            differences in level between recordings. `robust_centred`: the same after each recording's mean is removed.
            `recording_zscore`: each parcel of each recording to mean 0 and sd 1. `none`: the raw values.
        statistics: Of the training subjects.
        mean_P: The mean that the store removed, (..., P): one recording or a batch.
        std_P: The stored standard deviation, (..., P).

    Returns:
        (centre, scale), float32 of `mean_P`'s shape. Where a parcel has no statistics, centre is 0 and scale is 1: the
        caller masks it.
    """
    shape = np.shape(mean_P)
    centre, scale = _statistics_of(recipe, statistics, mean_P, std_P)
    usable = np.broadcast_to(np.isfinite(centre) & (scale > 0), shape)
    centre, scale = (np.broadcast_to(values, shape).astype(np.float32) for values in (centre, scale))
    if not usable.all():  # rare, and as slow as all the rest
        centre[~usable], scale[~usable] = 0, 1
    return centre, scale


def _statistics_of(
    recipe: str, statistics: ScalingStatistics, mean_P: np.ndarray, std_P: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Centre and scale, of shapes that broadcast."""
    if recipe == "robust":
        return statistics.robust.centre - mean_P, statistics.robust.scale
    if recipe == "robust_centred":
        return statistics.robust_centred.centre, statistics.robust_centred.scale
    if recipe == "recording_zscore":
        return np.zeros(1), np.asarray(std_P)
    if recipe == "none":
        return -np.asarray(mean_P), np.ones(1)
    raise ValueError(f"scaling recipe is {recipe!r}; expected one of {', '.join(RECIPES)}")


def _count_digits(series: Iterable[np.ndarray], prefixes: np.ndarray, shift: int, bits: int) -> np.ndarray:
    """Counts (targets, P, 2**bits) the next digit among the values whose key starts with each target's prefix."""
    (num_targets, num_parcels), size = prefixes.shape, 1 << bits
    counts = np.zeros((num_targets, num_parcels * size), np.int64)
    column = np.arange(num_parcels) * size
    for chunk in _chunks(series):
        keys = _keys(chunk)
        head = keys >> np.uint32(shift + bits) if shift + bits < 32 else np.zeros_like(keys)
        cell = ((keys >> np.uint32(shift)) & np.uint32(size - 1)) + column
        for target in range(num_targets):
            # Neighbouring ranks nearly always share their prefixes: count once.
            if target == 0 or not np.array_equal(prefixes[target], prefixes[target - 1]):
                found = np.bincount(cell[head == prefixes[target]], minlength=num_parcels * size)
            counts[target] += found
    return counts.reshape(num_targets, num_parcels, size)


def _descend(prefixes: np.ndarray, ranks: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Appends to each prefix the digit that holds its rank; ranks become ranks within that digit."""
    size = counts.shape[-1]
    until = counts.cumsum(axis=-1)
    digit = np.minimum((until <= ranks[..., None]).sum(axis=-1), size - 1)
    before = np.take_along_axis(until - counts, digit[..., None], axis=-1)[..., 0]
    return (prefixes * np.uint32(size) + digit.astype(np.uint32)).astype(np.uint32), ranks - before


def _chunks(series: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Joins recordings until a chunk is worth counting."""
    held: list[np.ndarray] = []
    size = 0
    for values in series:
        held.append(values)
        size += values.size
        if size >= CHUNK_VALUES:
            yield np.concatenate(held)
            held, size = [], 0
    if held:
        yield np.concatenate(held)


def _keys(values: np.ndarray) -> np.ndarray:
    """Maps float32 to uint32 of the same order: negative numbers' bits are inverted, the others' sign is set."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    keys = np.where(bits & SIGN, ~bits, bits | SIGN)
    keys[np.isnan(values)] = NAN_KEY
    return keys


def _values(keys: np.ndarray) -> np.ndarray:
    """Inverse of `_keys`."""
    return np.where(keys & SIGN, keys & ~SIGN, ~keys).astype(np.uint32).view(np.float32)


def _interpolate(low: np.ndarray, high: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Linear interpolation with numpy's own rounding: from the nearer end."""
    step = high - low
    return np.asarray(np.where(weight >= 0.5, high - step * (1 - weight), low + step * weight))


def _to_list(values: np.ndarray) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in values]


def _from_list(values: list[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], np.float64)
