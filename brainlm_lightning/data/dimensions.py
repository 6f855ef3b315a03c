"""How many of a window's frames are free to differ: what a band-pass has left of the time axis."""

from collections.abc import Iterable

import numpy as np

FLOOR = 0.1  # of the mean eigenvalue, which is what each direction of white noise has


def effective_dimensions(series: Iterable[np.ndarray], window_frames: int = 200) -> float | None:
    """Returns the effective number of dimensions in time of windows, of at most `window_frames`.

    The temporal covariance (frames × frames) of z-scored parcels, averaged over windows and recordings, has one
    eigenvalue a direction in time. Counted are those above a tenth of their mean, that is of what white noise has in
    each direction. A signal that nobody low-passed has all of them; one of bandwidth W in Hz has about 2 W T + 1 of a
    window of T seconds. The count is used and not the participation or entropy rank, because these also fall with the
    slope of a full spectrum (55 and 97 of 200 for recordings that were never filtered), where every frame is free.

    Args:
        series: (frames, parcels) each, centred; NaN where a parcel or frame has no data. Recordings shorter than a
            window and frames without data are left out.
        window_frames: Frames of a window.

    Returns:
        The number, or None where no recording is long enough.
    """
    total, windows = np.zeros((window_frames, window_frames)), 0
    for values in series:
        usable = values[np.isfinite(values).any(axis=1)]
        for first in range(0, len(usable) - window_frames + 1, window_frames):
            window = usable[first : first + window_frames].astype(np.float64)
            window = window[:, np.isfinite(window).all(axis=0)]
            spread = np.sqrt((window**2).mean(axis=0))
            window = window[:, spread > 0] / spread[spread > 0]
            if window.shape[1]:
                total += window @ window.T / window.shape[1]
                windows += 1
    if not windows:
        return None
    eigenvalues = np.linalg.eigvalsh(total / windows)
    return float((eigenvalues > FLOOR * eigenvalues.mean()).sum())
