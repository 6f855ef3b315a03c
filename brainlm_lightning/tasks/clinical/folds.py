"""Folds over subjects: who trains, stops the training and tests, a pure function of the subjects' names and labels.

The unit that is dealt out is the family, or the subject where no family is known: everything of a unit is on one side.
Units that must not test (subjects of the pretraining) train in every fold.

Shapes: U units (families or subjects).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Ints = NDArray[np.intp]

MOST_STRATA = 10  # bins of a continuous label: deciles, fewer where a bin could not reach every fold


@dataclass(frozen=True)
class FoldPlan:
    """How subjects are assigned to folds.

    Attributes:
        protocol: ``folds``, everybody tests once in a repeat; or ``brainmarks``, as in the benchmark of that name: one
            window of each recording is embedded and tested, and each repeat is a new split, stratified by the label,
            in which one part in ``number`` tests. Set ``repeats`` to 20 or more for it.
        number: test folds of a repeat.
        repeats: times that all subjects are dealt out anew. Repeats share subjects and are not independent.
        leave_out: a column (``site``, ``cohort``): each of its values is a test fold, in place of ``number``.
        family: a column that names families, which stay together; None = the families of the cohort's manifest.
        test_on: ``unseen``, only subjects that the pretraining has not seen; or ``all``, and the table says how many of
            them it has.
        train_on: ``all`` others, or ``unseen`` subjects alone, as in the paper: those of the pretraining are left out.
        validation: share of a fold's training subjects that choose the checkpoint.
        seed: of the dealing.
    """

    protocol: Literal["folds", "brainmarks"] = "folds"
    number: int = 5
    repeats: int = 1
    leave_out: str | None = None
    family: str | None = None
    test_on: Literal["unseen", "all"] = "unseen"
    train_on: Literal["all", "unseen"] = "all"
    validation: float = 0.15
    seed: int = 0

    def __post_init__(self) -> None:
        """Validate the numbers of folds and repeats."""
        if self.number < 2 or self.repeats < 1:
            raise ValueError(f"folds are number={self.number}, repeats={self.repeats}; expected at least 2 and 1")
        if not 0 < self.validation < 1:
            raise ValueError(f"folds.validation is {self.validation}; expected a share between 0 and 1, such as 0.15")
        if self.leave_out and self.one_window:
            raise ValueError(f"protocol 'brainmarks' splits by label, not by {self.leave_out!r}; leave one of them out")
        if self.leave_out and self.repeats > 1:
            raise ValueError(f"folds by {self.leave_out!r} are the same in every repeat; set folds.repeats to 1")

    @property
    def one_window(self) -> bool:
        """Whether a recording is embedded and tested by its first window alone."""
        return self.protocol == "brainmarks"


@dataclass(frozen=True)
class Fold:
    """One division of the units, as positions in their order.

    Attributes:
        repeat: which dealing it belongs to.
        name: of the fold: its number, or the value of the column that is left out.
        train: units to fit on.
        val: units that choose the checkpoint.
        test: units to predict.
    """

    repeat: int
    name: str
    train: Ints
    val: Ints
    test: Ints


@dataclass(frozen=True)
class Units:
    """The units that are assigned: subjects or families.

    Attributes:
        names: (U,) unique; the order of the units changes no fold.
        strata: (U,) integers; folds have the same share of each.
        testable: (U,) bool; the others train always.
        blocks: (U,) values of the column to leave out, or None.
    """

    names: Sequence[str]
    strata: Ints
    testable: NDArray[np.bool_]
    blocks: NDArray[Any] | None = None


def strata_of(values: ArrayLike, number: int) -> Ints:
    """Bins of equal size of a continuous label, (U,), at most ten and each of at least ``number`` units."""
    values = np.asarray(values, dtype=np.float64)
    bins = max(1, min(MOST_STRATA, len(values) // number))
    rank = np.empty(len(values), dtype=np.intp)
    rank[np.argsort(values, kind="stable")] = np.arange(len(values))
    return rank * bins // max(1, len(values))


def deal(names: Sequence[str], strata: ArrayLike, number: int, salt: str) -> Ints:
    """Deals units out like cards, stratum after stratum, each shuffled by a keyed hash of its names.

    Returns:
        (U,) the hand that each gets, 0 to ``number`` − 1. Hands differ by one unit at most, in all and in any stratum.
    """
    digests = [hashlib.blake2b(f"{salt}/{name}".encode(), digest_size=8).digest() for name in names]
    stratum = np.asarray(strata).tolist()
    order = sorted(range(len(names)), key=lambda unit: (stratum[unit], digests[unit]))
    hands = np.empty(len(names), dtype=np.intp)
    hands[order] = np.arange(len(names)) % number
    return hands


def make_folds(units: Units, plan: FoldPlan) -> list[Fold]:
    """All folds of all repeats; fold k of repeat r is number r · folds + k.

    Raises:
        ValueError: a stratum or the whole has fewer testable units than folds, or nothing is left to train on.
    """
    folds = []
    for repeat in range(plan.repeats):
        for name, test in _test_units(units, plan, repeat):
            rest = np.setdiff1d(np.arange(len(units.names)), test)
            names = [units.names[unit] for unit in rest.tolist()]
            hands = max(2, round(1 / plan.validation))
            hand = deal(names, units.strata[rest], hands, f"validation {plan.seed} {repeat} {name}")
            folds.append(Fold(repeat, name, rest[hand > 0], rest[hand == 0], test))
    empty = next((fold for fold in folds if not len(fold.train) or not len(fold.val)), None)
    if empty:
        raise ValueError(
            f"fold {empty.name} leaves {len(empty.train)} subjects to train on and {len(empty.val)} to stop"
        )
    return folds


def _test_units(units: Units, plan: FoldPlan, repeat: int) -> list[tuple[str, Ints]]:
    testable = np.flatnonzero(units.testable)
    if units.blocks is not None:
        blocks = units.blocks[testable]
        values = sorted(set(blocks.tolist()))
        if len(values) < 2:
            raise ValueError(
                f"{plan.leave_out!r} has {len(values)} values among {len(testable)} subjects that may test; "
                "leaving one out at a time takes two or more"
            )
        return [(str(value), testable[blocks == value]) for value in values]
    if len(testable) < plan.number:
        raise ValueError(
            f"{len(testable)} subjects may test, fewer than {plan.number} folds; lower folds.number, or set "
            "folds.test_on to `all` where it is the pretraining that has seen the others"
        )
    names = [units.names[unit] for unit in testable.tolist()]
    hand = deal(names, units.strata[testable], plan.number, f"test {plan.seed} {repeat}")
    tested = 1 if plan.protocol == "brainmarks" else plan.number
    return [(str(number), testable[hand == number]) for number in range(tested)]
