"""Pairs of windows to perturb: each source with a target of another subject, and with a null target of its own group.

The draw is a pure function of the table and the seed. Subjects are used as evenly as can be, on each of the three
sides, so that a single subject cannot dominate a group.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from brainlm_lightning.data.places import Places
from brainlm_lightning.data.schedule import WindowRequest

SIDES = ("source", "target", "null")


@dataclass(frozen=True)
class Pairs:
    """Pairs, and where their windows are.

    Attributes:
        rows: of the table, (sides, pairs): sources, targets and null targets.
        starts: first frame of each window, (sides, pairs).
    """

    rows: np.ndarray
    starts: np.ndarray

    def __len__(self) -> int:
        return int(self.rows.shape[1])

    def batches(self, pairs_at_once: int) -> Iterator[WindowRequest]:
        """Windows to read together: the sources, then the targets, then the null targets of some pairs."""
        for first in range(0, len(self), pairs_at_once):
            chosen = slice(first, first + pairs_at_once)
            rows, starts = self.rows[:, chosen].ravel(), self.starts[:, chosen].ravel()
            yield WindowRequest(rows, starts, np.zeros(len(rows), np.uint64))  # nothing is hidden: no keys


def draw_pairs(
    table: pd.DataFrame, sources: np.ndarray, targets: np.ndarray, count: int, places: Places, seed: int
) -> Pairs:
    """Draws pairs of recordings of different subjects, and a window in each.

    Args:
        table: of recordings.
        sources: rows to perturb, and to take null targets from.
        targets: rows to match.
        count: number of pairs.
        places: of windows, which lie side by side.
        seed: of the draw.

    Raises:
        ValueError: no source and target are of different subjects.
    """
    rng = np.random.default_rng(seed)
    subjects = table["subject_id"].to_numpy(str)
    source = _evenly(sources, subjects, count, rng)
    sides = [source]
    for name, rows in (("targets", targets), ("null targets", sources)):
        if len(np.unique(subjects[np.concatenate([sources, rows])])) < 2 + (name == "null targets"):
            raise ValueError(
                f"sources and {name} are of {np.unique(subjects[rows]).tolist()} alone; a pair is of different "
                "subjects: choose wider filters"
            )
        sides.append(_of_others(source, _evenly(rows, subjects, count, rng), subjects, rng))
    chosen = np.stack(sides)
    windows = places.num_side_by_side(chosen.ravel()).reshape(chosen.shape)
    which = rng.integers(0, windows)
    starts = [places.side_by_side(row)[window] for row, window in zip(chosen.flat, which.flat, strict=True)]
    return Pairs(chosen, np.reshape(starts, chosen.shape))


def _evenly(rows: np.ndarray, subjects: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draws rows so that every subject is used once before any is used twice."""
    of_subject = [rows[subjects[rows] == subject] for subject in np.unique(subjects[rows])]
    rounds = [rng.permutation(len(of_subject)) for _ in range(-(-count // len(of_subject)))]
    return np.array([rng.choice(of_subject[number]) for number in np.concatenate(rounds)[:count]])


def _of_others(source: np.ndarray, target: np.ndarray, subjects: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Reorders the targets so that no pair is of one subject."""
    target = target.copy()
    for pair in np.flatnonzero(subjects[target] == subjects[source]):
        if subjects[target[pair]] != subjects[source[pair]]:
            continue  # an earlier exchange has parted them
        fits = (subjects[target] != subjects[source[pair]]) & (subjects[source] != subjects[target[pair]])
        if not fits.any():
            raise ValueError(
                f"{len(source)} pairs cannot be made of different subjects: {subjects[source[pair]]!r} is on both "
                "sides of too many; ask for more pairs, or choose wider filters"
            )
        other = rng.choice(np.flatnonzero(fits))
        target[[pair, other]] = target[[other, pair]]
    return target
