"""Features of recordings that clinical baselines learn from, each computed once for all methods and folds.

Shapes: R recordings (rows of the table), n recordings asked for, P parcels, T frames, E pairs of parcels, D width.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pandas as pd
from nilearn.connectome import ConnectivityMeasure
from numpy.typing import NDArray
from rich.progress import track

from brainlm_lightning.tasks.clinical.embedding import POOLINGS
from brainlm_lightning.tasks.clinical.folds import Fold
from brainlm_lightning.tasks.clinical.question import Question

Floats = NDArray[np.floating]
FeatureName = Literal[
    "none",
    "confounds",
    "raw",
    "connectivity",
    "tangent",
    "embedding",
    "untrained_embedding",
    "window_connectivity",
    "gram",
    "untrained_gram",
    "connectivity_gram",
]
LARGEST_CORRELATION = 0.999999  # arctanh(1) is infinite


@dataclass(frozen=True)
class BaselinePlan:
    """What baselines are given.

    Attributes:
        most_recordings: that are fitted on in a fold; of more, so many are drawn. Kernels grow with the square of it.
        confounds: columns that may predict the phenotype without any brain; those that are there are used.
    """

    most_recordings: int = 4000
    confounds: tuple[str, ...] = ("site", "mean_fd", "age", "sex")


class RecordingFeatures:
    """Features of a cohort's recordings by name.

    Args:
        question: with its cohort and encoder.
        plan: which confounds.
        parts: in which the encoder takes a window's tokens.
    """

    def __init__(self, question: Question, plan: BaselinePlan, parts: int) -> None:
        self.question, self.plan, self.parts = question, plan, parts

    def of(self, name: FeatureName, rows: NDArray[np.intp], fold: Fold) -> Any:
        """The features of recordings.

        Args:
            name: ``none``; ``confounds``, a table; ``raw``, the first window's series; ``connectivity``, see
                `correlations`; ``tangent``, the series themselves, (T, P) each, for a tangent space that is fitted in
                the fold; ``embedding``, CLS and mean token of the pretrained encoder; ``gram``, its second-order
                embedding (`embedding.definitions.Gram`); both also ``untrained_``; ``window_connectivity``, of the
                frames alone that the encoder sees; ``connectivity_gram``, connectivity and ``gram`` side by side.
            rows: of the table.
            fold: from whose training subjects an untrained encoder may start.
        """
        if name == "none":
            return np.zeros((len(rows), 1))
        if name == "confounds":
            return self.question.data.recordings.table[self.confounds].iloc[rows]
        if name == "raw":
            return np.stack([self._first_window(row).ravel() for row in rows])
        if name == "tangent":
            return [self.series(row).T for row in rows]
        if name == "connectivity":
            return self._correlations[np.searchsorted(self.question.rows, rows)]
        if name in ("window_connectivity", "gram", "untrained_gram", "connectivity_gram"):
            return self._second_order(name, fold)[np.searchsorted(self.question.rows, rows)]
        found = self.question.features(name == "untrained_embedding", fold, self.parts)
        return np.concatenate([found[pooling] for pooling in POOLINGS], axis=1)[rows]

    def _second_order(self, name: FeatureName, fold: Fold) -> NDArray[np.float32]:
        """Second-order features of all recordings with a label."""
        found = self.question.embeddings(name.startswith("untrained"), fold, self.parts)
        if name == "connectivity_gram":
            return np.concatenate([self._correlations, found["gram"]], axis=1)
        return found["connectivity" if name == "window_connectivity" else "gram"]

    def depends_on(self, name: FeatureName) -> dict[str, Any]:
        """What features depend on beside the recordings and the fold, as plain values."""
        table = self.question.data.recordings.table.iloc[self.question.rows]
        confounds = {column: table[column].astype(str).tolist() for column in self.confounds}
        return {
            "confounds": confounds if name == "confounds" else None,
            "parts": self.parts if name.endswith(("embedding", "gram")) or name.startswith("window") else None,
        }

    def series(self, row: int) -> NDArray[np.float32]:
        """The scaled series of a recording, (P, T), without the frames that are marked as missing."""
        dataset = self.question.data.dataset
        assert dataset is not None
        return dataset.scaled_recording(int(row))[0][:, ~dataset.missing_frames(int(row))]

    def _first_window(self, row: int) -> NDArray[np.float32]:
        """The scaled series of a recording's first window, (P, T)."""
        data = self.question.data
        assert data.dataset is not None
        start = data.places.side_by_side(int(row))[0]
        return data.dataset.scaled_recording(int(row))[0][:, start : start + data.window_frames]

    @cached_property
    def confounds(self) -> list[str]:
        """The confounds that this cohort has."""
        table = self.question.data.recordings.table.iloc[self.question.rows]
        return confound_columns(table, self.plan.confounds, self.question.target.column)

    @cached_property
    def _correlations(self) -> NDArray[np.float32]:
        rows = track(self.question.rows, "connectivity", disable=len(self.question.rows) < 200)
        return correlations(self.series(row).T for row in rows)


def correlations(series: Iterable[Floats]) -> NDArray[np.float32]:
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
