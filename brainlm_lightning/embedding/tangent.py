"""The tangent space of covariances at the mean of training recordings (Varoquaux et al. 2010).

Shapes: n recordings, P parcels, E pairs of parcels.
"""

from math import isqrt
from typing import Any, Self

import numpy as np
from nilearn.connectome import ConnectivityMeasure
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin

Floats = NDArray[np.floating]
# Towards the identity. A parcel without data, or more parcels than values of a token, leave eigenvalues at 0, of which
# there is no logarithm; with this they are at least 0.1.
SHRINKAGE = 0.1


class GivenCovariance(BaseEstimator):
    """Stands where nilearn would estimate a covariance from a series: the matrix is given."""

    def fit(self, X: Floats, y: Any = None) -> "GivenCovariance":
        """Takes it."""
        self.covariance_ = X
        return self


class TangentSpace(TransformerMixin, BaseEstimator):
    """From correlations between parcels to their place in the tangent space at the mean of those it was fitted on.

    With C = 0.9 R + 0.1 I and M the geometric mean of C over the training recordings, the vector is the lower triangle
    of log(M^-1/2 C M^-1/2), its diagonal divided by √2. nilearn's ``ConnectivityMeasure(kind="tangent")`` does it.
    """

    def fit(self, X: Floats, y: Any = None) -> Self:
        """Finds the mean.

        Args:
            X: (n, E) correlations below the diagonal, row by row, of training recordings alone.
            y: not used.

        Raises:
            ValueError: E is no number of pairs; or these are no correlations: a matrix is not positive definite.
        """
        measure = ConnectivityMeasure(cov_estimator=GivenCovariance(), kind="tangent", vectorize=True)
        self.measure_ = measure.fit(list(shrunk(X)))
        return self

    def transform(self, X: Floats) -> NDArray[np.float64]:
        """Tangent vectors, (n, P (P + 1) / 2).

        Args:
            X: (n, E) as in `fit`, of any recordings.
        """
        mean_PP = self.measure_.mean_  # goes along, because nilearn transforms no single recording
        return np.asarray(self.measure_.transform([*shrunk(X), mean_PP])[:-1])


def shrunk(correlation_nE: Floats) -> NDArray[np.float64]:
    """Correlation matrices (n, P, P), moved towards the identity by `SHRINKAGE`.

    Raises:
        ValueError: E is no number of pairs.
    """
    pairs = correlation_nE.shape[1]
    parcels = (1 + isqrt(1 + 8 * pairs)) // 2
    if parcels * (parcels - 1) != 2 * pairs:
        raise ValueError(f"got {pairs} correlations a recording, expected P (P − 1) / 2 of P parcels")
    row, column = np.tril_indices(parcels, -1)
    matrix_nPP = np.tile(np.eye(parcels), (len(correlation_nE), 1, 1))
    matrix_nPP[:, row, column] = (1 - SHRINKAGE) * correlation_nE
    matrix_nPP[:, column, row] = matrix_nPP[:, row, column]
    return matrix_nPP
