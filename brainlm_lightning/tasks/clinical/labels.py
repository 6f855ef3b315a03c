"""Phenotypes as labels: read from the recordings' table, checked, and scaled by training subjects alone.

Paper, section 3.4. Shapes: R recordings.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Floats = NDArray[np.float64]
ScaleName = Literal["zscore", "minmax", "log_minmax", "classes"]


@dataclass(frozen=True)
class Target:
    """What is to be predicted.

    Attributes:
        column: a phenotype of the cohort's ``recordings.csv``.
        scale: ``zscore`` (the paper's for age), ``minmax`` (neuroticism), ``log_minmax`` (PCL, GAD-7) or ``classes``.
        classes: the column's values that are told apart, in this order; recordings of others are left out. () = all.
        paired: tells a subject's recordings apart, not subjects: which of them is of which class? Subjects without a
            recording of each are left out, features stand about the subject's mean, and AUC counts a subject's pairs.
    """

    column: str
    scale: ScaleName = "zscore"
    classes: tuple[str, ...] = ()
    paired: bool = False

    def __post_init__(self) -> None:
        """Validate that classes are asked for where they are named."""
        if (self.classes or self.paired) and self.scale != "classes":
            raise ValueError(f"target.scale is {self.scale!r}; named or paired classes take `scale: classes`")
        if len(self.classes) == 1 or len(set(self.classes)) < len(self.classes):
            raise ValueError(f"target.classes are {', '.join(self.classes)}; expected two or more different ones")

    @property
    def name(self) -> str:
        """`age`; `condition_rest_or_task_paired` where classes are named and paired."""
        return "_".join(
            [self.column, *(["_or_".join(self.classes)] if self.classes else []), *["paired"] * self.paired]
        )


@dataclass(frozen=True)
class Labels:
    """A phenotype of every recording.

    Attributes:
        values_R: numbers in the phenotype's own unit, or class numbers; NaN where it is missing.
        classes: names of the classes in order, () for a number.
        paired: whether subjects have recordings of every class.
    """

    values_R: Floats
    classes: tuple[str, ...]
    paired: bool = False

    @property
    def known_R(self) -> NDArray[np.bool_]:
        """True where there is a label."""
        return ~np.isnan(self.values_R)


def read_labels(table: pd.DataFrame, target: Target, usable_R: NDArray[np.bool_] | None = None) -> Labels:
    """Labels of a table of recordings.

    Args:
        table: of recordings.
        target: which column, and how it is read.
        usable_R: recordings that can be predicted, for paired classes: a subject is whole by these alone. None = all.

    Raises:
        ValueError: there is no such column, it is not numeric where it must be, is constant or empty, below the
            logarithm's range, or a subject is in two classes.
    """
    column = target.column
    if column not in table.columns:
        raise ValueError(f"there is no phenotype {column!r} in the cohort; its table has {', '.join(table.columns)}")
    given = table[column]
    labels = _classes(given, target.classes) if target.scale == "classes" else Labels(_numbers(given), ())
    if target.paired:
        labels = _paired(labels, table["subject_id"], np.ones(len(table), bool) if usable_R is None else usable_R)
    distinct = np.unique(labels.values_R[labels.known_R])
    if len(distinct) < 2:
        what = f"is {given.dropna().iloc[0]!r} everywhere" if len(distinct) else "is empty"
        raise ValueError(f"phenotype {column!r} {what}: there is nothing to predict")
    if target.scale == "log_minmax" and distinct[0] <= -1:
        raise ValueError(
            f"phenotype {column!r} goes down to {distinct[0]:g}; log(1 + x) takes values above −1: use minmax"
        )
    if labels.classes and not labels.paired:
        _check_one_class_each(labels, table["subject_id"], column)
    return labels


def _numbers(given: pd.Series) -> Floats:
    numbers = pd.to_numeric(given, errors="coerce")
    wrong = given.notna() & numbers.isna() & (given.astype(str).str.strip() != "")
    if wrong.any():
        raise ValueError(
            f"phenotype {given.name!r} is not a number in {int(wrong.sum())} of {len(given)} recordings, "
            f"{given[wrong].iloc[0]!r} first; correct the table, or predict it as `classes`"
        )
    return np.asarray(numbers.replace([np.inf, -np.inf], np.nan), dtype=np.float64)


def _classes(given: pd.Series, wanted: tuple[str, ...]) -> Labels:
    text = given.astype(object).where(given.notna(), "").astype(str).str.strip()
    found = sorted(set(text[text != ""]))
    absent = [name for name in wanted if name not in found]
    if absent:
        raise ValueError(f"target.classes names {absent[0]!r}; {given.name!r} has {', '.join(found)}")
    names = wanted or found
    if len(names) > len(text) // 5:
        raise ValueError(
            f"phenotype {given.name!r} has {len(names)} classes in {len(text)} recordings; if it is a number, predict "
            "it with scale zscore, minmax or log_minmax"
        )
    codes = text.map({name: float(code) for code, name in enumerate(names)})
    return Labels(np.asarray(codes, dtype=np.float64), tuple(names))


def _paired(labels: Labels, subjects: pd.Series, usable_R: NDArray[np.bool_]) -> Labels:
    """Leaves out subjects who lack a class."""
    values_R = np.where(usable_R, labels.values_R, np.nan)
    count = pd.Series(values_R).groupby(subjects.to_numpy()).transform("nunique").to_numpy()
    whole_R = count == len(labels.classes)
    if not whole_R.any():
        raise ValueError(f"no subject has usable recordings of all of {', '.join(labels.classes)}: none is paired")
    return Labels(np.where(whole_R, values_R, np.nan), labels.classes, paired=True)


def _check_one_class_each(labels: Labels, subjects: pd.Series, column: str) -> None:
    known = pd.Series(labels.values_R[labels.known_R]).groupby(subjects[labels.known_R].to_numpy()).nunique()
    if (known > 1).any():
        raise ValueError(
            f"{int((known > 1).sum())} subjects are in several classes of {column!r}, {known[known > 1].index[0]!r} "
            "first; a subject is in one class, in all of its recordings"
        )


@dataclass(frozen=True)
class TargetScale:
    """Maps labels to the scale that a model is trained on, (f(y) − centre) / scale, and back; f is log(1 + y) or y.

    Attributes:
        name: which of the paper's.
        centre: mean or minimum of the training labels.
        scale: standard deviation or range of the training labels.
    """

    name: ScaleName
    centre: float = 0.0
    scale: float = 1.0

    @classmethod
    def fit(cls, name: ScaleName, training: Floats) -> "TargetScale":
        """Learns centre and scale from the labels of training subjects.

        Raises:
            ValueError: the training labels are all the same.
        """
        if name == "classes":
            return cls(name)
        values = np.log1p(training) if name == "log_minmax" else training
        if np.ptp(values) == 0:
            raise ValueError(f"all {len(values)} training labels are {training[0]:g}; use fewer folds")
        if name == "zscore":
            return cls(name, float(values.mean()), float(values.std()))
        return cls(name, float(values.min()), float(np.ptp(values)))

    def forward(self, values: Floats) -> Floats:
        """Own units to the training scale; beyond 0 to 1 for test labels outside the training range."""
        values = np.log1p(values) if self.name == "log_minmax" else values
        return (values - self.centre) / self.scale

    def inverse(self, scaled: Floats) -> Floats:
        """The training scale to own units."""
        values = scaled * self.scale + self.centre
        return np.expm1(values) if self.name == "log_minmax" else values


def class_weights(codes: Floats, num_classes: int) -> Floats:
    """Weights with which every class counts the same: n / (C · n_c), of mean 1 over the training recordings.

    Raises:
        ValueError: a class has no training recording.
    """
    counts = np.bincount(codes.astype(int), minlength=num_classes)
    if not counts.all():
        raise ValueError(f"classes have {counts.tolist()} training recordings; each needs one: use fewer folds")
    return len(codes) / (num_classes * counts)
