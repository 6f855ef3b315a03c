"""Intervals from resampling subjects: a subject's recordings enter and leave together.

Drawing S subjects with replacement is giving every subject a multinomial weight, so every statistic of sums is
resampled by one matrix product, weights (draws, S) @ per-subject sums (S, ...), without copying a recording.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Statistic = Callable[[Floats], Floats]

SIGNIFICANCE = 0.05  # level of every test, and what every interval leaves out
# 100 draws of 40,000 subjects are 32 MB of weights; the draws do not depend on this number.
DRAWS_AT_ONCE = 100


def sum_by_subject(values_R: ArrayLike, subject_of_recording: Sequence[str] | NDArray) -> Floats:
    """Adds up the recordings of each subject.

    Args:
        values_R: (recordings, ...) anything that adds up: sums, counts.
        subject_of_recording: (recordings,) subject ids.

    Returns:
        (subjects, ...) float64, subjects in sorted order, so that the order of the recordings changes no result.

    Raises:
        ValueError: if there is not one subject for each recording.
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
    """How often each subject is drawn, (draws, subjects) at a time; a function of its three arguments."""
    generator = np.random.default_rng(seed)
    chances = np.full(num_subjects, 1 / num_subjects)
    for start in range(0, num_resamples, DRAWS_AT_ONCE):
        draws = min(DRAWS_AT_ONCE, num_resamples - start)
        yield generator.multinomial(num_subjects, chances, size=draws).astype(np.float64)


def subject_bootstrap(statistic: Statistic, per_subject: ArrayLike, num_resamples: int = 1000, seed: int = 0) -> Floats:
    """A statistic of sums over subjects, for `num_resamples` draws of the subjects with replacement.

    The draws depend on (number of subjects, seed) alone: methods scored on the same subjects with the same seed are
    resampled alike.

    Args:
        statistic: takes (draws, ...) resampled sums and returns (draws,) or (draws, statistics).
        per_subject: (subjects, ...) sums of each subject.
        num_resamples: how many draws.
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
    """The percentile interval of a statistic's draws; draws where the statistic is undefined are left out.

    With few subjects a percentile interval is too narrow: with 40 subjects and 200 draws a 95 % interval of a mean
    held it in 93 % of 12,000 simulated data sets. With one subject it has no width at all, which would read as
    certainty, so it is NaN there.

    Args:
        draws: (draws,) or (draws, statistics).
        num_subjects: how many subjects were resampled.
        level: what share of the draws lies inside.

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


def subject_mean(values_R: ArrayLike, subject_of_recording: Sequence[str] | NDArray, seed: int = 0) -> dict[str, float]:
    """The mean over recordings and its 95 % interval from resampling subjects: `{"": mean, "_low": …, "_high": …}`.

    Args:
        values_R: a number for each recording.
        subject_of_recording: (recordings,) subject ids.
        seed: of the draws.
    """
    values = np.asarray(values_R, dtype=np.float64)
    sums_SK = sum_by_subject(np.stack([values, np.ones_like(values)], axis=-1), subject_of_recording)
    draws = subject_bootstrap(lambda total: total[..., 0] / total[..., 1], sums_SK, seed=seed)
    low, high = percentile_interval(draws, len(sums_SK))
    return {"": float(values.mean()), "_low": float(low), "_high": float(high)}
