"""Methods that predict a phenotype from whole recordings: what networks are compared with.

Everything with a parameter is a step of a scikit-learn pipeline, so that it is fitted inside the fold.
Hyper-parameters are chosen inside it, too, over inner folds that keep a subject's recordings together.

Shapes: n recordings, F features, P parcels, T frames, Q classes, O outputs: 1 for a number, Q for classes.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brainlm_lightning.tasks.clinical.feature_names import parts_of
from brainlm_lightning.tasks.clinical.fold_learning import FoldLearning, Rows
from brainlm_lightning.tasks.clinical.pipelines import EstimatorName, fitted_pipeline, scores
from brainlm_lightning.tasks.compare import Method, Numbers

Floats = NDArray[np.floating]


class ClinicalMethod(Method):
    """Predicts a phenotype of recordings; fitted anew in every fold.

    Attributes:
        wanted: features that it will ask for, so that embeddings are computed in one go; others may be asked for, too.
    """

    wanted: tuple[str, ...] = ()

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

    def __init__(self, features: str, estimator: EstimatorName) -> None:
        self.features, self.estimator = features, estimator
        self.wanted = (features,)

    def fit(self, learning: FoldLearning) -> Numbers:
        """Fits the pipeline, with hyper-parameters chosen on inner folds."""
        self._learning = learning
        self._fitted = fitted_pipeline(self.features, self.estimator, learning)
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
    methods = {
        "mean": SklearnMethod("none", "mean"),
        "confounds_linear": SklearnMethod("confounds", "linear"),
        "raw_linear": SklearnMethod("raw", "linear"),
        "raw_svm": SklearnMethod("raw", "svm"),
        "signal_features_linear": SklearnMethod("signal_features", "linear"),
        "connectivity_linear": SklearnMethod("connectivity", "linear"),
        "connectivity_svm": SklearnMethod("connectivity", "svm"),
        "confounds_connectivity_linear": SklearnMethod("confounds+connectivity", "linear"),
        "untrained_embedding_linear": SklearnMethod("untrained_embedding", "linear"),
        "untrained_embedding_svm": SklearnMethod("untrained_embedding", "svm"),
        "embedding_linear": SklearnMethod("embedding", "linear"),
        "embedding_svm": SklearnMethod("embedding", "svm"),
        "window_connectivity_linear": SklearnMethod("window_connectivity", "linear"),
        "untrained_gram_linear": SklearnMethod("untrained_gram", "linear"),
        "gram_linear": SklearnMethod("gram", "linear"),
        "connectivity_gram_linear": SklearnMethod("connectivity+gram", "linear"),
    }
    return {
        name: method for name, method in methods.items() if confounds or "confounds" not in parts_of(method.features)
    }


def wanted_features(methods: Iterable[ClinicalMethod]) -> list[str]:
    """The features that methods will ask for, each once."""
    return sorted({name for method in methods for name in method.wanted})
