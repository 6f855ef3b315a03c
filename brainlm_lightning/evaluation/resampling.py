"""Confidence intervals by resampling subjects: all recordings of a subject are drawn together.

Drawing U subjects with replacement gives each subject a multinomial weight, so any statistic of sums is resampled by
one matrix product, weights (A, U) @ sums per subject (U, ...), without copying recordings.

Shapes: R recordings, U subjects, A resampling draws.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Statistic = Callable[[Floats], Floats]

SIGNIFICANCE = 0.05  # level of every test; intervals cover 1 − this
# Bounds memory: 100 draws of 40,000 subjects are 32 MB of weights. Results do not depend on it.
DRAWS_AT_ONCE = 100


def sum_by_subject(values_R: ArrayLike, subject_of_recording: Sequence[str] | NDArray[Any]) -> Floats:
    """Adds up the recordings of each subject.

    Args:
        values_R: (recordings, ...) additive quantities: sums, counts.
        subject_of_recording: (recordings,) subject ids.

    Returns:
        (subjects, ...) float64, subjects in sorted order, so that results do not depend on the order of recordings.

    Raises:
        ValueError: there is not exactly one subject per recording.
    """
    values = np.asarray(values_R, dtype=np.float64)
    subjects = np.asarray(subject_of_recording)
    if subjects.shape != values.shape[:1]:
        raise ValueError(f"got {values.shape[:1]} recordings and {subjects.shape} subjects; expected one subject each")
    order = np.argsort(subjects, kind="stable")
    _, starts = np.unique(subjects[order], return_index=True)
    if len(starts) == 0:
        return np.zeros((0, *values.shape[1:]))
    return np.add.reduceat(values[order], starts, axis=0)


def subject_weights(num_subjects: int, num_resamples: int, seed: int) -> Iterator[Floats]:
    """Yields how often each subject is drawn, (draws, subjects) per chunk; depends on the arguments alone."""
    generator = np.random.default_rng(seed)
    chances = np.full(num_subjects, 1 / num_subjects)
    for start in range(0, num_resamples, DRAWS_AT_ONCE):
        draws = min(DRAWS_AT_ONCE, num_resamples - start)
        yield generator.multinomial(num_subjects, chances, size=draws).astype(np.float64)


def subject_bootstrap(statistic: Statistic, per_subject: ArrayLike, num_resamples: int = 1000, seed: int = 0) -> Floats:
    """Bootstrap distribution over subjects of a statistic of sums.

    The draws depend only on the number of subjects and the seed, so methods scored on the same subjects are resampled
    identically.

    Args:
        statistic: takes (draws, ...) resampled sums and returns (draws,) or (draws, statistics).
        per_subject: (subjects, ...) sums of each subject.
        num_resamples: number of draws.
        seed: of the draws.

    Returns:
        (num_resamples,) or (num_resamples, statistics) float64.
    """
    sums = np.asarray(per_subject, dtype=np.float64)
    num_subjects = len(sums)
    if num_subjects == 0:
        raise ValueError("there are no subjects to resample; expected at least one recording with hidden values")
    results = []
    for weights in subject_weights(num_subjects, num_resamples, seed):
        resampled = weights @ sums.reshape(num_subjects, -1)
        results.append(statistic(resampled.reshape(len(weights), *sums.shape[1:])))
    return np.concatenate(results)


def percentile_interval(draws: ArrayLike, num_subjects: int, level: float = 0.95) -> Floats:
    """Percentile interval of a statistic's bootstrap draws; NaN draws are left out.

    With few subjects percentile intervals are slightly too narrow: with 40 subjects and 200 draws, the 95 % interval of
    a mean covered it in 93 % of 12,000 simulated data sets. With one subject the interval would have no width, so it is
    NaN.

    Args:
        draws: (draws,) or (draws, statistics).
        num_subjects: number of resampled subjects.
        level: share of the draws inside the interval.

    Returns:
        low and high, (2,) or (2, statistics).
    """
    values = np.asarray(draws, dtype=np.float64)
    interval = np.full((2, *values.shape[1:]), np.nan)
    defined = ~np.isnan(values).all(axis=0)
    if num_subjects >= 2 and defined.any():
        tails = [50 * (1 - level), 50 * (1 + level)]
        interval[:, defined] = np.nanpercentile(values[:, defined], tails, axis=0)
    return interval


def bootstrap_p(draws: ArrayLike) -> float:
    """Two-sided p-value of the null hypothesis that a statistic is 0, from its bootstrap draws.

    Twice the share of draws on the other side of 0, (b + 1) / (A + 1) (Davison & Hinkley 1997, equation 4.11).

    Args:
        draws: (A,), none of them NaN.
    """
    values = np.asarray(draws, dtype=np.float64)
    beyond = min((values <= 0).sum(), (values >= 0).sum())
    return float(min(1.0, 2 * (beyond + 1) / (len(values) + 1)))


def subject_mean(
    values_R: ArrayLike, subject_of_recording: Sequence[str] | NDArray[Any], seed: int = 0
) -> dict[str, float]:
    """The mean over recordings and its 95 % interval from resampling subjects: `{"": mean, "_low": …, "_high": …}`.

    Args:
        values_R: one number per recording.
        subject_of_recording: (recordings,) subject ids.
        seed: of the draws.
    """
    values = np.asarray(values_R, dtype=np.float64)
    sums_U2 = sum_by_subject(np.stack([values, np.ones_like(values)], axis=-1), subject_of_recording)
    draws = subject_bootstrap(lambda total: total[..., 0] / total[..., 1], sums_U2, seed=seed)
    low, high = percentile_interval(draws, len(sums_U2))
    return {"": float(values.mean()), "_low": float(low), "_high": float(high)}
