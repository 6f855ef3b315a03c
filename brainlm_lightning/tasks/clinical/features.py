"""Features of recordings that clinical baselines learn from, each computed once for all methods and folds.

Shapes: R recordings (rows of the table), n recordings asked for, P parcels, T frames, E pairs of parcels, D width.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from nilearn.connectome import ConnectivityMeasure
from numpy.typing import NDArray
from rich.progress import track

from brainlm_lightning.data.parcellation import UNKNOWN_NETWORK
from brainlm_lightning.tasks.clinical.embedding import POOLINGS
from brainlm_lightning.tasks.clinical.feature_names import (
    COVARIANCE,
    HARMONISED,
    OF_RECORDINGS,
    TANGENT,
    UNTRAINED,
    as_measured,
    bare,
    check_features,
    embedding_of,
    parts_of,
)
from brainlm_lightning.tasks.clinical.folds import Fold
from brainlm_lightning.tasks.clinical.harmonisation import Sited, check_sites
from brainlm_lightning.tasks.clinical.question import Question
from brainlm_lightning.tasks.clinical.signal_features import signal_features

Floats = NDArray[np.floating]
LARGEST_CORRELATION = 0.999999  # arctanh(1) is infinite


@dataclass(frozen=True)
class BaselinePlan:
    """What baselines are given.

    Attributes:
        most_recordings: that are fitted on in a fold; of more, so many are drawn. Kernels grow with the square of it.
        confounds: columns that may predict the phenotype without any brain; those that are there are used.
        site: column of the sites between which features are harmonised.
        kept: columns whose effect on harmonised features stays; the target's never does.
    """

    most_recordings: int = 4000
    confounds: tuple[str, ...] = ("site", "mean_fd", "age", "sex")
    site: str = "site"
    kept: tuple[str, ...] = ("age", "sex")


class RecordingFeatures:
    """Features of a cohort's recordings by name.

    Args:
        question: with its cohort and encoder.
        plan: which confounds.
        parts: in which the encoder takes a window's tokens.
        wanted: names of all features that will be asked for: the embeddings among them are computed in one go.

    Raises:
        ValueError: there are no such features, or the encoder cannot have them.
    """

    def __init__(self, question: Question, plan: BaselinePlan, parts: int, wanted: Sequence[str] = ()) -> None:
        self.question, self.plan, self.parts = question, plan, parts
        for name in wanted:
            check_features(name, question.known_embeddings)
            if question.target.paired and {TANGENT, COVARIANCE} & {bare(part) for part in parts_of(name)}:
                raise ValueError(
                    f"features {name!r}: paired classes take features about their subject's mean, and a covariance "
                    f"about a mean is none, so it has no tangent; leave {TANGENT} and {COVARIANCE} out"
                )
        parts_wanted = [part for name in wanted for part in parts_of(name)]
        if any(part.startswith(HARMONISED) for part in parts_wanted):
            check_sites(question.data.recordings.table, plan.site, question.folds, question.target.paired)
        self.wanted = [as_measured(part) for part in parts_wanted]
        for part in self.wanted:
            if (embedding := embedding_of(part)) is not None:
                question.check_embedding(embedding, parts)

    def of(self, name: str, rows: NDArray[np.intp], fold: Fold) -> Any:
        """The features of recordings.

        Args:
            name: ``none``; ``confounds``, a table; ``raw``, the first window's series; ``connectivity``, see
                `correlations`; ``tangent``, the series themselves, (T, P) each, for a tangent space that is fitted in
                the fold; ``signal_features``, see there; ``embedding``, CLS and mean token of the pretrained encoder;
                or another of its embeddings (`embedding.definitions`), such as ``gram``; those also ``untrained_``, and
                before their space is fitted in the fold, where they have one (``covariance``);
                ``window_connectivity``, of the frames alone that the encoder sees. ``harmonised_`` before one of these:
                `Sited`, for `ComBat`, which is fitted in the fold. Joined by ``+``, several of these.
            rows: of the table.
            fold: from whose training subjects an untrained encoder may start.

        Returns:
            The features; of joined ones a dictionary by part.
        """
        if len(parts := parts_of(name)) > 1:
            return {part: self.of(part, rows, fold) for part in parts}
        if name.startswith(HARMONISED):
            return self._sited(self.of(as_measured(name), rows, fold), rows)
        if not self.question.target.paired:
            return self._of_one(name, rows, fold)
        together = self.question.rows
        return self._about_subjects(self._of_one(name, together, fold), np.searchsorted(together, rows))

    def _sited(self, values_nF: Floats, rows: NDArray[np.intp]) -> Sited:
        """Features of recordings with their sites and the covariates that harmonisation keeps."""
        people = self.question.data.recordings.table.iloc[rows]
        return Sited(values_nF, people[self.plan.site].astype(str).to_numpy(dtype=str), people[self.kept])

    def _about_subjects(self, values: Any, places: NDArray[np.intp]) -> Any:
        """Features of all recordings about the mean of their subject, at the given places; text as it is."""
        subjects = self.question.data.recordings.table["subject_id"].iloc[self.question.rows].to_numpy()
        if isinstance(values, pd.DataFrame):
            numbers = values.select_dtypes("number").columns
            apart = values[numbers] - values[numbers].groupby(subjects).transform("mean")
            return values.assign(**apart).iloc[places]
        _, subject_R = np.unique(subjects, return_inverse=True)
        mean_UF = np.zeros((subject_R.max() + 1, values.shape[1]))
        np.add.at(mean_UF, subject_R, values)
        mean_UF /= np.bincount(subject_R)[:, None]
        return values[places] - mean_UF[subject_R[places]]

    def _of_one(self, name: str, rows: NDArray[np.intp], fold: Fold) -> Any:
        """The features of a single name, as they are."""
        if name == "none":
            return np.zeros((len(rows), 1))
        if name == "confounds":
            return self.question.data.recordings.table[self.confounds].iloc[rows]
        if name == "raw":
            return np.stack([self._first_window(row).ravel() for row in rows])
        if name == TANGENT:
            return [self.series(row).T for row in rows]
        if name == "connectivity":
            return self._correlations[np.searchsorted(self.question.rows, rows)]
        if name == "signal_features":
            return self._signal_features[np.searchsorted(self.question.rows, rows)]
        untrained = name.startswith(UNTRAINED)
        if (embedding := embedding_of(name)) is not None:
            others = self._asked_of(untrained)
            found = self.question.embedding(embedding, untrained, fold, self.parts, others)
            return found[np.searchsorted(self.question.rows, rows)]
        pooled = self.question.features(untrained, fold, self.parts)
        return np.concatenate([pooled[pooling] for pooling in POOLINGS], axis=1)[rows]

    def _asked_of(self, untrained: bool) -> list[str]:
        """The embeddings that will be asked for of the same encoder."""
        same = [part for part in self.wanted if part.startswith(UNTRAINED) == untrained]
        return [own for part in same if (own := embedding_of(part)) is not None]

    def depends_on(self, name: str) -> dict[str, Any]:
        """What features depend on beside the recordings and the fold, as plain values."""
        table = self.question.data.recordings.table.iloc[self.question.rows]
        parts = parts_of(name)

        def text(columns: Iterable[str]) -> dict[str, list[str]]:
            return {column: table[column].astype(str).tolist() for column in columns}

        encoded = not {as_measured(part) for part in parts} <= set(OF_RECORDINGS)
        harmonised = any(part.startswith(HARMONISED) for part in parts)
        return {
            "confounds": text(self.confounds) if "confounds" in parts else None,
            "sites": [text([self.plan.site]), text(self.kept)] if harmonised else None,
            "parts": self.parts if encoded else None,
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
        return confounds_of(self.question, self.plan)

    @cached_property
    def kept(self) -> list[str]:
        """The covariates that harmonisation keeps: those of the plan that this cohort has, the target left out."""
        table = self.question.data.recordings.table.iloc[self.question.rows]
        return confound_columns(table, self.plan.kept, self.question.target.column)

    @cached_property
    def _correlations(self) -> NDArray[np.float32]:
        rows = track(self.question.rows, "connectivity", disable=len(self.question.rows) < 200)
        return correlations(self.series(row).T for row in rows)

    @cached_property
    def _signal_features(self) -> NDArray[np.float32]:
        rows = track(self.question.rows, "signal features", disable=len(self.question.rows) < 200)
        return np.stack([self._signal_features_of(int(row)) for row in rows])

    def _signal_features_of(self, row: int) -> NDArray[np.float32]:
        dataset = self.question.data.dataset
        assert dataset is not None
        (scale_P,) = dataset.scaling(np.array([row]))[1]
        (observed_P,) = dataset.observed(np.array([row]))
        raw_PT = self.series(row) * np.where(observed_P, scale_P, 0)[:, None]  # in the file's unit, but for the mean
        return signal_features(raw_PT, observed_P, list(self.question.data.atlas.networks), UNKNOWN_NETWORK)


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


def confounds_of(question: Question, plan: BaselinePlan) -> list[str]:
    """The confounds of the plan that a question's cohort has."""
    table = question.data.recordings.table.iloc[question.rows]
    return confound_columns(table, plan.confounds, question.target.column)


def confound_columns(table: pd.DataFrame, names: Sequence[str], target: str) -> list[str]:
    """The confounds that the table has and that vary, the target left out."""
    there = [name for name in names if name != target and name in table.columns]
    return [name for name in there if table[name].nunique() > 1]
