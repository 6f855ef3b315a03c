"""What a method may learn from in one fold.

Shapes: n recordings, Q classes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

Floats = NDArray[np.floating]
Rows = NDArray[np.intp]

INNER_FOLDS = 5


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
    features: Callable[[str, Rows], Any]
    depends_on: Callable[[str], dict[str, Any]]

    def inner_folds(self) -> list[tuple[NDArray[Any], NDArray[Any]]]:
        """Folds for the choice of hyper-parameters: by group, and stratified for classes."""
        kind = StratifiedGroupKFold if self.num_classes else GroupKFold
        number = min(INNER_FOLDS, len(np.unique(self.groups_n)))
        if self.num_classes:
            number = max(2, min(number, int(np.bincount(self.labels_n.astype(int)).min())))
        splitter = kind(number, shuffle=True, random_state=self.seed)
        return list(splitter.split(np.zeros(len(self.labels_n)), self.labels_n, self.groups_n))
