"""What the comparisons of all questions share: methods that meet on the same windows of the same test sets.

Shapes: B batch, P parcels, T frames, R recordings of a test set.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Literal, Protocol, TypeVar

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from rich.progress import track
from torch import Tensor

from brainlm_lightning.data.atlas import Atlas
from brainlm_lightning.data.datamodule import CohortDataModule
from brainlm_lightning.data.division import TestSet
from brainlm_lightning.data.windows import Batch
from brainlm_lightning.evaluation.comparison import with_corrected_p
from brainlm_lightning.evaluation.covariance import ScaledRecording
from brainlm_lightning.evaluation.names import MetricName, check_method_name, fitted_name
from brainlm_lightning.simulation.optimum import Optimum
from brainlm_lightning.simulation.state_space import load_truth

OPTIMUM = "optimum"  # what knows how a simulated cohort was made
SHOWN_WINDOWS = 4  # kept of each condition, for figures
Numbers = dict[str, float]
Arrays = dict[str, NDArray[Any]]
M = TypeVar("M", bound="Method")


@dataclass(frozen=True)
class LearningData:
    """What a method may learn from: recordings of training and validation subjects, never of test subjects.

    Attributes:
        data: scaled for this test.
        shows_progress: on the first rank.
    """

    data: CohortDataModule
    shows_progress: bool = False

    def recordings(self, split: Literal["train", "val"], name: str = "") -> Iterator[ScaledRecording]:
        """Whole recordings, scaled (P, T), each with its observed parcels (P,).

        Args:
            split: ``train`` to learn from, ``val`` to choose by.
            name: of the method that is fitted, for the progress bar; "" shows none.
        """
        rows = self.data.train_rows if split == "train" else self.data.val_rows
        bar = self.shows_progress and bool(name)
        return iter(track(self.data.scaled_recordings(rows), f"fitting {name}", total=len(rows), disable=not bar))


class Method:
    """One method of a comparison. Each question has a subclass of this that names what its methods do.

    Attributes:
        mixed_precision: whether it runs in the Trainer's precision. Networks do; baselines are exact.
    """

    mixed_precision: ClassVar[bool] = False

    def fit(self, learning: Any) -> Numbers:
        """Learns from training subjects, once, before the first test window; by default nothing.

        Args:
            learning: what the question offers to learn from.

        Returns:
            What was chosen on validation subjects, name -> number, for the run's metrics.
        """
        return {}

    def precision(self, device: torch.device) -> torch.autocast:
        """The context that the method runs in."""
        return torch.autocast(device.type, enabled=self.mixed_precision and torch.is_autocast_enabled(device.type))


def with_baselines(
    methods: Mapping[str, M], defaults: Mapping[str, M], given: Mapping[str, M | None] | None, use_defaults: bool = True
) -> dict[str, M]:
    """The methods of a comparison, the one that the run is about first.

    Args:
        methods: what the run is about.
        defaults: baselines that every test of this question has.
        given: the experiment's own, added to the defaults; one of a default's name replaces it, null leaves it out.
        use_defaults: False = the given ones alone.

    Raises:
        ValueError: a baseline has the name of a network, or a name that cannot be told from a comparison's.
    """
    baselines: dict[str, M | None] = {**(defaults if use_defaults else {}), **(given or {})}
    taken = sorted({*methods, OPTIMUM} & baselines.keys())
    if taken:
        raise ValueError(f"a baseline is named {taken[0]!r}, which is taken; choose another name")
    for name in baselines:
        check_method_name(name)
    return {**methods, **{name: method for name, method in baselines.items() if method is not None}}


def fit_methods(methods: Mapping[str, Method], learning: Any) -> Numbers:
    """Fits every method; returns what they chose, `fitted/<method>/<what>`."""
    chosen: Numbers = {}
    for name, method in methods.items():
        chosen |= {fitted_name(name, what): float(value) for what, value in method.fit(learning).items()}
    return chosen


@dataclass(frozen=True)
class TestedSet(Generic[M]):
    """A test set as a comparison sees it.

    Attributes:
        name: of the cohort.
        rows: of the table of recordings, in rising order.
        subject_R: of each recording.
        id_R: name of each recording.
        own_methods: methods that exist for this set alone: the optimum of a simulated cohort.
    """

    __test__: ClassVar[bool] = False  # for pytest

    name: str
    rows: NDArray[np.intp]
    subject_R: NDArray[np.str_]
    id_R: list[str]
    own_methods: Mapping[str, M]

    @classmethod
    def of(cls, test: TestSet, table: pd.DataFrame, own_methods: Mapping[str, M] | None = None) -> "TestedSet[M]":
        """A test set of the DataModule, with its recordings' names and subjects from the table."""
        rows = np.asarray(test.rows)
        subject_R, id_R = table["subject_id"].iloc[rows].to_numpy(str), table["recording_id"].iloc[rows].tolist()
        return cls(test.name, rows, subject_R, id_R, own_methods or {})

    def index(self, batch: Batch) -> Tensor:
        """Which of the set's recordings each window of a batch is of, (B,)."""
        row_B = batch["recording_index_B"]
        return torch.searchsorted(torch.from_numpy(self.rows).to(row_B.device), row_B)

    def ids(self, batch: Batch) -> list[str]:
        """The name of the recording of each window of a batch."""
        return [self.id_R[index] for index in self.index(batch).tolist()]


def tested_sets(data: CohortDataModule, optimal: Callable[[Optimum], M]) -> list[TestedSet[M]]:
    """The test sets of a run.

    Args:
        data: after its setup.
        optimal: makes the question's method of an optimum.
    """
    sets = []
    for test in data.test_sets:
        optimum = known_optimum(data, test.rows)
        sets.append(TestedSet.of(test, data.recordings.table, {OPTIMUM: optimal(optimum)} if optimum else {}))
    return sets


def known_optimum(data: CohortDataModule, rows: NDArray[np.intp]) -> Optimum | None:
    """The Kalman smoother of recordings of one cohort, which knows their scaling, too; None where no truth is known.

    It knows the parcels of one atlas: where there are several, None.

    Args:
        data: after its setup.
        rows: of its table of recordings.
    """
    table, dataset = data.recordings.table.iloc[rows], data.dataset
    assert dataset is not None
    if not len(table) or not data.atlases.is_single:
        return None
    store = data.stores[table["store"].iloc[0]]
    if not (store.folder / "truth.npz").is_file():
        return None
    stored_centre_RP, scale_RP = dataset.scaling(rows)
    mean_RP = np.stack([store.mean(row) for row in table["row"]])
    names = list(table["recording_id"])
    truth = load_truth(store.folder / "truth.npz")
    return Optimum(
        {name: truth[name] for name in names},
        dict(zip(names, stored_centre_RP + mean_RP, strict=True)),
        dict(zip(names, np.where(dataset.observed(rows), scale_RP, np.nan), strict=True)),
    )


class Score(Protocol[M]):
    """What a question keeps of its methods' answers, and what it makes of them."""

    def update(self, test_set: TestedSet[M], methods: Mapping[str, M], batch: Batch) -> None:
        """Adds what every method answers on a batch of windows of a test set."""
        ...

    def compute(self, test_set: TestedSet[M], methods: Sequence[str]) -> tuple[Numbers, Arrays]:
        """Scores and uncorrected paired tests of the methods on a test set, and the arrays for reports."""
        ...


def correct_together(numbers: Numbers, arrays: Arrays) -> tuple[Numbers, Arrays]:
    """Corrects all p-values among the numbers of a test run together."""
    return with_corrected_p(numbers), arrays


class Comparison(Generic[M]):
    """Several methods on the same windows of several test sets; their paired tests are corrected together.

    Args:
        methods: by name, the one that the run is about first; fitted.
        test_sets: with the methods of their own.
        score: keeps the answers.
        correct: corrects the tests of the whole run.
    """

    def __init__(
        self,
        methods: Mapping[str, M],
        test_sets: Sequence[TestedSet[M]],
        score: Score[M],
        correct: Callable[[Numbers, Arrays], tuple[Numbers, Arrays]] = correct_together,
    ) -> None:
        self.methods, self.test_sets, self.score, self.correct = methods, test_sets, score, correct

    def methods_of(self, test_set: TestedSet[M]) -> dict[str, M]:
        """All that is tested on a set."""
        return {**self.methods, **test_set.own_methods}

    def update(self, batch: Batch, number: int) -> None:
        """Adds a batch of the test set of this number."""
        test_set = self.test_sets[number]
        self.score.update(test_set, self.methods_of(test_set), batch)

    def compute(self) -> tuple[Numbers, Arrays]:
        """All scores with intervals and corrected paired tests, and the arrays for reports."""
        numbers: Numbers = {}
        arrays: Arrays = {}
        for test_set in self.test_sets:
            found, drawn = self.score.compute(test_set, list(self.methods_of(test_set)))
            numbers |= found
            arrays |= drawn
        return self.correct(numbers, arrays)


class Shown:
    """The first windows of each condition, for figures."""

    def __init__(self) -> None:
        self._parts: dict[str, list[NDArray[Any]]] = {}

    def add(self, name: MetricName, values: Tensor) -> None:
        """Keeps a batch of values, unless there are enough of that name."""
        kept = self._parts.setdefault(str(name), [])
        if sum(len(part) for part in kept) < SHOWN_WINDOWS:
            values = values if values.dtype == torch.bool else values.float()
            kept.append(values.detach().cpu().numpy())

    def arrays(self) -> Arrays:
        """`SHOWN_WINDOWS` of each name, or as many as there are."""
        return {name: np.concatenate(parts)[:SHOWN_WINDOWS] for name, parts in self._parts.items()}


def parcel_arrays(atlas: Atlas) -> Arrays:
    """The parcels, for tables and figures from the run folder alone."""
    columns = {name: np.array([str(value) for value in atlas.parcels[name]]) for name in ("label", "network")}
    return {"parcels/label": columns["label"], "parcels/network": columns["network"], "parcels/xyz_mm": atlas.xyz_mm}
