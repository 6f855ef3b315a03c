"""Folds of recordings, dealt out by subject or family.

Shapes: R recordings (rows of the table).
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from brainlm_lightning.data.split import units_of
from brainlm_lightning.tasks.clinical.folds import Fold, FoldPlan, Units, make_folds, strata_of
from brainlm_lightning.tasks.clinical.labels import Labels

Seen = Callable[[pd.DataFrame], NDArray[np.bool_]]


def recording_folds(table: pd.DataFrame, labels: Labels, rows: NDArray[Any], plan: FoldPlan, seen: Seen) -> list[Fold]:
    """Folds as rows of the table.

    Args:
        table: of all recordings, with ``subject_id``.
        labels: of all recordings.
        rows: of the recordings that may be used and have a label.
        plan: how to deal.
        seen: says of recordings whose subjects the pretraining has seen.

    Raises:
        ValueError: a column of the plan does not exist or is empty, a subject is in two families or blocks, or there
            are fewer subjects than folds.
    """
    if plan.train_on == "unseen":
        rows = rows[~seen(table.iloc[rows])]
    people = table.iloc[rows]
    family = fold_units(people, plan)
    blocks = _one_each(people, plan.leave_out, "leave_out") if plan.leave_out else None
    names, first, unit_R = np.unique(family, return_index=True, return_inverse=True)
    seen_R = seen(people) if plan.test_on == "unseen" else np.zeros(len(rows), dtype=bool)
    testable = np.bincount(unit_R, weights=seen_R) == 0
    label_U = np.bincount(unit_R, weights=labels.values_R[rows]) / np.bincount(unit_R)
    units = Units(names.tolist(), _strata(label_U, labels, plan), testable, None if blocks is None else blocks[first])
    if blocks is not None and (blocks != blocks[first][unit_R]).any():
        raise ValueError(
            f"a family of {plan.family or 'family'!r} is in several values of {plan.leave_out!r}; "
            "folds cannot keep both"
        )
    _check_classes(units, labels, plan)
    return [_of_rows(fold, rows, unit_R) for fold in make_folds(units, plan)]


def fold_units(people: pd.DataFrame, plan: FoldPlan) -> NDArray[np.str_]:
    """The unit that no fold tears, of each recording: the plan's family, else the cohort's own, else the subject."""
    if plan.family:
        return _one_each(people, plan.family, "family")
    return units_of(people).astype(str).to_numpy(dtype=str)


def _of_rows(fold: Fold, rows: NDArray[Any], unit_R: NDArray[Any]) -> Fold:
    train, val, test = (rows[np.isin(unit_R, part)] for part in (fold.train, fold.val, fold.test))
    return Fold(fold.repeat, fold.name, train, val, test)


def _strata(label_U: NDArray[Any], labels: Labels, plan: FoldPlan) -> NDArray[Any]:
    """The class (of a family its rounded mean), or the bin of a number."""
    if labels.paired:  # every subject is of every class
        return np.zeros(len(label_U), dtype=np.intp)
    return label_U.round().astype(np.intp) if labels.classes else strata_of(label_U, plan.number)


def _one_each(people: pd.DataFrame, column: str, setting: str) -> NDArray[Any]:
    """A column's value for each recording; it must be the same in all recordings of a subject."""
    if column not in people.columns:
        raise ValueError(f"folds.{setting} names {column!r}, and the cohort's table has {', '.join(people.columns)}")
    values = people[column].astype(object).where(people[column].notna(), "").astype(str)
    if (values == "").any():
        raise ValueError(
            f"folds.{setting}: {column!r} is empty for {int((values == '').sum())} of {len(people)} recordings"
        )
    torn = values.groupby(people["subject_id"]).nunique() > 1
    if torn.any():
        raise ValueError(f"{int(torn.sum())} subjects have several values of {column!r}, {torn.idxmax()!r} first")
    return values.to_numpy(dtype=str)


def _check_classes(units: Units, labels: Labels, plan: FoldPlan) -> None:
    """Check that every fold can get subjects of every class, unless folds are sites."""
    if not labels.classes or labels.paired or units.blocks is not None:
        return
    counts = np.bincount(units.strata[units.testable], minlength=len(labels.classes))
    if counts.min() < plan.number:
        shown = ", ".join(f"{name} {count}" for name, count in zip(labels.classes, counts, strict=True))
        raise ValueError(
            f"subjects that may test, by class: {shown}; {plan.number} folds need {plan.number} of each. Lower "
            "folds.number, or leave the class out"
        )
