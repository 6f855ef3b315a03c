"""What is known of a recording's noise; `read.confounds` reads it."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Nuisance:
    """What is known of a recording's noise.

    Attributes:
        regressors: (frames, regressors) float64, or None.
        censored: (frames,) bool: frames that are not to count, or None.
        mean_fd_mm: Mean framewise displacement, or None.
    """

    regressors: np.ndarray | None = None
    censored: np.ndarray | None = None
    mean_fd_mm: float | None = None
