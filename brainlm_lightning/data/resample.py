"""Change of the time between frames, without aliasing."""

from fractions import Fraction

import numpy as np
from scipy.signal import resample_poly

LARGEST_DENOMINATOR = 1000  # of the ratio of rates: it is off by less than one part in a million


def resample(series: np.ndarray, tr_s: float, target_tr_s: float) -> np.ndarray:
    """Resamples a recording to another time between frames.

    A low-pass filter (Kaiser, 10 periods of the slower rate to either side; -6 dB at the lower Nyquist frequency, below
    -50 dB from 1.2 times it) takes out what the new rate cannot carry. Beyond its ends the series is continued by
    reflection through its end points, which keeps level and slope: for signals of 0.01 to 0.1 Hz from 2 s to 1 s
    the first and last 10 frames are off by 1 % of their sd, where repeating the end value leaves 3 %.

    Args:
        series: (frames, parcels), finite.
        tr_s: Seconds from one frame to the next.
        target_tr_s: The same, wanted.

    Returns:
        (new frames, parcels) float32: the first frame stays at time 0 and none lies after the last one recorded, so
        new frames = floor((frames - 1) * tr_s / target_tr_s) + 1. The same values where nothing changes.

    Raises:
        ValueError: A time that is not positive.
    """
    ratio = ratio_of(tr_s, target_tr_s)
    values = np.asarray(series, np.float32)
    if ratio == 1:
        return values
    # The filter's gain differs by some thousandths from frame to frame: nothing around 0, but 10 units at 10,000.
    level = values.mean(axis=0, dtype=np.float64)
    new = resample_poly(values - level, ratio.numerator, ratio.denominator, axis=0, padtype="antireflect")
    return np.asarray((new[: num_resampled(len(values), ratio)] + level).astype(np.float32))


def ratio_of(tr_s: float, target_tr_s: float) -> Fraction:
    """Returns how many new frames there are for each old one.

    Raises:
        ValueError: A time that is not positive, or more than a thousand to one.
    """
    if not (tr_s > 0 and target_tr_s > 0):
        raise ValueError(f"tr_s is {tr_s} and the target {target_tr_s}; expected seconds above 0")
    ratio = (Fraction(tr_s) / Fraction(target_tr_s)).limit_denominator(LARGEST_DENOMINATOR)
    if ratio <= 0:
        raise ValueError(f"cannot resample from tr_s {tr_s} to {target_tr_s}: more than {LARGEST_DENOMINATOR} to 1")
    return ratio


def num_resampled(frames: int, ratio: Fraction) -> int:
    """Returns the number of new frames: the first stays at time 0, and none lies after the last one recorded."""
    return (frames - 1) * ratio.numerator // ratio.denominator + 1
