"""Which recordings train, validate and test."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from brainlm_lightning.data.checks import (
    check_left_out,
    check_long_enough,
    check_one_split_each,
    check_unseen,
    said_of_unusable,
    unusable,
)
from brainlm_lightning.data.left_out import SUFFIX, LeftOut
from brainlm_lightning.data.places import Places
from brainlm_lightning.data.schedule import WindowRequest, recording_hash
from brainlm_lightning.data.windows import Recordings


@dataclass(frozen=True)
class TestSet:
    """Recordings to test on.

    Attributes:
        name: name of the cohort.
        rows: rows of the table of recordings.
        batches: windows to read together, for tasks that need pairs; None = all windows of the rows.
    """

    name: str
    rows: np.ndarray
    batches: tuple[WindowRequest, ...] | None = None


@dataclass(frozen=True)
class Division:
    """Rows of a table of recordings, by their use.

    Attributes:
        places: where windows can begin.
        usable: True for recordings with a window and a parcel to use, (recordings,).
        train_rows: rows to train on.
        val_rows: rows to validate on.
        test_sets: rows to test on, for each cohort; recordings that are left out of training are a set of their own.
        num_short: how many recordings of each test set, by its name, are too short for a window.
        unusable: how many recordings cannot be used and why, in words; empty where all can.
    """

    places: Places
    usable: np.ndarray
    train_rows: np.ndarray
    val_rows: np.ndarray
    test_sets: list[TestSet]
    num_short: dict[str, int]
    unusable: str


def divide(
    recordings: Recordings,
    cohorts: list[str],
    test_cohorts: list[str],
    window_frames: int,
    train_fraction: float = 1.0,
    leave_out: LeftOut | None = None,
) -> Division:
    """Divides recordings by the splits of their stores.

    Args:
        recordings: of all cohorts.
        cohorts: names of those to train on; their test subjects are test sets.
        test_cohorts: names of those to test on as a whole.
        window_frames: number of frames in a window.
        train_fraction: share of the training subjects to train on.
        leave_out: recordings of the training cohorts that neither train nor validate.

    Raises:
        ValueError: a subject is on two sides, nothing is long enough, or ``leave_out`` names what is not there.
    """
    table = recordings.table
    ours = table["cohort"].isin(cohorts)
    check_one_split_each(table[ours])
    check_long_enough(table, window_frames)
    places = Places.of(table, window_frames)
    reasons = unusable(table, recordings.stores, places)
    usable = ~reasons.any(axis=1)
    left_out = pd.Series(False, index=table.index)
    if leave_out is not None:
        left_out[ours] = leave_out.among(table[ours])
    check_left_out(table.assign(usable=usable)[left_out], window_frames)
    trained_on = ours & ~left_out
    in_train = usable & trained_on & (table["split"] == "train")
    in_train &= _in_fraction(table["subject_id"], in_train, train_fraction)
    tested = _tested(table, cohorts, test_cohorts, left_out)
    test_sets = [TestSet(name, np.flatnonzero(usable & chosen)) for name, chosen in tested.items()]
    # Including those that `train_fraction` leaves out and those that validate: statistics or checkpoints saw them.
    seen = table[trained_on & (table["split"] != "test")]
    for test_set in test_sets:
        check_unseen(test_set.name, table.iloc[test_set.rows], seen)
    short = places.room(np.arange(len(table))) == 0
    return Division(
        places=places,
        usable=usable.to_numpy(),
        train_rows=np.flatnonzero(in_train),
        val_rows=np.flatnonzero(usable & trained_on & (table["split"] == "val")),
        test_sets=test_sets,
        num_short={name: int((short & chosen).sum()) for name, chosen in tested.items()},
        unusable=said_of_unusable(reasons, window_frames) if reasons.any(axis=None) else "",
    )


def _tested(
    table: pd.DataFrame, cohorts: list[str], test_cohorts: list[str], left_out: pd.Series
) -> dict[str, pd.Series]:
    """True for the recordings of each test set, by its name."""
    of = table["cohort"]
    tested = {name: ~left_out & (of == name) & (table["split"] == "test") for name in cohorts}
    tested |= {f"{name}{SUFFIX}": left_out & (of == name) for name in of[left_out].unique()}
    return tested | {name: of == name for name in test_cohorts}


def _in_fraction(subjects: pd.Series, in_train: pd.Series, train_fraction: float) -> np.ndarray:
    """True for recordings of the share of the training subjects to keep, those with the lowest hashes."""
    training = sorted(set(subjects[in_train]), key=recording_hash)
    kept = training[: max(1, round(train_fraction * len(training)))]
    return subjects.isin(kept).to_numpy()
