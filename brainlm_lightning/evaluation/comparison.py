"""Paired tests of two methods over subjects, corrected for the number of comparisons in the test run.

Shapes: R recordings, U subjects, P parcels, H frames of the horizon, K six sums.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import false_discovery_control, wilcoxon

from brainlm_lightning.evaluation.metrics import mse, r2
from brainlm_lightning.evaluation.names import pair_name
from brainlm_lightning.evaluation.resampling import percentile_interval, subject_bootstrap, sum_by_subject

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class PairedComparison:
    """Method a minus method b over the same subjects.

    Attributes:
        difference: mean over subjects of a − b.
        low: lower end of its 95 % interval from resampling subjects; NaN with fewer than two subjects.
        high: upper end.
        p: two-sided, Wilcoxon's signed-rank test of differences symmetric about 0; not corrected.
        num_subjects: subjects with both scores defined.
    """

    difference: float
    low: float
    high: float
    p: float
    num_subjects: int


def _signed_rank_p(differences: Floats) -> float:
    """Wilcoxon signed-rank test; scipy decides whether it is exact (small samples without ties) or approximate."""
    if len(differences) == 0:
        return float("nan")
    if not differences.any():
        return 1.0  # no subject differs; scipy would divide 0 by 0
    return float(wilcoxon(differences).pvalue)


def paired_comparison(
    per_subject_a: ArrayLike, per_subject_b: ArrayLike, num_resamples: int = 1000, seed: int = 0
) -> PairedComparison:
    """Compares two methods by one score per subject; subjects where either score is NaN are left out.

    Args:
        per_subject_a: (U,) scores.
        per_subject_b: (U,) scores of the same subjects in the same order.
        num_resamples: draws of the subjects for the interval of the mean difference.
        seed: of the draws.

    Raises:
        ValueError: the numbers of subjects differ.
    """
    a, b = np.asarray(per_subject_a, dtype=np.float64), np.asarray(per_subject_b, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"got scores of shapes {a.shape} and {b.shape}; expected one score per subject in both")
    differences = (a - b)[~np.isnan(a - b)]
    num_subjects = len(differences)
    if num_subjects == 0:
        return PairedComparison(float("nan"), float("nan"), float("nan"), float("nan"), 0)
    draws = subject_bootstrap(lambda total: total / num_subjects, differences, num_resamples, seed)
    low, high = percentile_interval(draws, num_subjects)
    return PairedComparison(
        float(differences.mean()), float(low), float(high), _signed_rank_p(differences), num_subjects
    )


def subject_r2(sums_RPK: ArrayLike, subject_of_recording: Sequence[str] | NDArray[Any]) -> Floats:
    """R² of each subject, pooled over the subject's recordings, parcels and hidden values.

    Returns:
        (U,), subjects in sorted order; NaN for those without hidden values. All NaN if any sum is not finite: a method
        that failed on some subjects is not compared on the others.
    """
    sums_UK = sum_by_subject(sums_RPK, subject_of_recording).sum(1)
    return r2(sums_UK) if np.isfinite(sums_UK).all() else np.full(len(sums_UK), np.nan)


def _require_same_values(method: str, sums_RPK: Floats, other: str, other_RPK: Floats) -> None:
    """Checks that two methods were scored on the same values; otherwise a paired test would compare the masks."""
    if sums_RPK.shape != other_RPK.shape:
        raise ValueError(f"{method} has sums {sums_RPK.shape} and {other} {other_RPK.shape}; expected the same")
    counts, other_counts = sums_RPK[..., 0].sum(), other_RPK[..., 0].sum()
    if not np.array_equal(sums_RPK[..., 0], other_RPK[..., 0]):
        raise ValueError(
            f"{method} was scored on {counts:.0f} hidden values and {other} on {other_counts:.0f}, or on others; "
            "score both with the same masks and recordings"
        )


def compare(
    sums_by_method: Mapping[str, ArrayLike],
    subject_of_recording: Sequence[str] | NDArray[Any],
    method: str = "mae",
    num_resamples: int = 1000,
    seed: int = 0,
) -> dict[str, float]:
    """Compares one method with every other by R² per subject; p-values are corrected later, over the whole test run.

    Args:
        sums_by_method: (R, P, K) sums of each method over the same hidden values.
        subject_of_recording: (R,) subject ids.
        method: name of the method that is compared with all others.
        num_resamples: draws of the subjects.
        seed: of the draws.

    Returns:
        `<method>_minus_<other>/{r2_subject, r2_subject_low, r2_subject_high, p, num_subjects}` for every other method.
        The caller prefixes cohort and condition, collects all conditions, and then calls `with_corrected_p`.
    """
    if method not in sums_by_method:
        raise ValueError(f"there is no method {method!r} to compare; got {sorted(sums_by_method)}")
    sums = {name: np.asarray(value, dtype=np.float64) for name, value in sums_by_method.items()}
    scores = {name: subject_r2(value, subject_of_recording) for name, value in sums.items()}
    found: dict[str, float] = {}
    for other in sums:
        if other == method:
            continue
        _require_same_values(method, sums[method], other, sums[other])
        result = paired_comparison(scores[method], scores[other], num_resamples, seed)
        name = pair_name(method, other)
        found[f"{name}/r2_subject"] = result.difference
        found[f"{name}/r2_subject_low"] = result.low
        found[f"{name}/r2_subject_high"] = result.high
        found[f"{name}/p"] = result.p
        found[f"{name}/num_subjects"] = float(result.num_subjects)
    return found


@dataclass(frozen=True)
class FrameComparison:
    """Mean squared error of method a minus that of method b at each frame, over the same subjects; arrays (H,).

    Attributes:
        difference: mean over subjects of a − b; below 0 where a is better.
        low: lower end of its 95 % interval from resampling subjects.
        high: upper end.
        p: two-sided, Wilcoxon's signed-rank test; not corrected.
    """

    difference: Floats
    low: Floats
    high: Floats
    p: Floats


def compare_frames(
    sums_RHK: ArrayLike,
    other_RHK: ArrayLike,
    subject_of_recording: Sequence[str] | NDArray[Any],
    num_resamples: int = 1000,
    seed: int = 0,
) -> FrameComparison:
    """Compares two methods at each frame by each subject's mean squared error over recordings and parcels.

    Args:
        sums_RHK: sums of method a at each frame; the result is all NaN if any sum of either method is not finite.
        other_RHK: sums of method b over the same values.
        subject_of_recording: (R,) subject ids.
        num_resamples: draws of the subjects.
        seed: of the draws.
    """
    a, b = np.asarray(sums_RHK, dtype=np.float64), np.asarray(other_RHK, dtype=np.float64)
    _require_same_values("a method", a, "another", b)
    differences_UH = subject_mse(a, subject_of_recording) - subject_mse(b, subject_of_recording)
    differences_UH = differences_UH[~np.isnan(differences_UH).any(axis=1)]
    if not len(differences_UH):
        nothing = np.full(a.shape[1], np.nan)
        return FrameComparison(nothing, nothing, nothing, nothing)
    draws = subject_bootstrap(lambda total: total / len(differences_UH), differences_UH, num_resamples, seed)
    low, high = percentile_interval(draws, len(differences_UH))
    p = np.array([_signed_rank_p(differences) for differences in differences_UH.T])
    return FrameComparison(differences_UH.mean(axis=0), low, high, p)


def subject_mse(sums_RHK: ArrayLike, subject_of_recording: Sequence[str] | NDArray[Any]) -> Floats:
    """Mean squared error of each subject at each frame, (U, H), sorted by subject; all NaN as in `subject_r2`."""
    sums_UHK = sum_by_subject(sums_RHK, subject_of_recording)
    return mse(sums_UHK) if np.isfinite(sums_UHK).all() else np.full(sums_UHK.shape[:2], np.nan)


def correct(p_values: ArrayLike) -> Floats:
    """Benjamini–Hochberg: calling corrected p-values below q significant controls the false discovery rate at q.

    Args:
        p_values: (comparisons,); NaN (the test could not be computed) is not counted and stays NaN.
    """
    p = np.asarray(p_values, dtype=np.float64)
    corrected = np.full(p.shape, np.nan)
    tested = ~np.isnan(p)
    if tested.any():
        corrected[tested] = false_discovery_control(p[tested], method="bh")
    return corrected


def with_corrected_p(metrics: Mapping[str, float]) -> dict[str, float]:
    """Adds `.../p_corrected` beside every `.../p`, corrected over all of them together.

    Call it once with the metrics of the whole test run: all cohorts, conditions and methods.
    """
    names = [name for name in metrics if name.endswith("/p")]
    corrected = correct([metrics[name] for name in names])
    return dict(metrics) | {f"{name}_corrected": float(value) for name, value in zip(names, corrected, strict=True)}
