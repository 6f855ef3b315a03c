"""How much of a person an embedding holds: re-identification, reliability, and what can be read from it.

Shapes: U subjects, F features, Y values to be read (entries of connectivity).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import Pipeline, make_pipeline

from brainlm_lightning.evaluation.names import ENDS
from brainlm_lightning.evaluation.resampling import percentile_interval, subject_bootstrap

Floats = NDArray[np.float64]
ALPHAS = np.logspace(-4, 4, 17)  # features have a mean squared norm of 1


def reidentified(first_UF: Floats, second_UF: Floats) -> Floats:
    """Whether each half finds the other half of its subject among all subjects, by cosine, (U,): 0, ½ or 1.

    Args:
        first_UF: embeddings of first halves, about the mean of training subjects.
        second_UF: embeddings of the same subjects' second halves, about the same mean.
    """
    likeness_UU = _unit(first_UF) @ _unit(second_UF).T
    own_U = np.arange(len(likeness_UU))
    found: Floats = np.mean([likeness_UU.argmax(axis) == own_U for axis in (0, 1)], axis=0)
    return found


def _unit(values_UF: Floats) -> Floats:
    return np.asarray(values_UF / np.maximum(np.linalg.norm(values_UF, axis=1, keepdims=True), 1e-12))


def reliability(first_UF: Floats, second_UF: Floats) -> float:
    """Correlation over subjects of the two halves, pooled over features by their variances; −1 to 1."""
    apart = [values - values.mean(0) for values in (first_UF, second_UF)]
    spread = np.sqrt((apart[0] ** 2).sum() * (apart[1] ** 2).sum())
    return float((apart[0] * apart[1]).sum() / spread) if spread else float("nan")


@dataclass(frozen=True)
class LinearReading:
    """A ridge regression from embeddings to values, its strength chosen on the training subjects (leave one out).

    Attributes:
        mean_F: of the training embeddings.
        norm: root mean square norm of the training embeddings about their mean.
        ridge: fitted, on the training subjects' principal components: all of them, so that it is the same regression
            with as few features as subjects, where connectivity would have its square in weights.
    """

    mean_F: Floats
    norm: float
    ridge: Pipeline

    @classmethod
    def fit(cls, features_UF: Floats, values_UY: Floats) -> "LinearReading":
        """Fits on training subjects."""
        mean_F = features_UF.mean(0)
        norm = float(np.sqrt(((features_UF - mean_F) ** 2).sum(1).mean())) or 1.0
        ridge = make_pipeline(PCA(svd_solver="full"), RidgeCV(ALPHAS))
        return cls(mean_F, norm, ridge.fit((features_UF - mean_F) / norm, values_UY))

    def predict(self, features_UF: Floats) -> Floats:
        """Values of other subjects, (U, Y)."""
        return np.asarray(self.ridge.predict((features_UF - self.mean_F) / self.norm)).reshape(len(features_UF), -1)


def shrinkage(first_UY: Floats, second_UY: Floats) -> float:
    """How much of a half's departure from the group the other half shares: least squares, one number.

    It is the weight with which one half's connectivity, shrunk towards the group's, best predicts the other's.

    Args:
        first_UY: connectivity of training subjects' first halves, about the group's mean.
        second_UY: of their second halves, about the same mean.
    """
    return float((first_UY * second_UY).sum() / (first_UY**2).sum())


def squared_errors(truth_UY: Floats, predicted_UY: Floats, group_Y: Floats) -> Floats:
    """Each subject's sums of squared errors and of squared departures from the group, (U, 2)."""
    return np.stack([((truth_UY - predicted_UY) ** 2).sum(1), ((truth_UY - group_Y) ** 2).sum(1)], axis=1)


def r2_of(sums_U2: Floats, name: str) -> dict[str, float]:
    """R² about the group's mean, pooled over subjects and values, with its 95 % interval from resampling subjects."""

    def statistic(total: Floats) -> Floats:
        return 1 - total[..., 0] / total[..., 1]

    return _with_interval(name, float(statistic(sums_U2.sum(0))), subject_bootstrap(statistic, sums_U2), len(sums_U2))


def mean_of(values_U: Floats, name: str) -> dict[str, float]:
    """The mean over subjects with its 95 % interval from resampling subjects."""
    count = len(values_U)
    return _with_interval(name, float(values_U.mean()), subject_bootstrap(np.asarray, values_U) / count, count)


def _with_interval(name: str, estimate: float, draws: Floats, num_subjects: int) -> dict[str, float]:
    low, high = percentile_interval(draws, num_subjects)
    return {name + end: float(value) for end, value in zip(ENDS, (estimate, low, high), strict=True)}
