"""Removal of drifts, nuisance and frequencies, in one step, before any resampling."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class CleaningPlan:
    """How each recording is cleaned at its own tr_s: one regression and one filter, by nilearn's `signal.clean`.

    Attributes:
        detrend: Removes a linear trend of each parcel.
        high_pass_hz: Removes what is slower; not together with fMRIPrep's cosines (`high_pass` in the strategy).
        low_pass_hz: Removes what is faster. It makes reconstruction and forecasting easy: see effective dimensions.
        confounds: Strategy of nilearn's `load_confounds`, for instance [motion, high_pass, wm_csf, scrub]. Frames that
            `scrub` takes out are frames without data.
        options: Further arguments of `load_confounds`, for instance {motion: basic, fd_threshold: 0.5}.
    """

    detrend: bool = False
    high_pass_hz: float | None = None
    low_pass_hz: float | None = None
    confounds: list[str] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuses filters that leave nothing or filter twice."""
        low, high = self.low_pass_hz, self.high_pass_hz
        if low is not None and high is not None and not 0 < high < low:
            raise ValueError(
                f"cleaning: high_pass_hz is {high} and low_pass_hz {low}; expected 0 < high_pass < low_pass"
            )
        if high is not None and "high_pass" in self.confounds:
            raise ValueError("cleaning: `high_pass` in confounds (cosines) and high_pass_hz filter twice; keep one")

    @property
    def steps(self) -> list[str]:
        """What is done, in words, for store.json."""
        limits = {"high-pass": self.high_pass_hz, "low-pass": self.low_pass_hz}
        band = [f"{name} {value} Hz" for name, value in limits.items() if value is not None]
        regressed = [f"regressed {', '.join(self.confounds)} (nilearn load_confounds, {self.options})"]
        return ["linear trend removed"] * self.detrend + band + regressed * bool(self.confounds)

    @property
    def needed(self) -> bool:
        """True where there is anything to do to the series."""
        return bool(self.steps)


def clean_series(
    series: np.ndarray, plan: CleaningPlan, tr_s: float, missing: np.ndarray, regressors: np.ndarray | None
) -> np.ndarray:
    """Cleans a recording at its own tr_s.

    Regression, trend and filter are estimated from the frames that have data; nilearn interpolates the others before it
    filters. Each parcel's mean is kept.

    Args:
        series: (frames, P), finite.
        plan: What to do.
        tr_s: Seconds from frame to frame.
        missing: (frames,) frames without data.
        regressors: (frames, R), or None.

    Returns:
        (frames, P) float32; where data are missing the given values stand.

    Raises:
        ValueError: low_pass_hz is above what tr_s can carry, or there are more regressors than frames.
    """
    if not plan.needed:
        return series
    from nilearn.signal import clean  # slow to import, and few cohorts are cleaned here

    nyquist = 0.5 / tr_s
    if plan.low_pass_hz is not None and plan.low_pass_hz >= nyquist:
        raise ValueError(f"low_pass_hz is {plan.low_pass_hz}, and frames {tr_s} s apart carry up to {nyquist:.3g} Hz")
    if regressors is not None and regressors.shape[1] >= (~missing).sum() - 1:
        raise ValueError(f"{regressors.shape[1]} regressors for {(~missing).sum()} frames leave nothing over")
    kept = np.flatnonzero(~missing)
    level = series[kept].mean(axis=0, dtype=np.float64)
    cleaned = clean(
        series.astype(np.float64) - level,
        detrend=plan.detrend,
        standardize=None,
        sample_mask=kept if missing.any() else None,
        confounds=regressors,
        filter="butterworth" if plan.low_pass_hz or plan.high_pass_hz else False,
        low_pass=plan.low_pass_hz,
        high_pass=plan.high_pass_hz,
        t_r=tr_s,
    )
    whole = np.array(series, np.float32)
    whole[kept] = cleaned - cleaned.mean(axis=0) + level
    return whole
