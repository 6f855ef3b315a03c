"""What a phenotype's prediction by a network is compared with: scikit-learn pipelines on features of recordings.

Everything with a parameter is a step of the pipeline, so that it is fitted where the pipeline is: inside the fold.
Hyper-parameters are chosen inside it, too, over inner folds that keep a subject's recordings together.

Shapes: n recordings, F features, P parcels, T frames, E pairs of parcels, C classes.
"""

from collections.abc import Iterable, Sequence
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

Floats = NDArray[np.floating]
FeatureName = Literal["none", "confounds", "raw", "connectivity", "embedding", "untrained_embedding"]
EstimatorName = Literal["mean", "linear", "svm"]
ConnectivityName = Literal["correlation", "tangent"]

# Name of a method -> its features and its estimator.
METHODS: dict[str, tuple[FeatureName, EstimatorName]] = {
    "mean": ("none", "mean"),
    "confounds_linear": ("confounds", "linear"),
    "raw_linear": ("raw", "linear"),
    "raw_svm": ("raw", "svm"),
    "connectivity_linear": ("connectivity", "linear"),
    "connectivity_svm": ("connectivity", "svm"),
    "untrained_embedding_linear": ("untrained_embedding", "linear"),
    "untrained_embedding_svm": ("untrained_embedding", "svm"),
    "embedding_linear": ("embedding", "linear"),
    "embedding_svm": ("embedding", "svm"),
}
INNER_FOLDS = 5
# Features are brought to a mean squared norm of 1, so one grid serves three confounds and 76,000 connections.
ALPHAS = np.logspace(-3, 2, 11).tolist()
SVM_COSTS = [0.1, 1.0, 10.0, 100.0]
LOGISTIC_COSTS = np.logspace(-1, 4, 6).tolist()
SVR_TUBE = 0.1  # half width of the tube without loss, in standard deviations of the training labels (SVR's own: 0.1)
LARGEST_CORRELATION = 0.999999  # arctanh(1) is infinite


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
class BaselinePlan:
    """What networks are compared with.

    Attributes:
        connectivity: ``correlation`` between parcels, or the ``tangent`` of covariances at their mean over the training
            recordings, which is often the better and takes minutes a fold with 400 parcels.
        most_recordings: that scikit-learn's methods are fitted on in a fold; of more, so many are drawn. Their kernels
            grow with the square of it.
        confounds: columns that may predict the phenotype without any brain; those that are there are used.
    """

    connectivity: ConnectivityName = "correlation"
    most_recordings: int = 4000
    confounds: tuple[str, ...] = ("site", "mean_fd", "age", "sex")


@dataclass(frozen=True)
class Training:
    """Labels of the training recordings.

    Attributes:
        labels_n: on the scale that models are trained on, or numbers of classes.
        groups_n: the subject or family of each; inner folds keep them together.
        num_classes: C, or 0 for a number.
        seed: of the inner folds.
    """

    labels_n: Floats
    groups_n: NDArray
    num_classes: int
    seed: int = 0

    def inner_folds(self) -> list[tuple[NDArray, NDArray]]:
        """Divisions for the choice of hyper-parameters, by group and, of classes, stratified."""
        kind = StratifiedGroupKFold if self.num_classes else GroupKFold
        number = min(INNER_FOLDS, len(np.unique(self.groups_n)))
        if self.num_classes:
            number = max(2, min(number, int(np.bincount(self.labels_n.astype(int)).min())))
        splitter = kind(number, shuffle=True, random_state=self.seed)
        return list(splitter.split(np.zeros(len(self.labels_n)), self.labels_n, self.groups_n))


def pipeline(
    features: FeatureName, estimator: EstimatorName, training: Training, connectivity: ConnectivityName
) -> Pipeline:
    """An unfitted pipeline from a recording's features to its label.

    Args:
        features: what the rows are; see `correlations` and `confound_columns`.
        estimator: ``mean`` (of the training labels), ``linear`` (ridge or logistic regression) or ``svm``.
        training: labels, for the inner folds.
        connectivity: ``correlation``, where rows are vectors of it already; or ``tangent``, where rows are series, each
            (T, P), and the mean matrix is fitted.
    """
    if estimator == "mean":
        dummy = DummyClassifier(strategy="prior") if training.num_classes else DummyRegressor(strategy="mean")
        return make_pipeline(dummy)
    # With more features than recordings all that linear and kernel methods see is inner products: the principal
    # components of the training recordings keep every one of them, in as many numbers as there are recordings.
    components = KernelPCA(kernel="linear", eigen_solver="dense", remove_zero_eig=True)
    steps: dict[FeatureName, list[Any]] = {
        "confounds": [_confounds()],
        "raw": [components],
        "connectivity": [*_tangent(connectivity), components],
        "embedding": [StandardScaler()],
        "untrained_embedding": [StandardScaler()],
    }
    return make_pipeline(*steps[features], MeanSquaredNorm(), _searched(estimator, training))


def _tangent(connectivity: ConnectivityName) -> list[Any]:
    return [] if connectivity == "correlation" else [ConnectivityMeasure(kind="tangent", vectorize=True)]


def _confounds() -> ColumnTransformer:
    """Text as one column a value (an unknown site is none of them), numbers scaled, the missing at the median."""

    def numeric(table: pd.DataFrame) -> list[str]:
        return [str(name) for name, kind in table.dtypes.items() if is_numeric_dtype(kind) and not is_bool_dtype(kind)]

    def text(table: pd.DataFrame) -> list[str]:
        return [str(name) for name in table if name not in numeric(table)]

    numbers = make_pipeline(SimpleImputer(strategy="median", keep_empty_features=True), StandardScaler())
    return ColumnTransformer(
        [("number", numbers, numeric), ("text", OneHotEncoder(handle_unknown="ignore", sparse_output=False), text)]
    )


def _searched(estimator: EstimatorName, training: Training) -> GridSearchCV:
    """An estimator whose strength of regularisation is chosen on inner folds."""
    grid: dict[str, Any] = {"C": SVM_COSTS, "kernel": ["linear", "rbf"]}
    model: Any
    if training.num_classes:
        scoring = "roc_auc" if training.num_classes == 2 else "balanced_accuracy"
        model = SVC(class_weight="balanced", decision_function_shape="ovr")
        if estimator == "linear":
            model, grid = LogisticRegression(class_weight="balanced", max_iter=5000), {"C": LOGISTIC_COSTS}
    else:
        scoring = "neg_mean_squared_error"
        model = SVR(epsilon=SVR_TUBE * float(training.labels_n.std()))
        if estimator == "linear":
            model, grid = Ridge(), {"alpha": ALPHAS}
    return GridSearchCV(model, grid, scoring=scoring, cv=training.inner_folds())


def scores(fitted: Pipeline, features: Any, num_classes: int) -> Floats:
    """What a fitted pipeline says of recordings: the number (n, 1), or a score of each class (n, C).

    Scores are probabilities where the method has them, else distances from the boundary; the highest is the prediction.
    """
    if not num_classes:
        return fitted.predict(features)[:, None].astype(np.float64)
    if hasattr(fitted, "predict_proba"):
        return fitted.predict_proba(features)
    distance = fitted.decision_function(features)
    return np.stack([-distance, distance], axis=1) if num_classes == 2 else distance


# -- features ---------------------------------------------------------------------------------------------------------


def correlations(series: Iterable[Floats]) -> Floats:
    """Functional connectivity: Fisher's z of the correlations between parcels, (n, E) float32; 0 where data lack.

    Args:
        series: (T, P) of each recording; any number of frames.
    """
    measure = ConnectivityMeasure(
        kind="correlation", vectorize=True, discard_diagonal=True, standardize="zscore_sample"
    )
    rows = []
    for values_TP in series:
        correlation_E = np.nan_to_num(measure.fit_transform([values_TP])[0])
        rows.append(np.arctanh(correlation_E.clip(-LARGEST_CORRELATION, LARGEST_CORRELATION)).astype(np.float32))
    return np.stack(rows)


def confound_columns(table: pd.DataFrame, names: Sequence[str], target: str) -> list[str]:
    """The confounds that the table has and that vary, the target left out."""
    there = [name for name in names if name != target and name in table.columns]
    return [name for name in there if table[name].nunique() > 1]
