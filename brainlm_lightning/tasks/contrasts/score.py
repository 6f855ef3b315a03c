"""Do two groups of recordings differ, parcel by parcel? Permutation tests over subjects, paired where one is in both.

Recordings are averaged by subject and group first, so that the subject is the unit. Under the null hypothesis group
labels are exchangeable: within a subject that is in both groups, and among all other subjects (restricted
exchangeability; Winkler et al. 2014). One statistic, the difference of the groups' means, serves
paired, unpaired and mixed designs, and its p-values are exact: (1 + permutations at least as extreme) /
(1 + permutations) (Phipson & Smyth 2010).

Shapes: R recordings, U subjects, E entries (a subject in a group), F features (parcels, or networks), A permutations.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from brainlm_lightning.evaluation.comparison import correct
from brainlm_lightning.evaluation.resampling import percentile_interval, subject_bootstrap, sum_by_subject

Floats = NDArray[np.float64]

PERMUTATIONS_AT_ONCE = 500  # of 15,000 entries: 60 MB of names
ROUNDING = 1e-9  # of the difference: a permutation that reproduces the observed labels counts as extreme


@dataclass(frozen=True)
class GroupDifference:
    """Group a minus group b; every array (F,), NaN where a group has no value.

    Attributes:
        difference: of the groups' means over subjects.
        low: lower end of its 95 % interval from resampling subjects.
        high: upper end.
        effect_size: Cohen's d: the difference over the pooled standard deviation between subjects within groups.
        z: the difference over its standard deviation under permutation: comparable between values of other scale.
        p: two-sided, by permutation.
        p_fdr: corrected over the values, Benjamini–Hochberg: the false discovery rate.
        p_max: corrected over the values by the largest |z| of each permutation: the family-wise error rate.
        num_subjects: in group a, in group b and in both.
    """

    difference: Floats
    low: Floats
    high: Floats
    effect_size: Floats
    z: Floats
    p: Floats
    p_fdr: Floats
    p_max: Floats
    num_subjects: tuple[int, int, int]


@dataclass(frozen=True)
class _Entries:
    """Subjects' means: values (E, F) with 0 where there is none, known (E, F) 0 or 1, group a (E,), subject (E,)."""

    values: Floats
    known: Floats
    in_a: NDArray[np.bool_]
    subject: NDArray[np.intp]


def compare_groups(
    values_RF: ArrayLike,
    in_a_R: ArrayLike,
    subject_R: Sequence[str] | NDArray[Any],
    num_permutations: int = 5000,
    seed: int = 0,
) -> GroupDifference:
    """Tests the difference of two groups' means over subjects.

    Args:
        values_RF: one row per recording; NaN where a parcel was not observed.
        in_a_R: True for group a, False for group b.
        subject_R: subject of each recording.
        num_permutations: A.
        seed: of permutations and of the intervals' draws.

    Raises:
        ValueError: the shapes disagree, or a group has no recording.
    """
    values, in_a, subjects = np.asarray(values_RF, float), np.asarray(in_a_R, bool), np.asarray(subject_R)
    if values.ndim != 2 or not in_a.shape == subjects.shape == values.shape[:1]:
        raise ValueError(
            f"got values {values.shape}, groups {in_a.shape} and subjects {subjects.shape}; "
            "expected (recordings, values) and one of each for every recording"
        )
    if in_a.all() or not in_a.any():
        raise ValueError(f"{in_a.sum()} recordings in group a and {(~in_a).sum()} in group b; expected some in both")
    entries = _entries(values, in_a, subjects)
    observed = _differences(entries, entries.in_a[None].astype(float))[0]
    permuted = np.concatenate([_differences(entries, names) for names in _names(entries, num_permutations, seed)])
    spread = _spread(np.concatenate([observed[None], permuted]))
    spread = np.where(spread > ROUNDING * np.abs(observed), spread, np.nan)  # no permutation changes anything
    p, p_max = _p_values(observed, permuted, spread)
    low, high = _interval(entries, seed)
    in_both = len(np.intersect1d(entries.subject[entries.in_a], entries.subject[~entries.in_a]))
    return GroupDifference(
        difference=observed,
        low=low,
        high=high,
        effect_size=_cohens_d(entries, observed),
        z=observed / spread,
        p=p,
        p_fdr=correct(p),
        p_max=p_max,
        num_subjects=(int(entries.in_a.sum()), int((~entries.in_a).sum()), in_both),
    )


def _entries(values: Floats, in_a: NDArray[np.bool_], subjects: NDArray[Any]) -> _Entries:
    """Averages the recordings of each subject in each group."""
    _, subject = np.unique(subjects, return_inverse=True)
    entry_R = 2 * subject + in_a
    known = np.isfinite(values)
    sums = sum_by_subject(np.stack([np.where(known, values, 0), known], axis=-1), entry_R)
    means = np.divide(sums[..., 0], sums[..., 1], out=np.zeros_like(sums[..., 0]), where=sums[..., 1] > 0)
    entry_E = np.unique(entry_R)
    return _Entries(means, (sums[..., 1] > 0).astype(float), entry_E % 2 == 1, entry_E // 2)


def _differences(entries: _Entries, names_AE: Floats) -> Floats:
    """Mean of the entries named a minus mean of the others, (A, F); NaN where either has none."""
    sum_a, count_a = names_AE @ entries.values, names_AE @ entries.known
    count_b = entries.known.sum(0) - count_a
    with np.errstate(invalid="ignore", divide="ignore"):
        difference_AF: Floats = sum_a / count_a - (entries.values.sum(0) - sum_a) / count_b
    return difference_AF


def _names(entries: _Entries, num_permutations: int, seed: int) -> "Sequence[Floats]":
    """Permuted labels, 1 for group a, (A, E) in parts."""
    rng = np.random.default_rng(seed)
    of_both = np.isin(entries.subject, np.intersect1d(entries.subject[entries.in_a], entries.subject[~entries.in_a]))
    first = np.flatnonzero(of_both)[::2]  # entries are in the order of subjects: a subject's two stand side by side
    single = np.flatnonzero(~of_both)
    parts = []
    for start in range(0, num_permutations, PERMUTATIONS_AT_ONCE):
        count = min(PERMUTATIONS_AT_ONCE, num_permutations - start)
        names = np.empty((count, len(entries.in_a)))
        flips = rng.integers(0, 2, (count, len(first)))
        names[:, first], names[:, first + 1] = flips, 1 - flips
        names[:, single] = rng.permuted(np.tile(entries.in_a[single], (count, 1)), axis=1)
        parts.append(names)
    return parts


def _spread(differences_AF: Floats) -> Floats:
    """Standard deviation over the permutations that give a difference, (F,); 0 where none does."""
    known = np.isfinite(differences_AF)
    count, filled = np.maximum(known.sum(0), 1), np.where(known, differences_AF, 0)
    return np.asarray(np.sqrt(((filled - filled.sum(0) / count) ** 2 * known).sum(0) / count))


def _p_values(observed: Floats, permuted: Floats, spread: Floats) -> tuple[Floats, Floats]:
    """Each value's p, and p by the largest |z| over the values; a permutation without a value counts as extreme."""
    size, sizes = np.abs(observed), np.abs(permuted)
    reached = ~(sizes < size * (1 - ROUNDING))
    p = (1 + reached.sum(0)) / (1 + len(permuted))
    z = np.nan_to_num(size / spread)
    largest = np.nanmax(np.where(np.isfinite(spread), sizes / spread, 0), axis=1)
    p_max = (1 + (largest[:, None] >= z * (1 - ROUNDING)).sum(0)) / (1 + len(permuted))
    return np.where(np.isfinite(observed), p, np.nan), np.where(np.isfinite(observed), p_max, np.nan)


def _cohens_d(entries: _Entries, difference: Floats) -> Floats:
    """The difference over the pooled standard deviation within groups."""
    squares, freedom = np.zeros(len(difference)), np.full(len(difference), -2.0)
    for chosen in (entries.in_a, ~entries.in_a):
        known, values = entries.known[chosen], entries.values[chosen]
        mean = values.sum(0) / np.maximum(known.sum(0), 1)
        squares += ((values - mean) ** 2 * known).sum(0)
        freedom += known.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(freedom > 0, difference / np.sqrt(squares / freedom), np.nan)


def _interval(entries: _Entries, seed: int) -> tuple[Floats, Floats]:
    """95 % interval of the difference; a subject's two entries are drawn together."""
    named = entries.in_a[:, None].astype(float)
    parts = [entries.values * named, entries.known * named, entries.values * (1 - named), entries.known * (1 - named)]
    sums_UFK = sum_by_subject(np.stack(parts, axis=-1), entries.subject)

    def difference(total: Floats) -> Floats:
        with np.errstate(invalid="ignore", divide="ignore"):
            return total[..., 0] / total[..., 1] - total[..., 2] / total[..., 3]

    low, high = percentile_interval(subject_bootstrap(difference, sums_UFK, seed=seed), len(sums_UFK))
    return low, high
