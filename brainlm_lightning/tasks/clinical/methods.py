"""Methods that predict a phenotype from whole recordings: what networks are compared with.

Everything with a parameter is a step of a scikit-learn pipeline, so that it is fitted inside the fold.
Hyper-parameters are chosen inside it, too, over inner folds that keep a subject's recordings together.

Shapes: n recordings, F features, P parcels, T frames, Q classes, O outputs: 1 for a number, Q for classes.
"""

from collections.abc import Callable
from dataclasses import dataclass
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
from sklearn.model_selection import GridSearchCV, GroupKFold, StratifiedGroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import SVC, SVR

from brainlm_lightning.tasks.clinical.features import FeatureName
from brainlm_lightning.tasks.compare import Method, Numbers

Floats = NDArray[np.floating]
Rows = NDArray[np.intp]
EstimatorName = Literal["mean", "linear", "svm"]

INNER_FOLDS = 5
# Features are brought to a mean squared norm of 1, so one grid serves three confounds and 76,000 connections.
ALPHAS = np.logspace(-3, 2, 11).tolist()
SVM_COSTS = [0.1, 1.0, 10.0, 100.0]
LOGISTIC_COSTS = np.logspace(-1, 4, 6).tolist()
SVR_TUBE = 0.1  # half width of the tube without loss, in standard deviations of the training labels (SVR's own: 0.1)


class MeanSquaredNorm(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """Divides all features by one number, with which the training rows have a mean squared norm of 1."""

    def fit(self, X: Floats, y: Any = None) -> "MeanSquaredNorm":
        """Learns the number."""
        self.norm_ = float(np.sqrt((np.asarray(X, dtype=np.float64) ** 2).sum(1).mean())) or 1.0
        return self

    def transform(self, X: Floats) -> Floats:
        """Divides by it."""
        return X / self.norm_


@dataclass(frozen=True)
class FoldLearning:
    """What a method may learn from in one fold: its training recordings, with their labels.

    Attributes:
        rows: of the training recordings in the cohort's table.
        labels_n: on the scale that models are trained on, or numbers of classes.
        groups_n: the subject or family of each; inner folds keep them together.
        num_classes: Q, or 0 for a number.
        seed: of the inner folds.
        features: a feature's name and rows of the table -> features of any recordings; see `RecordingFeatures.of`.
        depends_on: what a feature depends on, as plain values.
    """

    rows: Rows
    labels_n: Floats
    groups_n: NDArray[Any]
    num_classes: int
    seed: int
    features: Callable[[FeatureName, Rows], Any]
    depends_on: Callable[[FeatureName], dict[str, Any]]

    def inner_folds(self) -> list[tuple[NDArray[Any], NDArray[Any]]]:
        """Folds for the choice of hyper-parameters: by group, and stratified for classes."""
        kind = StratifiedGroupKFold if self.num_classes else GroupKFold
        number = min(INNER_FOLDS, len(np.unique(self.groups_n)))
        if self.num_classes:
            number = max(2, min(number, int(np.bincount(self.labels_n.astype(int)).min())))
        splitter = kind(number, shuffle=True, random_state=self.seed)
        return list(splitter.split(np.zeros(len(self.labels_n)), self.labels_n, self.groups_n))


class ClinicalMethod(Method):
    """Predicts a phenotype of recordings; fitted anew in every fold."""

    def fit(self, learning: FoldLearning) -> Numbers:
        """See `Method.fit`."""
        raise NotImplementedError

    def predict(self, rows: Rows) -> Floats:
        """Predictions for recordings that the fit has not seen, (n, O).

        Args:
            rows: of the cohort's table.

        Returns:
            The number on the scale of the training labels, or a score of each class: the highest is the prediction.
        """
        raise NotImplementedError

    def cache_key(self, learning: FoldLearning) -> dict[str, Any] | None:
        """What predictions depend on beside the fold and this package's code, as plain values; None = never kept."""
        return None


class SklearnMethod(ClinicalMethod):
    """A scikit-learn pipeline on features of recordings.

    Args:
        features: what it learns from; see `RecordingFeatures.of`.
        estimator: ``mean`` (of the training labels), ``linear`` (ridge or logistic regression) or ``svm``.
    """

    def __init__(self, features: FeatureName, estimator: EstimatorName) -> None:
        self.features, self.estimator = features, estimator

    def fit(self, learning: FoldLearning) -> Numbers:
        """Fits the pipeline, with hyper-parameters chosen on inner folds."""
        self._learning = learning
        unfitted = pipeline(self.features, self.estimator, learning)
        self._fitted = unfitted.fit(learning.features(self.features, learning.rows), learning.labels_n)
        return {}

    def predict(self, rows: Rows) -> Floats:
        """See `ClinicalMethod.predict`."""
        return scores(self._fitted, self._learning.features(self.features, rows), self._learning.num_classes)

    def cache_key(self, learning: FoldLearning) -> dict[str, Any]:
        """See `ClinicalMethod.cache_key`."""
        return {"features": self.features, "estimator": self.estimator, **learning.depends_on(self.features)}


def default_baselines(confounds: bool) -> dict[str, ClinicalMethod]:
    """What every prediction is compared with.

    Args:
        confounds: whether the cohort has some.
    """
    methods: dict[str, ClinicalMethod] = {
        "mean": SklearnMethod("none", "mean"),
        "confounds_linear": SklearnMethod("confounds", "linear"),
        "raw_linear": SklearnMethod("raw", "linear"),
        "raw_svm": SklearnMethod("raw", "svm"),
        "connectivity_linear": SklearnMethod("connectivity", "linear"),
        "connectivity_svm": SklearnMethod("connectivity", "svm"),
        "untrained_embedding_linear": SklearnMethod("untrained_embedding", "linear"),
        "untrained_embedding_svm": SklearnMethod("untrained_embedding", "svm"),
        "embedding_linear": SklearnMethod("embedding", "linear"),
        "embedding_svm": SklearnMethod("embedding", "svm"),
        "window_connectivity_linear": SklearnMethod("window_connectivity", "linear"),
        "untrained_gram_linear": SklearnMethod("untrained_gram", "linear"),
        "gram_linear": SklearnMethod("gram", "linear"),
        "connectivity_gram_linear": SklearnMethod("connectivity_gram", "linear"),
    }
    return {name: method for name, method in methods.items() if confounds or name != "confounds_linear"}


def pipeline(features: FeatureName, estimator: EstimatorName, learning: FoldLearning) -> Pipeline:
    """An unfitted pipeline from a recording's features to its label.

    Args:
        features: what the rows are; see `RecordingFeatures.of`.
        estimator: see `SklearnMethod`.
        learning: labels, for the inner folds.
    """
    if estimator == "mean":
        dummy = DummyClassifier(strategy="prior") if learning.num_classes else DummyRegressor(strategy="mean")
        return make_pipeline(dummy)
    # With more features than recordings all that linear and kernel methods see is inner products: the principal
    # components of the training recordings keep every one of them, in as many numbers as there are recordings.
    components = KernelPCA(kernel="linear", eigen_solver="dense", remove_zero_eig=True)
    steps: dict[FeatureName, list[Any]] = {
        "confounds": [_confounds()],
        "raw": [components],
        "connectivity": [components],
        "tangent": [ConnectivityMeasure(kind="tangent", vectorize=True), components],
        "embedding": [StandardScaler()],
        "untrained_embedding": [StandardScaler()],
        "window_connectivity": [components],
        "gram": [components],
        "untrained_gram": [components],
        "connectivity_gram": [components],
    }
    return make_pipeline(*steps[features], MeanSquaredNorm(), _searched(estimator, learning))


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
        model = SVC(class_weight="balanced", decision_function_shape="ovr")
        if estimator == "linear":
            model, grid = LogisticRegression(class_weight="balanced", max_iter=5000), {"C": LOGISTIC_COSTS}
    else:
        scoring = "neg_mean_squared_error"
        model = SVR(epsilon=SVR_TUBE * float(learning.labels_n.std()))
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
