"""Scikit-learn pipelines from a recording's features to its label: all that is fitted is a step of one.

Shapes: n recordings, F features, Q classes.
"""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import pandas as pd
from nilearn.connectome import ConnectivityMeasure
from numpy.typing import NDArray
from pandas.api.types import is_bool_dtype, is_numeric_dtype
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import KernelPCA
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import SVC, SVR

from brainlm_lightning.embedding.tangent import TangentSpace
from brainlm_lightning.tasks.clinical.feature_names import (
    COVARIANCE,
    FEW,
    HARMONISED,
    TANGENT,
    as_measured,
    bare,
    parts_of,
)
from brainlm_lightning.tasks.clinical.fold_learning import FoldLearning
from brainlm_lightning.tasks.clinical.harmonisation import ComBat

Floats = NDArray[np.floating]
EstimatorName = Literal["mean", "linear", "svm"]

# Features are brought to a mean squared norm of 1, so one grid serves three confounds and 76,000 connections.
ALPHAS = np.logspace(-3, 2, 11).tolist()
SVM_COSTS = [0.1, 1.0, 10.0, 100.0]
LOGISTIC_COSTS = np.logspace(-1, 4, 6).tolist()
SVR_TUBE = 0.1  # half width of the tube without loss, in standard deviations of the training labels (SVR's own: 0.1)
# When a support vector machine counts as solved: with scikit-learn's 0.001 processors differ in the fourth digit.
SVM_TOLERANCE = 1e-6
# Weights of joined features beside the first, whose weight is 1: a weak addition can be turned down, or nearly off.
SHARES = (0.03, 0.3, 1.0, 3.0)


class MeanSquaredNorm(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """Divides all features by one number, with which the training rows have a mean squared norm of 1."""

    def fit(self, X: Floats, y: Any = None) -> "MeanSquaredNorm":
        """Learns the number."""
        self.norm_ = float(np.sqrt((np.asarray(X, dtype=np.float64) ** 2).sum(1).mean())) or 1.0
        return self

    def transform(self, X: Floats) -> Floats:
        """Divides by it."""
        return X / self.norm_


class Part(TransformerMixin, BaseEstimator):
    """One part of joined features."""

    def __init__(self, name: str) -> None:
        self.name = name

    def fit(self, X: Mapping[str, Any], y: Any = None) -> "Part":
        """Nothing is learnt."""
        return self

    def transform(self, X: Mapping[str, Any]) -> Any:
        """The features of this name."""
        return X[self.name]


def fitted_pipeline(features: str, estimator: EstimatorName, learning: FoldLearning) -> Pipeline:
    """The pipeline, fitted on a fold's training recordings; of joined features with the best of `SHARES`.

    The share is chosen like all else, by the score on the inner folds.

    Args:
        features: what it learns from; see `RecordingFeatures.of`.
        estimator: see `SklearnMethod`.
        learning: of the fold.
    """
    given = learning.features(features, learning.rows)
    shares = SHARES if len(parts_of(features)) > 1 and estimator != "mean" else (1.0,)
    candidates = [pipeline(features, estimator, learning, share).fit(given, learning.labels_n) for share in shares]
    return candidates[0] if len(candidates) == 1 else max(candidates, key=lambda fitted: float(fitted[-1].best_score_))


def pipeline(features: str, estimator: EstimatorName, learning: FoldLearning, share: float = 1.0) -> Pipeline:
    """An unfitted pipeline from a recording's features to its label.

    Args:
        features: what the rows are; see `RecordingFeatures.of`.
        estimator: see `SklearnMethod`.
        learning: labels, for the inner folds.
        share: weight of all but the first of joined features.
    """
    if estimator == "mean":
        dummy = DummyClassifier(strategy="prior") if learning.num_classes else DummyRegressor(strategy="mean")
        return make_pipeline(dummy)
    parts = parts_of(features)
    if len(parts) == 1:
        return make_pipeline(*_scaled(features), MeanSquaredNorm(), _searched(estimator, learning))
    # Each part of a mean squared norm of 1, so that none drowns the other by the number of its features.
    blocks = [(part, make_pipeline(Part(part), *_scaled(part), MeanSquaredNorm())) for part in parts]
    joined = FeatureUnion(blocks, transformer_weights=dict.fromkeys(parts[1:], share))
    return make_pipeline(joined, MeanSquaredNorm(), _searched(estimator, learning))


def _scaled(features: str) -> list[Any]:
    """The steps that bring features to centred numbers on which inner products mean something."""
    if features.startswith(HARMONISED):
        return [ComBat(_confounds()), *_scaled(as_measured(features))]
    if features == "confounds":
        return [_confounds()]
    if bare(features) in FEW:  # a few numbers of different units
        return [StandardScaler()]
    # With more features than recordings all that linear and kernel methods see is inner products: the principal
    # components of the training recordings keep every one of them, in as many numbers as there are recordings.
    components = KernelPCA(kernel="linear", eigen_solver="dense", remove_zero_eig=True)
    if features == TANGENT:
        return [ConnectivityMeasure(kind="tangent", vectorize=True), components]
    return [TangentSpace(), components] if bare(features) == COVARIANCE else [components]


def _confounds() -> ColumnTransformer:
    """One-hot text (an unknown site is all zeros); scaled numbers, missing ones at the median."""

    def numeric(table: pd.DataFrame) -> list[str]:
        return [str(name) for name, kind in table.dtypes.items() if is_numeric_dtype(kind) and not is_bool_dtype(kind)]

    def text(table: pd.DataFrame) -> list[str]:
        return [str(name) for name in table if name not in numeric(table)]

    numbers = make_pipeline(SimpleImputer(strategy="median", keep_empty_features=True), StandardScaler())
    return ColumnTransformer(
        [("number", numbers, numeric), ("text", OneHotEncoder(handle_unknown="ignore", sparse_output=False), text)]
    )


def _searched(estimator: EstimatorName, learning: FoldLearning) -> GridSearchCV:
    """An estimator whose strength of regularisation is chosen on inner folds."""
    grid: dict[str, Any] = {"C": SVM_COSTS, "kernel": ["linear", "rbf"]}
    model: Any
    if learning.num_classes:
        scoring = "roc_auc" if learning.num_classes == 2 else "balanced_accuracy"
        model = SVC(class_weight="balanced", decision_function_shape="ovr", tol=SVM_TOLERANCE)
        if estimator == "linear":
            model, grid = LogisticRegression(class_weight="balanced", max_iter=5000), {"C": LOGISTIC_COSTS}
    else:
        scoring = "neg_mean_squared_error"
        model = SVR(epsilon=SVR_TUBE * float(learning.labels_n.std()), tol=SVM_TOLERANCE)
        if estimator == "linear":
            model, grid = Ridge(), {"alpha": ALPHAS}
    return GridSearchCV(model, grid, scoring=scoring, cv=learning.inner_folds())


def scores(fitted: Pipeline, features: Any, num_classes: int) -> Floats:
    """Predictions of a fitted pipeline: the number (n, 1), or a score of each class (n, Q).

    Scores are probabilities where the method has them, else distances from the boundary; the highest is the prediction.
    """
    if not num_classes:
        return np.asarray(fitted.predict(features), dtype=np.float64)[:, None]
    if hasattr(fitted, "predict_proba"):
        return np.asarray(fitted.predict_proba(features))
    distance = np.asarray(fitted.decision_function(features))
    return np.stack([-distance, distance], axis=1) if num_classes == 2 else np.asarray(distance)
